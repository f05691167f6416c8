"""CrossEntropy against its formula in scalars of 400 digits: every option crossed with every other."""

from __future__ import annotations

import functools
import itertools

import mpmath
import numpy as np
import pytest
from helpers import ROUNDINGS, SUBNORMAL, UNIT, assert_close, bits, near

import refloss

# -- the formula, in scalars -----------------------------------------------------------------------

DIGITS = 400  # e^−744, about 1e-323, has to keep twenty digits and more beside 1
STEP = mpmath.mpf(10) ** -30  # of the complex step, whose error is STEP² relative to the gradient's terms


def loss_of_row(z, target, weights, smoothing):
    """ℓ = −Σ_c w_c t_c log p_c with t = (1 − ε) target + ε/C, one prediction, as it stands."""
    total = mpmath.fsum(mpmath.exp(z_c) for z_c in z)
    loss = mpmath.mpf(0)
    for z_c, y_c, w_c in zip(z, target, weights, strict=True):
        t_c = (1 - mpmath.mpf(smoothing)) * y_c + mpmath.mpf(smoothing) / len(z)
        if t_c * w_c:  # 0 · log 0 = 0: a masked class
            loss -= w_c * t_c * (z_c - mpmath.log(total))
    return loss


def masked(value):
    return mpmath.mpf("-inf") if value == -np.inf else mpmath.mpf(float(value))


def row_reference(z, target, weights=None, smoothing=0.0):
    """(ℓ, ∂ℓ/∂z, Σ terms of ∂ℓ/∂z before they cancel) of one prediction, as floats.

    The derivative is the imaginary part of ℓ(z + ih): no formula of a gradient is used.
    """
    with mpmath.workdps(DIGITS):
        z, target = [masked(v) for v in z], [mpmath.mpf(float(t)) for t in target]
        weights = [mpmath.mpf(1)] * len(z) if weights is None else [mpmath.mpf(float(w)) for w in weights]
        args = (target, weights, smoothing)
        value = loss_of_row(z, *args)
        slopes = []
        for k in range(len(z)):
            stepped = [z_c + mpmath.mpc(0, STEP) if c == k else z_c for c, z_c in enumerate(z)]
            slopes.append(mpmath.mpf(0) if z[k] == -mpmath.inf else mpmath.im(loss_of_row(stepped, *args)) / STEP)
        # the natural scale: |g| for a label, p Σ a + a_j otherwise
        hard = smoothing == 0 and sorted(target)[-2:-1] in ([], [0])
        shares = [
            w * ((1 - mpmath.mpf(smoothing)) * t + mpmath.mpf(smoothing) / len(z))
            for w, t in zip(weights, target, strict=True)
        ]
        total, all_shares = mpmath.fsum(mpmath.exp(v) for v in z), mpmath.fsum(shares)
        scales = [
            abs(g) if hard else mpmath.exp(v) / total * all_shares + a
            for g, v, a in zip(slopes, z, shares, strict=True)
        ]
        return float(value), [float(g) for g in slopes], [float(s) for s in scales]


# -- every option crossed with every other ---------------------------------------------------------

C = 4
LAYOUTS = {  # shape, axis
    "C": ((C,), -1),
    "CxN": ((C, 3), 0),
    "NxC": ((3, C), -1),
    "NxCxL": ((2, C, 2), 1),
    "NxLxC": ((2, 2, C), -1),
    "NxCxHxW": ((1, C, 2, 2), -3),
    "one_row": ((1, C), 1),
    "no_row": ((0, C), -1),
    "no_pixel": ((2, C, 0), 1),
}
WEIGHTS = {"unweighted": None, "weighted": (1.5, 0.0, 0.25, 3.0), "weights_0": (0.0, 0.0, 0.0, 0.0)}
IGNORED = ("ignore_none", "ignore_some", "ignore_all")
KINDS = [("labels", ignored) for ignored in IGNORED] + [("soft", "ignore_none")]
REDUCTIONS = ("mean", "sum", "none", "weighted_mean")
EMPTY = ("error", "zero", "nan")
IGNORE_INDEX = -100

# a sum over predictions adds a few roundings more; the logits here lie within ±8
RELATIVE = 8 * ROUNDINGS


