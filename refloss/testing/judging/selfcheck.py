"""Would the tolerances in force notice? Wrong copies of the reference go through them before any verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refloss.precision.dtypes import rounded
from refloss.record import BACKWARD_STAGES
from refloss.testing.judging.tolerances import Truth
from refloss.testing.plain_loss import PlainLoss

MUTANTS = {
    "zero": "nothing comes out",
    "sign": "the sign is wrong",
    "too_large": "2 % too large (twice as large at grade D)",
    "off_target": "the terms of the other classes are dropped",
    "upstream": "what arrives from upstream is ignored",
}
EQUAL, LIVE, VOID = "equal", "live", "void"


@dataclass
class Vacuity:
    """What the cases seen so far could have caught: (stage, mutant) → how often equal, live, void."""

    seen: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    void: list[tuple[str, str, str]] = field(default_factory=list)  # (case, stage, mutant)

    def add(self, case: str, fates: Mapping[tuple[str, str], str]) -> None:
        for (stage, mutant), fate in fates.items():
            self.seen.setdefault((stage, mutant), dict.fromkeys((EQUAL, LIVE, VOID), 0))[fate] += 1
            if fate == VOID:
                self.void.append((case, stage, mutant))

    def not_checked(self) -> dict[str, list[str]]:
        """Gradient stage → the mutants that no case would have caught. One that is the truth everywhere (nothing
        arrives from upstream but 1, the margin's gradient has no other classes) is not counted; a gradient that is 0
        everywhere is."""
        missed: dict[str, list[str]] = {}
        for (stage, mutant), count in self.seen.items():
            if stage in BACKWARD_STAGES and not count[LIVE] and (count[VOID] or mutant == "zero"):
                missed.setdefault(stage, []).append(mutant)
        return missed


def fates(truth: Truth, stages: Iterable[str], grade: str) -> dict[tuple[str, str], str]:
    """(stage, mutant) → equal, live or void, at this grade."""
    wrong = {"off_target": _mutant(truth, _target_only), "upstream": _mutant(truth, _arrives_one)}
    found = {}
    for stage in stages:
        due, gradient = truth.stages[stage], stage in BACKWARD_STAGES
        copies = {"zero": 0 * due, "too_large": (2.0 if grade == "D" else 1.02) * due}
        if gradient:
            copies["sign"] = -due
            copies |= {name: truth.as_wrong(stage, made[stage]) for name, made in wrong.items()}
        for mutant, copy in copies.items():
            found[stage, mutant] = _fate(truth, stage, grade, copy)
    return found


def _fate(truth: Truth, stage: str, grade: str, copy: np.ndarray) -> str:
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
