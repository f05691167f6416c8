"""`refloss.certify`: what it measures, what it must report, and what it leaves open."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import VARIANTS, example, make, near, need, with_stage

import refloss

need("flint")

from refloss.proof.certify import Limit, enclose_decided, extended_limits, measure  # noqa: E402

UNIT = 2.0**-53
CONE = {"x": [[3.0, 6.0, 9.0], [1.0, 0.5, -1.0]], "W": [[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]], "labels": [0, 1]}


def rounded(enclosures):
    """The best float64 numbers there are: every stage's midpoint."""
    return {
        name: np.array([float(v.mid()) for v in np.ravel(value)]).reshape(value.shape)
        for name, value in enclosures.stages.items()
    }


def scales(enclosures, name):
    """The natural scale of every entry."""
    scale, shape = enclosures.scales[name], enclosures.stages[name].shape
    values = np.array([float(v.mid()) for v in np.ravel(scale)]).reshape(scale.shape)
    return np.broadcast_to(values[:, None] if name in ("grad_x", "grad_W") else values, shape)


class OneStageOff:
    """An extended loss whose record holds one stage that is off by `error`."""

    precision = "extended"

    def __init__(self, loss, stage, error):
        self.loss, self.stage, self.error = loss, stage, error

    def _spoilt(self, record, name):
        value = getattr(record, name)
        return with_stage(record, name, np.asarray(value + self.error))

    def forward(self, x, W, labels, b=None):
        self.honest = self.loss.forward(x, W, labels, b)
        return self.honest if self.stage.startswith("grad_") else self._spoilt(self.honest, self.stage)

    def backward(self, out, upstream):
        grads = self.loss.backward(self.honest, upstream)
        name = self.stage.removeprefix("grad_")
        return self._spoilt(grads, name) if name != self.stage else grads


# -- what it measures -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_double_precision_is_within_a_few_units_at_ordinary_inputs(variant):
    """Measured: 11 u for l_softmax's logits at m = 4; probabilities carry the logits' size on top of that."""
    at = example(variant, np.random.default_rng(0))
    certificate = refloss.certify(make(variant), **at, upstream=-1.375)
    size = np.abs(make(variant).forward(**at).logits).max()
    for name, stage in certificate.stages.items():
        room = 32 if name in ("x_norm", "W_norm", "cos_theta", "theta", "logits") else 32 + 8 * size
        assert stage.worst_u < room, stage
        assert stage.undecided == 0
        assert not stage.reason
    assert certificate.passed
    assert certificate.bits <= 256


@pytest.mark.parametrize("variant", VARIANTS)
def test_correctly_rounded_numbers_have_half_an_ulp(variant):
    e = enclose_decided(make(variant), **example(variant, np.random.default_rng(1)))
    for stage in measure(e, rounded(e), extended_limits(e.stages)).values():
        largest = 7.0 if stage.stage == "logits" else 1.0  # a logit is r ψ with |ψ| ≤ 2m − 1, and measured against r
        assert stage.worst_u <= 1.001 * largest, stage
        assert stage.worst_ulp <= 0.501, stage
        assert stage.within, stage


def test_losses_down_to_the_last_subnormal_are_decided():
    """A loss of 1e-300, of 1e-320, and one below every double: exact sums of what is left."""
    x, W = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [-1.0, 0.0]])
    for s in (345.0, 368.0, 2000.0):
        loss = refloss.AMSoftmax(scale=s, margin=0.0)
        certificate = refloss.certify(loss, x, W, [0])
        assert certificate.stages["loss"].worst_ulp < 300
        assert certificate.stages["loss"].undecided == 0
        assert certificate.stages["probabilities"].undecided == 0


def test_upstream_reductions_weights_and_soft_targets_are_enclosed():
    rng = np.random.default_rng(4)
    x, W = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    soft = rng.dirichlet(np.ones(4), size=5)
    for reduction in ("mean", "sum", "none", "weighted_mean"):
        loss = refloss.WeightedSoftmax(class_weights=(0.5, 1, 2, 0.25), reduction=reduction, label_smoothing=0.1)
        upstream = rng.normal(size=5) if reduction == "none" else 3.0
        certificate = refloss.certify(loss, x, W, soft, b=rng.normal(size=4), upstream=upstream)
        assert max(s.worst_u for s in certificate.stages.values()) < 64


@pytest.mark.parametrize("empty_mean", ["zero", "nan"])
@pytest.mark.parametrize(("loss", "labels"), [
    (refloss.Softmax(ignore_index=-1), [-1, -1]),
    (refloss.WeightedSoftmax(class_weights=(0.0, 1.0), reduction="weighted_mean"), [0, 0]),
], ids=["no valid row", "no weight"])  # fmt: skip
def test_a_mean_over_nothing_is_what_was_asked_for(loss, labels, empty_mean):
    from dataclasses import replace

    certificate = refloss.certify(replace(loss, empty_mean=empty_mean), np.eye(2), np.eye(2) + 1, labels)
    assert certificate.passed, str(certificate)


