"""`error_bound` is never exceeded: not by a loss, not by one rule, not at the edges; and it is not idle either.

The truth is precision="extended" with its own bound where that is far below double's, mpmath (`many_digits`) or exact
rationals elsewhere. A bound is absolute, entrywise and shaped like its stage.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType

import mpmath
import numpy as np
import pytest
from helpers import PSI, SOFT, SUBNORMAL, VARIANTS, example, in_blocks, make, need
from helpers import SETTINGS as ORDINARY
from many_digits import bare_truth, truth

import refloss
from refloss.losses import passes
from refloss.precision import bounded, products
from refloss.precision.bounded import RULES, Bounded, ProbablyBounded
from refloss.precision.numbers import nearest

every_variant = pytest.mark.parametrize("variant", VARIANTS)

SETTINGS = ORDINARY | {"all smoothed": {"label_smoothing": 1.0}}


def run(loss, *inputs, upstream=1.0, probable=False, **named):
    """Stage → value and stage → bound of both passes; `complement` among them."""
    out = loss.forward(*inputs, **named)
    grads = loss.backward(out, upstream)
    values = {**out.stages(), **grads.stages()}
    if out.complement is not None:
        values["complement"] = out.complement
    which = "probable_error_bound" if probable else "error_bound"
    return values, {**getattr(out, which), **getattr(grads, which)}


def assert_within(values, bounds, truth, slack, where=""):
    """|value − truth| ≤ bound + slack, entry by entry, stage by stage."""
    assert values.keys() == bounds.keys()
    for name, value in values.items():
        error, bound = np.abs(np.asarray(value) - truth[name]), bounds[name]
        assert np.shape(bound) == np.shape(value), name
        assert (np.asarray(bound) >= 0).all(), name  # NaN is not
        over = ~(error <= bound + slack[name])
        if np.any(over):
            at = np.unravel_index(np.argmax(np.where(over, error - bound, -1)), error.shape)
            pytest.fail(f"{where}{name}{list(map(int, at))}: off by {error[at]:.3g}, bound {bound[at]:.3g}")


def assert_double_within(variant, inputs, options, upstream=1.0, classes=4):
    """Double within its bound of what extended gives, which is itself within its own."""
    values, bounds = run(make(variant, classes, **options), upstream=upstream, **inputs)
    more = make(variant, classes, precision="extended", **options)
    assert_within(values, bounds, *run(more, upstream=upstream, **inputs), where=f"{variant} ")
    return bounds


def settings_of(variant, setting, **more):
    options = {**SETTINGS[setting], **more}
    if variant == "weighted_softmax":  # its weights are required and stand already
        options.pop("class_weights", None)
    return options


# -- double, every loss and option -----------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
@every_variant
def test_double_stays_within(variant, setting, rng):
    """Every variant, reduction, weighting and smoothing, upstream by row; the bound is finite at ordinary inputs."""
    options = settings_of(variant, setting)
    upstream = rng.normal(size=6) if options.get("reduction") == "none" else -1.1
    d = dict(zip(SETTINGS, (7, 2, 3, 4, 1), strict=True))[setting]
    bounds = assert_double_within(variant, example(variant, rng, d=d), options, upstream)
    for name, bound in bounds.items():
        assert np.isfinite(bound).all(), name


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets(name, rng):
    """Soft targets whose sum is not 1; and p itself, where the gradient cancels altogether."""
    inputs = example(name, rng, n=5)
    for options in ({}, settings_of(name, "weighted_mean"), settings_of(name, "sum-smoothed")):
        assert_double_within(name, inputs | {"labels": rng.uniform(size=(5, 4))}, options)
        p = make(name).forward(**inputs).probabilities
        assert_double_within(name, inputs | {"labels": p}, options)


@pytest.mark.parametrize("D", [64, 512])
@every_variant
def test_many_dimensions(variant, D, rng):
    """D up to 512, logits of size √D or s."""
    assert_double_within(variant, example(variant, rng, n=3, d=D), {})


def hard_rows(rng, W, y):
    """Rows at hard angles to W_y: next to 0 and π, at knots, on the boundary of the jump, at ties, at right angles."""
    w = W[y] / np.linalg.norm(W[y])
    across = np.array([-w[1], w[0], 0.0])
    across = across / np.linalg.norm(across)
    rows = [s * (w + t * across) for s in (1, -1) for t in (0.0, 1e-17, 1e-16, 1e-15, 1e-9, 1e-3)]
    angles = [np.pi / 2, np.pi / 3, np.pi / 4, 3 * np.pi / 4, 2 * np.pi / 3, np.pi - 0.5, np.pi - 1.0]
    nudges = (-1e-12, -1e-16, 0.0, 1e-16, 1e-12)
    rows += [np.cos(a + e) * w + np.sin(a + e) * across for a in angles for e in nudges]
    return np.array(rows) * rng.choice([1.0, 1.7, 0.1, 30.0], size=(len(rows), 1))


@pytest.mark.parametrize("scale", [1e-3, 64.0, 1e4])
@every_variant
def test_near_poles_knots_and_jumps(variant, scale, rng):
    """θ within roundings of 0, π, kπ/m, π − m and π/2, with logits from 1e-3 to 1e4.

    A jump or kink may be decided differently by doubles: the bound covers both sides.
    """
    options = {"reduction": "none"}
    if hasattr(VARIANTS[variant][0], "scale"):
        options["scale"] = scale
    W = np.array([[3.0, 1.0, -2.0], [0.1, 0.7, 0.4], [0.5, -1.0, 0.75], [0.1, 0.7, 0.4]])  # 1 and 3 tie
    y = 0 if scale == 64 else 1
    x = hard_rows(rng, W, y)
    if "scale" not in options:
        x = x * scale
    if "continued" in variant:  # a continuation's joint has a test of its own
        x = x[np.abs(np.arange(len(x)) - 24) > 2]
    labels = np.full(len(x), y)
    assert_double_within(variant, {"x": x, "W": W, "labels": labels}, options, rng.normal(size=len(x)))


@pytest.mark.parametrize("power", [-100, 100])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith(("f_norm", "am_", "arcface"))])
def test_tiny_and_huge_norms(variant, power, rng):
    """Norms of 1e±100, mixed in one batch, where the logits do not feel them."""
    inputs = example(variant, rng, n=4)
    inputs["x"] *= np.array([[1.0], [10.0**power], [10.0**-power], [1e50]])
    inputs["W"] *= np.array([[10.0**power], [1.0], [1e-60], [1e60]])
    assert_double_within(variant, inputs, {"reduction": "sum"})


@every_variant
def test_zero_rows(variant, rng):
    """zero_norm="zero": zero rows of x and W, one of them a target."""
    inputs = example(variant, rng)
    inputs["x"][1] = inputs["W"][2] = 0.0
    options = {"zero_norm": "zero"} if hasattr(VARIANTS[variant][0], "zero_norm") else {}
    assert_double_within(variant, inputs, options)


@pytest.mark.parametrize("size", [1e-3, 1.0, 40.0, 750.0, 1e4, 1e6])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_confident_and_anti_confident(options, size, rng):
    """Bare logits with gaps up to 1e6: p and 1 − p from 1 down to subnormals and 0; ties and a masked class."""
    z = rng.normal(size=(8, 4)) * size
    z[1, 2] = z[1].max()
    z[2] = z[2, 0]
    y = np.array([0, 2, 3, 1, 0, 1, 2, 3])
    z[4, 3] = -np.inf if not options.get("label_smoothing") else z[4, 3]
    z[6, 2] = z[6].max() + size  # confident
    z[7, 3] = z[7].min() - size  # the opposite
    upstream = rng.normal(size=8) if options.get("reduction") == "none" else 1e-3
    extended = refloss.CrossEntropy(precision="extended", **options)
    values, bounds = run(refloss.CrossEntropy(**options), z, y, upstream=upstream)
    due, slack = run(extended, z, y, upstream=upstream)
    for v in (values, due):
        v.pop("logits")  # given, hence exact
    assert not bounds["logits"].any() if "logits" in bounds else True
    for v in (bounds, slack):
        v.pop("logits", None)
    assert_within(values, bounds, due, slack)


def test_images_and_soft_images(rng):
    """CrossEntropy with classes on axis 1, labels and soft targets: bounds laid out like the stages."""
    z = rng.normal(size=(2, 3, 2, 4)) * 10
    targets = [rng.integers(0, 3, size=(2, 2, 4)), rng.uniform(size=z.shape)]
    for reduction in ("mean", "none"):
        for target in targets:
            upstream = rng.normal(size=(2, 2, 4)) if reduction == "none" else 1.0
            options = {"axis": 1, "reduction": reduction, "class_weights": (0.2, 1.0, 3.0)}
            double, more = (refloss.CrossEntropy(precision=p, **options) for p in ("double", "extended"))
            values, bounds = run(double, z, target, upstream=upstream)
            assert_within(values, bounds, *run(more, z, target, upstream=upstream))


# -- extended against mpmath -----------------------------------------------------------------------


def squared_psi(theta, xp):
    return xp.cos(theta) - (1 - xp.cos(theta)) ** 2


def squared_psi_slope(theta, xp):
    return -xp.sin(theta) - 2 * (1 - xp.cos(theta)) * xp.sin(theta)


def assert_near_truth(loss, due, out, grads):
    """Losses and gradients within their bounds of numbers of mpmath."""
    values = {"losses": out.losses, "loss": out.loss, "probabilities": out.probabilities, **grads.stages()}
    bounds = {**out.error_bound, **grads.error_bound}
    truths = {"losses": due.losses, "loss": due.loss}
    if not out.ignored.any():  # `truth` replaces the rows that do not count
        truths["probabilities"] = due.p
    truths |= {f"grad_{name}": value for name, value in due.gradients.items()}
    for name, exact in truths.items():
        got, bound = np.ravel(values[name]), np.ravel(bounds[name])
        for v, t, e in zip(got, np.ravel(np.asarray(exact, dtype=object)), bound, strict=True):
            assert abs(mpmath.mpf(float(v)) - t) <= mpmath.mpf(float(e)), f"{name}: {v}, due {t}, bound {e}"


@pytest.mark.parametrize("precision", ["double", "extended"])
@pytest.mark.parametrize("setting", ["weighted_mean", "none-ignored"])
@every_variant
def test_within_of_mpmath(variant, setting, precision, rng):
    """Both precisions against 100 digits: every variant and option."""
    options = settings_of(variant, setting, precision=precision)
    if variant.startswith("margin_softmax"):  # a slope whose constants are not rounded beforehand
        options |= {"psi": squared_psi, "dpsi": squared_psi_slope}
    upstream = np.array([0.7, -1.3, 1e-9]) if options.get("reduction") == "none" else -1.1
    inputs = example(variant, rng, n=3)
    loss = make(variant, **options)
    with mpmath.workdps(100):
        due = truth(loss, **inputs, upstream=upstream)
        out = loss.forward(**inputs)
        assert_near_truth(loss, due, out, loss.backward(out, upstream))


@pytest.mark.parametrize("precision", ["double", "extended"])
@pytest.mark.parametrize("size", [1e-9, 30.0, 720.0])
def test_bare_logits_within_of_mpmath(size, precision, rng):
    """Bare logits with p down to subnormals, against 1500 digits."""
    z, y = rng.normal(size=(4, 3)) * size, np.array([0, 1, 2, 0])
    loss = refloss.CrossEntropy(precision=precision, label_smoothing=0.1)
    with mpmath.workdps(1500):
        out = loss.forward(z, y)
        assert_near_truth(loss, bare_truth(loss, z, y, digits=1500), out, loss.backward(out))


@pytest.mark.parametrize("entries", [1, 9, 1 << 20], ids="{} entries".format)
def test_bounds_in_blocks_of_classes(entries, rng, monkeypatch):
    """The bound of a pass in blocks holds of that pass: blocks of one class, a few, all."""
    in_blocks(monkeypatch, entries)
    inputs = example("arcface", rng, n=3)
    loss = make("arcface", precision="extended", scale=30.0)
    with mpmath.workdps(100):
        out = loss.forward(**inputs)
        assert_near_truth(loss, truth(loss, **inputs), out, loss.backward(out))


# -- what the bound looks like ---------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["double", "extended"])
@every_variant
def test_shape_and_manners(variant, precision, rng):
    """Read-only float64 arrays by stage in a read-only mapping, computed once; the record is unchanged."""
    loss, inputs = make(variant, precision=precision), example(variant, rng)
    out = loss.forward(**inputs)
    grads = loss.backward(out)
    before = {name: np.array(v) for name, v in {**out.stages(), **grads.stages()}.items()}
    for record, names in ((out, {*out.stages(), "complement"}), (grads, set(grads.stages()))):
        for which in ("error_bound", "probable_error_bound"):
            bounds = getattr(record, which)
            assert isinstance(bounds, MappingProxyType)
            assert getattr(record, which) is bounds
            assert set(bounds) == names
            for bound in bounds.values():
                assert bound.dtype == np.float64
                with pytest.raises(ValueError, match="read-only"):
                    bound[...] = 0.0
    for name, value in {**out.stages(), **grads.stages()}.items():
        np.testing.assert_array_equal(value, before[name])


@every_variant
def test_bounds_of_exact_zeros(variant, rng):
    """C = 1, zero upstream, an ignored row: gradients that are exactly 0 have a bound of 0, or of a subnormal."""
    inputs = example(variant, rng, classes=1)
    bounds = run(make(variant, 1), **inputs)[1]
    assert np.max(bounds["loss"]) <= 4 * SUBNORMAL
    cases = [(f"C = 1, {name}", v) for name, v in bounds.items() if name.startswith("grad")]
    inputs = example(variant, rng)
    bounds = run(make(variant), **inputs, upstream=0.0)[1]
    cases += [(f"upstream 0, {name}", v) for name, v in bounds.items() if name.startswith("grad")]
    bounds = run(make(variant, ignore_index=1), **inputs)[1]
    ignored = inputs["labels"] == 1
    cases += [(f"ignored, {name}", bounds[name][ignored]) for name in ("losses", "grad_logits", "grad_x")]
    for what, bound in cases:
        assert np.max(bound, initial=0.0) <= 1e-300, what


@pytest.mark.parametrize("name", ["w_norm_softmax", "am_softmax", "arcface", "f_norm_sphereface"])
def test_bounds_in_one_dimension(name, rng):
    """D = 1: no direction to turn in, grad_W is exactly 0 and so is its bound."""
    values, bounds = run(make(name), **example(name, rng, d=1))
    assert not values["grad_W"].any()
    assert bounds["grad_W"].max() <= 1e-300


def ratios(variant, D, rng, probable):
    """Bound over measured error, of every entry that is off at all."""
    inputs = example(variant, rng, n=6, d=D)
    values, bounds = run(make(variant), probable=probable, **inputs)
    due, _ = run(make(variant, precision="extended"), **inputs)
    found = []
    for name, value in values.items():
        error = np.abs(np.asarray(value) - due[name])
        found.append(np.ravel(bounds[name])[np.ravel(error) > 0] / np.ravel(error)[np.ravel(error) > 0])
    return np.concatenate(found)


@pytest.mark.parametrize("D", [2, 32, 512])
def test_probable_bound_is_not_idle(D, rng):
    """The probable bound is at most 1000 times the measured error at the median, and rarely exceeded."""
    found = np.concatenate([ratios(variant, D, rng, probable=True) for variant in VARIANTS])
    assert np.median(found) <= 1000
    assert np.mean(found < 1) <= 0.01  # it may fail, rarely


@pytest.mark.parametrize("D", [1, 32])
@every_variant
def test_probable_is_at_most_proven(variant, D, rng):
    """√n ≤ n: every entry."""
    inputs = example(variant, rng, d=D)
    likely, proven = (run(make(variant), probable=p, **inputs)[1] for p in (True, False))
    for name, bound in likely.items():
        assert (bound <= proven[name]).all(), name


def test_probable_bound_grows_like_a_root(rng):
    """Of a sum of n terms the proven bound has n, the probable one √n."""
    v, w = rng.uniform(1, 2, size=(1, 900)), rng.uniform(1, 2, size=(1, 900))
    proven, likely = (products.inner(kind(v), kind(w)).error.item() for kind in (Bounded, ProbablyBounded))
    np.testing.assert_allclose(proven / likely, 30, rtol=1e-6)


@pytest.mark.parametrize("spoiled", ["_exp", "_multiply", "_divide"])
def test_a_wrong_rule_is_noticed(spoiled, rng, monkeypatch):
    """Negative control on a whole loss: a rule that forgets what it inherits breaks the bound."""
    right = getattr(bounded, spoiled)

    def wrong(*args):
        return right(*(Bounded(v.value) if isinstance(v, Bounded) else v for v in args))

    keys = [key for key, rule in RULES.items() if rule is right]
    for key in keys:
        monkeypatch.setitem(RULES, key, wrong)
    z = rng.normal(size=(200, 5)) * 300
    inputs = {"x": z, "W": rng.normal(size=(4, 5)), "labels": np.zeros(200, dtype=int)}
    with pytest.raises(pytest.fail.Exception):
        assert_double_within("softmax" if spoiled == "_exp" else "arcface", inputs, {"reduction": "none"})


# -- holes that were there, by name ----------------------------------------------------------------


def assert_certified(loss, x, W, upstream=1.0):
    """Every stage within its own bound of balls, label 0."""
    need("flint")
    certify = importlib.import_module("refloss.proof.certify")
    x, W = np.array(x, dtype=float), np.array(W, dtype=float)
    values, bounds = run(loss, x, W, [0] * len(x), upstream=upstream)
    enclosures = certify.enclose_decided(loss, x, W, [0] * len(x), upstream=upstream)
    for stage in certify.measure(enclosures, values, bounds).values():
        assert stage.within, f"{stage.stage}{stage.index}: {stage.got}, {stage.expected}, bound {stage.limit}"


both = pytest.mark.parametrize("precision", ["double", "extended"])


@both
def test_an_entry_of_1e_300_beside_1(precision):
    """x = (1, 1e-300), W = (1, 0), (0.2, 1): grad_W of ArcFace, where products underflow."""
    loss = refloss.ArcFace(precision=precision)
    assert_certified(loss, [[1.0, 1e-300]], [[1.0, 0.0], [0.2, 1.0]])


def test_a_probability_that_underflowed_though_its_gap_is_uncertain():
    """p = 0 in double where the truth is a subnormal or more: the gap's own error is in the bound."""
    x, W = np.array([[1e8 / 3, 1e8 / 7]]), np.array([[1.0, 0.0], [1.0 - 2.2e-5, -1e-7]])
    for slide in np.linspace(-1e-7, 1e-7, 9):
        inputs = {"x": x, "W": W + slide * np.array([[0.0, 0.0], [1.0, 0.0]]), "labels": [0]}
        bounds = assert_double_within("softmax", inputs, {}, classes=2)
        out = refloss.Softmax().forward(**inputs)
        assert out.probabilities[0, 1] > 0 or bounds["probabilities"][0, 1] > 0


