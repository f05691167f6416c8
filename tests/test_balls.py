"""The balls: enclosures hold what 80-digit arithmetic finds, are sharp where the formula is, shrink with precision."""

from __future__ import annotations

from itertools import pairwise
from time import perf_counter

import mpmath
import numpy as np
import pytest
from helpers import VARIANTS, assert_close, example, make, near, need
from many_digits import DIGITS, exact, namespace

import refloss
from refloss import validation as check
from refloss.textbook import formulas
from refloss.textbook.family import parameters

need("flint")

from flint import arb, ctx  # noqa: E402

from refloss.proof import tape  # noqa: E402
from refloss.proof.angle import floor  # noqa: E402
from refloss.proof.enclosures import enclose  # noqa: E402

STEP = mpmath.mpf(10) ** -35  # a central difference errs by its square, and DIGITS − 35 digits are left

OPTIONS = {
    "default": {},
    "smoothed": {"label_smoothing": 0.125, "reduction": "sum"},
    "weighted mean": {"class_weights": (0.5, 2.0, 1.0, 0.25), "reduction": "weighted_mean"},
    "one per sample, ignored": {"reduction": "none", "ignore_index": 2},
}


def truth(loss, x, W, labels, b, upstream):
    """stage → function of nothing, in mpmath: losses and Σ share·loss as functions of every input."""
    C = len(W)
    targets = check.targets(labels, len(x), C, loss)
    rows = np.flatnonzero(~targets.ignored)
    w = exact(np.ones(C) if loss.class_weights is None else np.array(loss.class_weights))
    y = targets.matrix[rows]
    epsilon = mpmath.mpf(float(loss.label_smoothing))
    t = (1 - epsilon) * exact(y) + epsilon / C
    divisor = {"mean": len(rows), "weighted_mean": (exact(y) * w).sum()}.get(loss.reduction, 1)
    share = exact(np.broadcast_to(upstream, len(x))[rows]) / divisor

    def losses(given):
        now = {name: v for name, v in given.items() if name in ("scale", "margin", "alpha")}
        q = parameters(loss, **now)
        if q.detach_margin:
            q.frozen = formulas.frozen_offset(namespace, parameters(loss), x[rows], W, y)
        z = q.logits(namespace, q, given["x"][rows], given["W"], given.get("b"), exact(y))
        return formulas.cross_entropy(namespace, z, t, w)

    return losses, (lambda given: np.sum(share * losses(given))), rows


def holds(enclosure, value, room):
    """The ball meets value ± room."""
    return enclosure.overlaps(arb(mpmath.nstr(value, DIGITS), mpmath.nstr(room, 20)))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_enclosures_hold_80_digit_values_and_differences(variant, options):
    """Losses, and the derivative in every input along a random direction and in single entries."""
    rng = np.random.default_rng(sum(map(ord, variant)))
    options = {k: v for k, v in options.items() if not (k == "class_weights" and variant == "weighted_softmax")}
    loss = make(variant, **options)
    at = example(variant, rng, n=4)
    upstream = rng.normal(size=4) if loss.reduction == "none" else -1.375
    e = enclose(loss, **at, upstream=upstream, bits=256)
    with mpmath.workdps(DIGITS), ctx.workprec(256):
        losses, total, rows = truth(loss, at["x"], at["W"], at["labels"], at.get("b"), upstream)
        names = [name.removeprefix("grad_") for name in e.stages if name.startswith("grad_")]
        inputs = {name: exact(at[name] if name in at else getattr(loss, name)) for name in names if name != "logits"}
        for got, due in zip(e.stages["losses"][rows], losses(inputs), strict=True):
            assert holds(got, due, mpmath.mpf(10) ** (8 - DIGITS))
            assert got.rad() < 1e-40
        for name, value in inputs.items():
            gradient = e.stages[f"grad_{name}"]
            direction = exact(rng.normal(size=np.shape(value)))
            ahead, behind = (total(inputs | {name: value + s * direction * STEP}) for s in (1, -1))
            slope = np.sum(tape.exact(np.asarray(direction, dtype=float)) * gradient)
            assert holds(slope, (ahead - behind) / (2 * STEP), mpmath.mpf(10) ** -36), name
            assert all(entry.rad() < 1e-40 for entry in np.ravel(gradient)), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_natural_scale_is_the_sum_of_jacobians(variant):
    """Σ_j G_j‖∇z_j‖ of the polar form against the one by complex step, to what float64 leaves of that."""
    from refloss.witnesses.problem import loss_problem

    rng = np.random.default_rng(5)
    loss, at = make(variant), example(variant, rng)
    targets = check.targets(at["labels"], 6, 4, loss)
    problem = loss_problem(loss, at["x"], at["W"], targets, at.get("b"), np.asarray(0.75))
    e = enclose(loss, **at, upstream=0.75, bits=256)
    for name, expected in problem.scale.items():
        scale = np.array([float(v) for v in np.ravel(e.scales[f"grad_{name}"])])
        np.testing.assert_allclose(scale, expected, rtol=1e-9, err_msg=name)


