"""Checks of am_softmax.md."""

import math

from pages.evaluator import mp
from pages.page import holds, margin_page, parts
from pages.plane import boundary, boundary_in_degrees, direction, margin_psi
from pages.worlds import angle_of, length, plain_world, unit, vector

page = margin_page("am_softmax.md", "s", "cosine", ((1, "0.35"), (2, "0.35")))
M = mp.mpf("0.35")
PSI = margin_psi("cosine", M)


@page.claims(r"\hat x \cdot \left( \hat w_1 - …")
def planes_of_am_softmax(latex):
    t = mp.mpf("1.3")
    first = boundary(PSI, t)
    for piece, at in zip(parts(latex), (first, t - first), strict=True):
        rows = {"hat x": direction(at), "hat w_1": direction(0), "hat w_2": direction(t)}
        assert holds(piece, plain_world({**rows, "m": M}))


@page.reads(r"\theta_1 = \frac{t}{2} - \arcsin")
def end_of_class_1_of_am_softmax():
    for t in (mp.mpf("0.9"), mp.mpf("1.3"), mp.mpf(3)):
        first = boundary(PSI, t)
        yield plain_world({"theta_1": first, "t": t, "m": M}, meanings=[t - 2 * first])


@page.reads(r"\arctan \frac{\eta G}")
def turn_of_one_step():
    x, across, eta, G = vector(3, 4), vector(-4, 3), mp.mpf("0.1"), mp.mpf(7)
    # the gradient is across x and 1/‖x‖ times what it is at length 1
    moved = x - eta * G / length(x) * unit(across)
    return [plain_world({"x": x, "eta": eta, "G": G}, meanings=[angle_of(x, moved)])]


@page.reads(r"2 \sin(t/2)")  # the block of the end of class 1 has its own
def two_rows():
    return [
        plain_world(
            {"hat w_1": direction(0), "hat w_2": direction(t), "t": t, "theta_1": at, "theta_2": t - at, "m": M}
        )
        for t, at in ((mp.mpf("0.9"), mp.mpf("0.3")), (mp.mpf("2.4"), mp.mpf(1)))
    ]


@page.reads(r"\frac{\ell_i}{s}")
def hinge_at_a_large_scale():
    for world in page.worlds():
        yield world.extended(near=[world.replaced({"s": mp.mpf(10) ** 15})])


page.no_claim(r"\cos\theta = x \cdot W / \max(\lVert x \rVert \lVert W \rVert, 10^{-8})", "released code's")


def cosine_boundary(degrees: float) -> float:
    """Where cos θ₁ − cos θ₂ = m between two rows so far apart; negative beyond W_1."""
    return boundary_in_degrees(PSI, degrees, degrees / 2 - 90)


def cosine_boundaries(degrees: float) -> tuple[float, float]:
    """How far from W_1, before or beyond it, and the degrees between both boundaries."""
    first = cosine_boundary(degrees)
    return abs(first), degrees - 2 * first


page.numbers_of(cosine_boundaries, (180, 90, 60, 40), "79.92° 30.67° 9.51° 10.77°", "20.16° 28.66° 40.97° 61.55°")
page.numbers(
    {
        "49.46°": math.degrees(math.acos(0.65)),
        "20.16°": math.degrees(2 * math.asin(0.175)),
        "69.51°": math.degrees(math.acos(0.35)),
        "10.5000": math.log1p(math.exp(10.5)),
        "3.4e-09": math.log1p(math.exp(-30 * 0.65)),
        "2.1e-17": math.log1p(math.exp(-64 * 0.6)),
        "0.0073": 30 * 2**-12,
        "0.0586": 30 * 2**-9,
        "0.3765": 1 - math.cos(2 * math.pi / 7),
        "0.2929": 1 - math.cos(2 * math.pi / 8),
    }
)


def slope_in_cosine(degrees: float) -> tuple[float, float]:
    """dψ/dcos θ of L-Softmax with m = 4 and of ArcFace with m = 0.5, by differences."""
    c, h = math.cos(math.radians(degrees)), 1e-6
    psis = [margin_psi(kind, m) for kind, m in (("papers", 4), ("angle", mp.mpf("0.5")))]
    return tuple(float(psi(mp.acos(c + h)) - psi(mp.acos(c - h))) / (2 * h) for psi in psis)


page.numbers_of(slope_in_cosine, (20, 60, 100), "11.5175 4.0000 2.6108", "2.1948 1.1544 0.7930")
page.numbers({"0.0768": math.log(10) / 30})
