"""Maths as HTML, made by KaTeX while the site is built: a reader needs neither a network nor JavaScript for it."""

from __future__ import annotations

import json
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


def visit(writer: Any, node: nodes.Element, display: bool) -> None:
    answer = katex.render(node.astext(), display)
    if "error" in answer:
        logger.warning("%s", answer["error"], location=node)
    tag = "div" if display else "span"
    writer.body.append(f'<{tag} class="math">{answer.get("html", "")}</{tag}>')
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
