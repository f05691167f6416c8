"""Target logits against the angle."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, panels
from refloss.losses import AMSoftmax, ArcFace, ASoftmax, Softmax

M = 0.5
# label, loss, its radius at ‖x‖ = ‖W‖ = 1, angle where it jumps, line
CURVES: tuple[tuple[str, Any, float, float | None, dict[str, Any]], ...] = (
    ("softmax (and W-Norm, L2)", Softmax(), 1.0, None, {"color": BLACK, "ls": "-"}),
    ("SphereFace, $m=4$", ASoftmax(margin=4), 1.0, None, {"color": SKY, "ls": ":"}),
    (r"SphereFace, $m=4$, $\lambda=5$", ASoftmax(margin=4, annealing=5), 1.0, None, {"color": BLUE, "ls": "-"}),
    ("CosFace, $m=0.35$", AMSoftmax(margin=0.35), 30.0, None, {"color": GREEN, "ls": "-"}),
    ("ArcFace, $m=0.5$", ArcFace(margin=M), 64.0, None, {"color": VERMILION, "ls": "-"}),
    (r"ArcFace, linear past $\pi-m$", ArcFace(margin=M, past_pi="linear"), 64.0, np.pi - M,
     {"color": ORANGE, "ls": "--"}),
    ("ArcFace, easy margin", ArcFace(margin=M, easy_margin=True), 64.0, np.pi / 2, {"color": PURPLE, "ls": "-."}),
)  # fmt: skip


def target(loss: Any, theta: np.ndarray) -> np.ndarray:
    """z_y at these angles (n,), radians, for ‖x‖ = ‖W‖ = 1."""
    x = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    return loss.forward(x, np.eye(2), np.zeros(len(theta), dtype=int)).logits[:, 0]


def curve(loss: Any, radius: float, jump: float | None, points: int = 721) -> tuple[np.ndarray, np.ndarray]:
    """(θ in degrees, z_y / radius), with a NaN at the jump, where the curve has both ends."""
    theta = np.linspace(0, np.pi, points)
    if jump is None:
        return np.degrees(theta), target(loss, theta) / radius
    sides = np.array([jump - 1e-9, jump, jump + 1e-9])
    theta = np.sort(np.concatenate([theta[np.abs(theta - jump) > 1e-6], sides]))
    value = target(loss, theta) / radius
    value[theta == jump] = np.nan
    return np.degrees(theta), value


def draw() -> Figure:
    """Target logit over the angle for every loss, each divided by its radius.

    Redraws the target-logit curves of Deng et al., "ArcFace" (arXiv 1801.07698), over all of [0, π] and with the
    released variants.
    """
    titles = ("target logit / radius", r"ArcFace near $\theta = \pi - m$")
    figure, axes = panels(1, 2, 3.1, titles, gridspec_kw={"width_ratios": (1.55, 1)})
    whole, near = axes[0]
    for label, loss, radius, jump, line in CURVES:
        theta, value = curve(loss, radius, jump)
        whole.plot(theta, value, label=label, **line)
        if isinstance(loss, (ArcFace, Softmax)):
            near.plot(theta, value, **line)
    whole.set(xlim=(0, 180), ylim=(-2.1, 1.08), xticks=range(0, 181, 30))
    near.set(xlim=(135, 180), ylim=(-1.27, -0.66), xticks=range(135, 181, 15))
    near.axvline(np.degrees(np.pi - M), color="#999999", lw=0.6, zorder=0)
    near.annotate(
        r"$\pi - m$", (np.degrees(np.pi - M), -0.68), (3, 0), textcoords="offset points", va="top", color="#555555"
    )
    for a in axes[0]:
        a.set_xlabel(r"$\theta_y$ (degrees)")
        a.grid(lw=0.3, color="#CCCCCC")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
