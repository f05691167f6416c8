"""Witness: HIPS autograd run over the textbook form. Its error is the rounding of that form."""

from __future__ import annotations

import warnings

import numpy as np

from refloss.textbook.namespaces import autograd_namespace
from refloss.textbook.rows import row_norm
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.problem import AT_ONCE, Problem


def autograd(problem: Problem) -> dict[str, Estimate]:
    """The gradient in every input from one reverse sweep of each block of samples."""
    gradients = {name: np.zeros(np.shape(value)) for name, value in problem.inputs.items()}
    for rows in problem.blocks(AT_ONCE):
        for name, gradient in sweep(problem, rows).items():
            if name in problem.rowwise:
                gradients[name][rows] = gradient
            else:
                gradients[name] = gradients[name] + gradient
        problem.tell("tape", len(rows) * problem.classes)
    estimates = {}
    for name, gradient in gradients.items():
        gradient = np.asarray(gradient, dtype=float)
        blind = ~np.isfinite(row_norm(gradient))
        estimates[name] = Estimate(gradient, np.where(blind, np.inf, 0.0))
    return estimates


def sweep(problem: Problem, rows: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of the sum of these samples' terms."""
    from autograd import grad

    xp = autograd_namespace()

    def total(inputs: dict) -> object:
        return xp.sum(problem.terms(xp, inputs, rows))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arccos at ±1 has no slope: the gradient is NaN and says nothing
        return grad(total)(problem.at(rows))
