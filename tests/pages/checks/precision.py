"""Checks of precision.md: its formulas operation by operation, in doubles and pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pages.checks.psi import KNOT_SLOPES
from pages.evaluator import array, close, mp
from pages.page import Page, draws, holds, last_side, last_side_of_text, parts
from pages.worlds import Array, length, lengths, plain_world
from refloss.precision.errorfree import difference_of_products
from refloss.precision.pair import Pair
from refloss.precision.slicing import inner
from refloss.steps.angle import cosines
from refloss.steps.linear import linear
from refloss.steps.normalise import normalise

# Numbers of a table that test_table_of_slices reads from the page and computes again
page = Page("precision.md", given=frozenset({"2.00", "2.25", "2.50", "2.75"}))
ULP = mp.mpf(2) ** -53  # the page's u


def doubles(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape) * 2.0**20


def exact(value: Any) -> Any:
    """A double as a number of 60 digits: it has at most 53 bits. An array of doubles, or a pair, likewise."""
    if isinstance(value, Pair):
        return exact(value.high) + exact(value.low)
    if np.ndim(value):
        return np.frompyfunc(exact, 1, 1)(value)
    return mp.mpf(float(value))


def holds_exactly(equation: str, letters: dict[str, float]) -> bool:
    left, right = (
        last_side(side, plain_world({name: exact(value) for name, value in letters.items()}))
        for side in equation.split("=")
    )
    return left == right


# -- in doubles, in pairs, and by slices -----------------------------------------------------------


@page.claims(r"b' = h - a, …")
def sum_and_remainder(latex):
    """The first two lines in doubles, where every operation rounds; the last one exactly."""
    *rounded, whole = parts(latex)
    lost = 0
    for a, b0 in doubles(1, 20, 2):
        for b in (b0, b0 * 2.0**-30):
            letters: dict[str, Any] = {"a": float(a), "b": float(b), "h": float(a + b)}
            for name, line in zip(("b'", "l"), rounded, strict=True):
                assert line.startswith(f"{name} = ")
                letters[name] = last_side(line, plain_world(letters))
                assert isinstance(letters[name], float)
            lost += letters["l"] != 0
            assert holds_exactly(whole, letters)
    assert lost > 20


@page.claims(r"ab = h + l, \qquad l = …")
def product_and_remainder(latex):
    whole, line = parts(latex)
    for a, b in doubles(2, 20, 2):
        letters: dict[str, Any] = {"a": float(a), "b": float(b), "h": float(a * b)}
        for name in "ab":  # Veltkamp's cut
            wide = (2.0**27 + 1) * letters[name]
            letters[f"{name}_1"] = wide - (wide - letters[name])
            letters[f"{name}_2"] = letters[name] - letters[f"{name}_1"]
        letters["l"] = last_side(line, plain_world(letters))
        assert isinstance(letters["l"], float)
        assert letters["l"] != 0
        assert holds_exactly(whole, letters)


@page.claims(r"\lvert \mathrm{computed} - (ab - cd) \rvert \le …")
def difference_of_two_products(latex):
    a, b, c = doubles(3, 3, 200)
    d = a * b / c * (1 + np.random.default_rng(4).normal(size=200) * 2.0 ** np.linspace(-60, 0, 200))
    high, low = difference_of_products(a, b, c, d)
    for n in range(200):
        letters = {name: exact(v[n]) for name, v in (("a", a), ("b", b), ("c", c), ("d", d))}
        bound = last_side(latex.replace(r"\mathrm{computed}", "a"), plain_world({**letters, "u": ULP}))
        true = letters["a"] * letters["b"] - letters["c"] * letters["d"]
        assert abs(exact(high[n]) + exact(low[n]) - true) <= bound
        assert true != 0
        assert bound == 4 * ULP**2 * abs(true)


@page.reads(r"v = \left( n + \frac{k}{64} \right)")
def reduced_exponent():
    for v in map(mp.mpf, ("0.7", "-13.37", "200.01")):
        steps = int(mp.nint(v * 64 / mp.log(2)))
        n, k = divmod(steps, 64)
        yield plain_world({"v": v, "n": n, "k": k, "r": v - steps * mp.log(2) / 64})


@page.claims(r"(1 + v) e^{-y} - 1 = e^{\delta} - 1 = …")
def newton_step_of_the_logarithm(latex):
    first, second, series = (side.strip() for side in latex.replace(r"+ \ldots", "").split("="))
    for delta in (mp.mpf(10) ** -5, -(mp.mpf(10) ** -6)):
        v = mp.mpf("0.37")
        world = plain_world({"v": v, "y": mp.log(1 + v) - delta, "delta": delta})
        assert holds(f"{first} = {second}", world)
        # what is left out begins with δ³/6
        left_out = last_side(second, world) - last_side(series, world)
        assert abs(left_out * 6 / delta**3 - 1) < abs(delta)


@page.reads(r"\theta = a + \arctan")
def corrected_angle():
    angles = [(x, y, mp.atan2(y, x)) for x, y in ((3, 4), (-1, 2), (-2, -5))]
    return [plain_world({"x": x, "y": y, "theta": at, "a": at + mp.mpf("0.01")}) for x, y, at in angles]


def slices_of(a: Any, beta: int, count: int) -> tuple[list[Any], Any]:
    """What is left, rounded to multiples of 2^(−β (s + 1)), `count` times, and the rest."""
    found = []
    for s in range(count):
        part = mp.nint(a * mp.mpf(2) ** (beta * (s + 1))) / mp.mpf(2) ** (beta * (s + 1))
        found.append(part)
        a -= part
    return found, a


@page.reads(r"a = \sum_{s=0}^{n-1} A_s + A'")
def slices():
    a, b, c = mp.mpf("0.7312") / 3, -mp.mpf("0.99") / 7, mp.mpf("0.51") * mp.sqrt(3)
    for number, beta, n in ((a, 5, 3), (b, 4, 5), (c, 11, 4)):
        cut, rest = slices_of(number, beta, n)
        letters = {"a": number, "beta": beta, "n": n, "A'": rest}
        sequences = {"A": lambda w, s, place, cut=cut: cut[s]}
        yield plain_world(letters, ranges={"i": range(1), "s": range(1, n)}, sequences=sequences)


@page.reads(r"\frac{a}{b} - \frac{t_a}{t_b}", r"\sqrt{a} - \sqrt{t}", r"\epsilon_{\ell} = \sqrt")
def true_values():
    numbers = {"a": "1.3", "b": "0.7", "t_a": "1.1", "t_b": "0.8", "t": "0.9", "ell": "0.6"}
    return [plain_world({**numbers, "epsilon_x": "0.3", "epsilon_y": "0.4", "epsilon_ell": "0.5"})]


@page.reads(r"9999 e^{-z}")
def many_classes_at_right_angles():
    z = mp.mpf("9.1")
    return [plain_world({"z": z, "p_y": mp.exp(z) / (mp.exp(z) + 9999)})]


@page.reads(r"K n 2^{2\beta} \le 2^{53}")
def bits_of_a_slice():
    sizes = ((2, 5), (128, 6), (300, 5), (65536, 8))
    return [plain_world({"K": K, "n": n, "beta": beta}) for K, n in sizes for beta in range(14, 27)]


@page.claims(r"\Big\lvert ab - \sum_{i + j \lt n} A_i B_j \Big\rvert \le …")
def dropped_products(latex):
    middle = latex.split(r"\le")[1]
    for beta, n in ((4, 3), (5, 5), (9, 2)):
        world = plain_world({"beta": beta, "n": n})
        world.kinds = {}
        assert holds(middle, world)
        bound = last_side(middle, world)
        for a, b in zip(draws(1, 40, -1, 1), draws(2, 40, -1, 1), strict=True):
            a, b = a / 3 * 3, b / 7 * 7
            (A, _), (B, _) = slices_of(a, beta, n), slices_of(b, beta, n)
            assert abs(a * b - sum(A[i] * B[j] for i in range(n) for j in range(n) if i + j < n)) <= bound


@page.claims(r"\lvert \mathrm{computed} - a \cdot b \rvert \le …")
def sliced_inner_products(latex):
    for K, beta, n in ((2, 24, 5), (128, 21, 6), (512, 20, 6)):  # the table of (E11)
        a, b = (Pair(doubles(seed, 1, K), doubles(seed + 9, 1, K) * 2.0**-60) for seed in (1, 2))
        b.high[0, 1:] *= np.linspace(1, 1e-6, K - 1)
        (row_a,), (row_b,) = exact(a), exact(b)
        letters = {"a": row_a, "b": row_b, "K": K, "n": n, "beta": beta, "M_a": max(abs(row_a)), "M_b": max(abs(row_b))}
        bound = last_side(latex.replace(r"\mathrm{computed}", "K").strip(" ,"), plain_world(letters))
        assert abs(exact(inner(a, b))[0, 0] - row_a @ row_b) <= bound
        assert bound < mp.mpf(2) ** -102 * length(row_a) * length(row_b)


@page.claims(
    r"\lvert \delta z_j \rvert \le 2^{-100} \max_j (r_j + \lvert b_j \rvert) \le 2^{-60}"
    r" \quad \text{where} \quad \max_j (r_j + \lvert b_j \rvert) \le 2^{40} ."
)
def logits_of_pairs(latex):
    first, second = latex.split(r"\quad \text{where} \quad")

    def world(r: Array, b: Array) -> Any:
        return plain_world({"r": r, "b": b}, {"r": "j", "b": "j"})

    x, W, b = doubles(1, 2, 5), doubles(2, 3, 5), doubles(3, 3)
    due = exact(x) @ exact(W).T
    radii = np.outer(lengths(exact(x)), lengths(exact(W)))
    (x_norm, x_hat), (W_norm, W_hat) = normalise(Pair(x)), normalise(Pair(W))
    polar = x_norm[:, None] * W_norm * cosines(x_hat, W_hat)[0]
    plain = linear(Pair(x), Pair(W), Pair(b))
    for z, bias in ((polar, 0 * b), (plain, b)):
        off = abs(exact(z) - due - exact(bias))
        for i in range(2):
            bound = first.split(r"\le 2^{-60}")[0].replace(r"\delta z_j", "1")
            assert max(off[i]) <= last_side(bound, world(radii[i], exact(bias)))
    # the middle is at most 2^-60 if and only if the largest is at most 2^40
    for size in (mp.mpf(2) ** 40, mp.mpf(2) ** 40 * (1 + mp.mpf(10) ** -9)):
        here = world(array([size, mp.one]), array([mp.zero, mp.zero]))
        within = size == mp.mpf(2) ** 40
        assert holds(first.split(r"\le", 1)[1], here) == holds(second.strip(" ."), here) == within


# -- error bounds ----------------------------------------------------------------------------------


def worst(function: Callable[..., Any], *given: tuple[Any, Any]) -> Any:
    """How far a function is off where each of its arguments v is truly v − ε, v or v + ε."""
    here = function(*(v for v, _ in given))
    there = itertools.product(*((v - e, v, v + e) for v, e in given))
    return max(abs(here - function(*values)) for values in there)


def bound_of(line: str, letters: dict[str, Any]) -> Any:
    """What the page says, without the rounding of the operation itself."""
    return last_side_of_text(line, plain_world({**letters, "rho": 0}))


def is_best(line: str, function: Callable[..., Any]) -> bool:
    """No combination of true values of a and b is further off than the page's bound, and one is as far."""
    ea, eb = mp.mpf("0.11"), mp.mpf("0.07")
    return all(
        close(worst(function, (a, ea), (b, eb)), bound_of(line, {"a": a, "b": b, "epsilon_a": ea, "epsilon_b": eb}))
        for a, b in (map(mp.mpf, both) for both in (("1.3", "-0.7"), ("-2.1", "-0.4"), ("2.1", "0.4")))
    )


