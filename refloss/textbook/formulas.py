"""The losses of the survey as it writes them, run by any array namespace `xp`.

x (…, N, D), W (…, C, D), b (…, C), y (N, C) one-hot (zero on ignored rows), t (N, C) the target of the
cross-entropy, w (C,) class weights. Leading axes "…" stand for many perturbed copies at once. `q` holds the
parameters (scale, margin, alpha, annealing, …), each a number or a (…)-shaped array. Nothing here is stable,
and nothing here may be: these formulas are the definition that the explicit passes are checked against.
"""

from __future__ import annotations

from typing import Any

Array = Any


# -- pieces ----------------------------------------------------------------------------------------


def norm(xp: Any, v: Array) -> Array:
    """‖v‖ = √Σ v_d²."""
    return xp.sqrt(xp.sum(v * v, axis=-1))


def unit(xp: Any, v: Array, zero: Array = None) -> Array:
    """v / ‖v‖; the zero vector, and no derivative, for the rows marked zero (zero_norm="zero")."""
    if zero is None or not zero.any():
        return v / norm(xp, v)[..., None]
    marked = zero[:, None]
    return xp.where(marked, 0 * v, unit(xp, xp.where(marked, 0 * v + 1, v)))


def inner(xp: Any, x: Array, W: Array) -> Array:
    """W_j·x_i for every pair."""
    return xp.matmul(x, xp.swapaxes(W, -1, -2))


def with_target(y: Array, others: Array, target: Array) -> Array:
    """`others` with class y replaced by `target`."""
    return others * (1 - y) + y * target[..., None]


def theta(xp: Any, q: Any, x: Array, W: Array, y: Array) -> Array:
    """θ_y = arccos(x·W_y / ‖x‖‖W_y‖)."""
    W_y = xp.matmul(y, W)
    return xp.arccos(xp.sum(unit(xp, x, q.zero_x) * unit(xp, W_y, _of(q.zero_W, y)), axis=-1))


def _each(parameter: Array) -> Array:
    """A parameter (…) against arrays (…, N)."""
    return parameter[..., None] if getattr(parameter, "ndim", 0) else parameter


# -- what becomes of the target's angle: ψ(θ) ------------------------------------------------------


def psi(xp: Any, q: Any, angle: Array) -> Array:
    """L-Softmax eq. (5)–(6): (−1)^k cos mθ − 2k, or the user's D(θ) beyond π/m."""
    m = q.margin
    if q.continuation is not None:
        D, _ = q.continuation
        return xp.where(xp.real(angle) < xp.pi / m, xp.cos(m * angle), D(angle, xp))
    k = xp.clip(xp.floor(m * xp.real(angle) / xp.pi), 0, m - 1)
    return (1 - 2 * (k % 2)) * xp.cos(m * angle) - 2 * k


def annealed_psi(xp: Any, q: Any, angle: Array) -> Array:
    """(λ cos θ + ψ(θ)) / (1 + λ)."""
    return (q.annealing * xp.cos(angle) + psi(xp, q, angle)) / (1 + q.annealing)


def cosine_margin(xp: Any, q: Any, angle: Array) -> Array:
    """AM-Softmax eq. (6): cos θ − m."""
    return xp.cos(angle) - _each(q.margin)


def arc_margin(xp: Any, q: Any, angle: Array) -> Array:
    """ArcFace eq. (9): cos(θ + m); released variants by name."""
    m = _each(q.margin)
    value = xp.cos(angle + m)
    if q.past_pi == "linear":
        value = xp.where(xp.real(angle + m) < xp.pi, value, xp.cos(angle) - m * xp.sin(m))
    if q.easy_margin:
        value = xp.where(xp.real(angle) < xp.pi / 2, value, xp.cos(angle))
    return value


def own_margin(xp: Any, q: Any, angle: Array) -> Array:
    """A user's ψ."""
    return q.psi(angle, xp)


# -- logits ----------------------------------------------------------------------------------------


def softmax(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """Section 1.1: W_j·x + b_j."""
    z = inner(xp, x, W)
    return z if b is None else z + b[..., None, :]


def w_norm_softmax(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """Table 1: ‖x‖ cos θ_j."""
    return inner(xp, x, unit(xp, W, q.zero_W))


def l2_softmax(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """Eq. (3): W_j·f(x) + b_j with ‖f(x)‖ = α."""
    alpha = _each(_each(q.alpha))
    return softmax(xp, q, alpha * unit(xp, x, q.zero_x), W, b, y)


def margin_logits(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """L-Softmax, A-Softmax (SphereFace), AM-Softmax (CosFace), ArcFace: r cos θ_j, and r ψ(θ_y) for the target.

    r = ‖W_j‖‖x‖, ‖x‖ or s. (‖x‖ cos θ_j is ŵ_j·x, and so on.) ψ is `annealed_psi`, `cosine_margin` or `arc_margin`.
    """
    if q.radius == "both_norms":
        others, r_y = inner(xp, x, W), length(xp, x, q.zero_x) * length(xp, xp.matmul(y, W), _of(q.zero_W, y))
    elif q.radius == "x_norm":
        others, r_y = inner(xp, x, unit(xp, W, q.zero_W)), length(xp, x, q.zero_x)
    else:
        others = _each(_each(q.scale)) * inner(xp, unit(xp, x, q.zero_x), unit(xp, W, q.zero_W))
        r_y = _each(q.scale)
    return with_target(y, others, r_y * target(xp, q, theta(xp, q, x, W, y)))


def target(xp: Any, q: Any, angle: Array) -> Array:
    """ψ(θ_y) of any margin loss, its options included."""
    if q.detach_margin:  # the offset ψ(θ) − cos θ is a constant, frozen where the gradient is taken
        return xp.cos(angle) + q.frozen
    return q.target(xp, q, angle)


def _of(zero: Array, y: Array) -> Array:
    """Whether the row of class y is marked zero."""
    return None if zero is None else zero[y.argmax(axis=-1)]


def length(xp: Any, v: Array, zero: Array = None) -> Array:
    """‖v‖; 0, and no derivative, for the rows marked zero."""
    if zero is None or not zero.any():
        return norm(xp, v)
    return xp.where(zero, 0.0, norm(xp, xp.where(zero[:, None], 0 * v + 1, v)))


def frozen_offset(xp: Any, q: Any, x: Array, W: Array, y: Array) -> Array:
    """ψ(θ_y) − cos θ_y (N,), the constant of a detached margin: `constant` numbers in, no derivative out."""
    angle = theta(xp, q, xp.constant(x), xp.constant(W), y)
    return q.target(xp, q, angle) - xp.cos(angle)


# -- cross-entropy ---------------------------------------------------------------------------------


def cross_entropy(xp: Any, z: Array, t: Array, w: Array) -> Array:
    """Sections 1.1 and 2.1.3: −Σ_c w_c t_c log f(z_c), with log f(z_c) = z_c − log Σ_j e^{z_j}."""
    return -xp.sum(w * t * (z - xp.logsumexp(z)[..., None]), axis=-1)
