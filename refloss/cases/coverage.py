"""Which branches and regimes a set of inputs reached; seen from the textbook form, not from the passes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from refloss.textbook.family import branches_of

CONFIDENT, WRONG = "p_y > 0.99", "p_y < 0.01"


def reached(loss: Any, theta: np.ndarray, p_y: np.ndarray) -> dict[str, int]:
    """How many samples, of target angle theta (R,) and probability p_y (R,), fell into each branch and regime."""
    count: Counter = Counter({CONFIDENT: int(np.sum(p_y > 0.99)), WRONG: int(np.sum(p_y < 0.01))})
    branches = branches_of(loss)
    for k, n in zip(*np.unique(branches.which(theta), return_counts=True), strict=True):
        if branches.names:
            count[branches.names[k]] += int(n)
    return dict(count)
