"""Bad input gets a ValueError or TypeError that names the argument, says where and what was due."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import BIAS, MARGIN, NAMES, NORMALISES_W, PSI, SINGULAR_W, SINGULAR_X, SOFT, example, make

import refloss


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def changed(array, at, value):
    """A copy with one entry replaced."""
    copy = np.array(array)
    copy[at] = value
    return copy


class Unreadable:
    """Like a torch tensor that requires grad: NumPy's conversion fails with an error of its own."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


# -- x and W ---------------------------------------------------------------------------------------

# what is done to the array · the error · what its message says; {v} is the argument's name
BAD_MATRICES = {
    "nan": (lambda v: changed(v, (1, 2), np.nan), ValueError, r"{v}\[1, 2\] is nan.*{v} must be finite"),
    "inf": (lambda v: changed(v, (2, 0), np.inf), ValueError, r"{v}\[2, 0\] is inf.*{v} must be finite"),
    "minus_inf": (lambda v: changed(v, (0, 1), -np.inf), ValueError, r"{v}\[0, 1\] is -inf.*must be finite"),
    "first_of_two_nans": (
        lambda v: changed(changed(v, (3, 0), np.nan), (1, 1), np.nan),
        ValueError,
        r"{v}\[1, 1\] is nan",
    ),
    "beyond_float64": (
        lambda v: changed(v.astype(np.longdouble), (1, 0), np.longdouble(2) ** 1100),
        ValueError,
        r"{v}\[1, 0\] is inf.*must be finite",
    ),
    "complex": (lambda v: v.astype(complex), TypeError, r"{v} must be real, got complex dtype complex128"),
    "strings": (lambda v: v.astype(str), TypeError, r"{v} must hold real numbers, got dtype <U"),
    "objects": (lambda v: v.astype(object), TypeError, r"{v} must hold real numbers, got dtype object"),
    "bools": (lambda v: v > 0, TypeError, r"{v} must hold real numbers, got dtype bool"),
    "dates": (
        lambda v: v.astype("datetime64[s]"),
        TypeError,
        r"{v} must hold real numbers, got dtype datetime",
    ),
    "none": (lambda v: None, TypeError, r"{v} must hold real numbers"),
    "masked_array": (lambda v: np.ma.masked_greater(v, 0), TypeError, r"{v} must be a plain array.*mask"),
    "unreadable": (lambda v: Unreadable(), TypeError, r"{v} must be an array"),
    "ragged": (
        lambda v: [[1.0, 2.0, 3.0], [4.0]],
        ValueError,
        r"{v} must be an array with rows of one length",
    ),
    "vector": (lambda v: v[0], ValueError, r"{v} must be 2-D \(\w, D\), got shape \(3,\)"),
    "scalar": (lambda v: 1.5, ValueError, r"{v} must be 2-D \(\w, D\), got shape \(\)"),
    "three_axes": (lambda v: v[None], ValueError, r"{v} must be 2-D \(\w, D\), got shape \(1, \d, 3\)"),
    "columns": (
        lambda v: v[:, :2],
        ValueError,
        r"same number of columns D, got x of shape .* and W of shape",
    ),
    "huge_integers": (
        lambda v: changed(np.ones(v.shape, np.int64), (0, 0), 2**53 + 1),
        ValueError,
        r"{v} holds integers beyond 2\*\*53",
    ),
}


@pytest.mark.parametrize("argument", ["x", "W"])
@pytest.mark.parametrize("bad", BAD_MATRICES)
def test_bad_x_or_W_is_refused(name, argument, bad, rng):
    """A bad x or W is refused by name, with the first offending index or the shape."""
    inputs = example(name, rng)
    spoil, error, message = BAD_MATRICES[bad]
    inputs[argument] = spoil(inputs[argument])
    with pytest.raises(error, match=message.format(v=argument)):
        make(name).forward(**inputs)


@pytest.mark.parametrize("call", ["inference_logits", "decision_boundary"])
@pytest.mark.parametrize("bad", ["nan", "complex", "vector", "columns"])
def test_bad_x_is_refused_without_labels(name, call, bad, rng):
    """inference_logits and decision_boundary check their input as forward does."""
    inputs = example(name, rng, classes=2)
    del inputs["labels"]
    spoil, error, message = BAD_MATRICES[bad]
    inputs["x"] = spoil(inputs["x"])
    with pytest.raises(error, match=message.format(v="x")):
        getattr(make(name, classes=2), call)(**inputs)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)], ids=["no_class", "no_dimension"])
def test_W_without_classes_or_dimensions_is_refused(name, shape):
    """W needs at least one class and one dimension."""
    with pytest.raises(
        ValueError, match=rf"W needs at least one class and one dimension, got shape \({shape[0]}"
    ):
        make(name).forward(np.ones((2, shape[1])), np.ones(shape), [0, 0])


