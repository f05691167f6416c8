"""The formulas of precision.md, operation by operation, in doubles and pairs. Their checks enter formula_pages.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from pages import formula_worlds as worlds
from pages.formula_evaluator import Evaluator, close, mp
from pages.formula_pages import claims, draws, holds, last_side, last_side_of_text, no_claim, parts, reads
from pages.formula_worlds import length, plain_world
from pages.latex_maths import statements
from refloss.precision.errorfree import difference_of_products
from refloss.precision.pair import Pair
from refloss.precision.slicing import inner
from refloss.steps.angle import cosines
from refloss.steps.linear import linear
from refloss.steps.normalise import normalise


def doubles(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape) * 2.0**20


def exact(value: Any) -> Any:
    """A double as a number of 60 digits: it has at most 53 bits."""
    return mp.mpf(float(value))


@claims("precision.md", r"b' = h - a, \qquad l = (a - (h - b')) + (b - b'), \qquad a + b = h + l")
def sum_and_remainder(latex):
    """The first two lines in doubles, where every operation rounds; the last one exactly."""
    *rounded, whole = parts(latex)
    lost = 0
    for a, b0 in doubles(1, 20, 2):
        for b in (b0, b0 * 2.0**-30):
            letters: dict[str, Any] = {"a": float(a), "b": float(b), "h": float(a + b)}
            for name, line in zip(("b'", "l"), rounded, strict=True):
                letters[name] = last_side(line, plain_world(letters))
                assert isinstance(letters[name], float)
            lost += letters["l"] != 0
            here, there = (
                Evaluator(plain_world({name: exact(value) for name, value in letters.items()})).value(
                    side, {}
                )
                for side in statements(whole)[0].relation.sides
            )
            assert here == there
    assert lost > 20


@claims("precision.md", r"ab = h + l, \qquad l = ((a_1 b_1 - h) + a_1 b_2 + a_2 b_1) + a_2 b_2")
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
        here, there = (
            Evaluator(plain_world({name: exact(value) for name, value in letters.items()})).value(side, {})
            for side in statements(whole)[0].relation.sides
        )
        assert here == there


@claims("precision.md", r"\lvert \mathrm{computed} - (ab - cd) \rvert \le 4u^2 \lvert ab - cd \rvert")
def difference_of_two_products(latex):
    a, b, c = doubles(3, 3, 200)
    d = a * b / c * (1 + np.random.default_rng(4).normal(size=200) * 2.0 ** np.linspace(-60, 0, 200))
    high, low = difference_of_products(a, b, c, d)
    for n in range(200):
        letters = {name: exact(v[n]) for name, v in (("a", a), ("b", b), ("c", c), ("d", d))}
        bound = last_side(
            latex.replace(r"\mathrm{computed}", "a"), plain_world({**letters, "u": mp.mpf(2) ** -53})
        )
        true = letters["a"] * letters["b"] - letters["c"] * letters["d"]
        assert abs(exact(high[n]) + exact(low[n]) - true) <= bound
        assert true != 0
        assert bound == 4 * mp.mpf(2) ** -106 * abs(true)


@reads("precision.md", r"v = \left( n + \frac{k}{64} \right)")
def reduced_exponent():
    found = []
    for v in (mp.mpf("0.7"), mp.mpf("-13.37"), mp.mpf("200.01")):
        steps = int(mp.nint(v * 64 / mp.log(2)))
        n, k = divmod(steps, 64)
        found.append(plain_world({"v": v, "n": n, "k": k, "r": v - steps * mp.log(2) / 64}))
    return found


@claims("precision.md", r"(1 + v) e^{-y} - 1 = e^{\delta} - 1 = \delta + \frac{\delta^2}{2} + \ldots")
def newton_step_of_the_logarithm(latex):
    first, second, series = (side.strip() for side in latex.replace(r"+ \ldots", "").split("="))
    for delta in (mp.mpf(10) ** -5, -(mp.mpf(10) ** -6)):
        v = mp.mpf("0.37")
        world = plain_world({"v": v, "y": mp.log(1 + v) - delta, "delta": delta})
        assert holds(f"{first} = {second}", world)
        # what is left out begins with δ³/6
        assert abs(
            (last_side(f"0 = {second}", world) - last_side(f"0 = {series}", world)) * 6 / delta**3 - 1
        ) < abs(delta)


@reads("precision.md", r"\theta = a + \arctan")
def corrected_angle():
    return [
        plain_world(
            {"x": mp.mpf(x), "y": mp.mpf(y), "theta": mp.atan2(y, x), "a": mp.atan2(y, x) + mp.mpf("0.01")}
        )
        for x, y in ((3, 4), (-1, 2), (-2, -5))
    ]


def slices_of(a: Any, beta: int, count: int) -> tuple[list[Any], Any]:
    """What is left, rounded to multiples of 2^(−β (s + 1)), `count` times, and the rest."""
    found = []
    for s in range(count):
        part = mp.nint(a * mp.mpf(2) ** (beta * (s + 1))) / mp.mpf(2) ** (beta * (s + 1))
        found.append(part)
        a -= part
    return found, a


@reads("precision.md", r"a = \sum_{s=0}^{n-1} A_s + A'")
def slices():
    found = []
    for a, beta, n in (
        (mp.mpf("0.7312") / 3, 5, 3),
        (-mp.mpf("0.99") / 7, 4, 5),
        (mp.mpf("0.51") * mp.sqrt(3), 11, 4),
    ):
        cut, rest = slices_of(a, beta, n)
        world = plain_world(
            {"a": a, "beta": beta, "n": n, "A'": rest}, ranges={"i": range(1), "s": range(1, n)}
        )
        world.sequences = {"A": lambda w, s, place, cut=cut: cut[s]}
        found.append(world)
    return found


@reads("precision.md", r"\frac{a}{b} - \frac{t_a}{t_b}", r"\sqrt{a} - \sqrt{t}", r"\epsilon_{\ell} = \sqrt")
def true_values():
    letters = {
        "a": "1.3",
        "b": "0.7",
        "t_a": "1.1",
        "t_b": "0.8",
        "t": "0.9",
        "epsilon_x": "0.3",
        "epsilon_y": "0.4",
    }
    numbers = {name: mp.mpf(value) for name, value in letters.items()}
    return [plain_world({**numbers, "epsilon_ell": mp.mpf("0.5"), "ell": mp.mpf("0.6")})]


@reads("precision.md", r"9999 e^{-z}")
def many_classes_at_right_angles():
    z = mp.mpf("9.1")
    return [plain_world({"z": z, "p_y": mp.exp(z) / (mp.exp(z) + 9999)})]


@reads("precision.md", r"K n 2^{2\beta} \le 2^{53}")
def bits_of_a_slice():
    return [
        plain_world({"K": K, "n": n, "beta": beta})
        for K, n in ((2, 5), (128, 6), (300, 5), (65536, 8))
        for beta in range(14, 27)
    ]


@claims(
    "precision.md",
    r"\Big\lvert ab - \sum_{i + j \lt n} A_i B_j \Big\rvert \le 2^{-\beta n - 1}"
    r" + \sum_{i=1}^{n-1} 2^{-\beta i - 1} 2^{-\beta(n-i) - 1}"
    r" + 2^{-\beta n - 1} = \frac{n + 3}{4} 2^{-\beta n}",
)
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


@claims(
    "precision.md",
    r"\lvert \mathrm{computed} - a \cdot b \rvert \le 2^{-105} \lvert a \cdot b \rvert"
    r" + \left( 2^{-104} + 2^{-102} K 2^{-\beta} \right) M_a M_b ,",
)
def sliced_inner_products(latex):
    for K, beta in ((2, 24), (128, 21), (512, 20)):  # the table of (E11)
        a, b = (Pair(doubles(seed, 1, K), doubles(seed + 9, 1, K) * 2.0**-60) for seed in (1, 2))
        b.high[0, 1:] *= np.linspace(1, 1e-6, K - 1)
        got = inner(a, b)
        rows = [
            np.array([exact(h) + exact(l) for h, l in zip(v.high[0], v.low[0], strict=True)], dtype=object)
            for v in (a, b)
        ]
        letters = {
            "a": rows[0],
            "b": rows[1],
            "K": K,
            "beta": beta,
            "M_a": max(abs(rows[0])),
            "M_b": max(abs(rows[1])),
        }
        bound = last_side(
            latex.replace(r"\mathrm{computed}", "K").strip(" ,"), plain_world(letters, {"a": "d", "b": "d"})
        )
        assert abs(exact(got.high[0, 0]) + exact(got.low[0, 0]) - rows[0] @ rows[1]) <= bound
        assert bound < mp.mpf(2) ** -102 * length(rows[0]) * length(rows[1])


@claims(
    "precision.md",
    r"\lvert \delta z_j \rvert \le 2^{-100} \max_j (r_j + \lvert b_j \rvert) \le 2^{-60}"
    r" \quad \text{where} \quad \max_j (r_j + \lvert b_j \rvert) \le 2^{40} .",
)
def logits_of_pairs(latex):
    first, second = latex.split(r"\quad \text{where} \quad")
    x, W, b = doubles(1, 2, 5), doubles(2, 3, 5), doubles(3, 3)
    x_exact, W_exact = (np.frompyfunc(exact, 1, 1)(v) for v in (x, W))
    due = x_exact @ W_exact.T
    radii = np.outer(worlds.lengths(x_exact), worlds.lengths(W_exact))
    (x_norm, x_hat), (W_norm, W_hat) = normalise(Pair(x)), normalise(Pair(W))
    polar = x_norm[:, None] * W_norm * cosines(x_hat, W_hat)
    plain = linear(Pair(x), Pair(W), Pair(b))
    for z, bias in ((polar, np.zeros(3)), (plain, b)):
        for i, j in itertools.product(range(2), range(3)):
            off = exact(z.high[i, j]) + exact(z.low[i, j]) - due[i, j] - exact(bias[j])
            letters = {"r": radii[i], "b": np.array([exact(v) for v in bias], dtype=object)}
            world = plain_world(letters, {"r": "j", "b": "j"})
            bound = last_side(first.split(r"\le 2^{-60}")[0].replace(r"\delta z_j", "1"), world)
            assert abs(off) <= bound
    # the middle is at most 2^-60 if and only if the largest is at most 2^40
    for size in (mp.mpf(2) ** 40, mp.mpf(2) ** 40 * (1 + mp.mpf(10) ** -9)):
        world = plain_world(
            {"r": np.array([size, 1], dtype=object), "b": np.array([0, 0], dtype=object)},
            {"r": "j", "b": "j"},
        )
        assert (
            holds(first.split(r"\le", 1)[1], world)
            == holds(second.strip(" ."), world)
            == (size == mp.mpf(2) ** 40)
        )


def corners(*pairs: tuple[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """Every combination of v − ε, v and v + ε."""
    return itertools.product(*((v - e, v, v + e) for v, e in pairs))


def bound_of(line: str, letters: dict[str, Any]) -> Any:
    return last_side_of_text(line, plain_world({**letters, "rho": 0}))


@claims(
    "precision.md",
    r"\epsilon_{a \pm b} = \epsilon_a + \epsilon_b + \rho, \qquad \epsilon_{ab}"
    r" = \lvert a \rvert \epsilon_b + \epsilon_a (\lvert b \rvert + \epsilon_b) + \rho",
)
def errors_of_sum_and_product(latex):
    """No combination of true values is further off than the bound, and one is as far: it is the best there is."""
    of_sum, of_product = parts(latex)
    for a, b in ((mp.mpf("1.3"), mp.mpf("-0.7")), (mp.mpf("-2.1"), mp.mpf("-0.4"))):
        ea, eb = mp.mpf("0.11"), mp.mpf("0.07")
        letters = {"a": a, "b": b, "epsilon_a": ea, "epsilon_b": eb}
        found = list(corners((a, ea), (b, eb)))
        assert close(max(abs(a + b - s - t) for s, t in found), bound_of(of_sum, letters))
        assert close(max(abs(a - b - s + t) for s, t in found), bound_of(of_sum, letters))
        assert close(max(abs(a * b - s * t) for s, t in found), bound_of(of_product, letters))


@claims(
    "precision.md",
    r"\epsilon_{a/b} = \frac{\epsilon_a"
    r" + \lvert a/b \rvert \epsilon_b}{\lvert b \rvert - \epsilon_b} + \rho, \qquad"
    r"\epsilon_{\sqrt{a}} = \min\left( \frac{\epsilon_a}{\sqrt{a}"
    r" + \sqrt{a - \epsilon_a}}, \sqrt{\epsilon_a} \right) + \rho",
)
def errors_of_quotient_and_root(latex):
    of_quotient, of_root = parts(latex)
    for a, b in ((mp.mpf("1.3"), mp.mpf("-0.7")), (mp.mpf("2.1"), mp.mpf("0.4"))):
        ea, eb = mp.mpf("0.11"), mp.mpf("0.07")
        letters = {"a": a, "b": b, "epsilon_a": ea, "epsilon_b": eb}
        assert close(
            max(abs(a / b - s / t) for s, t in corners((a, ea), (b, eb))), bound_of(of_quotient, letters)
        )
        assert close(
            max(abs(mp.sqrt(a) - mp.sqrt(s)) for (s,) in corners((a, ea))), bound_of(of_root, letters)
        )
        # where the true value may be 0, the root of the error is the bound
        assert close(bound_of(of_root, {**letters, "a": ea}), mp.sqrt(ea))


@claims(
    "precision.md",
    r"\epsilon_{\exp} = e^v (e^{\epsilon} - 1) + \rho, \qquad \epsilon_{\log(1"
    r" + v)} = \frac{\epsilon}{1 + v - \epsilon} + \rho, \qquad"
    r"\epsilon_{\sin} = \epsilon_{\cos} = \epsilon + \rho",
)
def errors_of_functions(latex):
    """The exponential's bound is reached; the others are by the largest slope, so reached for small ε."""
    of_exp, of_log, of_sine = parts(latex)
    for e in (mp.mpf("0.2"), mp.mpf(10) ** -9):
        for v in (mp.mpf("-0.4"), mp.mpf(0), mp.mpf("1.3")):
            letters = {"v": v, "epsilon": e}
            assert close(
                max(abs(mp.exp(v) - mp.exp(t)) for (t,) in corners((v, e))), bound_of(of_exp, letters)
            )
            off = max(abs(mp.log(1 + v) - mp.log(1 + t)) for (t,) in corners((v, e)))
            assert 1 - 2 * e <= off / bound_of(of_log, letters) <= 1
            for function in (mp.sin, mp.cos):
                assert max(abs(function(v) - function(t)) for (t,) in corners((v, e))) <= bound_of(
                    of_sine, letters
                )
        letters = {"v": 0, "epsilon": e}
        assert abs(mp.sin(e)) / bound_of(of_sine, letters) >= 1 - e


