"""refloss.gradcheck: its verdict, its abstentions, and anyone's loss."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import with_stage

import refloss
from refloss import validation as check
from refloss.cases.angles import place
from refloss.cases.gradcheck import all_cases, cases
from refloss.textbook.rows import row_norm
from refloss.witnesses.compare import BLIND, WITNESSES, in_units_of_the_gradient
from refloss.witnesses.gradcheck import check_case, gradcheck_cases
from refloss.witnesses.problem import loss_problem
from refloss.witnesses.report import GradcheckError
from refloss.witnesses.steps import check_steps

N, C, D = 6, 5, 8


@pytest.fixture
def data(rng):
    return rng.normal(size=(N, D)), rng.normal(size=(C, D)), np.arange(N) % C


def confident(gap):
    """Two classes, one row, the target ahead by `gap`."""
    return np.array([[1.0, 0.5]]), np.array([[gap, 0.0], [0.0, 0.0]]), np.array([0])


# -- verdict and report ----------------------------------------------------------------------------


def test_truth_value_is_the_verdict(data):
    """A right loss gives a true report whose text says PASSED and shows every gradient."""
    report = refloss.gradcheck(refloss.AMSoftmax(), *data)
    assert report
    assert report.passed
    text = str(report)
    for word in ("PASSED", "grad_x", "grad_W", "grad_scale", "grad_margin", *WITNESSES):
        assert word in text
    report.raise_if_failed()


class Spoiled(refloss.ArcFace):
    """ArcFace whose grad_W is 0.05 % too large."""

    def backward_logits(self, at, g):
        grads = super().backward_logits(at, g)
        return grads | {"W": grads["W"] * 1.0005}


def test_failure_names_loss_case_entry_and_both_numbers(data):
    """A gradient wrong by 0.05 % fails; the error is an AssertionError that carries the report."""
    report = refloss.gradcheck(Spoiled(), *data)
    assert not report
    with pytest.raises(GradcheckError, match=r"Spoiled\(scale=64.0.*grad_W\[\d, \d\] is wrong: got") as info:
        report.raise_if_failed()
    assert isinstance(info.value, AssertionError)
    assert info.value.report is report
    assert {failure.input for _, failure in report.failures} == {"W"}
    assert all(abs(failure.error - 5e-4) < 5e-4 for _, failure in report.failures)
    json.dumps(report.to_dict(), default=str)


def times(**factors):
    """AM-Softmax with these gradients times these factors, each a function of (the gradient, the loss)."""

    class Wrong(refloss.AMSoftmax):
        def backward_logits(self, kept, g):
            grads = super().backward_logits(kept, g)
            return grads | {name: factor(grads[name], self) for name, factor in factors.items()}

    return Wrong()


@pytest.mark.parametrize(("factor", "said"), [
    (lambda v, loss: -v, "−1"), (lambda v, loss: 2 * v, "2"), (lambda v, loss: v / N, "1/N (N = 6)"),
    (lambda v, loss: v * loss.scale, "s (s = 30)"), (lambda v, loss: -v / loss.scale, "−1/s (s = 30)"),
    (lambda v, loss: 0 * v, "0"), (lambda v, loss: -1.25 * v, "−1.25"), (lambda v, loss: v + 1, ""),
    (lambda v, loss: v * np.linspace(0.5, 0.51, v.size).reshape(v.shape), ""),
])  # fmt: skip
def test_a_common_factor_is_named(factor, said, data):
    """All rows wrong by one factor: it is said once, by its name if it has one; no factor, no word."""
    [(_, failure)] = refloss.gradcheck(times(x=factor), *data).failures
    assert (failure.rows, failure.total) == (N, N)
    assert (failure.factor is None) == (not said)
    assert (f"got = {said} × expected in all of them" in str(failure)) == bool(said)


def test_a_scalar_s_factor_is_named_only_if_it_has_a_name(data):
    """One number is some multiple of any other."""
    report = refloss.gradcheck(times(scale=lambda v, loss: 2 * v, margin=lambda v, loss: 1.1 * v), *data)
    assert [(f.input, f.factor) for _, f in report.failures] == [("scale", 2.0), ("margin", None)]


def test_one_failure_for_each_input_and_case(data):
    """The worst row of many; the page's steps; the text has one line, and names the gradients that are right."""

    def one_row_worse(v, loss):
        return v * np.where(np.arange(len(v)) == 2, 1.5, 1.001)[:, None]

    loss = times(x=one_row_worse)
    [(result, failure)] = refloss.gradcheck(loss, *data).failures
    assert (failure.row, failure.index[0], failure.rows, failure.factor) == (2, 2, N, None)
    assert failure.step == "am_softmax.md (7) to (9)"
    assert next(i for i in result.inputs if i.input == "x").failed == N
    report = gradcheck_cases(cases(loss))
    assert len(report.failures) == len({(result.case, failure.input) for result, failure in report.failures}) > 20
    text = str(report)
    assert text.count("is wrong: got") == 1
    assert f"[and {len(report.failures) - 1} more cases]" in text
    assert "am_softmax: right in every case: grad_W, grad_scale, grad_margin" in text


