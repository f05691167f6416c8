"""Powers of two that keep small numbers away from the subnormals.

A *headroom* h was put into a number: it is stored times 2^h. An *exponent* e was taken out: it is stored times 2^−e.
"""

from __future__ import annotations

import numpy as np

from refloss.precision.numbers import Array, by_kind, is_extended, nearest

HEADROOM = 900  # e^v · 2^900 is a normal number down to v = −1332


def headroom_of(numbers: Array) -> int:
    """What probabilities and what comes of them have in numbers of this kind: 0 for doubles."""
    return HEADROOM if is_extended(numbers) else 0


@by_kind
def exp(v: np.ndarray, headroom: int) -> np.ndarray:
    """e^v · 2^headroom."""
    return np.ldexp(np.exp(v), headroom) if headroom else np.exp(v)


def exponent_of(v: Array | float) -> int:
    """The e with 2^(e−1) ≤ max |v| < 2^e; 0 for zeros."""
    return int(np.frexp(np.max(np.abs(nearest(v)), initial=0.0))[1])


def row_exponent(v: Array) -> np.ndarray:
    """(R,) the same of every row."""
    return np.frexp(np.max(np.abs(nearest(v)), axis=1, initial=0.0))[1]


def times_power(v: Array, exponent: np.ndarray | int) -> Array:
    """v · 2^exponent, exact but for what leaves the range of doubles."""
    return np.ldexp(v, exponent) if np.any(exponent) else v
