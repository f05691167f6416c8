"""Maths as HTML, made by KaTeX while the site is built: a reader needs neither a network nor JavaScript for it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


class KaTeX:
    """One node process for all formulas; it ends when its input is closed, however this process ends."""

    process: subprocess.Popen[str] | None = None

    def render(self, tex: str, display: bool) -> dict[str, str]:
        """{"html": …}, or {"error": …} where KaTeX cannot read it."""
        if self.process is None:
            script = Path(__file__).with_name("katex.js")
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(["node", script], stdin=pipe, stdout=pipe, text=True, encoding="utf-8")
        print(json.dumps({"tex": tex, "display": display}), file=self.process.stdin, flush=True)
        return json.loads(next(iter(self.process.stdout or ())))

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None


katex = KaTeX()


BRACKETS = re.compile(r"(?<!\\left)(?<!\\[Bb]ig)(?<!\\[Bb]igl)\(([^()]{1,40})\)")


def pieces(tex: str) -> list[str]:
    """The formulas of a display that lists several, "a = b, \\qquad c = d": on a narrow page each gets a line."""
    found, depth = [""], 0
    for token in re.findall(r"\\[A-Za-z]+|.", tex, re.DOTALL):
        depth += {"{": 1, "}": -1, r"\begin": 1, r"\end": -1, r"\left": 1, r"\right": -1}.get(token, 0)
        if token == r"\qquad" and depth == 0:
            found.append("")
        else:
            found[-1] += token
    return found


def unbroken(tex: str) -> str:
    """The same formula, with no end of a line inside short brackets: cos(θ + m) stays whole."""

    def brace(brackets: re.Match[str]) -> str:
        inner = brackets[1]
        balanced = inner.count("{") == inner.count("}") and inner.find("{") <= inner.find("}")
        return f"({{{inner}}})" if balanced and re.search(r" [-+] ", inner) else brackets[0]

    return BRACKETS.sub(brace, tex)


def visit(writer: Any, node: nodes.Element, display: bool) -> None:
    formulas = pieces(node.astext()) if display else [node.astext()]
    html = ""
    for tex in formulas:
        answer = katex.render(unbroken(tex), display)
        if "error" in answer:
            logger.warning("%s", answer["error"], location=node)
        html += answer.get("html", "")
    tag = "div" if display else "span"
    writer.body.append(f'<{tag} class="math">{html}</{tag}>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer(
        "katex",
        inline_renderers=(lambda writer, node: visit(writer, node, display=False), None),
        block_renderers=(lambda writer, node: visit(writer, node, display=True), None),
    )
    app.connect("build-finished", lambda app, exception: katex.close())
    app.add_css_file("katex/katex.min.css")
    return {"parallel_read_safe": True, "parallel_write_safe": False}
