r"""Every formula of the derivations and of docs/learn/ is checked by machine: the LaTeX on the page is evaluated.

Displayed formulas all; equations between single $ if they are long or hold a derivative or a sum; the tables of the
worked examples, and tables of formulas (tables.py). latex.py reads, evaluator.py evaluates at 60 digits with numeric
derivatives, worlds.py says what the symbols mean. What is special about a page is in the file of checks/ that is named
like it: its worlds, its checks, and the numbers that it shows (page.py has what these files are made of).

For a page's author. A formula is read as statements, separated by commas, semicolons, \qquad and \text{words}. Every
side of A = B = C is evaluated at random points and compared; \le, \lt, \iff are tried there, and \approx holds to the
digits shown. The notation:

- Indices: i samples; j, c, k classes; y the target's class; d, a, b dimensions. Without i, the sample is the same one
  throughout: x, \theta, \psi, t_x are those of sample i. \theta and \hat w alone are those of class y.
- Products of two vectors need \cdot or ^\top; after a / b nothing may follow without brackets.
- (j \ne y) in brackets after \quad limits the statements before it, back to the last \qquad.
- A \ni B: all terms that a page claims for A must add up to A. i \ne j below a \sum: all pairs; j \ne i: all j but i.

A formula that needs other worlds than its page's gets them from a function under @page.reads(piece of LaTeX) in the
page's file, such as checks/l_softmax.py. One that cannot be read gets a check there, a function under
@page.claims(latex), where … stands for what the check itself reads. An equation in the text that is a definition or a
condition gets a line page.no_claim(latex, why). A displayed number gets its value in page.numbers({"30.68": value}),
a row of numbers the function that they are values of in page.numbers_of(function, arguments, "30.68 15.68 5.68").
Run a page with `pytest -n 0 tests/pages/test_formulas.py -k l_softmax`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pages.checks import PAGES
from pages.evaluator import Evaluator, add, close, links, mp
from pages.latex import Derivative, Equivalent, Statement, Symbol, Unreadable, statements, tokens_of
from pages.page import squeezed
from pages.slips import mutants_of
from pages.steps import LEARN
from pages.steps import PAGES as DERIVATION_PAGES
from pages.worlds import World

DERIVATIONS = Path(__file__).resolve().parents[2] / "derivations"


class Wrong(AssertionError):
    """A statement that does not hold, or that holds nowhere because nothing was tried."""


class Block(NamedTuple):
    """A formula and where it stands."""

    page: str
    line: int
    step: str
    latex: str

    @property
    def name(self) -> str:
        place = re.sub(r"[^A-Za-z0-9]+", "_", self.step.replace("ψ", "psi")).strip("_")
        return f"{self.page.removesuffix('.md')}-{place}-line{self.line}"


DISPLAYED = re.compile(r"^\$\$\n(.*?)^\$\$$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!\$)\$([^$\n]+)\$")


def text_of(page: str) -> str:
    return (DERIVATIONS / page).read_text(encoding="utf-8")


def blanked(match: re.Match[str]) -> str:
    """Nothing but the same lines."""
    return "\n" * match[0].count("\n")


def blocks_of(pattern: re.Pattern[str]) -> Iterator[Block]:
    """Of all pages, less their code; in the text, less the displayed formulas."""
    for page in [*DERIVATION_PAGES, *LEARN]:
        text = re.sub(r"^```.*?^```", blanked, text_of(page), flags=re.MULTILINE | re.DOTALL)
        if pattern is INLINE:
            text = DISPLAYED.sub(blanked, text)
        for match in pattern.finditer(text):
            before = text[: match.start()]
            marks = re.findall(r"^#+ (.*)|\*\*\(([A-Z]?\d+)\)\*\*", before, re.MULTILINE)
            heading, step = marks[-1] if marks else ("", "")
            line = before.count("\n") + 1 + match[0].startswith("$$")
            yield Block(page, line, step or heading, match[1].strip())


def is_equation(block: Block) -> bool:
    """In the text: one of some length, or with a derivative or a sum; not a setting like m = 4, nor of the example."""
    long = len(tokens_of(block.latex)) >= 16 or re.search(r"\\nabla|\\partial|\\sum", block.latex)
    return "=" in block.latex and bool(long) and block.step != "Worked example"


BLOCKS = list(blocks_of(DISPLAYED))
IN_TEXT = list(filter(is_equation, blocks_of(INLINE)))


# -- evaluation ------------------------------------------------------------------------------------


def is_term(statement: Statement) -> bool:
    return "contains" in getattr(statement.relation, "relations", ())


def stands_alone(statement: Statement) -> bool:
    return not isinstance(statement.relation, Equivalent) and not statement.relation.relations


@functools.cache
def terms_of(page: str) -> list[tuple[Block, Statement]]:
    """What the page says A ∋ B of."""
    found = []
    for block in BLOCKS:
        if block.page == page and r"\ni" in block.latex:
            found += [(block, statement) for statement in statements(block.latex) if is_term(statement)]
    return found


def terms_in_table(page: str, world: World) -> list[Statement]:
    terms = PAGES[page].terms_in_table
    if not terms:
        return []
    assert all(f"${term}$" in text_of(page) for row in terms for _, term in row)
    row = terms[PAGES[page].worlds().index(world)]
    return [statements(rf"\frac{{\partial L}}{{\partial {by}}} \ni {term}")[0] for by, term in row]


def check_terms(world: World, block: Block, statement: Statement, siblings: list[Statement]) -> int:
    """All terms of the page for the same gradient, those of this block as they stand here, against the gradient."""
    if statement.relation.relations != ("contains",) or statement.conditions:
        raise Unreadable("\\ni in a longer chain")
    goal = statement.relation.sides[0]
    if not (isinstance(goal, Derivative) and isinstance(goal.by[0], Symbol)):
        raise Unreadable("\\ni of something that is no gradient")
    name = goal.by[0].name
    everything = [*siblings, *terms_in_table(block.page, world)]
    everything += [other for source, other in terms_of(block.page) if source != block]
    parts = {}  # the same term said twice is one term
    for other in everything:
        left, right = other.relation.sides
        if isinstance(left, Derivative) and left.of == goal.of and left.by[0].name == name:
            parts[left, right] = None
    axis = {"x": "i", "W": "j"}.get(name)
    if axis is None:
        raise Unreadable(f"\\ni for {name}")
    evaluator = Evaluator(world)
    truth = Derivative(goal.of, (Symbol(name, (Symbol(axis),)),))
    for index in world.ranges[axis]:
        total = None
        for left, right in parts:
            (sub,) = left.by[0].subs
            if sub == Symbol(axis):
                places = [{axis: index}]
            elif sub == Symbol("y") and axis == "j":
                # the samples of one class add up in the row of that class
                places = [{"i": i} for i, label in enumerate(world.labels) if label == index]
            else:
                raise Unreadable("an index of \\ni that is neither free nor y")
            for place in places:
                value = evaluator.value(right, place)
                total = value if total is None else add(total, value)
        due = evaluator.value(truth, {axis: index})
        if not close(total, due):
            raise Wrong(
                f"the page's terms for {name}_{index + 1} add up to {shown(total)}, the gradient is {shown(due)}"
            )
    return len(world.ranges[axis])


def shown(value: Any) -> str:
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0):
        return "(" + ", ".join(shown(entry) for entry in value) + ")"
    return mp.nstr(value, 10) if hasattr(value, "_mpf_") else str(value)


def check_block(block: Block) -> int:
    """Raises Wrong or Unreadable; otherwise the number of instances that hold."""
    return check_in(PAGES[block.page].worlds_of(block.latex), block, block.latex)


def check_in(known: list[World], block: Block, latex: str, place: Mapping[str, int] = {}) -> int:
    """The block's LaTeX or a mutant of it; at some indices only if they are given."""
    try:
        return check_statements(known, block, statements(latex), place)
    except (IndexError, KeyError, TypeError) as error:
        # shapes and indices that do not fit together somewhere down in the arithmetic
        raise Unreadable(f"{type(error).__name__}: {error}") from error


