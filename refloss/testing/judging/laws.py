"""What holds whatever the margin is, and from one call to the next: it needs no reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.precision.dtypes import DType, rounded
from refloss.testing.adapters import Outcome
from refloss.testing.judging import units
from refloss.testing.judging.truth import GRADES, Grade, Truth
from refloss.testing.report import Failure

SUM, ACROSS_X, ACROSS_W, LINEAR = "Σ_j ∂z_j = 0", "∂x ⟂ x", "∂W ⟂ W", "linear in upstream"
SHIFT = "a common offset changes nothing"


@dataclass
class Laws:
    """law → [held, tried, the first case that broke it], each to within the required grade."""

    require: Grade
    seen: dict[str, list[Any]] = field(default_factory=dict)

    def _note(self, law: str, case: str, holds: bool) -> None:
        count = self.seen.setdefault(law, [0, 0, ""])
        count[0] += holds
        count[1] += 1
        if not holds and not count[2]:
            count[2] = case

    def of_one_call(self, case: str, truth: Truth, got: Mapping[str, np.ndarray]) -> None:
        """The gradients of the logits add up to 0; those of what is normalised lie across it."""
        with np.errstate(invalid="ignore", over="ignore"):
            if "grad_logits" in got:
                axis, room = getattr(truth.loss, "axis", -1), truth.tolerance("grad_logits", self.require)
                g, due = got["grad_logits"], truth.stages["grad_logits"]
                more = _times_too_large(np.abs(g).sum(axis), np.abs(due).sum(axis))
                holds = np.abs(g.sum(axis)) <= more * room.sum(axis)
                self._note(SUM, case, bool(holds.all()))
            for law, stage, length in ((ACROSS_X, "grad_x", "x_norm"), (ACROSS_W, "grad_W", "W_norm")):
                if stage in got and not getattr(truth.loss, f"feels_{length}", True):
                    along = np.abs(np.sum(got[stage] * truth.row_directions(stage), axis=1))
                    more = _times_too_large(units.size(stage, got[stage]), units.size(stage, truth.stages[stage]))
                    self._note(law, case, bool((along <= more * truth.room(stage, self.require)).all()))

    def of_twice_the_upstream(
        self, case: str, truth: Truth, first: Outcome, twice: Outcome, stages: Iterable[str]
    ) -> str:
        """The first stage that does not double, or ''."""
        broken = ""
        for stage in stages:
            one, two = first.stages.get(stage), twice.stages.get(stage)
            if one is None or two is None or stage not in truth.stages or one.shape != truth.stages[stage].shape:
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                more = _times_too_large(units.size(stage, one), units.size(stage, truth.stages[stage]))
                room = 3 * units.spread(stage, more) * truth.tolerance(stage, self.require)
                # beyond the dtype, or no number, before it doubles: another failure says so
                same = (two == rounded(2 * one, truth.dtype)) | ~np.isfinite(one)
                if not broken and not ((np.abs(two - 2 * one) <= room) | same).all():
                    broken = stage
        self._note(LINEAR, case, not broken)
        return broken

    def of_an_offset(self, case: str, truth: Truth, without: Outcome, shifted: Outcome) -> tuple[str, str]:
        """The first stage that an offset of all logits changes by more than both calls may err, and the grade at
        which they may: ('', '') if none.

        truth: on the shifted case, whose logits are larger and round no less.
        """
        broken = grade = ""
        for stage, two in shifted.stages.items():
            one = without.stages.get(stage)
            if stage == "logits" or stage not in truth.stages or one is None:
                continue
            if not one.shape == two.shape == truth.stages[stage].shape:
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                moved = np.where((two == one) | ~np.isfinite(one), 0.0, np.abs(two - one))
                if not (moved <= 2 * truth.tolerance(stage, self.require)).all():
                    allow = (g for g in GRADES if (moved <= 2 * truth.tolerance(stage, g)).all())
                    broken, grade = stage, next(allow, "F")
                    break
        self._note(SHIFT, case, not broken)
        return broken, grade


def offset(case: Case, dtype: DType) -> tuple[Case, Case] | None:
    """The case on a coarser grid, and the same with an exact offset of all logits; None if nothing adds to all logits.

    The offset is a power of two from 8 times the largest logit (or bias) on: e^z of it overflows where nothing is
    taken off.
    """
    key = next((key for key in ("logits", "b") if key in case.inputs), None)
    if key is None:
        return None
    v = case.inputs[key]
    size = np.max(np.abs(v), where=np.isfinite(v), initial=1.0)
    added = 2.0 ** (np.ceil(np.log2(size)) + 3)
    shifted = rounded(v + added, dtype)
    without = shifted - added
    if 2 * added > dtype.largest or not np.array_equal(rounded(without, dtype), without):
        return None
    name = f"{case.name}, all logits + {added:g}"
    return (
        replace(case, inputs={**case.inputs, key: without}),
        replace(case, name=name, inputs={**case.inputs, key: shifted}),
    )


def _times_too_large(came: np.ndarray, due: np.ndarray) -> np.ndarray:
    """How many times what is due came back, at least 1: so many times larger are its own roundings as well."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        more = np.where(due > 0, came / due, 1.0)
        return np.where(np.isfinite(more), np.maximum(more, 1.0), 1.0)


def changed(case: str, first: Outcome, second: Outcome) -> list[Failure]:
    """A second call on the same input must give the same bits."""
    moved = [stage for stage in first.bits if second.bits.get(stage) != first.bits[stage]]
    if not moved:
        return []
    stage = moved[0]
    words = f"{stage} changes from one call to the next on the same input"
    a, b = first.stages.get(stage), second.stages.get(stage)
    if a is not None and b is not None and a.shape == b.shape:
        with np.errstate(invalid="ignore"):
            words += f" by up to {np.nanmax(np.abs(a - b), initial=0.0):.2g}"
            if np.any(a) and np.allclose(b, 2 * a, rtol=1e-2, atol=0):
                words += ": twice as much comes back, as if it were added to what the call before left"
    return [Failure(case, stage, "nondeterministic", words)]
