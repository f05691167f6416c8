"""The named cases on which `refloss.testing.check` runs a kernel: each says what it provokes.

The loss is the user's own object and stays as it is; a case chooses inputs, labels, the gradient that arrives and the
memory layout. Random features never reach the outer branches of ψ or θ > π − m, nor a confident row that still has a
gradient to see: angles, logits and lengths are aimed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refloss.cases.coverage import CONFIDENT, WRONG, reached
from refloss.cases.gradcheck import place
from refloss.losses import CrossEntropy
from refloss.precision.dtypes import DTYPES, DType, rounded, ulp
from refloss.textbook.family import branches_of, radius_of

UPSTREAM = -1.375  # not 1: a backward that ignores what arrives must fail
UPSTREAMS = (0.75, -1.5, 2.25, 0.5, -0.125, 1.0)  # no 0: it would hide the row that a case is about
RIVAL = 0.25  # radians from a target's W to another class, so that a row at its pole still has a gradient
FAR = 12  # at most as many branches or knots of ψ are visited
NEAR = 1e-3  # radians
LARGE = "|logit| > 89"  # where exp overflows in float32
NEAR_POLE = "within 1e-3 of a pole"
AT_CONE = "at a cone"
AT_EDGE = "within 1e-3 of a knot or jump"

QUICK = {
    "typical", "one_sample", "duplicate_labels", "every_angle", "psi_branches", "psi_knots", "past_pi",
    "at_pi_minus_m", "around_half_pi", "near_poles", "confident", "anti_confident", "upstream_mixed", "mixed_norms",
    "overflow_float32", "ascending_logits", "ignored_some", "soft_sum_not_one", "soft_zero_row", "no_bias",
    "every_class", "ragged_image", "masked_classes", "all_negative",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """One input for one loss, and why it is there. All arrays are read-only.

    Attributes:
        name (str): stable, lower_snake_case.
        reason (str): what it provokes, and why a kernel gets it wrong.
        flags (tuple of str): the field's terms for it.
        inputs (Mapping): "x" (N, D), "W" (C, D), and "b" (C,) where the loss has a bias; or "logits". float64, exact in
            the dtype.
        labels (N,): int64, or soft targets (N, C); of `refloss.CrossEntropy` the logits' shape without the class axis,
            or theirs.
        upstream (scalar): arrives at a reduced loss.
        upstreams (N,): arrive at the losses of the samples, and have their shape.
        layout (str): "contiguous", "strided", "transposed", "read_only" or "upstream_strided".
        quick (bool): whether it belongs to cases="quick".
    """

    name: str
    reason: str
    flags: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    upstream: float
    upstreams: np.ndarray
    layout: str = "contiguous"
    quick: bool = False


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
        ValueError: an unknown dtype, or soft targets for a loss that takes labels only.

    Example:
        >>> import refloss
        >>> print(cases(refloss.ArcFace())[0].reason)
        Gaussian inputs, every class present
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    if soft_targets and (getattr(loss, "has_margin", False) or loss.ignore_index is not None):
        why = "has a margin on one class" if getattr(loss, "has_margin", False) else "has an ignore_index"
        raise ValueError(f"soft_targets: {loss!r} {why} and takes labels only")
    make = _Make(loss, dtype, seed, soft_targets)
    own = (_images, _bare_logits) if make.bare else (_shapes, _angles, _margins, _logits, _norms)
    families: tuple = (_typical, *own, _labels, _upstreams, _layouts, _options)
    for family in families:
        family(make)
    return make.cases


# -- making a case ---------------------------------------------------------------------------------


class _Make:
    """What the families share: the loss's sizes, labels that it accepts, rounding and freezing."""

    def __init__(self, loss: Any, dtype: str, seed: int, soft: bool) -> None:
        self.loss, self.dtype, self.seed, self.soft = loss, DTYPES[dtype], seed, soft
        self.bare = isinstance(loss, CrossEntropy)
        self.margin = getattr(loss, "has_margin", False)
        self.fixed = None if loss.class_weights is None else len(loss.class_weights)
        self.cases: list[Case] = []
        half = dtype == "float16"
        self.longest = 128.0 if half else 1e6  # of a row: its square stays finite
        self.shortest = 2.0**-5 if half else 1e-6
        self.highest = 5e4 if half else 1e9  # of a logit
        self.angles, self.psi = np.zeros(0), np.zeros(0)
        if not self.bare:
            self.angles, self.psi = psi_of(loss)

    def rng(self, name: str) -> np.random.Generator:
        """Its own for every case, so that a new case changes no other."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def C(self, wanted: int) -> int:
        return wanted if self.fixed is None else self.fixed

    def fits(self, C: int) -> bool:
        return self.fixed in (None, C)

    def classes(self, C: int) -> np.ndarray:
        """The classes that a row may have and count: not ignored; one with a weight comes first."""
        usable = np.array([c for c in range(C) if c != self.loss.ignore_index] or [0])
        if self.loss.class_weights is None:
            return usable
        weights = np.array(self.loss.class_weights)[usable]
        return np.roll(usable, -int(np.argmax(weights > 0)))

    def labels(self, N: int, C: int) -> np.ndarray:
        return np.resize(self.classes(C), N)

    def lengths(self, r: float) -> tuple[float, float]:
        """(‖x‖, ‖W_j‖) for logits of size r, as far as lengths decide it and the dtype goes."""
        r = min(r, self.highest / max(1.0, np.max(np.abs(self.psi))))
        feels_x, feels_W = self.loss.feels_x_norm, self.loss.feels_W_norm
        if feels_x and feels_W:
            each = min(math.sqrt(r), self.longest)
            return each, each
        x = min(r, self.longest) if feels_x else 2.0
        return x, min(r / factor_of(self.loss), self.longest) if feels_W else 2.0

    def reach(self, r: float) -> float:
        """The size of the logits that `lengths(r)` gives."""
        x, W = self.lengths(r)
        felt = (x if self.loss.feels_x_norm else 1.0) * (W if self.loss.feels_W_norm else 1.0)
        return factor_of(self.loss) * felt

    def theta_of(self, wanted: np.ndarray, f: np.ndarray) -> np.ndarray:
        """The smallest angles at which f, known at `self.angles`, is nearest to what is wanted; no poles."""
        at = np.argmin(np.abs(f - wanted[:, None]), axis=1)
        return np.clip(self.angles[at], 0.03, np.pi - 0.03)

    def plain(
        self, name: str, N: int = 8, C: int = 6, D: int = 8
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Gaussian inputs and labels."""
        rng, C = self.rng(name), self.C(C)
        if self.bare:
            return {"logits": 3 * rng.normal(size=(N, C))}, self.labels(N, C)
        return {"x": rng.normal(size=(N, D)), "W": rng.normal(size=(C, D))}, self.labels(N, C)

    def middling(self, name: str, N: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Inputs of which every row has a gradient to see: target angles from 0.3 to 2.6."""
        if self.bare:
            return self.plain(name, N)
        return self.aimed(name, np.linspace(0.3, 2.6, N), 1.5, rivals=True)

    def aimed(
        self, name: str, theta: np.ndarray, length: float = 2.0, D: int = 8, rivals: bool = False
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Target angles in general position. rivals: the classes lie in pairs, close to each other."""
        inputs, y = self.plain(name, len(theta), D=D)
        rng, W = self.rng("aimed " + name), inputs["W"]
        if rivals:
            odd = np.arange(1, len(W), 2)
            W[odd] = place(rng, W, odd - 1, RIVAL, np.linalg.norm(W[odd], axis=1))
        return inputs | {"x": place(rng, W, y, theta, length)}, y

    def case(
        self, name: str, reason: str, flags: str, inputs: Mapping[str, np.ndarray], y: np.ndarray, *,
        b: Any = "ordinary", rest: Sequence[int] | None = None, upstream: float = UPSTREAM, upstreams: Any = UPSTREAMS,
        layout: str = "contiguous", soft: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Adds a case. inputs: x and W, or logits (R, C) as rows; y: (R,); rest: the shape of R in bare logits."""
        if self._counts_nothing(y):
            return
        given = {key: rounded(value, self.dtype) for key, value in inputs.items()}
        C = given["logits"].shape[1] if self.bare else len(given["W"])
        if getattr(self.loss, "has_bias", False) and b is not None:
            b = 0.25 * self.rng(name).normal(size=C) if isinstance(b, str) else np.broadcast_to(b, C)
            given["b"] = rounded(b, self.dtype)
        labels: np.ndarray = y.astype(np.int64)
        if self.soft:
            labels = rounded(soft if soft is not None else self._softened(name, y, C), self.dtype)
            if self.bare:
                labels[given["logits"] == -np.inf] = 0.0
        shape: tuple[int, ...] = (len(y),)
        if self.bare:
            shape = tuple(rest or (_folded(len(y)) if self.loss.axis == 1 else shape))
            least = self.loss.axis + 1 if self.loss.axis >= 0 else -self.loss.axis
            shape = (1,) * (least - 1 - len(shape)) + shape
            given["logits"] = self._unrowed(given["logits"], shape)
            labels = self._unrowed(labels, shape) if self.soft else labels.reshape(shape)
        arriving = rounded(np.resize(upstreams, shape), self.dtype)
        for array in (*given.values(), labels, arriving):
            array.flags.writeable = False
        scalar = float(rounded(np.array(upstream), self.dtype))
        self.cases.append(
            Case(name, reason, tuple(flags.split()), given, labels, scalar, arriving, layout,
                 name in QUICK or name.startswith(("ragged_7x", "ragged_9x")))
        )  # fmt: skip

    def _unrowed(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """(R, C) with R spread over `shape` and the classes on the loss's axis."""
        whole = np.moveaxis(rows.reshape(*shape, rows.shape[1]), -1, self.loss.axis)
        return np.ascontiguousarray(whole)

    def _softened(self, name: str, y: np.ndarray, C: int) -> np.ndarray:
        """(R, C) soft targets, most of each on the label, whose sums are not 1."""
        rng = self.rng("soft " + name)
        soft = 0.3 * rng.dirichlet(np.ones(C), size=len(y))
        soft[np.arange(len(y)), y] += 0.6
        return soft * np.linspace(0.7, 1.4, len(y))[:, None]

    def _counts_nothing(self, y: np.ndarray) -> bool:
        """Whether a mean would be taken over nothing."""
        if self.soft or self.loss.reduction not in ("mean", "weighted_mean"):
            return False
        valid = y[y != self.loss.ignore_index]
        weights = self.loss.class_weights
        if self.loss.reduction == "mean" or weights is None:
            return len(valid) == 0
        return float(np.sum(np.array(weights)[valid])) == 0.0


def _folded(R: int) -> tuple[int, int, int]:
    """R predictions as images."""
    h = next(k for k in (2, 3, 5, 1) if R % k == 0)
    w = next(k for k in (2, 3, 5, 1) if R // h % k == 0)
    return R // (h * w), h, w


def factor_of(loss: Any) -> float:
    """s, or α, or 1: what multiplies every logit."""
    return radius_of(loss).factor


def psi_of(loss: Any) -> tuple[np.ndarray, np.ndarray]:
    """Angles from 0 to π, and what the target's logit is there over r: cos θ without a margin."""
    theta = np.linspace(0.0, np.pi, 1601)
    if not getattr(loss, "has_margin", False):
        return theta, np.cos(theta)
    alone = replace(loss, class_weights=None, ignore_index=None, reduction="sum", label_smoothing=0.0)
    x = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    out = alone.forward(x, np.array([[1.0, 0.0]]), np.zeros(len(theta), dtype=int))
    return theta, out.logits[:, 0] / factor_of(loss)


# -- shapes and labels -----------------------------------------------------------------------------


def _typical(make: _Make) -> None:
    make.case("typical", "Gaussian inputs, every class present", "typical", *make.plain("typical", 12))
    make.case("typical_again", "the same shapes with other numbers: what a stale cache or buffer gives away",
              "typical", *make.plain("typical_again", 12))  # fmt: skip
    inputs, y = make.plain("one_sample", 1)
    make.case("one_sample", "N = 1: a mean over one row, one program", "one_sample ragged", inputs, y)
    for name, reason, C in (
        ("one_class", "C = 1: p = 1 and every gradient of the cross-entropy is exactly 0", 1),
        ("two_classes", "C = 2: one competitor, and most lanes of a block are padding", 2),
    ):
        if make.fits(C):
            make.case(name, reason, name, *make.plain(name, 5, C))
            if C == 1:
                one = make.plain("one_sample_one_class", 1, 1)
                make.case("one_sample_one_class", "N = C = 1: the smallest problem there is", "one_sample one_class",
                          *one)  # fmt: skip


def _shapes(make: _Make) -> None:
    for D, words in ((1, "one_dimension"), (2, "two_dimensions")):
        name = f"typical_{words}"
        reason = "directions are ±1 and cannot turn" if D == 1 else "a plane: every angle comes up"
        make.case(name, f"D = {D}: {reason}", "typical", *make.plain(name, 9, 5, D))
    for N, C, D in (
        (7, 9, 8), (9, 7, 31), (33, 31, 33), (5, 127, 17), (3, 129, 65), (130, 6, 9), (4, 33, 129),
    ):  # fmt: skip
        name = f"ragged_{N}x{make.C(C)}x{D}"
        reason = "sizes one off 8, 32 and 128: the tail of a tile is read or written, or left out"
        make.case(name, reason, "ragged typical", *make.plain(name, N, C, D))
    _blocks(make)


def _images(make: _Make) -> None:
    for name, rest, C in (
        ("ragged_image", (2, 5, 7), 5), ("image_one_pixel_wide", (3, 9, 1), 4), ("image_large", (1, 33, 31), 9),
        ("volume", (2, 3, 5, 3), 3), ("sequence", (3, 11), 7), ("ragged_classes", (7,), 129),
        ("ragged_rows", (129,), 33),
    ):  # fmt: skip
        reason = "odd sizes, one off the tile: index arithmetic between the class axis and the rest"
        make.case(name, reason, "pixels ragged", *make.plain(name, math.prod(rest), C), rest=rest)
    _blocks(make)


def _blocks(make: _Make) -> None:
    for C in (1000, 5000) if make.fixed is None else ():
        name = f"blocks_{C}"
        inputs, _ = make.plain(name, 4, C)
        reason = "many blocks of classes: the target in the first, the last, a middle one and at an edge"
        make.case(name, reason, "blocks", inputs, make.classes(C)[[3, -1, C // 2, 127]])


def _labels(make: _Make) -> None:
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


def _aim(
    make: _Make, name: str, reason: str, flags: str, theta: Any, D: int = 8, rivals: bool = False
) -> None:
    make.case(name, reason, flags, *make.aimed(name, np.asarray(theta, dtype=float), 2.0, D, rivals))


def _axes(make: _Make, name: str, C: int = 7, D: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) with target classes along axes, whose angles no dtype rounds away, and a rival close to each."""
    rng, C = make.rng(name), make.C(C)
    W = rng.normal(size=(C, D))
    targets = make.classes(C)[: max(1, min(3, C // 2))]
    rivals = [c for c in range(C) if c not in targets][: len(targets)]
    axis = np.zeros((len(targets), D))
    axis[np.arange(len(targets)), np.arange(len(targets))] = 1.0
    W[targets] = axis * 2.0 ** np.arange(-1, len(targets) - 1)[:, None]
    if len(rivals) == len(targets):
        W[rivals] = 1.5 * place(rng, axis, np.arange(len(targets)), RIVAL, 1.0)
    return W, targets


def _beside(make: _Make, name: str, reason: str, flags: str, theta: Any, ulps: Sequence[int] = (0,)) -> None:
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


def _angles(make: _Make) -> None:
    pi, least = np.pi, 16 * make.dtype.u
    _aim(make, "trained", "small target angles, as in a trained network: most of the gradient has cancelled", "trained",
         np.linspace(0.05, 0.6, 10), rivals=True)  # fmt: skip
    _aim(make, "hard", "obtuse target angles, as at the start of training", "hard", np.linspace(1.7, 3.0, 10))
    _aim(make, "every_angle", "target angles from 0.1 to π − 0.1: whatever branches there are", "every_angle",
         np.linspace(0.1, pi - 0.1, 12))  # fmt: skip
    if make.margin and not hasattr(make.loss, "annealing") and not hasattr(make.loss, "past_pi"):
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


def _margins(make: _Make) -> None:
    """What belongs to one margin only."""
    loss, pi = make.loss, np.pi
    if hasattr(loss, "annealing"):
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
    if hasattr(loss, "past_pi"):
        edge, linear = pi - loss.margin, loss.past_pi == "linear"
        share = np.array([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
        _aim(make, "past_pi", "θ + m beyond π, where cos(θ + m) rises again", "past_pi hard",
             np.concatenate([edge + share * (pi - edge), edge - share[:3] * edge]))  # fmt: skip
        if loss.margin > 0:
            _beside(make, "at_pi_minus_m", "θ = π − m and a few ulps to either side: sin(θ + m) cancels",
                    "jump_edge past_pi" if linear else "past_pi", [edge], (-64, -8, -1, 0, 1, 8, 64))  # fmt: skip
        away = np.array([0.2, 0.02, 1e-3])
        _aim(make, "around_half_pi", "both sides of θ = π/2: where an easy margin begins", "half_pi",
             np.concatenate([pi / 2 - away, pi / 2 + away]))  # fmt: skip
        if loss.easy_margin:
            _beside(make, "at_half_pi", "θ = π/2 and a few ulps to either side: cos θ > 0 decides", "jump_edge half_pi",
                    [pi / 2], (-64, -8, -1, 0, 1, 8, 64))  # fmt: skip
    elif make.margin and isinstance(getattr(loss, "margin", None), float):
        around = loss.margin + np.array([-0.2, -0.05, -0.002, 0.002, 0.05, 0.2])
        _aim(make, "around_the_margin", "cos θ around m: released code adds the margin only where cos θ > m",
             "margin_threshold", np.arccos(np.clip(around, -0.99, 0.99)))  # fmt: skip


# -- logits ----------------------------------------------------------------------------------------


def _logits(make: _Make) -> None:
    if make.C(6) > 1:
        _confident(make)
        for name, reason, flags, ahead in (
            ("very_confident", "targets 60 ahead: the gradient is e^-60 and not 0, the loss is not −log(1 + 1e-7)",
             "confident", True),
            ("anti_confident", "targets far below: log p_y of a p_y that rounds to 0", "anti_confident", False),
        ):  # fmt: skip
            _against(make, name, reason, flags, 60.0, ahead)
    high = [("saturated", "saturated", 100.0, "all logits near the largest there are")]
    if make.loss.feels_x_norm or make.loss.feels_W_norm:
        high += [
            ("overflow_float32", "overflow", 150.0, "logits beyond 89: exp overflows in float32"),
            ("overflow_float64", "overflow", 1500.0, "logits beyond 710: exp overflows in float64"),
            ("logits_1e4", "overflow", 1e4, "logits of 1e4: their rounding alone is visible"),
        ]
    for name, flags, r, reason in high:
        if name == "saturated" or make.reach(r) > 0.6 * r:
            _high(make, name, reason, flags, r)
    _ties(make)
    _ordered(make)


def _confident(make: _Make) -> None:
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


def _against(make: _Make, name: str, reason: str, flags: str, wanted: float, ahead: bool) -> None:
    """One class looks along an axis, all others the other way: its target is `wanted` ahead, or as far behind."""
    rng, C, D = make.rng(name), make.C(6), 8
    length, W_length = make.lengths(wanted)
    r = make.reach(wanted)
    axis = np.zeros(D)
    axis[0] = 1.0
    one = make.classes(C)[0]
    W = -axis + 0.03 * rng.normal(size=(C, D))
    W[one] = axis
    W *= W_length / np.linalg.norm(W, axis=1, keepdims=True)
    y = np.full(6, one)
    theta = np.linspace(3.1, 2.4, 6)
    if ahead:  # the others' logits are about −r cos θ
        theta = make.theta_of(np.linspace(0.8, 1.0, 6) * wanted / r, make.psi + np.cos(make.angles))
    make.case(name, reason, flags, {"x": place(rng, W, y, theta, length), "W": W}, y)


def _high(make: _Make, name: str, reason: str, flags: str, r: float) -> None:
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


def _ties(make: _Make) -> None:
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
    make.case(
        "two_equal_maxima", "the largest logit in the first and the last class", "tie", inputs, y, b=0.0
    )
    # all on the far side, so that a zero in a padded lane would be the maximum
    inputs, y = make.plain("all_negative", C=7)
    x_length, W_length = make.lengths(40.0)
    axis = np.eye(8)[0]
    inputs["x"] = x_length * (axis + 0.1 * inputs["x"])
    inputs["W"] = W_length * (0.1 * inputs["W"] - axis)
    make.case("all_negative", "every logit far below 0: lanes padded with 0, or a maximum that starts at 0, win",
              "ragged anti_confident", inputs, y)  # fmt: skip


def _ordered(make: _Make) -> None:
    """Logits in order of the class, over many blocks where C is free."""
    for name, reason, flip in (
        ("ascending_logits", "each class above the one before: an online softmax rescales at every block", 1),
        ("descending_logits", "the maximum comes first: later blocks must not change it", -1),
    ):
        rng, C = make.rng(name), make.C(1000)
        axis = np.eye(8)[:1]
        phi = np.linspace(np.pi - 0.2, 0.2, C)[::flip]
        length, W_length = make.lengths(30.0)
        W = W_length * place(rng, axis, np.zeros(C, dtype=int), phi, 1.0)
        x = length * place(rng, axis, np.zeros(4, dtype=int), 0.05, 1.0)
        y = make.classes(C)[[0, -1, len(make.classes(C)) // 2, -1]]
        make.case(name, reason, "blocks", {"x": x, "W": W}, y)


# -- lengths ---------------------------------------------------------------------------------------


def _norms(make: _Make) -> None:
    feels_x, feels_W = make.loss.feels_x_norm, make.loss.feels_W_norm
    low, high = make.shortest, make.longest

    def scaled(name: str, reason: str, flags: str, x_length: Any, W_length: Any) -> None:
        inputs, y = make.middling(name)
        for key, length in (("x", x_length), ("W", W_length)):
            v = inputs[key]
            unit = v / np.linalg.norm(v, axis=1, keepdims=True)
            inputs[key] = unit * np.resize(length, len(v))[:, None]
        make.case(name, reason, flags, inputs, y, b=0.0)

    tiny = np.maximum([1e-2, 1e-3, 1e-5, 1e-6], low)
    huge = np.minimum([1e2, 1e3, 1e5, 1e6], high)
    mixed = np.ravel(np.stack([tiny, huge], axis=1))
    if not (feels_x and feels_W):
        for name, reason, flags, size in (
            ("tiny_norms", "short rows where the length is divided out: an ε in the norm, and large gradients",
             "tiny_norm", tiny),
            ("huge_norms", "long rows where the length is divided out: squares, and small gradients", "huge_norm",
             huge),
            ("mixed_norms", "short and long rows side by side: errors of one row in units of another",
             "tiny_norm huge_norm", mixed),
        ):  # fmt: skip
            scaled(name, reason, flags, 2.0 if feels_x else size, 1.0 if feels_W else size[::-1])
    else:
        a, c = (16.0, 1 / 16) if make.dtype.name == "float16" else (1e5, 1e-5)
        for name, x_length, W_length in (("tiny_x_huge_W", 2 * c, a), ("huge_x_tiny_W", 2 * a, c)):
            scaled(name, "lengths far apart with ordinary logits", "tiny_norm huge_norm", x_length, W_length)
    if feels_x:
        scaled("tiny_x", "features that all but vanish: logits near 0, p near 1/C, and grad_W near 0", "tiny_norm",
               2 * tiny, 1.5)  # fmt: skip
        scaled("mixed_x", "features of very different lengths in one batch: some rows sure, some not", "mixed_sizes",
               [0.05, 0.5, 5.0, 30.0], 1.5)  # fmt: skip
    if feels_W:
        scaled("tiny_W", "weights that all but vanish: logits near 0", "tiny_norm", 2.0, tiny)
        lengths = [0.05, 0.5, 4.0]
        scaled(
            "mixed_W", "weights of very different lengths: a few classes rule", "mixed_sizes", 2.0, lengths
        )


# -- what arrives, and how it lies in memory -------------------------------------------------------


def _upstreams(make: _Make) -> None:
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
        ("upstream_strided", "the vector that arrives has a stride: read as if it had none", "strided", 1.25, zero_row),
    ):  # fmt: skip
        layout = "upstream_strided" if flags == "strided" else "contiguous"
        given = make.middling(name, 9)
        arrives: dict[str, Any] = {"upstream": upstream, "upstreams": upstreams}
        make.case(name, reason, f"upstream_{flags}", *given, **arrives, layout=layout)


def _layouts(make: _Make) -> None:
    for layout, reason in (
        ("strided", "every other column of a wider array: strides ignored read the neighbours"),
        ("transposed", "W (or the logits) as the transpose of a contiguous array: rows read as columns"),
        ("read_only", "arrays that must not be written: gradients put in place of the inputs"),
    ):
        name = f"layout_{layout}"
        inputs, y = make.middling(name, 7)
        make.case(name, reason, layout, inputs, y, layout=layout)


# -- options of the cross-entropy ------------------------------------------------------------------


def _options(make: _Make) -> None:
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


def _zero_rows(make: _Make) -> None:
    loss = make.loss
    inputs, y = make.middling("zero_rows")
    legal = getattr(loss, "zero_norm", "zero") == "zero"
    if legal or not (loss.normalises_x or make.margin):
        inputs["x"][2] = 0.0
    if legal or not (loss.normalises_W or make.margin):
        inputs["W"][-1] = 0.0
    if not all(v.any(axis=1).all() for v in inputs.values()):
        make.case("zero_rows", "rows of zeros: 0/0 in a direction that is not there", "zero_rows", inputs, y)


def _ignored(make: _Make) -> None:
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


def _soft(make: _Make) -> None:
    N, C = 8, make.C(6)
    rng = make.rng("soft")
    dirichlet = rng.dirichlet(np.ones(C), size=N)
    zero_row = dirichlet.copy()
    zero_row[3] = 0.0
    for name, reason, soft in (
        ("soft_sum_not_one", "rows that sum to 0.25 … 2: p − t instead of p Σt − t",
         dirichlet * np.linspace(0.25, 2, N)[:, None]),
        ("soft_sum_one", "ordinary soft targets", dirichlet),
        ("soft_one_hot", "one-hot soft targets: 0 · log 0, and the same as labels", np.eye(C)[make.labels(N, C)]),
        ("soft_zero_row", "a row without any target: loss 0, gradient 0, and counted in a mean", zero_row),
    ):  # fmt: skip
        inputs, y = make.middling(name, N)
        make.case(name, reason, "soft", inputs, y, soft=soft)


# -- bare logits -----------------------------------------------------------------------------------


def _bare_logits(make: _Make) -> None:
    C = make.C(6)
    high = min(1e4, make.highest)
    y = make.labels(8, C)
    own = np.zeros((8, C))
    own[np.arange(8), y] = 1.0
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
    for name, reason, order in (
        ("ascending_logits", "each class above the one before: an online softmax rescales at every block", 1),
        ("descending_logits", "the maximum comes first: later blocks must not change it", -1),
    ):
        z = np.linspace(-40, 40, large)[::order] + np.linspace(-0.5, 0.5, 4)[:, None]
        usable = make.classes(large)
        make.case(name, reason, "blocks", {"logits": z}, usable[[0, -1, len(usable) // 2, -1]])
    if make.loss.label_smoothing == 0 and C > 1:
        _masked(make)


def _masked(make: _Make) -> None:
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


# -- what was reached ------------------------------------------------------------------------------


def edges(loss: Any) -> np.ndarray:
    """The angles at which the target's logit jumps or bends."""
    found = []
    if hasattr(loss, "annealing") and loss.margin > 1:
        own = getattr(loss, "continuation", None) is not None
        found += [k * np.pi / loss.margin for k in range(1, 2 if own else loss.margin)]
    if getattr(loss, "past_pi", "cos") == "linear":
        found.append(np.pi - loss.margin)
    if getattr(loss, "easy_margin", False):
        found.append(np.pi / 2)
    return np.array(found)


def regimes(loss: Any, out: Any, labels: np.ndarray) -> dict[str, int]:
    """How many samples of this forward record fell into each branch and regime; pairs (i, j) for `LARGE`."""
    axis = getattr(loss, "axis", -1)
    z, p = (np.moveaxis(v, axis, -1) for v in (out.logits, out.probabilities))
    count = {LARGE: int(np.sum(np.isfinite(z) & (np.abs(z) > 89)))}
    if np.ndim(labels) == np.ndim(z):
        return count
    valid = ~out.ignored
    p_y = np.take_along_axis(p, np.where(valid, labels, 0)[..., None], axis=-1)[..., 0][valid]
    theta = np.zeros(0) if out.theta is None else out.theta[valid]
    count |= reached(loss, theta, p_y)
    if out.theta is not None:
        count[AT_CONE] = int(np.sum(out.cone))
        count[NEAR_POLE] = int(np.sum(np.minimum(theta, np.pi - theta) < NEAR))
        if len(at := edges(loss)):
            count[AT_EDGE] = int(np.sum(np.min(np.abs(theta[:, None] - at), axis=1) < NEAR))
    return count


def wanted(loss: Any) -> list[str]:
    """The branches and regimes that the cases of this loss are expected to reach."""
    C = 6 if loss.class_weights is None else len(loss.class_weights)
    if C == 1:
        return []
    if isinstance(loss, CrossEntropy):
        return [CONFIDENT, WRONG, LARGE]
    _, psi = psi_of(loss)
    felt = loss.feels_x_norm or loss.feels_W_norm
    r = math.inf if felt else factor_of(loss)
    names = [
        (CONFIDENT, r * (psi.max() + 0.9) > math.log(200 * C)),
        (WRONG, r * (0.9 - psi.min()) > math.log(200)),
        (LARGE, r * np.max(np.abs(psi)) > 100),
        (NEAR_POLE, getattr(loss, "has_margin", False)),
        (AT_CONE, hasattr(loss, "past_pi") and loss.margin > 0 and not loss.detach_margin),
        (AT_EDGE, len(edges(loss)) > 0),
    ]
    reachable = list(branches_of(loss).names)
    if getattr(loss, "easy_margin", False) and loss.margin < np.pi / 2:
        reachable.remove("θ+m ≥ π")  # the plain cosine begins before
    return reachable + [name for name, due in names if due]
