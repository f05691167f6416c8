"""`refloss.testing.precision`: which step of a loss needs the compute dtype, and which may be kept in 16 bits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refloss.cases.oracle import cases as all_cases
from refloss.losses import CrossEntropy
from refloss.losses.loss import Loss
from refloss.precision.dtypes import DTYPES
from refloss.report import BaseReport, Grid
from refloss.testing.judging.truth import GRADES, Truth, computed_in, truth_on
from refloss.testing.reproduce import described
from refloss.testing.stepwise import Stepwise
from refloss.textbook.family import member_of
from refloss.validation import one_of

ASKED = ("C", "D")  # the grades that a kernel for 16 bits is asked for
INNER = ("x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities")  # not what a user of the loss gets
NOTHING, EVERYTHING = "nothing", "everything"


def precision(
    loss: Any,
    *,
    dtype: str = "bfloat16",
    compute: str | None = None,
    cases: str | Sequence[str] = "quick",
    seed: int = 0,
) -> PrecisionReport:
    """Finds which steps of a plain kernel need the compute dtype, and which may be kept in a coarser one.

    The kernel computes in compute. One step at a time is rounded to dtype, then every step but one; each time losses
    and gradients are judged as `refloss.testing.check` judges those of any kernel.

    Args:
        loss (Loss or CrossEntropy): the refloss object.
        dtype (str): what a step is rounded to: "bfloat16", "float16", or "float32" with compute="float64".
        compute (str): "float32" or "float64"; for 16 bits "float32" by default.
        cases (str or sequence of str): "quick", "all", or names of cases.
        seed (int): of the cases' random parts.

    Returns:
        PrecisionReport: step × stage; its text begins with the answer.

    Raises:
        ValueError, TypeError: in one line, for an unknown dtype or case, a compute that is no finer than dtype, a loss
            that is none.

    Example:
        >>> import refloss
        >>> report = precision(refloss.CrossEntropy(), cases=["typical"])
        >>> report.needed["C"]
        ['lse', 'accumulator of sum_exp', 'sum_exp', 'probabilities', 'logits - maximum']
    """
    study = Study(loss, dtype=dtype, compute=compute, cases=cases, seed=seed)
    for _ in study.run():
        pass
    return study.report


@dataclass(frozen=True)
class Marks:
    """How one variant of the kernel did.

    Attributes:
        stages (Mapping): stage → its grade over all cases, and its largest error in units of what grade C allows there.
    """

    stages: Mapping[str, tuple[str, float]]

    @property
    def grade(self) -> str:
        """The worst grade of the losses and gradients."""
        return max(self._outer(), default=("A", 0.0))[0]

    @property
    def error(self) -> float:
        """The largest error of the losses and gradients, in units of what grade C allows."""
        return max((error for _, error in self._outer()), default=0.0)

    def _outer(self) -> list[tuple[str, float]]:
        return [mark for stage, mark in self.stages.items() if stage not in INNER]


@dataclass
class PrecisionReport(BaseReport):
    """Which step needs the compute dtype. Its truth value says whether the kernel without any rounding has grade C.

    Attributes:
        loss (str): the loss, as Python writes it.
        dtype (str): what steps were rounded to.
        compute (str): what they were computed in.
        cases (list of str): the inputs.
        nothing (Marks): no step rounded.
        everything (Marks): every step rounded.
        only (dict): step → `Marks`, that step alone rounded; in the order of the kernel.
        all_but (dict): step → `Marks`, every step but that one rounded.
        together (dict): "C", "D" → steps that may be rounded all at once at that grade. None of the others can join
            them; another choice may be as good.
    """

    loss: str
    dtype: str
    compute: str
    cases: list[str]
    nothing: Marks = field(default_factory=lambda: Marks({}))
    everything: Marks = field(default_factory=lambda: Marks({}))
    only: dict[str, Marks] = field(default_factory=dict)
    all_but: dict[str, Marks] = field(default_factory=dict)
    together: dict[str, list[str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the kernel without any rounding has grade C at least, so that the rest tells something."""
        return self.nothing.grade <= "C"

    @property
    def needed(self) -> dict[str, list[str]]:
        """ "C", "D" → the steps that are not in `together`, the worst first."""
        by_error = sorted(self.only, key=lambda step: -self.only[step].error)
        return {grade: [step for step in by_error if step not in kept] for grade, kept in self.together.items()}

    def verdict(self) -> str:
        """The grades of the kernel with no step rounded, and with all.

        Returns:
            str: the line.
        """
        return (
            f"{self.loss}: grade {self.nothing.grade} in {self.compute} throughout, {self.everything.grade} with every "
            f"step in {self.dtype}, on {len(self.cases)} cases"
        )

    @property
    def _heading(self) -> str:
        lines = []
        for grade, kept in self.together.items():
            needed = self.needed[grade]
            mild = [step for step in needed if self.only[step].grade <= grade]
            bound = [step for step in kept if self.only[step].grade > grade]
            for words, steps in (
                (f"Grade {grade} needs {self.compute} in", needed or ["no step"]),
                (f"  {self.dtype} will do, all at once, in", kept),
                (f"  {self.dtype} would do in one of these alone", mild),
                (f"  {self.dtype} will not do in one of these alone, though it does in all", bound),
            ):
                if steps:
                    lines += self._wrapped(f"{words}: {', '.join(steps)}", 4)
        return "\n".join([*lines, ""])

    def grid(self) -> Grid:
        """Rounded steps × stages: the grade, and the error in units of what grade C allows.

        Returns:
            Grid: header and rows.
        """
        header, *rows = self._rows()
        shown = [row for row in rows if row not in self._folded()]
        return Grid(header, shown, wrong=[any(cell.startswith("F") for cell in cells) for _, *cells in shown])

    def details(self) -> list[str]:
        """What a cell says, and how many rows are not shown.

        Returns:
            list of str: the lines.
        """
        alone = sum(name.startswith("only") for name, *_ in self._folded())
        return [
            "A cell: the grade, and the largest error in units of what grade C allows there.",
            f"Not shown, for they change nothing: {alone} steps alone in {self.dtype}, {len(self._folded()) - alone} "
            f"alone in {self.compute}.",
        ]

    def _rows(self) -> list[list[str]]:
        """Header and every row of the table."""
        stages = [stage for stage in self.nothing.stages if stage not in INNER]
        rows = [(NOTHING, self.nothing), *((f"only {step}", marks) for step, marks in self.only.items())]
        rows += [(EVERYTHING, self.everything), *((f"all but {step}", marks) for step, marks in self.all_but.items())]
        cells = [[name, *(_cell(*marks.stages[stage]) for stage in stages)] for name, marks in rows]
        return [[f"in {self.dtype}", *stages], *cells]

    def _folded(self) -> list[list[str]]:
        """The rows in which the step makes no difference."""
        _, *rows = self._rows()
        nothing, everything = (next(row for row in rows if row[0] == name) for name in (NOTHING, EVERYTHING))
        return [
            row
            for row in rows
            if row not in (nothing, everything)
            and row[1:] == (nothing if row[0].startswith("only") else everything)[1:]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON; the inner stages too.

        Returns:
            dict: of plain values.
        """
        return {
            "loss": self.loss,
            "dtype": self.dtype,
            "compute": self.compute,
            "cases": self.cases,
            "needed": self.needed,
            "together": self.together,
            "nothing": _plain(self.nothing),
            "everything": _plain(self.everything),
            "only": {step: _plain(marks) for step, marks in self.only.items()},
            "all_but": {step: _plain(marks) for step, marks in self.all_but.items()},
        }

    def to_markdown(self) -> str:
        """The answer and the table in Markdown.

        Returns:
            str: the Markdown.
        """
        return f"{self._heading}\n{super().to_markdown()}"


def _cell(grade: str, error: float) -> str:
    return f"{grade} {error:.2g}" if error else grade


def _plain(marks: Marks) -> dict[str, Any]:
    return {stage: {"grade": grade, "error": error} for stage, (grade, error) in marks.stages.items()}


class Study:
    """One question. `run()` yields the step it is done with, so that a caller may show how far it is."""

    def __init__(self, loss: Any, *, dtype: str, compute: str | None, cases: Any, seed: int) -> None:
        one_of(dtype, "dtype", tuple(DTYPES))
        compute = compute or computed_in(dtype)
        one_of(compute, "compute", ("float32", "float64"))
        if DTYPES[compute].digits <= DTYPES[dtype].digits:
            raise ValueError(f"compute must be finer than dtype, got {compute!r} for {dtype!r}")
        if not (isinstance(seed, (int, np.integer)) and seed >= 0):
            raise ValueError(f"seed must be an integer ≥ 0, got {seed!r}")
        if not isinstance(loss, CrossEntropy):
            if not isinstance(loss, Loss):
                raise TypeError(f"loss must be one of refloss, got {getattr(loss, '__name__', type(loss).__name__)}")
            member_of(loss)  # says what is missing
        loss = replace(loss, precision="double")
        every = {case.name: case for case in all_cases(loss, dtype, seed)}
        if isinstance(cases, str) and cases in ("all", "quick"):
            chosen = [case for case in every.values() if cases == "all" or case.quick]
        else:
            names = [cases] if isinstance(cases, str) else list(cases)
            unknown = [str(name) for name in names if name not in every]
            if unknown or not names:
                raise ValueError(
                    f"cases must be 'quick', 'all' or names; {f'unknown: {unknown[0]}' if unknown else 'none is given'}"
                )
            chosen = [every[name] for name in names]
        self.truths: list[Truth] = []
        for case in chosen:
            upstream: Any = case.upstreams if loss.reduction == "none" else np.float64(case.upstream)
            self.truths.append(truth_on(loss, case.inputs, case.labels, upstream, dtype, compute))
        self.report = PrecisionReport(described(loss), dtype, compute, [case.name for case in chosen])
        self.steps = self._steps()

    def _kernel(self, truth: Truth, coarse: Collection[str]) -> Stepwise:
        return Stepwise(truth.plain, truth.compute, truth.dtype, coarse)

    def _steps(self) -> list[str]:
        """Of all cases: not every one has a bias."""
        found: dict[str, None] = {}
        for truth in self.truths:
            kernel = self._kernel(truth, ())
            kernel.run()
            found |= kernel.steps
        return list(found)

    def run(self) -> Iterator[str]:
        """Fills the report."""
        report, every = self.report, frozenset(self.steps)
        report.nothing, report.everything = self._marks(()), self._marks(every)
        for step in self.steps:
            report.only[step] = self._marks({step})
            report.all_but[step] = self._marks(every - {step})
            yield step
        for grade in ASKED:
            kept = self._together(grade)
            report.together[grade] = [step for step in self.steps if step in kept]

    def _together(self, grade: str) -> Collection[str]:
        """Steps that can be rounded at once, so many that none can join them: all, or one by one, the mildest first."""
        if self.report.everything.grade <= grade:
            return self.steps
        kept: set[str] = set()
        left = sorted(self.steps, key=lambda step: self.report.only[step].error)
        while joined := {step for step in left if step not in kept and self._joins(kept, step, grade)}:
            left = [step for step in left if step not in joined]
        return kept

    def _joins(self, kept: set[str], step: str, grade: str) -> bool:
        """Adds the step if the grade is kept."""
        if holds := self._holds({*kept, step}, grade):
            kept.add(step)
        return holds

    def _marks(self, coarse: Collection[str]) -> Marks:
        worst: dict[str, tuple[str, float]] = {}
        for truth in self.truths:
            for stage, mark in _judged(truth, self._kernel(truth, coarse)).items():
                grade, error = worst.get(stage, ("A", 0.0))
                worst[stage] = max(grade, mark[0]), max(error, mark[1])
        return Marks(worst)

    def _holds(self, coarse: Collection[str], grade: str) -> bool:
        return all(Marks(_judged(truth, self._kernel(truth, coarse))).grade <= grade for truth in self.truths)


def _judged(truth: Truth, kernel: Stepwise) -> dict[str, tuple[str, float]]:
    """stage → grade, and the error in units of what C allows."""
    found, got = {}, kernel.run()
    for stage in truth.stages:
        excess = truth.excess(stage, got[stage].astype(float))
        grade = next((grade for grade in GRADES if (excess <= truth.allowed(stage, grade)).all()), "F")
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(excess > 0, excess / truth.allowed(stage, "C"), 0.0)
        found[stage] = grade, float(np.max(error, initial=0.0))
    return found
