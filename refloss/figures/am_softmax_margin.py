"""Softmax and AM-Softmax on the circle, with the margin between the two boundaries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Wedge

from refloss.figures.style import BLACK, CLASS_1, CLASS_2, NEITHER, TINT_1, TINT_2, panels
from refloss.figures.training import Network, Track, digits, gaps, train, untracked
from refloss.losses import AMSoftmax

CLASSES = (3, 8)
SCALE, MARGINS = 10.0, (0.0, 0.35)
TITLES = ("softmax, normalised", "AM-Softmax, $m=0.35$")
SEED, STEPS, RATE, NOISE = 16, 400, 0.001, 0.3
MIDDLE, APART, ARC = np.pi / 2, np.pi / 2, 0.84 * np.pi  # between the rows of W; of the arc that is drawn


def unit(direction: Any) -> np.ndarray:
    """(..., 2) the unit vectors at these angles, radians."""
    return np.stack([np.cos(direction), np.sin(direction)], axis=-1)


W = unit(MIDDLE + np.array([APART, -APART]) / 2)


def learn(margin: float, track: Track = untracked, steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """(directions (N, 2), labels) of the training images after training with this margin, W being held."""
    training, _ = digits(CLASSES)
    network = Network.random(2, bias=False, seed=SEED)
    network.parameters["W"] = W
    loss = AMSoftmax(scale=SCALE, margin=margin)
    what = f"AM-Softmax, m = {margin}"
    train(network, lambda step: loss, training, steps, RATE, SEED, noise=NOISE, fixed=("W",), track=track, what=what)
    x = network.features(training.images)
    return x / np.linalg.norm(x, axis=1, keepdims=True), training.labels


def boundary(margin: float) -> float:
    """Where class 1's condition holds with equality: radians from the middle of W_1 and W_2 towards W_1.

    Found on `decision_boundary` by bisection.
    """
    loss = AMSoftmax(scale=SCALE, margin=margin)
    low, high = -APART / 2, APART / 2
    for _ in range(60):
        half = (low + high) / 2
        (value,) = loss.decision_boundary(unit([MIDDLE + half]), W)
        low, high = (low, half) if value > 0 else (half, high)
    return high


def draw(track: Track = untracked) -> Figure:
    """Softmax and AM-Softmax on the circle: features, the boundary of each class, the margin between them.

    Redraws Figure 1 of Wang et al., "Additive Margin Softmax", 2018 (the survey, section 2.5.2), a sketch there.
    Here features of the digits 3 and 8 are learned with both losses; W_1 and W_2 are held 90° apart, as two of many
    classes lie.
    """
    figure, axes = panels(1, 2, 2.5, TITLES)
    for a, margin in zip(axes[0], MARGINS, strict=True):
        directions, labels = learn(margin, track)
        _arc(a, boundary(margin), margin)
        for label, colour in enumerate((CLASS_1, CLASS_2)):
            ticks = np.stack([1.02 * directions[labels == label], 1.09 * directions[labels == label]], axis=1)
            a.add_collection(LineCollection(list(ticks), color=colour, lw=0.5))
        a.text(0, -0.16, f"gap between the classes {gaps(directions, labels).min():.1f}°", ha="center")
    return figure


def _arc(axes: Any, edge: float, margin: float) -> None:
    """The sectors of class 1, class 2 and neither, W_1 and W_2, and the boundaries at ±edge from the middle."""
    ends = np.degrees(MIDDLE + np.array([-ARC / 2, -edge, edge, ARC / 2]))
    for (low, high), tint in zip(pairwise(ends), (TINT_2, NEITHER, TINT_1), strict=True):
        if high > low:
            axes.add_patch(Wedge((0, 0), 1, low, high, facecolor=tint, lw=0))
    axes.plot(*unit(np.linspace(MIDDLE - ARC / 2, MIDDLE + ARC / 2, 400)).T, color=BLACK, lw=0.6)
    for k, colour in enumerate((CLASS_1, CLASS_2)):
        axes.annotate("", W[k], (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})
        axes.text(*(0.72 * W[k] + (0, 0.12)), f"$W_{k + 1}$", color=colour, ha="center", va="center")
    lines = [(edge, "$P_1$", CLASS_1), (-edge, "$P_2$", CLASS_2)] if margin else [(0.0, "$P_0$", BLACK)]
    for off, name, colour in lines:
        axes.plot(*np.outer(unit(MIDDLE + off), (0, 1.14)), color=colour, ls="--", lw=1.1)
        axes.text(*(1.2 * unit(MIDDLE + off)), name, color=colour, ha="center", va="center")
    if margin:
        axes.plot(*(0.5 * unit(MIDDLE + np.linspace(-edge, edge, 50))).T, color=BLACK, lw=0.8)
        axes.text(0, 0.54, f"margin\n{np.degrees(2 * edge):.1f}°", ha="center", va="bottom")
    axes.set(xlim=(-1.12, 1.12), ylim=(-0.2, 1.25), aspect="equal")
    axes.set_axis_off()