def test_decision_boundary_needs_two_rows(name, rng):
    """decision_boundary is between two classes."""
    inputs = example(name, rng, classes=3)
    del inputs["labels"]
    with pytest.raises(ValueError, match=r"W must have two rows.*got shape \(3, 3\)"):
        make(name, classes=3).decision_boundary(**inputs)


@pytest.mark.parametrize("name", ["softmax", "weighted_softmax", "l_softmax"])
def test_logits_beyond_float64_are_refused(name):
    """Finite x and W whose logit overflows are refused with the logit's index, without a warning."""
    x, W = np.array([[1.0, 2.0], [1e200, 1e200]]), np.array([[1.0, 0.0], [1e200, 2e200]])
    with pytest.raises(ValueError, match=r"logits\[1, 1\] leaves the range of float64: x\[1\] and W\[1\]"):
        make(name, classes=2).forward(x, W, [0, 0])


@pytest.mark.parametrize("name", SINGULAR_X)
def test_zero_row_of_x_is_named(name, rng):
    """A zero row of x where the loss is singular is refused with its number, and told of zero_norm."""
    inputs = example(name, rng)
    inputs["x"][[2, 4]] = 0
    with pytest.raises(
        ValueError, match=r"x\[2\] is a zero row \(zero rows: 2, 4\).*singular.*zero_norm='zero'"
    ):
        make(name).forward(**inputs)


@pytest.mark.parametrize("name", SINGULAR_W)
def test_zero_row_of_W_is_named(name, rng):
    """A zero row of W where the loss is singular is refused with its number, and told of zero_norm."""
    inputs = example(name, rng)
    inputs["W"][[1, 3]] = 0
    with pytest.raises(
        ValueError, match=r"W\[1\] is a zero row \(zero rows: 1, 3\).*singular.*zero_norm='zero'"
    ):
        make(name).forward(**inputs)


@pytest.mark.parametrize("name", NORMALISES_W)
def test_zero_row_of_W_is_named_at_inference(name, rng):
    """Zero rows are refused without labels too."""
    x, W = rng.normal(size=(2, 3)), np.array([[0.0, 0, 0], [1, 2, 3]])
    for call in (make(name).inference_logits, make(name).decision_boundary):
        with pytest.raises(ValueError, match=r"W\[0\] is a zero row"):
            call(x, W)


# -- labels ----------------------------------------------------------------------------------------

BAD_LABELS = {
    "too_large": ([0, 1, 4, 9], ValueError, r"labels\[2\] is 4; labels must lie in 0 … 3"),
    "negative": ([0, -1, 2, 3], ValueError, r"labels\[1\] is -1; labels must lie in 0 … 3"),
    "minus_100": ([0, 1, 2, -100], ValueError, r"labels\[3\] is -100; labels must lie in 0 … 3"),
    "uint64": (np.array([0, 1, 2, 2**63], np.uint64), ValueError, r"labels\[3\] is 9223372036854775808"),
    "fractional": (
        [0.0, 1.0, 1.5, 2.0],
        TypeError,
        r"labels must be integers, got dtype float64 .*labels\[2\] is 1.5",
    ),
    "whole_floats": ([0.0, 1.0, 2.0, 3.0], TypeError, r"labels must be integers, got dtype float64"),
    "nan": ([0.0, np.nan, 2.0, 3.0], TypeError, r"labels must be integers.*labels\[1\] is nan"),
    "bools": ([True, False, True, False], TypeError, r"labels must be integers, got dtype bool"),
    "complex": ([0j, 1, 2, 3], TypeError, r"labels must be integers, got dtype complex128"),
    "strings": (["0", "1", "2", "3"], TypeError, r"labels must be integers"),
    "none": (None, ValueError, r"labels must be classes of shape \(N,\).*got shape \(\)"),
    "unreadable": (Unreadable(), TypeError, r"labels must be"),
    "masked_array": (np.ma.masked_equal([0, 1, 2, 3], 1), TypeError, r"labels must be a plain array"),
    "huge": ([0, 1, 2, 2**70], (TypeError, ValueError), r"labels"),
    "ragged": ([[0], [1, 2]], ValueError, r"labels must be an array with rows of one length"),
    "scalar": (2, ValueError, r"labels must be classes of shape \(N,\).*got shape \(\)"),
    "too_few": ([0, 1, 2], ValueError, r"labels must have one entry a row, shape \(4,\), got \(3,\)"),
    "too_many": ([0, 1, 2, 3, 0], ValueError, r"labels must have one entry a row, shape \(4,\), got \(5,\)"),
    "column": ([[0], [1], [2], [3]], (ValueError, TypeError), r"labels must.*shape.*\(4, 1\)"),
    "three_axes": (np.zeros((4, 1, 1), int), ValueError, r"labels must be classes.*got shape \(4, 1, 1\)"),
}


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_bad_labels_are_refused(name, bad, rng):
    """Labels that are no classes, one a row, are refused with the first of them or with the shape."""
    inputs = example(name, rng, n=4)
    inputs["labels"], error, message = BAD_LABELS[bad]
    with pytest.raises(error, match=message):
        make(name).forward(**inputs)


