"""Formulas of docstrings as formulas: there they are plain text, so that a terminal can show them.

- A block after `::` in the docstrings of losses and of bounds becomes a displayed formula, a line each.
- θ_y and 2^-53 in the text of the API pages get an index and an exponent.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

MODULES = ("refloss.losses.", "refloss.bounds")
SIGNS = {
    "−": "-", "·": r"\cdot ", "≥": r"\ge ", "≤": r"\le ", "Σ": r"\sum ", "…": r"\ldots ", "ℓ": r"\ell ",
    "ε": r"\varepsilon ", "²": "^2", "₊": "_+", "₋": "_-",
}  # fmt: skip
TOKEN = re.compile(
    r"(?P<gap>,?\s\s+)"
    r"|(?P<code>\w{2,}=\w+)"
    r"|(?P<step>\([A-Z]\d+\))"
    r"|√(?:\((?P<root>(?:[^()]|\([^()]*\))*)\)|(?P<short>\w))"
    r"|(?P<function>cos|sin|log)(?![a-z])"
    r"|(?P<name>[a-z]{2,})(?=[(_])"
    r"|(?P<words>[a-z]{2,}(?:[ '][a-z]+)*)"
    r"|_(?P<index>[^\W_]+)"
    r"|\^(?P<power>[-−]?[^\W_]+)"
    r"|(?P<hatted>\w)\N{COMBINING CIRCUMFLEX ACCENT}"
    r"|(?P<sign>.)"
)


def latex(text: str) -> str:
    """LaTeX of a line: s cos θ_j → s \\cos  \\theta _{j}."""
    text = unicodedata.normalize("NFD", text)
    bars = {"‖": [r"\lVert ", r"\rVert "], "|": [r"\lvert ", r"\rvert "]}

    def one(token: re.Match[str]) -> str:
        kind, found = token.lastgroup, token[token.lastgroup or 0]
        match kind:
            case "gap":
                return (", " if "," in found else "") + r"\qquad "
            case "code":
                return rf"\texttt{{{found.replace('_', chr(92) + '_')}}}"
            case "root" | "short":
                return rf"\sqrt{{{latex(found)}}}"
            case "function":
                return rf"\{found} "
            case "name":
                return rf"\mathrm{{{found}}}"
            case "words":
                return rf"\text{{ {found} }}"
            case "step":
                return rf"\text{{{found}}}"
            case "index" | "power" | "hatted":
                start = {"index": "_", "power": "^", "hatted": r"\hat "}[kind]
                return f"{start}{{{''.join(map(latex, found))}}}"
        if found in SIGNS:
            return SIGNS[found]
        if found in bars:
            bars[found].reverse()
            return bars[found][1]
        name = unicodedata.name(found, "")
        if name.startswith("GREEK SMALL LETTER"):
            return "\\" + name.split()[-1].lower().replace("lamda", "lambda") + " "
        return found

    return TOKEN.sub(one, text).strip()


def display_formulas(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon reads the docstring."""
    if not f"{getattr(thing, '__module__', '')}.".startswith(MODULES):
        return
    text = "\n".join(lines)
    block = re.search(r"::\n\n((?:    .*\n)+)", text)
    if block:
        formulas = "".join(f"\n.. math::\n\n    {latex(line.strip())}\n" for line in block[1].splitlines())
        lines[:] = text.replace(block[0], f":\n{formulas}", 1).splitlines()


INDEX = re.compile(
    r"(?<![\w.])([^\W\d_]\N{COMBINING CIRCUMFLEX ACCENT}?)_([^\W_]{1,2})(?!\w)"
    r"|(?<=\w)\^(?:([-−]?\w+)|\(((?:[^()]|\([^()]*\))*)\))"
)


def lower_and_raise(app: Sphinx, doctree: nodes.document) -> None:
    """W_j → W<sub>j</sub>, 2^-53 → 2<sup>−53</sup>, in the descriptions of functions and classes."""
    for description in doctree.findall(addnodes.desc_content):
        for text in list(description.findall(nodes.Text)):
            parent = text.parent
            if isinstance(parent, nodes.literal | nodes.literal_block | nodes.doctest_block | nodes.math_block):
                continue
            parts: list[nodes.Node] = []
            end = 0
            for found in INDEX.finditer(text):
                letter, index, *powers = found.groups()
                parts.append(nodes.Text(text[end : found.start()] + (letter or "")))
                power = (powers[0] or powers[1] or "").replace("-", "−")
                parts.append(nodes.subscript("", index) if index else nodes.superscript("", power))
                end = found.end()
            if parts:
                parent.replace(text, [*parts, nodes.Text(text[end:])])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", display_formulas, priority=100)
    app.connect("doctree-read", lower_and_raise)
    # what another version of this file has read is read again
    version = zlib.crc32(Path(__file__).read_bytes())
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