class Turned(refloss.ArcFace):
    """ArcFace whose grad_x has the wrong sign, and whose grad_W is wrong in two ways."""

    def backward_logits(self, at, g):
        grads = super().backward_logits(at, g)
        return grads | {"x": -grads["x"], "W": grads["W"] * np.linspace(2, 3, len(grads["W"]))[:, None]}


def test_one_failure_for_each_input_and_case_with_its_step_and_a_common_factor():
    """However many rows are wrong; what all of them have in common is said once, and what is right is named."""
    report = gradcheck_cases(cases(Turned(scale=8.0))[:2])
    assert [(result.case, failure.input) for result, failure in report.failures] == [
        ("typical", "x"), ("typical", "W"), ("one_sample", "x"), ("one_sample", "W"),
    ]  # fmt: skip
    x, W, *_ = (failure for _, failure in report.failures)
    assert (x.rows, W.rows) == (6, 5)
    assert x.factor == pytest.approx(-1, abs=1e-6)  # finite differences and rounding are smaller
    assert W.factor is None
    assert x.step == "arcface.md (7) to (9)"
    text = str(report)
    assert text.count("× expected") == text.count("got = −1 × expected in all of them") == 1
    assert "arcface: right in every case: grad_scale, grad_margin" in text
    assert "6 of 6 rows wrong; got = −1 × expected in all of them" in text
    assert "in all of them (derivations/arcface.md (7) to (9))  [and 1 more case]" in text


class Small(refloss.Softmax):
    """Softmax whose gradient is 0 wherever it is small."""

    def backward_logits(self, at, g):
        grads = super().backward_logits(at, g)
        return {name: np.where(np.abs(v) < 1e-5, 0.0, v) for name, v in grads.items()}


def test_small_gradients_do_not_pass_unseen(rng):
    """All gradients under 1e-5, where an absolute tolerance of 1e-5 would see nothing: still seen."""
    x, W, y = rng.normal(size=(N, D)) * 1e-6, rng.normal(size=(C, D)) * 1e-6, np.arange(N) % C
    right = refloss.Softmax().value_and_grad(x, W, y)[1]
    assert np.abs(right.x).max() < 1e-5
    assert refloss.gradcheck(refloss.Softmax(), x, W, y)
    report = refloss.gradcheck(Small(), x, W, y)
    assert {failure.input for _, failure in report.failures} == {"x", "W"}


def test_not_a_number_and_a_wrong_shape_fail(data):
    """NaN in one entry, a missing gradient and a transposed one are failures of their own."""

    def f(x, W, labels):
        return refloss.Softmax(reduction="none").forward(x, W, labels).loss

    def gradient(kind):
        def wrong(x, W, labels, upstream=1.0):
            loss = refloss.Softmax(reduction="none")
            grads = loss.backward(loss.forward(x, W, labels), upstream)
            gx, gW = grads.x.copy(), grads.W.copy()
            if kind == "nan":
                gx[2, 3] = np.nan
            return {"x": gx, "W": gW.T if kind == "shape" else None if kind == "missing" else gW}

        return wrong

    assert refloss.gradcheck((f, gradient("right")), *data)
    for kind, words in (("nan", "is not finite"), ("shape", "has shape"), ("missing", "is missing")):
        report = refloss.gradcheck((f, gradient(kind)), *data)
        assert not report
        assert words in str(report)


