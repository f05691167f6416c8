"""The derivations belong to the code: same steps, working links, maths that renders, true numbers."""

from __future__ import annotations

import doctest
import math
import re
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from helpers import logits_pass, near

import refloss
from pages.checks import PAGES as CHECKS
from pages.checks.psi import AT_KNOT, BESIDE_KNOT, polynomials, squared_slope
from pages.markdown import code, derivation, displayed, headings, prose, read, section, tables
from pages.steps import (
    CODE_OF,
    LEARN,
    LOSS_PAGES,
    NUMBERED,
    PAGES,
    PREFIXES,
    bold_steps,
    expand,
    placed,
    promised,
    sources,
)
from pages.tables import agrees
from refloss.precision.numbers import is_extended
from refloss.precision.pair import Pair
from refloss.steps.angle import angle
from refloss.steps.margin import arc_margin
from refloss.steps.psi import multiplied_angle
from refloss.textbook.family import FAMILY

HEADINGS = [
    "Formula and source",
    "Symbols and shapes",
    "Forward",
    "Backward",
    "Limits and kinks",
    "Geometry",
    "Small norms",
    "Released code",
    "Worked example",
    "In the code",
]

# -- steps -----------------------------------------------------------------------------------------


def test_expand_reads_ranges_and_skips_equations():
    assert expand("steps (1), (3)–(5) of eq. (7) and eq. (9)–(10)") == ["3", "4", "5", "1"]
    assert expand("(G1) x̂; log(1 + e^(1 − 2)); shape (2,)") == ["G1"]


def test_placed_does_not_count_a_range_or_a_string():
    source = '"""Steps (1)–(3)."""\nx = "(1)"  # (2) here\n# (1)–(3)\n'
    assert placed(source) == {"2"}


def test_every_page_is_listed():
    assert set(NUMBERED) | {"README.md", "singular_points.md"} == set(PAGES)


@pytest.mark.parametrize("page", CODE_OF)
def test_steps_of_code_and_page_are_the_same(page):
    """No step of the code without its derivation, and no derived step without its line of code."""
    on_page = set(bold_steps(page))
    in_code = set().union(*map(placed, sources(page)))
    assert on_page == in_code
    allowed = PREFIXES.get(page)
    assert all(step[0] in allowed if allowed else step.isdecimal() for step in on_page)


@pytest.mark.parametrize("page", CODE_OF)
def test_docstring_promises_the_steps_of_its_page(page):
    """Each file says which steps it holds; with several files they add up to the page."""
    files = [source for source in sources(page) if f"derivations/{page}" in source]
    assert files
    assert set().union(*map(promised, files)) == set(bold_steps(page))


@pytest.mark.parametrize("page", [*LOSS_PAGES, "margin_softmax.md"])
def test_reports_cite_every_step_of_a_loss(page):
    """A report names the steps of a stage; together they are the page's, but for that of the cross-entropy."""
    own_steps = FAMILY[page.removesuffix(".md")].steps.values()
    cited = {step for steps in own_steps for step in expand(steps.replace(" to ", "–"))}
    (cross_entropy,) = re.findall(r"\*\*\((G?\d+)\)\*\* Cross-entropy of", derivation(page))
    assert cited == set(bold_steps(page)) - {cross_entropy}


def test_linear_promises_steps_of_softmax():
    assert promised(read("refloss/steps/linear.py")) == set(bold_steps("softmax.md")) - {"2"}


@pytest.mark.parametrize("page", NUMBERED)
def test_steps_stand_once_and_in_order(page):
    steps = bold_steps(page)
    by_letter: dict[str, list[int]] = {}
    for step in steps:
        letter = step.rstrip("0123456789")
        by_letter.setdefault(letter, []).append(int(step.removeprefix(letter)))
    assert by_letter
    for numbers in by_letter.values():
        assert numbers == list(range(1, len(numbers) + 1))


def test_index_has_the_steps_of_every_page():
    """The last column of the README's index: "1–5", or "M1–M6, G1–G10"."""
    rows = [row for table in tables(derivation("README.md")) for row in table]
    for page in NUMBERED:
        (steps,) = (row[-1] for row in rows if row[0].endswith(f"({page})"))
        spelled = re.sub(r"([A-Z]?\d+)", r"(\1)", steps)
        assert sorted(expand(spelled)) == sorted(bold_steps(page)), page


