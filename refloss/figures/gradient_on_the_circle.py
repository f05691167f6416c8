"""Where the gradient points, on the circle of directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLACK, BLUE, GREY, SKY, VERMILION, panels
from refloss.losses import AMSoftmax, ArcFace

ANGLES = (30, 90, 165)  # degrees; the last one lies past π − m of ArcFace
LOSSES: tuple[tuple[str, Any], ...] = (
    ("CosFace", AMSoftmax(scale=1.0, margin=0.35)),
    ("ArcFace, $m=0.5$", ArcFace(scale=1.0, margin=0.5)),
)
SHORTER = 0.7  # arrows at the tip of x̂ are drawn so long
EDGES = ((-0.15, 2.1), (-0.75, 1.1), (-1.75, 1.1))  # of the panels, left and right


class Pull(NamedTuple):
    """Vectors in the plane of x̂ and ŵ = (1, 0), each (2,), for s = 1 and ‖x‖ = 1 and over 1 − p_y."""

    x_hat: np.ndarray
    t_x: np.ndarray  # the tangent at x̂ towards ŵ
    arrives: np.ndarray  # at x̂, against the gradient of the target's cosine: along ŵ
    removed: np.ndarray  # its shadow on x̂
    pull: np.ndarray  # the rest: −∂ℓ/∂x of the target's logit


def pull(loss: Any, degrees: float) -> Pull:
    """Of a feature so far from its row; the other class's row stands at a right angle to the plane."""
    theta = np.radians(degrees)
    x_hat, t_x = np.array([[np.cos(theta), np.sin(theta)], [np.sin(theta), -np.cos(theta)]])
    out = loss.forward(np.append(x_hat, 0.0)[None], np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), [0])
    rest = -loss.backward(out).x[0, :2] / out.complement[0]
    arrives = np.array([rest @ t_x / np.sin(theta), 0.0])
    return Pull(x_hat, t_x, arrives, arrives - rest, rest)


def draw() -> Figure:
    """Pull of a sample's own class on the circle, and what the projection removes.

    No paper's figure. Columns are angles between x̂ and ŵ; above a logit that is linear in the cosine, below ArcFace.
    """
    titles = [rf"{name}, $\theta={degrees}°$" for name, _ in LOSSES for degrees in ANGLES]
    widths = [right - left for left, right in EDGES]
    figure, axes = panels(len(LOSSES), len(ANGLES), 3.9, titles, gridspec_kw={"width_ratios": widths})
    around = np.radians(np.arange(361))
    for row, (_, loss) in zip(axes, LOSSES, strict=True):
        for a, degrees, edges in zip(row, ANGLES, EDGES, strict=True):
            found = pull(loss, degrees)
            a.plot(np.cos(around), np.sin(around), color="#BBBBBB", lw=0.8, zorder=0)
            arrow(a, (0.0, 0.0), (1.0, 0.0), BLACK)
            arrow(a, (0.0, 0.0), found.x_hat, BLACK)
            a.text(0.5, -0.04, r"$\hat w$", ha="center", va="top")
            a.text(*(0.5 * found.x_hat - 0.12 * found.t_x), r"$\hat x$", ha="center", va="center")
            arrow(a, found.x_hat, SHORTER * found.t_x, SKY, r"$t_x$, the tangent towards $\hat w$", width=0.06)
            arrow(a, found.x_hat, SHORTER * found.arrives, BLUE, r"what arrives at $\hat x$, along $\hat w$")
            arrow(a, found.x_hat, SHORTER * found.removed, GREY, r"removed: its shadow on $\hat x$")
            arrow(a, found.x_hat, SHORTER * found.pull, VERMILION, r"the pull", width=0.035)
            ends = [found.x_hat + SHORTER * v for v in (found.pull, found.arrives, found.removed)]
            a.plot(*np.transpose(ends), color=GREY, lw=0.6, ls=":")
            a.set(aspect="equal", xlim=edges, ylim=(-0.2, 1.15))
            a.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def arrow(axes: Any, start: Any, along: Any, colour: str, label: str | None = None, width: float = 0.02) -> None:
    """From a point, so far in both directions of the panel."""
    options: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "xy", "width": width}
    axes.quiver(*start, *along, color=colour, label=label, headwidth=4, headlength=4.5, headaxislength=4, **options)
