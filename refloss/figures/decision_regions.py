"""Table 1's decision boundaries as regions of the plane of θ_1 and θ_2."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from refloss.figures.style import BOTH, CLASS_1, CLASS_2, NEITHER, TINT_1, TINT_2, panels, regions
from refloss.losses import AMSoftmax, ArcFace, ASoftmax, FNormSphereFace, Softmax, WNormSoftmax

POINTS = 121  # a side: every 1.5°
LENGTHS = (1.0, 1.5)  # of W_1 and W_2, which only the softmax feels
PANELS: tuple[tuple[str, Any], ...] = (
    (r"softmax, $\Vert W_2\Vert=1.5\Vert W_1\Vert$", Softmax()),
    ("W-Norm softmax", WNormSoftmax()),
    ("SphereFace, $m=4$", ASoftmax(margin=4)),
    ("F-Norm SphereFace, $m=2$", FNormSphereFace(margin=2)),
    ("CosFace, $m=0.35$", AMSoftmax(margin=0.35)),
    ("ArcFace, $m=0.5$", ArcFace(margin=0.5)),
)


def boundaries(loss: Any, points: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(θ (n,), class 1's boundary (n, n), class 2's), at θ_2 = θ[row] and θ_1 = θ[column], radians.

    A diagonal of the square is one call of `decision_boundary`: its points have the same t = |θ_2 − θ_1|, so rows of
    W that are t apart will do, and features on the far side of the nearer row.
    """
    theta = np.linspace(0, np.pi, points)
    first, second = np.empty((points, points)), np.empty((points, points))
    nearer = np.array([1.0, 0.0])
    for k in range(points):
        t = theta[k]
        other = np.array([np.cos(t), np.sin(t)])
        small = theta[: points - k]
        x = np.stack([np.cos(small), -np.sin(small)], axis=1)
        rows, columns = np.arange(k, points), np.arange(points - k)
        for at, W in (((rows, columns), (nearer, other)), ((columns, rows), (other, nearer))):
            W = np.array(W) * np.array(LENGTHS)[:, None]
            first[at] = loss.decision_boundary(x, W)
            second[at] = loss.decision_boundary(x, W[::-1])
    return theta, first, second


def draw() -> Figure:
    """Table 1's decision boundaries as regions: where each class's condition holds, and the land between.

    Redraws Table 1 of Deng et al., arXiv 1801.07698v1 (the survey, section 3), as their Figure 5 does near 0; here over
    the whole square, with ψ beyond π/m and both classes' conditions, all from `decision_boundary`.
    """
    figure, axes = panels(2, 3, 5.0, [title for title, _ in PANELS], sharex=True, sharey=True)
    for a, (_, loss) in zip(axes.flat, PANELS, strict=True):
        theta, first, second = boundaries(loss)
        degrees = np.degrees(theta)
        regions(a, degrees, degrees, first, second)
        line = table_1(loss, theta)
        if line is not None:
            a.contour(degrees, degrees, line, levels=[0.0], colors="black", linewidths=0.7, linestyles=":")
        a.set(xlim=(0, 180), ylim=(0, 180), xticks=range(0, 181, 45), yticks=range(0, 181, 45), aspect="equal")
    for a in axes[:, 0]:
        a.set_ylabel(r"$\theta_2$ (degrees)")
    for a in axes[-1]:
        a.set_xlabel(r"$\theta_1$ (degrees)")
    handles: list[Any] = [
        Patch(facecolor=TINT_1, edgecolor=CLASS_1, label="class 1's condition holds"),
        Patch(facecolor=TINT_2, edgecolor=CLASS_2, label="class 2's"),
        Patch(facecolor=NEITHER, edgecolor="#999999", label="neither"),
        Patch(facecolor=BOTH, edgecolor="#999999", label="both"),
        Line2D([], [], color="black", lw=0.7, ls=":", label=r"Table 1's formula beyond $\pi/m$"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.4, handlelength=1.6)
    return figure


def table_1(loss: Any, theta: np.ndarray) -> np.ndarray | None:
    """cos mθ_1 − cos θ_2 where it is no longer the loss's own, θ_1 > π/m; NaN elsewhere. None for the other losses."""
    if not isinstance(loss, (ASoftmax, FNormSphereFace)):
        return None
    value = np.cos(loss.margin * theta) - np.cos(theta)[:, None]
    return np.where(theta >= np.pi / loss.margin, value, np.nan)
