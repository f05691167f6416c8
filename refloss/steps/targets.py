"""What logits are compared with: target pairs, targets, and the options that weigh them.

Derivation: derivations/cross_entropy.md, step (C1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from refloss.precision.numbers import Array, like
from refloss.precision.scaled import exponent_of


class Pairs(NamedTuple):
    """Pairs (x_i, W_j), two index arrays (R,): usually the target pairs, j = y_i, of the rows that have a class."""

    rows: np.ndarray
    y: np.ndarray

    def split(self, g: Array) -> tuple[Array, Array]:
        """g (N, C) as its entries at these pairs (R,) and the rest (N, C), 0 at the pairs; or g itself if none."""
        if not len(self.rows):
            return g[self], g
        others = g.copy()
        others[self] = 0.0
        return g[self], others

    def within(self, block: slice) -> Pairs:
        """The pairs whose class lies in a block, counted from its start."""
        if self._all_in(block):
            return self
        here = self._here(block)
        return Pairs(self.rows[here], self.y[here] - block.start)

    def _all_in(self, block: slice) -> bool:
        return not block.start and bool(self.y.max(initial=-1) < block.stop)

    def _here(self, block: slice) -> np.ndarray:
        return ((self.y >= block.start) & (self.y < block.stop)).nonzero()[0]


class MeasuredPairs(Pairs):
    """Pairs whose `angles` (an `Angle`) and `psi` (a `Psi`) are known already: derivations/margins.md."""

    angles: Any
    psi: Any

    def within(self, block: slice) -> MeasuredPairs:
        if self._all_in(block):
            return self
        here = self._here(block)
        chosen = MeasuredPairs(self.rows[here], self.y[here] - block.start)
        chosen.angles, chosen.psi = (type(of)(*(v[here] for v in of)) for of in (self.angles, self.psi))
        return chosen


NO_PAIRS = Pairs(np.arange(0), np.arange(0))


class OneHot(NamedTuple):
    """a of a block (M, B) that is 0 but for a_y, at the target pairs: labels without smoothing. own: (R,)."""

    pairs: Pairs
    own: Array


@dataclass(frozen=True, eq=False)
class Targets:
    """What M rows of logits are compared with, already checked.

    labels   (M,)    the classes, or None for soft targets
    soft     (M, C)  y_c, or None for labels
    ignored  (M,)    bool
    classes  C
    """

    labels: np.ndarray | None
    soft: np.ndarray | None
    ignored: np.ndarray
    classes: int

    @cached_property
    def pairs(self) -> Pairs:
        """Rows that have a class, and their classes."""
        if self.labels is None:
            return NO_PAIRS
        rows = np.flatnonzero(~self.ignored)
        return Pairs(rows, self.labels[rows])

    @property
    def matrix(self) -> np.ndarray:
        """(M, C) y_c: one-hot for labels, zero on ignored rows."""
        return self.of(slice(0, self.classes))

    def of(self, block: slice) -> np.ndarray:
        """(M, B) y_c of the classes of a block."""
        if self.soft is not None:
            return self.soft[:, block]
        one_hot = np.zeros((len(self.ignored), block.stop - block.start))
        one_hot[self.pairs.within(block)] = 1.0
        return one_hot


@dataclass(frozen=True, eq=False)
class Setting:
    """Targets and options of a cross-entropy."""

    targets: Targets
    reduction: str
    class_weights: np.ndarray | None
    label_smoothing: float
    empty_mean: str

    @property
    def exponent(self) -> int:
        """An e ≥ 1 with every w_c t_c below 2^e."""
        sizes = [v for v in (self.class_weights, self.targets.soft) if v is not None]
        return sum(max(0, exponent_of(v)) for v in sizes) + 1

    def weighted(self, block: slice, numbers: Array) -> Array | OneHot:
        """(C1) a = w ⊙ t, t = (1 − ε) y + ε/C, (M, B); an ignored row has no target at all."""
        epsilon, w = self.label_smoothing, self.class_weights
        if self.targets.labels is not None and not epsilon:
            pairs = self.targets.pairs.within(block)
            return OneHot(pairs, like(np.ones(len(pairs.y)) if w is None else w[block][pairs.y], numbers))
        t = like(self.targets.of(block), numbers)
        if epsilon:
            epsilon = like(epsilon, numbers)
            t = (1.0 - epsilon) * t + epsilon / float(self.targets.classes)
        if w is not None:
            t = t * w[block]
        return np.where(self.targets.ignored[:, None], 0.0, t)
