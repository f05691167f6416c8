"""The adversarial grid of `refloss certify`: where implementations of the family lose their digits.

Every point is one input of one loss, named LOSS.WHAT or LOSS.VARIANT.WHAT, of a kind (`KINDS`) that says what it
provokes. The grid is deterministic: no seed, no clock. Angles down to 1e-15 are placed in decimal arithmetic, smaller
ones and exact ones are made of integers (`refloss.cases.angles`).

`quick` points are the worst few of every kind, for a test suite; all others differ from them in position, size,
dimension or option.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.cases import configurations
from refloss.cases.angles import (
    AWKWARD,
    PI,
    N,
    Pair,
    U,
    directions,
    exact_pairs,
    general,
    parallel_pairs,
    place_in_decimal,
    tiny_pairs,
)
from refloss.cases.case import Point
from refloss.cases.configurations import GROUPS, UPSTREAM, WEIGHTS, make, sized
from refloss.textbook.family import factor_name, member_of, radius_of
from refloss.textbook.rows import row_norm

# kind → what its points provoke
KINDS = {
    "tiny_angle": "x and W_j 1e-300, 6e-33 or one rounding apart, or that much short of opposite: no cosine shows it",
    "parallel": "θ is exactly 0 or π: there is no tangent",
    "small_angle": "θ from 1e-15 to 1e-2, or that much short of π: arccos loses half of its digits",
    "exact_angle": "θ is exactly 30°, 45°, 60°, 90°, …: a knot of ψ, or a logit that is exactly 0",
    "ordinary": "ordinary angles and sizes: nothing excuses an error",
    "knots": "θ_y = kπ/m ± 1e-15: ψ changes its branch and its slope vanishes",
    "past_pi": "θ_y = π − m ± 1e-12 and the jumps: the slope of cos(θ + m) vanishes",
    "norms": "lengths from 1e-150 to 1e150 that the formula divides out, or that cancel in W·x",
    "scale": "logits from 1e-3 to 1e4: e^z turns an absolute error into a relative one",
    "beyond": "logits beyond 2^40, where extended precision owes less",
    "confidence": "losses from 1e6 down to 1e-300 and below: p_y − 1 and log p_y cancel",
    "lost_gradient": "g is subnormal while g times the rest of the gradient is not",
    "p_is_t": "the target distribution is the predicted one: g = p − t cancels",
    "shape": "C = 1 … 1000, D = 1 … 4096",
    "cancelling": "symmetric inputs: the gradient's terms cancel",
    "ties": "several classes have the same logit",
    "mixed_sizes": "tiny and huge rows in one batch",
    "upstream": "upstream gradients of both signs, one of them huge",
    "options": "reductions, class weights, ignored rows, zero rows",
    "own": "a user's own arrays",
}
LIMIT = 2.0**40  # of r(‖x‖, ‖W_j‖) + |b_j|: up to here extended precision owes all its digits

SMALL = ("1e-15", "1e-12", "1e-8", "1e-4", "1e-2")
THETA = ("0.3", "0.8", "1.2", "1.9", "2.6", "3.0")


def grid(names: Sequence[str] | None = None, quick: bool = False) -> list[Point]:
    """Every point (or the quick ones) of every loss (or of those named, "margin_softmax" among them)."""
    points = [point for name in (names or GROUPS) for point in _points(name)]
    return [point for point in points if point.quick] if quick else points


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Variant → options: the loss as it is, and each option, or pair of options, that changes the target's logit."""
    others = configurations.variants(make(name))  # among the integer margins 6, which has the most exact angles
    return {"plain": {}} | {key: options for key, options in others.items() if key not in ("m5", "m7")}


def own_point(loss: Any, name: str, x: Any, W: Any, labels: Any, b: Any = None) -> Point:
    """A user's arrays as a point of this loss, with upstream 1. Raises what the loss raises for them.

    b is left out where the loss has none.
    """
    b = b if loss.has_bias else None
    loss.forward(x, W, labels, b)
    x, W = check.features_and_weights(x, W)
    b = check.bias(b, len(W), loss)
    return Point(f"{loss.name}.{name}", KINDS["own"], loss, x, W, np.array(labels), b, 1.0, "own")


