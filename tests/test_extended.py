"""precision="extended" keeps its promise: losses right to 4 ulp, gradients to 8u of their natural scale, everywhere.

The truth is the textbook form in mpmath at as many digits as the case needs (`many_digits`). At ordinary inputs more is
held than is owed: every number of the passes has 106 bits, so that all that is left is one rounding at the end.
"""

from __future__ import annotations

import pickle
import tracemalloc

import many_digits
import mpmath
import numpy as np
import pytest
from helpers import BIAS, MARGIN, PSI, SETTINGS, SOFT, VARIANTS, WEIGHTS, bits, example, in_blocks, make
from many_digits import bare_truth, truth, ulps, units, worst

import refloss
from refloss.losses import passes

OWED_ULP, OWED_U = 4, 8  # what derivations/precision.md promises, (E14)
ONCE_ULP, ONCE_U = 0.51, 1.01  # one rounding: half an ulp, at most u of an entry; a part in 100 for 106 bits

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def extended(variant, classes=4, **options):
    return make(variant, classes, precision="extended", **options)


def assert_owed(loss, inputs, upstream=1.0, digits=100, ulp=OWED_ULP, u=OWED_U):
    """A forward and backward pass within its bounds of the truth."""
    off, gradients = worst(loss, inputs, upstream, digits)
    assert off <= ulp, f"loss off by {off:.3g} ulp"
    for name, value in gradients.items():
        assert value <= u, f"grad_{name} off by {value:.3g} u of its natural scale"


# -- every loss, every option, at ordinary inputs --------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@every_variant
def test_rounded_once(variant, setting, rng):
    """Every variant, reduction, weighting and smoothing: losses and gradients are the truth, rounded once."""
    setting = dict(setting)
    if variant == "weighted_softmax":  # its weights are required and stand already
        setting.pop("class_weights", None)
    inputs = example(variant, rng, n=4)
    upstream = np.array([0.7, -1.3, 2.1, 1e-9]) if setting.get("reduction") == "none" else -1.1
    assert_owed(extended(variant, **setting), inputs, upstream, ulp=ONCE_ULP, u=ONCE_U)


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_are_rounded_once(name, rng):
    """Soft targets whose sum is not 1, with weights and smoothing; and next to p, where the gradient cancels."""
    inputs = example(name, rng, n=3)
    weights = {} if name == "weighted_softmax" else {"class_weights": WEIGHTS}
    soft = extended(name, label_smoothing=0.2, **weights)
    assert_owed(soft, inputs | {"labels": rng.uniform(size=(3, 4))}, ulp=ONCE_ULP, u=ONCE_U)
    plain = extended(name)
    p = plain.forward(**inputs).probabilities
    assert_owed(plain, inputs | {"labels": p}, ulp=ONCE_ULP, u=ONCE_U)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "weighted_softmax"])
def test_zero_rows(variant, rng):
    """zero_norm="zero": a zero row in the batch, of x and of W, costs its neighbours no digit."""
    inputs = example(variant, rng, n=4)
    inputs["x"][1] = 0.0
    inputs["W"][2] = 0.0  # class 2 is the target of sample 2
    options = {"zero_norm": "zero"} if hasattr(VARIANTS[variant][0], "zero_norm") else {}
    loss = extended(variant, reduction="sum", **options)
    if variant in PSI or "-" in variant or variant in MARGIN:
        due = loss.forward(**inputs)
        grads = loss.backward(due)
        double = make(variant, reduction="sum", **options)
        same = double.backward(double.forward(**inputs))
        for name, value in grads.stages().items():
            # entries cancel: relative to the largest, with some 50 roundings of the double
            size = np.max(np.abs(value), initial=0.0)
            np.testing.assert_allclose(value, same.stages()[name], rtol=0, atol=1e-14 * size, err_msg=name)
            # where the largest is huge, small entries are held to 1e-13 (some 500 roundings of 1) all the same
            np.testing.assert_allclose(value, same.stages()[name], rtol=1e-11, atol=1e-13, err_msg=name)
    else:
        assert_owed(loss, inputs, ulp=ONCE_ULP, u=ONCE_U)