@functools.cache
def reference(layout, kind, ignored, weights, smoothing):
    """Logits, targets, and per prediction: where it is, ℓ, ∂ℓ/∂z, its scale, its share of Σw."""
    shape, axis = LAYOUTS[layout]
    axis %= len(shape)
    places = list(itertools.product(*(range(n) for a, n in enumerate(shape) if a != axis)))
    rng = np.random.default_rng(len(places) + 10 * axis + 100 * len(shape))
    logits = rng.normal(size=shape) * 2
    w = WEIGHTS[weights]
    if kind == "soft":
        targets = rng.random(shape) * (rng.random(shape) < 0.7)  # some zeros; sums are not 1
    else:
        targets = rng.integers(0, C, size=shape[:axis] + shape[axis + 1 :])
        for number, place in enumerate(places):
            if ignored == "ignore_all" or (ignored == "ignore_some" and number % 3 == 0):
                targets[place] = IGNORE_INDEX
    rows = []
    for place in places:
        at = [(*place[:axis], c, *place[axis:]) for c in range(C)]
        if kind == "labels" and targets[place] == IGNORE_INDEX:
            rows.append((place, at, None))
            continue
        target = [targets[i] for i in at] if kind == "soft" else [float(c == targets[place]) for c in range(C)]
        value, slopes, scales = row_reference([logits[i] for i in at], target, w, smoothing)
        weight = sum((1.0 if w is None else w[c]) * target[c] for c in range(C))
        rows.append((place, at, (value, slopes, scales, weight)))
    return logits, targets, rows


def due_divisor(reduction, rows):
    """#valid, Σ w_y (or Σ w_c target_c), or 1."""
    valid = [row for _, _, row in rows if row is not None]
    if reduction == "mean":
        return float(len(valid))
    return sum(weight for *_, weight in valid) if reduction == "weighted_mean" else 1.0


def crossed(test):
    """Parametrises over every layout × targets × weights × smoothing × reduction."""
    for names, values in (
        ("layout", tuple(LAYOUTS)),
        (("kind", "ignored"), KINDS),
        ("weights", tuple(WEIGHTS)),
        ("smoothing", (0.0, 0.1, 1.0)),
        ("reduction", REDUCTIONS),
    ):
        test = pytest.mark.parametrize(names, values)(test)
    return test


def crossed_loss(layout, weights, smoothing, ignored, reduction, empty_mean):
    return refloss.CrossEntropy(
        axis=LAYOUTS[layout][1],
        class_weights=WEIGHTS[weights],
        label_smoothing=smoothing,
        ignore_index=None if ignored == "ignore_none" else IGNORE_INDEX,
        reduction=reduction,
        empty_mean=empty_mean,
    )


@crossed
def test_value(layout, kind, ignored, weights, smoothing, reduction):
    """losses and loss are those of the formula, under each empty_mean, and 0 on ignored predictions."""
    logits, targets, rows = reference(layout, kind, ignored, weights, smoothing)
    losses = np.zeros(tuple(n for a, n in enumerate(logits.shape) if a != LAYOUTS[layout][1] % logits.ndim))
    for place, _, row in rows:
        losses[place] = 0.0 if row is None else row[0]
    divisor = due_divisor(reduction, rows)
    for empty_mean in EMPTY:
        loss = crossed_loss(layout, weights, smoothing, ignored, reduction, empty_mean)
        if divisor == 0 and empty_mean == "error":
            with pytest.raises(ValueError, match=f"reduction='{reduction}' divides by zero.*empty_mean"):
                loss.forward(logits, targets)
            continue
        out = loss.forward(logits, targets)
        assert_close(out.losses, losses, losses, RELATIVE, "losses against themselves")
        if divisor == 0:
            assert out.loss.shape == ()
            assert out.loss == 0 if empty_mean == "zero" else np.isnan(out.loss)
            continue
        due = losses if reduction == "none" else losses.sum() / divisor
        assert_close(out.loss, due, due, RELATIVE, "loss against itself")


