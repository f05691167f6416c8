"""Facts: what is true of a failure, found in the numbers; no kernel here is one of the suspects, unless it says so."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import refloss
from refloss.cases.case import Case
from refloss.cases.configurations import objects
from refloss.cases.oracle import cases
from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing import check
from refloss.testing.check import Checker
from refloss.testing.diagnosis.facts import facts_of, weightiest_stage
from refloss.testing.diagnosis.facts_as_if import _operations, made
from refloss.testing.diagnosis.facts_common import common
from refloss.testing.diagnosis.facts_relations import factor_name
from refloss.testing.plain_loss import PlainLoss

LOSS, MARGIN = refloss.Softmax(), refloss.AMSoftmax()


def changed(change, loss=LOSS, used=None):
    """The reference, as `used` has it, with its stages changed: change(stages, x, labels)."""

    def kernel(x, W, labels, upstream=1.0):
        own = used or loss
        out = own.forward(x, W, labels)
        grads = own.backward(out, upstream)
        stages = {"loss": out.loss, "grad_x": grads.x, "grad_W": grads.W}
        return stages | change(stages, x, labels)

    return kernel


TRUTHS = {}  # of LOSS, shared by the checks


def sentences(kernel, loss=LOSS):
    """The facts on the quick cases, without the time that suspects take."""
    checker = Checker(
        kernel, loss, dtype="float64", framework="numpy", cases="quick", require="C", compute=None, device=None,
        slack=1.0, seed=0, soft_targets=False, shared=TRUTHS.setdefault(loss, {}),
    )  # fmt: skip
    results = list(checker.run())
    return [fact.sentence for fact in facts_of(checker.cases, results, checker.observed, "C")]


@pytest.mark.parametrize(("factor", "name"), [(4.0, "4"), (0.25, "1/4"), (-1.0, "−"), (0.0, "0"), (3.217, "3.217")])
def test_a_common_factor_names_itself(factor, name):
    said = sentences(changed(lambda stages, x, labels: {"grad_x": factor * stages["grad_x"]}))
    due = {"0": "grad_x is 0", "−": "grad_x is minus what is due"}.get(name, f"grad_x is {name} × what is due")
    assert said[0] == due


def test_a_factor_that_differs_from_case_to_case_is_named_by_what_it_is():
    said = sentences(changed(lambda stages, x, labels: {"grad_x": x.shape[1] * stages["grad_x"]}))
    assert said[0] == "grad_x is D × what is due"


def test_a_factor_of_each_row():
    def by_length(stages, x, labels):
        return {"grad_x": stages["grad_x"] * np.linalg.norm(x, axis=1, keepdims=True)}

    assert "grad_x is ‖x‖ × what is due" in sentences(changed(by_length))


def test_a_sum_of_known_quantities():
    said = sentences(changed(lambda stages, x, labels: {"grad_x": stages["grad_x"] + 0.5 * x}))
    assert said[0] == "grad_x is what is due plus 1/2 × x"


def test_what_the_wrong_rows_have_in_common():
    def label_zero(stages, x, labels):
        return {"grad_x": np.where(labels[:, None] == 0, 0.7 * stages["grad_x"] + 0.1, stages["grad_x"])}

    assert any("wrong only in rows with: label 0" in said for said in sentences(changed(label_zero)))


def test_everything_is_as_if_a_parameter_were_another():
    loss = refloss.ArcFace(scale=16)
    said = sentences(changed(lambda *a: {}, loss, refloss.ArcFace(scale=16, margin=0.45)), loss)
    assert said[0] == "everything that came back is as if margin were 0.45 in place of 0.5"


def test_a_fitted_number_is_named_by_the_losses_own():
    loss = refloss.ArcFace(scale=16)
    said = sentences(changed(lambda *a: {}, loss, refloss.ArcFace(scale=16, margin=0.5 * np.pi / 180)), loss)
    assert said[0].endswith("as if margin were 0.0087266 (margin · π/180) in place of 0.5")


def from_plain(loss, change):
    """The plain loss with a change, as a kernel."""

    def kernel(x, W, labels, upstream=1.0):
        plain = PlainLoss(loss, {"x": x, "W": W}, labels, upstream)
        change(plain)
        stages = plain.run()
        return {name: stages[name] for name in ("loss", "grad_x", "grad_W")}

    return kernel


@pytest.mark.parametrize(
    ("psi", "words"),
    [
        (lambda t: 0.9 * np.cos(t) - 0.3, "ψ(θ) had 0.9 cos θ in place of cos θ, −0.3 in place of −0.35"),
        (lambda t: np.cos(t) ** 3 - 0.35, None),  # no such sum
    ],
)
def test_everything_is_as_if_psi_were_another_sum(psi, words):
    said = sentences(from_plain(MARGIN, lambda plain: setattr(plain, "psi", psi)), MARGIN)
    assert (said[0] == f"everything that came back is as if {words}") if words else not any("ψ(" in s for s in said)


def test_a_gradient_tells_the_slope_it_was_made_with():
    loss = refloss.ASoftmax(margin=4)

    def change(plain):
        own = plain.slope
        plain.slope = lambda: np.where(plain.on & (plain.theta > 1.0), -own(), own())

    said = sentences(from_plain(loss, change), loss)
    assert "as grad_x tells, where it is wrong, dψ/dcos θ_y is minus what is due" in said


def test_a_gradient_tells_the_gradient_in_the_logits_it_was_made_of():
    def change(plain):
        own = plain.grad_logits
        before = lambda: np.cumsum(plain.target, axis=0) - plain.target > 0  # noqa: E731
        plain.grad_logits = lambda: np.where(before(), 3 * own(), own())

    said = sentences(from_plain(LOSS, change))
    assert "as grad_x tells, where it is wrong, grad_logits is 3 × what is due" in said


def test_a_part_along_the_row_tells_nothing_of_the_logits():
    """It is no sum of tangents: only the part across is read, and that is right."""
    said = sentences(changed(lambda stages, x, labels: {"grad_x": stages["grad_x"] + 0.1 * x}, MARGIN), MARGIN)
    assert not any("tells" in s for s in said)


def test_a_dtype_is_named_only_where_its_arithmetic_errs_as_much():
    """A hundredth too much in one case in three is no rounding in bfloat16, whatever the middle of the errors is."""

    def off(by):
        rng = np.random.default_rng(0)
        return lambda stages, x, labels: {
            "loss": stages["loss"] * (1 + by * rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1))
        }

    assert any("bfloat16" in s for s in sentences(changed(off(2.0**-9))))
    huge = sentences(changed(lambda s, x, y: {"loss": s["loss"] * (1 + (2.0**-8 if y[0] else 0.5) * (-1) ** len(x))}))
    assert not any("bfloat16" in s for s in huge)


def by_hand(of_gradient):
    """A softmax whose gradients go through of_gradient(p, labels, x, W)."""

    def kernel(x, W, labels, upstream=1.0):
        out = LOSS.forward(x, W, labels)
        grads = of_gradient(out.probabilities, labels, x, W)
        return {"loss": out.loss} | {name: upstream / len(x) * value for name, value in grads.items()}

    return kernel


def less_one_hot(p, labels):
    return p - np.eye(p.shape[1])[labels]


def test_gradients_alone_are_as_if_p_had_been_kept_in_16_bits():
    def coarse(p, labels, x, W):
        g = less_one_hot(rounded(p, DTYPES["bfloat16"]), labels)
        return {"grad_x": g @ W, "grad_W": g.T @ x}

    assert "everything that came back is as if p were stored in bfloat16" in sentences(by_hand(coarse))


def test_one_stage_is_as_if_a_block_had_been_left_out():
    def first_four(p, labels, x, W):
        g = less_one_hot(p, labels)
        return {"grad_x": g @ W, "grad_W": g[:4].T @ x[:4]}

    words = "grad_W is, with nothing else changed, as if the gradient in the logits were 0 in rows from 4 on"
    assert words in sentences(by_hand(first_four))


def test_the_errors_of_rows_lie_along_one_direction():
    rng = np.random.default_rng(0)

    def along(stages, x, labels):
        return {"grad_x": stages["grad_x"] + rng.normal(size=(len(x), 1)) * x}

    assert "the errors of grad_x lie along x̂: its part across x̂ is right" in sentences(changed(along))


@pytest.mark.parametrize("name", ["arcface", "a_softmax, annealed", "softmax, ignored, smoothed", "weighted_softmax"])
def test_every_change_can_be_made(name):
    """One that always fails would explain nothing, and nobody would notice."""
    loss = objects()[name]
    case = next(case for case in cases(loss, "float64") if case.name == "typical")
    plain = PlainLoss(loss, case.inputs, case.labels, case.upstream)
    plain.run()
    o = SimpleNamespace(truth=SimpleNamespace(plain=plain), previous=None)
    for words, change in _operations(plain):
        assert made(o, change) is not None, words


def test_cases_that_raise_are_told_by_what_they_share():
    def wide(stages, x, labels):
        if x.shape[1] % 8:
            raise RuntimeError("D must be a multiple of 8")
        return {}

    report = check(changed(wide), LOSS, dtype="float64")
    assert report.facts[0].sentence == "the kernel raises only where D not a multiple of 8"
    assert "none of the" in report.facts[0].evidence


def test_a_kernel_that_raised_in_most_cases_has_no_suspects():
    def most(stages, x, labels):
        if len(x) != 7:
            raise RuntimeError("no")
        return {"grad_x": 2 * stages["grad_x"]}

    report = check(changed(most), LOSS, dtype="float64", cases="quick")
    assert report.facts
    assert not report.suspects


def test_a_right_kernel_has_no_facts():
    assert not sentences(changed(lambda *a: {}))


def test_noise_has_no_factor_no_sum_and_no_name():
    """The negative control: errors without a pattern are given none."""
    rng = np.random.default_rng(0)

    def noise(stages, x, labels):
        return {"grad_x": stages["grad_x"] + rng.standard_normal(x.shape)}

    said = sentences(changed(noise))
    assert said
    assert not [s for s in said if "as if" in s or "what is due" in s.split("grad_x is ")[-1] or "lie along" in s]


def test_the_first_stage_is_that_of_most_cases():
    assert weightiest_stage({"loss": ["a"], "grad_x": [*"abcdef"]}) == "grad_x"


def test_few_wrong_ones_share_nothing_by_chance():
    value = np.arange(12.0)
    assert common({"size": value}, value > 10) is None
    assert common({"size": np.arange(1000.0)}, np.arange(1000) >= 990).words == "size ≥ 990"


def test_a_factor_without_a_name_has_none():
    names = {"N": 7.0}
    assert factor_name([(7.0, 1e-6, names), (8.0, 1e-6, {"N": 8.0})])[0] == "N"
    assert factor_name([(7.0, 1e-6, names), (5.0, 1e-6, {"N": 8.0})])[0] is None


def losses_of(total):
    """A float32 cross-entropy whose sum over the classes is total(e (N, C))."""

    def kernel(logits, targets):
        top = logits.max(axis=1)
        sums = total(np.exp(logits - top[:, None]))
        return {"losses": np.log(sums) + top - logits[np.arange(len(logits)), targets]}

    return kernel


def towards_zero(e):
    """Σ_j e_ij, each step cut off."""
    sums = np.zeros(len(e), dtype=np.float32)
    for column in e.T:
        exact = sums.astype(float) + column
        sums = exact.astype(np.float32)
        sums = np.where(sums > exact, np.nextafter(sums, np.float32(0)), sums)
    return sums


@pytest.mark.parametrize(("total", "biased"), [(towards_zero, True), (lambda e: np.cumsum(e, axis=1)[:, -1], False)])
def test_a_sum_cut_off_towards_zero_is_told_and_one_in_order_is_not(total, biased):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(256, 1000)).astype(np.float32).astype(float), rng.integers(0, 1000, 256)
    case = Case("many", "a bias", (), {"logits": z}, y, 1.0, np.ones(256))
    report = check(losses_of(total), refloss.CrossEntropy(reduction="none"), cases=[case])
    assert any("losses that differ are too low" in note for note in report.notes) == biased
