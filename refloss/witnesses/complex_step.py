"""Witness: complex step. f(a + ih)/h has the derivative as its imaginary part, without any subtraction.

Source: Squire & Trapp, SIAM Review 40 (1998); Martins et al., ACM TOMS 29 (2003), eq. (6). Its error is the
rounding of the textbook form; the truncation h² = 1e-60 is none.
"""

from __future__ import annotations

import numpy as np

from refloss.textbook.namespaces import complex_namespace
from refloss.textbook.rows import as_rows, row_norm
from refloss.witnesses.batches import along_entries
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.problem import TINY, Problem

STEP = 1e-30


def complex_step(problem: Problem) -> dict[str, Estimate]:
    """The gradient in every input, entry by entry."""
    return {name: _one(problem, name) for name in problem.inputs}


def _one(problem: Problem, name: str) -> Estimate:
    value = as_rows(problem.inputs[name])
    gradient = np.zeros(value.shape)
    unit = problem.unit[name]
    rows, width = problem.looked(name), value.shape[1]
    r, d = np.repeat(rows, width), np.tile(np.arange(width), len(rows))
    with np.errstate(all="ignore"):
        change = np.imag(along_entries(problem, complex_namespace, name, np.full(len(r), 1j * STEP), r, d))
        gradient[r, d] = change / STEP / unit[r]
    looked = np.zeros(len(value), dtype=bool)
    looked[rows] = True
    seen = looked & np.isfinite(row_norm(gradient))
    # below the subnormals nothing comes back of what the step has multiplied by 1e-30
    lost = 8 * TINY / STEP / unit * np.sqrt(value.shape[1])
    shape = np.shape(problem.inputs[name])
    return Estimate(gradient.reshape(shape), np.where(seen, lost, np.inf))
