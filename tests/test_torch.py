"""refloss against torch.nn.functional.cross_entropy in float64: value and gradient, every option crossed.

The conventions, derived from torch's formulas (aten/src/ATen/native/LossNLL.cpp):

    torch, labels, "mean"   [(1−ε) Σ_i w_{y_i} (−log p_iy) + (ε/C) Σ_i Σ_c w_c (−log p_ic)] / Σ_valid w_{y_i}
    ours, "weighted_mean"   Σ_i ℓ_i / Σ_valid w_{y_i},   ℓ_i = −Σ_c w_c ((1−ε) [c = y_i] + ε/C) log p_ic

are the same sum: torch's smoothed mean, too, divides by the weights of the labels, not by those of the
smoothed targets. For soft targets torch divides by the number of predictions, which is our "mean".
So the only differences are those that have a test of their own at the end of this file.
"""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from agreement import assert_rows_agree, assert_values_agree, logit_terms, one_thread_of_torch
from helpers import near

import refloss

OURS_FOR_LABELS = {"none": "none", "sum": "sum", "mean": "weighted_mean"}
OURS_FOR_SOFT = {"none": "none", "sum": "sum", "mean": "mean"}

# classes on axis 1 (torch's rule), on axis 0 of a single prediction
SHAPES = {
    "one_prediction": (4,),
    "matrix": (7, 4),
    "two_classes": (5, 2),
    "one_class": (3, 1),
    "sequences": (3, 5, 4),
    "images": (2, 3, 4, 3),
}
WEIGHTS = ("no_weights", "weights", "a_zero_weight")
SMOOTHINGS = (0.0, 0.1, 1.0)
IGNORED = {"none_ignored": None, "minus_100_ignored": -100, "class_1_ignored": 1}


def torch_cross_entropy(logits, targets, class_weights=None, upstream=None, **options):
    """torch's loss, and its gradient in the logits; arrays in, arrays out."""
    loss, gradients = torch_linear_cross_entropy((logits,), targets, class_weights, upstream, **options)
    return loss, gradients[0]


def torch_linear_cross_entropy(inputs, targets, class_weights=None, upstream=None, **options):
    """torch's loss of the logits, or of F.linear(x, W[, b]), and the gradients in each input."""
    torch = one_thread_of_torch()
    inputs = [torch.tensor(np.asarray(v), requires_grad=True) for v in inputs]
    loss = torch.nn.functional.cross_entropy(
        inputs[0] if len(inputs) == 1 else torch.nn.functional.linear(*inputs),
        torch.tensor(targets),
        weight=None if class_weights is None else torch.tensor(class_weights),
        **options,
    )
    loss.backward(torch.ones_like(loss) if upstream is None else torch.tensor(upstream))
    return loss.detach().numpy(), [v.grad.numpy() for v in inputs]


def draw_weights(kind, classes, rng, ignore_index=None):
    """Class weights. The class of the first label (see draw_labels) counts, so that no divisor is 0."""
    if kind == "no_weights":
        return None
    weights = rng.uniform(0.2, 3.0, classes)
    if kind == "a_zero_weight" and classes > 1:
        weights[0 if ignore_index != classes - 1 else classes - 1] = 0.0
    return weights


def draw_labels(shape, classes, ignore_index, rng):
    """Labels of which about a third are ignored; the first is of the last class and stays."""
    labels = rng.integers(0, classes, shape)
    if ignore_index is not None:
        labels = np.where(rng.random(shape) < 0.35, ignore_index, labels)
    labels = np.array(labels)
    labels.reshape(-1)[0] = classes - 1 if ignore_index != classes - 1 else 0
    return labels


def draw_soft(shape, axis, rng):
    """Soft targets with exact zeros; their sums are 1, less and more, which torch takes as well."""
    soft = rng.exponential(size=shape) * (rng.random(shape) < 0.8)
    total = soft.sum(axis=axis, keepdims=True)
    soft = soft / np.where(total == 0, 1.0, total)
    return soft * np.where(rng.random(total.shape) < 0.3, rng.uniform(0.2, 2.0, total.shape), 1.0)


