"""Softmax loss. Derivation: derivations/softmax.md, steps (1)–(5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from refloss.losses.loss import Loss
from refloss.losses.passes import LogitsPass
from refloss.precision.numbers import Array
from refloss.steps.linear import linear, linear_backward
from refloss.steps.normalise import Rows
from refloss.steps.targets import Pairs


@dataclass(frozen=True, kw_only=True, repr=False)
class Softmax(Loss):
    """Softmax loss, the cross-entropy of the softmax of a linear layer::

        ℓ = −Σ_c y_c log p_c,  p = softmax(z),  z_j = W_j·x + b_j

    For one prediction per pixel see `refloss.CrossEntropy`.

    Source:
        Survey, section 1.1.

    Shapes:
        x (N, D), W (C, D), b (C,) optional, labels (N,) or soft targets y_c (N, C).

    Args:
        **options: those of `refloss.Loss`.

    Singular points:
        None: smooth everywhere.

    Released code:
        torch's reduction "mean" divides by the weights of the valid rows (our "weighted_mean") for labels, by
        their number for soft targets; Caffe clamps p_y at 1.2e-38, so that its loss stops at 87.34, and its
        backward ignores that clamp.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = Softmax().forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(1 − 2))
        0.313261687518
    """

    name: ClassVar[str] = "softmax"
    has_bias: ClassVar[bool] = True

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        # (1) z_ij = W_j·x_i + b_j
        z = linear(x.v, W.v, b)
        # (2) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(x=x, W=W, has_b=b is not None, logits=z)

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        # (3) ∂L/∂x_i = Σ_j g_ij W_j,  (4) ∂L/∂W_j = Σ_i g_ij x_i,  (5) ∂L/∂b_j = Σ_i g_ij
        grad_x, grad_W, grad_b = linear_backward(g, kept.x.v, kept.W.v)
        grads = {"x": grad_x, "W": grad_W}
        return grads | {"b": grad_b} if kept.has_b else grads