def test_unknown_witness_and_bad_input_are_refused(data):
    """Errors name the argument."""
    with pytest.raises(ValueError, match="witnesses"):
        refloss.gradcheck(refloss.Softmax(), *data, witnesses=["oracle_of_delphi"])
    x, W, y = data
    with pytest.raises(ValueError, match="labels"):
        refloss.gradcheck(refloss.Softmax(), x, W, y + 100)


# -- abstention ------------------------------------------------------------------------------------


def test_confident_rows_are_undecided_and_do_not_pass():
    """At a logit gap of 35 the float64 textbook is blind: nothing is decided, so nothing passes."""
    x, W, y = confident(35.0)
    report = refloss.gradcheck(refloss.Softmax(), x, W, y)
    assert report.undecided > 0
    assert not report
    assert "no witness could decide" in str(report)


def test_the_blindness_is_real():
    """Why they abstain: at that gap autograd and complex step are off by more than 1e-3, finite differences give 0."""
    x, W, y = confident(38.0)
    loss = refloss.Softmax(reduction="sum")
    right = loss.value_and_grad(x, W, y)[1].x
    problem = loss_problem(loss, x, W, check.targets(y, 1, 2, loss), None, np.array(1.0))
    for witness, run in WITNESSES.items():
        estimate = in_units_of_the_gradient(problem, run(problem))["x"]
        off = row_norm(estimate.gradient - right) / row_norm(right)
        said = (estimate.error + problem.rounding["x"]) / problem.scale["x"]
        assert off > BLIND, witness
        assert off <= said, witness


@pytest.mark.parametrize("gap", [0.0, 5.0, 10.0, 15.0])
def test_ordinary_rows_are_decided(gap):
    """The witnesses do not abstain without need."""
    report = refloss.gradcheck(refloss.Softmax(), *confident(gap))
    assert report
    assert report.undecided == 0


def test_poles_and_jumps_are_left_alone(rng):
    """On a cone and on a jump no witness speaks: undecided, neither passed nor failed."""
    W = rng.normal(size=(C, D))
    for theta, loss in ((0.0, refloss.ArcFace(scale=4)), (np.pi, refloss.ArcFace(scale=4))):
        x = place(rng, W, np.array([1]), theta)
        result = check_case(
            type("At", (), {"loss": loss, "name": "pole", "x": x, "W": W, "labels": [1], "b": None, "upstream": None})
        )
        rows = next(i for i in result.inputs if i.input == "x")
        assert (rows.failed, rows.undecided) == (0, 1)


# -- cases -----------------------------------------------------------------------------------------


def test_cases_are_named_deterministic_and_have_reasons():
    """No two cases of a loss share a name; the same seed gives the same arrays, another seed others."""
    for name in refloss.losses():
        loss = all_cases([name])[0].loss
        once, again, other = cases(loss), cases(loss), cases(loss, seed=1)
        assert len({case.name for case in once}) == len(once)
        assert all(case.reason for case in once)
        assert all(np.array_equal(a.x, b.x) for a, b in zip(once, again, strict=True))
        assert not np.array_equal(once[0].x, other[0].x)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds_pass_too(seed):
    """The verdict does not hang on the seed."""
    gradcheck_cases(all_cases(seed=seed)).raise_if_failed()


def test_every_branch_is_reached():
    """Each branch of ψ, of the arc margin and of a user's D is reached by several rows of the default cases."""
    report = gradcheck_cases(all_cases(["l_softmax", "arcface"]))
    for line, branches in (("l_softmax", 9), ("arcface", 3)):
        assert f"{line}: branches reached {branches}/{branches}" in str(report)
    assert "not reached" not in str(report)