@page.claims(r"\epsilon_{a \pm b} = …")
def errors_of_sum_and_product(latex):
    of_sum, of_product = parts(latex)
    assert of_product.startswith(r"\epsilon_{ab} =")
    assert is_best(of_sum, lambda a, b: a + b)
    assert is_best(of_sum, lambda a, b: a - b)
    assert is_best(of_product, lambda a, b: a * b)


@page.claims(r"\epsilon_{a/b} = …")
def errors_of_quotient_and_root(latex):
    of_quotient, of_root = parts(latex)
    assert of_root.startswith(r"\epsilon_{\sqrt{a}} =")
    assert is_best(of_quotient, lambda a, b: a / b)
    e = mp.mpf("0.11")
    for a in (mp.mpf("1.3"), mp.mpf("2.1")):
        assert close(worst(mp.sqrt, (a, e)), bound_of(of_root, {"a": a, "epsilon_a": e}))
    # where the true value may be 0, the root of the error is the bound
    assert close(bound_of(of_root, {"a": e, "epsilon_a": e}), mp.sqrt(e))


@page.claims(r"\epsilon_{\exp} = …")
def errors_of_functions(latex):
    """The exponential's bound is reached; the others are by the largest slope, so reached for small ε."""
    of_exp, of_log, of_sine = parts(latex)
    assert of_log.startswith(r"\epsilon_{\log(1 + v)} =")
    assert of_sine.startswith(r"\epsilon_{\sin} = \epsilon_{\cos} =")
    for e in (mp.mpf("0.2"), mp.mpf(10) ** -9):
        for v in (mp.mpf("-0.4"), mp.mpf(0), mp.mpf("1.3")):
            letters = {"v": v, "epsilon": e}
            assert close(worst(mp.exp, (v, e)), bound_of(of_exp, letters))
            assert 1 - 2 * e <= worst(lambda v: mp.log(1 + v), (v, e)) / bound_of(of_log, letters) <= 1
            for function in (mp.sin, mp.cos):
                assert worst(function, (v, e)) <= bound_of(of_sine, letters)
        assert abs(mp.sin(e)) / bound_of(of_sine, {"v": 0, "epsilon": e}) >= 1 - e


