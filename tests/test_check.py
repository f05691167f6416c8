"""`refloss.testing.check`: what it accepts, what it catches, and what it says.

Kernels here are refloss's own passes rounded to the dtype, each with one thing broken on purpose.
"""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import NAMES, need

import refloss
from refloss.testing import Case, MismatchError, UnfitImplementation, assert_matches, cases, check
from refloss.testing.check import Checker
from refloss.textbook.family import FAMILY, derived_at

WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0)


def make(name, **options):
    return refloss.get(name, **({"class_weights": WEIGHTS} if name == "weighted_softmax" else {}), **options)


def kernel_of(loss, stages=("loss", "grad_x", "grad_W"), change=None, inputs=None):
    """refloss's own stages in the dtype of x; `change(stages)` breaks them."""

    def kernel(x, W, labels, b=None, upstream=1.0):
        if inputs is not None:
            inputs(x, W, labels)
        out = loss.forward(x, W, labels, b)
        grads = loss.backward(out, upstream)
        found = {**out.stages(), **grads.stages()}
        if loss.reduction == "none":
            found["losses"] = found["loss"]
        made = {name: np.array(found[name]) for name in stages if name in found}
        if change is not None:
            change(made)
        return {name: np.asarray(value).astype(x.dtype) for name, value in made.items()}

    return kernel


FEW = ["typical", "duplicate_labels", "upstream_mixed"]  # enough for a plain failure, and for every wrong copy to show


def quick(kernel, loss, **options):
    return check(kernel, loss, **{"cases": FEW, "dtype": "float32", **options})


def wrong_stages(kernel, loss, **options):
    """Without the time that facts, suspects and a reproducer take."""
    usual = {"require": None, "compute": None, "device": None, "slack": 1.0, "seed": 0, "soft_targets": False}
    return {failure.stage for result in Checker(kernel, loss, **usual, **options).run() for failure in result.failures}


def kinds(report):
    return {failure.kind for failure in report.failures}


ALL = ("x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss", "grad_logits", "grad_x",
       "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha")  # fmt: skip


# -- what is right passes --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes_with_grade_a(name, dtype):
    """Every stage, rounded to the dtype: nothing is nearer to the truth."""
    loss = make(name)
    report = quick(kernel_of(loss, ALL), loss, dtype=dtype, cases="quick" if dtype == "float32" else FEW)
    assert report.passed, report
    assert report.grade == "A"
    assert report.first_divergent_stage is None
    assert not report.not_checked


@pytest.mark.parametrize("options", [{"reduction": "none"}, {"reduction": "sum"}, {"ignore_index": -100},
                                     {"label_smoothing": 0.1},
                                     {"class_weights": WEIGHTS, "reduction": "weighted_mean"}],
                         ids=str)  # fmt: skip
def test_options_of_the_loss_choose_cases(options):
    loss = refloss.Softmax(**options)
    report = quick(kernel_of(loss), loss, cases="quick")
    assert report.passed, report
    if "ignore_index" in options:
        assert report.coverage["ignored"]


def test_bare_logits():
    loss = refloss.CrossEntropy(axis=1)

    def kernel(logits, targets, upstream=1.0):
        out = loss.forward(logits, targets)
        grads = loss.backward(out, upstream)
        return {"loss": np.float32(out.loss), "grad_logits": grads.logits.astype(np.float32)}

    report = check(kernel, loss, dtype="float32")
    assert report.passed, report
    assert report.coverage["image"]


def test_soft_targets():
    loss = refloss.Softmax()
    report = quick(kernel_of(loss), loss, soft_targets=True, cases="quick")
    assert report.passed, report
    assert report.coverage["soft"]


def test_the_same_call_gives_the_same_report():
    loss = make("arcface")
    first, second = (quick(kernel_of(loss), loss, seed=3).to_json() for _ in range(2))
    assert first == second


def test_inputs_are_what_the_dtype_holds():
    seen = []
    loss = make("softmax")
    quick(kernel_of(loss, inputs=lambda x, W, y: seen.append((x.dtype, W.dtype, y.dtype))), loss, dtype="float16")
    assert set(seen) == {(np.dtype("float16"), np.dtype("float16"), np.dtype("int64"))}


# -- failures of their own -------------------------------------------------------------------------


def broken(stage, value):
    def change(made):
        made[stage] = value(made[stage])

    return change


def with_nan(v):
    v = np.array(v)
    v[(0,) * v.ndim] = np.nan
    return v


