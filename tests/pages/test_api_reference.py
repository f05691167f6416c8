"""The API reference: every public name is on its pages, and its docstring follows the template of CONTRIBUTING.md."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from functools import cached_property
from typing import Any

import pytest
from helpers import need

import refloss
from pages.markdown import ROOT, headings, read, section
from refloss import report
from refloss.cli.main import _parser
from refloss.testing import report as of_check
from refloss.testing.diagnosis import match as diagnosis
from refloss.witnesses import compare
from refloss.witnesses import report as of_gradcheck

PAGES = {
    str(path.relative_to(ROOT / "docs/api")): read(str(path.relative_to(ROOT)))
    for path in ROOT.glob("docs/api/**/*.md")
}

# the template's sections, in its order
SECTIONS = (
    "Source", "Shapes", "Args", "Attributes", "Returns", "Singular points", "Released code", "Raises", "Example",
)  # fmt: skip
ARRAYS = {"x", "W", "b", "labels", "targets", "logits", "upstream", "upstreams", "class_weights"}
RECORDS = (refloss.Forward, refloss.Gradients)  # all of whose fields are arrays
RAISE_NOTHING = {"print", "forward_logits", "backward_logits", "suspects"}  # whatever they are given


# -- what is public --------------------------------------------------------------------------------


def named(*things: Any) -> dict[str, Any]:
    return {f"{thing.__module__}.{thing.__name__}": thing for thing in things}


def listed() -> dict[str, Any]:
    """Name → what `__all__` lists, of refloss and of the modules in it."""
    found = {f"refloss.{name}": getattr(refloss, name) for name in refloss.__all__ if name != "certify"}
    for name, module in list(found.items()):
        if inspect.ismodule(module):
            found |= {f"{name}.{inner}": getattr(module, inner) for inner in module.__all__}
    return found


def public() -> dict[str, Any]:
    """Name → class or function: those listed, and the classes of what they return."""
    return {n: thing for n, thing in listed().items() if isinstance(thing, type) or inspect.isfunction(thing)} | named(
        of_gradcheck.Report, of_gradcheck.CaseResult, compare.InputResult, compare.Seen, compare.Failure,
        report.BaseReport, report.Grid, report.MismatchError, of_check.CaseResult, of_check.Failure, diagnosis.Match,
    )  # fmt: skip


def proofs() -> dict[str, Any]:
    """The same of what needs python-flint."""
    need("flint")
    from refloss.proof.certify import Certificate, StageError

    return {"refloss.certify": refloss.certify, **named(Certificate, StageError)}


def members(cls: type) -> dict[str, Any]:
    """The public methods and properties of a class, those of its bases in refloss included."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("refloss."):
            found |= {
                name: value
                for name, value in vars(base).items()
                if not name.startswith("_")
                and (inspect.isfunction(value) or isinstance(value, property | cached_property))
                and name not in refloss.Loss.__annotations__  # an attribute that a subclass computes
            }
    return found


LOSSES = {
    name: thing
    for name, thing in public().items()
    if isinstance(thing, type) and issubclass(thing, refloss.Loss | refloss.CrossEntropy) and thing is not refloss.Loss
}


# -- what a docstring says -------------------------------------------------------------------------


