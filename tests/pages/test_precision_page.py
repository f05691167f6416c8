"""derivations/precision.md is true: bounds of pairs and of slicing in exact rationals, functions against `decimal`.

Nothing here is computed by what it checks: sums and products of doubles are exact as fractions, and decimal's exp
and ln are correctly rounded to as many digits as asked for.
"""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

import refloss
from pages.markdown import derivation
from refloss.precision import errorfree, slicing
from refloss.precision.numbers import is_extended, nearest
from refloss.precision.pair import Pair
from refloss.precision.products import combine, inner
from refloss.precision.scaled import HEADROOM, Scaled, at, exponential
from refloss.steps.logsumexp import gather, join

U = Fraction(1, 2**53)
PAGE = derivation("precision.md")


def exact(v, *index):
    """A double or an entry of pairs, as a fraction."""
    if isinstance(v, Pair):
        return Fraction(float(v.high[index])) + Fraction(float(v.low[index]))
    return Fraction(float(np.asarray(v)[index]))


def decimal(v: Fraction) -> Decimal:
    return Decimal(v.numerator) / Decimal(v.denominator)


def pairs(rng, n, spread=30):
    """Pairs of all sizes and signs; the second half are negatives of the first but for a few last bits."""
    high = rng.uniform(-1, 1, n) * 2.0 ** rng.integers(-spread, spread, n)
    low = high * rng.uniform(-1, 1, n) * 2.0**-54
    return Pair(*errorfree.quick_two_sum(high, low))


def close_to_opposite(rng, a):
    """−a but for its last bits, so that a sum cancels to almost nothing."""
    return Pair(*errorfree.quick_two_sum(-a.high, -a.low * rng.choice([1.0, 0.5, 1 + 2.0**-40], len(a))))


# -- (E1)–(E5) -------------------------------------------------------------------------------------


def test_two_sum_and_two_product_are_exact(rng):
    """(E1), (E2): high + low is the sum, the product, without any error."""
    a, b = pairs(rng, 500).high, pairs(rng, 500).high
    for operation, truth in ((errorfree.two_sum, lambda p, q: p + q), (errorfree.two_product, lambda p, q: p * q)):
        high, low = operation(a, b)
        for i in range(len(a)):
            assert Fraction(high[i]) + Fraction(low[i]) == truth(Fraction(a[i]), Fraction(b[i]))


BOUNDS = {  # the table under (E4); the bound in units of u²
    "pair + pair": (lambda a, b: a + b, lambda a, b: a + b, 3 + 13 * U),
    "pair + double": (lambda a, b: a + b.high, lambda a, b: a + b, 2),
    "pair · pair": (lambda a, b: a * b, lambda a, b: a * b, 5),
    "pair · double": (lambda a, b: a * b.high, lambda a, b: a * b, 2),
    "pair / pair": (lambda a, b: a / b, lambda a, b: a / b, 15 + 56 * U),
}


@pytest.mark.parametrize("operation", BOUNDS)
def test_operations_of_pairs_keep_their_bounds(operation, rng):
    """(E4): each line of the table, also where a sum cancels."""
    computed, truth, bound = BOUNDS[operation]
    assert f"| {operation} |" in PAGE
    a = pairs(rng, 600)
    b = pairs(rng, 600)
    b[300:] = close_to_opposite(rng, a[300:])
    result = computed(a, b)
    for i in range(len(a)):
        p, q = exact(a, i), Fraction(b.high[i]) if "double" in operation else exact(b, i)
        due = truth(p, q)
        assert abs(exact(result, i) - due) <= bound * U**2 * abs(due)


def test_root_of_pairs(rng):
    """(E4): (√a)² is a to a few u²."""
    a = np.abs(pairs(rng, 300))
    root = np.sqrt(a)
    for i in range(len(a)):
        assert abs(exact(root, i) ** 2 - exact(a, i)) <= 16 * U**2 * exact(a, i)


