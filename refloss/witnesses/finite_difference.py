"""Witness: finite differences by scipy.differentiate, order 8, with its own error estimate.

The estimate alone can be 0.0 where the function is flat to the last digit, so the rounding of the function over
the smallest step is added to it. Rows whose stencil would meet a pole, a kink or a jump are not looked at.
"""

from __future__ import annotations

import numpy as np

from refloss.textbook.namespaces import numpy_namespace
from refloss.textbook.rows import as_rows, row_norm
from refloss.witnesses.batches import along_entries
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.problem import Problem

ORDER, FACTOR, ITERATIONS = 8, 2.0, 6
AMPLIFICATION = 32.0  # Σ|weights| of the order-8 stencil with steps h … h/8 is 27/h
TOLERANCE = 1e-12  # relative; a derivative that has it is not refined further
SMALLEST_STEP = 1e-9  # below it rounding is all that is left


def finite_difference(problem: Problem) -> dict[str, Estimate]:
    """The gradient in every input, entry by entry."""
    return {name: _one(problem, name) for name in problem.inputs}


def _one(problem: Problem, name: str) -> Estimate:
    from scipy.differentiate import derivative

    value = as_rows(problem.inputs[name])
    step = problem.step[name]
    rows = problem.looked(name)
    rows = rows[step[rows] > SMALLEST_STEP]
    gradient = np.zeros(value.shape)
    error = np.full(len(value), np.inf)
    if len(rows):
        width = value.shape[1]
        r, d = np.repeat(rows, width), np.tile(np.arange(width), len(rows))

        def function(t: np.ndarray, r: np.ndarray, d: np.ndarray) -> np.ndarray:
            t, r, d = np.broadcast_arrays(t, r, d)
            values = along_entries(problem, numpy_namespace, name, t.ravel(), r.ravel(), d.ravel())
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
                tolerances={"atol": 0.0, "rtol": TOLERANCE},
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
