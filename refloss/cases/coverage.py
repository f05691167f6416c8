"""Which branches and regimes a set of inputs reached; seen from the textbook form, not from the passes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

CONFIDENT, WRONG = "p_y > 0.99", "p_y < 0.01"


def branches(loss: Any) -> list[str]:
    """The branches that this loss's target logit has, in the order of θ."""
    if getattr(loss, "continuation", None) is not None:
        return ["θ < π/m", "D(θ)"]
    if hasattr(loss, "annealing"):
        return [f"k={k}" for k in range(loss.margin)]
    if hasattr(loss, "past_pi"):
        return ["θ+m < π", "θ+m ≥ π"] + (["cos θ ≤ 0"] if loss.easy_margin else [])
    return []


def reached(loss: Any, theta: np.ndarray, p_y: np.ndarray) -> dict[str, int]:
    """How many samples, of target angle theta (R,) and probability p_y (R,), fell into each branch and regime."""
    count: Counter = Counter({CONFIDENT: int(np.sum(p_y > 0.99)), WRONG: int(np.sum(p_y < 0.01))})
    names = branches(loss)
    if not names:
        return dict(count)
    if names[0] == "θ < π/m":
        which = (theta >= np.pi / loss.margin).astype(int)
    elif names[0] == "k=0":
        which = np.clip(np.floor(loss.margin * theta / np.pi), 0, loss.margin - 1).astype(int)
    else:
        which = (theta + loss.margin >= np.pi).astype(int)
        if loss.easy_margin:
            which = np.where(theta >= np.pi / 2, 2, which)
    for k, n in zip(*np.unique(which, return_counts=True), strict=True):
        count[names[k]] += int(n)
    return dict(count)
