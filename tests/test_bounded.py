"""The rules of numbers that carry an error bound, each alone: never exceeded, and needed.

What the passes make of them is in test_error_bound.py.
"""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from helpers import SUBNORMAL

from refloss.precision import products
from refloss.precision.bounded import RULES, Bounded
from refloss.precision.numbers import from_pair, nearest
from refloss.precision.pair import Pair
from refloss.precision.scaled import exp

# -- the one assumption ----------------------------------------------------------------------------

MANY = 20_000
ARGUMENTS = {
    "exp": lambda r: np.concatenate(
        [-r.uniform(0, 745.2, MANY), -(10.0 ** r.uniform(-20, 2.87, MANY)), -r.uniform(707, 746, MANY)]
    ),
    "log1p": lambda r: 10.0 ** r.uniform(-320, 10, 2 * MANY),
    "log": lambda r: np.concatenate([10.0 ** r.uniform(-300, 300, MANY), r.uniform(0.5, 2, MANY)]),
    "sin": lambda r: np.concatenate([r.uniform(-30, 30, 2 * MANY), 10.0 ** r.uniform(-300, 0, MANY)]),
    "cos": lambda r: np.concatenate([r.uniform(-30, 30, 2 * MANY), 10.0 ** r.uniform(-300, 0, MANY)]),
}


def over(function, got, pair, exact):
    """The largest error in ulp. Where that of `pair` shows more than 1.5, at a subnormal, or at random: mpmath."""
    with np.errstate(all="ignore"):
        off = np.abs((got - pair.high) - pair.low) / np.spacing(np.abs(got))
        small = np.abs(got) < 2.0**-960
    assert np.nanmax(np.where(small, 0.0, off), initial=0.0) <= 2
    doubtful = np.unique(np.r_[np.flatnonzero(small)[:1500], np.argsort(np.where(small, 0, off))[-40:]])
    with mpmath.workdps(400):
        return max(float(abs(mpmath.mpf(float(got[i])) - exact(i)) / float(np.spacing(abs(got[i])))) for i in doubtful)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_library_is_within_2_ulp(name, rng):
    """e^v, log(1 + v), log, sine and cosine of doubles: what FUNCTION takes for granted, subnormal results included."""
    v = ARGUMENTS[name](rng)
    function = getattr(np, name)
    with np.errstate(under="ignore"):
        got = function(v)
    assert over(name, got, function(Pair(v)), lambda i: getattr(mpmath, name)(mpmath.mpf(v[i]))) <= 2


def test_the_librarys_angle_is_within_2_ulp(rng):
    """arctan2 of doubles, all quadrants, sides of very different sizes."""
    n = 2 * MANY
    y, x = rng.normal(size=n) * 10.0 ** rng.uniform(-300, 0, n), rng.normal(size=n)
    y[:MANY] = rng.normal(size=MANY)
    got = np.arctan2(y, x)
    assert over("arctan2", got, np.arctan2(Pair(y), Pair(x)), lambda i: mpmath.atan2(y[i], x[i])) <= 2


# -- every rule alone ------------------------------------------------------------------------------


def off_by_at_most(value, error, rng):
    """Exact rationals within `error` of `value`, most of them at the very end."""
    part = rng.choice([-1.0, 1.0, -1.0, 1.0, 0.5, 0.0], size=value.shape)
    return np.vectorize(lambda v, e: Fraction(float(v)) + Fraction(float(e)), otypes=[object])(value, part * error)


def numbers(rng, shape, positive=False, least=-3, most=3, relative=None):
    """Values of many sizes, their errors (a few exact), and a truth that far away."""
    value = rng.normal(size=shape) * 10.0 ** rng.uniform(least, most, size=shape)
    value = np.where(rng.random(size=shape) < 0.1, 0.0, value) if not positive else np.abs(value)
    if relative is None:
        relative = 10.0 ** rng.uniform(-17, -0.3, size=shape)
    error = np.where(value == 0, 10.0 ** rng.uniform(-20, -1, size=shape), np.abs(value) * relative)
    error = np.where(rng.random(size=shape) < 0.2, 0.0, error)
    return Bounded(value, error), off_by_at_most(value, error, rng)


def within(result, due):
    """The largest error as a part of its bound, in exact arithmetic; one smallest subnormal is forgiven."""
    value, error = np.ravel(nearest(result.value)), np.ravel(result.error)
    worst = 0.0
    for v, e, t in zip(value, error, np.ravel(np.asarray(due, dtype=object)), strict=True):
        if np.isinf(e):
            continue
        off = abs(Fraction(float(v)) - (t if isinstance(t, Fraction) else _fraction(t)))
        off = max(off - Fraction(SUBNORMAL), Fraction(0))
        if off:
            worst = max(worst, float(off / Fraction(float(e))) if e else np.inf)
    return worst


