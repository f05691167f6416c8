"""Vectors at a chosen angle: placed in floats, placed in decimal arithmetic and rounded once, or made of integers.

Rounding every coordinate once turns a vector by at most 2^-53, so an angle asked for as kπ/m + 1e-15 is met to a
tenth of that offset. Smaller angles between general vectors, and exact ones, need integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np

DIGITS = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
N = 2**53 - 4  # N … N + 3 are floats: consecutive integers, so that cross products are ±1 and ±2
AWKWARD = (1.1283791670955126, 0.5772156649015329)  # 53-bit factors, so that no product of lengths is exact
U = 2.0**-53

Vector = Sequence[Decimal]
Pair = tuple[np.ndarray, np.ndarray]


def general(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    """(rows, dimension) Gaussian vectors: general position, the same at every call."""
    return np.random.default_rng([rows, dimension, seed]).normal(size=(rows, dimension))


def directions(v: np.ndarray) -> np.ndarray:
    """The rows of v (R, D) over their lengths."""
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def place(rng: np.random.Generator, W: np.ndarray, y: np.ndarray, theta: Any, length: Any = 2.0) -> np.ndarray:
    """x (N, D) in random directions at these angles (radians) from the rows W[y], of these lengths."""
    theta = np.broadcast_to(np.asarray(theta, dtype=float), len(y))
    w = directions(W[y])
    u = rng.normal(size=w.shape)
    u -= w * np.sum(u * w, axis=1, keepdims=True)
    direction = np.cos(theta)[:, None] * w + np.sin(theta)[:, None] * directions(u)
    return np.broadcast_to(length, len(y))[:, None] * direction


def place_in_decimal(w: np.ndarray, toward: np.ndarray, theta: Decimal, length: float = 1.0) -> np.ndarray:
    """The vector (D,) of this length at the angle theta (radians, in [0, π]) from w, turned towards `toward`.

    w, toward: (D,), not parallel, D ≥ 2. The angle between the result and w is theta to within 2^-53.

    >>> float(np.round(place_in_decimal(np.array([1.0, 1.0]), np.array([0.0, 1.0]), PI / 4), 12)[1])
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


# -- pairs made of integers -----------------------------------------------------------------------


def _integers(x: Sequence[float], w: Sequence[float]) -> Pair:
    return np.array(x, dtype=float), np.array(w, dtype=float)


def tiny_pairs() -> dict[str, Pair]:
    """Name → (x, w) whose angle, or its supplement, no rounded cosine can show."""
    w3, w8 = general(1, 3)[0], general(1, 8)[0]
    pairs = {
        "1e-300": _integers([1, 1e-300], [1, 0]),
        # an axis of its own: (3, 6, 9) + 1e-300 (1, 1, 1) is no float
        "1e-300_3d": _integers([3, 6, 1e-300], [1, 2, 0]),
        "6e-33": _integers([N * U, (N + 1) * U], [(N + 1) * U, (N + 2) * U]),
        "2e-32_3d": _integers([N * U, (N + 1) * U, (N + 2) * U], [(N + 1) * U, (N + 2) * U, (N + 3) * U]),
        "rounded_3d": (1.7 * w3, w3),
        "rounded_8d": (1.7 * w8, w8),
    }
    return pairs | {f"pi_minus_{key}": (-x, w) for key, (x, w) in pairs.items()}


def parallel_pairs() -> dict[str, Pair]:
    """Name → (x, w) exactly parallel or opposite."""
    a, b = AWKWARD
    pairs = {
        "integers": _integers([3, 6, 9], [1, 2, 3]),
        "axes": _integers([a, 0], [b, 0]),
        "diagonal": (a * np.ones(5), b * np.ones(5)),
    }
    return {f"0_{key}": pair for key, pair in pairs.items()} | {f"pi_{key}": (-x, w) for key, (x, w) in pairs.items()}


def exact_pairs() -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
    """Name → (degrees, x, w) at exactly that angle; plain, and scaled by factors without a short expansion."""
    pairs = {
        "30": (30, [1, 1, 1, 0], [1, 1, 1, 1]),
        "45": (45, [1, 0], [1, 1]),
        "60": (60, [1, 1, 0], [1, 0, 1]),
        "90": (90, [1, 0], [0, 1]),
        "90_integers": (90, [1, 2, 3, 0], [3, 0, -1, 5]),
        "90_signs": (90, [1, 1, 1, 1], [1, -1, 1, -1]),
        "120": (120, [1, -1, 0], [0, 1, -1]),
        "135": (135, [1, 0], [-1, 1]),
        "150": (150, [-1, -1, -1, 0], [1, 1, 1, 1]),
    }
    a, b = AWKWARD
    plain = {key: (degrees, *_integers(x, w)) for key, (degrees, x, w) in pairs.items()}
    # 0 and ±1 times a float are exact; a product with 2, 3 or 5 is not
    signs = {key: value for key, value in plain.items() if np.abs(value[1:][1]).max() == 1}
    return plain | {f"{key}_awkward": (degrees, a * x, b * w) for key, (degrees, x, w) in signs.items()}
