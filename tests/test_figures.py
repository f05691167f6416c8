"""The pictures: the same bytes every time, curves through known values, training that is what it says it is."""

from __future__ import annotations

import os
import re
import sys

import mpmath as mp
import numpy as np
import pytest
from helpers import near, need
from pages.markdown import ROOT, headings, read, section, tables

from refloss import AMSoftmax, ArcFace, ASoftmax, LSoftmax, Softmax, WNormSoftmax, figures
from refloss.cli.main import main
from refloss.figures import (
    a_softmax_two_classes,
    am_softmax_margin,
    decision_regions,
    error_against_angle,
    gradient_against_angle,
    gradient_on_the_circle,
    gradient_size,
    l_softmax_digits,
    training,
)
from refloss.figures.style import panels
from refloss.precision.numbers import nearest
from refloss.precision.pair import Pair

PAGE = read("docs/figures.md")
SPOKEN = " ".join(PAGE.split())  # without line breaks
full = pytest.mark.skipif(
    os.environ.get("REFLOSS_REQUIRE_OPTIONAL") != "1", reason="trains for half a minute; REFLOSS_REQUIRE_OPTIONAL=1"
)


def lines(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(x, y) of the curves of a panel, by label."""
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.lines}


def at(curve, x: float) -> float:
    """The curve's y at one of its points, x up to rounding."""
    xs, ys = curve
    k = int(np.nanargmin(np.abs(xs - x)))
    assert abs(xs[k] - x) < 1e-9
    return float(ys[k])


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.COMPUTED)
def test_the_same_bytes_twice(name):
    """Drawn twice, in both formats, without a date; small enough for a page."""
    once, again = (figures.draw(name) for _ in range(2))
    for form, limit in (("svg", 300_000), ("png", 400_000)):
        data = figures.render(once, form)
        assert data == figures.render(again, form)
        assert len(data) < limit
        assert b"<dc:date>" not in data


def test_the_settings_of_the_user_stay_outside():
    """A figure looks the same whatever matplotlib was set to, and leaves that as it was."""
    import matplotlib

    before = figures.render(figures.draw("psi"), "svg")
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "savefig.facecolor": "red"}):
        assert figures.render(figures.draw("psi"), "svg") == before
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_figure_is_committed_and_on_the_page(name):
    """Its SVG lies in docs/figures, opaque and small, and docs/figures.md shows it."""
    svg = (ROOT / f"docs/figures/{name}.svg").read_bytes()
    assert len(svg) < 300_000
    assert b'style="fill: #ffffff"' in svg
    assert f"(figures/{name}.svg)" in PAGE
    assert figures.about(name).endswith(".")


def test_importing_refloss_loads_no_matplotlib():
    """Nor does reading the command line."""
    import subprocess

    code = "import sys, refloss, refloss.cli.main; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the command -----------------------------------------------------------------------------------


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    """Files in a folder that it makes; the names of figures select, --format chooses."""
    folder = tmp_path / "new" / "pictures"
    assert main(["figures", "psi", "gradient_size", "--out", str(folder), "--format", "svg"]) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == [str(folder / "psi.svg"), str(folder / "gradient_size.svg")]
    assert shown.err == ""
    assert sorted(p.name for p in folder.iterdir()) == ["gradient_size.svg", "psi.svg"]
    assert (folder / "psi.svg").read_bytes() == figures.render(figures.draw("psi"), "svg")


def test_the_list(capsys):
    """Every figure with a line about it."""
    assert main(["figures", "--list"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == list(figures.FIGURES)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["mona_lisa", "--list"], "no figure called mona_lisa; there are l_softmax_digits, "),
        (["--out", "x", "--format", "svg,pdf"], "--format must be one or more of svg,png"),
        (["psi", "--out", __file__], __file__),
    ],
    ids=["name", "format", "folder"],
)
def test_a_wrong_call_exits_with_2(call, words, capsys):
    """The message says what was wrong."""
    assert main(["figures", *call]) == 2
    assert words in capsys.readouterr().err


