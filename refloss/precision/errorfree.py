"""Sums and products of doubles that are exact as an unevaluated pair high + low.

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


def two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a · b = high + low exactly, with high = fl(a · b).

    Needs |a|, |b| < 2^996 (the split must not overflow) and |a · b| above 2^-969 for low to be
    exact; callers scale their rows by powers of two first.
    """
    high = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return high, ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = _SPLITTER * a
    high = wide - (wide - a)
    return high, a - high
