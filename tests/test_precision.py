"""Numbers of 106 bits and what is done with them: every bound that their docstrings state, against exact arithmetic.

A pair is a sum of two doubles, so that Python's fractions hold it exactly; functions that leave the rationals are
compared with mpmath at 60 digits and more.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import mpmath
import numpy as np
import pytest

from refloss.precision import errorfree, exact, products
from refloss.precision.pair import Pair
from refloss.precision.slicing import cosine_of_rows

U = Fraction(1, 2**53)
ADD = 3 * U**2 + 13 * U**3
ADD_DOUBLE = MULTIPLY_DOUBLE = 2 * U**2
MULTIPLY = 5 * U**2
DIVIDE = 15 * U**2 + 56 * U**3
SQRT = 8 * U**2  # "a few"; measured 3.0

SIZES = {
    "near 1": 0,
    "huge": 300,
    "tiny": -200,
    "any": None,
}  # powers of two; products stay in the range that is stated


def pairs(rng, shape, power=0):
    """Random pairs of both signs about 2^power (None: from 2^-200 to 2^200), with a random low part; some zeros."""
    spread = rng.integers(-200, 201, size=shape) if power is None else power + rng.integers(-3, 4, size=shape)
    high = np.ldexp(rng.choice([-1, 1], size=shape) * rng.uniform(0.5, 1, size=shape), spread)
    low = high * rng.uniform(-1, 1, size=shape) * 2.0**-53 * rng.choice([0.0, 1.0, 2.0**-20], size=shape)
    high, low = errorfree.quick_two_sum(high, low)
    zero = rng.uniform(size=shape) < 0.02
    return Pair(np.where(zero, 0.0, high), np.where(zero, 0.0, low))


def rational(v):
    """The exact values of pairs or doubles, in one list."""
    if isinstance(v, Pair):
        return [Fraction(float(a)) + Fraction(float(b)) for a, b in zip(v.high.ravel(), v.low.ravel(), strict=True)]
    return [Fraction(float(a)) for a in np.ravel(v)]


def big(v):
    """The exact values as mpmath numbers, at the working precision (which must hold 53 bits twice and the gap)."""
    return [mpmath.mpf(float(a)) + mpmath.mpf(float(b)) for a, b in zip(v.high.ravel(), v.low.ravel(), strict=True)]


def assert_relative(got, due, bound):
    """|got − due| ≤ bound |due| for every entry, in exact arithmetic."""
    for i, (a, b) in enumerate(zip(rational(got), due, strict=True)):
        assert abs(a - b) <= bound * abs(b), f"[{i}] off by {float(abs(a - b) / (abs(b) * U**2)) if b else a} u²"


def assert_normal(v):
    """|low| ≤ ulp(high)/2: high is the double nearest to the sum."""
    np.testing.assert_array_equal(v.high + v.low, v.high)


OPERATIONS = {
    "add": (np.add, lambda a, b: a + b, ADD, ADD_DOUBLE),
    "subtract": (np.subtract, lambda a, b: a - b, ADD, ADD_DOUBLE),
    "multiply": (np.multiply, lambda a, b: a * b, MULTIPLY, MULTIPLY_DOUBLE),
    "divide": (np.divide, lambda a, b: a / b, DIVIDE, DIVIDE),
}
every_operation = pytest.mark.parametrize(
    ("operation", "true", "bound", "bound_double"), OPERATIONS.values(), ids=OPERATIONS
)


# -- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@every_operation
def test_arithmetic_within_its_bound(operation, true, bound, bound_double, size, rng):
    """Two pairs, a pair and a double, a double and a pair: the proven bound of each, all signs, zeros among them."""
    power = {"divide": min}.get(operation.__name__, lambda p, _: p)(SIZES[size] or 0, 300)
    power = None if SIZES[size] is None else power
    a, b = pairs(rng, 2000, power), pairs(rng, 2000, power)
    if operation is np.divide:
        b = np.where(b == 0, 1.5, b)
    doubles_a, doubles_b = a.high, b.high
    for left, right, limit in ((a, b, bound), (a, doubles_b, bound_double), (doubles_a, b, bound_double)):
        result = operation(left, right)
        assert type(result) is Pair
        assert_normal(result)
        limit = bound if operation is np.divide else limit
        assert_relative(result, [true(u, v) for u, v in zip(rational(left), rational(right), strict=True)], limit)


@every_operation
def test_operators_are_the_functions(operation, true, bound, bound_double, rng):
    """a + b, 1.5 − a, a *= b, … are NumPy's functions, in-place ones too."""
    a, b = pairs(rng, 5), np.where(pairs(rng, 5) == 0, 1.0, pairs(rng, 5) + 4.0)
    assert rational(operation(a, b)) == rational(true(a, b))
    assert rational(true(1.5, b)) == rational(operation(1.5, b))
    changed = a.copy()
    name = {"add": "__iadd__", "subtract": "__isub__", "multiply": "__imul__", "divide": "__itruediv__"}
    result = getattr(changed, name[operation.__name__])(b)
    assert result is changed
    assert rational(changed) == rational(operation(a, b))