@pytest.mark.parametrize("confident", [0, 60, 300], ids="gap~{}".format)
def test_a_zero_row_of_the_batch_does_not_drown_the_others(confident):
    """x_0 = 0 has gradients of size 1 in its logits but none in W; those of a confident x_1 must survive beside it."""
    W = np.array([[1.0, 0.0], [-0.6, 0.8]])
    options = {"scale": max(confident, 1) / 1.6, "margin": 0.0, "zero_norm": "zero", "precision": "extended"}
    loss = refloss.AMSoftmax(reduction="sum", **options)
    x = np.array([[0.0, 0.0], [1.0, 0.125]])
    both, alone = (loss.value_and_grad(x[k:], W, [0, 0][k:])[1] for k in (0, 1))
    np.testing.assert_array_equal(both.W, alone.W)
    assert both.W[:, 1].all()


# -- bare logits -----------------------------------------------------------------------------------


def check_bare(loss, z, targets, upstream=1.0, digits=100):
    due = bare_truth(loss, z, targets, upstream, digits)
    out = loss.forward(z, targets)
    grads = loss.backward(out, upstream)
    assert ulps(out.losses, due.losses) <= OWED_ULP
    assert ulps(out.loss, due.loss) <= OWED_ULP
    assert ulps(out.probabilities, due.p) <= OWED_ULP
    assert units(np.ravel(grads.logits), due.gradients["logits"].ravel(), due.scales["logits"].ravel()) <= OWED_U


@pytest.mark.parametrize("options", [*SETTINGS.values(), {"label_smoothing": 0.5}], ids=[*SETTINGS, "smoothed"])
def test_bare_logits(options, rng):
    """CrossEntropy with every option, on logits of very different sizes."""
    z = rng.normal(size=(5, 4)) * np.array([[1e-9], [1.0], [30.0], [1e6], [1e15]])
    upstream = rng.normal(size=5) if options.get("reduction") == "none" else 1.0
    check_bare(refloss.CrossEntropy(precision="extended", **options), z, np.array([0, 1, 2, 3, 0]), upstream)


def test_masked_logits(rng):
    """−inf is a class that is not there: probability 0, gradient 0, and the others as if it were left out."""
    z = rng.normal(size=(4, 5)) * 20
    z[0, 1] = z[1, [0, 2, 3]] = z[2, 4] = -np.inf
    y = np.array([0, 1, 2, 3])
    loss = refloss.CrossEntropy(precision="extended", reduction="sum")
    check_bare(loss, z, y)
    grads = loss.value_and_grad(z, y)[1].logits
    assert not grads[z == -np.inf].any()


def test_fully_masked_ignored_rows(rng):
    """A row without any class is legal where it is ignored, and gives nothing at all."""
    z = rng.normal(size=(3, 4))
    z[1] = -np.inf
    loss = refloss.CrossEntropy(precision="extended", ignore_index=-1)
    out = loss.forward(z, np.array([2, -1, 0]))
    grads = loss.backward(out).logits
    assert out.losses[1] == 0
    assert not grads[1].any()
    rows = [0, 2]
    alone = refloss.CrossEntropy(precision="extended").forward(z[rows], np.array([2, 0]))
    np.testing.assert_array_equal(out.losses[rows], alone.losses)


def test_every_class_masked_but_one():
    """One class left: p = 1, loss 0, gradient exactly 0."""
    z = np.array([[-np.inf, 3.0, -np.inf]])
    loss = refloss.CrossEntropy(precision="extended")
    out = loss.forward(z, np.array([1]))
    assert out.loss == 0
    np.testing.assert_array_equal(out.probabilities, [[0.0, 1.0, 0.0]])
    assert not loss.backward(out).logits.any()


@pytest.mark.parametrize("size", [2.0**40, 1e300])
def test_huge_bare_logits(size):
    """Logits of any size in range are exact inputs: a tie and the gap 1 ulp below it are told apart."""
    z = np.array([[size, np.nextafter(size, 0), -size], [size, size, size]])
    check_bare(refloss.CrossEntropy(precision="extended", reduction="sum"), z, np.array([1, 0]), digits=400)


def test_images(rng):
    """Classes on axis 1, any shape: the same numbers as the rows one by one."""
    z, y = rng.normal(size=(2, 3, 2, 2)) * 10, rng.integers(0, 3, size=(2, 2, 2))
    loss = refloss.CrossEntropy(axis=1, reduction="none", precision="extended")
    out = loss.forward(z, y)
    rows = refloss.CrossEntropy(reduction="none", precision="extended")
    flat = rows.forward(np.moveaxis(z, 1, -1).reshape(8, 3), y.ravel())
    np.testing.assert_array_equal(out.losses.ravel(), flat.losses)


