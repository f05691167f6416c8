"""docs/trust.md has no number of its own; docs/agents.md names statuses, keys and options that there are.

And the formula of the front page is true.
"""

from __future__ import annotations

import argparse
import json
import math
import re

import pytest

from pages.evaluator import Evaluator, mp
from pages.latex import statements
from pages.markdown import ROOT, displayed, links, read
from pages.worlds import margin_world
from refloss.cli import status
from refloss.cli.main import _parser, main

KERNEL = """
import refloss

LOSS = refloss.Softmax()


def minus(x, W, labels):
    out = LOSS.forward(x, W, labels)
    return {"loss": x.dtype.type(out.loss), "grad_x": -LOSS.backward(out).x.astype(x.dtype)}
"""


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without heads."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [
        line.split(" | ") for line in lines if not line.startswith(("claim |", "assumption |", "status |", "key |"))
    ]


# -- trust.md --------------------------------------------------------------------------------------


def numbers(text: str) -> set[str]:
    """The numbers of a text, without commas between thousands; not those in code, links and labels such as (E14)."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|tests/[\w./]+|\(E\d+\)", " ", text)
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text)))


def unheld(row: str) -> set[str]:
    """The numbers of a row that stand on none of the pages and files that it links."""
    paths = [(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(row)]
    linked = " ".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())
    bare = re.sub(r"(?<=\d),(?=\d{3})", "", linked)
    return {number for number in numbers(row) if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\.?\d)", bare)}


def test_every_number_of_trust_stands_where_its_row_says():
    counted = 0
    for cells in rows(read("docs/trust.md")):
        row = " | ".join(cells)
        assert not unheld(row), row
        counted += len(numbers(row))
    assert counted > 40


TAKES = r"take \[(\S+) to (\S+) times as long as their matrix products alone\]"


def test_what_the_readme_says_of_time_stands_in_the_table():
    """Between which tenths refloss's multiples of the floor lie, on one core."""
    one_core = read("docs/performance.md").split("## Threads: 2")[0]
    multiples = [float(v) for row in rows(one_core) if row[1] == "refloss" for v in row[2:5]]
    least, largest = re.search(TAKES, " ".join(read("README.md").split())).groups()
    assert len(multiples) == 27
    assert (least, largest) == (f"{math.floor(10 * min(multiples)) / 10}", f"{math.ceil(10 * max(multiples)) / 10}")


@pytest.mark.parametrize(("right", "wrong"), [("577,155", "577,156"), ("72 %", "71.5 %"), ("2329", "232")])
def test_another_number_is_noticed(right, wrong):
    text = read("docs/trust.md")
    assert right in text
    row = next(" | ".join(cells) for cells in rows(text) if right in " ".join(cells))
    assert unheld(row.replace(right, wrong)) == numbers(wrong)


# -- agents.md -------------------------------------------------------------------------------------


def test_the_statuses_are_those_of_the_command():
    meant = {status.OK, status.WRONG, status.USAGE, status.ORACLE, status.UNWRITTEN, status.NOTHING_RAN}
    assert {int(cells[0]) for cells in rows(read("docs/agents.md")) if cells[0].isdigit()} == meant


def missing(report: object, path: str) -> bool:
    """Whether a report lacks a key such as `results[].failures[].message`."""
    for name in path.split("."):
        key, many = name.removesuffix("[]"), name.endswith("[]")
        if not isinstance(report, dict) or key not in report:
            return True
        report = report[key]
        if many:
            report = next((entry for entry in report if entry.get("failures") != []), None)
    return False


def test_the_keys_are_those_of_a_report(tmp_path):
    kernel, where = tmp_path / "kernel.py", tmp_path / "report.json"
    kernel.write_text(KERNEL, encoding="utf-8")
    call = ["check", f"{kernel}:minus", "--loss", "softmax", "--quick", "--format", "json", "--output", str(where)]
    assert main(call) == status.WRONG
    report = json.loads(where.read_text(encoding="utf-8"))
    page = read("docs/agents.md")
    first = [cells[0] for cells in rows(page) if cells[0].startswith("`")]
    keys = re.findall("`(.*?)`", " ".join(first)) + re.findall(r"`(\w+\[\]\.\w.*?)`", page)
    assert len(keys) > 12
    assert [key for key in keys if missing(report, key)] == []
    assert missing(report, "verdict")
    assert missing(report, "facts[].sentences")


def test_the_options_are_those_of_the_command():
    commands = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    known = set(commands.choices["check"]._option_string_actions)
    named = set(re.findall(r"--[a-z][a-z-]+", read("docs/agents.md")))
    assert len(named) > 10
    assert named <= known, named - known


# -- index.md --------------------------------------------------------------------------------------


def test_the_formula_of_the_front_page_is_true():
    """ArcFace's, of the loss of one sample; not with another margin, sign or length."""
    (formula,) = displayed(read("docs/index.md"))
    wrong = [(r"+ m", "- m"), (r"\sin", r"\cos"), ("=", "= -"), (r"\lVert x \rVert}", "2}"), ("1 - p_y", "p_y")]
    world = margin_world(1, "s", "angle", "0.5").extended(graph={"n": lambda w: mp.one})

    def holds(latex: str) -> bool:
        (statement,) = statements(latex)
        return all(Evaluator(world).holds(statement.relation, {"i": i}) for i in world.ranges["i"])

    assert holds(formula)
    for right, slip in wrong:
        assert right in formula
        assert not holds(formula.replace(right, slip, 1)), slip
