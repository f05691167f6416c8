"""Checks of normalisation.md."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from pages.evaluator import close, mp, slope
from pages.page import Page
from pages.tables import Example
from pages.worlds import Rule, World, across, each, gradient, length, linear_world, reals, unit
from refloss import bounds


def normalisation_world(seed: int, **changes: Any) -> World:
    """Rows v, a loss that sees only their directions, and a direction dv to move in."""
    world = linear_world(seed, "hat x", "W", False, **changes)
    graph: dict[str, Rule] = {
        # v̂ scaled so that the largest entry lies in [1/2, 1)
        "e": each(lambda w, i: mp.floor(mp.log(max(abs(w["x"][i])), 2)) + 1),
        "scaled": each(lambda w, i: w["x"][i] * mp.mpf(2) ** -int(w["e"][i])),
    }
    world = world.extended(graph=graph, direction=("x", reals(seed + 100, *world["x"].shape)))
    world.symbols = {"v": "x:id", "hat v": "hat x:id", "tilde v": "scaled:id", "e": "e:i", "L": "L"}
    return world


def normalisation_example(example: Example) -> World:
    v, h = example.rows("v"), example.rows("h")
    return normalisation_world(0, x=v, W=v, labels=[0]).extended(given={"h": h}, symbols={"h": "h:id"})


page = Page(
    "normalisation.md",
    lambda: [normalisation_world(seed) for seed in (1, 2)],
    normalisation_example,
    given=frozenset({"1 %"}),
)


def with_gradient(by: str) -> list[World]:
    """h is the gradient that arrives at v̂, or is handed back at v; with a step η."""
    graph = {"h": lambda w: gradient(w, "L", by)}
    symbols = {"h": "h:id", "eta": "eta"}
    return [normalisation_world(1).extended(graph=graph, symbols=symbols, given={"eta": mp.mpf("0.3")})]


page.reads(r"h = \partial L / \partial \hat v")(lambda: with_gradient("hat x"))
page.reads(r"h = \partial L / \partial v", r"\lVert v - \eta h \rVert")(lambda: with_gradient("x"))


@page.claims(
    r"y = \frac{x}{\alpha} \quad \Rightarrow \quad \frac{dy}{dx}"
    r" = \frac{1}{\alpha}, \qquad \alpha = \lVert x \rVert ."
)
def surveys_derivative(latex):
    """With α held it is I/α; of the full Jacobian it is the size across x, and along x there is nothing."""
    x = reals(1, 3)
    alpha = length(x)

    def divided(v: Any, held: bool) -> Any:
        return v / (alpha if held else length(v))

    for held, along_x, across_x in ((True, 1 / alpha, 1 / alpha), (False, mp.zero, 1 / alpha)):
        for direction, due in ((unit(x), along_x), (unit(across(x, reals(2, 3))), across_x)):
            rate = slope(lambda h, along=direction, held=held: divided(x + h * along, held))
            assert close(rate, due * direction)


@page.reads(r"\frac{\partial y_a}{\partial v_b}")
def other_divisors():
    """y = v / q with a q of the length alone; q' is its slope there."""

    def world(q: Callable[[Any], Any]) -> World:
        graph: dict[str, Rule] = {
            "q": each(lambda w, i: q(length(w["x"][i]))),
            "q'": each(lambda w, i: slope(q, length(w["x"][i]))),
            "y": lambda w: w["x"] / w["q"][:, None],
        }
        here = normalisation_world(1).extended(graph=graph, symbols={"y": "y:id", "q": "q:i", "q'": "q':i"})
        here.positions = {}
        return here

    return [world(lambda r: mp.sqrt(r**2 + mp.mpf("0.1"))), world(lambda r: r + mp.mpf("0.1"))]


# -- numbers ---------------------------------------------------------------------------------------


def length_where(share: float, fault: Callable[[float], float], low: float) -> float:
    """The length above `low` at which a fault that falls with the length comes down to a share."""
    return math.exp(brentq(lambda log: fault(math.exp(log)) - share, math.log(low), 0))


def epsilon_faults(epsilon: float, inside: bool) -> tuple[float, float]:
    """Where v/√(‖v‖² + ε), or v/(‖v‖ + ε), and its Jacobian along v are 1 % off."""

    def divisor(n: float) -> float:
        return math.sqrt(n * n + epsilon) if inside else n + epsilon

    def along(n: float) -> float:
        h = 1e-4 * n  # the central difference of n / q(n), times n: off by about h² / n²
        return n * ((n + h) / divisor(n + h) - (n - h) / divisor(n - h)) / (2 * h)

    low = math.sqrt(epsilon) if inside else epsilon  # both faults are large there
    return length_where(0.01, lambda n: 1 - n / divisor(n), low), length_where(0.01, along, low)


def turned(length: float) -> tuple[float, float]:
    """The degrees by which a step of 0.1 against a unit gradient at v̂ turns v, and the length that it gets."""
    moved = np.array([length, 0.1 / length])
    return math.degrees(math.atan2(moved[1], moved[0])), float(np.hypot(*moved))


page.numbers_of(lambda degrees: 1 / math.tan(math.radians(degrees)), (60, 30, 10), "0.5774 1.7321 5.6713")
page.numbers_of(turned, (10, 1, 0.1, 0.01), "0.0573° 5.7106° 84.2894° 89.9427°", "10.0000 1.0050 1.0050 10.0000")
page.numbers_of(
    lambda clamp: (0.99 * clamp, clamp), (1e-12, 1e-5, 1e-6), "9.9e-13 9.9e-06 9.9e-07", "1.0e-12 1.0e-05 1.0e-06"
)
page.numbers_of(
    epsilon_faults, ((1e-8, False), (1e-10, True), (1e-6, True)), "9.9e-07 7.0e-05 7.0e-03", "9.8e-07 9.9e-05 9.9e-03"
)
page.numbers(
    {
        "0.0006°": turned(100)[0],
        "1.34e154": math.sqrt(np.finfo(float).max),
        "1.57e-162": 2.0**-537.5,
        "0.01": 1 / 100,
        "0.7071": 1e-3 / math.sqrt(1e-6 + 1e-6),
        "5.0e-07": 1 - 1 / math.sqrt(1 + 1e-6),
        "1.7e-04": math.sqrt(2.0**-25),  # float16 rounds what is below half of 2^-24 to 0
        "0.4509": bounds.normface_largest_probability(10),
        "3.9550": bounds.cosface_smallest_scale(0.9, 10),
        "11.4623": bounds.cosface_smallest_scale(0.9, 10575),
        "843": (1 - 1 / 10575) / -math.expm1(-bounds.normface_smallest_loss(10575, scale=16)),
        "1.25": math.hypot(1 / 5, 0) / math.hypot(16 / 125, 12 / 125),
        "36.87°": math.degrees(math.atan2(12, 16)),
    }
)
