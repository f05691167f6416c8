"""Cases at the corners: nothing to count, rows that hold no numbers, sizes where an index or a chunk ends, 16 bits."""

from __future__ import annotations

import numpy as np

from refloss.cases.angles import directions
from refloss.cases.maker import Maker
from refloss.precision.dtypes import DTYPES

# (N, C): one below, at and above 8, 64, 128 and 1024, each as a number of rows and of classes, and few entries
CHUNKS = (
    (7, 129), (8, 128), (9, 127), (63, 9), (64, 8), (65, 7), (9, 65), (8, 64), (7, 63), (127, 9), (128, 8), (129, 7),
    (1023, 2), (1024, 2), (1025, 2), (2, 1023), (2, 1024), (2, 1025),
)  # fmt: skip


def corners(make: Maker) -> None:
    """Adds them all, those that the loss has."""
    _nothing_counts(make)
    _no_numbers(make)
    _chunks(make)
    _far_classes(make)
    _sparse_blocks(make)
    _rows_far_apart(make)
    if make.dtype.is_half and not make.bare:
        _norms_of_16_bits(make)
    if make.bare and make.soft:
        _masked_without_a_share(make)


def _nothing_counts(make: Maker) -> None:
    loss = make.loss
    if loss.reduction in ("mean", "weighted_mean") and loss.empty_mean == "error":
        return
    if loss.ignore_index is not None:
        inputs, y = make.middling("all_ignored", 6)
        reason = "every row is ignored: 0/0 in a mean, and every gradient is exactly 0"
        make.case("all_ignored", reason, "ignored empty", inputs, 0 * y + loss.ignore_index, empty=True)
    inputs, y = make.plain("no_rows", 0)
    reason = "N = 0: no program to start, a mean over nothing, and a gradient of W that is due all the same"
    make.case("no_rows", reason, "empty", inputs, y, empty=True)


def _no_numbers(make: Maker) -> None:
    """The reference refuses such a row where it counts; ignored, it must not matter."""
    if make.loss.ignore_index is None:
        return
    for name, word, number in (("ignored_nan", "NaN", np.nan), ("ignored_inf", "inf", np.inf)):
        inputs, y = make.middling(name, 7)
        v = inputs["logits" if make.bare else "x"]
        v[2], v[5, 0] = number, number
        ignored = np.isin(np.arange(7), (2, 4, 5))
        reason = f"ignored rows with {word} in them, as padding has: 0 · {word} is NaN, and their gradient is 0"
        make.case(name, reason, "ignored nonfinite", inputs, np.where(ignored, make.loss.ignore_index, y))


def _chunks(make: Maker) -> None:
    for N, C in dict.fromkeys((N, make.C(C)) for N, C in CHUNKS):
        name = f"chunk_edge_{N}x{C}"
        inputs, y = make.plain(name, N, C, 5)  # in fewer dimensions some row would lie next to a pole
        reason = "N and C one below, at or above 8, 64, 128 and 1024: the last chunk is full, holds one, or lacks one"
        make.case(name, reason, "chunk_edge", inputs, make.rng("labels " + name).permutation(y))


def _far_classes(make: Maker) -> None:
    """Of bare logits, which reach a label the same way: with x and W, the draws of so many classes take seconds."""
    for bits in (15, 16) if make.bare and make.fixed is None else ():
        name, C = f"classes_beyond_{2**bits - 1}", 2**bits + 5
        inputs, _ = make.plain(name, 1, C)
        reason = f"a label beyond {2**bits - 1}: an index of 16 bits comes round again"
        make.case(name, reason, "far_classes blocks", inputs, make.classes(C)[-1:])


