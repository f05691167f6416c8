"""What the search page looks through: the text of every section of the site, in one script.

Sphinx' own search wants every word of a question on one page, and fetches the pages that it found for their excerpts,
which a browser refuses to a file. So the search page loads the sections as a script beside it, and _static/search.js
ranks them: any of the words, and an excerpt. Stems, stop words and the names of the reference stay those of Sphinx.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

# what people type, and the words of these pages; read so in questions and pages alike
SAME = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half precision": "float16",
    "fp32": "float32",
    "fp64": "float64",
    "amp": "autocast",
    "mixed precision": "autocast",
    "16-bit": "16 bits",
    "ce": "cross entropy",
    "crossentropy": "cross entropy",
    "xent": "cross entropy",
    "lse": "logsumexp",
    "log-sum-exp": "logsumexp",
    "nll": "negative log likelihood",
    "vocab": "vocabulary",
    "tensor parallel": "vocabulary parallel",
    "tensor-parallel": "vocabulary parallel",
    "class parallel": "vocabulary parallel",
    "model parallel": "vocabulary parallel",
    "loss parallel": "vocabulary parallel",
    "sharded": "vocabulary parallel",
    "partial fc": "vocabulary parallel",
    "partialfc": "vocabulary parallel",
    "allreduce": "all-reduce",
    "grad": "gradient",
    "grads": "gradient",
    "backprop": "backward",
    "backpropagation": "backward",
    "nans": "nan",
    "infinity": "inf",
    "infinite": "inf",
    "infs": "inf",
    "tol": "tolerance",
    "atol": "tolerance",
    "rtol": "tolerance",
    "allclose": "tolerance",
    "assert_close": "tolerance",
    "pad": "ignored",
    "padding": "ignored",
    "l-softmax": "lsoftmax softmax",
    "a-softmax": "asoftmax softmax",
    "am-softmax": "amsoftmax softmax",
    "cosface": "cosface amsoftmax",
    "sphereface": "sphereface asoftmax",
    "acos": "arccos",
    "arccosine": "arccos",
    "pytorch": "torch",
    "scaled": "factor",
    "mismatch": "differ",
}

# how much a page counts: who asks finds the answers first, the reference after what explains, and lists last
COUNTS = {
    "docs/questions/index": 1.0,
    "docs/questions/": 1.5,
    "docs/api/": 0.7,
    "docs/blind_kernels": 0.5,
    "docs/honest_matrix": 0.5,
    "docs/kill_matrix": 0.5,
    "CONTRIBUTING": 0.5,
    "CHANGELOG": 0.4,
}

SIGNS = {"lVert": "‖", "rVert": "‖", "cdot": "·", "sum": "Σ", "le": "≤", "ge": "≥", "lt": "<", "gt": ">", "infty": "∞"}


def readable(tex: str) -> str:
    """A formula within an excerpt: θ for \\theta, and no braces."""

    def sign(command: re.Match[str]) -> str:
        try:
            return SIGNS.get(command[1]) or unicodedata.lookup(f"GREEK SMALL LETTER {command[1].removeprefix('var')}")
        except KeyError:
            return command[1] if command[1] in ("log", "cos", "sin", "max", "min", "exp") else ""

    return re.sub(r"[{}]", "", re.sub(r"\\([A-Za-z]+) ?", sign, tex))


def text_of(node: nodes.Node, code: list[str]) -> str:
    """The words of a node, without its sections and what is not shown; blocks of code and tables go into the list."""
    if isinstance(node, nodes.math):
        return readable(node.astext())
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, (nodes.literal_block, nodes.table)):
        code.append(" ".join(text_of(cell, []) for cell in node.findall(nodes.entry)) or node.astext())
        return " "
    if isinstance(node, (nodes.section, nodes.title, nodes.math_block, nodes.comment, nodes.raw)):
        return ""
    between = "" if isinstance(node, nodes.TextElement) else " "
    text = between.join(text_of(child, code) for child in node.children)
    return text if isinstance(node, nodes.Inline) else f"{text} "


def sections_of(doctree: nodes.document) -> Iterator[tuple[str, str, str, str]]:
    """(anchor, heading, text, code and tables) of every section; the page's own has no anchor."""
    for number, section in enumerate(doctree.findall(nodes.section)):
        code: list[str] = []
        text = " ".join(text_of(child, code) for child in section.children)
        title = next(iter(section.findall(nodes.title))).astext()
        yield section["ids"][0] if number else "", title, " ".join(text.split()), " ".join(" ".join(code).split())


def setup(app: Sphinx) -> dict[str, Any]:
    found: dict[str, list[tuple[str, str, str, str]]] = {}

    def collect(app: Sphinx, doctree: nodes.document, docname: str) -> None:
        found[docname] = list(sections_of(doctree))

    def load(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
        if page == "search":
            app.add_js_file("search_sections.js", loading_method="defer")
            app.add_js_file("search.js", loading_method="defer")

    def write(app: Sphinx, exception: Exception | None) -> None:
        if exception is None:
            words = json.dumps({"pages": found, "same": SAME, "counts": COUNTS}, ensure_ascii=False)
            path = Path(app.outdir, "_static", "search_sections.js")
            path.write_text(f"const SITE = {words};\n", encoding="utf-8")

    app.connect("doctree-resolved", collect)
    app.connect("html-page-context", load)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