def draw_upstream(reduction, shape, rng):
    """Negative for a reduced loss; for "none" of all sizes and signs, one of them 0."""
    if reduction != "none":
        return np.float64(-1.7)
    upstream = np.array(rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4, shape))
    if upstream.size > 1:
        upstream.reshape(-1)[1] = 0.0
    return upstream


def one_hot(labels, classes, ignore_index):
    """(M, C); zero rows where ignored."""
    flat = labels.ravel()
    kept = np.ones(len(flat), dtype=bool) if ignore_index is None else flat != ignore_index
    return np.where(kept[:, None], np.eye(classes)[np.where(kept, flat, 0)], 0.0)


def divisor(reduction, target, weights, soft):
    """What torch divides by."""
    if reduction != "mean":
        return 1.0
    if soft:
        return float(len(target))
    return float((target * (1.0 if weights is None else weights)).sum())


def compare_on_logits(name, reduction, weights_kind, smoothing, ignore_index, soft):
    """Value, per-prediction losses and gradient of one combination, at two sizes of the logits."""
    shape = SHAPES[name]
    axis = 0 if len(shape) == 1 else 1
    classes = shape[axis]
    rest = shape[:axis] + shape[axis + 1 :]
    rng = np.random.default_rng([len(shape), classes, WEIGHTS.index(weights_kind), soft])
    weights = draw_weights(weights_kind, classes, rng, ignore_index)
    targets = draw_soft(shape, axis, rng) if soft else draw_labels(rest, classes, ignore_index, rng)
    upstream = draw_upstream(reduction, rest, rng)
    options = {} if ignore_index is None else {"ignore_index": ignore_index}
    ours = refloss.CrossEntropy(
        axis=axis,
        reduction=(OURS_FOR_SOFT if soft else OURS_FOR_LABELS)[reduction],
        class_weights=weights,
        label_smoothing=smoothing,
        **options,
    )
    for size in (0.1, 3.0):
        logits = size * rng.normal(size=shape)
        theirs, their_g = torch_cross_entropy(
            logits, targets, weights, upstream, reduction=reduction, label_smoothing=smoothing, **options
        )
        out = ours.forward(logits, targets)
        g = ours.backward(out, upstream).logits

        rows = np.moveaxis(logits, axis, -1).reshape(-1, classes)
        target = (
            np.moveaxis(targets, axis, -1).reshape(-1, classes) if soft else one_hot(targets, classes, ignore_index)
        )
        share = np.ravel(upstream) / divisor(reduction, target, weights, soft)
        scale = logit_terms(rows, target, weights, smoothing, share, soft).sum(axis=1)
        assert out.loss.shape == theirs.shape
        assert_values_agree(out.loss, theirs, "loss")
        assert_rows_agree(
            np.moveaxis(g, axis, -1).reshape(-1, classes),
            np.moveaxis(their_g, axis, -1).reshape(-1, classes),
            scale,
            "gradient in the logits",
        )