def test_radii_shrink_with_the_precision():
    rng = np.random.default_rng(1)
    at = example("arcface", rng)
    widths = []
    for bits in (128, 256, 512, 1024):
        e = enclose(refloss.ArcFace(), **at, bits=bits)
        widths.append(max(float(v.rad()) for v in np.ravel(e.stages["grad_x"])))
    assert all(b < a * 2.0**-100 for a, b in pairwise(widths))


# -- where the branches of ψ meet -------------------------------------------------------------------

KNOTS = {
    "90°, m = 2": ([[1.0, 0.0, 0.0]], [[0.0, 3.0, 0.0], [1.0, 1.0, 2.0]], 2),
    "90°, m = 4": ([[1.0, 2.0, 0.0]], [[-2.0, 1.0, 0.0], [1.0, 1.0, 2.0]], 4),
    "60°, m = 3": ([[1.0, 1.0, 0.0]], [[1.0, 0.0, 1.0], [1.0, 1.0, 2.0]], 3),
    "120°, m = 3": ([[1.0, 1.0, 0.0]], [[-1.0, 0.0, -1.0], [1.0, 1.0, 2.0]], 3),
    "45°, m = 4": ([[1.0, 0.0, 0.0]], [[1.0, 1.0, 0.0], [1.0, 1.0, 2.0]], 4),
}


@pytest.mark.parametrize("annealing", [0.0, 2.5])
@pytest.mark.parametrize("name", ["l_softmax", "a_softmax", "f_norm_sphereface"])
@pytest.mark.parametrize(("x", "W", "m"), KNOTS.values(), ids=KNOTS)
def test_at_an_exact_knot_the_union_of_both_branches_is_sharp(x, W, m, name, annealing):
    """ψ(kπ/m) = 1 − 2k − … is the same from both sides, and so is its slope, ψ' = 0."""
    loss = refloss.get(name, margin=m, annealing=annealing)
    e = enclose(loss, x, W, [0], bits=256)
    for stage in ("logits", "losses", "grad_logits", "grad_x", "grad_W"):
        assert all(v.rad() < 1e-60 for v in np.ravel(e.stages[stage])), stage
    if not annealing:
        k = round(float(e.stages["theta"][0]) * m / np.pi)
        x_norm, W_norm = np.linalg.norm(x[0]), np.linalg.norm(W[0])
        radius = {"l_softmax": x_norm * W_norm, "a_softmax": x_norm, "f_norm_sphereface": 64.0}[name]
        due = radius * ((-1) ** k * np.cos(k * np.pi) - 2 * k)
        assert float(e.stages["logits"][0, 0]) == near(due, 1e-14)


@pytest.mark.parametrize("options", [{"easy_margin": True}, {"past_pi": "linear", "margin": 1.0}])
def test_a_jump_within_reach_is_held_on_both_sides(options):
    """Between two doubles the jump cannot lie on the point, yet 128 bits may not tell: never the wrong side alone."""
    loss = refloss.ArcFace(scale=1.0, **options)
    theta = np.pi / 2 if "easy_margin" in options else np.pi - 1.0
    x, W = [[np.cos(theta), np.sin(theta)]], [[1.0, 0.0], [0.0, 1.0]]
    coarse, fine = (enclose(loss, x, W, [0], bits=bits).stages["logits"][0, 0] for bits in (128, 512))
    assert coarse.contains(fine)


def test_comparisons_that_stay_open_carry_both_values():
    """|v| of a ball around 0, and a floor that two integers share."""
    wide = tape.Balls(np.array([arb(0, 1)], dtype=object))
    assert all(tape.join(abs(wide)).value[0].contains(v) for v in (0, 1))
    assert tape.join(floor(wide)).value[0].contains(-1)
    halves = tape.where(wide < 0.5, 1.0, 2.0) + tape.where(wide < -0.5, 10.0, 20.0)
    held = tape.join(halves).value[0]
    assert all(held.contains(v) for v in (11, 21, 22))


