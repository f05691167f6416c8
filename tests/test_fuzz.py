"""Cases drawn by chance, by seed and by Hypothesis: legal, the same again, aimed, and small when shrunk."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.cases.fuzz import LOSSES, draw, drawn_loss, draws
from refloss.cli.main import main
from refloss.testing.shrink import entries


def by_seed(*seed):
    rng = np.random.default_rng(seed)
    return lambda low, high: int(rng.integers(low, high, endpoint=True))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("extreme", [False, True])
def test_refloss_takes_every_draw(name, extreme):
    regimes = Counter()
    for i in range(12):
        whole = by_seed(i, extreme)
        loss = drawn_loss(whole, name)
        soft = loss.ignore_index is None and not getattr(loss, "has_margin", False) and i % 2 == 1
        case = draw(whole, loss, "float64", soft, extreme)
        regimes[case.flags[1]] += 1
        upstream = case.upstreams if loss.reduction == "none" else case.upstream
        with warnings.catch_warnings(action="error"):
            out = loss.forward(*case.inputs.values(), targets=case.labels) if "logits" in case.inputs else loss.forward(
                case.inputs["x"], case.inputs["W"], case.labels, case.inputs.get("b")
            )  # fmt: skip
            stages = out.stages() | loss.backward(out, upstream).stages()
        assert not any(np.isnan(value).any() for value in stages.values())
    assert len(regimes) > 2


def test_draws_are_the_same_again():
    loss = refloss.ArcFace()
    few, many = draws(loss, 3, seed=1), draws(loss, 5, seed=1)
    for one, two in zip(few, many, strict=False):
        assert one.name == two.name
        np.testing.assert_array_equal(one.inputs["x"], two.inputs["x"])
    assert any((a.inputs["x"].shape, a.layout) != (b.inputs["x"].shape, b.layout)
               for a, b in zip(few, draws(loss, 3, seed=2), strict=True))  # fmt: skip
    with pytest.raises(ValueError, match="soft_targets"):
        draws(loss, 1, soft_targets=True)


KERNELS = '''
import numpy as np, refloss
LOSS = refloss.CrossEntropy()

def right(logits, targets, upstream=1.0):
    out = LOSS.forward(logits, targets)
    grads = LOSS.backward(out, upstream)
    return {"loss": np.float32(out.loss), "grad_logits": grads.logits.astype(np.float32)}

def high(logits, targets, upstream=1.0):
    """Wrong where e^z overflows, which random numbers of ordinary size never show."""
    got = right(logits, targets, upstream)
    return got | {"grad_logits": got["grad_logits"] * np.float32(2 if logits.max() > 89 else 1)}
'''


def test_check_fuzz(tmp_path, capsys):
    path = tmp_path / "kernels.py"
    path.write_text(KERNELS)
    arguments = ["--loss", "cross_entropy", "--fuzz", "25"]
    assert main(["check", f"{path}:right", *arguments]) == 0
    assert "25 drawn cases" in capsys.readouterr().out
    assert main(["check", f"{path}:high", *arguments]) == 1
    first = capsys.readouterr().out
    assert "case = Case(" in first
    assert main(["check", f"{path}:high", *arguments]) == 1
    assert capsys.readouterr().out == first
    for wrong in (["--fuzz", "0"], ["--fuzz", "3", "--quick"]):
        assert main(["check", f"{path}:right", "--loss", "cross_entropy", *wrong]) == 2


def test_hypothesis_shrinks():
    hypothesis = need("hypothesis")
    from refloss.testing.strategies import inputs

    steady = hypothesis.settings(derandomize=True, database=None, deadline=None, max_examples=300)
    least = hypothesis.find(inputs("arcface"), lambda d: (d.case.labels == d.case.labels[0]).all(), settings=steady)
    assert entries(least.case) == 2
    assert least.loss == refloss.ArcFace(scale=1.0)
    np.testing.assert_array_equal(least.case.inputs["x"], [[1.0]])
    assert (least.case.layout, least.case.upstream, least.case.flags[1]) == ("contiguous", 1.0, "ordinary")
    large = hypothesis.find(inputs(refloss.ArcFace()), lambda d: d.case.inputs["x"].size >= 6, settings=steady)
    assert entries(large.case) <= 12
    for wrong in ({"loss": "arcfase"}, {"loss": "arcface", "dtype": "float31"}):
        with pytest.raises(ValueError, match="must be one of"):
            inputs(**wrong)


def test_without_hypothesis(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hypothesis", None)
    from refloss.testing.strategies import inputs

    with pytest.raises(ModuleNotFoundError, match="pip install hypothesis"):
        inputs("arcface")