@crossed
def test_gradient(layout, kind, ignored, weights, smoothing, reduction):
    """grads.logits is the formula's derivative, for a scalar and a per-prediction upstream, and
    exactly 0 on ignored predictions; where the divisor is 0 it is 0 or NaN as empty_mean says."""
    logits, targets, rows = reference(layout, kind, ignored, weights, smoothing)
    divisor = due_divisor(reduction, rows)
    upstream = -1.75
    if reduction == "none":
        shape = tuple(n for a, n in enumerate(logits.shape) if a != LAYOUTS[layout][1] % logits.ndim)
        upstream = np.linspace(-2, 3, int(np.prod(shape))).reshape(shape)
    for empty_mean in EMPTY:
        if divisor == 0 and empty_mean == "error":
            continue  # refused by forward: see test_value
        loss = crossed_loss(layout, weights, smoothing, ignored, reduction, empty_mean)
        grads = loss.backward(loss.forward(logits, targets), upstream)
        due, scale = np.zeros(logits.shape), np.zeros(logits.shape)
        for place, at, row in rows:
            if row is None:
                continue
            share = (upstream[place] if reduction == "none" else upstream) / (divisor or np.inf)
            for i, slope, size in zip(at, row[1], row[2], strict=True):
                due[i], scale[i] = share * slope, abs(share) * size
                if divisor == 0 and empty_mean == "nan":
                    due[i] = np.nan
        nan = np.isnan(due)
        np.testing.assert_array_equal(np.isnan(grads.logits), nan)
        assert_close(grads.logits[~nan], due[~nan], scale[~nan], RELATIVE, "gradient against its terms")
        assert not grads.logits[(scale == 0) & ~nan].any()


def test_the_cross_reaches_every_outcome():
    """Among the crossed cases are divisors of 0 of every kind, and ordinary ones of every reduction."""
    seen = set()
    for layout, (kind, ignored), weights in itertools.product(LAYOUTS, KINDS, WEIGHTS):
        *_, rows = reference(layout, kind, ignored, weights, 0.0)
        valid = any(row is not None for *_, row in rows)
        for reduction in REDUCTIONS:
            seen.add((reduction, kind, len(rows) > 0, valid, due_divisor(reduction, rows) == 0))
    for kind in ("labels", "soft"):
        assert {(r, kind, True, True, False) for r in REDUCTIONS} <= seen
        assert {("mean", kind, False, False, True), ("weighted_mean", kind, False, False, True)} <= seen
        assert ("weighted_mean", kind, True, True, True) in seen
    assert {("mean", "labels", True, False, True), ("weighted_mean", "labels", True, False, True)} <= seen


# -- −inf: masked classes --------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0, 0.25]], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_masked_class_is_as_if_absent(kind, weights, rng):
    """A logit of −inf gives what the same prediction gives without that class: p and gradient 0 there."""
    logits, kept = rng.normal(size=(4, 5)), [0, 2, 3]
    logits[:, [1, 4]] = -np.inf
    target = np.array([0, 1, 2, 1]) if kind == "labels" else rng.random((4, 3))
    if kind == "labels":
        of_all = np.array(kept)[target]
    else:
        of_all = np.zeros((4, 5))
        of_all[:, kept] = target
    less = None if weights is None else [weights[c] for c in kept]
    whole, part = refloss.CrossEntropy(class_weights=weights), refloss.CrossEntropy(class_weights=less)
    out, due = whole.forward(logits, of_all), part.forward(logits[:, kept], target)
    grads, due_grads = whole.backward(out).logits, part.backward(due).logits
    assert_close(out.losses, due.losses, due.losses, ROUNDINGS, "losses against themselves")
    assert_close(grads[:, kept], due_grads, np.abs(due_grads), RELATIVE, "gradient against itself")
    assert not grads[:, [1, 4]].any()
    assert not out.probabilities[:, [1, 4]].any()


def test_masked_classes_may_differ_from_pixel_to_pixel(rng):
    """Masks per pixel, on another axis, against the formula."""
    logits, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 4, size=(3, 5))
    mask = (rng.random((3, 4, 5)) < 0.4) & (np.arange(4)[:, None] != labels[:, None, :])
    logits[mask] = -np.inf
    loss = refloss.CrossEntropy(axis=1, reduction="sum")
    out = loss.forward(logits, labels)
    grads = loss.backward(out).logits
    for i, k in itertools.product(range(3), range(5)):
        value, slopes, scales = row_reference(logits[i, :, k], np.eye(4)[labels[i, k]])
        assert_close(out.losses[i, k], value, value, RELATIVE, "loss against itself")
        assert_close(grads[i, :, k], slopes, scales, RELATIVE, "gradient against itself")
    assert not grads[mask].any()


