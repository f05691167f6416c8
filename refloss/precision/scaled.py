"""Powers of two that keep small numbers away from the subnormals.

A *headroom* h was put into a number: it is stored times 2^h. An *exponent* e was taken out: it is stored times 2^−e.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.precision.numbers import Array, by_kind, is_extended, nearest

SQUARES_IN_RANGE = 400
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