@page.claims(r"\epsilon_{\theta} = …")
def error_of_an_angle(latex):
    for x, y in ((mp.mpf("1.3"), mp.mpf("-0.7")), (mp.mpf("0.4"), mp.mpf("2.1"))):
        for e in (mp.mpf("0.05"), mp.mpf(10) ** -9):
            lengths_ = {"ell": mp.hypot(x, y), "epsilon_ell": mp.hypot(e, e / 3)}
            bound = bound_of(latex, {"x": x, "y": y, "epsilon_x": e, "epsilon_y": e / 3, **lengths_})
            assert bound * (1 - 10 * e) <= worst(mp.atan2, (y, e / 3), (x, e)) <= bound


@page.claims(r"\epsilon = \sum_i \epsilon_i + …")
def error_of_a_sum(latex):
    """Doubles of alternating signs added one by one, where every term may be off by its ε."""
    of_sum, gamma = parts(latex)
    assert holds(gamma, plain_world({"gamma_n": mp.mpf(3) / 5, "n": 3, "u": mp.mpf(1) / 8}))
    for n in (3, 50):
        terms = doubles(n, n)
        total = 0.0
        for term in terms:
            total += term
        v = exact(terms)
        errors = abs(v) * mp.mpf(2) ** -50
        gamma_n = last_side(gamma, plain_world({"gamma_n": 0, "n": n, "u": ULP}))
        letters = {"v": v, "epsilon": errors, "gamma_n": gamma_n}
        bound = last_side_of_text(of_sum, plain_world(letters, {"v": "i", "epsilon": "i"}))
        rounding = abs(exact(total) - sum(v))
        assert rounding + sum(errors) <= bound
        assert rounding > 0 or n == 3
        assert bound < sum(errors) + 2 * n * ULP * sum(abs(v))


