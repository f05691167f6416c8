"""Where nothing can arrive gradients are exactly 0; lengths and upstreams at the ends of float64 are never silent."""

from __future__ import annotations

import re

import numpy as np
import pytest
from helpers import NORMALISES_W, NORMALISES_X, VARIANTS, assert_finite, example, gradients, make, passes

import refloss

# -- where the natural scale is 0 the gradient is exactly 0 ----------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_dimension_has_no_tangent(variant, rng, precision):
    """D = 1: what is normalised gets a gradient of exactly 0."""
    loss, inputs = make(variant, precision=precision), example(variant, rng, n=40, d=1)
    inputs["x"] *= np.geomspace(1e-12, 1e12, 40)[:, None]
    inputs["labels"] = np.arange(40) % 4
    if isinstance(loss, (refloss.LSoftmax, refloss.ASoftmax, refloss.WNormSoftmax)):
        inputs["x"] = np.clip(inputs["x"], -30, 30)
    grads = loss.backward(loss.forward(**inputs))
    assert_finite(grads)
    name = loss.name
    scale = variant == "margin_softmax-scale"
    if name in NORMALISES_X or scale:
        np.testing.assert_array_equal(grads.x, np.zeros_like(inputs["x"]))
    if name in NORMALISES_W or scale or variant == "margin_softmax-x_norm":
        np.testing.assert_array_equal(grads.W, np.zeros_like(inputs["W"]))
    assert grads.logits.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_class_has_no_loss(variant, smoothing, rng, precision):
    """C = 1: p = 1, the loss and every gradient exactly 0."""
    loss = make(variant, precision=precision, classes=1, label_smoothing=smoothing)
    out = loss.forward(**example(variant, rng, classes=1))
    assert out.loss == 0
    assert not out.complement.any()
    np.testing.assert_array_equal(out.probabilities, np.ones((6, 1)))
    for field, value in gradients(loss.backward(out)).items():
        np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=field)


# -- lengths at the ends of float64 ----------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-960, -300, 300, 960])
@pytest.mark.parametrize(
    ("name", "argument"), [(name, "x") for name in NORMALISES_X] + [(name, "W") for name in NORMALISES_W]
)
def test_length_does_not_matter(name, argument, exponent, rng, precision):
    """x̂ and ŵ have no length: 2^k times every row of x, or 2^±k times some rows of W, gives the same bits, and 2^∓k of
    the gradient, as far as float64 goes."""
    loss, inputs = make(name, precision=precision), example(name, rng)
    powers = exponent if argument == "x" else np.array([[0], [exponent], [0], [-exponent]])
    out, grads = passes(loss, **inputs)
    other, scaled = passes(loss, **(inputs | {argument: np.ldexp(inputs[argument], powers)}))
    np.testing.assert_array_equal(other.losses, out.losses)
    if argument == "x":
        np.testing.assert_array_equal(other.x_norm, np.ldexp(out.x_norm, exponent))
    for field in "xW":
        due = np.ldexp(getattr(grads, field), -powers if field == argument else 0)
        np.testing.assert_array_equal(getattr(scaled, field), due)


@pytest.mark.parametrize("exponent", [-700, -300, 300, 700])
def test_lengths_of_l_softmax_trade(exponent, rng, precision):
    """‖W‖‖x‖: 2^k x with 2^−k W gives the same bits."""
    loss, inputs = make("l_softmax", precision=precision), example("l_softmax", rng)
    grads = loss.backward(loss.forward(**inputs))
    scaled = inputs | {"x": np.ldexp(inputs["x"], exponent), "W": np.ldexp(inputs["W"], -exponent)}
    other = loss.backward(loss.forward(**scaled))
    np.testing.assert_array_equal(other.x, np.ldexp(grads.x, -exponent))
    np.testing.assert_array_equal(other.W, np.ldexp(grads.W, exponent))


@pytest.mark.parametrize("variant", ["softmax", "l_softmax", "l_softmax-annealed", "margin_softmax-both_norms"])
@pytest.mark.parametrize("exponent", [-100, -500, -600])
def test_small_x_and_small_W_keep_their_gradient(variant, exponent, rng, precision):
    """With x and W so short that every p is 1/C, halving both halves the gradient: down to float64's end
    no product ‖x‖‖W‖ on the way may lose it."""
    loss, inputs = make(variant, precision=precision), example(variant, rng)
    inputs.pop("b", None)
    near, far = (
        loss.value_and_grad(np.ldexp(inputs["x"], k), np.ldexp(inputs["W"], k), inputs["labels"])[1]
        for k in (-60, exponent)
    )
    for field in ("x", "W"):
        np.testing.assert_array_equal(getattr(far, field), np.ldexp(getattr(near, field), exponent + 60))


def refusal(call):
    """The message of the ValueError that the call raises, or None."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-300, 1e-30, 1e30, 1e150, 1e307])
@pytest.mark.parametrize("argument", ["x", "W"])
def test_extreme_lengths_are_never_silent(variant, argument, size, rng, precision):
    """Rows of length 5e-324 … 1e308: finite stages and gradients, or a ValueError that names the
    argument. Never NaN, never inf, no warning."""
    loss, inputs = make(variant, precision=precision), example(variant, rng)
    inputs[argument] = np.sign(inputs[argument]) * size * np.array([[1.0, 1.5, 1.25]])
    refused = refusal(lambda: assert_finite(*(out := loss.forward(**inputs), loss.backward(out))))
    if refused:
        assert size < 1e-290 or size > 1e100, refused
        assert re.search(rf"\b{argument}\b", refused), refused


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("upstream", [1e-320, 1e-300, 1e300, 1.7e308])
def test_extreme_upstream_is_never_silent(variant, upstream, rng, precision):
    """Finite upstream of any size: finite gradients, or a ValueError that names upstream."""
    loss, inputs = make(variant, precision=precision), example(variant, rng)
    out = loss.forward(**inputs)
    refused = refusal(lambda: assert_finite(loss.backward(out, upstream)))
    if refused:
        assert upstream > 1e299, refused
        assert "upstream" in refused


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("size", [2.0**1023, 1.7e308])
def test_losses_up_to_the_largest_double(size, reduction, precision):
    """A mean of losses whose sum leaves the range is within it."""
    rows = 1 if reduction == "sum" else 3
    loss = refloss.CrossEntropy(precision=precision, reduction=reduction)
    out, grads = passes(loss, np.tile([size, 0.0], (rows, 1)), [1] * rows)
    np.testing.assert_allclose(out.loss, size, rtol=1e-15)
    np.testing.assert_allclose(grads.logits, np.tile([1.0, -1.0], (rows, 1)) / (rows if reduction == "mean" else 1))
