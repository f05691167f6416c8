"""The command line: results, exit status, files, and a loss of one's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.cli.main import main

MINE = """
import numpy as np
import refloss

class Right:
    def forward(self, x, W, labels):
        self.inner = refloss.Softmax(reduction="none")
        self.out = self.inner.forward(x, W, labels)
        return self.out
    def backward(self, out, upstream):
        return self.inner.backward(self.out, upstream)

class Wrong(Right):
    def backward(self, out, upstream):
        grads = super().backward(out, upstream)
        return {"x": 1.001 * grads.x, "W": grads.W}

def value(x, W, labels):
    return refloss.Softmax().forward(x, W, labels).loss

def gradient(x, W, labels):
    grads = refloss.Softmax().value_and_grad(x, W, labels)[1]
    return grads.x, grads.W

pair = (value, gradient)
number = 3
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_everything_passes(capsys):
    """`refloss gradcheck` shows every loss and step, its branches and a verdict."""
    assert main(["gradcheck"]) == 0
    shown = capsys.readouterr()
    for name in refloss.losses():
        assert name in shown.out
    assert "step angle" in shown.out
    assert "branches reached 9/9" in shown.out
    assert "PASSED" in shown.out
    told = re.sub(r"refloss \w+: \d+ of \d+, \d+ s\n", "", shown.err)  # of a slow machine, now and then
    assert told == "", "a bar belongs on a terminal only"


def test_two_processes_give_the_same_text(capsys):
    """-j changes the time, not the result."""
    assert main(["gradcheck", "softmax"]) == 0
    alone = capsys.readouterr().out
    assert main(["gradcheck", "softmax", "-j", "2"]) == 0
    assert capsys.readouterr().out == alone


def test_losses_settings_cases_and_witnesses(capsys):
    """One loss, one parameter, one case, one witness."""
    call = ["gradcheck", "arcface", "--set", "margin=0.3", "--set", "past_pi=linear", "--case", "typical"]
    assert main([*call, "--witness", "complex_step"]) == 0
    shown = capsys.readouterr().out
    assert "complex_step" in shown
    assert "autograd" not in shown


def test_own_arrays(arrays, capsys):
    """--input checks every loss, or the one named, on the user's arrays."""
    assert main(["gradcheck", "--input", str(arrays)]) == 0
    assert "arcface" in capsys.readouterr().out
    assert main(["gradcheck", "l2_softmax", "--input", str(arrays), "--set", "alpha=4"]) == 0
    assert "grad_alpha" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "status"), [("Right", 0), ("Wrong", 1), ("pair", 0)])
