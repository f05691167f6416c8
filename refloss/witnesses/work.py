"""What a check of a large input will take: counted from its sizes, timed on small pieces of it before it begins.

The unit is a pair of sample and class, one logit, evaluated in one of several ways: "measure" (scale and rounding),
"tape" (autograd), "ball", "real" and "complex" (the textbook form), the same with " class" (a row of W or b) or
" number" (scale, margin, alpha) behind it where that alone is moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from refloss.textbook.namespaces import complex_namespace, numpy_namespace
from refloss.textbook.rows import as_rows
from refloss.witnesses.autograd_tape import sweep
from refloss.witnesses.batches import EVALUATIONS, PAIR, pairs_of_an_entry, way
from refloss.witnesses.problem import AT_ONCE, Problem, measured_at_once

BRIEF = 2e10  # multiplications, some seconds: less is not worth a word
BALL = 1e4  # multiplications that one of balls takes
LONG = 0.3  # seconds, after which a piece is timed no second time
COPIES = 3  # of a number such as the scale that are formed at once: of 19 evaluations 1, 8, and five times 2


class Meter:
    """Who wants to know what a check will take, and how far it is.

    before  before(seconds): the rest will take so long
    after   after(share): so much is done, of 1
    """

    def __init__(self, before: Callable[[float], None], after: Callable[[float], None]) -> None:
        self.before, self.after = before, after
        self.done = self.total = 0.0

    def begin(self, problem: Problem, witnesses: Sequence[str]) -> None:
        """Times pieces of the problem, if it is a large one, and is told of its work from now on."""
        pairs = planned(problem, witnesses)
        width = sum(np.shape(value)[-1] for name, value in problem.inputs.items() if name == "x") + PAIR
        if sum(count * (BALL if what == "ball" else 1.0) for what, count in pairs.items()) * width < BRIEF:
            return
        seconds = timed(problem, pairs)
        left = sum(count * seconds[what] for what, count in pairs.items())
        self.total += left
        self.before(left)

        def tell(what: str, count: float) -> None:
            self.done += count * seconds.get(what, 0.0)
            self.after(min(self.done / self.total, 1.0))

        problem.tell = tell


def planned(problem: Problem, witnesses: Sequence[str]) -> dict[str, float]:
    """Way of evaluation → how many pairs."""
    every = float(problem.batch * problem.classes)
    pairs: dict[str, float] = defaultdict(float, measure=every)
    for witness in witnesses:
        if witness not in EVALUATIONS:
            pairs["tape" if witness == "autograd" else witness] += every
            continue
        for name, value in problem.inputs.items():
            what = way(problem, name, "real" if witness == "finite_difference" else "complex")
            entries = len(problem.looked(name)) * as_rows(value).shape[1]
            pairs[what] += entries * EVALUATIONS[witness] * pairs_of_an_entry(problem, name)
    return pairs


def timed(problem: Problem, ways: Iterable[str]) -> dict[str, float]:
    """Way of evaluation → seconds a pair, of those ways."""
    seconds = {}
    with np.errstate(all="ignore"):
        for what in ways:
            piece, pairs = _piece(problem, what)
            seconds[what] = _seconds(piece) / pairs
    return seconds


def _piece(problem: Problem, what: str) -> tuple[Callable[[], Any], float]:
    """Something to be timed, and how many pairs it evaluates."""
    rows = next(problem.blocks(AT_ONCE))
    pairs = float((len(rows) if problem.rowwise else problem.batch) * problem.classes)
    kind, _, moved = what.partition(" ")
    if what == "tape":
        return lambda: sweep(problem, rows), pairs
    if what == "ball":
        return lambda: _ball(problem), problem.classes
    if what == "measure":
        few = rows[: max(int(measured_at_once(problem) / problem.classes), 1)]
        return lambda: problem.try_measure(few), pairs * len(few) / len(rows)
    xp, dtype = (numpy_namespace, float) if kind == "real" else (complex_namespace, complex)
    moved_class = problem.moved_class
    if moved == "class" and moved_class is not None:
        j = int([*problem.looked("W"), 0][0])
        at = np.repeat(problem.inputs["W"][j : j + 1].astype(dtype), int(AT_ONCE / problem.batch) + 1, axis=0)
        moved_class(xp, "W", at[:1], j)  # holds what is held of the other classes
        return lambda: moved_class(xp, "W", at, j), len(at) * problem.batch
    given = problem.at(rows)
    if moved == "number":
        copies = COPIES if kind == "real" else 1
        name = next(name for name, value in given.items() if np.ndim(value) == 0)
        given[name] = np.full(copies, given[name], dtype=dtype)
        pairs *= copies
    else:
        given |= {name: given[name].astype(dtype) for name in problem.rowwise}
    return lambda: problem.terms(xp, given, rows), pairs


def _seconds(piece: Callable[[], Any]) -> float:
    """Of the second time, unless that would take long: the first may import, or form what is kept."""
    for again in (False, True):
        began = perf_counter()
        piece()
        took = perf_counter() - began
        if took > LONG and not again:
            break
    return took


def _ball(problem: Problem) -> None:
    """One sample by balls."""
    from refloss.proof.witness import ball

    first = np.arange(1)

    def terms(xp: Any, given: Any, rows: Any) -> Any:
        return problem.terms(xp, given, first)

    ball(replace(problem, inputs=problem.at(first), terms=terms, noise=np.zeros(1), scale={}))
