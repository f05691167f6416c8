"""The numbers that the pages of derivations/ display, each with what it must be. No code of the passes takes part.

`NUMBERS` has, page by page, the number as it stands there and its value, in the unit that it stands in. What an example
(`>>>`) of the page prints, or a formula between $$ says, is checked there and needs no line here.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def agrees(shown: str, value: float) -> bool:
    """Whether a value, rounded to as many digits as a number shows, is that number: '−4.6151e-15', '1.27', '30.68'."""
    digits, _, exponent = shown.replace("−", "-").rstrip(" %°").partition("e")
    decimals = len(digits.partition(".")[2])
    if not exponent:
        return f"{value:.{decimals}f}" == digits
    mantissa, _, power = f"{value:.{decimals}e}".partition("e")
    return (mantissa, int(power)) == (digits, int(exponent))


def degrees_factor(degrees: float) -> float:
    theta = math.radians(degrees)
    return math.sin(theta + 0.5) / math.sin(theta)


def largest_decreasing_tail() -> float:
    """The m in (2, 3) where cos m + m sin m comes back to 1, by bisection."""
    low, high = 2.0, 3.0
    for _ in range(60):
        m = (low + high) / 2
        low, high = (m, high) if math.cos(m) + m * math.sin(m) > 1 else (low, m)
    return low


def others(gap: float) -> float:
    return math.exp(-gap) / (1 + math.exp(-gap))


def subtracted(gap: float) -> float:
    return 1 - 1 / (1 + math.exp(-gap))


def subtracted_of_10_000(degrees: float) -> tuple[float, float]:
    """1 − p_y of ArcFace with 9999 other classes at right angles: true, and subtracted in float64."""
    e = math.exp(-64 * math.cos(math.radians(degrees) + 0.5))
    # the sum of all exponentials rounded only once
    return 9999 * e / (1 + 9999 * e), 1 - 1 / math.fsum([1.0] + [e] * 9999)


def percent_off(degrees: float) -> float:
    true, computed = subtracted_of_10_000(degrees)
    return 100 * abs(computed / true - 1)


def arccos_off(theta: float) -> float:
    return abs(math.acos(math.cos(theta)) / theta - 1)


def max_of_margin(m: int) -> float:
    """The largest √(ψ² + ψ'²) over θ, on a fine grid."""
    theta = np.linspace(0, math.pi, 2_000_001)
    k = np.minimum(np.floor(m * theta / math.pi), m - 1)
    psi = (-1.0) ** k * np.cos(m * theta) - 2 * k
    return float(np.sqrt(np.max(psi**2 + (m * np.sin(m * theta)) ** 2)))


# 60° in space exactly, and beside it: cos θ = (2^50 + 1) / √(2 (2^101 + 1))
AT_KNOT = ((1, 1, 0), (1, 0, 1))
BESIDE_KNOT = ((1, 1, 0), (2**50, 1, 2**50))


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


KNOT_SLOPES = [
    ("−9.6e-16", textbook_slope(AT_KNOT)),
    ("−5.6965e-15", textbook_slope(BESIDE_KNOT)),
    ("−4.6151e-15", -math.sqrt(squared_slope(BESIDE_KNOT))),
]

NUMBERS: dict[str, list[tuple[str, float]]] = {
    "README.md": [
        ("25 %", 100 / 4),
        ("33 %", 100 / 3),
        ("37.5 %", 100 * 3 / 8),
        ("1.27 %", 100 * 0.5**2 / (2 * math.pi**2)),
    ],
    "softmax.md": [
        ("87.3365", -math.log(np.finfo(np.float32).tiny)),
        ("69.0776", -math.log(1e-30)),
    ],
    "weighted_softmax.md": [],
    "w_norm_softmax.md": [],
    "l_softmax.md": [
        ("22.5°", 90 / 4),
        ("0.8333", 5 / 6),
        *[
            (shown, max_of_margin(m))
            for m, shown in ((2, "3.0551"), (3, "5.1962"), (4, "7.3756"), (4, "7.4"))
        ],
    ],
    "a_softmax.md": [],
    "f_norm_sphereface.md": [],
    "l2_softmax.md": [
        ("4.2767", math.log(0.9 * 8 / 0.1)),
    ],
    "am_softmax.md": [],
    "arcface.md": [
        *[
            (shown, degrees_factor(degrees))
            for degrees, shown in (
                (10, "3.5965"),
                (30, "1.7080"),
                (60, "1.1544"),
                (90, "0.8776"),
                (120, "0.6008"),
                (150, "0.0472"),
                (170, "−1.8414"),
            )
        ],
        ("151.35°", 180 - math.degrees(0.5)),
        ("30.6832", 64 * math.sin(0.5)),
        ("0.49916", math.radians(28.6)),
    ],
    "cross_entropy.md": [
        ("6.3051e-16", others(35)),
        ("8.5330e-17", others(37)),
        ("4.2484e-18", others(40)),
        ("6.6613e-16", subtracted(35)),
        ("5.6 %", 100 * (subtracted(35) / others(35) - 1)),
        ("1332.2", 1922 * math.log(2)),
    ],
    "normalisation.md": [
        ("1.34e154", math.sqrt(np.finfo(float).max)),
        ("1.57e-162", 2.0**-537.5),
    ],
    "angle.md": [
        ("1.4901e-08", math.acos(1 - 2**-53)),
    ],
    "psi.md": [
        *KNOT_SLOPES,
        ("23 %", 100 * (KNOT_SLOPES[1][1] / KNOT_SLOPES[2][1] - 1)),
    ],
    "margins.md": [
        ("−1.1173", -math.cos(0.5) - 0.5 * math.sin(0.5)),
        ("0.4794", math.sin(0.5)),
        ("2.331", largest_decreasing_tail()),
    ],
    "precision.md": [
        *KNOT_SLOPES,
        ("3.4547e-11", subtracted_of_10_000(30)[0]),
        ("3.4547e-11", subtracted_of_10_000(30)[1]),
        ("4.3284e-15", subtracted_of_10_000(20)[0]),
        ("4.2188e-15", subtracted_of_10_000(20)[1]),
        ("1.9598e-18", subtracted_of_10_000(10)[0]),
        ("100 %", percent_off(10)),
        ("0.0001 %", percent_off(30)),
        ("2.5 %", percent_off(20)),
        ("1.4e-13", arccos_off(1e-2)),
        ("2.6e-09", arccos_off(1e-4)),
        ("4.4e-05", arccos_off(1e-6)),
        ("100 %", 100 * arccos_off(1e-8)),
    ],
    "singular_points.md": [
        ("30.6832", 64 * math.sin(0.5)),
    ],
}

# Numbers that are given, not computed: defaults and constants of papers and released code, by page or everywhere.
GIVEN = {
    "": {"0.35", "0.40", "1.35", "28.6"},
}

# Numbers of a table that another test reads from the page and computes again.
ELSEWHERE = {
    "precision.md": {"2.00", "2.25", "2.50", "2.75"},  # test_table_of_slices
}
