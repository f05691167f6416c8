"""Checks of a_softmax.md."""

import math

from scipy.optimize import brentq

from pages.checks.l_softmax import beside_the_row
from pages.checks.psi import annealed_psi, largest_pull, psi_factor
from pages.evaluator import mp
from pages.page import BRANCHES, margin_page
from pages.plane import boundary, boundary_in_degrees, margin_psi
from pages.worlds import plain_world

page = margin_page("a_softmax.md", "x_norm", "papers", BRANCHES, given=frozenset({"3.14159265"}))

page.reads(r"\nabla_x z_y \to")(lambda: beside_the_row("x_norm"))


@page.reads(r"\theta_2 - \theta_1 = (m - 1)")
def margin_at_the_boundary():
    for m, t in ((2, mp.mpf("1.1")), (4, mp.mpf("0.6"))):
        first = boundary(margin_psi("papers", m), t)
        yield plain_world({"theta_1": first, "theta_2": t - first, "m": m})


def psi_boundary(degrees: float, annealing: float) -> float:
    return boundary_in_degrees(lambda theta: annealed_psi(float(theta), annealing), degrees)


def annealed_boundary(degrees: float) -> tuple[float, float]:
    """At λ = 5, and the degrees between the two boundaries."""
    return psi_boundary(degrees, 5), degrees - 2 * psi_boundary(degrees, 5)


page.numbers_of(
    annealed_boundary, (90, 60, 30, 10, 1), "34.39° 21.66° 10.54° 3.49° 0.35°", "21.23° 16.69° 8.93° 3.03° 0.30°"
)
page.numbers_of(lambda t: psi_boundary(t, 0), (90, 60, 30, 10), "18° 12° 6° 2°")
page.numbers_of(lambda degrees: math.cos(math.radians(degrees)), (20, 45, 60, 100), "0.9397 0.7071 0.5000 −0.1736")
page.numbers_of(psi_factor, ((20, 4), (60, 4), (100, 4)), "11.5175 4.0000 2.6108")
page.numbers_of(lambda degrees: (5 + psi_factor(degrees, 4)) / 6, (20, 45, 60, 100), "2.7529 0.8333 1.5000 1.2685")
page.numbers(
    {
        "39 %": 100 * annealed_boundary(90)[1] / 54,
        "51 %": 100 * (1 - 2 * psi_boundary(1, 5)) / 0.6,
        "3.732": 2 + math.sqrt(3),
        "22.5°": 180 / 8,
        "66.92°": math.degrees(brentq(annealed_psi, 0, math.pi, args=(5,))),
        "7.3756": largest_pull(4)[1],
        "163.39°": largest_pull(4)[0],
        "2.0494": largest_pull(4, 5)[1],
        "94 %": 100 * math.cos(math.radians(20)),
        "11.5": psi_factor(20, 4),
        "3.6e-9": math.pi - 3.14159265,
        "1.8333": 5 / 6 * 2 + 1 / 6,
        "1.6971": 6 / (5 + psi_factor(45, 4)) / math.sin(math.pi / 4),
        "2.9745": 3 / (1 + math.exp(-119 / 25)),
    }
)
