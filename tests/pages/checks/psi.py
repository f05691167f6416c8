"""Checks of psi.md."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.optimize import brentq

from pages.evaluator import mp, slope
from pages.page import BRANCHES, Page
from pages.tables import Example
from pages.worlds import World, plain_world, psi_world, vector


def psi_example(example: Example) -> World:
    """By the cosine and the sine that the text gives."""
    x, w = vector(1, 0)[None], vector(3, 4)[None] / 5
    return psi_world(0, int(example.inputs["m"]), x=x, W=w, labels=[0])


page = Page(
    "psi.md", lambda: [psi_world(seed, m) for seed, m in BRANCHES], psi_example, given=frozenset({"3.14159265"})
)


@page.reads(r"D\left(", "D(")
def own_continuation():
    return [continuation_world(m, m) for m in (2, 3)]


def continuation_world(seed: int, m: int) -> World:
    """ψ = cos mθ up to π/m, then a D of one's own: here curved, with D(π/m) = −1 and a slope of −0.3 there."""

    def D(world: World, theta: Any) -> Any:
        past = theta - mp.pi / world["m"]
        return -1 - mp.mpf("0.3") * past - past**2 / 5

    def psi(world: World, theta: Any) -> Any:
        return mp.cos(world["m"] * theta) if theta < mp.pi / world["m"] else D(world, theta)

    return psi_world(seed, m).extended(
        graph={"psi_function": lambda w: psi},
        functions={
            "D": lambda w, values, place: D(w, values[0]),
            "D'": lambda w, values, place: slope(lambda t: D(w, t), values[0]),
        },
    )


def beside_the_opposite(letters: dict[str, Any]) -> World:
    """An angle φ away from π; ≈ and → are for small φ."""
    world, near = (
        plain_world({**letters, "theta": mp.pi - varphi, "varphi": varphi})
        for varphi in (mp.mpf("0.3"), mp.mpf(10) ** -8)
    )
    return world.extended(near=[near])


page.reads(r"\lvert \sin(m\pi - m\varphi) \rvert")(lambda: [beside_the_opposite({"m": m}) for m in (2, 3, 4)])
page.no_claim(r"w = (2^{50}, 1, 2^{50})", "an input")


# -- numbers ---------------------------------------------------------------------------------------

# 60° in space exactly, and beside it: cos θ = (2^50 + 1) / √(2 (2^101 + 1))
AT_KNOT = ((1, 1, 0), (1, 0, 1))
BESIDE_KNOT = ((1, 1, 0), (2**50, 1, 2**50))


def annealed_psi(theta: Any, annealing: float = 0, m: int = 4) -> Any:
    """(λ cos θ + ψ(θ)) / (1 + λ) with the papers' ψ."""
    k = np.minimum(np.floor(m * theta / math.pi), m - 1)
    return (annealing * np.cos(theta) + (-1.0) ** k * np.cos(m * theta) - 2 * k) / (1 + annealing)


def largest_pull(m: int, annealing: float = 0) -> tuple[float, float]:
    """Where √(ψ² + ψ'²) is largest, in degrees, and how large, by differences on a fine grid."""
    theta = np.linspace(0, math.pi, 200_001)
    psi = annealed_psi(theta, annealing, m)
    pull = np.hypot(psi, np.gradient(psi, theta))
    return math.degrees(theta[pull.argmax()]), float(pull.max())


def psi_factor(degrees: float, m: int) -> float:
    """dψ/dcos θ, the derivative of Chebyshev's T_m with its sign on a falling branch."""
    T = np.polynomial.chebyshev.Chebyshev.basis(m)
    return abs(float(T.deriv()(math.cos(math.radians(degrees)))))


def clamped(epsilon: float, m: int = 4) -> tuple[float, float, float]:
    """arccos(1 − ε) in degrees, 1 − cos mθ there, and the slope's size there."""
    theta = math.acos(1 - epsilon)
    return math.degrees(theta), 1 - math.cos(m * theta), m * math.sin(m * theta)


def cut_series(degrees: float, m: int = 4) -> float:
    """The cosine's series as released: up to x⁸/8!, then −x⁹/9!."""
    x = m * math.radians(degrees)
    return sum((-1) ** n * x ** (2 * n) / math.factorial(2 * n) for n in range(5)) - x**9 / math.factorial(9)


