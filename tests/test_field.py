"""tests/field: its tables in docs/findings.md are those of the recorded results, and these are of its files."""

from __future__ import annotations

import re
import shlex

import pytest
from field import run
from pages.markdown import read

from refloss.cases.configurations import WEIGHTS
from refloss.cli.main import _parser
from refloss.cli.shared import make_loss

RECORDED = run.recorded()
RAN = sorted({result["library"] for result in RECORDED})


def shown() -> str:
    return read("docs/findings.md").partition(run.BEGIN)[2].partition(run.END)[0].strip()


def test_the_page_has_what_was_recorded():
    assert shown() == run.tables(RECORDED)


def test_a_result_that_changes_is_seen():
    """A grade, a count and a fact that are others make another page."""
    for at, result in enumerate(RECORDED):
        changed = [*RECORDED]
        changed[at] = {**result, "holds": not result["holds"]} if "claim" in result else {**result, "grade": "Z"}
        assert run.tables(changed) != shown()


def test_every_library_was_run():
    assert RAN == run.LIBRARIES


@pytest.mark.parametrize("library", run.LIBRARIES)
def test_results_are_of_the_file(library):
    """Every check and fact is recorded, with the versions that are pinned; the file is read without its library."""
    module, found = run.loaded(library), [result for result in RECORDED if result["library"] == library]
    pinned = dict(requirement.split("==") for requirement in module.REQUIRES)
    assert [result["versions"] for result in found] == [pinned] * len(found)
    asked = [(check.kernel.__name__, dtype) for check in module.CHECKS for dtype in check.dtypes]
    assert [(result["kernel"], result["dtype"]) for result in found if "kernel" in result] == asked
    assert [result["claim"] for result in found if "claim" in result] == [fact.claim for fact in module.facts.every]


@pytest.mark.parametrize("library", run.LIBRARIES)
def test_commands_are_the_checks(library):
    """What the command line would make of a recorded command is what was run."""
    for check in run.loaded(library).CHECKS:
        for dtype in check.dtypes:
            program, *words = shlex.split(check.command(library, dtype))
            options = _parser().parse_args(words)
            assert program == "refloss"
            assert options.implementation.endswith(f":{check.kernel.__name__}")
            assert make_loss(options.loss, options.set, WEIGHTS, bare=True) == check.made()
            assert (options.dtype, options.require or "C") == (dtype, check.require(dtype))
            recorded = [r["command"] for r in RECORDED if (r["library"], r.get("kernel"), r.get("dtype")) == (
                library, check.kernel.__name__, dtype)]  # fmt: skip
            assert recorded == [check.command(library, dtype)]


def test_the_frameworks_on_the_page_are_those_that_ran():
    """docs/api/testing.md shows the three functions of PaddlePaddle, TensorFlow and tinygrad to the letter."""
    shown = re.findall(r"```py\n(.*?)```", read("docs/api/testing.md"), re.DOTALL)
    files = [read(f"tests/field/libraries/with_{library}.py") for library in ("paddle", "tensorflow", "tinygrad")]
    assert len(shown) == len(files)
    for block, file in zip(shown, files, strict=True):
        assert block.strip() in file
