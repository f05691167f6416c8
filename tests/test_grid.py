"""The adversarial grid keeps its own promises: what each point claims to provoke is there, exactly."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
from helpers import BIAS, MARGIN, PSI, SOFT, near

import refloss
from refloss.cases.angles import PI, cos_sin, exact_pairs, parallel_pairs, place_in_decimal, tiny_pairs
from refloss.cases.configurations import GROUPS
from refloss.cases.grid import KINDS, LIMIT, grid, largest_logit, variants


@cache
def points_of(name):
    return grid([name])


def all_points():
    return [point for name in GROUPS for point in points_of(name)]


NORMALISE_BOTH = ["f_norm_sphereface", "am_softmax", "arcface"]
SCALED = [*NORMALISE_BOTH, "l2_softmax"]

every_loss = pytest.mark.parametrize("name", GROUPS)


def exact_cosine(x, w):
    """(sign, cos² θ) of two float vectors, as a Fraction: no rounding at all."""
    x, w = ([Fraction(float(v)) for v in row] for row in (x, w))
    along = sum(a * b for a, b in zip(x, w, strict=True))
    square = along**2 / (sum(a * a for a in x) * sum(b * b for b in w))
    return (along > 0) - (along < 0), square


def exact_angle(x, w):
    """θ in mpmath, right to 50 digits at every angle: sin² = 1 − cos² is formed exactly."""
    sign, square = exact_cosine(x, w)
    with mpmath.workdps(60):
        sin, cos = (mpmath.sqrt(mpmath.mpf(part.numerator) / part.denominator) for part in (1 - square, square))
        return mpmath.atan2(sin, sign * cos)


def by_kind(name, kind):
    return [point for point in points_of(name) if point.kind == kind]


def target_angles(point):
    return [exact_angle(x, point.W[y]) for x, y in zip(point.x, point.labels, strict=True)]


# -- the grid as a whole ---------------------------------------------------------------------------


def test_names_are_unique_and_say_the_loss():
    """A point can be asked for by its name."""
    names = [point.name for point in all_points()]
    assert len(set(names)) == len(names)
    assert all(point.name.split(".")[0] in GROUPS for point in all_points())
    assert [point.name for point in grid()] == names


@every_loss
def test_the_grid_is_the_same_every_time(name):
    """No seed, no clock: the same bytes at every call."""
    for a, b in zip(points_of(name), grid([name]), strict=True):
        assert (a.name, a.loss) == (b.name, b.loss)
        for field in ("x", "W", "labels", "b", "upstream"):
            one, two = getattr(a, field), getattr(b, field)
            assert np.asarray(one).tobytes() == np.asarray(two).tobytes() or one is two is None


@every_loss
def test_every_kind_is_there(name):
    """Every kind of difficulty, in every loss that has it; the quick grid has all of them, too."""
    due = (
        set(KINDS) - {"own"} - ({"knots"} if name not in PSI else set()) - ({"past_pi"} if name != "arcface" else set())
    )
    assert {point.kind for point in points_of(name)} == due
    assert {point.kind for point in points_of(name) if point.quick} == due
    assert all(point.reason for point in points_of(name))


@every_loss
def test_every_variant_is_there(name):
    """Every option that changes the target logit has points, at poles, exact and ordinary angles."""
    for variant, options in variants(name).items():
        mine = [p for p in points_of(name) if p.name.startswith(f"{name}.{variant}.")]
        assert {"tiny_angle", "exact_angle", "ordinary"} <= {point.kind for point in mine}
        for point in mine:
            assert all(getattr(point.loss, key) == value for key, value in options.items())
    if name in PSI:
        assert {point.loss.margin for point in points_of(name)} >= {1, 2, 3, 4, 6}
    if name in ("am_softmax", "arcface"):
        margins = {point.loss.margin for point in points_of(name)}
        assert {0.0, 2.0} <= margins


@every_loss
def test_every_option_of_the_cross_entropy_is_there(name):
    """All reductions, weights, smoothing, ignored rows; soft targets where there is no margin; a bias."""
    losses = [point.loss for point in points_of(name)]
    assert {loss.reduction for loss in losses} == {"mean", "sum", "none", "weighted_mean"}
    assert any(loss.class_weights for loss in losses)
    assert {loss.label_smoothing for loss in losses} >= {0.0, 0.1, 1.0}
    assert any(loss.ignore_index is not None for loss in losses)
    assert any(p.labels.ndim == 2 for p in points_of(name)) == (name in SOFT)
    assert any(p.b is not None for p in points_of(name)) == (name in BIAS)


@every_loss
def test_double_precision_is_finite_silent_and_leaves_the_point_alone(name):
    """Forward and backward on every point: no NaN, no Inf, no warning, no exception, nothing changed."""
    for point in points_of(name):
        before = [np.array(v) for v in (point.x, point.W, point.labels, point.upstream)]
        out = point.loss.forward(point.x, point.W, point.labels, point.b)
        grads = point.loss.backward(out, point.upstream)
        for stage, value in (*out.stages().items(), *grads.stages().items()):
            assert np.isfinite(value).all(), f"{point.name}: {stage}"
        for was, now in zip(before, (point.x, point.W, point.labels, point.upstream), strict=True):
            np.testing.assert_array_equal(was, now)


def test_points_cannot_be_changed():
    """Their arrays are read-only, so that no implementation can spoil the next one's input."""
    for point in all_points():
        for array in (point.x, point.W, point.labels, point.b):
            assert array is None or not array.flags.writeable


