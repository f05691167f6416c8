"""L-Softmax (large-margin softmax) loss. Derivation: derivations/l_softmax.md, steps (1)–(10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refloss.losses.margins import PsiMarginLoss
from refloss.losses.passes import LogitsPass, add_at_pairs
from refloss.precision.numbers import Array
from refloss.steps.angle import Angle, cosines
from refloss.steps.linear import linear_backward
from refloss.steps.margin import Psi, measured
from refloss.steps.normalise import Rows
from refloss.steps.psi import multiplied_angle
from refloss.steps.targets import Pairs


@dataclass(frozen=True, kw_only=True, repr=False)
class LSoftmax(PsiMarginLoss):
    """L-Softmax, the large-margin softmax loss: the target's angle is multiplied by m::

        z_j = ‖W_j‖‖x‖ cos θ_j,  z_y = ‖W_y‖‖x‖ ψ(θ_y),
        ψ(θ) = (−1)^k cos(mθ) − 2k on [kπ/m, (k+1)π/m], k = 0 … m − 1

    Source:
        Liu et al., "Large-Margin Softmax Loss", ICML 2016, eq. (4)–(6); survey, section 2.2.

    Shapes:
        x (N, D), W (C, D), labels (N,).

    Args:
        margin (int): m ≥ 1, what θ_y is multiplied by.
        annealing (float): λ ≥ 0: z_y = (λ W_y·x + ‖W_y‖‖x‖ ψ(θ_y)) / (1 + λ).
        continuation (pair of functions): D(θ) and D'(θ), the general ψ of eq. (5): a decreasing function for
            θ > π/m with D(π/m) = −1, and its derivative, each called as f(theta, xp) with theta in radians and xp
            the array namespace to compute with.
        **options: those of `refloss.Loss`.

    Singular points:
        For m > 1, x_i = 0 and W_y = 0 of a target y (zero_norm), not other rows of W. Smooth at θ = 0 and π
        (dψ/dcos θ = m²); continuously differentiable, not twice, at kπ/m. A continuation has a kink at π/m if
        D'(π/m) ≠ 0 (right derivative) and a cone at π if D'(π) ≠ 0 (`out.cone`).

    Released code:
        The authors' CPU layer adds 1e-9 to ‖x‖‖W‖, their GPU layer does not.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = LSoftmax(margin=2).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(5·0.6 − 5·(2·0.8² − 1)))
        1.783900740888
    """

    name: ClassVar[str] = "l_softmax"
    normalises_x: ClassVar[bool] = False
    normalises_W: ClassVar[bool] = False

    @property
    def normalises_targets(self) -> bool:  # type: ignore[override]
        """Whether a zero row of a target pair is singular. With margin = 1 the backward needs no direction."""
        return self.margin > 1

    def psi_of(self, angles: Angle) -> Psi:
        # (4) ψ(θ_y) = (−1)^k cos mθ_y − 2k, then annealing and detaching
        return self._with_options(multiplied_angle(angles, self.margin, self.continuation), angles)

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        # (1) x̂_i = x_i / ‖x_i‖, ŵ_j = W_j / ‖W_j‖
        x_hat, W_hat = x.hat, W.hat
        cos_theta, _ = cosines(x_hat, W_hat)  # (2) cos θ_ij = x̂_i·ŵ_j
        angles, psi = measured(x, W, pairs, self.psi_of)  # (3) θ_y of the target pairs, and their ψ by psi_of
        # (5) z_ij = ‖W_j‖‖x_i‖ cos θ_ij, z_iy = ‖W_y‖‖x_i‖ ψ(θ_y)
        z = x.norm[:, None] * W.norm * cos_theta
        z[pairs] = angles.x_norm * angles.w_norm * psi.value
        # (6) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(
            x=x, W=W, x_norm=x.norm, W_norm=W.norm, cos_theta=cos_theta, logits=z,
            pairs=pairs, angles=angles, psi=psi,
        )  # fmt: skip

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        rows, y = kept.pairs
        x_norm, w_norm = kept.angles.x_norm, kept.angles.w_norm
        g_y, g_others = kept.pairs.split(g)
        if self.margin == 1:  # no margin: the target is one more plain class, smooth at zero rows too
            g_y, g_others = np.zeros_like(g_y), g
        # (7) the other classes, z_ij = W_j·x_i: a linear layer's
        grad_x, grad_W, _ = linear_backward(g_others, kept.x.v, kept.W.v)
        # (8) the target's tangential part: −g_iy ‖W_y‖ ψ'(θ_y) t_x, and −g_iy ‖x_i‖ ψ'(θ_y) t_w
        pair_x = -(g_y * w_norm * kept.psi.slope)[:, None] * kept.angles.t_x
        pair_W = -(g_y * x_norm * kept.psi.slope)[:, None] * kept.angles.t_w
        # (9) its radial part: g_iy ‖W_y‖ ψ(θ_y) along x̂_i, and g_iy ‖x_i‖ ψ(θ_y) along ŵ_y
        pair_x += (g_y * w_norm * kept.psi.value)[:, None] * kept.x.hat[rows]
        pair_W += (g_y * x_norm * kept.psi.value)[:, None] * kept.W.hat[y]
        # (10) both added where they belong
        add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)
        return {"x": grad_x, "W": grad_W}
