"""Log-sum-exp over blocks of classes: partial sums, and an associative operator on them.

`gather` makes the partial sums of a block, `join` combines two of them, `softmax` gives a block's probabilities from
the sums over all classes. Derivation: derivations/cross_entropy.md, steps (C2)–(C4).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.precision.numbers import Array, Numbers, argmax, like, nearest
from refloss.precision.scaled import beside, exponential
from refloss.steps.targets import OneHot, Pairs


class Mass(NamedTuple):
    """Σ_j μ_j of M rows, μ ≥ 0, the largest term (of equal ones the first) kept apart from the rest, each (M,)."""

    largest: Array
    rest: Array
    column: np.ndarray  # the class of the largest

    @property
    def total(self) -> Array:
        return self.largest + self.rest

    def lowered(self, by: Array) -> Mass:
        """The mass times e^−by."""
        factor = exponential(-by)
        largest, rest = (np.where(nearest(by) == 0, v, v * factor) for v in (self.largest, self.rest))
        return Mass(largest, rest, self.column)

    def join(self, other: Mass) -> Mass:
        ahead = self.largest >= other.largest
        return Mass(
            np.where(ahead, self.largest, other.largest),
            self.rest + other.rest + np.where(ahead, other.largest, self.largest),
            np.where(ahead, self.column, other.column),
        )

    def of(self, rows: np.ndarray) -> Mass:
        return Mass(self.largest[rows], self.rest[rows], self.column[rows])

    def without(self, terms: Array, block: slice | np.ndarray) -> Array:
        """Σ_{k≠j} μ_k for the classes j of a block, (M, B); or for classes j of each row, (M, B), given as an array.

        Leaving out anything but the largest leaves at least half of the total, and leaving out the largest, the rest:
        no digit is lost.
        """
        columns = np.arange(block.start, block.stop) if isinstance(block, slice) else block
        return np.where(self.column[:, None] == columns, self.rest[:, None], self.total[:, None] - terms)


def mass_of(terms: Array, column: np.ndarray, block: slice) -> Mass:
    """(C3) the term of every row that stands in `column`, and the sum of the others."""
    at = np.arange(len(terms)), column
    largest = terms[at]
    terms[at] = 0.0
    rest = terms.sum(axis=1)
    terms[at] = largest
    return Mass(largest, rest, column + block.start)


def _by_rows(a: OneHot, values: Array, rows: int) -> Array:
    """(M,) the values (R,) of the target pairs, 0 in the rows of none."""
    placed = like(np.zeros(rows), values)
    placed[a.pairs.rows] = values
    return placed


def _mass_of_labels(a: OneHot, rows: int, block: slice) -> Mass:
    """The mass of a of rows with one label: a_y is the largest term, and the only one."""
    column = np.zeros(rows, dtype=np.intp)
    column[a.pairs.rows] = a.pairs.y + block.start
    return Mass(_by_rows(a, a.own, rows), like(np.zeros(rows), a.own), column)


class Gathered(NamedTuple):
    """Partial log-sum-exp over some classes of M rows, each (M,).

        Σ_j e^{z_j} = e^{z_max} · (mass.largest + mass.rest)

    Two of them are combined by `join`, in any order; in that of the classes equal logits leave the first for z_max.

    z_max         the largest logit
    mass          of e^{z_j − z_max}
    weighted_gap  Σ_c a_c (z_max − z_c)
    weight        mass of a_c
    """

    z_max: Array
    mass: Mass
    weighted_gap: Array
    weight: Mass

    @property
    def rest(self) -> Array:
        """r = Σ_j e^{z_j − z_max} − 1, once all classes are in; with a power of two only where the loss is as small."""
        return beside(self.mass.rest, self.weighted_gap)

    @property
    def total(self) -> Array:
        """1 + r"""
        return 1.0 + self.mass.rest


def join(a: Gathered, b: Gathered) -> Gathered:
    """The partial sums of two blocks as those of both together: each is lowered to the larger z_max, then added."""
    z_max = np.where(a.z_max >= b.z_max, a.z_max, b.z_max)
    masses, weighted_gap = [], like(np.zeros(len(z_max)), z_max)
    for part in (a, b):
        lower = np.where(nearest(part.z_max) == -np.inf, 0.0, z_max - part.z_max)
        masses.append(part.mass.lowered(lower))
        weighted_gap = weighted_gap + part.weighted_gap + _times(part.weight.total, lower)
    return Gathered(z_max, masses[0].join(masses[1]), weighted_gap, a.weight.join(b.weight))


def _times(a: Array, gap: Array) -> Array:
    """a · gap; 0 where a = 0, even of a gap that leaves the range."""
    return np.where(nearest(a) == 0, 0.0, a * gap)


def gather(z: Array, a: Array | OneHot, block: slice) -> Gathered:
    """(C2), (C3) of a block. z: (M, B), −inf where a class is masked; a: (M, B)."""
    column = argmax(z)
    z_max = z[np.arange(len(z)), column]
    below, e = _below(z, z_max, column)
    mass = mass_of(e, column, block)
    if isinstance(a, OneHot):
        gap, weight = _by_rows(a, -_times(a.own, below[a.pairs]), len(z)), _mass_of_labels(a, len(z), block)
    else:
        gap, weight = -_times(a, below).sum(axis=1), mass_of(a, argmax(a), block)
    return Gathered(z_max, mass, gap, weight)


def _below(z: Array, z_max: Array, column: np.ndarray) -> tuple[Array, Array]:
    """(C2) −d_j = z_j − z_max ≤ 0 and e_j = e^−d_j; a masked class gives 0 and 0.

    column: (M,) where z_max itself stands; below 0 or beyond z if it is in another block.
    """
    below = z - z_max[:, None]
    masked = nearest(z).min(initial=0.0) == -np.inf
    if masked:
        below = np.where(nearest(z) > -np.inf, below, 0.0)
    e = exponential(below)
    if masked:
        e = np.where(nearest(z) > -np.inf, e, 0.0)
    if isinstance(z, Numbers):  # of doubles they are 0 and 1 already
        rows = ((column >= 0) & (column < z.shape[1]) & (nearest(z_max) > -np.inf)).nonzero()[0]
        below[rows, column[rows]] = 0.0
        e[rows, column[rows]] = 1.0
    return below, e


def exponentials(z: Array, gathered: Gathered, block: slice) -> Array:
    """e_j of a block, from the largest logit of all, (M, B)."""
    return _below(z, gathered.z_max, gathered.mass.column - block.start)[1]


def others(e: Array, gathered: Gathered, block: slice, pairs: Pairs | None = None) -> Array:
    """Σ_{k≠j} e_k of a block, (M, B); or of some pairs, (R,)."""
    if pairs is None:
        return gathered.mass.without(e, block)
    return gathered.mass.of(pairs.rows).without(e[pairs][:, None], pairs.y[:, None] + block.start)[:, 0]


def softmax(z: Array, gathered: Gathered, block: slice, pairs: Pairs | None = None) -> tuple[Array, Array]:
    """(C4) p_j and 1 − p_j = Σ_{k≠j} p_k of a block, each (M, B); or the latter of some pairs."""
    e, total = exponentials(z, gathered, block), gathered.total
    left = others(e, gathered, block, pairs)
    return e / total[:, None], left / (total[:, None] if pairs is None else total[pairs.rows])
