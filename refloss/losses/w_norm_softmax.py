"""W-Norm ("modified") softmax loss. Derivation: derivations/w_norm_softmax.md, steps (1)–(6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from refloss.losses.loss import NormalisingLoss
from refloss.losses.passes import LogitsPass
from refloss.precision.numbers import Array
from refloss.precision.products import combine
from refloss.steps.angle import cosines_backward, near_poles
from refloss.steps.linear import linear
from refloss.steps.normalise import Rows, normalise_backward
from refloss.steps.targets import Pairs


@dataclass(frozen=True, kw_only=True, repr=False)
class WNormSoftmax(NormalisingLoss):
    """W-Norm softmax loss, the "modified softmax" of SphereFace: ‖W_j‖ = 1 and no bias::

        z_j = ‖x‖ cos θ_j = ŵ_j·x,  ŵ_j = W_j / ‖W_j‖

    The record has no stage x_norm or cos_theta: the logits need neither.

    Source:
        Liu et al., "SphereFace", CVPR 2017, section 3.1; survey, Table 1.

    Shapes:
        x (N, D), W (C, D), labels (N,) or soft targets (N, C).

    Args:
        **options: those of `refloss.Loss`, zero_norm among them.

    Singular points:
        W_j = 0 (zero_norm). Smooth at x = 0, since the backward in x does not pass through x̂.

    Released code:
        SphereFace's Caffe layer normalises W in place and leaves the projection of step (6) out of its gradient.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[1.0, 2.0]], [[9.0, 0.0], [0.0, 7.0]]
        >>> out = WNormSoftmax().forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(1 − 2)): the lengths of W do not matter
        0.313261687518
    """

    name: ClassVar[str] = "w_norm_softmax"
    feels_W_norm: ClassVar[bool] = False
    normalises_x: ClassVar[bool] = False

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        W_hat = W.hat  # (1) ŵ_j = W_j / ‖W_j‖
        z = linear(x.v, W_hat)  # (2) z_ij = ŵ_j·x_i
        near = near_poles(z, x.norm[:, None])  # where the cosine z_ij / ‖x_i‖ is near ±1, for the backward
        # (3) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(x=x, W=W, W_norm=W.norm, near=near, logits=z)

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        # (4) ∂L/∂x_i = Σ_j g_ij ŵ_j
        grad_x = combine(g, kept.W.hat)
        # (5) ∂L/∂ŵ_j = Σ_i g_ij x_i = Σ_i g_ij ‖x_i‖ x̂_i, up to a part along ŵ_j
        _, grad_W_hat = cosines_backward(kept.x.norm[:, None] * g, kept.x, kept.W, kept.near, of="W")
        # (6) ∂L/∂W_j = (I − ŵ_j ŵ_jᵀ) ∂L/∂ŵ_j / ‖W_j‖
        return {"x": grad_x, "W": normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)}