# -- hard angles -----------------------------------------------------------------------------------

TURNED = [v for v in VARIANTS if v.startswith(tuple(MARGIN)) or v.startswith("margin_softmax")]


def turned(tangent):
    """x at the angle arctan `tangent` to W_y; other classes at ordinary angles."""
    W = np.array([[2.0, 0.0, 0.0], [0.5, -1.0, 0.75], [-1.0, 0.25, 0.5]])
    return {"x": np.array([[3.0, 3.0 * tangent, 0.0]]), "W": W, "labels": np.array([0])}


@pytest.mark.parametrize("tangent", [1e-3, 1e-9, 6e-33], ids="{:.0e}".format)
@pytest.mark.parametrize("sign", [1, -1], ids=["near 0", "near π"])
@pytest.mark.parametrize("variant", TURNED)
def test_near_a_pole(variant, sign, tangent):
    """The target's angle next to 0 and π: nothing cancels."""
    inputs = turned(tangent)
    inputs["x"] = sign * inputs["x"]
    assert_owed(extended(variant, 3), inputs, digits=300)


@pytest.mark.parametrize("variant", ["l_softmax", "a_softmax", "f_norm_sphereface", "am_softmax", "arcface"])
def test_an_angle_of_1e_300(variant):
    """θ = 1e-300: 1 − cos θ needs 600 digits, the pass needs none of them."""
    assert_owed(extended(variant, 3), turned(1e-300), digits=1400)


@pytest.mark.parametrize("variant", TURNED)
def test_almost_a_multiple(variant):
    """x = fl(1.7 W_y): parallel to the eye, apart by roundings."""
    W = np.array([[0.1, 0.7, -0.3], [0.5, -1.0, 0.75], [-1.0, 0.25, 0.5]])
    assert_owed(extended(variant, 3), {"x": 1.7 * W[:1], "W": W, "labels": np.array([0])}, digits=300)


@pytest.mark.parametrize("variant", TURNED)
def test_general_position_of_long_integers(variant):
    """x = (n, n + 1), W = (n + 1, n + 2), n = 2^53 − 4: an angle of 6e-33 that unit vectors cannot show."""
    n = 2.0**53 - 4
    W = np.array([[n + 1, n + 2], [1.0, -2.0]]) * 2.0**-52
    assert_owed(extended(variant, 2), {"x": np.array([[n, n + 1]]) * 2.0**-52, "W": W, "labels": [0]}, digits=300)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("nudge", [-1e-15, 0.0, 1e-15], ids="{:+.0e}".format)
@pytest.mark.parametrize("name", PSI)
def test_next_to_a_knot(name, nudge, k, rng):
    """θ within 1e-15 of kπ/4, on either side: ψ' keeps its digits though it is nearly 0."""
    theta = k * np.pi / 4 + nudge
    inputs = {
        "x": np.array([[np.cos(theta), np.sin(theta), 0.0]]) * 1.7,
        "W": np.array([[1.0, 0.0, 0.0], [0.5, -1.0, 0.75], [-1.0, 0.25, 0.5]]),
        "labels": np.array([0]),
    }
    assert_owed(extended(name, 3), inputs, digits=200)


@pytest.mark.parametrize("nudge", [-1e-12, -1e-16, 1e-16, 1e-12], ids="{:+.0e}".format)
@pytest.mark.parametrize("margin", [1e-9, 0.5, 2.0])
def test_arcface_next_to_pi_minus_m(margin, nudge):
    """θ + m next to π: sin(θ + m) keeps its digits."""
    theta = np.pi - margin + nudge
    inputs = turned(0.0)
    inputs["x"] = np.array([[np.cos(theta), np.sin(theta), 0.0]])
    assert_owed(refloss.ArcFace(margin=margin, scale=8, precision="extended"), inputs, digits=200)


