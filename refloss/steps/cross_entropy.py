"""Cross-entropy of the softmax of z, for labels and soft targets alike, and back to z.

Derivation: derivations/cross_entropy.md, steps (C1)–(C9). The classes may come in blocks: `gather` what each comes to,
`join` them, `finish` gives the losses; then `softmax` and `cross_entropy_backward` give a block's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refloss.precision.numbers import argmax, like, nearest
from refloss.precision.scaled import exp, exponent_of, headroom, times_power


class Pairs(NamedTuple):
    """The target pairs (x_i, W_{y_i}) of the rows that have a class: two index arrays (R,)."""

    rows: np.ndarray
    y: np.ndarray

    def split(self, g: Any) -> tuple[Any, Any]:
        """∂L/∂z (N, C) as g_y (R,) and the rest (N, C), where the target's entries are zero."""
        others = g.copy()
        others[self] = 0.0
        return g[self], others

    def within(self, block: slice) -> Pairs:
        """The pairs whose class lies in a block, counted from its start."""
        here = (self.y >= block.start) & (self.y < block.stop)
        return Pairs(self.rows[here], self.y[here] - block.start)


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

    @property
    def pairs(self) -> Pairs:
        """Rows that have a class, and their classes."""
        if self.labels is None:
            return Pairs(np.arange(0), np.arange(0))
        rows = np.flatnonzero(~self.ignored)
        return Pairs(rows, self.labels[rows])

    @property
    def target(self) -> np.ndarray:
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
        """The e ≥ 0 with every w_c t_c below 2^e."""
        sizes = [v for v in (self.class_weights, self.targets.soft) if v is not None]
        return sum(max(0, exponent_of(v)) for v in sizes) + 1

    def weighted(self, block: slice, numbers: Any) -> Any:
        """(C1) a = w ⊙ t, t = (1 − ε) y + ε/C, (M, B); an ignored row has no target at all."""
        epsilon = like(self.label_smoothing, numbers)
        t = like(self.targets.of(block), numbers)
        if self.label_smoothing:
            t = (1.0 - epsilon) * t + epsilon / float(self.targets.classes)
        if self.class_weights is not None:
            t = t * self.class_weights[block]
        return np.where(self.targets.ignored[:, None], 0.0, t)


class Mass(NamedTuple):
    """Σ_j v_j of M rows, v ≥ 0, the (first) largest term kept apart from the rest, each (M,)."""

    largest: Any
    rest: Any
    column: np.ndarray  # the class of the largest

    def lowered(self, by: Any) -> Mass:
        """times e^−by. The factor has the headroom meanwhile, so that it keeps its digits."""
        power = headroom(by)
        factor = exp(-by, power)
        largest, rest = (
            np.where(nearest(by) == 0, v, times_power(v, -power) * factor) for v in (self.largest, self.rest)
        )
        return Mass(largest, rest, self.column)

    def join(self, other: Mass) -> Mass:
        ahead = self.largest >= other.largest
        return Mass(
            np.where(ahead, self.largest, other.largest),
            self.rest + other.rest + np.where(ahead, other.largest, self.largest),
            np.where(ahead, self.column, other.column),
        )

    def without(self, v: Any, block: slice) -> Any:
        """Σ_{k≠j} v_k for the classes j of a block, (M, B).

        Leaving out anything but the largest leaves at least half of the total, and leaving out the largest, the rest:
        no digit is lost.
        """
        columns = np.arange(block.start, block.stop)
        whole = (self.largest + self.rest)[:, None]
        return np.where(self.column[:, None] == columns, self.rest[:, None], whole - v)


def mass_of(v: Any, column: np.ndarray, block: slice) -> Mass:
    """(C3) the term of every row that stands in `column`, and the sum of the others."""
    rows = np.arange(len(v))
    others = v.copy()
    others[rows, column] = 0.0
    return Mass(v[rows, column], others.sum(axis=1), column + block.start)


