"""v ↦ ‖v‖ and v̂ = v / ‖v‖, row by row, and back.

Derivation: derivations/normalisation.md, steps (N1)–(N4).
"""

from __future__ import annotations

import numpy as np

from refloss.precision.numbers import Array
from refloss.precision.scaled import row_exponent


def normalise(v: Array) -> tuple[Array, Array]:
    """Length and direction of every row.

    v: (R, D), finite. Returns ‖v‖ (R,) and v̂ (R, D). A zero row has length 0 and, by convention,
    the zero vector for its direction. Neither overflows nor underflows unless ‖v‖ itself does.
    """
    # (N1) scale every row by a power of two, exactly, so that its largest entry lies in [1/2, 1)
    exponent = row_exponent(v)
    scaled = np.ldexp(v, -exponent[:, None])
    # (N2) ‖v‖ = √Σ v_d²
    length = np.sqrt(np.einsum("rd,rd->r", scaled, scaled))
    # (N3) v̂ = v / ‖v‖
    unit = scaled / np.where(length == 0, 1.0, length)[:, None]
    return np.ldexp(length, exponent), unit


def normalise_backward(grad_unit: Array, norm: Array, unit: Array) -> Array:
    """∂L/∂v of every row from ∂L/∂v̂. grad_unit, unit: (R, D); norm: (R,). Returns (R, D).

    For a gradient already tangent to the sphere this is the survey's dy/dx = 1/α with α = ‖x‖: the
    projection changes nothing and only the length 1/‖v‖ remains. A zero row passes nothing back.
    """
    # (N4) ∂L/∂v = (I − v̂ v̂ᵀ) ∂L/∂v̂ / ‖v‖: the full Jacobian
    return over_norm(across(grad_unit, unit), norm)


def across(v: Array, unit: Array) -> Array:
    """(I − v̂ v̂ᵀ) v: the part of each row that is perpendicular to the row of `unit`. (R, D)."""
    return v - unit * np.einsum("rd,rd->r", unit, v)[:, None]


def over_norm(v: Array, norm: Array) -> Array:
    """v / ‖·‖ row by row; a row whose norm is 0 gives 0 (nothing flows through a zero row)."""
    zero = norm == 0
    return np.where(zero[:, None], 0.0, v / np.where(zero, 1.0, norm)[:, None])


def spare_exponent(v: np.ndarray) -> np.ndarray:
    """(R,) exponents that come out of the rows exactly, wherever ‖v‖ is: `row_exponent`, or 480 less.

    The latter for a row whose smallest entries would fall below the range with its largest entry next to 1.
    """
    e = row_exponent(v)
    lossless = np.ldexp(np.ldexp(v, -e[:, None]), e[:, None]) == v
    return np.where(lossless.all(axis=1), e, e - 480)
