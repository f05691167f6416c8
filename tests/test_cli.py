"""The command line: results, exit status, files, and a loss of one's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.cli.main import main
from refloss.cli.shared import in_own_words

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
    assert "branches reached" not in shown.out
    lines = shown.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert len(lines) <= 24, "the table and the verdict are the first screen"
    assert main(["gradcheck", "arcface", "--verbose"]) == 0
    shown_all = capsys.readouterr().out
    assert "arcface: branches reached" in shown_all
    assert "undecided in" in shown_all
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
    assert "complex\n" in shown
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


def shell(script):
    """A script of bash in which $REFLOSS is the command."""
    command = f'REFLOSS="{sys.executable} -m refloss"; {script}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True)


def test_what_cannot_be_written_is_status_4():
    """A full disk and a closed pipe are no verdict: status 4 and one line, never a traceback; a read one is well."""
    done = shell("$REFLOSS list | cat > /dev/null; echo ${PIPESTATUS[0]}; PYTHONIOENCODING=ascii $REFLOSS list")
    assert done.returncode == 0
    assert done.stdout.startswith("0\nsoftmax: ")
    assert done.stderr == ""
    for script, words in (
        ("$REFLOSS list > /dev/full", "No space left on device"),
        ("$REFLOSS suspects > /dev/full", "No space left on device"),
        ("$REFLOSS list >&-", "is closed"),
        ("$REFLOSS list | (exec <&-; sleep 3); exit ${PIPESTATUS[0]}", "Broken pipe"),
    ):
        done = shell(script)
        assert (done.returncode, done.stderr) == (4, f"refloss: standard output: {words}\n"), script
    assert shell("$REFLOSS gradcheck nonsense 2> /dev/full").returncode == 2


def test_output_goes_where_the_path_leads(tmp_path, capfd):
    """Links are followed, devices and pipes written into, - is standard output; a mode stays, a folder is refused."""
    target, link, pipe = tmp_path / "target.txt", tmp_path / "link.txt", tmp_path / "pipe"
    link.symlink_to(target)
    os.mkfifo(pipe)
    call = ["suspects", "margin_in_degrees", "--output"]
    assert main([*call, str(link)]) == 0  # nothing is there yet
    assert link.is_symlink()
    due = target.read_text(encoding="utf-8")
    assert "margin_in_degrees" in due
    target.chmod(0o640)
    assert main([*call, str(link)]) == 0
    assert target.stat().st_mode & 0o777 == 0o640
    for place in ("-", "/dev/stdout"):
        capfd.readouterr()
        assert main([*call, place]) == 0
        assert capfd.readouterr().out == due
    with ThreadPoolExecutor() as pool:
        read = pool.submit(pipe.read_text, encoding="utf-8")
        assert main([*call, str(pipe)]) == 0
        assert read.result() == due
    assert pipe.is_fifo()
    full = Path("/dev/full")
    assert main([*call, str(full)]) == 4
    assert full.is_char_device()
    assert "/dev/full: No space left" in capfd.readouterr().err
    assert main([*call, str(tmp_path)]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"target.txt", "link.txt", "pipe"}


@pytest.mark.parametrize("call", [["list"], ["suspects"], ["figures", "--list"]], ids=" ".join)
def test_the_same_without_docstrings(call, capsys):
    """PYTHONOPTIMIZE=2 drops them, and assert."""
    assert main(call) == 0
    done = shell(f"PYTHONOPTIMIZE=2 $REFLOSS {' '.join(call)}")
    assert done.stdout == capsys.readouterr().out
    assert done.stderr == ""


@pytest.mark.parametrize(("alias", "name"), [
    ("cosface", "am_softmax"), ("sphereface", "a_softmax"), ("modified_softmax", "w_norm_softmax"),
])  # fmt: skip
def test_aliases_are_names(alias, name, capsys):
    assert refloss.get(alias) == refloss.get(name)
    for call in (["gradcheck", "LOSS", "--case", "typical"], ["cases", "LOSS"], ["suspects", "--loss", "LOSS"],
                 ["certify", "LOSS", "--list-points"]):  # fmt: skip
        shown = []
        for called in (alias, name):
            assert main([called if word == "LOSS" else word for word in call]) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] != ""


@pytest.mark.parametrize(("python", "here"), [
    ("Pass empty_mean='zero' or reduction='sum'", "Pass --set empty_mean=zero or --set reduction=sum"),
    ("accept it with require='D'", "accept it with --require D"),
    ("add cases (cases='all') so that", "add cases (no --case and no --quick) so that"),
    ("ArcFace(margin=0.3, reduction='sum') is one", "ArcFace(margin=0.3, reduction='sum') is one"),
    ("dtype must be one of 'float32'", "--dtype must be one of 'float32'"),
    ("pass margin=0.5", "pass --set margin=0.5"),
    ("with --set margin=0.5 and pip install 'refloss[jax]'", "with --set margin=0.5 and pip install 'refloss[jax]'"),
])  # fmt: skip
def test_hints_are_in_the_words_of_the_command_line(python, here):
    assert in_own_words(python) == here


def test_arrays_are_refused_by_size(tmp_path, capsys):
    """A header that claims more than there is, one that is believed, a small file that becomes gigabytes, no .npz."""
    good = {"x": np.ones((2, 2)), "W": np.eye(2), "labels": np.array([0, 1])}

    def write(name, header, data=b"", **others):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as file:
            for key, array in (good | others).items():
                with file.open(f"{key}.npy", "w") as part:
                    np.lib.format.write_array(part, array)
            with file.open("b.npy", "w") as part:
                np.lib.format.write_array_header_1_0(part, {"descr": "<f8", "fortran_order": False, "shape": header})
                part.write(data)

    write("claims.npz", (10**15,), b"12345678")
    write("rows.npz", (10**15, 0))
    write("bomb.npz", (2**21,), bytes(2**24))
    write("short.npz", (2,), b"12345678")
    np.save(tmp_path / "alone.npy", np.ones(3))
    (tmp_path / "alone.npy").rename(tmp_path / "alone.npz")
    for name, words in (
        ("claims.npz", "b.npy claims shape (1000000000000000,) of float64, which is not the 8 bytes in it"),
        ("rows.npz", "claims 1,000,000,000,000,010 numbers"),
        ("bomb.npz", "claims 2,097,162 numbers, for which 48 MiB are needed, and --memory-limit is 40"),
        ("short.npz", "which is not the 8 bytes in it"),
        ("alone.npz", "is not an .npz file of plain arrays"),
    ):
        for call in (["gradcheck", "softmax"], ["certify", "softmax"]):
            assert main([*call, "--input", str(tmp_path / name), "--memory-limit", "40"]) == 2
            shown = capsys.readouterr()
            assert words in shown.err
            assert shown.err.count("\n") == 1
            assert shown.out == ""


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