@both
@pytest.mark.parametrize("sign", [1, -1], ids=["near 0", "near π"])
def test_a_near_pole_pair_whose_gradient_is_0_but_whose_error_is_not(sign, precision):
    """p_1 underflows to 0 while x is next to W_1: the pair counts in the bounds of grad_x and grad_W all the same."""
    x, W = [[1.0, 1e-9]], [[-0.8 * sign, 0.6], [1.0 * sign, 0.0], [0.0, 1.0]]
    assert_certified(refloss.AMSoftmax(scale=440.0, precision=precision), x, W)


@both
@pytest.mark.parametrize("upstream", [5e-324, 1e-310, 1e-200])
@pytest.mark.parametrize("name", ["softmax", "a_softmax", "arcface", "l2_softmax"])
def test_subnormals(name, upstream, precision, rng):
    """Subnormal upstream, subnormal gradients: what is lost at the end of the range is in the bound."""
    inputs = example(name, rng, n=1, classes=2)
    inputs["x"] /= 1e3
    assert_certified(make(name, 2, precision=precision), inputs["x"], inputs["W"], upstream)


@pytest.mark.parametrize("nudge", [-1e-16, 0.0, 1e-16])
@pytest.mark.parametrize(
    ("angle", "options"),
    [(np.pi - 1.0, {"past_pi": "linear", "margin": 1.0}), (np.pi / 2, {"easy_margin": True})],
    ids=["past_pi", "easy_margin"],
)
def test_a_jump_within_rounding_is_covered_from_both_sides(angle, options, nudge, rng):
    """Next to a jump the bound of the logit is as wide as the jump, unless the side is known."""
    loss = refloss.ArcFace(scale=8.0, **options)
    theta = angle + nudge
    w = np.array([0.6, 0.8])
    x = [[np.cos(theta) * w[0] - np.sin(theta) * w[1], np.cos(theta) * w[1] + np.sin(theta) * w[0]]]
    W = [w, [1.0, 0.0]]
    out = loss.forward(x, W, [0])
    m = loss.margin
    sides = (np.cos(theta + m), np.cos(theta) - (m * np.sin(m) if loss.past_pi == "linear" else 0))
    for side in sides:
        assert abs(out.logits[0, 0] - 8 * side) <= out.error_bound["logits"][0, 0] * (1 + 1e-12)
    assert out.error_bound["logits"][0, 0] >= 0.999 * 8 * abs(sides[0] - sides[1])


