"""The named, aimed cases of `refloss gradcheck`: each says what it provokes.

Random Gaussian features never reach the outer branches of ψ or θ > π − m in 32 dimensions, so the target angles
are placed: x_i = ‖x_i‖ (cos θ_i ŵ_y + sin θ_i u), u ⟂ ŵ_y.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refloss.losses import get, losses
from refloss.witnesses.problem import default_upstream

N, C, D = 6, 5, 8
WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0)


@dataclass(frozen=True)
class Case:
    """One input for one loss, and why it is there."""

    name: str
    reason: str
    loss: Any
    x: np.ndarray
    W: np.ndarray
    labels: np.ndarray
    b: np.ndarray | None = None
    upstream: Any = None


def all_cases(names: Sequence[str] | None = None, seed: int = 0) -> list[Case]:
    """Every case of every loss of the survey, or of the losses named."""
    return [case for name in (names or losses()) for case in cases(default_loss(name), seed)]


def default_loss(name: str) -> Any:
    """The loss with its defaults; `weighted_softmax` with weights for the cases' five classes."""
    return get(name, class_weights=WEIGHTS) if name == "weighted_softmax" else get(name)


def cases(loss: Any, seed: int = 0) -> list[Case]:
    """The cases that make sense for this loss (or, for a loss of your own, the plain ones), in a fixed order."""
    return [*_shapes(loss, seed), *_sizes(loss, seed), *_angles(loss, seed), *_options(loss, seed)]


# -- building blocks -------------------------------------------------------------------------------


def place(
    rng: np.random.Generator, W: np.ndarray, y: np.ndarray, theta: Any, length: Any = 2.0
) -> np.ndarray:
    """x (N, D) with these target angles (radians) and lengths."""
    theta = np.broadcast_to(np.asarray(theta, dtype=float), len(y))
    w = W[y] / np.linalg.norm(W[y], axis=1, keepdims=True)
    u = rng.normal(size=w.shape)
    u -= w * np.sum(u * w, axis=1, keepdims=True)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    direction = np.cos(theta)[:, None] * w + np.sin(theta)[:, None] * u
    return np.broadcast_to(length, len(y))[:, None] * direction


def _gaussian(
    loss: Any, seed: int, n: int = N, c: int = C, d: int = D
) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng([seed, n, c, d])
    x, W = rng.normal(size=(n, d)), rng.normal(size=(c, d))
    b = rng.normal(size=c) if getattr(loss, "has_bias", False) else None
    return rng, x, W, np.arange(n) % c, b


def _fit_weights(loss: Any, c: int) -> Any:
    """The same loss with as many class weights as there are classes."""
    weights = getattr(loss, "class_weights", None)
    return (
        loss if weights is None or len(weights) == c else replace(loss, class_weights=np.resize(weights, c))
    )


# -- shapes ----------------------------------------------------------------------------------------


def _shapes(loss: Any, seed: int) -> Iterator[Case]:
    for name, n, c, d, reason in (
        ("typical", N, C, D, "Gaussian features, every class present"),
        ("one_sample", 1, C, D, "N = 1: a mean over one row"),
        ("one_class", N, 1, D, "C = 1: the loss is 0 or constant and every gradient in x is exactly 0"),
        ("two_classes", N, 2, D, "C = 2: the binary case of Table 1"),
        ("one_dimension", N, C, 1, "D = 1: directions are ±1 and cannot turn"),
        ("two_dimensions", N, C, 2, "D = 2: the plane of the survey's pictures"),
    ):
        _, x, W, y, b = _gaussian(loss, seed, n, c, d)
        yield Case(name, reason, _fit_weights(loss, c), x, W, y, b)
    if hasattr(loss, "has_bias"):
        _, x, W, y, b = _gaussian(loss, seed, 130, 9, 17)
        yield Case(
            "tiles",
            "odd sizes beyond 8, 16 and 128: what a blocked kernel gets wrong",
            _fit_weights(loss, 9),
            x,
            W,
            y,
            b,
        )
    _, x, W, y, b = _gaussian(loss, seed)
    if b is not None:
        yield Case("no_bias", "the bias left out", loss, x, W, y)
    yield Case(
        "duplicate_labels", "one class on every row: its gradients accumulate", loss, x, W, 0 * y + 2, b
    )
    yield Case("absent_labels", "classes without a sample still get a gradient", loss, x, W, y % 2 * 3, b)


