"""survey.md goes through the whole survey: a row for every statement, a place for every row, a computation a slip.

The survey itself is no part of the project. What it holds is listed here: its sections, and of each statement,
formula, figure and row of a table a piece of the row that stands for it. Below, the pictures that show what it says.
"""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from helpers import need

from pages.markdown import DERIVATIONS, anchors, code, derivation, headings, links, read, tables
from refloss.figures import features_and_bias, image_quality, l_softmax_margin, loss_against_scale, training

# the numbers of the headings, as in its table of contents
CONTENTS = (
    "1", "1.1", "1.2", "2", "2.1", "2.1.1", "2.1.2", "2.1.3", "2.2", "2.2.1", "2.2.2", "2.2.3", "2.3", "2.3.1", "2.3.2",
    "2.4", "2.4.1", "2.4.2", "2.5", "2.5.1", "2.5.2", "2.6", "2.6.1", "2.6.2", "3",
)  # fmt: skip
STATEMENTS: dict[str, tuple[str, ...]] = {
    "1.1": (
        "more stable", "$f(z_k) =", r"$-\sum_{k=0}^C y_c", r"\log \sum_j e^{z_j} - \log e^{z_y}",
    ),
    "1.2": ("drives classes apart", "draws a class together"),
    "2.1.1": ("Xie and Tu",),
    "2.1.2": ("unequal counts", "edges matter more"),
    "2.1.3": (r"$-\sum_{k=0}^C w_c y_c", r"$L_i$ has"),
    "2.2.1": (
        r"$W_1^\top x \gt", "more probable", r"\cos\theta_1 \gt", r"$\cos(m\theta_1)$ on the left",
        "following inequality", r"$\cos(mx)$ is less", "the harder to learn", "eq. (4)", "eq. (5)", r"$D(\pi/m)$",
        "geometric figure",
    ),
    "2.2.2": ("harder to learn", "support vector"),
    "2.2.3": ("training images above", "2-D", "constant term", "accuracy is low"),
    "2.3.1": ("Liu et al.",),
    "2.3.2": (
        r"$\lVert W \rVert = 1$ and $b = 0$", "angle alone", "Figure 2:", "its caption", "angular already", "faces are",
    ),
    "2.4.1": ("Ranjan",),
    "2.4.2": ("normalise the features", "good frontal faces", "more discriminative", "eq. (3)"),
    "2.5.1": ("Wang et al.",),
    "2.5.2": (
        "becomes a subtraction", "become simpler", "$W$ and $f$", "$m = 0.35$", "eq. (6), first", "eq. (6), second",
        "Figure 1", "its caption", "normalisation guarantees", "scale layer", "fixed at 30", "quality of the images",
        "dy/dx", "short vectors get", "hard-sample mining", "very short ones",
    ),
    "2.6": ("Argface",),
    "2.6.1": ("Deng",),
    "2.6.2": ("eq. (9)", "eq. (10)"),
    "3": (
        "boundaries of two classes", "Softmax: $(W_1", "W-Norm Softmax:", "SphereFace: $\\lVert", "F-Norm SphereFace:",
        "CosineFace:", "ArcFace:", "caption:",
    ),
}  # fmt: skip
PAGE = derivation("survey.md")
SLIPS = PAGE.split("\n## The survey's slips\n")[1]


def rows(text: str) -> list[list[str]]:
    """§, statement, where, holds: of all tables of statements."""
    return [row for head, *table in tables(text) if head[0] == "§" for row in table]


def without_row(text: str) -> dict[str, list[str]]:
    """The statements of each section that have no row of their own."""
    found: dict[str, list[str]] = {}
    left = rows(text)
    for section, pieces in STATEMENTS.items():
        for piece in pieces:
            own = [row for row in left if row[0] == section and piece in row[1]]
            if own:
                left.remove(own[0])
            else:
                found.setdefault(section, []).append(piece)
    for row in left:  # a row of what the survey does not say
        found.setdefault(row[0], []).append(row[1])
    return found


def without_place(text: str) -> list[str]:
    """The rows without a link to a heading, or with a link that leads nowhere."""
    wrong = []
    for _, says, where, holds in rows(text):
        places = links(where)
        for link in places + links(holds):
            name, _, anchor = link.partition("#")
            page = DERIVATIONS / (name or "survey.md")
            if not (page.is_file() and anchor in anchors(page.read_text(encoding="utf-8"))):
                wrong.append(says)
        if not any("#" in link for link in places):
            wrong.append(says)
    return wrong


def slips_without_proof(text: str) -> list[str]:
    """The slips without an example that runs."""
    return [part.partition("\n")[0] for part in text.split("\n### ")[1:] if not any(">>> " in c for c in code(part))]


