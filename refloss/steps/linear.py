"""z_ij = W_j·x_i + b_j, and back. Derivation: derivations/softmax.md, steps (1), (3)–(5)."""

from __future__ import annotations

import numpy as np


def linear(x: np.ndarray, W: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """x: (N, D), W: (C, D), b: (C,) or None. Returns z (N, C); ±inf or NaN where it overflows."""
    z = x @ W.T
    return z if b is None else z + b


def linear_backward(g: np.ndarray, x: np.ndarray, W: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of Σ_ij g_ij z_ij in x (N, D), W (C, D) and b (C,). g: (N, C)."""
    return g @ W, g.T @ x, g.sum(axis=0)