def is_refused(known: list[World], block: Block, mutant: str, place: Mapping[str, int] = {}) -> bool:
    try:
        check_in(known, block, mutant, place)
    except (Wrong, Unreadable, ArithmeticError):
        return True
    return False


def check_statements(known: list[World], block: Block, parsed: list[Statement], fixed: Mapping[str, int]) -> int:
    tried = [0] * len(parsed)
    if not known:
        raise Unreadable("this page has no world")
    truths: list[set[bool]] = [set() for _ in parsed]
    for world in known:
        evaluator = Evaluator(world)
        meanings = iter(world.meanings)
        for n, statement in enumerate(parsed):
            if is_term(statement):
                tried[n] += check_terms(world, block, statement, [one for one in parsed if is_term(one)])
                continue
            meaning = None
            if stands_alone(statement):
                meaning = next(meanings, None)
                if meaning is None:
                    raise Unreadable("an expression that claims nothing: write it as an equation")
            for place in evaluator.places(statement):
                if any(place.get(letter, at) != at for letter, at in fixed.items()):
                    continue
                tried[n] += 1
                if meaning is not None:
                    value = evaluator.value(statement.relation.sides[0], place)
                    if not close(value, meaning):
                        raise Wrong(f"statement {n + 1} is {shown(value)}, and should be {shown(meaning)}")
                elif isinstance(statement.relation, Equivalent):
                    if not evaluator.holds(statement.relation, place):
                        raise Wrong(f"statement {n + 1}: one side of \\iff is true and one is false")
                    truths[n].add(evaluator.holds(statement.relation.relations[0], place))
                else:
                    for left, name, right in links(statement.relation):
                        if not evaluator.compare(left, name, right, place):
                            sides = sides_of(evaluator, left, name, right, place)
                            raise Wrong(f"statement {n + 1} fails at {place}: {sides}")
    for n, statement in enumerate(parsed):
        if isinstance(statement.relation, Equivalent) and len(truths[n]) == 1:
            raise Wrong(f"statement {n + 1} was tried on one side of \\iff only")
    if 0 in tried:
        raise Wrong(f"statement {tried.index(0) + 1} was never tried: its condition holds nowhere")
    return sum(tried)