def test_only_the_target_left():
    """If every other class is masked, p = 1, and loss and gradient are exactly 0."""
    loss = refloss.CrossEntropy()
    out = loss.forward([[-np.inf, 3.0, -np.inf]], [1])
    assert (out.loss, out.complement[0]) == (0, 0)
    np.testing.assert_array_equal(out.probabilities, [[0, 1, 0]])
    np.testing.assert_array_equal(loss.backward(out).logits, np.zeros((1, 3)))


def test_ignored_prediction_may_have_masked_classes():
    """Masked classes of an ignored prediction are no error, class 0 (its stand-in) included."""
    loss = refloss.CrossEntropy(ignore_index=-1)
    logits = [[-np.inf, 0.0], [1.0, 2.0]]
    out = loss.forward(logits, [-1, 0])
    assert out.loss == refloss.CrossEntropy().forward(logits[1:], [0]).loss
    assert not loss.backward(out).logits[0].any()


def test_ignored_prediction_may_be_masked_altogether():
    """Padding: every class masked, and the prediction ignored. Loss and gradient 0, no NaN anywhere."""
    loss = refloss.CrossEntropy(ignore_index=-1)
    logits = [[-np.inf, -np.inf], [1.0, 2.0]]
    out = loss.forward(logits, [-1, 0])
    assert out.loss == refloss.CrossEntropy().forward(logits[1:], [0]).loss
    for stage in (out.losses, out.probabilities, loss.backward(out).logits):
        assert np.isfinite(stage).all()
    assert not loss.backward(out).logits[0].any()


# -- confident predictions, far logits -------------------------------------------------------------

CONFIDENT = [1, 20, 36, 37, 38, 100, 700, 708, 744]
# Gaps are integers, so that z_max − z is exact and e^−gap right to an ulp; p, ℓ and g are sums and
# products of a few such numbers: 1e-14 is 90 roundings
CONFIDENT_RELATIVE = 1e-14


@pytest.mark.parametrize("gap", CONFIDENT)
@pytest.mark.parametrize("label", [0, 1, 2])
def test_confident_prediction(gap, label):
    """With a gap at which 1 − p_y cancels, value, complement and every gradient keep their digits."""
    logits = np.array([0.0, gap, -3.0])
    loss = refloss.CrossEntropy()
    out = loss.forward([logits], [label])
    value, slopes, _ = row_reference(logits, np.eye(3)[label])
    assert_close(out.loss, value, value, CONFIDENT_RELATIVE, "loss against itself")
    assert_close(out.complement[0], -slopes[label], -slopes[label], CONFIDENT_RELATIVE, "complement against itself")
    assert_close(loss.backward(out).logits[0], slopes, np.abs(slopes), CONFIDENT_RELATIVE, "gradient against itself")


@pytest.mark.parametrize("gap", CONFIDENT)
def test_confident_prediction_with_weights_and_soft_targets(gap, rng):
    """The same relative to the terms of the gradient, with weights, smoothing and soft targets."""
    logits, weights = np.array([0.0, gap, -3.0, gap - 1.0]), [0.5, 2.0, 0.0, 3.0]
    for smoothing, target in itertools.product((0.0, 0.125), (np.eye(4)[1], [0.25, 0.5, 0, 0.125], [0.0, 0, 0, 1])):
        loss = refloss.CrossEntropy(class_weights=weights, label_smoothing=smoothing)
        out = loss.forward([logits], [target])
        value, slopes, scales = row_reference(logits, target, weights, smoothing)
        assert_close(out.loss, value, value, CONFIDENT_RELATIVE, "loss against itself")
        assert_close(loss.backward(out).logits[0], slopes, scales, CONFIDENT_RELATIVE, "gradient against its terms")