def test_a_jump_that_is_far_away_costs_nothing():
    """1e-12 from the jump the bound is that of rounding."""
    loss = refloss.ArcFace(scale=8.0, past_pi="linear", margin=1.0)
    for nudge in (-1e-12, 1e-12):
        theta = np.pi - 1.0 + nudge
        out = loss.forward([[np.cos(theta), np.sin(theta)]], [[1.0, 0.0], [0.0, 1.0]], [0])
        assert out.error_bound["logits"].max() <= 1e-13


def test_a_right_angle_that_is_exact_is_no_jump():
    """x ⟂ W_y in numbers whose products are exact: the side of easy_margin is known."""
    out = refloss.ArcFace(scale=8.0, easy_margin=True).forward([[0.0, 3.0]], [[2.0, 0.0], [1.0, 1.0]], [0])
    assert out.error_bound["logits"][0, 0] <= 1e-14


def joint(side):
    """A continuation with a kink: cos 3θ has slope 0 at π/3, D has −2.5; and x within roundings of π/3."""
    D = (lambda theta, xp: -1 - 2.5 * (theta - xp.pi / 3), lambda theta, xp: -2.5 + 0 * theta)
    x = [[np.cos(np.pi / 3), np.sin(np.pi / 3) + side * 2.0**-53]]
    return D, x


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("side", [-2, -1, 0, 1, 2])
@both
def test_the_joint_of_a_continuation(precision, name, side):
    """The side of the joint π/m may be another than that of the exact θ: value and slope are covered."""
    D, x = joint(side)
    loss = make(name, 2, margin=3, continuation=D, precision=precision)
    assert_certified(loss, x, [[1.0, 0.0], [0.3, 0.5]])


