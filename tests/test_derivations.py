"""The derivations belong to the code: same steps, working links, maths that renders, true numbers."""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import logits_pass

import refloss
from refloss.precision.numbers import is_extended
from refloss.precision.pair import Pair
from refloss.steps.angle import angle
from refloss.steps.margin import arc_margin
from refloss.steps.psi import multiplied_angle

ROOT = Path(__file__).resolve().parent.parent
DERIVATIONS = ROOT / "derivations"
PAGES = sorted(path.name for path in DERIVATIONS.glob("*.md"))

# page → the code files that place its steps. WeightedSoftmax inherits the passes of Softmax.
CODE_OF = {
    "softmax.md": ("losses/softmax.py",),
    "weighted_softmax.md": ("losses/weighted_softmax.py", "losses/softmax.py"),
    "w_norm_softmax.md": ("losses/w_norm_softmax.py",),
    "l_softmax.md": ("losses/l_softmax.py",),
    "a_softmax.md": ("losses/a_softmax.py",),
    "f_norm_sphereface.md": ("losses/f_norm_sphereface.py",),
    "l2_softmax.md": ("losses/l2_softmax.py",),
    "am_softmax.md": ("losses/am_softmax.py",),
    "arcface.md": ("losses/arcface.py",),
    "cross_entropy.md": ("steps/cross_entropy.py", "losses/cross_entropy.py"),
    "normalisation.md": ("steps/normalise.py",),
    "angle.md": ("steps/angle.py",),
    "psi.md": ("steps/psi.py",),
    "margins.md": ("steps/margin.py", "losses/margin_softmax.py"),
}
LOSS_PAGES = [f"{name}.md" for name in refloss.losses()]
PREFIXES = {
    "cross_entropy.md": "C",
    "normalisation.md": "N",
    "angle.md": "A",
    "psi.md": "P",
    "margins.md": "MG",
    "precision.md": "E",
}
NUMBERED = [*CODE_OF, "precision.md"]  # the steps of precision.md are the page's own
HEADINGS = [
    "Formula and source",
    "Symbols and shapes",
    "Forward",
    "Backward",
    "Singular points",
    "Released code",
    "In the code",
]

_STEP = r"\(([A-Z]?)(\d+)\)"
_RANGE = re.compile(rf"{_STEP}[–-]{_STEP}")
_EQUATION = re.compile(r"eqs?\. \(\d+\)([–-]\(\d+\))?")  # a paper's equation, not a step


def expand(text: str) -> list[str]:
    """The steps named in a text, "(1), (3)–(5)" as 1, 3, 4, 5; equations of papers are no steps."""
    text = _EQUATION.sub("", text)
    steps = []
    for match in _RANGE.finditer(text):
        letter, first, _, last = match.groups()
        steps += [f"{letter}{k}" for k in range(int(first), int(last) + 1)]
    steps += ["".join(match) for match in re.findall(_STEP, _RANGE.sub("", text))]
    return steps


def bold_steps(page: str) -> list[str]:
    """The bold step numbers of a page, in the order in which they stand there."""
    text = (DERIVATIONS / page).read_text(encoding="utf-8")
    return ["".join(match) for match in re.findall(rf"\*\*{_STEP}\*\*", text)]


def promised(source: str) -> set[str]:
    """What the docstring of a code file says that it holds: "steps (1)–(5)"."""
    return set(expand(ast.get_docstring(ast.parse(source)).split("Derivation:")[1]))


