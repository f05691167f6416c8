"""The adversarial grid of `refloss certify`: where implementations of the family lose their digits.

Every point is one input of one loss, named LOSS.WHAT or LOSS.VARIANT.WHAT, of a kind (`KINDS`) that says what it
provokes. The grid is deterministic: no seed, no clock. Angles down to 1e-15 are placed in decimal arithmetic
(`refloss.cases.placing`), smaller ones and exact ones are made of integers.

`quick` points are the worst few of every kind, for a test suite; all others differ from them in position, size,
dimension or option.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.cases.gradcheck import WEIGHTS, parabola, parabola_slope
from refloss.cases.placing import PI, place
from refloss.losses import MarginSoftmax, get, losses
from refloss.textbook.family import FAMILY, POWERS, radius_of
from refloss.witnesses.problem import UPSTREAM, row_norm

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
GROUPS = (*losses(), "margin_softmax")  # the survey's losses, and a margin of one's own
LIMIT = 2.0**40  # of r(‖x‖, ‖W_j‖) + |b_j|: up to here extended precision owes all its digits


@dataclass(frozen=True, eq=False, kw_only=True)
class Point:
    """One input for one loss. x (N, D), W (C, D), labels (N,) or soft (N, C), b (C,) or None; read-only."""

    name: str
    kind: str
    loss: Any
    x: np.ndarray
    W: np.ndarray
    labels: np.ndarray
    b: np.ndarray | None = None
    upstream: Any = UPSTREAM
    quick: bool = False

    def __post_init__(self) -> None:
        for array in (self.x, self.W, self.labels, self.b, self.upstream):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    @property
    def provokes(self) -> str:
        return KINDS[self.kind]


def grid(names: Sequence[str] | None = None, quick: bool = False) -> list[Point]:
    """Every point (or the quick ones) of every loss (or of those named, "margin_softmax" among them)."""
    points = [point for name in (names or GROUPS) for point in _points(name)]
    return [point for point in points if point.quick] if quick else points


def own_point(loss: Any, name: str, x: Any, W: Any, labels: Any, b: Any = None) -> Point:
    """A user's arrays as a point of this loss, with upstream 1. Raises what the loss raises for them.

    b is left out where the loss has none.
    """
    b = b if loss.has_bias else None
    loss.forward(x, W, labels, b)
    x, W = check.features_and_weights(x, W)
    b = check.bias(b, len(W), loss)
    return Point(name=f"{loss.name}.{name}", kind="own", loss=loss, x=x, W=W, labels=np.array(labels), b=b,
                 upstream=1.0)  # fmt: skip


def largest_logit(loss: Any, x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """r(‖x_i‖, ‖W_j‖) (N, C): how large a logit can be, without bias and margin."""
    return radius_of(loss).of(row_norm(x), row_norm(W))


def _points(name: str) -> Iterator[Point]:
    seen: set[str] = set()
    for part in (
        _pairs, _knots, _past_pi, _variants, _norms, _scales, _confidence, _lost_gradient, _p_is_t, _shapes,
        _cancelling, _ties, _mixed, _options,
    ):  # fmt: skip
        for point in part(name):
            if point.name in seen:
                raise AssertionError(f"two points are called {point.name}")
            seen.add(point.name)
            yield point


# -- the losses ------------------------------------------------------------------------------------


def linear_psi(theta: Any, xp: Any) -> Any:
    """ψ(θ) = 1 − 2θ/π: a margin of one's own, with a cone at both poles."""
    return 1 - 2 * theta / xp.pi


def linear_psi_slope(theta: Any, xp: Any) -> Any:
    """Its derivative."""
    return -2 / xp.pi + 0 * theta


def squared_psi(theta: Any, xp: Any) -> Any:
    """ψ(θ) = cos θ − (1 − cos θ)²/4: a margin of one's own that is smooth at both poles."""
    return xp.cos(theta) - (1 - xp.cos(theta)) ** 2 / 4


def squared_psi_slope(theta: Any, xp: Any) -> Any:
    """Its derivative."""
    return -xp.sin(theta) * (3 - xp.cos(theta)) / 2


def make(name: str, classes: int, **options: Any) -> Any:
    """The loss of that name; with as many class weights as classes where it must have some."""
    if name == "weighted_softmax":
        options = {"class_weights": np.resize(WEIGHTS, classes)} | options
    if name == "margin_softmax":
        return MarginSoftmax(**({"psi": squared_psi, "dpsi": squared_psi_slope} | options))
    return get(name, **options)


