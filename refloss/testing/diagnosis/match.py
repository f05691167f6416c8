"""Which known bug explains what came out: every suspect is run on the same cases and compared, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.precision.dtypes import rounded
from refloss.record import STAGES
from refloss.testing.diagnosis.suspects import SLIP, Suspect, suspects, wrong
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade, Truth
from refloss.testing.plain_loss import PlainLoss

FIRST, BEST = 10, 12  # cases that every suspect sees; suspects that see all of them
SMALL = 20_000  # entries of x, W and the logits together: a larger case tells nothing more, but takes time
NEAR = 0.02  # of the error: what a suspect may leave unexplained, besides rounding
FITTED = 0.9  # what an explanation is worth that needs a factor
ALIKE = 0.9  # and one by the size of the errors alone
PARTLY = 0.8  # below this the words say where the suspect and the kernel differ
Made = Sequence[Mapping[str, np.ndarray]]  # of each case, the stages that a suspect gives


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
        as_well (tuple of str): the stages that the suspect gets wrong and the kernel does not.
        but_not (tuple of str): the stages that the kernel gets wrong and the suspect does not.
    """

    name: str
    explanation: str
    seen_in: str
    match: float
    factor: float = 1.0

    as_well: tuple[str, ...] = ()
    but_not: tuple[str, ...] = ()

    def __str__(self) -> str:
        times = "" if self.factor == 1 else f", its error times {self.factor:.3g}"
        seen = "" if self.seen_in == SLIP else f" Seen in: {self.seen_in}"
        head = f"{self.name} ({self.match:.0%}{times})"
        if self.match >= PARTLY:
            return f"{head}: {self.explanation}{seen}"
        as_well, but_not = ", ".join(self.as_well), ", ".join(self.but_not)
        apart = f"it gets {as_well} wrong as well" if as_well else "it gets the same stages wrong"
        apart += f", but not {but_not}" if but_not else "" if as_well else ", not by the same numbers"
        return f"partly like {head}: {apart}. That bug is: {self.explanation}{seen}"


class History:
    """The calls so far, for the bugs that remember one."""

    def __init__(self) -> None:
        self.first: dict[tuple, PlainLoss] = {}
        self.last: dict[tuple, PlainLoss] = {}

    def before(self, plain: PlainLoss) -> PlainLoss | None:
        """The last call on inputs of the same shapes, or else the first with the same W's shape; notes this one."""
        W = plain.logits_given.shape if plain.bare else plain.W.shape
        every = plain.shapes()
        plain.earliest = self.first.get(W)
        found = self.last.get(every, plain.earliest)
        self.first.setdefault(W, plain)
        self.last[every] = plain
        return found


@dataclass
class Observed:
    """What a kernel gave on one case, finite or not, with what was due."""

    case: str
    truth: Truth
    got: dict[str, np.ndarray]
    failed: bool
    previous: PlainLoss | None = None

    @property
    def size(self) -> int:
        arrays = self.truth.inputs.values()
        return sum(np.size(v) for v in arrays) + np.size(self.truth.stages["logits"])


