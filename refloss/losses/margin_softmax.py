"""A margin of your own: the family's polar form. Derivation: derivations/margin_softmax.md, steps (G1)–(G10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from refloss.losses.margins import MarginLoss
from refloss.losses.passes import LogitsPass, add_at_pairs
from refloss.precision.numbers import Array, functions_of, like
from refloss.steps.angle import Angle, cosines, cosines_backward
from refloss.steps.margin import Psi, measured, own_slope
from refloss.steps.normalise import Rows, across, over_norm
from refloss.steps.targets import Pairs
from refloss.validation import function, one_of, per_angle, positive


@dataclass(frozen=True, kw_only=True, repr=False)
class MarginSoftmax(MarginLoss):
    """Your own margin, from ψ and its derivative::

        z_j = r cos θ_j,  z_y = r ψ(θ_y)

    Source:
        The form common to L-Softmax, SphereFace, CosFace and ArcFace (survey, section 3).

    Shapes:
        x (N, D), W (C, D), labels (N,).

    Args:
        psi (function): ψ(θ), called as psi(theta, xp) with theta (R,) in radians and xp the array namespace to
            compute with (xp.cos, xp.sin, xp.where, xp.pi, …), so that every witness of `refloss.gradcheck` can
            run it. theta are some or all of the angles: it may be called several times, on several threads. A
            constant that Python computes (2 / math.pi) is rounded before refloss sees it, and bounds and extended
            precision cannot know: write 2 / xp.pi.
        dpsi (function): ψ'(θ), called in the same way.
        radius (str): "scale", r = s; "x_norm", r = ‖x‖; or "both_norms", r = ‖W_j‖‖x‖.
        scale (float): s > 0, used by radius="scale".
        **options: those of `refloss.Loss`.

    Singular points:
        Zero rows (zero_norm); a cone at θ = 0 or π where ψ' ≠ 0 there (`out.cone`), none with detach_margin.
        Kinks and jumps of ψ are the user's own.

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> linear = MarginSoftmax(
        ...     psi=lambda theta, xp: 1 - 2 * theta / xp.pi,
        ...     dpsi=lambda theta, xp: -2 / xp.pi + 0 * theta,
        ...     scale=2,
        ... )
        >>> out = linear.forward([[3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]], labels=[1])
        >>> print(f"{out.loss:.12f}")  # log(1 + e^(2·0.6 − 2·(1 − 2 arccos(0.8)/π)))
        0.702859420460
    """

    name: ClassVar[str] = "margin_softmax"

    psi: Callable
    dpsi: Callable
    radius: str = "scale"
    scale: float = 64.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(
            psi=function(self.psi, "psi"),
            dpsi=function(self.dpsi, "dpsi"),
            radius=one_of(self.radius, "radius", ("scale", "x_norm", "both_norms")),
            scale=positive(self.scale, "scale"),
        )

    @property
    def feels_x_norm(self) -> bool:  # type: ignore[override]
        return self.radius != "scale"

    @property
    def feels_W_norm(self) -> bool:  # type: ignore[override]
        return self.radius == "both_norms"

    def psi_of(self, angles: Angle) -> Psi:
        # (G4) ψ(θ_y), ψ'(θ_y), then detaching
        theta, xp = angles.theta, functions_of(angles.theta)
        value = per_angle(self.psi(theta, xp), theta, "psi")
        slope = per_angle(self.dpsi(theta, xp), theta, "dpsi")
        return self._with_options(Psi(value, own_slope(slope, angles), np.zeros_like(value)), angles)

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        # (G1) x̂_i = x_i / ‖x_i‖, ŵ_j = W_j / ‖W_j‖
        x_hat, W_hat = x.hat, W.hat
        cos_theta, near = cosines(x_hat, W_hat)  # (G2) cos θ_ij = x̂_i·ŵ_j
        angles, psi = measured(x, W, pairs, self.psi_of)  # (G3) θ_y of the target pairs, and their ψ by psi_of
        # (G5) z_ij = r_ij cos θ_ij, z_iy = r_iy ψ(θ_y)
        r, _, _ = self._radius(x.norm, W.norm)
        z = r * cos_theta
        z[pairs] = r[pairs] * psi.value
        # (G6) z goes on to the cross-entropy; all of this is for the backward and the record
        return LogitsPass(
            x=x, W=W, x_norm=x.norm, W_norm=W.norm, cos_theta=cos_theta, along=cos_theta,
            near=near, logits=z, pairs=pairs, angles=angles, psi=psi,
        )  # fmt: skip

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        _, r_over_x, r_over_W = self._radius(kept.x.norm, kept.W.norm)
        g_y, g_others = kept.pairs.split(g)
        # (G7) the tangential parts of the other classes: (r/‖x‖) (I − x̂ x̂ᵀ) ŵ_j and (r/‖W‖) (I − ŵ ŵᵀ) x̂
        vectors = kept.x, kept.W, kept.near
        grad_x = across(cosines_backward(r_over_x * g_others, *vectors, of="x")[0], kept.x.hat)
        grad_W = across(cosines_backward(r_over_W * g_others, *vectors, of="W")[1], kept.W.hat)
        # (G8) the target's tangential part: −(r/‖x‖) ψ'(θ_y) t_x and −(r/‖W_y‖) ψ'(θ_y) t_w
        turn = -g_y * kept.psi.slope
        pair_x = (turn * r_over_x[kept.pairs])[:, None] * kept.angles.t_x
        pair_W = (turn * r_over_W[kept.pairs])[:, None] * kept.angles.t_w
        add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)
        # (G9) the radius, for every class: ∂z/∂r = ψ for the target, cos θ for the others
        in_radius = g_others * kept.along
        in_radius[kept.pairs] = g_y * kept.psi.value
        grads = {"x": grad_x, "W": grad_W}
        # (G10) ∂r/∂s = 1; ∂r/∂‖x‖ = 1 or ‖W_j‖, along x̂; ∂r/∂‖W_j‖ = ‖x‖, along ŵ
        if self.radius == "scale":
            return grads | {"scale": np.sum(in_radius)}
        if self.radius == "x_norm":
            grads["x"] += in_radius.sum(axis=1)[:, None] * kept.x.hat
            return grads
        grads["x"] += (in_radius * kept.W.norm).sum(axis=1)[:, None] * kept.x.hat
        grads["W"] += (in_radius.T * kept.x.norm).sum(axis=1)[:, None] * kept.W.hat
        return grads

    def _radius(self, x_norm: Array, W_norm: Array) -> tuple[Array, Array, Array]:
        """r, r/‖x‖ and r/‖W‖, each (N, C); the last two not as quotients of r, which may leave float64's range."""
        ones = like(np.ones((len(x_norm), len(W_norm))), x_norm)
        over_x, over_W = over_norm(ones, x_norm), over_norm(ones.T, W_norm).T
        x = x_norm[:, None]
        if self.radius == "scale":
            return self.scale * ones, self.scale * over_x, self.scale * over_W
        if self.radius == "x_norm":
            return x * ones, ones, x * over_W
        return x * W_norm, W_norm * ones, x * ones
