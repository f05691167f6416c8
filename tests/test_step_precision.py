"""Which step needs float32: the kernel is right without any rounding, and each rounding shows where it must."""

from __future__ import annotations

import json

import numpy as np
import pytest

import refloss
from refloss.cases.configurations import make, objects
from refloss.cases.oracle import cases
from refloss.cli.main import main
from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing import precision
from refloss.testing.judging.truth import truth_on
from refloss.testing.rounding import Study
from refloss.testing.stepwise import Stepwise

FEW = ("typical", "near_poles", "anti_confident", "ignored_huge", "zero_rows")
AIMED = ("typical", "near_poles", "anti_confident", "ascending_logits")
LOSSES = {**objects(), "cross_entropy": refloss.CrossEntropy(ignore_index=-100)}


def truths(loss, dtype, compute="float32", names=FEW):
    for case in cases(loss, dtype):
        if case.name in names:
            upstream = case.upstreams if loss.reduction == "none" else case.upstream
            yield truth_on(loss, case.inputs, case.labels, upstream, dtype, compute)


def run(truth, *coarse):
    kernel = Stepwise(truth.plain, truth.compute, truth.dtype, coarse)
    return kernel, kernel.run()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_rounded_has_grade_c_at_every_stage_of_every_loss(name):
    dtype, compute = ("float32", "float64") if "," in name else ("bfloat16", "float32")
    for truth in truths(LOSSES[name], dtype, compute):
        _, stages = run(truth)
        for stage, due in truth.stages.items():
            assert stages[stage].dtype == compute, stage
            assert stages[stage].shape == np.shape(due), stage
            assert truth.grade_of(stage, stages[stage].astype(float)) <= "C", stage


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_step_is_stored_as_the_dtype_stores_it(dtype):
    (truth,) = truths(refloss.ArcFace(), dtype, names=["typical"])
    kernel, _ = run(truth)
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint64).astype(np.uint32)
    edges = [0.0, -0.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 65519.0, 65520.0, 2.0**-25, 3.4e38, np.inf, -np.inf]
    for values in (bits.view(np.float32), np.array(edges, dtype=np.float32), np.float32(0.1)):
        values = np.asarray(values)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(kernel.stored(values), rounded(values, DTYPES[dtype]))


def test_a_rounded_log_sum_exp_shifts_each_loss_by_its_own_rounding():
    (truth,) = truths(refloss.ArcFace(reduction="none"), "bfloat16", names=["confident"])
    _, right = run(truth)
    _, wrong = run(truth, "lse")
    z = right["logits"].astype(float)
    lse = z.max(1) + np.log(np.exp(z - z.max(1, keepdims=True)).sum(1))
    shift, u = wrong["losses"].astype(float) - right["losses"], DTYPES["bfloat16"].u
    np.testing.assert_allclose(shift, rounded(lse, DTYPES["bfloat16"]) - lse, atol=8 * 2.0**-24 * np.abs(lse).max())
    assert np.all(np.abs(shift) <= u * np.abs(lse) * 1.001)
    assert np.abs(shift).max() > u * np.abs(lse).max() / 8
    assert truth.grade_of("losses", wrong["losses"].astype(float)) > "C"


def test_an_accumulator_in_bfloat16_stalls():
    """1000 equal terms: the sum stays where one more term is half a unit in its last place."""
    (truth,) = truths(refloss.CrossEntropy(), "bfloat16", names=["typical"])
    kernel, _ = run(truth, "accumulator of sum_exp")
    terms = np.ones((2, 1000), dtype=np.float32)
    assert kernel.total("sum_exp", terms, 1).tolist() == [256.0, 256.0]
    assert kernel.product("sum_exp", terms, terms.T)[0, 0] == 256.0
    kernel, _ = run(truth)
    assert kernel.total("sum_exp", terms, 1).tolist() == [1000.0, 1000.0]


def test_the_arithmetic_is_float32s_own():
    """What one step in float64 would lose against float32 is seen in the last places, and nowhere more."""
    (truth,) = truths(refloss.ArcFace(), "bfloat16", names=["typical"])
    _, single = run(truth)
    double = Stepwise(truth.plain, DTYPES["float64"], truth.dtype).run()
    for stage in ("cos_theta", "logits", "probabilities", "grad_x", "grad_W"):
        off = np.abs(single[stage] - double[stage]).max() / np.abs(double[stage]).max()
        assert 2.0**-26 < off < 2.0**-14, stage


@pytest.fixture(scope="module")
def arcface():
    return precision(refloss.ArcFace(), dtype="bfloat16", cases=AIMED)


def test_the_report_of_arcface(arcface):
    assert arcface.passed
    assert arcface.nothing.grade == "C"
    assert arcface.everything.grade > "C"
    assert list(arcface.only) == list(arcface.all_but)
    assert "lse" in arcface.needed["C"]
    assert "cos_theta" in arcface.needed["C"]
    # a shift that is rounded is as good a shift, and what comes out is stored anyway
    assert {"maximum", "grad_x", "grad_W"} <= set(arcface.together["C"])
    for grade in ("C", "D"):
        assert sorted(arcface.needed[grade] + arcface.together[grade]) == sorted(arcface.only)
    text = str(arcface)
    assert text.startswith("Grade C needs float32 in: ")
    assert "only lse" in text
    assert max(map(len, text.splitlines())) <= arcface.width
    assert json.loads(arcface.to_json())["only"]["lse"]["losses"]["error"] > 1


@pytest.mark.parametrize("grade", ["C", "D"])
def test_what_may_be_rounded_together_has_the_grade_and_nothing_can_join(arcface, grade):
    study = Study(refloss.ArcFace(), dtype="bfloat16", compute=None, cases=AIMED, seed=0)
    kept = arcface.together[grade]
    assert study._holds(kept, grade)
    left = [step for step in study.steps if step not in kept]
    assert not any(study._holds([*kept, step], grade) for step in left)


@pytest.mark.parametrize("name", refloss.losses())
def test_every_loss_has_an_answer(name):
    report = precision(make(name), cases=["typical"])
    assert report.passed
    assert report.needed["C"]
    assert report.to_markdown().count("\n| only ") > 3


def test_a_wrong_call_says_what_is_wrong():
    loss = refloss.CrossEntropy()
    for options, words in (
        ({"dtype": "float8"}, "dtype must be"),
        ({"dtype": "float32"}, "compute must be finer than dtype"),
        ({"compute": "float16"}, "compute must be"),
        ({"cases": ["none_such"]}, "unknown: none_such"),
        ({"cases": []}, "none is given"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(ValueError, match=words):
            precision(loss, **options)
    with pytest.raises(TypeError, match="loss must be one of refloss, got ArcFace"):
        precision(refloss.ArcFace)


def test_the_command(capsys):
    assert main(["precision", "cross_entropy", "--set", "label_smoothing=0.1", "--case", "typical"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Grade C needs float32 in: ")
    assert "label_smoothing=0.1" in out.splitlines()[-1]
    assert main(["precision", "arcface", "--dtype", "float64"]) == 2
    assert "compute must be finer than dtype" in capsys.readouterr().err
    assert main(["precision", "arcface", "--all", "--case", "typical"]) == 2
    assert "exclude each other" in capsys.readouterr().err