def test_ignore_index_excuses_no_other_label(name, rng):
    """With ignore_index=-1, −2 is still out of range."""
    inputs = example(name, rng, n=4)
    inputs["labels"] = [0, -1, -2, 1]
    with pytest.raises(ValueError, match=r"labels\[2\] is -2"):
        make(name, ignore_index=-1).forward(**inputs)


def test_no_rows_have_no_mean(name, rng):
    """N = 0 under the default empty_mean='error' is refused, and the message names the way out."""
    inputs = example(name, rng) | {"x": np.zeros((0, 3)), "labels": np.zeros(0, int)}
    for reduction in ("mean", "weighted_mean"):
        with pytest.raises(
            ValueError, match=rf"reduction='{reduction}' divides by zero: no valid row.*empty_mean"
        ):
            make(name, reduction=reduction).forward(**inputs)


def test_all_ignored_rows_have_no_mean(name, rng):
    """A batch of ignored rows under the default empty_mean='error' is refused."""
    inputs = example(name, rng) | {"labels": np.full(6, -1)}
    with pytest.raises(ValueError, match=r"divides by zero: no valid row.*empty_mean"):
        make(name, ignore_index=-1).forward(**inputs)


def test_weights_that_sum_to_zero_have_no_weighted_mean(name, rng):
    """Σ w = 0 under the default empty_mean='error' is refused."""
    loss = make(name, reduction="weighted_mean", class_weights=[1, 0, 1, 1])
    inputs = example(name, rng) | {"labels": np.full(6, 1)}
    with pytest.raises(ValueError, match=r"weights of the valid rows sum to 0.*empty_mean"):
        loss.forward(**inputs)


# -- soft targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARGIN)
def test_margin_losses_refuse_soft_targets(name, rng):
    """A soft target has no margin class."""
    inputs = example(name, rng) | {"labels": np.full((6, 4), 0.25)}
    with pytest.raises(
        ValueError, match=r"labels must be classes of shape \(N,\), got shape \(6, 4\).*margin"
    ):
        make(name).forward(**inputs)


BAD_SOFT = {
    "negative": (
        lambda t: changed(t, (1, 2), -0.1),
        ValueError,
        r"labels\[1, 2\] is -0.1.*must not be negative",
    ),
    "nan": (lambda t: changed(t, (2, 0), np.nan), ValueError, r"labels\[2, 0\] is nan.*must be finite"),
    "complex": (lambda t: t + 0j, TypeError, r"labels must be real, got complex"),
    "rows": (lambda t: t[:3], ValueError, r"soft labels must have shape \(N, C\) = \(6, 4\), got \(3, 4\)"),
    "classes": (
        lambda t: t[:, :3],
        ValueError,
        r"soft labels must have shape \(N, C\) = \(6, 4\), got \(6, 3\)",
    ),
    "transposed": (
        lambda t: t.T,
        ValueError,
        r"soft labels must have shape \(N, C\) = \(6, 4\), got \(4, 6\)",
    ),
    "one_column": (lambda t: t[:, :1], ValueError, r"soft labels must have shape .* got \(6, 1\)"),
}


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("bad", BAD_SOFT)
def test_bad_soft_targets_are_refused(name, bad, rng):
    """Soft targets that are negative, not finite or do not fit are refused."""
    spoil, error, message = BAD_SOFT[bad]
    inputs = example(name, rng) | {"labels": spoil(np.full((6, 4), 0.25))}
    with pytest.raises(error, match=message):
        make(name).forward(**inputs)


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_refuse_ignore_index(name, rng):
    """A soft target has no index that could be ignored."""
    inputs = example(name, rng) | {"labels": np.full((6, 4), 0.25)}
    with pytest.raises(ValueError, match=r"ignore_index needs class labels"):
        make(name, ignore_index=-1).forward(**inputs)


# -- b ---------------------------------------------------------------------------------------------

BAD_BIAS = {
    "nan": ([0.0, 1.0, np.nan, 2.0], ValueError, r"b\[2\] is nan.*b must be finite"),
    "short": ([0.0, 1.0, 2.0], ValueError, r"b must have shape \(C,\) = \(4,\), got \(3,\)"),
    "column": (np.zeros((4, 1)), ValueError, r"b must have shape \(C,\) = \(4,\), got \(4, 1\)"),
    "scalar": (0.5, ValueError, r"b must have shape \(C,\) = \(4,\), got \(\)"),
    "complex": ([0j, 1, 2, 3], TypeError, r"b must be real, got complex"),
    "strings": (["a", "b", "c", "d"], TypeError, r"b must hold real numbers"),
}


