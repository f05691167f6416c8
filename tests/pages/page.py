"""What a page's file in checks/ is made of: the page with its worlds, checks and numbers, and tools for these."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pages.evaluator import Evaluator, mp
from pages.latex import statements
from pages.tables import Claim, Example, linear_example, margin_example, worked_example
from pages.worlds import World, linear_world, margin_world

PAGES: dict[str, Page] = {}


def squeezed(latex: str) -> str:
    return re.sub(r"\s+", "", latex)


@dataclass
class Page:
    """A page of derivations/: the worlds that its formulas speak of, and what is checked otherwise."""

    name: str
    worlds: Callable[[], list[World]] = list
    example: Callable[[Example], World] | None = None  # the world of the worked example's inputs
    given: frozenset[str] = frozenset()  # numbers that are not computed: defaults, constants of released code
    # A ∋ B in the cells of a table, one list per world
    terms_in_table: list[list[tuple[str, str]]] = field(default_factory=list)
    shown: list[tuple[str, float]] = field(default_factory=list)
    tables: list[Callable[[str], Iterator[Claim]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        PAGES[self.name] = self
        self.worlds = functools.cache(self.worlds)
        if self.example is not None:
            self.tables.append(worked_example(self.example))
        self.other_worlds: dict[str, Callable[[], list[World]]] = {}
        self.checks: dict[str, Callable[[str], None]] = {}
        self.claimless: dict[str, str] = {}

    def reads(self, *pieces: str) -> Callable[[Callable[[], Iterable[World]]], None]:
        """The function under this line gives the worlds of the blocks that contain one of the pieces of LaTeX."""

        def keep(function: Callable[[], Iterable[World]]) -> None:
            cached = functools.cache(lambda: list(function()))
            self.other_worlds |= {squeezed(piece): cached for piece in pieces}

        return keep

    def claims(self, latex: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
        """The function under this line checks that block, whose LaTeX it is given; it reads what … stands for."""

        def keep(check: Callable[[str], None]) -> Callable[[str], None]:
            self.checks[squeezed(latex)] = check
            return check

        return keep

    def no_claim(self, latex: str, why: str) -> None:
        """An equation in the text that is a condition, a definition or somebody's mistake."""
        self.claimless[squeezed(latex)] = why

    def table(self, claims_of: Callable[[str], Iterator[Claim]]) -> None:
        """The function under this line reads a table whose cells are formulas from the page's text."""
        self.tables.append(claims_of)

    def numbers(self, values: dict[str, float]) -> None:
        """Numbers as the page shows them, each with what it must be, in the unit that it stands in."""
        self.shown += values.items()

    def numbers_of(self, function: Callable[..., Any], arguments: Iterable[Any], *rows: str) -> None:
        """A function's values as the page shows them, one after the other; of several values, one row of each."""
        values = [function(*one) if isinstance(one, tuple) else function(one) for one in arguments]
        for row, column in zip(rows, [values] if len(rows) == 1 else zip(*values, strict=True), strict=True):
            self.shown += zip(row.split(), column, strict=True)

    def check_of(self, latex: str) -> Callable[[str], None] | None:
        latex = squeezed(latex)
        for claimed, check in self.checks.items():
            start, open_end, _ = claimed.partition("…")
            if latex.startswith(start) if open_end else latex == start:
                return check
        return None

    def worlds_of(self, latex: str) -> list[World]:
        latex = squeezed(latex)
        return next((worlds for piece, worlds in self.other_worlds.items() if piece in latex), self.worlds)()


def linear_page(name: str, features: str, weights: str, bias: bool, **more: Any) -> Page:
    """Of a loss whose logits are inner products."""
    return Page(
        name,
        lambda: [linear_world(seed, features, weights, bias) for seed in (1, 2)],
        linear_example(features, weights),
        **more,
    )


# (seed, m): with these three samples all branches of the papers' ψ are met, of m = 4 in two worlds
BRANCHES = ((2, 2), (3, 3), (20, 4), (3, 4))


def margin_page(name: str, radius: str, psi: str, seeds: tuple[tuple[int, Any], ...], **more: Any) -> Page:
    """Of a loss with a margin; `seeds` and margins."""
    return Page(
        name, lambda: [margin_world(seed, radius, psi, m) for seed, m in seeds], margin_example(radius, psi), **more
    )


# -- tools for checks by hand ----------------------------------------------------------------------


def parts(latex: str) -> list[str]:
    """The block's pieces between \\qquad, without the words in \\text that follow a \\quad."""
    return [re.sub(r"\\quad\s*\\text\{.*", "", piece).strip(" ,.\n") for piece in latex.split(r"\qquad")]


def last_side(piece: str, world: World, place: dict[str, int] | None = None) -> Any:
    """The value of what stands after the last relation."""
    (statement,) = statements(piece)
    return Evaluator(world).value(statement.relation.sides[-1], place or {"i": 0})


def last_side_of_text(piece: str, world: World) -> Any:
    """The value of what stands after the last =, where what stands before cannot be read."""
    return last_side(piece.rsplit("=", 1)[1].strip(" ,."), world)


def holds(piece: str, world: World) -> bool:
    """Whether the only statement of the piece is true in a world."""
    (statement,) = statements(piece)
    return Evaluator(world).holds(statement.relation, {"i": 0})


def draws(seed: int, count: int, low: float = 0, high: float = 1) -> Iterator[Any]:
    rng = np.random.default_rng(seed)
    return (mp.mpf(float(value)) for value in rng.uniform(low, high, count))
