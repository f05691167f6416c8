"""A gradient against what the witnesses say: row by row, relative to the natural scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from refloss import validation as check
from refloss.textbook.rows import as_rows, row_norm
from refloss.witnesses.autograd_tape import autograd
from refloss.witnesses.complex_step import complex_step
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.finite_difference import finite_difference
from refloss.witnesses.problem import TINY, Problem

WITNESSES: dict[str, Callable[[Problem], dict[str, Estimate]]] = {
    "finite_difference": finite_difference,
    "autograd": autograd,
    "complex_step": complex_step,
}


def ball(problem: Problem) -> dict[str, Estimate]:
    """Arb balls: the enclosure's midpoint and width. Needs python-flint."""
    from refloss.proof.witness import ball as enclosed

    return enclosed(problem)


ON_REQUEST = {"ball": ball}  # slower, and needs an optional package

SHAPE = "shape"
BLIND = 1e-3  # of the natural scale: a witness less certain than this abstains


@dataclass(frozen=True)
class Failure:
    """The gradient in one input that is wrong: its worst row, what came, what was due, and by how much.

    Attributes:
        input (str): x, W, b, scale, margin or alpha.
        row (int): the worst of that input.
        index (tuple): of that row's worst entry.
        got (float): that entry, as it came.
        expected (float): what the witness says.
        error (float): of the row, relative to its natural scale.
        tolerance (float): what was allowed, likewise.
        witness (str): who says so; "shape" where the array did not fit.
        reason (str): in words.
        rows (int): how many rows are wrong.
        factor (float): a, where every wrong row is a times what is due; or None.
        step (str): the page of derivations/ and the steps that give this gradient, or "".
    """

    input: str
    row: int
    index: tuple[int, ...]
    got: float
    expected: float
    error: float
    tolerance: float
    witness: str
    reason: str
    rows: int = 1
    factor: float | None = None
    step: str = ""

    def __str__(self) -> str:
        where = f" (derivations/{self.step})" if self.step else ""
        if self.witness == SHAPE:
            return f"grad_{self.input} {self.reason}{where}"
        place = f"grad_{self.input}[{', '.join(map(str, self.index))}]" if self.index else f"grad_{self.input}"
        return (
            f"{place} {self.reason}: got {self.got:.12g}, expected {self.expected:.12g} ({self.witness}); "
            f"row off by {self.error:.2g} of its scale, {self.tolerance:.2g} allowed; "
            f"{self.rows} row{'s' * (self.rows != 1)} wrong{where}"
        )


@dataclass
class Seen:
    """How one witness saw one input.

    Attributes:
        decided (int): rows on which it could speak.
        worst (float): largest error of a decided row, relative to its natural scale.
        resolution (float): largest error that it would have let pass on a decided row, likewise.
    """

    decided: int = 0
    worst: float = 0.0  # largest error of a decided row, relative to its natural scale
    resolution: float = 0.0  # largest error it would have let pass on a decided row


@dataclass
class InputResult:
    """The verdict on the gradient in one input. rows = passed + failed + undecided.

    Attributes:
        input (str): x, W, b, scale, margin or alpha.
        rows (int): of its gradient; 1 for a scalar.
        passed (int): rows that a witness confirmed.
        failed (int): rows that a witness refuted.
        undecided (int): rows on which every witness abstained.
        exact_zero (int): passed because they had to be exactly 0, and were.
        witnesses (dict): name → `Seen`.
        failures (list of Failure): one if any row is wrong, else none.
    """

    input: str
    rows: int = 0
    passed: int = 0
    failed: int = 0
    undecided: int = 0
    exact_zero: int = 0  # passed because it had to be exactly 0, and was
    witnesses: dict[str, Seen] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def usable(witnesses: Sequence[str] | str | None) -> tuple[str, ...]:
    """The witnesses of these names, all that run by default if None. Raises ValueError for one that cannot be had."""
    names = (witnesses,) if isinstance(witnesses, str) else tuple(WITNESSES if witnesses is None else witnesses)
    for name in names:
        check.one_of(name, "witnesses", (*WITNESSES, *ON_REQUEST))
        if name in ON_REQUEST and find_spec("flint") is None:
            raise ValueError(f"the witness {name!r} needs python-flint: pip install refloss[certify]")
    return names


def compare(problem: Problem, gradients: Mapping[str, Any], witnesses: Sequence[str]) -> list[InputResult]:
    """Every gradient of `gradients` (name → array or None) against every witness, row by row."""
    run = WITNESSES | ON_REQUEST
    estimates = {name: in_units_of_the_gradient(problem, run[name](problem)) for name in witnesses}
    return [
        _one_input(problem, name, gradients.get(name), {w: e[name] for w, e in estimates.items() if name in e})
        for name in problem.inputs
    ]


def in_units_of_the_gradient(problem: Problem, estimates: dict[str, Estimate]) -> dict[str, Estimate]:
    """The estimates times the problem's weight; no word on what passes through a term that none can differentiate."""
    weight, blind = problem.weight, problem.blind
    honest = {}
    for name, (gradient, error) in estimates.items():
        if blind is not None and blind.any():
            error = np.where(blind, np.inf, error) if name in problem.rowwise else np.full_like(error, np.inf)
        honest[name] = Estimate(gradient * weight, error * weight)
    return honest