@pytest.mark.parametrize("name", BIAS)
@pytest.mark.parametrize("bad", BAD_BIAS)
def test_bad_bias_is_refused(name, bad, rng):
    """A bias is one finite real number a class."""
    b, error, message = BAD_BIAS[bad]
    with pytest.raises(error, match=message):
        make(name).forward(**(example(name, rng) | {"b": b}))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BIAS])
def test_losses_without_bias_refuse_one(name, rng):
    """b is refused, not ignored, by a loss that has none."""
    inputs = example(name, rng)
    with pytest.raises(ValueError, match=r"has no bias: b must be None"):
        make(name).forward(**inputs, b=np.zeros(4))
    with pytest.raises(ValueError, match=r"has no bias: b must be None"):
        make(name).inference_logits(inputs["x"], inputs["W"], b=np.zeros(4))


# -- shared parameters -----------------------------------------------------------------------------

BAD_OPTIONS = {
    "reduction": [("average", ValueError), (None, ValueError), ("Mean", ValueError)],
    "empty_mean": [("raise", ValueError), (None, ValueError)],
    "precision": [("single", ValueError), (64, ValueError)],
    "label_smoothing": [
        (-0.1, ValueError),
        (1.1, ValueError),
        (np.nan, ValueError),
        ("0.1", TypeError),
        (True, TypeError),
        (0.1j, TypeError),
        (None, TypeError),
        ([0.1, 0.2], TypeError),
    ],
    "ignore_index": [
        (1.5, TypeError),
        (-1.0, TypeError),
        (True, TypeError),
        ("1", TypeError),
        ([1], TypeError),
    ],
    "class_weights": [
        ([1, -0.5, 1, 1], ValueError),
        ([1, np.nan, 1, 1], ValueError),
        ([1, np.inf, 1, 1], ValueError),
        ([], ValueError),
        (1.0, ValueError),
        ([[1, 1, 1, 1]], ValueError),
        ([1j, 1, 1, 1], TypeError),
        ("balanced", TypeError),
        (["1", "2"], TypeError),
    ],
}
OPTIONS = [
    pytest.param(option, value, error, id=f"{option}={value!r}")
    for option, values in BAD_OPTIONS.items()
    for value, error in values
]


@pytest.mark.parametrize(("option", "value", "error"), OPTIONS)
def test_bad_shared_option_is_refused(name, option, value, error):
    """The options of the cross-entropy are checked when a loss is made, and named."""
    with pytest.raises(error, match=option):
        make(name, **{option: value})


@pytest.mark.parametrize(("option", "value", "error"), OPTIONS)
def test_bad_option_of_CrossEntropy_is_refused(option, value, error):
    """CrossEntropy checks the same options."""
    with pytest.raises(error, match=option):
        refloss.CrossEntropy(**{option: value})


@pytest.mark.parametrize("option", ["reduction", "empty_mean", "precision"])
def test_choice_given_as_an_array_is_refused(name, option):
    """An array is no choice: it would make the loss unhashable."""
    good = {"reduction": "mean", "empty_mean": "error", "precision": "double"}[option]
    with pytest.raises((TypeError, ValueError), match=option):
        make(name, **{option: np.array(good)})


def test_first_negative_class_weight_is_shown(name):
    """The message for negative class_weights gives the first index and its value."""
    with pytest.raises(ValueError, match=r"class_weights\[1\] is -0.5; class_weights must be ≥ 0"):
        make(name, class_weights=[1, -0.5, -2, 1])


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0] * 5], ids=["short", "long"])
def test_class_weights_of_the_wrong_length_are_refused(name, weights, rng):
    """There is one weight a class."""
    with pytest.raises(ValueError, match=rf"class_weights must have.*\(4,\), got {len(weights)}"):
        make(name, class_weights=weights).forward(**example(name, rng))


def test_weighted_softmax_needs_its_weights():
    """WeightedSoftmax without class_weights is refused."""
    with pytest.raises(TypeError, match="class_weights"):
        refloss.WeightedSoftmax()
    with pytest.raises(TypeError, match="class_weights"):
        refloss.WeightedSoftmax(class_weights=None)


def test_positional_and_unknown_parameters_are_refused(name):
    """Parameters are keyword-only, and an unknown one is named."""
    cls = type(make(name))
    with pytest.raises(TypeError, match="positional"):
        cls(1.0)
    with pytest.raises(TypeError, match="marginn"):
        make(name, marginn=1)


@pytest.mark.parametrize("unknown", ["cosface2", "ArcFace", "", None, 3])
def test_unknown_loss_is_refused(unknown):
    """refloss.get lists the names it knows."""
    with pytest.raises(ValueError, match="name must be one of softmax, weighted_softmax"):
        refloss.get(unknown)


# -- the losses' own parameters --------------------------------------------------------------------