def sections(thing: Any) -> dict[str, str]:
    """Heading → text; what stands before the first heading under ""."""
    parts = re.split(r"^([A-Z][\w ]*):$", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(text: str) -> dict[str, str]:
    """x → "(N, D)", of "    x (N, D): features"; "" where nothing stands in brackets."""
    return dict(re.findall(r"^    \*{0,2}(\w+)(?: (\(.*?\)))?: \S", text, re.MULTILINE))


def explained(thing: Any) -> dict[str, str]:
    """The entries of Args and Attributes; where a class says `**options`, those of `Loss` too."""
    has = sections(thing)
    found = entries(has.get("Args", "")) | entries(has.get("Attributes", ""))
    return options() | found if isinstance(thing, type) and "options" in found else found


def options() -> dict[str, str]:
    """What every loss shares."""
    return entries(sections(refloss.Loss)["Args"])


def owed(thing: Any) -> list[str]:
    """The parameters of a function, or the public fields of a dataclass."""
    if dataclasses.is_dataclass(thing):
        return [field.name for field in dataclasses.fields(thing) if not field.name.startswith("_")]
    if inspect.isfunction(thing):
        return [name for name in inspect.signature(thing).parameters if name != "self"]
    return []


def faults(thing: Any) -> list[str]:
    """What the docstring of a class, function, method or property lacks."""
    has, described = sections(thing), explained(thing)
    found = []
    if not re.match(r"\S[^\n]*(\.|::)(\n\n|\n?$)", has[""]):
        found.append("the first paragraph must be one line")
    if isinstance(thing, property | cached_property) and ": " in has[""].split("\n")[0]:
        found.append("Sphinx takes what stands before a colon for the property's type")
    if list(has)[1:] != [heading for heading in SECTIONS if heading in has]:
        found.append(f"the sections are {', '.join(list(has)[1:])}: not the template's, or not in its order")
    found += [f"{name} is not described" for name in owed(thing) if name not in described]
    arrays = described if thing in RECORDS else ARRAYS & set(described)
    has_shape = re.compile(r"\((scalar|[A-Z2],|any shape|labels)")
    found += [f"{name}: no shape" for name in arrays if not has_shape.match(described[name])]
    if inspect.isfunction(thing):
        found += [f"{name} is described and is no parameter" for name in described if name not in owed(thing)]
        raises = owed(thing) or "raise " in inspect.getsource(thing)
        if raises and thing.__name__ not in RAISE_NOTHING and "Raises" not in has:
            found.append("no Raises")
        if thing.__annotations__["return"] != "None" and "Returns" not in has:
            found.append("no Returns")
    return found


def faults_of_loss(cls: type) -> list[str]:
    """What a loss owes besides: formula, source, shapes, singular points, an example."""
    has = sections(cls)
    wanted = ("Source", "Shapes", "Singular points", "Raises", "Example")
    found = [f"no {heading}" for heading in wanted if heading not in has]
    if not re.search(r"::\n\n    \S", has[""]):
        found.append("no formula")
    if not re.search(r"eq\. \(|sections? \d", has.get("Source", "")):
        found.append("Source: no equation or section")
    return found


def all_faults(things: dict[str, Any]) -> list[str]:
    """Those of classes, functions, and the members of the classes."""
    every = dict(things)
    for name, thing in things.items():
        if isinstance(thing, type):
            every |= {f"{name}.{member}": value for member, value in members(thing).items()}
    return [f"{name}: {fault}" for name, thing in every.items() for fault in faults(thing)]


# -- the docstrings --------------------------------------------------------------------------------


def test_docstrings_follow_the_template():
    assert all_faults(public()) == []


def test_docstrings_of_proofs_follow_the_template():
    assert all_faults(proofs()) == []


@pytest.mark.parametrize("name", LOSSES)
def test_loss_gives_formula_source_shapes_and_example(name):
    assert faults_of_loss(LOSSES[name]) == []


@pytest.mark.parametrize("name", [*LOSSES, "refloss.get", "refloss.losses", "refloss.hed_class_weights",
                                  "refloss.gradcheck", "refloss.testing.check", "refloss.testing.assert_matches",
                                  "refloss.testing.cases", "refloss.testing.suspects"])  # fmt: skip
def test_main_names_have_an_example(name):
    """tests/pages/test_doctests.py runs it."""
    assert ">>> " in sections(public()[name])["Example"]


def well_told(x, W, scale=1.0) -> float:
    """A made-up loss.

    Args:
        x (N, D): features.
        W (C, D): class weights.
        scale (float): s > 0.

    Returns:
        float: the loss.

    Raises:
        ValueError: bad input.
    """
    return 0.0


@pytest.mark.parametrize(("cut", "fault"), [
    ("    W (C, D): class weights.\n", "W is not described"),
    ("x (N, D): ", "x is not described"),
    (" (N, D)", "x: no shape"),
    ("Returns:\n    float: the loss.\n\n", "no Returns"),
    ("Raises:\n    ValueError: bad input.", "no Raises"),
    ("A made-up loss.\n", "the first paragraph must be one line"),
])  # fmt: skip
def test_a_docstring_that_lacks_something_is_caught(cut, fault, monkeypatch):
    """The test of the tests above: a good docstring has no fault, and loses one thing at a time."""
    assert faults(well_told) == []
    doc = inspect.getdoc(well_told)
    assert cut in doc
    monkeypatch.setattr(well_told, "__doc__", doc.replace(cut, "", 1))
    assert faults(well_told) == [fault]


def test_what_is_wrong_in_a_docstring_is_caught(monkeypatch):
    doc = inspect.getdoc(well_told)
    monkeypatch.setattr(well_told, "__doc__", doc.replace("scale (float)", "scala (float)"))
    assert faults(well_told) == ["scale is not described", "scala is described and is no parameter"]
    assert len(faults(property(well_told, doc="The loss: a number."))) == 1
    monkeypatch.setattr(well_told, "__doc__", doc.replace("Returns:", "Gives:"))
    assert len(faults(well_told)) == 2  # no Returns, and an unknown section
    assert faults_of_loss(well_told) == [
        "no Source", "no Shapes", "no Singular points", "no Example", "no formula", "Source: no equation or section",
    ]  # fmt: skip


# -- the pages -------------------------------------------------------------------------------------


def directives() -> dict[str, tuple[str, set[str]]]:
    """Name → (its signature if the page gives one, its members), of every auto… directive on the pages."""
    found = {}
    pattern = r"^\.\. auto\w+:: ([\w.]+)(\(.*\))?\n((?:   :.*\n)*)"
    for text in PAGES.values():
        for name, signature, options in re.findall(pattern, text, re.MULTILINE):
            listed = re.search(r":members: (.*)", options)
            found[name] = signature, set(listed[1].split(", ")) if listed else set()
    return found


def absent(things: dict[str, Any]) -> list[str]:
    """Names, and members of the classes, that no page shows."""
    on_pages = directives()
    missing = [name for name in things if name not in on_pages]
    for name, thing in things.items():
        # the methods of a loss stand under Loss, and an alias is its class
        if isinstance(thing, type) and name in on_pages and not issubclass(thing, refloss.Loss):
            missing += [f"{name}.{m}" for m in members(thing) if m not in on_pages[name][1]]
    return missing


def test_every_public_name_is_on_a_page():
    assert absent(public()) == []
    shown = directives()
    for member in members(refloss.Loss):
        assert member in shown["refloss.Loss"][1] or f"refloss.Loss.{member}" in shown
    for name in set(listed()) - set(public()):  # modules and data
        assert any(name in text for text in PAGES.values()), name


def test_every_name_of_the_proofs_is_on_a_page():
    assert absent(proofs()) == []


def test_a_name_that_is_on_no_page_is_caught():
    assert absent({"refloss.made_up": well_told}) == ["refloss.made_up"]


@pytest.mark.parametrize("name", [name for name, (shown, _) in directives().items() if "options" in shown])
def test_signatures_on_the_page_are_the_code_s(name):
    """A page shows a loss's own parameters and defaults; `**options` stands for those of `Loss`."""
    shown = eval(f"lambda {directives()[name][0][1:-1]}: 0", {})
    own = {k: p.default for k, p in inspect.signature(shown).parameters.items() if k != "options"}
    parameters = inspect.signature(public()[name]).parameters
    required = {k for k, p in parameters.items() if p.default is p.empty}
    assert own == {k: p.default for k, p in parameters.items() if k not in options() or k in required}


# -- the command line ------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = _parser()
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def rows(parser: argparse.ArgumentParser) -> list[str]:
    """A row of the page's table for every argument of a command, as its --help has it."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = "" if action.nargs == 0 else action.metavar or action.dest.upper()
        if action.choices:
            value = "{" + ",".join(action.choices) + "}"
        called = ", ".join(f"`{f'{option} {value}'.strip()}`" for option in action.option_strings)
        found.append(f"| {called or f'`{value}`'} | {action.help or ''} |")
    return found


def test_the_page_has_every_command():
    assert headings(PAGES["cli.md"], "##") == [f"refloss {name}" for name in commands()]


@pytest.mark.parametrize("name", commands())
def test_the_page_has_every_argument_of(name):
    """Table and --help are the same; a new option fails here, and its row can be pasted from the message."""
    text = section(PAGES["cli.md"], f"refloss {name}")
    assert re.findall(r"^\| `.*$", text, re.MULTILINE) == rows(commands()[name])
