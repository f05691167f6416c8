"""Softmax, modified softmax and A-Softmax on two classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from refloss.figures.style import CLASS_1, CLASS_2, NEITHER, TINT_1, TINT_2, panels, regions
from refloss.figures.training import LEAK, Network, Track, annealing, digits, gaps, train, untracked
from refloss.losses import ASoftmax, Softmax, WNormSoftmax

CLASSES = (3, 8)
SEED, STEPS, RATE, DECAY = 2, 600, 0.003, 0.3
BIAS = (-4.0, 4.0)  # where the softmax's bias starts; the other two have none
TITLES = ("softmax", "modified softmax", "A-Softmax, $m=4$")


class Learned(NamedTuple):
    """What one loss made of the training images.

    right      share whose largest logit, without a margin, is their class's
    by_angle   share that lie nearer to their own row of W, in angle, than to the other
    gap        degrees between the directions of the two classes (`training.gaps`)
    """

    loss: Any
    network: Network
    features: np.ndarray
    labels: np.ndarray
    right: float
    by_angle: float
    gap: float


def learn(index: int, track: Track = untracked, steps: int = STEPS) -> Learned:
    """The loss of this panel (0, 1 or 2), trained."""
    losses = (Softmax(), WNormSoftmax(), ASoftmax(margin=4))
    training, _ = digits(CLASSES)
    # features leak below 0, like hidden units: they stay on one side of the origin, as the paper's do
    network = Network.random(2, bias=index == 0, seed=SEED)
    network.slope = LEAK
    if network.b is not None:
        network.b[:] = BIAS

    schedule = annealing(steps)

    def loss_at(step: int) -> Any:
        return losses[index] if index < 2 else ASoftmax(margin=4, annealing=schedule(step + 1))

    train(network, loss_at, training, steps, RATE, SEED, decay=DECAY, track=track, what=TITLES[index])
    x, loss = network.features(training.images), losses[index]
    right = loss.inference_logits(x, network.W, b=network.b).argmax(axis=1) == training.labels
    nearer = WNormSoftmax().inference_logits(x, network.W).argmax(axis=1) == training.labels
    return Learned(loss, network, x, training.labels, right.mean(), nearer.mean(), gaps(x, training.labels).min())


def draw(track: Track = untracked) -> Figure:
    """Two classes learned with softmax, modified softmax and A-Softmax: features, boundaries, directions.

    Redraws Figure 2 of Liu et al., "SphereFace", CVPR 2017 (the survey, section 2.3.2): features above, their
    directions below. There the two classes are faces; here they are the digits 3 and 8. The softmax's bias
    starts away from 0, so that one sees that nothing brings it back.
    """
    figure, axes = panels(2, 3, 5.2, TITLES)
    for k, (above, below) in enumerate(axes.T):
        learned = learn(k, track)
        _plane(above, learned)
        _circle(below, learned)
        below.set_xlabel(f"gap between the classes {learned.gap:.1f}°")
        above.set_xlabel(f"feature 1\n{100 * learned.right:.1f} % right\n{100 * learned.by_angle:.1f} % by angle alone")
    axes[0, 0].set_ylabel("feature 2")
    axes[1, 0].set_ylabel(r"direction $x / \Vert x \Vert$")
    return figure


def _plane(axes: Any, learned: Learned) -> None:
    x, W = learned.features, _directions(learned.network)
    length = 0.4 * np.abs(x).max()
    shown = np.concatenate([x, 1.5 * length * W])
    low, high = shown.min(axis=0), shown.max(axis=0)
    middle, reach = (low + high) / 2, 0.56 * (high - low).max()
    limits = np.stack([middle - reach, middle + reach])
    across, up = (np.linspace(low, high, 121) for low, high in limits.T)
    regions(axes, across, up, *boundaries(learned, np.stack(np.meshgrid(across, up), axis=-1)))
    colours = np.array([CLASS_1, CLASS_2])
    axes.scatter(*x.T, s=4, c=colours[learned.labels], linewidths=0, rasterized=True)
    _weights(axes, W, length)
    axes.plot(0, 0, "+", color="black", ms=6, mew=0.8)
    axes.set(xlim=limits[:, 0], ylim=limits[:, 1], aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def _directions(network: Network) -> np.ndarray:
    return network.W / np.linalg.norm(network.W, axis=1, keepdims=True)


def _weights(axes: Any, W: np.ndarray, length: float) -> None:
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    for k, colour in enumerate((CLASS_1, CLASS_2)):
        axes.annotate("", length * W[k], (0, 0), arrowprops=arrow | {"color": colour})
        aside = (W[k] - W[1 - k]) / np.linalg.norm(W[k] - W[1 - k])
        axes.text(*(length * (W[k] + 0.28 * aside)), f"$W_{k + 1}$", color=colour, ha="center", va="center")


def boundaries(learned: Learned, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class 1's and class 2's decision boundary at points (..., 2): positive where the class's condition holds."""
    W, b, flat = learned.network.W, learned.network.b, points.reshape(-1, 2)
    swapped = None if b is None else b[::-1]
    first = learned.loss.decision_boundary(flat, W, b=b)
    second = learned.loss.decision_boundary(flat, W[::-1], b=swapped)
    return first.reshape(points.shape[:-1]), second.reshape(points.shape[:-1])


def _circle(axes: Any, learned: Learned) -> None:
    """Directions of the features, class 1's on the inner ring; sectors where the length has no say."""
    turn = np.linspace(0, 2 * np.pi, 721)
    unit = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    axes.plot(*unit.T, color="black", lw=0.6)
    if learned.network.b is None:
        axes.fill(*unit.T, color=NEITHER, lw=0, zorder=0)
        for value, tint in zip(boundaries(learned, unit), (TINT_1, TINT_2), strict=True):
            axes.fill(*np.where((value > 0)[:, None], unit, 0.0).T, color=tint, lw=0, zorder=0)
    _weights(axes, _directions(learned.network), 0.6)
    for k, colour in enumerate((CLASS_1, CLASS_2)):
        own = learned.features[learned.labels == k]
        own = own / np.linalg.norm(own, axis=1, keepdims=True)
        ring = np.stack([(1.04 + 0.16 * k) * own, (1.16 + 0.16 * k) * own], axis=1)
        axes.add_collection(LineCollection(list(ring), color=colour, lw=0.5, rasterized=True))
    axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=(), yticks=())
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
