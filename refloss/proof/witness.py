"""Witness: the textbook form over balls. Its error is the width of the enclosure."""

from __future__ import annotations

import numpy as np
from flint import arb, ctx

from refloss.proof.balls import namespace
from refloss.proof.tape import each, exact, gradients, lift, total, variable
from refloss.textbook.rows import as_rows
from refloss.witnesses.estimate import Estimate
from refloss.witnesses.problem import Problem

FINE = 2.0**-60  # of a row's scale: what float64 cannot tell from the truth
MOST_BITS = 2048  # beyond it a row is left to the others, and to `refloss.certify`

_middle = each(lambda v: v.mid() if v.is_finite() else arb(0))


def ball(problem: Problem) -> dict[str, Estimate]:
    """The gradient in every input from one reverse sweep, with as many bits as its rows need."""
    everyone, bits = np.arange(problem.samples), 128
    namespaces = []  # kept, for a problem may know them apart by identity
    while True:
        namespaces.append(namespace())
        with ctx.workprec(bits):
            leaves = {name: variable(value) for name, value in problem.inputs.items()}
            terms = lift(problem.terms(namespaces[-1], leaves, everyone))
            found = gradients(terms, exact(1), list(leaves.values()))
            estimates = {
                name: _rounded(value, problem.inputs[name].shape) for name, value in zip(leaves, found, strict=True)
            }
        fine = all((error <= FINE * problem.scale.get(name, np.inf)).all() for name, (_, error) in estimates.items())
        if fine or bits >= MOST_BITS:
            return estimates
        bits *= 2


def _rounded(gradient: np.ndarray, shape: tuple[int, ...]) -> Estimate:
    """Midpoints in float64; the error of a row covers radius and rounding."""
    values = each(float)(_middle(gradient)).astype(float)
    off = gradient - exact(values)
    lengths = each(lambda v: v.sqrt().abs_upper())(total(as_rows(off * off), axis=1))
    error = np.array([float(v) * (1 + 2.0**-50) if v.is_finite() else np.inf for v in lengths])
    return Estimate(values.reshape(shape), error)