def test_not_the_log_of_the_softmax():
    """[1000, 1]: −log p of the second class is 999, where log(softmax) gives inf; the first gives e^−999."""
    out = refloss.CrossEntropy(reduction="none").forward([[1000.0, 1.0]] * 2, [1, 0])
    np.testing.assert_array_equal(out.losses, [999.0, 0.0])  # e^−999 is below the smallest subnormal
    out = refloss.CrossEntropy(reduction="none").forward([[701.0, 1.0]], [0])
    assert out.losses[0] == near(float(mpmath.exp(-700)), CONFIDENT_RELATIVE)


@pytest.mark.parametrize("label", range(4))
def test_logits_of_ten_thousand(label):
    """Logits ±1e4: finite, and the formula's."""
    logits = np.array([1e4, -1e4, 9999.5, 9990.0])
    loss = refloss.CrossEntropy()
    out = loss.forward([logits], [label])
    value, slopes, scales = row_reference(logits, np.eye(4)[label])
    assert_close(out.loss, value, value, CONFIDENT_RELATIVE, "loss against itself")
    assert_close(loss.backward(out).logits[0], slopes, scales, CONFIDENT_RELATIVE, "gradient against itself")


@pytest.mark.parametrize("shift", [1.0, -1e4, 2.0**40, -(2.0**49), 1e300])
def test_shifting_the_logits_changes_nothing(shift, rng):
    """A constant added to every logit changes no bit where the shifted logits are exact."""
    logits = rng.integers(-20, 20, size=(3, 5)) / 8.0
    if abs(shift) == 1e300:
        logits[...] = 0.0
    assert (logits + shift - shift == logits).all()
    loss = refloss.CrossEntropy(label_smoothing=0.1)
    due, out = loss.forward(logits, [0, 1, 2]), loss.forward(logits + shift, [0, 1, 2])
    np.testing.assert_array_equal(out.losses, due.losses)
    np.testing.assert_array_equal(out.probabilities, due.probabilities)
    assert bits(loss.backward(out)) == bits(loss.backward(due))


@pytest.mark.parametrize("size", [1e17, 1e150, 8e307])
def test_logits_of_any_size(size):
    """Gaps up to float64's range give the gap itself as loss, and a gradient of ±1."""
    loss = refloss.CrossEntropy(reduction="none")
    out = loss.forward([[size, -size]] * 2, [0, 1])
    np.testing.assert_array_equal(out.losses, [0, 2 * size])
    np.testing.assert_array_equal(loss.backward(out).logits, [[0, 0], [1, -1]])


def test_a_loss_beyond_float64_is_not_silent():
    """A gap of 2e308 has a loss that no float64 holds: refused, not returned as inf."""
    with pytest.raises(ValueError, match="range of float64"):
        refloss.CrossEntropy().forward([[1e308, -1e308]], [1])


def test_many_classes_keep_small_probabilities():
    """At 10,000 classes each gradient entry is right relative to itself, not to the largest."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=10_000) * 12
    loss = refloss.CrossEntropy()
    out = loss.forward([logits], [7])
    g = loss.backward(out).logits[0]
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(float(v))) for v in logits]
        total = mpmath.fsum(e)
        due = [float(v / total) for v in e]
        due[7] = -float(mpmath.fsum(v for c, v in enumerate(e) if c != 7) / total)
    # z_max − z is rounded relative to the gap: an error of gap · UNIT in p; sums of 10,000 are pairwise
    relative = CONFIDENT_RELATIVE + UNIT * (logits.max() - logits)
    assert_close(g / due, np.ones(10_000), relative, 1.0, "gradient against itself")


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", range(-4, 4))
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_per_pixel_is_every_pixel_alone(axis, kind, rng):
    """Logits of four axes, classes on any: each pixel gets what it gets alone."""
    shape = (2, 3, 4, 5)
    logits = rng.normal(size=shape)
    rest = np.delete(shape, axis)
    targets = rng.integers(0, shape[axis], size=rest) if kind == "labels" else rng.random(shape)
    upstream = rng.normal(size=rest)
    loss, alone = refloss.CrossEntropy(axis=axis, reduction="none"), refloss.CrossEntropy(reduction="none")
    out = loss.forward(logits, targets)
    grads = np.moveaxis(loss.backward(out, upstream).logits, axis, -1)
    assert out.losses.shape == out.loss.shape == out.ignored.shape == tuple(rest)
    rows = np.moveaxis(logits, axis, -1)
    row_targets = targets if kind == "labels" else np.moveaxis(targets, axis, -1)
    for place in np.ndindex(*rest):
        pixel = alone.forward(rows[place], row_targets[place])
        assert_close(out.losses[place], pixel.loss, pixel.loss, ROUNDINGS, "loss against itself")
        due = alone.backward(pixel, upstream[place]).logits
        scale = np.abs(upstream[place]) * (pixel.probabilities + 1) if kind == "soft" else np.abs(due)
        assert_close(grads[place], due, scale, RELATIVE, "gradient against its terms")


def test_record_keeps_the_users_layout(rng):
    """logits and probabilities of the record have the logits' layout, and sum to 1 over the class axis."""
    logits = rng.normal(size=(2, 3, 4))
    out = refloss.CrossEntropy(axis=1).forward(logits, np.zeros((2, 4), int))
    np.testing.assert_array_equal(out.logits, logits)
    assert_close(out.probabilities.sum(axis=1), np.ones((2, 4)), 1.0, ROUNDINGS, "Σ p against 1")
    whole = out.complement + out.probabilities[:, 0]
    assert_close(whole, np.ones((2, 4)), 1.0, ROUNDINGS, "p_y and 1 − p_y against 1")