def test_gaussian_features_would_not_reach_them(rng):
    """Why cases are aimed: 20,000 Gaussian pairs in 32 dimensions never get past π − m, nor into ψ's ends."""
    x, w = rng.normal(size=(2, 20000, 32))
    theta = np.arccos(np.sum(x * w, axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(w, axis=1))
    assert not np.any(theta > np.pi - 0.5)
    assert not np.any((theta < np.pi / 4) | (theta > 3 * np.pi / 4))


def test_every_step_pair_is_confirmed_on_its_own():
    """normalise, angle, ψ, margins, cross-entropy and linear: each before all three witnesses."""
    results = check_steps()
    steps = {result.loss.removeprefix("step ") for result in results}
    assert steps == {"linear", "normalise", "cosines", "angle", "psi", "cosine_margin", "arc_margin", "cross_entropy"}
    for result in results:
        for i in result.inputs:
            assert (i.failed, i.undecided) == (0, 0), (result.loss, result.case)
            assert all(seen.decided for seen in i.witnesses.values()), (result.loss, result.case)


# -- anyone's loss ---------------------------------------------------------------------------------


class Mine:
    """A squared-hinge loss of somebody's own, without logits, with a textbook form."""

    def __init__(self, factor=2.0):
        self.factor = factor

    def forward(self, x, W, labels):
        self.x, self.W, self.y = x, W, np.eye(len(W))[labels]
        self.slack = np.maximum(0.0, 1.0 - self.signs() * (x @ W.T))
        return type("Out", (), {"loss": np.sum(self.slack**2, axis=1)})

    def signs(self):
        return 2 * self.y - 1

    def backward(self, out, upstream):
        g = -self.factor * np.asarray(upstream)[:, None] * self.signs() * self.slack
        return type("Grads", (), {"x": g @ self.W, "W": g.T @ self.x})

    def textbook(self, xp, x, W, labels, b):
        sign = 2 * np.eye(W.shape[-2])[labels] - 1
        slack = 1 - sign * xp.matmul(x, xp.swapaxes(W, -1, -2))
        return xp.sum(xp.where(xp.real(slack) > 0, slack, 0 * slack) ** 2, axis=-1)


def test_an_object_with_a_textbook_form(data):
    """All three witnesses run it; a wrong factor fails."""
    report = refloss.gradcheck(Mine(), *data)
    assert report
    seen = report.results[0].inputs[0].witnesses
    assert set(seen) == set(WITNESSES)
    assert all(s.decided for s in seen.values())
    assert not refloss.gradcheck(Mine(factor=2.001), *data)


def test_an_object_without_one(data):
    """Only finite differences of its own forward can speak, and they do."""

    class Bare(Mine):
        textbook = None

    report = refloss.gradcheck(Bare(), *data)
    assert report
    assert list(report.results[0].inputs[0].witnesses) == ["finite_difference"]
    assert "Bare: errors are relative to each row's own witness gradient" in str(report)
    assert not refloss.gradcheck(Bare(factor=1.99), *data)


def test_upstream_is_not_one_by_default(data):
    """A backward that ignores what arrives fails without being asked for."""

    class Deaf(refloss.Softmax):
        def backward(self, out, upstream=1.0):
            return super().backward(out, 1.0)

    assert not refloss.gradcheck(Deaf(), *data)
    assert refloss.gradcheck(Deaf(), *data, upstream=1.0)
    deaf = Deaf(reduction="none")
    assert not refloss.gradcheck(deaf, *data)


def test_a_margin_of_your_own(data):
    """MarginSoftmax is checked by all witnesses, for every radius; a wrong ψ′ fails."""
    parameters = {"psi": lambda theta, xp: xp.cos(theta) - 0.1 * theta**2}
    for radius in ("scale", "x_norm", "both_norms"):
        right = refloss.MarginSoftmax(
            **parameters, dpsi=lambda theta, xp: -xp.sin(theta) - 0.2 * theta, radius=radius, scale=8
        )
        wrong = refloss.MarginSoftmax(
            **parameters, dpsi=lambda theta, xp: -xp.sin(theta) - 0.2001 * theta, radius=radius, scale=8
        )
        assert refloss.gradcheck(right, *data)
        assert not refloss.gradcheck(wrong, *data)


# -- honest bounds ---------------------------------------------------------------------------------


def test_a_zero_feature_row_where_the_loss_is_smooth():
    """A ReLU's dead row is an ordinary input of softmax and W-Norm softmax."""
    for loss in (refloss.Softmax(), refloss.WNormSoftmax(), refloss.LSoftmax(margin=2, ignore_index=5)):
        labels = [5, 1] if loss.ignore_index else [0, 1]
        assert refloss.gradcheck(loss, [[0.0, 0.0], [1.0, 2.0]], [[1.0, 0.5], [0.0, 1.0]], labels)


@pytest.mark.parametrize("name", ["l_softmax", "a_softmax", "am_softmax", "arcface"])
def test_a_sample_at_a_pole_is_set_aside_and_the_rest_judged(name, rng):
    """One sample parallel to its class: the report says so, passes, and still sees a wrong gradient elsewhere."""
    W, y = rng.normal(size=(C, D)), np.arange(N) % C
    x = rng.normal(size=(N, D))
    x[0] = 2 * W[y[0]]
    loss = refloss.get(name)
    report = refloss.gradcheck(loss, x, W, y)
    report.raise_if_failed()
    assert "samples at a pole (or a zero row), here 0" in str(report)
    assert {i.input for i in report.results[0].inputs} >= {"x", "W"}


def test_nan_at_a_pole_is_not_set_aside(rng):
    """What a sample at a pole does to grad_W still counts: NaN is no element of any generalised gradient."""

    class Torn(refloss.ArcFace):
        def backward(self, out, upstream=1.0):
            grads = super().backward(out, upstream)
            return with_stage(grads, "W", grads.W * np.where(out.cone.any(), np.nan, 1.0))

    W, y = rng.normal(size=(C, D)), np.arange(N) % C
    x = rng.normal(size=(N, D))
    x[0] = 2 * W[y[0]]
    report = refloss.gradcheck(Torn(), x, W, y)
    assert {failure.input for _, failure in report.failures} == {"W"}
    assert "is not finite" in str(report)


@pytest.mark.parametrize("gap", [650.0, 700.0, 730.0, 740.0, 744.0])
def test_no_false_alarm_among_the_subnormals(gap):
    """Probabilities down to 1e-323, and an upstream of 1e-300."""
    W = np.array([[0.0], [-100.0], [-gap / 7], [-1.0]])
    assert not refloss.gradcheck(refloss.Softmax(), np.full((3, 1), 7.0), W, [0, 3, 0]).failures
    rng = np.random.default_rng(1)
    report = refloss.gradcheck(refloss.ArcFace(scale=8), rng.normal(size=(4, 3)), W[:, :1] + rng.normal(size=(4, 3)),
                               [0, 1, 2, 3], upstream=1e-300)  # fmt: skip
    assert not report.failures


def test_a_blind_witness_still_refutes():
    """A row that nobody can confirm must not carry a gradient of 0.5 unseen."""

    class Loud(refloss.Softmax):
        def backward_logits(self, at, g):
            grads = super().backward_logits(at, g)
            return grads | {"x": np.where(np.abs(grads["x"]) < 1e-20, 0.5, grads["x"])}

    x, W, y = confident(60.0)
    assert not refloss.gradcheck(refloss.Softmax(), x, W, y).failures
    assert {f.input for _, f in refloss.gradcheck(Loud(), x, W, y).failures} == {"x"}


def test_empty_batch():
    """N = 0 has gradients too: all exactly 0."""
    loss = refloss.Softmax(reduction="sum")
    assert refloss.gradcheck(loss, np.zeros((0, 2)), [[1.0, 2.0], [0.0, 1.0]], [])


def test_a_subclass_under_a_name_of_its_own_keeps_its_formula(data):
    """It is judged by the formula its forward comes from, scale and margin included."""

    class Mine(Spoiled):
        name = "mine"

        def backward_logits(self, at, g):
            return refloss.ArcFace.backward_logits(self, at, g) | {"margin": np.float64(123.0)}

    assert {f.input for _, f in refloss.gradcheck(Mine(), *data).failures} == {"margin"}


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x, W, y: [1.0], "shape"),
        (lambda x, W, y: np.ones((6, 5)), "shape"),
        (lambda x, W, y: (1.0, "aux"), "number"),
        (lambda x, W, y: None, "finite"),
        (lambda x, W, y: float("nan"), "finite"),
        (lambda x, W, y: float(np.sum(np.multiply(x, 2, out=x))), "must not change its input, but x"),
    ],
    ids=["list", "matrix", "pair", "none", "nan", "mutates"],
)
def test_a_function_that_is_no_loss_is_refused(f, words, data):
    """What a loss must give, and leave alone, is said by name."""
    with pytest.raises((TypeError, ValueError), match=words):
        refloss.gradcheck((f, lambda x, W, y: (x, W)), *data)


