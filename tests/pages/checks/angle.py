"""Checks of angle.md."""

import math
from typing import Any

from pages.evaluator import close, mp
from pages.page import Page, last_side, parts
from pages.tables import Example
from pages.worlds import (
    SYMBOLS,
    Array,
    Rule,
    World,
    across,
    angle_of,
    gradient,
    indexed,
    length,
    margin_world,
    pairs,
    plain_world,
    reals,
    top,
    unit,
)


def angle_world(seed: int, **changes: Any) -> World:
    """Pairs x, w = W_y, and a loss of the cosines of all pairs."""

    def rejected(x: Array, w: Array) -> Array:
        """w less the multiple of x that clears the largest entry of x."""
        p = top(abs(x))
        return w - w[p] / x[p] * x

    graph: dict[str, Rule] = {
        "z": lambda w: w["s"] * w["cos"],
        "h_ij": lambda w: gradient(w, "L", "cos"),
        "r": pairs(rejected),
        "e": pairs(across),
        "along": pairs(lambda x, w: sum(rejected(x, w) * unit(x))),
        "rho": pairs(lambda x, w: length(w)),
    }
    world = margin_world(seed, "s", "none", 0, **changes)
    world = world.extended(graph=graph, positions={"p": lambda w, place: top(abs(w["x"][place["i"]]))})
    world.symbols = {name: SYMBOLS[name] for name in ("x", "hat x", "hat w", "theta", "t_x", "t_w", "L", "D")}
    world.symbols |= {**indexed("id", "w", "r", "e"), "a": "along:i", "rho": "rho:i", "h": "h_ij:ij"}
    return world


def angle_example(example: Example) -> World:
    return angle_world(0, x=example.rows("x"), W=example.rows("w"), labels=[0])


page = Page("angle.md", lambda: [angle_world(seed) for seed in (1, 2)], angle_example)


@page.claims(r"x \leftarrow 2^{480 - k} x, \qquad w \leftarrow 2^{480 - l} w")
def powers_of_two_keep_the_angle(latex):
    """The angle stays, and the largest entries come to lie between 2^479 and 2^480."""
    for seed, size in ((1, 1), (2, mp.mpf(2) ** -900)):
        both = reals(seed, 3), reals(seed + 10, 3)
        rows = {"x": both[0] * size, "w": both[1] / size}
        of_x, of_w = (int(mp.floor(mp.log(max(abs(row)), 2))) + 1 for row in rows.values())
        world = plain_world({**rows, "k": of_x, "l": of_w})
        scaled = [last_side(piece.replace(r"\leftarrow", "="), world) for piece in parts(latex)]
        assert close(angle_of(*scaled), angle_of(*rows.values()))
        assert all(mp.mpf(2) ** 479 <= max(abs(row)) < mp.mpf(2) ** 480 for row in scaled)


page.numbers_of(
    lambda epsilon: math.degrees(math.acos(1 - epsilon)),
    (1e-3, 1e-4, 1e-5, 1e-7, 2**-23, 2**-24),
    "2.5626° 0.8103° 0.2562° 0.0256° 0.0280° 0.0198°",
)
page.numbers_of(
    lambda epsilon: 64 * (math.cos(0.5) - math.cos(0.5 + math.acos(1 - epsilon))), (1e-3, 1e-4), "1.4280 0.4395"
)
page.numbers(
    {
        "1.4901e-08": math.acos(1 - 2**-53),
        "3.4527e-04": math.acos(1 - 2**-24),
        "3.0e-08": 2.0**-25,
        "2.4e-04": 2.0**-12,
        "2.0e-03": 2.0**-9,
    }
)
