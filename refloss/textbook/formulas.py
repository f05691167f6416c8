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


def unit(xp: Any, v: Array) -> Array:
    """v / ‖v‖."""
    return v / norm(xp, v)[..., None]


def inner(xp: Any, x: Array, W: Array) -> Array:
    """W_j·x_i for every pair."""
    return xp.matmul(x, xp.swapaxes(W, -1, -2))


def target_of(xp: Any, y: Array, values: Array) -> Array:
    """The value of class y: Σ_j y_j v_j."""
    return xp.sum(y * values, axis=-1)


def with_target(y: Array, others: Array, target: Array) -> Array:
    """`others` with class y replaced by `target`."""
    return others * (1 - y) + y * target[..., None]


def theta(xp: Any, x: Array, W: Array, y: Array) -> Array:
    """θ_y = arccos(x·W_y / ‖x‖‖W_y‖)."""
    return xp.arccos(target_of(xp, y, inner(xp, unit(xp, x), unit(xp, W))))


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


PSI = ("l_softmax", "a_softmax", "f_norm_sphereface")  # those with branches
TARGETS = dict.fromkeys(PSI, annealed_psi) | {
    "am_softmax": cosine_margin,
    "arcface": arc_margin,
    "margin_softmax": own_margin,
}


# -- logits ----------------------------------------------------------------------------------------


def softmax(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """Section 1.1: W_j·x + b_j."""
    z = inner(xp, x, W)
    return z if b is None else z + b[..., None, :]


def w_norm_softmax(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """Table 1: ‖x‖ cos θ_j."""
    return inner(xp, x, unit(xp, W))


def l2_softmax(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """Eq. (3): W_j·f(x) + b_j with ‖f(x)‖ = α."""
    alpha = _each(_each(q.alpha))
    return softmax(xp, q, alpha * unit(xp, x), W, b, y)


def margin_logits(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """r cos θ_j, and r ψ(θ_y) for the target: r = ‖W_j‖‖x‖, ‖x‖ or s."""
    r = radius(xp, q, x, W)
    cos = inner(xp, unit(xp, x), unit(xp, W))
    angle = xp.arccos(target_of(xp, y, cos))
    if q.detach_margin:  # the offset ψ(θ) − cos θ is a constant, frozen where the gradient is taken
        value = xp.cos(angle) + q.frozen
    else:
        value = TARGETS[q.formula](xp, q, angle)
    return with_target(y, r * cos, target_of(xp, y, r * (1 + 0 * cos)) * value)


def frozen_offset(xp: Any, q: Any, x: Array, W: Array, y: Array) -> Array:
    """ψ(θ_y) − cos θ_y (N,), the constant of a detached margin: `constant` numbers in, no derivative out."""
    angle = theta(xp, xp.constant(x), xp.constant(W), y)
    return TARGETS[q.formula](xp, q, angle) - xp.cos(angle)


def radius(xp: Any, q: Any, x: Array, W: Array) -> Array:
    """The length that multiplies every cosine, (…, N, C) or what broadcasts to it."""
    if q.radius == "both_norms":
        return norm(xp, x)[..., :, None] * norm(xp, W)[..., None, :]
    if q.radius == "x_norm":
        return norm(xp, x)[..., :, None]
    return _each(_each(q.scale))


LOGITS = {
    "softmax": softmax,
    "weighted_softmax": softmax,
    "w_norm_softmax": w_norm_softmax,
    "l2_softmax": l2_softmax,
} | dict.fromkeys(TARGETS, margin_logits)

RADIUS = {
    "l_softmax": "both_norms",
    "a_softmax": "x_norm",
    "f_norm_sphereface": "scale",
    "am_softmax": "scale",
    "arcface": "scale",
}


# -- cross-entropy ---------------------------------------------------------------------------------


def cross_entropy(xp: Any, z: Array, t: Array, w: Array) -> Array:
    """Sections 1.1 and 2.1.3: −Σ_c w_c t_c log f(z_c), with log f(z_c) = z_c − log Σ_j e^{z_j}."""
    return -xp.sum(w * t * (z - xp.logsumexp(z)[..., None]), axis=-1)