def with_inf(v):
    v = np.array(v)
    v[(0,) * v.ndim] = np.inf
    return v


@pytest.mark.parametrize(
    ("kind", "value"),
    [("nan", with_nan), ("inf", with_inf), ("shape", lambda v: v[:-1]), ("shape", lambda v: v.T.copy()[..., None])],
)
def test_what_is_no_number_or_has_the_wrong_shape(kind, value):
    loss = make("softmax")
    report = quick(kernel_of(loss, change=broken("grad_W", value)), loss)
    assert kinds(report) == {kind}
    assert report.first_divergent_stage == "grad_W"
    assert report.grade == "F"


def test_a_wrong_dtype():
    loss = make("softmax")

    def kernel(x, W, labels):
        return np.float64(kernel_of(loss)(x, W, labels)["loss"])

    report = quick(kernel, loss)
    assert kinds(report) == {"dtype"}
    assert "float64" in report.failures[0].message


def test_halves_may_answer_in_float32():
    loss = make("softmax")

    def kernel(x, W, labels):
        return {k: v.astype(np.float32) for k, v in kernel_of(loss)(x, W, labels).items()}

    assert quick(kernel, loss, dtype="float16").passed


def test_an_exception_is_a_failure_and_says_where():
    def kernel(x, W, labels):
        raise RuntimeError("boom")

    report = quick(kernel, make("softmax"))
    assert kinds(report) == {"exception"}
    assert "boom" in report.failures[0].message
    assert "test_check.py" in report.failures[0].message


def test_a_mutated_input():
    loss = make("softmax")

    def spoil(x, W, labels):
        if x.flags.writeable:
            x[0, 0] += 1

    def kernel(x, W, labels, upstream=1.0):
        made = kernel_of(loss)(x, W, labels, upstream=upstream)
        spoil(x, W, labels)
        return made

    report = quick(kernel, loss)
    assert kinds(report) == {"mutated"}


def test_an_unwritten_output():
    """Buffers come full of NaN: the last row that is never written shows."""
    loss = make("softmax")

    def kernel(x, W, labels, out, upstream=1.0):
        made = kernel_of(loss)(x, W, labels, upstream=upstream)
        out["loss"][...] = made["loss"]
        out["grad_W"][...] = made["grad_W"]
        out["grad_x"][:-1] = made["grad_x"][:-1]

    report = quick(kernel, loss)
    assert "unwritten" in kinds(report)
    assert {failure.stage for failure in report.failures} == {"grad_x"}


def test_a_result_that_changes():
    loss, calls = make("softmax"), []

    def waver(made):
        calls.append(0)
        made["grad_x"] = made["grad_x"] * (1 + 1e-7 * (len(calls) % 2))

    report = quick(kernel_of(loss, change=waver), loss)
    assert "nondeterministic" in kinds(report)


def test_a_gradient_that_is_not_linear_in_what_arrives():
    """Right for this upstream, and not for twice as much."""
    loss = make("softmax")
    right = kernel_of(loss)
    known = {case.upstream for case in cases(loss)}

    def kernel(x, W, labels, upstream=1.0):
        made = right(x, W, labels, upstream=upstream)
        if float(upstream) not in known:
            made["grad_x"] = made["grad_x"] * np.float32(0.5)
        return made

    report = quick(kernel, loss)
    assert kinds(report) == {"law"}
    held, tried, _ = report.laws["linear in upstream"]
    assert held < tried


# -- where, and how far ----------------------------------------------------------------------------


def test_a_failure_names_index_values_and_role():
    loss = make("arcface")

    def change(made):
        made["logits"][0, 1] += 1.0

    report = quick(kernel_of(loss, ("logits", "loss", "grad_x", "grad_W"), change), loss, cases=["typical"])
    (failure,) = [f for f in report.failures if f.stage == "logits"]
    assert failure.index == (0, 1)
    np.testing.assert_allclose(failure.got - failure.expected, 1.0, rtol=1e-5)
    assert failure.tolerance < failure.error
    assert failure.role.startswith("other class")
    assert report.first_divergent_stage == "logits"


def test_an_ignored_row_is_called_so():
    loss = make("softmax", ignore_index=-100)
    case = next(c for c in cases(loss) if c.name == "ignored_some")
    row = int(np.flatnonzero(case.labels == -100)[0])

    def change(made):
        made["grad_x"][row, 0] = 0.25

    report = check(kernel_of(loss, change=change), loss, cases=["ignored_some"])
    assert report.failures[0].role == "ignored row"
    assert report.failures[0].index == (row, 0)


