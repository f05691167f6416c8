"""Pages of the code, and the links between them and the derivations.

- Every Python file of refloss/ and tests/ gets a page with its highlighted text, every folder a page that lists it.
  A link such as `[arcface.py](../refloss/losses/arcface.py)` leads there; on a code forge it leads to the file.
- A step such as **(9)** of a derivation links to the line of the code that carries it, and that line links back.
- Functions and classes of the API reference link to their code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import zlib
from collections.abc import Iterator
from functools import cache
from html import escape
from operator import attrgetter
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("refloss", "tests")
STEP = re.compile(r"(?<!eq\. )(?<!–)\(([A-Z]?\d+)\)")
LETTERED = re.compile(r"\(([A-Z]\d+)\)")


def page_of(path: Path) -> str | None:
    """The page of a file or folder of the code, None if it has none."""
    if not path.is_relative_to(ROOT) or path == ROOT or path.relative_to(ROOT).parts[0] not in FOLDERS:
        return None
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        return f"code/{name}/index" if any(path.rglob("*.py")) else None
    return f"code/{name}" if path.suffix == ".py" else None


@cache
def files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


# -- steps ---------------------------------------------------------------------------------------


def derivation_of(source: str) -> str | None:
    """derivations/arcface, from a module's "Derivation: derivations/arcface.md, steps (1)–(11).".

    None for the toy loss of the tests: its page is not there.
    """
    named = re.search(r"Derivation: (derivations/\w+)\.md", source)
    return named[1] if named and (ROOT / f"{named[1]}.md").exists() else None


@cache
def steps_of(derivation: str) -> dict[str, tuple[Path, int] | None]:
    """Its bold steps, with the first line of the code that carries each.

    A step is carried by a comment, or by a docstring if it has a letter: a bare number may be a paper's equation there.
    """
    page = (ROOT / f"{derivation}.md").read_text(encoding="utf-8")
    steps: dict[str, tuple[Path, int] | None] = dict.fromkeys(re.findall(rf"\*\*{STEP.pattern}\*\*", page))
    for path in files():
        source = path.read_text(encoding="utf-8")
        if derivation_of(source) == derivation:
            end_of_docstring = ast.parse(source).body[0].end_lineno or 0
            for number, line in enumerate(source.splitlines(), 1):
                _, _, comment = line.partition("#")
                for step in STEP.findall(comment) + LETTERED.findall(line):
                    if number > end_of_docstring and step in steps and steps[step] is None:
                        steps[step] = path, number
    return steps


def link_steps(app: Sphinx, doctree: nodes.document) -> None:
    """Makes each bold step of a derivation a target, and a link to its line."""
    docname = app.env.docname
    if not docname.startswith("derivations/"):
        return
    for strong in doctree.findall(nodes.strong):
        step = STEP.fullmatch(strong.astext())
        if step:
            strong["ids"].append(f"step-{step[1]}")
            carried = steps_of(docname).get(step[1])
            if carried:
                app.env.note_dependency(str(carried[0]))  # its lines move
                name, line = carried[0].relative_to(ROOT).as_posix(), carried[1]
                uri = f"{app.builder.get_relative_uri(docname, f'code/{name}')}#L-{line}"
                where = f"{name}, line {line}"
                strong.clear()
                strong += nodes.reference("", f"({step[1]})", refuri=uri, reftitle=where, internal=True)


# -- links of pages ------------------------------------------------------------------------------------------------


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Turns links to files and folders of the repository into links to their pages."""
    docname = app.env.docname
    links = [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]
    for link in links:
        if link.get("reftype") != "myst" or link.get("refdomain") is not None:
            continue
        name, _, anchor = link["reftarget"].partition("#")
        path = (ROOT / docname).parent.joinpath(name).resolve()
        page = page_of(path)
        if name and path.exists():
            if page:
                uri = app.builder.get_relative_uri(docname, page) + (f"#{anchor}" if anchor else "")
                link.replace_self(nodes.reference("", "", *link.children, refuri=uri, internal=True))
            else:
                link.replace_self(link.children)  # LICENSE, a script: its name is enough


def link_objects(app: Sphinx, doctree: nodes.document) -> None:
    """A [source] beside every function, class and method of the reference."""
    docname = app.env.docname
    for signature in doctree.findall(addnodes.desc_signature):
        if signature.get("module") and signature.get("fullname"):
            where = place_of(signature["module"], signature["fullname"])
            if where:
                uri = app.builder.get_relative_uri(docname, f"code/{where[0]}")
                text = nodes.inline("", "[source]", classes=["viewcode-link"])
                signature += nodes.reference("", "", text, refuri=f"{uri}#L-{where[1]}", internal=True)


def place_of(module: str, name: str) -> tuple[str, int] | None:
    """File and line of an object; None for what is no function or class, such as a field."""
    try:
        found = inspect.unwrap(attrgetter(name)(importlib.import_module(module)))
        found = getattr(found, "fget", None) or found
        path = Path(inspect.getsourcefile(found) or "")
        return path.resolve().relative_to(ROOT).as_posix(), inspect.getsourcelines(found)[1]
    except (AttributeError, TypeError, ValueError, OSError):
        return None


# -- the pages of the code -----------------------------------------------------------------------------------------


def code_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    folders = {folder for path in files() for folder in path.parents if page_of(folder)}
    for path in [*files(), *sorted(folders)]:
        name = path.relative_to(ROOT).as_posix()
        body = folder_body(path) if path.is_dir() else file_body(app, path)
        yield page_of(path) or "", {"title": name, "body": body}, "page.html"


def file_body(app: Sphinx, path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    source = path.read_text(encoding="utf-8")
    highlighted = app.builder.highlighter.highlight_block(source, "python", linespans="L")  # type: ignore[attr-defined]
    derivation = derivation_of(source)
    if derivation:
        uri = app.builder.get_relative_uri(f"code/{name}", derivation)
        known = steps_of(derivation)

        def link(step: re.Match[str]) -> str:
            return f'<a href="{uri}#step-{step[1]}">{step[0]}</a>' if step[1] in known else step[0]

        def link_all(span: re.Match[str]) -> str:
            return (STEP if span[1] == "c1" else LETTERED).sub(link, span[0])

        highlighted = re.sub(r'<span class="(c1|sd)">.*?</span>', link_all, highlighted, flags=re.DOTALL)
    return f"<h1>{escape(name)}</h1>\n<div class='code-page'>{highlighted}</div>"


def folder_body(folder: Path) -> str:
    name = folder.relative_to(ROOT).as_posix()
    rows = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name)):
        init = path / "__init__.py"
        if path.is_dir() and any(path.glob("*.py")):
            rows.append((f"{path.name}/index", f"{path.name}/", summary(init) if init.exists() else ""))
        elif path.suffix == ".py":
            rows.append((path.name, path.name, summary(path)))
    lines = "".join(
        f"<tr><td><a href='{escape(uri)}.html'><code>{escape(label)}</code></a></td><td>{escape(text)}</td></tr>"
        for uri, label, text in rows
    )
    return f"<h1>{escape(name)}/</h1>\n<div class='table-wrapper'><table class='docutils'>{lines}</table></div>"


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def setup(app: Sphinx) -> dict[str, Any]:
    # before Sphinx collects what a page lets one download
    app.connect("doctree-read", link_files, priority=100)
    app.connect("doctree-read", link_steps)
    app.connect("doctree-read", link_objects)
    app.connect("html-collect-pages", code_pages)
    # what another version of this file has read is read again
    version = zlib.crc32(Path(__file__).read_bytes())
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