@pytest.mark.parametrize("page", [*NUMBERED, "singular_points.md"])
def test_every_step_that_a_page_refers_to_exists(page):
    """Step (N4) on a loss's page is a step of normalisation.md, (7) one of its own."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", derivation(page), flags=re.DOTALL)
    shared = {step for other in PREFIXES for step in bold_steps(other)}
    assert set(expand(text)) <= shared | set(bold_steps(page))


@pytest.mark.parametrize("page", LOSS_PAGES)
def test_loss_pages_have_the_same_headings(page):
    assert headings(derivation(page), "##") == HEADINGS


# -- maths -----------------------------------------------------------------------------------------


def maths(text: str) -> list[str]:
    """Every piece of maths of a page, displayed or inline, code left out."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    pieces = re.split(r"\$\$", text)
    assert len(pieces) % 2 == 1, "an odd number of $$"
    inline = []
    for outside in pieces[::2]:
        for paragraph in re.split(r"\n\s*\n", outside):
            parts = paragraph.split("$")
            assert len(parts) % 2 == 1, f"an odd number of $ in: {paragraph[:80]}"
            inline += parts[1::2]
    return pieces[1::2] + inline


@pytest.mark.parametrize("page", [*PAGES, *LEARN])
def test_maths_is_balanced(page):
    """$$, $, braces, \\left … \\right: each opened is closed, in its own piece of maths."""
    text = derivation(page)
    assert all(line == "$$" for line in text.splitlines() if "$$" in line)
    for piece in maths(text):
        assert piece.strip(), "empty maths"
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", piece):
            depth += 1 if brace == "{" else -1
            assert depth >= 0, piece
        assert depth == 0, piece
        for opened, closed in ((r"\left", r"\right"), (r"\lVert", r"\rVert"), (r"\lvert", r"\rvert")):
            count = [len(re.findall(re.escape(name) + r"(?![A-Za-z])", piece)) for name in (opened, closed)]
            assert count[0] == count[1], piece
        if r"\left" not in piece and "[1/2, 1)" not in piece:
            assert piece.count("(") == piece.count(")"), piece


@pytest.mark.parametrize("page", [*PAGES, *LEARN])
def test_maths_survives_a_code_forge(page):
    """What Markdown takes for itself inside maths: emphasis, escapes, HTML, table cells, macros."""
    text = derivation(page)
    for piece in maths(text):
        assert not re.search(r"(?<![A-Za-z0-9])_", piece), f"_ may open emphasis: {piece}"
        assert not re.search(r"\\[^A-Za-z]", piece), f"Markdown eats the backslash: {piece}"
        assert not re.search(r"[*<>|]", piece), piece
        assert not re.search(r"\\(bm|newcommand|def|tag|label)\b", piece), piece
    inline = re.sub(r"\$\$.*?\$\$|^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in re.sub(r"`[^`\n]*`", "c", inline).splitlines():
        for k, match in enumerate(re.finditer(r"\$", line)):
            before, after = line[: match.start()][-1:], line[match.end() :][:1]
            if k % 2 == 0:
                assert before in ("", " ", "("), line
                assert after not in ("", " "), line
            else:
                assert before != " ", line
                assert after in ("", " ", ".", ",", ";", ":", ")"), line
    folds = r"^(<details>|</details>|<summary>.*</summary>)$"
    assert not re.search(r"<[A-Za-z/!]", re.sub(folds, "", inline, flags=re.MULTILINE)), "raw HTML"


# -- displayed numbers -----------------------------------------------------------------------------


CASES = [(page, shown, value) for page, checked in CHECKS.items() for shown, value in checked.shown]


@pytest.mark.parametrize(("page", "shown", "value"), CASES)
def test_displayed_numbers_are_true(page, shown, value):
    assert shown in derivation(page)
    assert agrees(shown, value)


def test_agreement_is_to_the_last_digit_shown():
    for shown, same, other in (("−1.1173", -1.11729, 1.1173), ("5.6 %", 5.649, 5.651), ("4.4e-05", 4.44e-5, 4.4e-6)):
        assert agrees(shown, same)
        assert not agrees(shown, other)


# defaults and constants of papers and released code
GIVEN_EVERYWHERE = {"0.35", "0.40", "1.35", "28.6"}
_NUMBER = r"[−-]?\d+(?:\.\d+)?(?:e[−-]?\d+)?"
_COMPUTED = re.compile(  # a share, two decimals or more, a power of ten, degrees with a decimal
    r"(?<![\w.])([−-]?\d+(?:\.\d+)? %|[−-]?\d+\.(?:\d{2,}(?:e[−-]?\d+)?|\d+e[−-]?\d+|\d+(?=°)))(?!\w)"
)


def unproven(page: str, text: str) -> list[str]:
    """The numbers of a page that look computed and that nothing computes again."""
    printed = [e.want for e in doctest.DocTestParser().get_examples("\n".join(code(text)))]
    proven = [float(v.replace("−", "-")) for part in printed + displayed(text) for v in re.findall(_NUMBER, part)]
    known = set(GIVEN_EVERYWHERE)
    if page in CHECKS:  # a new Page would take the place of the one that is there
        of_page = [shown for shown, _ in CHECKS[page].shown]
        known |= {*of_page, *(shown.rstrip("°") for shown in of_page)} | CHECKS[page].given
    written = re.sub(r"`[^`\n]*`|\]\([^)]*\)|arXiv \d+\.\d+(v\d)?", "", prose(text))
    return [
        shown
        for shown in _COMPUTED.findall(written)
        if shown not in known and (shown.endswith("%") or not any(agrees(shown, value) for value in proven))
    ]