def placed(source: str) -> set[str]:
    """The steps that stand, one by one, in comments and in docstrings of functions and classes."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            # code in an example is no step: f(2)
            texts.append((ast.get_docstring(node) or "").split(">>>")[0])
    # a range places nothing: it would hide a step whose own comment is gone
    return {step for text in texts for step in expand(_RANGE.sub("", text))}


def sources(page: str) -> list[str]:
    return [(ROOT / "refloss" / path).read_text(encoding="utf-8") for path in CODE_OF[page]]


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


def test_linear_promises_steps_of_softmax():
    source = (ROOT / "refloss/steps/linear.py").read_text(encoding="utf-8")
    assert promised(source) == set(bold_steps("softmax.md")) - {"2"}


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
    readme = (DERIVATIONS / "README.md").read_text(encoding="utf-8")
    for page in NUMBERED:
        steps = re.search(rf"^\| \[{page}\].*\| ([^|]*) \|$", readme, re.MULTILINE).group(1)
        spelled = re.sub(r"([A-Z]?\d+)", r"(\1)", steps)
        assert sorted(expand(spelled)) == sorted(bold_steps(page)), page


@pytest.mark.parametrize("page", [*NUMBERED, "singular_points.md"])
def test_every_step_that_a_page_refers_to_exists(page):
    """Step (N4) on a loss's page is a step of normalisation.md, (7) one of its own."""
    text = (DERIVATIONS / page).read_text(encoding="utf-8")
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", text, flags=re.DOTALL)
    shared = {step for other in PREFIXES for step in bold_steps(other)}
    assert set(expand(text)) <= shared | set(bold_steps(page))


@pytest.mark.parametrize("page", LOSS_PAGES)
def test_loss_pages_have_the_same_headings(page):
    text = (DERIVATIONS / page).read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS


# -- links and maths -------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that a code forge gives to headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_something(page):
    path = DERIVATIONS / page
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert file.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), link


def maths(text: str) -> list[str]:
    """Every piece of maths of a page, displayed or inline, code left out."""
    text = re.sub(r"`[^`\n]*`", "", text)
    pieces = re.split(r"\$\$", text)
    assert len(pieces) % 2 == 1, "an odd number of $$"
    inline = []
    for prose in pieces[::2]:
        for paragraph in re.split(r"\n\s*\n", prose):
            parts = paragraph.split("$")
            assert len(parts) % 2 == 1, f"an odd number of $ in: {paragraph[:80]}"
            inline += parts[1::2]
    return pieces[1::2] + inline


@pytest.mark.parametrize("page", PAGES)
def test_maths_is_balanced(page):
    """$$, $, braces, \\left … \\right: each opened is closed, in its own piece of maths."""
    text = (DERIVATIONS / page).read_text(encoding="utf-8")
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


@pytest.mark.parametrize("page", PAGES)
def test_maths_survives_a_code_forge(page):
    """What Markdown takes for itself inside maths: emphasis, escapes, HTML, table cells, macros."""
    text = (DERIVATIONS / page).read_text(encoding="utf-8")
    for piece in maths(text):
        assert not re.search(r"(?<![A-Za-z0-9])_", piece), f"_ may open emphasis: {piece}"
        assert not re.search(r"\\[^A-Za-z]", piece), f"Markdown eats the backslash: {piece}"
        assert not re.search(r"[*<>|]", piece), piece
        assert not re.search(r"\\(bm|newcommand|def|tag|label)\b", piece), piece
    prose = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    for line in re.sub(r"`[^`\n]*`", "c", prose).splitlines():
        for k, match in enumerate(re.finditer(r"\$", line)):
            before, after = line[: match.start()][-1:], line[match.end() :][:1]
            if k % 2 == 0:
                assert before in ("", " ", "("), line
                assert after not in ("", " "), line
            else:
                assert before != " ", line
                assert after in ("", " ", ".", ",", ";", ":", ")"), line
    assert not re.search(r"<[A-Za-z/!]", prose), "raw HTML"


# -- displayed numbers -----------------------------------------------------------------------------


def degrees_factor(degrees: float) -> float:
    theta = math.radians(degrees)
    return math.sin(theta + 0.5) / math.sin(theta)


def largest_decreasing_tail() -> float:
    """The m in (2, 3) where cos m + m sin m comes back to 1, by bisection."""
    low, high = 2.0, 3.0
    for _ in range(60):
        m = (low + high) / 2
        low, high = (m, high) if math.cos(m) + m * math.sin(m) > 1 else (low, m)
    return low


def others(gap: float) -> float:
    return math.exp(-gap) / (1 + math.exp(-gap))


def subtracted(gap: float) -> float:
    return 1 - 1 / (1 + math.exp(-gap))


