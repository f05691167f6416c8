"""What is accepted gives the same bits as contiguous float64, is not changed and not kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import NAMES, SOFT, VARIANTS, bits, example, gradients, make

import refloss

# Values of x, W and b are whole sixteenths: exact in float16, so that every form holds the same numbers.


def sixteenths(rng, shape):
    """Exact in every float type, none of them zero, no zero row."""
    return (rng.integers(1, 64, size=shape) * rng.choice([-1, 1], size=shape)) / 16.0


def exact_example(variant, rng, **sizes):
    inputs = example(variant, rng, **sizes)
    return {k: v if k == "labels" else sixteenths(rng, v.shape) for k, v in inputs.items()}


def strided(v):
    """The same numbers with gaps between them, in every axis."""
    wide = np.full([3 * n for n in v.shape], np.nan if v.dtype.kind == "f" else 99, dtype=v.dtype)
    view = wide[tuple(slice(1, None, 3) for _ in v.shape)]
    view[...] = v
    return view


def reversed_memory(v):
    """Negative strides in every axis."""
    back = tuple(slice(None, None, -1) for _ in v.shape)
    return np.ascontiguousarray(v[back])[back]


def read_only(v):
    copy = v.copy()
    copy.flags.writeable = False
    return copy


def unaligned(v):
    """One byte off the boundary of its type."""
    buffer = np.zeros(v.nbytes + 1, np.uint8)[1:]
    view = buffer.view(v.dtype).reshape(v.shape)
    view[...] = v
    return view


def broadcast(v):
    """Stride 0 in a leading axis that is then dropped."""
    return np.broadcast_to(v, (2, *v.shape))[1]


class ArrayLike:
    """An object that is no array but converts to one, as those of other libraries do."""

    def __init__(self, v):
        self.v = v

    def __array__(self, dtype=None, copy=None):
        return np.array(self.v, dtype=dtype)


def nested(v, kind):
    return kind(nested(row, kind) for row in v) if isinstance(v, list) else v


ANY_DTYPE = {
    "list": lambda v: v.tolist(),
    "tuple": lambda v: nested(v.tolist(), tuple),
    "list_of_arrays": lambda v: list(v),
    "strided": strided,
    "reversed": reversed_memory,
    "read_only": read_only,
    "big_endian": lambda v: v.astype(v.dtype.newbyteorder(">")),
    "little_endian": lambda v: v.astype(v.dtype.newbyteorder("<")),
    "fortran": np.asfortranarray,
    "unaligned": unaligned,
    "broadcast": broadcast,
    "subclass": lambda v: v.view(type("Features", (np.ndarray,), {})),
    "array_like": ArrayLike,
}
FLOATS = ANY_DTYPE | {
    "float16": lambda v: v.astype(np.float16),
    "float32": lambda v: v.astype(np.float32),
    "longdouble": lambda v: v.astype(np.longdouble),
    "strided_big_endian_float32": lambda v: strided(v.astype(">f4")),
}
LABELS = ANY_DTYPE | {
    dtype: lambda v, dtype=dtype: v.astype(dtype)
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64")
}


def run(loss, inputs):
    out = loss.forward(**inputs)
    return bits(out, loss.backward(out))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FLOATS)
def test_forms_of_floats_give_the_same_bits(name, form, rng):
    """x, W and b in any form give the bits of contiguous float64 arrays."""
    inputs = exact_example(name, rng)
    due = run(make(name), inputs)
    formed = {k: v if k == "labels" else FLOATS[form](v) for k, v in inputs.items()}
    assert run(make(name), formed) == due


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", LABELS)
def test_forms_of_labels_give_the_same_bits(name, form, rng):
    """Labels in any form, of any integer type, give the bits of contiguous int64."""
    inputs = exact_example(name, rng)
    due = run(make(name), inputs)
    assert run(make(name), inputs | {"labels": LABELS[form](inputs["labels"])}) == due


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", ">i2"])
def test_integers_give_the_same_bits_as_floats(name, dtype, rng):
    """Integer x, W and b are the numbers that they are."""
    inputs = example(name, rng)
    whole = {k: v if k == "labels" else rng.integers(1, 9, size=v.shape) for k, v in inputs.items()}
    due = run(make(name), {k: v if k == "labels" else v.astype(float) for k, v in whole.items()})
    assert run(make(name), {k: v if k == "labels" else v.astype(dtype) for k, v in whole.items()}) == due
    assert run(make(name), {k: v.tolist() for k, v in whole.items()}) == due


@pytest.mark.parametrize("name", NAMES)
def test_longdouble_is_rounded_to_float64(name, rng):
    """The digits of a longdouble beyond float64 are rounded to nearest, nothing else."""
    inputs = example(name, rng)
    nudge = np.longdouble(2) ** -54
    long = {k: v if k == "labels" else v * (1 + nudge * (v > 0)) for k, v in inputs.items()}
    assert long["x"].dtype == np.longdouble
    due = run(make(name), {k: v if k == "labels" else v.astype(np.float64) for k, v in long.items()})
    assert run(make(name), long) == due


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("form", FLOATS)
def test_forms_of_soft_targets_give_the_same_bits(name, form, rng):
    """Soft targets in any form give the bits of contiguous float64 arrays."""
    inputs = exact_example(name, rng) | {"labels": rng.integers(0, 9, size=(6, 4)) / 8.0}
    due = run(make(name), inputs)
    assert run(make(name), inputs | {"labels": FLOATS[form](inputs["labels"])}) == due


@pytest.mark.parametrize("form", FLOATS)
@pytest.mark.parametrize("targets", ["labels", "soft"])
def test_forms_of_logits_give_the_same_bits(form, targets, rng):
    """Bare logits (N, C, L) and both kinds of targets in any form give the same bits."""
    loss = refloss.CrossEntropy(axis=1, class_weights=[1, 2, 0.5])
    logits = sixteenths(rng, (2, 3, 5))
    if targets == "labels":
        target, formed = rng.integers(0, 3, size=(2, 5)), ANY_DTYPE.get(form, np.array)
    else:
        target, formed = rng.integers(0, 9, size=(2, 3, 5)) / 8.0, FLOATS[form]
    due = run(loss, {"logits": logits, "targets": target})
    assert run(loss, {"logits": FLOATS[form](logits), "targets": formed(target)}) == due


def test_integer_soft_targets_are_soft():
    """Soft targets are told by their number of axes, never by dtype: a one-hot of integers is soft."""
    logits, one_hot = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.0]]), np.array([[0, 0, 1], [1, 0, 0]])
    for dtype in (int, np.uint8, float):
        out = refloss.CrossEntropy().forward(logits, one_hot.astype(dtype))
        assert out.complement is None
        np.testing.assert_array_equal(out.losses, refloss.CrossEntropy().forward(logits, [2, 0]).losses)


@pytest.mark.parametrize("form", FLOATS)
def test_forms_of_class_weights_and_upstream_give_the_same_bits(form, rng):
    """class_weights and upstream in any form give the same bits, and equal losses."""
    inputs, weights, upstream = exact_example("softmax", rng), np.array([1, 0.5, 0, 3]), sixteenths(rng, 6)
    due = make("softmax", class_weights=weights, reduction="none")
    loss = make("softmax", class_weights=FLOATS[form](weights), reduction="none")
    assert loss == due
    assert hash(loss) == hash(due)
    out = loss.forward(**inputs)
    assert bits(out) == bits(due.forward(**inputs))
    assert bits(loss.backward(out, FLOATS[form](upstream))) == bits(loss.backward(out, upstream))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_may_be_numpy_scalars(name, rng):
    """NumPy scalars and 0-d arrays are numbers: the loss is equal to that of Python's."""
    loss = make(name)
    numbers = {
        key: getattr(loss, key)
        for key in ("scale", "margin", "alpha", "annealing", "label_smoothing")
        if hasattr(loss, key)
    }
    kind = {int: np.int32, float: np.longdouble}
    numpy_scalars = {key: kind[type(value)](value) for key, value in numbers.items()}
    assert make(name, **numpy_scalars) == loss
    assert repr(make(name, **numpy_scalars)) == repr(loss)


