"""Blocks of classes, threads, and stages that are computed when they are read: they change no number."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import VARIANTS, assert_close, bits, example, gradients, in_blocks, make, natural_scales, relative_error_of
from threadpoolctl import ThreadpoolController, threadpool_limits

import refloss
from refloss.losses import blocks, passes

every_variant = pytest.mark.parametrize("variant", VARIANTS)
both = pytest.mark.parametrize("precision", ["double", "extended"])


def blas_threads():
    return [library.num_threads for library in ThreadpoolController().select(user_api="blas").lib_controllers]


def both_passes(loss, inputs, upstream):
    out = loss.forward(**inputs)
    return out, loss.backward(out, upstream)


@pytest.mark.parametrize(
    ("classes", "rows", "count", "width"),
    [(1, 1, 1, 1), (64, 1 << 20, 1, 64), (65, 1 << 20, 2, 64), (10_000, 128, 8, 1250), (1000, 1024, 4, 250)],
)
def test_blocks_are_equal_and_a_multiple_of_four(classes, rows, count, width):
    """All classes in order; of the last two cases ENTRIES allows 2048 and 256 in a block."""
    cut = blocks.blocks_of(classes, rows)
    assert [j for block in cut for j in range(block.start, block.stop)] == list(range(classes))
    assert [block.stop - block.start for block in cut] == [width] * (count - 1) + [classes - width * (count - 1)]


@pytest.mark.parametrize(("entries", "count"), [(1, 11), (16, 6), (40, 4)])
@every_variant
def test_small_blocks_give_the_same_to_rounding(variant, entries, count, rng, monkeypatch):
    """A block of 1, 2 or 3 classes, the target in any of them, gives what all classes at once give."""
    inputs, upstream = example(variant, rng, n=8, classes=11), rng.normal(size=8)
    loss = make(variant, 11, ignore_index=3, reduction="none")
    whole, grads = both_passes(loss, inputs, upstream)
    in_blocks(monkeypatch, entries)
    out, parts = both_passes(loss, inputs, upstream)
    assert len(out._passes.blocks) == count
    error = relative_error_of(whole)
    for name, value in out.stages().items():
        scale = np.abs(whole.logits).max() if name == "logits" else np.maximum(np.abs(whole.stages()[name]), 1e-300)
        assert_close(value, whole.stages()[name], 1.0 if name == "cos_theta" else scale, error, name)
    scales = natural_scales(loss, inputs["x"], inputs["W"], np.abs(grads.logits))
    for name, value in gradients(parts).items():
        assert_close(value, gradients(grads)[name], scales[name], error, name)


@both
@pytest.mark.parametrize("entries", [1, 1 << 18])  # a class a block; one block
@pytest.mark.parametrize("targets", [[0, 1], [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
def test_a_class_that_is_no_target_may_be_any_distance_below(targets, entries, precision, monkeypatch):
    """a_c d_c is 0 where a_c = 0, though d_c, or a block's distance from the largest logit, leaves the range."""
    in_blocks(monkeypatch, entries)
    b = np.array([1e308, 1e308, -1e308, -1e308])
    out, grads = both_passes(
        refloss.Softmax(precision=precision),
        {"x": np.zeros((2, 1)), "W": np.zeros((4, 1)), "labels": targets, "b": b},
        1,
    )
    np.testing.assert_allclose(out.losses, np.log(2), rtol=1e-15)
    np.testing.assert_array_equal(grads.logits, [[-0.25, 0.25, 0, 0], [0.25, -0.25, 0, 0]])
    with pytest.raises(ValueError, match="too far apart"):
        refloss.Softmax(precision=precision).forward(np.zeros((1, 1)), np.zeros((4, 1)), [2], b)


@both
@every_variant
def test_kept_or_computed_anew_the_bits_are_the_same(variant, precision, rng, monkeypatch):
    """Logits that are kept for the backward, and logits that are computed a second time."""
    inputs, upstream = example(variant, rng, n=8, classes=11), rng.normal(size=8)
    inputs["W"][4] *= 2.0**700 if variant == "arcface" else 1.0  # a power of two is taken out of it
    in_blocks(monkeypatch, 24)
    loss = make(variant, 11, reduction="none", precision=precision)
    kept = bits(*both_passes(loss, inputs, upstream))
    monkeypatch.setattr(passes, "KEPT", 0)
    assert bits(*both_passes(loss, inputs, upstream)) == kept
    value, grads = loss.value_and_grad(**inputs, upstream=upstream)
    assert bits(grads).items() <= kept.items()
    assert value.tobytes() == kept["loss"][2]


@pytest.fixture
def threaded(monkeypatch):
    """Small problems take threads too."""
    monkeypatch.setattr(blocks, "WORK", 0)
    in_blocks(monkeypatch, 24)


@every_variant
def test_the_callers_errstate_reaches_neither_threads_nor_late_stages(variant, rng, threaded):
    inputs, upstream = example(variant, rng, n=8, classes=11), rng.normal(size=8)
    inputs["x"][0] = [1.0, 1e-200, -1e-300]  # squares and products of these underflow
    inputs["W"][1] = [1e-250, 2.0, 1e-200]
    loss = make(variant, 11, reduction="none")
    due = both_passes(loss, inputs, upstream)
    with np.errstate(all="raise"):
        out, grads = both_passes(loss, inputs, upstream)
        assert bits(out, grads) == bits(*due)
        assert out.error_bound["loss"].tobytes() == due[0].error_bound["loss"].tobytes()


