"""Cases drawn by chance, each in a regime that a kernel gets wrong: by a seed, or by Hypothesis.

Everything is drawn through one function, whole(low, high) → an integer of that range, and what is simplest lies nearest
to 0 or to low: so whoever draws can shrink a case to few rows, classes and dimensions and to simple numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from refloss.cases.angles import directions
from refloss.cases.case import Case
from refloss.cases.configurations import GROUPS, make, variants
from refloss.cases.coverage import edges
from refloss.cases.maker import Maker
from refloss.cases.oracle import refuse
from refloss.losses import CrossEntropy
from refloss.textbook.family import factor_name

Whole = Callable[[int, int], int]
T = TypeVar("T")

LOSSES = (*GROUPS, "cross_entropy")
LAYOUTS = ("contiguous", "strided", "transposed", "padded", "read_only", "upstream_strided", "upstream_expanded")
UPSTREAMS = (1.0, -1.375, 0.0, 16.0, 2.0**-10, -3.0, 0.7)
REDUCTIONS = ("mean", "sum", "none", "weighted_mean")
QUARTERS = 8  # simple numbers are at most so many quarters


def draws(loss: Any, count: int, dtype: str = "float32", seed: int = 0, soft_targets: bool = False) -> list[Case]:
    """So many cases of a loss; the i-th is the same for every count.

    Args:
        loss (Loss or CrossEntropy): the object.
        count (int): how many.
        dtype (str): the inputs are exact in it.
        seed (int): of all of them.
        soft_targets (bool): soft targets in place of labels.

    Returns:
        list of Case: for `refloss.testing.check`.

    Raises:
        ValueError: as `refloss.testing.cases`.
    """

    refuse(loss, dtype, seed, soft_targets)

    def by_seed(i: int) -> Whole:
        rng = np.random.default_rng([seed, i])
        return lambda low, high: int(rng.integers(low, high, endpoint=True))

    return [draw(by_seed(i), loss, dtype, soft_targets, name=f"drawn_{seed}_{i}") for i in range(count)]


def draw(
    whole: Whole, loss: Any, dtype: str = "float32", soft: bool = False, extreme: bool = False, name: str = "drawn"
) -> Case:
    """One case. extreme: lengths and angles as far as float64 goes, where kernels owe nothing but refloss does."""
    drawer = _Drawer(whole, loss, dtype, soft, extreme)
    return drawer.bare(name) if drawer.make.bare else drawer.features(name)


def drawn_loss(whole: Whole, name: str) -> Any:
    """A loss of this name with parameters drawn from all that the tests have, and options of the cross-entropy."""

    def one_of(things: Sequence[T]) -> T:
        return things[whole(0, len(things) - 1)]

    shared: dict[str, Any] = {
        "reduction": one_of(REDUCTIONS),
        "label_smoothing": one_of((0.0, 0.1)),
        "ignore_index": one_of((None, -100, 0)),
    }
    if name == "weighted_softmax" or one_of((False, True)):
        shared["class_weights"] = tuple(one_of((1.0, 0.5, 3.0)) for _ in range(whole(2, 6)))
    if name == "cross_entropy":
        return CrossEntropy(axis=one_of((-1, 1)), **shared)
    loss = make(name, **shared)
    loss = replace(loss, **one_of(({}, *variants(loss).values())))
    if factor := factor_name(loss):
        loss = replace(loss, **{factor: one_of((1.0, 8.0, 64.0))})
    return replace(loss, zero_norm=one_of(("error", "zero"))) if hasattr(loss, "zero_norm") else loss


class _Drawer:
    def __init__(self, whole: Whole, loss: Any, dtype: str, soft: bool, extreme: bool) -> None:
        self.make = Maker(loss, dtype, 0, soft)
        self.whole, self.loss, self.extreme = whole, loss, extreme
        least = 1 if loss.ignore_index is None else 2  # some class counts
        self.N, self.C = whole(1, 8), self.make.C(whole(least, 9))

    def one_of(self, things: Sequence[T]) -> T:
        return things[self.whole(0, len(things) - 1)]

    def numbers(self, *shape: int) -> np.ndarray:
        """Quarters, or numbers of all bits."""
        if self.one_of((False, True)):
            return np.random.default_rng(self.whole(0, 2**16)).normal(size=shape)
        count = int(np.prod(shape))
        return np.array([self.whole(-QUARTERS, QUARTERS) / 4 for _ in range(count)]).reshape(shape)

    def labels(self) -> np.ndarray:
        """Mixed or all of one class; some of them ignored, where the loss ignores any."""
        usable, N = self.make.classes(self.C), self.N
        if self.one_of((False, True)):
            y = np.array([usable[self.whole(0, len(usable) - 1)] for _ in range(N)])
        else:
            y = np.full(N, usable[self.whole(0, len(usable) - 1)])
        if self.loss.ignore_index is not None:
            y = np.where([self.whole(0, 1) for _ in range(N)], self.loss.ignore_index, y)
        if self.make._counts_nothing(y):
            y[0] = usable[0]
        return y

    def case(self, name: str, regime: str, inputs: dict[str, np.ndarray], y: np.ndarray) -> Case:
        """With what arrives, a bias, soft targets and a layout."""
        ways = LAYOUTS + (("channels_last",) if self.make.bare and self.loss.axis == 1 else ())
        layout = self.one_of(ways)
        each = self.one_of((False, True)) and layout != "upstream_expanded"
        upstreams = [self.one_of(UPSTREAMS) for _ in range(self.N)] if each else [self.one_of(UPSTREAMS)]
        more: dict[str, Any] = {"b": 0.0}
        if getattr(self.loss, "has_bias", False):
            more["b"] = self.one_of((0.0, 1.0, 20.0)) * self.numbers(self.C)
        if self.make.soft:
            more["soft"] = np.abs(self.numbers(self.N, self.C)) * np.isfinite(inputs.get("logits", 0.0))
            if not more["soft"].any():
                more["soft"][0, y[0]] = 1.0  # a weighted mean of nothing is an error
        self.make.case(name, f"drawn: {regime}", f"drawn {regime}", inputs, y, layout=layout,
                       upstream=self.one_of(UPSTREAMS), upstreams=upstreams, **more)  # fmt: skip
        return self.make.cases[-1]

    # -- bare logits ---------------------------------------------------------------------------------

    def bare(self, name: str) -> Case:
        """Ordinary logits; targets ahead or behind; high ones; ties; masked classes."""
        y, z = self.labels(), 2 * self.numbers(self.N, self.C)
        own = np.arange(self.C) == y[:, None]
        regime = self.one_of(("ordinary", "ahead", "high", "ties", "masked"))
        if regime == "ahead":
            z += self.one_of((8.0, 30.0, 60.0, -60.0, -200.0)) * own
        if regime == "high":
            z += self.one_of((120.0, -120.0, 1500.0, *((1e9, -1e100) if self.extreme else ())))
        if regime == "ties":
            z = 0 * z + z[:, :1]
        if regime == "masked" and not self.loss.label_smoothing:
            masked = np.array([self.whole(0, 1) for _ in range(self.C)], dtype=bool) & ~own & (np.arange(self.C) > 0)
            z = np.where(masked, -np.inf, z)
        return self.case(name, regime, {"logits": z}, y)

    # -- features and weights ------------------------------------------------------------------------

    def features(self, name: str) -> Case:
        """Ordinary rows; aimed angles; long and short rows; large logits; parallel rows; zero rows."""
        y, D = self.labels(), self.whole(1, 8)
        x, W = (self._no_zeros(self.numbers(rows, D)) for rows in (self.N, self.C))
        own = np.where((y >= 0) & (y < self.C), y, 0)
        regime = self.one_of(("ordinary", "angles", "lengths", "large", "parallel", "zero_rows"))
        if regime == "angles" and D > 1:
            x = self._at_angles(x, directions(W[own]))
        if regime == "lengths":
            x, W = (directions(v) * self._lengths(key, len(v))[:, None] for key, v in (("x", x), ("W", W)))
        if regime == "large":
            x_length, W_length = self.make.lengths(self.one_of((28.0, 60.0, 150.0, 1500.0)))
            x, W = x_length * directions(x), W_length * directions(W)
        if regime == "parallel":
            there = [self.one_of((0.0, 1.0, -1.0, 2.0)) for _ in x]  # 0: stays as it is
            x = np.where(np.equal(there, 0)[:, None], x, np.array(there)[:, None] * W[own])
        if regime == "zero_rows":
            for key, v in (("x", x), ("W", W)):
                if key not in self.make.member.zero_rows or self.loss.zero_norm == "zero":
                    v[self.whole(0, len(v) - 1)] = 0.0
        return self.case(name, regime, {"x": x, "W": W}, y)

    def _no_zeros(self, v: np.ndarray) -> np.ndarray:
        """A row of zeros becomes an axis."""
        zero = ~v.any(axis=1)
        v[zero, np.flatnonzero(zero) % v.shape[1]] = 1.0
        return v

    def _at_angles(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        """x at aimed angles from w (N, D), turned away as x was."""
        at = [0.0, np.pi / 2, np.pi, *(edges(self.loss) if self.loss.has_margin else ())]
        least = 64 * self.make.dtype.u
        off = (0.1, -0.1, 1e-2, -1e-2, 1e-3, -1e-3, *((1e-5, -1e-8, 1e-12, 0.0) if self.extreme else (least, -least)))
        theta = np.array([self.one_of(at) + self.one_of(off) for _ in x])
        theta = (
            np.arccos(np.clip(np.cos(theta), -1, 1)) if self.extreme else np.clip(np.abs(theta), least, np.pi - least)
        )
        across = x - w * np.sum(x * w, axis=1, keepdims=True)
        flat = np.linalg.norm(across, axis=1) < 1e-3
        axis = np.eye(x.shape[1])[np.argmin(np.abs(w), axis=1)]
        across[flat] = (axis - w * np.sum(axis * w, axis=1, keepdims=True))[flat]
        return 2 * (np.cos(theta)[:, None] * w + np.sin(theta)[:, None] * directions(across))

    def _lengths(self, key: str, rows: int) -> np.ndarray:
        """Of each row; where the length decides the logits, not so far apart."""
        _, p, q = self.make.radius
        counts = p if key == "x" else q
        sizes: Sequence[float] = (0.5, 2.0, 5.0, 0.05, 30.0) if counts else (1.0, 1e-3, 1e3, 1e-6, 1e6)
        sizes = [float(np.clip(size, self.make.shortest, self.make.longest)) for size in sizes]
        if self.extreme:
            sizes = [*sizes, 1e-100, 1e-30, 1e60] if not counts else [*sizes, 1e-100, 1e-30]
        return np.array([self.one_of(sizes) for _ in range(rows)])
