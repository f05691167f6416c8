"""docs/questions/: names of known bugs, their factors, the table of tolerances; the Triton kernel passes its test."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import near, need

import refloss
from pages.markdown import ROOT, code, links, read, tables
from pages.tables import agrees
from pages.test_derivations import unproven
from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing.diagnosis.suspects import SUSPECTS, suspects, wrong
from refloss.testing.judging import units
from refloss.testing.judging.truth import truth_on

PAGES = [f"docs/questions/{path.name}" for path in sorted((ROOT / "docs" / "questions").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_linked(page):
    """From the table of the index, and in its toctree."""
    index = read("docs/questions/index.md")
    name = page.rpartition("/")[2]
    if name != "index.md":
        assert name in links(index)
        assert f"\n{name.removesuffix('.md')}\n" in index


@pytest.mark.parametrize("page", PAGES)
def test_names_of_known_bugs(page):
    """What stands in code in a column "name", or in a list of suspects, is a suspect."""
    named = [cell for table in tables(read(page)) if table[0][-1] == "name" for *_, cell in table[1:] if cell]
    told = re.findall(r"`refloss (?:check|suspects)` (?:names|has these as) (.*?)(?:\(|\n\n)", read(page), re.DOTALL)
    for words in named + told:
        for name in re.findall(r"`(\w+)`", words):
            assert name in SUSPECTS, name


TOLD = {"1.4427", "1e-12", "1.6e-2", "2.13"}  # a factor that another test compares; torch's constants and version
# what stands in the text without an example that prints it
SHOWN = {
    "gradient_is_nan.md": {
        "0.063": math.acos(1 - 2.0**-9),  # what is nearer to 1 than half a step of 2^-8 rounds to it
        "3.6": math.degrees(math.acos(1 - 2.0**-9)),
        "11.09": math.log(DTYPES["float16"].largest),
        "88.72": math.log(DTYPES["float32"].largest),
    }
}


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_computed_again(page):
    shown = SHOWN.get(page.rpartition("/")[2], {})
    assert all(agrees(number, value) for number, value in shown.items())
    assert set(unproven(page, read(page))) <= set(shown) | TOLD


# -- gradient_is_nan.md ----------------------------------------------------------------------------


def test_lines_that_tell_the_cause():
    """Each line of the table is true where its cause is, and of an ordinary input none is."""
    torch = need("torch")
    lines = [row[1].strip("`") for row in tables(read("docs/questions/gradient_is_nan.md"))[0][1:]]
    ordinary = {
        "cos": torch.tensor([[0.5, -0.2], [0.1, 0.9]]), "labels": torch.tensor([0, 1]), "ignore_index": -100,
        "weight": torch.ones(3), "x": torch.ones(2, 3, requires_grad=True), "W": torch.ones(2, 3),
        "logits": torch.tensor([[3.0, 1.0], [2.0, 4.0]]).half(),
    }  # fmt: skip
    scaled, ordinary["x"].grad = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3)
    scaled.grad = torch.full((2, 3), math.inf)
    causes = [
        {"cos": torch.tensor([[1.0, -0.2], [0.1, 0.9]])},
        {"cos": torch.tensor([[0.5, -1.0], [0.1, 0.9]])},
        {"W": torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])},
        {"logits": torch.tensor([[12.0, 0.0], [0.0, 0.0]]).half()},
        {"logits": torch.tensor([[1.0, -math.inf], [0.0, 0.0]]).half()},
        {"labels": torch.tensor([-100, -100])},
        {"labels": torch.tensor([-100, 1]), "weight": torch.tensor([1.0, 0.0])},
        {"x": scaled},
    ]
    for line, cause in zip(lines, causes, strict=True):
        assert not eval(line, {"math": math, "torch": torch, **ordinary | {"labels": torch.tensor([0, 1])}})
        assert eval(line, {"math": math, "torch": torch, **ordinary | cause})


# -- label_smoothing_and_class_weights.md ----------------------------------------------------------


def test_gradients_that_are_easily_written():
    """The formulas of the table are what the known bugs of its last column give."""
    rng = np.random.default_rng(1)
    z, y, w, epsilon = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1]), np.array([1.0, 2.0, 5.0]), 0.2
    loss = refloss.CrossEntropy(class_weights=w, label_smoothing=epsilon, reduction="sum")
    p, one = loss.forward(z, y).probabilities, np.eye(3)[y]
    t, w_y = (1 - epsilon) * one + epsilon / 3, w[y][:, None]
    others = w * ((1 - epsilon) * one + epsilon / 2 * (1 - one))
    formulas = {
        "smoothing_with_target_weight": ("w_y (p_j − t_j)", w_y * (p - t)),
        "smoothing_missing_in_gradient": ("w_y (p_j − y_j)", w_y * (p - one)),
        "smoothing_over_others": ("another smoothing", p * others.sum(axis=1, keepdims=True) - others),
    }
    table = {
        row[-1].strip("`"): row[1] for row in tables(read("docs/questions/label_smoothing_and_class_weights.md"))[0]
    }
    assert set(formulas) == set(table) - {"", "name"}
    for name, (formula, due) in formulas.items():
        assert formula in table[name]
        assert np.abs(due.sum(axis=1)).max() < 1e-12  # what the page says of a check by row sums
        assert wrong(SUSPECTS[name], loss, {"logits": z}, y, 1.0)["grad_logits"] == near(due, 1e-12)


# -- off_by_a_factor.md ----------------------------------------------------------------------------

TABLE = next(table for table in tables(read("docs/questions/off_by_a_factor.md")) if table[0][0] == "got / due")[1:]
FACTORS = {row[-1].strip("`"): row[0] for row in TABLE if row[-1]}


@pytest.mark.parametrize("name", FACTORS)
def test_factor_of_a_known_bug(name):
    """The known bug of the row has that factor in its gradients, on an input where no two factors are alike."""
    rng = np.random.default_rng(1)
    x, W, labels, upstream = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), np.array([0, 2, -1, 4]), 3.0
    loss = refloss.CosFace(scale=16, ignore_index=-1 if "valid" in FACTORS[name] else None)
    if loss.ignore_index is None:
        labels = np.abs(labels)
    assert SUSPECTS[name] in suspects(loss)
    values = {"N": 4.0, "1/N": 1 / 4, "1/C": 1 / 5, "valid/N": 3 / 4, "1/upstream": 1 / 3, "upstream": 3.0}
    values |= {"1/s": 1 / 16, "2": 2.0, "−1": -1.0, "1/ln 2": 1 / np.log(2)}
    values |= {"‖x‖": np.linalg.norm(x, axis=1)[:, None], "‖W‖": np.linalg.norm(W, axis=1)[:, None]}
    due = loss.value_and_grad(x, W, labels, upstream=upstream)[1]
    variant = "log₂ p" if name == "log2_for_log" else None
    got = wrong(SUSPECTS[name], loss, {"x": x, "W": W}, labels, upstream, variant=variant)
    factor = values[FACTORS[name].partition(",")[0].rpartition("= ")[2]]
    for stage in {"‖x‖": ["x"], "‖W‖": ["W"]}.get(FACTORS[name].partition(",")[0], ["x", "W"]):
        assert got[f"grad_{stage}"] == near(factor * getattr(due, stage), 1e-12)
    shown = re.match(r"\d\.\d+", FACTORS[name])
    assert not shown or shown[0] == f"{factor:.4f}"


def test_factors_that_are_no_known_bugs():
    """GradScaler's first factor, and T where the 1/T of softmax(z / T) is forgotten."""
    torch = need("torch")
    assert [row[0] for row in TABLE if not row[-1]][:3] == [
        f"{torch.amp.GradScaler('cpu').get_scale():.0f}, or another power of 2",
        "number of accumulation steps, or 1/it",
        "T",
    ]
    z, y, T = torch.tensor([[1.0, 2.0, 4.0]], requires_grad=True), torch.tensor([0]), 8
    torch.nn.functional.cross_entropy(z / T, y).backward()
    forgotten = torch.softmax(z / T, dim=1) - torch.nn.functional.one_hot(y, 3)
    assert forgotten.detach().numpy() == near(T * z.grad.numpy(), 1e-6)


