"""What NumPy's functions do to pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.precision import elementary, pair, products, slicing
from refloss.precision.numbers import Array, argmax, error_of, from_pair, joined, power, widened
from refloss.precision.pair import Pair
from refloss.precision.scaled import exp


def _einsum(subscripts: str, a: Pair, b: Pair) -> Pair:
    if subscripts != "rd,rd->r":
        raise NotImplementedError(f"einsum of pairs knows 'rd,rd->r' only, got {subscripts!r}")
    return pair.sum_of(a * b, axis=1)


def _compared(compare: Callable) -> Callable:
    """By the sign of a − b, which is exact enough never to err."""

    def rule(a: Array, b: Array) -> np.ndarray:
        difference = pair.subtract(a, b) if isinstance(a, Pair) else pair.negative(pair.subtract(b, a))
        return compare(difference.high, 0.0)

    return rule


def _argmax(a: Pair) -> np.ndarray:
    tied = a.high == a.high.max(axis=1, keepdims=True)
    return np.where(tied, a.low, -np.inf).argmax(axis=1)


def _clip(a: Pair, low: float, high: float) -> Pair:
    return pair.where(a > high, high, pair.where(a < low, low, a))


RULES: dict[Any, Callable] = {
    np.add: pair.add,
    np.subtract: pair.subtract,
    np.multiply: pair.multiply,
    np.divide: pair.divide,
    np.negative: pair.negative,
    np.absolute: lambda a: pair.where(a.high < 0, -a, a),
    np.square: lambda a: a * a,
    np.power: power,
    np.sqrt: pair.sqrt,
    np.exp: elementary.exp,
    np.expm1: elementary.expm1,
    np.log: elementary.log,
    np.log1p: elementary.log1p,
    np.sin: elementary.sin,
    np.cos: elementary.cos,
    np.arctan2: elementary.arctan2,
    np.ldexp: lambda a, exponent: a._each(lambda part: np.ldexp(part, exponent)),
    np.maximum: lambda a, b: pair.where(np.greater(a, b), a, b),
    np.clip: _clip,
    np.sum: pair.sum_of,
    np.einsum: _einsum,
    np.concatenate: joined,
    np.where: pair.where,
    np.zeros_like: lambda a: Pair(np.zeros(a.shape)),
    np.full_like: lambda a, value: Pair(np.full(a.shape, value)),
    np.isfinite: lambda a: np.isfinite(a.high),
    products.inner: slicing.inner,
    products.combine: slicing.combine,
    products.add_at: slicing.add_at,
    exp: elementary.exp,
    argmax: _argmax,
    from_pair: lambda high, low, numbers: Pair(high, low),
    error_of: lambda a: 0.0,
    widened: lambda a, by: a,
}
RULES |= {
    compare: _compared(compare)
    for compare in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)
}
Pair.RULES = RULES
