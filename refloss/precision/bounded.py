"""Numbers with a running error bound, carried through the passes themselves.

`Bounded` holds a value, doubles or pairs, and for every entry an `error` ≥ |value − truth|, where the truth is the
formula in real numbers at the given inputs. The same steps that compute a loss run over it, so that every factor that
the error meets on its way (p_j, r, 1/‖x‖, a cancelling difference) enters the bound. Derivation:
derivations/precision.md, section "Error bounds".

Rounding of one operation is ≤ u |result|, u = 2^-53 for doubles (IEEE 754) and 2^-100 for pairs (their proven bounds
are below 60u²), plus one subnormal where it may underflow. A sum of n terms in any order is off by ≤ γ_n Σ|terms|,
γ_n = nu/(1 − nu) (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1). What the C library
rounds (e^v, log(1 + v), sine, cosine, angle) is taken to be within 2 ulp, which the tests watch.
`ProbablyBounded` has √n in place of n, as errors grow that are independent (N. Higham, T. Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41 (2019)): a rule that can fail, though rarely.

Bounds are themselves computed in doubles; each is widened by 2^-40 of itself, more than its own rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refloss.precision import products
from refloss.precision.numbers import (
    Array,
    Numbers,
    argmax,
    error_of,
    from_pair,
    is_extended,
    joined,
    like,
    nearest,
    power,
    widened,
)
from refloss.precision.scaled import exp

U = 2.0**-53
U_OF_PAIRS = 2.0**-100
FUNCTION = 4 * U  # e^v, log1p, … of doubles: 2 ulp
FUNCTION_OF_PAIRS = 2.0**-68  # precision.elementary
U_OF_COMBINED = 2.0**-79  # precision.slicing.combine
TINY = 2.0**-1074
TINY_OF_PAIRS = 2.0**-1020  # below 2^-969 a pair is no better than a double, and its low part underflows
SPARE = 1 + 2.0**-40


class Bounded(Numbers):
    """value: doubles or pairs; error: doubles of the same shape, ≥ |value − truth|, proven."""

    PARTS = ("value", "error")

    value: Any
    error: np.ndarray

    def __init__(self, value: Any, error: Any = None) -> None:
        self.value = value if isinstance(value, Numbers) else np.asarray(value, dtype=np.float64)
        self.error = np.zeros(self.value.shape) if error is None else np.asarray(error, dtype=np.float64)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r}, {self.error!r})"

    @property
    def extended(self) -> bool:  # type: ignore[override]
        return is_extended(self.value)

    def lifted(self, value: Any) -> Bounded:
        return value if isinstance(value, Bounded) else type(self)(like(value, self.value))

    def nearest(self) -> np.ndarray:
        return nearest(self.value)

    @staticmethod
    def growth(n: int) -> float:
        """How many roundings of the whole a sum of n terms may be off by."""
        return float(n)


class ProbablyBounded(Bounded):
    """The same with errors that grow like √n, as independent ones do: not proven, probable."""

    @staticmethod
    def growth(n: int) -> float:
        return float(np.sqrt(n))


# -- of one operation ------------------------------------------------------------------------------


def _parts(v: Any) -> tuple[Any, np.ndarray, Any]:
    """value, its absolute size, and error."""
    if isinstance(v, Bounded):
        return v.value, np.abs(nearest(v.value)), v.error
    return v, np.abs(nearest(v)), 0.0


def _made(like_this: Any, value: Any, error: Any, rounding: float | None = None, underflows: bool = True) -> Bounded:
    """The result `value` with what it inherits (`error`) and what rounding adds."""
    kind = like_this if isinstance(like_this, type) else type(like_this)
    extended = is_extended(value)
    u = (U_OF_PAIRS if extended else U) if rounding is None else rounding
    tiny = (TINY_OF_PAIRS if extended else TINY) if underflows else 0.0
    error = np.asarray(error + u * np.abs(nearest(value))) * SPARE + tiny
    error = np.where(np.isnan(error), np.inf, error)
    return kind(value, np.broadcast_to(error, value.shape).copy())


def _kind(*args: Array) -> type[Bounded]:
    return next(type(v) for v in args if isinstance(v, Bounded))


def _sum_or_difference(operation: Callable, a: Array, b: Array) -> Bounded:
    (va, _, ea), (vb, _, eb) = _parts(a), _parts(b)
    return _made(_kind(a, b), operation(va, vb), ea + eb, underflows=False)


def _multiply(a: Array, b: Array) -> Bounded:
    (va, sa, ea), (vb, sb, eb) = _parts(a), _parts(b)
    product = _made(_kind(a, b), va * vb, sa * eb + ea * (sb + eb))
    # 0 exactly times anything finite is 0 exactly
    exact = ((sa == 0) & (ea == 0)) | ((sb == 0) & (eb == 0))
    product.error = np.where(exact, 0.0, product.error)
    return product


def _divide(a: Array, b: Array) -> Bounded:
    (va, sa, ea), (vb, sb, eb) = _parts(a), _parts(b)
    value = va / vb
    room = sb / SPARE - eb
    with np.errstate(divide="ignore", invalid="ignore"):
        inherited = ea + np.abs(nearest(value)) * eb + TINY * (np.asarray(eb) > 0)
        error = np.where(room > 0, inherited / np.where(room > 0, room, 1.0), np.inf)
    quotient = _made(_kind(a, b), value, error)
    quotient.error = np.where((sa == 0) & (ea == 0) & (room > 0), 0.0, quotient.error)
    return quotient


def _sqrt(a: Bounded) -> Bounded:
    value, size, error = _parts(a)
    root = np.sqrt(value)
    least = np.sqrt(np.maximum(size - error, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        # |√a − √t| = |a − t| / (√a + √t), and ≤ √|a − t|
        inherited = np.minimum(error / (np.abs(nearest(root)) + least), np.sqrt(error))
    return _made(a, root, np.where(error == 0, 0.0, inherited), underflows=False)


def _rounding_of_function(value: Array) -> float:
    return FUNCTION_OF_PAIRS if is_extended(value) else FUNCTION


def _exp(a: Bounded, headroom: int = 0) -> Bounded:
    value = exp(a.value, headroom)
    with np.errstate(over="ignore", invalid="ignore"):
        grown = np.expm1(np.minimum(a.error, 1e4))
        # where the value has vanished, the truth may not have
        inherited = (np.abs(nearest(value)) + 2 * TINY) * grown
    return _made(a, value, inherited, _rounding_of_function(value))


def _expm1(a: Bounded) -> Bounded:
    value = np.expm1(a.value)
    with np.errstate(over="ignore", invalid="ignore"):
        inherited = (np.abs(nearest(value)) + 1.0) * np.expm1(np.minimum(a.error, 1e4))
    return _made(a, value, inherited, _rounding_of_function(value))


def _logarithm(function: Callable, argument: Callable) -> Callable:
    """A function whose slope at v is 1 / argument(v)."""

    def rule(a: Bounded) -> Bounded:
        value, _, error = _parts(a)
        least = argument(nearest(value)) - error
        with np.errstate(divide="ignore"):
            inherited = np.where(least > 0, error / np.where(least > 0, least, 1.0), np.inf)
        result = function(value)
        return _made(a, result, inherited, _rounding_of_function(result))

    return rule


def _steady(function: Callable) -> Callable:
    """A function whose slope is nowhere above 1: sine, cosine."""

    def rule(a: Bounded) -> Bounded:
        result = function(a.value)
        return _made(a, result, a.error, _rounding_of_function(result))

    return rule


def _arctan2(y: Array, x: Array) -> Bounded:
    (vy, sy, ey), (vx, sx, ex) = _parts(y), _parts(x)
    result = np.arctan2(vy, vx)
    length, off = np.hypot(sx, sy), np.hypot(ex, ey)
    least = length - off
    with np.errstate(divide="ignore", invalid="ignore"):
        # the sine of the angle between (x, y) and the truth
        sine = (sx * ey + sy * ex) / (length * least)
        turned = np.where((least > 0) & (sine < 1), np.arcsin(np.minimum(sine, 1.0)), np.pi)
    return _made(_kind(y, x), result, turned, _rounding_of_function(result))


def _ldexp(a: Bounded, exponent: np.ndarray | int) -> Bounded:
    value, error = np.ldexp(a.value, exponent), np.ldexp(a.error, exponent)
    size = np.abs(nearest(value))
    least = 2.0**-968 if is_extended(value) else 2.0**-1021
    some = (nearest(a.value) != 0) | (a.error > 0)
    lost = np.where(((size < least) | (error < least)) & some, TINY, 0.0)
    return type(a)(value, error + 2 * lost)


def _where(condition: np.ndarray, a: Array, b: Array) -> Bounded:
    (va, _, ea), (vb, _, eb) = _parts(a), _parts(b)
    value = np.where(condition, va, vb)
    return _kind(a, b)(value, np.broadcast_to(np.where(condition, ea, eb), value.shape).copy())


def _maximum(a: Array, b: Array) -> Bounded:
    (va, _, ea), (vb, _, eb) = _parts(a), _parts(b)
    return _kind(a, b)(np.maximum(va, vb), np.maximum(ea, eb))


# -- of many terms ---------------------------------------------------------------------------------


def _summed(a: Bounded, inherited: Any, sizes: Any, n: int) -> Any:
    """What a sum of n terms adds: sizes is Σ|terms|."""
    u = U_OF_PAIRS if a.extended else U
    part = a.growth(n) * u
    return (inherited + part / max(1.0 - part, 0.5) * sizes) * (1 + 2 * n * U)


def _sum(a: Bounded, axis: int | None = None) -> Bounded:
    value = np.sum(a.value, axis=axis)
    n = a.size if axis is None else a.shape[axis]
    error = _summed(a, np.sum(a.error, axis=axis), np.sum(np.abs(nearest(a.value)), axis=axis), max(n - 1, 0))
    return type(a)(value, error)


def _product(of_values: Callable, sizes: Callable, cut_off: Callable) -> Callable:
    """sizes: the same product of plain doubles; cut_off: what slicing leaves out of it."""

    def rule(a: Any, b: Any) -> Bounded:
        (va, sa, ea), (vb, sb, eb) = _parts(a), _parts(b)
        ea, eb = np.broadcast_to(ea, sa.shape), np.broadcast_to(eb, sb.shape)
        some = a if isinstance(a, Bounded) else b
        n = sa.shape[1]
        with np.errstate(invalid="ignore", over="ignore"):
            inherited = sizes(sa, eb) + sizes(ea, sb + eb)
            whole = sizes(sa, sb)
        value = of_values(va, vb)
        error = _summed(some, inherited, whole, n)
        if some.extended:
            error = error + cut_off(sa, sb)
        reached = sizes(((sa > 0) | (ea > 0)) * 1.0, ((sb > 0) | (eb > 0)) * 1.0) > 0
        error = np.where(reached, error * SPARE + n * TINY, 0.0)
        return type(some)(value, np.where(np.isnan(error), np.inf, error))

    return rule


def _einsum(subscripts: str, a: Array, b: Array) -> Bounded:
    inner_of_rows = partial(np.einsum, subscripts)
    return _product(inner_of_rows, inner_of_rows, lambda u, v: 0.0)(a, b)


def _cut_off_inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What slicing leaves out of an inner product of pairs: a part of max_k |a_ik| max_k |b_jk|, (N, C)."""
    part = U_OF_PAIRS * max(1.0, a.shape[1] / 2**16)
    return part * np.outer(np.max(a, axis=1, initial=0.0), np.max(b, axis=1, initial=0.0))


