"""How much a witness looks at that goes entry by entry, and how many moved copies of a problem it makes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from refloss.textbook.rows import as_rows
from refloss.witnesses.problem import AT_ONCE, Problem

WORK = 1e10  # multiplications that the rows of an input may cost: a few seconds
PAIR = 100.0  # what a logit and its exponential cost beside a dot product, in multiplications
EVALUATIONS = {"finite_difference": 19.0, "complex_step": 1.0}  # of an entry, by the witnesses that go so
COMPLEX = 3.0  # real evaluations that a complex one costs


def pairs_of_an_entry(problem: Problem, name: str) -> float:
    """The pairs of sample and class that change when one entry of this input is moved."""
    if name in problem.rowwise:
        return problem.classes
    return problem.batch * (1 if by_class(problem, name) else problem.classes)


def by_class(problem: Problem, name: str) -> bool:
    """Whether a row of this input is moved by `Problem.moved_class`."""
    return problem.moved_class is not None and name in ("W", "b")


def way(problem: Problem, name: str, kind: str) -> str:
    """How `Problem.tell` calls it when entries of this input are moved; kind: "real" or "complex"."""
    return kind + (" class" if by_class(problem, name) else "" if np.ndim(problem.inputs[name]) else " number")


def sample(problem: Problem, witnesses: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """name → the rows drawn of an input of which all rows would take too long. It hangs on sizes and seed alone."""
    evaluations = sum(EVALUATIONS.get(w, 0.0) * (COMPLEX if w == "complex_step" else 1.0) for w in witnesses)
    width = sum(np.shape(v)[-1] for name, v in problem.inputs.items() if name == "x") + PAIR
    drawn = {}
    for number, (name, value) in enumerate(problem.inputs.items()):
        count, entries = as_rows(value).shape
        each = evaluations * entries * pairs_of_an_entry(problem, name) * width
        most = max(int(WORK / max(each, 1.0)), 1)
        if name not in problem.compared and most < count:
            drawn[name] = np.sort(np.random.default_rng([seed, number]).choice(count, most, replace=False))
    return drawn


def total(problem: Problem, xp: Any, name: str, moved: Any, copies: int) -> Any:
    """(copies,) the sum of all terms, with that input moved; `moved` holds the copies unless copies is 1."""
    found: Any = 0.0
    for rows in problem.blocks(AT_ONCE / copies):
        given = problem.at(rows) | {name: moved}
        found = found + np.sum(problem.terms(xp, given, rows), axis=-1)
    return found


def chunks(problem: Problem, name: str, count: int) -> Iterator[slice]:
    """So many copies with one entry moved, as many at once as fit in memory."""
    if name in problem.rowwise:
        numbers = problem.classes + np.shape(problem.inputs[name])[-1]
    elif by_class(problem, name):
        numbers = problem.samples + np.size(problem.inputs[name]) / problem.classes
    else:
        numbers = np.size(problem.inputs[name]) * (problem.samples if np.ndim(problem.inputs[name]) else 1)
    size = max(int(AT_ONCE / max(numbers, 1)), 1) if problem.runs_everywhere else 1
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def along_entries(problem: Problem, xp: Any, name: str, t: np.ndarray, r: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The sum of the terms that entry (r, d) enters, with it moved by t units, for each of t, r, d.

    Up to what does not depend on row r.
    """
    what = way(problem, name, "complex" if np.iscomplexobj(t) else "real")
    value, values = as_rows(problem.inputs[name]), np.empty(len(t), dtype=t.dtype)
    shift, shape = t * problem.unit[name][r], np.shape(problem.inputs[name])
    if problem.moved_class is not None and by_class(problem, name):
        for j in np.unique(r):
            of_j = np.flatnonzero(r == j)
            for part in chunks(problem, name, len(of_j)):
                one = of_j[part]
                moved = np.repeat(value[j : j + 1].astype(t.dtype), len(one), axis=0)
                moved[np.arange(len(one)), d[one]] += shift[one]
                moved = moved.reshape(len(one), *shape[1:])
                values[one] = np.sum(problem.moved_class(xp, name, moved, int(j)), axis=-1)
                problem.tell(what, len(one) * problem.samples)
        return values
    for part in chunks(problem, name, len(t)):
        n = len(t[part])
        if name in problem.rowwise:  # row r moves term r alone: one row a copy
            moved = problem.inputs[name][r[part]].astype(t.dtype)
            moved[np.arange(n), d[part]] += shift[part]
            values[part] = problem.terms(xp, problem.inputs | {name: moved}, r[part])
            problem.tell(what, n * problem.classes)
            continue
        moved = np.repeat(value[None].astype(t.dtype), n, axis=0)
        moved[np.arange(n), r[part], d[part]] += shift[part]
        moved = moved.reshape(n, *shape) if problem.runs_everywhere else moved.reshape(shape)
        values[part] = total(problem, xp, name, moved, n if moved.ndim < 2 else 1)
        problem.tell(what, n * problem.batch * problem.classes)
    return values