@claims(
    "precision.md",
    r"\epsilon_{\theta} = \arcsin\frac{\lvert x \rvert \epsilon_y"
    r" + \lvert y \rvert \epsilon_x}{\ell (\ell - \epsilon_{\ell})} + \rho .",
)
def error_of_an_angle(latex):
    for x, y in ((mp.mpf("1.3"), mp.mpf("-0.7")), (mp.mpf("0.4"), mp.mpf("2.1"))):
        for e in (mp.mpf("0.05"), mp.mpf(10) ** -9):
            ex, ey = e, e / 3
            letters = {
                "x": x, "y": y, "epsilon_x": ex, "epsilon_y": ey,
                "ell": mp.hypot(x, y), "epsilon_ell": mp.hypot(ex, ey),
            }  # fmt: skip
            bound = bound_of(latex, letters)
            off = max(abs(mp.atan2(y, x) - mp.atan2(t, s)) for s, t in corners((x, ex), (y, ey)))
            assert off <= bound
            assert off >= bound * (1 - 10 * e)


@claims(
    "precision.md",
    r"\epsilon = \sum_i \epsilon_i + \gamma_n \sum_i \lvert v_i \rvert, \qquad \gamma_n = \frac{nu}{1 - nu}",
)
def error_of_a_sum(latex):
    """Doubles of alternating signs added one by one, where every term may be off by its ε."""
    of_sum, gamma = parts(latex)
    assert holds(gamma, plain_world({"gamma_n": mp.mpf(3) / 5, "n": 3, "u": mp.mpf(1) / 8}))
    for n in (3, 50):
        v = doubles(n, n)
        total = 0.0
        for term in v:
            total += term
        errors = np.array([abs(exact(term)) * mp.mpf(2) ** -50 for term in v], dtype=object)
        letters = {"v": np.array([exact(term) for term in v], dtype=object), "epsilon": errors}
        letters["gamma_n"] = last_side(gamma, plain_world({"gamma_n": 0, "n": n, "u": mp.mpf(2) ** -53}))
        bound = last_side_of_text(of_sum, plain_world(letters, {"v": "i", "epsilon": "i"}))
        rounding = abs(exact(total) - sum(letters["v"]))
        assert rounding + sum(errors) <= bound
        assert rounding > 0 or n == 3
        assert bound < sum(errors) + 2 * n * mp.mpf(2) ** -53 * sum(abs(letters["v"]))


no_claim("precision.md", r"t = r^3/6 + \ldots + r^9/9!", "a definition")
