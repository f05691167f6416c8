"""Witness: HIPS autograd run over the textbook form. Its error is the rounding of that form."""

from __future__ import annotations

import warnings

import numpy as np

from refloss.textbook.namespaces import autograd_namespace
from refloss.textbook.rows import row_norm
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.problem import Problem


def autograd(problem: Problem) -> dict[str, Estimate]:
    """The gradient in every input from one reverse sweep."""
    from autograd import grad

    xp, everyone = autograd_namespace(), np.arange(problem.samples)

    def total(inputs: dict) -> object:
        return xp.sum(problem.terms(xp, inputs, everyone))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arccos at ±1 has no slope: the gradient is NaN and says nothing
        gradients = grad(total)(problem.inputs)
    estimates = {}
    for name, gradient in gradients.items():
        gradient = np.asarray(gradient, dtype=float)
        blind = ~np.isfinite(row_norm(gradient))
        estimates[name] = Estimate(gradient, np.where(blind, np.inf, 0.0))
    return estimates