@pytest.mark.parametrize("empty_mean", ["zero", "nan"])
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 4, 5)], ids=str)
def test_no_prediction_at_all(shape, empty_mean):
    """N = 0: sum 0, none empty, mean 0 or NaN, a gradient of the logits' shape."""
    labels = np.zeros((shape[0], *shape[2:]), int)
    for reduction, due in (("sum", 0.0), ("mean", {"zero": 0.0, "nan": np.nan}[empty_mean])):
        loss = refloss.CrossEntropy(axis=1, reduction=reduction, empty_mean=empty_mean)
        out = loss.forward(np.zeros(shape), labels)
        np.testing.assert_array_equal(out.loss, due)
        assert loss.backward(out).logits.shape == shape
    loss = refloss.CrossEntropy(axis=1, reduction="none", empty_mean=empty_mean)
    out = loss.forward(np.zeros(shape), labels)
    assert out.loss.shape == labels.shape
    assert loss.backward(out, np.zeros(labels.shape)).logits.shape == shape


@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_one_class(kind, smoothing):
    """C = 1: p = 1, loss and gradient exactly 0."""
    loss = refloss.CrossEntropy(label_smoothing=smoothing)
    out = loss.forward([[3.0], [-1e4]], [0, 0] if kind == "labels" else [[1.0], [0.3]])
    assert out.loss == 0
    np.testing.assert_array_equal(loss.backward(out).logits, np.zeros((2, 1)))


def test_upstream_of_one_prediction_alone():
    """Logits (C,) with a label of no axis: one prediction, losses (), a scalar upstream."""
    loss = refloss.CrossEntropy(reduction="none")
    out = loss.forward([1.0, 2.0, 4.0], 2)
    assert out.losses.shape == out.loss.shape == ()
    assert loss.backward(out, 2.0).logits.shape == (3,)


# -- what the reductions divide by, in numbers -----------------------------------------------------


def test_divisors_by_hand():
    """Two equal logits, so that every −log p is log 2: the reductions in numbers.

    Weights 1 and 3, labels 0, 1, 1, one ignored: Σℓ = 7 log 2, #valid = 3, Σ w_y = 7. Soft targets
    (½, ½), (0, 2): Σℓ = (2 + 6) log 2, #valid = 2, Σ w target = 8.
    """
    due = {
        "labels": {"sum": 7.0, "mean": 7 / 3, "weighted_mean": 1.0},
        "soft": {"sum": 8.0, "mean": 4.0, "weighted_mean": 1.0},
    }
    for reduction in ("sum", "mean", "weighted_mean"):
        loss = refloss.CrossEntropy(class_weights=[1, 3], reduction=reduction, ignore_index=9)
        value = loss.forward(np.zeros((4, 2)), [0, 1, 1, 9]).loss
        assert value == near(due["labels"][reduction] * np.log(2), ROUNDINGS)
        loss = refloss.CrossEntropy(class_weights=[1, 3], reduction=reduction)
        value = loss.forward(np.zeros((2, 2)), [[0.5, 0.5], [0, 2.0]]).loss
        assert value == near(due["soft"][reduction] * np.log(2), ROUNDINGS)


