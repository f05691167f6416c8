"""Which branches and regimes a set of inputs reached, and which are to be reached."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy
from refloss.textbook.family import branches_of, member_of, radius_of

CONFIDENT, WRONG = "p_y > 0.99", "p_y < 0.01"
NEAR = 1e-3  # radians
LARGE = "|logit| > 89"  # where exp overflows in float32
NEAR_POLE = "within 1e-3 of a pole"
AT_CONE = "at a cone"
AT_EDGE = "within 1e-3 of a knot or jump"


def reached(loss: Any, theta: np.ndarray, p_y: np.ndarray) -> dict[str, int]:
    """How many samples, of target angle theta (R,) and probability p_y (R,), fell into each branch and regime."""
    count: Counter = Counter({CONFIDENT: int(np.sum(p_y > 0.99)), WRONG: int(np.sum(p_y < 0.01))})
    branches = branches_of(loss)
    for k, n in zip(*np.unique(branches.which(theta), return_counts=True), strict=True):
        if branches.names:
            count[branches.names[k]] += int(n)
    return dict(count)


def psi_of(loss: Any) -> tuple[np.ndarray, np.ndarray]:
    """Angles from 0 to π, and what the target's logit is there over r: cos θ without a margin."""
    theta = np.linspace(0.0, np.pi, 1601)
    if not loss.has_margin:
        return theta, np.cos(theta)
    alone = replace(loss, class_weights=None, ignore_index=None, reduction="sum", label_smoothing=0.0)
    x = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    out = alone.forward(x, np.array([[1.0, 0.0]]), np.zeros(len(theta), dtype=int))
    return theta, out.logits[:, 0] / radius_of(loss).factor


def edges(loss: Any) -> np.ndarray:
    """The angles at which the target's logit jumps or bends."""
    member, found = member_of(loss), []
    if member.multiplies_angle and loss.margin > 1:
        found += [k * np.pi / loss.margin for k in range(1, 2 if loss.continuation else loss.margin)]
    if member.adds_to_angle and loss.past_pi == "linear":
        found.append(np.pi - loss.margin)
    if member.adds_to_angle and loss.easy_margin:
        found.append(np.pi / 2)
    return np.array(found)


def regimes(loss: Any, out: Any, labels: np.ndarray) -> dict[str, int]:
    """How many samples of this forward record fell into each branch and regime; pairs (i, j) for `LARGE`."""
    axis = getattr(loss, "axis", -1)
    z, p = (np.moveaxis(v, axis, -1) for v in (out.logits, out.probabilities))
    count = {LARGE: int(np.sum(np.isfinite(z) & (np.abs(z) > 89)))}
    if np.ndim(labels) == np.ndim(z):
        return count
    valid = ~out.ignored
    p_y = np.take_along_axis(p, np.where(valid, labels, 0)[..., None], axis=-1)[..., 0][valid]
    theta = np.zeros(0) if out.theta is None else out.theta[valid]
    count |= reached(loss, theta, p_y)
    if out.theta is not None:
        count[AT_CONE] = int(np.sum(out.cone))
        count[NEAR_POLE] = int(np.sum(np.minimum(theta, np.pi - theta) < NEAR))
        if len(at := edges(loss)):
            count[AT_EDGE] = int(np.sum(np.min(np.abs(theta[:, None] - at), axis=1) < NEAR))
    return count


def wanted(loss: Any) -> list[str]:
    """The branches and regimes that the cases of this loss are expected to reach."""
    C = 6 if loss.class_weights is None else len(loss.class_weights)
    if C == 1:
        return []
    if isinstance(loss, CrossEntropy):
        return [CONFIDENT, WRONG, LARGE]
    _, psi = psi_of(loss)
    factor, p, q = radius_of(loss)
    r = math.inf if p or q else factor
    adds = member_of(loss).adds_to_angle
    names = [
        (CONFIDENT, r * (psi.max() + 0.9) > math.log(200 * C)),
        (WRONG, r * (0.9 - psi.min()) > math.log(200)),
        (LARGE, r * np.max(np.abs(psi)) > 100),
        (NEAR_POLE, loss.has_margin),
        (AT_CONE, adds and loss.margin > 0 and not loss.detach_margin),
        (AT_EDGE, len(edges(loss)) > 0),
    ]
    reachable = list(branches_of(loss).names)
    if adds and loss.easy_margin and loss.margin < np.pi / 2:
        reachable.remove("θ+m ≥ π")  # the plain cosine begins before
    return reachable + [name for name, due in names if due]
