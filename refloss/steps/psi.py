"""The multiplicative angular margin ψ(θ) of L-Softmax and SphereFace, and its slope.

Derivation: derivations/psi.md, steps (P1)–(P5).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refloss.steps.angle import Angle
from refloss.steps.margin import Target, own_slope

Continuation = tuple[Callable, Callable]


def multiplied_angle(at: Angle, m: int, continuation: Continuation | None = None) -> Target:
    """ψ(θ) = (−1)^k cos(mθ) − 2k on [kπ/m, (k+1)π/m], k = 0 … m − 1, and ψ'(θ).

    Liu et al., "Large-Margin Softmax Loss", ICML 2016, eq. (6). `continuation` = (D, D') replaces
    the branches beyond π/m (eq. (5)); each is called as f(theta, xp).
    """
    # (P1) cos mθ and sin mθ, folded about π so that sin mθ keeps its digits near π
    parity = 1.0 if m % 2 == 0 else -1.0
    cos_m = np.where(at.obtuse, parity * np.cos(m * at.supplement), np.cos(m * at.theta))
    sin_m = np.where(at.obtuse, -parity * np.sin(m * at.supplement), np.sin(m * at.theta))
    if continuation is not None:
        # (P2) the user's own monotone D beyond π/m: right derivative at the joint
        D, slope_of_D = continuation
        inner = at.theta < np.pi / m
        # D is asked only where it is defined
        beyond = np.where(inner, np.pi, at.theta)
        value = np.where(inner, cos_m, D(beyond, np))
        slope = np.where(inner, -m * sin_m, own_slope(slope_of_D(beyond, np), at))
        return Target(value, slope, np.zeros_like(value))
    # (P3) the branch. At a knot either k is right: ψ is continuously differentiable
    k = np.clip(np.floor(m * at.theta / np.pi), 0, m - 1)
    sign = np.where(k % 2 == 0, 1.0, -1.0)
    # (P4) ψ(θ) = (−1)^k cos mθ − 2k
    value = sign * cos_m - 2 * k
    # (P5) ψ'(θ) = −(−1)^k m sin mθ
    slope = -sign * m * sin_m
    return Target(value, slope, np.zeros_like(value))
