"""The pytest plugin, run in this process on small kernels with a few cases."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import rich.console
import rich.table  # noqa: F401
from pages.markdown import read

# what the inner runs import they forget again
import refloss.testing.public

KERNELS = '''
import numpy as np, pytest, refloss

LOSS = refloss.CrossEntropy()
made = []

def right(logits, targets, upstream=1.0):
    out = LOSS.forward(logits, targets)
    grads = LOSS.backward(out, upstream)
    return {"loss": logits.dtype.type(out.loss), "grad_logits": grads.logits.astype(logits.dtype)}

def one_row(logits, targets, upstream=1.0):
    """Divides nothing by N: right where N = 1."""
    got = right(logits, targets, upstream)
    return got | {"grad_logits": np.size(targets) * got["grad_logits"]}
'''
SOME = 'cases=["typical", "one_sample", "upstream_mixed"]'


@pytest.fixture
def inner(pytester):
    """run(test source, *arguments): an inner run, with the plugin whether it is installed or not."""
    installed = [entry.value for entry in entry_points(group="pytest11", name="refloss")]
    plugin = [] if installed else ["-p", "refloss.testing.plugin"]

    def run(source, *arguments):
        pytester.makepyfile(test_it=KERNELS + source)
        # Hypothesis would be imported anew at the end of every inner run
        return pytester.runpytest_inprocess(*plugin, "-p", "no:hypothesispytest", "--strict-markers", *arguments)

    return run


def kernel(name, marker=f"LOSS, {SOME}", test="test_it"):
    return f"@pytest.mark.refloss({marker})\ndef {test}():\n    made.append(1)\n    return {name}\n"


def test_a_test_for_each_case_and_dtype(inner):
    marker = f'"cross_entropy", ignore_index=9, dtype=["float32", "float64"], {SOME}'
    once = "def test_once(): assert len(made) == 2\n"
    result = inner(kernel("right", marker) + once, "-v")
    result.assert_outcomes(passed=9)
    for part in ("typical", "one_sample", "upstream_mixed", "oracle"):
        for dtype in ("float32", "float64"):
            result.stdout.fnmatch_lines([f"*::test_it[[]{dtype}-{part}[]] PASSED*"])
    result.stdout.fnmatch_lines_random([f"refloss {refloss.__version__}: *"])
    result.stdout.no_fnmatch_line("*= refloss: *")


def test_collection_calls_no_kernel(inner):
    source = f"@pytest.mark.refloss(LOSS, {SOME}, framework='torch')\ndef test_it(): raise SystemError\n"
    result = inner(source, "--collect-only", "-q")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["test_it.py::test_it[[]float32-typical[]]"])


def test_own_parameters_and_fixtures(inner):
    source = f"""
@pytest.fixture(scope="module")
def kernels(): return [right, one_row]

class TestIt:
    @pytest.mark.parametrize("at", [0, 1])
    @pytest.mark.refloss(LOSS, {SOME})
    def test_it(self, at, kernels): return kernels[at]
