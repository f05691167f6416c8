"""The code on the pages of derivations/ is the code of the package, to the letter, and it runs from the page.

A block ```python without >>> is an excerpt: consecutive lines of the page's code files, as they stand there. On a
loss's page the excerpts add up to the whole of its passes; they are compiled from the page and sent through gradcheck.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types

import numpy as np
import pytest
from helpers import bits

import refloss
from pages.markdown import code, derivation, read, section
from pages.steps import CODE_OF, LOSS_PAGES, PAGES, PREFIXES, one_by_one, placed, sources
from refloss.losses import LOSSES

LOSS_OF = {f"{name}.md": cls for name, cls in LOSSES.items()}
PASSES = {"Forward": "forward_logits", "Backward": "backward_logits"}
# what a page shows besides the code of its steps; on the page of a loss it is no part of the passes
SHARED = {
    "softmax.md": ("steps/linear.py",),
    "weighted_softmax.md": ("steps/targets.py",),
    "precision.md": ("precision/errorfree.py",),
}


def excerpts(text: str) -> list[str]:
    """The excerpts of a text; blocks with >>> are examples."""
    return [block for block in code(text) if ">>>" not in block]


def shared(page: str) -> list[str]:
    return [read(f"refloss/{path}") for path in SHARED.get(page, ())]


def bodies_on(page: str, text: str, heading: str) -> dict[str, str]:
    """The passes that a page shows under a heading, by name: the excerpts without those of the shared steps, joined; an
    excerpt that is a whole method, apart."""
    found = {PASSES[heading]: ""}
    for excerpt in excerpts(section(text, heading)):
        if any(stands_in(excerpt, source) for source in shared(page)):
            continue
        whole = re.match(r"def (\w+)\(.*:\n", excerpt)
        name, body = (whole[1], excerpt[whole.end() :]) if whole else (PASSES[heading], excerpt)
        found[name] = "\n".join(filter(None, [found.get(name), flat(body)]))
    return found


def flat(source: str) -> str:
    """Lines without the blank ones and without the indentation of their place."""
    return "\n".join(line for line in textwrap.dedent(source).splitlines() if line.strip())


def stands_in(excerpt: str, source: str) -> bool:
    """Whether the lines of an excerpt stand one after the other in a source, at whatever indentation."""
    wanted = flat(excerpt).splitlines()
    lines = [line for line in source.splitlines() if line.strip()]
    return any(
        flat("\n".join(lines[at : at + len(wanted)])).splitlines() == wanted
        for at in range(len(lines) - len(wanted) + 1)
    )


def body_of(function: object) -> str:
    """The body of a function as it stands in its file, its docstring left out."""
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    first = node.body[1] if ast.get_docstring(node) is not None else node.body[0]
    header_ends = (node.body[0].end_lineno if first is not node.body[0] else _header_end(source)) or 0
    return "\n".join(source.splitlines()[header_ends:])


def _header_end(source: str) -> int:
    """The line on which a def's header ends: the first that ends in a colon."""
    return next(k for k, line in enumerate(source.splitlines(), 1) if line.rstrip().endswith(":"))


def owner(page: str) -> type:
    """The class whose file holds the passes of a loss's page."""
    cls = LOSS_OF[page]
    return next(base for base in cls.__mro__ if "forward_logits" in vars(base))


def compiled(cls: type, function: str, body: str) -> types.FunctionType:
    """A method of a loss with another body, in the namespace of the module that defines it."""
    original = vars(cls)[function]
    header = f"def {function}{_parameters(original)}:\n"
    namespace = dict(vars(sys.modules[cls.__module__]))
    exec(compile(header + textwrap.indent(body, "    "), f"<{cls.__name__}>", "exec"), namespace)
    return namespace[function]


def _parameters(function: types.FunctionType) -> str:
    return f"({', '.join(inspect.signature(function).parameters)})"


# -- to the letter ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_excerpts_stand_in_the_code(page):
    """No excerpt that the code does not have, line by line; a page without code files shows examples only."""
    files = [*(sources(page) if page in CODE_OF else ()), *shared(page)]
    found = excerpts(derivation(page))
    assert bool(found) == bool(files)
    for excerpt in found:
        assert any(stands_in(excerpt, source) for source in files), excerpt