def test_without_scikit_learn_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    """Only the figures that train need it."""
    training.digits.cache_clear()
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["figures", "am_softmax_margin", "--out", str(tmp_path)]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
    assert main(["figures", "psi", "--out", str(tmp_path)]) == 0


# -- the figures that are computed -----------------------------------------------------------------

# drawn values are rounded a few times at most, of numbers up to 7
EXACT = 1e-14


def test_psi_goes_through_its_knots():
    """ψ(kπ/m) = 1 − 2k with slope 0 there, ψ(π/2) of the papers, the steepest slope −m."""
    value, slope = (lines(a) for a in figures.draw("psi").axes)
    for m in (1, 2, 3, 4):
        for k in range(m + 1):
            assert at(value[f"$m={m}$"], 180 * k / m) == pytest.approx((-1) ** k * np.cos(k * np.pi) - 2 * k, abs=EXACT)
            assert at(slope[f"$m={m}$"], 180 * k / m) == pytest.approx(0, abs=EXACT)
        assert slope[f"$m={m}$"][1].min() == pytest.approx(-m, abs=EXACT)
    marked = {line.get_label(): line.get_markevery() for line in figures.draw("psi").axes[0].lines}
    assert [len(marked[f"$m={m}$"] or []) for m in (1, 2, 3, 4)] == [0, 1, 2, 3]


def test_target_logits_are_the_papers_formulas():
    """Points of every curve, and both ends of the two jumps."""
    m, half = 0.5, np.pi / 2
    whole = lines(figures.draw("target_logits").axes[0])
    c = np.cos(np.pi / 3)
    expected = {
        "softmax (and W-Norm, L2)": c,
        "SphereFace, $m=4$": -np.cos(4 * np.pi / 3) - 2,
        r"SphereFace, $m=4$, $\lambda=5$": (5 * c - np.cos(4 * np.pi / 3) - 2) / 6,
        "CosFace, $m=0.35$": c - 0.35,
        "ArcFace, $m=0.5$": np.cos(np.pi / 3 + m),
        r"ArcFace, linear past $\pi-m$": np.cos(np.pi / 3 + m),
        "ArcFace, easy margin": np.cos(np.pi / 3 + m),
    }
    assert {label: at(curve, 60) for label, curve in whole.items()} == pytest.approx(expected, abs=EXACT)
    for label, jump, before, after in (
        (r"ArcFace, linear past $\pi-m$", np.pi - m, -1.0, np.cos(np.pi - m) - m * np.sin(m)),
        ("ArcFace, easy margin", half, np.cos(half + m), 0.0),
    ):
        x, y = whole[label]
        (gap,) = np.flatnonzero(np.isnan(y))
        assert x[gap] == pytest.approx(np.degrees(jump), abs=1e-12)
        # the ends are drawn 1e-9 to either side
        assert y[gap - 1] == pytest.approx(before, abs=2e-9)
        assert y[gap + 1] == pytest.approx(after, abs=2e-9)


def test_a_normalising_loss_has_gradients_of_one_over_the_length():
    """Its ‖x‖ ‖∂ℓ/∂x‖ and ‖∂ℓ/∂W‖ are constant; the softmax's are known at both ends."""
    wrong, right, of_W = ([line.get_ydata() for line in a.lines] for a in figures.draw("gradient_size").axes)
    for k, (label, loss, _) in enumerate(gradient_size.CURVES):
        if not loss.feels_x_norm:
            for size in (gradient_size.LENGTHS * wrong[k], gradient_size.LENGTHS * right[k], of_W[k]):
                assert np.ptp(size) < 1e-11 * size[0], label  # a logit of 64 costs 64 roundings and more
    assert sum(not loss.feels_x_norm for _, loss, _ in gradient_size.CURVES) == 4
    # softmax: (1 − p_y) ‖W_y − W_j‖, √2 between orthonormal rows. p_y is 1/2 for short features, up to ‖x‖ = 1e-3;
    # for long ones 0 or 1
    assert wrong[0][0] == near(np.sqrt(2) / 2, 1e-3)
    assert wrong[0][-1] == near(np.sqrt(2), 1e-12)
    assert right[0][-1] < 1e-100


