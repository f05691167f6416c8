"""z_ij = W_j·x_i + b_j, and back. Derivation: derivations/softmax.md, steps (1), (3)–(5)."""

from __future__ import annotations

from refloss.precision.numbers import Array
from refloss.precision.products import combine, inner


def linear(x: Array, W: Array, b: Array | None = None) -> Array:
    """x: (N, D), W: (C, D), b: (C,) or None. Returns z (N, C); ±inf or NaN where it overflows."""
    z = inner(x, W)  # (1) z_ij = W_j·x_i + b_j
    return z if b is None else z + b


def linear_backward(g: Array, x: Array, W: Array) -> tuple[Array, Array, Array]:
    """Gradients of Σ_ij g_ij z_ij in x (N, D), W (C, D) and b (C,). g: (N, C)."""
    grad_x = combine(g, W)  # (3) ∂L/∂x_i = Σ_j g_ij W_j
    grad_W = combine(g.T, x)  # (4) ∂L/∂W_j = Σ_i g_ij x_i
    grad_b = g.sum(axis=0)  # (5) ∂L/∂b_j = Σ_i g_ij
    return grad_x, grad_W, grad_b