def test_the_side_of_the_jump_is_the_exact_one():
    """past_pi="linear": θ < π − m by less than double's rounding of θ is still on the cosine's side."""
    m = 0.5
    with mpmath.workdps(60):
        edge = mpmath.tan(mpmath.mpf(m))  # θ = π − m at (−1, tan m)
        t = float(edge)
        below = t if mpmath.mpf(t) > edge else float(np.nextafter(t, 1))  # a larger sine: θ < π − m
        above = float(np.nextafter(below, 0))
    W = np.array([[1.0, 0.0], [0.0, 1.0]])
    loss = refloss.ArcFace(scale=8, margin=m, past_pi="linear", precision="extended")
    logits = [loss.forward([[-1.0, side]], W, [0]).logits[0, 0] for side in (below, above)]
    assert logits[0] == -8.0  # cos π, to within 1e-32
    assert abs(logits[1] - 8 * (np.cos(np.pi - m) - m * np.sin(m))) <= 8 * np.finfo(float).eps


@pytest.mark.parametrize("size", [1e3, 2.0**40], ids=["1e3", "2^40"])
@pytest.mark.parametrize("label", [0, 1])
def test_the_largest_logit_where_doubles_see_a_tie(size, label):
    """Two logits that round to one double, the first the smaller: the larger one is still the largest."""
    tie = np.spacing(size) / 4
    inputs = {"x": np.array([[size, tie]]), "W": np.array([[1.0, -1.0], [1.0, 0.0]]), "labels": np.array([label])}
    assert_owed(extended("softmax", 2), inputs)


SYMMETRIC = ["softmax", "w_norm_softmax", "l2_softmax", "am_softmax", "arcface", "a_softmax"]


@pytest.mark.parametrize("variant", SYMMETRIC)
def test_symmetric_inputs_whose_gradient_cancels(variant):
    """Mirror images: the contributions of two classes to grad_x cancel, what is left is not rounding."""
    a, b = 0.1, 0.7
    inputs = {
        "x": np.array([[1.0, 1e-13], [1.0, -1e-13]]),
        "W": np.array([[1.0, 0.0], [a, b], [a, -b]]),
        "labels": np.array([0, 0]),
    }
    assert_owed(extended(variant, 3, reduction="sum"), inputs, digits=200)


@every_variant
def test_one_sample_one_class_one_dimension(variant, rng):
    """N = C = D = 1: loss 0 and every gradient exactly 0."""
    loss = extended(variant, 1)
    out = loss.forward([[2.5]], [[0.5]], [0])
    assert out.loss == 0
    for name, value in loss.backward(out).stages().items():
        assert not np.any(value), name


# -- sizes -----------------------------------------------------------------------------------------

BOTH = ["f_norm_sphereface", "am_softmax", "arcface"]


@pytest.mark.parametrize("power", [-150, 150])
@pytest.mark.parametrize("name", BOTH)
def test_tiny_and_huge_norms(name, power, rng):
    """Norms of 1e±150, also mixed in one batch, where the logits do not feel them."""
    inputs = example(name, rng, n=4)
    inputs["x"] *= np.array([[1.0], [10.0**power], [10.0**-power], [1e100]])
    inputs["W"] *= np.array([[10.0**power], [1.0], [1e-100], [1e100]])
    assert_owed(extended(name, reduction="sum"), inputs, ulp=ONCE_ULP, u=ONCE_U)


@pytest.mark.parametrize("upstream", [1e300, 1e-300, -1e-200], ids="{:.0e}".format)
@every_variant
def test_huge_and_tiny_upstream(variant, upstream, rng):
    """The gradient that arrives scales the result exactly, however large or small."""
    inputs = example(variant, rng, n=2)
    inputs["x"], inputs["W"] = inputs["x"] / 16, inputs["W"] / 16
    options = {"scale": 1.0} if hasattr(VARIANTS[variant][0], "scale") else {}
    grads = extended(variant, reduction="sum", **options).value_and_grad(**inputs, upstream=upstream)[1]
    power = 2.0 ** np.frexp(upstream)[1]
    one = extended(variant, reduction="sum", **options).value_and_grad(**inputs, upstream=upstream / power)[1]
    for name, value in grads.stages().items():
        due = np.asarray(one.stages()[name]) * power
        assert np.isfinite(value).all(), name
        assert (np.abs(value - due) <= 5e-324).all(), name  # two roundings where the result is subnormal


@pytest.mark.parametrize("name", ["softmax", "l2_softmax", "w_norm_softmax", "arcface"])
def test_class_weights_of_very_different_sizes(name, rng):
    """Weights of 1e200 and 1e-200 side by side: each sample keeps its digits."""
    weights = (1e200, 1e-200, 1.0, 0.0)
    loss = extended(name, class_weights=weights, reduction="none")
    assert_owed(loss, example(name, rng, n=4), ulp=OWED_ULP, u=OWED_U)


