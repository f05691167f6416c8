"""Checks of l_softmax.md."""

import itertools
import math
from collections.abc import Iterator

from pages.checks.psi import largest_pull
from pages.evaluator import close, mp, slope
from pages.page import BRANCHES, draws, holds, last_side, margin_page, parts
from pages.plane import boundary, direction, keeps, margin_psi
from pages.tables import Claim, formula, rows_of_table
from pages.worlds import World, annealed_world, margin_world, plain_world

page = margin_page("l_softmax.md", "both", "papers", BRANCHES)

page.reads(r"\frac{\lambda W_y \cdot x")(lambda: [annealed_world(m, m) for m in (2, 3)])


@page.claims(r"\theta_1 \lt …")
def arc_of_l_softmax(latex):
    towards, away = parts(latex)
    for m, t in itertools.product((2, 3, 4), (mp.mpf("0.4"), mp.mpf("1.3"))):
        psi = margin_psi("papers", m)
        for angle in draws(m, 30, 0, float(t)):
            world = plain_world({"theta_1": angle, "t": t, "m": m})
            assert holds(towards, world) == keeps(psi, t, angle)
            assert holds(away, world) == keeps(psi, t, -angle) or angle + t > mp.pi


@page.reads(r"t - \frac{2t}{m + 1}")
def arc_between():
    for m in (2, 3, 4):
        t = mp.mpf("1.3")
        world = plain_world({"t": t, "m": m})
        arc = t - 2 * boundary(margin_psi("papers", m), t)
        assert close(arc, last_side("t - 2t / (m + 1)", world))
        yield world


@page.claims(r"\max_\theta \sqrt{\psi^2 + \psi'^2} = …")
def largest_gradient_of_l_softmax(latex):
    for m in (2, 3, 4):
        psi = margin_psi("papers", m)
        sizes = [mp.hypot(psi(at), slope(psi, at)) for at in mp.linspace(mp.mpf("0.001"), mp.mpf("3.141"), 3001)]
        due = last_side(latex, plain_world({"m": m}))
        # a grid of steps of 0.001 misses the top by half a curvature, m³ times its square, at most
        assert due - 1e-5 * m**3 <= max(sizes) <= due


def beside_the_row(radius: str) -> Iterator[World]:
    """Samples 1e-15 from their rows, where the papers' ψ is smooth."""
    for m in (2, 3, 4):
        world = margin_world(m, radius, "papers", m)
        x = 2 * world["w"] + mp.mpf(10) ** -15 * world["x"]
        yield world.extended(near=[world.replaced({"x": x})])


page.reads(r"\nabla_x z_y \to")(lambda: beside_the_row("both"))


@page.table
def chebyshev_polynomials(text):
    for m, polynomial, derivative in rows_of_table(text, "| $m$ | $T_m(c)$"):
        yield Claim(m, f"T_{m}(c) = {formula(polynomial)}", page.worlds()[:1])
        yield Claim(m, f"T_{m}'(c) = {formula(derivative)}", page.worlds()[:1])


def meets_the_margin(m: int) -> World:
    """Rows of two lengths, and a feature inside class 1's boundary."""
    t, angle = mp.mpf("1.2"), mp.mpf("0.21")
    rows = {"W_1": mp.mpf("1.3") * direction(0), "W_2": mp.mpf("1.1") * direction(t)}
    return plain_world({**rows, "x": 2 * direction(angle), "theta_1": angle, "theta_2": t - angle, "m": m})


page.reads(r"\cos m\theta_1 \gt")(lambda: list(map(meets_the_margin, (2, 3, 4))))


@page.reads(r"\sqrt{r^2 + 8}")
def boundary_for_unequal_rows():
    psi = margin_psi("papers", 2)
    for r in map(mp.mpf, ("0.6", "1.5")):
        first = boundary(lambda at, r=r: psi(at) / r, mp.pi / 2)
        yield plain_world({"r": r, "theta_1": first})


@page.reads(r"\frac{(W_1 - W_2) \cdot x}", r"\sin\frac{(m - 1) t}")
def distance_from_the_boundary():
    """Of unit rows; the angle is any, and then class 1's end."""
    for m, t in ((2, mp.mpf("1.2")), (3, mp.mpf("0.7"))):
        for angle in (mp.mpf("0.2"), boundary(margin_psi("papers", m), t)):
            rows = {"W_1": direction(0), "W_2": direction(t), "x": mp.mpf("2.3") * direction(angle)}
            yield plain_world({**rows, "theta_1": angle, "t": t, "m": m})


def excess(degrees: float, m: int) -> float:
    """cos mθ − cos θ."""
    return math.cos(m * math.radians(degrees)) - math.cos(math.radians(degrees))


def larger(m: int) -> list[float]:
    """The degrees from 0 to 180, in the middles of tenths, at which cos mθ is larger than cos θ."""
    return [at for at in (n / 10 + 0.05 for n in range(1800)) if excess(at, m) > 0]


def svm_distance(m: int) -> tuple[float, float]:
    """Of class 1's end from the bisector, rows of length 1 at a right angle; and over that of m = 2."""
    ends = [math.sin(math.pi / 4 - boundary(margin_psi("papers", one), mp.pi / 2)) for one in (m, 2)]
    return ends[0], ends[0] / ends[1]


page.numbers_of(lambda m: larger(m)[0] - 0.05, (2, 3, 4), "120° 90° 72°")
page.numbers_of(lambda m: excess(150, m), (2, 3, 4), "1.3660 0.8660 0.3660")
page.numbers({shown: len(larger(m)) / 18 for m, shown in ((2, "33.3 %"), (3, "50.0 %"), (4, "46.7 %"))})
page.numbers_of(svm_distance, (3, 4), "0.3827 0.4540", "1.4786 1.7541")
page.numbers({"0.2588": svm_distance(2)[0], "1.8": (3 / 5) / (1 / 3)})
page.numbers({"22.5°": 90 / 4, "0.8333": 5 / 6, "7.4": largest_pull(4)[1]})
page.numbers_of(lambda m: largest_pull(m)[1], (2, 3, 4), "3.0551 5.1962 7.3756")