NOT_POSITIVE = [
    (0, ValueError),
    (-1.0, ValueError),
    (np.nan, ValueError),
    (np.inf, ValueError),
    ("64", TypeError),
    (None, TypeError),
    (True, TypeError),
    (64j, TypeError),
    ([64.0], TypeError),
]
COUNT = [
    (0, ValueError),
    (-1, ValueError),
    (1.5, TypeError),
    (4.0, TypeError),
    (np.nan, TypeError),
    ("4", TypeError),
    (True, TypeError),
    (None, TypeError),
]
BAD_PARAMETERS = [
    *[("f_norm_sphereface", "scale", *bad) for bad in NOT_POSITIVE],
    *[("am_softmax", "scale", *bad) for bad in NOT_POSITIVE],
    *[("arcface", "scale", *bad) for bad in NOT_POSITIVE],
    *[("l2_softmax", "alpha", *bad) for bad in NOT_POSITIVE],
    *[(psi, "margin", *bad) for psi in PSI for bad in COUNT],
    *[
        (psi, "annealing", *bad)
        for psi in PSI
        for bad in [(-0.1, ValueError), (np.inf, ValueError), ("1", TypeError)]
    ],
    *[
        (name, "margin", *bad)
        for name in ("am_softmax", "arcface")
        for bad in [
            (-0.1, ValueError),
            (np.nan, ValueError),
            ("0.5", TypeError),
            (None, TypeError),
            (1j, TypeError),
        ]
    ],
    ("arcface", "margin", np.pi, ValueError),
    ("arcface", "margin", 28.6, ValueError),
    ("am_softmax", "margin", 2.0000001, ValueError),
    ("am_softmax", "margin", 20, ValueError),
    ("arcface", "easy_margin", 1, TypeError),
    ("arcface", "easy_margin", "yes", TypeError),
    ("arcface", "past_pi", "tail", ValueError),
    ("arcface", "past_pi", None, ValueError),
    *[(margin, "detach_margin", value, TypeError) for margin in MARGIN for value in (1, "yes", None)],
    *[
        (norm, "zero_norm", value, ValueError)
        for norm in [*NORMALISES_W, "l_softmax", "l2_softmax"]
        for value in ("nan", None)
    ],
]


@pytest.mark.parametrize(
    ("name", "parameter", "value", "error"),
    [pytest.param(*bad, id=f"{bad[0]}-{bad[1]}={bad[2]!r}") for bad in BAD_PARAMETERS],
)
def test_bad_parameter_is_refused(name, parameter, value, error):
    """A parameter out of its range or of a wrong type is refused by name."""
    with pytest.raises(error, match=parameter):
        make(name, **{parameter: value})


@pytest.mark.parametrize(("degrees", "radians"), [(28.6, "0.499164"), (30, "0.523599"), (45.0, "0.785398")])
def test_degrees_are_told_their_radians(degrees, radians):
    """A margin that looks like degrees is refused and told its radians."""
    for name in ("arcface", "am_softmax"):
        with pytest.raises(ValueError, match=rf"margin.*degrees.*{radians}"):
            make(name, margin=degrees)


def test_margins_at_their_bounds_are_accepted():
    """0 ≤ m < π for ArcFace, 0 ≤ m ≤ 2 for CosFace, m ≥ 1 for ψ."""
    for margin in (0, np.nextafter(np.pi, 0)):
        assert refloss.ArcFace(margin=margin).margin == margin
    for margin in (0, 2):
        assert refloss.CosFace(margin=margin).margin == margin
    for name in PSI:
        assert make(name, margin=np.int8(1)).margin == 1


@pytest.mark.parametrize("name", PSI)
def test_margin_beyond_floats_is_refused(name):
    """An integer that no float can hold is refused when the loss is made, not in its forward."""
    with pytest.raises(ValueError, match="margin"):
        make(name, margin=10**400)


# -- continuation: D(θ) beyond π/m, here for m = 4 -------------------------------------------------

KNOT = np.pi / 4


def good(theta, xp):
    return -1 - 2 * (theta - KNOT)


def good_slope(theta, xp):
    return -2 + 0 * theta


def raises(theta, xp):
    raise ZeroDivisionError("in the user's D")


