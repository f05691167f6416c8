"""The envelopes: derived from perturbed arithmetic, nested, wide enough for honest code and too narrow for a bug."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import NAMES, need

import refloss
from refloss.cases.oracle import cases
from refloss.precision.dtypes import DTYPES, rounded, ulp
from refloss.testing import check
from refloss.testing.judging.draws import STABLE, TEXTBOOK, Draws
from refloss.testing.judging.perturbed import Noise, gradients, namespace, variable
from refloss.testing.judging.truth import GRADES, truth_on
from refloss.testing.judging.units import ROWWISE
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook import formulas

WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0)


def make(name, **options):
    return refloss.get(name, **({"class_weights": WEIGHTS} if name == "weighted_softmax" else {}), **options)


def truths(loss, dtype, only_quick=True):
    for case in cases(loss, dtype):
        if case.quick or not only_quick:
            upstream = case.upstreams if loss.reduction == "none" else case.upstream
            yield case, truth_on(loss, case.inputs, case.labels, upstream, dtype)


# -- rounding to a dtype ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("float32", np.float32), ("float16", np.float16)])
def test_rounding_is_numpys(name, kind):
    """Subnormals, ties, overflow: the same as NumPy's own cast."""
    rng = np.random.default_rng(0)
    values = np.ldexp(rng.normal(size=20000), rng.integers(-170, 130, 20000))
    values = np.concatenate(
        [values, [0.0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520, 2.0**-149, 2.0**-150, 3 * 2.0**-26]]
    )
    with np.errstate(over="ignore"):
        due = values.astype(kind).astype(float)
    np.testing.assert_array_equal(rounded(values, DTYPES[name]), due)


def test_bfloat16_rounds_to_eight_bits():
    """Numbers worked out by hand: 1 + 2^-8 is a tie, and goes to the even neighbour."""
    one = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-30, -(1 + 2.0**-7), 3.4e38])
    due = [1.0, 1 + 2.0**-6, 1 + 2.0**-7, -(1 + 2.0**-7), np.inf]
    np.testing.assert_array_equal(rounded(one, DTYPES["bfloat16"]), due)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_ulp_is_the_spacing(dtype):
    values = np.ldexp(np.random.default_rng(1).normal(size=1000), np.random.default_rng(2).integers(-30, 15, 1000))
    values[:3] = 0.0, 1.0, -2.0
    kind = np.dtype(dtype).type
    held = rounded(values, DTYPES[dtype])
    np.testing.assert_array_equal(ulp(held, DTYPES[dtype]), np.abs(np.spacing(np.abs(held).astype(kind))).astype(float))


# -- perturbed arithmetic --------------------------------------------------------------------------


def test_without_noise_the_tape_is_the_derivative():
    """With u = 0 every draw is the textbook value, and the tape's gradients are the reference's."""
    for name in NAMES:
        loss = make(name)
        case = next(c for c in cases(loss, "float64") if c.name == "typical")
        plain = PlainLoss(loss, case.inputs, case.labels, case.upstream)
        plain.run()
        out = loss.forward(case.inputs["x"], case.inputs["W"], case.labels, case.inputs.get("b"))
        due = {**out.stages(), **loss.backward(out, case.upstream).stages()}
        for form in (*STABLE, *TEXTBOOK):
            noise = Noise(DTYPES["float64"], 2, 0, divides_after=form.divides_after, keeps_lse=form.keeps_lse)
            found = Draws(plain, noise, form, {}).stages()
            for stage, value in due.items():
                size = np.max(np.abs(value))
                np.testing.assert_allclose(
                    found[stage][0], value, rtol=0, atol=1e-11 * size, err_msg=f"{name} {form} {stage}"
                )


def test_one_operation_errs_by_u():
    """A lone product is off by exactly ±u, both signs among the draws; an exact one not at all."""
    noise = Noise(DTYPES["bfloat16"], 16, 0)
    x = variable(np.array([3.0]), noise)
    relative = ((x * x).value[:, 0] - 9.0) / 9.0
    assert set(np.round(relative / DTYPES["bfloat16"].u, 9)) == {-1.0, 1.0}
    assert ((x * np.array([1.0])).value == 3.0).all()
    assert (variable(np.array([0.0]), noise) * x).value.any() == np.False_