def test_difference_of_products_keeps_its_digits(rng):
    """(E4): off by at most 4u² of itself however much cancels, and 0 only where it is 0."""
    n = np.floor(rng.uniform(2.0**52, 2.0**53, 200))
    a, b, c, d = n, n + 2, n + 1, n + 1  # ab − cd = −1
    a, b = np.r_[a, n, 3 * 2.0**20 + n % 7], np.r_[b, 3 * n // 4, 5 + 0 * n]
    c, d = np.r_[c, n, 5 * (2.0**20 + n % 5)], np.r_[d, 3 * n // 4, 3 + 0 * n]
    high, low = errorfree.difference_of_products(a, b, c, d)
    for i in range(len(a)):
        due = Fraction(a[i]) * Fraction(b[i]) - Fraction(c[i]) * Fraction(d[i])
        got = Fraction(high[i]) + Fraction(low[i])
        assert abs(got - due) <= 4 * U**2 * abs(due)
        assert (got == 0) == (due == 0)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 256, 1000])
def test_sums_of_pairs(n, rng):
    """(E5): off by at most 3u² ⌈log₂ n⌉ Σ|v|, to first order."""
    v = pairs(rng, n)
    terms = [exact(v, i) for i in range(n)]
    error = abs(exact(v.sum()) - sum(terms))
    assert error <= Fraction(301, 100) * U**2 * math.ceil(math.log2(n)) * sum(map(abs, terms))


# -- (E6)–(E8) -------------------------------------------------------------------------------------


def test_exponential_of_pairs(rng):
    """(E6): e^v and e^v − 1 keep 2^-69 of themselves, and a power of two keeps e^-1300 in range."""
    v = -np.abs(pairs(rng, 200, spread=9))
    v = v[np.abs(v.high) < 600]
    with localcontext() as context:
        context.prec = 60
        for i in range(len(v)):
            due = decimal(exact(v, i)).exp()
            assert abs(decimal(exact(np.exp(v), i)) - due) <= due / 2**69
            assert abs(decimal(exact(np.expm1(v), i)) - (due - 1)) <= (1 - due) / 2**69
        from refloss.precision.elementary import exp

        far = exp(Pair(np.array([-1300.0])), 900)
        due = Decimal(-1300).exp() * 2**900
        assert abs(decimal(exact(far, 0)) - due) <= due / 2**69


def test_logarithm_of_pairs(rng):
    """(E7): log(1 + v) keeps 2^-69 of itself from 1e-300 to 1e6."""
    v = np.abs(pairs(rng, 100, spread=20))
    v = Pair(np.r_[v.high, 1e-300, 1e-30, 1e-16], np.r_[v.low, 0.0, 1e-47, 0.0])
    result = np.log1p(v)
    with localcontext() as context:
        context.prec = 400
        for i in range(len(v)):
            due = (1 + decimal(exact(v, i))).ln()
            assert abs(decimal(exact(result, i)) - due) <= due / 2**69


# -- (E9)–(E13): slicing ---------------------------------------------------------------------------


def bits_and_count(K):
    """β and n as (E10) and (E11) have them."""

    def bits(n):
        return (53 - math.ceil(math.log2(K * n))) // 2

    n = 1
    while n * bits(n) < 108 + math.ceil(math.log2(K)):
        n += 1
    return bits(n), n