def variants(name: str) -> dict[str, dict[str, Any]]:
    """Variant → options: the loss as it is, and each option, or pair of options, that changes the target's logit."""
    plain: dict[str, dict[str, Any]] = {"plain": {}}
    if FAMILY[name].multiplies_angle:
        return plain | {
            "m1": {"margin": 1},
            "m2": {"margin": 2},
            "m3": {"margin": 3},
            "m6": {"margin": 6},
            "annealed": {"annealing": 5.0},
            "m3_annealed_detached": {"margin": 3, "annealing": 2.0, "detach_margin": True},
            "detached": {"detach_margin": True},
            "continued": {"continuation": (parabola, parabola_slope)},
            "continued_annealed": {"continuation": (parabola, parabola_slope), "annealing": 1.0},
        }
    others: dict[str, dict[str, dict[str, Any]]] = {
        "am_softmax": {
            "m0": {"margin": 0.0},
            "m2": {"margin": 2.0},
            "detached": {"detach_margin": True},
        },
        "arcface": {
            "m0": {"margin": 0.0},
            "m1": {"margin": 1.0},
            "m2": {"margin": 2.0},
            "m3": {"margin": 3.1},
            "half_pi": {"margin": float(np.pi / 2), "past_pi": "linear"},
            "easy": {"easy_margin": True},
            "linear": {"past_pi": "linear"},
            "linear_m2": {"past_pi": "linear", "margin": 2.0},
            "easy_linear": {"past_pi": "linear", "easy_margin": True},
            "detached": {"detach_margin": True},
            "linear_detached": {"past_pi": "linear", "detach_margin": True},
            "easy_detached": {"easy_margin": True, "detach_margin": True},
        },
        "margin_softmax": {
            "linear": {"psi": linear_psi, "dpsi": linear_psi_slope},
            "x_norm": {"radius": "x_norm"},
            "both_norms": {"radius": "both_norms"},
            "detached": {"detach_margin": True},
        },
    }
    return plain | others.get(name, {})


def _divides_by(name: str) -> tuple[bool, bool]:
    """Whether the logits see only the direction of x, and of W_j."""
    p, q = POWERS[FAMILY[name].radius or "scale"]
    return not p, not q


def _loud(loss: Any, x: np.ndarray, factor: float) -> tuple[Any, np.ndarray]:
    """The loss and features whose logits have this size: scale, alpha, or the length of x, is `factor`."""
    for knob in ("scale", "alpha"):
        if hasattr(loss, knob) and getattr(loss, "radius", "scale") == "scale":
            return replace(loss, **{knob: float(factor)}), x
    return loss, x * float(factor)


def _bias(name: str, classes: int) -> np.ndarray | None:
    """A small bias where the loss has one."""
    return 0.25 * _general(classes, 1)[:, 0] if make(name, classes).has_bias else None


# -- vectors ---------------------------------------------------------------------------------------


