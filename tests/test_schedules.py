"""refloss.schedules: the values of released code, its conventions, and the losses at that λ."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from agreement import piecewise_psi
from helpers import UNIT, assert_printed, logits_pass, near
from pages.test_paper_numbers import degrees, target_logits

import refloss
from refloss import schedules

RELEASED = {
    name: value
    for name, value in vars(schedules).items()
    if isinstance(value, schedules.InversePower | schedules.Geometric)
}
FAMILY = [refloss.LSoftmax(), refloss.ASoftmax(), refloss.FNormSphereFace(scale=1)]

# name, iteration, λ of the released code, its last digit, m
PRINTED = [
    ("L_SOFTMAX_MNIST", 1, 999.125, 1e-3, 4),
    ("L_SOFTMAX_MNIST", 30000, 3.117e-6, 1e-9, 4),
    ("L_SOFTMAX_CIFAR10", 30000, 6.525e-7, 1e-10, 2),
    ("L_SOFTMAX_CIFAR10_PLUS", 30000, 7.457e-3, 1e-6, 2),
    ("SPHEREFACE", 1, 892.857, 1e-3, 4),
    ("SPHEREFACE", 1659, 5.0, 1e-12, 4),
    ("SPHEREFACE_PLUS", 1, 5.0, 1e-12, 4),
    ("SPHEREFACE_PYTORCH", 1, 1363.636, 1e-3, 4),
    ("SV_X_SOFTMAX", 1, 999.800, 1e-3, 4),
    ("MX_LSOFTMAX", 1, 100.0, 1e-12, 2),
    ("LSOFTMAX_PYTORCH", 1, 100.0, 1e-12, 4),
]


@pytest.mark.parametrize(("name", "iteration", "printed", "last_digit", "m"), PRINTED)
def test_released_schedules(name, iteration, printed, last_digit, m):
    """λ of the released schedules, and refloss' target logit (λ cos θ + ψ(θ))/(1 + λ) at that λ."""
    annealing = RELEASED[name](iteration)
    assert_printed(annealing, printed, last_digit)
    theta = degrees(*range(0, 181, 5))
    due = (annealing * np.cos(theta) + piecewise_psi(m)[0](theta)) / (1 + annealing)
    for loss in FAMILY:
        value = target_logits(replace(loss, margin=m, annealing=annealing), theta)
        # terms of up to 7, each rounded a few times
        np.testing.assert_allclose(value, due, rtol=0, atol=4e-15)


@pytest.mark.parametrize(
    ("name", "floor"), [("SPHEREFACE", 1659), ("SPHEREFACE_PYTORCH", 2990), ("SV_X_SOFTMAX", 131422)]
)
def test_first_iteration_at_the_floor(name, floor):
    """λ is above 5 one pass before, exactly 5 from then on."""
    schedule = RELEASED[name]
    assert schedule(floor - 1) > 5
    assert schedule(floor) == schedule(10**7) == 5


def test_sphereface_plus_starts_at_2000():
    """Its counter starts at 2000, where λ = 1000/(1 + 0.12 · 2001) = 4.15 is below the floor."""
    assert replace(schedules.SPHEREFACE_PLUS, minimum=0)(1) == near(1000 / 241.12, 1e-15)
    for n in (1, 7, 1000):
        assert replace(schedules.SPHEREFACE_PLUS, minimum=0)(n) == replace(schedules.SPHEREFACE, minimum=0)(n + 2000)


@pytest.mark.parametrize("name", RELEASED)
def test_a_loop_that_counts_as_the_released_code_does(name):
    """The layers count up and then use; the ports use and then multiply. 300 passes, as they run."""
    schedule = RELEASED[name]
    if isinstance(schedule, schedules.InversePower):
        counter = schedule.start
        for n in range(1, 301):
            counter += 1
            due = max(schedule.minimum, schedule.base * math.pow(1 + schedule.gamma * counter, -schedule.power))
            assert schedule(n) == due
        return
    beta = schedule.base
    for n in range(1, 301):
        # every product of the loop is rounded
        assert schedule(n) == near(max(beta, schedule.minimum), 1e-13)
        beta *= schedule.ratio


@pytest.mark.parametrize("name", RELEASED)
def test_a_schedule_falls_to_its_floor(name):
    values = [RELEASED[name](n) for n in (*range(1, 200), 10**3, 10**5, 10**7, 10**12)]
    assert all(a >= b for a, b in pairwise(values))
    # of 10^12 passes; of the beginning that share is left above the floor
    assert values[-1] - RELEASED[name].minimum <= 1e-12 * RELEASED[name].base


def test_the_slope_at_a_right_angle_is_the_plain_ones():
    """schedules.md: for m = 4 the margin's own slope at 90° is 0, and the loss's is −λ/(1 + λ)."""
    for annealing in (0.0, 5.0, 1000.0):
        loss = refloss.FNormSphereFace(scale=1, margin=4, annealing=annealing)
        at = logits_pass(loss, [[0.0, 1.0]], [[1.0, 0.0]], [0])
        # terms of size 1 and m = 4
        assert at.psi.slope[0] == pytest.approx(-annealing / (1 + annealing), abs=8 * UNIT)
        assert at.psi.value[0] == near(-3 / (1 + annealing), 1e-15)


@pytest.mark.parametrize("iteration", [0, -1, 1.0, True, "1", None])
@pytest.mark.parametrize("name", ["SPHEREFACE", "MX_LSOFTMAX"])
def test_a_bad_iteration_is_named(name, iteration):
    with pytest.raises((ValueError, TypeError), match=r"^iteration must be an integer"):
        RELEASED[name](iteration)


@pytest.mark.parametrize(
    ("kind", "parameters", "name"),
    [
        (schedules.InversePower, {"base": -1, "gamma": 1}, "base"),
        (schedules.InversePower, {"base": 1, "gamma": -1}, "gamma"),
        (schedules.InversePower, {"base": 1, "gamma": math.inf}, "gamma"),
        (schedules.InversePower, {"base": 1, "gamma": 1, "power": "1"}, "power"),
        (schedules.InversePower, {"base": 1, "gamma": 1, "minimum": math.nan}, "minimum"),
        (schedules.InversePower, {"base": 1, "gamma": 1, "start": -1}, "start"),
        (schedules.InversePower, {"base": 1, "gamma": 1, "start": 0.5}, "start"),
        (schedules.Geometric, {"base": 1, "ratio": 1.01}, "ratio"),
        (schedules.Geometric, {"base": True, "ratio": 1}, "base"),
        (schedules.Geometric, {"base": 1, "ratio": 1, "minimum": -1}, "minimum"),
    ],
)
def test_bad_parameters_are_named(kind, parameters, name):
    with pytest.raises((ValueError, TypeError), match=f"^{name} must"):
        kind(**parameters)


def test_every_public_name_exists():
    assert set(RELEASED) | {"Geometric", "InversePower"} == set(schedules.__all__)