def test_the_pull_on_the_circle_is_what_the_projection_leaves():
    """Across x̂ and sin θ long, or sin(θ + m); what is removed lies along x̂; these arrows are drawn, and no others."""
    panels_of, sizes = iter(figures.draw("gradient_on_the_circle").axes), []
    for (_, loss), m in zip(gradient_on_the_circle.LOSSES, (0.0, 0.5), strict=True):
        for degrees in gradient_on_the_circle.ANGLES:
            theta = np.radians(degrees)
            found = gradient_on_the_circle.pull(loss, degrees)
            size = np.sin(theta + m)
            assert found.x_hat == pytest.approx([np.cos(theta), np.sin(theta)], abs=EXACT)
            assert found.pull == pytest.approx(size * np.array([np.sin(theta), -np.cos(theta)]), abs=EXACT)
            assert found.removed == pytest.approx(size / np.tan(theta) * found.x_hat, abs=10 * EXACT)
            assert found.arrives == pytest.approx(found.pull + found.removed, abs=EXACT)
            sizes.append(f"{size:.2f}".replace("-", "−"))
            arrows = [(q.XY[0], (q.U[0], q.V[0])) for q in next(panels_of).collections]
            at_the_tip = [along for start, along in arrows if start == pytest.approx(found.x_hat)]
            due = [gradient_on_the_circle.SHORTER * v for v in (found.t_x, found.arrives, found.removed, found.pull)]
            assert np.array(at_the_tip) == pytest.approx(np.array(due), abs=EXACT)
    said = "sin θ long: {}, {} and {} at 30°, 90° and 165°. Below, ArcFace's sin(θ + m): {}, {}, and {}"
    assert said.format(*sizes) in SPOKEN


def test_sizes_against_the_angle_are_those_of_the_formulas():
    """(1 − p_y) (−ψ') with p_y of two classes, the other logit being 0; the same for all losses of a curve."""
    theta = np.radians(gradient_against_angle.THETA)
    s, second = gradient_against_angle.S, theta > np.pi / 2  # ψ of m = 2 has two branches
    expected = (
        (np.cos(theta), np.sin(theta), 1.0),
        (np.cos(theta), np.sin(theta), 0.5),
        (np.where(second, -np.cos(2 * theta) - 2, np.cos(2 * theta)), 2 * np.abs(np.sin(2 * theta)), 1.0),
        (np.cos(theta) - 0.35, np.sin(theta), 1.0),
        (np.cos(theta + 0.5), np.sin(theta + 0.5), 1.0),
    )
    drawn = [lines(a) for a in figures.draw("gradient_against_angle").axes]
    for (label, losses, _), (psi, slope, weight) in zip(gradient_against_angle.CURVES, expected, strict=True):
        unsure = 1 / (1 + np.exp(s * psi))
        for loss in losses:
            found = gradient_against_angle.sizes(loss)
            assert found.unsure == near(unsure, 100 * EXACT), label
            assert found.slope == pytest.approx(weight * slope, abs=100 * EXACT), label
            assert found.pull == pytest.approx(weight * unsure * slope, abs=100 * EXACT), label
        assert np.array_equal(drawn[0][label][1], gradient_against_angle.sizes(losses[0]).unsure)
    middle = (90, np.degrees(np.arccos(0.35)), 90 - np.degrees(0.5), 45)  # where ψ is 0
    assert "{:.0f}°, {:.1f}° for CosFace, {:.1f}° for ArcFace, and {:.0f}° for m = 2".format(*middle) in SPOKEN
    assert f"larger up to {90 - np.degrees(0.25):.1f}° and smaller beyond" in SPOKEN
    assert f"past {180 - np.degrees(0.5):.2f}°" in SPOKEN


