"""Mutants of displayed formulas: one slip each, of the kinds that hands make."""

from __future__ import annotations

import re
from collections.abc import Iterator

# kind → pattern, replacement; each place where a pattern matches is one mutant
SLIPS: dict[str, list[tuple[str, str]]] = {
    "sign": [(r"-", "+"), (r"\+", "-")],
    "sine for cosine": [(r"\\sin\b", r"\\cos "), (r"\\cos\b", r"\\sin ")],
    "other unit vector": [
        (r"t_x", "t_w"),
        (r"t_w", "t_x"),
        (r"\\hat x(?!_)", r"\\hat w"),
        (r"\\hat w(?!_)", r"\\hat x"),
    ],
    "hat lost": [(r"\\hat (?=[xwv])", "")],
    "prime lost": [(r"\\psi'", r"\\psi ")],
    "index": [(r"_\{ij\}", "_{iy}"), (r"_\{iy\}", "_{ij}"), (r"_j\b", "_y"), (r"_y\b", "_j"), (r"_d\b", "_a")],
    "range": [
        (r"_\{j \\ne y\}", "_j"),
        (r"_\{i : y_i \\ne j\}", "_i"),
        (r"_\{(c|k) \\ne j\}", r"_\1"),
        (r"\\ne j", "= j"),
    ],
    "length lost": [(r"\\lVert [^\\]*? \\rVert(?!\^)", "")],
    "letter lost": [(r"(?<![A-Za-z_{\\])[smgrk](?=[ _(\\])(?:_\{[a-z]+\}|_[a-z])?", "")],
    "number": [(r"(?<![_\d.])[1-9](?![\d.])", "0"), (r"(?<![_\d.])[0-9](?![\d.])", "7")],
    "relation": [(r"\\le\b", r"\\gt"), (r"\\lt\b", r"\\ge"), (r"\\ge\b", r"\\lt"), (r"\\gt\b", r"\\le")],
    "transposed": [(r"\^\\top", "")],
}


def mutants_of(latex: str) -> Iterator[tuple[str, str]]:
    """(kind, LaTeX with one slip)."""
    for kind, rules in SLIPS.items():
        for pattern, replacement in rules:
            for match in re.finditer(pattern, latex):
                yield kind, latex[: match.start()] + match.expand(replacement) + latex[match.end() :]
    yield from fractions_of(latex)


def fractions_of(latex: str) -> Iterator[tuple[str, str]]:
    """A fraction that loses its denominator, and one that is upside down; derivatives are left alone."""
    for match in re.finditer(r"\\frac\{", latex):
        upper, start = group(latex, match.end() - 1)
        if start >= len(latex) or latex[start] != "{" or r"\partial" in upper or upper.startswith("d"):
            continue
        lower, end = group(latex, start)
        yield "denominator lost", f"{latex[: match.start()]}\\left( {upper} \\right){latex[end:]}"
        yield "upside down", f"{latex[: match.start()]}\\frac{{{lower}}}{{{upper}}}{latex[end:]}"


def group(latex: str, start: int) -> tuple[str, int]:
    """What stands in the braces that open at start, and where they end."""
    depth = 0
    for position in range(start, len(latex)):
        depth += {"{": 1, "}": -1}.get(latex[position], 0)
        if depth == 0:
            return latex[start + 1 : position], position + 1
    raise ValueError(f"braces: {latex}")
