"""Two-dimensional features of digits learned with L-Softmax, m = 1 … 4."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from refloss.figures.style import TEN, panels
from refloss.figures.training import START, Data, Network, Track, annealing, digits, gaps, train, untracked
from refloss.losses import LSoftmax

MARGINS = (1, 2, 3, 4)
TITLES = ("softmax, $m=1$", *(f"L-Softmax, $m={margin}$" for margin in MARGINS[1:]))
SEED, STEPS, RATE, DECAY, NOISE = 1, 3000, 0.005, 0.03, 0.08


class Learned(NamedTuple):
    """Features (N, 2) of one set of images, and what is measured on them.

    accuracy   share of images whose largest logit, without the margin, is their class's
    theta      mean angle between a feature and its class's row of W, degrees
    gap        degrees between neighbouring classes, mean over the ten gaps: from the direction that 95 % of one
               class do not pass to the one that 95 % of the next do not pass
    """

    features: np.ndarray
    labels: np.ndarray
    accuracy: float
    theta: float
    gap: float


def learn(
    margin: int, track: Track = untracked, steps: int = STEPS, start: float = START
) -> tuple[Network, dict[str, Learned]]:
    """The network trained with this margin, λ from `start` on, and what it makes of "training" and "test" images."""
    schedule = annealing(steps, start if margin > 1 else 0.0)
    training, test = digits()
    network = Network.random(10, bias=False, seed=SEED)
    train(
        network, lambda step: LSoftmax(margin=margin, annealing=schedule(step + 1)), training, steps, RATE, SEED,
        decay=DECAY, noise=NOISE, track=track, what=f"L-Softmax, m = {margin}",
    )  # fmt: skip
    return network, {"training": measure(network, training), "test": measure(network, test)}


def measure(network: Network, data: Data) -> Learned:
    """The features of these images and their numbers."""
    loss = LSoftmax(margin=1)
    x = network.features(data.images)
    right = loss.inference_logits(x, network.W).argmax(axis=1) == data.labels
    theta = loss.forward(x, network.W, data.labels).theta
    return Learned(x, data.labels, right.mean(), np.degrees(theta.mean()), gaps(x, data.labels).mean())


def draw(track: Track = untracked) -> Figure:
    """Features of digits learned with L-Softmax, m = 1 to 4, training and test images.

    Redraws Figure 2 of Liu et al., "Large-Margin Softmax Loss", ICML 2016 (the survey, section 2.2.3). There a
    convolutional network learns MNIST; here a network of one hidden layer learns scikit-learn's 8 × 8 digits.
    """
    figure, axes = panels(2, len(MARGINS), 4.15, TITLES)
    for k, (column, margin) in enumerate(zip(axes.T, MARGINS, strict=True)):
        network, sets = learn(margin, track)
        every = np.concatenate([learned.features for learned in sets.values()])
        low, high = every.min(axis=0), every.max(axis=0)
        middle, reach = (low + high) / 2, 0.58 * (high - low).max()
        for a, (name, learned) in zip(column, sets.items(), strict=True):
            _features(a, learned, network.W)
            a.set(xlim=middle[0] + (-reach, reach), ylim=middle[1] + (-reach, reach), aspect="equal")
            if k == 0:
                a.set_ylabel(f"{name}\nfeature 2")
    figure.supxlabel("feature 1", fontsize=8)
    return figure


def _features(axes: Any, learned: Learned, W: np.ndarray) -> None:
    x, labels = learned.features, learned.labels
    axes.scatter(*x.T, s=2.4, c=np.array(TEN)[labels], linewidths=0, rasterized=True)
    blank = {"boxstyle": "circle,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    far = np.quantile(np.linalg.norm(x, axis=1), 0.9)
    for k, colour in enumerate(TEN):
        axes.plot(*np.outer(W[k] / np.linalg.norm(W[k]), (0, far)), color=colour, lw=0.7, zorder=1)
        own = x[labels == k]
        centre = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
        at = centre * (np.quantile(np.linalg.norm(own, axis=1), 0.98) + 0.14 * far)
        axes.text(*at, str(k), ha="center", va="center", fontsize=7.5, bbox=blank, zorder=4)
    axes.set_xlabel(f"{100 * learned.accuracy:.1f} % right, gap {learned.gap:.1f}°")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3))