@pytest.mark.parametrize("entry", [5e-324, 1e-323, 1e-310])
@both
def test_rows_that_span_more_than_the_range(precision, entry):
    """x = (1, 5e-324) is not parallel to (1, 0), though their cross product underflows once a row is halved."""
    loss = refloss.ArcFace(scale=8.0, precision=precision)
    assert_certified(loss, [[1.0, entry]], [[1.0, 0.0], [0.3, 0.5]])
    assert_certified(loss, [[1.0, entry, 1e-310]], [[1.0, 0.0, 0.0], [0.3, 0.5, -0.7]])


# -- a user's own functions ------------------------------------------------------------------------

NO_RULE = {
    "tanh": (lambda t, xp: xp.tanh(1 - t), lambda t, xp: -1 + 0 * t),
    "np.tanh": (lambda t, xp: np.tanh(1 - t), lambda t, xp: -1 + 0 * t),
    "minimum": (lambda t, xp: xp.minimum(xp.cos(t), 0.5), lambda t, xp: -xp.sin(t)),
    "a real power": (lambda t, xp: 1 - t**0.5, lambda t, xp: -1 + 0 * t),
    "asarray": (lambda t, xp: 1 - np.asarray(t), lambda t, xp: -1 + 0 * t),
    "interp": (lambda t, xp: np.interp(t, [0, 4], [1, -1]), lambda t, xp: -0.5 + 0 * t),
}


