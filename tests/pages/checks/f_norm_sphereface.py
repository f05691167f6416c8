"""Checks of f_norm_sphereface.md."""

import math

import numpy as np

from pages.checks.psi import clamped, psi_factor
from pages.page import BRANCHES, margin_page
from pages.plane import boundary_in_degrees, margin_psi

page = margin_page("f_norm_sphereface.md", "s", "papers", BRANCHES, given=frozenset({"0.0001"}))


def nine_times(s: float) -> tuple[float, float, float]:
    """Where one of two classes at a right angle is nine times as probable as the other, and how far that is apart."""
    psi, ahead = margin_psi("papers", 4), math.log(9) / s
    first, second = (boundary_in_degrees(lambda theta, sign=sign: psi(theta) - sign * ahead, 90) for sign in (1, -1))
    return first, second, second - first


def real_factor(degrees: float, m: float = 1.7) -> float:
    """dψ/dcos θ for a real m: ratio of the slopes of ψ and of the cosine."""
    theta = math.radians(degrees)
    return m * abs(math.sin(m * theta)) / math.sin(theta)


page.numbers_of(nine_times, (64, 30), "17.58° 17.11°", "18.41° 18.88°", "0.83° 1.77°")
page.numbers_of(real_factor, (20, 60, 100, 150), "2.7795 1.9201 0.2998 3.2841")
page.numbers_of(psi_factor, ((20, 4), (60, 4), (100, 4), (150, 4), (170, 4)), "11.5175 4.0000 2.6108 6.9282 14.8067")
page.numbers(
    {
        "2.56e8": 64 * 4 / 1e-6,
        "22.5°": 180 / 8,
        "1.6 %": 100 / (1 + 62.5),
        "133.33°": 180 / 1.35,
        "-0.4540": math.cos(1.35 * math.pi),
        "86.67°": math.degrees(math.acos(math.cos(1.35 * math.pi))) / 1.35,
        "-1.5460": -math.cos(1.35 * math.pi) - 2,
        "0.0256°": clamped(1e-7)[0],
        "8.2": 1e4 * 1.35 * math.sin(1.35 * math.acos(1 - 1e-7)),
        "2.9": 1e5 * (1 - math.cos(1.7 * math.acos(1 - 1e-5))),
        "1.386": math.log(np.finfo(np.float32).max) / 64,
        "61.98°": math.degrees(math.acos(0.5 * math.cos(math.radians(20)))),
        "33.56°": math.degrees(math.acos(1 / 1.2)),
        "105.88°": 180 / 1.7,
    }
)