def _general(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    """(rows, dimension) Gaussian vectors: general position, the same at every call."""
    return np.random.default_rng([rows, dimension, seed]).normal(size=(rows, dimension))


def _batch(name: str, theta: Sequence[Any], dimension: int, classes: int = 5, length: float = 2.0) -> Any:
    """(x, W, y): W in general position, x_i at the angle theta_i of W_{y_i}, y = 0, 1, … in turn."""
    W = _general(classes, dimension)
    if not _divides_by(name)[1]:  # lengths of W enter the logits: about 1
        W = W / np.sqrt(dimension)
    y = np.arange(len(theta)) % classes
    toward = _general(len(theta), dimension, seed=1)
    x = [place(W[c], v, Decimal(t), length) for c, v, t in zip(y, toward, theta, strict=True)]
    return np.array(x), W, y


N = 2**53 - 4  # N … N + 3 are floats: consecutive integers, so that cross products are ±1 and ±2
AWKWARD = (1.1283791670955126, 0.5772156649015329)  # 53-bit factors, so that no product of lengths is exact
U = 2.0**-53


def _integers(x: Sequence[float], w: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(x, dtype=float), np.array(w, dtype=float)


def tiny_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name → (x, w) whose angle, or its supplement, no rounded cosine can show."""
    w3, w8 = _general(1, 3)[0], _general(1, 8)[0]
    pairs = {
        "1e-300": _integers([1, 1e-300], [1, 0]),
        # an axis of its own: (3, 6, 9) + 1e-300 (1, 1, 1) is no float
        "1e-300_3d": _integers([3, 6, 1e-300], [1, 2, 0]),
        "6e-33": _integers([N * U, (N + 1) * U], [(N + 1) * U, (N + 2) * U]),
        "2e-32_3d": _integers([N * U, (N + 1) * U, (N + 2) * U], [(N + 1) * U, (N + 2) * U, (N + 3) * U]),
        "rounded_3d": (1.7 * w3, w3),
        "rounded_8d": (1.7 * w8, w8),
    }
    return pairs | {f"pi_minus_{key}": (-x, w) for key, (x, w) in pairs.items()}


def parallel_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name → (x, w) exactly parallel or opposite."""
    a, b = AWKWARD
    pairs = {
        "integers": _integers([3, 6, 9], [1, 2, 3]),
        "axes": _integers([a, 0], [b, 0]),
        "diagonal": (a * np.ones(5), b * np.ones(5)),
    }
    return {f"0_{key}": pair for key, pair in pairs.items()} | {
        f"pi_{key}": (-x, w) for key, (x, w) in pairs.items()
    }


def exact_pairs() -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
    """Name → (degrees, x, w) at exactly that angle; plain, and scaled by factors without a short expansion."""
    pairs = {
        "30": (30, [1, 1, 1, 0], [1, 1, 1, 1]),
        "45": (45, [1, 0], [1, 1]),
        "60": (60, [1, 1, 0], [1, 0, 1]),
        "90": (90, [1, 0], [0, 1]),
        "90_integers": (90, [1, 2, 3, 0], [3, 0, -1, 5]),
        "90_signs": (90, [1, 1, 1, 1], [1, -1, 1, -1]),
        "120": (120, [1, -1, 0], [0, 1, -1]),
        "135": (135, [1, 0], [-1, 1]),
        "150": (150, [-1, -1, -1, 0], [1, 1, 1, 1]),
    }
    a, b = AWKWARD
    plain = {key: (degrees, *_integers(x, w)) for key, (degrees, x, w) in pairs.items()}
    # 0 and ±1 times a float are exact; a product with 2, 3 or 5 is not
    signs = {key: value for key, value in plain.items() if np.abs(value[1:][1]).max() == 1}
    return plain | {f"{key}_awkward": (degrees, a * x, b * w) for key, (degrees, x, w) in signs.items()}


SMALL = ("1e-15", "1e-12", "1e-8", "1e-4", "1e-2")


def _bystanders(x: np.ndarray) -> np.ndarray:
    """(2, D) two classes at 1.1 and 2.0 radians from x."""
    toward = _general(2, len(x), seed=2)
    at = ((Decimal("1.1"), 1.3), (Decimal(2), 0.7))
    return np.array([place(x, v, theta, length) for v, (theta, length) in zip(toward, at, strict=True)])


def _pair_point(
    name: str, loss: Any, what: str, kind: str, pair: tuple, role: str, quick: bool = False
) -> Point:
    """x against W = (w, and two bystanders): w is the target's row, or not."""
    x, w = pair
    labels = np.array([0 if role == "target" else 1])
    W = np.vstack([w, _bystanders(x)])
    return Point(name=f"{name}.{what}_{role}", kind=kind, loss=loss, x=x[None, :].copy(), W=W, labels=labels,
                 quick=quick)  # fmt: skip


def _pairs(name: str) -> Iterator[Point]:
    """Single pairs at every special angle: the target's, and another class's."""
    loss = make(name, 3)
    gentle = _loud(loss, np.zeros((1, 1)), 4.0)[0]
    w, toward = _general(2, 3, seed=3)
    small = {t: place(w, toward, Decimal(t), 2.0) for t in SMALL}
    small |= {f"pi_minus_{t}": place(w, toward, PI - Decimal(t), 2.0) for t in SMALL}
    for role in ("target", "other"):
        for key, pair in tiny_pairs().items():
            quick = key in ("1e-300", "6e-33", "pi_minus_6e-33", "rounded_3d")
            yield _pair_point(name, loss, f"angle_{key}", "tiny_angle", pair, role, quick)
        for key, pair in parallel_pairs().items():
            yield _pair_point(name, loss, f"parallel_{key}", "parallel", pair, role, "integers" in key)
        for key, x in small.items():
            quick = key in ("1e-15", "1e-8", "pi_minus_1e-15")
            yield _pair_point(name, loss, f"angle_{key}", "small_angle", (x, w), role, quick)
        for key, (_, *exact) in exact_pairs().items():
            quick = key in ("45", "60_awkward", "90_integers")
            yield _pair_point(name, loss, f"exactly_{key}", "exact_angle", tuple(exact), role, quick)
        if gentle != loss:  # the same where the other classes still count
            both = tiny_pairs() | {key: (x, w) for key, x in small.items()}
            some = ("1e-300", "6e-33", "pi_minus_2e-32_3d", "rounded_8d", "1e-15", "1e-8", "pi_minus_1e-12")
            for key in some:
                kind = "tiny_angle" if key in tiny_pairs() else "small_angle"
                yield _pair_point(f"{name}.gentle", gentle, f"angle_{key}", kind, both[key], role)


# -- every variant of the target's logit -----------------------------------------------------------


def _variants(name: str) -> Iterator[Point]:
    """All those pairs in one batch, and ordinary angles."""
    pairs = [*tiny_pairs().values(), *parallel_pairs().values()]
    exact = [pair[1:] for pair in exact_pairs().values()]
    for variant, options in variants(name).items():
        prefix = f"{name}.{variant}"
        for what, kind, chosen in (("poles", "tiny_angle", pairs), ("exact", "exact_angle", exact)):
            D = max(len(x) for x, _ in chosen)
            x, W = (
                np.array([np.pad(pair[side], (0, D - len(pair[side]))) for pair in chosen]) for side in (0, 1)
            )
            y = np.arange(len(x))
            loss, x = _loud(make(name, len(W), **options), x, 8.0)
            yield Point(name=f"{prefix}.{what}_target", kind=kind, loss=loss, x=x, W=W, labels=y)
            yield Point(
                name=f"{prefix}.{what}_other", kind=kind, loss=loss, x=x, W=W, labels=(y + 1) % len(y)
            )
        theta = ("0.1", "0.4", "0.9", "1.3", "1.7", "2.2", "2.7", "3.0")
        for D, quick in ((4, True), (64, False)):
            x, W, y = _batch(name, theta, D)
            loss, x = _loud(make(name, 5, **options), x, 8.0)
            yield Point(name=f"{prefix}.ordinary_{D}d", kind="ordinary", loss=loss, x=x, W=W, labels=y,
                        b=_bias(name, 5), quick=quick)  # fmt: skip


def _knots(name: str) -> Iterator[Point]:
    """Both sides of every kπ/m: all of one m in a batch, and alone, where nothing else gives W_y a gradient."""
    if not FAMILY[name].multiplies_angle:
        return
    for m in (2, 3, 4, 6):
        knots = [PI * k / m for k in range(1, m)]
        for D, offset in itertools.product((3, 16), ("1e-15", "1e-9")):
            theta = [knot + side * Decimal(offset) for knot in knots for side in (-1, 1)]
            what = f"m{m}.knots_{offset}_{D}d"
            yield _aimed(name, what, "knots", theta, D, 4.0, {"margin": m}, quick=D == 3 and m == 4)
        for side, words in ((-1, "before"), (1, "behind")):
            theta = [knots[len(knots) // 2] + side * Decimal("1e-15")]
            yield _aimed(name, f"m{m}.knot_{words}", "knots", theta, 3, 4.0, {"margin": m}, quick=m == 3)


def _past_pi(name: str) -> Iterator[Point]:
    """Both sides of π − m; of π/2 with easy_margin; and that jump itself."""
    if name != "arcface":
        return
    for variant, options in variants(name).items():
        m = Decimal(make(name, 3, **options).margin)
        edges = [PI - m] if m else []
        if options.get("easy_margin"):
            edges.append(PI / 2)
        offsets = [side * Decimal(offset) for offset in ("1e-12", "1e-8") for side in (-1, 1)]
        quick = variant in ("plain", "linear", "easy")
        for D in (3, 16) if edges else ():
            theta = [edge + offset for edge in edges for offset in offsets]
            yield _aimed(
                name, f"{variant}.past_pi_{D}d", "past_pi", theta, D, 8.0, options, quick=quick and D == 3
            )
        for side, words in ((-1, "before"), (1, "behind")) if edges else ():
            theta = [edges[-1] + side * Decimal("1e-12")]
            yield _aimed(name, f"{variant}.edge_{words}", "past_pi", theta, 3, 8.0, options, quick=quick)
        if variant in ("easy", "half_pi"):
            # at the jump: π/2 exactly, and for half_pi π − m itself is only 6e-17 away
            x, W = np.array([[AWKWARD[0], 0.0]]), np.array([[0.0, AWKWARD[1]], [0.5, 0.5]])
            loss = make(name, 2, **options)
            yield Point(
                name=f"{name}.{variant}.jump", kind="past_pi", loss=loss, x=x, W=W, labels=np.array([0])
            )


def _aimed(
    name: str, what: str, kind: str, theta: Sequence[Decimal], D: int, factor: float, options: dict[str, Any],
    quick: bool,
) -> Point:  # fmt: skip
    """Targets at these angles, in logits of size `factor`."""
    x, W, y = _batch(name, theta, D)
    loss, x = _loud(make(name, 5, **options), x, factor)
    return Point(name=f"{name}.{what}", kind=kind, loss=loss, x=x, W=W, labels=y, quick=quick)


# -- sizes -----------------------------------------------------------------------------------------

THETA = ("0.3", "0.8", "1.2", "1.9", "2.6", "3.0")


def _norms(name: str) -> Iterator[Point]:
    free_x, free_W = _divides_by(name)
    x, W, y = _batch(name, THETA, 4, length=1.0)
    loss, x = _loud(make(name, 5), x, 8.0)
    b = _bias(name, 5)
    # (exponent of x, exponent of W): free where the formula divides it out, else such that W·x stays ordinary
    if free_x and free_W:
        sizes = [(p, q) for p in (-150, 0, 150) for q in (-150, 0, 150) if p or q]
    elif free_W:
        sizes = [(0, -150), (0, 150), (-150, 0), (10, -150), (10, 150)]
    elif free_x:
        sizes = [(-150, 0), (150, 0), (-150, -150), (150, 10)]
    else:
        sizes = [(-150, 150), (150, -150), (-150, -150), (-140, 150)]
    for p, q in sizes:
        yield Point(name=f"{name}.norms_1e{p}_1e{q}", kind="norms", loss=loss, x=x * 10.0**p, W=W * 10.0**q,
                    labels=y, b=b, quick=(p, q) in (sizes[0], sizes[-1]))  # fmt: skip


def _scales(name: str) -> Iterator[Point]:
    x, W, y = _batch(name, THETA, 4, length=1.0)
    for factor in (1e-3, 1.0, 64.0, 1e4):
        loss, loud = _loud(make(name, 5), x, factor)
        yield Point(name=f"{name}.scale_{factor:g}", kind="scale", loss=loss, x=loud, W=W, labels=y,
                    quick=factor in (1e-3, 1e4))  # fmt: skip
    for exponent in (41, 60, 200):
        loss, loud = _loud(make(name, 5), x, 2.0**exponent)
        yield Point(name=f"{name}.scale_2^{exponent}", kind="beyond", loss=loss, x=loud, W=W, labels=y,
                    quick=exponent == 60)  # fmt: skip


def _at_gap(
    loss: Any, x: np.ndarray, W: np.ndarray, labels: np.ndarray, gap: float
) -> tuple[Any, np.ndarray]:
    """The loss and x (1, D) for which the target's logit is `gap` ahead of the largest other one."""
    one, unit = _loud(loss, x, 1.0)
    z = one.forward(unit, W, labels).logits[0]
    ahead = z[labels[0]] - np.max(np.delete(z, labels[0]))
    return _loud(loss, x, gap / ahead)


def _confidence(name: str) -> Iterator[Point]:
    axis = np.array([0.6, 0.0, 0.8])
    W = np.vstack([axis, _bystanders(axis)])
    x = place(axis, _general(1, 3, seed=4)[0], Decimal("0.02"))[None, :]
    # −log p_y is about e^−gap: 1e-300 at 690.8, the smallest normal number at 708.4, the last subnormal at 744.4
    for gap in (2.5, 23.0, 37.0, 100.0, 400.0, 690.8, 705.0, 712.0, 730.0, 744.0, 746.0, 900.0):
        label = np.array([0])
        loss, at = _at_gap(make(name, 3), x, W, label, gap)
        yield Point(name=f"{name}.confident_{gap:g}", kind="confidence", loss=loss, x=at, W=W, labels=label,
                    quick=gap in (37.0, 690.8, 730.0, 900.0))  # fmt: skip
    for gap in (1.0, 37.0, 700.0, 1e4, 1e6):
        label, options = np.array([2]), {}
        if gap == 1e6:  # a hundred times 1e4, so that s stays near 1e4
            gap, options = 1e4, {"class_weights": (100.0, 100.0, 100.0)}
        loss, at = _at_gap(make(name, 3, **options), x, W, label, -gap)
        words = "1e6" if options else f"{gap:g}"
        yield Point(name=f"{name}.wrong_by_{words}", kind="confidence", loss=loss, x=at, W=W, labels=label,
                    quick=gap == 1e4)  # fmt: skip


def _lost_gradient(name: str) -> Iterator[Point]:
    """Logits of 1e4 whose largest two are 720 apart: g about 1e-313, while g r/‖x‖ is far from subnormal."""
    free_x, free_W = _divides_by(name)
    x = np.array([[0.8, 0.6, 0.0]])
    target = place(x[0], np.array([0.0, 0.0, 1.0]), Decimal("0.05"))
    one, unit = _loud(make(name, 3), x, 1.0)
    best = one.forward(unit, target[None, :], np.array([0])).logits[0, 0] if one.has_margin else target @ x[0]
    near = place(x[0], np.array([0.0, 1.0, 1.0]), Decimal(float(np.arccos(best - 0.072))))
    W = np.vstack([target, near, _bystanders(x[0])[:1]])
    loss, x = _loud(make(name, 3), x, 1e4)
    for tiny in (1e-150, 1e-100):
        if free_x:
            at_x, at_W = x * tiny, W
        elif free_W:
            at_x, at_W = x, W * tiny
        else:  # the gradient in x is g W
            at_x, at_W = x * tiny, W / tiny
        yield Point(name=f"{name}.lost_gradient_{tiny:g}", kind="lost_gradient", loss=loss, x=at_x, W=at_W,
                    labels=np.array([0]), quick=tiny == 1e-150)  # fmt: skip


# -- the cross-entropy -----------------------------------------------------------------------------


def _p_is_t(name: str) -> Iterator[Point]:
    # the two other classes mirror each other, so that smoothing wants exactly the ratio t_y : t_j of both
    x = np.array([[1.0, 0.0, 0.0]])
    W = np.array([[0.96, 0.28, 0.0], [-0.28, 0.0, 0.96], [-0.28, 0.0, -0.96]])
    label = np.array([0])
    for epsilon in (0.1, 1e-6):
        t_y, t_j = 1 - epsilon + epsilon / 3, epsilon / 3
        for off, words in ((0.0, ""), (1e-9, "_nearly")):
            options: dict[str, Any] = {"label_smoothing": epsilon}
            if name == "weighted_softmax":
                options["class_weights"] = (2.0, 2.0, 2.0)
            loss = make(name, 3, **options)
            plain = replace(loss, label_smoothing=0.0)
            loud, at = _at_gap(plain, x, W, label, float(np.log(t_y / t_j)) * (1 + off))
            yield Point(name=f"{name}.smoothing_{epsilon:g}{words}", kind="p_is_t",
                        loss=replace(loud, label_smoothing=epsilon), x=at, W=W, labels=label,
                        quick=epsilon == 0.1)  # fmt: skip
    if name == "weighted_softmax":
        weights = np.array(WEIGHTS)
    else:
        weights = np.ones(5)
    x, W, y = _batch(name, THETA, 4, length=1.0)
    loud, x = _loud(make(name, 5), x, 8.0)
    b = _bias(name, 5)
    if loud.has_margin:
        # every class as likely as the target distribution has it, up to the target's margin
        yield Point(name=f"{name}.uniform_target", kind="p_is_t", loss=replace(loud, label_smoothing=1.0), x=x,
                    W=np.tile(W[:1], (5, 1)), labels=y, quick=True)  # fmt: skip
        return
    p = np.array(loud.forward(x, W, y, b).probabilities)
    t = p / weights  # g = p Σ_c w_c t_c − w t, and w t ∝ p
    confident, x_far = _loud(make(name, 5), x, 120.0)
    t_far = np.array(confident.forward(x_far, W, y, b).probabilities) / weights
    for words, loss, at, target in (
        ("", loud, x, t),
        ("_nearly", loud, x, t * (1 + 1e-9 * np.cos(np.arange(5)))),
        ("_sum_1.5", loud, x, 1.5 * t),
        ("_confident", confident, x_far, t_far),
        ("_confident_nearly", confident, x_far, t_far * (1 + 1e-9 * np.cos(np.arange(5)))),
        ("_with_zeros", loud, x, np.where(np.arange(5) == 2, 0.0, t)),
    ):
        yield Point(name=f"{name}.soft{words}", kind="p_is_t", loss=loss, x=at, W=W, labels=target, b=b,
                    quick=words in ("", "_confident"))  # fmt: skip
    every = replace(loud, label_smoothing=1.0)
    yield Point(name=f"{name}.uniform_target", kind="p_is_t", loss=every, x=x, W=np.tile(W[:1], (5, 1)), labels=y,
                quick=True)  # fmt: skip


# -- shapes ----------------------------------------------------------------------------------------


def _shapes(name: str) -> Iterator[Point]:
    def loud(x: np.ndarray, W: np.ndarray, factor: float = 8.0) -> tuple[Any, np.ndarray]:
        return _loud(make(name, len(W)), x, factor)

    for C, D in itertools.product((1, 2, 5), (1, 2, 3, 128)):
        W = _general(C, D, seed=5) / np.sqrt(D)
        x = _general(3, D, seed=6) / np.sqrt(D)
        loss, x = loud(x, W)
        yield Point(name=f"{name}.shape_C{C}_D{D}", kind="shape", loss=loss, x=x, W=W, labels=np.arange(3) % C,
                    b=_bias(name, C), quick=(C, D) in ((1, 3), (2, 1), (5, 128)))  # fmt: skip
    # many classes, and a target 20° and 10° away: p_y − 1 is lost in float64
    for D in (3, 16):
        W = _general(1000, D, seed=7)
        W /= np.linalg.norm(W, axis=1)[:, None]
        toward = _general(2, D, seed=8)
        x = np.array([place(W[i], toward[i], PI * degrees / 180) for i, degrees in enumerate((20, 10))])
        loss, x = loud(x, W, 64.0)
        yield Point(name=f"{name}.shape_C1000_D{D}", kind="shape", loss=loss, x=x, W=W, labels=np.arange(2),
                    b=_bias(name, 1000), quick=D == 3)  # fmt: skip
    for C, angles in ((2, ("1e-8", "1.0")), (5, ("1e-15", "2.5"))):
        W = _general(C, 4096, seed=9) / 64
        toward = _general(2, 4096, seed=10)
        x = np.array([place(W[i], toward[i], Decimal(t)) for i, t in enumerate(angles)])
        loss, x = loud(x, W)
        yield Point(name=f"{name}.shape_C{C}_D4096", kind="shape", loss=loss, x=x, W=W, labels=np.arange(2),
                    b=_bias(name, C), quick=C == 2)  # fmt: skip
    # 4096 terms that cancel to 0, and an angle of about 1e-32
    signs = np.where(np.arange(4096) % 2 == 0, 1.0, -1.0)
    pair = np.tile([N * U, (N + 1) * U], 2048), np.tile([(N + 1) * U, (N + 2) * U], 2048)
    W = np.vstack([signs, pair[1], np.roll(signs, 1) * np.sign(np.cos(np.arange(4096) ** 2))]) / 64
    for what, x in (("cancelling", np.ones((1, 4096)) / 64), ("near", pair[0][None, :] / 64)):
        loss, x = loud(x, W)
        for label in (0, 1):
            yield Point(name=f"{name}.shape_D4096_{what}_{label}", kind="shape", loss=loss, x=x, W=W,
                        labels=np.array([label]))  # fmt: skip


# -- symmetry --------------------------------------------------------------------------------------


def _cancelling(name: str) -> Iterator[Point]:
    a, b = AWKWARD
    # x is the sum of the classes: without a margin every logit is the same
    W = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0]])
    for words, x in (("", W.sum(axis=0)[None, :]), ("_awkward", a * np.ones((1, 3)))):
        loss, x = _loud(make(name, 3), x, 3.0)
        yield Point(name=f"{name}.sum_of_classes{words}", kind="cancelling", loss=loss, x=x, W=W,
                    labels=np.array([1]), quick=not words)  # fmt: skip
    # classes in opposite pairs about x, which itself lies along the target or across it
    W = np.array([[a, 0.0, 0.0], [b, a, 0.0], [b, -a, 0.0], [b, 0.0, a], [b, 0.0, -a]])
    for words, x, y in (("along", [[1.5, 0.0, 0.0]], 0), ("across", [[0.0, 0.75, 0.75]], 0),
                        ("aside", [[1.5, 0.0, 0.0]], 3)):  # fmt: skip
        loss, at = _loud(make(name, 5), np.array(x), 3.0)
        yield Point(name=f"{name}.pairs_{words}", kind="cancelling", loss=loss, x=at, W=W, labels=np.array([y]),
                    quick=words == "along")  # fmt: skip
    # what is summed over samples cancels: the same row twice (or nearly), upstream of opposite sign
    x, W, y = _batch(name, THETA[:2], 4, length=1.0)
    loss, x = _loud(make(name, 5, reduction="none"), x, 4.0)
    for words, second, upstream in (
        ("", x[0], np.array([1.5, -1.5])),
        ("_nearly", x[0] * (1 + 2.0**-40), np.array([1.5, -1.5])),
        ("_huge", x[0], np.array([1e100, -1e100])),
    ):
        yield Point(name=f"{name}.same_row_twice{words}", kind="cancelling", loss=loss, x=np.vstack([x[0], second]),
                    W=W, labels=y[[0, 0]], upstream=upstream, quick=not words)  # fmt: skip
    # x and −x, with the classes' roles exchanged
    W = np.vstack([W[0], -W[0], W[1], -W[1]])
    loss, x = _loud(make(name, 4), np.vstack([x[0], -x[0]]), 4.0)
    yield Point(
        name=f"{name}.opposite_samples", kind="cancelling", loss=loss, x=x, W=W, labels=np.array([0, 1])
    )


def _ties(name: str) -> Iterator[Point]:
    x, W, y = _batch(name, THETA[:4], 4, length=1.0)
    twice = W[[0, 0, 1, 1, 2]]
    loss, x = _loud(make(name, 5), x, 8.0)
    yield Point(name=f"{name}.ties_in_pairs", kind="ties", loss=loss, x=x, W=twice, labels=y, quick=True)
    yield Point(name=f"{name}.ties_everywhere", kind="ties", loss=loss, x=x, W=W[[0] * 5], labels=y)
    # two others tie at the top, far above the target
    W = np.array([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0], [0.6, -0.8, 0.0]])
    loss, x = _loud(make(name, 3), np.array([[1.0, 0.0, 0.0]]), 200.0)
    yield Point(name=f"{name}.ties_at_the_top", kind="ties", loss=loss, x=x, W=W, labels=np.array([0]))


