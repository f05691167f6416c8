"""The worked examples of the derivations: the world that their inputs make, and what their tables say of it.

A section "Worked example" gives its inputs in the paragraphs before its first table: $x = (3, 4)$, $W_1 = (1, 0)$,
$m = 2$, "label 2" and so on. Every equation in a cell of the tables is a statement about the world of these inputs.
Where a cell of the last column shows as many values as the cell before it has formulas, they are compared, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pages import formula_worlds as worlds
from pages.formula_evaluator import TOLERANCE, Evaluator, close, largest, mp, resolution
from pages.formula_worlds import World, plain_world
from pages.latex_maths import Unreadable, statements


class Example(NamedTuple):
    """Inputs by symbol, in the order given, labels from 0, and the cells of the tables with their sample and line."""

    inputs: dict[str, Any]
    labels: list[int]
    cells: list[Cell]


class Cell(NamedTuple):
    """The formulas of a cell; those among them that have the values that the last cell of the row shows; the sample."""

    line: int
    formulas: list[str]
    valued: list[str]
    values: list[str]
    sample: int


def inline(text: str) -> list[str]:
    return re.findall(r"(?<!\$)\$([^$]+)\$", text)


def items(text: str) -> list[str]:
    """What a cell of values lists, separated by commas or semicolons outside brackets."""
    found, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character in ",;" and depth == 0:
            found.append("")
        else:
            found[-1] += character
    return [item.strip() for item in found if item.strip()]


def value_of(latex: str) -> Any:
    """The value of an expression without symbols."""
    (statement,) = statements(latex)
    return Evaluator(plain_world({})).value(statement.relation.sides[-1], {})


def example_of(text: str) -> Example | None:
    """The worked example of a page."""
    match = re.search(r"^## Worked example\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if match is None:
        return None
    section = re.sub(
        r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), match[1], flags=re.MULTILINE | re.DOTALL
    )
    start = text[: match.start(1)].count("\n") + 1
    lines = section.split("\n")
    rows = [n for n, line in enumerate(lines) if line.startswith("|")]
    prose = " ".join(lines[: rows[0]]) if rows else ""
    inputs: dict[str, Any] = {}
    for latex in inline(prose):
        match_input = re.fullmatch(r"(\\?[A-Za-z]+(?:_\d)?) = (.*)", latex)
        if match_input:
            try:
                inputs[match_input[1]] = value_of(match_input[2])
            except Unreadable:
                continue
    labels = [int(number) - 1 for number in re.findall(r"\blabel (\d)", prose)]
    cells = []
    samples: list[int] = []
    with_values = False
    for n in rows:
        columns = [column.strip() for column in re.split(r"(?<!\\)\|", lines[n])[1:-1]]
        if n - 1 not in rows:
            with_values = columns[-1] == "value"
            samples = [int(column[-1]) - 1 if column.startswith("sample") else 0 for column in columns]
            continue
        for column, sample in zip(columns, samples, strict=True):
            formulas = inline(column)
            if formulas:
                # "$g_1 x$ for $W_1$" and "$W_1$: $g_1 x$" have one formula; other words change what is meant
                sides = re.sub(r"for \$[^$]+\$|\$[^$]+\$:", "", column)
                plain = not re.sub(r"\$[^$]+\$", "", sides).strip(" ,;")
                shown = items(columns[-1]) if with_values and plain and column is columns[-2] else []
                cells.append(Cell(start + n, formulas, inline(sides), shown, sample))
    return Example(inputs, labels, cells)


def rows_of(inputs: dict[str, Any], name: str) -> Any:
    """x or x_1, x_2 …"""
    found = [value for key, value in inputs.items() if re.fullmatch(rf"{name}(_\d)?", key)]
    return np.array(found, dtype=object)


def settings(inputs: dict[str, Any]) -> dict[str, Any]:
    keys = {"s": "s", r"\alpha": "alpha", r"\lambda": "lambda", r"\varepsilon": "eps", "w": "class_weights"}
    found = {key: inputs[name] for name, key in keys.items() if name in inputs}
    for name in ("x", "W"):
        rows = rows_of(inputs, name)
        if len(rows):
            found[name] = rows
    return found


def margin_example(radius: str, psi: str) -> Callable[[Example], World]:
    return lambda example: worlds.margin_world(
        0, radius, psi, example.inputs["m"], labels=example.labels, **settings(example.inputs)
    )


def linear_example(features: str, weights: str) -> Callable[[Example], World]:
    def make(example: Example) -> World:
        given = settings(example.inputs)
        world = worlds.linear_world(0, features, weights, False, labels=example.labels, **given)
        world.numbered_samples = len(example.labels) > 1
        return world

    return make


def angle_example(example: Example) -> World:
    x, w = (rows_of(example.inputs, name) for name in "xw")
    return worlds.angle_world(0, x=x, W=w, labels=[0])


def cross_entropy_example(example: Example) -> World:
    """z as the product of itself and the identity."""
    z = rows_of(example.inputs, "z")
    given = settings({name: value for name, value in example.inputs.items() if name != "z"})
    return worlds.cross_entropy_world(
        0, x=z, W=np.diag([mp.one] * len(z[0])), b=0 * z[0], labels=example.labels, upstream=mp.one, **given
    )


def normalisation_example(example: Example) -> World:
    v = rows_of(example.inputs, "v")
    world = worlds.normalisation_world(0, x=v, W=v, labels=[0]).replaced({"h": rows_of(example.inputs, "h")})
    world.symbols = {**world.symbols, "h": [worlds.quantity("h", "id")]}
    return world


def psi_example(example: Example) -> World:
    """By the cosine and the sine that the text gives."""
    x = np.array([[mp.one, mp.zero]], dtype=object)
    w = np.array([[mp.mpf(3) / 5, mp.mpf(4) / 5]], dtype=object)
    return worlds.psi_world(0, int(example.inputs["m"]), x=x, W=w, labels=[0])


EXAMPLES: dict[str, Callable[[Example], World]] = {
    "softmax.md": linear_example("x", "W"),
    "weighted_softmax.md": linear_example("x", "W"),
    "w_norm_softmax.md": linear_example("x", "W_hat"),
    "l2_softmax.md": linear_example("feature", "W"),
    "l_softmax.md": margin_example("both", "papers"),
    "a_softmax.md": margin_example("x_norm", "papers"),
    "f_norm_sphereface.md": margin_example("s", "papers"),
    "am_softmax.md": margin_example("s", "cosine"),
    "arcface.md": margin_example("s", "angle"),
    "angle.md": angle_example,
    "cross_entropy.md": cross_entropy_example,
    "normalisation.md": normalisation_example,
    "psi.md": psi_example,
}


def said_of(world: World, cell: Cell) -> Iterator[tuple[str, bool]]:
    """Each equation of the cell with its truth, then each value that is shown for a formula of it."""
    evaluator, place = Evaluator(world), {"i": cell.sample}
    for latex in cell.formulas:
        if re.search(r"=|\\[lg][te]\b|\\approx", latex):
            for statement in statements(latex):
                places = [at for at in evaluator.places(statement) if at["i"] == cell.sample]
                yield latex, all(evaluator.holds(statement.relation, at) for at in places)
    if len(cell.values) == len(cell.valued):
        for latex, shown in zip(cell.valued, cell.values, strict=True):
            yield f"{latex} is {shown}", agrees(evaluator, latex, shown, place)


def agrees(evaluator: Evaluator, latex: str, shown: str, place: dict[str, int]) -> bool:
    """To the digits shown, if these are decimals; fractions and whole numbers are exact."""
    side = statements(latex)[-1].relation.sides[-1]
    (there,) = statements(re.sub(r"^\$|\$$|.*= ", "", shown.replace("−", "-").replace("log", r"\log")))
    due = evaluator.value(there.relation.sides[-1], place)
    free = evaluator.letters(side) - set(place)
    if free:  # a_c shown as a vector
        (letter,) = free
        found = [evaluator.value(side, {**place, letter: n}) for n in evaluator.world.ranges[letter]]
        value = np.array(found, dtype=object)
    else:
        value = evaluator.value(side, place)
    step = resolution(there.relation.sides[-1])
    if step is None:
        return close(value, due)
    step = np.where(np.equal(step, mp.mpf("0.5")), TOLERANCE, step)
    return np.shape(value) == np.shape(due) and bool(largest((value - due) / step) <= 1)
