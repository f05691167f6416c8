"""What NumPy's functions do to pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.precision import elementary, pair, products, slicing
from refloss.precision.numbers import Array, argmax, error_of, from_pair, power, widened
from refloss.precision.pair import Pair, as_pair
from refloss.precision.scaled import exp


def _where(condition: np.ndarray, a: Array | float, b: Array | float) -> Pair:
    a, b = as_pair(a), as_pair(b)
    return Pair(np.where(condition, a.high, b.high), np.where(condition, a.low, b.low))


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


def _absolute(a: Pair) -> Pair:
    return _where(a.high < 0, -a, a)


def _ldexp(a: Pair, exponent: np.ndarray | int) -> Pair:
    return Pair(np.ldexp(a.high, exponent), np.ldexp(a.low, exponent))


def _clip(a: Pair, low: float, high: float) -> Pair:
    return _where(a > high, high, _where(a < low, low, a))


def _maximum(a: Array, b: Array) -> Pair:
    return _where(np.greater(a, b), a, b)


RULES: dict[Any, Callable] = {
    np.add: pair.add,
    np.subtract: pair.subtract,
    np.multiply: pair.multiply,
    np.divide: pair.divide,
    np.negative: pair.negative,
    np.absolute: _absolute,
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
    np.ldexp: _ldexp,
    np.maximum: _maximum,
    np.clip: _clip,
    np.sum: pair.sum_of,
    np.einsum: _einsum,
    np.where: _where,
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
