"""The cases at the corners: what they hold, that honest kernels pass them, and that what they are for fails them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.cases.configurations import GROUPS, make
from refloss.cases.corners import CHUNKS
from refloss.cases.oracle import cases
from refloss.cli.main import main
from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing import Case, check
from refloss.testing.check import Checker
from refloss.testing.judging.laws import offset

CE = refloss.CrossEntropy
EDGES = {k + off for k in (8, 64, 128, 1024) for off in (-1, 0, 1)}


def named(loss, name, dtype="float32", **options):
    return next(case for case in cases(loss, dtype, **options) if case.name == name)


def by_hand(loss, ignored_rows="cleared", logits=lambda z: z):
    """refloss' own passes of bare logits or of x and W, as a kernel; in its ignored rows 0 is done with or NaN."""

    def passes(given, targets, upstream):
        bare = "logits" in given
        key, axis = ("logits", loss.axis) if bare else ("x", 1)
        odd = ~np.isfinite(given[key]) & ~np.isneginf(given[key])
        rows = odd.any(axis=axis, keepdims=True)
        given = {**given, key: np.where(rows, 0.5, given[key])}
        if bare:
            given["logits"] = logits(given["logits"])
            out = loss.forward(given["logits"], targets)
        else:
            out = loss.forward(given["x"], given["W"], targets, given.get("b"))
        grads = loss.backward(out, upstream)
        stages = {"loss": out.loss, **{f"grad_{name}": getattr(grads, name) for name in given}}
        if ignored_rows == "poison" and rows.any():
            stages["loss"] = np.asarray(stages["loss"]) * np.nan
            stages[f"grad_{key}"] = np.where(rows, np.nan, stages[f"grad_{key}"])
            if not bare:
                stages["grad_W"] = stages["grad_W"] * np.nan
        if ignored_rows == "all" and rows.any():
            stages[f"grad_{key}"] = stages[f"grad_{key}"] * np.nan
        return stages

    def bare_kernel(logits, targets, upstream=1.0):
        return passes({"logits": logits}, targets, upstream)

    def kernel(x, W, labels, upstream=1.0):
        return passes({"x": x, "W": W}, labels, upstream)

    return bare_kernel if isinstance(loss, CE) else kernel


# -- what there is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROUPS)
def test_every_corner_says_why_it_is_there_and_is_cheap(name):
    loss = make(name, reduction="sum", ignore_index=-100)
    corner = {"empty", "nonfinite", "chunk_edge", "sparse", "float32_inside"}
    found = [case for case in cases(loss, "bfloat16") if corner & set(case.flags)]
    assert {"all_ignored", "no_rows", "ignored_nan", "half_long_rows"} <= {case.name for case in found}
    assert all(case.flags and case.reason and not case.quick for case in found)
    assert len({case.name for case in cases(loss)}) == len(cases(loss))
    assert max(len(case.inputs["x"]) * len(case.inputs["W"]) for case in found) < 10_000


def test_both_sides_of_every_chunk_edge():
    shapes = [case.inputs["logits"].shape for case in cases(CE()) if "chunk_edge" in case.flags]
    assert shapes == list(CHUNKS)
    assert {N for N, _ in shapes} >= EDGES
    assert {C for _, C in shapes} >= EDGES


@pytest.mark.parametrize("bits", [15, 16])
def test_labels_beyond_16_bits(bits):
    case = named(CE(), f"classes_beyond_{2**bits - 1}")
    assert case.labels.min() >= 2**bits


@pytest.mark.parametrize(("empty_mean", "reduction"), [("zero", "mean"), ("nan", "mean"), ("nan", "weighted_mean"),
                                                   ("error", "sum"), ("error", "none")])  # fmt: skip
def test_nothing_counts(empty_mean, reduction):
    loss = refloss.Softmax(ignore_index=-100, empty_mean=empty_mean, reduction=reduction)
    report = check(by_hand(loss), loss, cases=["typical", "all_ignored", "no_rows"], dtype="float64")
    assert report.passed
    assert report.grade == "A"


def test_a_mean_over_nothing_is_no_case_where_it_is_an_error():
    names = {case.name for case in cases(refloss.Softmax(ignore_index=-100))}
    assert "ignored_nan" in names
    assert not names & {"all_ignored", "no_rows"}


@pytest.mark.parametrize(("empty_mean", "due"), [("zero", "0, nan"), ("nan", "nan, 0")])
def test_the_other_mean_over_nothing_fails(empty_mean, due):
    loss = CE(ignore_index=-100, empty_mean=empty_mean)
    other = replace(loss, empty_mean="nan" if empty_mean == "zero" else "zero")
    report = check(by_hand(other), loss, cases=["typical", "all_ignored"], dtype="float64")
    assert {(f.case, f.stage) for f in report.failures} == {("all_ignored", "loss")}


# -- rows that hold no numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", [make("arcface", ignore_index=-100), CE(ignore_index=-100, axis=1)],
                         ids=["arcface", "bare"])  # fmt: skip