def test_tiny_weights_under_a_weighted_mean(rng):
    """weighted_mean divides by 1e200; the gradient of the sample of weight 1e-200 is 1e-400 · upstream 1e300."""
    inputs = example("softmax", rng, n=2)
    loss = extended("softmax", class_weights=(1e200, 1e-200, 1.0, 1.0), reduction="weighted_mean")
    assert_owed(loss, inputs, upstream=1e300)


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"reduction": "mean"}], ids=["sum", "mean"])
def test_gradients_beyond_the_range_are_refused(options):
    """Weight 1e200 times upstream 1e300 leaves float64: an error that says so, not NaN."""
    loss = refloss.Softmax(class_weights=(1e200, 1.0), precision="extended", **options)
    out = loss.forward([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0])
    with pytest.raises(ValueError, match="leaves the range"):
        loss.backward(out, 1e300)


def test_a_loss_beyond_the_range_is_refused():
    """Weights of 1e300 and a loss of 1e10: an error that says so, not NaN."""
    loss = refloss.Softmax(class_weights=(1e300, 1.0), precision="extended")
    with pytest.raises(ValueError, match="leaves the range"):
        loss.forward([[1e10, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [0])


@pytest.mark.parametrize("size", [2.0**40, 1e100, 1e300], ids="{:.0e}".format)
@pytest.mark.parametrize("name", ["softmax", "w_norm_softmax", "l_softmax", "a_softmax"])
def test_huge_logits_are_never_nan(name, size, rng):
    """Logits beyond 2^40 owe less, but never NaN; at 2^40 and below everything."""
    inputs = example(name, rng, n=3)
    inputs["x"] = inputs["x"] / np.abs(inputs["x"]).max() * size
    inputs["W"] = inputs["W"] / np.abs(inputs["W"]).max() / 8
    inputs.pop("b", None)
    loss = extended(name, reduction="sum")
    if size == 2.0**40:
        assert_owed(loss, inputs, digits=200)
    out = loss.forward(**inputs)
    for record in (out, loss.backward(out)):
        for stage, value in record.stages().items():
            assert np.isfinite(value).all(), stage


def confident(gap):
    """FNormSphereFace at s = 1e4, one far class, the loss e^−gap; ‖x‖ = 1e-150."""
    s = 1e4
    c = 1 - gap / s
    x = np.array([[1.0, 0.0]]) * 1e-150
    return {"x": x, "W": np.array([[1.0, 0.0], [c, np.sqrt(1 - c * c)]]), "labels": np.array([0])}, s


@pytest.mark.parametrize("gap", [600, 720, 1000])
@pytest.mark.parametrize("name", ["f_norm_sphereface", "am_softmax", "arcface"])
def test_a_gradient_that_subnormal_probabilities_would_lose(name, gap):
    """p ≈ e^−720 is subnormal, s p / ‖x‖ is an ordinary number: it has all its digits."""
    inputs, s = confident(gap)
    margin = {} if name == "f_norm_sphereface" else {"margin": 0.0}
    loss = extended(name, 2, scale=s, **margin)
    assert_owed(loss, inputs, digits=1200)
    assert loss.value_and_grad(**inputs)[1].x.any()


@pytest.mark.parametrize("gap", [700, 730, 744, 745.5, 760, 5000])
def test_losses_under_1e_308_are_the_rounded_subnormal(gap):
    """Where doubles end the loss is the subnormal nearest to the truth, or 0."""
    z = np.array([[0.0, -float(gap)]])
    out = refloss.CrossEntropy(precision="extended").forward(z, np.array([0]))
    with mpmath.workdps(3000):
        due = float(mpmath.log1p(mpmath.exp(-mpmath.mpf(gap))))
    assert out.loss == out.losses[0] == due
    assert out.probabilities[0, 1] == out.complement[0] == due


@pytest.mark.parametrize("entries", [1, 1 << 19], ids=["blocks of one class", "one block"])
def test_the_rescue_works_across_blocks(entries, monkeypatch):
    """The far class may stand in another block, on either side of the target."""
    in_blocks(monkeypatch, entries)
    for gap, upstream in ((600, 1.0), (720, 1.0), (1100, 1e200), (1250, 1e250)):
        inputs, s = confident(gap)
        for turn in (slice(None), slice(None, None, -1)):
            arguments = {"x": inputs["x"], "W": inputs["W"][turn], "labels": [0] if turn.step is None else [1]}
            loss = extended("am_softmax", 2, scale=s, margin=0.0)
            assert_owed(loss, arguments, upstream, digits=1600)
            assert loss.value_and_grad(**arguments, upstream=upstream)[1].x.any()


# -- blocks of classes -----------------------------------------------------------------------------


def assert_same_in_blocks(loss, inputs, monkeypatch, upstream=1.0, entries=(1, 13, 40)):
    """Every stage of small blocks within 1 ulp of one block's: both are the truth, rounded once."""
    whole = loss.forward(**inputs)
    whole = {**whole.stages(), **loss.backward(whole, upstream).stages()}
    for size in entries:
        in_blocks(monkeypatch, size)
        out = loss.forward(**inputs)
        parts = {**out.stages(), **loss.backward(out, upstream).stages()}
        assert parts.keys() == whole.keys()
        for name, value in parts.items():
            np.testing.assert_array_max_ulp(np.asarray(value), np.asarray(whole[name]), maxulp=1)


@every_variant
def test_small_blocks_give_the_same(variant, rng, monkeypatch):
    """A block of 1, 2 or 5 classes, the target in any of them, gives what all classes at once give."""
    inputs = example(variant, rng, n=8, classes=11)
    weights = {} if variant == "weighted_softmax" else {"class_weights": tuple(np.linspace(0.1, 2, 11))}
    loss = extended(variant, 11, label_smoothing=0.1, ignore_index=3, reduction="none", **weights)
    assert_same_in_blocks(loss, inputs, monkeypatch, rng.normal(size=8))


@pytest.mark.parametrize("name", SOFT)
def test_small_blocks_of_soft_targets(name, rng, monkeypatch):
    """The same with soft targets."""
    inputs = example(name, rng, n=5, classes=7) | {"labels": rng.uniform(size=(5, 7))}
    assert_same_in_blocks(extended(name, 7), inputs, monkeypatch)


@pytest.mark.parametrize("variant", ["softmax", "am_softmax", "l_softmax", "l2_softmax"])
def test_ties_across_blocks(variant, rng, monkeypatch):
    """Equal largest logits in different blocks are joined like those of one block."""
    inputs = example(variant, rng, n=6, classes=8)
    inputs["W"][[2, 4, 7]] = inputs["W"][0]
    if "b" in inputs:
        inputs["b"][:] = inputs["b"][0]
    assert_same_in_blocks(extended(variant, 8, reduction="sum"), inputs, monkeypatch)


@pytest.mark.parametrize("spread", [700.0, 1400.0, 1e5])
def test_blocks_far_apart(spread, rng, monkeypatch):
    """Logits so far apart that a whole block counts for less than any subnormal."""
    W = np.linspace(-spread, spread, 9)[rng.permutation(9)][:, None]
    inputs = {"x": np.ones((3, 1)), "W": W, "labels": np.array([int(W.argmax()), 3, int(W.argmin())])}
    assert_same_in_blocks(extended("softmax", 9, reduction="sum"), inputs, monkeypatch)


def peak(loss, x, W, y):
    """Bytes held at most, beyond the records' own arrays."""
    tracemalloc.start()
    out = loss.forward(x, W, y)
    grads = loss.backward(out)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - sum(v.nbytes for r in (out, grads) for v in vars(r).values() if isinstance(v, np.ndarray))


@pytest.mark.parametrize("name", ["softmax", "l2_softmax", "arcface"])
def test_memory_does_not_grow_with_the_classes(name, rng, monkeypatch):
    """With four times the classes the work beyond the (N, C) results grows by what W's own copies take."""
    N, D, entries = 64, 16, 1 << 13
    in_blocks(monkeypatch, entries)
    monkeypatch.setattr(passes, "KEPT", 0)  # logits are computed anew, as they are when there are many
    x, y = rng.normal(size=(N, D)), rng.integers(0, 1000, size=N)
    peak(extended(name), x, rng.normal(size=(300, D)), y % 300)  # caches are filled
    few, many = 1000, 4000
    small, large = (peak(extended(name), x, rng.normal(size=(C, D)), y) for C in (few, many))
    # W is copied and scaled: a few arrays of (C, D) doubles; one array (N, C) more would be as much as four of those
    own = 4 * (many - few) * D * 8
    assert large - small <= own, f"{small} bytes at {few} classes, {large} at {many}"
    assert large <= 160 * 8 * entries + 4 * many * D * 8  # so many arrays of a block of pairs


# -- manners ---------------------------------------------------------------------------------------


@every_variant
def test_nothing_is_changed_and_nothing_is_said(variant, rng):
    """Inputs and record stay as they are; no warning, no floating-point flag; twice gives the same bits."""
    inputs = example(variant, rng)
    inputs["x"][0] *= 1e-9
    before = {name: np.array(value) for name, value in inputs.items()}
    loss = extended(variant)
    with np.errstate(all="raise"):
        out = loss.forward(**inputs)
        seen = bits(out)
        grads = loss.backward(out)
    assert bits(out) == seen
    assert bits(out, grads) == bits(loss.forward(**inputs), loss.backward(out))
    for name, value in before.items():
        np.testing.assert_array_equal(inputs[name], value)
    for record in (out, grads):
        for value in record.stages().values():
            assert type(value) is np.ndarray or isinstance(value, np.floating)
            assert np.asarray(value).dtype == np.float64


def test_precision_is_part_of_a_loss():
    """It shows in repr, ==, hash and pickle; any other word is refused."""
    double, more = refloss.ArcFace(), refloss.ArcFace(precision="extended")
    assert "precision" not in repr(double)
    assert "precision='extended'" in repr(more)
    assert double != more
    assert more == refloss.ArcFace(precision="extended")
    assert hash(more) == hash(refloss.ArcFace(precision="extended"))
    assert len({double, more}) == 2
    assert pickle.loads(pickle.dumps(more)) == more
    with pytest.raises(ValueError, match="precision"):
        refloss.ArcFace(precision="quad")
    out = double.forward([[1.0, 2.0]], [[1.0, 0.0]], [0])
    with pytest.raises(ValueError, match="was made by"):
        more.backward(out)


@every_variant
def test_logits_for_inference_and_the_boundary(variant, rng):
    """Both are the doubles nearest to the truth: what plain logits give, to their few roundings."""
    inputs = example(variant, rng, classes=2)
    inputs.pop("labels")
    loss, double = extended(variant, 2), make(variant, 2)
    for method in ("inference_logits", "decision_boundary"):
        got, near = getattr(loss, method)(**inputs), getattr(double, method)(**inputs)
        assert type(got) is np.ndarray
        assert got.dtype == np.float64
        size = np.abs(double.inference_logits(**inputs)).max() + getattr(loss, "scale", 1.0)
        assert np.abs(got - near).max() <= 64 * 8 * many_digits.U * size


@pytest.mark.parametrize("name", BIAS)
def test_bias_is_added_in_extended(name):
    """b that cancels W·x up to a rounding: the logit is the exact rest."""
    x, W, b = [[0.1, 0.3]], [[1.1, 0.7], [0.0, 0.0]], [-(0.1 * 1.1 + 0.3 * 0.7), 0.0]
    if name == "l2_softmax":
        x, W = [[1.0, 0.0]], [[0.1, 0.0], [0.0, 0.0]]
        loss, b = extended(name, 2, alpha=1.1), [-(1.1 * 0.1), 0.0]
    else:
        loss = extended(name, 2)
    due = truth(loss, x, W, [0], np.array(b)).gradients  # it runs: the exact logit is in it
    assert due["logits"].shape == (1, 2)
    with mpmath.workdps(60):
        factor = mpmath.mpf(1.1) if name == "l2_softmax" else mpmath.mpf(1)
        exact = mpmath.fsum(factor * mpmath.mpf(u) * mpmath.mpf(v) for u, v in zip(x[0], W[0], strict=True)) + b[0]
        assert loss.forward(x, W, [0], b).logits[0, 0] == float(exact)


def test_unknown_functions_of_a_users_margin_are_named():
    """A ψ that calls what pairs have no rule for is an error, not a silent loss of digits."""
    loss = refloss.MarginSoftmax(
        psi=lambda theta, xp: xp.tanh(1 - theta), dpsi=lambda theta, xp: -1 + 0 * theta, precision="extended"
    )
    with pytest.raises(TypeError):
        loss.forward([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0])
