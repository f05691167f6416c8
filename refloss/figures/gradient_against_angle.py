"""Size of the gradient against the angle."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLACK, BLUE, GREEN, GREY, VERMILION, panels
from refloss.losses import (
    AMSoftmax,
    ArcFace,
    ASoftmax,
    FNormSphereFace,
    L2Softmax,
    LSoftmax,
    Softmax,
    WeightedSoftmax,
    WNormSoftmax,
)

S = 10.0  # s, α and ‖x‖: with rows of length 1 all logits have this radius, so that only ψ tells the losses apart
THETA = np.linspace(0.25, 179.75, 719)  # degrees; at the poles themselves ArcFace has a cone
# label, the losses that share the curve, line
CURVES: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = (
    ("no margin: softmax, W-Norm, L2", (Softmax(), WNormSoftmax(), L2Softmax(alpha=S)), {"color": BLACK, "ls": "-"}),
    ("weighted softmax, $w_y=1/2$", (WeightedSoftmax(class_weights=[0.5, 1.0]),), {"color": GREY, "ls": ":"}),
    ("L-Softmax, SphereFace, F-Norm, $m=2$",
     (LSoftmax(margin=2), ASoftmax(margin=2), FNormSphereFace(scale=S, margin=2)), {"color": BLUE, "ls": "-."}),
    ("CosFace, $m=0.35$", (AMSoftmax(scale=S, margin=0.35),), {"color": GREEN, "ls": "--"}),
    ("ArcFace, $m=0.5$", (ArcFace(scale=S, margin=0.5),), {"color": VERMILION, "ls": "-"}),
)  # fmt: skip


class Sizes(NamedTuple):
    """Each (n,), over THETA."""

    unsure: np.ndarray  # 1 − p_y
    slope: np.ndarray  # −ψ'(θ), times the class's weight
    pull: np.ndarray  # their product: −∂ℓ/∂x along t_x, positive towards the class


def sizes(loss: Any) -> Sizes:
    """Of features of length S in the plane of their row and a direction at a right angle to the other class's row."""
    cos, sin, none = np.cos(np.radians(THETA)), np.sin(np.radians(THETA)), np.zeros(len(THETA))
    out = loss.forward(S * np.stack([cos, sin, none], axis=1), np.eye(3)[[0, 2]], none.astype(int))
    grad_x = loss.backward(out, upstream=len(THETA)).x  # of a sum: the mean times the number of samples
    pull = -np.einsum("nd,nd->n", grad_x, np.stack([sin, -cos, none], axis=1))
    return Sizes(out.complement, pull / out.complement, pull)


def draw() -> Figure:
    """Size of the gradient against the angle: what the margin does through p_y, through the slope, and in all.

    No paper's figure. Two classes, the other one's row at a right angle to x; s = α = ‖x‖ = 10, rows of length 1.
    """
    figure, axes = panels(1, 3, 3.1, (r"$1-p_y$", r"$-\psi'(\theta)$", "their product, the pull"))
    for label, losses, line in CURVES:
        for a, value in zip(axes[0], sizes(losses[0]), strict=True):
            a.plot(THETA, value, label=label if a is axes[0, 0] else None, **line)
    for a in axes[0]:
        a.set(xlabel=r"$\theta_y$ (degrees)", xlim=(0, 180), xticks=range(0, 181, 45))
        a.grid(lw=0.3, color="#CCCCCC")
    for a in axes[0, 1:]:
        a.axhline(0, color="#999999", lw=0.6, zorder=0)
        a.set(ylim=(-0.6, 2.1))
    figure.legend(loc="outside lower center", ncols=3)
    return figure