BAD_CONTINUATIONS = {
    "one_function": (good, TypeError, r"continuation must be a pair \(D, dD\)"),
    "one_in_a_tuple": ((good,), TypeError, r"continuation must be a pair"),
    "three": ((good, good_slope, good), TypeError, r"continuation must be a pair"),
    "not_callable": ((good, -2), TypeError, r"continuation must be a pair"),
    "not_at_minus_one": (
        (lambda t, xp: -t, lambda t, xp: -1 + 0 * t),
        ValueError,
        r"continuation: D\(π/m\) must be cos\(π\) = −1.*D\(0.785398\) = -0.785398",
    ),
    "the_surveys_slip": (
        (lambda t, xp: np.cos(KNOT) - (t - KNOT), lambda t, xp: -1 + 0 * t),
        ValueError,
        r"continuation: D\(π/m\) must be cos\(π\) = −1",
    ),
    "rising": (
        (lambda t, xp: -1 + (t - KNOT), lambda t, xp: 1 + 0 * t),
        ValueError,
        r"continuation: D must be decreasing",
    ),
    "constant": (
        (lambda t, xp: -1 + 0 * t, lambda t, xp: 0 * t),
        ValueError,
        r"continuation: D must be decreasing",
    ),
    "rising_at_the_end": (
        (
            lambda t, xp: xp.where(t < 3.1, good(t, xp), good(3.1, xp) + (t - 3.1)),
            lambda t, xp: xp.where(t < 3.1, -2.0, 1.0),
        ),
        ValueError,
        r"continuation: D must be decreasing on \[π/m, π\]; D\(3.1",
    ),
    "torn": (
        (lambda t, xp: good(t, xp) - 0.5 * (t > 2), good_slope),
        ValueError,
        r"continuation: D must be continuous with derivative dD; from theta = (1.99|2)",
    ),
    "wrong_sign": ((good, lambda t, xp: 2 + 0 * t), ValueError, r"continuation: D"),
    "wrong_factor": ((good, lambda t, xp: -2.001 + 0 * t), ValueError, r"continuation: d?D"),
    "wrong_somewhere": (
        (good, lambda t, xp: xp.where((t > 2) & (t < 2.01), -2.1, -2.0)),
        ValueError,
        r"continuation: d?D must be .*theta = (1.99|2)",
    ),
    "nan": ((lambda t, xp: np.nan * t, good_slope), ValueError, r"continuation D\[0\] is nan"),
    "nan_slope": (
        (good, lambda t, xp: xp.where(t > 3, np.nan, -2.0)),
        ValueError,
        r"continuation dD\[\d+\] is nan",
    ),
    "complex": ((lambda t, xp: good(t, xp) + 0j, good_slope), TypeError, r"continuation D must be real"),
    "shape": (
        (lambda t, xp: good(t, xp)[:3], good_slope),
        ValueError,
        r"continuation: D and dD must.*\(1001,\)",
    ),
}


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("bad", BAD_CONTINUATIONS)
def test_bad_continuation_is_refused(name, bad):
    """A D that is not decreasing, continuous and −1 at π/m, or whose dD is not D', is refused."""
    value, error, message = BAD_CONTINUATIONS[bad]
    with pytest.raises(error, match=message):
        make(name, continuation=value)


@pytest.mark.parametrize("name", PSI)
def test_continuation_with_a_kink_is_accepted(name):
    """A kink at π/m, and a kink inside, are allowed: D is continuous and decreasing."""
    make(name, continuation=(good, good_slope))
    bent = (
        lambda t, xp: xp.where(t < 2, good(t, xp), good(2, xp) - 5 * (t - 2)),
        lambda t, xp: xp.where(t < 2, -2.0, -5.0),
    )
    make(name, continuation=bent)


@pytest.mark.parametrize("name", PSI)
def test_continuation_of_m_1_is_refused(name):
    """m = 1 has no angle beyond π/m."""
    with pytest.raises(ValueError, match="continuation: margin=1"):
        make(name, margin=1, continuation=(good, good_slope))


@pytest.mark.parametrize("name", PSI)
def test_error_of_the_users_own_function_is_not_hidden(name):
    """An exception inside D reaches the user as it is."""
    with pytest.raises(ZeroDivisionError, match="in the user's D"):
        make(name, continuation=(raises, good_slope))


# -- MarginSoftmax ---------------------------------------------------------------------------------


def psi(theta, xp):
    return xp.cos(theta)


def dpsi(theta, xp):
    return -xp.sin(theta)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"psi": 1.0}, TypeError, r"psi must be a function called as psi\(theta, xp\)"),
        ({"dpsi": None}, TypeError, r"dpsi must be a function"),
        ({"radius": "norm"}, ValueError, r"radius must be one of 'scale', 'x_norm', 'both_norms'"),
        ({"scale": 0}, ValueError, r"scale must be > 0"),
    ],
    ids=["psi", "dpsi", "radius", "scale"],
)
def test_bad_parameter_of_MarginSoftmax_is_refused(parameters, error, message):
    """MarginSoftmax checks its functions and its radius."""
    with pytest.raises(error, match=message):
        refloss.MarginSoftmax(**{"psi": psi, "dpsi": dpsi, **parameters})


BAD_FUNCTIONS = {
    "nan": lambda t, xp: np.nan * t,
    "inf": lambda t, xp: np.inf + t,
    "complex": lambda t, xp: t + 0j,
    "shape": lambda t, xp: np.ones(len(t) + 1),
    "strings": lambda t, xp: t.astype(str),
    "none": lambda t, xp: None,
}


@pytest.mark.parametrize("argument", ["psi", "dpsi"])
@pytest.mark.parametrize("bad", BAD_FUNCTIONS)
def test_bad_values_of_a_users_margin_are_refused(argument, bad, rng):
    """What psi and dpsi return is checked, and the function named: never NaN, never silent."""
    loss = refloss.MarginSoftmax(**({"psi": psi, "dpsi": dpsi} | {argument: BAD_FUNCTIONS[bad]}))
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        loss.forward(**example("arcface", rng))


