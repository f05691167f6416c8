"""Matrix products and sums into rows, for doubles here; each other kind of numbers has rules of its own."""

from __future__ import annotations

import numpy as np

from refloss.precision.numbers import by_kind


@by_kind
def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a_i · b_j for every pair of rows: (N, K), (C, K) → (N, C)."""
    return a @ b.T


@by_kind
def combine(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Σ_j g_ij v_j of the rows of v: (N, C), (C, D) → (N, D)."""
    return g @ v


@by_kind
def add_at(target: np.ndarray, index: np.ndarray, rows: np.ndarray) -> None:
    """target[index_r] += rows_r, where an index may come several times. rows: (R, D)."""
    np.add.at(target, index, rows)