def test_the_first_stage_that_diverges_comes_first_in_the_projects_order():
    loss = make("arcface")

    def change(made):
        made["grad_x"] = made["grad_x"] * 2
        made["cos_theta"] = made["cos_theta"] + 0.01

    report = quick(kernel_of(loss, ALL, change), loss)
    assert report.first_divergent_stage == "cos_theta"
    assert report.derived["cos_theta"] == "arcface.md (2)"


@pytest.mark.parametrize("name", [*FAMILY])
def test_the_steps_that_a_report_cites_are_in_the_derivation(name):
    """No orphaned step number on the report's side."""
    import re
    from pathlib import Path

    own = refloss.MarginSoftmax(psi=lambda t, xp: xp.cos(t), dpsi=lambda t, xp: -xp.sin(t))
    loss = own if name == "margin_softmax" else make(name)
    root = Path(__file__).parent.parent / "derivations"
    for stage in ALL:
        page, _, steps = derived_at(loss, stage).partition(" ")
        if page:
            text = (root / page).read_text(encoding="utf-8")
            for step in re.findall(r"\([A-Z]?\d+\)", steps):
                assert f"**{step}**" in text, (stage, page, step)


def test_the_failing_case_is_shrunk():
    """Wrong for the last class alone: one row, two classes and two dimensions are left."""
    loss = make("softmax")

    def kernel(x, W, labels, b=None, upstream=1.0):
        made = kernel_of(loss)(x, W, labels, b, upstream)
        if len(W) > 1:
            made["grad_W"][-1] *= np.float32(1.5)
        return made

    report = quick(kernel, loss)
    assert "N = 1, C = 2, D = 2" in report.shrunk, report.shrunk


def test_a_kernel_may_have_a_name_that_the_reproducer_has_for_its_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "named_loss.py").write_text("def loss(x, W, labels):\n    return {'loss': x.sum()}\n")
    monkeypatch.syspath_prepend(tmp_path)
    from named_loss import loss

    report = check(loss, refloss.Softmax(), dtype="float64", cases=["one_sample"])
    assert "from named_loss import loss as kernel\n" in report.reproducer
    exec(report.reproducer, {})
    assert "FAILED" in capsys.readouterr().out


def test_the_reproducer_runs_and_fails_the_same_way(capsys):
    loss = make("arcface", scale=16.0)
    report = quick(kernel_of(loss, change=broken("grad_W", lambda v: -v)), loss)
    code = report.reproducer.replace("kernel = ...  # yours", "")
    code = "\n".join(line for line in code.split("\n") if not line.startswith("from test_check"))
    exec(code, {"kernel": kernel_of(loss, change=broken("grad_W", lambda v: -v))})
    assert "FAILED" in capsys.readouterr().out


# -- grades ----------------------------------------------------------------------------------------


def off_by(relative):
    def change(made):
        for name in ("grad_x", "grad_W"):
            made[name] = made[name] * (1 + relative)

    return change


def test_grades_grow_with_the_error():
    """float16 with float32 inside: within one place A; beyond what float32 explains D, within float16's own; then F."""
    loss = make("arcface")
    found = [quick(kernel_of(loss, change=off_by(r)), loss, dtype="float16", require="D").grade for r in (0, 4e-3, 5.0)]
    assert found == ["A", "D", "F"]


def test_require_decides():
    loss = make("softmax")
    kernel = kernel_of(loss, change=off_by(2e-6))
    grade = quick(kernel, loss, require="D").grade
    assert grade in "BC"
    assert not quick(kernel, loss, require="A").passed
    assert quick(kernel, loss, require=grade).passed


# -- the oracle checks itself ----------------------------------------------------------------------


def test_a_gradient_that_could_not_have_been_told_from_zero_does_not_pass():
    """One class: every gradient is 0, and a kernel that returns 0 is right; but nothing was checked."""
    loss = make("softmax")
    report = check(kernel_of(loss), loss, cases=["one_class"])
    assert not report.failures
    assert not report.passed
    assert "zero" in report.not_checked["grad_x"]
    assert "NOT CHECKED" in str(report)


def test_confident_rows_alone_are_void_at_grade_c():
    """60 ahead, the textbook form in float32 cannot tell the gradient from 0: that is said, and does not pass."""
    loss = make("softmax")
    report = check(kernel_of(loss, ("loss", "grad_x")), loss, cases=["very_confident"])
    assert not report.passed
    assert ("very_confident", "grad_x", "zero") in report.void


