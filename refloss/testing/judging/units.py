"""In what units a stage is judged: grad_x and grad_W row by row, everything else entry by entry.

What is said of a unit (an error, a tolerance) is one number per row, or one per entry.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.testing.places import first
from refloss.textbook.rows import row_norm

ROWWISE = ("grad_x", "grad_W")


def name(stage: str) -> str:
    """What its units are called."""
    return "rows" if stage in ROWWISE else "entries"


def size(stage: str, error: np.ndarray) -> np.ndarray:
    """How large an error is in each unit: the Euclidean length of the row, or the entry's absolute value.

    Leading axes stand for many copies.
    """
    if stage not in ROWWISE:
        return np.abs(error)
    return row_norm(error.reshape(-1, error.shape[-1])).reshape(error.shape[:-1])


def spread(stage: str, per_unit: Any) -> np.ndarray:
    """One number per unit, shaped to go with the entries."""
    per_unit = np.asarray(per_unit)
    return per_unit[..., None] if stage in ROWWISE else per_unit


def times(stage: str, error: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many times the other error an error is, unit by unit; in a row by least squares."""
    if stage in ROWWISE:
        return np.sum(error * other, axis=-1) / np.sum(other * other, axis=-1)
    return error / other


def ratio(excess: np.ndarray, allowed: np.ndarray) -> float:
    """The worst error beyond the last place over what is allowed there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where((excess > 0) & np.isfinite(allowed), excess / allowed, 0.0), initial=0.0))


def worst(stage: str, excess: np.ndarray, room: np.ndarray, error: np.ndarray) -> tuple[int, ...]:
    """The entry that is the most times too large, and the largest error among those where nothing is allowed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(excess > room, excess / room, 0.0)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    among = np.where(spread(stage, ratio == ratio.max()), error, -1.0)
    return first(among == np.max(among))