def test_regions_are_those_of_table_1():
    """Inside the table's range the sign of its formula, class 2's with 1 and 2 swapped; outside it, ψ's."""
    for title, loss in decision_regions.PANELS:
        theta, first, second = decision_regions.boundaries(loss, points=37)
        one, two = theta, theta[:, None]
        match loss:
            case Softmax():
                value, holds = np.cos(one) - 1.5 * np.cos(two), True
            case WNormSoftmax():
                value, holds = np.cos(one) - np.cos(two), True
            case AMSoftmax():
                value, holds = 30 * (np.cos(one) - 0.35 - np.cos(two)), True
            case ArcFace():
                value, holds = 64 * (np.cos(one + 0.5) - np.cos(two)), True
            case _:
                scale = getattr(loss, "scale", 1.0)
                value, holds = scale * (np.cos(loss.margin * one) - np.cos(two)), one <= np.pi / loss.margin
        # rounding of logits up to the scale
        error = np.where(holds, np.abs(first - value), 0.0)
        assert error.max() < 64 * EXACT, title
        if loss.has_margin:
            assert np.abs(second - first.T).max() < 64 * EXACT, title
        if not np.all(holds):
            assert np.all(first[:, one > np.pi / loss.margin + 1e-9] <= 64 * EXACT), title


def test_the_margin_is_that_of_the_formula():
    """cos θ − sin θ = m between rows 90° apart: θ = arccos(m/√2) − 45°, so 45° − θ from the middle."""
    edge = am_softmax_margin.boundary(0.35)
    assert np.pi / 4 - edge == pytest.approx(np.arccos(0.35 / np.sqrt(2)) - np.pi / 4, abs=EXACT)
    assert am_softmax_margin.boundary(0.0) == pytest.approx(0, abs=EXACT)


def test_the_truth_of_the_error_figure_is_50_digits():
    """θ and gradient in pairs against mpmath; refloss' errors are a few roundings, textbook's are not."""
    x, w = error_against_angle.pairs_of_rows(np.array([-12.0, -6.0, 0.0, 0.7, 6.0, 12.0]), draws=2)
    truth = error_against_angle.by_refloss(Pair(x), Pair(w))
    with mp.workdps(60):
        for i in range(len(x)):
            X, W = ([mp.mpf(float(v)) for v in row] for row in (x[i], w[i]))
            xx, ww, xw = (mp.fsum(a * b for a, b in zip(u, v, strict=True)) for u, v in ((X, X), (W, W), (X, W)))
            theta = mp.atan2(mp.sqrt(xx * ww - xw**2), xw)
            in_theta = -mp.sin(theta + 0.5)
            x_hat, w_hat = ([v / mp.sqrt(square) for v in row] for row, square in ((X, xx), (W, ww)))
            t_x = [(b - mp.cos(theta) * a) / mp.sin(theta) for a, b in zip(x_hat, w_hat, strict=True)]
            found = mp.mpf(float(truth.theta.high[i])) + mp.mpf(float(truth.theta.low[i]))
            assert abs(found / theta - 1) < 1e-28  # 106 bits less a few
            due = np.array([float(-in_theta * t / mp.sqrt(xx)) for t in t_x])
            got = nearest(truth.grad_x)[i]
            assert np.linalg.norm(got - due) < 1e-15 * np.linalg.norm(due)
    worst = error_against_angle.measured()
    assert max(worst["refloss"].theta.max(), worst["refloss"].grad_x.max()) < 5e-15
    assert worst["textbook"].theta[0] > 1e3
    assert np.isinf(worst["textbook"].grad_x[[0, -1]]).all()
    assert worst["clamped"].grad_x[0] == 1  # nothing flows back


# -- the network -----------------------------------------------------------------------------------


@pytest.fixture
def toy(rng):
    """Twelve images of seven pixels, three classes."""
    return training.Data(rng.uniform(size=(12, 7)), np.arange(12) % 3)


