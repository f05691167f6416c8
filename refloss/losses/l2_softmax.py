"""L2-constrained softmax loss. Derivation: derivations/l2_softmax.md, steps (1)–(8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refloss.losses.loss import NormalisingLoss
from refloss.losses.passes import LogitsPass
from refloss.precision.numbers import Array
from refloss.precision.products import combine
from refloss.steps.angle import cosines_backward, near_poles
from refloss.steps.linear import linear
from refloss.steps.normalise import Rows, normalise_backward
from refloss.steps.targets import Pairs
from refloss.validation import positive


@dataclass(frozen=True, kw_only=True, repr=False)
class L2Softmax(NormalisingLoss):
    """L2-constrained softmax loss: the feature is put on a sphere of radius α, W stays as it is::

        z_j = W_j·(α x̂) + b_j,  x̂ = x / ‖x‖

    Source:
        Ranjan et al., arXiv 1703.09507, eq. (3); survey, section 2.4.

    Shapes:
        x (N, D), W (C, D), b (C,) optional, labels (N,) or soft targets (N, C).

    Args:
        alpha (float): α > 0, a length; its gradient is `grads.alpha`.
        **options: those of `refloss.Loss`.

    Singular points:
        x = 0 (zero_norm). Smooth at W_j = 0.

    Released code:
        A re-implementation normalises W too, which makes it NormFace.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[30.0, 40.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = L2Softmax(alpha=5).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(3 − 4))
        0.313261687518
    """

    name: ClassVar[str] = "l2_softmax"
    has_bias: ClassVar[bool] = True
    feels_x_norm: ClassVar[bool] = False
    normalises_W: ClassVar[bool] = False

    alpha: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(alpha=positive(self.alpha, "alpha"))

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        x_hat = x.hat  # (1) x̂_i = x_i / ‖x_i‖
        # (2) z_ij = α W_j·x̂_i + b_j
        along = linear(x_hat, W.v)
        z = self.alpha * along if b is None else self.alpha * along + b
        near = near_poles(along, W.norm)  # where the cosine W_j·x̂_i / ‖W_j‖ is near ±1, for the backward
        # (3) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(x=x, W=W, has_b=b is not None, x_norm=x.norm, along=along, near=near, logits=z)

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        # (4) u_i = Σ_j g_ij W_j = Σ_j g_ij ‖W_j‖ ŵ_j arrives at α x̂_i; up to a part along x̂_i
        u, _ = cosines_backward(g * kept.W.norm, kept.x, kept.W, kept.near, of="x")
        # (5) ∂L/∂W_j = Σ_i g_ij α x̂_i
        grad_W = combine(g.T, self.alpha * kept.x.hat)
        # (6) ∂L/∂b_j = Σ_i g_ij
        grad_b = g.sum(axis=0)
        # (7) ∂L/∂x_i = (I − x̂_i x̂_iᵀ) α u_i / ‖x_i‖
        grad_x = normalise_backward(self.alpha * u, kept.x.norm, kept.x.hat)
        # (8) ∂L/∂α = Σ_ij g_ij W_j·x̂_i
        grad_alpha = np.sum(g * kept.along)
        grads = {"x": grad_x, "W": grad_W, "alpha": grad_alpha}
        return grads | {"b": grad_b} if kept.has_b else grads
