"""AM-Softmax (CosFace) loss. Derivation: derivations/am_softmax.md, steps (1)–(11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refloss.losses.margins import MarginLoss
from refloss.losses.passes import LogitsPass, add_at_pairs
from refloss.precision.numbers import Array
from refloss.steps.angle import Angle, angle_backward, cosines, cosines_backward
from refloss.steps.margin import Psi, cosine_margin, measured
from refloss.steps.normalise import Rows, normalise_backward
from refloss.steps.targets import Pairs
from refloss.validation import cosine_offset, positive


@dataclass(frozen=True, kw_only=True, repr=False)
class AMSoftmax(MarginLoss):
    """AM-Softmax, also CosFace: an additive margin on the target's cosine::

        z_j = s cos θ_j,  z_y = s (cos θ_y − m)

    Source:
        Wang et al., arXiv 1801.05599, eq. (6); Wang et al., "CosFace", CVPR 2018, eq. (4), (5); survey, section 2.5.

    Shapes:
        x (N, D), W (C, D), labels (N,).

    Args:
        scale (float): s > 0.
        margin (float): 0 ≤ m ≤ 2, an offset of the cosine.
        **options: those of `refloss.Loss`.

    Singular points:
        Zero rows (zero_norm). θ = 0 and π are ordinary points.

    Released code:
        AM-Softmax's own layer adds the margin only where cos θ_y > m, which the paper does not say; values of s
        (30, 32, 64) and m (0.35, 0.4) differ between repositories.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = AMSoftmax(scale=2, margin=0.5).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(2·0.6 − 2·(0.8 − 0.5)))
        1.037487950486
    """

    name: ClassVar[str] = "am_softmax"
    feels_x_norm: ClassVar[bool] = False
    feels_W_norm: ClassVar[bool] = False

    scale: float = 30.0
    margin: float = 0.35

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(scale=positive(self.scale, "scale"), margin=cosine_offset(self.margin))

    def psi_of(self, angles: Angle) -> Psi:
        # (4) ψ(θ_y) = cos θ_y − m, then detaching
        return self._with_options(cosine_margin(angles, self.margin), angles)

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        s = self.scale
        # (1) x̂_i = x_i / ‖x_i‖, ŵ_j = W_j / ‖W_j‖
        x_hat, W_hat = x.hat, W.hat
        cos_theta, near = cosines(x_hat, W_hat)  # (2) cos θ_ij = x̂_i·ŵ_j
        angles, psi = measured(x, W, pairs, self.psi_of)  # (3) θ_y of the target pairs, and their ψ by psi_of
        # (5) z_ij = s cos θ_ij, z_iy = s ψ(θ_y)
        z = s * cos_theta
        z[pairs] = s * psi.value
        # (6) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(
            x=x, W=W, x_norm=x.norm, W_norm=W.norm, cos_theta=cos_theta, near=near, logits=z,
            pairs=pairs, angles=angles, psi=psi,
        )  # fmt: skip

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        s = self.scale
        g_y, g_others = kept.pairs.split(g)
        # (7) the other classes: ∂L/∂cos θ_ij = s g_ij, to both directions up to parts along them
        grad_x_hat, grad_W_hat = cosines_backward(s * g_others, kept.x, kept.W, kept.near)
        # (8) (I − x̂_i x̂_iᵀ) ∂L/∂x̂_i / ‖x_i‖ and (I − ŵ_j ŵ_jᵀ) ∂L/∂ŵ_j / ‖W_j‖
        grad_x = normalise_backward(grad_x_hat, kept.x.norm, kept.x.hat)
        grad_W = normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)
        # (9) the target: ∂L/∂θ_y = s g_iy ψ'(θ_y), along the unit tangents
        pair_x, pair_W = angle_backward(s * g_y * kept.psi.slope, kept.angles)
        add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)
        # (10) ∂L/∂s = Σ_i (Σ_{j≠y} g_ij cos θ_ij + g_iy ψ(θ_y)) = Σ_ij g_ij z_ij / s
        grad_scale = np.sum(g * kept.logits) / s
        # (11) ∂L/∂m = s Σ_i g_iy ∂ψ/∂m
        grad_margin = s * np.sum(g_y * kept.psi.in_margin)
        return {"x": grad_x, "W": grad_W, "scale": grad_scale, "margin": grad_margin}