# -- poles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["softmax", "l_softmax", "a_softmax", "f_norm_sphereface", "l2_softmax", "am_softmax"])
def test_smooth_losses_have_sharp_gradients_at_exact_poles(name, sign):
    """x ∥ W_y in general position: no tangent, and none needed."""
    x, W = sign * np.array([[3.0, 6.0, 9.0]]), np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]])
    e = enclose(refloss.get(name), x, W, [0], bits=256)
    assert not e.cone.any()
    assert all(v.rad() < 1e-55 for stage in ("grad_x", "grad_W") for v in np.ravel(e.stages[stage]))
    if "theta" in e.stages:
        assert e.stages["theta"][0].overlaps(arb.pi() if sign < 0 else arb(0))


def test_a_cone_is_marked_and_has_the_radius_of_its_slope():
    """ArcFace at θ = 0: |g_y| s sin m / ‖x‖."""
    x, W = np.array([[3.0, 6.0, 9.0]]), np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]])
    loss = refloss.ArcFace(scale=2.0)
    e = enclose(loss, x, W, [0])
    g = float(e.stages["grad_logits"][0, 0])
    assert e.cone.tolist() == [True]
    assert float(e.spread["grad_x"][0]) == near(abs(g) * 2 * np.sin(0.5) / np.linalg.norm(x), 1e-14)
    assert float(e.spread["grad_W"][0]) == near(abs(g) * 2 * np.sin(0.5) / np.linalg.norm(W[0]), 1e-14)
    assert not enclose(refloss.ArcFace(detach_margin=True), x, W, [0]).cone.any()
    assert not enclose(loss, [[2.0]], [[1.0], [-3.0]], [0]).cone.any()


@pytest.mark.parametrize("angle", [1e-12, 1e-100, 1e-300])
def test_near_a_pole_precision_restores_the_slope(angle):
    """ArcFace turns towards W with s sin(θ + m) however near the pole is."""
    x, W = np.array([[1.0, angle]]), np.array([[1.0, 0.0], [0.2, 1.0]])
    e = enclose(refloss.ArcFace(scale=2.0), x, W, [0], bits=4096)
    g = e.stages["grad_logits"][0]
    c, s = 0.2 / np.hypot(0.2, 1), 1 / np.hypot(0.2, 1)
    expected = float(g[0]) * -2 * np.sin(0.5 + angle) + float(g[1]) * 2 * s
    assert e.stages["theta"][0].overlaps(arb(angle).atan())
    assert float(e.stages["grad_x"][0, 1]) == near(expected, 1e-9)
    assert c == near(float(e.stages["cos_theta"][0, 1]), 1e-9)


# -- sizes, and singular rows -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 1000, 16), (8, 5, 4096)], ids=["C = 1000", "D = 4096"])
@pytest.mark.parametrize("name", refloss.losses())
def test_large_inputs_take_seconds(name, shape):
    n, classes, d = shape
    at = example(name, np.random.default_rng(0), n=n, classes=classes, d=d)
    started = perf_counter()
    e = enclose(make(name, classes=classes), **at)
    assert perf_counter() - started < 20
    assert e.stages["grad_W"].shape == (classes, d)
    out = make(name, classes=classes).forward(**at)
    assert float(e.stages["loss"].item()) == near(float(out.loss), 1e-12)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if hasattr(make(v), "zero_norm")])
def test_zero_rows_and_ignored_rows_agree_with_the_passes(variant):
    loss = make(variant, zero_norm="zero", ignore_index=-1)
    at = example(variant, np.random.default_rng(3))
    at["x"][0], at["W"][1], at["labels"][2] = 0.0, 0.0, -1
    e = enclose(loss, **at, bits=256)
    out = loss.forward(**at)
    for name, value in (out.stages() | loss.backward(out).stages()).items():
        due = np.array([float(v) for v in np.ravel(e.stages[name])]).reshape(np.shape(value))
        scale = np.array([float(v) for v in np.ravel(e.scales[name])]).reshape(np.shape(e.scales[name]))
        if name in ("grad_x", "grad_W"):
            scale = scale[:, None]  # one per row
        assert_close(value, due, scale, 1e-9, name)


def test_one_dimension_and_one_class_give_exactly_nothing():
    e = enclose(refloss.ArcFace(), [[2.0]], [[1.0], [-3.0]], [0])
    assert all(v == 0 for v in np.ravel(e.stages["grad_x"]))
    e = enclose(refloss.Softmax(), [[2.0, 1.0]], [[1.0, 3.0]], [0])
    assert all(v == 0 for v in np.ravel(e.stages["grad_W"]))


def test_what_the_loss_refuses_is_refused():
    with pytest.raises(ValueError, match="labels"):
        enclose(refloss.Softmax(), np.ones((2, 3)), np.ones((4, 3)), [0, 9])
    with pytest.raises(TypeError, match="loss"):
        enclose(object(), np.ones((2, 3)), np.ones((4, 3)), [0, 1])
