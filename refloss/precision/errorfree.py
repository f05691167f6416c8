"""Sums and products of doubles, exact as an unevaluated sum high + low of two doubles.

Source: T. J. Dekker, "A floating-point technique for extending the available precision",
Numer. Math. 18 (1971); D. E. Knuth, TAOCP vol. 2, section 4.2.2, theorem B.
"""

from __future__ import annotations

import numpy as np

_SPLITTER = 134217729.0  # 2^27 + 1: cuts 53 bits into two halves of 26


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b = high + low exactly, with high = fl(a + b), for any sizes of a and b."""
    high = a + b
    b_seen = high - a
    return high, (a - (high - b_seen)) + (b - b_seen)


def quick_two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in half the work where |a| ≥ |b| or a = 0."""
    high = a + b
    return high, b - (high - a)


def two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a · b = high + low exactly, with high = fl(a · b).

    Needs |a|, |b| < 2^996 (the split must not overflow) and |a · b| above 2^-969 for low to be
    exact; callers scale their rows by powers of two first.
    """
    high = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return high, ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low


def difference_of_products(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a · b − c · d as high + low, off by at most 4u² of itself however much cancels; 0 only if it is 0."""
    high, low = two_product(a, b)
    less_high, less_low = two_product(c, d)
    high, tail = two_sum(high, -less_high)
    low, rest = two_sum(low, -less_low)
    return sum_of_pairs(high, tail, low, rest)


def sum_of_pairs(
    a_high: np.ndarray, a_low: np.ndarray, b_high: np.ndarray, b_low: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(a_high + a_low) + (b_high + b_low), off by at most 3u² + 13u³ of itself, whatever the signs.

    Source: M. Joldes, J.-M. Muller, V. Popescu, ACM TOMS 44 (2017), algorithm 6 (AccurateDWPlusDW).
    """
    high, low = two_sum(a_high, b_high)
    tail, rest = two_sum(a_low, b_low)
    high, low = quick_two_sum(high, low + tail)
    return quick_two_sum(high, low + rest)


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = _SPLITTER * a
    high = wide - (wide - a)
    return high, a - high
