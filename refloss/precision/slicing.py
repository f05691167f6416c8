"""Matrix products of pairs, and sums into rows.

The error-free slicing of K. Ozaki, T. Ogita, S. Oishi, S. M. Rump, "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication", Numer. Algorithms 59 (2012). Every operand is cut
into slices of so few bits that a plain float64 matrix product of two slices is exact, in whatever order it sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refloss.precision.errorfree import two_sum
from refloss.precision.numbers import Array
from refloss.precision.pair import Pair, add, as_pair
from refloss.precision.scaled import row_exponent

# what a slicing keeps of a row's largest entry, besides the bits that K terms use up
BITS = 108
BITS_OF_A_GRADIENT = 84  # next to a pole (steps.angle) 12 of them go, and 53 are asked for
_NONE = -(1 << 20)  # an exponent below all


def inner(a: Array, b: Array) -> Array:
    """a_i · b_j with an error below 2^-105 |a_i · b_j| + 2^-102 max_k |a_ik| max_k |b_jk|, for K ≤ 65 536."""
    (a, a_exponent), (b, b_exponent) = _rows_below_one(as_pair(a)), _rows_below_one(as_pair(b))
    return np.ldexp(_sliced_product(a, b, BITS), a_exponent[:, None] + b_exponent)


def cosine_of_rows(a: np.ndarray, b: np.ndarray) -> Pair:
    """a_r · b_r / (‖a_r‖ ‖b_r‖) of doubles (R, K), no row zero: off by less than 2^-97."""
    bits, count = _bits_and_slices(a.shape[1], BITS)
    cuts = []
    for v in (a, b):
        cut = np.empty((count, *v.shape))
        cuts.append(cut[: _slices(_rows_below_one(Pair(v))[0], bits, list(cut))])
    of_a, of_b = cuts
    total = Pair(np.zeros((3, len(a))))
    for d in reversed(range(count)):
        products = []
        for u, v in ((of_a, of_a), (of_b, of_b), (of_a, of_b)):
            i, j = max(0, d - len(v) + 1), min(d, len(u) - 1) + 1
            products.append(np.einsum("srk,srk->r", u[i:j], v[d - j + 1 : d - i + 1][::-1]))
        total = add(total, np.stack(products))
    squares_of_a, squares_of_b, along = total[0], total[1], total[2]
    return along / (np.sqrt(squares_of_a) * np.sqrt(squares_of_b))


def combine(g: Array, v: Array) -> Array:
    """Σ_j g_ij v_j with an error below 2^-79 Σ_j |g_ij| max_d |v_jd|, however the sizes of rows and weights differ."""
    v, v_exponent = _rows_below_one(as_pair(v))
    g = as_pair(g)
    # each row's power of two goes over to its weights, without a step that could leave the range
    entry = np.frexp(g.high)[1] + v_exponent
    nothing = (g.high == 0) | ~v.high.any(axis=1)
    g_exponent = np.max(np.where(nothing, _NONE, entry), axis=1, initial=_NONE)
    g_exponent = np.where(g_exponent == _NONE, 0, g_exponent)
    g = np.ldexp(np.where(nothing, 0.0, g), v_exponent - g_exponent[:, None])
    return np.ldexp(_sliced_product(as_pair(g), v.T, BITS_OF_A_GRADIENT), g_exponent[:, None])


def add_at(target: Array, index: np.ndarray, rows: Array) -> None:
    """target[index_r] += rows_r, neighbours of one index added two by two."""
    order = np.argsort(index, kind="stable")
    index, rows = index[order], rows[order]
    while len(index):
        start = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
        place = np.arange(len(index)) - np.repeat(start, np.diff(np.r_[start, len(index)]))
        left = np.flatnonzero(place % 2 == 0)
        paired = left[left + 1 < len(index)]
        paired = paired[index[paired + 1] == index[paired]]
        if not len(paired):
            break
        rows = rows.copy()
        rows[paired] = rows[paired] + rows[paired + 1]
        index, rows = index[left], rows[left]
    if len(index):
        target[index] = target[index] + rows


def _rows_below_one(v: Pair) -> tuple[Pair, np.ndarray]:
    """Every row times a power of two that brings its largest entry into [1/2, 1), and the exponents taken out."""
    exponent = row_exponent(v.high)
    return np.ldexp(v, -exponent[:, None]), exponent


def _sliced_product(a: Pair, b: Pair, bits_kept: int) -> Pair:
    """a @ b.T of rows below 1 in absolute value: (N, K), (C, K) → (N, C)."""
    terms = a.shape[1]
    if not terms:
        return Pair(np.zeros((len(a), len(b))))
    bits, count = _bits_and_slices(terms, bits_kept)
    # slices side by side, those of b the last one first
    left, right = np.empty((len(a), count * terms)), np.empty((len(b), count * terms))
    used = _slices(a, bits, np.split(left, count, axis=1))
    used_of_b = _slices(b, bits, np.split(right, count, axis=1)[::-1])
    if not used or not used_of_b:
        return Pair(np.zeros((len(a), len(b))))
    high: Any = 0.0
    low: Any = 0.0
    # all products of slices i and d − i have one size: one matrix product adds them up exactly; small ones first
    for d in reversed(range(min(count, used + used_of_b - 1))):
        i, j = max(0, d - used_of_b + 1), min(d, used - 1) + 1
        others = right[:, terms * (count - 1 - d + i) : terms * (count - 1 - d + j)]
        product = left[:, terms * i : terms * j] @ others.T
        if bits * (count - d) <= 53:  # so small that rounding loses no more of it than what is cut off
            high = high + product
        else:
            high, lost = two_sum(high, product)
            low = low + lost
    return Pair(*two_sum(high, low))


def _bits_and_slices(terms: int, bits_kept: int) -> tuple[int, int]:
    """Bits of a slice, and how many slices keep so many bits of a sum of `terms` products."""
    count = 1
    while count * _bits(terms * count) < bits_kept + int(np.ceil(np.log2(terms))):
        count += 1
    return _bits(terms * count), count


def _bits(terms: int) -> int:
    """Bits a slice may have if `terms` products of two slices are to add up exactly in 53."""
    return (53 - int(np.ceil(np.log2(terms)))) // 2 if terms > 1 else 26


def _slices(v: Pair, bits: int, places: Sequence[np.ndarray]) -> int:
    """Cuts v (R, K) into slices, each into its place (R, K); gives how many are not 0, and leaves the other places.

    v = Σ_s slice_s up to 2^(−bits · count − 1); slice s is a multiple of 2^(−bits (s + 1)), below 2^(−bits s).
    """
    high, low = v.high.copy(), v.low
    doubles = not low.any()
    for s, part in enumerate(places):
        if not high.any():
            return s
        # adding and taking away 1.5 · 2^52 units rounds to whole units
        rounder = 1.5 * 2.0 ** (52 - bits * (s + 1))
        np.add(high, rounder, out=part)
        part -= rounder
        high -= part
        if not doubles:
            high, low = two_sum(high, low)
    return len(places)
