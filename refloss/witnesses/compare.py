"""A gradient against what the witnesses say: row by row, relative to the natural scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

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
FITS = 0.01  # of a row's error: a common factor leaves less than this of it


@dataclass(frozen=True)
class Failure:
    """One input whose gradient is wrong: its worst row, how many rows are wrong, and what they have in common.

    Attributes:
        input (str): x, W, b, scale, margin or alpha.
        row (int): the worst row of that input.
        index (tuple): of that row's worst entry.
        got (float): that entry, as it came.
        expected (float): what the witness says.
        error (float): of the row, relative to its natural scale.
        tolerance (float): what was allowed, likewise.
        witness (str): who says so; "shape" where the array did not fit.
        reason (str): in words.
        rows (int): how many rows are wrong.
        total (int): of how many.
        factor (float): c, where every wrong row is c times what was due; or None.
        factor_name (str): what c is, such as "1/N"; or "".
        step (str): the page of derivations/ and the steps that give this gradient; "" for a loss of your own.
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
    total: int = 1
    factor: float | None = None
    factor_name: str = ""
    step: str = ""

    def __str__(self) -> str:
        where = f" (derivations/{self.step})" if self.step else ""
        if self.witness == SHAPE:
            return f"grad_{self.input} {self.reason}{where}"
        place = f"grad_{self.input}[{', '.join(map(str, self.index))}]" if self.index else f"grad_{self.input}"
        parts = [
            f"{place} {self.reason}: got {self.got:.12g}, expected {self.expected:.12g} ({self.witness})",
            f"row off by {self.error:.2g} of its scale, {self.tolerance:.2g} allowed",
        ]
        if self.total > 1:
            parts.append(f"{self.rows} of {self.total} rows wrong")
        if self.factor is not None:
            factor = self.factor_name or f"{self.factor:.6g}".replace("-", "−")
            parts.append(f"got = {factor} × expected" + (" in all of them" if self.rows > 1 else ""))
        return "; ".join(parts) + where


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
    if not names:
        raise ValueError(f"witnesses must not be empty: there are {', '.join((*WITNESSES, *ON_REQUEST))}")
    for name in names:
        check.one_of(name, "witnesses", (*WITNESSES, *ON_REQUEST))
        if name in ON_REQUEST and find_spec("flint") is None:
            raise ValueError(f"the witness {name!r} needs python-flint: pip install python-flint")
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
    scaled = {}
    for name, (gradient, error) in estimates.items():
        if blind is not None and blind.any():
            error = np.where(blind, np.inf, error) if name in problem.rowwise else np.full_like(error, np.inf)
        scaled[name] = Estimate(gradient * weight, error * weight)
    return scaled


def _one_input(problem: Problem, name: str, gradient: Any, estimates: Mapping[str, Estimate]) -> InputResult:
    due = np.shape(problem.inputs[name])
    at = problem.rows(name)
    result = InputResult(name, rows=len(at), witnesses={w: Seen() for w in estimates})
    if gradient is None or np.shape(gradient) != due:
        what = "is missing" if gradient is None else f"has shape {np.shape(gradient)}, expected {due}"
        result.failed = count = len(as_rows(problem.inputs[name]))
        result.rows = count
        result.failures.append(Failure(name, 0, (), np.nan, np.nan, np.inf, 0.0, SHAPE, what, count, count))
        return result
    wrong = _Wrong(as_rows(np.asarray(gradient, dtype=float))[at], at)
    rows = wrong.got
    not_finite = ~np.isfinite(rows).all(axis=1)
    wrong.add(not_finite, "is not finite")
    scale = problem.scale[name][at] if name in problem.scale else None
    must_vanish = (problem.vanishes[name][at] if name in problem.vanishes else np.False_) & ~not_finite
    result.exact_zero = int(np.count_nonzero(must_vanish & ~rows.any(axis=1)))
    wrong.add(must_vanish & rows.any(axis=1), "must be exactly 0", "nothing arrives")
    decided = not_finite | must_vanish

    for witness, estimate in estimates.items():
        expected = as_rows(estimate.gradient)[at]
        # without logits of its own to measure by, a loss is measured against the witness
        measure = row_norm(expected) if scale is None else scale
        # balls have no rounding of their own: what is left is that of a correct pass
        room = problem.pass_error if witness in ON_REQUEST and problem.pass_error else problem.rounding
        rounding = room[name][at] if name in room else 0.0
        with np.errstate(all="ignore"):
            tolerance = estimate.error[at] + rounding + TINY
            looked = np.isfinite(tolerance) & ~not_finite & ~must_vanish
            # a witness that is not sure enough to confirm a row may still be sure that it is wrong
            sees = looked & (tolerance <= BLIND * measure)
            error = row_norm(rows - expected)
            relative, allowed = error / measure, tolerance / measure
        decided |= sees
        seen = result.witnesses[witness]
        seen.decided = int(np.count_nonzero(sees))
        if seen.decided:
            seen.worst, seen.resolution = float(relative[sees].max()), float(allowed[sees].max())
        refuted = looked & ~(error <= tolerance)
        wrong.add(refuted, "is wrong", witness, expected, tolerance, measure)
    result.failed = int(np.count_nonzero(wrong.rows))
    result.undecided = int(np.count_nonzero(~decided & ~wrong.rows))
    result.passed = len(at) - result.failed - result.undecided
    if result.failed:
        result.failures.append(wrong.failure(name, len(due), problem.samples, float(problem.inputs.get("scale", 1.0))))
    return result