def test_own_loss(mine, arrays, name, status, capsys):
    """--loss checks a class, an object or a (function, gradient) pair, on cases and on the user's arrays."""
    assert main(["gradcheck", "--loss", f"{mine}:{name}"]) == status
    assert main(["gradcheck", "--loss", f"{mine}:{name}", "--input", str(arrays)]) == status
    assert ("FAILED" in capsys.readouterr().out) == (status == 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["no_such_loss"], "name must be one of"),
        (["arcface", "--set", "margin=28.6"], "radians"),
        (["arcface", "--set", "margin"], "NAME=VALUE"),
        (["arcface", "--set", "colour=3"], "colour"),
        (["--witness", "psychic"], "--witness"),
        (["--input", "absent.npz"], "absent.npz"),
        (["--loss", "absent.py:Loss"], "absent.py"),
        (["softmax", "--output", "/no/such/folder/report.txt"], "/no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_exits_with_2_and_says_why(call, words, capsys):
    """The message names what was wrong; nothing is printed as a result."""
    assert main(["gradcheck", *call]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err


def test_wrong_objects_and_arrays_exit_with_2(mine, tmp_path, capsys):
    """An object without passes, a file that lacks arrays or holds pickles."""
    assert main(["gradcheck", "--loss", f"{mine}:number"]) == 2
    assert main(["gradcheck", "--loss", f"{mine}:Absent"]) == 2
    np.savez(tmp_path / "half.npz", x=np.ones((2, 2)), Weights=np.ones((2, 2)))
    assert main(["gradcheck", "--input", str(tmp_path / "half.npz")]) == 2
    shown = capsys.readouterr().err
    assert "missing: W, labels; not known: Weights" in shown
    np.savez(tmp_path / "pickle.npz", x=np.array([object()], dtype=object), W=np.ones((2, 2)), labels=[0])
    assert main(["gradcheck", "--input", str(tmp_path / "pickle.npz")]) == 2
    np.savez(tmp_path / "bad.npz", x=np.ones((2, 2)), W=np.ones((3, 2)), labels=[0, 7])
    assert main(["gradcheck", "--input", str(tmp_path / "bad.npz")]) == 2
    assert "labels[1] is 7" in capsys.readouterr().err


def test_nothing_ran_exits_with_5(capsys):
    """No case of that name: not a success."""
    assert main(["gradcheck", "--case", "no_such_case"]) == 5
    assert "no_such_case" in capsys.readouterr().err


def test_no_option_is_ignored(arrays, capsys):
    """What cannot have an effect is refused."""
    for call in (["--input", str(arrays), "--case", "typical"], ["--set", "margin=1"], ["-j", "0"],
                 ["arcface", "--case", "typical", "--case", "typicl"]):  # fmt: skip
        assert main(["gradcheck", *call]) == 2
    assert "typicl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (["l_softmax", "margin=3"], 0),
        (["a_softmax", "margin=1"], 0),
        (["arcface", "reduction=none"], 0),
        (["arcface", "detach_margin=true"], 0),
        (["softmax", "ignore_index=0"], 2),
        (["weighted_softmax", "class_weights=[1,2,3]"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_parameter_over_all_cases(call, status, capsys):
    """--set works on every case of a loss, or says that a case does not fit: never a traceback."""
    assert main(["gradcheck", call[0], "--set", call[1]]) == status
    assert ("does not fit the loss" in capsys.readouterr().err) == (status == 2)


def test_strict_makes_undecided_rows_a_failure(tmp_path, capsys):
    """Confident rows: they pass only without --strict."""
    x = np.array([[1.0, 0.2], [0.1, 1.0]])
    np.savez(tmp_path / "f.npz", x=x, W=40 * np.eye(2), labels=[0, 0])
    call = ["gradcheck", "softmax", "--input", str(tmp_path / "f.npz")]
    assert main(call) == 0
    assert "1 undecided" in capsys.readouterr().out
    assert main([*call, "--strict"]) == 1


def test_what_the_users_code_raises_is_no_verdict(mine, capsys):
    """An exception in a loss of one's own: exit status 2, with the traceback and the case."""
    mine.write_text("class Raises:\n def forward(self, *a): raise RuntimeError('boom')\n def backward(self, *a): ...")
    assert main(["gradcheck", "--loss", f"{mine}:Raises"]) == 2
    shown = capsys.readouterr().err
    assert "boom" in shown
    assert "typical" in shown
    mine.write_text("class Args:\n def __init__(self, a): ...")
    assert main(["gradcheck", "--loss", f"{mine}:Args"]) == 2
    assert "without arguments" in capsys.readouterr().err


def test_output_survives_pipes_and_poor_terminals():
    """A reader that closes the pipe, and a stream that has no Greek."""
    command = f"{sys.executable} -m refloss list"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
    done = subprocess.run(["bash", "-c", f"PYTHONIOENCODING=ascii {command}"], capture_output=True, text=True)
    assert done.returncode == 0


def test_json_and_junit_files(tmp_path, mine):
    """--format and --output: a whole file, strict JSON, one test case a loss and case."""
    target = tmp_path / "report.json"
    assert main(["gradcheck", "softmax", "--format", "json", "--output", str(target)]) == 0
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert {i["input"] for i in report["results"][0]["inputs"]} == {"x", "W", "b"}
    target = tmp_path / "report.xml"
    call = ["gradcheck", "--loss", f"{mine}:Wrong", "--format", "junit", "--output", str(target)]
    assert main(call) == 1
    suite = ElementTree.parse(target).getroot()
    assert int(suite.get("failures")) > 0
    assert suite.find("testcase/failure").get("message").startswith("grad_x[")
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.xml", "mine.py"}


@pytest.mark.parametrize(("call", "words"), [
    (["gradcheck", "softmax", "-j", "0"], "-j must be at least 1, got 0"),
    (["matrix", "honest", "-j", "-2"], "-j must be at least 1, got -2"),
    (["check", "kernel.py:f", "--loss", "softmax", "--seed", "-1"], "--seed must not be negative, got -1"),
])  # fmt: skip
def test_numbers_that_commands_share_are_refused_alike(call, words, capsys):
    assert main(call) == 2
    assert capsys.readouterr().err == f"refloss: {words}\n"


def test_list_names_every_loss(capsys):
    """`refloss list`: name, class and logits of every loss."""
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in refloss.losses():
        assert f"{name}: refloss." in shown
    assert "s cos(θ_y + m)" in shown
    assert shown.count("(−1)^k cos(mθ) − 2k on [kπ/m, (k+1)π/m]") == 3


def test_python_dash_m(tmp_path):
    """`python -m refloss` is the command."""
    done = subprocess.run([sys.executable, "-m", "refloss", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"refloss {refloss.__version__}"


def test_import_loads_numpy_and_nothing_heavier():
    """`import refloss` leaves SciPy, autograd, matplotlib and rich alone."""
    heavy = "scipy autograd matplotlib rich torch jax mpmath sklearn concurrent.futures.process"
    code = f"import sys, refloss; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Absent:
    """A finder by which there is no refloss.score."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "refloss.score":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(("call", "what"), [
    (["matrix", "kill"], "refloss matrix"),
    (["certify", "softmax", "--quick", "--peers"], "--peers"),
    (["certify", "softmax", "--quick", "--format", "markdown"], "--format markdown"),
])  # fmt: skip
def test_what_only_a_checkout_has_says_so(call, what, monkeypatch, capsys):
    """Installed, the package has no refloss.score: status 2, and one line that says what to do."""
    if call[0] == "certify":
        need("flint")
    for module in [name for name in sys.modules if name.startswith("refloss.score")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
    assert main(call) == 2
    words = f"{what} is not in the installed package: run `python -m refloss` in a checkout of the repository"
    assert capsys.readouterr().err == f"refloss: {words}\n"
