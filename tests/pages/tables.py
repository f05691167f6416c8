"""Numbers and formulas in the text and the tables of a page: how they are read, and whether a value is what is shown.

A section "Worked example" gives its inputs in the paragraphs before its first table: $x = (3, 4)$, $W_1 = (1, 0)$,
$m = 2$, "label 2" and so on. Every equation in a cell of the tables is a statement about the world of these inputs.
Where a cell of the last column shows as many values as the cell before it has formulas, they are compared, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pages.evaluator import Evaluator, array
from pages.latex import Unreadable, statements
from pages.worlds import World, linear_world, margin_world, plain_world


def agrees(shown: str, value: float) -> bool:
    """Whether a value, rounded to as many digits as a number shows, is that number: '−4.6151e-15', '1.27', '30.68'."""
    digits, _, exponent = shown.replace("−", "-").rstrip(" %°").partition("e")
    decimals = len(digits.partition(".")[2])
    if not exponent:
        return f"{value:.{decimals}f}" == digits
    mantissa, _, power = f"{value:.{decimals}e}".partition("e")
    return (mantissa, int(power)) == (digits, int(exponent))


def inline(text: str) -> list[str]:
    return re.findall(r"(?<!\$)\$([^$]+)\$", text)


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# -- tables of formulas ----------------------------------------------------------------------------


class Claim(NamedTuple):
    """An equation that a row of a table stands for, and where it holds; of some indices if they are given."""

    row: str
    latex: str
    worlds: list[World]
    place: tuple[tuple[str, int], ...] = ()


def rows_of_table(text: str, header: str) -> list[list[str]]:
    """The cells under the header line that starts so."""
    lines = text.split("\n")
    (start,) = (n for n, line in enumerate(lines) if line.startswith(header))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells_of(line))
    return rows


def formula(cell: str) -> str | None:
    """The cell's formula, or its number."""
    found = inline(cell)
    if found:
        return found[0]
    return cell if re.fullmatch(r"-?\d+", cell) else None


# -- worked examples -------------------------------------------------------------------------------


class Cell(NamedTuple):
    """Its text, what the last cell of the row shows for the formulas in it, and the sample that it is about."""

    line: int
    text: str
    shown: list[str]
    sample: int


class Example(NamedTuple):
    """Inputs by symbol, in the order given, labels from 0, and the cells of the tables."""

    inputs: dict[str, Any]
    labels: list[int]
    cells: list[Cell]

    def rows(self, name: str) -> Any:
        """x or x_1, x_2 …"""
        return array(value for key, value in self.inputs.items() if re.fullmatch(rf"{name}(_\d)?", key))

    def settings(self) -> dict[str, Any]:
        """The inputs by the names of a world's quantities."""
        keys = {"s": "s", r"\alpha": "alpha", r"\lambda": "lambda", r"\varepsilon": "varepsilon", "w": "class_weights"}
        found = {key: self.inputs[name] for name, key in keys.items() if name in self.inputs}
        return found | {name: self.rows(name) for name in ("x", "W") if len(self.rows(name))}


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


def example_of(text: str) -> Example:
    """The worked example of a page."""
    match = re.search(r"^## Worked example\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None
    section = re.sub(r"^```.*?^```", lambda code: "\n" * code[0].count("\n"), match[1], flags=re.MULTILINE | re.DOTALL)
    start = text[: match.start(1)].count("\n") + 1
    lines = section.split("\n")
    rows = [n for n, line in enumerate(lines) if line.startswith("|")]
    prose = " ".join(lines[: rows[0]])
    inputs: dict[str, Any] = {}
    for name, value in re.findall(r"(?<!\$)\$(\\?[A-Za-z]+(?:_\d)?) = ([^$]*)\$", prose):
        try:
            (statement,) = statements(value)
            inputs[name] = Evaluator(plain_world({})).value(statement.relation.sides[-1], {})
        except Unreadable:
            continue
    labels = [int(number) - 1 for number in re.findall(r"\blabel (\d)", prose)]
    cells = []
    samples: list[int] = []
    with_values = False
    for n in rows:
        columns = cells_of(lines[n])
        if n - 1 not in rows:
            with_values = columns[-1] == "value"
            samples = [int(column[-1]) - 1 if column.startswith("sample") else 0 for column in columns]
            continue
        for column, sample in zip(columns, samples, strict=True):
            shown = items(columns[-1]) if with_values and column is columns[-2] else []
            cells.append(Cell(start + n, column, shown, sample))
    return Example(inputs, labels, cells)


def margin_example(radius: str, psi: str) -> Callable[[Example], World]:
    return lambda example: margin_world(
        0, radius, psi, example.inputs["m"], labels=example.labels, **example.settings()
    )


def linear_example(features: str, weights: str) -> Callable[[Example], World]:
    return lambda example: linear_world(
        0, features, weights, False, labels=example.labels, **example.settings()
    ).extended(numbered_samples=len(example.labels) > 1)


def equals(value: str) -> str:
    """= a fraction or a whole number, or ≈ a decimal number."""
    number = re.sub(r"^\$|\$$|.*= |:.*", "", value.replace("−", "-").replace("log", r"\log"))
    return rf"\approx {number}" if "." in number and "/" not in number else f"= {number}"


def claims_of_cell(world: World, cell: Cell) -> Iterator[Claim]:
    """Each equation of the cell, then each value that is shown for a formula of it."""
    row, place = f"line {cell.line}", (("i", cell.sample),)
    for latex in inline(cell.text):
        if re.search(r"=|\\[lg][te]\b|\\approx", latex):
            yield Claim(row, latex, [world], place)
    # "$g_1 x$ for $W_1$" and "$W_1$: $g_1 x$" have one formula; other words change what is meant
    sides = re.sub(r"for \$[^$]+\$|\$[^$]+\$:", "", cell.text)
    if len(inline(sides)) != len(cell.shown) or re.sub(r"\$[^$]+\$", "", sides).strip(" ,;"):
        return
    for latex, shown in zip(inline(sides), cell.shown, strict=True):
        latex = latex.rpartition("=")[2]
        free = Evaluator(world).letters(statements(latex)[0].relation) - {"i"}
        if free:  # a_c shown as a vector
            (letter,) = free
            entries, _, divisor = shown[1:].partition(")")  # (2, 3, 6)/11
            for n, entry in enumerate(items(entries)):
                yield Claim(row, f"{latex} {equals(entry + divisor)}", [world], (*place, (letter, n)))
        else:
            yield Claim(row, f"{latex} {equals(shown)}", [world], place)


def worked_example(world_of: Callable[[Example], World]) -> Callable[[str], Iterator[Claim]]:
    """The tables of a page's worked example, in the world of its inputs."""

    def worked_example(text: str) -> Iterator[Claim]:
        example = example_of(text)
        world = world_of(example)
        for cell in example.cells:
            yield from claims_of_cell(world, cell)

    return worked_example