# -- never changed, never kept ---------------------------------------------------------------------


def snapshot(inputs):
    return {k: (v.tobytes(), v.shape, v.strides, str(v.dtype), v.flags.writeable) for k, v in inputs.items()}


def calls_of(loss, inputs):
    """Everything that takes the user's arrays."""
    out = loss.forward(**inputs)
    loss.backward(out)
    loss.value_and_grad(**inputs)
    arrays = {k: v for k, v in inputs.items() if k != "labels"}
    loss.inference_logits(**arrays)
    two = {k: v[:2] if k in ("W", "b") else v for k, v in arrays.items()}
    if loss.class_weights is None:
        loss.decision_boundary(**two)


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_are_not_changed(variant, rng):
    """No pass changes x, W, labels or b, their flags included."""
    inputs = example(variant, rng)
    before = snapshot(inputs)
    calls_of(make(variant), inputs)
    assert snapshot(inputs) == before


@pytest.mark.parametrize("name", NAMES)
def test_ignored_labels_are_not_changed(name, rng):
    """The label of an ignored row stays in the user's array."""
    inputs = example(name, rng)
    inputs["labels"][2] = -1
    before = snapshot(inputs)
    calls_of(make(name, ignore_index=-1), inputs)
    assert snapshot(inputs) == before


