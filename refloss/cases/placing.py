"""Vectors of float64 at a chosen angle: worked out in decimal arithmetic and rounded once.

Rounding every coordinate once turns a vector by at most 2^-53, so an angle asked for as kπ/m + 1e-15 is met to a
tenth of that offset. Smaller angles between general vectors need integers; see `refloss.cases.grid`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import cache

import numpy as np

DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")

Vector = Sequence[Decimal]


def place(w: np.ndarray, toward: np.ndarray, theta: Decimal, length: float = 1.0) -> np.ndarray:
    """The vector (D,) of this length at the angle theta (radians, in [0, π]) from w, turned towards `toward`.

    w, toward: (D,), not parallel, D ≥ 2. The angle between the result and w is theta to within 2^-53.

    >>> float(np.round(place(np.array([1.0, 1.0]), np.array([0.0, 1.0]), PI / 4), 12)[1])
    1.0
    """
    with localcontext(Context(prec=DIGITS, Emin=-(10**6), Emax=10**6)):
        along = _unit([Decimal(float(v)) for v in w])
        other = [Decimal(float(v)) for v in toward]
        part = _dot(other, along)
        across = _unit([v - part * a for v, a in zip(other, along, strict=True)])
        cos, sin = cos_sin(theta)
        size = Decimal(float(length))
        return np.array([float(size * (cos * a + sin * e)) for a, e in zip(along, across, strict=True)])


@cache
def cos_sin(theta: Decimal) -> tuple[Decimal, Decimal]:
    """cos θ and sin θ for θ in [0, π], by their series, to the digits of the context."""
    cos, sin, term, n = Decimal(1), Decimal(0), theta, 1
    while abs(term) > Decimal(10) ** -(2 * DIGITS):
        signed = term if n % 4 in (0, 1) else -term
        cos, sin = (cos + signed, sin) if n % 2 == 0 else (cos, sin + signed)
        n += 1
        term = term * theta / n
    return cos, sin


def _dot(v: Vector, w: Vector) -> Decimal:
    return sum((a * b for a, b in zip(v, w, strict=True)), Decimal(0))


def _unit(v: Vector) -> list[Decimal]:
    length = _dot(v, v).sqrt()
    return [a / length for a in v]
