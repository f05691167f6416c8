"""gradcheck of a large input: in blocks, by class, of chosen rows, of a sample, and what it says beforehand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from many_digits import truth

import refloss
from refloss import validation as check
from refloss.cases.configurations import objects
from refloss.cases.gradcheck import cases
from refloss.cli.main import main
from refloss.textbook.namespaces import complex_namespace
from refloss.textbook.rows import as_rows, row_norm
from refloss.witnesses import autograd_tape, batches, compare, finite_difference, problem, work
from refloss.witnesses.batches import along_entries
from refloss.witnesses.complex_step import complex_step
from refloss.witnesses.gradcheck import check_input
from refloss.witnesses.problem import loss_problem
from refloss.witnesses.work import Meter

N, C, D = 7, 5, 4
OBJECTS = objects()
DENSE = [name for name, loss in OBJECTS.items() if not isinstance(loss, refloss.CrossEntropy)]


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.integers(0, C, N)


def stated(loss, seed=0, **more):
    x, W, y = arrays(seed)
    b = np.linspace(-1, 1, C) if loss.has_bias else None
    return loss_problem(loss, x, W, check.targets(more.get("labels", y), N, C, loss), b, np.array(0.75))


def agree(at, got, due):
    """Two runs of a witness, within what it says itself and the rounding of the form."""
    for key, (gradient, error) in got.items():
        rows = at.rows(key)
        off = row_norm(as_rows(gradient)[rows] - as_rows(due[key].gradient)[rows])
        assert np.array_equal(np.isfinite(error[rows]), np.isfinite(due[key].error[rows])), key
        room = (error + due[key].error + 2 * at.rounding[key] / at.weight)[rows]
        assert (off <= room).all(), (key, off, room)


# -- a row of W alone, blocks of samples -----------------------------------------------------------


@pytest.mark.parametrize("name", DENSE)
def test_one_moved_class_has_the_slopes_of_the_whole_form(name):
    """The terms with row j of W or b moved differ from those of the whole textbook form by a constant."""
    loss = OBJECTS[name]
    for case in cases(loss):
        x, W = check.features_and_weights(case.x, case.W)
        refused = np.ndim(case.labels) == 2 and case.loss.ignore_index is not None
        if refused or min(len(W), W.shape[1]) < 2 or len(x) * len(W) > 400:
            continue
        targets, b = check.targets(case.labels, len(x), len(W), case.loss), check.bias(case.b, len(W), case.loss)
        upstream = 0.75 if case.upstream is None else case.upstream
        with np.errstate(all="ignore"):
            by_class = loss_problem(case.loss, x, W, targets, b, check.real_array(upstream, "upstream"))
            if by_class.blind is not None and by_class.blind.any():
                continue  # these samples are set aside
            assert by_class.moved_class is not None
            held, whole = complex_step(by_class), complex_step(replace(by_class, moved_class=None))
        for of in {"W", "b"} & set(by_class.inputs):
            room = 2 * (held[of].error + by_class.rounding[of] / by_class.weight)
            off = np.linalg.norm(np.reshape(held[of].gradient - whole[of].gradient, (len(W), -1)), axis=1)
            seen = np.isfinite(off) & np.isfinite(room)
            assert np.array_equal(np.isfinite(held[of].gradient), np.isfinite(whole[of].gradient)), case.name
            assert (off <= room)[seen].all(), (case.name, of, off / room)


def test_a_rest_that_holds_the_class_itself_is_noticed():
    """Negative control: with L over all classes the slopes are others."""
    at = stated(refloss.ArcFace(scale=8))
    right = complex_step(at)["W"].gradient
    for held in at.moved_class.rest.values():
        held[:, 0] = np.log(np.exp(held[:, 0]) + 1.0)
    assert not np.allclose(complex_step(at)["W"].gradient, right, rtol=1e-3)


@pytest.mark.parametrize("name", DENSE)
def test_blocks_of_samples_change_no_verdict(name, monkeypatch):
    """Block by block: the same scale, rounding, steps and estimates, up to the order of sums."""
    whole = stated(OBJECTS[name])
    due = {w: run(whole) for w, run in compare.WITNESSES.items()}
    monkeypatch.setattr(problem, "PAIRS", 2 * C)
    for module in (problem, batches, autograd_tape):
        monkeypatch.setattr(module, "AT_ONCE", 3 * C)
    parts = stated(OBJECTS[name])
    for of in ("scale", "rounding", "pass_error", "step", "vanishes"):
        for key, value in getattr(whole, of).items():
            np.testing.assert_allclose(getattr(parts, of)[key], value, rtol=1e-13, err_msg=f"{of} {key}")
    np.testing.assert_allclose(parts.noise, whole.noise, rtol=1e-13)
    for witness, run in compare.WITNESSES.items():
        agree(whole, run(parts), due[witness])


@pytest.mark.parametrize("name", ["softmax", "w_norm_softmax", "l_softmax", "l2_softmax", "arcface"])
def test_the_natural_scale_is_that_of_fifty_digits(name):
    """Lengths of Jacobians in the plane of each pair, against all D directions in many digits; next to a pole too."""
    loss = OBJECTS[name]
    x, W, y = arrays(3)
    x[0] = 2 * W[y[0]] + 1e-4 * x[0]
    x[1] = -3 * W[(y[1] + 1) % C] + 1e-9 * x[1]  # a pair that is not the target's, nearer than cosines can tell
    b = np.linspace(-1, 1, C) if loss.has_bias else None
    at = loss_problem(loss, x, W, check.targets(y, N, C, loss), b, np.array(0.75))
    due = truth(loss, x, W, y, b, 0.75).scales
    for of, scale in at.scale.items():
        np.testing.assert_allclose(scale, np.ravel(due[of]).astype(float), rtol=1e-6, err_msg=of)


# -- chosen rows and classes -----------------------------------------------------------------------


class Wrong(refloss.AMSoftmax):
    """Row 4 of grad_x and row 3 of grad_W are 1 % too large."""

    def backward_logits(self, kept, g):
        grads = super().backward_logits(kept, g)
        larger = {"x": np.arange(N) == 4, "W": np.arange(C) == 3}
        return grads | {name: grads[name] * (1 + 0.01 * at)[:, None] for name, at in larger.items()}


@pytest.mark.parametrize("name", DENSE)
def test_chosen_rows_are_what_they_are_of_the_whole(name):
    """Scale, rounding and estimates of a chosen row are those that it has among all."""
    whole, part = stated(OBJECTS[name]), stated(OBJECTS[name])
    part.compared = {"x": np.array([1, 4]), "W": np.array([0, 3]), "b": np.array([0, 3])}
    part.compared = {of: rows for of, rows in part.compared.items() if of in part.inputs}
    part.measure()
    for of in ("scale", "rounding", "pass_error", "step", "vanishes"):
        for key, value in getattr(whole, of).items():
            at = part.rows(key)
            np.testing.assert_allclose(getattr(part, of)[key][at], value[at], rtol=1e-12, err_msg=f"{of} {key}")
    for run in compare.WITNESSES.values():
        agree(part, run(part), run(whole))


def test_a_wrong_row_is_found_where_it_was_chosen_and_only_there():
    """With its own index; the counts are those of the chosen rows."""
    x, W, y = arrays()
    assert refloss.gradcheck(Wrong(), x, W, y, rows=[0, 5], classes=range(3))
    report = refloss.gradcheck(Wrong(), x, W, y, rows=[5, 4, 4], classes=np.array([3]))
    found = {failure.input: (failure.row, failure.rows, failure.total) for _, failure in report.failures}
    assert found == {"x": (4, 1, 2), "W": (3, 1, 1)}
    assert {i.input: i.rows for i in report.results[0].inputs} == {"x": 2, "W": 1, "scale": 1, "margin": 1}
    assert "am_softmax: compared: 2 rows of x and 1 rows of W, as chosen" in str(report)
    assert report.to_dict()["results"][0]["compared"] == {"x": [4, 5], "W": [3]}
    only = refloss.gradcheck(Wrong(), x, W, y, rows=[4], classes=[])
    assert {failure.input for _, failure in only.failures} == {"x"}


def test_samples_at_a_pole_are_set_aside_of_chosen_rows_too():
    x, W, y = arrays()
    x[2] = 3 * W[y[2]]
    report = refloss.gradcheck(refloss.ArcFace(scale=8), x, W, y, rows=[1, 2], classes=[0])
    assert report
    assert {i.input: (i.rows, i.undecided) for i in report.results[0].inputs}["x"] == (2, 1)
    assert {i.input: (i.rows, i.undecided) for i in report.results[0].inputs}["W"] == (1, 0)


def test_rows_of_a_loss_of_ones_own():
    """A pair without a textbook form: finite differences alone, on the rows that are asked for."""
    loss = refloss.Softmax()

    def gradient(x, W, y):
        grads = loss.value_and_grad(x, W, y)[1]
        return grads.x * (1 + 0.01 * (np.arange(N) == 4))[:, None], grads.W

    pair = lambda x, W, y: loss.forward(x, W, y).loss, gradient
    assert refloss.gradcheck(pair, *arrays(), rows=[0, 1], classes=[2])
    assert not refloss.gradcheck(pair, *arrays(), rows=[3, 4], classes=[2])


@pytest.mark.parametrize(("given", "error", "words"), [
    ({"rows": [7]}, ValueError, r"rows must lie in 0 … 6, got 7"),
    ({"classes": [0, -1]}, ValueError, r"classes must lie in 0 … 4, got -1"),
    ({"rows": [0.5]}, TypeError, "rows must be a list of whole numbers"),
    ({"rows": [True]}, TypeError, "rows must be a list of whole numbers"),
    ({"classes": 3}, TypeError, "classes must be a list of whole numbers"),
    ({"seed": -1}, ValueError, "seed must be an integer ≥ 0"),
])  # fmt: skip
def test_bad_choices(given, error, words):
    with pytest.raises(error, match=words):
        refloss.gradcheck(refloss.Softmax(), *arrays(), **given)


# -- a sample --------------------------------------------------------------------------------------


def test_a_sample_is_said_and_hangs_on_the_seed_alone(monkeypatch):
    """Who goes entry by entry looks at some rows, and the report says which; autograd decides the others."""
    monkeypatch.setattr(batches, "WORK", 1e5)
    x, W, y = arrays()
    report, again, other = (refloss.gradcheck(refloss.ArcFace(), x, W, y, seed=seed) for seed in (0, 0, 1))
    assert report
    assert report.undecided == 0
    [result] = report.results
    assert set(result.drawn) == {"x", "W"}
    assert (result.drawn, result.seed) == (again.results[0].drawn, 0)
    assert result.drawn != other.results[0].drawn
    assert result.drawn == json.loads(json.dumps(report.to_dict()))["results"][0]["drawn"]
    for i in result.inputs[:2]:
        assert i.witnesses["complex_step"].decided == len(result.drawn[i.input]) < i.rows
        assert i.witnesses["autograd"].decided == i.rows
        assert f"{len(result.drawn[i.input])} of {i.rows} rows of {i.input}" in " ".join(str(report).split())
    assert "drawn with seed 0; rows and classes choose others" in " ".join(str(report).split())


def test_without_a_witness_for_the_others_they_are_undecided(monkeypatch):
    monkeypatch.setattr(batches, "WORK", 1e4)
    report = refloss.gradcheck(refloss.ArcFace(), *arrays(), witnesses="complex_step")
    drawn = sum(map(len, report.results[0].drawn.values()))
    assert report.undecided == N + C - drawn > 0
    assert "or none looked at them" in str(report)
    assert "arcface: complex_step looked at" in str(report)
    assert not refloss.gradcheck(refloss.ArcFace(), *arrays(), witnesses="complex_step", strict=True)


def test_chosen_rows_are_looked_at_whatever_they_take(monkeypatch):
    monkeypatch.setattr(batches, "WORK", 0.0)
    report = refloss.gradcheck(refloss.ArcFace(), *arrays(), rows=range(N), classes=range(C))
    assert not report.results[0].drawn
    assert all(seen.decided == i.rows for i in report.results[0].inputs for seen in i.witnesses.values())


def test_small_inputs_are_looked_at_whole():
    """Every built-in case."""
    for case in cases(refloss.LSoftmax()):
        assert not refloss.gradcheck(case.loss, case.x, case.W, case.labels, case.b).results[0].drawn


# -- what it will take -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [refloss.ArcFace(), refloss.Softmax(), refloss.L2Softmax(alpha=4.0)])
def test_the_work_is_told_beforehand_and_all_of_it_is_done(loss, monkeypatch):
    """One estimate, then shares that grow up to the whole: what is counted is what is evaluated."""
    monkeypatch.setattr(work, "BRIEF", 0.0)
    monkeypatch.setattr(finite_difference, "TOLERANCE", 0.0)  # no early end
    x, W, y = arrays()
    told, shares = [], []
    b = np.zeros(C) if loss.has_bias else None
    result = check_input(loss, "mine", x, W, y, b, meter=Meter(told.append, shares.append))
    assert not result.failures
    assert len(told) == 1
    assert told[0] > 0
    assert shares == sorted(shares)
    assert 0.9 < shares[-1] <= 1.0  # a slope of exactly 0 ends early all the same


def test_little_work_is_not_worth_a_word():
    told = []
    check_input(refloss.ArcFace(), "mine", *arrays(), None, meter=Meter(told.append, told.append))
    assert not told


def test_an_entry_of_a_class_takes_no_pass_over_all_classes():
    """The point of it: pairs are counted by samples alone."""
    at, told = stated(refloss.ArcFace()), []
    at.tell = lambda what, pairs: told.append((what, pairs))
    along_entries(at, complex_namespace, "W", np.full(3, 1e-30j), np.array([0, 0, 2]), np.arange(3))
    assert {what for what, _ in told} == {"complex class"}
    assert sum(pairs for _, pairs in told) == 3 * N


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    x, W, y = arrays()
    np.savez(tmp_path / "f.npz", x=x, W=W, labels=y)
    return str(tmp_path / "f.npz")


def test_the_command_says_it_before_and_takes_rows(stored, monkeypatch, capsys):
    monkeypatch.setattr(work, "BRIEF", 0.0)
    call = ["gradcheck", "arcface", "am_softmax", "--input", stored, "--rows", "0,2-4", "--classes", "1", "--seed", "3"]
    assert main([*call, "--format", "json"]) == 0
    out, err = capsys.readouterr()
    for result in json.loads(out)["results"]:
        assert result["compared"] == {"x": [0, 2, 3, 4], "W": [1]}
        assert result["seed"] == 3
    first, second = err.splitlines()
    assert first.startswith("refloss gradcheck: arcface on 7 × 4 × 5 will take about 0 s")
    assert "--rows and --classes choose less; 1 more" in first
    assert second.startswith("refloss gradcheck: am_softmax on")


@pytest.mark.parametrize(("rows", "words"), [
    ("0-", "--rows takes whole numbers and ranges such as 0,5-9, got '0-'"), ("a", "got 'a'"), ("-1", "got '-1'"),
    ("3-1", "--rows takes"), ("7", "--rows must lie in 0 … 6, got 7"), ("0-999999999999", "--rows must lie in 0 … 6"),
    ("", "--rows takes"), ("0,,1", "--rows takes"),
])  # fmt: skip
def test_bad_rows_of_the_command(stored, rows, words, capsys):
    assert main(["gradcheck", "softmax", "--input", stored, f"--rows={rows}"]) == 2
    assert words in capsys.readouterr().err


def test_rows_need_an_input(capsys):
    assert main(["gradcheck", "softmax", "--classes", "0"]) == 2
    assert "--classes chooses among those of --input" in capsys.readouterr().err


def test_one_bar_in_all_on_a_terminal(stored, monkeypatch, capsys):
    """However many losses and whatever is said: one task of one display, at its end when all is done."""
    from rich import progress

    monkeypatch.setattr(work, "BRIEF", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bars = []

    class Seen(progress.Progress):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            bars.append(self)

    monkeypatch.setattr(progress, "Progress", Seen)
    assert main(["gradcheck", "--input", stored]) == 0
    [shown] = bars
    [task] = shown.tasks
    assert (task.description, task.completed, task.total) == ("gradcheck", 9, 9)
    assert capsys.readouterr().out.count("PASSED") == 1