def largest_logit(loss: Any, x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """r(‖x_i‖, ‖W_j‖) (N, C): how large a logit can be, without bias and margin."""
    return radius_of(loss).of(row_norm(x), row_norm(W))


def _points(name: str) -> list[Point]:
    points = _Points(name)
    for part in (
        _pairs, _knots, _past_pi, _variants, _norms, _scales, _confidence, _lost_gradient, _p_is_t, _shapes,
        _cancelling, _ties, _mixed, _options,
    ):  # fmt: skip
        part(points)
    return list(points.found.values())


class _Points:
    """The points of one loss as they are collected, and what the kinds share."""

    def __init__(self, name: str) -> None:
        self.name, self.found = name, dict[str, Point]()
        self.plain = make(name)  # refuses what is no loss
        self.member = member_of(self.plain)
        _, p, q = radius_of(self.plain)
        self.free_x, self.free_W = not p, not q  # whether the logits see only the direction of x, of W_j

    def add(
        self, what: str, kind: str, x: np.ndarray, W: np.ndarray, labels: Any, size: float | None = None, *,
        loss: Any = None, bias: bool = False, b: np.ndarray | None = None, upstream: Any = UPSTREAM,
        quick: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        """Adds a point of this loss with these options, or of the loss given; in logits of that size, if one is given.

        bias: a small one, where the loss has one.
        """
        name = f"{self.name}.{what}"
        if name in self.found:
            raise AssertionError(f"two points are called {name}")
        loss = make(self.name, len(W), **options) if loss is None else loss
        if size is not None:
            loss, x = sized(loss, x, size)
        b = self.bias(len(W)) if bias else b
        self.found[name] = Point(name, KINDS[kind], loss, x, W, np.array(labels), b, upstream, kind, quick)

    def bias(self, classes: int) -> np.ndarray | None:
        """A small bias where the loss has one."""
        return 0.25 * general(classes, 1)[:, 0] if self.plain.has_bias else None

    def batch(
        self, theta: Sequence[Any], dimension: int, length: float = 2.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(x, W, y): five W in general position, x_i at the angle theta_i of W_{y_i}, y = 0, 1, … in turn."""
        W = general(5, dimension)
        if not self.free_W:  # lengths of W enter the logits: about 1
            W = W / np.sqrt(dimension)
        y = np.arange(len(theta)) % 5
        toward = general(len(theta), dimension, seed=1)
        placed = [place_in_decimal(W[c], v, Decimal(t), length) for c, v, t in zip(y, toward, theta, strict=True)]
        return np.array(placed), W, y


def _bystanders(x: np.ndarray) -> np.ndarray:
    """(2, D) two classes at 1.1 and 2.0 radians from x."""
    first, second = general(2, len(x), seed=2)
    return np.array([place_in_decimal(x, first, Decimal("1.1"), 1.3), place_in_decimal(x, second, Decimal(2), 0.7)])


# -- angles ----------------------------------------------------------------------------------------


def _pairs(points: _Points) -> None:
    """Single pairs at every special angle: the target's, and another class's."""
    w, toward = general(2, 3, seed=3)
    small = {t: (place_in_decimal(w, toward, Decimal(t), 2.0), w) for t in SMALL}
    small |= {f"pi_minus_{t}": (place_in_decimal(w, toward, PI - Decimal(t), 2.0), w) for t in SMALL}
    exact = {key: (x, w) for key, (_, x, w) in exact_pairs().items()}
    tiny = tiny_pairs()

    def add(role: str, what: str, kind: str, pair: Pair, size: float | None = None, quick: bool = False) -> None:
        """x against W = (w, and two bystanders): w is the target's row, or not."""
        x, w = pair
        W, label = np.vstack([w, _bystanders(x)]), [int(role == "other")]
        points.add(f"{what}_{role}", kind, x[None, :].copy(), W, label, size, quick=quick)

    for role in ("target", "other"):
        for what, kind, pairs, quick in (
            ("angle", "tiny_angle", tiny, ("1e-300", "6e-33", "pi_minus_6e-33", "rounded_3d")),
            ("parallel", "parallel", parallel_pairs(), ("0_integers", "pi_integers")),
            ("angle", "small_angle", small, ("1e-15", "1e-8", "pi_minus_1e-15")),
            ("exactly", "exact_angle", exact, ("45", "60_awkward", "90_integers")),
        ):
            for key, pair in pairs.items():
                add(role, f"{what}_{key}", kind, pair, quick=key in quick)
        if factor_name(points.plain):  # the same where the other classes still count
            for key in ("1e-300", "6e-33", "pi_minus_2e-32_3d", "rounded_8d"):
                add(role, f"gentle.angle_{key}", "tiny_angle", tiny[key], 4.0)
            for key in ("1e-15", "1e-8", "pi_minus_1e-12"):
                add(role, f"gentle.angle_{key}", "small_angle", small[key], 4.0)


def _knots(points: _Points) -> None:
    """Both sides of every kπ/m: all of one m in a batch, and alone, where nothing else gives W_y a gradient."""
    if not points.member.multiplies_angle:
        return
    for m in (2, 3, 4, 6):
        knots = [PI * k / m for k in range(1, m)]
        for D, offset in itertools.product((3, 16), ("1e-15", "1e-9")):
            theta = [knot + side * Decimal(offset) for knot in knots for side in (-1, 1)]
            what, quick = f"m{m}.knots_{offset}_{D}d", D == 3 and m == 4
            points.add(what, "knots", *points.batch(theta, D), 4.0, margin=m, quick=quick)
        for side, words in ((-1, "before"), (1, "behind")):
            theta = [knots[len(knots) // 2] + side * Decimal("1e-15")]
            points.add(f"m{m}.knot_{words}", "knots", *points.batch(theta, 3), 4.0, margin=m, quick=m == 3)


def _past_pi(points: _Points) -> None:
    """Both sides of π − m; of π/2 with easy_margin; and that jump itself."""
    if not points.member.adds_to_angle:
        return
    for variant, options in variants(points.name).items():
        m = Decimal(make(points.name, **options).margin)
        edges = [PI - m] if m else []
        if options.get("easy_margin"):
            edges.append(PI / 2)
        offsets = [side * Decimal(offset) for offset in ("1e-12", "1e-8") for side in (-1, 1)]
        quick = variant in ("plain", "linear", "easy")
        for D in (3, 16) if edges else ():
            theta = [edge + offset for edge in edges for offset in offsets]
            batch = points.batch(theta, D)
            points.add(f"{variant}.past_pi_{D}d", "past_pi", *batch, 8.0, quick=quick and D == 3, **options)
        for side, words in ((-1, "before"), (1, "behind")) if edges else ():
            batch = points.batch([edges[-1] + side * Decimal("1e-12")], 3)
            points.add(f"{variant}.edge_{words}", "past_pi", *batch, 8.0, quick=quick, **options)
        if variant in ("easy", "half_pi"):
            # at the jump: π/2 exactly, and for half_pi π − m itself is only 6e-17 away
            x, W = np.array([[AWKWARD[0], 0.0]]), np.array([[0.0, AWKWARD[1]], [0.5, 0.5]])
            points.add(f"{variant}.jump", "past_pi", x, W, [0], **options)


def _variants(points: _Points) -> None:
    """Every variant of the target's logit: all those pairs in one batch, and ordinary angles."""
    pairs = [*tiny_pairs().values(), *parallel_pairs().values()]
    exact = [(x, w) for _, x, w in exact_pairs().values()]
    theta = ("0.1", "0.4", "0.9", "1.3", "1.7", "2.2", "2.7", "3.0")
    for variant, options in variants(points.name).items():
        for what, kind, chosen in (("poles", "tiny_angle", pairs), ("exact", "exact_angle", exact)):
            D = max(len(x) for x, _ in chosen)
            x, W = (np.array([np.pad(pair[k], (0, D - len(pair[k]))) for pair in chosen]) for k in (0, 1))
            y = np.arange(len(x))
            points.add(f"{variant}.{what}_target", kind, x, W, y, 8.0, **options)
            points.add(f"{variant}.{what}_other", kind, x, W, (y + 1) % len(y), 8.0, **options)
        for D in (4, 64):
            batch = points.batch(theta, D)
            points.add(f"{variant}.ordinary_{D}d", "ordinary", *batch, 8.0, bias=True, quick=D == 4, **options)


# -- sizes -----------------------------------------------------------------------------------------


def _norms(points: _Points) -> None:
    x, W, y = points.batch(THETA, 4, length=1.0)
    # (exponent of x, exponent of W): free where the formula divides it out, else such that W·x stays ordinary
    if points.free_x and points.free_W:
        sizes = [(p, q) for p in (-150, 0, 150) for q in (-150, 0, 150) if p or q]
    elif points.free_W:
        sizes = [(0, -150), (0, 150), (-150, 0), (10, -150), (10, 150)]
    elif points.free_x:
        sizes = [(-150, 0), (150, 0), (-150, -150), (150, 10)]
    else:
        sizes = [(-150, 150), (150, -150), (-150, -150), (-140, 150)]
    for p, q in sizes:
        quick = (p, q) in (sizes[0], sizes[-1])
        points.add(f"norms_1e{p}_1e{q}", "norms", x * 10.0**p, W * 10.0**q, y, 8.0, bias=True, quick=quick)


def _scales(points: _Points) -> None:
    batch = points.batch(THETA, 4, length=1.0)
    for factor in (1e-3, 1.0, 64.0, 1e4):
        points.add(f"scale_{factor:g}", "scale", *batch, factor, quick=factor in (1e-3, 1e4))
    for exponent in (41, 60, 200):
        points.add(f"scale_2^{exponent}", "beyond", *batch, 2.0**exponent, quick=exponent == 60)


def _at_gap(loss: Any, x: np.ndarray, W: np.ndarray, label: int, gap: float) -> tuple[Any, np.ndarray]:
    """The loss and x (1, D) for which the target's logit is `gap` ahead of the largest other one."""
    one, unit = sized(loss, x, 1.0)
    z = one.forward(unit, W, [label]).logits[0]
    ahead = z[label] - np.max(np.delete(z, label))
    return sized(loss, x, gap / ahead)


def _confidence(points: _Points) -> None:
    axis = np.array([0.6, 0.0, 0.8])
    W = np.vstack([axis, _bystanders(axis)])
    x = place_in_decimal(axis, general(1, 3, seed=4)[0], Decimal("0.02"))[None, :]
    # −log p_y is about e^−gap: 1e-300 at 690.8, the smallest normal number at 708.4, the last subnormal at 744.4
    for gap in (2.5, 23.0, 37.0, 100.0, 400.0, 690.8, 705.0, 712.0, 730.0, 744.0, 746.0, 900.0):
        loss, at = _at_gap(make(points.name, 3), x, W, 0, gap)
        quick = gap in (37.0, 690.8, 730.0, 900.0)
        points.add(f"confident_{gap:g}", "confidence", at, W, [0], loss=loss, quick=quick)
    for gap in (1.0, 37.0, 700.0, 1e4, 1e6):
        far = gap == 1e6  # a hundred times 1e4, so that s stays near 1e4
        options = {"class_weights": (100.0, 100.0, 100.0)} if far else {}
        loss, at = _at_gap(make(points.name, 3, **options), x, W, 2, -min(gap, 1e4))
        points.add(f"wrong_by_{'1e6' if far else f'{gap:g}'}", "confidence", at, W, [2], loss=loss, quick=gap >= 1e4)


def _lost_gradient(points: _Points) -> None:
    """Logits of 1e4 whose largest two are 720 apart: g about 1e-313, while g r/‖x‖ is far from subnormal."""
    x = np.array([[0.8, 0.6, 0.0]])
    target = place_in_decimal(x[0], np.array([0.0, 0.0, 1.0]), Decimal("0.05"))
    one, unit = sized(make(points.name, 3), x, 1.0)
    best = one.forward(unit, target[None, :], [0]).logits[0, 0] if one.has_margin else target @ x[0]
    near = place_in_decimal(x[0], np.array([0.0, 1.0, 1.0]), Decimal(float(np.arccos(best - 0.072))))
    W = np.vstack([target, near, _bystanders(x[0])[:1]])
    loss, x = sized(make(points.name, 3), x, 1e4)
    for tiny in (1e-150, 1e-100):
        if points.free_x:
            at_x, at_W = x * tiny, W
        elif points.free_W:
            at_x, at_W = x, W * tiny
        else:  # the gradient in x is g W
            at_x, at_W = x * tiny, W / tiny
        quick = tiny == 1e-150
        points.add(f"lost_gradient_{tiny:g}", "lost_gradient", at_x, at_W, [0], loss=loss, quick=quick)


# -- the cross-entropy -----------------------------------------------------------------------------


def _p_is_t(points: _Points) -> None:
    # the two other classes mirror each other, so that smoothing wants exactly the ratio t_y : t_j of both
    x = np.array([[1.0, 0.0, 0.0]])
    W = np.array([[0.96, 0.28, 0.0], [-0.28, 0.0, 0.96], [-0.28, 0.0, -0.96]])
    weighted = points.plain.class_weights is not None
    loss = make(points.name, 3, **({"class_weights": (2.0, 2.0, 2.0)} if weighted else {}))
    for epsilon in (0.1, 1e-6):
        ratio = (1 - epsilon + epsilon / 3) / (epsilon / 3)
        for off, words in ((0.0, ""), (1e-9, "_nearly")):
            loud, at = _at_gap(loss, x, W, 0, float(np.log(ratio)) * (1 + off))
            loud, quick = replace(loud, label_smoothing=epsilon), epsilon == 0.1
            points.add(f"smoothing_{epsilon:g}{words}", "p_is_t", at, W, [0], loss=loud, quick=quick)
    x, W, y = points.batch(THETA, 4, length=1.0)
    if not points.plain.has_margin:
        _soft_targets(points, x, W, y, np.array(WEIGHTS) if weighted else np.ones(5))
    # every class as likely as the target distribution has it, up to the target's margin
    every = np.tile(W[:1], (5, 1))
    points.add("uniform_target", "p_is_t", x, every, y, 8.0, label_smoothing=1.0, quick=True)


def _soft_targets(points: _Points, x: np.ndarray, W: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
    """Targets that are the probabilities themselves."""
    loud, x = sized(make(points.name), x, 8.0)
    confident, x_far = sized(make(points.name), x, 120.0)
    b = points.bias(5)
    # g = p Σ_c w_c t_c − w t, and w t ∝ p
    t = np.array(loud.forward(x, W, y, b).probabilities) / weights
    t_far = np.array(confident.forward(x_far, W, y, b).probabilities) / weights
    nearly = 1 + 1e-9 * np.cos(np.arange(5))
    for words, loss, at, target in (
        ("", loud, x, t),
        ("_nearly", loud, x, t * nearly),
        ("_sum_1.5", loud, x, 1.5 * t),
        ("_confident", confident, x_far, t_far),
        ("_confident_nearly", confident, x_far, t_far * nearly),
        ("_with_zeros", loud, x, np.where(np.arange(5) == 2, 0.0, t)),
    ):
        points.add(f"soft{words}", "p_is_t", at, W, target, loss=loss, b=b, quick=words in ("", "_confident"))


# -- shapes ----------------------------------------------------------------------------------------


def _shapes(points: _Points) -> None:
    for C, D in itertools.product((1, 2, 5), (1, 2, 3, 128)):
        x, W = general(3, D, seed=6) / np.sqrt(D), general(C, D, seed=5) / np.sqrt(D)
        quick = (C, D) in ((1, 3), (2, 1), (5, 128))
        points.add(f"shape_C{C}_D{D}", "shape", x, W, np.arange(3) % C, 8.0, bias=True, quick=quick)

    def two(W: np.ndarray, seed: int, angles: Sequence[Decimal], size: float, quick: bool) -> None:
        """Two targets at these angles."""
        C, D = W.shape
        toward = general(2, D, seed=seed)
        x = np.array([place_in_decimal(W[i], toward[i], theta) for i, theta in enumerate(angles)])
        points.add(f"shape_C{C}_D{D}", "shape", x, W, np.arange(2), size, bias=True, quick=quick)

    # many classes, and a target 20° and 10° away: p_y − 1 is lost in float64
    for D in (3, 16):
        two(directions(general(1000, D, seed=7)), 8, (PI * 20 / 180, PI * 10 / 180), 64.0, quick=D == 3)
    for C, angles in ((2, ("1e-8", "1.0")), (5, ("1e-15", "2.5"))):
        two(general(C, 4096, seed=9) / 64, 10, [Decimal(t) for t in angles], 8.0, quick=C == 2)
    # 4096 terms that cancel to 0, and an angle of about 1e-32
    signs = np.where(np.arange(4096) % 2 == 0, 1.0, -1.0)
    pair = np.tile([N * U, (N + 1) * U], 2048), np.tile([(N + 1) * U, (N + 2) * U], 2048)
    W = np.vstack([signs, pair[1], np.roll(signs, 1) * np.sign(np.cos(np.arange(4096) ** 2))]) / 64
    for what, x in (("cancelling", np.ones((1, 4096)) / 64), ("near", pair[0][None, :] / 64)):
        for label in (0, 1):
            points.add(f"shape_D4096_{what}_{label}", "shape", x, W, [label], 8.0)


# -- symmetry --------------------------------------------------------------------------------------


def _cancelling(points: _Points) -> None:
    a, b = AWKWARD
    # x is the sum of the classes: without a margin every logit is the same
    W = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])
    for words, x in (("", W.sum(axis=0)[None, :]), ("_awkward", a * np.ones((1, 3)))):
        points.add(f"sum_of_classes{words}", "cancelling", x, W, [1], 3.0, quick=not words)
    # classes in opposite pairs about x, which itself lies along the target or across it
    W = np.array([[a, 0.0, 0.0], [b, a, 0.0], [b, -a, 0.0], [b, 0.0, a], [b, 0.0, -a]])
    along, across = np.array([[1.5, 0.0, 0.0]]), np.array([[0.0, 0.75, 0.75]])
    for words, x, label in (("along", along, 0), ("across", across, 0), ("aside", along, 3)):
        points.add(f"pairs_{words}", "cancelling", x, W, [label], 3.0, quick=words == "along")
    # what is summed over samples cancels: the same row twice (or nearly), upstream of opposite sign
    x, W, y = points.batch(THETA[:2], 4, length=1.0)
    for words, off, upstream in (("", 0.0, 1.5), ("_nearly", 2.0**-40, 1.5), ("_huge", 0.0, 1e100)):
        twice = np.vstack([x[0], x[0] * (1 + off)])
        points.add(f"same_row_twice{words}", "cancelling", twice, W, y[[0, 0]], 4.0, reduction="none",
                 upstream=np.array([upstream, -upstream]), quick=not words)  # fmt: skip
    # x and −x, with the classes' roles exchanged
    W = np.vstack([W[0], -W[0], W[1], -W[1]])
    x = sized(points.plain, x, 4.0)[1]
    points.add("opposite_samples", "cancelling", np.vstack([x[0], -x[0]]), W, [0, 1], 4.0)


def _ties(points: _Points) -> None:
    x, W, y = points.batch(THETA[:4], 4, length=1.0)
    points.add("ties_in_pairs", "ties", x, W[[0, 0, 1, 1, 2]], y, 8.0, quick=True)
    points.add("ties_everywhere", "ties", x, W[[0] * 5], y, 8.0)
    # two others tie at the top, far above the target
    W = np.array([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0], [0.6, -0.8, 0.0]])
    points.add("ties_at_the_top", "ties", np.array([[1.0, 0.0, 0.0]]), W, [0], 200.0)


def _mixed(points: _Points) -> None:
    x, W, y = points.batch(THETA, 4, length=1.0)
    # up to 1e10, so that r ≤ 2^40 where the length enters the logits
    x_sizes = np.logspace(-150, 150 if points.free_x else 10, 6)[:, None]
    W_sizes = np.logspace(-150, 150 if points.free_W else 10, 5)[:, None]
    points.add("mixed_x", "mixed_sizes", x * x_sizes, W, y, 4.0, bias=True, quick=True)
    points.add("mixed_W", "mixed_sizes", x, W * W_sizes, y, 4.0, bias=True, quick=True)
    if points.free_x and points.free_W:
        points.add("mixed_both", "mixed_sizes", x * x_sizes, W * W_sizes, y, 4.0)
    # entries of very different size within one row
    spread = np.array([1e-150, 1.0, 1e-20, 1e-8])
    points.add("mixed_entries", "mixed_sizes", x * spread, W * spread[::-1], y, 4.0, bias=True)
    for words, upstream in (
        ("huge", [1.0, -2.0, 1e100, -0.5, 0.25, 3.0]),
        ("mixed", [1e-100, -1e100, 1e100, 0.0, -1e-8, 1.0]),
        ("tiny", [1e-200, -1e-200, 2e-200, -3e-200, 1e-200, 0.0]),
    ):
        points.add(f"upstream_{words}", "upstream", x, W, y, 4.0, bias=True, upstream=np.array(upstream),
                 reduction="none", quick=words == "mixed")  # fmt: skip


def _options(points: _Points) -> None:
    x, W, y = points.batch(THETA, 4, length=1.0)
    some = np.where(y == 1, -100, y)

    def add(what: str, labels: Any = y, *, x: Any = x, W: Any = W, bias: bool = True, **more: Any) -> None:
        points.add(what, "options", x, W, labels, 8.0, bias=bias, **more)

    weights: dict[str, Any] = {"class_weights": (0.5, 0.0, 2.0, 1e-3, 300.0)}
    weighted = weights | {"reduction": "weighted_mean"}
    ignored: dict[str, Any] = {"ignore_index": -100}
    add("sum", reduction="sum")
    add("none", reduction="none")
    add("mean_weights", **weights)
    add("weighted_mean", **weighted)
    add("sum_weights_smoothing", reduction="sum", label_smoothing=0.1, **weights)
    add("weighted_mean_smoothing", label_smoothing=0.3, quick=True, **weighted)
    add("smoothing", label_smoothing=0.2)
    add("ignore", some, quick=True, **ignored)
    add("weighted_mean_ignore", some, **weighted, **ignored)
    add("upstream_zero", upstream=0.0)
    if points.plain.has_bias:
        add("bias_1e3", b=np.array([1e3, -1e3, 1e-3, 0.0, 999.0]), bias=False, quick=True)
    if points.member.zero_rows:
        x_zero, W_zero = x.copy(), W.copy()
        x_zero[2] = W_zero[1] = 0.0
        add("zero_rows", x=x_zero, W=W_zero, zero_norm="zero", quick=True)
    else:  # smooth there
        add("zero_rows", x=x * (y != 2)[:, None], W=W * (np.arange(5) != 1)[:, None])
    if not points.plain.has_margin:
        soft = np.abs(general(6, 5, seed=11)) * np.linspace(0.2, 1.0, 6)[:, None]
        add("soft_mean", soft)
        add("soft_weighted_mean", soft, **weighted)
        add("soft_smoothing", soft, label_smoothing=0.2)
