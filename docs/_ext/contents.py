"""What a page owes to the site as a whole: its place in the sidebar, its description, its pictures as links.

- A table whose first head is "page" is a list of contents: the pages that its rows link to stand below this one in the
  sidebar, in the order of the rows. On a code forge it is a table, and no more.
- A page's title and first sentences are its `<meta name="description">`, which search engines show.
- A picture is a link to itself, at its full size.
- In tables a long name in code goes on in the next line at a dot, a slash, an underscore, or before a capital.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

TABLE = re.compile(r"^\| page \|.*\n(?:\|.*\n)+", re.MULTILINE)
PAGE = re.compile(r"^\| \[([^\]]+)\]\(([\w./]+)\.md\)", re.MULTILINE)
NAME = re.compile(r'(?<=<span class="pre">)[^<]+')
JOINT = re.compile(r"(?<=[\w)])[._/](?=\w)|(?<=[a-z])(?=[A-Z])")
LONGEST = 160  # characters of a description that search engines show


def add_toctree(app: Sphinx, docname: str, source: list[str]) -> None:
    entries = [f"{title} <{page}>" for table in TABLE.findall(source[0]) for title, page in PAGE.findall(table)]
    if entries:
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *entries, "```", ""])


def description_of(doctree: nodes.document) -> str:
    """The title and the first paragraph that is no formula and leads to none, cut at a word."""
    (title, *_) = doctree.findall(nodes.title)
    text = "refloss, a NumPy reference for the softmax-loss family."
    for paragraph in doctree.findall(nodes.paragraph):
        words = " ".join(paragraph.astext().split())
        in_text = isinstance(paragraph.parent, nodes.section) and not any(paragraph.findall(nodes.math))
        if in_text and len(words) >= 40 and not words.endswith(":"):
            text = words
            break
    text = f"{title.astext()}. {text}"
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def finish(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document) -> None:
    if doctree:
        description = f'<meta name="description" content="{escape(description_of(doctree))}">\n'
        context["metatags"] = context.get("metatags", "") + description
    if "body" in context:
        body = re.sub(r'<img [^>]*src="([^"]+\.svg)"[^>]*>', r'<a href="\1">\g<0></a>', context["body"])
        context["body"] = NAME.sub(lambda name: JOINT.sub(r"\g<0><wbr>", name[0]), body)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", add_toctree)
    app.connect("html-page-context", finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