@pytest.mark.parametrize("page", [*PAGES, *LEARN])
def test_every_number_is_computed_again(page):
    """A number that looks computed is in the page's file of checks, in an example's output, or in a checked formula."""
    assert not unproven(page, derivation(page))


def test_a_number_that_nothing_computes_is_noticed():
    text = "It is 0.1234, by eq. 3 (arXiv 1612.02295).\n\n```python\n>>> print(0.56781)\n0.56781\n```\n\nAnd 0.5678.\n"
    assert unproven("psi.md", text) == ["0.1234"]
    assert unproven("psi.md", "12 % of $1.5e-9$, 0.35") == ["12 %", "1.5e-9"]


def at(theta: float):
    """The record of the angle of one pair that lies theta apart."""
    return angle(np.array([[1.0, 0.0]]), np.array([[math.cos(theta), math.sin(theta)]]))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_at_its_knots(m):
    """psi.md: ψ(kπ/m) = 1 − 2k and ψ' = 0 there; for m = 4 the page lists 1, −1, −3, −5, −7."""
    for k in range(m + 1):
        target = multiplied_angle(at(k * math.pi / m), m)
        assert target.value[0] == near(1 - 2 * k, 1e-15)
        assert abs(target.slope[0]) < 8 * m**2 * np.finfo(float).eps
    assert "For $m = 4$ the knots are 1, −1, −3, −5, −7." in derivation("psi.md")


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("pole", [0.0, math.pi])
def test_psi_has_slope_m_squared_at_both_poles(m, pole):
    """psi.md: dψ/dcos θ → m²; the next term is of the order of the distance squared."""
    pair = at(abs(pole - 1e-4))
    slope = multiplied_angle(pair, m).slope[0] / -pair.sin[0]
    assert slope == near(m**2, m**2 * 1e-8)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_share_of_wrong_signs_of_table_1(m):
    """README.md: the table's formula is wrong for (m − 1)/2m of uniform angles. Midpoints of a grid."""
    n = 600
    theta = (np.arange(n) + 0.5) * math.pi / n
    k = np.floor(m * theta / math.pi)
    psi = (-1.0) ** k * np.cos(m * theta) - 2 * k
    plain = np.cos(theta)
    wrong = (np.cos(m * theta)[:, None] > plain) != (psi[:, None] > plain)
    # only cells that the boundary crosses, at most 2 m n of them, may be counted wrongly
    assert abs(wrong.mean() - (m - 1) / (2 * m)) < 2 * m / n


def test_every_singular_point_has_its_test():
    """singular_points.md: the tests that it names exist."""
    named = set(re.findall(r"`(test_\w+)`", section(derivation("singular_points.md"), "Tested as")))
    tests = read("tests/test_singular_points.py") + read("tests/test_knots.py")
    assert len(named) > 20
    assert named <= set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))


@pytest.mark.parametrize("pole", [1.0, -1.0])
def test_cone_of_arcface_has_the_slope_of_the_page(pole):
    """singular_points.md: z_y falls at the rate s sin m · ‖dx⊥/‖x‖ ∓ dw⊥/‖w‖‖ from both poles."""
    s, m, h = 2.0, 0.5, 1e-6
    x, W = np.array([[2.0, 0.0, 0.0]]), pole * np.array([[3.0, 0.0, 0.0]])
    dx, dw = np.array([[0.0, 0.3, -0.4]]), np.array([[0.0, 0.5, 0.7]])
    loss = refloss.ArcFace(scale=s, margin=m)
    apex = loss.forward(x, W, [0])
    assert apex.cone[0]
    moved = loss.forward(x + h * dx, W + h * dw, [0])
    rate = (moved.logits[0, 0] - apex.logits[0, 0]) / h
    page = -s * math.sin(m) * np.linalg.norm(dx / 2 - pole * dw / 3)
    assert rate == near(page, 10 * h)