def test_what_is_void_at_c_is_judged_at_b_as_advice():
    """A stable kernel could have it: zero is not wrong at C there, but the report says that B would see it."""
    loss = make("softmax")

    def change(made):
        if np.max(np.abs(made["grad_x"])) < 1e-15:
            made["grad_x"] = 0 * made["grad_x"]

    report = check(kernel_of(loss, change=change), loss)
    assert any("very_confident" in line and "grad_x" in line for line in report.advice)


def test_a_wider_tolerance_would_be_noticed():
    """Negative control of the self-check: with a slack of 1e6 the wrong copies pass, and so the run does not."""
    loss = make("arcface")
    report = quick(kernel_of(loss), loss, slack=1e6)
    assert report.not_checked
    assert not report.passed


def test_a_wrong_reference_is_the_oracles_fault(monkeypatch):
    """Were refloss's own gradient off by 10 %, every draw of the textbook form would lie to one side of it."""
    loss = make("softmax")
    right = type(loss).backward_logits

    def wrong(self, at, g):
        return {name: 1.1 * value for name, value in right(self, at, g).items()}

    monkeypatch.setattr(refloss.Softmax, "backward_logits", wrong)
    report = quick(kernel_of(loss), loss)
    assert any("grad_x" in fault for fault in report.oracle_faults)
    assert not report.passed
    assert "THE ORACLE IS AT FAULT" in str(report)


def test_without_upstream_that_is_said():
    loss = make("softmax")

    def kernel(x, W, labels):
        return kernel_of(loss)(x, W, labels)

    report = quick(kernel, loss)
    assert report.passed
    assert any("upstream" in note for note in report.notes)


# -- suspects --------------------------------------------------------------------------------------


def test_the_bug_is_named():
    """Upstream ignored: of all suspects, the one that reproduces every entry."""
    loss = make("arcface")

    def kernel(x, W, labels, upstream=1.0):
        return kernel_of(loss)(x, W, labels)

    report = quick(kernel, loss, cases="quick")
    assert report.suspects[0].name == "upstream_ignored"
    assert report.suspects[0].match > 0.95
    assert report.suspects[0].explanation
    assert report.suspects[0].seen_in


def test_a_suspect_that_fits_in_part_says_where_it_does_not():
    """grad_x alone is negated: the bug that negates every gradient would get grad_W wrong, which is right here."""
    loss = make("arcface", scale=16.0)
    match = quick(kernel_of(loss, change=broken("grad_x", lambda v: -v)), loss, cases="quick").suspects[0]
    assert (match.name, match.as_well, match.but_not) == ("gradient_of_wrong_sign", ("grad_W",), ())
    words = "partly like gradient_of_wrong_sign (50%): it gets grad_W wrong as well. That bug is: Every gradient"
    assert str(match).startswith(words)


def test_a_bug_that_nobody_knows_is_not_named():
    """Noise of 10 %: no suspect explains it, and none is offered."""
    loss, rng = make("softmax"), np.random.default_rng(0)
    noise = {}

    def change(made):
        for name in ("grad_x", "grad_W"):
            shape = made[name].shape
            made[name] = made[name] * (1 + 0.1 * noise.setdefault((name, shape), rng.normal(size=shape)))

    report = quick(kernel_of(loss, change=change), loss, cases="quick")
    assert not report.passed
    assert all(match.match < 0.8 for match in report.suspects)


# -- frameworks ------------------------------------------------------------------------------------


def test_torch_is_differentiated_and_its_logits_stage_too():
    torch = need("torch")
    loss = make("am_softmax")

    def kernel(x, W, labels):
        cos = torch.nn.functional.linear(torch.nn.functional.normalize(x), torch.nn.functional.normalize(W))
        hot = torch.nn.functional.one_hot(labels, len(W)).to(x.dtype)
        logits = loss.scale * (cos - loss.margin * hot)
        return {"cos_theta": cos, "logits": logits, "loss": torch.nn.functional.cross_entropy(logits, labels)}

    report = quick(kernel, loss, framework="torch")
    assert report.passed, report
    assert {"grad_logits", "grad_x", "grad_W"} <= set(report.stages)


