"""Which known bug explains what came out: every suspect is run on the same cases and compared, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.precision.dtypes import rounded, ulp
from refloss.testing.diagnosis.suspects import SLIP, Suspect, suspects, wrong
from refloss.testing.judging.tolerances import ROWWISE, Truth
from refloss.testing.plain_loss import Kernel
from refloss.textbook.rows import row_norm

FIRST, BEST = 10, 12  # cases that every suspect sees; suspects that see all of them
SMALL = 20_000  # entries of x, W and the logits together: a larger case tells nothing more, but takes time
NEAR = 0.02  # of the error: what a suspect may leave unexplained, besides rounding
FITTED = 0.9  # what an explanation is worth that needs a factor
ALIKE = 0.9  # and one by the size of the errors alone


@dataclass(frozen=True)
class Match:
    """A known bug that would give what came out.

    Attributes:
        name (str): of the suspect.
        explanation (str): what the code does wrong, and what to look for.
        seen_in (str): where; or that no report is known.
        match (float): 1: it reproduces every wrong entry and no right one; the mean over cases and stages of
            explained / (wrong ∪ predicted wrong).
        factor (float): of its error, if it fits only times that.
    """

    name: str
    explanation: str
    seen_in: str
    match: float
    factor: float = 1.0

    def __str__(self) -> str:
        times = "" if self.factor == 1 else f", its error times {self.factor:.3g}"
        seen = "" if self.seen_in == SLIP else f" Seen in: {self.seen_in}"
        return f"{self.name} ({self.match:.0%}{times}): {self.explanation}{seen}"


class History:
    """The calls so far, for the bugs that remember one."""

    def __init__(self) -> None:
        self.first: dict[tuple, Kernel] = {}
        self.last: dict[tuple, Kernel] = {}

    def before(self, kernel: Kernel) -> Kernel | None:
        """The last call on inputs of the same shapes, or else the first with the same W's shape; notes this one."""
        W = kernel.logits_given.shape if kernel.bare else kernel.W.shape
        every = kernel.shapes()
        kernel.earliest = self.first.get(W)
        found = self.last.get(every, kernel.earliest)
        self.first.setdefault(W, kernel)
        self.last[every] = kernel
        return found


@dataclass
class Observed:
    """What an implementation gave on one case, finite or not, with what was due."""

    case: str
    truth: Truth
    got: dict[str, np.ndarray]
    failed: bool
    previous: Kernel | None = None

    @property
    def size(self) -> int:
        arrays = self.truth.inputs.values()
        return sum(np.size(v) for v in arrays) + np.size(self.truth.stages["logits"])