def test_cancellation_keeps_its_relative_bound(rng):
    """Sums that cancel in their high parts, wholly or but for the last bits, are still right relative to themselves."""
    a = pairs(rng, 3000)
    nudged = np.array([np.nextafter(v, s) for v, s in zip(a.high, rng.choice([-9.0, 9.0], size=3000), strict=True)])
    for high in (a.high, nudged):
        low = np.ldexp(rng.uniform(-1, 1, size=3000), -56) * np.abs(high)
        b = Pair(*errorfree.quick_two_sum(-high, low))
        assert_relative(a + b, [u + v for u, v in zip(rational(a), rational(b), strict=True)], ADD)
    nothing = a - a
    assert not nothing.high.any()
    assert not nothing.low.any()


def test_square_root(rng):
    """√ within a few u², of any size; √0 = 0."""
    for power in (0, 600, -400):
        v = np.abs(pairs(rng, 2000, power))
        root = np.sqrt(v)
        assert_normal(root)
        for got, value in zip(rational(root), rational(v), strict=True):
            scaled = value * 4**700  # an integer root of 700 more bits is exact enough
            due = Fraction(isqrt(scaled.numerator * 4**200 // scaled.denominator), 2**900)
            assert abs(got - due) <= SQRT * due


def test_comparisons_are_exact(rng):
    """<, ≤, >, ≥, =, ≠ decide by all 106 bits, also where the high parts agree."""
    a = pairs(rng, 400)
    b = Pair(a.high, a.low * rng.choice([1.0, 0.5, 1.0 + 2.0**-50], size=400))
    x, y = rational(a), rational(b)
    for compare in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal):
        due = [bool(compare(u, v)) for u, v in zip(x, y, strict=True)]
        np.testing.assert_array_equal(compare(a, b), due)
        against = [bool(compare(u, Fraction(float(v)))) for u, v in zip(x, b.high, strict=True)]
        np.testing.assert_array_equal(compare(a, b.high), against)
        flipped = [bool(compare(Fraction(float(v)), u)) for u, v in zip(x, b.high, strict=True)]
        np.testing.assert_array_equal(compare(b.high, a), flipped)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 1000])
def test_sums(n, rng):
    """Σ along each axis, and of all: 3u² log₂ n of Σ|a|."""
    a = pairs(rng, (n, 3), power=None)
    values = np.array(rational(a), dtype=object).reshape(n, 3)
    bound = ADD * max(int(np.ceil(np.log2(max(3 * n, 2)))), 1)
    for axis in (0, 1, None):
        got = rational(a.sum(axis=axis))
        due, size = values.sum(axis=axis), abs(values).sum(axis=axis)
        for g, d, s in zip(got, np.ravel(due), np.ravel(size), strict=True):
            assert abs(g - d) <= bound * s


# -- arrays ----------------------------------------------------------------------------------------


def test_broadcasting(rng):
    """Shapes broadcast as NumPy's: columns, rows, 0-d, plain scalars."""
    a, b = pairs(rng, (4, 1)), pairs(rng, 3)
    assert (a * b).shape == (4, 3)
    assert rational((a * b)[2, 1]) == rational(a[2, 0] * b[1])
    scalar = Pair(2.0, 2.0**-60)
    assert scalar.shape == ()
    assert (scalar + b).shape == (3,)
    assert rational(scalar + 1) == [3 + Fraction(1, 2**60)]
    assert rational(np.where(np.array([True, False]), scalar, 0.5)) == [2 + Fraction(1, 2**60), Fraction(1, 2)]


