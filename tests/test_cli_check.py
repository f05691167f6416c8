"""`refloss check`, `suspects` and `matrix`: exit status, formats, and one clear line for a wrong call."""

from __future__ import annotations

import json
import sys
from xml.etree import ElementTree

import pytest

import refloss
from refloss.cli.main import main

KERNELS = """
import numpy as np
import refloss

LOSS = refloss.Softmax()


def right(x, W, labels, b=None, upstream=1.0):
    out = LOSS.forward(x, W, labels, b)
    grads = LOSS.backward(out, upstream)
    made = {"loss": out.loss, "grad_x": grads.x, "grad_W": grads.W, "grad_b": grads.b}
    return {name: np.asarray(value).astype(x.dtype) for name, value in made.items() if value is not None}


def single(x, W, labels, b=None, upstream=1.0):
    made = right(x, W, labels, b, upstream)
    return {name: value.astype(np.float32).astype(x.dtype) for name, value in made.items()}


def wrong(x, W, labels, b=None, upstream=1.0):
    made = right(x, W, labels, b, upstream)
    return {name: -value if name.startswith("grad") else value for name, value in made.items()}


def hangs(x, W, labels, b=None, upstream=1.0):
    while len(x) == 1:
        pass
    return right(x, W, labels, b, upstream)


def misnamed(x, W, labels):
    return {"gradx": x}


def three_of_four(x, W, labels, temperature):
    return 0.0


def one(x):
    return 0.0


number = 3
"""


@pytest.fixture
def kernels(tmp_path):
    path = tmp_path / "kernels.py"
    path.write_text(KERNELS, encoding="utf-8")
    return str(path)


def run(capsys, *arguments):
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_a_right_kernel(capsys, kernels):
    status, out, err = run(capsys, "check", f"{kernels}:right", "--loss", "softmax", "--quick")
    assert status == 0, out
    assert out.startswith(f"{kernels}:right against refloss.Softmax() · numpy float32\nPASSED with grade A")
    assert err == ""


def test_a_wrong_kernel_is_named(capsys, kernels):
    status, out, _ = run(capsys, "check", f"{kernels}:wrong", "--loss", "softmax", "--quick")
    assert status == 1
    assert "first stage that diverges: grad_x (derivations/softmax.md (3))" in out
    assert "looks like: gradient_of_wrong_sign (100%)" in out
    assert "to reproduce" in out


def test_what_could_not_have_been_told_is_status_3(capsys, kernels):
    status, out, _ = run(capsys, "check", f"{kernels}:right", "--loss", "softmax", "--case", "one_class")
    assert status == 3
    assert "NOT CHECKED" in out


def test_json_and_junit(capsys, kernels, tmp_path):
    where = tmp_path / "report.json"
    arguments = ["check", f"{kernels}:wrong", "--loss", "softmax", "--case", "typical"]
    assert main([*arguments, "--format", "json", "--output", str(where)]) == 1
    assert json.loads(where.read_text(encoding="utf-8"))["first_divergent_stage"] == "grad_x"
    status, out, _ = run(capsys, *arguments, "--format", "junit")
    assert status == 1
    assert int(ElementTree.fromstring(out).get("failures")) > 0


def test_several_dtypes_are_reports_one_after_the_other(capsys, kernels):
    """The worst status counts; what is nothing is refused before anything runs."""
    call = ["check", f"{kernels}:right", "--loss", "softmax", "--case", "typical", "--dtype", "float32,float64"]
    status, out, _ = run(capsys, *call)
    assert status == 0
    assert out.index("numpy float32\nPASSED") < out.index("numpy float64\nPASSED")
    status, out, _ = run(capsys, *call, "--format", "json")
    assert [report["dtype"] for report in json.loads(out)] == ["float32", "float64"]
    status, out, _ = run(capsys, *call, "--format", "junit")
    assert len(ElementTree.fromstring(out).findall("testsuite")) == 2
    single = call[1].replace(":right", ":single")
    status, out, _ = run(capsys, "check", single, *call[2:])
    assert status == 1
    assert "numpy float32\nPASSED" in out
    assert "numpy float64\nFAILED" in out
    status, out, err = run(capsys, *call[:-1], "float32,float8")
    assert (status, out) == (2, "")
    assert "--dtype must be one or more of" in err