def textbook_slope(pair: tuple, m: int = 3) -> float:
    x, w = (np.array(row, dtype=float) for row in pair)
    return -m * abs(math.sin(m * math.acos(x @ w / math.sqrt((x @ x) * (w @ w)))))


def squared_slope(pair: tuple, m: int = 3) -> Fraction:
    """ψ'² = m² u_{m−1}² (B − P²) / B^m of rows of integers: psi.md, (P1) and (P5)."""
    P, B, (u, _) = polynomials(*pair, m)
    return Fraction(m**2 * u**2 * (B - P**2), B**m)


def polynomials(x: tuple, w: tuple, m: int) -> tuple[int, int, tuple[int, int]]:
    """P, B, and B^{(m−1)/2} U_{m−1} and B^{m/2} T_m at cos θ = P/√B, Chebyshev's polynomials."""
    P = sum(i * j for i, j in zip(x, w, strict=True))
    B = sum(i * i for i in x) * sum(j * j for j in w)
    u_before, u, t_before, t = 0, 1, 1, P
    for _ in range(m - 1):
        u_before, u = u, 2 * P * u - B * u_before
        t_before, t = t, 2 * P * t - B * t_before
    return P, B, (u, t)


def beside_60(n: int) -> tuple[float, float]:
    """How far the angle of (1, 1, 0) and (2ⁿ, 1, 2ⁿ) is from 60°, and the relative error of the textbook's slope."""
    pair = ((1, 1, 0), (2**n, 1, 2**n))
    exact = math.sqrt(squared_slope(pair))
    return math.asin(exact / 3) / 3, abs(textbook_slope(pair) + exact) / exact


KNOT_SLOPES = {
    "−9.6e-16": textbook_slope(AT_KNOT),
    "−5.6965e-15": textbook_slope(BESIDE_KNOT),
    "−4.6151e-15": -math.sqrt(squared_slope(BESIDE_KNOT)),
}

page.numbers(KNOT_SLOPES)
page.numbers(
    {
        "23 %": 100 * (KNOT_SLOPES["−5.6965e-15"] / KNOT_SLOPES["−4.6151e-15"] - 1),
        "0.7071": math.cos(math.pi / 4),
        "1.7071": 1 + math.cos(math.pi / 4),
        "109.25": 64 * (1 + math.cos(math.pi / 4)),
        "3.6e-9": math.pi - 3.14159265,
        "5.7e-8": 4 * math.sin(4 * (math.pi - 3.14159265)),
        "−1.0582": cut_series(45),
        "−1.1912": cut_series(60),
        "74.67°": math.degrees(brentq(lambda theta: cut_series(math.degrees(theta)) + 4, 1, math.pi / 2)),
        "133.33°": 180 / 1.35,
        "−1.3753": -1.7 * abs(math.sin(1.7 * math.pi)),
        "0.8855": 3 * math.atan2(4, 3) / math.pi,
        "2.1145": 3 * math.atan2(4, -3) / math.pi,
    }
)
page.numbers_of(
    beside_60, (10, 20, 30, 40, 50), "5.6e-04 5.5e-07 5.4e-10 5.3e-13 5.1e-16", "2.6e-13 3.2e-11 1.3e-07 2.7e-04 0.23"
)
for m, degrees, shown in (
    (2, (10, 20, 30, 45, 60, 100, 150, 170), "3.9392 3.7588 3.4641 2.8284 2.0000 0.6946 3.4641 3.9392"),
    (3, (10, 20, 30, 45, 90, 100, 150, 170), "8.6382 7.5963 6.0000 3.0000 3.0000 2.6382 6.0000 8.6382"),
    (4, (10, 20, 30, 60, 100, 150, 170), "14.8067 11.5175 6.9282 4.0000 2.6108 6.9282 14.8067"),
):
    page.numbers_of(lambda at, m=m: psi_factor(at, m), degrees, shown)
page.numbers_of(
    clamped,
    (1e-7, 1e-5, 1e-4, 1e-3),
    "0.0256° 0.2562° 0.8103° 2.5626°",
    "1.6e-06 1.6e-04 1.6e-03 0.0160",
    "0.0072 0.0716 0.2262 0.7118",
)
