"""The angle between x and w: its cosine for every pair, θ itself for the target pairs, and back.

Derivation: derivations/angle.md, steps (A1)–(A8).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from refloss.precision.errorfree import two_product, two_sum
from refloss.steps.normalise import across, normalise, over_norm, row_exponent

NEAR_POLE = 0.9  # |cos θ|; elsewhere a projection loses at most 1/sin θ < 2.3
PAIRS_AT_ONCE = 1 << 14  # so that memory stays bounded where every pair is near a pole


def cosines(x_hat: np.ndarray, W_hat: np.ndarray) -> np.ndarray:
    """(A1) cos θ_ij = x̂_i · ŵ_j for every pair. x_hat: (N, D), W_hat: (C, D). Returns (N, C)."""
    # rounding may leave [−1, 1] by an ulp; the true cosine does not
    return np.clip(x_hat @ W_hat.T, -1.0, 1.0)


def cosines_backward(
    grad_cos: np.ndarray, x: np.ndarray, W: np.ndarray, x_hat: np.ndarray, W_hat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(A2) ∂L/∂x̂_i = Σ_j ∂L/∂cos_ij ŵ_j and ∂L/∂ŵ_j = Σ_i ∂L/∂cos_ij x̂_i, up to parts along x̂_i and ŵ_j.

    Those parts are what the normalisation projects out. ŵ_j = cos θ x̂_i + sin θ t_x: of a pair near a pole, where
    projecting ŵ_j would cancel, only sin θ t_x is added. grad_cos: (N, C). Returns (N, D), (C, D).
    """
    near = np.abs(cosines(x_hat, W_hat)) > NEAR_POLE
    far = np.where(near, 0.0, grad_cos)
    grad_x_hat, grad_W_hat = far @ W_hat, far.T @ x_hat
    rows, columns = np.nonzero(near & (grad_cos != 0))
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        i, j = rows[start : start + PAIRS_AT_ONCE], columns[start : start + PAIRS_AT_ONCE]
        at = angle(x[i], W[j])
        turn = (grad_cos[i, j] * at.sin)[:, None]
        np.add.at(grad_x_hat, i, turn * at.t_x)
        np.add.at(grad_W_hat, j, turn * at.t_w)
    return grad_x_hat, grad_W_hat


class Angle(NamedTuple):
    """θ of R pairs (x_r, w_r) and the directions in which it falls.

    theta       (R,)    radians, in [0, π]; π/2 if x or w is a zero row
    supplement  (R,)    π − θ with all its digits also where θ is near π
    t_x, t_w    (R, D)  unit tangents: from x̂ towards ŵ, and from ŵ towards x̂. Zero where x ∥ w
                        (there is no direction to choose) and where x or w is a zero row
    x_norm, w_norm      (R,)
    """

    theta: np.ndarray
    supplement: np.ndarray
    t_x: np.ndarray
    t_w: np.ndarray
    x_norm: np.ndarray
    w_norm: np.ndarray

    @property
    def cos(self) -> np.ndarray:
        return np.where(self.obtuse, -np.cos(self.supplement), np.cos(self.theta))

    @property
    def sin(self) -> np.ndarray:
        return np.sin(np.where(self.obtuse, self.supplement, self.theta))

    @property
    def obtuse(self) -> np.ndarray:
        return self.theta > self.supplement

    @property
    def at_pole(self) -> np.ndarray:
        """(R,) True where x ∥ w exactly: θ is 0 or π and no tangent exists (D ≥ 2)."""
        nonzero = (self.x_norm > 0) & (self.w_norm > 0)
        return nonzero & ~self.t_x.any(axis=1) & (self.t_x.shape[1] > 1)


def angle(x: np.ndarray, w: np.ndarray) -> Angle:
    """θ between x_r and w_r without arccos, whose digits are gone near 0 and π.

    x, w: (R, D). At every angle θ and the tangents are right to a small multiple of √D roundings:
    the part of w across x is built from exact products, so that it does not cancel.
    """
    x_norm, x_hat = normalise(x)
    w_norm, _ = normalise(w)
    # (A3) powers of two out, so that no product below over- or underflows
    x = np.ldexp(x, -row_exponent(x)[:, None])
    w = np.ldexp(w, -row_exponent(w)[:, None])
    # (A4) r = w − (w_p / x_p) x with p = argmax |x_d|: 0 at p, and 0 everywhere only if x ∥ w
    rows = np.arange(len(x))
    p = np.argmax(np.abs(x), axis=1)
    x_p, w_p = x[rows, p][:, None], w[rows, p][:, None]
    high, low = two_product(w, np.broadcast_to(x_p, w.shape))
    less_high, less_low = two_product(x, np.broadcast_to(w_p, x.shape))
    high, rounding = two_sum(high, -less_high)
    r = (high + (rounding + (low - less_low))) / np.where(x_p == 0, 1.0, x_p)
    # (A5) e = r − (r·x̂) x̂, the part of w across x. |r·x̂| ≤ √D ‖e‖: at most √D of the digits cancel
    length, t_x = normalise(across(r, x_hat))
    # (A6) θ = atan2(‖w‖ sin θ, ‖w‖ cos θ), and π − θ in the same way
    along = np.einsum("rd,rd->r", w, x_hat)
    theta, supplement = np.arctan2(length, along), np.arctan2(length, -along)
    # (A7) in the plane of x̂ and t_x: ŵ = cos θ x̂ + sin θ t_x, hence t_w = sin θ x̂ − cos θ t_x
    scale = np.hypot(length, along)
    scale = np.where(scale == 0, 1.0, scale)
    t_w = (length / scale)[:, None] * x_hat - (along / scale)[:, None] * t_x

    zero = (x_norm == 0) | (w_norm == 0)
    no_tangent = zero | (length == 0)
    right_angle = np.pi / 2
    return Angle(
        theta=np.where(zero, right_angle, theta),
        supplement=np.where(zero, right_angle, supplement),
        t_x=np.where(no_tangent[:, None], 0.0, t_x),
        t_w=np.where(no_tangent[:, None], 0.0, t_w),
        x_norm=x_norm,
        w_norm=w_norm,
    )


def angle_backward(grad_theta: np.ndarray, at: Angle) -> tuple[np.ndarray, np.ndarray]:
    """(A8) ∇_x θ = −t_x / ‖x‖ and ∇_w θ = −t_w / ‖w‖. grad_theta: (R,). Returns (R, D) twice."""
    back = -grad_theta[:, None]
    return over_norm(back * at.t_x, at.x_norm), over_norm(back * at.t_w, at.w_norm)