def _fraction(v):
    """A number of mpmath, exactly."""
    sign, mantissa, exponent, _ = v._mpf_
    value = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -value if sign else value


def _mp(function):
    def of(*args):
        with mpmath.workdps(60):
            return function(*(mpmath.mpf(a.numerator) / a.denominator for a in args))

    return np.vectorize(of, otypes=[object])


N = 400  # random numbers a rule


def two(rng, **options):
    return *numbers(rng, N, **options), *numbers(rng, N, **options)


def rule_of_two(operation):
    def case(rng):
        a, ta, b, tb = two(rng)
        return operation(a, b), operation(ta, tb)

    return case


def division(rng):
    with np.errstate(divide="ignore", invalid="ignore"):
        a, ta, b, tb = two(rng)
        quotient = a / b
    tb = np.where(tb == 0, Fraction(1), tb)  # the bound is infinite there
    return quotient, ta / tb


def of_one(function, exact, **options):
    def case(rng):
        a, ta = numbers(rng, N, **options)
        return function(a), _mp(exact)(ta)

    return case


def of_one_exactly(function):
    """The same of what rationals can do themselves."""

    def case(rng):
        a, ta = numbers(rng, N)
        return function(a), np.vectorize(function, otypes=[object])(ta)

    return case


def rows_below_rows(rng):
    a, ta, b, tb = two(rng)
    return np.concatenate([a, b]), np.concatenate([ta, tb])


def clipped(rng):
    a, ta = numbers(rng, N)
    return np.clip(a, -1.0, 1.0), np.minimum(np.maximum(ta, Fraction(-1)), Fraction(1))


def exponential(rng):
    a, ta = numbers(rng, N, least=-3, most=2.4)
    return np.exp(a), _mp(mpmath.exp)(ta)


def angles(rng):
    y, ty, x, tx = two(rng)
    y, ty = np.abs(y), np.abs(ty)  # what the passes ask for: no cut to cross
    result, due = np.arctan2(y, x), _mp(mpmath.atan2)(ty, tx)
    result.error[nearest(y.value) < y.error] = np.inf
    return result, due


def sums(rng):
    a, ta = numbers(rng, (20, 33))
    return np.sum(a, axis=1), ta.sum(axis=1)


def inner_products(rng):
    (a, ta), (b, tb) = numbers(rng, (9, 17)), numbers(rng, (7, 17))
    return products.inner(a, b), ta @ tb.T


def combinations(rng):
    (g, tg), (v, tv) = numbers(rng, (9, 7)), numbers(rng, (7, 13))
    return products.combine(g, v), tg @ tv


def row_products(rng):
    (a, ta), (b, tb) = numbers(rng, (30, 9)), numbers(rng, (30, 9))
    return np.einsum("rd,rd->r", a, b), (ta * tb).sum(axis=1)


def adding_into_rows(rng):
    (target, due), (rows, more) = numbers(rng, (5, 6)), numbers(rng, (40, 6))
    index = rng.integers(0, 4, size=40)
    target, due = target.copy(), due.copy()
    products.add_at(target, index, rows)
    for i, row in zip(index, more, strict=True):
        due[i] = due[i] + row
    return target, due


def powers_of_two(rng):
    a, ta = numbers(rng, N)
    k = rng.integers(-1090, 300, size=N)
    return np.ldexp(a, k), ta * np.array([Fraction(2) ** int(e) for e in k])


def choices(rng):
    a, ta, b, tb = two(rng)
    which = rng.random(N) < 0.5
    return np.where(which, a, b), np.where(which, ta, tb)


def pairs_of_doubles(rng):
    high = rng.normal(size=N)
    low = high * rng.uniform(-1, 1, size=N) * 2.0**-53
    exact = np.vectorize(lambda v, w: Fraction(float(v)) + Fraction(float(w)), otypes=[object])
    return from_pair(high, low, Bounded(high)), exact(high, low)