def _one_input(problem: Problem, name: str, gradient: Any, estimates: Mapping[str, Estimate]) -> InputResult:
    due = np.shape(problem.inputs[name])
    count = len(as_rows(problem.inputs[name]))
    result = InputResult(name, rows=count, witnesses={w: Seen() for w in estimates})
    if gradient is None or np.shape(gradient) != due:
        what = "is missing" if gradient is None else f"has shape {np.shape(gradient)}, expected {due}"
        result.failed = count
        result.failures.append(Failure(name, 0, (), np.nan, np.nan, np.inf, 0.0, SHAPE, what))
        return result
    gradient = np.asarray(gradient, dtype=float)
    rows = as_rows(gradient)
    not_finite = ~np.isfinite(rows).all(axis=1)
    failed, decided = not_finite.copy(), not_finite.copy()
    found = [_Wrong(not_finite, np.zeros_like(rows), np.full(count, np.inf), np.zeros(count), "", "is not finite")]

    scale = problem.scale.get(name)
    must_vanish = problem.vanishes.get(name, np.zeros(count, dtype=bool)) & ~not_finite
    result.exact_zero = int(np.count_nonzero(must_vanish & ~rows.any(axis=1)))
    moved = must_vanish & rows.any(axis=1)
    found.append(found[0]._replace(where=moved, witness="nothing arrives", reason="must be exactly 0"))
    failed |= moved
    decided |= must_vanish

    for witness, estimate in estimates.items():
        expected = as_rows(estimate.gradient)
        # without logits of its own to measure by, a loss is measured against the witness
        measure = row_norm(expected) if scale is None else scale
        # balls have no rounding of their own: what is left is an honest pass's
        room = problem.honest if witness in ON_REQUEST and problem.honest else problem.rounding
        rounding = room.get(name, np.zeros(count))
        with np.errstate(all="ignore"):
            tolerance = estimate.error + rounding + TINY
            looked = np.isfinite(tolerance) & ~not_finite & ~must_vanish
            # a witness that is not sure enough to confirm a row may still be sure that it is wrong
            sees = looked & (tolerance <= BLIND * measure)
            error = row_norm(rows - expected)
            relative, allowed = error / measure, tolerance / measure
        wrong = looked & ~(error <= tolerance)
        decided |= sees
        seen = result.witnesses[witness]
        seen.decided = int(np.count_nonzero(sees))
        if seen.decided:
            seen.worst, seen.resolution = float(relative[sees].max()), float(allowed[sees].max())
        found.append(_Wrong(wrong & ~failed, expected, relative, allowed, witness, "is wrong"))
        failed |= wrong
    result.failed = int(np.count_nonzero(failed))
    result.failures += [_failure(name, due, rows, found)] if failed.any() else []
    result.undecided = int(np.count_nonzero(~decided & ~failed))
    result.passed = count - result.failed - result.undecided
    return result


class _Wrong(NamedTuple):
    """The rows that one witness refutes, and how."""

    where: np.ndarray  # (rows,) bool
    expected: np.ndarray  # (rows, …)
    error: np.ndarray  # (rows,)
    tolerance: np.ndarray  # (rows,)
    witness: str
    reason: str


def _failure(name: str, shape: tuple[int, ...], rows: np.ndarray, found: Sequence[_Wrong]) -> Failure:
    """The worst row of the first kind that there is, and what all wrong rows have in common."""
    worst = next(wrong for wrong in found if wrong.where.any())
    with np.errstate(all="ignore"):
        off = np.where(worst.where, worst.error / worst.tolerance, -1.0)
    r = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
    with np.errstate(invalid="ignore"):
        entries = np.abs(rows[r] - worst.expected[r])
    d = int(np.argmax(np.where(np.isnan(entries), np.inf, entries)))
    return Failure(
        name, r, {2: (r, d), 1: (r,), 0: ()}[len(shape)], float(rows[r, d]), float(worst.expected[r, d]),
        float(worst.error[r]), float(worst.tolerance[r]), worst.witness, worst.reason,
        rows=sum(int(np.count_nonzero(wrong.where)) for wrong in found), factor=_common_factor(rows, found),
    )  # fmt: skip


def _common_factor(rows: np.ndarray, found: Sequence[_Wrong]) -> float | None:
    """a with rows = a · expected, by least squares over the wrong rows; None if 1e-3 of them is left."""
    got = np.concatenate([rows[wrong.where].ravel() for wrong in found])
    due = np.concatenate([wrong.expected[wrong.where].ravel() for wrong in found])
    size = np.max(np.abs(due), initial=0.0)
    if not (np.isfinite(got).all() and np.isfinite(due).all() and size > 0):
        return None
    factor = float(np.dot(got / size, due / size) / np.dot(due / size, due / size))
    left = np.linalg.norm(got / size - factor * (due / size))
    return factor if left <= 1e-3 * np.linalg.norm(due / size) * max(1.0, abs(factor)) else None
