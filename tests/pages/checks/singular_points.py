"""Checks of singular_points.md."""

import math
from typing import Any

from pages.checks.psi import beside_the_opposite
from pages.evaluator import Evaluator, mp
from pages.latex import statements
from pages.page import Page, last_side, parts
from pages.worlds import World, across, angle_of, length, margin_world, plain_world, psi_world, reals

page = Page("singular_points.md")

page.reads(r"s\cos(\varphi - m)")(lambda: [beside_the_opposite({"s": 2, "m": mp.mpf("0.5")})])
page.reads(r"\psi(\theta) + \psi(\pi - \theta)", r"\psi'' = -(-1)^k")(lambda: [psi_world(m, m) for m in (2, 3, 4)])


@page.claims(r"\theta \approx …")
def angle_near_a_pole(latex):
    x, dx, dw = reals(1, 3), reals(2, 3), reals(3, 3)
    w = mp.mpf("1.7") * x
    side = latex.split(r"\approx")[1].replace(r"dx_\perp", "a").replace(r"dw_\perp", "b")
    vectors = {"x": x, "w": w, "a": across(x, dx), "b": across(x, dw)}
    rate = last_side(side.strip(" ,"), plain_world(vectors))
    h = mp.mpf(10) ** -12
    # to first order in h
    assert abs(angle_of(x + h * dx, w + h * dw) / h - rate) < 100 * h


SAMPLES = (0, 2)  # both of class 0


def at_a_pole(seed: int) -> World:
    """ArcFace with both samples 1e-12 away from their row."""
    world = margin_world(seed, "s", "angle", "0.5")
    x = world["x"].copy()
    for i, size in zip(SAMPLES, (2, 3), strict=True):
        x[i] = size * world["W"][0] + mp.mpf(10) ** -12 * reals(seed + i, 3)
    return world.replaced({"x": x})


def pull(world: World, by: str, row: int) -> Any:
    """The gradient less its centre, which is the gradient with the target's angle held."""
    held = world.replaced({"theta": world["theta"]})
    node = statements(rf"\frac{{\partial L}}{{\partial {by}}}")[0].relation.sides[0]
    place = {"i": row, "j": row}
    return Evaluator(world).value(node, place) - Evaluator(held).value(node, place)


@page.claims(r"\nabla_{x_i} L + v, \qquad v \perp \hat x_i, \qquad \lVert v \rVert \le …")
def ball_of_x(latex):
    """Near the pole the target's part is a vector across x whose length is the bound's: the ball's surface."""
    *_, bound = parts(latex)
    for seed in (1, 2):
        world = at_a_pole(seed)
        for i in SAMPLES:
            v = pull(world, "x_i", i)
            largest = last_side(bound.replace(r"\lVert v \rVert", "s"), world, {"i": i})
            # 1e-12 from the pole
            assert abs(length(v) / largest - 1) < 1e-10
            assert abs(sum(v * world["hat x"][i])) < 1e-10 * length(v)


@page.claims(
    r"\nabla_{W_y} L + v, \qquad v \perp \hat w_y, \qquad \lVert v \rVert"
    r" \le \sum_{i \text{ at a pole}} …"
)
def ball_of_W(latex):
    *_, bound = parts(latex)
    term = bound.split(r"\text{ at a pole}}")[1]
    for seed in (1, 2, 3):
        world = at_a_pole(seed)
        v = pull(world, "W_j", 0)
        largest = [last_side(term, world, {"i": i}) for i in SAMPLES]
        # the samples' pulls are that long each and point anywhere across the row
        assert abs(largest[0] - largest[1]) * (1 - 1e-10) <= length(v) <= sum(largest) * (1 + 1e-10)
        assert abs(sum(v * world["hat w"][0])) < 1e-10 * length(v)


page.numbers({"30.6832": 64 * math.sin(0.5)})
