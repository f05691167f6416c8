"""Bad input gets a ValueError or TypeError that names the argument, says where and what was due."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import BIAS, MARGIN, NAMES, NORMALISES_W, SOFT, example, make, refused

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

# what is done to the array, and the message; {v} is the argument's name
BAD_MATRICES = refused(
    ValueError,
    nan=(lambda v: changed(v, (1, 2), np.nan), r"{v}\[1, 2\] is nan.*{v} must be finite"),
    inf=(lambda v: changed(v, (2, 0), np.inf), r"{v}\[2, 0\] is inf.*{v} must be finite"),
    minus_inf=(lambda v: changed(v, (0, 1), -np.inf), r"{v}\[0, 1\] is -inf.*must be finite"),
    first_of_two_nans=(lambda v: changed(changed(v, (3, 0), np.nan), (1, 1), np.nan), r"{v}\[1, 1\] is nan"),
    beyond_float64=(
        lambda v: changed(v.astype(np.longdouble), (1, 0), np.longdouble(2) ** 1100),
        r"{v}\[1, 0\] is inf.*must be finite",
    ),
    ragged=(lambda v: [[1.0, 2.0, 3.0], [4.0]], r"{v} must be an array with rows of one length"),
    vector=(lambda v: v[0], r"{v} must be 2-D \(\w, D\), got shape \(3,\)"),
    scalar=(lambda v: 1.5, r"{v} must be 2-D \(\w, D\), got shape \(\)"),
    three_axes=(lambda v: v[None], r"{v} must be 2-D \(\w, D\), got shape \(1, \d, 3\)"),
    columns=(lambda v: v[:, :2], r"same number of columns D, got x of shape .* and W of shape"),
    huge_integers=(
        lambda v: changed(np.ones(v.shape, np.int64), (0, 0), 2**53 + 1),
        r"{v} holds integers beyond 2\*\*53",
    ),
) | refused(
    TypeError,
    complex=(lambda v: v.astype(complex), r"{v} must be real, got complex dtype complex128"),
    strings=(lambda v: v.astype(str), r"{v} must hold real numbers, got dtype <U"),
    objects=(lambda v: v.astype(object), r"{v} must hold real numbers, got dtype object"),
    bools=(lambda v: v > 0, r"{v} must hold real numbers, got dtype bool"),
    dates=(lambda v: v.astype("datetime64[s]"), r"{v} must hold real numbers, got dtype datetime"),
    none=(lambda v: None, r"{v} must hold real numbers"),
    masked_array=(lambda v: np.ma.masked_greater(v, 0), r"{v} must be a plain array.*mask"),
    unreadable=(lambda v: Unreadable(), r"{v} must be an array"),
)


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
    with pytest.raises(ValueError, match=rf"W needs at least one class and one dimension, got shape \({shape[0]}"):
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


@pytest.mark.parametrize("name", NORMALISES_W)
def test_zero_row_of_W_is_named_at_inference(name, rng):
    """Zero rows are refused without labels too."""
    x, W = rng.normal(size=(2, 3)), np.array([[0.0, 0, 0], [1, 2, 3]])
    for call in (make(name).inference_logits, make(name).decision_boundary):
        with pytest.raises(ValueError, match=r"W\[0\] is a zero row"):
            call(x, W)


# -- labels ----------------------------------------------------------------------------------------

BAD_LABELS = refused(
    ValueError,
    too_large=([0, 1, 4, 9], r"labels\[2\] is 4; labels must lie in 0 … 3"),
    negative=([0, -1, 2, 3], r"labels\[1\] is -1; labels must lie in 0 … 3"),
    minus_100=([0, 1, 2, -100], r"labels\[3\] is -100; labels must lie in 0 … 3"),
    uint64=(np.array([0, 1, 2, 2**63], np.uint64), r"labels\[3\] is 9223372036854775808"),
    none=(None, r"labels must be classes of shape \(N,\).*got shape \(\)"),
    ragged=([[0], [1, 2]], r"labels must be an array with rows of one length"),
    scalar=(2, r"labels must be classes of shape \(N,\).*got shape \(\)"),
    too_few=([0, 1, 2], r"labels must have one entry per row, shape \(4,\), got \(3,\)"),
    too_many=([0, 1, 2, 3, 0], r"labels must have one entry per row, shape \(4,\), got \(5,\)"),
    three_axes=(np.zeros((4, 1, 1), int), r"labels must be classes.*got shape \(4, 1, 1\)"),
    column=([[0], [1], [2], [3]], r"labels must.*shape.*\(4, 1\)"),
) | refused(
    TypeError,
    fractional=([0.0, 1.0, 1.5, 2.0], r"labels must be integers, got dtype float64 .*labels\[2\] is 1.5"),
    whole_floats=([0.0, 1.0, 2.0, 3.0], r"labels must be integers, got dtype float64"),
    nan=([0.0, np.nan, 2.0, 3.0], r"labels must be integers.*labels\[1\] is nan"),
    bools=([True, False, True, False], r"labels must be integers, got dtype bool"),
    complex=([0j, 1, 2, 3], r"labels must be integers, got dtype complex128"),
    strings=(["0", "1", "2", "3"], r"labels must be integers"),
    unreadable=(Unreadable(), r"labels must be"),
    masked_array=(np.ma.masked_equal([0, 1, 2, 3], 1), r"labels must be a plain array"),
    huge=([0, 1, 2, 2**70], r"labels"),
)


@pytest.mark.parametrize("bad", BAD_LABELS)
def test_bad_labels_are_refused(name, bad, rng):
    """Labels that are no classes, one per row, are refused with the first of them or with the shape."""
    inputs = example(name, rng, n=4)
    inputs["labels"], error, message = BAD_LABELS[bad]
    with pytest.raises(error, match=message):
        make(name).forward(**inputs)


NO_ROW = {"x": np.zeros((0, 3)), "labels": np.zeros(0, int)}
# options and what they meet, and the message
BAD_TOGETHER = refused(
    ValueError,
    other_than_ignored=(({"ignore_index": -1}, {"labels": [0, -1, -2, 1, 0, 1]}), r"labels\[2\] is -2"),
    no_row=(({}, NO_ROW), r"reduction='mean' divides by zero: no valid row.*empty_mean"),
    no_row_weighted=(
        ({"reduction": "weighted_mean"}, NO_ROW),
        r"reduction='weighted_mean' divides by zero: no valid row.*empty_mean",
    ),
    all_ignored=(({"ignore_index": -1}, {"labels": np.full(6, -1)}), r"divides by zero: no valid row.*empty_mean"),
    no_weight=(
        ({"reduction": "weighted_mean", "class_weights": [1, 0, 1, 1]}, {"labels": np.full(6, 1)}),
        r"weighted targets of the valid rows sum to 0.*empty_mean",
    ),
    few_weights=(({"class_weights": [1.0, 2.0]}, {}), r"class_weights must have.*\(4,\), got 2"),
    many_weights=(({"class_weights": [1.0] * 5}, {}), r"class_weights must have.*\(4,\), got 5"),
)


@pytest.mark.parametrize("bad", BAD_TOGETHER)
def test_options_and_labels_that_do_not_fit_are_refused(name, bad, rng):
    """A label that ignore_index does not excuse, a mean of nothing (the message names the way out), weights of another
    number than the classes."""
    (options, given), error, message = BAD_TOGETHER[bad]
    with pytest.raises(error, match=message):
        make(name, **options).forward(**(example(name, rng) | given))


# -- soft targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MARGIN)
def test_margin_losses_refuse_soft_targets(name, rng):
    """A soft target has no margin class."""
    inputs = example(name, rng) | {"labels": np.full((6, 4), 0.25)}
    with pytest.raises(ValueError, match=r"labels must be classes of shape \(N,\), got shape \(6, 4\).*margin"):
        make(name).forward(**inputs)


BAD_SOFT = refused(
    ValueError,
    negative=(lambda t: changed(t, (1, 2), -0.1), r"labels\[1, 2\] is -0.1.*must not be negative"),
    nan=(lambda t: changed(t, (2, 0), np.nan), r"labels\[2, 0\] is nan.*must be finite"),
    rows=(lambda t: t[:3], r"soft labels must have shape \(N, C\) = \(6, 4\), got \(3, 4\)"),
    classes=(lambda t: t[:, :3], r"soft labels must have shape \(N, C\) = \(6, 4\), got \(6, 3\)"),
    transposed=(lambda t: t.T, r"soft labels must have shape \(N, C\) = \(6, 4\), got \(4, 6\)"),
    one_column=(lambda t: t[:, :1], r"soft labels must have shape .* got \(6, 1\)"),
) | refused(TypeError, complex=(lambda t: t + 0j, r"labels must be real, got complex"))


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

BAD_BIAS = refused(
    ValueError,
    nan=([0.0, 1.0, np.nan, 2.0], r"b\[2\] is nan.*b must be finite"),
    short=([0.0, 1.0, 2.0], r"b must have shape \(C,\) = \(4,\), got \(3,\)"),
    column=(np.zeros((4, 1)), r"b must have shape \(C,\) = \(4,\), got \(4, 1\)"),
    scalar=(0.5, r"b must have shape \(C,\) = \(4,\), got \(\)"),
) | refused(
    TypeError,
    complex=([0j, 1, 2, 3], r"b must be real, got complex"),
    strings=(["a", "b", "c", "d"], r"b must hold real numbers"),
)


@pytest.mark.parametrize("name", BIAS)
@pytest.mark.parametrize("bad", BAD_BIAS)
def test_bad_bias_is_refused(name, bad, rng):
    """A bias is one finite real number per class."""
    b, error, message = BAD_BIAS[bad]
    with pytest.raises(error, match=message):
        make(name).forward(**(example(name, rng) | {"b": b}))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BIAS])
def test_losses_without_bias_refuse_one(name, rng):
    """b is refused, not ignored, by a loss that has none."""
    inputs = example(name, rng)
    for call, labels in ((make(name).forward, [inputs["labels"]]), (make(name).inference_logits, [])):
        with pytest.raises(ValueError, match=r"has no bias: b must be None"):
            call(inputs["x"], inputs["W"], *labels, b=np.zeros(4))


# -- CrossEntropy ----------------------------------------------------------------------------------

LOGITS = np.arange(24.0).reshape(2, 3, 2, 2) % 7  # (N, C, H, W), classes on axis 1
PIXELS = np.arange(8).reshape(2, 2, 2) % 3

BAD_LOGITS = refused(
    ValueError,
    nan=(changed(LOGITS, (1, 2, 0, 1), np.nan), r"logits\[1, 2, 0, 1\] is nan.*finite or -inf"),
    inf=(changed(LOGITS, (0, 1, 1, 0), np.inf), r"logits\[0, 1, 1, 0\] is inf.*finite or -inf"),
    scalar=(1.0, r"logits must have the class axis 1, got shape \(\)"),
    no_such_axis=(LOGITS[0, :, 0, 0], r"logits must have the class axis 1, got shape \(3,\)"),
    no_class=(LOGITS[:, :0], r"logits need at least one class on axis 1, got shape \(2, 0, 2, 2\)"),
) | refused(
    TypeError,
    complex=(LOGITS + 0j, r"logits must be real, got complex"),
    strings=(LOGITS.astype(str), r"logits must hold real numbers"),
)


@pytest.mark.parametrize("bad", BAD_LOGITS)
def test_bad_logits_are_refused(bad):
    """Bare logits are finite or −inf, and have the class axis."""
    logits, error, message = BAD_LOGITS[bad]
    with pytest.raises(error, match=message):
        refloss.CrossEntropy(axis=1).forward(logits, PIXELS)


SOFT_PIXELS = np.full(LOGITS.shape, 1 / 3)
BAD_TARGETS = refused(
    ValueError,
    too_large=(changed(PIXELS, (1, 0, 1), 3), r"targets\[1, 0, 1\] is 3; targets must lie in 0 … 2"),
    negative=(changed(PIXELS, (0, 1, 1), -1), r"targets\[0, 1, 1\] is -1; targets must lie in"),
    shape=(PIXELS[:, :1], r"targets must have .*\(2, 2, 2\).*\(2, 3, 2, 2\), got \(2, 1, 2\)"),
    flat=(PIXELS.ravel(), r"targets must have .*\(2, 2, 2\).*\(2, 3, 2, 2\), got \(8,\)"),
    class_axis_last=(
        np.moveaxis(SOFT_PIXELS, 1, -1),
        r"targets must have .*\(2, 2, 2\).*\(2, 3, 2, 2\), got \(2, 2, 2, 3\)",
    ),
    soft_negative=(changed(SOFT_PIXELS, (1, 2, 0, 1), -0.5), r"targets\[1, 2, 0, 1\] is -0.5.*must not be negative"),
    soft_nan=(changed(SOFT_PIXELS, (0, 1, 1, 0), np.nan), r"targets\[0, 1, 1, 0\] is nan"),
) | refused(
    TypeError,
    fractional=(
        changed(PIXELS * 1.0, (1, 1, 0), 0.5),
        r"targets must be integers, got dtype float64 .*targets\[1, 1, 0\] is 0.5",
    ),
    bools=(PIXELS > 0, r"targets must be integers, got dtype bool"),
    complex=(PIXELS + 0j, r"targets must be integers"),
    soft_bools=(SOFT_PIXELS > 0, r"targets must hold real numbers, got dtype bool"),
)


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


MASKED = {
    "target": ({}, [[0.0, 1.0], [-np.inf, 2.0]], [0, 0], r"logits: class 0 of prediction 1 is masked \(-inf\).*target"),
    "soft_target": (
        {},
        [[0.0, 1.0], [-np.inf, 2.0]],
        [[0.5, 0.5], [0.1, 0.9]],
        r"logits: class 0 of prediction 1 is masked \(-inf\).*target",
    ),
    # smoothing gives a masked class a share of the target, and so an infinite loss
    "smoothed": (
        {"label_smoothing": 0.1},
        [[0.0, -np.inf]],
        [0],
        r"class 1 of prediction 0 is masked.*label_smoothing",
    ),
    "every_class": (
        {},
        [[0.0, 1.0], [-np.inf, -np.inf]],
        [[0.5, 0.5], [0.0, 0.0]],
        r"logits: every class of prediction 1 is masked",
    ),
}


@pytest.mark.parametrize("case", MASKED)
def test_masked_class_cannot_be_a_target(case):
    """A class masked by −inf can have no share of the target, and one class must remain."""
    options, logits, targets, message = MASKED[case]
    with pytest.raises(ValueError, match=message):
        refloss.CrossEntropy(**options).forward(logits, targets)


# -- hed_class_weights -----------------------------------------------------------------------------


BAD_EDGES = refused(
    ValueError,
    two=([[0, 1], [2, 0]], r"labels\[1, 0\] is 2; labels must be 0 \(non-edge\) or 1 \(edge\)"),
    negative=([[0, 1], [0, -1]], r"labels\[1, 1\] is -1; labels must be 0"),
    unknown=([[0, 255]], r"labels\[0, 1\] is 255"),
    ragged=([[0], [1, 0]], r"labels must be an array with rows of one length"),
) | refused(
    TypeError,
    fraction=([[0.0, 0.5]], r"labels must be integers, got dtype float64 .*labels\[0, 1\] is 0.5"),
    float=([[0.0, 1.0]], r"labels must be integers, got dtype float64"),
    nan=([[0.0, np.nan]], r"labels must be integers"),
    complex=([[0j, 1]], r"labels must be integers"),
    strings=([["0", "1"]], r"labels must be integers"),
)


@pytest.mark.parametrize("bad", BAD_EDGES)
def test_bad_edge_map_is_refused(bad):
    """An edge map holds 0 and 1 and the ignored index, nothing else."""
    labels, error, message = BAD_EDGES[bad]
    with pytest.raises(error, match=message):
        refloss.hed_class_weights(labels)


@pytest.mark.parametrize("labels", [[], np.zeros((0, 3), dtype=int)], ids=["list", "array"])
def test_an_edge_map_of_nothing_is_refused(labels):
    with pytest.raises(ValueError, match="labels must have at least one entry, got shape"):
        refloss.hed_class_weights(labels)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: refloss.MarginSoftmax(psi=np.cos, dpsi=np.sin), r"psi must .* psi\(theta, xp\), got <ufunc 'cos'>: write"),
    (lambda: refloss.MarginSoftmax(psi=lambda t: t, dpsi=lambda t: t), r"psi must be .*, which takes \(t\)"),
    (lambda: refloss.LSoftmax(continuation=(np.cos, np.sin)), r"continuation D must be .* D\(theta, xp\), got"),
    (lambda: refloss.LSoftmax(continuation=(lambda t, xp: -1 - t, lambda: 0)), "continuation dD must be"),
    (lambda: refloss.testing.cases(None), "loss must be an object of refloss, such as refloss.ArcFace"),
    (lambda: refloss.testing.cases(refloss.ArcFace), "loss must be an object of refloss"),
])  # fmt: skip
def test_functions_and_losses_are_refused_by_name(call, words):
    """Not by whatever Python or NumPy says of them."""
    with pytest.raises(TypeError, match=words):
        call()


def test_bad_ignore_index_of_an_edge_map_is_refused():
    """ignore_index is an integer."""
    with pytest.raises(TypeError, match="ignore_index must be an integer"):
        refloss.hed_class_weights([[0, 1]], ignore_index=0.5)


# -- upstream --------------------------------------------------------------------------------------

BAD_UPSTREAM = refused(
    ValueError,
    nan=(np.nan, r"upstream is nan; upstream must be finite"),
    inf=(np.inf, r"upstream is inf; upstream must be finite"),
    per_sample=(np.ones(6), r"upstream must be a scalar under reduction='mean', got shape \(6,\)"),
    one_entry=([1.0], r"upstream must be a scalar under reduction='mean', got shape \(1,\)"),
) | refused(
    TypeError,
    complex=(1j, r"upstream must be real, got complex"),
    string=("1", r"upstream must hold real numbers"),
    none=(None, r"upstream must hold real numbers"),
)


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
    with pytest.raises(ValueError, match=r"upstream must be a scalar or shape \(6,\) under reduction='none', got"):
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
    for loss in (make(name), refloss.CrossEntropy()):
        with pytest.raises(TypeError, match="out must be the record that forward returned"):
            loss.backward(out)
