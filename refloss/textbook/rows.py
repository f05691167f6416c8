"""Arrays read as rows, and the rows' lengths: shared by all that checks the passes, which have their own."""

from __future__ import annotations

import numpy as np


def as_rows(value: np.ndarray) -> np.ndarray:
    """x, W as they are; b (C,) as (C, 1); a scalar as (1, 1)."""
    value = np.asarray(value)
    return value if value.ndim == 2 else value.reshape(-1, 1)


def row_norm(v: np.ndarray) -> np.ndarray:
    """(rows,) Euclidean lengths, without overflow or underflow; NaN where an entry is NaN."""
    v = as_rows(v)
    largest = np.max(np.abs(v), axis=1, initial=0.0)
    safe = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        return safe * np.sqrt(np.sum((v / safe[:, None]) ** 2, axis=1))


def or_one(lengths: np.ndarray) -> np.ndarray:
    """Lengths to divide by or to step in: 1 for a zero row."""
    return np.where(lengths > 0, lengths, 1.0)
