"""A-Softmax (SphereFace) loss. Derivation: derivations/a_softmax.md, steps (1)–(11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from refloss.losses.margins import PsiMarginLoss
from refloss.losses.passes import LogitsPass, add_at_pairs
from refloss.precision.numbers import Array
from refloss.precision.products import combine
from refloss.steps.angle import Angle, angle_backward, cosines, cosines_backward
from refloss.steps.margin import Psi, measured
from refloss.steps.normalise import Rows, normalise_backward
from refloss.steps.psi import multiplied_angle
from refloss.steps.targets import Pairs


@dataclass(frozen=True, kw_only=True, repr=False)
class ASoftmax(PsiMarginLoss):
    """A-Softmax, the loss of SphereFace: L-Softmax with ‖W_j‖ = 1 and no bias::

        z_j = ‖x‖ cos θ_j,  z_y = ‖x‖ ψ(θ_y),  ψ(θ) = (−1)^k cos(mθ) − 2k on [kπ/m, (k+1)π/m]

    Source:
        Liu et al., "SphereFace", CVPR 2017, eq. (7); survey, section 2.3.

    Shapes:
        x (N, D), W (C, D), labels (N,).

    Args:
        margin (int): m ≥ 1, what θ_y is multiplied by.
        annealing (float): λ ≥ 0: z_y = (λ ‖x‖ cos θ_y + ‖x‖ ψ(θ_y)) / (1 + λ).
        continuation (pair of functions): as in `refloss.LSoftmax`.
        **options: those of `refloss.Loss`.

    Singular points:
        Zero rows (zero_norm). Smooth at θ = 0 and π (dψ/dcos θ = m²); continuously differentiable, not twice, at
        kπ/m. Kink and cone of a continuation as in `refloss.LSoftmax`.

    Released code:
        SphereFace's Caffe layer is not the derivative of its forward: its gradient of W is that of m = 1 without
        projection, and the coefficients of ∇_x z_y are divided by the root of the sum of their squares.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[3.0, 4.0]], [[2.0, 0.0], [0.0, 1.0]]
        >>> out = ASoftmax(margin=2).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(5·0.6 − 5·(2·0.8² − 1)))
        1.783900740888
    """

    name: ClassVar[str] = "a_softmax"
    feels_W_norm: ClassVar[bool] = False

    def psi_of(self, angles: Angle) -> Psi:
        # (4) ψ(θ_y) = (−1)^k cos mθ_y − 2k, then annealing and detaching
        return self._with_options(multiplied_angle(angles, self.margin, self.continuation), angles)

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        # (1) x̂_i = x_i / ‖x_i‖, ŵ_j = W_j / ‖W_j‖
        x_hat, W_hat = x.hat, W.hat
        cos_theta, near = cosines(x_hat, W_hat)  # (2) cos θ_ij = x̂_i·ŵ_j
        angles, psi = measured(x, W, pairs, self.psi_of)  # (3) θ_y of the target pairs, and their ψ by psi_of
        # (5) z_ij = ‖x_i‖ cos θ_ij, z_iy = ‖x_i‖ ψ(θ_y)
        z = x.norm[:, None] * cos_theta
        z[pairs] = angles.x_norm * psi.value
        # (6) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(
            x=x, W=W, x_norm=x.norm, W_norm=W.norm, cos_theta=cos_theta, near=near, logits=z,
            pairs=pairs, angles=angles, psi=psi,
        )  # fmt: skip

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        rows, _ = kept.pairs
        g_y, g_others = kept.pairs.split(g)
        # (7) the other classes, z_ij = ŵ_j·x_i = ‖x_i‖ cos θ_ij: to x_i itself, and to ŵ_j up to a part along it
        grad_x = combine(g_others, kept.W.hat)
        _, grad_W_hat = cosines_backward(kept.x.norm[:, None] * g_others, kept.x, kept.W, kept.near, of="W")
        # (8) (I − ŵ_j ŵ_jᵀ) ∂L/∂ŵ_j / ‖W_j‖
        grad_W = normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)
        # (9) the target's tangential part: ∂L/∂θ_y = g_iy ‖x_i‖ ψ'(θ_y), along the unit tangents
        pair_x, pair_W = angle_backward(g_y * kept.angles.x_norm * kept.psi.slope, kept.angles)
        # (10) its radial part: g_iy ψ(θ_y) along x̂_i
        pair_x += (g_y * kept.psi.value)[:, None] * kept.x.hat[rows]
        # (11) both added where they belong
        add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)
        return {"x": grad_x, "W": grad_W}
