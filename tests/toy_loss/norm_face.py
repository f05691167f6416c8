"""NormFace loss. Derivation: derivations/norm_face.md, steps (1)–(7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refloss.losses.loss import NormalisingLoss
from refloss.losses.passes import LogitsPass
from refloss.steps.angle import cosines, cosines_backward
from refloss.steps.normalise import Rows, normalise_backward
from refloss.steps.targets import Pairs
from refloss.validation import positive


@dataclass(frozen=True, kw_only=True, repr=False)
class NormFace(NormalisingLoss):
    """NormFace: scaled cosines without a margin::

        z_j = s cos θ_j

    Source:
        Wang et al., "NormFace", ACM Multimedia 2017, eq. (8).

    Shapes:
        x (N, D), W (C, D), labels (N,) or soft targets (N, C).

    Args:
        scale (float): s > 0.
        **options: those of `refloss.Loss`.

    Singular points:
        Zero rows (zero_norm).

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = NormFace(scale=2).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(2·0.6 − 2·0.8))
        0.513015252400
    """

    name: ClassVar[str] = "norm_face"
    feels_x_norm: ClassVar[bool] = False
    feels_W_norm: ClassVar[bool] = False

    scale: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(scale=positive(self.scale, "scale"))

    def forward_logits(self, x: Rows, W: Rows, b: Any, pairs: Pairs) -> LogitsPass:
        # (1) x̂_i = x_i / ‖x_i‖, ŵ_j = W_j / ‖W_j‖
        x_hat, W_hat = x.hat, W.hat
        cos_theta, near = cosines(x_hat, W_hat)  # (2) cos θ_ij = x̂_i·ŵ_j
        z = self.scale * cos_theta  # (3) z_j = s cos θ_j
        # (4) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(x=x, W=W, x_norm=x.norm, W_norm=W.norm, cos_theta=cos_theta, near=near, logits=z)

    def backward_logits(self, kept: LogitsPass, g: Any) -> dict[str, Any]:
        # (5) ∂L/∂cos θ_ij = s g_ij
        grad_x_hat, grad_W_hat = cosines_backward(self.scale * g, kept.x, kept.W, kept.near)
        # (6) through x̂ and ŵ: (I − v̂ v̂ᵀ) / ‖v‖
        grad_x = normalise_backward(grad_x_hat, kept.x.norm, kept.x.hat)
        grad_W = normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)
        # (7) ∂L/∂s = Σ_ij g_ij cos θ_ij = Σ_ij g_ij z_ij / s
        return {"x": grad_x, "W": grad_W, "scale": np.sum(g * kept.logits) / self.scale}