def _cut_off_combined(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    """And of a combination of rows: a part of Σ_j |g_ij| max_d |v_jd|, (N, 1)."""
    return U_OF_COMBINED * (g @ np.max(v, axis=1, initial=0.0))[:, None]


def _add_at(target: Bounded, index: np.ndarray, rows: Bounded) -> None:
    products.add_at(target.value, index, rows.value)
    times = np.bincount(index, minlength=len(target))[:, None]
    sizes = np.abs(nearest(target.value))
    np.add.at(sizes, index, 2 * np.abs(nearest(rows.value)))
    error = target.error.copy()
    np.add.at(error, index, rows.error)
    u = U_OF_PAIRS if target.extended else U
    growth = np.array([target.growth(int(n)) for n in times[:, 0]])[:, None]
    target.error[...] = np.where(times > 0, (error + growth * u * sizes) * (1 + 2 * times * U) * SPARE, target.error)


def _compared(compare: Callable) -> Callable:
    return lambda a, b: compare(_parts(a)[0], _parts(b)[0])


RULES: dict[Any, Callable] = {
    np.add: partial(_sum_or_difference, np.add),
    np.subtract: partial(_sum_or_difference, np.subtract),
    np.multiply: _multiply,
    np.divide: _divide,
    np.negative: lambda a: type(a)(-a.value, a.error),
    np.absolute: lambda a: type(a)(np.abs(a.value), a.error),
    np.square: lambda a: a * a,
    np.power: power,
    np.sqrt: _sqrt,
    np.exp: _exp,
    np.expm1: _expm1,
    np.log: _logarithm(np.log, np.abs),
    np.log1p: _logarithm(np.log1p, lambda v: 1.0 + v),
    np.sin: _steady(np.sin),
    np.cos: _steady(np.cos),
    np.arctan2: _arctan2,
    np.ldexp: _ldexp,
    np.maximum: _maximum,
    np.clip: lambda a, low, high: type(a)(np.clip(a.value, low, high), a.error),
    np.sum: _sum,
    np.einsum: _einsum,
    np.concatenate: joined,
    np.where: _where,
    np.zeros_like: lambda a: type(a)(np.zeros_like(a.value)),
    np.full_like: lambda a, value: type(a)(np.full_like(a.value, value)),
    np.isfinite: lambda a: np.isfinite(nearest(a.value)),
    products.inner: _product(products.inner, lambda a, b: a @ b.T, _cut_off_inner),
    products.combine: _product(products.combine, lambda g, v: g @ v, _cut_off_combined),
    products.add_at: _add_at,
    exp: _exp,
    from_pair: lambda high, low, a: _made(a, from_pair(high, low, a.value), 0.0, underflows=False),
    argmax: lambda a: argmax(a.value),
    error_of: lambda a: a.error,
    widened: lambda a, by: type(a)(a.value, a.error + by),
}
RULES |= {
    compare: _compared(compare)
    for compare in (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)
}
Bounded.RULES = RULES