@pytest.mark.parametrize("page", CODE_OF)
def test_every_step_has_its_code_under_its_formula(page):
    """The code of a step follows its bold number, before the next step that has code of its own."""
    seen: set[str] = set()
    waiting: list[str] = []
    for step, what in re.findall(
        r"\*\*\(([A-Z]?\d+)\)\*\*|^```python\n(.*?)^```$", derivation(page), re.DOTALL | re.MULTILINE
    ):
        if step:
            waiting.append(step)
            continue
        if ">>>" in what:
            continue
        steps = numbers_in(what)
        assert set(steps) <= seen | set(waiting), f"code of {steps} before its formula"
        # a block serves the steps that wait for it, in order: none of another step stands between
        seen |= set(steps)
        waiting = [step for step in waiting if step not in steps]
        own = [step for step in steps if step[0] in PREFIXES.get(page, "0123456789")]
        assert own or not waiting, f"{waiting} wait for code, and this block has none of them:\n{what}"
    assert not waiting, f"steps without code: {waiting}"


def numbers_in(excerpt: str) -> list[str]:
    """The steps that the comments and docstrings of an excerpt name one by one; no ranges."""
    texts = [line.partition("#")[2] for line in excerpt.splitlines() if "#" in line]
    texts += re.findall(r'"""(.*?)"""', excerpt, re.DOTALL)
    return one_by_one(texts)


@pytest.mark.parametrize("heading", PASSES)
@pytest.mark.parametrize("page", LOSS_PAGES)
def test_a_loss_page_shows_its_passes_whole(page, heading):
    """The excerpts of a section, joined, are the body of the pass: no line of it is missing on the page."""
    names = [PASSES[heading]]
    names += ["psi_of"] if heading == "Forward" and owner(page).has_margin else []
    due = {name: flat(body_of(vars(owner(page))[name])) for name in names}
    assert bodies_on(page, derivation(page), heading) == due


# -- it runs from the page -------------------------------------------------------------------------


def run_from(page: str, text: str, monkeypatch: pytest.MonkeyPatch, loss: refloss.Loss, inputs: dict) -> tuple:
    """Records of a loss whose passes are compiled from a page's text."""
    for heading in PASSES:
        for function, body in bodies_on(page, text, heading).items():
            monkeypatch.setattr(owner(page), function, compiled(owner(page), function, body))
    out = loss.forward(**inputs)
    return out, loss.backward(out)


def ordinary(page: str, rng: np.random.Generator) -> tuple[refloss.Loss, dict]:
    cls = LOSS_OF[page]
    weights = {"class_weights": [0.5, 1.0, 2.0, 1.5]} if cls is refloss.WeightedSoftmax else {}
    scale = {"scale": 4.0} if hasattr(cls, "scale") else {}
    inputs = {"x": rng.normal(size=(6, 3)), "W": rng.normal(size=(4, 3)), "labels": np.arange(6) % 4}
    if cls.has_bias:
        inputs["b"] = rng.normal(size=4)
    return cls(**weights, **scale), inputs


@pytest.mark.parametrize("page", LOSS_PAGES)
def test_the_passes_run_from_the_page(page, rng, monkeypatch):
    """Compiled from the page, the passes give bit for bit what the package gives, and pass gradcheck."""
    loss, inputs = ordinary(page, rng)
    due = bits(out := loss.forward(**inputs), loss.backward(out))
    assert bits(*run_from(page, derivation(page), monkeypatch, loss, inputs)) == due
    assert refloss.gradcheck(loss, **inputs)


@pytest.mark.parametrize("page", LOSS_PAGES)
def test_a_slip_on_the_page_would_be_noticed(page, rng, monkeypatch):
    """The control: the same with `grad_x` of the page's last line doubled does not pass."""
    loss, inputs = ordinary(page, rng)
    text = re.sub(r'"x": grad_x', '"x": 2 * grad_x', derivation(page))
    assert text != derivation(page)
    run_from(page, text, monkeypatch, loss, inputs)
    assert not refloss.gradcheck(loss, **inputs)
    assert not stands_in(excerpts(section(text, "Backward"))[-1], sources(page)[-1])


def test_an_excerpt_must_be_whole_lines_in_a_row():
    source = "def f(x):\n    y = x + 1\n    # (1) z\n\n    z = 2 * y\n    return z\n"
    assert stands_in("y = x + 1\n# (1) z\nz = 2 * y\n", source)
    assert not stands_in("y = x + 1\nz = 2 * y\n", source)
    assert not stands_in("z = 2 * x\n", source)
    assert placed(source) == {"1"}
