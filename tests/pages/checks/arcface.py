"""Checks of arcface.md."""

import itertools
import math

from pages.checks.am_softmax import cosine_boundary
from pages.evaluator import array, close, mp, slope
from pages.page import draws, holds, last_side, margin_page, parts
from pages.plane import boundary_in_degrees, keeps, margin_psi
from pages.worlds import angle_of, plain_world, unit, vector

page = margin_page("arcface.md", "s", "angle", ((1, "0.5"), (2, "0.5")))
M = mp.mpf("0.5")
PSI = margin_psi("angle", M)


@page.claims(r"\theta_1 + m \lt \theta_2, \qquad …")
def regions_of_arcface(latex):
    first, second = parts(latex)
    for one, other in itertools.product(draws(1, 12, 0, 2.6), draws(2, 12, 0, 2.6)):
        world = plain_world({"theta_1": one, "theta_2": other, "m": M})
        assert holds(first, world) == (PSI(one) > mp.cos(other))
        assert holds(second, world) == (PSI(other) > mp.cos(one))


@page.claims(r"\theta_1 \lt \frac{t - m}{2} …")
def arc_of_arcface(latex):
    towards, away = parts(latex)
    for t in (mp.mpf("0.7"), mp.mpf("1.3"), mp.mpf("2.5")):
        for angle in draws(3, 30, 0, 3.14):
            world = plain_world({"theta_1": angle, "t": t, "m": M})
            if angle < mp.pi - M:  # beyond, the plain formula has the region of the ellipse
                assert holds(towards, world) == keeps(PSI, t, angle) or angle > t
                assert holds(away, world) == keeps(PSI, t, -angle)


@page.reads(r"\log \left( 1 + e^{s (\cos t - \cos m)}")
def loss_at_the_centre():
    s, t = mp.mpf(64), mp.mpf("0.35")
    own, other = mp.exp(s * mp.cos(0 + M)), mp.exp(s * mp.cos(t))
    return [plain_world({"s": s, "t": t, "m": M}, meanings=[-mp.log(own / (own + other))])]


@page.claims(r"(\pi - \theta_1) + (\pi - \theta_2) \lt m ,")
def ellipse_of_arcface(latex):
    seen = set()
    for one, other in itertools.product(draws(4, 20, float(mp.pi - M), 3.1415), draws(5, 20, 2, 3.1415)):
        truth = PSI(one) > mp.cos(other)
        assert holds(*parts(latex), plain_world({"theta_1": one, "theta_2": other, "m": M})) == truth
        seen.add(bool(truth))
    assert seen == {True, False}


@page.claims(r"\hat w_2 - \sin(\theta + m) t_x \quad \text{and} \quad \hat w_2 - \sin\theta t_x")
def straight_through_directions(latex):
    """By the loss itself; the detached one is ψ = cos θ plus a constant."""
    theta, scale = mp.mpf("0.6"), mp.mpf(3)
    x, t_x, other = vector(1, 0, 0), vector(0, 1, 0), vector(0, 0, 1)
    own = mp.cos(theta) * x + mp.sin(theta) * t_x
    offset = mp.cos(theta + M) - mp.cos(theta)
    world = plain_world({"theta": theta, "m": M, "t_x": t_x, "hat w_2": other})
    for psi, side in ((PSI, latex.split(r"\quad")[0]), (lambda at: mp.cos(at) + offset, latex.split(r"\quad")[2])):

        def loss(features, psi=psi):
            gap = mp.cos(angle_of(features, other)) - psi(angle_of(features, own))
            return mp.log(1 + mp.exp(scale * gap))

        gradient = array(slope(lambda h, axis=axis: loss(x + h * axis), mp.zero) for axis in (x, t_x, other))
        assert close(unit(gradient), unit(last_side(side, world)))


def arc_boundary(degrees: float) -> float:
    """Where cos(θ₁ + m) = cos θ₂ between two rows so far apart."""
    return boundary_in_degrees(PSI, degrees)


def degrees_factor(degrees: float) -> float:
    theta = math.radians(degrees)
    return math.sin(theta + 0.5) / math.sin(theta)


page.numbers_of(degrees_factor, (10, 30, 60, 90, 120, 150, 170), "3.5965 1.7080 1.1544 0.8776 0.6008 0.0472 −1.8414")
page.numbers_of(
    lambda t: (arc_boundary(t), t - 2 * arc_boundary(t)),
    (180, 90, 60, 40),
    "75.68° 30.68° 15.68° 5.68°",
    "28.65° 28.65° 28.65° 28.65°",
)
page.numbers(
    {
        "151.35°": 180 - math.degrees(0.5),
        "30.6832": 64 * math.sin(0.5),
        "0.49916": math.radians(28.6),
        "165.68°": 180 - math.degrees(0.25),
        "27.69°": 360 / 13,
        "159.95°": 180 - math.degrees(0.35),
        "30.67°": cosine_boundary(90),
        "3.9936": math.log1p(math.exp(64 * (math.cos(math.radians(20)) - math.cos(0.5)))),
        "7.5069": 64 * (math.cos(0.5) + 0.5 * math.sin(0.5) - 1),
        "3.8008": 64 * (math.cos(0.35) + 0.35 * math.sin(0.35) - 1),
        "1.9401": 32 * (1 - math.cos(0.35)),
        "0.0535": 64 * (math.cos(math.radians(88.6)) - math.cos(math.radians(60) + 0.5)),
        "1.2661°": math.degrees(math.acos(1 - 2**-12)),
        "3.5816°": math.degrees(math.acos(1 - 2**-9)),
        "198.66°": math.degrees(28.6) % 360,
        "161.34°": 360 - math.degrees(28.6) % 360,
        "31.5151": 64 * math.cos(math.radians(60.5)),
        "1.5102": 64 * math.cos(math.radians(60) + 0.5),
        "1.4359": (56 / 65) / (3 / 5),
    }
)
