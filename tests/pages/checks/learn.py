"""Checks of the pages of docs/learn/."""

import math
from typing import Any

import numpy as np

from pages.evaluator import mp
from pages.page import Page
from pages.worlds import World, across, angle_of, each, gradient, linear_world, margin_world, reals, vector

FOLDER = "../docs/learn/"
ONE_SAMPLE: dict[str, Any] = {"n": lambda w: mp.one}  # no mean: g is the gradient of one sample's loss


def page_of(name: str, world: Any) -> Page:
    return Page(FOLDER + name, lambda: [world(seed) for seed in (1, 2)])


page_of("p_minus_y.md", lambda seed: linear_world(seed, "x", "W", False).extended(graph=ONE_SAMPLE))


def through_a_length(seed: int) -> World:
    """h is what arrives at x̂, β the angle between them, dx a direction to move in."""
    world = linear_world(seed, "hat x", "hat w", False)
    graph = {
        **ONE_SAMPLE,
        "h": lambda w: gradient(w, "L", "hat x"),
        "beta": each(lambda w, i: angle_of(w["h"][i], w["hat x"][i])),
    }
    direction = ("x", reals(seed + 100, *world["x"].shape))
    return world.extended(graph=graph, symbols={"h": "h:id", "beta": "beta:i"}, direction=direction)


page_of("through_a_length.md", through_a_length)


def through_an_angle(seed: int) -> World:
    """a is the target's unit row without its shadow on x̂; ψ is one that no paper has."""
    world = margin_world(seed, "s", "own", "0.3")
    rest = each(lambda w, i: across(w["hat x"][i], w["hat w"][w.labels[i]]))
    return world.extended(graph={"across": rest}, symbols={"a": "across:id"})


page_of("through_an_angle.md", through_an_angle).no_claim(r"\nabla_x \theta = (-1/5, 0)", "of the exercise's vectors")
page_of("cosface.md", lambda seed: margin_world(seed, "s", "cosine", "0.35").extended(graph=ONE_SAMPLE)).numbers(
    {"36316": math.exp(30 * 0.35), "0.27": 14 / 15 - 2 / 3}
)


def pull(theta: float, m: float) -> float:
    """As in the picture: s = 10, and the other class's logit is 0."""
    return math.sin(theta + m) / (1 + math.exp(10 * math.cos(theta + m)))


def no_longer_the_larger() -> float:
    """The first angle at which the margin does not make the pull larger, to a hundredth of a degree."""
    angles = (math.radians(n / 100) for n in range(18000))
    return math.degrees(next(theta for theta in angles if pull(theta, 0.5) <= pull(theta, 0)))


def turned_by_the_slope() -> float:
    """Degrees between ArcFace's gradient of x and that without a margin: θ = 5°, the other row across x̂ and t_x."""
    theta = mp.radians(5)
    rows = {"x": vector(1, 0, 0)[None], "W": np.array([vector(mp.cos(theta), mp.sin(theta), 0), vector(0, 0, 1)])}
    with_margin, without = (
        gradient(margin_world(1, "s", "angle", m, labels=[0], **rows), "L", "x")[0] for m in ("0.5", "0")
    )
    return math.degrees(angle_of(with_margin, without))


page_of("arcface.md", lambda seed: margin_world(seed, "s", "angle", "0.5").extended(graph=ONE_SAMPLE)).numbers(
    {
        "28.65°": math.degrees(0.5),
        "75.68°": 90 - math.degrees(0.25),
        "0.4794": math.sin(0.5),
        "151.35°": 180 - math.degrees(0.5),
        "165.68°": 180 - math.degrees(0.25),
        "0.1224": math.cos(math.pi + 0.5) - math.cos(math.pi),
        "1.84": -math.sin(math.radians(170) + 0.5) / math.sin(math.radians(170)),
        "98.2°": no_longer_the_larger(),
        "24.01°": turned_by_the_slope(),
    }
)
