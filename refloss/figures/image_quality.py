"""Poor images: the length of their features, the size of their gradient and how many are right, by radius."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLACK, BLUE, ORANGE, VERMILION, panels
from refloss.figures.training import Data, Network, Track, digits, train, untracked
from refloss.losses import AMSoftmax, Softmax, WNormSoftmax

NORMALISED = AMSoftmax(scale=16.0, margin=0.0)


class Unmined:
    """The normalised softmax with the gradient of x times ‖x‖: a short feature weighs no more than a long one."""

    name = "unmined"
    inference_logits = NORMALISED.inference_logits

    def value_and_grad(self, x: Any, W: Any, labels: Any, **options: Any) -> Any:
        """Loss and gradients, that of x without its factor 1/‖x‖."""
        value, grads = NORMALISED.value_and_grad(x, W, labels, **options)
        return value, SimpleNamespace(x=grads.x * np.linalg.norm(x, axis=1, keepdims=True), W=grads.W, b=None)


# what stands before cos θ in the logits; no loss has a margin or a bias
RADII: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("radius $s=16$", NORMALISED, {"color": VERMILION, "marker": "o"}),
    (r"$s=16$, gradient times $\Vert x\Vert$", Unmined(), {"color": ORANGE, "marker": "D"}),
    (r"$\Vert x\Vert$", WNormSoftmax(), {"color": BLUE, "marker": "s"}),
    (r"$\Vert W\Vert\Vert x\Vert$", Softmax(), {"color": BLACK, "marker": "^"}),
)
LEVELS = (0, 1, 2, 3)  # of poorness; 0 is the image as it is
NOISE = 0.15  # standard deviation of a level of noise, of pixels from 0 to 1
SETTINGS: tuple[tuple[str, str, tuple[int, ...]], ...] = (  # title, kind, levels among the training images
    ("blur", "blur", LEVELS),
    ("noise", "noise", LEVELS),
    ("blur, trained on good ones", "blur", (0,)),
)
FEATURES, SEEDS, STEPS, RATE = 16, (1, 2, 3), 600, 0.003


class Learned(NamedTuple):
    """What a loss made of the images, a number for each level (L,).

    length     mean length of the test images' features, that of level 0 being 1
    gradient   mean ‖∂ℓ/∂x‖ of the training images, likewise
    accuracy   share of the test images whose largest logit is their class's
    """

    length: np.ndarray
    gradient: np.ndarray
    accuracy: np.ndarray


def poorer(data: Data, kind: str, level: int) -> Data:
    """These images blurred `level` times with the weights 1, 2, 1 along both axes, or with noise of this level."""
    if kind == "noise":
        noise = np.random.default_rng(level).normal(size=data.images.shape)
        return Data(data.images + level * NOISE * noise, data.labels)
    side = np.arange(8)
    images = data.images.reshape(-1, 8, 8)
    for _ in range(level):
        for axis in (1, 2):
            before, after = (np.take(images, np.clip(side + k, 0, 7), axis=axis) for k in (-1, 1))
            images = (before + 2 * images + after) / 4
    return Data(images.reshape(data.images.shape), data.labels)


def learn(
    loss: Any, kind: str, levels: tuple[int, ...], seed: int, track: Track = untracked, steps: int = STEPS
) -> Learned:
    """What a network makes of all levels that was trained with this loss on the images of these levels."""
    training, test = digits()
    shown = [poorer(training, kind, level) for level in levels]
    network = Network.random(10, bias=False, seed=seed, features=FEATURES)
    together = Data(*(np.concatenate(part) for part in zip(*shown, strict=True)))
    train(network, lambda step: loss, together, steps, RATE, seed, track=track, what=f"{loss.name}, {kind}")
    found = []
    for level in LEVELS:
        x = network.features(poorer(training, kind, level).images)
        # the mean over all samples, times their number
        pull = loss.value_and_grad(x, network.W, training.labels, upstream=len(x))[1].x
        x = network.features(poorer(test, kind, level).images)
        right = loss.inference_logits(x, network.W).argmax(axis=1) == test.labels
        found.append((np.linalg.norm(x, axis=1).mean(), np.linalg.norm(pull, axis=1).mean(), right.mean()))
    length, gradient, accuracy = np.array(found).T
    return Learned(length / length[0], gradient / gradient[0], accuracy)


def mean_and_range(loss: Any, kind: str, levels: tuple[int, ...], track: Track = untracked) -> tuple[Learned, Learned]:
    """Of all seeds: the mean, and the least and the largest (2, L)."""
    runs = [learn(loss, kind, levels, seed, track) for seed in SEEDS]
    found = [np.array(values) for values in zip(*runs, strict=True)]
    ends = [np.array([values.min(axis=0), values.max(axis=0)]) for values in found]
    return Learned(*(values.mean(axis=0) for values in found)), Learned(*ends)


def draw(track: Track = untracked) -> Figure:
    """Blurred and noisy digits: length of the feature, size of the gradient and accuracy, with each radius.

    No paper's figure: the survey's question of section 2.5.2, when to normalise and when not, put to small networks
    on images whose quality is known. Bars reach from the least to the largest of three seeds.
    """
    titles = ("length of the feature", "size of the gradient", "right, %")
    figure, axes = panels(3, 3, 6.2, titles, sharex=True)
    for line, (name, kind, levels) in zip(axes, SETTINGS, strict=True):
        for label, loss, style in RADII:
            means, ranges = mean_and_range(loss, kind, levels, track)
            for a, mean, ends, unit in zip(line, means, ranges, (1, 1, 100), strict=True):
                bars = unit * np.abs(ends - mean)
                a.errorbar(
                    LEVELS, unit * mean, bars, ms=4, lw=1.1, elinewidth=0.8,
                    label=label if a is axes[0, 0] else None, **style,
                )  # fmt: skip
        if levels != LEVELS:  # what was not trained on pulls a hundred times as hard
            line[1].set_yscale("log")
        line[0].set_ylabel(name)
    for a in axes.flat:
        a.grid(lw=0.3, color="#CCCCCC")
    for a in axes[-1]:
        a.set(xticks=LEVELS, xlabel="level of blur or noise")
    figure.legend(loc="outside lower center", ncols=4)
    return figure