def test_jumps_of_arcface_are_those_of_the_page():
    """margins.md: the tail starts at −cos m − m sin m; easy_margin jumps up by sin m. Seen 1e-9 from the jumps."""
    m = 0.5
    tail = arc_margin(at(math.pi - m + 1e-9), m, False, "linear").value[0]
    assert tail == pytest.approx(-math.cos(m) - m * math.sin(m), abs=1e-8)
    before = arc_margin(at(math.pi / 2 - 1e-9), m, True, "cos").value[0]
    after = arc_margin(at(math.pi / 2 + 1e-9), m, True, "cos").value[0]
    assert after - before == pytest.approx(math.sin(m), abs=1e-8)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_l_softmax_gradient_per_entry_in_cosines(m):
    """l_softmax.md: ∂z_y/∂x = ψ_c W_y + (‖W_y‖/‖x‖)(ψ − c ψ_c) x, with ψ_c from Chebyshev's T_m."""
    from numpy.polynomial import chebyshev

    rng = np.random.default_rng(0)
    loss = refloss.LSoftmax(margin=m, reduction="sum")
    for _ in range(20):
        x, W = rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
        # one class has no gradient through the softmax: the logit's own backward, with g = 1
        at_logits = logits_pass(loss, x, W, [0])
        grads = loss.backward_logits(at_logits, np.ones((1, 1)))
        x_norm, w_norm = np.linalg.norm(x), np.linalg.norm(W)
        c = float((x @ W.T)[0, 0] / (x_norm * w_norm))
        k = min(math.floor(m * math.acos(c) / math.pi), m - 1)
        T = [0] * m + [1]
        psi = (-1) ** k * chebyshev.chebval(c, T) - 2 * k
        psi_c = (-1) ** k * chebyshev.chebval(c, chebyshev.chebder(T))
        by_hand = psi_c * W + w_norm / x_norm * (psi - c * psi_c) * x
        np.testing.assert_allclose(grads["x"], by_hand, rtol=0, atol=1e-13 * w_norm * m**2)


# -- next to a zero of the slope, in exact integers ------------------------------------------------

KINDS = {"double": (np.asarray, Fraction(1, 2**50)), "extended": (Pair, Fraction(1, 2**59))}


def exactly(v) -> Fraction:
    """The only entry of an array of doubles or pairs."""
    parts = (v.high, v.low) if is_extended(v) else (v,)
    return sum(Fraction(float(part[0])) for part in parts)


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7, 12])
def test_sine_and_cosine_of_a_multiple_are_chebyshevs(m):
    """psi.md, (P1): sin² mθ = u² (B − P²) / B^m and cos² mθ = t² / B^m add up to 1, exactly, for any integers."""
    for x, w in (AT_KNOT, BESIDE_KNOT, ((3, -1, 4), (1, 5, -9)), ((7,), (-2,)), ((1, 2), (2, -1))):
        P, B, (u, t) = polynomials(x, w, m)
        assert u**2 * (B - P**2) + t**2 == B**m