class Gathered(NamedTuple):
    """What the classes seen so far come to in M rows, each (M,).

    z_max    the largest logit
    mass     of e^{z_j − z_max}, times 2^headroom: digits that a subnormal would lose
    below    Σ_c a_c (z_max − z_c)
    targets  mass of a_c
    """

    z_max: Any
    mass: Mass
    below: Any
    targets: Mass


def gather(z: Any, a: Any, block: slice) -> Gathered:
    """(C2), (C3) of a block. z: (M, B), −inf where a class is masked; a: (M, B)."""
    column = argmax(z)
    z_max = z[np.arange(len(z)), column]
    gap, e = _below(z, z_max, column)
    mass, targets = mass_of(e, column, block), mass_of(a, argmax(a), block)
    return Gathered(z_max, mass, (a * gap).sum(axis=1), targets)


def join(a: Gathered, b: Gathered) -> Gathered:
    """The same of two blocks together."""
    z_max = np.where(a.z_max >= b.z_max, a.z_max, b.z_max)
    masses, below = [], like(np.zeros(len(z_max)), z_max)
    for part in (a, b):
        lower = np.where(nearest(part.z_max) == -np.inf, 0.0, z_max - part.z_max)
        masses.append(part.mass.lowered(lower))
        below = below + part.below + lower * (part.targets.largest + part.targets.rest)
    return Gathered(z_max, masses[0].join(masses[1]), below, a.targets.join(b.targets))


def _below(z: Any, z_max: Any, column: np.ndarray) -> tuple[Any, Any]:
    """(C2) d_j = z_max − z_j ≥ 0 and e_j = e^−d_j · 2^headroom; a masked class gives 0 and 0.

    column: (M,) where z_max itself stands; below 0 or beyond z if it is in another block.
    """
    power = headroom(z)
    seen = nearest(z) > -np.inf
    gap = np.where(seen, z_max[:, None] - z, 0.0)
    e = np.where(seen, exp(-gap, power), 0.0)
    rows = np.flatnonzero((column >= 0) & (column < z.shape[1]) & (nearest(z_max) > -np.inf))
    gap[rows, column[rows]] = 0.0
    e[rows, column[rows]] = 2.0**power
    return gap, e


@dataclass(frozen=True, eq=False)
class CrossEntropyPass:
    """Everything that (C1)–(C7) computed and (C8)–(C9) consume."""

    setting: Setting
    gathered: Gathered
    total: Any  # (M,) Σ_j e^{z_j − z_max} = 1 + …
    losses: Any  # (M,), times 2^exponent
    exponent: np.ndarray  # (M,)
    loss: Any  # () or (M,), times 2^loss_exponent
    loss_exponent: Any
    divisor: Any

    @property
    def headroom(self) -> int:
        return headroom(self.total)

    @property
    def divisor_exponent(self) -> int:
        """The power of two that is taken out of the divisor: none of doubles."""
        return _exponent(self.divisor)

    @property
    def divisor_below_one(self) -> Any:
        return times_power(self.divisor, -self.divisor_exponent)

    @property
    def empty(self) -> bool:
        """Whether a mean was taken over nothing."""
        return bool(nearest(self.divisor) == 0)


def finish(gathered: Gathered, setting: Setting) -> CrossEntropyPass:
    """(C5)–(C7): losses and loss."""
    log, exponent = _log_of_total(gathered, setting)
    # (C5) ℓ = Σ_c a_c d_c + (Σ_c a_c) log(1 + r): no term is negative
    targets = gathered.targets.largest + gathered.targets.rest
    losses = times_power(gathered.below, exponent) + targets * log
    # (C6) the divisor n of the reduction
    divisor = _divisor(setting, losses)
    # (C7) L = Σ_i ℓ_i / n
    loss, loss_exponent = _reduced(losses, exponent, divisor, setting)
    total = 1.0 + times_power(gathered.mass.rest, -headroom(gathered.z_max))
    return CrossEntropyPass(setting, gathered, total, losses, exponent, loss, loss_exponent, divisor)