def name_the_bug(loss: Any, observed: Sequence[Observed], grade: Grade, at_most: int = 5) -> list[Match]:
    """The suspects that explain it, best first; none below one half."""
    seen = sorted(observed, key=lambda o: o.size)
    small = [o for o in seen if o.size <= SMALL] or seen[:1]
    # what is wrong and what is right both tell
    bad, good = ([o for o in small if o.failed is failed] for failed in (True, False))
    few = spread(bad, FIRST - min(len(good), FIRST // 3)) + spread(good, FIRST // 3)
    tried = [(suspect, variant) for suspect in suspects(loss) for variant in suspect.variants]
    first = {pair: _score(*pair, few, grade) for pair in tried}
    best = sorted(tried, key=lambda pair: -first[pair][0])[:BEST]
    scores = {pair: _score(*pair, small, grade) for pair in best if first[pair][0] > 0.05}
    found: dict[str, Match] = {}
    for (suspect, variant), (score, factor) in sorted(scores.items(), key=lambda item: -item[1][0]):
        if score >= 0.5 and suspect.name not in found and len(found) < at_most:
            apart = _apart(small, _made(suspect, variant, small), grade, factor)
            about = suspect.name, suspect.explanation, suspect.seen_in
            found[suspect.name] = Match(*about, score, factor, *apart)
    return list(found.values())


def spread(things: Sequence[Any], count: int) -> list[Any]:
    """So many of them, evenly chosen."""
    if len(things) <= count:
        return list(things)
    return [things[i] for i in np.unique(np.linspace(0, len(things) - 1, count).astype(int))]


def _made(suspect: Suspect, variant: Any, observed: Sequence[Observed]) -> list[dict[str, np.ndarray]]:
    """What the suspect gives on each case."""
    made = []
    for o in observed:
        t = o.truth
        try:
            made.append(wrong(suspect, t.loss, t.inputs, t.labels, t.upstream, o.previous, variant))
        except (ValueError, IndexError, FloatingPointError, ZeroDivisionError):
            made.append({})  # a bug that cannot happen on this input
    return made


def _score(suspect: Suspect, variant: Any, observed: Sequence[Observed], grade: Grade) -> tuple[float, float]:
    """(match, factor)."""
    made = _made(suspect, variant, observed)
    exact = _explained(observed, made, grade, 1.0)
    if exact > 0.95:
        return exact, 1.0
    if suspect.only_precision:  # its roundings fall elsewhere: their size must do
        return max(exact, ALIKE * _alike(observed, made, grade)), 1.0
    factor = _fit(observed[0].truth.loss, observed, made, grade) if observed else None
    if factor is None:
        return exact, 1.0
    fitted = _explained(observed, made, grade, factor)
    return (FITTED * fitted, factor) if FITTED * fitted > exact and fitted > 0.8 else (exact, 1.0)


def _copies(observed: Sequence[Observed], made: Made, factor: float) -> Iterator[tuple[Truth, str, np.ndarray, Any]]:
    """(truth, stage, what the kernel gave, what the suspect gives there), its error times the factor."""
    for o, wrongs in zip(observed, made, strict=True):
        for stage, got in o.got.items():
            due = o.truth.stages[stage]
            copy = wrongs.get(stage, due)
            copy = o.truth.as_wrong(stage, copy if np.shape(copy) == np.shape(got) else due)
            with np.errstate(all="ignore"):
                if factor != 1:
                    copy = due + factor * (copy - due)
                copy = rounded(copy, o.truth.dtype)
            yield o.truth, stage, got, copy


def _explained(observed: Sequence[Observed], made: Made, grade: Grade, factor: float) -> float:
    """The mean over cases and stages of explained / (wrong ∪ predicted wrong)."""
    parts = []
    for truth, stage, got, copy in _copies(observed, made, factor):
        due, room = truth.stages[stage], truth.room(stage, grade)
        with np.errstate(all="ignore"):
            is_off, should, left = (units.size(stage, d) for d in (got - due, copy - due, got - copy))
            # What is left unexplained must look like rounding (≤ 4 tolerances), and be under a quarter of the error:
            # otherwise the empty explanation would match small errors.
            same = np.isfinite(is_off) & (left <= np.maximum(np.minimum(4 * room, is_off / 4), NEAR * is_off))
        same |= ~np.isfinite(is_off) & ~np.isfinite(should)  # both have left the numbers
        wrong_ = ~(is_off <= room)
        union = np.count_nonzero(wrong_ | ~(should <= room))
        if union:
            parts.append(np.count_nonzero(wrong_ & same) / union)
    return float(np.mean(parts)) if parts else 0.0


def _apart(
    observed: Sequence[Observed], made: Made, grade: Grade, factor: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(stages that only the suspect gets wrong somewhere, stages that only the kernel does)."""
    by_suspect: set[str] = set()
    by_kernel: set[str] = set()
    for truth, stage, got, copy in _copies(observed, made, factor):
        for stages, value in ((by_suspect, copy), (by_kernel, got)):
            if not truth.passes(stage, value, grade):
                stages.add(stage)

    def ordered(stages: set[str]) -> tuple[str, ...]:
        return tuple(stage for stage in STAGES if stage in stages)

    return ordered(by_suspect - by_kernel), ordered(by_kernel - by_suspect)


def _alike(observed: Sequence[Observed], made: Made, grade: Grade) -> float:
    """How well the errors agree in size, case by case and stage by stage: 1, and 0 where they differ fourfold."""
    parts = []
    for o, wrongs in zip(observed, made, strict=True):
        for stage, got in o.got.items():
            due, copy = o.truth.stages[stage], wrongs.get(stage)
            if copy is None or np.shape(copy) != np.shape(got):
                continue
            with np.errstate(all="ignore"):
                room = o.truth.room(stage, grade)
                is_off, should = (units.size(stage, v - due) for v in (got, o.truth.as_wrong(stage, copy)))
                if not ((is_off > room).any() or (should > room).any()):
                    continue
                apart = np.abs(np.log2(np.linalg.norm(is_off / room) / np.linalg.norm(should / room)))
            parts.append(float(max(0.0, 1 - apart / 2)) if np.isfinite(apart) else 0.0)
    return float(np.mean(parts)) if parts else 0.0


def _fit(loss: Any, observed: Sequence[Observed], made: Made, grade: Grade) -> float | None:
    """The factor of the suspect's error that fits best, the median over what is wrong, if it has a name."""
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
                room = o.truth.room(stage, grade)
                off, should = got - due, copy - due
                far = (units.size(stage, should) > 4 * room) & (units.size(stage, off) > 4 * room)
                ratio = units.times(stage, off, should)
            ratios.append(np.atleast_1d(ratio)[np.atleast_1d(far & np.isfinite(ratio))])
    every = np.concatenate(ratios) if ratios else np.zeros(0)
    if not every.size:
        return None
    factor = float(np.median(every))
    return _with_a_name(loss, factor)


def _with_a_name(loss: Any, factor: float) -> float | None:
    """The sign, a power of two or ten, or a parameter of the loss that the factor is; others explain nothing."""
    own = [v for name in ("scale", "alpha", "margin") if isinstance(v := getattr(loss, name, None), (int, float)) and v]
    known = [1.0, 2.0, 4.0, 10.0, 100.0, 1000.0, *map(float, own)]  # an ε is a power of ten
    for value in [w for v in known for w in (v, 1 / v, -v, -1 / v)]:
        if value != 1 and abs(factor - value) <= NEAR * abs(value):
            return value
    return None