def _sparse_blocks(make: Maker) -> None:
    """Targets with p_y = 0.85, the other 999 classes sharing the rest; what each dtype says of their p is sharp.

    Every row of x lies along an axis of its own, so that a logit is one product and errs relatively.
    """
    if make.fixed is not None:
        return
    name, N, C, D = "sparse_blocks", 4, 1000, 8
    rng, usable = make.rng(name), make.classes(C)
    y = usable[[3, 200, 530, -1]]
    ahead = np.log(0.85 / 0.15 * (C - 1))
    if make.bare:
        inputs = {"logits": 0.5 * rng.normal(size=(N, C)) + ahead * np.eye(C)[y]}
    else:
        length, W_length = make.lengths(2 * ahead)
        near = 0.5 * rng.uniform(-1, 1, size=(C, N)) / make.reach(2 * ahead)
        theta = make.theta_of(np.full(N, ahead) / make.reach(2 * ahead), make.psi)
        near[y] = np.cos(theta)[:, None] * np.eye(N)
        rest = directions(rng.normal(size=(C, D - N))) * np.sqrt(1 - np.sum(near**2, axis=1, keepdims=True))
        inputs = {"x": length * np.eye(N, D), "W": W_length * np.hstack([near, rest])}
    reason = "1000 classes of which 996 have p near 1e-4: blocks of grad_W left out where |p − t| is small"
    make.case(name, reason, "blocks sparse confident", inputs, y, b=0.0)


def _rows_far_apart(make: Maker) -> None:
    """Logits that differ little within a row and by more than e^z spans from row to row, as far as s lets them."""
    name = "rows_far_apart"
    inputs, y = make.plain(name, 6)
    compute = DTYPES["float32"] if make.dtype.is_half else make.dtype
    height = -1.2 * np.log(compute.smallest_subnormal)
    of_rows = np.array([0.9, -0.9, 0.5, -0.5, 0.1, -0.8])
    if make.bare:
        inputs["logits"] += height * of_rows[:, None]
    else:
        # every W_j lies next to one axis, x_i at the angle arccos(of_rows) from it
        length, W_length = make.lengths(height)
        near, across = inputs["W"] * 2 / make.reach(height), directions(inputs["x"][:, 1:])
        near[:, 0] = 1.0
        x = np.hstack([of_rows[:, None], np.sqrt(1 - of_rows[:, None] ** 2) * across])
        inputs = {"x": length * x, "W": W_length * near}
    reason = "each row's largest logit far from the others': the maximum of the batch in place of the row's gives log 0"
    make.case(name, reason, "far_rows", inputs, y, b=0.0)


def _norms_of_16_bits(make: Maker) -> None:
    """Σx² leaves float16 beyond ‖x‖ = 256, and most of it is lost below 1e-4; float32 inside has room for both."""
    _, p, q = make.radius
    for name, reason, flags, x_length, small in (
        ("half_long_rows", "x of length 300 … 2000: a Σx² in float16 overflows beyond 256", "huge_norm", 2000.0, 1.0),
        ("half_short_rows", "x shorter than 1e-4: a Σx² in float16 is 0", "tiny_norm", 9e-5, 2.0**-11),
    ):
        inputs, y = make.middling(name, 6)
        lengths = x_length * np.array([1.0, 0.15, 0.5, 0.25, 0.8, 0.4])
        W_length = np.clip(8.0 / x_length, 2.0**-8, 64.0) if p and q else 1.0
        inputs = {key: directions(v) for key, v in inputs.items()}
        inputs = {"x": lengths[:, None] * inputs["x"], "W": W_length * inputs["W"]}
        # small: 1/‖x‖ of a short row is beyond float16 together with a scale
        make.case(name, reason, f"{flags} float32_inside", inputs, y, b=0.0, upstream=-1.375 * small,
                  upstreams=small * np.array([0.75, -1.5, 2.25, 0.5, -0.125, 1.0]))  # fmt: skip


def _masked_without_a_share(make: Maker) -> None:
    name = "masked_without_a_share"
    inputs, y = make.plain(name, 6)
    C = make.C(6)
    if C < 2 or make.loss.label_smoothing:
        return
    z = inputs["logits"]
    z[np.arange(6), (y + 1) % C] = -np.inf
    reason = "one class is masked and has no share of the target: 0 · (−inf) is 0 here, not NaN"
    make.case(name, reason, "masked soft", inputs, y)
