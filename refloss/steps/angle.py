"""The angle between x and w: its cosine for every pair, θ itself for the target pairs, and back.

Derivation: derivations/angle.md, steps (A1)–(A8).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refloss.precision.errorfree import difference_of_products
from refloss.precision.numbers import Array, error_of, from_pair, is_extended, nearest
from refloss.precision.products import add_at, combine, inner
from refloss.precision.scaled import row_exponent
from refloss.steps.normalise import Rows, across, normalise, over_norm, rows
from refloss.steps.targets import NO_PAIRS, Pairs

NEAR_POLE = 0.9  # |cos θ|; farther from a pole a projection loses a factor of at most 1/sin θ < 2.3
NEAR_POLE_OF_PAIRS = 1 - 2.0**-24  # likewise sin θ > 2^-12: pairs have 12 bits to spare
HEIGHT = 480  # exponent of a row's largest entry: an exact product allows 996, and no product of two overflows
PAIRS_AT_ONCE = 1 << 14  # so that memory stays bounded where every pair is near a pole


def cosines(x_hat: Array, W_hat: Array) -> tuple[Array, Pairs]:
    """(A1) cos θ_ij = x̂_i · ŵ_j for every pair, (N, C); and the pairs near a pole. x_hat: (N, D), W_hat: (C, D)."""
    cos_theta = inner(x_hat, W_hat)
    near = near_poles(cos_theta)
    if len(near.rows):  # rounding may leave [−1, 1] by a few ulps; the true cosine does not
        cos_theta[near] = np.clip(cos_theta[near], -1.0, 1.0)
    return cos_theta, near


def near_poles(dots: Array, norm: Array | float = 1.0) -> Pairs:
    """The pairs whose cosine, dots / norm, is near 1 or −1. dots: (N, C)."""
    limit = nearest(norm) * (NEAR_POLE_OF_PAIRS if is_extended(dots) else NEAR_POLE)
    dots = np.asarray(nearest(dots))
    if np.ndim(limit) == 0 and (not dots.size or max(dots.max(), -dots.min()) <= limit):
        return NO_PAIRS
    near = np.abs(dots) > limit
    return Pairs(*np.nonzero(near)) if near.any() else NO_PAIRS


def cosines_backward(grad_cos: Array, x: Rows, W: Rows, near: Pairs, of: str = "xW") -> tuple[Any, Any]:
    """∂L/∂x̂ (N, D) and ∂L/∂ŵ (C, D), up to parts along x̂_i and ŵ_j, which the normalisation projects out.

    grad_cos: (N, C), h_ij = ∂L/∂cos θ_ij; near: the pairs of `near_poles`; of: "x" or "W" if one is enough, the other
    is then 0.0.
    """
    # (A2) ∂L/∂x̂_i = Σ_j h_ij ŵ_j, ∂L/∂ŵ_j = Σ_i h_ij x̂_i. Near a pole projecting ŵ_j = cos θ x̂_i + sin θ t_x would
    # cancel: there only sin θ t_x is added, and sin θ t_w for x̂_i
    h, far = near.split(grad_cos)
    grad_x_hat = combine(far, W.hat) if "x" in of else 0.0
    grad_W_hat = combine(far.T, x.hat) if "W" in of else 0.0
    felt = ((h != 0) | (error_of(h) > 0)).nonzero()[0]
    for start in range(0, len(felt), PAIRS_AT_ONCE):
        at = felt[start : start + PAIRS_AT_ONCE]
        i, j = near.rows[at], near.y[at]
        angles = angle(x[i], W[j])
        turn = (h[at] * angles.sin)[:, None]
        if "x" in of:
            add_at(grad_x_hat, i, turn * angles.t_x)
        if "W" in of:
            add_at(grad_W_hat, j, turn * angles.t_w)
    return grad_x_hat, grad_W_hat


class Angle(NamedTuple):
    """θ of R pairs (x_r, w_r) and the directions in which it falls.

    x, w        (R, D)  the rows, times powers of two (A3)
    cos, sin    (R,)    of θ; the sine right relative to itself wherever θ is, the cosine relative to 1; 0 and 1 if x
                        or w is a zero row
    t_x, t_w    (R, D)  unit tangents: from x̂ towards ŵ, and from ŵ towards x̂. Zero where x ∥ w
                        (there is no direction to choose) and where x or w is a zero row
    x_norm, w_norm      (R,)
    """

    x: Array
    w: Array
    cos: Array
    sin: Array
    t_x: Array
    t_w: Array
    x_norm: Array
    w_norm: Array

    @property
    def theta(self) -> Array:
        """(A6) (R,) radians, in [0, π]."""
        return np.arctan2(self.sin, self.cos)

    @property
    def at_pole(self) -> np.ndarray:
        """(R,) True where x ∥ w exactly: θ is 0 or π and no tangent exists (D ≥ 2)."""
        return (self.sin == 0) & ~nearest(self.t_x).any(axis=1) & (self.t_x.shape[1] > 1)


def angle(x: Any, w: Any) -> Angle:
    """θ between x_r and w_r without arccos, whose digits are gone near 0 and π.

    x, w: (R, D), exact, arrays or `Rows`. At every angle θ and the tangents are right to a small multiple of √D
    roundings: the part of w across x is built from exact products, so that it does not cancel.
    """
    of_x, of_w = rows(x), rows(w)
    # (A3) each row times a power of two, so high that r keeps what is far below its largest entry
    x = np.ldexp(of_x.v, (HEIGHT - row_exponent(of_x.v))[:, None])
    w = np.ldexp(of_w.v, (HEIGHT - row_exponent(of_w.v))[:, None])
    # (A4) r = w − (w_p / x_p) x with p = argmax |x_d|: 0 at p, and 0 everywhere only if x ∥ w
    rows_of_x = np.arange(len(x))
    p = np.argmax(np.abs(nearest(x)), axis=1)
    r = _over_pivot(x, w, x[rows_of_x, p][:, None], w[rows_of_x, p][:, None])
    # (A5) e = r − (r·x̂) x̂, the part of w across x. |r·x̂| ≤ √D ‖e‖: what is taken away is at most √D times what is left
    length, t_x = normalise(across(r, of_x.hat))
    # (A6) ‖w‖ sin θ = ‖e‖ and ‖w‖ cos θ = w·x / ‖x‖
    scaled_norm = np.sqrt(np.einsum("rd,rd->r", x, x))
    along = np.einsum("rd,rd->r", w, x) / np.where(scaled_norm == 0, 1.0, scaled_norm)
    whole = np.sqrt(length * length + along * along)
    zero = whole * scaled_norm == 0
    cos, sin = (v / np.where(zero, 1.0, whole) for v in (along, length))
    # (A7) in the plane of x̂ and t_x: ŵ = cos θ x̂ + sin θ t_x, hence t_w = sin θ x̂ − cos θ t_x
    t_w = sin[:, None] * of_x.hat - cos[:, None] * t_x
    no_tangent = (zero | (length == 0))[:, None]
    return Angle(
        x=x,
        w=w,
        cos=np.where(zero, 0.0, cos),
        sin=np.where(zero, 1.0, sin),
        t_x=np.where(no_tangent, 0.0, t_x),
        t_w=np.where(no_tangent, 0.0, t_w),
        x_norm=of_x.norm,
        w_norm=of_w.norm,
    )


def _over_pivot(x: Array, w: Array, x_p: Array, w_p: Array) -> Array:
    """(w x_p − w_p x) / x_p, entry by entry; products and difference as good as exact. x_p = 0 gives 0."""
    parts = (nearest(v) for v in (w, x_p, x, w_p))
    r = from_pair(*difference_of_products(*parts), x)
    return r / np.where(x_p == 0, 1.0, x_p)


def angle_backward(grad_theta: Array, angles: Angle) -> tuple[Array, Array]:
    """(A8) ∇_x θ = −t_x / ‖x‖ and ∇_w θ = −t_w / ‖w‖. grad_theta: (R,). Returns (R, D) twice."""
    back = -grad_theta[:, None]
    return over_norm(back * angles.t_x, angles.x_norm), over_norm(back * angles.t_w, angles.w_norm)
