"""Checks of w_norm_softmax.md."""

import math

from pages.checks.softmax import unequal_rows
from pages.page import linear_page

page = linear_page("w_norm_softmax.md", "x", "hat w", False, given=frozenset({"0.05"}))

# rows at a right angle
page.reads(r"\tan\theta_1")(lambda: list(unequal_rows())[1:])


def ambient_turn(a: float) -> tuple[float, float]:
    """By how many degrees a step a x̂, 20° away, turns a unit row, and its part across the row."""
    theta = math.radians(20)
    true, released = (math.atan2(a * math.sin(theta), 1 - part) for part in (0.0, math.cos(theta) * a))
    return math.degrees(true), math.degrees(released)


page.numbers_of(lambda ratio: math.degrees(math.atan(ratio)), (2, 1 / 2, 1 / 10), "63.43° 26.57° 5.71°")
page.numbers_of(
    lambda degrees: (1 / math.sin(math.radians(degrees)), math.cos(math.radians(degrees))),
    (20, 60, 100, 170),
    "2.9238 1.1547 1.0154 5.7588",
    "0.9397 0.5000 −0.1736 −0.9848",
)
page.numbers(
    {
        "0.4509": math.e / (math.e + 9 / math.e),
        "0.0073": math.e / (math.e + 999 / math.e),
        "5.0e-07": 1 - 1 / math.sqrt(1 + 1e-6),
        "0.7071": 1e-3 / math.sqrt(1e-6 + 1e-6),
        "1.9589°": ambient_turn(0.1)[0],
        "2.1618°": ambient_turn(0.1)[1],
        "10 %": 100 * (ambient_turn(0.1)[1] / ambient_turn(0.1)[0] - 1),
        "1.7907°": -ambient_turn(-0.1)[1],
        "9 %": 100 * (1 - ambient_turn(-0.1)[1] / ambient_turn(-0.1)[0]),
    }
)

# where L-Softmax with m = 2 ends at a right angle: cos 2θ = r sin θ (l_softmax.md)
page.numbers_of(lambda r: math.degrees(math.asin((math.sqrt(r * r + 8) - r) / 4)), (1 / 1.5, 1.5, 1), "34.0° 25.2° 30°")