@pytest.mark.parametrize("slope", [1.0, 0.25])
@pytest.mark.parametrize("loss", [Softmax(), ASoftmax(margin=2)], ids=["softmax", "a_softmax"])
def test_the_networks_gradient_is_that_of_its_value(toy, loss, slope):
    """Against central differences, in every parameter."""
    network = training.Network.random(3, bias=loss.has_bias, seed=3, pixels=7, hidden=5)
    network.slope = slope
    value, grads = network.value_and_grad(loss, toy)
    assert set(grads) == set(network.parameters)
    h = 1e-6
    for name, parameter in network.parameters.items():
        for index in np.ndindex(parameter.shape):
            kept = parameter[index]
            ends = []
            for moved in (kept + h, kept - h):
                parameter[index] = moved
                ends.append(network.value_and_grad(loss, toy)[0])
            parameter[index] = kept
            # O(h²) of the formula and u/h of rounding, each about 1e-10, no hidden unit being within h of 0
            assert grads[name][index] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8), (name, index)
    assert network.value_and_grad(loss, toy)[0] == value


def test_training_lowers_the_loss_and_repeats_itself(toy):
    """The same seed gives the same weights to the bit; what is fixed stays; another seed is another network."""

    def trained(seed, **options):
        network = training.Network.random(3, bias=True, seed=seed, pixels=7, hidden=5)
        losses = training.train(network, lambda step: Softmax(), toy, 150, 0.02, seed, noise=0.01, **options)
        return network, losses

    network, losses = trained(0)
    again, _ = trained(0)
    other, _ = trained(1)
    held, _ = trained(0, fixed=("W",))
    assert losses[-1] < 0.7 * losses[0]
    for name, value in network.parameters.items():
        assert np.array_equal(value, again.parameters[name])
        assert not np.array_equal(value, other.parameters[name])
    start = training.Network.random(3, bias=True, seed=0, pixels=7, hidden=5)
    assert np.array_equal(held.W, start.W)
    assert not np.array_equal(held.parameters["A"], start.parameters["A"])


def test_gradients_are_cut_to_twelve_bits(rng):
    """The nearest numbers of 12 bits: the last digits of a matrix product have no say."""
    grad = rng.normal(size=1000) * np.exp(9 * rng.normal(size=1000))
    cut = training.cut(grad)
    assert np.all(np.abs(cut - grad) <= 2.0**-12 * np.abs(grad))
    fraction, _ = np.frexp(cut)
    assert np.all(fraction * 2**12 == np.rint(fraction * 2**12))
    assert np.array_equal(training.cut(np.array([0.0, 1.0, -3.0])), [0.0, 1.0, -3.0])
    assert np.array_equal(training.cut(cut * (1 + 1e-13)), cut)


def test_gaps_between_classes():
    """Three classes at −170°, 10° and 100°, ±10° each: also across ±180°."""
    degrees = np.concatenate([c + np.linspace(-10, 10, 201) for c in (-170, 10, 100)])
    x = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1) * 3
    found = training.gaps(x, np.repeat([0, 1, 2], 201))
    # 90 % of a uniform spread lies within ±9°
    assert found == pytest.approx([180 - 18, 90 - 18, 90 - 18], abs=1e-9)


def test_digits_are_split_without_overlap():
    """Two thirds and one third of 1797; the classes asked for, renumbered."""
    need("sklearn")
    first, second = training.digits()
    assert (len(first.labels), len(second.labels)) == (1198, 599)
    assert first.images.min() == 0
    assert first.images.max() == 1
    pair, _ = training.digits((3, 8))
    assert set(pair.labels) == {0, 1}


def test_the_digits_are_learned_a_little():
    """Two hundred steps are enough to fall well below log 10, and to draw a panel."""
    need("sklearn")
    network, sets = l_softmax_digits.learn(1, steps=200)
    assert set(sets) == {"training", "test"}
    training_images, _ = training.digits()
    assert network.value_and_grad(LSoftmax(margin=1), training_images)[0] < 0.8 * np.log(10)
    assert sets["test"].accuracy > 0.5  # guessing gives 0.1
    figure, axes = panels(1, 1, 2.0)
    l_softmax_digits._features(axes[0, 0], sets["test"], network.W)
    assert figures.render(figure, "svg") == figures.render(figure, "svg")


# -- the numbers of docs/figures.md ----------------------------------------------------------------


