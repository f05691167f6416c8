"""Powers of two that keep numbers away from the ends of the range: `Scaled` carries one along, for all that follow.

An *exponent* e was taken out of a number: it is stored times 2^−e.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from refloss.precision.numbers import Array, Numbers, by_kind, is_extended, like, nearest

SQUARES_IN_RANGE = 400
HEADROOM = 900  # e^v · 2^900 is a normal number down to v = −1332


@by_kind
def exp(v: np.ndarray, headroom: int) -> np.ndarray:
    """e^v · 2^headroom."""
    return np.ldexp(np.exp(v), headroom) if headroom else np.exp(v)


def exponential(v: Array) -> Array:
    """e^v; that of more bits than doubles carries a power, which keeps the digits that a subnormal would lose."""
    return Scaled(exp(v, HEADROOM), HEADROOM) if is_extended(v) else np.exp(v)


def exponent_of(v: Array | float) -> int:
    """The e with 2^(e−1) ≤ max |v| < 2^e; 0 for zeros."""
    return int(np.frexp(np.max(np.abs(nearest(v)), initial=0.0))[1])


def row_exponent(v: Array) -> np.ndarray:
    """(R,) the same of every row."""
    return np.frexp(np.abs(nearest(v)).max(axis=1, initial=0.0))[1]


def _sums_in_range(squares: np.ndarray) -> bool:
    """Whether the sums of squares say at once that all rows of doubles may be squared; False may be wrong."""
    least, most = 2.0 ** (2 * -SQUARES_IN_RANGE + 60), 2.0 ** (2 * SQUARES_IN_RANGE - 60)
    return not squares.size or bool(squares.min() > least and squares.max() < most)


def squares_in_range(sizes: Array) -> bool:
    """Whether squares of numbers of these sizes, and their inverses, are far from the ends of the range; zeros may be
    among them."""
    sizes = np.asarray(nearest(sizes))
    least, most = 2.0**-SQUARES_IN_RANGE, 2.0**SQUARES_IN_RANGE
    if not sizes.size or (sizes.min() > least and sizes.max() < most):
        return True
    return bool(((sizes < most) & ((sizes > least) | (sizes == 0))).all())


def in_range(v: Array) -> tuple[Array, np.ndarray | int, Array]:
    """v (R, D) times a power of two a row, exactly, so that no sum of squares leaves the range; what was taken out; and
    these sums.

    Doubles whose squares are in the range stay as they are, with exponent 0.
    """
    exponent: np.ndarray | int = 0
    if is_extended(v):
        exponent = row_exponent(v)
    else:
        squares = sums_of_squares(v)
        if not _sums_in_range(nearest(squares)):
            exponent = row_exponent(v)
            exponent = exponent if (np.abs(exponent) > SQUARES_IN_RANGE).any() else 0
    if isinstance(exponent, np.ndarray):
        v = np.ldexp(v, -exponent[:, None])
        squares = sums_of_squares(v)
    return v, exponent, squares


def sums_of_squares(v: Array) -> Array:
    """(R,) Σ_d v_d² of every row."""
    return np.einsum("rd,rd->r", v, v)


def spare_exponent(v: np.ndarray, always: bool) -> np.ndarray | int:
    """(R,) exponents that come out of the rows exactly, wherever ‖v‖ is: `row_exponent`, or 480 less.

    The latter for a row whose smallest entries would fall below the range with its largest entry next to 1.
    0 of a row whose squares are in the range, but for `always`; 0 for all if there is no other.
    """
    if not always and _sums_in_range(nearest(sums_of_squares(v))):
        return 0
    e = row_exponent(v)
    if not always:
        e = np.where(np.abs(e) <= SQUARES_IN_RANGE, 0, e)
        if not e.any():
            return 0
    lossless = np.ldexp(np.ldexp(v, -e[:, None]), e[:, None]) == v
    return np.where(lossless.all(axis=1), e, e - 480)


def times_power(v: Any, exponent: np.ndarray | int) -> Any:
    """v · 2^exponent, exact but for what leaves the range of doubles."""
    some = exponent.any() if isinstance(exponent, np.ndarray) else exponent
    return np.ldexp(v, exponent) if some else v


def rows_times_power(v: Any, exponent: np.ndarray | int) -> Any:
    """v (R, D) · 2^exponent, each row with its own; exponent: (R,), or one for all."""
    return times_power(v, exponent[:, None] if isinstance(exponent, np.ndarray) else exponent)


class Scaled(Numbers):
    """Numbers of more bits than doubles that stand for value · 2^−power; sums and products of them keep to the range.

    value (any shape)
    power (int, or whole numbers that broadcast to this shape)
    """

    PARTS = ("value",)
    RULES: ClassVar[dict[Any, Callable]] = {}
    extended = True
    around = True

    def __init__(self, value: Any, power: Any = 0) -> None:
        self.value, self.power = value, power

    def lifted(self, value: Any) -> Scaled:
        return value if isinstance(value, Scaled) else Scaled(like(value, self.value))

    def nearest(self) -> np.ndarray:
        return nearest(at(0, self))

    def __getitem__(self, index: Any) -> Scaled:
        return Scaled(self.value[index], self._power(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        self.value[index] = at(self._power(index), value)

    def _power(self, index: Any) -> Any:
        return np.broadcast_to(self.power, self.shape)[index] if isinstance(self.power, np.ndarray) else self.power


def at(power: Any, v: Any) -> Any:
    """v · 2^power, as numbers that carry no power."""
    value, own = _parts(v)
    return times_power(value, power - own)


def next_to_one(v: Array) -> Array:
    """v with the power of two of its largest number apart, which is then in [1, 2); doubles as they are."""
    if not is_extended(v):
        return v
    e = exponent_of(v) - 1
    return Scaled(at(-e, v), -e)


def beside(tiny: Any, other: Any) -> Any:
    """`tiny`, its power kept only where `other` is so small that both can be added with it."""
    if not isinstance(tiny, Scaled):
        return tiny
    power = np.where(np.abs(nearest(other)) < 2.0**-60, tiny.power, 0)
    return Scaled(at(power, tiny), power)


def _parts(v: Any) -> tuple[Any, Any]:
    return (v.value, v.power) if isinstance(v, Scaled) else (v, 0)


def _of_one_power(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """The values of both at a power, and this power."""
    if isinstance(a, Scaled) and isinstance(b, Scaled):
        power = np.minimum(a.power, b.power)
    else:
        power = (beside(a, b) if isinstance(a, Scaled) else beside(b, a)).power
    return at(power, a), at(power, b), power


def _linear(function: Callable, *args: Any) -> Scaled:
    *condition, a, b = args
    va, vb, power = _of_one_power(a, b)
    return Scaled(function(*condition, va, vb), power)


def _exponents(v: Any) -> Any:
    """Of every number, or of the largest in every row of a matrix."""
    sizes = np.abs(nearest(v))
    return np.frexp(sizes.max(axis=1, keepdims=True, initial=0.0) if np.ndim(sizes) == 2 else sizes)[1]


def _multiply(a: Any, b: Any) -> Scaled:
    """The larger factor makes room for the other, so that the product is no larger."""
    (va, pa), (vb, pb) = _parts(a), _parts(b)
    ea, eb = _exponents(va), _exponents(vb)
    room = np.maximum(0, np.minimum(ea, eb))
    va, vb = at(np.where(ea >= eb, -room, 0), va), at(np.where(ea >= eb, 0, -room), vb)
    return Scaled(va * vb, pa + pb - room)


def _divide(a: Any, b: Any) -> Scaled:
    (va, pa), (vb, pb) = _parts(a), _parts(b)
    return Scaled(va / vb, pa - pb)


def _log1p(v: Scaled) -> Scaled:
    """log(1 + v): where v is tiny and has a power, v itself."""
    tiny = (v.power > 0) & (nearest(v.value) < np.ldexp(1.0, v.power - 120))
    return Scaled(np.where(tiny, v.value, np.log1p(at(0, v))), np.where(tiny, v.power, 0))


def _sum(v: Scaled, axis: int | None = None) -> Scaled:
    power = np.min(v.power, initial=HEADROOM)
    if axis is None and exponent_of(at(power, v)) > HEADROOM:
        power = power - HEADROOM  # their mean may be in the range where their sum is not; rows have sizes of their own
    return Scaled(at(power, v).sum(axis=axis), power)


Scaled.RULES |= {
    np.add: partial(_linear, np.add),
    np.subtract: partial(_linear, np.subtract),
    np.where: partial(_linear, np.where),
    np.multiply: _multiply,
    np.divide: _divide,
    np.negative: lambda v: Scaled(-v.value, v.power),
    np.log1p: _log1p,
    np.sum: _sum,
    np.greater_equal: lambda a, b: np.greater_equal(*_of_one_power(a, b)[:2]),
}