def sides_of(evaluator: Evaluator, left: Any, name: str, right: Any, place: dict[str, int]) -> str:
    try:
        return f"{shown(evaluator.value(left, place))} {name} {shown(evaluator.value(right, place))}"
    except (Unreadable, ArithmeticError):
        return f"not {name}"


ADVICE = """
{block.page}, line {block.line}: this formula has no check.
{reason}
Either write it in the notation at the top of tests/pages/test_formulas.py, or give it worlds of its own under
@page.reads(r"…"), or a check under @page.claims(r"…"), both in the page's file in tests/pages/checks.
An equation in the text that is a condition or a definition gets a line page.no_claim(latex, why) there.
{block.latex}
"""


def is_claimed(block: Block) -> bool:
    return PAGES[block.page].check_of(block.latex) is not None


def says_nothing(block: Block) -> bool:
    return squeezed(block.latex) in PAGES[block.page].claimless


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_formula(block):
    """Evaluated, or checked by the function that claims it."""
    check = PAGES[block.page].check_of(block.latex)
    if check is not None:
        check(block.latex)
        return
    try:
        check_block(block)
    except Unreadable as unreadable:
        pytest.fail(ADVICE.format(block=block, reason=unreadable), pytrace=False)


@pytest.mark.parametrize("block", [block for block in IN_TEXT if not says_nothing(block)], ids=lambda block: block.name)
def test_equation_in_the_text(block):
    """The longer ones between single $, too, unless `no_claim` says why one does not claim to hold."""
    test_formula(block)


def test_no_check_without_its_formula():
    """What a page's file claims, once, or gives worlds to stands on the page."""
    for name, page in PAGES.items():
        there = [squeezed(block.latex) for block in BLOCKS + IN_TEXT if block.page == name]
        claimed = [check for check in map(page.check_of, there) if check is not None]
        assert len(claimed) == len(page.checks)
        assert set(claimed) == set(page.checks.values())
        assert set(page.claimless) <= set(there)
        for piece in page.other_worlds:
            assert any(piece in latex for latex in there), (name, piece)


def test_most_formulas_are_read_from_the_page():
    """The checks by hand are the exceptions: less than one in five, most of them of precision.md."""
    by_hand = [block for block in BLOCKS if is_claimed(block)]
    assert len(by_hand) < len(BLOCKS) / 5
    assert sum(block.page != "precision.md" for block in by_hand) < len(BLOCKS) / 10