def _mixed(name: str) -> Iterator[Point]:
    free_x, free_W = _divides_by(name)
    x, W, y = _batch(name, THETA, 4, length=1.0)
    loss, x = _loud(make(name, 5), x, 4.0)
    b = _bias(name, 5)
    # up to 1e10, so that r ≤ 2^40 where the length enters the logits
    x_sizes = np.logspace(-150, 150 if free_x else 10, 6)[:, None]
    W_sizes = np.logspace(-150, 150 if free_W else 10, 5)[:, None]
    yield Point(
        name=f"{name}.mixed_x", kind="mixed_sizes", loss=loss, x=x * x_sizes, W=W, labels=y, b=b, quick=True
    )
    yield Point(
        name=f"{name}.mixed_W", kind="mixed_sizes", loss=loss, x=x, W=W * W_sizes, labels=y, b=b, quick=True
    )
    if free_x and free_W:
        yield Point(
            name=f"{name}.mixed_both", kind="mixed_sizes", loss=loss, x=x * x_sizes, W=W * W_sizes, labels=y
        )
    # entries of very different size within one row
    spread = np.array([1e-150, 1.0, 1e-20, 1e-8])
    yield Point(name=f"{name}.mixed_entries", kind="mixed_sizes", loss=loss, x=x * spread, W=W * spread[::-1],
                labels=y, b=b)  # fmt: skip
    none = replace(loss, reduction="none")
    for words, upstream in (
        ("huge", [1.0, -2.0, 1e100, -0.5, 0.25, 3.0]),
        ("mixed", [1e-100, -1e100, 1e100, 0.0, -1e-8, 1.0]),
        ("tiny", [1e-200, -1e-200, 2e-200, -3e-200, 1e-200, 0.0]),
    ):
        yield Point(name=f"{name}.upstream_{words}", kind="upstream", loss=none, x=x, W=W, labels=y, b=b,
                    upstream=np.array(upstream), quick=words == "mixed")  # fmt: skip


