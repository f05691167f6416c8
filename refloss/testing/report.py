"""What `check` found: a verdict, a grade, the first wrong stage, which bug that looks like, and what to do next."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from refloss.record import STAGES
from refloss.report import BaseReport, Grid, capped, first_of_each, say
from refloss.testing.adapters import LOST
from refloss.testing.diagnosis.match import Match
from refloss.testing.diagnosis.rows import Arrow, Rows
from refloss.textbook.family import derived_at

EXPLAINED = {
    "A": "the last place of the output's dtype",
    "B": "a stable formula in {compute}",
    "C": "the textbook formula in {compute}",
    "D": "the textbook formula in {compute}, with what the steps hand on stored in {dtype}",
    "E": "the textbook formula in {dtype} throughout",
    "F": "nothing: it is wrong",
}


FACTS, WRONG, RIGHT = 2, 12, 3  # facts on the first screen; cases named in a group that is wrong, or right


@dataclass(frozen=True)
class Failure:
    """One stage of one case that is wrong.

    Attributes:
        case (str): the case's name.
        stage (str): the stage's name.
        kind (str): "value"; or "nan", "inf", "shape", "dtype", "exception", "mutated", "unwritten",
            "nondeterministic", "no_gradient", "wrong_type", "law", "overwritten", "exited", "memory"; of an isolated
            kernel also "crashed", "timeout", "not_run", "global_state", "printed"; "convention", NaN for 0·(−inf).
        message (str): in one line.
        grade (str): what the stage got, "F" unless an envelope wider than the required one explains it.
        index (tuple): of the worst entry.
        got (float): that entry, as it came.
        expected (float): what was due.
        error (float): how far off, absolute: that entry; of grad_x and grad_W its row, in the Euclidean norm.
        tolerance (float): what was allowed of that, absolute.
        role (str): what that entry is (target, other class, ignored row …).
        ratio (float): error / tolerance.
    """

    case: str
    stage: str
    kind: str
    message: str
    grade: str = "F"
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    error: float | None = None
    tolerance: float | None = None
    role: str = ""
    ratio: float = float("inf")  # of what is allowed

    def __str__(self) -> str:
        return f"{self.case}: {self.message}"


@dataclass(frozen=True)
class Fact:
    """One thing that is true of what came back, computed from the numbers and not from a list of known bugs.

    Attributes:
        sentence (str): what is true, in one plain sentence: "grad_x is 4 × what is due in every row".
        evidence (str): in how many of the failing cases it holds, and that it does not hold in the passing ones.
        stage (str): the stage it is about.
        cases (tuple of str): the failing cases in which it holds.
        strength (float): the share of the failing cases of that stage in which it holds; the strongest comes first.
    """

    sentence: str
    evidence: str
    stage: str
    cases: tuple[str, ...] = ()
    strength: float = 1.0


@dataclass
class CaseResult:
    """One case: the grade of every stage that came back.

    Attributes:
        name (str): the case's name.
        reason (str): what it provokes.
        flags (tuple of str): the field's terms for it.
        shape (str): of the input.
        grades (dict): stage → "A" … "F".
        ratios (dict): stage → worst error / what is allowed at the required grade.
        failures (list of Failure): what is wrong.
        notes (list of str): conventions that differ from the reference's and are no failure.
    """

    name: str
    reason: str
    flags: tuple[str, ...]
    shape: str
    grades: dict[str, str] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)  # worst error / what is allowed at the required grade
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def grade(self) -> str:
        """The worst grade of its stages and of its failures; "F" if something else than a size is wrong."""
        worst = max(self.grades.values(), default="A")
        return max([worst, *(f.grade for f in self.failures)])


@dataclass
class Report(BaseReport):
    """The verdict of `refloss.testing.check`. Its truth value is the verdict, its text what to read.

    Attributes:
        loss (str): the reference.
        implementation (str): what was checked.
        dtype (str): of the inputs.
        compute (str): what grades A to C are computed in.
        framework (str): of the arrays.
        require: the worst grade that passes, or a dict from stages to theirs (the others' is the default).
        results (list of refloss.testing.report.CaseResult): one per case.
        coverage (dict): flag, branch or regime → how many cases (of branches and regimes: rows) reached it.
        not_reached (list of str): branches and regimes that the loss has and no case reached.
        void (list of tuple): (case, stage, wrong copy) that the tolerances would have let pass.
        not_checked (dict): gradient stage or loss → wrong copies that no case would have caught; such a run does not
            pass.
        oracle_faults (list of str): where the reference itself fell out of all envelopes.
        facts (list of refloss.testing.report.Fact): what is true of the failure, whatever its cause; strongest first.
        suspects (list of Match): known bugs that explain what came out, best first.
        laws (dict): law → (held, tried, first case that broke it).
        advice (list of str): what would fail at grade B where C can tell nothing.
        underflow (dict): stage → how many entries lie below the normal numbers of the dtype.
        notes (list of str): what was left out, and why.
        shrunk (str): the smallest failing input found, in words.
        reproducer (str): code to run it.
        derived (dict): stage → page and steps of the derivation.
        chosen (str): "quick " where not all cases were asked for.
        seed (int): of the cases' random parts.
        versions (dict): package → version, of what took part.
        rows (list of refloss.testing.diagnosis.rows.Rows): how far off every sample of every case is; not in the JSON.
        arrows (list of refloss.testing.diagnosis.rows.Arrow): the gradient of wrong rows in a plane; not in the JSON.
    """

    width = 80
    suite = "refloss check"

    loss: str
    implementation: str
    dtype: str
    compute: str
    framework: str
    require: str | dict[str, str]
    results: list[CaseResult] = field(default_factory=list)
    coverage: dict[str, int] = field(default_factory=dict)
    not_reached: list[str] = field(default_factory=list)
    void: list[tuple[str, str, str]] = field(default_factory=list)
    not_checked: dict[str, list[str]] = field(default_factory=dict)
    oracle_faults: list[str] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    suspects: list[Match] = field(default_factory=list)
    laws: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)
    underflow: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shrunk: str = ""
    reproducer: str = ""
    derived: dict[str, str] = field(default_factory=dict)
    chosen: str = ""  # "quick " where not all cases were asked for
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    rows: list[Rows] = field(default_factory=list)  # these two are what the page draws
    arrows: list[Arrow] = field(default_factory=list)

    # -- the verdict -------------------------------------------------------------------------------

    @property
    def failures(self) -> list[Failure]:
        """Every stage of every case that is wrong."""
        return [failure for result in self.results for failure in result.failures]

    @property
    def passed(self) -> bool:
        """Whether there is no failure, every gradient stage was checked, and at least one case ran."""
        graded = any(result.grades for result in self.results)
        return graded and not self.failures and not self.not_checked and not self.oracle_faults

    @property
    def grade(self) -> str:
        """The worst grade over cases, "A" … "F"; or "" if nothing could be graded."""
        ran = [result for result in self.results if result.grades or result.failures]
        return max((result.grade for result in ran), default="")

    @property
    def first_divergent_stage(self) -> str | None:
        """The stage where most of the wrong cases begin, the earlier of two; or None.

        Cases that nothing explains (grade F) go before those that only lose precision, wrong stages before calls that
        ended without any.
        """
        begun = self._begun()
        return max((stage for stage in STAGES if stage in begun), key=begun.__getitem__, default=None)

    def _begun(self) -> Counter[str]:
        """stage → in how many of the wrong cases it is the first that is wrong."""
        wrong = [result.failures for result in self.results if result.failures]
        for matters in (lambda f: f.kind not in LOST, lambda f: f.grade == "F"):
            kept = [[failure for failure in failures if matters(failure)] for failures in wrong]
            wrong = [failures for failures in kept if failures] or wrong
        each = [{failure.stage for failure in failures} for failures in wrong]
        return Counter(next(stage for stage in STAGES if stage in those) for those in each if those & set(STAGES))

    @property
    def stages(self) -> list[str]:
        """The stages that came back somewhere, in order."""
        seen = {stage for result in self.results for stage in result.grades}
        return [stage for stage in STAGES if stage in seen]

    # -- for machines ------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        computed = {"passed": self.passed, "grade": self.grade, "first_divergent_stage": self.first_divergent_stage}
        everything = asdict(replace(self, rows=[], arrows=[]))
        return computed | {name: value for name, value in everything.items() if name not in ("rows", "arrows")}

    def to_html(self, path: str | None = None) -> str:
        """The report as one HTML page that needs no script and no network, with the errors and gradients drawn.

        Args:
            path (str): a file to write it to as well, whole or not at all; or None.

        Returns:
            str: the HTML.

        Raises:
            OSError: the file cannot be written.
        """
        from refloss.testing.page import page

        return self._kept(page([(self._heading, self)]), path)

    def _tests(self) -> list[tuple[str, str, list[str]]]:
        missed = [(f"{stage} checked", f"no case would have caught: {', '.join(mutants)}")
                  for stage, mutants in self.not_checked.items()]  # fmt: skip
        missed += [("the oracle", fault) for fault in self.oracle_faults]
        return [
            *((self.loss, result.name, [f.message for f in result.failures]) for result in self.results),
            *((self.loss, name, [message]) for name, message in missed),
        ]

    # -- for people --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else "FAILED" if self.failures else "not checked"
        return f"<refloss check: {verdict}, grade {self.grade or 'none'}>"

    @property
    def _heading(self) -> str:
        """What was compared with what."""
        return f"{self.implementation} against {self.loss} · {self.framework} {self.dtype}"

    @property
    def _headline(self) -> str:
        """Loss, grade, stage and fact in one line."""
        verdict, stage = self.verdict(), self.first_divergent_stage
        if self.failures and not self.oracle_faults:
            wrong = [result for result in self.results if any(f.stage == stage for f in result.failures)]
            what = f"{stage} wrong in {len(wrong)} of {len(self.results)} cases"
            facts = sorted(self.facts, key=lambda fact: fact.stage != stage)
            why = facts[0].sentence if facts else max((f for f in self.failures if f.stage == stage), key=_over).message
            if ended := self._ended():
                what, _, why = ended[0].partition(": ")
            verdict = f"grade {self.grade}, {what}: {why}"
        return f"{self.loss.removeprefix('refloss.')} {self.dtype}: {verdict}"

    def print(self, console: Any) -> None:
        """Prints the first screen, the cases by what differs, the table of stages and the reproducer.

        Args:
            console (rich.console.Console): where to.
        """
        say(console, self._heading)
        say(console, self.verdict(), "bold green" if self.passed else "bold red")
        for line in self._first_screen():
            say(console, line)
        for grid in (self._case_grid(), self.grid()):
            if grid.rows:
                say(console)
                console.print(grid.table())
        for line in self.details():
            say(console, line)
        if self.reproducer:
            say(console)
            for line in self._wrapped(f"to reproduce ({self.shrunk}):"):
                say(console, line)
            say(console, "\n" + textwrap.indent(self.reproducer, "    "))

    def verdict(self) -> str:
        """The grade and what it means, or how many cases are wrong.

        Returns:
            str: the line.
        """
        wrong = sum(bool(result.failures) for result in self.results)
        if self.oracle_faults:
            return f"THE ORACLE IS AT FAULT: {self.oracle_faults[0]}"
        if not any(result.grades or result.failures for result in self.results):
            return "NOTHING RAN"
        cases = f"{len(self.results)} {self.chosen}case{'s' if len(self.results) != 1 else ''}"
        if self.passed:
            means = EXPLAINED[self.grade].format(compute=self.compute, dtype=self.dtype)
            grade = f"grade {self.grade} ({self._required} required)"
            return f"PASSED with {grade}: every error is explained by {means}; {cases}"
        if wrong:
            return f"FAILED: {wrong} of {cases} wrong, grade {self.grade} ({self._required} required){self._split()}"
        return f"NOT CHECKED: no case is wrong, but {', '.join(self.not_checked)} could have been; {cases}"

    @property
    def _required(self) -> str:
        """The grade that was asked for; or each stage's."""
        if isinstance(self.require, str):
            return self.require
        return ", ".join(f"{stage} {grade}" for stage, grade in self.require.items())

    def _split(self) -> str:
        """How many of the cases are wrong, and how many only lose precision."""
        less = [
            r.grade for r in self.results if r.grade != "F" and any(f.kind == "value" for f in r.failures)
        ]  # fmt: skip
        if not less:
            return ""
        means = EXPLAINED[max(less)].format(compute=self.compute, dtype=self.dtype)
        return f"; {len(less)} of these lose precision and no more: {max(less)} is {means}"

    def _first_screen(self) -> list[str]:
        """What a reader needs first: where it begins, what is true of it, which bug that looks like; then the rest."""
        lines: list[str] = []
        for words in self._ended():
            lines += self._wrapped(words, 4)
        if begins := self._begins():
            lines += self._wrapped(begins, 4)
        for fact in self.facts[:FACTS]:
            lines += self._wrapped(f"fact: {fact.sentence} ({fact.evidence})", 6)
        for match in self.suspects[:1]:
            name = str(match)
            lines += self._wrapped(name if name.startswith("partly like ") else f"looks like: {name}", 4)
        if others := [f"{match.name} ({match.match:.0%})" for match in self.suspects[1:3]]:
            lines += self._wrapped(f"or like: {', '.join(others)}", 4)
        for line in self._worst_lines():
            lines += self._wrapped(f"  {line}", 6)
        for fact in self.facts[FACTS : 2 * FACTS]:
            lines += self._wrapped(f"fact: {fact.sentence} ({fact.evidence})", 6)
        broken = [f"{law} (first in {case})" for law, (held, tried, case) in self.laws.items() if held < tried]
        if broken:
            lines += self._wrapped(f"broken laws: {'; '.join(broken)}", 4)
        for stage, mutants in self.not_checked.items():
            lines += self._wrapped(f"{stage}: not checked; would have passed everywhere: {', '.join(mutants)}", 4)
        for note in self.notes:
            lines += self._wrapped(f"note: {note}", 6)
        return [*lines, *self._wrapped(f"next: {self._hint(self._next())}", 6)]

    def _begins(self) -> str:
        """Where most of the wrong cases begin, and where that is derived; or ""."""
        stage = self.first_divergent_stage
        if not stage or self._only_ended:
            return ""
        where = self.derived.get(stage, "")
        wrong, begun = sum(bool(result.failures) for result in self.results), self._begun()[stage]
        cited = f" (derivations/{where})" if where else ""
        share = f"{'all' if begun == wrong else f'{begun} of the'} {wrong}"
        there = f"; {share} wrong cases begin there" if wrong > 1 else ""
        return f"first stage that diverges: {stage}{cited}{there}"

    def _ended(self) -> list[str]:
        """Of calls that ended without a result: how many, and what was said; a line for each of the three commonest.

        Why something was not run comes before how much was not.
        """
        said = Counter((f.kind, f.message) for f in self.failures if f.kind in LOST).most_common()
        said.sort(key=lambda entry: entry[0][0] == "not_run")
        return [f"{kind} in {n} of {len(self.results)} cases: {self._hint(why)}" for (kind, why), n in said[:3]]

    @property
    def _only_ended(self) -> bool:
        """Whether no stage is wrong: calls that ended are all there is."""
        return all(failure.kind in LOST for failure in self.failures)

    def _worst_lines(self) -> list[str]:
        """Of each stage and kind the worst, at most six, the stage where it begins first."""
        by: dict[tuple[str, str], list[Failure]] = {}
        for failure in self.failures:
            if failure.kind not in LOST:
                by.setdefault((failure.stage, failure.kind), []).append(failure)
        first, order = self.first_divergent_stage, [*STAGES]
        keys = sorted(by, key=lambda key: (key[0] != first, order.index(key[0]) if key[0] in order else -1, key[1]))
        groups = [sorted(by[key], key=_over, reverse=True) for key in keys]
        return first_of_each(groups, 6, "kinds of failure, see .failures")

    def _next(self) -> str:
        ended = self._ended()
        raised = all(any(f.kind == "exception" for f in result.failures) for result in self.results)
        if len(ended) == 1 and raised and len(self.results) > 1:
            return f"every call raises the same: is {self.framework} the right framework for it?"
        if self.oracle_faults:
            return "please report this: it is refloss that is wrong, not your implementation"
        if not self.results:
            return "give it cases: cases='all'"
        if self.failures:
            kinds = {failure.kind for failure in self.failures}
            if kinds == {"value"} and self.grade != "F":
                return (
                    f"no formula is wrong, but precision is lost: grade {self.grade} means "
                    f"{EXPLAINED[self.grade].format(compute=self.compute, dtype=self.dtype)}; compute that part in "
                    f"float32, or accept it with require={self.grade!r}"
                )
            if self._only_ended:
                return f"run the reproducer below ({self.shrunk})"
            step = self.derived.get(self.first_divergent_stage or "", "")
            numbers_wrong = kinds & {"value", "nan", "inf", "law"}
            read = f" and compare with derivations/{step}" if step and numbers_wrong else ""
            stages = "" if len(self.stages) > 4 else (
                "; return more stages (cos_theta, theta, logits, grad_logits …) in a mapping to see where it starts"
            )  # fmt: skip
            return f"run the reproducer below ({self.shrunk}){read}{stages}"
        if self.not_checked:
            return "add cases (cases='all') so that a wrong gradient would be seen"
        keeps = "refloss.testing.assert_matches(...) with the same arguments keeps it so"
        return f"{keeps}; require={self.grade!r} holds today"

    def grid(self) -> Grid:
        """One line for each stage: its worst grade, and the largest error over what is allowed.

        Returns:
            Grid: header and rows.
        """
        rows, wrong = [], []
        for stage in self.stages:
            seen = [result for result in self.results if stage in result.grades]
            wrong.append(sum(any(f.stage == stage for f in result.failures) for result in seen))
            grade = max(result.grades[stage] for result in seen)
            worst = max(seen, key=lambda result: result.ratios.get(stage, 0.0))
            ratio = f"{worst.ratios.get(stage, 0.0):.2g}"
            rows.append([stage, str(len(seen)), str(wrong[-1]), grade, ratio, worst.name])
        header = ("stage", "cases", "wrong", "grade", "error / allowed", "in case")
        return Grid(header, rows, "lrrrrw", [*map(bool, wrong)])

    def details(self) -> list[str]:
        """Laws, coverage, what could not be told, and advice.

        Returns:
            list of str: the lines.
        """
        told = []
        if not self._only_ended:
            wrong = {failure.stage for failure in self.failures}
            where = [f"{stage} {self.derived[stage]}" for stage in STAGES if stage in wrong and stage in self.derived]
            told += [f"derivations of what is wrong: {'; '.join(where)}"] if where else []
        if self.laws:
            told.append(f"laws: {', '.join(f'{law} {good}/{tried}' for law, (good, tried, _) in self.laws.items())}")
        reached = [f"{name} {count}" for name, count in self.coverage.items() if count]
        if reached:
            told.append(f"coverage: {len(reached)} branches and kinds of case reached; the JSON report lists them")
        if self.not_reached:
            told.append(f"not reached: {', '.join(self.not_reached)}")
        if self.void:
            stages = Counter(stage for _, stage, _ in self.void)
            many = ", ".join(f"{stage} {count}" for stage, count in stages.items())
            told.append(f"void (a wrong copy would have passed; each was caught elsewhere, or is named above): {many}")
        if self.underflow:
            few = ", ".join(f"{stage} {count}" for stage, count in self.underflow.items())
            told.append(f"entries below the normal numbers of {self.dtype}, judged by its spacing: {few}")
        return [line for words in (*told, *self.advice[:3]) for line in self._wrapped(words, 2)]

    def _case_grid(self) -> Grid:
        """The cases, folded: a line for each way in which they differ, the wrong ones first and by name."""
        wrong = {failure.stage for failure in self.failures}
        differ = [s for s in self.stages if len({result.grades.get(s) for result in self.results}) > 1]
        columns = [stage for stage in self.stages if stage in wrong] if wrong else differ
        groups: dict[tuple[bool, tuple[str, ...], str], list[CaseResult]] = {}
        for result in self.results:
            besides = ", ".join(dict.fromkeys(f.kind for f in result.failures if f.kind != "value"))
            bad = {failure.stage for failure in result.failures}
            # among what is wrong, it does not matter how good the rest is
            marks = tuple(result.grades.get(s, "·") if s in bad or not wrong else "" for s in columns)
            groups.setdefault((bool(result.failures), marks, besides), []).append(result)
        if len(groups) < 2 and not wrong:
            return Grid((), [])
        short = [stage.replace("grad_", "∂").replace("probabilities", "p").replace("cos_theta", "cos θ")
                 .replace("theta", "θ").replace("_norm", " norm") for stage in columns]  # fmt: skip
        said = any(besides for _, _, besides in groups)
        rows, red = [], []
        for (is_wrong, _, besides), those in sorted(groups.items(), key=lambda group: not group[0][0]):
            which = ", ".join(capped([result.name for result in those], WRONG if is_wrong else RIGHT, "of these"))
            worst = [max((r.grades[stage] for r in those if stage in r.grades), default="·") for stage in columns]
            rows.append([str(len(those)), *worst, *([besides] if said else []), which])
            red.append(is_wrong)
        header = ["cases", *short, *(["besides"] if said else []), "which"]
        return Grid(header, rows, "r" + "c" * len(short) + "w" * (1 + said), red)


def _over(failure: Failure) -> tuple[bool, float]:
    """How bad it is: what nothing explains first, then how many times too large the error is."""
    return failure.grade == "F", failure.ratio


def derived_stages(loss: Any) -> dict[str, str]:
    """stage → page and steps of the derivation."""
    return {stage: where for stage in STAGES if (where := derived_at(loss, stage))}
