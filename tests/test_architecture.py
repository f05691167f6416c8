"""docs/architecture.md: its column "imports" is what the code imports, and no two folders import each other.

Everything is read from the page. A cell has the folders that are imported with the module, then "lazily:" and those
that only a function imports. What is imported for types alone does not count. The line "In a circle:" under the table
has the pairs of folders that still import each other; a lazy import is no circle.
"""

from __future__ import annotations

import ast
import re
from configparser import ConfigParser
from graphlib import TopologicalSorter
from itertools import combinations

import pytest
from helpers import need
from pages.markdown import ROOT, read, section, tables

PACKAGE = ROOT / "refloss"
PAGE = read("docs/architecture.md")
# folder or module of the package → its cell
CELLS = {
    name: imports
    for folder, _, imports in tables(section(PAGE, "What each folder holds"))[0]
    for name in re.findall(r"`refloss/(\w+)(?:/|\.py)`", folder)
}


def place(module: str) -> str:
    """Where a module lies, as the page has it: refloss.losses.loss in losses, refloss itself in refloss."""
    return module.split(".")[1] if "." in module else module


def named(node: ast.AST) -> list[str]:
    """The modules, and names in modules, that a node imports."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module="refloss", names=names):
            inside = {path.stem for path in PACKAGE.iterdir()}
            return [f"refloss.{alias.name}" if alias.name in inside else "refloss" for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module))]):
            return [module]
    return []


def imports(source: str) -> tuple[set[str], set[str]]:
    """The places of the package that a source imports, with the module and in functions."""
    at_once: set[str] = set()
    lazily: set[str] = set()

    def visit(node: ast.AST, found: set[str]) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            children = node.orelse
        else:
            children = list(ast.iter_child_nodes(node))
        found |= {place(module) for module in named(node) if module.split(".")[0] == "refloss"}
        for child in children:
            visit(child, lazily if isinstance(child, ast.FunctionDef | ast.Lambda) else found)

    visit(ast.parse(source), at_once)
    return at_once, lazily - at_once


def of_the_code(name: str) -> tuple[set[str], set[str]]:
    """The same of all files of a folder, or of a module, without itself."""
    files = list((PACKAGE / name).rglob("*.py")) or [PACKAGE / f"{name}.py"]
    found = [imports(path.read_text(encoding="utf-8")) for path in files]
    at_once, lazily = (set().union(*kind) - {name} for kind in zip(*found, strict=True))
    return at_once, lazily - at_once


def of_the_page(name: str) -> tuple[set[str], set[str]]:
    """The same of the name's cell."""
    at_once, _, lazily = CELLS[name].partition("lazily:")
    return tuple(set(re.findall(r"\w+", part)) - {"nothing"} for part in (at_once, lazily))


def circles() -> set[frozenset[str]]:
    """The pairs that the page admits."""
    (line,) = re.findall(r"^In a circle: (.*)\.$", PAGE, re.MULTILINE)
    return {frozenset(pair) for pair in re.findall(r"`(\w+)` and `(\w+)`", line)}


def test_every_folder_has_its_row():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(CELLS) == there


@pytest.mark.parametrize("name", CELLS)
def test_the_column_is_what_the_code_imports(name):
    assert of_the_page(name) == of_the_code(name)


def test_no_two_folders_import_each_other():
    """But for the pairs that the page admits, there is an order in which each imports only those before it."""
    graph = {name.replace("__init__", "refloss"): of_the_code(name)[0] for name in CELLS}
    mutual = {frozenset((a, b)) for a, b in combinations(graph, 2) if b in graph[a] and a in graph[b]}
    assert mutual == circles()
    without = {a: {b for b in found if frozenset((a, b)) not in mutual} for a, found in graph.items()}
    TopologicalSorter(without).prepare()  # raises CycleError, and names the circle


def test_the_score_is_not_installed():
    """What setup.cfg leaves out of the wheel is imported by the command line alone, and lazily."""
    setup = ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    find = setup["options.packages.find"]
    shipped = need("setuptools").find_packages(
        str(PACKAGE.parent), exclude=find["exclude"].split(), include=find["include"].split()
    )
    folders = [path.parent.relative_to(PACKAGE.parent).parts for path in PACKAGE.rglob("__init__.py")]
    assert set(shipped) == {".".join(parts) for parts in folders if "score" not in parts}
    importers = {name for name in CELLS for found in of_the_code(name) if "score" in found}
    assert importers == {"cli"}
    assert "score" not in of_the_code("cli")[0]


def test_how_imports_are_read():
    source = """
import refloss
from refloss import bounds as b
from refloss.losses.loss import Loss
if TYPE_CHECKING:
    from refloss.proof.certify import certify
else:
    def get(): importlib.import_module("refloss.testing")
def f():
    import numpy, refloss.bounds
    from refloss.cases import grid
"""
    assert imports(source) == ({"refloss", "bounds", "losses"}, {"testing", "cases"})
