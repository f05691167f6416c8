"""v ↦ ‖v‖ and v̂ = v / ‖v‖, row by row, and back.

Derivation: derivations/normalisation.md, steps (N1)–(N4).
"""

from __future__ import annotations

import numpy as np

from refloss.precision.numbers import Array
from refloss.precision.scaled import in_range, squares_in_range, times_power


def normalise(v: Array) -> tuple[Array, Array]:
    """Length and direction of every row.

    v: (R, D), finite. Returns ‖v‖ (R,) and v̂ (R, D). A zero row has length 0 and, by convention,
    the zero vector for its direction. Neither leaves the range unless ‖v‖, or an entry of v̂, is itself beyond it.
    """
    # (N1) ṽ = 2^−e v, the largest entry in [1/2, 1); e = 0 where no square leaves the range as it is
    scaled, exponent, squares = in_range(v)
    # (N2) ‖ṽ‖ = √Σ ṽ_d²
    length = np.sqrt(squares)
    # (N3) v̂ = ṽ / ‖ṽ‖, and ‖v‖ = 2^e ‖ṽ‖
    unit = direction(scaled, length)
    return times_power(length, exponent), unit


def direction(v: Array, norm: Array) -> Array:
    """v / ‖v‖ row by row; the zero vector for a zero row."""
    zero = norm == 0
    return v / (np.where(zero, 1.0, norm) if zero.any() else norm)[:, None]


class Rows:
    """Vectors v, one a row (R, D), with ‖v‖ (R,) and v̂ (R, D), which are computed once, when first read."""

    def __init__(self, v: Array, norm: Array | None = None, hat: Array | None = None) -> None:
        self.v, self._norm, self._hat = v, norm, hat

    @property
    def norm(self) -> Array:
        if self._norm is None:
            self._norm, self._hat = normalise(self.v)
        return self._norm

    @property
    def hat(self) -> Array:
        if self._hat is None:
            if self._norm is not None and squares_in_range(self._norm):
                self._hat = direction(self.v, self._norm)
            else:
                self._norm, self._hat = normalise(self.v)
        return self._hat

    def normalised(self) -> Rows:
        """These, with length and direction known: of all at once, for those that are chosen from them."""
        return Rows(self.v, self.norm, self.hat)

    def __len__(self) -> int:
        return len(self.v)

    def __getitem__(self, index: np.ndarray | slice) -> Rows:
        """Some of the rows; what is known of them stays known."""
        norm, hat = (None if known is None else known[index] for known in (self._norm, self._hat))
        return Rows(self.v[index], norm, hat)


def rows(v: Array | Rows) -> Rows:
    """The rows of an array; or those given."""
    return v if isinstance(v, Rows) else Rows(v)


def normalise_backward(grad_unit: Array, norm: Array, unit: Array) -> Array:
    """∂L/∂v of every row from ∂L/∂v̂. grad_unit, unit: (R, D); norm: (R,). Returns (R, D).

    For a gradient already tangent to the sphere this is the survey's dy/dx = 1/α with α = ‖x‖: the
    projection changes nothing and only the length 1/‖v‖ remains. A zero row passes nothing back.
    """
    # (N4) ∂L/∂v = (I − v̂ v̂ᵀ) ∂L/∂v̂ / ‖v‖: the full Jacobian
    return over_norm(across(grad_unit, unit), norm)


def across(h: Array, unit: Array) -> Array:
    """(I − v̂ v̂ᵀ) h: the part of each row h that is perpendicular to v̂, the row of `unit`. (R, D)."""
    return h - unit * np.einsum("rd,rd->r", unit, h)[:, None]


def over_norm(v: Array, norm: Array) -> Array:
    """v / ‖·‖ row by row; a row whose norm is 0 gives 0 (nothing flows through a zero row)."""
    zero = norm == 0
    if not zero.any():
        return v / norm[:, None]
    return np.where(zero[:, None], 0.0, v / np.where(zero, 1.0, norm)[:, None])
