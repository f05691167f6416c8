"""`refloss certify`: results, exit status, files, and a call without python-flint."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers import need, with_stage

import refloss
from refloss.cases.grid import grid
from refloss.cli.main import main

POINT = "arcface.angle_6e-33_target"


@pytest.fixture(autouse=True)
def flint():
    return need("flint")


def test_one_point_in_both_precisions(capsys):
    """A row for each precision, a verdict, and nothing on standard error."""
    assert main(["certify", "arcface", "--point", POINT, "-j", "1"]) == 0
    shown = capsys.readouterr()
    rows = [line.split()[:3] for line in shown.out.splitlines()[1:3]]
    assert rows == [["arcface", "double", "1"], ["arcface", "extended", "1"]]
    assert "PASSED: 1 points, 2 runs of refloss" in shown.out
    told = re.sub(r"refloss \w+: \d+ of \d+, \d+ s\n", "", shown.err)  # of a slow machine, now and then
    assert told == "", "a bar belongs on a terminal only"


@pytest.mark.parametrize("precision", ["double", "extended"])
def test_one_precision(precision, capsys):
    """--precision leaves the other one out."""
    assert main(["certify", "--point", POINT, "-j", "1", "--precision", precision]) == 0
    shown = capsys.readouterr().out
    assert precision in shown.splitlines()[1]
    assert "1 runs of refloss" in shown


def test_a_cone_is_undecided_and_named(capsys):
    """x ∥ W_y in ArcFace: passed, counted, and the reason given."""
    call = ["certify", "--point", "arcface.parallel_0_integers_target", "--precision", "double", "-j", "1"]
    assert main(call) == 0
    assert "undecided, cone: x ∥ W_y" in capsys.readouterr().out


def test_two_processes_give_the_same_text(capsys):
    """-j changes the time, not the result."""
    call = ["certify", "am_softmax", "--precision", "double"]
    for name in ("angle_1e-300_other", "ties_everywhere", "soft", "shape_D4096_near_0"):
        call += ["--point", f"am_softmax.{name}"] if name != "soft" else []
    assert main([*call, "-j", "1"]) == 0
    alone = capsys.readouterr().out
    assert main([*call, "-j", "2"]) == 0
    assert capsys.readouterr().out == alone


def test_peers(capsys):
    """--peers adds a row for each peer that has the loss, and never decides the verdict."""
    need("torch")
    need("pytorch_metric_learning")
    call = ["certify", "--point", "am_softmax.confident_37", "--precision", "double", "--peers", "-j", "1"]
    assert main(call) == 0
    rows = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines()[1:4]}
    assert {"double", "torch"} <= set(rows)
    # the peer's loss has lost every digit: log p_y of a p_y that rounds to 1
    assert float(rows["torch"][5]) > 1e14 > 1e6 > float(rows["double"][5])


def test_json(tmp_path):
    """--format json --output: a whole file of strict JSON with every stage of every run."""
    target = tmp_path / "report.json"
    call = ["certify", "--point", POINT, "-j", "1", "--precision", "double"]
    assert main([*call, "--format", "json", "--output", str(target)]) == 0
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert any(line.startswith("python-flint") for line in report["versions"])
    (outcome,) = report["outcomes"]
    assert outcome["point"] == POINT
    assert {"losses", "grad_x", "grad_W", "grad_scale", "grad_margin"} <= set(outcome["stages"])
    assert outcome["stages"]["grad_x"]["worst_u"] < 64
    assert report["rows"][0]["points"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_markdown_says_how_it_was_made(tmp_path):
    """--format markdown: command, versions and definitions at its head, then the tables."""
    target = tmp_path / "page.md"
    call = ["certify", "--point", POINT, "--precision", "double", "--format", "markdown", "--output", str(target)]
    assert main([*call, "-j", "1"]) == 0
    page = target.read_text(encoding="utf-8")
    assert page.startswith("# ")
    assert f"`refloss {' '.join(call)}`" in page
    for word in (f"refloss {refloss.__version__}", "python-flint", "natural scale", "2^-53", "ulp"):
        assert word in page
    tables = [part.splitlines() for part in page.split("\n\n") if part.startswith("|")]
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert tables[0][2].startswith("| arcface | double | 1 |")
    assert "angle" in tables[1][2]


def test_own_arrays(arrays, capsys):
    """--input measures the losses that take the arrays, or the one named with its parameters."""
    assert main(["certify", "--input", str(arrays), "-j", "1"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in refloss.losses())
    assert main(["certify", "l2_softmax", "--input", str(arrays), "--set", "alpha=4", "-j", "1"]) == 0
    assert "l2_softmax" in capsys.readouterr().out


def test_soft_targets_leave_the_margin_losses_out(tmp_path, rng, capsys):
    """What cannot take the arrays is named on standard error; named itself, it is an error."""
    path = tmp_path / "soft.npz"
    np.savez(path, x=rng.normal(size=(2, 3)), W=rng.normal(size=(2, 3)), labels=np.full((2, 2), 0.5))
    assert main(["certify", "--input", str(path), "-j", "1", "--precision", "double"]) == 0
    shown = capsys.readouterr()
    assert "arcface left out" in shown.err
    assert "am_softmax" not in shown.out
    assert main(["certify", "arcface", "--input", str(path)]) == 2


def test_list_points(capsys):
    """Names and what they provoke; --quick and LOSS choose."""
    assert main(["certify", "arcface", "--list-points"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].removesuffix(" (full grid)") for line in lines] == [
        point.name for point in grid(["arcface"])
    ]
    assert main(["certify", "arcface", "--list-points", "--quick"]) == 0
    quick = capsys.readouterr().out.splitlines()
    assert quick == [line for line in lines if "(full grid)" not in line]
    assert "no cosine shows it" in quick[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["no_such_loss"], "LOSS must be one of"),
        (["-j", "0"], "-j must be at least 1"),
        (["arcface", "--set", "margin=0.3"], "--set needs --input"),
        (["--point", POINT, "--point", "arcface.angel_6e-33_target"], POINT),
        (["--input", "absent.npz"], "absent.npz"),
        (["--input", "absent.npz", "--quick"], "--quick chooses among the grid's points"),
        (["--input", "absent.npz", "--point", POINT], "--point chooses among"),
        (["--point", POINT, "-j", "1", "--output", "/no/such/folder/page.md"], "/no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_exits_with_2_and_says_why(call, words, capsys):
    """The message names what was wrong; nothing is printed as a result."""
    assert main(["certify", *call]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_nothing_ran_exits_with_5(capsys):
    """No point of that name: not a success; the message suggests some that there are."""
    assert main(["certify", "--point", "arcface.angle_6e-33_targt"]) == 5
    assert POINT in capsys.readouterr().err


def test_without_python_flint_one_line_says_what_to_install(monkeypatch, capsys):
    """Exit status 2 and the command to type; the grid can still be listed."""
    for module in [name for name in sys.modules if name.startswith(("refloss.proof", "refloss.score", "flint"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "flint", None)
    assert main(["certify", "--point", POINT]) == 2
    assert capsys.readouterr().err == "refloss: certify needs python-flint: pip install python-flint\n"
    assert main(["certify", "--list-points"]) == 0


# -- what the report says --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, repr=False)
class Nudged(refloss.AMSoftmax):
    """AM-Softmax whose gradient in x is off by 16 u."""

    def backward(self, out, upstream=1.0):
        grads = super().backward(out, upstream)
        return with_stage(grads, "x", grads.x * (1 + 2.0**-49))


@dataclass(frozen=True, kw_only=True, repr=False)
class Raises(refloss.AMSoftmax):
    """AM-Softmax that fails in its backward."""

    def backward(self, out, upstream=1.0):
        raise FloatingPointError("no\nluck")


def reported(cls, precision="extended"):
    from refloss.proof.grid_report import GridReport, run_point

    point = next(p for p in grid(["am_softmax"]) if p.name == "am_softmax.angle_1e-15_other")
    return GridReport(run_point(replace(point, loss=cls()), (precision,)))


def test_an_error_of_16_u_fails_and_is_named():
    """The stage, the point and the size of the error stand in the report, in every format."""
    from refloss.score.proofs_page import page

    report = reported(Nudged)
    assert not report
    (row,) = report.rows()
    assert row.over_limit == 1
    assert 8 < row.gradient_u < 40
    assert "FAILED am_softmax.angle_1e-15_other [extended] grad_x" in str(report)
    assert "## Over the limit" in page(report, "refloss certify")
    assert report.to_dict()["passed"] is False
    assert reported(refloss.AMSoftmax)


def test_an_exception_is_a_finding_not_the_end():
    """Counted, shown in one line, and never passed."""
    report = reported(Raises)
    assert not report
    assert report.rows()[0].raised == 1
    assert "raised FloatingPointError: no (am_softmax" in str(report)


def test_nothing_measured_is_no_success():
    """An empty report is false."""
    from refloss.proof.grid_report import GridReport

    assert not GridReport([])