def _options(name: str) -> Iterator[Point]:
    x, W, y = _batch(name, THETA, 4, length=1.0)
    plain, x = _loud(make(name, 5), x, 8.0)
    b = _bias(name, 5)
    some = np.where(y == 1, -100, y)
    weights = {"class_weights": (0.5, 0.0, 2.0, 1e-3, 300.0)}
    for words, options, labels, upstream in (
        ("sum", {"reduction": "sum"}, y, UPSTREAM),
        ("none", {"reduction": "none"}, y, UPSTREAM),
        ("mean_weights", weights, y, UPSTREAM),
        ("weighted_mean", {"reduction": "weighted_mean"} | weights, y, UPSTREAM),
        ("sum_weights_smoothing", {"reduction": "sum", "label_smoothing": 0.1} | weights, y, UPSTREAM),
        (
            "weighted_mean_smoothing",
            {"reduction": "weighted_mean", "label_smoothing": 0.3} | weights,
            y,
            UPSTREAM,
        ),
        ("smoothing", {"label_smoothing": 0.2}, y, UPSTREAM),
        ("ignore", {"ignore_index": -100}, some, UPSTREAM),
        (
            "weighted_mean_ignore",
            {"reduction": "weighted_mean", "ignore_index": -100} | weights,
            some,
            UPSTREAM,
        ),
        ("upstream_zero", {}, y, 0.0),
    ):
        yield Point(name=f"{name}.{words}", kind="options", loss=replace(plain, **options), x=x, W=W,
                    labels=labels, b=b, upstream=upstream,
                    quick=words in ("weighted_mean_smoothing", "ignore"))  # fmt: skip
    if b is not None:
        huge_b = np.array([1e3, -1e3, 1e-3, 0.0, 999.0])
        yield Point(
            name=f"{name}.bias_1e3", kind="options", loss=plain, x=x, W=W, labels=y, b=huge_b, quick=True
        )
    if hasattr(plain, "zero_norm"):
        x_zero, W_zero = x.copy(), W.copy()
        x_zero[2] = W_zero[1] = 0.0
        yield Point(name=f"{name}.zero_rows", kind="options", loss=replace(plain, zero_norm="zero"), x=x_zero,
                    W=W_zero, labels=y, b=b, quick=True)  # fmt: skip
    else:  # smooth there
        yield Point(name=f"{name}.zero_rows", kind="options", loss=plain, x=x * (y != 2)[:, None],
                    W=W * (np.arange(5) != 1)[:, None], labels=y, b=b)  # fmt: skip
    if not plain.has_margin:
        soft = np.abs(_general(6, 5, seed=11)) * np.linspace(0.2, 1.0, 6)[:, None]
        for words, options in (("mean", {}), ("weighted_mean", {"reduction": "weighted_mean"} | weights),
                               ("smoothing", {"label_smoothing": 0.2})):  # fmt: skip
            yield Point(name=f"{name}.soft_{words}", kind="options", loss=replace(plain, **options), x=x, W=W,
                        labels=soft, b=b)  # fmt: skip