def test_jax_is_differentiated():
    jax = need("jax")
    loss = make("softmax")

    def kernel(x, W, labels):
        log_p = jax.nn.log_softmax(x @ W.T)
        return -jax.numpy.mean(jax.numpy.take_along_axis(log_p, labels[:, None], 1))

    report = quick(kernel, loss, framework="jax")
    assert report.passed, report
    assert {"grad_x", "grad_W"} <= set(report.stages)


def test_losses_of_the_samples_are_differentiated_one_by_one():
    torch = need("torch")
    loss = make("softmax")

    def kernel(x, W, labels):
        return torch.nn.functional.cross_entropy(x @ W.T, labels, reduction="none")

    report = quick(kernel, loss, framework="torch")
    assert report.passed, report
    assert "losses" in report.stages
    assert "loss" not in report.stages


def test_torchs_own_bfloat16_is_graded_d_and_float32_inside_c_or_better():
    torch = need("torch")
    loss = make("arcface")

    def formula(x, W, labels):
        cos = torch.nn.functional.linear(torch.nn.functional.normalize(x), torch.nn.functional.normalize(W))
        u = torch.finfo(cos.dtype).eps / 2
        at = cos.gather(1, labels[:, None]).clamp(u - 1, 1 - u)
        return torch.nn.functional.cross_entropy(
            64 * cos.scatter(1, labels[:, None], torch.cos(torch.acos(at) + 0.5)), labels
        )

    def inside(x, W, labels):
        return formula(x.float(), W.float(), labels).to(x.dtype)

    own = check(formula, loss, dtype="bfloat16", framework="torch", cases="quick")
    assert own.passed, own
    assert own.grade == own.require == "D"
    assert not quick(formula, loss, dtype="bfloat16", framework="torch", require="C").passed
    better = check(inside, loss, dtype="bfloat16", framework="torch", cases="quick")
    assert better.passed, better
    assert better.grade <= "C"


def filtered(least):
    """Softmax with float32 inside whose blocks of 128 classes give no grad_W where |p − t| stays under `least`."""
    torch = need("torch")

    class Filtered(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels):
            z = (x @ W.T).float()
            g = torch.softmax(z, 1)
            g[torch.arange(len(z)), labels] -= 1
            ctx.save_for_backward(x, W, g)
            return torch.nn.functional.cross_entropy(z, labels).to(x.dtype)

        @staticmethod
        def backward(ctx, upstream):
            x, W, g = ctx.saved_tensors
            grad_x = (g / len(x)).to(x.dtype) @ W
            for block in g.split(128, dim=1):
                if block.abs().max() < least:
                    block.zero_()
            return grad_x * upstream, ((g / len(x)).to(x.dtype).T @ x) * upstream, None

    return Filtered.apply


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_16_bits_store_passes_and_rows_that_they_do_not_lose_must_be_there(dtype):
    """The ordinary head, a gradient that is stored and then scaled; but no filter of what is not small."""
    torch = need("torch")
    loss, options = make("softmax"), {"dtype": dtype, "framework": "torch", "cases": ["typical", "blocks_1000"]}
    head = check(lambda x, W, labels: torch.nn.functional.cross_entropy((x @ W.T).float(), labels), loss, **options)
    assert head.passed, head
    assert check(filtered(0.0), loss, **options).passed
    for least, case in ((0.2, "blocks_1000"), (0.01, "blocks_5000")):
        assert wrong_stages(filtered(least), loss, **options | {"cases": [case]}) == {"grad_W"}


def test_a_gradient_of_which_most_could_be_zero_is_not_checked():
    """Grade E in bfloat16 explains off-target gradients away: the run says so and does not pass."""
    torch = need("torch")
    loss = make("softmax")
    options = {"dtype": "bfloat16", "framework": "torch", "cases": ["typical", "blocks_1000"]}
    head = check(lambda x, W, y: torch.nn.functional.cross_entropy(x @ W.T, y), loss, require="E", **options)
    assert not head.failures
    assert not head.passed
    assert any("could be" in words for words in head.not_checked["grad_W"])


def test_require_by_stage():
    """A stage that is not named is asked for the default."""
    loss = make("softmax")
    kernel = kernel_of(loss, change=off_by(2e-6))
    wrong = quick(kernel, loss, require={"grad_x": "A"})
    assert {failure.stage for failure in wrong.failures} == {"grad_x"}
    assert quick(kernel, loss, require={"probabilities": "A"}).passed