class _Wrong:
    """The wrong rows of one gradient, each beside what the first witness against it says."""

    def __init__(self, got: np.ndarray, at: np.ndarray) -> None:
        self.got, self.at, self.expected = got, at, np.zeros(got.shape)  # at: which rows these are
        self.rows = np.zeros(len(got), dtype=bool)
        self.error, self.measure = np.full(len(got), np.inf), np.ones(len(got))
        self.tolerance = np.zeros(len(got))
        self.said: dict[int, tuple[str, str]] = {}  # row → witness and reason

    def add(
        self, where: np.ndarray, reason: str, witness: str = "", expected: np.ndarray | None = None,
        tolerance: np.ndarray | None = None, measure: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Marks rows as wrong, those that are not yet."""
        new = where & ~self.rows
        self.rows |= where
        self.said |= {int(r): (witness, reason) for r in np.flatnonzero(new)}
        if expected is not None and tolerance is not None and measure is not None:
            self.expected[new], self.tolerance[new], self.measure[new] = expected[new], tolerance[new], measure[new]
            self.error[new] = row_norm(self.got[new] - expected[new])

    def failure(self, name: str, dimensions: int, samples: int, scale: float) -> Failure:
        """The worst row, and what is known of all."""
        with np.errstate(all="ignore"):
            relative, allowed = self.error / self.measure, self.tolerance / self.measure
            off = np.abs(self.got - self.expected)
        r = int(np.argmax(np.where(self.rows, np.nan_to_num(relative, nan=np.inf), -1.0)))
        d = int(np.argmax(np.nan_to_num(off[r], nan=np.inf)))
        row = int(self.at[r])
        return Failure(
            name, row, {2: (row, d), 1: (row,), 0: ()}[dimensions], float(self.got[r, d]), float(self.expected[r, d]),
            float(relative[r]), float(allowed[r]), *self.said[r], len(self.said), len(self.got),
            *self._factor(samples, scale),
        )  # fmt: skip

    def _factor(self, N: int, s: float) -> tuple[float | None, str]:
        """c of got = c · expected in all wrong rows, up to rounding, and its name."""
        got, expected, room, error = (v[self.rows] for v in (self.got, self.expected, self.tolerance, self.error))
        if not np.isfinite(error).all():
            return None, ""

        def fits(c: float) -> bool:
            left = row_norm(got - c * expected)
            return bool(np.all((left <= 4 * room * max(1.0, abs(c))) & (left <= FITS * error)))

        named = {0.0: "0", -1.0: "−1", 2.0: "2", 0.5: "1/2"}
        for letter, size in (("N", float(N)), ("s", s)):
            for sign, minus in ((1, ""), (-1, "−")) if size else ():
                named.setdefault(sign * size, f"{minus}{letter} ({letter} = {size:g})")
                named.setdefault(sign / size, f"{minus}1/{letter} ({letter} = {size:g})")
        with np.errstate(all="ignore"):
            for c, name in named.items():
                if fits(c):
                    return c, name
            weighted = expected / room[:, None]
            fitted = float(np.sum(got / room[:, None] * weighted) / np.sum(weighted**2))
            return (fitted, "") if got.size > 1 and fits(fitted) else (None, "")
