"""A small network with a hand-written backward, trained with refloss' own gradients.

It stands in for the papers' convolutional networks: digits (64 pixels) in, features out, 2 of them where they are to be
drawn as they are. Everything is NumPy, float64, and repeats itself to the bit: fixed seeds, and gradients
cut to `BITS` bits, so that the last digits in which two machines' matrix products differ have no say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refloss.schedules import Geometric

HIDDEN = 128
LEAK = 0.25  # slope of a unit below 0: where the papers' PReLU starts
BITS = 12
BATCH = 128
START = 100.0  # λ

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


def untracked(things: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """No progress bar."""
    return things


# -- data ------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Images (N, 64), pixels in [0, 1], and their classes (N,), counted from 0."""

    images: np.ndarray
    labels: np.ndarray


@cache
def digits(classes: tuple[int, ...] = tuple(range(10)), seed: int = 0) -> tuple[Data, Data]:
    """(training, test): two thirds and one third of scikit-learn's 8 × 8 digits of these classes, shuffled.

    Raises:
        ModuleNotFoundError: without scikit-learn, which brings the images with it.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.isin(labels[order], classes)]
    data = Data(images[order] / 16, np.searchsorted(classes, labels[order]))
    cut = 2 * len(order) // 3
    return Data(*(part[:cut] for part in data)), Data(*(part[cut:] for part in data))


def gaps(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The angle between each class and the next in its features' (N, 2) directions, degrees, one per class.

    From the direction that 95 % of a class do not pass to the one that 95 % of the next do not: negative where they
    overlap.
    """
    directions = x / np.linalg.norm(x, axis=1, keepdims=True)
    ends = []
    for label in np.unique(labels):
        own = directions[labels == label]
        centre = np.arctan2(*own.mean(axis=0)[::-1])
        # angles from the centre, so that no class is cut at ±π
        off = np.angle((own[:, 0] + 1j * own[:, 1]) * np.exp(-1j * centre))
        ends.append((centre, *np.quantile(off, (0.05, 0.95))))
    centre, low, high = np.array(sorted(ends)).T
    apart = np.diff(centre, append=centre[0] + 2 * np.pi)
    return np.degrees(apart - high + np.roll(low, -1))


# -- network ---------------------------------------------------------------------------------------


@dataclass
class Network:
    """images → leaky rectifier → features (N, D). Its parameters by name; W (C, D) and b (C,) are the loss's."""

    parameters: dict[str, np.ndarray]
    slope: float = 1.0  # of a feature below 0: 1 for linear features

    @classmethod
    def random(
        cls, classes: int, bias: bool, seed: int, pixels: int = 64, hidden: int = HIDDEN, features: int = 2
    ) -> Network:
        """He's initialisation: variance 2 / (number of inputs), without the 2 for the last layers."""
        rng = np.random.default_rng(seed)
        parameters = {
            "A": rng.normal(size=(hidden, pixels)) * np.sqrt(2 / pixels),
            "a": np.zeros(hidden),
            "B": rng.normal(size=(features, hidden)) * np.sqrt(1 / hidden),
            "W": rng.normal(size=(classes, features)) * np.sqrt(1 / features),
        }
        if bias:
            parameters["b"] = np.zeros(classes)
        return cls(parameters)

    @property
    def W(self) -> np.ndarray:
        return self.parameters["W"]

    @property
    def b(self) -> np.ndarray | None:
        return self.parameters.get("b")

    def features(self, images: np.ndarray) -> np.ndarray:
        """(N, D)."""
        p = self.parameters
        return leaky(leaky(images @ p["A"].T + p["a"]) @ p["B"].T, self.slope)

    def value_and_grad(self, loss: Any, data: Data) -> tuple[float, dict[str, np.ndarray]]:
        """The loss of these images, and its gradient in every parameter."""
        p = self.parameters
        # forward: h = A·image + a, x = B·leaky(h), then the loss's own passes
        h = data.images @ p["A"].T + p["a"]
        active = leaky(h)
        before = active @ p["B"].T
        x = leaky(before, self.slope)
        out, grads = loss.value_and_grad(x, p["W"], data.labels, b=self.b)
        # backward: the same steps in reverse
        grad_before = grads.x * np.where(before > 0, 1.0, self.slope)
        grad_h = (grad_before @ p["B"]) * np.where(h > 0, 1.0, LEAK)
        found = {
            "A": grad_h.T @ data.images,
            "a": grad_h.sum(axis=0),
            "B": grad_before.T @ active,
            "W": grads.W,
            "b": grads.b,
        }
        return float(out), {name: found[name] for name in p}


def leaky(h: np.ndarray, slope: float = LEAK) -> np.ndarray:
    """h where it is positive, slope · h elsewhere."""
    return np.where(h > 0, h, slope * h)


# -- training --------------------------------------------------------------------------------------


def train(
    network: Network,
    loss_at: Callable[[int], Any],
    data: Data,
    steps: int,
    rate: float,
    seed: int,
    decay: float = 0.0,
    noise: float = 0.0,
    fixed: tuple[str, ...] = (),
    track: Track = untracked,
    what: str = "",
) -> list[float]:
    """`steps` steps of Adam (Kingma and Ba, 2015) on mini-batches; the loss before each.

    loss_at(step) is the loss to use then, so that λ can fall. The rate falls to 0 as a half cosine. `decay` pulls
    the weights towards 0; `noise` is the standard deviation of what is added to every pixel; parameters named in
    `fixed` stay as they are.
    """
    rng = np.random.default_rng(seed)
    trained = {name: value for name, value in network.parameters.items() if name not in fixed}
    mean = {name: np.zeros_like(value) for name, value in trained.items()}
    square = {name: np.zeros_like(value) for name, value in trained.items()}
    losses = []
    for step, batch in enumerate(track(_batches(len(data.labels), steps, rng), steps, what)):
        images = data.images[batch]
        if noise:
            images = images + noise * rng.normal(size=images.shape)
        value, grads = network.value_and_grad(loss_at(step), Data(images, data.labels[batch]))
        now = rate * (1 + np.cos(np.pi * step / steps)) / 2
        for name, parameter in trained.items():
            grad = cut(grads[name])
            mean[name] += 0.1 * (grad - mean[name])
            square[name] += 0.01 * (grad * grad - square[name])
            ahead = mean[name] / (1 - 0.9 ** (step + 1))
            spread = np.sqrt(square[name] / (1 - 0.99 ** (step + 1)))
            parameter -= now * (ahead / (spread + 1e-8) + decay * parameter)
        losses.append(value)
    return losses


def annealing(steps: int, start: float = START) -> Geometric:
    """λ of the iterations 1, 2, …: from `start` on, a tenth after every 14 % of the steps."""
    return Geometric(base=start, ratio=10 ** (-1 / (0.14 * steps)))


def cut(grad: np.ndarray) -> np.ndarray:
    """Rounded to BITS bits."""
    fraction, exponent = np.frexp(grad)
    return np.ldexp(np.rint(np.ldexp(fraction, BITS)), exponent - BITS)


def _batches(n: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of one mini-batch a step; every sample once an epoch, as far as batches are full."""
    size = min(BATCH, n)
    order = np.arange(0)
    for _ in range(steps):
        if len(order) < size:
            order = rng.permutation(n)
        batch, order = order[:size], order[size:]
        yield batch
