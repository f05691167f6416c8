"""Loss and gradients against 50-digit arithmetic: 1e-12 of the natural scale at ordinary inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from many_digits import value_and_gradients

import refloss
from refloss import validation as check
from refloss.cases.angles import place
from refloss.cases.configurations import parabola, parabola_slope
from refloss.textbook.rows import row_norm
from refloss.witnesses.compare import WITNESSES, in_units_of_the_gradient
from refloss.witnesses.problem import loss_problem

BOUND = 1e-12  # what the reference promises at angles in [1e-3, π − 1e-3]

N, C, D = 6, 8, 16
WEIGHTS = tuple(np.linspace(0.25, 2.0, C))
ANGLES = {"whole range": np.array([1e-3, 0.4, 1.3, 1.8, 2.7, np.pi - 1e-3]), "hard": np.linspace(1.4, 3.0, N)}
LOSSES = {
    "softmax": refloss.Softmax(),
    "weighted_softmax": refloss.WeightedSoftmax(class_weights=WEIGHTS, reduction="weighted_mean"),
    "w_norm_softmax": refloss.WNormSoftmax(reduction="sum"),
    "l_softmax": refloss.LSoftmax(),
    "l_softmax m=3 annealed": refloss.LSoftmax(margin=3, annealing=5.0),
    "l_softmax own D": refloss.LSoftmax(margin=4, continuation=(parabola, parabola_slope)),
    "a_softmax": refloss.ASoftmax(label_smoothing=0.1),
    "f_norm_sphereface": refloss.FNormSphereFace(),
    "l2_softmax": refloss.L2Softmax(),
    "am_softmax": refloss.AMSoftmax(),
    "arcface": refloss.ArcFace(),
    "arcface linear tail": refloss.ArcFace(past_pi="linear", easy_margin=True, scale=16),
    "arcface detached": refloss.ArcFace(detach_margin=True),
    "own margin, both norms": refloss.MarginSoftmax(
        psi=lambda theta, xp: xp.cos(theta) - 0.2 * theta,
        dpsi=lambda theta, xp: -xp.sin(theta) - 0.2,
        radius="both_norms",
    ),
}


def problem_of(loss, angles, seed=0):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(C, D)) / 2
    y = rng.integers(0, C, N)
    x = place(rng, W, y, angles, np.linspace(0.5, 4.0, N))
    b = rng.normal(size=C) if loss.has_bias else None
    upstream = -1.375 if loss.reduction != "none" else rng.normal(size=N)
    out = loss.forward(x, W, y, b)
    grads = loss.backward(out, upstream)
    problem = loss_problem(loss, x, W, check.targets(y, N, C, loss), b, np.asarray(upstream))
    return out, grads, problem, upstream


@pytest.mark.parametrize("angles", ANGLES.values(), ids=ANGLES)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_value_and_gradients_to_1e_12_of_the_natural_scale(loss, angles):
    """The explicit passes agree with 50 digits, in every input, row by row."""
    out, grads, problem, upstream = problem_of(loss, angles)
    terms, gradients = value_and_gradients(problem)
    expected = terms.sum() / upstream
    assert abs(out.loss - expected) <= BOUND * abs(expected)
    for name, gradient in gradients.items():
        error = row_norm(getattr(grads, name) - gradient)
        assert (error <= BOUND * problem.scale[name]).all(), (name, error / problem.scale[name])


@pytest.mark.parametrize("name", ["softmax", "l_softmax", "l2_softmax", "am_softmax", "arcface"])
def test_a_witness_errs_no_more_than_it_says(name):
    """On every row that a witness has looked at, its true error is within its own bound."""
    loss = LOSSES[name]
    looked = Counter()
    for angles in (*ANGLES.values(), np.array([1e-5, 0.05, 0.2, 0.6, np.pi / 4 + 1e-4, np.pi - 1e-2])):
        _, _, problem, _ = problem_of(replace(loss, reduction="none"), angles, seed=3)
        _, gradients = value_and_gradients(problem)
        for witness, run in WITNESSES.items():
            for given, estimate in in_units_of_the_gradient(problem, run(problem)).items():
                allowed = estimate.error + problem.rounding[given]
                sees = np.isfinite(allowed)
                error = row_norm(estimate.gradient - gradients[given])
                assert (error[sees] <= allowed[sees]).all(), (witness, given, error, allowed)
                looked[witness] += int(sees.sum())
    assert min(looked[witness] for witness in WITNESSES) > 20