def test_a_page_besides_what_is_printed(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def kernel(x, W, labels):\n    raise ValueError('<b>')\n")
    call = ["check", f"{tmp_path / 'mine.py'}:kernel", "--loss", "softmax", "--case", "typical", "--html"]
    assert main([*call, str(tmp_path / "page.html")]) == 1
    assert "FAILED: 1 of 1 case wrong" in capsys.readouterr().out
    assert "ValueError: &lt;b&gt;" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main([*call, str(tmp_path / "none" / "page.html")]) == 2
    assert "none/page.html: No such file or directory" in capsys.readouterr().err


def test_a_loss_on_bare_logits(capsys, tmp_path):
    path = tmp_path / "kernel.py"
    path.write_text(
        "import numpy as np, refloss\n"
        "LOSS = refloss.CrossEntropy(axis=1)\n"
        "def f(logits, targets, upstream=1.0):\n"
        "    out = LOSS.forward(logits, targets)\n"
        "    g = LOSS.backward(out, upstream).logits\n"
        "    return {'loss': np.float32(out.loss), 'grad_logits': g.astype(np.float32)}\n",
        encoding="utf-8",
    )
    status, out, _ = run(capsys, "check", f"{path}:f", "--loss", "cross_entropy", "--set", "axis=1", "--quick")
    assert status == 0, out


@pytest.mark.parametrize(("name", "words"), [
    ("nothing_here", "nothing_here"),
    ("number", "number"),
    ("three_of_four", "x, W, labels"),
    ("one", "x, W, labels"),
    ("misnamed", "grad_x"),
])  # fmt: skip
def test_a_bad_function_is_one_line_and_status_2(capsys, kernels, name, words):
    status, out, err = run(capsys, "check", f"{kernels}:{name}", "--loss", "softmax", "--quick")
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert words in err


@pytest.mark.parametrize(("arguments", "words"), [
    (["nowhere.py:f"], "nowhere.py"),
    (["kernels.py"], "FUNCTION"),
    (["KERNELS:right", "--loss", "arcfac"], "arcface"),
    (["KERNELS:right", "--set", "reduction=maximum"], "reduction"),
    (["KERNELS:right", "--dtype", "float8"], "dtype"),
    (["KERNELS:right", "--framework", "caffe"], "framework"),
    (["KERNELS:right", "--require", "Z"], "require"),
    (["KERNELS:right", "--case", "nonsense"], "nonsense"),
    (["KERNELS:right", "--case", "typical", "--quick"], "exclude"),
    (["KERNELS:right", "--slack", "-1"], "slack"),
    (["KERNELS:right", "--device", "tpu:9"], "device"),
])  # fmt: skip
def test_a_wrong_call_is_one_line_and_status_2(capsys, kernels, arguments, words):
    arguments = [a.replace("KERNELS", kernels) for a in arguments]
    if "--loss" not in arguments:
        arguments += ["--loss", "softmax"]
    status, out, err = run(capsys, "check", *arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert words in err


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_a_framework_that_is_missing(capsys, kernels, monkeypatch, package, tmp_path):
    # what the kernel's process finds is that there is none
    words = f"raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
    (tmp_path / f"{package}.py").write_text(words)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    status, _, err = run(capsys, "check", f"{kernels}:right", "--loss", "softmax", "--framework", package)
    assert status == 2
    assert err.count("\n") == 1
    assert f"pip install {package}" in err


# -- suspects --------------------------------------------------------------------------------------


def test_suspects_are_listed_with_where_they_were_seen(capsys):
    status, out, _ = run(capsys, "suspects")
    assert status == 0
    assert "upstream_ignored (upstream; refloss/testing/diagnosis/suspects/upstream.py:" in out
    assert out.count("Seen in: ") >= 60


def test_suspects_of_one_loss_and_as_json(capsys):
    status, out, _ = run(capsys, "suspects", "--loss", "softmax", "--format", "json")
    assert status == 0
    listed = json.loads(out)["suspects"]
    names = {suspect["name"] for suspect in listed}
    assert "mean_forgotten" in names
    assert "margin_in_degrees" not in names
    assert all(suspect["explanation"] and suspect["seen_in"] for suspect in listed)


def test_an_unknown_suspect(capsys):
    status, _, err = run(capsys, "suspects", "nobody")
    assert status == 2
    assert "nobody" in err


# -- matrix ----------------------------------------------------------------------------------------


def test_the_kill_matrix_of_one_loss(capsys):
    status, out, _ = run(capsys, "matrix", "kill", "--loss", "softmax, none", "--dtype", "float32", "--quick")
    assert "suspects killed: float32" in out
    assert status in (0, 3)


def test_the_matrix_as_markdown(tmp_path):
    where = tmp_path / "kill.md"
    arguments = ["matrix", "kill", "--loss", "weighted_softmax, smoothed", "--dtype", "float32", "--quick"]
    main([*arguments, "--format", "markdown", "--output", str(where)])
    lines = where.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "# Kill matrix"
    table = [line for line in lines if line.startswith("|")]
    assert table[0].startswith("| suspect | float32")
    assert table[1].startswith("| --- |")


def test_a_matrix_of_nothing(capsys):
    status, _, err = run(capsys, "matrix", "honest", "--loss", "nonsense")
    assert status == 2
    assert "nonsense" in err
    status, _, err = run(capsys, "matrix", "kill", "--dtype", "float8")
    assert status == 2
    assert refloss.losses()


def test_what_a_kernel_declares(capsys, tmp_path):
    path = tmp_path / "declared.py"
    renamed = (
        "\n\ndef renamed(features, W, target, bias, dout):\n    return 3, right(features, W, target, bias, dout)\n"
    )
    path.write_text(KERNELS + renamed, encoding="utf-8")
    names = ("x=features", "labels=target", "b=bias", "upstream=dout")
    options = [word for name in names for word in ("--argument", name)]
    call = ["check", f"{path}:renamed", "--loss", "softmax", "--case", "typical", "--case", "upstream_mixed"]
    status, out, _ = run(capsys, *call, *options, "--returns", "1", "--nondeterministic", "--without", "blocks")
    assert status == 0, out
    assert "not deterministic" in out
    status, _, err = run(capsys, *call, "--argument", "x")
    assert (status, err) == (2, "refloss: --argument takes OURS=YOURS, such as b=bias, got 'x'\n")
    status, _, err = run(capsys, *call, *options, "--second")
    assert status == 2
    assert err.startswith("refloss: second needs a loss that torch or jax differentiates")


# -- several processes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["right", "wrong", "hangs"])
def test_more_processes_give_the_same_report(kernels, name, capsys):
    """-j changes the time, not the report: verdict, order, suspects, reproducer, the end of the kernel's process."""
    call = ["check", f"{kernels}:{name}", "--loss", "softmax", "--quick", "--format", "json", "--time-limit", "5"]
    alone, together = run(capsys, *call), run(capsys, *call, "-j", "2")
    assert alone[0] == together[0] == (name != "right")
    assert alone[1] == together[1]


def test_truths_come_from_the_other_processes(kernels, capsys, monkeypatch):
    """In this one none is computed but those that nobody could expect: of the logits with a common offset."""
    here = []

    def truth_on(*asked):
        here.append(asked)
        return computed(*asked)

    computed = refloss.testing.check.__globals__["truth_on"]
    monkeypatch.setitem(refloss.testing.check.__globals__, "truth_on", truth_on)
    call = ["check", f"{kernels}:right", "--loss", "softmax", "--case", "typical", "--case", "one_sample"]
    assert run(capsys, *call)[0] == 0
    alone = len(here)
    here.clear()
    assert run(capsys, *call, "-j", "2")[0] == 0
    assert len(here) == alone - 2
