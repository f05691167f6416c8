"""Checks of softmax.md."""

import math
from collections.abc import Iterator

import numpy as np

from pages.checks.cross_entropy import others
from pages.evaluator import mp
from pages.page import linear_page
from pages.plane import boundary, boundary_in_degrees, direction
from pages.worlds import World, plain_world

page = linear_page("softmax.md", "x", "W", True)


def unequal_rows() -> Iterator[World]:
    """Rows of unequal length and a feature on the boundary of the softmax, in their plane."""
    for t, longer in ((mp.mpf("1.2"), mp.mpf("1.3")), (mp.pi / 2, mp.mpf("0.4"))):
        first = boundary(lambda at, longer=longer: longer * mp.cos(at), t)
        rows = {"W_1": longer * direction(0) * mp.mpf("0.7"), "W_2": direction(t) * mp.mpf("0.7")}
        yield plain_world({**rows, "t": t, "theta_1": first, "theta_2": t - first})


page.reads(r"\tan\theta_1", r"\lVert W_1 \rVert \cos\theta_1 =")(unequal_rows)

page.numbers(
    {
        "87.3365": -math.log(np.finfo(np.float32).tiny),
        "69.0776": -math.log(1e-30),
        "56.3 %": 100 * (1 + math.log(np.finfo(np.float32).tiny) / 200),
        "75.5129": 64 + math.log(1e5 + math.exp(-64)),
        "0.7071": 1 / math.sqrt(2),
    }
)


def softmax_boundary(degrees: float, ratio: float) -> float:
    """The degrees from W_1 to the boundary of two rows so far apart, the first `ratio` times as long."""
    return boundary_in_degrees(lambda theta: ratio * mp.cos(theta), degrees, degrees - 180)


page.numbers_of(softmax_boundary, ((90, 2), (90, 1 / 2), (90, 1 / 4), (60, 1 / 4)), "63.43° 26.57° 14.04° −16.10°")
page.numbers_of(
    lambda length: (math.log1p(math.exp(-length)), math.hypot(others(length), others(length))),
    (0.1, 1, 5, 10, 20),
    "0.6444 0.3133 0.0067 4.5399e-05 2.0612e-09",
    "0.6718 0.3803 0.0095 6.4202e-05 2.9149e-09",
)