def test_ignored_rows_without_numbers(loss):
    names = ["typical", "ignored_nan", "ignored_inf"]
    clean = check(by_hand(loss), loss, cases=names, dtype="float64")
    assert clean.passed
    assert clean.grade == "A"
    assert not any("convention" in note for note in clean.notes)
    poisoned = check(by_hand(loss, "poison"), loss, cases=names, dtype="float64")
    assert poisoned.passed
    assert any("0·NaN" in note for note in poisoned.notes)
    everywhere = check(by_hand(loss, "all"), loss, cases=names, dtype="float64")
    assert {f.kind for f in everywhere.failures} == {"nan"}


def test_a_row_without_numbers_that_counts_is_still_refused():
    loss = CE(ignore_index=-100)
    case = named(loss, "ignored_nan")
    counted = Case(**{**vars(case), "labels": np.zeros_like(case.labels)})
    with pytest.raises(ValueError, match="logits"):
        check(by_hand(loss), loss, cases=[counted])


# -- soft targets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [refloss.Softmax(), CE(), CE(axis=1)], ids=["softmax", "last", "first"])
def test_soft_targets_sum_to_exactly_one_but_where_a_case_is_about_it(dtype, loss):
    others = {"soft_sum_not_one", "soft_zero_row"}
    for case in cases(loss, dtype, soft_targets=True):
        sums = case.labels.sum(axis=getattr(loss, "axis", -1))
        assert (case.name in others) == (not np.all(sums == 1.0)), case.name
        assert np.array_equal(rounded(case.labels, DTYPES[dtype]), case.labels)


def test_zero_times_minus_infinity_is_a_convention():
    torch = need("torch")

    def kernel(logits, targets):  # torch's own: −Σ t log p
        return -(targets * torch.log_softmax(logits, -1)).sum(-1).mean()

    report = check(kernel, CE(), framework="torch", soft_targets=True,
                   cases=["typical", "masked_classes", "masked_without_a_share"])  # fmt: skip
    assert not report.passed
    assert report.grade < "F"
    assert {(f.case, f.kind) for f in report.failures} == {
        ("masked_classes", "convention"), ("masked_without_a_share", "convention")
    }  # fmt: skip
    assert "convention: 0·(−inf) taken as NaN" in " ".join(str(report).split())
    assert json.loads(report.to_json())["grade"] == report.grade

    def wrong(logits, targets):
        return 2 * kernel(logits, targets)

    assert {f.kind for f in check(wrong, CE(), framework="torch", soft_targets=True, cases=["typical"]).failures} == {
        "value"
    }


# -- 16 bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["half_long_rows", "half_short_rows"])
def test_rows_whose_squares_leave_float16(name):
    torch = need("torch")
    loss = refloss.ArcFace(scale=16.0)

    def kernel(x, W, labels, inside=torch.float32):
        v = x.to(inside)
        length = (v * v).sum(1, keepdim=True).sqrt().float()
        cos = (x.float() / length) @ torch.nn.functional.normalize(W.float()).T
        hot = torch.nn.functional.one_hot(labels, len(W)).bool()
        cos = cos.clamp(-1 + 1e-6, 1 - 1e-6)
        z = 16.0 * torch.where(hot, torch.cos(torch.acos(cos) + 0.5), cos)
        return torch.nn.functional.cross_entropy(z, labels).to(x.dtype)

    def squares_in_float16(x, W, labels):
        return kernel(x, W, labels, torch.float16)

    options = {"framework": "torch", "dtype": "float16"}
    assert check(kernel, loss, cases=["typical", name], **options).passed
    assert {f.case for f in check(squares_in_float16, loss, cases=["typical", name], **options).failures} == {name}


def test_float32_inside_is_not_asked_for_at_grade_E():
    def chosen(**options):
        given = {"dtype": "float16", "framework": "numpy", "cases": "all", "require": None, "compute": None,
                 "device": None, "slack": 1.0, "seed": 0, "soft_targets": False}  # fmt: skip
        return {case.name for case in Checker(by_hand(loss), loss, **{**given, **options}).cases}

    loss, left_out = refloss.ArcFace(), {"half_long_rows", "half_short_rows"}
    asked = chosen()
    assert left_out <= asked
    for options in ({"require": "E"}, {"require": {"loss": "E"}}, {"compute": "float16"}):
        assert chosen(**options) == asked - left_out


@pytest.mark.parametrize("eps", [0.2, 0.01])
@pytest.mark.parametrize("name", ["softmax", "l2_softmax", "am_softmax", "arcface"])
def test_a_filter_of_blocks_is_seen_in_16_bits(name, eps):
    """grad_W is 0 on blocks of 128 classes in which |p − t| stays below eps, as in a fused linear cross-entropy."""
    need("ml_dtypes")
    loss = make(name)
    case = named(loss, "sparse_blocks", "bfloat16")

    def kernel(x, W, labels, upstream=1.0):
        out = loss.forward(x, W, labels)
        grads = loss.backward(out, upstream)
        off = np.abs(out.probabilities - np.eye(len(W))[labels]).max(axis=0)
        kept = np.repeat([block.max() >= eps for block in np.split(off, range(128, len(off), 128))], 128)[: len(off)]
        stages = {"loss": out.loss, "grad_x": grads.x, "grad_W": grads.W * kept[:, None]}
        return {stage: value.astype(x.dtype) for stage, value in stages.items()}

    report = check(kernel, loss, dtype="bfloat16", cases=[replace(case, inputs={
        key: v for key, v in case.inputs.items() if key != "b"})])  # fmt: skip
    assert [f.stage for f in report.failures] == ["grad_W"]
    assert report.failures[0].ratio > 1.5


