"""How a case of the oracle is made: sizes and labels that suit the loss, rounded to the dtype and frozen."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from refloss.cases.angles import place
from refloss.cases.case import Case
from refloss.cases.configurations import UPSTREAM
from refloss.cases.coverage import psi_of
from refloss.losses import CrossEntropy
from refloss.precision.dtypes import DTYPES, rounded
from refloss.textbook.family import member_of, radius_of

UPSTREAMS = (0.75, -1.5, 2.25, 0.5, -0.125, 1.0)  # no 0: it would hide the row that a case is about
RIVAL = 0.25  # radians from a target's W to another class, so that a row at its pole still has a gradient

QUICK = {
    "typical", "one_sample", "duplicate_labels", "every_angle", "psi_branches", "psi_knots", "past_pi",
    "at_pi_minus_m", "around_half_pi", "near_poles", "confident", "anti_confident", "upstream_mixed", "mixed_norms",
    "overflow_float32", "ascending_logits", "ignored_some", "soft_sum_not_one", "soft_zero_row", "no_bias",
    "every_class", "ragged_image", "masked_classes", "all_negative",
}  # fmt: skip


class Maker:
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
        if not self.bare:
            self.member, self.radius = member_of(loss), radius_of(loss)

    @cached_property
    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        return psi_of(self.loss)

    @property
    def angles(self) -> np.ndarray:
        """From 0 to π, where `psi` is known."""
        return self._curve[0]

    @property
    def psi(self) -> np.ndarray:
        """The target's logit over r at `angles`."""
        return self._curve[1]

    def rng(self, name: str) -> np.random.Generator:
        """Its own for every case, so that a new case changes no other."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def C(self, wanted: int) -> int:
        return wanted if self.fixed is None else self.fixed

    def fits(self, C: int) -> bool:
        return self.fixed in (None, C)

    def classes(self, C: int) -> np.ndarray:
        """The classes that a row may have and count: not ignored; one with a weight comes first."""
        ignored = [] if self.loss.ignore_index is None else [self.loss.ignore_index]
        usable = np.setdiff1d(np.arange(C), ignored) if C > 1 else np.zeros(1, dtype=int)
        if self.loss.class_weights is None:
            return usable
        weights = np.array(self.loss.class_weights)[usable]
        return np.roll(usable, -int(np.argmax(weights > 0)))

    def labels(self, N: int, C: int) -> np.ndarray:
        return np.resize(self.classes(C), N)

    def lengths(self, r: float) -> tuple[float, float]:
        """(‖x‖, ‖W_j‖) for logits of size r, as far as lengths decide it and the dtype goes."""
        r = min(r, self.highest / max(1.0, np.max(np.abs(self.psi))))
        factor, p, q = self.radius
        if p and q:
            each = min(math.sqrt(r), self.longest)
            return each, each
        x = min(r, self.longest) if p else 2.0
        return x, min(r / factor, self.longest) if q else 2.0

    def reach(self, r: float) -> float:
        """The size of the logits that `lengths(r)` gives."""
        x, W = self.lengths(r)
        factor, p, q = self.radius
        return factor * (x**p * W**q)

    def theta_of(self, wanted: np.ndarray, f: np.ndarray) -> np.ndarray:
        """The smallest angles at which f, known at `self.angles`, is nearest to what is wanted; no poles."""
        at = np.argmin(np.abs(f - wanted[:, None]), axis=1)
        return np.clip(self.angles[at], 0.03, np.pi - 0.03)

    def plain(self, name: str, N: int = 8, C: int = 6, D: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
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
        layout: str = "contiguous", soft: np.ndarray | None = None, empty: bool = False,
    ) -> None:  # fmt: skip
        """Adds a case. inputs: x and W, or logits (R, C) as rows; y: (R,); rest: the shape of R in bare logits.

        empty: also where the loss counts nothing.
        """
        if not empty and self._counts_nothing(y):
            return
        given = {key: rounded(value, self.dtype) for key, value in inputs.items()}
        C = given["logits"].shape[1] if self.bare else len(given["W"])
        if getattr(self.loss, "has_bias", False) and b is not None:
            b = 0.25 * self.rng(name).normal(size=C) if isinstance(b, str) else np.broadcast_to(b, C)
            given["b"] = rounded(b, self.dtype)
        labels: np.ndarray = y.astype(np.int64)
        if self.soft:
            some = given["logits"] > -np.inf if self.bare else np.ones((len(y), C), dtype=bool)
            labels = rounded(soft if soft is not None else shares(self.rng("soft " + name), some, y), self.dtype)
            labels = np.where(some, labels, 0.0)
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


def shares(rng: np.random.Generator, some: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """(R, C) soft targets on the classes of `some` (R, C), most of each on the class y (R,) if there is one.

    Every share is a whole number below 256 of a power of two, so that each dtype holds it and rows sum to exactly 1.
    """
    soft = np.zeros(some.shape)
    for i, row in enumerate(some):
        others = np.flatnonzero(row if y is None else row & (np.arange(len(row)) != y[i]))
        if y is not None:
            soft[i, y[i]] = 1.0 if len(others) == 0 else 1 - (1 + i % 3) / 8
        mass = 1 - soft[i].sum()
        if mass:
            unit = 2.0 ** -math.floor(math.log2(64 * len(others)))  # at most 64 a class on average
            weights = rng.uniform(0.25, 1.75, size=len(others))
            soft[i, others] = unit * rng.multinomial(round(mass / unit), weights / weights.sum())
    return soft
