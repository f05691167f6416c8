"""The named, aimed cases of `refloss gradcheck`: each says what it provokes.

Random Gaussian features never reach the outer branches of ψ or θ > π − m in 32 dimensions, so the target angles
are placed. Which cases a loss gets is read from its entry in `refloss.textbook.family`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.cases.angles import directions, place
from refloss.cases.case import Point
from refloss.cases.configurations import WEIGHTS, default_upstream, make, variants
from refloss.losses import losses
from refloss.textbook import formulas
from refloss.textbook.family import formula_of, member_of, radius_of

N, C, D = 6, 5, 8
Y = np.arange(N) % C


def all_cases(names: Sequence[str] | None = None, seed: int = 0) -> list[Point]:
    """Every case of every loss of the survey, or of the losses named."""
    return [case for name in (names or losses()) for case in cases(make(name), seed)]


def cases(loss: Any, seed: int = 0) -> list[Point]:
    """The cases that make sense for this loss (or, for a loss of your own, the plain ones), in a fixed order."""
    found = _Cases(loss, seed)
    # of a loss of your own neither range nor options are known
    for family in (_shapes, _sizes, _angles, _options) if found.formula else (_shapes, _angles):
        family(found)
    return found.points


class _Cases:
    """The cases of one loss as they are collected, and what the families of cases share."""

    def __init__(self, loss: Any, seed: int) -> None:
        self.loss, self.seed, self.points = loss, seed, list[Point]()
        self.formula = formula_of(loss)
        self.factor = member_of(loss).factor if self.formula else ""
        self.quiet = self.with_factor(8.0) if self.factor == "scale" else loss

    def with_factor(self, value: float) -> Any:
        """The loss with this scale or alpha."""
        return replace(self.loss, **{self.factor: value})

    def gaussian(
        self, n: int = N, c: int = C, d: int = D
    ) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray | None]:
        """The generator, x (n, d), W (c, d), and b (c,) where the loss has one."""
        rng = np.random.default_rng([self.seed, n, c, d])
        x, W = rng.normal(size=(n, d)), rng.normal(size=(c, d))
        return rng, x, W, rng.normal(size=c) if getattr(self.loss, "has_bias", False) else None

    def add(
        self, name: str, reason: str, x: np.ndarray, W: np.ndarray, y: np.ndarray = Y, b: np.ndarray | None = None,
        upstream: Any = None, loss: Any = None,
    ) -> None:  # fmt: skip
        """Adds a case of the loss, or of the one given."""
        loss = self.loss if loss is None else loss
        self.points.append(Point(name, reason, loss, x, W, y, b, upstream))


# -- shapes ----------------------------------------------------------------------------------------


def _shapes(found: _Cases) -> None:
    shapes = [
        ("typical", N, C, D, "Gaussian features, every class present"),
        ("one_sample", 1, C, D, "N = 1: a mean over one row"),
        ("one_class", N, 1, D, "C = 1: the loss is 0 or constant and every gradient in x is exactly 0"),
        ("two_classes", N, 2, D, "C = 2: the binary case of Table 1"),
        ("one_dimension", N, C, 1, "D = 1: directions are ±1 and cannot turn"),
        ("two_dimensions", N, C, 2, "D = 2: the plane of the survey's pictures"),
    ]
    if found.formula:
        shapes.append(("tiles", 130, 9, 17, "odd sizes beyond 8, 16 and 128: what a blocked kernel gets wrong"))
    weights: Any = getattr(found.loss, "class_weights", None)
    for name, n, c, d, reason in shapes:
        _, x, W, b = found.gaussian(n, c, d)
        fits = weights is None or len(weights) == c
        loss = found.loss if fits else replace(found.loss, class_weights=np.resize(weights, c))
        found.add(name, reason, x, W, np.arange(n) % c, b, loss=loss)
    _, x, W, b = found.gaussian()
    if b is not None:
        found.add("no_bias", "the bias left out", x, W)
    found.add("duplicate_labels", "one class on every row: its gradients accumulate", x, W, 0 * Y + 2, b)
    found.add("absent_labels", "classes without a sample still get a gradient", x, W, Y % 2 * 3, b)


# -- sizes -----------------------------------------------------------------------------------------


def _sizes(found: _Cases) -> None:
    rng, x, W, b = found.gaussian()
    b = None if b is None else b / 8
    tiny, huge = np.logspace(-30, 0, N)[:, None], np.logspace(0, 30, N)[:, None]
    W_sizes = np.logspace(-30, 30, C)[:, None]
    radius = radius_of(found.loss)
    if found.factor == "scale":
        reason = "x and W normalised: only the gradient's size changes"
        both = np.vstack([x * tiny, x * huge])
        found.add("norms_1e-30_1e30", reason, both, W * W_sizes, np.tile(Y, 2), loss=found.with_factor(4.0))
    else:
        found.add("x_norms_1e-30", "features of length 1e-30 … 1: the logits all but vanish", x * tiny, W, Y, b)
        if not radius.q:
            found.add("W_norms_1e-30_1e30", "W normalised: lengths of W only scale its gradient", x, W * W_sizes, Y, b)
        if not radius.p:
            found.add("x_norms_1e30", "x normalised: lengths of x only scale its gradient", x * huge, W, Y, b)
        if radius.q:
            found.add("x_1e30_W_1e-30", "huge features, tiny weights, ordinary logits", x * 1e30, W * 1e-30, Y, b)
    toward = place(rng, W, (Y + 1) % C, 0.3, 1.0)
    loud, toward = (found.with_factor(1e4), toward) if found.factor else (found.loss, toward * 1e4)
    W_loud = W if found.factor == "scale" else directions(W)
    reason = "logits of ±1e4, the target far below: gradients of size 1"
    found.add("logits_1e4_wrong", reason, toward, W_loud, Y, b, loss=loud)
    right = place(rng, W, Y[N // 2 :], 0.02, np.linalg.norm(toward[0]))
    reason = "half of the rows so confident that no float64 witness can see them"
    found.add("logits_1e4_both", reason, np.vstack([toward[: N // 2], right]), W_loud, Y, b, loss=loud)


# -- angles ----------------------------------------------------------------------------------------

# target formula → its variants that get cases of their own, and how these are called
AIMED_AT: dict[Callable | None, dict[str, str]] = {
    formulas.annealed_psi: {
        **{f"m{m}": f"_m{m}" for m in (1, 2, 3, 5, 7)},
        "annealed": "_annealed",
        "m3_annealed_detached": "_annealed_m3_detached",
        "continued": "_own_D",
        "continued_annealed": "_own_D_annealed",
        "detached": "_detached",
    },
    formulas.arc_margin: {
        "easy": "_easy_margin",
        "linear": "_past_pi_linear",
        "easy_linear": "_easy_margin_past_pi_linear",
        "linear_detached": "_past_pi_linear_detached",
        "easy_detached": "_easy_margin_detached",
        "m0": "_m0",
        "m2": "_m2",
        "detached": "_detached",
    },
    formulas.cosine_margin: {"m0": "_m0", "m2": "_m2", "detached": "_detached"},
    formulas.own_margin: {"detached": "_detached"},
}


def _angles(found: _Cases) -> None:
    rng, _, W, b = found.gaussian()
    loss, quiet = found.loss, found.quiet

    def aim(name: str, reason: str, theta: Any, loss: Any = quiet) -> None:
        y = np.arange(len(theta)) % C
        found.add(name, reason, place(rng, W, y, theta), W, y, b, loss=loss)

    poles = np.array([1e-2, 1e-3, 1e-5])
    aim("every_angle", "target angles from 0.1 to π − 0.1", np.linspace(0.1, np.pi - 0.1, 12))
    aim("near_poles", "target angles 1e-2, 1e-3, 1e-5 from 0 and from π", np.append(poles, np.pi - poles))
    aim("trained", "small target angles, confident rows", np.linspace(0.05, 0.6, 6), loss)
    if not found.formula:
        return
    _confident(found)
    if not loss.has_margin:
        return
    x = place(rng, W, Y, np.linspace(0.3, 2.8, N))
    x[0], x[1] = 2 * W[Y[0]], -W[Y[1]]
    found.add("pole", "two samples exactly at θ = 0 and π: set aside, the rest is judged", x, W, loss=quiet)
    member, named = member_of(loss), variants(loss)
    for key, words in ({"": ""} | AIMED_AT.get(member.target, {})).items():
        variant = replace(quiet, **named.get(key, {}))
        if member.multiplies_angle:
            m = variant.margin
            aim(f"psi_branches{words}", "the middle of every branch of ψ", (np.arange(m) + 0.5) * np.pi / m, variant)
            knots = np.arange(1, m) * np.pi / m
            if sides := [k + side * off for k in knots for off in (1e-2, 1e-4, 1e-6) for side in (-1, 1)]:
                aim(f"psi_knots{words}", "both sides of every kπ/m", sides, variant)
        elif member.adds_to_angle:
            edge = np.pi - variant.margin
            aim(f"arc_branches{words}", "before and beyond θ = π − m, and both sides of π/2",
                [0.3, 1.0, np.pi / 2 - 0.05, np.pi / 2 + 0.05, edge - 0.1, min(edge + 0.1, np.pi - 0.02),
                 (edge + np.pi) / 2 - 0.01], variant)  # fmt: skip
        elif words:
            aim(f"cosine{words}", "the margin's extremes", np.linspace(0.2, 2.9, 6), variant)


def _confident(found: _Cases) -> None:
    """Targets ahead in logits: as far as autograd can see, and farther."""
    rng = found.gaussian()[0]
    W = np.eye(C, D) + 0.01 * rng.normal(size=(C, D))
    for name, reason, ahead in (
        ("confident", "targets 5 … 20 ahead: gradients down to 1e-9, small and still visible", np.linspace(5, 20, N)),
        ("very_confident", "60 ahead: no witness can confirm 1e-26, but what is not tiny is caught", np.full(N, 60.0)),
    ):
        loss = found.loss
        if found.factor == "scale":
            m = 4 if member_of(found.loss).multiplies_angle else 1
            x = place(rng, W, Y, np.linspace(0.1, 0.6, N) / m)
            best = found.with_factor(1.0).forward(x, W, Y).logits[0, 0]
            loss = found.with_factor(ahead.max() / best)
        elif found.factor:
            x, loss = place(rng, W, Y, np.linspace(0.1, 0.8, N)), found.with_factor(ahead.max())
        else:
            x = place(rng, W, Y, 0.05, ahead)
        found.add(name, reason, x, W, loss=loss)


# -- options of the cross-entropy ------------------------------------------------------------------


def _options(found: _Cases) -> None:
    rng, _, W, b = found.gaussian()
    x = place(rng, W, Y, np.linspace(0.4, 2.6, N), 1.0)
    loss = found.with_factor(6.0) if found.factor == "scale" else found.loss
    some = np.where(Y == 1, -100, Y)
    none, total, weighted = ({"reduction": name} for name in ("none", "sum", "weighted_mean"))
    ignore, weights = {"ignore_index": -100}, {"class_weights": WEIGHTS}
    every = weights | {"label_smoothing": 0.1, "ignore_index": 3}
    for name, reason, options, labels, upstream in (
        ("upstream_mixed", "one upstream gradient a row: signs and sizes differ, one is 0", none, Y,
         default_upstream("none", N)),
        ("upstream_zero", "nothing arrives: every gradient is exactly 0", {}, Y, 0.0),
        ("upstream_negative", "a negative scalar", {}, Y, -3.0),
        ("sum", "no divisor", total, Y, None),
        ("weighted_mean", "a mean whose weights are all 1", weighted, Y, None),
        ("weights", "class weights, one of them 0", {"class_weights": (0.5, 0.0, 2.0, 1.0, 3.0)}, Y, None),
        ("smoothing", "label smoothing without weights", {"label_smoothing": 0.1}, Y, None),
        ("ignore", "ignored rows labelled −100", ignore, some, None),
        ("sum_weights", "weights under a sum", total | weights, Y, None),
        ("sum_ignore", "ignored rows under a sum", total | ignore, some, None),
        ("none_ignore", "ignored rows, one upstream a row", none | ignore, some, None),
        ("none_scalar", "no reduction, and one upstream for all", none, Y, 2.5),
        ("mean_weights_smoothing_ignore", "all of them under a mean", every, Y, None),
        ("weighted_mean_weights_smoothing_ignore", "all of them under a weighted mean", weighted | every, Y, None),
    ):  # fmt: skip
        found.add(name, reason, x, W, labels, b, upstream, replace(loss, **options))
    if member_of(found.loss).zero_rows:
        x_zero, W_zero = x.copy(), W.copy()
        x_zero[2] = W_zero[1] = 0.0
        found.add("zero_rows", "zero_norm='zero': nothing flows back through a direction that does not exist",
                  x_zero, W_zero, Y, b, loss=replace(loss, zero_norm="zero"))  # fmt: skip
    if not loss.has_margin:
        soft = rng.dirichlet(np.ones(C), size=N) * np.linspace(0.5, 1.5, N)[:, None]
        for name, options in (
            ("soft", {}),
            ("soft_weights", weights),
            ("soft_smoothing", {"label_smoothing": 0.2}),
            ("soft_weighted_mean", weighted | weights),
            ("soft_none", none),
        ):
            found.add(name, "soft targets whose sum is not 1", x, W, soft, b, loss=replace(loss, **options))