# -- negative controls ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", refloss.losses())
def test_sixteen_units_in_any_one_stage_are_reported(name):
    """One stage off by 16 u of its natural scale, in every entry or in its last one: it fails, and no other."""
    at, loss = example(name, np.random.default_rng(2)), make(name, precision="extended")
    e = enclose_decided(loss, **at, upstream=0.75)
    honest = refloss.certify(loss, **at, upstream=0.75, enclosures=e)
    assert honest.passed
    for stage in honest.stages:
        value = e.stages[stage]
        off = 16 * UNIT * scales(e, stage)
        only_last = np.zeros(value.size)
        only_last[-1] = 1.0
        for part in (1.0, only_last.reshape(value.shape)):
            wrong = OneStageOff(loss, stage, part * off)
            certificate = refloss.certify(wrong, **at, upstream=0.75, enclosures=e)
            assert [s.stage for s in certificate.stages.values() if not s.within] == [stage]
            judged = certificate.stages[stage]
            assert judged.of_limit > 1
            assert judged.worst_u > 8 or judged.worst_ulp > 4
            assert "over the limit" in judged.reason
            with pytest.raises(AssertionError, match=f"FAILED: {stage}"):
                certificate.raise_if_failed()


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_or_without_limits(junk):
    """Anywhere, and also at a cone, where much else is allowed."""
    e = enclose_decided(refloss.ArcFace(), **CONE)
    for limits in ({}, extended_limits(e.stages)):
        for name, value in rounded(e).items():
            bad = np.array(value)
            bad[(0,) * bad.ndim] = junk
            judged = measure(e, {name: bad}, limits)[name]
            assert judged.worst_u == judged.worst_ulp == np.inf, judged
            assert not judged.within
            assert "not finite" in judged.reason


def test_a_gradient_that_must_vanish_has_no_slack():
    e = enclose_decided(refloss.ArcFace(), [[2.0]], [[1.0], [-3.0]], [0])
    assert measure(e, {"grad_x": [[0.0]]})["grad_x"].worst_u == 0
    assert measure(e, {"grad_x": [[5e-324]]}, extended_limits(["grad_x"]))["grad_x"].worst_u == np.inf


# -- cones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_at_a_cone_the_passes_pass_and_are_counted_undecided(side):
    at = CONE | {"x": np.array(CONE["x"]) * [[side], [1.0]]}
    certificate = refloss.certify(refloss.ArcFace(scale=2.0), **at)
    assert certificate.passed
    for name in ("grad_x", "grad_W"):
        assert certificate.stages[name].undecided == 1
        assert "cone" in certificate.stages[name].reason
    assert certificate.undecided == 2


def test_at_a_cone_the_generalised_gradient_is_accepted_and_nothing_more():
    """grad_x + v with v ⟂ x and ‖v‖ ≤ |g_y| s sin m / ‖x‖; not longer, and not along x."""
    loss = refloss.ArcFace(scale=2.0, margin=0.5)
    e = enclose_decided(loss, **CONE)
    grads = loss.backward(loss.forward(**CONE))
    x = np.array(CONE["x"][0])
    length = abs(grads.logits[0, 0]) * 2 * np.sin(0.5) / np.linalg.norm(x)
    across = np.array([2.0, -1.0, 0.0]) / np.sqrt(5)
    for v, accepted in ((0.999 * length * across, True), (1.001 * length * across, False),
                        (0.1 * length * x / np.linalg.norm(x), False)):  # fmt: skip
        moved = np.array(grads.x)
        moved[0] += v
        assert measure(e, {"grad_x": moved}, extended_limits(["grad_x"]))["grad_x"].within == accepted


# -- limits -----------------------------------------------------------------------------------------


def test_extended_owes_nothing_beyond_two_to_the_forty():
    """There its limits do not bind, on the rows concerned and on what they enter."""
    x, W = np.array([[1e9, 1.0], [1.0, 2.0]]), np.array([[1e5, 1.0], [3.0, -1.0]])
    e = enclose_decided(refloss.Softmax(), x, W, [1, 1])
    good = rounded(e)
    assert e.owed.tolist() == [False, True]
    for row, bound in ((0, False), (1, True)):
        bad = np.array(good["losses"])
        bad[row] *= 1 + 1e-9
        assert measure(e, {"losses": bad}, extended_limits(["losses"]))["losses"].within == (not bound)


