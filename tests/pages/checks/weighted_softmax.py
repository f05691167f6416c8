"""Checks of weighted_softmax.md."""

import math

from pages.evaluator import array, mp
from pages.page import Page
from pages.tables import linear_example
from pages.worlds import WEIGHTS, World, indexed, inputs, linear_world

page = Page(
    "weighted_softmax.md",
    lambda: [linear_world(seed, "x", "W", True, class_weights=WEIGHTS) for seed in (1, 2)],
    linear_example("x", "W"),
    given=frozenset({"10 %"}),
)


@page.reads("Y_{+}", "z_1 - z_0")
def edges_and_others() -> list[World]:
    """Pixels of two classes, 0 and 1; the loss is their sum, each weighted by the share of the other class."""
    labels = [1, 0, 0, 1, 0]
    edges = mp.mpf(sum(labels)) / len(labels)
    counts = {"Y": len(labels), "Y_+": sum(labels), "Y_-": len(labels) - sum(labels)}
    rows = inputs(1, 0, (len(labels), 2, 3))
    given = {name: rows[name] for name in "xWb"} | {name: mp.mpf(count) for name, count in counts.items()}
    given["class_weights"] = array([edges, 1 - edges])
    sets = {sign: {i for i, y in enumerate(labels) if y == n} for sign, n in (("Y_+", 1), ("Y_-", 0))}
    world = linear_world(1, "x", "W", True, labels=labels, **given)
    return [
        world.extended(
            graph={"sum": lambda w: sum(w["ell"])},
            symbols={"ell": "sum", **indexed("", *counts)},
            sets=sets,
            first_number=0,
        )
    ]


page.no_claim(r"g_{ij} = w_j (p_{ij} - y_{ij})", "a common mistake")
page.no_claim(r"(W_1 - W_2) \cdot x + b_1 - b_2 = 0", "the boundary")

page.numbers(
    {
        "54.87°": math.degrees(math.atan2(9, -30) - math.atan2(36, -12)),
        "2.1972": math.log(0.9 / 0.1),
        "0.09": 0.1 * 0.9,
        "0.9991": 1 / (1 + math.exp(2 - 9)),
        "0.2689": 1 / (1 + math.exp(2 - 1)),
    }
)


def share_of_edges(weight: float, other: float) -> float:
    """Of all gradient at p = 1/2, percent, with 10 % edges."""
    return 100 * 0.1 * weight / (0.1 * weight + 0.9 * other)


page.numbers({"50 %": share_of_edges(0.9, 0.1), "10 %": share_of_edges(1, 1)})
