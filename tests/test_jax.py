"""The textbook formulas under JAX: one more namespace, and one more independent derivative."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import need

import refloss
from refloss import validation as check
from refloss.cases.gradcheck import all_cases
from refloss.textbook.namespaces import from_module
from refloss.textbook.rows import row_norm
from refloss.witnesses.problem import loss_problem

NAMES = ("typical", "every_angle", "psi_branches_m3", "arc_branches_past_pi_linear", "cosine_detached", "soft_weights")


@pytest.fixture(scope="module")
def jax():
    jax = need("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


@pytest.mark.parametrize("name", refloss.losses())
def test_passes_agree_with_jax_through_the_textbook(name, jax):
    """jax.grad of the formula, in float64, is the explicit backward to the formula's own rounding."""
    xp = from_module(jax.numpy, logsumexp=lambda z: jax.scipy.special.logsumexp(z, axis=-1))
    chosen = [case for case in all_cases([name]) if case.name in NAMES]
    assert len(chosen) >= 2
    sharp = []  # the bounds, relative to the natural scale: small enough to mean something
    for case in chosen:
        loss, upstream = case.loss, np.asarray(-1.375)
        out = loss.forward(case.x, case.W, case.labels, case.b)
        grads = loss.backward(out, upstream)
        targets = check.targets(case.labels, *out.logits.shape, loss)
        problem = loss_problem(loss, case.x, case.W, targets, case.b, upstream)
        everyone = np.arange(problem.samples)

        def total(inputs, problem=problem, everyone=everyone):
            return problem.terms(xp, inputs, everyone).sum()

        value, derivative = jax.value_and_grad(total)({k: jax.numpy.asarray(v) for k, v in problem.inputs.items()})
        assert abs(problem.weight * float(value) + 1.375 * out.loss) <= problem.weight * problem.noise.sum()
        for given, expected in derivative.items():
            error = row_norm(getattr(grads, given) - problem.weight * np.asarray(expected))
            assert (error <= problem.rounding[given]).all(), (case.name, given)
            felt = problem.scale[given] > 0
            sharp.extend(problem.rounding[given][felt] / problem.scale[given][felt])
    assert np.median(sharp) < 1e-10