def _log_of_total(gathered: Gathered, setting: Setting) -> tuple[Any, np.ndarray]:
    """log(1 + r) times 2^exponent, and the exponent, each (M,).

    It is 0 but where log(1 + r) is all that the loss will hold, and tiny: there its power of two stays out to the end.
    """
    rest, taken_out = gathered.mass.rest, headroom(gathered.z_max)
    tiny = (nearest(rest) < 2.0 ** (taken_out - 120)) & (nearest(gathered.below) < 2.0**-60) & bool(taken_out)
    log = np.where(tiny, times_power(rest, -setting.exponent), np.log1p(times_power(rest, -taken_out)))
    return log, np.where(tiny, taken_out - setting.exponent, 0)


def softmax(z: Any, at: CrossEntropyPass, block: slice) -> tuple[Any, Any]:
    """(C4) p_j and 1 − p_j = Σ_{k≠j} p_k of a block, each (M, B) and times 2^headroom."""
    _, e = _below(z, at.gathered.z_max, at.gathered.mass.column - block.start)
    mass, total = at.gathered.mass, at.total[:, None]
    return e / total, mass.without(e, block) / total


def cross_entropy_backward(
    z: Any, at: CrossEntropyPass, upstream: np.ndarray, block: slice, keep: int = 0
) -> Any:
    """∂/∂z of Σ_i upstream_i ℓ_i / divisor, (M, B), times 2^(keep + divisor_exponent). upstream: () or (M,)."""
    # (C8) every sample's share v_i / n of the gradient that arrives
    arriving = like(np.broadcast_to(upstream, (len(z),)), z)
    share = _divide(arriving, at.divisor_below_one, at.setting.empty_mean)
    p, others = (times_power(v, keep - at.headroom) for v in softmax(z, at, block))
    a = at.setting.weighted(block, z)
    # (C9) p_j Σ_c a_c − a_j = p_j Σ_{c≠j} a_c − a_j Σ_{k≠j} p_k: for a label, p_j or −(1 − p_y)
    g = p * at.gathered.targets.without(a, block) - a * others
    return np.where(at.setting.targets.ignored[:, None], 0.0, share[:, None] * g)


def _divisor(setting: Setting, numbers: Any) -> Any:
    """Σ of what a mean is taken over; 1 for none and sum."""
    if setting.reduction in ("none", "sum"):
        return like(1.0, numbers)
    targets, w = setting.targets, setting.class_weights
    valid = ~targets.ignored
    count = np.count_nonzero(valid)
    if setting.reduction == "mean":
        divisor = like(float(count), numbers)
    elif targets.labels is not None:
        rows, y = targets.pairs
        divisor = like(np.ones(len(rows)) if w is None else w[y], numbers).sum()
    else:
        divisor = (like(targets.soft[valid], numbers) * (1.0 if w is None else w)).sum()  # type: ignore[index]
    if nearest(divisor) == 0 and setting.empty_mean == "error":
        what = "no valid row" if count == 0 else "the weights of the valid rows sum to 0"
        raise ValueError(
            f"reduction={setting.reduction!r} divides by zero: {what}. "
            "Pass empty_mean='zero' or empty_mean='nan', or reduction='sum'"
        )
    return divisor


def _reduced(losses: Any, exponent: np.ndarray, divisor: Any, setting: Setting) -> tuple[Any, Any]:
    """Σ_i ℓ_i / n times 2^exponent, and the exponent; or the losses as they are. losses, exponent: (M,)."""
    if setting.reduction == "none":
        return losses, exponent
    common = np.min(exponent, initial=max(headroom(losses) - setting.exponent, 0))
    losses = times_power(losses, common - exponent)
    near_one = times_power(divisor, -_exponent(divisor))
    total = losses.sum()
    if not np.isfinite(nearest(total)) and nearest(near_one) > 1:
        loss = (losses / near_one).sum()  # the sum may overflow where the mean does not
    else:
        loss = _divide(total, near_one, setting.empty_mean)
    return loss, common + _exponent(divisor)


def _exponent(divisor: Any) -> int:
    return exponent_of(divisor) if headroom(divisor) else 0


def _divide(value: Any, divisor: Any, empty_mean: str) -> Any:
    if nearest(divisor) == 0:
        return value * 0.0 if empty_mean == "zero" else value * np.nan
    return value / divisor