def test_a_sum_errs_by_its_accumulated_bound():
    """n u Σ|terms|."""
    for n, times in ((4, 4.0), (16, 16.0), (400, 400.0)):
        noise = Noise(DTYPES["float32"], 16, 0)
        value = namespace(noise).sum(variable(np.ones(n), noise), axis=-1).value
        np.testing.assert_allclose(np.abs(value - n).max() / n, times * DTYPES["float32"].u, rtol=1e-6)


def test_what_overflows_in_the_dtype_is_inf():
    noise = Noise(DTYPES["float16"], 4, 0)
    big = variable(np.array([300.0]), noise)
    assert np.isposinf((big * big).value).all()


def test_gradients_reach_through_a_formula():
    """∂/∂v of ‖v‖ is v/‖v‖, to a few u."""
    noise = Noise(DTYPES["float32"], 16, 0)
    v = variable(np.array([[3.0, 4.0]]), noise)
    (g,) = gradients(formulas.norm(namespace(noise), v), np.ones((16, 1)), [v])
    np.testing.assert_allclose(g, np.broadcast_to([[0.6, 0.8]], (16, 1, 2)), rtol=16 * DTYPES["float32"].u)


# -- envelopes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("name", ["softmax", "a_softmax", "arcface"])
def test_envelopes_are_nested_and_hold_the_reference(name, dtype):
    for case, truth in truths(make(name), dtype):
        for stage, due in truth.stages.items():
            assert truth.grade_of(stage, rounded(due, truth.dtype)) == "A", (case.name, stage)
            widths = [truth.allowed(stage, grade) for grade in GRADES]
            for narrow, wide in itertools.pairwise(widths):
                assert (narrow <= wide).all(), (case.name, stage)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_case_has_the_same_envelope(name):
    """Fixed seeds: a verdict can be had again."""
    (_, first), (_, second) = (next(iter(truths(make(name), "float32"))) for _ in range(2))
    for grade in "BCDE":
        for stage in first.stages:
            for one, again in zip(first.envelope[grade], second.envelope[grade], strict=True):
                if stage in one:
                    np.testing.assert_array_equal(one[stage], again[stage])


def test_slack_widens_what_a_formula_may_err_by_and_nothing_else():
    loss = make("arcface")
    case = next(c for c in cases(loss, "float32") if c.name == "typical")
    one, two = (truth_on(loss, case.inputs, case.labels, 1.0, "float32", slack=s) for s in (1.0, 2.0))
    for stage in one.stages:
        np.testing.assert_array_equal(2 * one.allowed(stage, "C"), two.allowed(stage, "C"))
        assert not np.any(two.allowed(stage, "A"))


def test_where_nothing_arrives_the_gradient_must_be_zero():
    """No upstream: no draw strays, so that any gradient at all is wrong."""
    loss = make("softmax")
    case = next(c for c in cases(loss, "float32") if c.name == "upstream_zeros")
    truth = truth_on(loss, case.inputs, case.labels, 0.0, "float32")
    assert truth.grade_of("grad_x", np.zeros_like(truth.stages["grad_x"])) == "A"
    assert truth.grade_of("grad_x", np.full_like(truth.stages["grad_x"], 1e-30)) == "F"