"""
    result = inner(source)
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(["FAILED *TestIt::test_it[[]1-float32-typical[]]*"])


def summary(result):
    """How many lines the summary at the end has."""
    return len(result.stdout.str().partition("= short test summary info =")[2].splitlines()) - 2


def test_the_summary_of_a_check_called_in_a_test_has_one_line(inner, monkeypatch):
    monkeypatch.setenv("CI", "true")
    source = f"def test_it():\n    refloss.testing.check(one_row, LOSS, {SOME}).raise_if_failed()\n"
    result = inner(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E * to reproduce (*", "FAILED *::test_it - refloss.report.MismatchError: CrossEntropy() float32: grade F*"]
    )
    assert summary(result) == 1


@pytest.mark.parametrize("ci", [False, True])  # pytest does not shorten its summary where this variable is set
def test_a_failure_says_what_it_is(inner, pytester, monkeypatch, ci):
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    if ci:
        monkeypatch.setenv("CI", "true")
    report, junit = pytester.path / "out.json", pytester.path / "junit.xml"
    result = inner(kernel("one_row"), f"--refloss-report={report}", f"--junit-xml={junit}")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["CrossEntropy() float32: grade F, grad_logits wrong in 1 of 1 cases: *",
                                 "*= refloss: test_it.py::test_it[[]float32[]] =*", "FAILED: 2 of 3 cases wrong*",
                                 "FAILED *float32-typical[]] - Failed: CrossEntropy*"])  # fmt: skip
    (told,) = json.loads(report.read_text())["kernels"]
    assert (told["test"], told["ran"], told["of"], told["grade"]) == ("test_it.py::test_it[float32]", 3, 3, "F")
    assert 'message="Failed: CrossEntropy() float32: grade F' in junit.read_text()
    # the report of a case once, of all cases at the end; of the second failing test a few lines
    assert result.stdout.str().count("to reproduce (") == 2
    second = result.stdout.str().partition("_ test_it[float32-upstream_mixed] _")[2].partition("\n=")[0]
    assert "grad_logits[" in second
    assert len(second.splitlines()) < 8
    assert summary(result) == 2


def test_what_was_not_judged_is_said(inner):
    chosen = inner(kernel("right"), "-k", "one_sample")
    chosen.assert_outcomes(passed=1, deselected=2 + 1)
    chosen.stdout.fnmatch_lines(["1 of 3 cases ran. Not judged, since *float32-oracle[]] did not run: *"])
    first = inner(kernel("one_row"), "-x")
    first.assert_outcomes(failed=1)
    again = inner(kernel("one_row"), "--lf")
    again.assert_outcomes(failed=1)


def test_the_oracle_judges_all_cases_whichever_were_chosen(inner, pytester):
    report = pytester.path / "out.json"
    result = inner(kernel("one_row"), "-k", "oracle", f"--refloss-report={report}")
    result.assert_outcomes(passed=1, deselected=3)
    (told,) = json.loads(report.read_text())["kernels"]
    assert (told["ran"], told["passed"]) == (3, False)
    blind = inner(kernel("right", "LOSS, cases=['one_class']"))
    blind.assert_outcomes(passed=1, failed=1)
    blind.stdout.fnmatch_lines(["FAILED *float32-oracle[]] - Failed: CrossEntropy*"])


def test_known_failures(inner, pytester):
    known = "# ours\ntest_it.py::test_it[float32-typical]  # N\ntest_it.py::test_it[float32-upstream_mixed]\n"
    pytester.makefile(".txt", known=known)
    inner(kernel("one_row"), "--refloss-xfails=known.txt").assert_outcomes(passed=2, xfailed=2)
    passes = inner(kernel("right"), "-o", "refloss_xfails=known.txt")
    passes.assert_outcomes(passed=2, failed=2)
    passes.stdout.fnmatch_lines(["*XPASS(strict)*"])
    pytester.makefile(".txt", known="test_it.py::test_it[float32-tipical]\n")
    unknown = inner(kernel("right"), "--refloss-xfails=known.txt")
    unknown.assert_outcomes(passed=4, failed=1)
    unknown.stdout.fnmatch_lines(["*no test has the id test_it.py::test_it[[]float32-tipical[]]*"])
    inner(kernel("right"), "test_it.py::test_it[float32-typical]", "--refloss-xfails=known.txt").assert_outcomes(
        passed=1
    )


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ('"arcfase"', "name must be one of *got 'arcfase'*"),
        ('"arcface", margin=7', "margin must be*"),
        ("LOSS, margin=7", "no option margin: *"),
        ('LOSS, dtype="float31"', "dtype must be one of *got 'float31'"),
        ('LOSS, dtype=["float32", "float32"]', "dtype must be a name or a list*"),
        ('LOSS, cases=["tipical"]', "cases must be *unknown for this loss: tipical*"),
        ('LOSS, require="Z"', "require must be one of*"),
        ("LOSS, 3", "takes the loss and keywords*"),
        ("3", "loss must be one of refloss*"),
    ],
)
def test_wrong_markers_are_told_at_collection(inner, marker, said):
    result = inner(kernel("right", marker))
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"refloss marker of test_it: {said}"])


def test_wrong_kernels(inner):
    result = inner(
        kernel("3") + kernel("lambda x: x", test="test_two") + kernel("pytest.skip('none')", test="test_three")
    )
    result.assert_outcomes(failed=8, skipped=4)
    result.stdout.fnmatch_lines(["*test_it must return the kernel, a callable, got 3",
                                 "*test_two: the kernel must be callable as f(logits, targets)*"])  # fmt: skip


@pytest.mark.parametrize("argument", ["--refloss-report=out.txt", "--refloss-xfails=none.txt", "-orefloss_cases=few"])
def test_wrong_options(inner, argument):
    result = inner(kernel("right"), argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{argument.lstrip('-o').partition('=')[0]}*"])


def test_xdist(inner, pytester):
    pytest.importorskip("xdist")
    report = pytester.path / "out.json"
    result = inner(kernel("one_row"), "-n2", f"--refloss-report={report}")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["FAILED: 2 of 3 cases wrong*"])
    (told,) = json.loads(report.read_text())["kernels"]
    assert told["ran"] == 3


@pytest.mark.parametrize("processes", ["0", "2"])
def test_one_page_of_all_kernels(inner, pytester, processes):
    """Also of reports that other processes made; of none it says so."""
    pytest.importorskip("xdist")
    path = pytester.path / "out.html"
    source = kernel("one_row") + kernel("right", test="test_other")
    inner(source, "-n", processes, f"--refloss-report={path}").assert_outcomes(passed=6, failed=2)
    written = path.read_text(encoding="utf-8")
    assert "refloss check: 1 of 2 passed" in written
    assert written.count("<article") == 2
    for test in ("test_it", "test_other"):
        assert f"test_it.py::{test}[float32]</h2>" in written
    inner("def test_none(): pass", f"--refloss-report={path}").assert_outcomes(passed=1)
    assert "No kernel was checked" in path.read_text(encoding="utf-8")


def test_the_plugin_imports_nothing_heavy():
    code = "import sys, refloss.testing.plugin; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "refloss" in loaded
    heavy = {"scipy", "autograd", "torch", "jax", "matplotlib", "rich", "hypothesis", "refloss.testing.check"}
    assert not heavy & set(loaded)


def test_the_tutorial_shows_what_comes(inner, pytester):
    page = read("docs/tutorials/in_pytest.md")
    source = re.search(r"```python\n# test_my_kernel.py\n(.*?)```", page, re.DOTALL)[1]
    shown = re.search(r"```text\n\$ pytest -v\n(.*?)```", page, re.DOTALL)[1]
    pytester.makepyfile(test_my_kernel=source)
    result = inner("", "-v")
    lines = iter(result.stdout.lines)
    for line in shown.splitlines():
        assert line == "..." or any(came.startswith(line) for came in lines), line