def rows(name: str) -> list[list[str]]:
    """The cells of the table under a figure, without its head."""
    (heading,) = (title for title in headings(PAGE, "##") if f"(figures/{name}.svg)" in section(PAGE, title))
    [[_, *cells]] = tables(section(PAGE, heading))
    return cells


def test_figures_are_numbered_and_have_titles():
    heads = [re.fullmatch(r"Figure (\d+)\. (.+)", head).groups() for head in headings(PAGE, "##")]
    numbers, titles = zip(*heads, strict=True)
    assert [int(number) for number in numbers] == list(range(1, len(figures.FIGURES) + 1))
    assert not [title for title in titles if "_" in title]


def test_numbers_in_the_text():
    """Jumps of the variants, the clamp's angle, the most a gap of ten classes can be."""
    m = 0.5
    for said in (
        f"cos m + m sin m − 1 = {np.cos(m) + m * np.sin(m) - 1:.3f}",
        f"sin m = {np.sin(m):.3f} at 90°",
        f"1 − 2m = −{2 * 4 - 1}",
        f"within {np.degrees(np.arccos(1 - error_against_angle.CLAMP)):.3f}° of the poles",
        f"{180 - 2 * np.degrees(np.arccos(0.35 / 2)):.1f}°: fixed as a cosine",
        f"{360 // 10}° apart",
        f"the same {am_softmax_margin.STEPS} steps with both losses, s = {am_softmax_margin.SCALE:g}",
        f"set to (−{a_softmax_two_classes.BIAS[1]:g}, {a_softmax_two_classes.BIAS[1]:g})",
        f"64 pixels, {training.HIDDEN} hidden units",
        f"cut to {training.BITS} bits",
    ):
        assert said in SPOKEN, said
    schedule = training.annealing(l_softmax_digits.STEPS)
    assert schedule(1) == 100
    assert schedule(l_softmax_digits.STEPS) < 0.001


@full
def test_numbers_of_l_softmax_digits():
    """Accuracies, mean angles and gaps of all four margins. Cut gradients make them the same on every machine."""
    need("sklearn")
    table = {margin: l_softmax_digits.learn(margin)[1] for margin in l_softmax_digits.MARGINS}
    numbers = []
    for margin, sets in table.items():
        row = [str(margin)]
        for learned in sets.values():
            row += [f"{100 * learned.accuracy:.1f} %", f"{learned.theta:.1f}°", f"{learned.gap:.1f}°"]
        numbers.append(row)
    assert rows("l_softmax_digits") == numbers
    _, sets = l_softmax_digits.learn(4, start=0.0)
    assert f"ends with {100 * sets['training'].accuracy:.1f} % of the training images right" in SPOKEN
    for name in ("training", "test"):  # what the picture is for: the gaps widen with m
        gaps = [sets[name].gap for sets in table.values()]
        assert gaps == sorted(gaps)
        assert min(sets[name].accuracy for sets in table.values()) > 0.9


@full
def test_numbers_of_the_two_class_figures():
    """a_softmax_two_classes and am_softmax_margin; the texts drawn are those of the page."""
    need("sklearn")
    learned = [a_softmax_two_classes.learn(k) for k in range(3)]
    assert rows("a_softmax_two_classes") == [
        [title, f"{100 * one.right:.1f} %", f"{100 * one.by_angle:.1f} %", f"{one.gap:.1f}°"]
        for title, one in zip(("softmax", "modified softmax", "A-Softmax"), learned, strict=True)
    ]
    assert learned[0].by_angle < 0.95 < learned[1].by_angle
    figure = figures.draw("am_softmax_margin")
    shown = [re.search(r"gap between the classes (\S+)", t.get_text()) for a in figure.axes for t in a.texts]
    assert [found[1] for found in shown if found] == [row[2] for row in rows("am_softmax_margin")]
    edges = [f"{abs(np.degrees(2 * am_softmax_margin.boundary(m))):.1f}°" for m in am_softmax_margin.MARGINS]
    assert edges == [row[1] for row in rows("am_softmax_margin")]