page.no_claim(r"t = r^3/6 + \ldots + r^9/9!", "a definition")


# -- numbers ---------------------------------------------------------------------------------------


def subtracted_of_10_000(degrees: float) -> tuple[float, float, float]:
    """1 − p_y of ArcFace with 9999 other classes at right angles: true, subtracted in float64, and how many % off."""
    e = math.exp(-64 * math.cos(math.radians(degrees) + 0.5))
    # the sum of all exponentials rounded only once
    true, computed = 9999 * e / (1 + 9999 * e), 1 - 1 / math.fsum([1.0] + [e] * 9999)
    return true, computed, 100 * abs(computed / true - 1)


def arccos_off(theta: float) -> float:
    return abs(math.acos(math.cos(theta)) / theta - 1)


page.numbers(KNOT_SLOPES)
page.numbers_of(
    lambda degrees: subtracted_of_10_000(degrees)[:2], (30, 20), "3.4547e-11 4.3284e-15", "3.4547e-11 4.2188e-15"
)
page.numbers(
    {
        "0.0001 %": subtracted_of_10_000(30)[2],
        "2.5 %": subtracted_of_10_000(20)[2],
        "100 %": subtracted_of_10_000(10)[2],
        "1.9598e-18": subtracted_of_10_000(10)[0],
    }
)
page.numbers_of(arccos_off, (1e-2, 1e-4, 1e-6), "1.4e-13 2.6e-09 4.4e-05")
page.numbers({"100 %": 100 * arccos_off(1e-8)})