@every_loss
def test_what_extended_precision_owes(name):
    """Up to logits of 2^40 every point is owed all digits; those of kind "beyond" are not, and no others."""
    for point in points_of(name):
        offset = 0.0 if point.b is None else np.abs(point.b)
        largest = np.max(largest_logit(point.loss, point.x, point.W) + offset)
        assert (largest > LIMIT) == (point.kind == "beyond"), point.name
        assert np.max(np.abs(point.loss.forward(point.x, point.W, point.labels, point.b).logits)) <= 64 * largest


# -- angles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", [2, 3, 128])
def test_placed_vectors_have_their_angle(D):
    """`place_in_decimal` meets the angle to 2^-53, at every size of angle and vector."""
    rng = np.random.default_rng(D)
    for theta in (*map(mpmath.mpf, ("1e-12", "1e-4", "0.5", "2.5")), mpmath.pi - mpmath.mpf("1e-12")):
        w, toward = rng.normal(size=(2, D)) * 10.0 ** rng.integers(-100, 100)
        with mpmath.workdps(60):
            theta = +mpmath.mpf(theta)
            x = place_in_decimal(w, toward, Decimal(mpmath.nstr(theta, 50)), 3.7e50)
            assert abs(exact_angle(x, w) - theta) <= 2.0**-53
        assert np.linalg.norm(x) == near(3.7e50, 1e-15)


def test_the_series_of_cos_and_sin():
    """`cos_sin` against mpmath, from 0 to π."""
    with mpmath.workdps(40):
        for theta in ("0", "1e-20", "0.7", "1.6", "3.1", str(PI)):
            cos, sin = cos_sin(Decimal(theta))
            assert abs(mpmath.mpf(str(cos)) - mpmath.cos(mpmath.mpf(theta))) < 1e-25
            assert abs(mpmath.mpf(str(sin)) - mpmath.sin(mpmath.mpf(theta))) < 1e-25


def test_tiny_angles():
    """1e-300; 6e-33 between general vectors; one rounding; and the same before π: never 0, never a cosine below 1."""
    due = {"1e-300": 1e-300, "1e-300_3d": 1e-300 / np.sqrt(45), "6e-33": 6.16e-33, "2e-32_3d": 1.0e-32}
    for name, (x, w) in tiny_pairs().items():
        supplement = name.removeprefix("pi_minus_")
        sign, square = exact_cosine(x, w)
        assert sign == (1 if supplement == name else -1)
        sin = mpmath.sqrt(mpmath.mpf((1 - square).numerator) / (1 - square).denominator)
        assert 0 < sin < 3e-16
        if supplement in due:
            assert float(sin) == near(due[supplement], 0.05), name


def test_parallel_pairs_are_exactly_parallel():
    """All 2 × 2 determinants are 0 without rounding; the sign says which pole."""
    for name, (x, w) in parallel_pairs().items():
        sign, square = exact_cosine(x, w)
        assert square == 1
        assert sign == (1 if name.startswith("0_") else -1)


def test_exact_angles_are_exact():
    """cos² θ is the rational number that it must be, also with lengths of 53 bits."""
    squares = {30: Fraction(3, 4), 45: Fraction(1, 2), 60: Fraction(1, 4), 90: Fraction(0)}
    pairs = exact_pairs()
    for name, (degrees, x, w) in pairs.items():
        sign, square = exact_cosine(x, w)
        assert square == squares[min(degrees, 180 - degrees)], name
        assert sign == np.sign(90 - degrees)
    assert {degrees for degrees, _, _ in pairs.values()} == {30, 45, 60, 90, 120, 135, 150}
    assert sum("awkward" in name for name in pairs) >= 6