@pytest.mark.parametrize("name", ["softmax", "arcface", "cross_entropy"])
def test_the_maximum_of_the_batch_in_place_of_the_rows(name):
    """e^(z − max z) is 0 on a whole row, and its logarithm −inf; with the row's own maximum the same text passes."""
    loss = CE() if name == "cross_entropy" else make(name)
    found = [case for case in cases(loss) if "far_rows" in case.flags]

    def kernel_with(axis):
        def kernel(labels, logits=None, x=None, W=None):
            z = loss.forward(x, W, labels).logits.astype(np.float32) if logits is None else logits
            with np.errstate(divide="ignore"):
                top = z.max(axis=axis, keepdims=True)
                lse = np.log(np.exp(z - top).sum(axis=1)) + top.reshape(-1)
            return (lse - z[np.arange(len(z)), labels]).mean(dtype=np.float32)

        if name == "cross_entropy":
            return lambda logits, targets: kernel(targets, logits=logits)
        return lambda x, W, labels: kernel(labels, x=x, W=W)

    assert len(found) == 1
    row, batch = (check(kernel_with(axis), loss, cases=found) for axis in (1, None))
    assert row.passed
    assert [f.kind for f in batch.failures] == ["inf"]


# -- the law of a common offset ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_offset_is_exact(dtype):
    kind = DTYPES[dtype]
    for case in cases(CE(), dtype):
        if case.quick and "typical" in case.flags:
            without, shifted = offset(case, kind)
            (added,) = np.unique(shifted.inputs["logits"] - without.inputs["logits"])
            assert added >= 8 * np.abs(case.inputs["logits"]).max()
            for way in (without, shifted):
                assert np.array_equal(rounded(way.inputs["logits"], kind), way.inputs["logits"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_that_a_common_offset_changes_breaks_the_law(dtype):
    torch = need("torch")

    def honest(logits, targets):
        return torch.nn.functional.cross_entropy(logits.float(), targets).to(logits.dtype)

    def saturates(logits, targets):  # as a cap on logits does, beyond all that `typical` has
        return honest(logits.clamp(max=100.0), targets)

    options = {"framework": "torch", "dtype": dtype, "cases": ["typical", "masked_classes"]}
    passed, failed = (check(kernel, CE(), **options) for kernel in (honest, saturates))
    law = "a common offset changes nothing"
    assert passed.passed
    assert passed.laws[law][:2] == (2, 2)
    assert not failed.passed
    assert failed.laws[law][0] == 0
    assert {f.kind for f in failed.failures} == {"law"}


def test_the_law_allows_what_the_grade_allows():
    """In bfloat16 throughout, a loss is no nearer than log Σe^z of shifted logits is: that is grade E, no formula."""
    torch = need("torch")

    def kernel(logits, targets):
        return (torch.logsumexp(logits, -1) - logits.gather(-1, targets[:, None])[:, 0]).mean()

    report = check(kernel, CE(), framework="torch", dtype="bfloat16", cases=["typical"])
    assert (report.passed, report.grade) == (False, "E")
    assert check(kernel, CE(), framework="torch", dtype="bfloat16", cases=["typical"], require="E").passed


def test_a_bias_carries_the_offset():
    torch = need("torch")

    def kernel(x, W, labels, b=None):
        return torch.nn.functional.cross_entropy(x @ W.T if b is None else x @ W.T + b, labels)

    report = check(kernel, refloss.Softmax(), framework="torch", cases=["typical"])
    assert report.passed
    assert report.laws["a common offset changes nothing"][:2] == (1, 1)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_lists_names_flags_shapes_and_reasons(capsys):
    assert main(["cases", "arcface", "--set", "margin=0.3", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = cases(refloss.ArcFace(margin=0.3))
    assert [case["name"] for case in found["cases"]] == [case.name for case in expected]
    assert found["cases"][0]["shapes"] == {"x": [12, 8], "W": [6, 8], "labels": [12]}
    assert main(["cases", "cross_entropy", "--dtype", "bfloat16", "--soft-targets"]) == 0
    text = capsys.readouterr().out
    assert "masked_without_a_share · masked soft\n    logits (6, 6), labels (6, 6)\n" in text
    assert text.splitlines()[-1].startswith(f"{len(cases(CE(), 'bfloat16', 0, True))} cases of ")


@pytest.mark.parametrize(("arguments", "words"), [(["no_such"], "no_such"), (["arcface", "--dtype", "int8"], "dtype"),
                                              (["arcface", "--soft-targets"], "margin")])  # fmt: skip
def test_the_command_called_wrongly(capsys, arguments, words):
    assert main(["cases", *arguments]) == 2
    assert words in capsys.readouterr().err