@both
def test_the_callers_errstate_is_not_asked_about_a_loss_that_underflows(precision):
    """e^−800, read out as a double; it is computed with more range in pairs."""
    logits, x, W = [[800.0, 0.0]], [[1.0, 0.0]], [[800.0, 0.0], [0.0, 0.0]]
    with np.errstate(all="raise"):
        assert refloss.CrossEntropy(precision=precision).forward(logits, [0]).loss == 0
        assert refloss.Softmax(precision=precision).forward(x, W, [0]).loss == 0


@both
@every_variant
def test_the_bits_do_not_depend_on_the_number_of_threads(variant, precision, rng, threaded):
    inputs, upstream = example(variant, rng, n=8, classes=11), rng.normal(size=8)
    loss = make(variant, 11, reduction="none", precision=precision)
    seen = []
    for threads in (1, 2, 4):
        with threadpool_limits(limits=threads, user_api="blas"):
            seen.append(bits(*both_passes(loss, inputs, upstream)))
    assert seen[0] == seen[1] == seen[2]


def test_large_products_do_not_depend_on_the_number_of_threads(rng):
    """Where BLAS itself would use threads."""
    x, W, y = rng.normal(size=(200, 100)), rng.normal(size=(3000, 100)), rng.integers(0, 3000, size=200)
    seen = []
    for threads in (1, 2, 4):
        with threadpool_limits(limits=threads, user_api="blas"):
            seen.append(bits(*both_passes(refloss.ArcFace(), {"x": x, "W": W, "labels": y}, np.array(1.0))))
            assert blas_threads() == [threads] * len(blas_threads())
    assert seen[0] == seen[1] == seen[2]


def test_several_callers_at_once(rng, threaded):
    """Each gets its own bits, and BLAS its threads back after the last."""
    before = blas_threads()
    problems = [example("arcface", rng, n=8, classes=11) for _ in range(12)]
    due = [bits(*both_passes(refloss.ArcFace(), inputs, np.array(1.0))) for inputs in problems]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda inputs: bits(*both_passes(refloss.ArcFace(), inputs, np.array(1.0))), problems * 3))
    assert got == due * 3
    assert blas_threads() == before


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
def test_blas_gets_its_threads_back_whatever_happens(error, monkeypatch):
    """After an error in a block, after an interrupt, and when a caller stops asking for blocks."""
    monkeypatch.setattr(blocks, "WORK", 0)
    with threadpool_limits(limits=2, user_api="blas"):

        def fails(k):
            assert blas_threads() == [1] * len(blas_threads())
            if k == 3:
                raise error("stop")
            return k

        with pytest.raises(error):
            list(blocks.in_order(fails, 8, 1))
        assert blas_threads() == [2] * len(blas_threads())
        some = blocks.in_order(lambda k: k, 8, 1)
        assert next(some) == 0
        some.close()
        assert blas_threads() == [2] * len(blas_threads())


def test_blocks_come_in_order_on_more_than_one_thread(monkeypatch):
    monkeypatch.setattr(blocks, "WORK", 0)
    met = threading.Barrier(2, timeout=30)  # two blocks at once, or it breaks

    def pair(k):
        if k < 2:
            met.wait()
        return k, threading.get_ident()

    with threadpool_limits(limits=2, user_api="blas"):
        results = list(blocks.in_order(pair, 9, 1))
    assert [k for k, _ in results] == list(range(9))
    assert len({thread for _, thread in results}) > 1


def test_a_mistake_in_a_late_block_is_named_by_its_class(rng, monkeypatch):
    """Errors that are found block by block give the place in the whole array."""
    in_blocks(monkeypatch, 16)
    x, W = rng.normal(size=(8, 3)), rng.normal(size=(11, 3))
    x[2], W[9] = 1e200, 1e200
    with pytest.raises(ValueError, match=r"logits\[2, 9\] leaves the range"):
        refloss.Softmax().forward(x, W, np.zeros(8, int))
    x, W = rng.normal(size=(8, 3)), rng.normal(size=(11, 3))
    W[9] = [5e-324, 0, 0]
    with pytest.raises(ValueError, match=r"grad_W\[9, \d\] leaves the range"):
        refloss.ArcFace().value_and_grad(x, W, np.full(8, 9))


@every_variant
def test_a_stage_is_computed_when_it_is_read_and_then_kept(variant, rng, monkeypatch):
    """print(out) computes no stage; a stage that was read is the same array the next time."""
    loss = make(variant)
    out, grads = both_passes(loss, example(variant, rng), 1.0)
    monkeypatch.setattr(type(out._passes), "stage", lambda *args: pytest.fail("computed"))
    monkeypatch.setattr(type(out._passes), "grad_logits", lambda *args: pytest.fail("computed"))
    for record in (out, grads):
        assert "(6, 4) float64" in repr(record)
        assert len(record.stages()) == len(list(record.stages()))
    monkeypatch.undo()
    assert out.logits is out.logits
    assert grads.logits is grads.stages()["grad_logits"]


def test_what_is_read_late_is_of_the_inputs_as_they_were(rng):
    """Inputs may change after the pass."""
    inputs = example("arcface", rng)
    due = bits(*both_passes(refloss.ArcFace(), inputs, 1.0))
    out, grads = both_passes(refloss.ArcFace(), inputs, 1.0)
    for array in inputs.values():
        array[...] = 0
    assert bits(out, grads) == due