@every_loss
def test_angles_are_there_for_target_and_other_classes(name):
    """Every special pair is met by a target and by another class, alone (N = 1)."""
    single = [p for p in points_of(name) if len(p.x) == 1 and p.kind in ("tiny_angle", "small_angle")]
    for target in (True, False):
        chosen = [p for p in single if bool(p.labels[0] == 0) is target]
        sines = []
        for point in chosen:
            _, square = exact_cosine(point.x[0], point.W[0])
            sines.append(float(mpmath.sqrt(mpmath.mpf((1 - square).numerator) / mpmath.mpf((1 - square).denominator))))
        for size in (1e-300, 6.16e-33, 1e-15, 1e-12, 1e-8, 1e-4):
            assert sum(abs(sin / size - 1) < 0.12 for sin in sines) >= 2, size  # near 0 and near π
        poles = [p for p in by_kind(name, "parallel") if bool(p.labels[0] == 0) is target]
        assert {exact_cosine(p.x[0], p.W[0]) for p in poles} == {(1, 1), (-1, 1)}


@pytest.mark.parametrize("name", PSI)
def test_knots(name):
    """kπ/m ± 1e-15 and ± 1e-9, on the side that is meant, for every k and m; and kπ/m exactly."""
    for point in by_kind(name, "knots"):
        m, angles = point.loss.margin, target_angles(point)
        if len(angles) == 1:  # alone: before or behind the middle knot
            signs, offset = [-1 if point.name.endswith("before") else 1], 1e-15
            knots = [(m - 1) // 2 + 1]
        else:
            signs, offset = [-1, 1] * (m - 1), float(point.name.rsplit("_", 2)[1])
            knots = [i // 2 + 1 for i in range(len(angles))]
            assert len(angles) == 2 * (m - 1)
        for theta, k, sign in zip(angles, knots, signs, strict=True):
            with mpmath.workdps(40):
                away = theta - k * mpmath.pi / m
            assert float(away) == near(sign * offset, 0.12), point.name
    exact = {degrees for degrees, _, _ in exact_pairs().values()}
    for m in (2, 3, 4, 6):
        assert {180 * k // m for k in range(1, m)} <= exact


def test_past_pi():
    """π − m ± 1e-12 for every margin of ArcFace; the jumps of easy_margin and past_pi="linear"."""
    seen = set()
    for point in by_kind("arcface", "past_pi"):
        if point.name.endswith("jump"):
            assert exact_cosine(point.x[0], point.W[0]) == (0, 0)
            continue
        with mpmath.workdps(40):
            easy = len(point.x) == 1 and point.loss.easy_margin
            edge = mpmath.pi / 2 if easy else mpmath.mpf(point.loss.margin)
            offsets = [float(theta + edge - mpmath.pi) for theta in target_angles(point)]
        signs = [-1 if point.name.endswith("before") else 1] if len(offsets) == 1 else [-1, 1]
        assert offsets[: len(signs)] == near(1e-12 * np.array(signs), 1e-3)
        seen.add(point.loss.margin)
    assert {0.5, 1.0, 2.0, 3.1} <= seen


# -- sizes -----------------------------------------------------------------------------------------


@every_loss
def test_lengths(name):
    """1e-150 … 1e150 for what the loss normalises; elsewhere as large, with r ≤ 2^40."""
    free_x = name in (*SCALED, "margin_softmax")
    free_W = name not in ("softmax", "weighted_softmax", "l_softmax", "l2_softmax")
    for given, free in (("x", free_x), ("W", free_W)):
        lengths = np.concatenate(
            [np.max(np.abs(getattr(p, given)), axis=1) for p in by_kind(name, "norms")]
            + [np.max(np.abs(getattr(p, given)), axis=1) for p in by_kind(name, "mixed_sizes")]
        )
        assert np.min(lengths[lengths > 0]) < 1e-149
        assert np.max(lengths) > (1e149 if free else 1e9)
    if name in NORMALISE_BOTH:
        assert {len(p.x) for p in by_kind(name, "mixed_sizes")} == {6}


@every_loss
def test_logits_from_small_to_huge(name):
    """s, α or ‖x‖ from 1e-3 to 1e4, and beyond 2^40."""
    sizes = [float(np.max(largest_logit(p.loss, p.x, p.W))) for p in by_kind(name, "scale")]
    assert min(sizes) < 1e-2
    assert 9.9e3 < max(sizes) < 1e6
    assert all(np.max(largest_logit(p.loss, p.x, p.W)) > LIMIT for p in by_kind(name, "beyond"))


@every_loss
def test_losses_from_a_million_to_less_than_float64_holds(name):
    """Losses of 1e6, 1, 1e-300, a subnormal and 0."""
    losses = np.array([p.loss.forward(p.x, p.W, p.labels).losses[0] for p in by_kind(name, "confidence")])
    assert losses.max() > 0.99e6
    for low, high in ((0.9, 1e2), (1e-17, 1e-15), (0.4e-300, 1.5e-300), (1e-320, 2.2e-308), (0, 5e-324)):
        assert np.any((losses >= low) & (losses <= high)), (low, high)


@every_loss
def test_a_gradient_that_a_subnormal_g_would_lose(name):
    """|g| is under 2.3e-308 for every class but s |g| / ‖x‖ (or g W, g x / ‖W‖) is an ordinary number."""
    for point in by_kind(name, "lost_gradient"):
        out = point.loss.forward(point.x, point.W, point.labels)
        g = np.abs(point.loss.backward(out, point.upstream).logits)
        assert 0 < g.max() < 2.3e-308
        r = float(np.max(largest_logit(point.loss, point.x, point.W)))
        assert r == near(1e4, 1)
        shortest = min(np.max(np.abs(point.x)), np.max(np.abs(point.W[1])))
        assert g.max() * r / shortest > 1e-300


@every_loss
def test_p_is_t(name):
    """|p − t| is far smaller than p t_total + t, the terms that it is the difference of."""
    nearest = []
    for point in by_kind(name, "p_is_t"):
        out = point.loss.forward(point.x, point.W, point.labels, point.b)
        C = len(point.W)
        target = np.eye(C)[point.labels] if point.labels.ndim == 1 else point.labels
        t = (1 - point.loss.label_smoothing) * target + point.loss.label_smoothing / C
        a = t * (np.ones(C) if point.loss.class_weights is None else np.array(point.loss.class_weights))
        terms = out.probabilities * a.sum(axis=1, keepdims=True)
        nearest.append(np.min(np.max(np.abs(terms - a), axis=1) / np.max(terms + a, axis=1)))
    assert np.min(nearest) < 1e-15
    assert sum(near < 1e-8 for near in nearest) >= (2 if name in MARGIN else 6) or name == "margin_softmax"


# -- shapes and symmetry ---------------------------------------------------------------------------


@every_loss
def test_shapes(name):
    """C = 1, 2, 5, 1000 and D = 1, 2, 3, 128, 4096."""
    shapes = {(len(p.W), p.W.shape[1]) for p in by_kind(name, "shape")}
    assert {C for C, _ in shapes} >= {1, 2, 5, 1000}
    assert {D for _, D in shapes} >= {1, 2, 3, 128, 4096}
    assert all(C * D <= 5 * 4096 for C, D in shapes)


@every_loss
def test_gradients_that_cancel_and_ties(name):
    """Symmetric inputs whose gradient in W is 0 although its terms are not; equal logits."""
    for point in by_kind(name, "cancelling"):
        if point.name.endswith("same_row_twice"):
            out = point.loss.forward(point.x, point.W, point.labels)
            grads = point.loss.backward(out, point.upstream)
            assert np.max(np.abs(grads.W)) <= 1e-13 * np.max(np.abs(grads.x)) + 1e-13
            assert np.max(np.abs(grads.x)) > 0
    for point in by_kind(name, "ties"):
        z = point.loss.forward(point.x, point.W, point.labels).logits
        others = [np.delete(row, y) for row, y in zip(z, point.labels, strict=True)]
        assert all(np.min(np.diff(np.sort(row))) <= 1e-14 * np.max(np.abs(row)) for row in others)


@every_loss
def test_upstream_of_both_signs_with_one_huge_row(name):
    """One upstream a row: positive, negative, 0, tiny and 1e100."""
    upstream = np.concatenate([p.upstream for p in by_kind(name, "upstream")])
    assert upstream.max() == 1e100
    assert upstream.min() == -1e100
    assert 0 in upstream
    assert np.min(np.abs(upstream[upstream != 0])) < 1e-199


def test_an_unknown_loss_is_refused():
    """As everywhere: the message lists the names."""
    with pytest.raises(ValueError, match="name must be one of"):
        grid(["no_such_loss"])


def test_the_quick_grid_is_part_of_the_grid():
    """A subset, in the same order, of every loss."""
    quick = grid(quick=True)
    assert [p.name for p in all_points() if p.quick] == [p.name for p in quick]
    assert {p.name.split(".")[0] for p in quick} == set(GROUPS)
    assert set(refloss.losses()) < set(GROUPS)
