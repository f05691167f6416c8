"""The named cases on which `refloss.testing.check` runs a kernel: each says what it provokes.

The loss is the user's own object and stays as it is; a case chooses inputs, labels, the gradient that arrives and the
memory layout. Random features never reach the outer branches of ψ or θ > π − m, nor a confident row that still has a
gradient to see: angles, logits and lengths are aimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from refloss.cases.angles import directions, place
from refloss.cases.case import Case
from refloss.cases.corners import corners
from refloss.cases.layouts import layouts
from refloss.cases.maker import RIVAL, Maker, shares
from refloss.losses import CrossEntropy
from refloss.losses.loss import Loss
from refloss.precision.dtypes import DTYPES, DType, rounded, ulp
from refloss.textbook import formulas

FAR = 12  # at most as many branches or knots of ψ are visited
ULPS = (-64, -8, -1, 0, 1, 8, 64)  # to either side of a jump
ORDERS = (
    ("ascending_logits", "each class above the one before: an online softmax rescales at every block", 1),
    ("descending_logits", "the maximum comes first: later blocks must not change it", -1),
)


def cases(loss: Any, dtype: str = "float32", seed: int = 0, soft_targets: bool = False) -> list[Case]:
    """The aimed cases of a loss object, in a fixed order; the same for the same arguments.

    Args:
        loss (Loss or CrossEntropy): the object; its parameters decide which cases there are.
        dtype (str): "float64", "float32", "float16" or "bfloat16": the inputs are exact in it.
        seed (int): of the random parts.
        soft_targets (bool): every case has soft targets (losses without a margin, no ignore_index).

    Returns:
        list of Case: all arrays in them read-only.

    Raises:
        TypeError: what is no loss of refloss.
        ValueError: an unknown dtype, a seed below 0, or soft targets for a loss that takes labels only.

    Example:
        >>> import refloss
        >>> print(cases(refloss.ArcFace())[0].reason)
        Gaussian inputs, every class present
    """
    refuse(loss, dtype, seed, soft_targets)
    make = Maker(loss, dtype, seed, soft_targets)
    own = (_images, _blocks, _bare_logits) if make.bare else (_shapes, _blocks, _angles, _margins, _logits, _norms)
    families: tuple = (_typical, *own, _labels, _upstreams, _layouts, _options, layouts, corners)
    for family in families:
        family(make)
    return make.cases


def refuse(loss: Any, dtype: str, seed: Any, soft_targets: bool) -> None:
    """Refuses what is no loss, an unknown dtype, a seed below 0, and soft targets that the loss does not take."""
    if not isinstance(loss, (Loss, CrossEntropy)):
        raise TypeError(f"loss must be an object of refloss, such as refloss.ArcFace(), got {loss!r}")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise ValueError(f"seed must be an integer ≥ 0, got {seed!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    margin = getattr(loss, "has_margin", False)
    if soft_targets and (margin or loss.ignore_index is not None):
        why = "has a margin on one class" if margin else "has an ignore_index"
        raise ValueError(f"soft_targets: {loss!r} {why} and takes labels only")


# -- shapes and labels -----------------------------------------------------------------------------


def _typical(make: Maker) -> None:
    for name, reason, flags, N, C in (
        ("typical", "Gaussian inputs, every class present", "typical", 12, 6),
        ("typical_again", "the same shapes with other numbers: what a stale cache or buffer gives away", "typical",
         12, 6),
        ("one_sample", "N = 1: a mean over one row, one program", "one_sample ragged", 1, 6),
        ("one_class", "C = 1: p = 1 and every gradient of the cross-entropy is exactly 0", "one_class", 5, 1),
        ("one_sample_one_class", "N = C = 1: the smallest problem there is", "one_sample one_class", 1, 1),
        ("two_classes", "C = 2: one competitor, and most lanes of a block are padding", "two_classes", 5, 2),
        ("square", "N = C = D = 8: a matrix in place of its transpose has the right shape", "square", 8, 8),
    ):  # fmt: skip
        if C == 6 or make.fits(C):
            make.case(name, reason, flags, *make.plain(name, N, C))


def _shapes(make: Maker) -> None:
    for D, words in ((1, "one_dimension"), (2, "two_dimensions")):
        name = f"typical_{words}"
        reason = "directions are ±1 and cannot turn" if D == 1 else "a plane: every angle comes up"
        make.case(name, f"D = {D}: {reason}", "typical", *make.plain(name, 9, 5, D))
    for N, C, D in ((7, 9, 8), (9, 7, 31), (33, 31, 33), (5, 127, 17), (3, 129, 65), (130, 6, 9), (4, 33, 129)):
        name = f"ragged_{N}x{make.C(C)}x{D}"
        reason = "sizes one off 8, 32 and 128: the tail of a tile is read or written, or left out"
        make.case(name, reason, "ragged typical", *make.plain(name, N, C, D))


def _images(make: Maker) -> None:
    for name, rest, C in (
        ("ragged_image", (2, 5, 7), 5), ("image_one_pixel_wide", (3, 9, 1), 4), ("image_large", (1, 33, 31), 9),
        ("volume", (2, 3, 5, 3), 3), ("sequence", (3, 11), 7), ("ragged_classes", (7,), 129),
        ("ragged_rows", (129,), 33),
    ):  # fmt: skip
        reason = "odd sizes, one off the tile: index arithmetic between the class axis and the rest"
        make.case(name, reason, "image ragged", *make.plain(name, math.prod(rest), C), rest=rest)


def _blocks(make: Maker) -> None:
    for C in (1000, 5000) if make.fixed is None else ():
        name = f"blocks_{C}"
        inputs, _ = make.plain(name, 4, C, 5)
        reason = "many blocks of classes: the target in the first, the last, a middle one and at an edge"
        make.case(name, reason, "blocks", inputs, make.classes(C)[[3, -1, C // 2, 127]])


def _labels(make: Maker) -> None:
    inputs, y = make.middling("labels", 10)
    C = make.C(6)
    usable = make.classes(C)
    two, ends = usable[:2], [usable.min(), usable.max()]
    for name, reason, flags, labels in (
        ("duplicate_labels", "one class on every row: a scatter without atomics loses gradients", "duplicates",
         0 * y + usable[0]),
        ("absent_classes", "classes without a sample still get a gradient", "absent_class", np.resize(two, len(y))),
        ("first_and_last_class", "only the first and the last class: off by one at either end", "first_last_class",
         np.resize(ends, len(y))),
        ("sorted_labels", "sorted, with runs of one class", "duplicates", np.sort(y)),
    ):  # fmt: skip
        make.case(name, reason, flags, inputs, labels)


# -- angles ----------------------------------------------------------------------------------------


def _aim(make: Maker, name: str, reason: str, flags: str, theta: Any, D: int = 8, rivals: bool = False) -> None:
    make.case(name, reason, flags, *make.aimed(name, np.asarray(theta, dtype=float), 2.0, D, rivals))


def _axes(make: Maker, name: str, C: int = 7, D: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) with target classes along axes, whose angles no dtype rounds away, and a rival close to each."""
    rng, C = make.rng(name), make.C(C)
    W = rng.normal(size=(C, D))
    targets = make.classes(C)[: max(1, min(3, C // 2))]
    rivals = [c for c in range(C) if c not in targets][: len(targets)]
    axis = np.eye(len(targets), D)
    W[targets] = axis * 2.0 ** np.arange(-1, len(targets) - 1)[:, None]
    if len(rivals) == len(targets):
        W[rivals] = 1.5 * place(rng, axis, np.arange(len(targets)), RIVAL, 1.0)
    return W, targets


def _beside(make: Maker, name: str, reason: str, flags: str, theta: Any, ulps: Sequence[int] = (0,)) -> None:
    """Target angles as close to these as the dtype can say, and so many ulps of one coordinate off."""
    W, targets = _axes(make, name)
    theta, off = (v.ravel() for v in np.meshgrid(np.asarray(theta, dtype=float), ulps, indexing="ij"))
    which = np.arange(len(theta)) % len(targets)
    along, across = _coordinates(theta, make.dtype)
    small = np.where(np.abs(along) < np.abs(across), along, across)
    moved = small + off * ulp(np.where(small == 0, 1.0, small), make.dtype)
    along, across = np.where(small == along, moved, along), np.where(small == along, across, moved)
    x = np.zeros((len(theta), W.shape[1]))
    x[np.arange(len(theta)), which] = along
    x[np.arange(len(theta)), -1] = across
    make.case(name, reason, flags, {"x": x, "W": W}, targets[which])


def _coordinates(theta: np.ndarray, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """cos θ and sin θ times a length from 2 to 4, of many the one that the dtype rounds best."""
    length = np.linspace(2, 4, 257)
    cos = np.where(np.abs(np.cos(theta)) < 1e-15, 0.0, np.cos(theta))
    along, across = (rounded(np.outer(v, length), dtype) for v in (cos, np.sin(theta)))
    best = np.argmin(np.abs(np.arctan2(across, along) - theta[:, None]), axis=1)
    rows = np.arange(len(theta))
    return along[rows, best], across[rows, best]


def _angles(make: Maker) -> None:
    pi, least = np.pi, 16 * make.dtype.u
    _aim(make, "trained", "small target angles, as in a trained network: most of the gradient has cancelled", "trained",
         np.linspace(0.05, 0.6, 10), rivals=True)  # fmt: skip
    _aim(make, "hard", "obtuse target angles, as at the start of training", "hard", np.linspace(1.7, 3.0, 10))
    _aim(make, "every_angle", "target angles from 0.1 to π − 0.1: whatever branches there are", "every_angle",
         np.linspace(0.1, pi - 0.1, 12))  # fmt: skip
    if make.margin and not make.member.multiplies_angle and not make.member.adds_to_angle:
        _aim(make, "every_angle_fine", "forty target angles: branches nobody named", "every_angle",
             np.linspace(0.02, pi - 0.02, 40), D=3)  # fmt: skip
    away = np.array([1e-2, 1e-3, 1e-5])
    poles = np.concatenate([away, pi - away])
    _beside(make, "near_poles", "1e-2, 1e-3, 1e-5 from θ = 0 and π: arccos and 1/sin θ lose their digits", "near_pole",
            poles)  # fmt: skip
    kept = np.maximum(away, least * np.array([4, 2, 1]))
    _aim(make, "near_poles_turned", "the same in general position, where cos θ itself is rounded", "near_pole",
         np.concatenate([kept, pi - kept]), rivals=True)  # fmt: skip
    W, targets = _axes(make, "pole")
    y = np.resize(targets, 6)
    W = rounded(W, make.dtype)
    x = place(make.rng("pole"), W, y, np.linspace(0.4, 2.4, 6))
    x[0], x[1] = 2 * W[y[0]], -W[y[1]]
    make.case("pole", "two rows exactly at θ = 0 and π: 0/0 in the tangent, NaN in arccos of a rounded 1", "pole",
              {"x": x, "W": W}, y)  # fmt: skip


def _margins(make: Maker) -> None:
    """What belongs to one margin only."""
    loss, member, pi = make.loss, make.member, np.pi
    if member.multiplies_angle:
        m = loss.margin
        middles = (np.unique(np.linspace(0, m - 1, min(m, FAR)).astype(int)) + 0.5) * pi / m
        _aim(make, "psi_branches", "the middle of every branch of ψ: a wrong k or a wrong sign", "psi_branch",
             np.concatenate([middles, middles - 0.2 * pi / m]))  # fmt: skip
        if m > 1:
            knots = np.unique(np.linspace(1, m - 1, min(m - 1, FAR)).astype(int)) * pi / m
            _beside(make, "psi_knots", "at kπ/m and an ulp to either side: k and the sign must change together",
                    "knot psi_branch", knots, (-4, -1, 0, 1, 4))  # fmt: skip
            off = np.array([-1e-2, -1e-3, 1e-3, 1e-2])
            _aim(make, "psi_knots_beside", "shortly before and after kπ/m, in general position", "knot psi_branch",
                 np.ravel(knots[:6, None] + off))  # fmt: skip
    if member.adds_to_angle:
        edge, linear = pi - loss.margin, loss.past_pi == "linear"
        share = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
        _aim(make, "past_pi", "θ + m beyond π, where cos(θ + m) rises again", "past_pi hard",
             np.concatenate([edge + share * (pi - edge), edge - share[:3] * edge]))  # fmt: skip
        if loss.margin > 0:
            _beside(make, "at_pi_minus_m", "θ = π − m and a few ulps to either side: sin(θ + m) cancels",
                    "jump_edge past_pi" if linear else "past_pi", [edge], ULPS)  # fmt: skip
        away = np.array([0.2, 0.02, 1e-3])
        _aim(make, "around_half_pi", "both sides of θ = π/2: where an easy margin begins", "half_pi",
             np.concatenate([pi / 2 - away, pi / 2 + away]))  # fmt: skip
        if loss.easy_margin:
            _beside(make, "at_half_pi", "θ = π/2 and a few ulps to either side: cos θ > 0 decides", "jump_edge half_pi",
                    [pi / 2], ULPS)  # fmt: skip
    elif member.target is formulas.cosine_margin:
        around = loss.margin + np.array([-0.2, -0.05, -0.002, 0.002, 0.05, 0.2])
        _aim(make, "around_the_margin", "cos θ around m: released code adds the margin only where cos θ > m",
             "margin_threshold", np.arccos(np.clip(around, -0.99, 0.99)))  # fmt: skip


# -- logits ----------------------------------------------------------------------------------------


def _logits(make: Maker) -> None:
    if make.C(6) > 1:
        _confident(make)
        _against(make, "very_confident", "targets 60 ahead: the gradient is e^-60 and not 0, the loss is not "
                 "−log(1 + 1e-7)", "confident", ahead=True)  # fmt: skip
        _against(make, "anti_confident", "targets far below: log p_y of a p_y that rounds to 0", "anti_confident")
    _high(make, "saturated", "all logits near the largest there are", "saturated", 100.0)
    for name, r, reason in (
        ("overflow_float32", 150.0, "logits beyond 89: exp overflows in float32"),
        ("overflow_float64", 1500.0, "logits beyond 710: exp overflows in float64"),
        ("logits_1e4", 1e4, "logits of 1e4: their rounding alone is visible"),
    ):
        if (make.radius.p or make.radius.q) and make.reach(r) > 0.6 * r:
            _high(make, name, reason, "overflow", r)
    _ties(make)
    _ordered(make)


def _confident(make: Maker) -> None:
    """Targets ahead by as much as their own logit: the other classes' are 0 or less."""
    C = make.C(6)
    y = np.resize(make.classes(C)[:16], 8)
    axes = np.unique(y)
    W = np.zeros((C, len(axes) + 1))
    W[:, -1] = -1.0
    W[axes] = np.eye(len(axes), len(axes) + 1)
    length, W_length = make.lengths(28.0)
    theta = make.theta_of(np.linspace(5, 20, 8) / make.reach(28.0), make.psi)[:, None]
    x = length * (np.cos(theta) * W[y] + np.sin(theta) * np.eye(len(axes) + 1)[-1])
    make.case("confident", "targets 5 … 20 ahead: 1 − p_y cancels, and an absolute tolerance passes anything",
              "confident", {"x": x, "W": W * W_length}, y)  # fmt: skip


def _against(make: Maker, name: str, reason: str, flags: str, ahead: bool = False) -> None:
    """One class looks along an axis, all others the other way: its target is 60 ahead, or as far behind."""
    rng, C, D, wanted = make.rng(name), make.C(6), 8, 60.0
    length, W_length = make.lengths(wanted)
    axis = np.eye(D)[0]
    one = make.classes(C)[0]
    W = -axis + 0.03 * rng.normal(size=(C, D))
    W[one] = axis
    W *= W_length / np.linalg.norm(W, axis=1, keepdims=True)
    y = np.full(6, one)
    theta = np.linspace(3.1, 2.4, 6)
    if ahead:  # the others' logits are about −r cos θ
        theta = make.theta_of(np.linspace(0.8, 1.0, 6) * wanted / make.reach(wanted), make.psi + np.cos(make.angles))
    make.case(name, reason, flags, {"x": place(rng, W, y, theta, length), "W": W}, y)


def _high(make: Maker, name: str, reason: str, flags: str, r: float) -> None:
    """Rows at the target, at another class, half-way between the two, and opposite to the target."""
    rng, C = make.rng(name), make.C(6)
    x_length, W_length = make.lengths(r)
    W = rng.normal(size=(C, 8))
    if name == "saturated":  # all along one line
        W = np.where(np.arange(C) % 2, -1.0, 1.0)[:, None] * W[0] + 0.1 * W
    W *= W_length / np.linalg.norm(W, axis=1, keepdims=True)
    y = make.labels(8, C)
    own, other = W[y] / W_length, W[(y + 1) % C] / W_length
    direction = np.choose(
        np.arange(8)[:, None] % 4, [own, other, own + other if C > 1 and name != "saturated" else own, -own]
    )
    direction = direction + 0.05 * rng.normal(size=direction.shape)
    x = x_length * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    make.case(name, reason, flags, {"x": x, "W": W}, y)


def _ties(make: Maker) -> None:
    inputs, y = make.middling("equal_classes")
    W = inputs["W"]
    make.case("equal_classes", "every W_j the same: all plain logits tie, the maximum is everywhere", "tie",
              inputs | {"W": np.tile(W[:1], (len(W), 1))}, y, b=0.5)  # fmt: skip
    inputs, y = make.plain("zero_logits")
    inputs["x"][:, :4] = 0.0
    inputs["W"][:, 4:] = 0.0
    make.case("zero_logits", "x ⟂ every W_j: all cosines are exactly 0 and θ = π/2", "tie", inputs, y, b=0.0)
    inputs, y = make.plain("two_equal_maxima")
    inputs["W"][-1] = inputs["W"][0]
    inputs["x"] = inputs["W"][0] + 0.2 * inputs["x"]
    make.case("two_equal_maxima", "the largest logit in the first and the last class", "tie", inputs, y, b=0.0)
    # all on the far side, so that a zero in a padded lane would be the maximum
    inputs, y = make.plain("all_negative", C=7)
    x_length, W_length = make.lengths(40.0)
    axis = np.eye(8)[0]
    inputs["x"] = x_length * (axis + 0.1 * inputs["x"])
    inputs["W"] = W_length * (0.1 * inputs["W"] - axis)
    make.case("all_negative", "every logit far below 0: lanes padded with 0, or a maximum that starts at 0, win",
              "ragged anti_confident", inputs, y)  # fmt: skip


def _ordered(make: Maker) -> None:
    """Logits in order of the class, over many blocks where C is free."""
    for name, reason, order in ORDERS:
        rng, C = make.rng(name), make.C(1000)
        axis = np.eye(8)[:1]
        phi = np.linspace(np.pi - 0.2, 0.2, C)[::order]
        length, W_length = make.lengths(30.0)
        W = W_length * place(rng, axis, np.zeros(C, dtype=int), phi, 1.0)
        x = length * place(rng, axis, np.zeros(4, dtype=int), 0.05, 1.0)
        y = make.classes(C)[[0, -1, len(make.classes(C)) // 2, -1]]
        make.case(name, reason, "blocks", {"x": x, "W": W}, y)


# -- lengths ---------------------------------------------------------------------------------------


def _norms(make: Maker) -> None:
    _, p, q = make.radius
    low, high = make.shortest, make.longest

    def scaled(name: str, reason: str, flags: str, x_length: Any, W_length: Any) -> None:
        inputs, y = make.middling(name)
        for key, length in (("x", x_length), ("W", W_length)):
            v = inputs[key]
            inputs[key] = directions(v) * np.resize(length, len(v))[:, None]
        make.case(name, reason, flags, inputs, y, b=0.0)

    tiny = np.maximum([1e-2, 1e-3, 1e-5, 1e-6], low)
    huge = np.minimum([1e2, 1e3, 1e5, 1e6], high)
    mixed = np.ravel(np.stack([tiny, huge], axis=1))
    if not (p and q):
        for name, reason, flags, size in (
            ("tiny_norms", "short rows where the length is divided out: an ε in the norm, and large gradients",
             "tiny_norm", tiny),
            ("huge_norms", "long rows where the length is divided out: squares, and small gradients", "huge_norm",
             huge),
            ("mixed_norms", "short and long rows side by side: errors of one row in units of another",
             "tiny_norm huge_norm", mixed),
        ):  # fmt: skip
            scaled(name, reason, flags, 2.0 if p else size, 1.0 if q else size[::-1])
    else:
        a, c = (16.0, 1 / 16) if make.dtype.name == "float16" else (1e5, 1e-5)
        for name, x_length, W_length in (("tiny_x_huge_W", 2 * c, a), ("huge_x_tiny_W", 2 * a, c)):
            scaled(name, "lengths far apart with ordinary logits", "tiny_norm huge_norm", x_length, W_length)
    if p:
        scaled("tiny_x", "features that all but vanish: logits near 0, p near 1/C, and grad_W near 0", "tiny_norm",
               2 * tiny, 1.5)  # fmt: skip
        scaled("mixed_x", "features of very different lengths in one batch: some rows sure, some not", "mixed_sizes",
               [0.05, 0.5, 5.0, 30.0], 1.5)  # fmt: skip
    if q:
        scaled("tiny_W", "weights that all but vanish: logits near 0", "tiny_norm", 2.0, tiny)
        lengths = [0.05, 0.5, 4.0]
        scaled("mixed_W", "weights of very different lengths: a few classes rule", "mixed_sizes", 2.0, lengths)


# -- what arrives, and how it lies in memory -------------------------------------------------------


def _upstreams(make: Maker) -> None:
    zero_row = (1.0, -2.0, 0.0, 0.5, -0.25, 3.0, 0.0)
    for name, reason, flags, upstream, upstreams in (
        ("upstream_ones", "1 everywhere: the special case that fused kernels take", "ones", 1.0, (1.0,)),
        ("upstream_zeros", "nothing arrives: every gradient is exactly 0", "zeros", 0.0, (0.0,)),
        ("upstream_mixed", "both signs, some rows 0: a backward that takes one number for all", "mixed", 2.75,
         zero_row),
        ("upstream_negative", "nothing positive arrives", "mixed", -3.0, (-3.0, -0.5)),
        ("upstream_huge_row", "one row arrives 1024 times as large: errors measured over the batch hide the others",
         "huge_row", 16.0, (2.0**-6, 2.0**-6, 16.0, 2.0**-6)),
        ("upstream_tiny", "2^-10 arrives: gradients below any absolute tolerance", "tiny", 2.0**-10,
         (2.0**-10, -(2.0**-10))),
        ("upstream_all_bits", "numbers with as many bits as the dtype has: what arrives is handed on in fewer", "bits",
         0.7, (0.7, -1.3, 2.1, 0.9)),
        ("upstream_strided", "the vector that arrives has a stride: read as if it had none", "strided", 1.25, zero_row),
    ):  # fmt: skip
        layout = "upstream_strided" if flags == "strided" else "contiguous"
        given = make.middling(name, 9)
        make.case(name, reason, f"upstream_{flags}", *given, upstream=upstream, upstreams=upstreams, layout=layout)


def _layouts(make: Maker) -> None:
    for layout, reason in (
        ("strided", "every other column of a wider array: strides ignored read the neighbours"),
        ("transposed", "W (or the logits) as the transpose of a contiguous array: rows read as columns"),
        ("read_only", "arrays that must not be written: gradients put in place of the inputs"),
    ):
        name = f"layout_{layout}"
        inputs, y = make.middling(name, 7)
        make.case(name, reason, layout, inputs, y, layout=layout)


# -- options of the cross-entropy ------------------------------------------------------------------


def _options(make: Maker) -> None:
    loss = make.loss
    if loss.class_weights is not None or loss.label_smoothing:
        inputs, y = make.middling("every_class", min(make.C(6), 24) + 3)
        make.case("every_class", "every class is a target: weights and smoothing of the wrong class",
                  "weights smoothing", inputs, y)  # fmt: skip
    if getattr(loss, "has_bias", False):
        inputs, y = make.middling("no_bias")
        make.case("no_bias", "the bias left out", "bias", inputs, y, b=None)
        sizes = np.linspace(-20, 20, make.C(6))
        make.case("bias_large", "a bias that decides the class", "bias", inputs, y, b=sizes)
        make.case("bias_negative", "every logit near −60: lanes padded with 0, or a maximum that starts at 0, win",
                  "bias ragged", inputs, y, b=-60.0)  # fmt: skip
    if not make.bare:
        _zero_rows(make)
    if loss.ignore_index is not None:
        _ignored(make)
    if make.soft:
        _soft(make)


def _zero_rows(make: Maker) -> None:
    loss = make.loss
    inputs, y = make.middling("zero_rows")
    for key, row in (("x", 2), ("W", -1)):
        if key not in make.member.zero_rows or loss.zero_norm == "zero":
            inputs[key][row] = 0.0
    if not all(v.any(axis=1).all() for v in inputs.values()):
        make.case("zero_rows", "rows of zeros: 0/0 in a direction that is not there", "zero_rows", inputs, y)


def _ignored(make: Maker) -> None:
    N = 9
    rows = np.arange(N)
    ignore = make.loss.ignore_index
    for name, reason, which in (
        ("ignored_some", "some rows are ignored: counted in the mean, or given a gradient", rows % 3 == 1),
        ("ignored_first_and_last", "the first and the last row are ignored", (rows == 0) | (rows == N - 1)),
        ("all_but_one_ignored", "one row counts: a mean over N is N times too small", rows != 4),
        ("ignored_huge", "an ignored row of huge numbers: inf · 0 is NaN, a maximum sees it", rows == 2),
        ("ignored_zero", "an ignored row of zeros: its norm is 0 and must not matter", rows == 5),
    ):
        inputs, y = make.middling(name, N)
        key = "logits" if make.bare else "x"
        if name == "ignored_huge":
            inputs[key][2] *= min(make.longest, 1e4) / np.linalg.norm(inputs[key][2])
        if name == "ignored_zero":
            inputs[key][5] = 0.0
        make.case(name, reason, "ignored", inputs, np.where(which, ignore, y))
    if make.fixed is None:
        inputs, _ = make.plain("ignored_blocks", 6, 300)
        y = make.classes(300)[[0, 5, 150, 7, 200, -1]]
        make.case("ignored_blocks", "ignored rows among targets in several blocks of classes", "ignored blocks", inputs,
                  np.where(np.arange(6) % 2 == 1, ignore, y))  # fmt: skip


def _soft(make: Maker) -> None:
    N, C = 8, make.C(6)
    rng = make.rng("soft")
    dirichlet = rng.dirichlet(np.ones(C), size=N)
    zero_row = dirichlet.copy()
    zero_row[3] = 0.0
    for name, reason, soft in (
        ("soft_sum_not_one", "rows that sum to 0.25 … 2: p − t instead of p Σt − t",
         dirichlet * np.linspace(0.25, 2, N)[:, None]),
        ("soft_sum_one", "ordinary soft targets", shares(rng, np.ones((N, C), dtype=bool))),
        ("soft_one_hot", "one-hot soft targets: 0 · log 0, and the same as labels", np.eye(C)[make.labels(N, C)]),
        ("soft_zero_row", "a row without any target: loss 0, gradient 0, and counted in a mean", zero_row),
    ):  # fmt: skip
        inputs, y = make.middling(name, N)
        make.case(name, reason, "soft", inputs, y, soft=soft)


# -- bare logits -----------------------------------------------------------------------------------


def _bare_logits(make: Maker) -> None:
    C = make.C(6)
    high = min(1e4, make.highest)
    y = make.labels(8, C)
    own = np.eye(C)[y]
    noise = make.rng("bare").normal(size=(8, C))
    ahead = np.linspace(5, 20, 8)[:, None]
    for name, reason, flags, z in (
        ("confident", "targets 5 … 20 ahead: 1 − p_y cancels, and an absolute tolerance passes anything", "confident",
         0.5 * noise + ahead * own),
        ("very_confident", "targets 60 ahead: the gradient is e^-60 and not 0", "confident", noise + 60 * own),
        ("anti_confident", "targets 100 behind: log p_y of a p_y that rounds to 0", "anti_confident",
         noise - 100 * own),
        ("overflow_float32", "logits beyond 89: exp overflows in float32", "overflow", 20 * noise + 120),
        ("overflow_float64", "logits beyond 710: exp overflows in float64", "overflow", 20 * noise + 1500),
        ("logits_1e4", "logits of ±1e4, some targets right and some wrong", "overflow",
         noise + high * np.where(np.arange(8)[:, None] % 2, own, np.roll(own, 1, axis=1))),
        ("all_negative", "every logit near −200: lanes padded with 0, or a maximum that starts at 0, win",
         "ragged anti_confident", 3 * noise - 200),
        ("equal_logits", "all logits of a row equal, at several heights", "tie",
         np.linspace(-30, 30, 8)[:, None] + 0 * noise),
        ("zero_logits", "all logits 0", "tie", 0 * noise),
        ("two_equal_maxima", "the largest logit twice, in the first and the last class", "tie",
         np.where(np.isin(np.arange(C), (0, C - 1)), 4.0, noise)),
    ):  # fmt: skip
        make.case(name, reason, flags, {"logits": z}, y)
    large = make.C(1000)
    for name, reason, order in ORDERS:
        z = np.linspace(-40, 40, large)[::order] + np.linspace(-0.5, 0.5, 4)[:, None]
        usable = make.classes(large)
        make.case(name, reason, "blocks", {"logits": z}, usable[[0, -1, len(usable) // 2, -1]])
    if make.loss.label_smoothing == 0 and C > 1:
        _masked(make)


def _masked(make: Maker) -> None:
    """Classes whose logit is −inf."""
    N = 6
    rows, columns = np.indices((N, make.C(7)))
    hidden = [
        ("masked_classes", "some logits are −inf: p = 0 and gradient 0, not NaN", (rows + columns) % 3 == 0),
        ("masked_all_but_target", "only the target is left: loss and gradient are exactly 0", columns >= 0),
    ]
    if (C := make.C(300)) > 130:
        first = np.broadcast_to(np.arange(C) < 130, (N, C))
        reason = "the first 130 classes are masked: −inf − (−inf) in an online softmax"
        hidden.append(("masked_first_block", reason, first))
    for name, reason, mask in hidden:
        C = mask.shape[1]
        inputs, _ = make.plain(name, N, C)
        usable = make.classes(C)
        y = np.resize(usable[usable >= 130] if name == "masked_first_block" else usable, N)
        mask = mask & (np.arange(C) != y[:, None])
        make.case(name, reason, "masked", {"logits": np.where(mask, -np.inf, inputs["logits"])}, y)