def test_indexing_and_assignment(rng):
    """Slices, masks, index arrays, None and T follow NumPy; assignment takes pairs and doubles."""
    a = pairs(rng, (4, 3))
    assert a[1:].shape == (3, 3)
    assert a[:, None].shape == (4, 1, 3)
    assert a.T.shape == (3, 4)
    assert (len(a), a.ndim, a.size) == (4, 2, 12)
    picked = a[np.array([0, 2]), np.array([1, 1])]
    assert rational(picked) == [rational(a[0, 1])[0], rational(a[2, 1])[0]]
    kept = a.copy()
    a[0] = 1.0
    a[[1, 2], [0, 0]] = picked
    assert rational(a[0]) == [1, 1, 1]
    assert rational(a[1, 0]) == rational(picked[0])
    assert rational(kept[3]) == rational(a[3])
    mask = a > 0
    a[mask] = 0.0
    assert not (a > 0).any()
    assert (kept > 0).any()  # a copy is a copy


def test_powers_of_two_are_exact(rng):
    """ldexp changes exponents only, one for all or one each."""
    a = pairs(rng, 50)
    shift = rng.integers(-100, 100, size=50)
    assert rational(np.ldexp(a, shift)) == [v * Fraction(2) ** int(s) for v, s in zip(rational(a), shift, strict=True)]
    assert rational(np.ldexp(a, 7)) == [128 * v for v in rational(a)]


def test_selection_is_exact(rng):
    """where, maximum, absolute, clip, negative take parts over unrounded."""
    a, b = pairs(rng, 200), pairs(rng, 200)
    x, y = rational(a), rational(b)
    assert rational(np.maximum(a, b)) == [max(u, v) for u, v in zip(x, y, strict=True)]
    assert rational(np.abs(a)) == [abs(u) for u in x]
    assert rational(-a) == [-u for u in x]
    assert rational(np.clip(a, -1.0, 0.75)) == [min(max(u, Fraction(-1)), Fraction(3, 4)) for u in x]


def test_results_beyond_the_range_are_not_finite():
    """What overflows is ±inf or NaN in its nearest double, for what follows to report."""
    with np.errstate(all="ignore"):
        for value in (Pair(1e300) * 1e300, Pair(-1e308) + Pair(-1e308), Pair(1.0) / Pair(1e-320) * 1e10):
            assert not np.isfinite(value.nearest()), value


@pytest.mark.parametrize(
    "call",
    [
        lambda v: np.tanh(v),
        lambda v: np.add.reduce(v),
        lambda v: np.stack([v, v]),
        lambda v: np.cumsum(v),
        lambda v: np.linalg.norm(v),
        lambda v: v @ v,
        lambda v: np.add(v, v, where=np.array([True, False])),
    ],
    ids=["tanh", "add.reduce", "stack", "cumsum", "norm", "@", "where="],
)
def test_a_function_without_a_rule_is_an_error(call):
    """No NumPy function turns pairs into doubles or objects behind one's back."""
    with pytest.raises(TypeError):
        call(Pair([1.0, 2.0]))


@pytest.mark.parametrize("columns", [1, 2, 3, 100, 512])
def test_cosine_of_rows(columns, rng):
    """Off by less than 2^-97 of 1, whatever the sizes of rows and of numbers in them."""
    exactly = np.vectorize(mpmath.mpf, otypes=[object])
    with mpmath.workprec(400):
        for wild in (0, 60):
            x, w = (rng.normal(size=(5, columns)) * np.exp2(rng.integers(-wild, wild + 1, (5, columns))) for _ in "xw")
            x *= np.exp2(rng.integers(-300, 300, (5, 1)))
            w[0], w[1] = x[0], -4 * x[1]
            found, (a, b) = cosine_of_rows(x, w), (exactly(v) for v in (x, w))
            due = [(u * v).sum() / mpmath.sqrt((u * u).sum() * (v * v).sum()) for u, v in zip(a, b, strict=True)]
            off = exactly(found.high) + exactly(found.low) - np.array(due)
            assert max(abs(off)) < mpmath.mpf(2) ** -97