# -- CrossEntropy ----------------------------------------------------------------------------------

LOGITS = np.arange(24.0).reshape(2, 3, 2, 2) % 7  # (N, C, H, W), classes on axis 1
PIXELS = np.arange(8).reshape(2, 2, 2) % 3

BAD_LOGITS = {
    "nan": (
        changed(LOGITS, (1, 2, 0, 1), np.nan),
        ValueError,
        r"logits\[1, 2, 0, 1\] is nan.*finite or -inf",
    ),
    "inf": (
        changed(LOGITS, (0, 1, 1, 0), np.inf),
        ValueError,
        r"logits\[0, 1, 1, 0\] is inf.*finite or -inf",
    ),
    "complex": (LOGITS + 0j, TypeError, r"logits must be real, got complex"),
    "strings": (LOGITS.astype(str), TypeError, r"logits must hold real numbers"),
    "scalar": (1.0, ValueError, r"logits must have the class axis 1, got shape \(\)"),
    "no_such_axis": (LOGITS[0, :, 0, 0], ValueError, r"logits must have the class axis 1, got shape \(3,\)"),
    "no_class": (
        LOGITS[:, :0],
        ValueError,
        r"logits need at least one class on axis 1, got shape \(2, 0, 2, 2\)",
    ),
}


@pytest.mark.parametrize("bad", BAD_LOGITS)
def test_bad_logits_are_refused(bad):
    """Bare logits are finite or −inf, and have the class axis."""
    logits, error, message = BAD_LOGITS[bad]
    with pytest.raises(error, match=message):
        refloss.CrossEntropy(axis=1).forward(logits, PIXELS)


SOFT_PIXELS = np.full(LOGITS.shape, 1 / 3)
BAD_TARGETS = {
    "too_large": (
        changed(PIXELS, (1, 0, 1), 3),
        ValueError,
        r"targets\[1, 0, 1\] is 3; targets must lie in 0 … 2",
    ),
    "negative": (
        changed(PIXELS, (0, 1, 1), -1),
        ValueError,
        r"targets\[0, 1, 1\] is -1; targets must lie in",
    ),
    "fractional": (
        changed(PIXELS * 1.0, (1, 1, 0), 0.5),
        TypeError,
        r"targets must be integers, got dtype float64 .*targets\[1, 1, 0\] is 0.5",
    ),
    "bools": (PIXELS > 0, TypeError, r"targets must be integers, got dtype bool"),
    "complex": (PIXELS + 0j, TypeError, r"targets must be integers"),
    "shape": (PIXELS[:, :1], ValueError, r"targets must have .*\(2, 2, 2\).*\(2, 3, 2, 2\), got \(2, 1, 2\)"),
    "flat": (PIXELS.ravel(), ValueError, r"targets must have .*\(2, 2, 2\).*\(2, 3, 2, 2\), got \(8,\)"),
    "class_axis_last": (
        np.moveaxis(SOFT_PIXELS, 1, -1),
        ValueError,
        r"targets must have .*\(2, 2, 2\).*\(2, 3, 2, 2\), got \(2, 2, 2, 3\)",
    ),
    "soft_negative": (
        changed(SOFT_PIXELS, (1, 2, 0, 1), -0.5),
        ValueError,
        r"targets\[1, 2, 0, 1\] is -0.5.*must not be negative",
    ),
    "soft_nan": (changed(SOFT_PIXELS, (0, 1, 1, 0), np.nan), ValueError, r"targets\[0, 1, 1, 0\] is nan"),
    "soft_bools": (SOFT_PIXELS > 0, TypeError, r"targets must hold real numbers, got dtype bool"),
}


@pytest.mark.parametrize("bad", BAD_TARGETS)
def test_bad_targets_are_refused(bad):
    """Targets per pixel are refused with the index that the user's own array has there."""
    targets, error, message = BAD_TARGETS[bad]
    with pytest.raises(error, match=message):
        refloss.CrossEntropy(axis=1).forward(LOGITS, targets)


@pytest.mark.parametrize("axis", [1.0, "1", None, True])
def test_bad_axis_is_refused(axis):
    """axis is an integer."""
    with pytest.raises(TypeError, match="axis must be an integer"):
        refloss.CrossEntropy(axis=axis)


def test_masked_target_is_refused():
    """A class masked by −inf cannot be the target, label or soft."""
    logits = [[0.0, 1.0], [-np.inf, 2.0]]
    for targets in ([0, 0], [[0.5, 0.5], [0.1, 0.9]]):
        with pytest.raises(ValueError, match=r"logits: class 0 of prediction 1 is masked \(-inf\).*target"):
            refloss.CrossEntropy().forward(logits, targets)


