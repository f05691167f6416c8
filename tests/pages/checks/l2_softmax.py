"""Checks of l2_softmax.md."""

import math

from pages.checks.softmax import softmax_boundary
from pages.evaluator import mp
from pages.page import linear_page
from pages.plane import zero_of
from pages.worlds import plain_world, unit, vector

page = linear_page("l2_softmax.md", "f", "W", True, given=frozenset({"75 %", "90 %", "99 %", "99.9 %"}))


@page.reads(r"\sin\varphi")
def tilted_plane():
    """A feature on the boundary: its height above the plane without a bias, by the angle to W_1 − W_2."""
    alpha, b = mp.mpf("2.3"), vector("0.2", "0.9")
    W = [vector(1, "0.2"), vector("-0.3", 1)]
    normal = unit(W[0] - W[1])
    across = vector(-normal[1], normal[0])

    def behind(height):
        x = alpha * (mp.sin(height) * normal + mp.cos(height) * across)
        return b[1] - b[0] - sum((W[0] - W[1]) * x)

    varphi = zero_of(behind, -mp.pi / 2, mp.pi / 2)
    return [plain_world({"W_1": W[0], "W_2": W[1], "b_1": b[0], "b_2": b[1], "alpha": alpha, "varphi": varphi})]


page.no_claim(r"h_{ij} = g_{ij} \lVert W_j \rVert", "what stands for h of another page")

page.numbers_of(lambda share: math.log(share / (1 - share)), (0.75, 0.9, 0.99, 0.999), "1.0986 2.1972 4.5951 6.9068")
page.numbers_of(lambda alpha: math.degrees(math.asin(1 / (alpha * math.sqrt(2)))), (4, 16, 64), "10.18° 2.53° 0.63°")
page.numbers_of(
    lambda length: 16 / length * math.hypot(0.5, 0.5),  # half of W_2 − W_1, stretched by α/‖x‖
    (0.01, 1, 16, 100),
    "1131.3708 11.3137 0.7071 0.1131",
)
page.numbers(
    {
        "4.2767": math.log(0.9 * 8 / 0.1),
        "0.01": 1 / 100,
        "26.57°": softmax_boundary(90, 1 / 2),
        "36.87°": math.degrees(math.atan2(3, 4)),
        "6.3686": 64 / math.sqrt(1 + 9999 * 0.1**2),
        "0.0551": 1 / (1 + 9999 * math.exp(-64 / math.sqrt(1 + 9999 * 0.1**2))),
        "1.4057": math.log(math.exp(1) + math.exp(-1) + 8) - 1,
    }
)
