"""Softmax and L-Softmax in the plane of two rows: one boundary, and two with the margin between them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import CLASS_1, CLASS_2, panels, regions
from refloss.losses import LSoftmax, Softmax

LOSSES: tuple[tuple[str, Any], ...] = (("softmax", Softmax()), ("L-Softmax, $m=2$", LSoftmax(margin=2)))
RATIOS = (1.0, 1.5, 1 / 1.5)  # ‖W_1‖ : ‖W_2‖
LENGTHS = (
    r"$\Vert W_1\Vert=\Vert W_2\Vert$",
    r"$\Vert W_1\Vert=1.5\Vert W_2\Vert$",
    r"$\Vert W_2\Vert=1.5\Vert W_1\Vert$",
)
MIDDLE, APART = np.pi / 2, np.pi / 2  # between the rows of W, radians
REACH = 1.4  # of the plane that is drawn, to all sides but below


def unit(direction: Any) -> np.ndarray:
    """(..., 2) the unit vectors at these angles, radians."""
    return np.stack([np.cos(direction), np.sin(direction)], axis=-1)


def rows(ratio: float) -> np.ndarray:
    """(2, 2) W_1 on the left and W_2, of the lengths √ratio and 1/√ratio."""
    lengths = np.array([ratio, 1 / ratio]) ** 0.5
    return lengths[:, None] * unit(MIDDLE + np.array([APART, -APART]) / 2)


def ends(loss: Any, ratio: float) -> tuple[float, float]:
    """How far class 1 and class 2 reach towards each other: degrees from their own row.

    Found on `decision_boundary` by bisection.
    """
    found = []
    for side, W in ((1, rows(ratio)), (-1, rows(ratio)[::-1])):
        low, high = 0.0, APART
        for _ in range(60):
            half = (low + high) / 2
            (value,) = loss.decision_boundary(unit([MIDDLE + side * (APART / 2 - half)]), W)
            low, high = (half, high) if value > 0 else (low, half)
        found.append(float(np.degrees(low)))
    return found[0], found[1]


def draw() -> Figure:
    """Softmax and L-Softmax between two rows of W, equally long and not: the land of each class, and of neither.

    Redraws the geometric interpretation of Liu et al., "Large-Margin Softmax Loss", ICML 2016 (the survey, section
    2.2.1), a sketch there. Regions and angles are those of `decision_boundary`.
    """
    figure, axes = panels(2, 3, 3.9, LENGTHS)
    across, up = (
        np.linspace(-REACH, REACH, 180),
        np.linspace(-REACH / 3, REACH, 120),
    )  # none is 0, where L-Softmax is singular
    points = np.stack(np.meshgrid(across, up), axis=-1)
    flat = points.reshape(-1, 2)
    for line, (name, loss) in zip(axes, LOSSES, strict=True):
        for a, ratio in zip(line, RATIOS, strict=True):
            W = rows(ratio)
            first, second = (loss.decision_boundary(flat, V).reshape(points.shape[:-1]) for V in (W, W[::-1]))
            regions(a, across, up, first, second)
            for k, colour in enumerate((CLASS_1, CLASS_2)):
                arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0}
                a.annotate("", W[k], (0, 0), arrowprops=arrow)
                at = W[k] * (1 + 0.14 / np.linalg.norm(W[k]))
                a.text(*at, f"$W_{k + 1}$", color=colour, ha="center", va="center")
            one, two = ends(loss, ratio)
            between = max(np.degrees(APART) - one - two, 0.0)
            a.set_xlabel(f"{one:.1f}° and {two:.1f}°, {between:.1f}° between")
            a.set(xlim=(-REACH, REACH), ylim=(-REACH / 3, REACH), aspect="equal", xticks=(), yticks=())
        line[0].set_ylabel(name)
    return figure