def name_the_bug(loss: Any, observed: Sequence[Observed], grade: str, at_most: int = 5) -> list[Match]:
    """The suspects that explain it, best first; none below one half."""
    seen = sorted(observed, key=lambda o: o.size)
    small = [o for o in seen if o.size <= SMALL] or seen[:1]
    # what is wrong and what is right both tell
    bad, good = ([o for o in small if o.failed is failed] for failed in (True, False))
    few = _spread(bad, FIRST - min(len(good), FIRST // 3)) + _spread(good, FIRST // 3)
    tried = [(suspect, variant) for suspect in suspects(loss) for variant in suspect.variants]
    first = {pair: _score(*pair, loss, few, grade) for pair in tried}
    best = sorted(tried, key=lambda pair: -first[pair][0])[:BEST]
    scores = {pair: _score(*pair, loss, small, grade) for pair in best if first[pair][0] > 0.05}
    found: dict[str, Match] = {}
    for (suspect, _), (score, factor) in sorted(scores.items(), key=lambda item: -item[1][0]):
        if score >= 0.5 and suspect.name not in found:
            found[suspect.name] = Match(suspect.name, suspect.explanation, suspect.seen_in, score, factor)
    return list(found.values())[:at_most]


def _spread(things: list[Observed], count: int) -> list[Observed]:
    """So many of them, evenly chosen."""
    if len(things) <= count:
        return things
    return [things[i] for i in np.unique(np.linspace(0, len(things) - 1, count).astype(int))]


def _score(
    suspect: Suspect, variant: Any, loss: Any, observed: Sequence[Observed], grade: str
) -> tuple[float, float]:
    """(match, factor)."""
    made = []
    for o in observed:
        t = o.truth
        try:
            made.append(wrong(suspect, t.loss, t.inputs, t.labels, t.upstream, o.previous, variant))
        except (ValueError, IndexError, FloatingPointError, ZeroDivisionError):
            made.append({})  # a bug that cannot happen on this input
    exact = _explained(observed, made, grade, 1.0)
    if exact > 0.95:
        return exact, 1.0
    if suspect.only_precision:  # its roundings fall elsewhere: their size must do
        return max(exact, ALIKE * _alike(observed, made, grade)), 1.0
    factor = _fit(observed, made, grade)
    if factor is None:
        return exact, 1.0
    fitted = _explained(observed, made, grade, factor)
    return (FITTED * fitted, factor) if FITTED * fitted > exact and fitted > 0.8 else (exact, 1.0)


def _explained(
    observed: Sequence[Observed], made: Sequence[Mapping[str, np.ndarray]], grade: str, factor: float
) -> float:
    parts = []
    for o, wrongs in zip(observed, made, strict=True):
        for stage, got in o.got.items():
            copy = wrongs.get(stage, o.truth.stages[stage])
            if np.shape(copy) != np.shape(got):
                copy = o.truth.stages[stage]
            copy = o.truth.as_wrong(stage, copy)
            union, hit = _units(o.truth, stage, got, copy, grade, factor)
            if union:
                parts.append(hit / union)
    return float(np.mean(parts)) if parts else 0.0


def _alike(observed: Sequence[Observed], made: Sequence[Mapping[str, np.ndarray]], grade: str) -> float:
    """How well the errors agree in size, case by case and stage by stage: 1, and 0 where they differ fourfold."""
    parts = []
    for o, wrongs in zip(observed, made, strict=True):
        for stage, got in o.got.items():
            due, copy = o.truth.stages[stage], wrongs.get(stage)
            if copy is None or np.shape(copy) != np.shape(got):
                continue
            with np.errstate(all="ignore"):
                room = o.truth.allowed(stage, grade) + _own(o.truth, stage)
                is_off, should = (_size(stage, v - due) for v in (got, o.truth.as_wrong(stage, copy)))
                if not ((is_off > room).any() or (should > room).any()):
                    continue
                apart = np.abs(np.log2(np.linalg.norm(is_off / room) / np.linalg.norm(should / room)))
            parts.append(float(max(0.0, 1 - apart / 2)) if np.isfinite(apart) else 0.0)
    return float(np.mean(parts)) if parts else 0.0


def _units(
    truth: Truth, stage: str, got: np.ndarray, copy: np.ndarray, grade: str, factor: float
) -> tuple[int, int]:
    """(entries or rows that are wrong or would be, those that are wrong and explained)."""
    due = truth.stages[stage]
    with np.errstate(all="ignore"):
        if factor != 1:
            copy = due + factor * (copy - due)
        copy = rounded(copy, truth.dtype)
        room = truth.allowed(stage, grade) + _own(truth, stage)
        is_off, should, left = (_size(stage, d) for d in (got - due, copy - due, got - copy))
        wrong_, predicted = ~(is_off <= room), ~(should <= room)
        # rounding may be left, but not most of the error: else nothing at all would explain a small one
        same = np.isfinite(is_off) & (left <= np.maximum(np.minimum(4 * room, is_off / 4), NEAR * is_off))
        # both have left the numbers
        same |= ~np.isfinite(is_off) & ~np.isfinite(should)
    union = wrong_ | predicted
    return int(np.count_nonzero(union)), int(np.count_nonzero(wrong_ & same))


def _own(truth: Truth, stage: str) -> np.ndarray:
    """What storing the result costs, in the units in which the stage is judged."""
    return _size(stage, ulp(truth.stages[stage], truth.dtype) + truth.bound[stage])


def _size(stage: str, error: np.ndarray) -> np.ndarray:
    return row_norm(error) if stage in ROWWISE else np.abs(error)


def _fit(observed: Sequence[Observed], made: Sequence[Mapping[str, np.ndarray]], grade: str) -> float | None:
    """The factor of the suspect's error that fits best: the median over what is wrong."""
    ratios: list[np.ndarray] = []
    for o, wrongs in zip(observed, made, strict=True):
        if not o.failed:
            continue
        for stage, got in o.got.items():
            due = o.truth.stages[stage]
            copy = wrongs.get(stage)
            if copy is None or np.shape(copy) != np.shape(got):
                continue
            with np.errstate(all="ignore"):
                room = o.truth.allowed(stage, grade) + _own(o.truth, stage)
                off, should = got - due, copy - due
                far = (_size(stage, should) > 4 * room) & (_size(stage, off) > 4 * room)
                if stage in ROWWISE:
                    ratio = np.sum(off * should, axis=1) / np.sum(should * should, axis=1)
                else:
                    ratio = off / should
            ratios.append(np.atleast_1d(ratio)[np.atleast_1d(far & np.isfinite(ratio))])
    every = np.concatenate(ratios) if ratios else np.zeros(0)
    if not every.size:
        return None
    factor = float(np.median(every))
    return factor if 1e-3 < factor < 1e3 and abs(factor - 1) > 1e-3 else None