# -- the call was wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [
    ({"dtype": "float8"}, "dtype must be one of"),
    ({"framework": "tensorflow"}, "framework must be one of"),
    ({"require": "F"}, "require must be one of"),
    ({"require": {"loss": "Z"}}, r"require\['loss'\] must be one of"),
    ({"require": {"los": "B"}}, "a stage of require must be one of"),
    ({"compute": "bfloat16"}, "compute must be no coarser"),
    ({"cases": "nonsense"}, "nonsense"),
    ({"slack": 0}, "slack must be a positive number"),
    ({"seed": -1}, "seed must be an integer"),
    ({"device": "cuda"}, "device"),
])  # fmt: skip
def test_a_wrong_call_is_one_clear_line(options, words):
    loss = make("softmax")
    with pytest.raises(ValueError, match=words) as raised:
        check(kernel_of(loss), loss, **{"cases": "quick", **options})
    assert "\n" not in str(raised.value)


def test_an_unknown_stage_is_named_with_the_nearest():
    loss = make("softmax")
    with pytest.raises(UnfitImplementation, match=r"grad_w.*grad_W"):
        quick(lambda x, W, labels: {"grad_w": W}, loss)


def test_what_is_no_implementation_or_no_loss():
    loss = make("softmax")
    with pytest.raises(UnfitImplementation, match="x, W, labels"):
        check(lambda x: x, loss)
    with pytest.raises(UnfitImplementation, match="callable"):
        check(3, loss)
    with pytest.raises(TypeError, match="pass Softmax"):
        check(lambda x, W, labels: 0, refloss.Softmax)
    with pytest.raises(TypeError, match="one of refloss"):
        check(lambda x, W, labels: 0, object())
    with pytest.raises(ValueError, match="margin"):
        check(kernel_of(loss), refloss.ArcFace(), soft_targets=True)


# -- reports ---------------------------------------------------------------------------------------


def test_assert_matches_raises_with_the_report():
    loss = make("softmax")
    assert_matches(kernel_of(loss), loss, cases=FEW)
    with pytest.raises(MismatchError, match="FAILED") as raised:
        assert_matches(kernel_of(loss, change=broken("loss", lambda v: v + 1)), loss, cases=FEW)
    assert not raised.value.report.passed
    assert isinstance(raised.value, AssertionError)


def test_json_is_strict_and_whole(tmp_path):
    loss = make("softmax")
    report = quick(kernel_of(loss, change=broken("grad_x", with_nan)), loss)
    path = tmp_path / "report.json"
    report.to_json(path)
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert found["passed"] is False
    assert found["grade"] == "F"
    assert found["first_divergent_stage"] == "grad_x"
    assert len(found["results"]) == len(report.results)
    assert [path] == list(tmp_path.iterdir())


def test_junit_has_a_test_case_for_each_case():
    loss = make("softmax")
    report = quick(kernel_of(loss, change=broken("loss", lambda v: v + 1)), loss)
    suite = ElementTree.fromstring(report.to_junit())
    assert len(suite) == len(report.results) == int(suite.get("tests"))
    assert int(suite.get("failures")) == sum(bool(r.failures) for r in report.results) > 0


def test_the_first_screen_fits_a_terminal_and_says_what_to_do_next():
    loss = make("arcface")
    report = check(kernel_of(loss, change=broken("grad_W", lambda v: -v)), loss)
    lines = str(report).split("\n")
    screen = lines[: next(i for i, line in enumerate(lines) if line.startswith("to reproduce"))]
    assert len(screen) <= 50
    assert max(map(len, lines[:12])) <= 120
    head = "\n".join(lines[:16])
    for words in ("FAILED", "first stage that diverges: grad_W (derivations/arcface.md", "partly like ", "next:"):
        assert words in head


def test_a_case_of_ones_own():
    loss = make("softmax")
    case = Case(
        name="mine", reason="", flags=(), inputs={"x": np.array([[0.1, 2.0]]), "W": np.array([[1.0, 0.3], [0.2, 1.0]])},
        labels=np.array([1]), upstream=1.0, upstreams=np.array([1.0]),
    )  # fmt: skip
    report = check(kernel_of(loss), loss, cases=[case])
    assert [result.name for result in report.results] == ["mine"]
    assert not report.failures


def test_an_ignored_label_among_the_classes_keeps_its_name_while_a_case_shrinks():
    """ignore_index=3: were classes left out and renumbered, other rows would be ignored."""
    loss = make("softmax", ignore_index=3)
    report = quick(kernel_of(loss, change=broken("loss", lambda v: v + 1)), loss, cases=["typical"])
    assert "N = 1, C = 6, D = 2" in report.shrunk