# -- sizes -----------------------------------------------------------------------------------------


def _sizes(loss: Any, seed: int) -> Iterator[Case]:
    rng, x, W, y, b = _gaussian(loss, seed)
    if b is not None:
        b = b / 8
    if not hasattr(loss, "has_bias"):  # a loss of your own: nothing is known of its range
        return
    tiny, huge = np.logspace(-30, 0, N)[:, None], np.logspace(0, 30, N)[:, None]
    if hasattr(loss, "zero_norm") and loss.normalises_x and hasattr(loss, "scale"):
        yield Case("norms_1e-30_1e30", "x and W normalised: only the gradient's size changes",
                   replace(loss, scale=4.0), np.vstack([x * tiny, x * huge]), W * np.logspace(-30, 30, C)[:, None],
                   np.tile(y, 2))  # fmt: skip
    else:
        yield Case(
            "x_norms_1e-30",
            "features of length 1e-30 … 1: the logits all but vanish",
            loss,
            x * tiny,
            W,
            y,
            b,
        )
        if getattr(loss, "normalises_W", False):
            yield Case("W_norms_1e-30_1e30", "W normalised: lengths of W only scale its gradient",
                       loss, x, W * np.logspace(-30, 30, C)[:, None], y, b)  # fmt: skip
        if getattr(loss, "normalises_x", False) and not getattr(loss, "normalises_W", True):
            yield Case(
                "x_norms_1e30", "x normalised: lengths of x only scale its gradient", loss, x * huge, W, y, b
            )
        if not getattr(loss, "normalises_W", False):
            yield Case(
                "x_1e30_W_1e-30",
                "huge features, tiny weights, ordinary logits",
                loss,
                x * 1e30,
                W * 1e-30,
                y,
                b,
            )
    y_far = (y + 1) % C
    toward = place(rng, W, y_far, 0.3, 1.0)
    if hasattr(loss, "scale"):
        loud, x_loud, W_loud = replace(loss, scale=1e4), toward, W
    elif hasattr(loss, "alpha"):
        loud, x_loud, W_loud = replace(loss, alpha=1e4), toward, W / np.linalg.norm(W, axis=1, keepdims=True)
    else:
        loud, x_loud, W_loud = loss, toward * 1e4, W / np.linalg.norm(W, axis=1, keepdims=True)
    yield Case(
        "logits_1e4_wrong",
        "logits of ±1e4, the target far below: gradients of size 1",
        loud,
        x_loud,
        W_loud,
        y,
        b,
    )
    x_both = np.vstack([x_loud[: N // 2], place(rng, W, y[N // 2 :], 0.02, np.linalg.norm(x_loud[0]))])
    yield Case("logits_1e4_both", "half of the rows so confident that no float64 witness can see them",
               loud, x_both, W_loud, y, b)  # fmt: skip


# -- angles ----------------------------------------------------------------------------------------


def _angles(loss: Any, seed: int) -> Iterator[Case]:
    rng, _, W, _, b = _gaussian(loss, seed)
    quiet = replace(loss, scale=8.0) if hasattr(loss, "scale") and hasattr(loss, "has_bias") else loss

    def aimed(name: str, reason: str, theta: Any, a: Any = quiet) -> Case:
        y = np.arange(len(theta)) % C
        return Case(name, reason, a, place(rng, W, y, np.asarray(theta)), W, y, b)

    yield aimed("every_angle", "target angles from 0.1 to π − 0.1", np.linspace(0.1, np.pi - 0.1, 12))
    yield aimed("near_poles", "target angles 1e-2, 1e-3, 1e-5 from 0 and from π",
                [1e-2, 1e-3, 1e-5, np.pi - 1e-2, np.pi - 1e-3, np.pi - 1e-5])  # fmt: skip
    yield aimed("trained", "small target angles, confident rows", np.linspace(0.05, 0.6, 6), loss)
    if hasattr(loss, "has_bias"):
        yield from _confident(loss, seed)
        if loss.has_margin:
            y = np.arange(N) % C
            x = place(rng, W, y, np.linspace(0.3, 2.8, N))
            x[0], x[1] = 2 * W[y[0]], -W[y[1]]
            yield Case(
                "pole", "two samples exactly at θ = 0 and π: set aside, the rest is judged", quiet, x, W, y
            )
    for variant, words in _variants(quiet):
        if hasattr(variant, "annealing"):
            m = variant.margin
            knots = np.arange(1, m) * np.pi / m
            sides = [k + side * off for k in knots for off in (1e-2, 1e-4, 1e-6) for side in (-1, 1)]
            yield aimed(f"psi_branches{words}", "the middle of every branch of ψ", (np.arange(m) + 0.5) * np.pi / m,
                        variant)  # fmt: skip
            if sides:
                yield aimed(f"psi_knots{words}", "both sides of every kπ/m", sides, variant)
        elif hasattr(variant, "past_pi"):
            edge = np.pi - variant.margin
            yield aimed(f"arc_branches{words}", "before and beyond θ = π − m, and both sides of π/2",
                        [0.3, 1.0, np.pi / 2 - 0.05, np.pi / 2 + 0.05, edge - 0.1, min(edge + 0.1, np.pi - 0.02),
                         (edge + np.pi) / 2 - 0.01], variant)  # fmt: skip
        elif words:
            yield aimed(f"cosine{words}", "the margin's extremes", np.linspace(0.2, 2.9, 6), variant)


def _confident(loss: Any, seed: int) -> Iterator[Case]:
    """Targets ahead in logits: as far as autograd can see, and farther."""
    rng, _, _, _, _ = _gaussian(loss, seed)
    W = np.eye(C, D) + 0.01 * rng.normal(size=(C, D))
    y = np.arange(N) % C
    for name, reason, ahead in (
        (
            "confident",
            "targets 5 … 20 ahead: gradients down to 1e-9, small and still visible",
            np.linspace(5, 20, N),
        ),
        (
            "very_confident",
            "60 ahead: no witness can confirm 1e-26, but what is not tiny is caught",
            np.full(N, 60.0),
        ),
    ):
        if hasattr(loss, "scale"):
            m = 4 if hasattr(loss, "annealing") else 1
            x = place(rng, W, y, np.linspace(0.1, 0.6, N) / m)
            best = replace(loss, scale=1.0).forward(x, W, y).logits[0, 0]
            quiet = replace(loss, scale=ahead.max() / best)
        elif hasattr(loss, "alpha"):
            x, quiet = place(rng, W, y, np.linspace(0.1, 0.8, N)), replace(loss, alpha=ahead.max())
        else:
            x, quiet = place(rng, W, y, 0.05, ahead), loss
        yield Case(name, reason, quiet, x, W, y)


def _variants(loss: Any) -> Iterator[tuple[Any, str]]:
    """The loss as it is, and with each option (and pair of options) that changes its target logit."""
    yield loss, ""
    if hasattr(loss, "annealing"):
        for m in (1, 2, 3, 5, 7):
            yield replace(loss, margin=m), f"_m{m}"
        yield replace(loss, annealing=5.0), "_annealed"
        yield replace(loss, annealing=2.0, margin=3, detach_margin=True), "_annealed_m3_detached"
        own_D = replace(loss, margin=4, continuation=(parabola, parabola_slope))
        yield own_D, "_own_D"
        yield replace(own_D, annealing=1.0), "_own_D_annealed"
    if hasattr(loss, "past_pi"):
        yield replace(loss, easy_margin=True), "_easy_margin"
        yield replace(loss, past_pi="linear"), "_past_pi_linear"
        yield replace(loss, past_pi="linear", easy_margin=True), "_easy_margin_past_pi_linear"
        yield replace(loss, past_pi="linear", detach_margin=True), "_past_pi_linear_detached"
        yield replace(loss, easy_margin=True, detach_margin=True), "_easy_margin_detached"
        yield replace(loss, margin=0.0), "_m0"
        yield replace(loss, margin=2.0), "_m2"
    if loss.__class__.__name__ == "AMSoftmax":
        yield replace(loss, margin=0.0), "_m0"
        yield replace(loss, margin=2.0), "_m2"
    if hasattr(loss, "detach_margin") and hasattr(loss, "has_margin"):
        yield replace(loss, detach_margin=True), "_detached"


def parabola(theta: Any, xp: Any) -> Any:
    """A continuation for m = 4: D(θ) = −1 − (θ − π/4)²."""
    return -1 - (theta - xp.pi / 4) ** 2


def parabola_slope(theta: Any, xp: Any) -> Any:
    """Its derivative."""
    return -2 * (theta - xp.pi / 4)


# -- options of the cross-entropy ------------------------------------------------------------------


def _options(loss: Any, seed: int) -> Iterator[Case]:
    if not hasattr(loss, "has_bias"):
        return
    rng, _, W, y, b = _gaussian(loss, seed)
    x = place(rng, W, y, np.linspace(0.4, 2.6, N), 1.0)
    if hasattr(loss, "scale"):
        loss = replace(loss, scale=6.0)
    none = replace(loss, reduction="none")
    yield Case("upstream_mixed", "one upstream gradient a row: signs and sizes differ, one is 0", none, x, W, y, b,
               default_upstream("none", N))  # fmt: skip
    yield Case("upstream_zero", "nothing arrives: every gradient is exactly 0", loss, x, W, y, b, 0.0)
    yield Case("upstream_negative", "a negative scalar", loss, x, W, y, b, -3.0)
    some = np.where(y == 1, -100, y)
    for name, reason, options, labels, upstream in (
        ("sum", "no divisor", {"reduction": "sum"}, y, None),
        ("weighted_mean", "a mean whose weights are all 1", {"reduction": "weighted_mean"}, y, None),
        ("weights", "class weights, one of them 0", {"class_weights": (0.5, 0.0, 2.0, 1.0, 3.0)}, y, None),
        ("smoothing", "label smoothing without weights", {"label_smoothing": 0.1}, y, None),
        ("ignore", "ignored rows labelled −100", {"ignore_index": -100}, some, None),
        ("sum_weights", "weights under a sum", {"reduction": "sum", "class_weights": WEIGHTS}, y, None),
        ("sum_ignore", "ignored rows under a sum", {"reduction": "sum", "ignore_index": -100}, some, None),
        ("none_ignore", "ignored rows, one upstream a row", {"reduction": "none", "ignore_index": -100}, some, None),
        ("none_scalar", "no reduction, and one upstream for all", {"reduction": "none"}, y, 2.5),
        ("mean_weights_smoothing_ignore", "all of them under a mean",
         {"class_weights": WEIGHTS, "label_smoothing": 0.1, "ignore_index": 3}, y, None),
        ("weighted_mean_weights_smoothing_ignore", "all of them under a weighted mean",
         {"reduction": "weighted_mean", "class_weights": WEIGHTS, "label_smoothing": 0.1, "ignore_index": 3}, y, None),
    ):  # fmt: skip
        yield Case(name, reason, replace(loss, **options), x, W, labels, b, upstream)
    if hasattr(loss, "zero_norm"):
        x_zero, W_zero = x.copy(), W.copy()
        x_zero[2] = 0.0
        W_zero[1] = 0.0
        yield Case("zero_rows", "zero_norm='zero': nothing flows back through a direction that does not exist",
                   replace(loss, zero_norm="zero"), x_zero, W_zero, y, b)  # fmt: skip
    if not loss.has_margin:
        soft = rng.dirichlet(np.ones(C), size=N) * np.linspace(0.5, 1.5, N)[:, None]
        for name, options in (
            ("soft", {}),
            ("soft_weights", {"class_weights": WEIGHTS}),
            ("soft_smoothing", {"label_smoothing": 0.2}),
            ("soft_weighted_mean", {"reduction": "weighted_mean", "class_weights": WEIGHTS}),
            ("soft_none", {"reduction": "none"}),
        ):
            yield Case(name, "soft targets whose sum is not 1", replace(loss, **options), x, W, soft, b)
