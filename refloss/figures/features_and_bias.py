"""How many of the digits a softmax gets right, by the number of features, with and without a bias."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLUE, ORANGE, panels
from refloss.figures.training import Network, Track, digits, train, untracked
from refloss.losses import Softmax

FEATURES = (2, 3, 4, 16)
SEEDS, STEPS, RATE, NOISE = (1, 2, 3), 600, 0.01, 0.08


def accuracies(features: int, bias: bool, track: Track = untracked, steps: int = STEPS) -> np.ndarray:
    """(seeds,) the share of the test images that the softmax gets right after training."""
    training, test = digits()
    loss, found = Softmax(), []
    for seed in SEEDS:
        network = Network.random(10, bias=bias, seed=seed, features=features)
        what = f"softmax, {features} features"
        train(network, lambda step: loss, training, steps, RATE, seed, noise=NOISE, track=track, what=what)
        logits = loss.inference_logits(network.features(test.images), network.W, b=network.b)
        found.append((logits.argmax(axis=1) == test.labels).mean())
    return np.array(found)


def draw(track: Track = untracked) -> Figure:
    """Digits that a softmax gets right: 2 to 16 features, with a bias and without.

    No paper's figure: what the caption of Figure 2 of Liu et al., "Large-Margin Softmax Loss", ICML 2016, says (the
    survey, section 2.2.3). Bars reach from the least to the largest of three seeds.
    """
    figure, axes = panels(1, 1, 2.6)
    (a,) = axes[0]
    for bias, label, colour in ((False, "without a bias", BLUE), (True, "with a bias", ORANGE)):
        found = 100 * np.array([accuracies(features, bias, track) for features in FEATURES])
        mean = found.mean(axis=1)
        bars = np.abs([found.min(axis=1) - mean, found.max(axis=1) - mean])
        shift = 1.01 if bias else 0.99  # beside each other
        a.errorbar(np.array(FEATURES) * shift, mean, bars, marker="o", ms=4, elinewidth=0.8, color=colour, label=label)
    a.set_xscale("log", base=2)
    a.set(xticks=FEATURES, xticklabels=FEATURES, xlabel="features", ylabel="right, test images, %")
    a.minorticks_off()
    a.grid(lw=0.3, color="#CCCCCC")
    a.legend(loc="lower right")
    return figure