def test_at_a_cone_what_lies_across_the_row_is_accepted_and_nothing_else():
    """x = 2 W_y: a tangential part up to |g| s sin m / ‖x‖ is a generalised gradient; more, or a radial one, is not."""
    loss = refloss.ArcFace(scale=8.0)
    W = np.array([[1.0, 0, 0], [0.8, 0.6, 0]])
    inputs = {"x": 2 * W[:1], "W": W}
    truth = truth_on(loss, inputs, np.array([0]), 1.0, "float32")
    radius = truth.cone["grad_x"][0]
    g = abs(truth.stages["grad_logits"][0, 0])
    np.testing.assert_allclose(radius, g * 8 * np.sin(0.5) / 2, rtol=1e-12)
    across, along = np.array([[0, 0.6, 0.8]]), np.array([[1.0, 0, 0]])
    due = truth.stages["grad_x"]
    room = truth.allowed("grad_x", "C")[0]
    assert truth.passes("grad_x", due + 0.99 * radius * across, "B")
    assert not truth.passes("grad_x", due + 1.01 * (radius + room) * across, "C")
    assert not truth.passes("grad_x", due + (0.5 * radius + 2 * room) * along, "C")
    np.testing.assert_allclose(truth.cone["grad_W"], [g * 8 * np.sin(0.5), 0.0], rtol=1e-12)


def test_a_jump_accepts_either_side():
    """θ = π − m to within the dtype's error of θ: the draws fall on both sides."""
    loss = refloss.ArcFace(past_pi="linear")
    case = next(c for c in cases(loss, "float32") if c.name == "at_pi_minus_m")
    truth = truth_on(loss, case.inputs, case.labels, 1.0, "float32")
    rows = np.flatnonzero(np.abs(truth.out.theta - (np.pi - 0.5)) < 1e-8)
    assert rows.size
    i, y = rows[0], case.labels[rows[0]]
    jump = 64 * abs(-1 - (np.cos(np.pi - 0.5) - 0.5 * np.sin(0.5)))
    assert truth.envelope["C"].largest["logits"][i, y] >= jump


def test_flushed_subnormals_are_no_error():
    """Hardware may flush what is below the normal numbers of float32; half as much again is wrong."""
    loss = refloss.Softmax()
    inputs = {"x": np.array([[1.0, 0.0]]), "W": np.array([[90.0, 0.0], [0.0, 0.0]])}
    truth = truth_on(loss, inputs, np.array([0]), 1.0, "float32")
    due = truth.stages["grad_logits"]
    assert 0 < abs(due[0, 1]) < DTYPES["float32"].smallest_normal
    assert truth.grade_of("grad_logits", np.zeros_like(due)) == "A"


@pytest.mark.parametrize("stage", ["loss", "grad_x", "grad_W", "grad_logits", "probabilities"])
def test_a_percent_is_seen_in_float32(stage):
    """Negative control: 1 % in one row (or entry) is far outside."""
    loss = make("arcface")
    case = next(c for c in cases(loss, "float32") if c.name == "typical")
    truth = truth_on(loss, case.inputs, case.labels, case.upstream, "float32")
    wrong = truth.stages[stage].copy()
    wrong[(0,) * wrong.ndim if stage not in ROWWISE else 0] *= 1.01
    assert truth.grade_of(stage, wrong) == "F"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kept_log_sum_exp_is_a_form(dtype):
    """p = e^(z − lse) errs by the rounding of lse, which grows with |z|; what is not that is wrong."""
    z, u = np.array([[1000.0, 999.0]]), DTYPES[dtype].u
    truth = truth_on(refloss.CrossEntropy(), {"logits": z}, np.array([0]), 1.0, dtype)
    lse = np.logaddexp(1000.0, 999.0) * (1 + u)
    got = np.exp(z - lse) - [[1, 0]]
    assert truth.grade_of("grad_logits", rounded(got, truth.dtype)) == "C"
    assert truth.grade_of("grad_logits", rounded(np.exp(z - lse * (1 + 16 * u)) - [[1, 0]], truth.dtype)) == "F"


@pytest.mark.parametrize("seed", [2, 5, 15, 18, 25, 29])
def test_lengths_divided_out_after_the_product_are_a_form(seed):
    """In one dimension a unit vector is ±1 without an error, x·w / ‖w‖ is not."""
    torch = need("torch")
    report = check(
        lambda x, W, labels: torch.nn.functional.cross_entropy((x @ W.T) / W.norm(dim=1), labels),
        refloss.WNormSoftmax(), framework="torch", cases=["typical_one_dimension"], seed=seed,
    )  # fmt: skip
    assert not report.failures, report
