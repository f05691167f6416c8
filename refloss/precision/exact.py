"""The slope of ψ where it changes sign: sin mθ next to kπ/m and sin(θ + m) next to π − m.

There a sine formed from a rounded angle keeps no digit, though the slope that it stands for is a number like any
other. Where doubles lose some digits, pairs have enough; next to the zero itself there are exact integers. Those rows
are few; their inner products are exact rationals, and Python's integers have any length. With P = x·w and B = ‖x‖²‖w‖²:

    |sin mθ| = |u_{m−1}| √((B − P²) / B^m),   u_0 = 1, u_1 = 2P, u_k = 2P u_{k−1} − B u_{k−2}   (Chebyshev's U)
    sin(θ + m) = (√(B − P²) cos m + P sin m) / √B
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isqrt
from typing import Any

import numpy as np

from refloss.precision.numbers import Array, from_pair, is_extended, nearest, widened
from refloss.precision.pair import Pair
from refloss.precision.slicing import cosine_of_rows

CLOSE = 2.0**-4  # of the size before cancellation: below it doubles lose more than 4 bits
CLOSE_OF_PAIRS = 2.0**-40  # above it pairs keep more than 60
LEAST_SINE = 2.0**-3  # of θ, for √(1 − cos² θ) of pairs to be off by no more than 2^-97
FEW = 256  # numbers in the rows for which pairs are no faster
CLOSE_FOR_DOUBLES = 2.0**-30  # above it pairs round to the double that is due
DIGITS = 120  # bits of a result
LONGEST = 1 << 15  # bits; no two doubles lie that near to π − m


def sine_of_multiple(sine: Array, size: Array, x: Array, w: Array, m: int) -> Array:
    """|sin mθ_r| of the rows x_r, w_r (R, D): `sine`, but for the rows where it lies far below `size`."""

    def exactly(P: int, B: int) -> tuple[int, int]:
        before, u = 0, 1
        for _ in range(m - 1):
            before, u = u, 2 * P * u - B * before
        square, divisor = u * u * (B - P * P), B**m
        bits = DIGITS + max(0, divisor.bit_length() - square.bit_length()) // 2 + 1
        return isqrt((square << 2 * bits) // divisor), bits

    def in_pairs(cos: Pair, sin: Pair) -> Any:
        cos_m, sin_m = cos, sin
        for _ in range(m - 1):
            cos_m, sin_m = cos_m * cos - sin_m * sin, sin_m * cos + cos_m * sin
        return np.abs(sin_m)

    return _replaced(sine, size, x, w, m, in_pairs, exactly)


def sine_of_sum(sine: Array, size: Array, x: Array, w: Array, m: float) -> Array:
    """sin(θ_r + m) of the rows x_r, w_r (R, D), likewise; m > 0."""

    def exactly(P: int, B: int) -> tuple[int, int]:
        bits = 2 * DIGITS
        while True:
            cos_m, sin_m = _cos_sin(m, bits)
            sin_theta = isqrt(((B - P * P) << 2 * bits) // B)
            cos_theta = isqrt((P * P << 2 * bits) // B) * (1 if P > 0 else -1)
            value = sin_theta * cos_m + cos_theta * sin_m  # off by a few 2^bits
            if value.bit_length() > bits + DIGITS or bits > LONGEST:
                return value, 2 * bits
            bits *= 2

    def in_pairs(cos: Pair, sin: Pair) -> Any:
        cos_m, sin_m = cos_sin(m, cos)
        return sin * cos_m + cos * sin_m

    return _replaced(sine, size, x, w, 1, in_pairs, exactly)


def _replaced(sine: Array, size: Array, x: Array, w: Array, turns: int, in_pairs: Callable, exactly: Callable) -> Array:
    """`sine` with its close rows replaced: by in_pairs(cos θ, sin θ), and where pairs are not enough by n / 2^bits.

    (n, bits) = exactly(x·w, ‖x‖²‖w‖²).
    """
    close = CLOSE_OF_PAIRS if is_extended(sine) else CLOSE
    near = np.abs(nearest(sine)) < close * np.abs(nearest(size))
    if not near.any():
        return sine
    rows = np.flatnonzero(near & nearest(x).any(axis=1) & nearest(w).any(axis=1))
    if not len(rows):
        return sine
    sine = sine.copy()
    if not is_extended(sine) and len(rows) * x.shape[1] > FEW:
        cos = cosine_of_rows(nearest(x)[rows], nearest(w)[rows])
        sin = np.sqrt(1.0 - cos * cos)  # loses digits next to a pole
        better = in_pairs(cos, sin)
        enough = (np.abs(better.high) >= CLOSE_FOR_DOUBLES * np.abs(nearest(size)[rows])) & (sin.high > LEAST_SINE)
        improved, better = rows[enough], better[enough]
        value = from_pair(better.high, better.low, sine)
        sine[improved] = widened(value, 2.0**-94 * turns**2)
        rows = rows[~enough]
    for r in rows:
        a, b = _integers(nearest(x[r])), _integers(nearest(w[r]))
        P = sum(i * j for i, j in zip(a, b, strict=True))
        B = sum(i * i for i in a) * sum(j * j for j in b)
        n, bits = exactly(P, B)
        high, left = _leading(n, bits)
        low, _ = _leading(left, bits)
        sine[r] = from_pair(high, low, sine)
    return sine


def _integers(row: np.ndarray) -> list[int]:
    """The row times a power of two that makes every entry an integer."""
    mantissa, exponent = np.frexp(row)
    used = exponent[mantissa != 0]
    shift = exponent - (used.min() if len(used) else 0)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    return [int(i) << int(e) if i else 0 for i, e in zip(whole, shift, strict=True)]


def _leading(n: int, bits: int) -> tuple[np.ndarray, int]:
    """n / 2^bits cut to a double, and what is left of n."""
    drop = max(0, abs(n).bit_length() - 53)
    whole = abs(n) >> drop << drop
    whole = whole if n > 0 else -whole
    return np.ldexp(float(whole >> drop), drop - bits), n - whole


@lru_cache(maxsize=256)
def _cos_sin(m: float, bits: int) -> tuple[int, int]:
    """cos m and sin m times 2^bits, by Taylor's series, |m| ≤ π."""
    above, below = m.as_integer_ratio()
    guard = bits + 64
    angle = (above << guard) // below
    sums, term, i = [0, 0], 1 << guard, 0
    while term:
        sums[i % 2] += term if i % 4 < 2 else -term
        i += 1
        term = (term * angle >> guard) // i
    return sums[0] >> 64, sums[1] >> 64


def cos_sin(m: float, numbers: Array) -> tuple[Array, Array]:
    """cos m and sin m as numbers of the kind of `numbers`: doubles, or with all the digits of a pair."""
    (cos_m, cos_rest), (sin_m, sin_rest) = _cos_sin_of_pairs(m)
    return from_pair(cos_m, cos_rest, numbers), from_pair(sin_m, sin_rest, numbers)


@lru_cache(maxsize=256)
def _cos_sin_of_pairs(m: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """cos m and sin m, each as high and low."""
    results = []
    bits = 4 * DIGITS + max(0, -int(np.frexp(m)[1]))  # sin m is about m
    for value in _cos_sin(m, bits):
        high, left = _leading(value, bits)
        low, _ = _leading(left, bits)
        results.append((high, low))
    return results