@pytest.mark.parametrize(
    "loss", ["arcface", refloss.ArcFace, object(), refloss.CrossEntropy()], ids=["name", "class", "thing", "ce"]
)
def test_what_is_no_loss_is_refused(loss, data):
    """A name, a class, anything, bare-logits cross-entropy: TypeError that says what is due."""
    with pytest.raises(TypeError, match="loss must"):
        refloss.gradcheck(loss, *data)


def nasty(seed):
    """A random loss with random options on random input: extreme scales, angles at poles, knots and jumps."""
    r = np.random.default_rng([seed, 4])
    name = str(r.choice(refloss.losses()))
    n, c, d = (int(10 ** r.uniform(0, top)) for top in (1.0, 1.0, 1.2))
    options = {"reduction": str(r.choice(["mean", "sum", "none", "weighted_mean"]))}
    if name == "weighted_softmax" or r.random() < 0.3:
        options["class_weights"] = 10 ** r.uniform(-3, 3, c)
    if r.random() < 0.3:
        options["label_smoothing"] = float(r.choice([1e-8, 0.1, 1.0]))
    if name in ("l_softmax", "a_softmax", "f_norm_sphereface"):
        options["margin"] = int(r.choice([1, 2, 3, 4, 8, 11]))
        options["annealing"] = float(r.choice([0, 0, 5.0]))
    if name in ("f_norm_sphereface", "am_softmax", "arcface"):
        options["scale"] = float(10 ** r.uniform(-3, 4))
    if name == "arcface":
        options |= {"margin": float(r.choice([0, 1e-6, 0.5, 3.1])), "easy_margin": bool(r.random() < 0.3)}
        options["past_pi"] = str(r.choice(["cos", "linear"]))
    loss = refloss.get(name, **options)
    if loss.has_margin and r.random() < 0.3:
        loss = type(loss)(**options, detach_margin=True)
    W = r.normal(size=(c, d)) * 10 ** r.uniform(-3, 1.5)
    if r.random() < 0.3:
        W *= 10 ** r.uniform(-8, 8, (c, 1))
    y = r.integers(0, c, n)
    knots = np.arange(12) * np.pi / max(int(getattr(loss, "margin", 1)), 1)
    theta = [np.zeros(n), r.uniform(0, np.pi, n), np.full(n, np.pi / 2), r.choice(knots, n)][r.integers(4)]
    theta = np.clip(theta + 10 ** r.uniform(-16, -1, n) * r.choice([-1, 1], n), 0, np.pi)
    x = r.normal(size=(n, d)) if d == 1 or r.random() < 0.3 else place(r, W, y, theta)
    return loss, x * 10 ** r.uniform(-3, 1.5), W, y


@pytest.mark.parametrize("block", range(8))
def test_no_false_alarm_on_nasty_input(block):
    """Right gradients are never called wrong, whatever the input: the bounds are honest."""
    for seed in range(60 * block, 60 * block + 60):
        report = refloss.gradcheck(*nasty(seed))
        assert not report.failures, (seed, str(report))