@pytest.mark.parametrize("ignored", IGNORED)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("reduction", OURS_FOR_LABELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_labels_agree_with_torch(shape, reduction, weights, smoothing, ignored):
    """Integer labels: loss and gradient are torch's; torch's "mean" is our "weighted_mean"."""
    compare_on_logits(shape, reduction, weights, smoothing, IGNORED[ignored], soft=False)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("reduction", OURS_FOR_SOFT)
@pytest.mark.parametrize("shape", SHAPES)
def test_soft_targets_agree_with_torch(shape, reduction, weights, smoothing):
    """Soft targets, whatever their sum: loss and gradient are torch's; torch's "mean" is our "mean"."""
    compare_on_logits(shape, reduction, weights, smoothing, None, soft=True)


LINEAR = list(itertools.product(("bias", "no_bias"), ("labels", "soft"), OURS_FOR_LABELS))


@pytest.mark.parametrize("ignored", ["none_ignored", "minus_100_ignored"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("bias", "kind", "reduction"), LINEAR, ids=map("-".join, LINEAR))
def test_softmax_and_weighted_softmax_agree_with_torch(bias, kind, reduction, weights, smoothing, ignored):
    """Softmax, and WeightedSoftmax where there are weights: loss and gradients in x, W and b are torch's."""
    soft, ignore_index = kind == "soft", IGNORED[ignored]
    if soft and ignore_index is not None:
        # both refuse it, see test_ignore_index_with_soft_targets_is_refused_by_both
        ignore_index = None
    N, C, D = 9, 5, 6
    rng = np.random.default_rng([soft, WEIGHTS.index(weights)])
    x, W = rng.normal(size=(N, D)), rng.normal(size=(C, D)) * 10.0 ** rng.uniform(-2, 0.3, (C, 1))
    b = rng.normal(size=C) if bias == "bias" else None
    w = draw_weights(weights, C, rng)
    targets = draw_soft((N, C), 1, rng) if soft else draw_labels((N,), C, ignore_index, rng)
    upstream = draw_upstream(reduction, (N,), rng)
    options = {} if ignore_index is None else {"ignore_index": ignore_index}

    make = refloss.Softmax if w is None else refloss.WeightedSoftmax
    ours = make(
        reduction=(OURS_FOR_SOFT if soft else OURS_FOR_LABELS)[reduction],
        label_smoothing=smoothing,
        **options,
        **({} if w is None else {"class_weights": w}),
    )
    loss, grads = ours.value_and_grad(x, W, targets, b, upstream)

    theirs, their_grads = torch_linear_cross_entropy(
        (x, W) if b is None else (x, W, b),
        targets,
        w,
        upstream,
        reduction=reduction,
        label_smoothing=smoothing,
        **options,
    )

    target = targets if soft else one_hot(targets, C, ignore_index)
    share = np.ravel(upstream) / divisor(reduction, target, w, soft)
    G = logit_terms(x @ W.T + (0 if b is None else b), target, w, smoothing, share, soft)
    assert_values_agree(loss, theirs, "loss")
    assert_rows_agree(grads.x, their_grads[0], G @ np.linalg.norm(W, axis=1), "gradient in x")
    assert_rows_agree(grads.W, their_grads[1], G.T @ np.linalg.norm(x, axis=1), "gradient in W")
    if b is None:
        assert grads.b is None
    else:
        assert_rows_agree(grads.b, their_grads[2], G.sum(axis=0), "gradient in b")


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("shape", ["matrix", "images"])
def test_logits_of_ten_thousand_agree_with_torch(shape, weights):
    """Logits of ±1e4, on which e^z overflows: where the label is the largest loss and gradient vanish in
    both, elsewhere both are finite and agree."""
    size = SHAPES[shape]
    rng = np.random.default_rng(5)
    logits = 1e4 * np.sign(rng.normal(size=size)) + rng.normal(size=size)
    labels = rng.integers(0, size[1], size[:1] + size[2:])
    w = draw_weights(weights, size[1], rng)
    ours = refloss.CrossEntropy(axis=1, reduction="none", class_weights=w)
    out = ours.forward(logits, labels)
    theirs, their_g = torch_cross_entropy(logits, labels, w, reduction="none")
    assert out.losses.max() > 1e4
    assert_values_agree(out.losses, theirs, "losses")
    rows = np.moveaxis(logits, 1, -1).reshape(-1, size[1])
    scale = logit_terms(rows, one_hot(labels, size[1], None), w).sum(axis=1)
    got, want = (np.moveaxis(g, 1, -1).reshape(rows.shape) for g in (ours.backward(out).logits, their_g))
    assert_rows_agree(got, want, scale, "gradient in the logits")


# -- where there is nothing to divide by -----------------------------------------------------------


@pytest.mark.parametrize("smoothing", SMOOTHINGS[:2])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_all_ignored_mean_is_torchs_nan_only_if_asked_for(weights, smoothing):
    """All rows ignored: torch's mean is 0/0 = NaN with gradient 0, and so is ours under empty_mean="nan";
    by default we raise instead, and "zero" gives 0. "sum" and "none" are 0 in both."""
    rng = np.random.default_rng(0)
    logits, labels, w = rng.normal(size=(4, 3)), np.full(4, -100), draw_weights(weights, 3, rng)
    shared = {"class_weights": w, "label_smoothing": smoothing, "ignore_index": -100}
    theirs = {
        reduction: torch_cross_entropy(logits, labels, w, label_smoothing=smoothing, reduction=reduction)
        for reduction in OURS_FOR_LABELS
    }
    assert np.isnan(theirs["mean"][0])
    assert not theirs["mean"][1].any()
    for reduction in ("mean", "weighted_mean"):
        with pytest.raises(ValueError, match="divides by zero: no valid row"):
            refloss.CrossEntropy(reduction=reduction, **shared).forward(logits, labels)
        for empty_mean, due in (("nan", np.nan), ("zero", 0.0)):
            ours = refloss.CrossEntropy(reduction=reduction, empty_mean=empty_mean, **shared)
            loss, grads = ours.value_and_grad(logits, labels)
            np.testing.assert_array_equal(loss, due)
            np.testing.assert_array_equal(grads.logits, theirs["mean"][1])
    for reduction in ("sum", "none"):
        loss, grads = refloss.CrossEntropy(reduction=reduction, **shared).value_and_grad(logits, labels)
        np.testing.assert_array_equal(loss, theirs[reduction][0])
        assert not grads.logits.any()


@pytest.mark.parametrize("smoothing", SMOOTHINGS[:2])
def test_labels_of_weight_zero_only_give_torchs_nan_only_if_asked_for(smoothing):
    """Every label has weight 0: torch's mean divides by Σ w_y = 0, value and gradient are NaN; ours the same
    under "nan". The plain mean divides by the number of rows and has nothing to complain about."""
    rng = np.random.default_rng(0)
    logits, labels, w = rng.normal(size=(4, 3)), np.zeros(4, dtype=int), np.array([0.0, 1.0, 2.0])
    theirs, their_g = torch_cross_entropy(logits, labels, w, label_smoothing=smoothing)
    assert np.isnan(theirs)
    assert np.isnan(their_g).all()
    shared = {"class_weights": w, "label_smoothing": smoothing}
    with pytest.raises(ValueError, match="the weighted targets of the valid rows sum to 0"):
        refloss.CrossEntropy(reduction="weighted_mean", **shared).forward(logits, labels)
    nan = refloss.CrossEntropy(reduction="weighted_mean", empty_mean="nan", **shared)
    loss, grads = nan.value_and_grad(logits, labels)
    assert np.isnan(loss)
    assert np.isnan(grads.logits).all()
    plain = refloss.CrossEntropy(reduction="mean", **shared).forward(logits, labels)
    assert np.isfinite(plain.loss)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_an_empty_batch_is_torchs_nan_only_if_asked_for(soft):
    """N = 0: torch's mean is NaN and its sum 0; ours under "nan" the same, an error by default."""
    logits = np.zeros((0, 3))
    targets = np.zeros((0, 3)) if soft else np.zeros(0, dtype=int)
    assert np.isnan(torch_cross_entropy(logits, targets)[0])
    assert torch_cross_entropy(logits, targets, reduction="sum")[0] == 0
    with pytest.raises(ValueError, match="divides by zero: no valid row"):
        refloss.CrossEntropy().forward(logits, targets)
    loss, grads = refloss.CrossEntropy(empty_mean="nan").value_and_grad(logits, targets)
    assert np.isnan(loss)
    assert grads.logits.shape == (0, 3)
    assert refloss.CrossEntropy(reduction="sum").forward(logits, targets).loss == 0


# -- the differences, by name ----------------------------------------------------------------------


def test_difference_mean_of_labels_counts_rows_and_torchs_counts_weights():
    """Difference: for labels our "mean" is Σℓ/#valid, torch's Σℓ/Σ w_y. Two rows of loss log 2 before
    weights 1 and 3: ours (1 + 3) log 2 / 2 = 2 log 2, torch's (1 + 3) log 2 / (1 + 3) = log 2."""
    logits, labels, w = np.zeros((2, 2)), np.array([0, 1]), np.array([1.0, 3.0])
    theirs = torch_cross_entropy(logits, labels, w)[0]
    mean = refloss.CrossEntropy(class_weights=w).forward(logits, labels).loss
    weighted = refloss.CrossEntropy(class_weights=w, reduction="weighted_mean").forward(logits, labels).loss
    assert mean == near(2 * np.log(2), 1e-15)
    assert theirs == near(np.log(2), 1e-15)
    assert weighted == near(theirs, 1e-15)


def test_smoothing_with_weights_divides_by_the_labels_weights_in_both():
    """No difference, though one might expect one: with smoothing the weights that act on a row are
    Σ_c w_c t_c, but torch divides by w_y alone, and so does our "weighted_mean". Equal probabilities,
    weights 1 and 3, ε = 0.2, label 0: (0.9·1 + 0.1·3) log 2 / 1 = 1.2 log 2, more than the log 2 that
    every class costs. Label 1: (0.1·1 + 0.9·3) log 2 / 3 = (2.8/3) log 2."""
    w = np.array([1.0, 3.0])
    ours = refloss.CrossEntropy(class_weights=w, label_smoothing=0.2, reduction="weighted_mean")
    for label, due in ((0, 1.2), (1, 2.8 / 3)):
        logits, labels = np.zeros((1, 2)), np.array([label])
        theirs = torch_cross_entropy(logits, labels, w, label_smoothing=0.2)[0]
        assert theirs == near(due * np.log(2), 1e-14)
        assert ours.forward(logits, labels).loss == near(due * np.log(2), 1e-14)


def test_difference_weighted_mean_of_soft_targets_has_no_counterpart_in_torch():
    """Difference: one-hot soft targets give torch another mean than the same labels, because torch divides
    soft targets by N. Our two reductions treat both alike: "mean" by N, "weighted_mean" by Σ w_c y_c."""
    logits, labels, w = np.zeros((2, 2)), np.array([0, 1]), np.array([1.0, 3.0])
    soft = np.eye(2)[labels]
    assert torch_cross_entropy(logits, soft, w)[0] == near(2 * np.log(2), 1e-15)
    assert torch_cross_entropy(logits, labels, w)[0] == near(np.log(2), 1e-15)
    for reduction in ("mean", "weighted_mean"):
        ours = refloss.CrossEntropy(class_weights=w, reduction=reduction)
        assert ours.forward(logits, soft).loss == ours.forward(logits, labels).loss


def test_difference_torch_ignores_minus_100_without_being_told():
    """Difference: torch's ignore_index is −100 by default. Ours is None, so a stray −100 is an error."""
    logits, labels = np.zeros((2, 3)), np.array([1, -100])
    assert torch_cross_entropy(logits, labels)[0] == near(np.log(3), 1e-15)
    with pytest.raises(ValueError, match=r"targets\[1\] is -100"):
        refloss.CrossEntropy().forward(logits, labels)


def test_ignore_index_with_soft_targets_is_refused_by_both():
    """No difference: a soft target has no index that could be ignored."""
    logits, soft = np.zeros((2, 3)), np.full((2, 3), 1 / 3)
    with pytest.raises(RuntimeError, match="ignore_index is not supported"):
        torch_cross_entropy(logits, soft, ignore_index=1)[0]
    with pytest.raises(ValueError, match="ignore_index needs class labels"):
        refloss.CrossEntropy(ignore_index=1).forward(logits, soft)


def test_difference_integers_may_be_soft_targets():
    """Difference: torch takes integers of the logits' shape for a mistake; here the number of axes decides,
    never the dtype, so they are the soft targets that they look like."""
    logits = np.array([[0.0, 1.0, 2.0]])
    hot = np.array([[0, 0, 1]])
    with pytest.raises(RuntimeError, match="Expected floating point type"):
        torch_cross_entropy(logits, hot)[0]
    theirs = torch_cross_entropy(logits, hot.astype(float))[0]
    assert refloss.CrossEntropy().forward(logits, hot).loss == near(theirs, 1e-15)


def test_difference_negative_soft_targets_are_refused():
    """Difference: torch computes with negative soft targets (here a loss of −log 3); we refuse them."""
    logits, soft = np.zeros((1, 3)), np.array([[0.0, -1.0, 0.0]])
    assert torch_cross_entropy(logits, soft)[0] == near(-np.log(3), 1e-15)
    with pytest.raises(ValueError, match="must not be negative"):
        refloss.CrossEntropy().forward(logits, soft)


def test_a_masked_class_agrees_with_torch_for_labels():
    """A logit of −inf masks its class: the same loss and gradient as torch, 0 at the masked class."""
    logits, labels = np.array([[1.0, -np.inf, 2.0], [0.5, 0.25, -np.inf]]), np.array([0, 1])
    theirs, their_g = torch_cross_entropy(logits, labels, reduction="none")
    ours = refloss.CrossEntropy(reduction="none")
    out = ours.forward(logits, labels)
    g = ours.backward(out).logits
    assert_values_agree(out.losses, theirs, "losses")
    assert_rows_agree(g, their_g, logit_terms(logits, np.eye(3)[labels]).sum(axis=1), "gradient")
    assert g[0, 1] == g[1, 2] == 0


def test_difference_a_masked_class_under_soft_targets_is_nan_in_torch():
    """Difference: a masked class with soft target 0 contributes 0·log 0 = 0; torch computes −(−inf·0) = NaN
    (though its gradient is right)."""
    logits, soft = np.array([[1.0, -np.inf, 2.0]]), np.array([[0.5, 0.0, 0.5]])
    theirs, their_g = torch_cross_entropy(logits, soft)
    assert np.isnan(theirs)
    loss, grads = refloss.CrossEntropy().value_and_grad(logits, soft)
    two = refloss.CrossEntropy().forward(logits[:, [0, 2]], soft[:, [0, 2]])
    assert loss == two.loss == near(np.log1p(np.exp(-1)) + 0.5, 1e-15)
    assert_rows_agree(grads.logits, their_g, logit_terms(logits, soft, soft=True).sum(axis=1), "gradient")


def test_difference_smoothing_onto_a_masked_class_is_refused():
    """Difference: smoothing puts ε/C on a masked class, the loss is infinite. torch returns
    inf, we name the class."""
    logits, labels = np.array([[1.0, -np.inf, 2.0]]), np.array([0])
    assert np.isinf(torch_cross_entropy(logits, labels, label_smoothing=0.1)[0])
    with pytest.raises(ValueError, match=r"class 1 of prediction 0 is masked.*label_smoothing"):
        refloss.CrossEntropy(label_smoothing=0.1).forward(logits, labels)


@pytest.mark.parametrize(
    ("gap", "torch_is_off"),
    [(15, 1e-10), (25, 1e-6), (35, 1e-2), (40, 1.0)],
    ids=["gap_15", "gap_25", "gap_35", "gap_40"],
)
def test_difference_confident_predictions_lose_their_digits_in_torch(gap, torch_is_off):
    """Difference: torch forms p_y − 1 and log Σ by subtraction, with an error of about 1e-16, so on a
    prediction confident by `gap` its loss and gradient are off by more than the stated share (all of it
    at a gap of 40, where both are exactly 0). Ours is right to the last digits of mpmath."""
    logits, labels = np.array([[float(gap), 0.0]]), np.array([0])
    with mpmath.workdps(50):
        loss = float(mpmath.log1p(mpmath.exp(-gap)))
        complement = float(1 / (1 + mpmath.exp(gap)))
    theirs, their_g = torch_cross_entropy(logits, labels)
    assert abs(theirs - loss) >= torch_is_off * loss
    assert abs(-their_g[0, 0] - complement) >= torch_is_off * complement
    ours, grads = refloss.CrossEntropy().value_and_grad(logits, labels)
    assert ours == near(loss, 1e-15)
    assert -grads.logits[0, 0] == near(complement, 1e-15)
    assert grads.logits[0, 1] == near(complement, 1e-15)
