"""Honest implementations raise no alarm, every suspect is killed: a part of both matrices (all: `refloss matrix`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import need

from refloss.cases.case import Case
from refloss.cases.configurations import objects
from refloss.score import writers
from refloss.score.honest_matrix import HonestReport, honest_job, honest_jobs
from refloss.score.kill_matrix import KillReport, configurations, kill_job, kill_jobs, noticed_by
from refloss.testing import SUSPECTS, check


def only(monkeypatch, framework):
    """Leaves the honest implementations of one framework."""
    names = [name for name in writers.available() if writers.WRITERS[name].framework == framework]
    monkeypatch.setattr(writers, "available", lambda: names)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("softmax, sum", "float32"),
        ("a_softmax, annealed", "float64"),
        ("arcface, easy margin, s = 16", "float32"),
        ("am_softmax, none, ignored", "float16"),
    ],
)
def test_honest_numpy_raises_no_alarm(monkeypatch, name, dtype):
    """Eight ways to write it: other orders of sums, one rounded log-sum-exp, powers of two, a gradient stored early."""
    only(monkeypatch, "numpy")
    report = HonestReport(honest_job(name, dtype, 1, True), 1)
    assert report.passed, report.details()
    assert len(report.rows) >= 8
    assert {row.require for row in report.rows} == ({"C", "D"} if dtype == "float16" else {"C"})


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("weighted_softmax, smoothed", "float32"),
        ("l_softmax", "bfloat16"),
        ("arcface", "float32"),
        ("cross_entropy, axis 1", "bfloat16"),
    ],
)
def test_honest_torch_raises_no_alarm(monkeypatch, name, dtype):
    """In 16 bits each at its grade: throughout E, an ordinary head D, with float32 inside C; nothing is F."""
    need("torch")
    only(monkeypatch, "torch")
    rows = honest_job(name, dtype, 1, True)
    assert HonestReport(rows, 1).passed, HonestReport(rows, 1).details()
    assert all(row.grade <= row.require for row in rows)


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_logits_may_be_computed_anew_for_the_gradient(off):
    """A fused kernel keeps log Σe^z and sums x · W_j once more, in another order. Negative control: a gradient that is
    half as large again."""
    rng = np.random.default_rng(0)
    x, W = (np.abs(rng.normal(size=(rows, 512))).astype(np.float32) for rows in (6, 5))
    case = Case("long_sums", "512 terms of one sign", (), {"x": x, "W": W * 1.1}, np.array([4, 4, 4, 3, 3, 0]))

    def kernel(x, W, labels):
        terms = x[:, None] * W
        z, anew = (np.add.accumulate(terms[..., ::way], axis=-1)[..., -1] for way in (1, -1))
        top = z.max(-1)
        lse = top + np.log(np.exp(z - top[:, None]).sum(-1))
        p = np.exp(anew - lse[:, None]) - np.eye(len(W), dtype=np.float32)[labels]
        g = np.float32(1 + off) * p / np.float32(len(x))
        return {"loss": (lse - z[np.arange(len(x)), labels]).mean(), "grad_x": g @ W, "grad_W": g.T @ x}

    report = check(kernel, objects()["softmax"], cases=[case])
    assert bool(report.failures) == bool(off), report


@pytest.mark.parametrize(("require", "name", "alarms"), [("D", "half_short_rows", 0), ("C", "half_short_rows", 1)])
def test_what_overflows_where_it_is_stored_is_explained_at_D_alone(require, name, alarms):
    """A float16 gradient of 1/‖x‖ leaves float16 before the small number that arrives brings it back: at D, inf is
    what that form gives. Negative control: C, which has float32 inside."""
    loss = objects()["arcface"]
    kernel = writers.WRITERS["numpy_stored"].make(loss)
    with np.errstate(all="ignore"):
        report = check(kernel, loss, dtype="float16", cases=[name], require=require)
    assert bool(report.failures) == bool(alarms), report


@pytest.mark.parametrize(("off", "passes"), [(0.0, True), (0.01, False)])
def test_rows_that_are_alike_are_rounded_alike(off, passes):
    """logsumexp less z_y in 300 equal rows: the error of a row is that of the mean. Negative control: 1 % more."""
    x, W = np.full((300, 1), 2.0), np.array([[4.0], [-3.295]])
    case = Case("equal_rows", "one row, many times", (), {"x": x, "W": W}, np.zeros(300, int))

    def kernel(x, W, labels):
        z = x @ W.T
        top = z.max(-1)
        lse = top + np.log(np.exp(z - top[:, None]).sum(-1))
        return {"loss": (lse - z[:, 0]).mean() + np.float32(off)}

    report = check(kernel, objects()["softmax"], cases=[case])
    assert bool(report.failures) != passes, report


@pytest.mark.parametrize(("factor", "passes"), [(0.0, True), (1.0, True), (-11 / 21, False)])
def test_a_clamp_loses_a_gradient_and_does_not_turn_it_around(factor, passes):
    """Of a target within 3e-4 of π, in float32. With λ = 5 and m = 4, a slope λ − m² in place of
    λ + m² is no farther off than what is lost and what roundings make of the rest together."""
    loss, d = objects()["a_softmax, annealed"], 3e-4
    x = np.array([[-np.cos(d), np.sin(d)]]).astype(np.float32).astype(float)
    case = Case("near_pi", "a target next to π", (), {"x": x, "W": np.eye(2)}, np.array([0]))
    out = loss.forward(x, np.eye(2), case.labels)
    grads = loss.backward(out)
    tangential = grads.W[0] - (grads.W[0] @ np.eye(2)[0]) * np.eye(2)[0]

    def kernel(x, W, labels):
        grad_W = grads.W.copy()
        grad_W[0] += (factor - 1) * tangential
        return {"loss": np.float32(out.loss), "grad_W": grad_W.astype(np.float32)}

    report = check(kernel, loss, cases=[case])
    assert bool(report.failures) != passes, report


@pytest.mark.parametrize("name", ["softmax", "arcface"])
def test_honest_jax_raises_no_alarm(name):
    """On two cases: it compiles for every shape."""
    need("jax")
    loss = objects()[name]
    kernel = writers.WRITERS["jax_arccos"].make(loss)
    report = check(kernel, loss, framework="jax", cases=["typical", "anti_confident"])
    assert not report.failures, report


@pytest.mark.parametrize(("name", "dtype"), [("arcface", "float32"), ("softmax, ignored, smoothed", "bfloat16")])
def test_every_suspect_is_killed_on_the_quick_cases_or_all(name, dtype):
    """On the dozen quick cases nearly all die; those that need a special case are named, and few."""
    report = KillReport(kill_job(name, dtype, True, False))
    killed, guilty = report.score(dtype)
    assert killed >= 0.95 * guilty, report.details()
    assert guilty >= 40


def test_a_survivor_is_told_of():
    """Negative control: with one kill turned into a survival the report fails and names it."""
    rows = kill_job("weighted_softmax, smoothed", "float32", True, False)
    report = KillReport(rows)
    assert report.passed, report.details()
    for row in rows:
        if row.suspect == "weights_squared":
            row.fate = "survived"
    assert not report.passed
    assert any("weights_squared" in line for line in report.details())


def test_rivals_are_asked_beside():
    """gradcheck compares a kernel with itself: a wrong margin passes it."""
    need("torch")
    suspect, loss = SUSPECTS["margin_of_wrong_sign"], objects()["arcface"]
    assert noticed_by(suspect, None, loss, "float64") == {"gradcheck": False}
    assert noticed_by(suspect, None, loss, "float32")["allclose_default"] is True


def test_jobs_cover_every_loss_and_dtype():
    names = list(objects())
    assert len(honest_jobs(["float32", "float64"], names, 3, False)) == 2 * len(names)
    assert len(kill_jobs(["float32"], names, False, False)) == len(names)
    assert {row.suspect for row in kill_job("softmax", "float32", True, False)} <= set(SUSPECTS)
    assert {suspect.name for _, asked in configurations().values() for suspect in asked} == set(SUSPECTS)


@pytest.mark.parametrize(
    ("name", "suspect"), [("arcface, m = 0", "zero_margin_replaced"), ("a_softmax, zero rows", "zero_row_gives_nan")]
)
def test_what_only_the_last_losses_can_show_is_killed(name, suspect):
    """They are asked about nothing else, so that the other suspects' rows do not depend on them."""
    [row] = kill_job(name, "float32", False, False)
    assert (row.suspect, row.fate) == (suspect, "killed")


def test_the_seeds_of_an_implementation_are_one_row(monkeypatch):
    """Its cases and alarms add up; the grade and the error are the worst of all."""
    monkeypatch.setattr(writers, "available", lambda: ["numpy_textbook"])
    ([one], [two]) = (honest_job("softmax", "float32", seeds, True) for seeds in (1, 2))
    assert one.cases < two.cases
    assert one.grade <= two.grade
    assert one.worst <= two.worst


def test_the_pages_hold_every_suspect_and_every_honest_way():
    """docs/ is made by the commands; a new suspect or way wants them run again."""
    docs = Path(__file__).parent.parent / "docs"
    kill = (docs / "kill_matrix.md").read_text(encoding="utf-8")
    missing = [name for name in SUSPECTS if f"| {name} |" not in kill]
    assert not missing
    ways = (docs / "honest_matrix.md").read_text(encoding="utf-8")
    missing = [name for name, way in writers.WRITERS.items() if f"| {name} |" not in ways and way.framework != "jax"]
    assert not missing