def test_masked_class_refuses_smoothing():
    """Smoothing gives a masked class a share of the target, and so an infinite loss."""
    with pytest.raises(ValueError, match=r"class 1 of prediction 0 is masked.*label_smoothing"):
        refloss.CrossEntropy(label_smoothing=0.1).forward([[0.0, -np.inf]], [0])


def test_prediction_without_any_class_is_refused():
    """At least one class must remain."""
    with pytest.raises(ValueError, match=r"logits: every class of prediction 1 is masked"):
        refloss.CrossEntropy().forward([[0.0, 1.0], [-np.inf, -np.inf]], [[0.5, 0.5], [0.0, 0.0]])


# -- hed_class_weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([[0, 1], [2, 0]], ValueError, r"labels\[1, 0\] is 2; labels must be 0 \(non-edge\) or 1 \(edge\)"),
        ([[0, 1], [0, -1]], ValueError, r"labels\[1, 1\] is -1; labels must be 0"),
        ([[0, 255]], ValueError, r"labels\[0, 1\] is 255"),
        ([[0.0, 0.5]], TypeError, r"labels must be integers, got dtype float64 .*labels\[0, 1\] is 0.5"),
        ([[0.0, 1.0]], TypeError, r"labels must be integers, got dtype float64"),
        ([[0.0, np.nan]], TypeError, r"labels must be integers"),
        ([[0j, 1]], TypeError, r"labels must be integers"),
        ([["0", "1"]], TypeError, r"labels must be integers"),
        ([[0], [1, 0]], ValueError, r"labels must be an array with rows of one length"),
    ],
    ids=["two", "negative", "255", "fraction", "float", "nan", "complex", "strings", "ragged"],
)
def test_bad_edge_map_is_refused(labels, error, message):
    """An edge map holds 0 and 1 and the ignored index, nothing else."""
    with pytest.raises(error, match=message):
        refloss.hed_class_weights(labels)


def test_bad_ignore_index_of_an_edge_map_is_refused():
    """ignore_index is an integer."""
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        refloss.hed_class_weights([[0, 1]], ignore_index=0.5)


# -- upstream --------------------------------------------------------------------------------------

BAD_UPSTREAM = {
    "nan": (np.nan, ValueError, r"upstream is nan; upstream must be finite"),
    "inf": (np.inf, ValueError, r"upstream is inf; upstream must be finite"),
    "complex": (1j, TypeError, r"upstream must be real, got complex"),
    "string": ("1", TypeError, r"upstream must hold real numbers"),
    "none": (None, TypeError, r"upstream must hold real numbers"),
    "per_sample": (
        np.ones(6),
        ValueError,
        r"upstream must be a scalar under reduction='mean', got shape \(6,\)",
    ),
    "one_entry": ([1.0], ValueError, r"upstream must be a scalar under reduction='mean', got shape \(1,\)"),
}


@pytest.mark.parametrize("bad", BAD_UPSTREAM)
def test_bad_upstream_is_refused(name, bad, rng):
    """upstream is a finite real scalar when the loss is one."""
    loss = make(name)
    out = loss.forward(**example(name, rng))
    upstream, error, message = BAD_UPSTREAM[bad]
    with pytest.raises(error, match=message):
        loss.backward(out, upstream)


@pytest.mark.parametrize("shape", [(5,), (1,), (6, 1), (1, 6), (6, 4)], ids=str)
def test_upstream_that_does_not_fit_is_refused(name, shape, rng):
    """Under reduction='none' upstream is a scalar or (N,): nothing is broadcast."""
    loss = make(name, reduction="none")
    out = loss.forward(**example(name, rng))
    with pytest.raises(
        ValueError, match=r"upstream must be a scalar or shape \(6,\) under reduction='none', got"
    ):
        loss.backward(out, np.ones(shape))


def test_first_bad_entry_of_upstream_is_shown(name, rng):
    """A NaN of a per-sample upstream is shown with its index."""
    loss = make(name, reduction="none")
    out = loss.forward(**example(name, rng))
    with pytest.raises(ValueError, match=r"upstream\[3\] is nan"):
        loss.backward(out, [1, 1, 1, np.nan, 1, np.nan])


def test_upstream_per_pixel_must_fit():
    """CrossEntropy under 'none' takes upstream in the labels' shape, or a scalar."""
    loss = refloss.CrossEntropy(axis=1, reduction="none")
    out = loss.forward(LOGITS, PIXELS)
    for shape in [(8,), (2, 2), (2, 3, 2, 2)]:
        with pytest.raises(ValueError, match=r"upstream must be a scalar or shape \(2, 2, 2\)"):
            loss.backward(out, np.ones(shape))


@pytest.mark.parametrize("out", [None, 1.0, {}, "out"], ids=repr)
def test_backward_needs_a_record(name, out):
    """backward takes what forward returned."""
    with pytest.raises(TypeError, match="out must be the record that forward returned"):
        make(name).backward(out)
    with pytest.raises(TypeError, match="out must be the record that forward returned"):
        refloss.CrossEntropy().backward(out)