def test_every_section_is_gone_through():
    """A section that has sections is a heading and no more, but for 2.6, whose title is one of the statements."""
    leaves = {name for name in CONTENTS if not any(other.startswith(f"{name}.") for other in CONTENTS)}
    assert set(STATEMENTS) == leaves | {"2.6"}
    sections = [row[0] for row in rows(PAGE)]
    assert sections == sorted(sections, key=CONTENTS.index)


def test_every_statement_has_its_row():
    assert without_row(PAGE) == {}
    assert len(rows(PAGE)) == sum(map(len, STATEMENTS.values())) > 60


def test_every_row_has_its_place():
    assert without_place(PAGE) == []


def test_every_slip_is_shown_and_referred_to():
    """By a computation, and by a row under its number; README.md links the list."""
    titles = headings(SLIPS, "###")
    assert [title.partition(".")[0] for title in titles] == [str(n + 1) for n in range(len(titles))]
    assert slips_without_proof(SLIPS) == []
    referred = {
        (number, link) for row in rows(PAGE) for number, link in re.findall(r"\[slip (\d+)\]\(#([^)]+)\)", row[3])
    }
    assert all(link.startswith(f"{number}-") for number, link in referred)
    assert {int(number) for number, _ in referred} == set(range(1, len(titles) + 1))
    assert "survey.md#the-surveys-slips" in links(derivation("README.md"))


@pytest.mark.parametrize("piece", ["eq. (5)", "support vector", "CosineFace:", "Argface"])
def test_a_missing_row_is_noticed(piece):
    (line,) = (line for line in PAGE.splitlines() if line.startswith("| ") and piece in line.split(" | ")[1])
    (found,) = without_row(PAGE.replace(line + "\n", "")).values()
    assert found == [piece]
    assert without_row(PAGE.replace(line, f"{line}\n{line}"))  # and one too many


def test_a_wrong_place_is_noticed():
    for right, wrong in (
        ("(softmax.md#small-norms)", "(softmax.md#tiny-norms)"),
        ("(softmax.md#small-norms)", "(softmax.md)"),
        ("(bounds.md#cosfaces-scale)", "(bound.md#cosfaces-scale)"),
        ("(#5-a-distance-of-mh)", "(#5-a-distance)"),
    ):
        assert right in PAGE
        assert without_place(PAGE.replace(right, wrong)), wrong


def test_a_slip_without_a_computation_is_noticed():
    (line,) = (line for line in SLIPS.splitlines() if line.startswith(">>> print(np.cos(2 * theta)"))
    assert slips_without_proof(re.sub(r"```python\n>>> theta.*?```\n", "", SLIPS, flags=re.DOTALL)) == [
        "3. A range left out"
    ]
    assert line


# -- the pictures ----------------------------------------------------------------------------------

FIGURES = read("docs/figures.md")
full = pytest.mark.skipif(
    os.environ.get("REFLOSS_REQUIRE_OPTIONAL") != "1", reason="trains for a minute; REFLOSS_REQUIRE_OPTIONAL=1"
)


def numbers_under(picture: str) -> list[list[str]]:
    """The rows of the table that follows a picture of docs/figures.md."""
    return tables(FIGURES.split(f"(figures/{picture}.svg)")[1])[0][1:]


def percent(values: np.ndarray) -> str:
    """Mean, least and largest."""
    mean, low, high = (f"{100 * value:.1f}" for value in (values.mean(), values.min(), values.max()))
    return f"{mean} % ({low} to {high})"


def test_numbers_of_l_softmax_margin():
    """From the pictures' bisection, and by hand: sin θ = (√(r² + 8) − r) / 4, tan θ of the softmax."""
    found = []
    for (_, loss), name in zip(l_softmax_margin.LOSSES, ("softmax", "L-Softmax, m = 2"), strict=True):
        for ratio, longer in zip(l_softmax_margin.RATIOS, ("none", "W_1, 1.5 times", "W_2, 1.5 times"), strict=True):
            one, two = l_softmax_margin.ends(loss, ratio)
            between = abs(90 - one - two)
            found.append([name, longer, *(f"{value:.1f}°" for value in (one, two, between))])
            for end, r in ((one, 1 / ratio), (two, ratio)):
                due = np.arctan(1 / r) if name == "softmax" else np.arcsin((np.sqrt(r**2 + 8) - r) / 4)
                assert end == pytest.approx(np.degrees(due), abs=1e-12)
    assert numbers_under("l_softmax_margin") == found


