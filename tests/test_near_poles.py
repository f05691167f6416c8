"""Every gradient keeps its digits at every angle: near a pole nothing cancels, at a pole nothing is left over.

The truth is the textbook form in mpmath, at enough digits for angles down to 1e-12; the natural scale is its
definition in polar form, with sines from the same arithmetic, since float64 has none at these angles.
"""

from __future__ import annotations

import many_digits
import mpmath
import numpy as np
import pytest
from helpers import logits_pass

import refloss
from refloss import validation as check
from refloss.textbook.rows import row_norm
from refloss.witnesses.problem import loss_problem

U = np.finfo(float).eps / 2
D = 8
# errors of a few √D roundings a step, about ten steps, times the scale r: measured 1.6e-15 … 1.7e-14 at r = 8
BOUND = 64 * np.sqrt(D) * U

LOSSES = {
    "w_norm_softmax": refloss.WNormSoftmax(),
    "a_softmax": refloss.ASoftmax(margin=3),
    "f_norm_sphereface": refloss.FNormSphereFace(scale=8),
    "am_softmax": refloss.AMSoftmax(scale=8),
    "arcface": refloss.ArcFace(scale=8),
    "own": refloss.MarginSoftmax(
        psi=lambda theta, xp: xp.cos(theta + 0.2), dpsi=lambda theta, xp: -xp.sin(theta + 0.2), scale=8
    ),
}


def sines(x, W):
    """sin θ of every pair, from 60 digits, as float64."""
    with mpmath.workdps(60):
        x, W = many_digits.exact(x), many_digits.exact(W)
        inner = x @ W.T
        lengths = np.outer(np.sum(x * x, axis=1), np.sum(W * W, axis=1))
        square = 1 - inner * inner / lengths
        return np.vectorize(lambda v: float(mpmath.sqrt(abs(v))), otypes=[float])(square)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("theta", [1e-3, 1e-5, 1e-8, 1e-12])
def test_all_classes_near_the_feature(name, theta, rng):
    """N = 1 and every W_j within about θ of ±x: errors stay relative to each row's tiny natural scale."""
    x = rng.normal(size=(1, D))
    W = np.array([x[0] * (1 + j / 2) * (-1) ** (j // 2) + theta * rng.normal(size=D) for j in range(4)])
    loss, y = LOSSES[name], np.array([0])
    out = loss.forward(x, W, y)
    grads = loss.backward(out)
    problem = loss_problem(loss, x, W, check.targets(y, 1, 4, loss), None, np.array(1.0))
    _, truth = many_digits.value_and_gradients(problem)
    # the tangential part of every class: G_ij r |ψ'(θ_ij)| / ‖W_j‖, with ψ' = −sin θ but for an additive angle
    G = np.abs(grads.logits)
    r = 8.0 if hasattr(loss, "scale") else np.linalg.norm(x)
    slope = sines(x, W)
    slope[0, 0] = np.abs(logits_pass(loss, x, W, y).psi.slope[0]) if name in ("arcface", "own") else slope[0, 0]
    scale_W = (G * r * slope)[0] / np.linalg.norm(W, axis=1)
    error = row_norm(grads.W - truth["W"])
    assert (error <= BOUND * np.maximum(r, 1) * scale_W).all(), error / scale_W
    if name not in ("w_norm_softmax", "a_softmax"):  # those have a radial part in x as well
        scale_x = np.sum(G * r * slope) / np.linalg.norm(x)
        assert row_norm(grads.x - truth["x"])[0] <= BOUND * np.maximum(r, 1) * scale_x


@pytest.mark.parametrize("name", ["am_softmax", "f_norm_sphereface", "arcface"])
def test_exactly_parallel_leaves_exactly_nothing(name):
    """x ∥ every W_j, in numbers whose unit vectors round: the directions cannot matter, and the gradient is 0."""
    x = np.array([[3.0, -1.0, 7.0]])
    W = x * np.array([[1.0], [-2.0], [3.0]])
    loss = LOSSES[name]
    grads = loss.value_and_grad(x, W, [0])[1]
    assert not grads.x.any()
    assert not grads.W.any()
