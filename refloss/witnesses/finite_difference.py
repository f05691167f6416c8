"""Witness: finite differences by scipy.differentiate, order 8, with its own error estimate.

The estimate alone can be 0.0 where the function is flat to the last digit, so the rounding of the function over
the smallest step is added to it. Rows whose stencil would meet a pole, a kink or a jump are not looked at.
"""

from __future__ import annotations

import numpy as np

from refloss.textbook.namespaces import numpy_namespace
from refloss.textbook.rows import as_rows, row_norm
from refloss.witnesses.batches import AT_ONCE, affordable_rows, cost
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.problem import Problem

ORDER, FACTOR, ITERATIONS = 8, 2.0, 6
EVALUATIONS = 1 + ORDER + 2 * (ITERATIONS - 1)
AMPLIFICATION = 32.0  # Σ|weights| of the order-8 stencil with steps h … h/8 is 27/h
SMALLEST_STEP = 1e-9  # below it rounding is all that is left


def finite_difference(problem: Problem) -> dict[str, Estimate]:
    """The gradient in every input, entry by entry."""
    return {name: _one(problem, name) for name in problem.inputs}


def _one(problem: Problem, name: str) -> Estimate:
    from scipy.differentiate import derivative

    value = as_rows(problem.inputs[name])
    step = problem.step[name]
    rows = affordable_rows(problem, name, EVALUATIONS)
    rows = rows[step[rows] > SMALLEST_STEP]
    gradient = np.zeros(value.shape)
    error = np.full(len(value), np.inf)
    if len(rows):
        width = value.shape[1]
        r, d = np.repeat(rows, width), np.tile(np.arange(width), len(rows))
        along = _along_row if name in problem.rowwise else _along_entry

        def function(t: np.ndarray, r: np.ndarray, d: np.ndarray) -> np.ndarray:
            t, r, d = np.broadcast_arrays(t, r, d)
            values = along(problem, name, t.ravel(), r.ravel(), d.ravel())
            return values.reshape(t.shape)

        with np.errstate(all="ignore"):
            result = derivative(
                function,
                np.zeros(len(r)),
                args=(r, d),
                initial_step=step[r],
                step_factor=FACTOR,
                order=ORDER,
                maxiter=ITERATIONS,
                tolerances={"atol": 0.0, "rtol": 1e-12},
            )
            unit = problem.unit[name][r]
            noise = problem.noise[r] if name in problem.rowwise else np.sum(problem.noise)
            smallest = step[r] / FACTOR ** (result.nit - 1)
            off = (2 * result.error + AMPLIFICATION * noise / smallest) / unit
            gradient[r, d] = result.df / unit
            together = row_norm(off.reshape(len(rows), width))
        error[rows] = np.where(np.isfinite(together), together, np.inf)
        gradient[~np.isfinite(gradient)] = 0.0
    return Estimate(gradient.reshape(np.shape(problem.inputs[name])), error)


def _along_row(problem: Problem, name: str, t: np.ndarray, r: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Term r with its row moved by t units along axis d: one row a copy."""
    moved = problem.inputs[name][r].copy()
    moved[np.arange(len(r)), d] += t * problem.unit[name][r]
    values = np.empty(len(t))
    chunk = max(int(AT_ONCE * max(problem.samples, 1) / cost(problem)), 1)
    for start in range(0, len(t), chunk):
        part = slice(start, start + chunk)
        given = problem.inputs | {name: moved[part]}
        values[part] = problem.terms(numpy_namespace, given, r[part])
    return values


def _along_entry(problem: Problem, name: str, t: np.ndarray, r: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The sum of all terms with entry (r, d) moved by t units: one problem a copy."""
    value = as_rows(problem.inputs[name])
    shape = np.shape(problem.inputs[name])
    everyone = np.arange(problem.samples)
    values = np.empty(len(t))
    chunk = max(int(AT_ONCE / cost(problem)), 1) if problem.runs_everywhere else 1
    for start in range(0, len(t), chunk):
        part = slice(start, start + chunk)
        n = len(t[part])
        moved = np.repeat(value[None], n, axis=0)
        moved[np.arange(n), r[part], d[part]] += t[part] * problem.unit[name][r[part]]
        moved = moved.reshape(n, *shape) if problem.runs_everywhere else moved.reshape(shape)
        given = problem.inputs | {name: moved}
        values[part] = np.sum(problem.terms(numpy_namespace, given, everyone), axis=-1)
    return values
