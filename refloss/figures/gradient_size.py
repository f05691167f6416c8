"""Size of the gradient against the length of the feature."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION, panels
from refloss.losses import AMSoftmax, ArcFace, FNormSphereFace, L2Softmax, LSoftmax, Softmax

LENGTHS = np.logspace(-3, 3, 121)
CURVES: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("softmax, W-Norm softmax", Softmax(), {"color": BLACK, "ls": "-"}),
    ("L-Softmax, SphereFace, $m=4$", LSoftmax(margin=4), {"color": BLUE, "ls": "-"}),
    (r"L2-softmax, $\alpha=16$", L2Softmax(alpha=16), {"color": ORANGE, "ls": "--"}),
    ("CosFace, $s=30$, $m=0.35$", AMSoftmax(scale=30, margin=0.35), {"color": GREEN, "ls": "--"}),
    ("ArcFace, $s=64$, $m=0.5$", ArcFace(scale=64, margin=0.5), {"color": VERMILION, "ls": "--"}),
    ("F-Norm SphereFace, $s=64$, $m=4$", FNormSphereFace(scale=64, margin=4), {"color": SKY, "ls": ":"}),
)
RIGHT, WRONG = np.pi / 6, np.pi / 3  # θ_y; the other class is at π/2 − θ_y


def sizes_of_x(loss: Any, theta: float) -> np.ndarray:
    """‖∂ℓ/∂x‖ (n,) of features of these LENGTHS, θ radians from their class's row and π/2 − θ from the other's."""
    x, labels = LENGTHS[:, None] * _direction(theta), np.zeros(len(LENGTHS), dtype=int)
    # the mean over all samples, times their number
    return np.linalg.norm(loss.value_and_grad(x, np.eye(2), labels, upstream=len(x))[1].x, axis=1)


def sizes_of_W(loss: Any, theta: float) -> np.ndarray:
    """‖∂ℓ/∂W_y‖ (n,), each feature alone."""
    alone = (loss.value_and_grad(length * _direction(theta), np.eye(2), [0])[1].W[0] for length in LENGTHS)
    return np.linalg.norm(list(alone), axis=1)


def _direction(theta: float) -> np.ndarray:
    return np.array([[np.cos(theta), np.sin(theta)]])


def draw() -> Figure:
    """Size of the gradient against ‖x‖: constant, fading, or 1/‖x‖.

    No paper's figure: what the survey says in section 2.5 of y = x/α, dy/dx = 1/α, drawn for every loss.
    """
    titles = (
        r"$\Vert\partial\ell/\partial x\Vert$, $\theta_y=60°$",
        r"$\Vert\partial\ell/\partial x\Vert$, $\theta_y=30°$",
        r"$\Vert\partial\ell/\partial W_y\Vert$, $\theta_y=60°$",
    )
    figure, axes = panels(1, 3, 3.0, titles, sharex=True)
    for label, loss, line in CURVES:
        found = sizes_of_x(loss, WRONG), sizes_of_x(loss, RIGHT), sizes_of_W(loss, WRONG)
        for a, value in zip(axes[0], found, strict=True):
            a.loglog(LENGTHS, value, label=label if a is axes[0, 0] else None, **line)
    for a in axes[0]:
        a.set_xlabel(r"$\Vert x \Vert$")
        a.set(xlim=(LENGTHS[0], LENGTHS[-1]), xticks=10.0 ** np.arange(-3, 4, 2))
        a.minorticks_off()
        a.grid(lw=0.3, color="#CCCCCC")
    for a in axes[0, :2]:
        a.set(ylim=(1e-5, 1e6))
    figure.legend(loc="outside lower center", ncols=3)
    return figure