CASES = {
    np.add: rule_of_two(lambda a, b: a + b),
    np.subtract: rule_of_two(lambda a, b: a - b),
    np.multiply: rule_of_two(lambda a, b: a * b),
    np.divide: division,
    np.negative: of_one_exactly(lambda v: -v),
    np.absolute: of_one_exactly(abs),
    np.square: of_one_exactly(lambda v: np.square(v) if isinstance(v, Bounded) else v * v),
    np.power: of_one_exactly(lambda v: v**3),
    np.sqrt: of_one(np.sqrt, mpmath.sqrt, positive=True),
    np.exp: exponential,
    exp: exponential,
    np.expm1: of_one(np.expm1, mpmath.expm1, least=-3, most=2.4),
    np.log: of_one(np.log, mpmath.log, positive=True),
    np.log1p: of_one(np.log1p, mpmath.log1p, positive=True),
    np.sin: of_one(np.sin, mpmath.sin, most=1),
    np.cos: of_one(np.cos, mpmath.cos, most=1),
    np.arctan2: angles,
    np.ldexp: powers_of_two,
    np.maximum: rule_of_two(np.maximum),
    np.clip: clipped,
    np.concatenate: rows_below_rows,
    np.sum: sums,
    np.einsum: row_products,
    np.where: choices,
    products.inner: inner_products,
    products.combine: combinations,
    products.add_at: adding_into_rows,
    from_pair: pairs_of_doubles,
}


def name_of(rule):
    return getattr(rule, "__name__", str(rule))


@pytest.mark.parametrize("rule", CASES, ids=name_of)
def test_a_rule_alone(rule, rng):
    """Numbers that are off by all that their bounds allow: what a rule makes of them is within its own."""
    for _ in range(3):
        assert within(*CASES[rule](rng)) <= 1


# rule → the part of its bound that is inherited is needed in full: some number comes nearer to it than to half of it
INHERITING = [r for r in CASES if r is not from_pair]


@pytest.mark.parametrize("rule", INHERITING, ids=name_of)
def test_half_of_what_is_inherited_would_be_noticed(rule, rng):
    """Negative control: numbers are off by more than half of a rule's bound, so that half of it would not do."""
    assert max(within(*CASES[rule](rng)) for _ in range(3)) > 0.5


# of exact numbers: what is left is rounding
ROUNDING = {
    "add": lambda a, b: (a + b, lambda x, y: x + y),
    "subtract": lambda a, b: (a - b, lambda x, y: x - y),
    "multiply": lambda a, b: (a * b, lambda x, y: x * y),
    "divide": lambda a, b: (a / b, lambda x, y: x / y),
    "sqrt": lambda a, b: (np.sqrt(np.abs(a)), lambda x, y: mpmath.sqrt(abs(x))),
    "sum": lambda a, b: (Bounded(np.c_[a.value, b.value]).sum(axis=1), lambda x, y: x + y),
    "einsum": lambda a, b: (np.einsum("rd,rd->r", a[:, None], b[:, None]), lambda x, y: x * y),
    "inner": lambda a, b: (products.inner(a[:1, None], b[:, None]), None),
    "exp": lambda a, b: (np.exp(a), lambda x, y: mpmath.exp(x)),
    "expm1": lambda a, b: (np.expm1(a), lambda x, y: mpmath.expm1(x)),
    "log": lambda a, b: (np.log(np.abs(a)), lambda x, y: mpmath.log(abs(x))),
    "log1p": lambda a, b: (np.log1p(np.abs(a)), lambda x, y: mpmath.log1p(abs(x))),
    "sin": lambda a, b: (np.sin(a), lambda x, y: mpmath.sin(x)),
    "cos": lambda a, b: (np.cos(a), lambda x, y: mpmath.cos(x)),
    "arctan2": lambda a, b: (np.arctan2(a, b), lambda x, y: mpmath.atan2(x, y)),
}


@pytest.mark.parametrize("rule", ROUNDING)
def test_rounding_is_in_the_bound_and_needed(rule, rng):
    """Exact operands: the result's rounding is within its bound, and without that bound it would be noticed."""
    a, b = (Bounded(rng.normal(size=N) * 10.0 ** rng.uniform(-1, 1, size=N)) for _ in range(2))
    result, exact = ROUNDING[rule](a, b)
    ta, tb = (off_by_at_most(v.value, 0.0, rng) for v in (a, b))
    due = ta[:1] * tb if exact is None else _mp(exact)(ta, tb)
    worst = within(result, due)
    assert 0 < worst <= 1
    bare = Bounded(result.value, np.zeros_like(result.error))
    assert within(bare, due) == np.inf


def test_every_rule_has_a_case():
    """Rules that compute are tested alone; the others only compare, count or make."""
    idle = {np.zeros_like, np.full_like, np.isfinite, np.less, np.less_equal, np.greater, np.greater_equal}
    idle |= {np.equal, np.not_equal}
    helpers = {"argmax", "error_of", "widened"}
    left = {r for r in RULES if r not in CASES and r not in idle}
    assert {name_of(r) for r in left} <= helpers, left
