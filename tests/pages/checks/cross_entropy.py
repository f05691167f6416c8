"""Checks of cross_entropy.md."""

import math

import numpy as np

from pages.evaluator import array, mp
from pages.page import Page, holds
from pages.tables import Example
from pages.worlds import World, cross_entropy_world, plain_world


def cross_entropy_example(example: Example) -> World:
    """z as the product of itself and the identity."""
    z = example.rows("z")
    eye = np.diag([mp.one] * len(z[0]))
    settings = {"x": z, "W": eye, "b": 0 * z[0], "upstream": mp.one} | example.settings()
    return cross_entropy_world(0, labels=example.labels, **settings)


page = Page("cross_entropy.md", lambda: [cross_entropy_world(seed) for seed in (1, 2)], cross_entropy_example)


@page.reads(r"\ell = -\log p_y", r"= p_y - 1", r"= 1 - p_y")
def one_label_without_weights():
    return [cross_entropy_world(seed, varepsilon=mp.zero, class_weights=array([mp.one] * 3)) for seed in (1, 2)]


@page.reads(r"1 - p_y = e^{-d}")
def two_classes():
    d = mp.mpf("1.7")
    return [plain_world({"p_y": mp.exp(d) / (mp.exp(d) + 1), "d": d})]


@page.claims(r"2^{H} e^{-d} \ge 2^{-1022} \iff d \le 1922 \log 2 = 1332.2")
def headroom(latex):
    first, second = latex.split(r"\iff")
    limit = 1922 * mp.log(2)
    assert round(float(limit), 1) == 1332.2
    for d in (limit * (1 - mp.mpf(10) ** -30), limit * (1 + mp.mpf(10) ** -30)):
        world = plain_world({"H": 900, "d": d})
        assert holds(first, world) == holds(second.split("=")[0], world) == (d < limit)


# -- numbers ---------------------------------------------------------------------------------------


def others(gap: float) -> float:
    return math.exp(-gap) / (1 + math.exp(-gap))


def subtracted(gap: float) -> float:
    return 1 - 1 / (1 + math.exp(-gap))


def subtracted_in_float32(gap: float) -> float:
    one = np.float32(1)
    return float(one - one / (one + np.exp(np.float32(-gap))))


def smoothed(t_y: float, t_c: float) -> tuple[float, float, float]:
    """The targets of a smoothing, and the gap of the logits at which its loss is least."""
    return t_y, t_c, math.log(t_y / t_c)


page.numbers_of(others, (35, 37, 40), "6.3051e-16 8.5330e-17 4.2484e-18")
SHARE = 0.1 / 1000  # ε = 0.1 of 1000 classes
page.numbers_of(
    smoothed,
    ((1 - 0.1 + SHARE, SHARE), ((1 + SHARE) / (1 + 0.1), SHARE / (1 + 0.1))),
    "0.9001 0.9092",
    "0.0001 9.0909e-05",
    "9.1051 9.2104",
)
page.numbers(
    {
        "6.6613e-16": subtracted(35),
        "5.6 %": 100 * (subtracted(35) / others(35) - 1),
        "1332.2": 1922 * math.log(2),
        "5.9 %": 100 * (subtracted_in_float32(16) / others(16) - 1),
        "0.2656": 17 / 64,
        # a_c over the weight of the target, for the light class and for the heavy one
        "0.95": 0.1 * 0.95 / 0.1,
        "0.45": 0.9 * 0.05 / 0.1,
        "0.0056": 0.1 * 0.05 / 0.9,
        "88.7228": math.log(np.finfo(np.float32).max),
        "11.0899": math.log(np.finfo(np.float16).max),
        "2.1972": smoothed(1 - 2 * 0.1 + 0.1, 0.1)[2],  # multi_label
        "1.0010e-04": 0.1 / 999,  # t5x
        "9.1040": smoothed(1 - 0.1, 0.1 / 999)[2],
        "0.0909": 0.1 / 1.1,
        "0.0089": 0.9 / (0.9 + 999 * 0.1),
        "1.0158": -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 999),
    }
)