def test_poorer_images():
    """Blur keeps what an image adds up to inside, and takes contrast; noise has its standard deviation."""
    spot = np.zeros((1, 8, 8))
    spot[0, 3, 4] = 1
    blurred = image_quality.poorer(training.Data(spot.reshape(1, 64), np.array([0])), "blur", 1).images.reshape(8, 8)
    assert np.array_equal(blurred[2:5, 3:6], np.outer([1, 2, 1], [1, 2, 1]) / 16)
    assert blurred.sum() == 1
    flat = training.Data(np.full((2000, 64), 0.5), np.zeros(2000, dtype=int))
    assert image_quality.poorer(flat, "blur", 3).images == pytest.approx(0.5)
    for level in image_quality.LEVELS:
        noise = image_quality.poorer(flat, "noise", level).images - 0.5
        assert noise.std() == pytest.approx(0.15 * level, rel=0.01)


def test_the_control_differs_in_the_gradient_of_x_alone(rng):
    """By the factor ‖x‖, row by row."""
    x, W, labels = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.integers(4, size=5)
    value, grads = image_quality.NORMALISED.value_and_grad(x, W, labels)
    same, control = image_quality.Unmined().value_and_grad(x, W, labels)
    assert value == same
    assert np.array_equal(control.W, grads.W)
    sizes = np.linalg.norm(control.x, axis=1) / np.linalg.norm(grads.x, axis=1)
    assert sizes == pytest.approx(np.linalg.norm(x, axis=1), rel=1e-14)


@full
def test_numbers_of_features_and_bias():
    """And what the page says of them: more features, more right; the bias matters with two."""
    need("sklearn")
    found = {
        (features, bias): features_and_bias.accuracies(features, bias)
        for features in features_and_bias.FEATURES
        for bias in (False, True)
    }
    assert numbers_under("features_and_bias") == [
        [str(features), percent(found[features, False]), percent(found[features, True])]
        for features in features_and_bias.FEATURES
    ]
    for features in features_and_bias.FEATURES[1:]:
        assert found[features, False].max() >= found[features, True].min()
    assert np.ptp(found[2, False]) > np.ptp(found[2, True])
    means = [found[features, False].mean() for features in features_and_bias.FEATURES]
    assert means == sorted(means)


@full
def test_numbers_of_image_quality():
    """And what normalisation.md says of them."""
    need("sklearn")
    names = ("s", "s, gradient times ‖x‖", "‖x‖", "‖W‖ ‖x‖")
    found, numbers = {}, []
    for title, kind, levels in image_quality.SETTINGS:
        for name, (_, loss, _) in zip(names, image_quality.RADII, strict=True):
            mean, ends = found[title, name] = image_quality.mean_and_range(loss, kind, levels)
            low, high = (f"{100 * value:.1f}" for value in ends.accuracy[:, -1])
            right = [f"{100 * value:.1f} %" for value in mean.accuracy]
            right[-1] += f" ({low} to {high})"
            numbers.append([title, name, f"{mean.length[-1]:.2f}", f"{mean.gradient[-1]:.1f}", *right])
    assert numbers_under("image_quality") == numbers
    for name in names:
        assert found["blur", name][0].length[-1] < 1 < found["noise", name][0].length[-1]
    # blurred: normalised is better by more than the seeds differ, and so is the control
    worst = {name: found["blur", name][1].accuracy[:, -1] for name in names}
    assert min(worst["s"][0], worst[names[1]][0]) > max(worst["‖x‖"][1], worst["‖W‖ ‖x‖"][1])
    good = [found["blur", name][0].accuracy[0] for name in names]
    assert min(good[:2]) >= max(good[2:])
    # trained longer, by less
    gain = found["blur", "s"][0].accuracy[-1] - found["blur", "‖W‖ ‖x‖"][0].accuracy[-1]
    longer = [
        image_quality.learn(image_quality.RADII[k][1], "blur", image_quality.LEVELS, 1, steps=2400) for k in (0, 3)
    ]
    assert 0 < longer[0].accuracy[-1] - longer[1].accuracy[-1] < gain


@full
def test_numbers_of_loss_against_scale():
    """And what normalisation.md says of them: above the least loss, nearly all right, wider with s."""
    need("sklearn")
    found, numbers = [], []
    for scale in loss_against_scale.SCALES:
        one = loss_against_scale.learn(scale)
        least = loss_against_scale.normface_smallest_loss(10, scale=scale)
        assert one.loss > least
        shares = (f"{100 * share:.1f} %" for share in (one.training, one.test))
        numbers.append([str(scale), f"{one.loss:.4f}", f"{least:.4f}", f"{one.theta:.1f}°", *shares])
        found.append(one)
    assert numbers_under("loss_against_scale") == numbers
    assert [one.theta for one in found] == sorted(one.theta for one in found)
    assert min(one.training for one in found) > 0.99
