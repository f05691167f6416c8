"""The numbers that the pages of derivations/ display, each with what it must be. No code of the passes takes part.

`NUMBERS` has, page by page, the number as it stands there and its value, in the unit that it stands in. What an example
(`>>>`) of the page prints, or a formula between $$ says, is checked there and needs no line here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from scipy.optimize import brentq


def agrees(shown: str, value: float) -> bool:
    """Whether a value, rounded to as many digits as a number shows, is that number: '−4.6151e-15', '1.27', '30.68'."""
    digits, _, exponent = shown.replace("−", "-").rstrip(" %°").partition("e")
    decimals = len(digits.partition(".")[2])
    if not exponent:
        return f"{value:.{decimals}f}" == digits
    mantissa, _, power = f"{value:.{decimals}e}".partition("e")
    return (mantissa, int(power)) == (digits, int(exponent))


def softmax_boundary(t: float, ratio: float) -> float:
    """The degrees from W_1 to the boundary of two rows t apart, the first `ratio` times as long."""
    return math.degrees(brentq(lambda a: ratio * math.cos(a) - math.cos(t - a), t - math.pi, t))


def degrees_factor(degrees: float) -> float:
    theta = math.radians(degrees)
    return math.sin(theta + 0.5) / math.sin(theta)


def largest_decreasing_tail() -> float:
    """The m in (2, 3) where cos m + m sin m comes back to 1."""
    return brentq(lambda m: math.cos(m) + m * math.sin(m) - 1, 2, 3)


def others(gap: float) -> float:
    return math.exp(-gap) / (1 + math.exp(-gap))


def subtracted(gap: float) -> float:
    return 1 - 1 / (1 + math.exp(-gap))


def subtracted_in_float32(gap: float) -> float:
    one = np.float32(1)
    return float(one - one / (one + np.exp(np.float32(-gap))))


def smoothed(mode: str, epsilon: float = 0.1, C: int = 1000) -> tuple[float, float]:
    """t_y and t_c of one of the smoothings of cross_entropy.md."""
    share = epsilon / C
    return {
        "original": (1 - epsilon + share, share),
        "classy_vision": ((1 + share) / (1 + epsilon), share / (1 + epsilon)),
        "multi_label": (1 - 2 * epsilon + epsilon, epsilon),
        "t5x": (1 - epsilon, epsilon / (C - 1)),
    }[mode]


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


def cosine_boundary(degrees: float, m: float = 0.35) -> float:
    """Where cos θ₁ − cos θ₂ = m between two rows so far apart; negative beyond W_1."""
    t = math.radians(degrees)
    return math.degrees(brentq(lambda a: math.cos(a) - math.cos(t - a) - m, t / 2 - math.pi / 2, t / 2))


def arc_boundary(degrees: float, m: float = 0.5) -> float:
    """Where cos(θ₁ + m) = cos θ₂ between two rows so far apart."""
    t = math.radians(degrees)
    return math.degrees(brentq(lambda a: math.cos(a + m) - math.cos(t - a), 0, t / 2))


def length_where(share: float, fault: Callable[[float], float], low: float) -> float:
    """The length above `low` at which a fault that falls with the length comes down to a share."""
    return math.exp(brentq(lambda log: fault(math.exp(log)) - share, math.log(low), 0))


def epsilon_faults(epsilon: float, inside: bool) -> tuple[float, float]:
    """Where v/√(‖v‖² + ε), or v/(‖v‖ + ε), and its Jacobian along v are 1 % off."""

    def divisor(n: float) -> float:
        return math.sqrt(n * n + epsilon) if inside else n + epsilon

    def along(n: float) -> float:
        h = 1e-4 * n  # the central difference of n / q(n), times n: off by about h² / n²
        return n * ((n + h) / divisor(n + h) - (n - h) / divisor(n - h)) / (2 * h)

    low = math.sqrt(epsilon) if inside else epsilon  # both faults are large there
    return length_where(0.01, lambda n: 1 - n / divisor(n), low), length_where(0.01, along, low)


def turned(length: float) -> tuple[float, float]:
    """The degrees by which a step of 0.1 against a unit gradient at v̂ turns v, and the length that it gets."""
    moved = np.array([length, 0.1 / length])
    return math.degrees(math.atan2(moved[1], moved[0])), float(np.hypot(*moved))


def max_of_margin(m: int) -> float:
    """The largest √(ψ² + ψ'²) over θ, on a fine grid."""
    theta = np.linspace(0, math.pi, 2_000_001)
    k = np.minimum(np.floor(m * theta / math.pi), m - 1)
    psi = (-1.0) ** k * np.cos(m * theta) - 2 * k
    return float(np.sqrt(np.max(psi**2 + (m * np.sin(m * theta)) ** 2)))


# 60° in space exactly, and beside it: cos θ = (2^50 + 1) / √(2 (2^101 + 1))
AT_KNOT = ((1, 1, 0), (1, 0, 1))
BESIDE_KNOT = ((1, 1, 0), (2**50, 1, 2**50))


def annealed_psi(theta: float, annealing: float, m: int = 4) -> float:
    """(λ cos θ + ψ(θ)) / (1 + λ) with the papers' ψ."""
    k = min(math.floor(m * theta / math.pi), m - 1)
    return (annealing * math.cos(theta) + (-1) ** k * math.cos(m * theta) - 2 * k) / (1 + annealing)


def psi_boundary(degrees: float, annealing: float, ahead: float = 0.0) -> float:
    """Where ψ(θ₁) is so much ahead of cos θ₂ between two rows so far apart, in degrees."""
    t = math.radians(degrees)
    return math.degrees(brentq(lambda a: annealed_psi(a, annealing) - math.cos(t - a) - ahead, 0, t / 2))


def psi_factor(degrees: float, m: int) -> float:
    """dψ/dcos θ, the derivative of Chebyshev's T_m with its sign on a falling branch."""
    T = np.polynomial.chebyshev.Chebyshev.basis(m)
    return abs(float(T.deriv()(math.cos(math.radians(degrees)))))


def real_factor(degrees: float, m: float) -> float:
    """The same for a real m: ratio of the slopes of ψ and of the cosine."""
    theta = math.radians(degrees)
    return m * abs(math.sin(m * theta)) / math.sin(theta)


def largest_pull(annealing: float) -> tuple[float, float]:
    """Where √(ψ² + ψ'²) is largest for m = 4, in degrees, and how large, by differences on a fine grid."""
    theta = np.linspace(0, math.pi, 200_001)
    psi = np.array([annealed_psi(t, annealing) for t in theta])
    pull = np.hypot(psi, np.gradient(psi, theta))
    return math.degrees(theta[pull.argmax()]), float(pull.max())


def clamped(epsilon: float, m: int = 4) -> tuple[float, float, float]:
    """arccos(1 − ε) in degrees, 1 − cos mθ there, and the slope's size there."""
    theta = math.acos(1 - epsilon)
    return math.degrees(theta), 1 - math.cos(m * theta), m * math.sin(m * theta)


def cut_series(degrees: float, m: int = 4) -> float:
    """The cosine's series as released: up to x⁸/8!, then −x⁹/9!."""
    x = m * math.radians(degrees)
    return sum((-1) ** n * x ** (2 * n) / math.factorial(2 * n) for n in range(5)) - x**9 / math.factorial(9)


def ambient_turn(a: float, degrees: float) -> tuple[float, float]:
    """By how many degrees a step a x̂ turns a unit row, and its part across the row."""
    theta = math.radians(degrees)
    ahead = math.cos(theta) * a
    true, released = (math.atan2(a * math.sin(theta), 1 - part) for part in (0.0, ahead))
    return math.degrees(true), math.degrees(released)


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
        ("56.3 %", 100 * (1 + math.log(np.finfo(np.float32).tiny) / 200)),
        ("75.5129", 64 + math.log(1e5 + math.exp(-64))),
        *[
            (shown, softmax_boundary(t, ratio))
            for t, ratio, shown in (
                (math.pi / 2, 2, "63.43°"),
                (math.pi / 2, 1 / 2, "26.57°"),
                (math.pi / 2, 1 / 4, "14.04°"),
                (math.pi / 3, 1 / 4, "−16.10°"),
            )
        ],
        ("0.7071", 1 / math.sqrt(2)),
        *[
            (shown, math.log1p(math.exp(-length)))
            for length, shown in (
                (0.1, "0.6444"),
                (1, "0.3133"),
                (5, "0.0067"),
                (10, "4.5399e-05"),
                (20, "2.0612e-09"),
            )
        ],
        *[
            (shown, math.hypot(others(length), others(length)))
            for length, shown in (
                (0.1, "0.6718"),
                (1, "0.3803"),
                (5, "0.0095"),
                (10, "6.4202e-05"),
                (20, "2.9149e-09"),
            )
        ],
    ],
    "weighted_softmax.md": [
        ("54.87°", math.degrees(math.atan2(9, -30) - math.atan2(36, -12))),
        ("2.1972", math.log(0.9 / 0.1)),
        ("0.09", 0.1 * 0.9),
        ("0.9991", 1 / (1 + math.exp(2 - 9))),
        ("0.2689", 1 / (1 + math.exp(2 - 1))),
    ],
    "w_norm_softmax.md": [
        *[
            (f"{shown}°", math.degrees(math.atan(ratio)))
            for ratio, shown in ((2, "63.43"), (1 / 2, "26.57"), (1 / 10, "5.71"))
        ],
        ("0.4509", math.e / (math.e + 9 / math.e)),
        ("0.0073", math.e / (math.e + 999 / math.e)),
        ("5.0e-07", 1 - 1 / math.sqrt(1 + 1e-6)),
        ("0.7071", 1e-3 / math.sqrt(1e-6 + 1e-6)),
        *[
            (shown, 1 / math.sin(math.radians(degrees)))
            for degrees, shown in ((20, "2.9238"), (60, "1.1547"), (100, "1.0154"), (170, "5.7588"))
        ],
        *[
            (shown, math.cos(math.radians(degrees)))
            for degrees, shown in ((20, "0.9397"), (60, "0.5000"), (100, "−0.1736"), (170, "−0.9848"))
        ],
        ("1.9589°", ambient_turn(0.1, 20)[0]),
        ("2.1618°", ambient_turn(0.1, 20)[1]),
        ("10 %", 100 * (ambient_turn(0.1, 20)[1] / ambient_turn(0.1, 20)[0] - 1)),
        ("1.7907°", -ambient_turn(-0.1, 20)[1]),
        ("9 %", 100 * (1 - ambient_turn(-0.1, 20)[1] / ambient_turn(-0.1, 20)[0])),
    ],
    "l_softmax.md": [
        ("22.5°", 90 / 4),
        ("0.8333", 5 / 6),
        *[
            (shown, max_of_margin(m))
            for m, shown in ((2, "3.0551"), (3, "5.1962"), (4, "7.3756"), (4, "7.4"))
        ],
    ],
    "a_softmax.md": [
        *[
            (shown, value)
            for t, boundary, between in (
                (90, "34.39°", "21.23°"),
                (60, "21.66°", "16.69°"),
                (30, "10.54°", "8.93°"),
                (10, "3.49°", "3.03°"),
                (1, "0.35°", "0.30°"),
            )
            for shown, value in ((boundary, psi_boundary(t, 5)), (between, t - 2 * psi_boundary(t, 5)))
        ],
        *[(shown, psi_boundary(t, 0)) for t, shown in ((90, "18°"), (60, "12°"), (30, "6°"), (10, "2°"))],
        ("39 %", 100 * (90 - 2 * psi_boundary(90, 5)) / 54),
        ("51 %", 100 * (1 - 2 * psi_boundary(1, 5)) / 0.6),
        ("3.732", 2 + math.sqrt(3)),
        ("22.5°", 180 / 8),
        ("66.92°", math.degrees(brentq(lambda theta: annealed_psi(theta, 5), 0, math.pi))),
        ("7.3756", max_of_margin(4)),
        ("163.39°", largest_pull(0)[0]),
        ("2.0494", largest_pull(5)[1]),
        ("94 %", 100 * math.cos(math.radians(20))),
        ("11.5", psi_factor(20, 4)),
        ("3.6e-9", math.pi - 3.14159265),
        ("1.8333", 5 / 6 * 2 + 1 / 6),
        *[
            (shown, math.cos(math.radians(degrees)))
            for degrees, shown in ((20, "0.9397"), (45, "0.7071"), (60, "0.5000"), (100, "−0.1736"))
        ],
        *[
            (shown, psi_factor(degrees, 4))
            for degrees, shown in ((20, "11.5175"), (60, "4.0000"), (100, "2.6108"))
        ],
        *[
            (shown, (5 + psi_factor(degrees, 4)) / 6)
            for degrees, shown in ((20, "2.7529"), (45, "0.8333"), (60, "1.5000"), (100, "1.2685"))
        ],
        ("1.6971", 6 / (5 + psi_factor(45, 4)) / math.sin(math.pi / 4)),
        ("2.9745", 3 / (1 + math.exp(-119 / 25))),
    ],
    "f_norm_sphereface.md": [
        *[
            (f"{shown}°", psi_boundary(90, 0, sign * math.log(9) / s))
            for s, sign, shown in ((64, 1, "17.58"), (64, -1, "18.41"), (30, 1, "17.11"), (30, -1, "18.88"))
        ],
        *[
            (f"{shown}°", psi_boundary(90, 0, -math.log(9) / s) - psi_boundary(90, 0, math.log(9) / s))
            for s, shown in ((64, "0.83"), (30, "1.77"))
        ],
        ("2.56e8", 64 * 4 / 1e-6),
        ("22.5°", 180 / 8),
        ("1.6 %", 100 / (1 + 62.5)),
        ("133.33°", 180 / 1.35),
        ("-0.4540", math.cos(1.35 * math.pi)),
        ("86.67°", math.degrees(math.acos(math.cos(1.35 * math.pi))) / 1.35),
        ("-1.5460", -math.cos(1.35 * math.pi) - 2),
        ("0.0256°", clamped(1e-7)[0]),
        ("8.2", 1e4 * 1.35 * math.sin(1.35 * math.acos(1 - 1e-7))),
        ("2.9", 1e5 * (1 - math.cos(1.7 * math.acos(1 - 1e-5)))),
        ("1.386", math.log(np.finfo(np.float32).max) / 64),
        ("61.98°", math.degrees(math.acos(0.5 * math.cos(math.radians(20))))),
        ("33.56°", math.degrees(math.acos(1 / 1.2))),
        *[
            (shown, real_factor(degrees, 1.7))
            for degrees, shown in ((20, "2.7795"), (60, "1.9201"), (100, "0.2998"), (150, "3.2841"))
        ],
        *[
            (shown, psi_factor(degrees, 4))
            for degrees, shown in (
                (20, "11.5175"),
                (60, "4.0000"),
                (100, "2.6108"),
                (150, "6.9282"),
                (170, "14.8067"),
            )
        ],
        ("105.88°", 180 / 1.7),
    ],
    "l2_softmax.md": [
        ("4.2767", math.log(0.9 * 8 / 0.1)),
        *[
            (shown, math.log(share / (1 - share)))
            for share, shown in ((0.75, "1.0986"), (0.9, "2.1972"), (0.99, "4.5951"), (0.999, "6.9068"))
        ],
        *[
            (shown, math.degrees(math.asin(1 / (alpha * math.sqrt(2)))))
            for alpha, shown in ((4, "10.18°"), (16, "2.53°"), (64, "0.63°"))
        ],
        *[
            # half of W_2 − W_1, stretched by α/‖x‖
            (shown, 16 / length * math.hypot(0.5, 0.5))
            for length, shown in ((0.01, "1131.3708"), (1, "11.3137"), (16, "0.7071"), (100, "0.1131"))
        ],
        ("0.01", 1 / 100),
        ("26.57°", softmax_boundary(math.pi / 2, 1 / 2)),
        ("36.87°", math.degrees(math.atan2(3, 4))),
        ("6.3686", 64 / math.sqrt(1 + 9999 * 0.1**2)),
        ("0.0551", 1 / (1 + 9999 * math.exp(-64 / math.sqrt(1 + 9999 * 0.1**2)))),
        ("1.4057", math.log(math.exp(1) + math.exp(-1) + 8) - 1),
    ],
    "am_softmax.md": [
        ("79.92°", cosine_boundary(180)),
        ("30.67°", cosine_boundary(90)),
        ("9.51°", cosine_boundary(60)),
        ("10.77°", -cosine_boundary(40)),
        ("20.16°", 180 - 2 * cosine_boundary(180)),
        ("28.66°", 90 - 2 * cosine_boundary(90)),
        ("40.97°", 60 - 2 * cosine_boundary(60)),
        ("61.55°", 40 - 2 * cosine_boundary(40)),
        ("49.46°", math.degrees(math.acos(0.65))),
        ("20.16°", math.degrees(2 * math.asin(0.175))),
        ("69.51°", math.degrees(math.acos(0.35))),
        ("10.5000", math.log1p(math.exp(10.5))),
        ("3.4e-09", math.log1p(math.exp(-30 * 0.65))),
        ("2.1e-17", math.log1p(math.exp(-64 * 0.6))),
        ("0.0073", 30 * 2**-12),
        ("0.0586", 30 * 2**-9),
        ("0.3765", 1 - math.cos(2 * math.pi / 7)),
        ("0.2929", 1 - math.cos(2 * math.pi / 8)),
    ],
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
        ("165.68°", 180 - math.degrees(0.25)),
        ("27.69°", 360 / 13),
        ("159.95°", 180 - math.degrees(0.35)),
        *[
            (shown, arc_boundary(t))
            for t, shown in ((180, "75.68°"), (90, "30.68°"), (60, "15.68°"), (40, "5.68°"))
        ],
        *[("28.65°", t - 2 * arc_boundary(t)) for t in (180, 90, 60, 40)],
        ("30.67°", cosine_boundary(90)),
        ("3.9936", math.log1p(math.exp(64 * (math.cos(math.radians(20)) - math.cos(0.5))))),
        ("7.5069", 64 * (math.cos(0.5) + 0.5 * math.sin(0.5) - 1)),
        ("3.8008", 64 * (math.cos(0.35) + 0.35 * math.sin(0.35) - 1)),
        ("1.9401", 32 * (1 - math.cos(0.35))),
        ("0.0535", 64 * (math.cos(math.radians(88.6)) - math.cos(math.radians(60) + 0.5))),
        ("1.2661°", math.degrees(math.acos(1 - 2**-12))),
        ("3.5816°", math.degrees(math.acos(1 - 2**-9))),
        ("198.66°", math.degrees(28.6) % 360),
        ("161.34°", 360 - math.degrees(28.6) % 360),
        ("31.5151", 64 * math.cos(math.radians(60.5))),
        ("1.5102", 64 * math.cos(math.radians(60) + 0.5)),
        ("1.4359", (56 / 65) / (3 / 5)),
    ],
    "cross_entropy.md": [
        ("6.3051e-16", others(35)),
        ("8.5330e-17", others(37)),
        ("4.2484e-18", others(40)),
        ("6.6613e-16", subtracted(35)),
        ("5.6 %", 100 * (subtracted(35) / others(35) - 1)),
        ("1332.2", 1922 * math.log(2)),
        ("5.9 %", 100 * (subtracted_in_float32(16) / others(16) - 1)),
        ("0.2656", 17 / 64),
        # a_c over the weight of the target, for the light class and for the heavy one
        ("0.95", 0.1 * 0.95 / 0.1),
        ("0.45", 0.9 * 0.05 / 0.1),
        ("0.0056", 0.1 * 0.05 / 0.9),
        ("88.7228", math.log(np.finfo(np.float32).max)),
        ("11.0899", math.log(np.finfo(np.float16).max)),
        *[
            (shown, smoothed(mode)[k])
            for mode, k, shown in (
                ("original", 0, "0.9001"),
                ("original", 1, "0.0001"),
                ("classy_vision", 0, "0.9092"),
                ("classy_vision", 1, "9.0909e-05"),
                ("t5x", 1, "1.0010e-04"),
            )
        ],
        *[
            (shown, math.log(np.divide(*smoothed(mode))))
            for mode, shown in (
                ("original", "9.1051"),
                ("classy_vision", "9.2104"),
                ("multi_label", "2.1972"),
                ("t5x", "9.1040"),
            )
        ],
        ("0.0909", 0.1 / 1.1),
        ("0.0089", 0.9 / (0.9 + 999 * 0.1)),
        ("1.0158", -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 999)),
    ],
    "normalisation.md": [
        ("1.34e154", math.sqrt(np.finfo(float).max)),
        ("1.57e-162", 2.0**-537.5),
        *[
            (shown, 1 / math.tan(math.radians(degrees)))
            for degrees, shown in ((60, "0.5774"), (30, "1.7321"), (10, "5.6713"))
        ],
        ("0.01", 1 / 100),
        *[
            (shown, turned(length)[0])
            for length, shown in (
                (100, "0.0006°"),
                (10, "0.0573°"),
                (1, "5.7106°"),
                (0.1, "84.2894°"),
                (0.01, "89.9427°"),
            )
        ],
        ("10.0000", turned(10)[1]),
        ("1.0050", turned(1)[1]),
        ("1.0050", turned(0.1)[1]),
        ("10.0000", turned(0.01)[1]),
        ("9.9e-13", 0.99 * 1e-12),
        ("1.0e-12", 1e-12),
        ("9.9e-06", 0.99 * 1e-5),
        ("1.0e-05", 1e-5),
        ("9.9e-07", 0.99 * math.sqrt(1e-12)),
        ("1.0e-06", math.sqrt(1e-12)),
        ("9.9e-07", epsilon_faults(1e-8, inside=False)[0]),
        ("9.8e-07", epsilon_faults(1e-8, inside=False)[1]),
        ("7.0e-05", epsilon_faults(1e-10, inside=True)[0]),
        ("9.9e-05", epsilon_faults(1e-10, inside=True)[1]),
        ("7.0e-03", epsilon_faults(1e-6, inside=True)[0]),
        ("9.9e-03", epsilon_faults(1e-6, inside=True)[1]),
        ("0.7071", 1e-3 / math.sqrt(1e-6 + 1e-6)),
        ("5.0e-07", 1 - 1 / math.sqrt(1 + 1e-6)),
        ("1.7e-04", math.sqrt(2.0**-25)),  # float16 rounds what is below half of 2^-24 to 0
        ("1.25", math.hypot(1 / 5, 0) / math.hypot(16 / 125, 12 / 125)),
        ("36.87°", math.degrees(math.atan2(12, 16))),
    ],
    "angle.md": [
        ("1.4901e-08", math.acos(1 - 2**-53)),
        ("3.4527e-04", math.acos(1 - 2**-24)),
        ("0.0198°", math.degrees(math.acos(1 - 2**-24))),
        *[
            (shown, math.degrees(math.acos(1 - epsilon)))
            for epsilon, shown in (
                (1e-3, "2.5626°"),
                (1e-4, "0.8103°"),
                (1e-5, "0.2562°"),
                (1e-7, "0.0256°"),
                (2**-23, "0.0280°"),
            )
        ],
        ("1.4280", 64 * (math.cos(0.5) - math.cos(0.5 + math.acos(1 - 1e-3)))),
        ("0.4395", 64 * (math.cos(0.5) - math.cos(0.5 + math.acos(1 - 1e-4)))),
        ("3.0e-08", 2.0**-25),
        ("2.4e-04", 2.0**-12),
        ("2.0e-03", 2.0**-9),
    ],
    "psi.md": [
        *KNOT_SLOPES,
        ("23 %", 100 * (KNOT_SLOPES[1][1] / KNOT_SLOPES[2][1] - 1)),
        ("0.7071", math.cos(math.pi / 4)),
        ("1.7071", 1 + math.cos(math.pi / 4)),
        ("109.25", 64 * (1 + math.cos(math.pi / 4))),
        *[
            (shown, value)
            for n, distance, error in (
                (10, "5.6e-04", "2.6e-13"),
                (20, "5.5e-07", "3.2e-11"),
                (30, "5.4e-10", "1.3e-07"),
                (40, "5.3e-13", "2.7e-04"),
                (50, "5.1e-16", "0.23"),
            )
            for shown, value in zip((distance, error), beside_60(n), strict=True)
        ],
        *[
            (shown, psi_factor(degrees, m))
            for m, row in (
                (2, {10: "3.9392", 20: "3.7588", 30: "3.4641", 45: "2.8284", 60: "2.0000", 100: "0.6946"}),
                (3, {10: "8.6382", 20: "7.5963", 30: "6.0000", 45: "3.0000", 90: "3.0000", 100: "2.6382"}),
                (4, {10: "14.8067", 20: "11.5175", 30: "6.9282", 60: "4.0000", 100: "2.6108"}),
            )
            for degrees, shown in (row | {150: row[30], 170: row[10]}).items()
        ],
        ("3.6e-9", math.pi - 3.14159265),
        ("5.7e-8", 4 * math.sin(4 * (math.pi - 3.14159265))),
        ("−1.0582", cut_series(45)),
        ("−1.1912", cut_series(60)),
        ("74.67°", math.degrees(brentq(lambda theta: cut_series(math.degrees(theta)) + 4, 1, math.pi / 2))),
        ("133.33°", 180 / 1.35),
        ("−1.3753", -1.7 * abs(math.sin(1.7 * math.pi))),
        *[
            (shown, value)
            for epsilon, row in (
                (1e-7, ("0.0256°", "1.6e-06", "0.0072")),
                (1e-5, ("0.2562°", "1.6e-04", "0.0716")),
                (1e-4, ("0.8103°", "1.6e-03", "0.2262")),
                (1e-3, ("2.5626°", "0.0160", "0.7118")),
            )
            for shown, value in zip(row, clamped(epsilon), strict=True)
        ],
        ("0.8855", 3 * math.atan2(4, 3) / math.pi),
        ("2.1145", 3 * math.atan2(4, -3) / math.pi),
    ],
    "margins.md": [
        ("−1.1173", -math.cos(0.5) - 0.5 * math.sin(0.5)),
        ("0.4794", math.sin(0.5)),
        ("2.331", largest_decreasing_tail()),
        ("1.3914", 64 * (math.cos(math.pi / 3 + 0.3) - 0.2)),
        ("133.33°", 180 / 1.35),
        ("34.9446", 64 * (math.cos(1.35 * math.pi) + 1)),
        ("23.13°", math.degrees(math.atan(math.sin(0.5) / (2 - math.cos(0.5))))),
        ("151.35°", 180 - math.degrees(0.5)),
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
    "second_derivatives.md": [
        ("−30739", -64 * math.sin(0.501) / math.tan(1e-3)),
    ],
    "singular_points.md": [
        ("30.6832", 64 * math.sin(0.5)),
    ],
}

# Numbers that are given, not computed: defaults and constants of papers and released code, by page or everywhere.
GIVEN = {
    "": {"0.35", "0.40", "1.35", "28.6"},
    "normalisation.md": {"1 %"},
    "weighted_softmax.md": {"10 %"},
    "l2_softmax.md": {"75 %", "90 %", "99 %", "99.9 %"},
    "w_norm_softmax.md": {"0.05"},
    "a_softmax.md": {"3.14159265"},
    "f_norm_sphereface.md": {"0.0001"},
    "psi.md": {"3.14159265"},
    "bounds.md": {"8.50"},
    "schedules.md": {"0.12", "0.000025", "0.00002", "0.00001", "0.0001", "0.01", "0.99"},
}

# Numbers of a table that another test reads from the page and computes again.
ELSEWHERE = {
    "precision.md": {"2.00", "2.25", "2.50", "2.75"},  # test_table_of_slices
}