# integer rows at or beside an angle kπ/m, and one at no knot
KNOTS = {
    2: [((1, 0), (0, 1)), ((1, 2**40), (-(2**40), 2)), ((2**52, 1), (1, 2**52 - 3))],
    3: [AT_KNOT, BESIDE_KNOT, ((1, 1, 0), (-(2**50), 1, 2**50)), ((1, 1, 0), (-1, 0, 1))],
    4: [((1, 0), (1, 1)), ((1, 0), (2**50, 2**50 + 1)), ((1, 1), (-(2**51), 3)), ((1, 0), (1, 3))],
    6: [AT_KNOT, BESIDE_KNOT, ((1, 0), (1, -1)), ((2**30, 1), (-1, 2**30))],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", KNOTS)
def test_slope_of_psi_is_the_exact_one(m, kind):
    """psi.md, (P1), (P5): ψ' = −m |sin mθ| to the last digits beside a knot, and exactly 0 at one."""
    numbers, relative = KINDS[kind]
    for pair in KNOTS[m]:
        slope = exactly(multiplied_angle(angle(*(numbers(np.array([row], float)) for row in pair)), m).slope)
        due = squared_slope(pair, m)
        assert slope <= 0
        assert abs(slope**2 - due) <= m * relative * due, pair


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [2, 3, 4])
def test_sine_of_a_multiple_away_from_its_zeros(m, kind, rng):
    """psi.md, (P1): after m − 1 turns |sin mθ| is off by a few m² roundings of sin θ, towards the poles too."""
    numbers, relative = KINDS[kind]
    for size in (1, 10**3, 10**9):
        x = rng.integers(-50, 50, 4)
        w = size * x + rng.integers(-50, 50, 4)
        pair = (tuple(map(int, x)), tuple(map(int, w)))
        got = exactly(multiplied_angle(angle(*(numbers(np.array([row], float)) for row in pair)), m).slope)
        P, B, _ = polynomials(*pair, m)
        sine = math.sqrt(Fraction(B - P**2, B))
        # to first order, from the squares: |√a − √b| = |a − b| / (√a + √b)
        due = squared_slope(pair, m)
        error = abs(float(got**2 - due)) / (abs(float(got)) + math.sqrt(due))
        assert error <= 8 * m**3 * float(relative) * sine


def series(m: float) -> tuple[Decimal, Decimal]:
    """cos m and sin m to 70 digits, by Taylor's series."""
    sums, term, i = [Decimal(0), Decimal(0)], Decimal(1), 0
    while abs(term) > Decimal("1e-80"):
        sums[i % 2] += -term if i % 4 > 1 else term
        i += 1
        term = term * Decimal(m) / i
    return sums[0], sums[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0.0, 1e-15, -1e-12, 1e-6, -0.3])
@pytest.mark.parametrize("m", [0.1, 0.5, 2.0, 3.0])
def test_slope_of_arcface_is_the_exact_one(m, step, kind):
    """margins.md, (M3): sin(θ + m) = (√(B − P²) cos m + P sin m) / √B keeps its digits next to π − m."""
    numbers, relative = KINDS[kind]
    theta = math.pi - m + step
    x, w = (
        np.array([[1.0, 0.5]]),
        np.array([[math.cos(theta) - 0.5 * math.sin(theta), 0.5 * math.cos(theta) + math.sin(theta)]]),
    )
    slope = exactly(arc_margin(angle(numbers(x), numbers(w)), m, False, "cos").slope)
    x, w = ([Fraction(v) for v in row[0]] for row in (x, w))
    P, B = x[0] * w[0] + x[1] * w[1], (x[0] ** 2 + x[1] ** 2) * (w[0] ** 2 + w[1] ** 2)
    with localcontext() as context:
        context.prec = 70
        root, P, B = ((Decimal(v.numerator) / Decimal(v.denominator)) for v in (B - P**2, P, B))
        cos_m, sin_m = series(m)
        due = -(root.sqrt() * cos_m + P * sin_m) / B.sqrt()
        got = Decimal(slope.numerator) / Decimal(slope.denominator)
        assert abs(got - due) <= 2 * Decimal(float(relative)) * abs(due)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distance", [1, 2.0**-20, 2.0**-60, 2.0**-500])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_sine_keeps_its_digits_at_every_angle(kind, distance, side):
    """angle.md, (A6): sin² θ = 1 − P²/B relative to itself, towards 0 and towards π; the cosine relative to 1."""
    numbers, relative = KINDS[kind]
    x, w = np.array([[3.0, 1.0, -2.0]]), side * np.array([[3.0, 1.0, -2.0]])
    w[0, 1] += 0 if distance < 2.0**-50 else distance
    if distance < 2.0**-50:
        x, w = np.array([[3.0, 0.0, 0.0]]), np.array([[side * 5.0, 7 * distance, 0.0]])
    at_pair = angle(numbers(x), numbers(w))
    x, w = ([Fraction(v) for v in row[0]] for row in (x, w))
    P = sum(i * j for i, j in zip(x, w, strict=True))
    B = sum(i * i for i in x) * sum(j * j for j in w)
    sine, cosine = exactly(at_pair.sin), exactly(at_pair.cos)
    assert abs(sine**2 - (1 - P**2 / B)) <= 4 * relative * (1 - P**2 / B)
    assert abs(cosine**2 - P**2 / B) <= 4 * relative
    assert (cosine > 0) == (P > 0)