def subtracted_of_10_000(degrees: float) -> tuple[float, float]:
    """1 − p_y of ArcFace with 9999 other classes at right angles: true, and subtracted in float64."""
    e = math.exp(-64 * math.cos(math.radians(degrees) + 0.5))
    # the sum of all exponentials rounded only once
    return 9999 * e / (1 + 9999 * e), 1 - 1 / math.fsum([1.0] + [e] * 9999)


def percent_off(degrees: float) -> float:
    true, computed = subtracted_of_10_000(degrees)
    return 100 * abs(computed / true - 1)


def arccos_off(theta: float) -> float:
    return abs(math.acos(math.cos(theta)) / theta - 1)


# 60° in space exactly, and beside it: cos θ = (2^50 + 1) / √(2 (2^101 + 1))
AT_KNOT = ((1, 1, 0), (1, 0, 1))
BESIDE_KNOT = ((1, 1, 0), (2**50, 1, 2**50))


def textbook_slope(pair: tuple, m: int = 3) -> float:
    x, w = (np.array(row, dtype=float) for row in pair)
    return -m * abs(math.sin(m * math.acos(x @ w / math.sqrt((x @ x) * (w @ w)))))


def squared_slope(pair: tuple, m: int = 3) -> Fraction:
    """ψ'² = m² u_{m−1}² (B − P²) / B^m of rows of integers: psi.md, (P1) and (P5)."""
    P, B, (u, _) = polynomials(*pair, m)
    return Fraction(m**2 * u**2 * (B - P**2), B**m)


def polynomials(x: tuple, w: tuple, m: int) -> tuple[int, int, tuple[int, int]]:
    """P, B, and B^{(m−1)/2} U_{m−1} and B^{m/2} T_m at cos θ = P/√B, Chebyshev's polynomials."""
    P = sum(i * j for i, j in zip(x, w, strict=True))
    B = sum(i * i for i in x) * sum(j * j for j in w)
    u_before, u, t_before, t = 0, 1, 1, P
    for _ in range(m - 1):
        u_before, u = u, 2 * P * u - B * u_before
        t_before, t = t, 2 * P * t - B * t_before
    return P, B, (u, t)