@pytest.mark.parametrize("psi", NO_RULE.values(), ids=NO_RULE)
def test_a_function_without_a_rule_is_named(psi):
    """Double computes with any function; asked for its bound it raises TypeError, and the record stays usable."""
    loss = refloss.MarginSoftmax(psi=psi[0], dpsi=psi[1], scale=4.0)
    out = loss.forward([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0])
    grads = loss.backward(out)
    for record in (out, grads):
        for which in ("error_bound", "probable_error_bound"):
            with pytest.raises(TypeError, match=r"extended precision and error bounds|no plain array|plain calls"):
                getattr(record, which)
    assert np.isfinite(grads.x).all()


def test_a_users_functions_with_rules(rng):
    """Every function that has a rule may stand in ψ; the bound holds against extended, or balls where it has none."""

    def psi(t, xp):
        return xp.cos(xp.sqrt(t * t + 0.25)) + xp.exp(-t) - xp.log1p(t) + xp.abs(t - 9) - xp.square(t)

    def dpsi(t, xp):
        root = xp.sqrt(t * t + 0.25)
        return -xp.sin(root) * t / root - xp.exp(-t) - 1 / (1 + t) - 1 - 2 * t

    options = {"psi": psi, "dpsi": dpsi, "scale": 4.0}
    assert_double_within("margin_softmax-scale", example("margin_softmax-scale", rng), options)


class Unread(passes.Arithmetic):
    """The arithmetic of a bounded pass, read for its values."""

    def read(self, v):
        return nearest(v)


@pytest.mark.parametrize("variant", VARIANTS)
@both
def test_the_bound_is_of_the_very_numbers_of_the_record(variant, precision, rng):
    """The pass that carries the bounds computes every stage bit for bit as the record holds it."""
    at, loss = example(variant, rng), make(variant, precision=precision)
    out = loss.forward(**at)
    passes = out._passes.bounds(Bounded)
    passes.arithmetic = Unread(*passes.arithmetic)
    passes.forward()
    for name, value in out.stages().items():
        np.testing.assert_array_equal(passes.stage(name), value)
    gradients = passes.backward(np.array(1.0))
    gradients["logits"] = passes.grad_logits(np.array(1.0))
    for name, value in gradients.items():
        np.testing.assert_array_equal(value, getattr(loss.backward(out), name))
