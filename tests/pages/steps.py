"""The numbered steps of the derivations: where they stand on the pages, and where in the code."""

from __future__ import annotations

import ast
import io
import re
import tokenize

import refloss
from pages.markdown import DERIVATIONS, ROOT, derivation, read
from refloss.losses import LOSSES

PAGES = sorted(path.name for path in DERIVATIONS.glob("*.md"))
# the pages that lead there, whose formulas and numbers are held to the same
LEARN = sorted(f"../docs/learn/{path.name}" for path in (ROOT / "docs" / "learn").glob("*.md"))

LOSS_PAGES = [f"{name}.md" for name in refloss.losses()]


def passes_of(name: str) -> tuple[str, ...]:
    """The file of a loss, and that of the loss whose passes it inherits (weighted_softmax those of softmax)."""
    (holder,) = (cls for cls in LOSSES[name].__mro__[:-1] if vars(cls).get("forward_logits") and "name" in vars(cls))
    return tuple(dict.fromkeys(f"losses/{each}.py" for each in (name, holder.name)))


# page → the code files that place its steps
CODE_OF = {f"{name}.md": passes_of(name) for name in LOSSES} | {
    "cross_entropy.md": ("steps/targets.py", "steps/logsumexp.py", "steps/cross_entropy.py", "losses/cross_entropy.py"),
    "normalisation.md": ("steps/normalise.py",),
    "angle.md": ("steps/angle.py",),
    "psi.md": ("steps/psi.py",),
    "margins.md": ("steps/margin.py",),
    "margin_softmax.md": ("losses/margin_softmax.py",),
    "bounds.md": ("bounds.py",),
    "schedules.md": ("schedules.py",),
}
PREFIXES = {
    "cross_entropy.md": "C",
    "normalisation.md": "N",
    "angle.md": "A",
    "psi.md": "P",
    "margins.md": "M",
    "margin_softmax.md": "G",
    "precision.md": "E",
    "bounds.md": "B",
    "schedules.md": "S",
    "second_derivatives.md": "H",
}
NUMBERED = [*CODE_OF, "precision.md", "second_derivatives.md"]  # the steps of the last two are the pages' own

_STEP = r"\(([A-Z]?)(\d+)\)"
_RANGE = re.compile(rf"{_STEP}[–-]{_STEP}")
_EQUATION = re.compile(r"eqs?\. \(\d+\)([–-]\(\d+\))?")  # a paper's equation, not a step


def expand(text: str) -> list[str]:
    """The steps named in a text, "(1), (3)–(5)" as 1, 3, 4, 5; equations of papers are no steps."""
    text = _EQUATION.sub("", text)
    steps = []
    for match in _RANGE.finditer(text):
        letter, first, _, last = match.groups()
        steps += [f"{letter}{k}" for k in range(int(first), int(last) + 1)]
    steps += ["".join(match) for match in re.findall(_STEP, _RANGE.sub("", text))]
    return steps


def one_by_one(texts: list[str]) -> list[str]:
    """The steps named in comments. A range places nothing: it would hide a step whose own comment is gone."""
    return [step for text in texts for step in expand(_RANGE.sub("", text))]


def bold_steps(page: str) -> list[str]:
    """The bold step numbers of a page, in the order in which they stand there."""
    return ["".join(match) for match in re.findall(rf"\*\*{_STEP}\*\*", derivation(page))]


def promised(source: str) -> set[str]:
    """What the docstring of a code file says that it holds: "steps (1)–(5)"."""
    return set(expand(ast.get_docstring(ast.parse(source)).split("Derivation:")[1]))


def placed(source: str) -> set[str]:
    """The steps that stand, one by one, in comments and in docstrings of functions and classes."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            # code in an example is no step: f(2)
            texts.append((ast.get_docstring(node) or "").split(">>>")[0])
    return set(one_by_one(texts))


def sources(page: str) -> list[str]:
    """The code files of a page."""
    return [read(f"refloss/{path}") for path in CODE_OF[page]]