def test_table_of_slices():
    """(E11): β, n, the number of matrix products, and what (E12) says is dropped."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for K, bits, n, products, dropped in rows:
        assert bits_and_count(int(K)) == (int(bits), int(n))
        assert int(products) == int(n)
        assert float(dropped) == (int(n) + 3) / 4
        # (E10): no sum of products of slices leaves 53 bits
        assert int(K) * int(n) * 2 ** (2 * int(bits)) <= 2**53


@pytest.mark.parametrize("K", [2, 128, 512])
def test_slices_add_up_to_the_number(K, rng):
    """(E9): sizes of the slices and of what remains, exactly."""
    bits, n = bits_and_count(K)
    v = Pair(rng.uniform(-1, 1, (3, K)), rng.uniform(-1, 1, (3, K)) * 2.0**-54)
    slices = np.empty((n, 3, K))
    assert slicing._slices(v, bits, slices) == n
    for i, k in itertools.product(range(3), range(K)):
        left = exact(v, i, k)
        for s, part in enumerate(slices):
            unit = Fraction(1, 2 ** (bits * (s + 1)))
            size = Fraction(part[i, k])
            assert (size / unit).denominator == 1
            assert abs(size) <= (1 if s == 0 else Fraction(1, 2 ** (bits * s + 1)))
            left -= size
        assert abs(left) <= Fraction(1, 2 ** (bits * n + 1))


@pytest.mark.parametrize("kind", ["one_sign", "both_signs", "all_sizes"])
@pytest.mark.parametrize("K", [1, 2, 128, 4096])
def test_inner_products_keep_their_bound(K, kind, rng):
    """(E13): 2^-105 of the result and a share of the largest entries, in exact fractions."""
    low, spread = (0.5 if kind == "one_sign" else -1.0), (40 if kind == "all_sizes" else 1)
    a, b = (
        Pair(high, high * rng.uniform(-1, 1, high.shape) * 2.0**-54)
        for high in (rng.uniform(low, 1, (2, K)) * 2.0 ** rng.integers(-spread, 1, (2, K)) for _ in range(2))
    )
    bits, n = bits_and_count(K) if K > 1 else (25, 5)
    result = inner(a, b)
    for i, j in itertools.product(range(2), range(2)):
        rows = [[exact(v, r, k) for k in range(K)] for v, r in ((a, i), (b, j))]
        due = sum(p * q for p, q in zip(*rows, strict=True))
        largest = max(map(abs, rows[0])) * max(map(abs, rows[1]))
        bound = abs(due) / 2**105 + (Fraction(n + 3, 2**107) + Fraction(K, 2 ** (102 + bits))) * largest
        assert abs(exact(result, i, j) - due) <= bound


def test_combinations_keep_their_bound_whatever_the_sizes(rng):
    """(E13): Σ_j g_ij v_j, relative to Σ_j |g_ij| max_d |v_jd|, with rows and weights from 2^-300 to 2^300."""
    C, D = 40, 3
    v, g = rng.normal(size=(C, D)), rng.normal(size=(2, C))
    power = rng.integers(-300, 300, C)
    g, v = Pair(np.ldexp(g, -power)), Pair(np.ldexp(v, power[:, None]))
    result = combine(g, v)
    for i, d in itertools.product(range(2), range(D)):
        due = sum(exact(g, i, j) * exact(v, j, d) for j in range(C))
        size = sum(abs(exact(g, i, j)) * max(abs(exact(v, j, e)) for e in range(D)) for j in range(C))
        assert abs(exact(result, i, d) - due) <= size / 2**100


def test_zero_row_does_not_drown_the_others():
    """(E13): a zero row has the size 0, not 2^0: beside it rows of 1e-40 keep all their digits."""
    g = Pair(np.array([[0.5, -0.5]]))
    v = np.array([[0.0, 0.0], [1e-40, 3e-40]])
    np.testing.assert_array_equal(nearest(combine(g, Pair(v))), -0.5 * v[1:])


# -- blocks and headroom: cross_entropy.md ---------------------------------------------------------


@pytest.mark.parametrize("cuts", [(), (3,), (1, 4, 5), (6,), (1, 2, 3, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("numbers", [np.asarray, Pair], ids=["double", "extended"])
@pytest.mark.parametrize("backwards", [False, True])
def test_joined_blocks_are_the_whole(numbers, cuts, backwards):
    """z_max, Σ a_c (z_max − z_c), and the masses of e^{z − z_max} and of a, however the classes are cut and in
    whatever order the blocks come; the largest term of each mass stays apart."""
    z = np.array([[0.5, -3.0, 7.25, 7.0, -40.0, 1.0, 2.5], [-1.0, -1.0, 0.0, -700.0, 0.0, -2.0, -1.5]])
    a = np.array([[0.5, 0.0, 1.5, 0.25, 1.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.75, 0.0, 0.5, 0.0]])
    edges = [0, *cuts, z.shape[1]]
    blocks = [slice(p, q) for p, q in itertools.pairwise(edges)]
    parts = [gather(numbers(z[:, block]), numbers(a[:, block]), block) for block in blocks]
    whole = parts.pop(-1 if backwards else 0)
    while parts:
        whole = join(whole, parts.pop(-1 if backwards else 0))
    relative = Fraction(1, 2**66) if is_extended(whole.z_max) else 8 * U
    for i in range(len(z)):
        top = max(z[i])
        assert exact(whole.z_max, i) == Fraction(top)
        # multiples of 1/16: nothing is rounded
        assert exact(whole.weighted_gap, i) == sum(
            Fraction(p) * Fraction(top - q) for p, q in zip(a[i], z[i], strict=True)
        )
        with localcontext() as context:
            context.prec = 60
            terms = [Fraction(Decimal(float(v - top)).exp()) for v in z[i]]
        assert exact(at(0, whole.mass.largest), i) == 1
        assert z[i, whole.mass.column[i]] == top
        due = sum(terms) - 1
        assert abs(exact(at(0, whole.mass.rest), i) - due) <= relative * due
        assert exact(whole.weight.largest, i) == Fraction(max(a[i]))
        assert a[i, whole.weight.column[i]] == max(a[i])
        assert exact(whole.weight.rest, i) == sum(map(Fraction, a[i])) - Fraction(max(a[i]))
        # without any one class
        all_classes = slice(0, z.shape[1])
        v = numbers(np.where(z == z.max(axis=1, keepdims=True), 1.0, 0.0))
        v = Scaled(v) if is_extended(v) else v
        for j in np.flatnonzero(z[i] == top):
            left = exact(at(0, whole.mass.without(v, all_classes)), i, j)
            assert abs(left - due) <= relative * due if j == whole.mass.column[i] else left >= Fraction(1, 2)


@pytest.mark.parametrize("gap", [600.0, 720.0, 1000.0, 1300.0])
def test_headroom_keeps_a_gradient_of_a_lost_probability(gap):
    """1 − p_y = e^−gap is subnormal or 0 as a double; over ‖x‖ = 1e-290 or so its gradient is an ordinary number, and
    right to its last digits."""
    # z = (s, 0): cos θ = 1 for the target, 0 for the other class. Powers of two: ‖x‖ is exact
    x_norm = 2.0**-960
    loss = refloss.AMSoftmax(scale=gap, margin=0, precision="extended", reduction="sum")
    out = loss.forward([[x_norm, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [0])
    grads = loss.backward(out)
    with localcontext() as context:
        context.prec = 60
        p = (-Decimal(gap)).exp() / (1 + (-Decimal(gap)).exp())
        due = p * Decimal(gap) / Decimal(x_norm)  # s p_1 (ŵ_1 − cos θ x̂) / ‖x‖
        got = Decimal(float(grads.x[0, 1]))
        assert abs(got - due) <= due * decimal(2 * U)
        # log(1 + e) = e/(1 + e) to e²; half a smallest subnormal where the loss itself underflows
        assert abs(Decimal(float(out.loss)) - p) <= p * decimal(2 * U) + Decimal("2.5e-324")
    assert grads.x[0, 0] == 0


def test_end_of_the_headroom():
    """cross_entropy.md: 2^900 e^−d is a normal number up to d = 1922 log 2 = 1332.2."""
    assert r"1922 \log 2 = 1332.2" in derivation("cross_entropy.md")
    assert format(1922 * math.log(2), ".1f") == "1332.2"
    assert exponential(Pair(np.zeros(1))).power == HEADROOM == 900
    assert 900 + 1022 == 1922


def test_extended_follows_its_logits_to_two_to_the_forty():
    """(E14): with r = 2^39 and another class one unit of a double below it, p still has all its digits."""
    r, gap = 2.0**39, 2.0**-10
    W = np.array([[r, 0.0], [r, -gap]])
    loss = refloss.Softmax(precision="extended")
    out = loss.forward([[1.0, 1.0]], W, [0])
    with localcontext() as context:
        context.prec = 60
        due = 1 / (1 + Decimal(-gap).exp())
        assert abs(Decimal(float(out.probabilities[0, 0])) - due) <= due * decimal(2 * U)
    assert nearest(out.logits)[0, 0] == r