def test_a_pair_does_not_become_an_array_unasked():
    """np.asarray(pair) is an error: neither an array of objects nor a silent rounding; `nearest` is the way."""
    v = Pair([1.0, 2.0], [1e-20, 0.0])
    with pytest.raises(TypeError):
        np.asarray(v)
    with pytest.raises((TypeError, ValueError)):
        np.zeros(2)[:] = v
    np.testing.assert_array_equal(v.nearest(), [1.0, 2.0])


# -- functions -------------------------------------------------------------------------------------


def arguments(high, rng):
    """Pairs with these high parts."""
    return Pair(*errorfree.quick_two_sum(high, high * rng.uniform(-1, 1, size=np.shape(high)) * 2.0**-53))


TAKES = 1500


def powers(rng, low, high):
    return 10.0 ** rng.uniform(low, high, size=TAKES)


def signs(rng):
    return rng.choice([-1.0, 1.0], size=TAKES)


# function, mpmath's, arguments, relative error (measured worst beside it)
FUNCTIONS = {
    "exp": (np.exp, mpmath.exp, lambda rng: rng.uniform(-600, 700, TAKES), 2.0**-69),
    "exp of small": (np.exp, mpmath.exp, lambda rng: signs(rng) * powers(rng, -300, 0), 2.0**-69),
    "expm1": (np.expm1, mpmath.expm1, lambda rng: rng.uniform(-40, 40, TAKES), 2.0**-69),
    "expm1 of small": (np.expm1, mpmath.expm1, lambda rng: signs(rng) * powers(rng, -200, 0), 2.0**-69),
    "log": (np.log, mpmath.log, lambda rng: powers(rng, -200, 200), 2.0**-69),
    "log near 1": (np.log, mpmath.log, lambda rng: 1 + signs(rng) * powers(rng, -15, -1), 2.0**-69),
    "log1p of small": (np.log1p, mpmath.log1p, lambda rng: powers(rng, -200, 0), 2.0**-69),
    "log1p of large": (np.log1p, mpmath.log1p, lambda rng: powers(rng, 0, 30), 2.0**-69),
    "log1p of negative": (np.log1p, mpmath.log1p, lambda rng: -rng.uniform(0, 0.9, TAKES), 2.0**-69),
}


