"""Reading the pages of the project: text, sections, blocks of code, formulas, tables, links."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DERIVATIONS = ROOT / "derivations"

_LINES = re.MULTILINE | re.DOTALL


@cache
def read(path: str) -> str:
    """The text of a file of the project, by its path from the root."""
    return (ROOT / path).read_text(encoding="utf-8")


def derivation(page: str) -> str:
    """The text of a page of derivations/."""
    return read(f"derivations/{page}")


def headings(text: str, level: str = "#+") -> list[str]:
    """The headings of a level ("##"), or all."""
    return re.findall(rf"^{level} (.*)$", text, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that a code forge gives to headings."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)}


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


def links(text: str) -> list[str]:
    """Where the links of a text lead."""
    return re.findall(r"\]\(([^)]+)\)", text)


def code(text: str, language: str = "python") -> list[str]:
    """The blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, _LINES)


def displayed(text: str) -> list[str]:
    """The displayed formulas, without their $$."""
    return re.findall(r"^\$\$\n(.*?)^\$\$$", text, _LINES)


def prose(text: str) -> str:
    """A text without its blocks of code and its displayed formulas."""
    return re.sub(r"^```.*?^```$|^\$\$\n.*?^\$\$$", "", text, flags=_LINES)


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a text: each its head and its rows, each a list of cells."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines())
        found.append([head, *rows])
    return found
