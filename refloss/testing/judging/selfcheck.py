"""Would the tolerances in force notice? Wrong copies of the reference go through them before any verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refloss.precision.dtypes import rounded
from refloss.record import BACKWARD_STAGES
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade, Truth, grade_at
from refloss.testing.plain_loss import PlainLoss

MUTANTS = {
    "zero": "nothing comes out",
    "sign": "the sign is wrong",
    "too_large": "2 % too large (twice as large at grades D and E)",
    "off_target": "the terms of the other classes are dropped",
    "upstream": "what arrives from upstream is ignored",
}
EQUAL, LIVE, VOID = "equal", "live", "void"
HALF = 0.5  # of the rows or entries of a gradient: if more could be zero unnoticed than not, it is not checked
Fates = dict[tuple[str, str], str]  # (stage, mutant) → equal, live or void


@dataclass
class SelfCheck:
    """What the cases seen so far could have caught at the required grade, and where the reference cannot be trusted.

    seen     (stage, mutant) → how often equal, live, void
    void     (case, stage, mutant)
    hidden   gradient stage → [rows or entries that could be zero unnoticed, rows or entries], over all cases
    faults   what the draws say against the reference
    advice   where a stricter grade would have told more
    """

    require: Grade
    seen: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    void: list[tuple[str, str, str]] = field(default_factory=list)
    hidden: dict[str, list[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def add(self, case: str, truth: Truth, got: Mapping[str, np.ndarray]) -> None:
        self.faults += [
            f"in {case} the reference's {stage} is far from its own textbook form" for stage in truth.untrusted
        ]
        found = fates(truth, got, self.require)
        for (stage, mutant), fate in found.items():
            self.seen.setdefault((stage, mutant), Counter())[fate] += 1
            if fate == VOID:
                self.void.append((case, stage, mutant))
        for stage in got:
            if stage in BACKWARD_STAGES:
                count = self.hidden.setdefault(stage, [0, 0])
                count[:] = (a + b for a, b in zip(count, _hidden(truth, stage, self.require), strict=True))
        void = list(dict.fromkeys(stage for (stage, _), fate in found.items() if fate == VOID))
        if void:
            self._advise(case, truth, got, found, void)

    def _advise(
        self, case: str, truth: Truth, got: Mapping[str, np.ndarray], found: Fates, void: Sequence[str]
    ) -> None:
        """What could hide at this grade and not at B, where this result is outside of B."""
        sharper = fates(truth, void, "B")
        for stage in void:
            told = any(found[key] == VOID and sharper[key] == LIVE for key in sharper if key[0] == stage)
            passes = [truth.passes(stage, got[stage], grade) for grade in (self.require, "B")]
            if told and passes == [True, False]:
                self.advice.append(
                    f"advice: in {case} a wrong {stage} could hide within grade {grade_at(stage, self.require)}; "
                    "yours is outside of grade B there"
                )

    def not_checked(self) -> dict[str, list[str]]:
        """Gradient stage or loss → the mutants that no case would have caught, and whether most of it could be zero.

        A mutant that is the truth everywhere (nothing arrives from upstream but 1, the margin's gradient has no other
        classes) is not counted; what is 0 everywhere is.
        """
        missed: dict[str, list[str]] = {}
        for (stage, mutant), count in self.seen.items():
            if stage in (*BACKWARD_STAGES, "loss", "losses") and not count[LIVE] and (count[VOID] or mutant == "zero"):
                missed.setdefault(stage, []).append(mutant)
        for stage, (hidden, total) in self.hidden.items():
            if hidden > HALF * total and "zero" not in missed.get(stage, []):
                words = f"{units.name(stage)} that are zero ({hidden} of {total} could be)"
                missed.setdefault(stage, []).append(words)
        return missed


def _hidden(truth: Truth, stage: str, grade: Grade) -> tuple[int, int]:
    """How many rows or entries of a stage could be zero unnoticed, of how many that are not."""
    due = truth.stages[stage]
    there = units.size(stage, rounded(due, truth.dtype)) > 0
    excess, allowed = truth.judged(stage, 0 * due, grade)
    return int(np.count_nonzero(there & (excess <= allowed))), int(np.count_nonzero(there))


def fates(truth: Truth, stages: Iterable[str], grade: Grade) -> Fates:
    """(stage, mutant) → equal, live or void, at this grade."""
    wrong = {"off_target": _mutant(truth, _target_only), "upstream": _mutant(truth, _arrives_one)}
    found = {}
    for stage in stages:
        due, gradient = truth.stages[stage], stage in BACKWARD_STAGES
        copies = {"zero": np.zeros_like(due), "too_large": (2.0 if grade_at(stage, grade) in "DE" else 1.02) * due}
        if gradient:
            copies["sign"] = -due
            copies |= {name: truth.as_wrong(stage, made[stage]) for name, made in wrong.items()}
        for mutant, copy in copies.items():
            found[stage, mutant] = _fate(truth, stage, grade, copy)
    return found


def _fate(truth: Truth, stage: str, grade: Grade, copy: np.ndarray) -> str:
    held = rounded(copy, truth.dtype)
    if np.array_equal(rounded(truth.stages[stage], truth.dtype), held, equal_nan=True):
        return EQUAL
    return VOID if truth.passes(stage, held, grade) else LIVE


def _mutant(truth: Truth, change: Any) -> dict[str, np.ndarray]:
    plain = PlainLoss(truth.loss, truth.inputs, truth.labels, truth.upstream)
    change(plain)
    return plain.run()


def _target_only(plain: PlainLoss) -> None:
    whole = plain.grad_logits
    plain.grad_logits = lambda: np.where(plain.target > 0, whole(), 0.0)  # type: ignore[method-assign]


def _arrives_one(plain: PlainLoss) -> None:
    plain.upstream = np.ones_like(plain.upstream)