@pytest.mark.parametrize(("function", "true", "draw", "bound"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_keep_a_relative_error(function, true, draw, bound, rng):
    """e^v, e^v − 1, log v, log(1 + v): relative error below 2^-69, as their module states."""
    v = arguments(draw(rng), rng)
    result = function(v)
    with mpmath.workdps(400):
        for got, value in zip(big(result), big(v), strict=True):
            due = true(value)
            assert abs(got - due) <= bound * abs(due), (float(value), float(mpmath.log(abs(got / due - 1), 2)))


@pytest.mark.parametrize(("function", "true"), [(np.sin, mpmath.sin), (np.cos, mpmath.cos)], ids=["sin", "cos"])
@pytest.mark.parametrize("size", [1e-200, 1.0, 100.0, 1e9])
def test_sine_and_cosine_keep_an_absolute_error(function, true, size, rng):
    """Measured 2^-105: the argument's own 106 bits; relative for small arguments of the sine."""
    v = arguments(rng.normal(size=TAKES) * size, rng)
    with mpmath.workdps(400):
        for got, value in zip(big(function(v)), big(v), strict=True):
            assert abs(got - true(value)) <= mpmath.mpf(2) ** -100 * min(1, abs(value) if true is mpmath.sin else 1)


@pytest.mark.parametrize("power", [0, -5, -17, -100, -250])
def test_arctan2(power, rng):
    """Relative error below 2^-100 in every quadrant, also next to 0 (measured 2^-103)."""
    y = arguments(rng.normal(size=TAKES) * 10.0**power, rng)
    x = arguments(rng.normal(size=TAKES), rng)
    with mpmath.workdps(600):
        for got, a, b in zip(big(np.arctan2(y, x)), big(y), big(x), strict=True):
            due = mpmath.atan2(a, b)
            assert abs(got - due) <= mpmath.mpf(2) ** -100 * abs(due)


def test_arctan2_on_the_axes():
    """0, π/2 and π are the pairs nearest to them."""
    angle = np.arctan2(Pair([0.0, 1.0, 0.0]), Pair([1.0, 0.0, -1.0]))
    with mpmath.workdps(60):
        for got, due in zip(big(angle), (mpmath.mpf(0), mpmath.pi / 2, mpmath.pi), strict=True):
            assert abs(got - due) <= mpmath.mpf(2) ** -104 * due


@pytest.mark.parametrize("v", [-720.0, -1000.0, -1250.0])
def test_exp_with_a_power_of_two_taken_out(v):
    """e^v · 2^900 has all its digits where e^v itself is subnormal or 0."""
    from refloss.precision.scaled import exp

    with mpmath.workdps(700):
        (got,) = big(exp(Pair(np.array([v]), np.array([1e-15])), 900))
        due = mpmath.exp(mpmath.mpf(v) + mpmath.mpf(1e-15)) * mpmath.mpf(2) ** 900
        assert abs(got - due) <= mpmath.mpf(2) ** -70 * due
    with np.errstate(under="ignore"):
        assert not exp(Pair(np.array([-1e300, -np.inf])), 900).high.any()


# -- products --------------------------------------------------------------------------------------

PRODUCT = Fraction(1, 2**100)
COMBINED = Fraction(1, 2**79)


def test_slices_multiply_exactly(rng, monkeypatch):
    """What makes the scheme work: every plain float64 matrix product of slices is exact, to the last bit."""
    from refloss.precision import slicing

    seen = []
    cut = slicing._slices

    def spied(v, bits, places):
        used = cut(v, bits, places)
        seen.append(places[:used])
        return used

    monkeypatch.setattr(slicing, "_slices", spied)
    for K in (1, 2, 3, 64, 1000):
        seen.clear()
        a, b = pairs(rng, (2, K), power=None), pairs(rng, (3, K))
        products.inner(a, b)
        lefts, rights = seen
        for d in range(len(lefts) + len(rights) - 1):
            both = [i for i in range(d + 1) if i < len(lefts) and d - i < len(rights)]
            if d >= max(len(lefts), len(rights)) or not both:
                continue
            left = np.concatenate([lefts[i] for i in both], axis=1)
            right = np.concatenate([rights[d - i] for i in both], axis=1)
            got = left @ right.T
            for i, j in np.ndindex(got.shape):
                due = sum(u * v for u, v in zip(rational(left[i]), rational(right[j]), strict=True))
                assert Fraction(float(got[i, j])) == due


@pytest.mark.parametrize("K", [1, 2, 3, 5, 17, 128, 1000, 4096])
def test_inner_within_its_bound(K, rng):
    """|error| ≤ 2^-100 max|a_i| max|b_j|, of pairs and of doubles, for rows of any size."""
    N, C = (3, 4) if K < 1000 else (1, 2)
    a = np.ldexp(pairs(rng, (N, K), power=None if K % 2 else 0), rng.integers(-200, 200, size=(N, 1)))
    b = np.ldexp(pairs(rng, (C, K)), rng.integers(-200, 200, size=(C, 1)))
    for right in (b, b.high):
        got = products.inner(a, right)
        assert got.shape == (N, C)
        for i, j in np.ndindex(N, C):
            u, v = rational(a[i]), rational(right[j])
            due = sum(p * q for p, q in zip(u, v, strict=True))
            assert abs(rational(got[i, j])[0] - due) <= PRODUCT * max(map(abs, u)) * max(map(abs, v))


@pytest.mark.parametrize("K", [1, 2, 5, 128, 4096])
def test_combine_within_its_bound(K, rng):
    """|error| ≤ 2^-100 Σ_j |g_ij| max_d |v_jd|, however the sizes of rows and weights differ."""
    N, D = (3, 4) if K < 1000 else (1, 2)
    g = np.ldexp(pairs(rng, (N, K)), rng.integers(-300, 300, size=(N, K)))
    v = np.ldexp(pairs(rng, (K, D)), rng.integers(-300, 300, size=(K, 1)))
    assert_combined(g, v)


def assert_combined(g, v):
    got = products.combine(g, v)
    assert got.shape == (g.shape[0], v.shape[1])
    for i in range(len(g)):
        weights, size = rational(g[i]), Fraction(0)
        due = [Fraction(0)] * v.shape[1]
        for j, w in enumerate(weights):
            row = rational(v[j])
            size += abs(w) * max(map(abs, row))
            due = [s + w * entry for s, entry in zip(due, row, strict=True)]
        for a, b in zip(rational(got[i]), due, strict=True):
            assert abs(a - b) <= COMBINED * size


@pytest.mark.parametrize("zeros", ["rows of v", "rows of g", "all of v", "all of g", "all"])
def test_combine_with_zeros(zeros, rng):
    """Zero rows count for nothing, however large their weights: the bound of the others is their own."""
    g = np.ldexp(pairs(rng, (3, 4)), np.array([300, -300, -320, 300]))
    v = pairs(rng, (4, 2)) + 4.0
    if zeros in ("all of v", "all"):
        v = v * 0.0
    if zeros in ("all of g", "all"):
        g = g * 0.0
    if zeros == "rows of v":
        v[[0, 3]] = 0.0
    if zeros == "rows of g":
        g[1] = 0.0
    assert_combined(g, v)


@pytest.mark.parametrize("zero", ["a", "b", "both"])
def test_inner_with_zeros(zero, rng):
    """A product with nothing but zeros is zero."""
    a, b = pairs(rng, (2, 3)) + 4.0, pairs(rng, (4, 3)) + 4.0
    a, b = (a * 0.0 if zero != "b" else a), (b * 0.0 if zero != "a" else b)
    assert rational(products.inner(a, b)) == [0] * 8


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_empty_products(shape):
    """No rows, no terms, no columns: zeros of the right shape."""
    N, K, C = shape
    a, b = Pair(np.zeros((N, K))), Pair(np.zeros((C, K)))
    assert products.inner(a, b).shape == (N, C)
    assert products.combine(a, Pair(np.zeros((K, C)))).shape == (N, C)


def test_rows_are_added_where_they_belong(rng):
    """target[index] += rows with an index many times: 3u² log₂ n of Σ|terms|; other rows keep their bits."""
    target, rows = pairs(rng, (6, 2)), pairs(rng, (40, 2), power=None)
    index = rng.choice([0, 2, 5], size=40)
    got = target.copy()
    products.add_at(got, index, rows)
    for i in range(6):
        terms = [rational(target[i]), *(rational(rows[r]) for r in np.flatnonzero(index == i))]
        for d, value in enumerate(rational(got[i])):
            due, size = sum(t[d] for t in terms), sum(abs(t[d]) for t in terms)
            assert abs(value - due) <= 8 * ADD * size
            assert len(terms) > 1 or value == due
    untouched = target.copy()
    products.add_at(untouched, np.arange(0), pairs(rng, (0, 2)))
    assert rational(untouched) == rational(target)


def test_doubles_are_multiplied_plainly(rng):
    """Of doubles the three are @, @ and np.add.at, bit by bit."""
    a, b, target = rng.normal(size=(2, 3)), rng.normal(size=(4, 3)), np.zeros((5, 3))
    np.testing.assert_array_equal(products.inner(a, b), a @ b.T)
    np.testing.assert_array_equal(products.combine(a, b[:3]), a @ b[:3])
    products.add_at(target, np.array([1, 1]), a)
    np.testing.assert_array_equal(target[1], a[0] + a[1])


# -- exact slopes ----------------------------------------------------------------------------------


def sine_of_multiple(x, w, m, kind=Pair):
    """|sin mθ| as a Fraction-exact pair; the estimate given says "0 of 1", so that exact integers must decide."""
    x, w = (np.atleast_2d(np.asarray(v, dtype=float)) for v in (x, w))
    numbers = Pair if kind is Pair else np.asarray
    return exact.sine_of_multiple(numbers(np.zeros(1)), numbers(np.ones(1)), numbers(x), numbers(w), m)


def true_angle(x, w):
    x, w = ([mpmath.mpf(float(v)) for v in row] for row in (x, w))
    along = mpmath.fsum(a * b for a, b in zip(x, w, strict=True))
    return mpmath.acos(along / mpmath.sqrt(mpmath.fsum(a * a for a in x) * mpmath.fsum(b * b for b in w)))


FACTORS = [1.0, 2.0**52 + 1, 1 / 3, 0.1, np.nextafter(1.0, 2) * 1e-120]


@pytest.mark.parametrize("factor", FACTORS, ids="{:.3g}".format)
def test_exact_knots_have_no_slope(factor):
    """x ⟂ W, 60° and 45°, rows times 53-bit factors where the products are exact: sin mθ = 0, not nearly."""
    right, other = np.array([1.0, 2.0, 2.0]), np.array([2.0, -2.0, 1.0])
    scaled = [float(factor) * v for v in right] if factor in (1.0, 2.0**52 + 1) else list(right * 4.0)
    assert rational(sine_of_multiple(scaled, other, 2)) == [0]  # 90°
    assert rational(sine_of_multiple([factor, factor, 0.0], [0.0, 3.0, 3.0], 3)) == [0]  # 60°
    assert rational(sine_of_multiple([factor, 0.0], [7.0, 7.0], 4)) == [0]  # 45°
    assert rational(sine_of_multiple([factor, -factor], [5.0, 0.0], 4)) == [0]
    assert rational(sine_of_multiple([factor, 0.0], [7.0, 7.0], 2)) == [1]


@pytest.mark.parametrize("m", [2, 3, 4, 5, 7])
def test_sine_of_multiple_next_to_a_knot(m, rng):
    """An integer direction next to kπ/m, at 1e-16 and 1e-32 of it: the relative error stays below 2^-100."""
    n = 2.0**53 - 9
    cases = [([n, 1.0], [1.0, n - 1]), ([n, n - 2], [-(n - 2), n - 4])] if m % 2 == 0 else []
    for k in range(1, m):
        theta = k * np.pi / m
        cases.append(([1.0, 0.0, 0.0], [np.cos(theta), np.sin(theta), 1e-20]))
        cases.append((rng.normal(size=3), rng.normal(size=3)))
    with mpmath.workdps(120):
        for x, w in cases:
            (got,) = big(sine_of_multiple(x, w, m))
            due = abs(mpmath.sin(m * true_angle(x, w)))
            assert abs(got - due) <= mpmath.mpf(2) ** -100 * due, (x, w)
            (double,) = sine_of_multiple(x, w, m, kind=float)
            assert abs(mpmath.mpf(float(double)) - due) <= mpmath.mpf(2) ** -52 * due


@pytest.mark.parametrize("m", [1e-12, 0.35, 0.5, 2.0, 3.1])
@pytest.mark.parametrize("nudge", [0.0, 1e-15, -1e-12])
def test_sine_of_sum_next_to_its_zero(m, nudge):
    """θ as near to π − m as doubles place it: sin(θ + m) to 2^-100 of itself, though it is 1e-16 and less."""
    theta = np.pi - m + nudge
    x, w = np.array([[np.cos(theta), np.sin(theta)]]) * 3.7, np.array([[1.0, 0.0]])
    got = exact.sine_of_sum(Pair(np.zeros(1)), Pair(np.ones(1)), Pair(x), Pair(w), m)
    with mpmath.workdps(120):
        due = mpmath.sin(true_angle(x[0], w[0]) + mpmath.mpf(m))
        assert abs(big(got)[0] - due) <= mpmath.mpf(2) ** -100 * abs(due)


def test_far_from_a_zero_the_estimate_stands():
    """Rows that did not cancel are left as they came, bit by bit, and the caller's array is not written to."""
    estimate = Pair(np.array([0.5, 0.0]), np.array([1e-20, 0.0]))
    x, w = Pair(np.eye(2)), Pair(np.array([[1.0, 1.0], [0.0, 3.0]]))
    got = exact.sine_of_multiple(estimate, Pair(np.ones(2)), x, w, 4)
    assert rational(got[0]) == rational(estimate[0])
    assert rational(got[1]) == [0]  # parallel: sin 0
    assert rational(estimate[1]) == [0]


@pytest.mark.parametrize("m", [0.0, 1e-300, 1e-9, 0.5, 2.0, float(np.pi), 3.14])
def test_cosine_and_sine_of_the_margin(m):
    """cos m and sin m of any double, as pairs and as doubles: sin π's double is 1.22e-16, to all digits."""
    with mpmath.workdps(400):
        for kind, bound in ((Pair(0.0), 100), (0.0, 52)):
            got = exact.cos_sin(m, kind)
            for value, due in zip(got, (mpmath.cos(mpmath.mpf(m)), mpmath.sin(mpmath.mpf(m))), strict=True):
                value = big(value)[0] if isinstance(value, Pair) else mpmath.mpf(float(value))
                # what lies under 2^-480 is 0 in the fixed point that they are computed in
                assert abs(value - due) <= mpmath.mpf(2) ** -bound * abs(due) + mpmath.mpf(2) ** -470