@pytest.mark.parametrize("page", ["l_softmax.md", "a_softmax.md", "f_norm_sphereface.md", "psi.md"])
def test_every_branch_is_met(page):
    """The random angles of a page's worlds lie on all branches of ψ."""
    met = {(int(world["m"]), int(k)) for world in PAGES[page].worlds() for k in world["k"]}
    assert met == {(m, k) for m in (2, 3, 4) for k in range(m)}


# -- does the check notice? ------------------------------------------------------------------------

# slips that change nothing: a pattern in the mutant, and why it says the same
EQUIVALENT = [
    (r"\{i : y_i = j\}.*_\{?[id]?y", "where y_i = j, the indices j and y are one"),
    (r"\\sum_j p_\{ij\} \\left\( W_\{?j", "the term of j = y is 0: it has the factor W_j − W_y"),
    (r"\\to m\^2", "in the limit x̂ and ŵ are one"),
    (r"\\lVert x_i \\rVert\^\d = C", "x_i has length 1"),
    (r"\\lVert v \+ \\eta h", "h is across v: both sides are alike"),
    (r"\\sin\((m\\pi \+|\\pi -) m\\varphi\)", "sin(mπ ± mφ) and sin(π − mφ) have one size"),
    (r"^v\^\\top \(I", "v and v̂ are parallel"),
    (r"\(-1\)\^\{k[+-]\d\} \(-1\)\^k", "only even or odd matters"),
]


def only_weakens(latex: str, mutant: str) -> bool:
    """All that changed are inequalities and ranges: what is left claims less, and may be true."""
    then, now = statements(latex), statements(mutant)
    changed = [after for before, after in zip(then, now, strict=False) if before != after]
    bounds = {"<=", ">=", "<", ">", "in"}
    return len(then) == len(now) and all(bounds & set(one.relation.relations) for one in changed)


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS}))
def test_slips_are_noticed(page):
    """One slip at a time in every formula that is evaluated: each is refused, or it claims no more than before."""
    slips = noticed = 0
    unnoticed = []
    for block in BLOCKS + IN_TEXT:
        if block.page != page or is_claimed(block) or says_nothing(block):
            continue
        for kind, mutant in mutants_of(block.latex):
            slips += 1
            if is_refused(PAGES[page].worlds_of(block.latex), block, mutant):
                noticed += 1
                continue
            same = any(re.search(pattern, mutant) for pattern, _ in EQUIVALENT)
            if not same and not only_weakens(block.latex, mutant):
                unnoticed.append(f"{block.name}, {kind}: {mutant}")
    assert not unnoticed, "Are the worlds too special, or do these say the same (EQUIVALENT)?"
    # the least is on bounds.md and precision.md, pages of inequalities, where many slips only claim less
    assert noticed >= 0.85 * slips


# -- tables and worked examples ----------------------------------------------------------------------

ANOTHER_REDUCTION = "n = w_1 = 2"  # not the example's


def test_every_worked_example_is_followed():
    pages = {path.name for path in DERIVATIONS.glob("*.md") if "\n## Worked example\n" in text_of(path.name)}
    followed = {name for name, page in PAGES.items() if page.example}
    assert pages - {"margins.md"} == followed  # its steps are tables of formulas


@pytest.mark.parametrize(
    ("page", "table"),
    [(page, table) for page in PAGES for table in PAGES[page].tables],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_table_of_formulas(page, table):
    """Each cell, as the equation that it stands for; nearly every slip in a cell is noticed."""
    found = [claim for claim in table(text_of(page)) if claim.latex != ANOTHER_REDUCTION]
    assert len(found) >= (4 if table.__name__ == "worked_example" else 3)
    slips = noticed = 0
    for claim in found:
        block = Block(page, 0, claim.row, claim.latex)
        try:
            check_in(claim.worlds, block, claim.latex, dict(claim.place))
        except Unreadable as unreadable:
            pytest.fail(f"{page}, {claim.row}: {unreadable} {claim.latex}")
        for _, mutant in mutants_of(claim.latex):
            slips += 1
            refused = is_refused(claim.worlds, block, mutant, dict(claim.place))
            noticed += refused or only_weakens(claim.latex, mutant)
    # the rest: terms with a factor of 0, and conditions that may be wider
    assert noticed >= 0.95 * slips
