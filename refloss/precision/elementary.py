"""Functions of pairs: e^v, log, sine, cosine, angle.

Each reduces its argument with a constant of three doubles, sums a short series and so keeps a relative error (for
sine and cosine an absolute one) below 2^-69; most are better.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from math import factorial

import numpy as np

from refloss.precision.errorfree import quick_two_sum, two_product, two_sum
from refloss.precision.pair import Pair, add, divide, multiply, subtract, where

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899863")
STEPS = 64  # e^v = 2^n 2^(k/64) e^r with |r| ≤ log(2)/128
VANISHED = -3000.0  # e^v beyond any power of two that is taken out


@cache
def pi() -> Pair:
    """π as a pair."""
    return Pair(*_doubles(PI, 2))


def exp(v: Pair, headroom: int = 0) -> Pair:
    """e^v · 2^headroom, which keeps digits that a subnormal result would lose."""
    n, k, less = _reduced_exp(v)
    table = Pair(*(part[k] for part in _powers()))
    power = n + headroom
    whole = add(table, multiply(table, less))
    return Pair(np.ldexp(whole.high, power), np.ldexp(whole.low, power))


def expm1(v: Pair) -> Pair:
    """e^v − 1 without cancellation near 0."""
    n, k, less = _reduced_exp(v)
    table = Pair(*(np.ldexp(part[k], n) for part in _powers()))
    return add(subtract(table, 1.0), multiply(table, less))


def _reduced_exp(v: Pair) -> tuple[np.ndarray, np.ndarray, Pair]:
    """n, k and e^r − 1 of v = (n + k/64) log 2 + r."""
    high = np.maximum(v.high, VANISHED)
    low = np.where(v.high < VANISHED, 0.0, v.low)
    steps = np.rint(high * (STEPS / np.log(2.0)))
    first, second, third = _step_of_exp()
    # the first two parts are short, so that their products are exact
    r, rest = two_sum(high, -steps * first)
    r, more = two_sum(r, -steps * second)
    r, rest = two_sum(r, rest + more - steps * third + low)
    # r + r²/2 to all digits, the tail in doubles: it is below 2^-25
    square, error = two_product(r, r)
    tail = np.zeros_like(r)
    for i in range(9, 2, -1):
        tail = 1 / factorial(i) + r * tail
    tail = r * square * tail
    high, lost = two_sum(r, 0.5 * square)
    less = Pair(*quick_two_sum(high, lost + (tail + (rest + (r * rest + 0.5 * error)))))
    whole = steps.astype(np.int64)
    return whole // STEPS, whole % STEPS, less


def log(v: Pair) -> Pair:
    """log v."""
    near_one = (v.high > 0.5) & (v.high < 2)
    return where(near_one, _log1p(where(near_one, subtract(v, 1.0), 0.0)), _log(v))


def log1p(v: Pair) -> Pair:
    """log(1 + v) without cancellation near 0."""
    large = v.high > 1
    small = where(large, 0.0, v)
    return where(large, _log(add(where(large, v, 1.0), 1.0)), _log1p(small))


def _log(v: Pair) -> Pair:
    """One Newton step y + (v e^−y − 1)."""
    y = np.log(v.high)
    return add(subtract(multiply(v, exp(Pair(-y))), 1.0), y)


def _log1p(v: Pair) -> Pair:
    """One Newton step y + (e^−y − 1) + v e^−y."""
    y = np.log1p(v.high)
    less = expm1(Pair(-y))
    return add(add(less, multiply(v, add(less, 1.0))), y)


def sin(v: Pair) -> Pair:
    return _turned(v, 0)


def cos(v: Pair) -> Pair:
    return _turned(v, 1)


def _turned(v: Pair, quarter: int) -> Pair:
    """sin(v + quarter · π/2), by Taylor's series on |r| ≤ π/4."""
    turns = np.rint(v.high * (2 / np.pi))
    r = v
    for part in _quarter_turn():
        r = subtract(r, Pair(*two_product(turns, np.asarray(part))))
    square = multiply(r, r)
    odd, even = _taylor(square, 1), _taylor(square, 0)
    which = (turns.astype(np.int64) + quarter) % 4
    s = multiply(odd, r)
    high = np.where(which % 2 == 0, s.high, even.high)
    low = np.where(which % 2 == 0, s.low, even.low)
    sign = np.where(which >= 2, -1.0, 1.0)
    return Pair(sign * high, sign * low)


def _taylor(square: Pair, first: int) -> Pair:
    """Σ (−1)^i square^i / (2i + first)!, by Horner's rule."""
    total = Pair(np.zeros_like(square.high))
    for i in range(13, -1, -1):
        high, low = _over_factorial(2 * i + first)
        total = add(multiply(total, -square), Pair(high, low))
    return total


def arctan2(y: Pair, x: Pair) -> Pair:
    """The angle of (x, y): from the double's angle a, a + sin(θ − a), whose error is cubic."""
    a = np.arctan2(y.high, x.high)
    around = Pair(a)
    across = subtract(multiply(y, cos(around)), multiply(x, sin(around)))
    along = add(multiply(x, cos(around)), multiply(y, sin(around)))
    along = Pair(np.where(along.high == 0, 1.0, along.high), along.low)
    return add(divide(across, along), a)


@cache
def _over_factorial(n: int) -> tuple[float, ...]:
    with localcontext(prec=60):
        return _doubles(1 / Decimal(factorial(n)), 2)


@cache
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """2^(k/64) for k = 0 … 63, high and low."""
    with localcontext(prec=60):
        values = [_doubles(Decimal(2) ** (Decimal(k) / STEPS), 2) for k in range(STEPS)]
    high, low = np.array(values).T
    return high, low


@cache
def _step_of_exp() -> tuple[float, ...]:
    """log(2)/64 in three parts, two of them of 27 bits."""
    with localcontext(prec=60):
        return _doubles(Decimal(2).ln() / STEPS, 3, 27)


@cache
def _quarter_turn() -> tuple[float, ...]:
    """π/2 in three parts."""
    with localcontext(prec=80):
        return _doubles(PI / 2, 3)


def _doubles(value: Decimal, parts: int, bits: int = 53) -> tuple[float, ...]:
    """`value` as a sum of doubles; all but the last rounded to `bits` bits."""
    found = []
    for i in range(parts):
        part = float(value)
        if bits < 53 and i < parts - 1:
            mantissa, exponent = np.frexp(part)
            part = float(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))
        found.append(part)
        value -= Decimal(part)
    return tuple(found)
