"""How many perturbed copies of a problem to make at once, and how many rows are worth the time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refloss.textbook.rows import as_rows
from refloss.witnesses.problem import Problem

WORK = 4e8  # logit terms an input may cost: a second or two
AT_ONCE = 4e6  # numbers held in memory


def cost(problem: Problem) -> float:
    """Numbers that one evaluation touches."""
    W = problem.inputs.get("W")
    return float(problem.samples * (W.size if W is not None else 1) + sum(np.size(v) for v in problem.inputs.values()))


def affordable_rows(problem: Problem, name: str, evaluations: int) -> np.ndarray:
    """All rows of the input, or an even choice of them where all would take too long."""
    count, width = as_rows(problem.inputs[name]).shape
    each = cost(problem) / (max(problem.samples, 1) if name in problem.rowwise else 1)
    most = max(int(WORK / (each * evaluations * width)), 1)
    return np.arange(count) if count <= most else np.unique(np.linspace(0, count - 1, most).astype(int))


def copies(problem: Problem, name: str, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The entries (r, d) of those rows, in chunks that fit in memory."""
    width = as_rows(problem.inputs[name]).shape[1]
    r, d = np.repeat(rows, width), np.tile(np.arange(width), len(rows))
    chunk = max(int(AT_ONCE / cost(problem)), 1)
    for start in range(0, len(r), chunk):
        yield r[start : start + chunk], d[start : start + chunk]
