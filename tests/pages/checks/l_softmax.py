"""Checks of l_softmax.md."""

import itertools
from collections.abc import Iterator

from pages.checks.psi import largest_pull
from pages.evaluator import close, mp, slope
from pages.page import BRANCHES, draws, holds, last_side, margin_page, parts
from pages.plane import boundary, keeps, margin_psi
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


page.numbers({"22.5°": 90 / 4, "0.8333": 5 / 6, "7.4": largest_pull(4)[1]})
page.numbers_of(lambda m: largest_pull(m)[1], (2, 3, 4), "3.0551 5.1962 7.3756")
