"""The multiplicative angular margin ψ(θ) of L-Softmax and SphereFace, and its slope.

Derivation: derivations/psi.md, steps (P1)–(P5).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refloss.precision.exact import sine_of_multiple
from refloss.precision.numbers import error_of, functions_of, nearest, widened
from refloss.steps.angle import Angle
from refloss.steps.margin import Psi, choose, own_slope
from refloss.validation.functions import per_angle

Continuation = tuple[Callable, Callable]


def multiplied_angle(angles: Angle, m: int, continuation: Continuation | None = None) -> Psi:
    """ψ(θ) = (−1)^k cos(mθ) − 2k on [kπ/m, (k+1)π/m], k = 0 … m − 1, and ψ'(θ).

    Liu et al., "Large-Margin Softmax Loss", ICML 2016, eq. (6). `continuation` = (D, D') replaces
    the branches beyond π/m (eq. (5)); each is called as f(theta, xp).
    """
    # (P1) cos mθ and sin mθ by turning m − 1 times through θ
    cos_m, sin_m = angles.cos, angles.sin
    for _ in range(m - 1):
        cos_m, sin_m = cos_m * angles.cos - sin_m * angles.sin, sin_m * angles.cos + cos_m * angles.sin
    # next to kπ/m its terms cancel; on every branch (−1)^k sin mθ = |sin mθ|
    sin_m = sine_of_multiple(np.abs(sin_m), m * angles.sin, angles.x, angles.w, m)
    theta = angles.theta
    if continuation is not None:
        # (P2) the user's own monotone D beyond π/m: right derivative at the joint
        D, slope_of_D = continuation
        xp = functions_of(theta)
        short = xp.pi / m - theta
        inner, unsure = short > 0, np.abs(nearest(short)) <= error_of(short)
        # D is called only where it is defined
        beyond = np.where(inner & ~unsure, xp.pi, np.maximum(theta, xp.pi / m))
        slope = own_slope(per_angle(slope_of_D(beyond, xp), theta, "dD"), angles)
        value = choose(inner, cos_m, per_angle(D(beyond, xp), theta, "D"), unsure)
        slope = choose(inner, -m * sin_m, slope, unsure)
        return Psi(value, slope, np.zeros_like(value))
    # (P3) the branch. At a knot either k is right: ψ is continuously differentiable
    k = np.clip(np.floor(m * nearest(theta) / np.pi), 0, m - 1)
    # (P4) ψ(θ) = (−1)^k cos mθ − 2k
    value = np.where(k % 2 == 0, cos_m, -cos_m) - 2 * k
    # a k that θ's own error e has turned is off by at most 2 (1 − |cos me|) ≤ (me)²
    value = widened(value, (m * error_of(theta)) ** 2)
    # (P5) ψ'(θ) = −m |sin mθ|
    slope = -m * sin_m
    return Psi(value, slope, np.zeros_like(value))
