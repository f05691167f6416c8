"""What every numbered step of a function makes, and where its number stands.

A step's number is in a comment or at the start of the docstring, `# (9) the target: …`; its code goes to the next
number. `check` runs a function once, and holds the arrays that each of its steps assigns, under whatever name, against
those that are due. So the first failure is the step that is wrong, not what comes of it.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r'(?:#|""")\s*(\([A-Z]*\d+\).*)')
# A sign, a factor or a lost term: of the largest entry. Digits are for the other tests
CLOSE = 1e-8
SEEN: set[tuple[str, int]] = set()  # file and line of every step that has run


@dataclass
class Step:
    """A stretch of code under one number."""

    file: Path
    line: int
    text: str
    made: dict[str, Any] = field(default_factory=dict)

    def fail(self, what: str) -> None:
        page = re.search(r"derivations/\w+\.md", self.file.read_text(encoding="utf-8"))
        place = f"{self.file.relative_to(ROOT)}:{self.line}"
        pytest.fail(f"{place}: {self.text}\n{what}\n(the page: {page and page[0]})", pytrace=False)


def numbered_lines(lines: list[str]) -> dict[int, str]:
    """Line → the text of the number that stands there, counted from 1."""
    found = {k: NUMBER.search(line) for k, line in enumerate(lines, start=1)}
    return {k: match[1].rstrip(' "') for k, match in found.items() if match}


def step_at(lines: list[str], numbers: dict[int, str], start: int, line: int) -> tuple[int, str]:
    """The number under which a line stands, of a function that starts at `start`; else the function's own line."""
    above = [k for k in numbers if start <= k <= line]
    return (above[-1], numbers[above[-1]]) if above else (start, lines[start - 1].strip())


def check(function: Callable, *args: Any, known: list | None = None, due: Any = None, view: Callable | None = None):
    """Runs a function and fails at its first step that makes an array which is not among the known ones.

    known  arrays, or pairs (array, unit rows): the same up to parts along these rows. None: the result alone is asked
    due    what it returns, through `view`; every array of it, in order. None: its arrays are among the known ones
    """
    result, error, steps = _run(function, *args)
    for step in steps:
        SEEN.add((str(step.file), step.line))
        for name, value in step.made.items() if known is not None else ():
            _among(known, value, step, name)
    if error:
        steps[-1].fail(f"it raises {error!r}")
    values = list(arrays(view(result) if view else result))
    if due is None:
        for value in values:
            _among(known, value, steps[-1], "what it returns")
        return result
    dues = list(arrays(due))
    assert len(values) == len(dues), f"{function}: {len(values)} arrays, {len(dues)} are due"
    for k, (value, right) in enumerate(zip(values, dues, strict=True)):
        _among([right], value, steps[-1], f"array {k} of what it returns")
    return result


def arrays(value: Any) -> Iterator[np.ndarray]:
    """The float arrays of a value: an array, or a record, tuple or dict of them."""
    if isinstance(value, np.ndarray | float):
        if np.asarray(value).dtype.kind == "f":
            yield np.asarray(value)
    elif isinstance(value, dict):
        yield from arrays(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays(part)
    elif dataclasses.is_dataclass(value):
        yield from arrays(vars(value))


def _among(known: list, value: Any, step: Step, name: str) -> None:
    for part in arrays(value):
        if not any(_fits(part, due) for due in known):
            sign = "has the wrong sign" if any(_fits(-part, due) for due in known) else "is none of what is due"
            step.fail(f"{name} {sign}: {np.array2string(part, precision=6, threshold=12)}")


def _fits(value: np.ndarray, due: Any) -> bool:
    if isinstance(due, tuple):
        due, unit = due
        if due.shape != value.shape or unit.shape != value.shape:
            return False
        value, due = (v - unit * np.sum(unit * v, axis=1, keepdims=True) for v in (value, due))
    due = np.asarray(due, dtype=float)
    scale = np.max(np.abs(due), initial=0.0)
    return due.shape == value.shape and bool(np.all(np.abs(value - due) <= CLOSE * scale))


def _run(function: Callable, *args: Any) -> tuple[Any, Exception | None, list[Step]]:
    """What it returns, what it raises, and its steps in the order in which they ran; the last one returned."""
    function = getattr(function, "fget", function)
    code: CodeType = getattr(function, "__code__", None) or function.__func__.__code__
    file, start = Path(code.co_filename), code.co_firstlineno
    lines = file.read_text(encoding="utf-8").splitlines()
    numbers = numbered_lines(lines)
    steps: list[Step] = []
    before: dict[str, Any] = {}

    def trace(frame, event, arg):
        if frame.f_code is not code:
            return None
        if event == "call":
            before.update(_copied(frame.f_locals))
        else:
            if steps:  # a line event comes before the line: what has changed, the step before it has made
                now = _copied(frame.f_locals)
                changed = {name: now[name] for name in now if name not in before or not _same(now[name], before[name])}
                steps[-1].made |= changed
                before.update(now)
            line, text = step_at(lines, numbers, start, frame.f_lineno)
            if not steps or steps[-1].line != line:
                steps.append(Step(file, line, text))
        return trace

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        return function(*args), None, steps
    except Exception as error:
        return None, error, steps
    finally:
        sys.settrace(outer)


def _copied(names: dict[str, Any]) -> dict[str, list[np.ndarray]]:
    return {k: [part.copy() for part in arrays(v)] for k, v in names.items() if not k.startswith("_")}


def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))