def test_weighted_mean_divides_by_the_weights_of_the_labels_not_of_the_smoothed_targets():
    """Σ_valid w_{y_i} knows nothing of ε, as in torch: by hand, two equal logits, ε = 0.5.

    t = (¾, ¼), w = (1, 3): ℓ = (¾ + ¾) log 2, divided by w_0 = 1.
    """
    loss = refloss.CrossEntropy(class_weights=[1, 3], label_smoothing=0.5, reduction="weighted_mean")
    assert loss.forward(np.zeros((1, 2)), [0]).loss == near(1.5 * np.log(2), ROUNDINGS)


def test_class_of_weight_zero_has_no_loss_and_no_gradient(rng):
    """w_y = 0: the row counts in the mean's divisor, and in nothing else."""
    loss = refloss.CrossEntropy(class_weights=[0, 1, 1], reduction="none")
    out = loss.forward(rng.normal(size=(2, 3)), [0, 1])
    assert out.losses[0] == 0
    grads = loss.backward(out).logits
    assert not grads[0].any()
    assert grads[1].all()


# -- edge-detection balancing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "ignore_index", "due"),
    [
        ([[0, 0, 0], [0, 1, 0]], None, [1 / 6, 5 / 6]),
        ([1, 1, 0, 1], None, [3 / 4, 1 / 4]),
        ([[[0, 1], [255, 255]]], 255, [1 / 2, 1 / 2]),
        (np.array([0, 0, 1, 200], np.uint8), 200, [1 / 3, 2 / 3]),
        ([0, 1, -1, -1], -1, [1 / 2, 1 / 2]),
        ([0, 0, 0], None, [0, 1]),
        ([1, 1], None, [1, 0]),
        ([5, 5], 5, [0, 0]),
        (1, None, [1, 0]),
    ],
    ids=["image", "vector", "ignored", "uint8", "minus_one", "no_edge", "all_edge", "all_ignored", "scalar"],
)
def test_hed_class_weights(labels, ignore_index, due):
    """[|Y₊|/|Y|, |Y₋|/|Y|] over the labels that are not ignored; an absent class gives weight 0."""
    weights = refloss.hed_class_weights(labels, ignore_index)
    assert (weights.shape, weights.dtype) == ((2,), np.float64)
    np.testing.assert_array_equal(weights, due)


def test_hed_loss_of_an_image(rng):
    """The edge-detection loss −β Σ_edges log p − (1 − β) Σ_others log(1 − p), β = |Y₋|/|Y|, by hand."""
    edge, logit = rng.random((5, 7)) < 0.2, rng.normal(size=(5, 7))
    labels = edge.astype(int)
    labels[0, 0] = 255
    loss = refloss.CrossEntropy(
        axis=0, class_weights=refloss.hed_class_weights(labels, 255), reduction="sum", ignore_index=255
    )
    value = loss.forward(np.stack([np.zeros_like(logit), logit]), labels).loss
    valid = labels != 255
    beta = np.mean(labels[valid] == 0)
    p = 1 / (1 + np.exp(-logit))
    due = -beta * np.log(p[valid & edge]).sum() - (1 - beta) * np.log(1 - p[valid & ~edge]).sum()
    assert value == near(due, RELATIVE)


def test_edges_are_as_many_as_the_rest(rng):
    """The balance: with equal logits, edges and the rest have the same share of the loss."""
    labels = (rng.random((20, 20)) < 0.1).astype(int)
    weights = refloss.hed_class_weights(labels)
    out = refloss.CrossEntropy(class_weights=weights, reduction="none").forward(np.zeros((20, 20, 2)), labels)
    edges, others = out.losses[labels == 1].sum(), out.losses[labels == 0].sum()
    assert edges == pytest.approx(others, rel=RELATIVE, abs=SUBNORMAL)