@pytest.mark.parametrize("targets", ["labels", "soft"])
def test_inputs_of_CrossEntropy_are_not_changed(targets, rng):
    """logits, targets, class_weights and upstream stay as they were."""
    target = rng.integers(0, 3, size=(4, 2)) if targets == "labels" else rng.random((4, 3, 2))
    inputs = {"logits": rng.normal(size=(4, 3, 2)), "targets": target}
    others = {"weights": rng.random(3), "upstream": rng.normal(size=(4, 2))}
    before = snapshot(inputs | others)
    loss = refloss.CrossEntropy(axis=1, class_weights=others["weights"], reduction="none")
    loss.backward(loss.forward(**inputs), others["upstream"])
    assert snapshot(inputs | others) == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_inputs_are_not_kept(variant, rng):
    """Overwriting x, W, labels and b after forward changes neither the record nor the backward."""
    loss, inputs = make(variant), example(variant, rng)
    due = run(loss, inputs)
    out = loss.forward(**inputs)
    for array in inputs.values():
        array[...] = 0
    assert bits(out, loss.backward(out)) == due


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_are_not_kept(name, rng):
    """Overwriting soft targets after forward changes neither the record nor the backward."""
    loss, inputs = make(name), example(name, rng) | {"labels": rng.random((6, 4))}
    due = run(loss, inputs)
    out = loss.forward(**inputs)
    inputs["labels"][...] = 0
    assert bits(out, loss.backward(out)) == due


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_inputs_of_CrossEntropy_are_not_kept(axis, rng):
    """Overwriting logits and targets after forward changes neither the record nor the backward."""
    loss, logits = refloss.CrossEntropy(axis=axis), rng.normal(size=(3, 3, 3))
    for targets in (rng.integers(0, 3, size=(3, 3)), rng.random((3, 3, 3))):
        inputs = {"logits": logits.copy(), "targets": targets}
        due = run(loss, inputs)
        out = loss.forward(**inputs)
        inputs["logits"][...], targets[...] = 0, 0
        assert bits(out, loss.backward(out)) == due


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_share_no_memory_with_inputs(variant, rng):
    """No stage, forward or backward, is a view of the user's arrays."""
    loss, inputs = make(variant, reduction="none"), example(variant, rng)
    upstream = np.ones(6)
    out = loss.forward(**inputs)
    stages = {**out.stages(), **gradients(loss.backward(out, upstream)), "ignored": out.ignored}
    for name, stage in stages.items():
        for argument, array in (inputs | {"upstream": upstream}).items():
            assert not np.shares_memory(stage, array), f"{name} is a view of {argument}"


def test_class_weights_are_not_kept():
    """Overwriting the array given as class_weights does not change the loss."""
    weights = np.array([1.0, 2.0])
    loss = refloss.WeightedSoftmax(class_weights=weights)
    weights[...] = 7
    assert loss == refloss.WeightedSoftmax(class_weights=[1, 2])


# -- the same bits on every run and from several threads -------------------------------------------

# large enough for BLAS to use its threads and its blocked kernels, and of odd sizes
LARGE = {"n": 129, "classes": 67, "d": 61}


@pytest.mark.parametrize("variant", VARIANTS)
def test_repeated_runs_give_the_same_bits(variant, rng):
    """The same call gives the same bits, wherever in memory its arrays come to lie."""
    loss, inputs = make(variant, classes=67), example(variant, rng, **LARGE)
    due = run(loss, inputs)
    for size in (1, 3, 17, 1001):
        pressed = [np.empty(size, np.uint8) for _ in range(50)]  # other addresses for what follows
        moved = {k: unaligned(v) for k, v in inputs.items()}
        assert run(loss, moved) == due
        del pressed


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_give_the_same_bits(variant, rng):
    """One loss, one set of inputs and one record used from several threads give the same bits."""
    loss, inputs = make(variant, classes=67), example(variant, rng, **LARGE)
    out = loss.forward(**inputs)
    due = bits(out, loss.backward(out))
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(run, loss, inputs) for _ in range(6)]
        backwards = [pool.submit(lambda: bits(out, loss.backward(out))) for _ in range(6)]
        assert all(future.result() == due for future in (*runs, *backwards))


def test_threads_of_CrossEntropy_give_the_same_bits(rng):
    """Bare logits from several threads give the same bits."""
    loss = refloss.CrossEntropy(axis=1, label_smoothing=0.1)
    inputs = {"logits": rng.normal(size=(3, 19, 31, 7)), "targets": rng.integers(0, 19, size=(3, 31, 7))}
    due = run(loss, inputs)
    with ThreadPoolExecutor(6) as pool:
        assert all(result == due for result in pool.map(lambda _: run(loss, inputs), range(12)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bits_do_not_depend_on_the_callers_errstate(variant, rng):
    """NumPy's floating-point error settings, the caller's affair, change nothing and raise nothing."""
    loss, inputs = make(variant), example(variant, rng)
    inputs["x"][0] = [1.0, 1e-200, -1e-300]  # squares and products of these underflow
    inputs["W"][1] = [1e-250, 2.0, 1e-200]
    due = run(loss, inputs)
    with np.errstate(all="raise"):
        assert run(loss, inputs) == due
