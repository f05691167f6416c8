"""value_and_grad(..., out={"W": array}): W is read and its gradient written block by block, to the same bits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers import VARIANTS, bits, example, in_blocks, make

import refloss

every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize("precision", ["double", "extended"])
@every_variant
def test_the_same_bits_as_without(variant, precision, rng, monkeypatch):
    in_blocks(monkeypatch, 24)
    inputs, upstream = example(variant, rng, n=8, classes=11), rng.normal(size=8)
    loss = make(variant, 11, reduction="none", precision=precision)
    value, grads = loss.value_and_grad(**inputs, upstream=upstream)
    target = np.full_like(inputs["W"], np.nan)
    got, into = loss.value_and_grad(**inputs, upstream=upstream, out={"W": target})
    assert got.tobytes() == value.tobytes()
    assert into.W is target
    assert target.flags.writeable
    due = bits(grads)
    del due["grad_logits"]
    assert bits(into) == due
    for ask in (lambda: into.logits, lambda: into.error_bound, lambda: into.probable_error_bound):
        with pytest.raises(ValueError, match="keeps no record"):
            ask()


def test_memory_maps_of_float32(rng, tmp_path, monkeypatch):
    """Read from one map, rounded once into another."""
    in_blocks(monkeypatch, 24)
    inputs = example("arcface", rng, n=8, classes=11)
    W = np.memmap(tmp_path / "W", dtype=np.float32, mode="w+", shape=(11, 3))
    W[...] = inputs["W"]
    target = np.memmap(tmp_path / "grad", dtype=np.float32, mode="w+", shape=(11, 3))
    _, grads = refloss.ArcFace().value_and_grad(inputs["x"], W, inputs["labels"])
    refloss.ArcFace().value_and_grad(inputs["x"], W, inputs["labels"], out={"W": target})
    np.testing.assert_array_equal(target, grads.W.astype(np.float32))


def arguments(rng, dtype=np.float64):
    inputs = example("arcface", rng, n=8, classes=11)
    return inputs["x"], inputs["W"].astype(dtype), inputs["labels"]


def overlapping(W):
    whole = np.zeros((12, 3))
    whole[1:] = W
    return whole[1:], whole[:-1]


BAD = {
    "no mapping": (lambda W: W.copy(), ValueError, "mapping with the key"),
    "another key": (lambda W: {"W": W.copy(), "x": W.copy()}, ValueError, r"\['W', 'x'\]"),
    "no array": (lambda W: {"W": W.tolist()}, TypeError, "NumPy array, got list"),
    "shape": (lambda W: {"W": W.T.copy()}, ValueError, r"shape of W, \(11, 3\), got \(3, 11\)"),
    "integers": (lambda W: {"W": np.zeros((11, 3), int)}, TypeError, "range of float64, got int64"),
    "range": (lambda W: {"W": np.zeros((11, 3), np.float32)}, TypeError, "range of float64, got float32"),
    "read-only": (lambda W: {"W": np.broadcast_to(0.0, (11, 3))}, ValueError, "read-only"),
    "a mask": (lambda W: {"W": np.ma.zeros((11, 3))}, TypeError, "NumPy array, got MaskedArray"),
    "W": (lambda W: {"W": W}, ValueError, "overlaps W"),
    "itself": (
        lambda W: {"W": np.lib.stride_tricks.as_strided(np.zeros(13), (11, 3), (8, 8))},
        ValueError,
        "one place",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_out_is_refused_before_any_work(case, rng, monkeypatch):
    monkeypatch.setattr(refloss.ArcFace, "forward_logits", lambda *args: pytest.fail("work"))
    x, W, y = arguments(rng)
    make_out, error, message = BAD[case]
    with pytest.raises(error, match=message):
        refloss.ArcFace().value_and_grad(x, W, y, out=make_out(W))


def test_overlap_with_the_other_inputs(rng):
    """An entry in one place counts, rows that lie between those of W do not."""
    x, W, y = arguments(rng)
    memory = np.zeros(11 * 3 + 11)
    with pytest.raises(ValueError, match="overlaps b"):
        refloss.Softmax().value_and_grad(x, W, y, b=memory[30:41], out={"W": memory[:33].reshape(11, 3)})
    both = np.zeros((22, 3))
    both[::2] = W
    refloss.ArcFace().value_and_grad(x, both[::2], y, out={"W": both[1::2]})
    assert both[1::2].any()
    np.testing.assert_array_equal(both[::2], W)


def test_progress_that_is_no_function(rng):
    x, W, y = arguments(rng)
    for progress in (False, {}):
        with pytest.raises(TypeError, match="progress must be a function"):
            refloss.ArcFace().value_and_grad(x, W, y, out={"W": np.empty_like(W)}, progress=progress)


def test_overlap_is_noticed_in_memory_and_in_a_file(rng, tmp_path):
    x, W, y = arguments(rng)
    W, target = overlapping(W)
    with pytest.raises(ValueError, match="overlaps W"):
        refloss.ArcFace().value_and_grad(x, W, y, out={"W": target})
    W = np.memmap(tmp_path / "both", mode="w+", shape=(11, 3), dtype=np.float64)
    W[...] = rng.normal(size=(11, 3))
    W.flush()
    target = np.memmap(tmp_path / "both", mode="r+", shape=(11, 3), dtype=np.float64)
    with pytest.raises(ValueError, match="overlaps W"):
        refloss.ArcFace().value_and_grad(x, W, y, out={"W": target})
    apart = np.memmap(tmp_path / "other", mode="w+", shape=(11, 3), dtype=np.float64)
    refloss.ArcFace().value_and_grad(x, W, y, out={"W": apart})


@pytest.mark.parametrize(("value", "message"), [(np.nan, r"W\[7, 1\] is nan"), (0.0, r"W\[7\] is a zero row")])
def test_bad_rows_are_named_before_any_work(value, message, rng, monkeypatch):
    x, W, y = arguments(rng)
    W[7, 1 if np.isnan(value) else slice(None)] = value
    monkeypatch.setattr("refloss.validation.streams.ROWS_AT_ONCE", 6)
    monkeypatch.setattr(refloss.ArcFace, "forward_logits", lambda *args: pytest.fail("work"))
    with pytest.raises(ValueError, match=message):
        refloss.ArcFace().value_and_grad(x, W, y, out={"W": np.empty_like(W)})


def test_a_gradient_beyond_the_range_of_out_is_named(rng):
    x, W, _ = arguments(rng, np.float32)
    W[4] = 1e-40
    with pytest.raises(ValueError, match=r"grad_W\[4, \d\] leaves the range of float32"):
        refloss.ArcFace().value_and_grad(x, W, np.full(8, 4), out={"W": np.empty_like(W)}, upstream=1e30)


def test_progress_and_an_interrupt(rng, monkeypatch):
    """The callback counts the blocks of both passes; an interrupted run says that out is not whole."""
    in_blocks(monkeypatch, 24)
    x, W, y = arguments(rng)
    seen = []
    refloss.ArcFace().value_and_grad(x, W, y, out={"W": np.empty_like(W)}, progress=lambda *at: seen.append(at))
    assert seen == [(k, 8) for k in range(1, 9)]

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        refloss.ArcFace().value_and_grad(x, W, y, out={"W": np.empty_like(W)}, progress=stop)
    assert "is not whole" in caught.value.__notes__[0]


MANY = """
import resource, sys
import numpy as np, refloss
C, D = {classes}, 64
W = np.memmap(sys.argv[1] + "/W", np.float32, "w+", shape=(C, D))
for k in range(0, C, 10000):
    W[k : k + 10000] = np.random.default_rng(k).normal(size=(10000, D))
target = np.memmap(sys.argv[1] + "/grad", np.float32, "w+", shape=(C, D))
x, y = np.random.default_rng(0).normal(size=(4, D)), np.arange(4)
refloss.ArcFace().value_and_grad(x, W[:10000], y, out={{"W": target[:10000]}})
def private():
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = private()
most = []
refloss.ArcFace().value_and_grad(x, W, y, out={{"W": target}}, progress=lambda done, total: most.append(private()))
assert np.abs(target[-1]).max() > 0
print(max(most) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_private_memory_is_flat_in_the_classes(tmp_path):
    """A map of 38 MiB takes the private memory of its blocks and of N·C logits, not of W as doubles (77 MiB)."""
    program = MANY.format(classes=150_000)
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 40_000  # KiB
