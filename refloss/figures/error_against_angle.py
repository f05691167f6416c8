"""Error of textbook code and of refloss against the angle."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLUE, ORANGE, VERMILION, panels
from refloss.precision.numbers import nearest
from refloss.precision.pair import Pair
from refloss.steps.angle import angle, angle_backward
from refloss.steps.margin import arc_margin

M = 0.5
CLAMP = 1e-7
DIMENSIONS, DRAWS, SEED = 16, 16, 0
# θ by log tan(θ/2): both poles on a logarithmic scale, π/2 in the middle
SPREAD = np.linspace(-12.31, 12.31, 165)  # log10 tan(θ/2): from θ = 1e-12 to π − 1e-12
NO_NUMBER = 1e10  # where a NaN or Inf is drawn


class Answer(NamedTuple):
    """θ (n,) radians, and the gradient of cos(θ + m) in x (n, D)."""

    theta: Any
    grad_x: Any


def pairs_of_rows(spread: np.ndarray = SPREAD, draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """x and w (draws · n, D), with x turned away from w by each angle in a random direction, of random lengths."""
    rng = np.random.default_rng(SEED)
    theta = 2 * np.arctan(10.0 ** np.tile(spread, draws))
    w, across = rng.normal(size=(2, len(theta), DIMENSIONS))
    w_hat = w / np.linalg.norm(w, axis=1, keepdims=True)
    across -= w_hat * np.einsum("rd,rd->r", w_hat, across)[:, None]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    lengths = np.exp(rng.normal(size=(len(theta), 1)))
    return lengths * (np.cos(theta)[:, None] * w_hat + np.sin(theta)[:, None] * across), w


def by_refloss(x: Any, w: Any) -> Answer:
    """What ArcFace's passes compute of a target pair, in the arithmetic of x and w."""
    at = angle(x, w)
    return Answer(at.theta, angle_backward(arc_margin(at, M, easy_margin=False, past_pi="cos").slope, at)[0])


def by_textbook(x: np.ndarray, w: np.ndarray, clamp: float = 0.0) -> Answer:
    """The same as most code does it: arccos of the cosine, whose derivative is −1/√(1 − cos²).

    clamp: the cosine is kept that far from ±1, and where it was clamped nothing flows back.
    """
    x_norm = np.linalg.norm(x, axis=1, keepdims=True)
    x_hat, w_hat = x / x_norm, w / np.linalg.norm(w, axis=1, keepdims=True)
    exact = np.sum(x_hat * w_hat, axis=1)
    cos = np.clip(exact, clamp - 1.0, 1.0 - clamp)
    theta = np.arccos(cos)
    with np.errstate(divide="ignore", invalid="ignore"):
        in_cos = np.sin(theta + M) / np.sqrt(1.0 - cos * cos)
        grad_x = np.where(clamp > 0 and np.abs(exact) > 1.0 - clamp, 0.0, in_cos)[:, None]
        return Answer(theta, grad_x * (w_hat - cos[:, None] * x_hat) / x_norm)


def errors(answer: Answer, truth: Answer) -> Answer:
    """Relative errors (n,) of θ and of the gradient, as a length; truth in pairs. inf for no number."""
    off = np.abs(nearest(answer.theta - truth.theta)) / nearest(truth.theta)
    with np.errstate(invalid="ignore"):  # NaN and Inf come out as inf below
        difference = nearest(answer.grad_x - truth.grad_x)
    norms = [np.linalg.norm(v, axis=1) for v in (difference, nearest(truth.grad_x))]
    return Answer(*(np.where(np.isfinite(v), v, np.inf) for v in (off, norms[0] / norms[1])))


def measured() -> dict[str, Answer]:
    """The worst relative error of the draws at every angle, by kind of code."""
    x, w = pairs_of_rows()
    truth = by_refloss(Pair(x), Pair(w))
    answers = {"textbook": by_textbook(x, w), "clamped": by_textbook(x, w, CLAMP), "refloss": by_refloss(x, w)}
    return {
        name: Answer(*(v.reshape(DRAWS, -1).max(axis=0) for v in errors(answer, truth)))
        for name, answer in answers.items()
    }


def draw() -> Figure:
    """Relative error of the target's angle and of ArcFace's gradient, for textbook code and refloss, near both poles.

    No paper's figure. The truth is the same formula with 106 bits, which tests compare with 50-digit arithmetic.
    """
    titles = (r"error of $\theta_y$", r"error of $\partial\cos(\theta_y + m)/\partial x$, $m=0.5$")
    figure, axes = panels(1, 2, 3.1, titles, sharey=True)
    lines = {
        "textbook": ("arccos of the cosine", {"color": VERMILION, "ls": "-"}),
        "clamped": (r"the same, cosine clamped at $1-10^{-7}$", {"color": ORANGE, "ls": "--"}),
        "refloss": ("refloss, double", {"color": BLUE, "ls": "-"}),
    }
    for name, worst in measured().items():
        label, line = lines[name]
        for a, value in zip(axes[0], worst, strict=True):
            a.plot(SPREAD, np.minimum(value, NO_NUMBER), label=label if a is axes[0, 0] else None, lw=1.1, **line)
    ends = {-12: "$10^{-12}$", -8: "$10^{-8}$", -4: "$10^{-4}$", 0: r"$\pi/2$",
            4: "$\\pi-10^{-4}$", 8: "$\\pi-10^{-8}$", 12: "$\\pi-10^{-12}$"}  # fmt: skip
    # θ = 10^-8 lies at log10 tan(θ/2) = −8 − log10 2
    places = [v + np.sign(v) * np.log10(2) for v in ends]
    for a in axes[0]:
        a.set_xticks(places, list(ends.values()))
        a.tick_params(axis="x", labelsize=6.2)
        a.set(xlabel=r"$\theta_y$ (radians)", yscale="log", ylim=(1e-17, 1e12), xlim=(SPREAD[0], SPREAD[-1]))
        a.grid(lw=0.3, color="#CCCCCC")
    axes[0, 1].text(0, 0.6 * NO_NUMBER, "← NaN or Inf →", ha="center", va="top", color=VERMILION)
    axes[0, 0].set_ylabel("relative error, worst of 16")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