def test_absolute_bounds_are_judged_entry_by_entry():
    """What a record in double precision states of itself."""
    at = example("arcface", np.random.default_rng(6))
    e = enclose_decided(refloss.ArcFace(), **at)
    good = rounded(e)
    bound = np.full(good["grad_x"].shape, 1e-12)
    wrong = np.array(good["grad_x"])
    wrong[3, 1] += 3e-12
    assert measure(e, good, {"grad_x": bound})["grad_x"].within
    judged = measure(e, {"grad_x": wrong}, {"grad_x": bound})["grad_x"]
    assert not judged.within
    assert judged.index == (3, 1)
    assert judged.of_limit == near(3, 1e-2)


def test_a_record_that_claims_to_be_exact_is_believed_where_it_is():
    """W_0 has only a cone: the centre is exactly 0, and so is the bound, but a ball is never that narrow."""
    at = {"x": [[1.0, 2.0]], "W": [[1.0, 2.0], [3.0, 1.0]], "labels": [0]}
    e = enclose_decided(refloss.ArcFace(), **at)
    grad_W, bound = np.array(refloss.ArcFace().value_and_grad(**at)[1].W), np.array([[0.0, 0.0], [1.0, 1.0]])
    assert measure(e, {"grad_W": grad_W}, {"grad_W": bound})["grad_W"].within
    grad_W[0] = np.array(at["W"][0]) * 1e-30  # along W_0, so that no cone excuses it
    assert not measure(e, {"grad_W": grad_W}, {"grad_W": bound})["grad_W"].within


def test_peers_are_measured_without_limits():
    """Float32 results: 2^29 times coarser, and said to be so."""
    at = example("am_softmax", np.random.default_rng(7))
    e = enclose_decided(refloss.AMSoftmax(), **at)
    coarse = {name: np.asarray(v, dtype=np.float32) for name, v in rounded(e).items()}
    judged = measure(e, coarse)
    assert all(stage.within and stage.limit is None for stage in judged.values())
    assert 2**25 < judged["loss"].worst_ulp <= 2**29
    with pytest.raises(ValueError, match="no stage made_up"):
        measure(e, {"made_up": 1.0})
    assert not measure(e, {"losses": np.zeros(3)})["losses"].within
    assert measure(e, rounded(e), {"loss": Limit(0.1, "ulp")})["loss"].limit == 0.1


def test_the_certificate_is_a_table_and_a_dictionary():
    certificate = refloss.certify(refloss.ArcFace(), **example("arcface", np.random.default_rng(8)))
    text = str(certificate)
    for word in ("grad_x", "u of scale", "ulp", "PASSED", "bits"):
        assert word in text
    assert json.loads(json.dumps(certificate.to_dict()))["stages"]["loss"]["within"] is True
    assert bool(certificate)


# -- the witness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_ball_witness_confirms_every_row(variant):
    at = example(variant, np.random.default_rng(9))
    report = refloss.gradcheck(make(variant), **at, witnesses=["ball"], strict=True)
    assert report.passed, str(report)


def test_the_ball_witness_sees_confident_samples_that_the_others_cannot():
    x, W = [[1.0, 0.2], [0.3, 1.0]], [[1.0, 0.0], [-1.0, 0.1]]
    loss = refloss.ArcFace(margin=0.1)
    assert refloss.gradcheck(loss, x, W, [0, 0], witnesses=["ball"], strict=True)
    assert not refloss.gradcheck(loss, x, W, [0, 0], strict=True)
    doubled = (
        lambda x, W, labels: loss.forward(x, W, labels).loss,
        lambda x, W, labels: (2 * loss.backward(loss.forward(x, W, labels)).x, np.zeros((2, 2))),
    )
    assert not refloss.gradcheck(doubled, x, W, [0, 0])


def test_without_flint_the_ball_witness_is_refused_by_name(monkeypatch, capsys):
    from refloss.cli.main import main
    from refloss.witnesses import compare

    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install python-flint"):
        refloss.gradcheck(refloss.Softmax(), np.eye(2), np.eye(2), [0, 1], witnesses="ball")
    assert main(["gradcheck", "softmax", "--witness", "ball"]) == 2
    assert "pip install python-flint" in capsys.readouterr().err


def test_without_flint_certify_says_what_to_install():
    """In a process of its own, where flint cannot be imported; everything else works."""
    code = (
        "import sys; sys.modules['flint'] = None\n"
        "from refloss import *\nimport refloss\n"
        "refloss.Softmax()\n"
        "try: refloss.certify(refloss.Softmax(), [[1.0]], [[1.0]], [0])\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install python-flint" in run.stdout


def test_the_command_line_takes_the_ball_witness(capsys):
    from refloss.cli.main import main

    assert main(["gradcheck", "arcface", "--witness", "ball", "--case", "typical"]) == 0
    assert "ball" in capsys.readouterr().out


def test_enclosures_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="enclosures must be what enclose_decided returns, or None, got 3"):
        refloss.certify(refloss.ArcFace(), [[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0], enclosures=3)
