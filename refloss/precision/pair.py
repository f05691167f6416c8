"""Numbers of about 106 bits: every one an unevaluated sum high + low of two doubles, |low| ≤ ulp(high)/2.

Each operation keeps a relative error of a few u² (u = 2^-53). Source: M. Joldes, J.-M. Muller, V. Popescu, "Tight
and rigorous error bounds for basic building blocks of double-word arithmetic", ACM TOMS 44 (2017); the algorithm
and its proven bound stand beside each. Range is that of doubles, and low is exact only above 2^-969: callers scale
by powers of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.precision.errorfree import quick_two_sum, sum_of_pairs, two_product, two_sum
from refloss.precision.numbers import Array, Numbers


class Pair(Numbers):
    """An array of pairs; `high` and `low` have its shape. Pair(v) is the doubles v, exactly."""

    PARTS = ("high", "low")
    extended = True

    high: np.ndarray
    low: np.ndarray

    def __init__(self, high: Any, low: Any = None) -> None:
        self.high = np.asarray(high, dtype=np.float64)
        self.low = np.zeros_like(self.high) if low is None else np.asarray(low, dtype=np.float64)

    def __repr__(self) -> str:
        return f"Pair({self.high!r}, {self.low!r})"

    def lifted(self, value: Any) -> Pair:
        return as_pair(value)

    def nearest(self) -> np.ndarray:
        total = self.high + self.low
        lost = np.isnan(total)  # what has overflown has no low part to speak of
        return np.where(lost, self.high, total) if lost.any() else total


def as_pair(value: Any) -> Pair:
    """Doubles as pairs, exactly; pairs as they are."""
    return value if isinstance(value, Pair) else Pair(value)


def _parts(v: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """high and low; low is None for doubles."""
    return (v.high, v.low) if isinstance(v, Pair) else (np.asarray(v, dtype=np.float64), None)


def _normalised(high: np.ndarray, low: np.ndarray) -> Pair:
    """The pair of |high| ≥ |low|. Beyond 2^996 splitting overflows: what is left there is a double."""
    if not np.isfinite(low).all():
        low = np.where(np.isfinite(low), low, 0.0)
    return Pair(*quick_two_sum(high, low))


def add(a: Array | float, b: Array | float) -> Pair:
    """AccurateDWPlusDW (algorithm 6): relative error ≤ 3u² + 13u³, whatever the signs. With a double ≤ 2u²."""
    (a_high, a_low), (b_high, b_low) = _parts(a), _parts(b)
    if a_low is not None and b_low is not None:
        high, low = sum_of_pairs(a_high, a_low, b_high, b_low)
    else:
        high, low = two_sum(a_high, b_high)
        if a_low is not None or b_low is not None:
            high, low = quick_two_sum(high, low + (b_low if a_low is None else a_low))
    lost = np.isnan(high)
    if lost.any():  # beyond the range the parts are inf and NaN
        high, low = np.where(lost, a_high + b_high, high), np.where(lost, 0.0, low)
    return Pair(high, low)


def negative(a: Pair) -> Pair:
    return Pair(-a.high, -a.low)


def subtract(a: Array | float, b: Array | float) -> Pair:
    return add(a, -b)


def multiply(a: Array | float, b: Array | float) -> Pair:
    """DWTimesDW1 (algorithm 10): relative error ≤ 5u². By a double, DWTimesFP1 (algorithm 7): ≤ 2u²."""
    (a_high, a_low), (b_high, b_low) = _parts(a), _parts(b)
    high, low = two_product(a_high, b_high)
    if a_low is not None and b_low is not None:
        low = low + (a_high * b_low + a_low * b_high)
    elif a_low is not None:
        low = low + a_low * b_high
    elif b_low is not None:
        low = low + a_high * b_low
    return _normalised(high, low)


def divide(a: Array | float, b: Array | float) -> Pair:
    """DWDivDW2 (algorithm 17): relative error ≤ 15u² + 56u³."""
    first = _parts(a)[0] / _parts(b)[0]
    rest = subtract(a, multiply(b, first))
    return _normalised(first, rest.nearest() / _parts(b)[0])


def sqrt(a: Pair) -> Pair:
    """One Newton step from the rounded root: relative error a few u² (V. Lefèvre et al., ACM TOMS 49 (2023))."""
    first = np.sqrt(a.high)
    rest = subtract(a, Pair(*two_product(first, first)))
    return _normalised(first, rest.nearest() / np.where(first == 0, 1.0, 2.0 * first))


def where(condition: np.ndarray, a: Array | float, b: Array | float) -> Pair:
    a, b = as_pair(a), as_pair(b)
    return Pair(np.where(condition, a.high, b.high), np.where(condition, a.low, b.low))


def sum_of(a: Pair, axis: int | None = None) -> Pair:
    """Σ along an axis (or all): halves added to halves, relative error ≤ 3u² log₂ n of Σ |a|."""
    if axis is None:
        a, axis = Pair(a.high.ravel(), a.low.ravel()), 0
    a = Pair(np.moveaxis(a.high, axis, 0), np.moveaxis(a.low, axis, 0))
    if not len(a):
        return Pair(np.zeros(a.shape[1:]))
    while len(a) > 1:
        half = len(a) // 2
        odd = a[2 * half :]
        a = add(a[:half], a[half : 2 * half])
        if len(odd):
            a = Pair(np.concatenate([a.high, odd.high]), np.concatenate([a.low, odd.low]))
    return a[0].copy()