# -- vocabulary_parallel.md ------------------------------------------------------------------------


def test_sums_of_a_smoothed_loss_with_class_weights():
    """log Σ e^z, z_y and Σ_j w_j z_j are all of the logits that the loss needs."""
    assert "Σ_j w_j z_j with class weights" in read("docs/questions/vocabulary_parallel.md")
    rng = np.random.default_rng(1)
    z, y, w, epsilon = rng.normal(size=(2, 6)), np.array([1, 4]), rng.uniform(1, 3, size=6), 0.2
    lse, z_y = np.log(np.exp(z).sum(axis=1)), z[[0, 1], y]
    losses = (1 - epsilon) * w[y] * (lse - z_y) + epsilon / 6 * (w.sum() * lse - z @ w)
    due = refloss.CrossEntropy(class_weights=w, label_smoothing=epsilon).forward(z, y).losses
    assert losses == near(due, 1e-12)


# -- triton_backward.md ----------------------------------------------------------------------------


# the check takes a gradient of NaN where the loss is NaN; torch's is 0
NO_VALID_ROW = """

def test_no_valid_row():
    z = torch.zeros(2, 3, requires_grad=True)
    cross_entropy(z * 1, torch.tensor([-100, -100])).backward()
    assert not z.grad.any()
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton, which not every torch brings")
def test_triton_kernel_in_the_interpreter(tmp_path):
    """The page's kernel passes the page's test, on the CPU; without the −1 of the target, or with 0/0, it fails."""
    kernel, test = (block for block in code(read("docs/questions/triton_backward.md"), "py"))
    (tmp_path / "test_triton_cross_entropy.py").write_text(test + NO_VALID_ROW, encoding="utf-8")
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(path for path in (str(ROOT), *sys.path) if path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    mistaken = [kernel.replace("tl.where(at == y, 1.0, 0.0)", "0.0"), kernel.replace(".clamp(min=1)", "")]
    for source, status in ((kernel, 0), *((source, 1) for source in mistaken)):
        (tmp_path / "triton_cross_entropy.py").write_text(source, encoding="utf-8")
        run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
        ended = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ended.returncode == status, ended.stdout + ended.stderr
    assert kernel not in mistaken


# -- which_tolerance.md ----------------------------------------------------------------------------


def largest_error(loss, stages: tuple[str, ...], inputs: dict, labels: np.ndarray, dtype: str, grade: str) -> float:
    """The largest that the grade explains in these stages, as a share of the largest number of the row."""
    truth = truth_on(loss, {name: rounded(v, DTYPES[dtype]) for name, v in inputs.items()}, labels, 1.0, dtype)

    def share(stage: str) -> float:
        room, due = truth.room(stage, grade), units.size(stage, truth.stages[stage])
        by_row = [np.reshape(v, (len(labels), -1)).max(axis=1) for v in (room, due)]
        return (by_row[0] / by_row[1]).max()

    return max(map(share, stages))


TOLERANCES = {row[0]: row[1:] for row in tables(read("docs/questions/which_tolerance.md"))[0][1:]}


@pytest.mark.parametrize("name", TOLERANCES)
def test_tolerances(name):
    shown = []
    for size in (1, 10, 100):
        rng = np.random.default_rng(0)
        x, W, labels = rng.normal(size=(16, 64)), rng.normal(size=(50, 64)), rng.integers(50, size=16)
        x *= size / np.abs(x @ W.T).max(axis=1, keepdims=True)
        stages = ("losses", "grad_logits", "grad_x")
        shown.append(f"{largest_error(refloss.Softmax(), stages, {'x': x, 'W': W}, labels, *name.split()):.0e}")
    assert shown == TOLERANCES[name]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tolerance_of_bare_logits(dtype):
    """The number of the first sentence is what grade C explains, rounded up, however large the logits are."""
    page = read("docs/questions/which_tolerance.md")
    told = re.search(r"gradient (\de-\d) of its row's largest entry, in float16\s(\de-\d)\.", page)
    errors = []
    for size in (1, 10, 100):
        rng = np.random.default_rng(0)
        logits, labels = rng.normal(size=(64, 1000)), rng.integers(1000, size=64)
        logits *= size / np.abs(logits).max(axis=1, keepdims=True)
        errors.append(largest_error(refloss.CrossEntropy(), ("grad_logits",), {"logits": logits}, labels, dtype, "C"))
    assert max(errors) <= float(told[["bfloat16", "float16"].index(dtype) + 1]) < 2 * max(errors)


def test_tolerances_of_every_dtype():
    """C of all, and D where it is another."""
    assert [name.split()[0] for name in TOLERANCES if name.endswith("C")] == list(DTYPES)
    assert [name for name in TOLERANCES if name.endswith("D")] == ["float16 D", "bfloat16 D"]
