"""What the scale does to a normalised softmax: loss, least loss, angle to the own row, accuracy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from refloss.bounds import normface_smallest_loss
from refloss.figures.style import BLACK, BLUE, ORANGE, VERMILION, panels
from refloss.figures.training import Network, Track, digits, train, untracked
from refloss.losses import AMSoftmax

SCALES = (1, 2, 4, 8, 16, 30, 64)
FEATURES, SEED, STEPS, RATE = 16, 1, 600, 0.003


class Learned(NamedTuple):
    """loss and mean θ_y (degrees) of the training images, and the shares of training and test images that are right."""

    loss: float
    theta: float
    training: float
    test: float


def learn(scale: float, track: Track = untracked, steps: int = STEPS) -> Learned:
    """A network trained with x and W normalised, without a margin, at this scale."""
    loss = AMSoftmax(scale=scale, margin=0.0)
    network = Network.random(10, bias=False, seed=SEED, features=FEATURES)
    sets = digits()
    train(network, lambda step: loss, sets[0], steps, RATE, SEED, track=track, what=f"normalised, s = {scale}")
    outs = [loss.forward(network.features(data.images), network.W, data.labels) for data in sets]
    right = [(out.logits.argmax(axis=1) == data.labels).mean() for out, data in zip(outs, sets, strict=True)]
    return Learned(float(outs[0].loss), np.degrees(outs[0].theta).mean(), *right)


def draw(track: Track = untracked) -> Figure:
    """Normalised softmax at scales from 1 to 64: the loss and its least value, the angle, and what is right.

    No paper's figure: the survey's remark of section 2.5.2 that a normalised loss needs a scale, after the bound of
    Wang et al., "NormFace" (arXiv 1704.06369), on ten classes of digits.
    """
    figure, axes = panels(1, 3, 2.7, ("loss", r"mean $\theta_y$, degrees", "right, %"))
    learned = [learn(scale, track) for scale in SCALES]
    loss, angle, right = axes[0]
    loss.loglog(SCALES, [one.loss for one in learned], "o-", ms=4, color=VERMILION, label="training images")
    least = [normface_smallest_loss(10, scale=scale) for scale in SCALES]
    loss.loglog(SCALES, least, ":", color=BLACK, label="least possible, ten classes")
    loss.set_ylim(1e-4, 4)
    angle.semilogx(SCALES, [one.theta for one in learned], "o-", ms=4, color=VERMILION)
    for name, colour in (("training", BLUE), ("test", ORANGE)):
        values = [100 * getattr(one, name) for one in learned]
        right.semilogx(SCALES, values, "o-", ms=4, color=colour, label=f"{name} images")
    for a in axes[0]:
        a.set_xscale("log", base=2)
        a.set(xticks=SCALES, xticklabels=SCALES, xlabel="$s$")
        a.minorticks_off()
        a.grid(lw=0.3, color="#CCCCCC")
    loss.legend(loc="lower left")
    right.legend(loc="lower left")
    return figure
