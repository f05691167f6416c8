"""Checks of bounds.md."""

import itertools
from typing import Any

import numpy as np

from pages.evaluator import array, mp
from pages.page import Page, draws, holds
from pages.worlds import World, angle_of, lengths, plain_world, reals


def bounds_world(seed: int, C: int) -> World:
    """C classes with a row of W and a sample each, all of length 1; i and j are classes."""
    rng = np.random.default_rng(seed)
    W, x = (rows / lengths(rows)[:, None] for rows in (reals(rng, C, 3), reals(rng, C, 3)))
    s = mp.mpf("1.7")
    cosines = x @ W.T
    ell = array(mp.log(sum(mp.exp(s * entry) for entry in row)) - s * row[i] for i, row in enumerate(cosines))
    exponents = array(s * (sum(row) - C * row[i]) / (C - 1) for i, row in enumerate(cosines))
    angles = array([angle_of(a, b) if a is not b else mp.zero for b in W] for a in W)
    arrays = {"jd": {"W": W, "x": x}, "j": {"ell": ell, "v": exponents}, "jj": {"theta": angles}}
    letters = {"s": s, "C": C, "bar v": sum(exponents) / C, "bar W": sum(W) / C, "p": mp.exp(-min(ell))}
    axes = {name: along for along, named in arrays.items() for name in named}
    world = plain_world(letters | arrays["jd"] | arrays["j"] | arrays["jj"], axes)
    world.kinds = {**world.kinds, "i": "j"}
    world.ranges = {letter: range(C) for letter in "ij"}
    return world


page = Page("bounds.md", lambda: [bounds_world(seed, C) for seed, C in ((1, 3), (2, 4))], given=frozenset({"8.50"}))


def of_logits(alpha: Any, C: int, others: list[Any]) -> dict[str, Any]:
    """The letters of the page where the target's logit is α, some others are given, and the rest 0."""
    z = [alpha, *others] + [mp.zero] * (C - 1 - len(others))
    return {"alpha": alpha, "C": C, "p": mp.exp(alpha) / sum(mp.exp(entry) for entry in z)}


SETTINGS = ((mp.mpf("1.3"), 4), (mp.mpf("5.1"), 40))


@page.reads(r"p = \frac{e^{\alpha}}", r"(1 - p) t^2", r"\alpha = \log")
def one_class_opposite():
    for alpha, C in SETTINGS:
        letters = of_logits(alpha, C, [-alpha])
        p, root = letters["p"], mp.exp(alpha)
        other = -p / ((1 - p) * root)  # their product is −p / (1 − p)
        yield plain_world({**letters, "t": root, "q": (root + other) / 2})


@page.reads(r"\alpha_{low}", r"p (e^{\alpha} + C - 2)")
def no_class_opposite():
    """The opposite class is left out of the sum."""
    return [plain_world({**of_logits(alpha, C, [-mp.inf]), "alpha_low": alpha}) for alpha, C in SETTINGS]


@page.claims(r"\log \left( 1 + (C - 1) e^{-s C / (C - 1)} \right) \le …")
@page.claims(r"s \ge \frac{C - 1}{C} …")
def least_scale(latex):
    """The most that all classes can reach at once: cosines of 1 and −1/(C − 1)."""
    seen = set()
    for C, s in itertools.product((3, 10), draws(1, 20, 0.5, 9)):
        truth = of_logits(s, C, [-s / (C - 1)] * (C - 1))["p"] >= mp.mpf("0.9")
        assert holds(latex, plain_world({"s": s, "C": C, "p": mp.mpf("0.9")})) == truth
        seen.add(bool(truth))
    assert seen == {True, False}


@page.claims(r"m \le 1 - …")
def all_margins_met(latex):
    world = bounds_world(1, 4)
    cosines = world["W"] @ world["W"].T
    seen = set()
    for m in draws(1, 40, 0, 0.1):
        truth = all(1 - m >= cosines[i, j] for i in range(4) for j in range(4) if i != j)
        assert holds(latex, world.extended(given={"m": m}, symbols={"m": "m"})) == truth
        seen.add(truth)
    assert seen == {True, False}


@page.reads(r"2 \sin^2\frac{\pi}{C}", r"\frac{t}{m - 1}", r"t - \frac{2t}{m + 1}", r"\iff")
def margins_and_classes():
    """m on both sides of every boundary, close by."""
    values = map(mp.mpf, ("2", "2.99", "3", "3.01", "3.73", "3.74", "4", "6"))
    return [plain_world({"m": m, "C": m, "t": mp.mpf("0.9") + m}) for m in values]


page.no_claim(r"\cos\theta_{ij} = -1/(C - 1)", "where the bound is reached")
page.no_claim(r"\sum_i a_i W_i = 0", "numbers a that exist")