# (page, the number as displayed, format, its value)
NUMBERS = [
    *[
        ("precision.md", shown, form, value)
        for shown, form, value in (
            ("3.4547e-11", ".4e", subtracted_of_10_000(30)[0]),
            ("3.4547e-11", ".4e", subtracted_of_10_000(30)[1]),
            ("4.3284e-15", ".4e", subtracted_of_10_000(20)[0]),
            ("4.2188e-15", ".4e", subtracted_of_10_000(20)[1]),
            ("1.9598e-18", ".4e", subtracted_of_10_000(10)[0]),
            ("| 0 | 100 % |", "", "| 0 | 100 % |" if subtracted_of_10_000(10)[1] == 0 else "not 0"),
            ("0.0001 %", ".4f", percent_off(30)),
            ("2.5 %", ".1f", percent_off(20)),
            ("1.4e-13", ".1e", arccos_off(1e-2)),
            ("2.6e-09", ".1e", arccos_off(1e-4)),
            ("4.4e-05", ".1e", arccos_off(1e-6)),
            ("| 1e-8 | 100 % |", "", "| 1e-8 | 100 % |" if arccos_off(1e-8) == 1 else "less"),
        )
    ],
    *[
        (page, shown, form, value)
        for page in ("precision.md", "psi.md")
        for shown, form, value in (
            ("−9.6e-16", ".1e", textbook_slope(AT_KNOT)),
            ("−5.6965e-15", ".4e", textbook_slope(BESIDE_KNOT)),
            ("−4.6151e-15", ".4e", -math.sqrt(squared_slope(BESIDE_KNOT))),
        )
    ],
    (
        "psi.md",
        "23 %",
        ".0f",
        100 * (textbook_slope(BESIDE_KNOT) / -math.sqrt(squared_slope(BESIDE_KNOT)) - 1),
    ),
    *[
        ("arcface.md", shown, ".4f", degrees_factor(degrees))
        for degrees, shown in (
            (10, "3.5965"),
            (30, "1.7080"),
            (60, "1.1544"),
            (90, "0.8776"),
            (120, "0.6008"),
            (150, "0.0472"),
            (170, "−1.8414"),
        )
    ],
    ("arcface.md", "151.35°", ".2f", 180 - math.degrees(0.5)),
    ("arcface.md", "30.6832", ".4f", 64 * math.sin(0.5)),
    ("arcface.md", "0.49916", ".5f", math.radians(28.6)),
    ("singular_points.md", "30.6832", ".4f", 64 * math.sin(0.5)),
    ("margins.md", "−1.1173", ".4f", -math.cos(0.5) - 0.5 * math.sin(0.5)),
    ("margins.md", "0.4794", ".4f", math.sin(0.5)),
    ("margins.md", "2.331", ".3f", largest_decreasing_tail()),
    ("softmax.md", "87.3365", ".4f", -math.log(np.finfo(np.float32).tiny)),
    ("softmax.md", "69.0776", ".4f", -math.log(1e-30)),
    ("l2_softmax.md", "4.2767", ".4f", math.log(0.9 * 8 / 0.1)),
    ("angle.md", "1.4901e-08", ".4e", math.acos(1 - 2**-53)),
    ("normalisation.md", "1.34e154", ".2e", math.sqrt(np.finfo(float).max)),
    ("normalisation.md", "1.57e-162", ".2e", 2.0**-537.5),
    ("cross_entropy.md", "6.3051e-16", ".4e", others(35)),
    ("cross_entropy.md", "8.5330e-17", ".4e", others(37)),
    ("cross_entropy.md", "4.2484e-18", ".4e", others(40)),
    ("cross_entropy.md", "6.6613e-16", ".4e", subtracted(35)),
    ("cross_entropy.md", "5.6 %", ".1f", 100 * (subtracted(35) / others(35) - 1)),
    ("README.md", "37.5 %", ".1f", 100 * 3 / 8),
    ("README.md", "1.27 %", ".2f", 100 * 0.5**2 / (2 * math.pi**2)),
]


@pytest.mark.parametrize(("page", "shown", "form", "value"), NUMBERS)
def test_displayed_numbers_are_true(page, shown, form, value):
    assert shown in (DERIVATIONS / page).read_text(encoding="utf-8")
    computed = format(value, form).replace("e+", "e")
    assert computed == (shown.replace("−", "-").rstrip(" %°") if form else shown)


def at(theta: float):
    """The record of the angle of one pair that lies theta apart."""
    return angle(np.array([[1.0, 0.0]]), np.array([[math.cos(theta), math.sin(theta)]]))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_at_its_knots(m):
    """psi.md: ψ(kπ/m) = 1 − 2k and ψ' = 0 there; for m = 4 the page lists 1, −1, −3, −5, −7."""
    for k in range(m + 1):
        target = multiplied_angle(at(k * math.pi / m), m)
        assert target.value[0] == pytest.approx(1 - 2 * k, rel=1e-15)
        assert abs(target.slope[0]) < 8 * m**2 * np.finfo(float).eps
    page = (DERIVATIONS / "psi.md").read_text(encoding="utf-8")
    assert "For $m = 4$ the knots are 1, −1, −3, −5, −7." in page


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("pole", [0.0, math.pi])
def test_psi_has_slope_m_squared_at_both_poles(m, pole):
    """psi.md: dψ/dcos θ → m²; the next term is of the order of the distance squared."""
    pair = at(abs(pole - 1e-4))
    slope = multiplied_angle(pair, m).slope[0] / -pair.sin[0]
    assert slope == pytest.approx(m**2, rel=m**2 * 1e-8)


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
    page = (DERIVATIONS / "singular_points.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page.split("## Tested as")[1]))
    tests = (ROOT / "tests" / "test_singular_points.py").read_text(encoding="utf-8")
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
    assert rate == pytest.approx(page, rel=10 * h)


def test_jumps_of_arcface_are_those_of_the_page():
    """margins.md: the tail starts at −cos m − m sin m; easy_margin jumps up by sin m."""
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
