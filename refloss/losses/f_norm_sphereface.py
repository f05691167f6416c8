"""F-Norm SphereFace loss. Derivation: derivations/f_norm_sphereface.md, steps (1)–(10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refloss.losses.margins import PsiMarginLoss
from refloss.losses.passes import LogitsPass, add_at_pairs
from refloss.precision.numbers import Array
from refloss.steps.angle import Angle, angle_backward, cosines, cosines_backward
from refloss.steps.margin import Psi, measured
from refloss.steps.normalise import Rows, normalise_backward
from refloss.steps.psi import multiplied_angle
from refloss.steps.targets import Pairs
from refloss.validation import positive


@dataclass(frozen=True, kw_only=True, repr=False)
class FNormSphereFace(PsiMarginLoss):
    """F-Norm SphereFace, SphereFace's multiplied angle with the feature's length fixed to s::

        z_j = s cos θ_j,  z_y = s ψ(θ_y),  ψ(θ) = (−1)^k cos(mθ) − 2k on [kπ/m, (k+1)π/m]

    Source:
        Deng et al., arXiv 1801.07698v1, Table 1 (the name); ψ of Liu et al., "SphereFace", CVPR 2017, eq. (7).

    Shapes:
        x (N, D), W (C, D), labels (N,).

    Args:
        scale (float): s > 0.
        margin (int): m ≥ 1, what θ_y is multiplied by.
        annealing (float): λ ≥ 0: z_y = (λ s cos θ_y + s ψ(θ_y)) / (1 + λ).
        continuation (pair of functions): as in `refloss.LSoftmax`.
        **options: those of `refloss.Loss`.

    Singular points:
        Zero rows (zero_norm). Smooth at θ = 0 and π (dψ/dcos θ = m²); continuously differentiable, not twice, at
        kπ/m. Kink and cone of a continuation as in `refloss.LSoftmax`.

    Released code:
        A real m such as 1.35 without ψ's branches, cos(1.35 θ), is common.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = FNormSphereFace(scale=2, margin=2).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(2·0.6 − 2·(2·0.8² − 1)))
        1.063496510223
    """

    name: ClassVar[str] = "f_norm_sphereface"
    feels_x_norm: ClassVar[bool] = False
    feels_W_norm: ClassVar[bool] = False

    scale: float = 64.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(scale=positive(self.scale, "scale"))

    def psi_of(self, angles: Angle) -> Psi:
        # (4) ψ(θ_y) = (−1)^k cos mθ_y − 2k, then annealing and detaching
        return self._with_options(multiplied_angle(angles, self.margin, self.continuation), angles)

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
        return {"x": grad_x, "W": grad_W, "scale": grad_scale}
