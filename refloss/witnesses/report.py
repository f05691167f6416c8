"""What gradcheck found: a verdict, a table as its text, and the failures one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from refloss.report import BaseReport, Grid, MismatchError, counted, first_of_each
from refloss.witnesses.batches import EVALUATIONS
from refloss.witnesses.compare import Failure, InputResult

GradcheckError = MismatchError  # the name that it had

COUNTS = ("rows", "failed", "undecided")
LEGEND = "per witness: largest error found (largest error that could have passed), relative to the natural scale"


@dataclass
class CaseResult:
    """One loss on one case: a verdict for every input.

    Attributes:
        loss (str): the name that it is grouped under.
        case (str): the case's name.
        made_by (str): the loss's repr, parameters included.
        inputs (list of InputResult): one for each of x, W, b, scale, margin, alpha that the loss has.
        reached (dict): branch or regime → the number of rows in it.
        note (str): what was set aside, and why.
        compared (dict): input → the rows that were chosen; an input of which all were compared is missing.
        drawn (dict): input → the rows that finite differences and complex step looked at, where all would have taken
            too long.
        seed (int): what they were drawn with.
    """

    loss: str  # the name that it is grouped under
    case: str
    made_by: str  # its repr, parameters included
    inputs: list[InputResult]
    reached: dict[str, int] = field(default_factory=dict)
    note: str = ""
    compared: dict[str, list[int]] = field(default_factory=dict)
    drawn: dict[str, list[int]] = field(default_factory=dict)
    seed: int = 0

    @property
    def failures(self) -> list[Failure]:
        """All `Failure` objects of its inputs."""
        return [failure for result in self.inputs for failure in result.failures]


@dataclass
class Report(BaseReport):
    """The verdict of `refloss.gradcheck`. Its truth value is the verdict, its text a table.

    Attributes:
        results (list of CaseResult): one per loss and case, with an `InputResult` per input.
        branches (dict): loss name → every branch that it has.
        strict (bool): whether every row had to be decided.
        verbose (bool): False: the text is the table, what is wrong and the verdict.
    """

    suite = "refloss gradcheck"

    results: list[CaseResult]
    branches: dict[str, list[str]] = field(default_factory=dict)
    strict: bool = False
    verbose: bool = True

    @property
    def failures(self) -> list[tuple[CaseResult, Failure]]:
        """(case result, failure) pairs, one for each case and input with a wrong row."""
        return [(result, failure) for result in self.results for failure in result.failures]

    @property
    def undecided(self) -> int:
        """The number of rows on which every witness abstained, which are never counted as passed."""
        return sum(i.undecided for result in self.results for i in result.inputs)

    @property
    def unseen(self) -> list[tuple[str, str]]:
        """(loss, input) pairs of which no row of any case was decided."""
        decided: dict[tuple[str, str], int] = {}
        for result in self.results:
            for i in result.inputs:
                key = (result.loss, i.input)
                decided[key] = decided.get(key, 0) + i.passed + i.failed + (i.rows == 0)
        return [key for key, rows in decided.items() if rows == 0]

    @property
    def passed(self) -> bool:
        """Whether no row failed, and of every input at least one row was decided; if strict, every row."""
        if self.strict and self.undecided:
            return False
        return bool(self.results) and not self.failures and not self.unseen

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "undecided": self.undecided,
            "unseen": [list(pair) for pair in self.unseen],
            "results": [asdict(result) for result in self.results],
        }

    # -- text --------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<gradcheck report: {self.verdict()}>"

    def grid(self) -> Grid:
        """One line for each loss if there are several cases, else one line for each input.

        Returns:
            Grid: header and rows.
        """
        several = len(self.results) > 1
        groups: dict[tuple[str, str], list[InputResult]] = {}
        cases: Counter = Counter(result.loss for result in self.results)
        for result in self.results:
            for i in result.inputs:
                what = str(cases[result.loss]) if several else f"grad_{i.input}"
                groups.setdefault((result.loss, what), []).append(i)
        witnesses = list(dict.fromkeys(w for rows in groups.values() for i in rows for w in i.witnesses))
        counts = {key: [sum(getattr(i, name) for i in rows) for name in COUNTS] for key, rows in groups.items()}
        if self.verbose:
            names, letters = ["loss", "cases" if several else "gradient"], "lr" if several else "ll"
        else:
            names, letters = ["loss" if several else "gradient"], "l"

        def shown(key: tuple[str, str], witness: str) -> str:
            seen = _seen(groups[key], witness)
            return seen if self.verbose else seen.split(" (")[0]

        return Grid(
            [*names, *COUNTS, *(name if self.verbose else name.replace("_", "\n") for name in witnesses)],
            [
                [*(key if self.verbose else key[not several :][:1]), *map(str, counts[key]),
                 *(shown(key, witness) for witness in witnesses)]
                for key in groups
            ],
            letters + "r" * (len(COUNTS) + len(witnesses)),
            [bool(failed) for _, failed, _ in counts.values()],
        )  # fmt: skip

    def details(self) -> list[str]:
        """The legend, branches reached, what stays undecided, and the failures.

        Returns:
            list of str: the lines.
        """
        notes = [f"{result.loss}: {result.note}" for result in self.results if result.note][:1]
        lines = [*notes, *self._chosen_lines()]
        if self.verbose:
            lines = [LEGEND, *lines, *self._coverage_lines(), *self._undecided_lines()]
        groups: dict[tuple[str, str], list[str]] = {}
        factors = {failure.factor_name for _, failure in self.failures}
        common = factors.pop() if len(factors) == 1 else ""
        for result, failure in self.failures:
            if common:  # it is said once, below
                failure = replace(failure, factor=None)
            line = f"FAILED {result.made_by}, case {result.case}: {failure}"
            groups.setdefault((result.loss, failure.input), []).append(line)
        failures = first_of_each(groups.values(), 20, "gradients that are wrong, see .failures")
        unseen = [f"NOT CHECKED {loss}: no witness could decide any row of grad_{name}" for loss, name in self.unseen]
        wrapped = [part for line in lines for part in self._wrapped(line)]
        if common:
            failures.append(f"every wrong row of every gradient: got = {common} × expected")
        return [*wrapped, *failures, *self._right_lines(), *unseen]

    @property
    def _heading(self) -> str:
        return "" if self.verbose or len(self.results) != 1 else self.results[0].made_by

    def _tests(self) -> list[tuple[str, str, list[str]]]:
        unseen = "no witness could decide any row"
        return [
            *((result.loss, result.case, [*map(str, result.failures)]) for result in self.results),
            *((loss, f"grad_{name} checked", [unseen]) for loss, name in self.unseen),
        ]

    def _right_lines(self) -> list[str]:
        """Of every loss with a wrong gradient, the gradients that are right: they narrow it down."""
        lines = []
        for loss in dict.fromkeys(result.loss for result, _ in self.failures):
            of_loss = [i for result in self.results if result.loss == loss for i in result.inputs]
            wrong = {i.input for i in of_loss if i.failed}
            right = dict.fromkeys(f"grad_{i.input}" for i in of_loss if i.passed and i.input not in wrong)
            if right:
                lines.append(f"{loss}: right in every case: {', '.join(right)}")
        return lines

    def _chosen_lines(self) -> list[str]:
        """What was not looked at by everyone."""
        by: dict[str, list[str]] = {}
        for result in self.results:
            total = {i.input: i.rows for i in result.inputs}
            chosen = [f"{len(rows)} rows of {name}" for name, rows in result.compared.items() if name in total]
            words = f"compared: {' and '.join(chosen)}, as chosen" if chosen else ""
            if result.drawn:
                of = [
                    f"{len(rows)} of {total[name]} rows of {name} ({_some(rows)})"
                    for name, rows in result.drawn.items()
                ]
                who = [w for w in EVALUATIONS if any(w in i.witnesses for i in result.inputs)]
                words += f"{'; ' if words else ''}{' and '.join(who)} looked at {' and '.join(of)}, "
                words += f"drawn with seed {result.seed}; rows and classes choose others"
            if words:
                by.setdefault(words, []).append(result.loss)
        return [f"{', '.join(dict.fromkeys(losses))}: {words}" for words, losses in by.items()]

    def _coverage_lines(self) -> list[str]:
        total: dict[str, Counter] = {}
        for result in self.results:
            total.setdefault(result.loss, Counter()).update(result.reached)
        lines = []
        for loss, count in total.items():
            wanted = self.branches.get(loss, [])
            if wanted:
                hit = [(name, count[name]) for name in wanted if count[name]]
                missed = [name for name in wanted if not count[name]]
                line = f"{loss}: branches reached {len(hit)}/{len(wanted)}: {counted(hit)}"
                lines.append(line + (f"; not reached: {', '.join(missed)}" if missed else ""))
        return lines

    def _undecided_lines(self) -> list[str]:
        where: dict[str, Counter] = {}
        for result in self.results:
            rows = sum(i.undecided for i in result.inputs)
            if rows:
                where.setdefault(result.loss, Counter())[result.case] += rows
        return [f"{loss}: undecided in {counted(cases.items())}" for loss, cases in where.items()]

    def verdict(self) -> str:
        """How many rows were confirmed, wrong and undecided.

        Returns:
            str: the line.
        """
        rows = sum(i.rows for result in self.results for i in result.inputs)
        wrong = sum(i.failed for result in self.results for i in result.inputs)
        line = f"{rows} gradient rows, {rows - wrong - self.undecided} confirmed, {wrong} wrong"
        zero = sum(i.exact_zero for result in self.results for i in result.inputs)
        if zero:
            line = line.replace("confirmed", f"confirmed ({zero} of them exactly 0, as they had to be)")
        line = f"{'PASSED' if self.passed else 'FAILED'}: {line}, {self.undecided} undecided"
        why = "no witness can see them in float64"
        if any(result.drawn for result in self.results):
            why += ", or none looked at them"
        if not self.verbose:
            why += "; --verbose says where"
        return line + (f" ({why})" if self.undecided else "")


def _some(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")


def _seen(rows: list[InputResult], witness: str) -> str:
    """'worst error (largest error that could have passed)', both relative to the natural scale."""
    seen = [i.witnesses[witness] for i in rows if witness in i.witnesses and i.witnesses[witness].decided]
    if not seen:
        return "abstains"
    decided, total = sum(s.decided for s in seen), sum(i.rows for i in rows)
    few = f" {decided}/{total}" if decided < total / 2 else ""  # a long input: only some rows were affordable
    return f"{max(s.worst for s in seen):.0e} ({max(s.resolution for s in seen):.0e}){few}"
