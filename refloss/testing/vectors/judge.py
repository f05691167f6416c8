"""The whole rule of the vectors: how a bound is made, and how what a kernel gave is held against it.

An entry is right if it is what is due, or off by no more than its bound. Where the bound has one column for a whole
row, the Euclidean length of the row's error is held against it. A cone's rows point along x̂_i or Ŵ_y: an error across
that direction, no longer than the row of the cone is, is taken away first: the loss has no one gradient there. Where a
bound is infinite, nothing is due.

What the oracle accepts is accepted by this rule; the oracle refuses a little more (`refloss check --outputs`): errors
that hide within a wide bound by being too small, say, or turned around.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.testing.judging import units
from refloss.testing.judging.truth import GRADES, Truth
from refloss.textbook.rows import row_norm


def grades(truth: Truth) -> str:
    """The letters that differ: D and E are C where nothing is stored in 16 bits."""
    return GRADES if truth.compute is not truth.dtype else GRADES[:3]


def bounds(truth: Truth, stage: str) -> dict[str, np.ndarray]:
    """grade → the largest error that it explains, an entry each, or (rows, 1) where whole rows are judged."""
    due, last = truth.stages[stage], truth.last_place(stage)
    if truth.dtype.name != "float16":  # subnormals may be flushed to 0
        last = np.where(np.abs(due) < truth.dtype.smallest_normal, np.maximum(last, np.abs(due)), last)
    found, before = {}, np.float64(0.0)
    for grade in grades(truth):
        with np.errstate(over="ignore"):
            room = np.nextafter(truth.allowed(stage, grade) + units.size(stage, last), np.inf)
        if grade != "D":  # a stored gradient may overflow before it is multiplied; a formula that does is no use
            room = np.minimum(room, np.finfo(np.float64).max)
        if stage not in units.ROWWISE:
            room = np.where(np.isfinite(due), room, 0.0)
        before = np.maximum(before, room)
        found[grade] = units.spread(stage, before)
    return found


def cone(truth: Truth, stage: str) -> np.ndarray | None:
    """Along each row's direction, as long as the error across it may be; None where there is no cone."""
    radius = truth.cone.get(stage)
    if radius is None or not radius.any():
        return None
    return np.where(radius[:, None] > 0, radius[:, None] * (1 + 1e-9) * truth.row_directions(stage), 0.0)


def wrong(want: np.ndarray, bound: np.ndarray, got: Any, cone: np.ndarray | None = None) -> np.ndarray:
    """Which units are wrong, shaped like the bound."""
    got = np.asarray(got)
    with np.errstate(all="ignore"):
        error = np.where(got == want, 0.0, got - want)
        if bound.shape != want.shape:
            if cone is not None:
                radius = row_norm(cone)
                along = cone / np.where(radius > 0, radius, 1.0)[:, None]
                radial = np.sum(error * along, axis=1)
                across = row_norm(error - radial[:, None] * along)
                length = np.where(radius > 0, np.hypot(radial, np.maximum(across - radius, 0.0)), row_norm(error))
            else:
                length = row_norm(error)
            error = length[:, None]
        return np.asarray(~((np.abs(error) <= bound) | np.isinf(bound)))
