"""What a report says, and where: the first screen, one line for a runner's summary, the numbers that decide."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

import refloss
from refloss.cli import shared
from refloss.report import Grid
from refloss.testing import Case, MismatchError, assert_matches, check
from refloss.testing.judging.laws import LINEAR
from refloss.testing.places import told_apart
from refloss.testing.report import CaseResult, Fact, Failure, Report
from refloss.testing.reproduce import reproducer
from refloss.testing.shrink import shrunk
from refloss.witnesses.compare import Failure as FailureOfGradient
from refloss.witnesses.compare import InputResult as Input
from refloss.witnesses.report import CaseResult as Result
from refloss.witnesses.report import Report as GradcheckReport

LOSS = refloss.Softmax()
FEW = ["typical", "duplicate_labels", "upstream_mixed"]


def right(x, W, labels, upstream=1.0):
    out = LOSS.forward(x, W, labels)
    grads = LOSS.backward(out, upstream)
    made = {"loss": out.loss, "grad_x": grads.x, "grad_W": grads.W}
    return {name: np.asarray(value).astype(x.dtype) for name, value in made.items()}


def four_times(x, W, labels, upstream=1.0):
    made = right(x, W, labels, upstream)
    return made | {"grad_x": 4 * made["grad_x"]}


def raising(x, W, labels):
    raise RuntimeError("no kernel image is available")


def screen(report, width=80, height=24):
    """The lines that a terminal of this size shows first."""
    lines = str(report).split("\n")
    return "\n".join([line[k : k + width] for line in lines for k in range(0, max(len(line), 1), width)][:height])


def made_of(*failures, cases=4, require="C", **options):
    """A report of so many cases in which these fail."""
    results = [CaseResult(f"case_{k}", "", (), "", {"loss": "A", "grad_x": "A"}) for k in range(cases)]
    for failure in failures:
        at = next(result for result in results if result.name == failure.case)
        at.failures.append(failure)
        at.grades[failure.stage] = failure.grade
    return Report("refloss.Softmax()", "f", "float32", "float32", "numpy", require, results, **options)


def off(case, stage, grade="F", kind="value"):
    return Failure(f"case_{case}", stage, kind, f"{stage} is 2, 1 is due", grade)


# -- the first screen ------------------------------------------------------------------------------


def test_verdict_stage_two_facts_and_the_name_are_on_the_first_screen():
    def kernel(x, W, labels, upstream=1.0):
        made = right(x, W, labels, upstream)
        return made | {name: -made[name] for name in ("grad_x", "grad_W")}

    report = check(kernel, LOSS, cases=FEW)
    long = "in 3 of 3 wrong cases, and in none of the others that are right, as far as they were tried"
    report.facts = [Fact(f"grad_x is {k} × what is due in every row of every case", long, "grad_x") for k in range(3)]
    seen = " ".join(screen(report).split())
    for words in (report.verdict(), "first stage that diverges: grad_x", report.suspects[0].name):
        assert words in seen
    for fact in report.facts[:2]:
        assert f"fact: {fact.sentence} ({fact.evidence})" in seen
    assert report.suspects[0].explanation in seen


def test_no_line_but_code_is_wider_than_80():
    text, _, _ = str(check(four_times, LOSS, cases=FEW)).partition("to reproduce")
    assert max(map(len, text.split("\n"))) <= 80


def test_a_kernel_that_raises_has_that_first_and_no_stage():
    report = check(raising, LOSS, cases=FEW)
    line = str(report).split("\n")[2]
    assert line.startswith("exception in 3 of 3 cases: RuntimeError: no kernel image is available")
    assert "diverges" not in str(report)
    assert "every call raises the same" in str(report)


def test_where_some_calls_raise_the_first_stage_is_that_of_the_others():
    report = made_of(off(0, "loss", kind="exception"), off(1, "grad_x"), off(2, "loss", kind="exception"))
    assert report.first_divergent_stage == "grad_x"
    assert "every call" not in str(report)


def test_the_first_stage_goes_by_weight():
    """A loss of precision in one case does not hide an F in two; of equals the earlier, of two in a case the first."""
    assert made_of(off(0, "loss", "D"), off(1, "grad_x"), off(2, "grad_x")).first_divergent_stage == "grad_x"
    assert made_of(off(0, "loss"), off(1, "grad_x")).first_divergent_stage == "loss"
    assert made_of(off(0, "loss"), off(0, "grad_x"), off(1, "grad_x")).first_divergent_stage == "loss"
    assert made_of(off(0, "loss", "D"), off(1, "grad_x", "D"), off(2, "grad_x", "D")).first_divergent_stage == "grad_x"
    assert made_of().first_divergent_stage is None


def test_cases_are_folded_to_what_differs():
    report = made_of(*(off(k, "grad_x") for k in range(20)), off(20, "grad_x", "D"), cases=40)
    rows = report._case_grid().rows
    assert [row[:2] for row in rows] == [["20", "F"], ["1", "D"], ["19", "A"]]
    assert rows[0][-1].endswith("case_11, … and 8 more of these")
    assert rows[2][-1] == "case_21, case_22, case_23, … and 16 more of these"
    assert not made_of()._case_grid().rows


@pytest.mark.parametrize(("require", "words"), [
    ("B", "(B required)"), ({"loss": "B", "grad_x": "D"}, "(loss B, grad_x D required)"),
])  # fmt: skip
def test_what_was_required_is_one_grade_or_one_a_stage(require, words):
    for report in (made_of(require=require), made_of(off(0, "loss"), require=require)):
        assert words in report.verdict()


def test_a_wide_table_is_folded_and_no_number_is_cut():
    """Every column is there once, the names in each part; what fits stays in one."""
    header = ["name", *(f"column_{k}" for k in range(9))]
    grid = Grid(header, [["first", *(f"{k}.123456789e-{k}00" for k in range(9))]] * 2, "l" + "r" * 9, [True, False])
    parts = grid._folded(80)
    assert len(parts) == 3
    assert [name for part in parts for name in part.header[1:]] == header[1:]
    for part in parts:
        assert part.header[0] == "name"
        assert part.wrong == grid.wrong
        console = Console(file=io.StringIO(), width=80)
        console.print(part.table())
        lines = console.file.getvalue().splitlines()
        assert len(lines) == 3
        assert all(cell in lines[1] for cell in part.rows[0])
    assert grid._folded(200) == [grid]
    assert len(grid._folded(5)) == 9  # as narrow as it gets


def test_a_factor_of_all_gradients_is_said_once():
    def failed(name, factor):
        return FailureOfGradient(name, 0, (0, 0), -1.0, 1.0, 2.0, 1e-9, "autograd", "is wrong", 6, 6, -1.0, factor)

    def text(*failures):
        results = [Input(f.input, 6, failed=6, failures=[f]) for f in failures]
        return str(GradcheckReport([Result("arcface", "typical", "ArcFace()", results)]))

    said = text(failed("x", "−1"), failed("W", "−1"))
    assert said.count("−1 ×") == 1
    assert "every wrong row of every gradient: got = −1 × expected" in said
    apart = text(failed("x", "−1"), failed("W", "1/N"))
    assert "every wrong row" not in apart
    assert apart.count("× expected in all of them") == 2


# -- one line --------------------------------------------------------------------------------------


def test_the_first_line_of_the_exception_says_loss_grade_stage_and_fact():
    with pytest.raises(MismatchError) as raised:
        assert_matches(four_times, LOSS, cases=FEW)
    first, empty, *rest = str(raised.value).split("\n")
    assert first.startswith("Softmax() float32: grade F, grad_x wrong in 3 of 3 cases: grad_x")
    assert not empty
    assert "\n".join(rest) == str(raised.value.report)
    fact = Fact("grad_x is 4 × what is due", "in all", "grad_x")
    assert made_of(off(0, "grad_x"), facts=[fact])._headline == (
        "Softmax() float32: grade F, grad_x wrong in 1 of 4 cases: grad_x is 4 × what is due"
    )
    assert "exception in 3 of 3 cases: RuntimeError" in check(raising, LOSS, cases=FEW)._headline


def test_other_reports_have_their_verdict_there():
    report = GradcheckReport([])
    assert MismatchError(report).args[0].split("\n")[0] == report.verdict()


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "digits", "texts"), [
    (1e-05, 1.1e-05, 2, ("1e-05", "1.1e-05")),
    (1.0004e-05, 1.0001e-05, 2, ("1.0004e-05", "1.0001e-05")),
    (1.0, 1 + 2**-52, 9, ("1", "1.0000000000000002")),
    (2.0, 2.0, 3, ("2", "2")),
    (math.inf, 1.0, 3, ("inf", "1")),
    (0.0, 5e-324, 2, ("0", "4.9e-324")),
])  # fmt: skip
def test_two_numbers_have_the_digits_that_tell_them_apart(a, b, digits, texts):
    assert told_apart(a, b, digits) == texts


@pytest.mark.parametrize("times", [1 + 3e-6, 1 + 1e-5, 2.0])
def test_the_numbers_shown_are_those_that_decide(times):
    """The error printed is the larger one: of a row where a row is judged, and in digits that show it."""

    def kernel(x, W, labels, upstream=1.0):
        made = right(x, W, labels, upstream)
        return made | {name: made[name] * np.float32(times) for name in ("loss", "grad_x", "grad_W")}

    report = check(kernel, LOSS, cases=FEW, require="A")
    assert report.failures
    for failure in report.failures:
        assert failure.error > failure.tolerance
        by, room = re.search(r"off by (\S+), (\S+) allowed", failure.message).groups()
        assert float(by) > float(room)
        assert ("its row is off" in failure.message) == (failure.stage != "loss")


def test_linearity_is_judged_on_the_scale_of_what_came_back():
    """A thousand times too large, and its doubling within its own rounding: no law is broken. As it is with a jump."""

    def kernel(x, W, labels, upstream=1.0, more=1.0):
        made = right(x, W, labels, upstream)
        odd = 1 if np.log2(abs(float(upstream)) + 1) % 1 < 0.5 else -1
        return made | {"grad_x": made["grad_x"] * np.float32(1000 * (1 + odd * 2e-7 * more))}

    def jumping(x, W, labels, upstream=1.0):
        return kernel(x, W, labels, upstream, 1e5)

    held, tried, _ = check(kernel, LOSS, cases=FEW).laws[LINEAR]
    assert held == tried > 0
    held, tried, _ = check(jumping, LOSS, cases=[*FEW, "every_angle", "near_poles"]).laws[LINEAR]
    assert held < tried


# -- shrinking and the reproducer ------------------------------------------------------------------


def large(N=6, C=40_000, D=4):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(N, D)), "W": rng.normal(size=(C, D))}
    return Case("large", "", (), inputs, rng.integers(0, C, N), 2.0, np.full(N, 2.0), "strided")


def test_many_classes_are_few_after_a_few_cheap_trials():
    seen = []

    def fails(case):
        seen.append(len(case.inputs["W"]))
        return True

    case, ended = shrunk(LOSS, large(), fails)
    assert case.inputs["x"].shape == (1, 2)
    assert case.inputs["W"].shape == (1, 2)
    assert (case.upstream, case.layout) == (1.0, "contiguous")
    assert sum(seen) < 200
    assert not ended


def test_what_a_failure_needs_stays():
    def fails(case):
        return len(case.inputs["W"]) >= 300 and case.layout == "strided" and case.upstream != 1

    case, ended = shrunk(LOSS, large(), fails)
    assert ended == "shrinking ended after 120 trials"
    assert 300 <= len(case.inputs["W"]) < 700
    assert (case.upstream, case.layout) == (2.0, "strided")


def test_of_very_many_classes_a_few_are_tried_before_the_half():
    """What needs a thousand of 40,000 costs about what a few thousand cost."""
    seen = []

    def fails(case):
        seen.append(len(case.inputs["W"]))
        return len(case.inputs["W"]) >= 1000

    case, _ = shrunk(LOSS, large(), fails)
    assert 1000 <= len(case.inputs["W"]) < 1030
    assert max(seen) < 2000


@pytest.mark.parametrize(
    ("budget", "words"), [({"tries": 3}, "after 3 trials"), ({"seconds": 0.0}, "after 0 s, 0 trials")]
)
def test_a_budget_ends_it_and_says_so(budget, words):
    case, ended = shrunk(LOSS, large(), lambda case: len(case.inputs["W"]) > 20_000, **budget)
    assert words in ended
    assert len(case.inputs["W"]) > 20_000


def test_the_reproducer_runs_as_printed_and_shows_what_is_in_use(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np, refloss\n"
        "def kernel(x, W, labels):\n"
        "    loss = refloss.Softmax()\n"
        "    return np.asarray(2 * loss.forward(x, W, labels).loss, dtype=x.dtype)\n"
    )
    command = [sys.executable, "-m", "refloss", "check", "mine.py:kernel", "--loss", "softmax", "--case", "typical"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    code = "\n".join(line[4:] for line in said.partition("to reproduce")[2].split("\n")[1:])
    assert "upstream" not in code
    assert "framework" not in code
    (tmp_path / "again.py").write_text(code)
    done = subprocess.run([sys.executable, "again.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "FAILED: 1 of 1 case wrong" in done.stdout, done.stdout + done.stderr


def test_a_large_case_of_ones_own_is_not_called_by_a_name_that_nobody_knows():
    code = reproducer(right, LOSS, large(), large(), {"seed": 3}, None)
    assert "case = ...  # yours, 'large'" in code
    assert "cases=[case]" in code


# -- progress --------------------------------------------------------------------------------------


def test_without_a_terminal_a_long_run_says_so_now_and_then(capsys, monkeypatch):
    now = iter(range(0, 10_000, 4))
    monkeypatch.setattr(shared.time, "monotonic", lambda: float(next(now)))
    assert list(shared.progress("abcdefgh", 8, "check")) == [*"abcdefgh"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["refloss check: 3 of 8, 12 s", "refloss check: 6 of 8, 24 s"]


def test_a_short_run_says_nothing(capsys):
    assert list(shared.progress("abc", 3, "check")) == [*"abc"]
    assert capsys.readouterr().err == ""
