"""What happens to the target logit: z_y = r · ψ(θ). Additive margins, annealing, detaching.

Every function gives ψ(θ), its slope ψ'(θ) and its derivative in m for R target pairs; the loss
multiplies by its radius r. Derivation: derivations/margins.md, steps (M1)–(M6).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refloss.precision.exact import cos_sin, sine_of_sum
from refloss.precision.numbers import error_of, functions_of, like, nearest, widened
from refloss.steps.angle import Angle


class Target(NamedTuple):
    """ψ(θ) (R,), ψ'(θ) (R,) and ∂ψ/∂m (R,) of the target pairs."""

    value: Any
    slope: Any
    in_margin: Any


def plain_cosine(at: Angle) -> Target:
    """(M1) no margin: ψ = cos θ, ψ' = −sin θ."""
    return Target(at.cos, -at.sin, np.zeros_like(at.cos))


def cosine_margin(at: Angle, m: float) -> Target:
    """(M2) ψ = cos θ − m, ψ' = −sin θ, ∂ψ/∂m = −1."""
    return Target(at.cos - m, -at.sin, np.full_like(at.cos, -1.0))


def arc_margin(at: Angle, m: float, easy_margin: bool, past_pi: str) -> Target:
    """(M3) ψ = cos(θ + m), ψ' = ∂ψ/∂m = −sin(θ + m).

    past_pi="linear": ψ = cos θ − m sin m from θ = π − m on, as released (the value jumps there).
    easy_margin=True: the margin only where cos θ > 0, else ψ = cos θ.
    """
    cos_m, sin_m = cos_sin(m, at.cos)
    cos = at.cos * cos_m - at.sin * sin_m
    ahead, behind = at.sin * cos_m, at.cos * sin_m
    sin = ahead + behind
    if m:  # next to π − m they cancel, or cos θ itself is next to 0
        sin = sine_of_sum(sin, np.abs(ahead) + np.abs(sin_m), at.x, at.w, m)
    target = Target(cos, -sin, -sin)
    if past_pi == "linear":
        tail = Target(at.cos - m * sin_m, -at.sin, np.zeros_like(sin) - (sin_m + m * cos_m))
        # the side of the jump is that of θ as these numbers hold it
        short = functions_of(at.cos).pi - at.theta - m
        target = _choose(short <= 0, tail, target, short)
    if easy_margin:
        target = _choose(at.cos > 0, target, plain_cosine(at), at.cos)
    return target


def anneal(target: Target, at: Angle, annealing: float) -> Target:
    """(M4) (λ cos θ + ψ) / (1 + λ): from the plain logit (λ → ∞) to the margin (λ = 0)."""
    whole, plain = like(annealing, at.cos) + 1.0, plain_cosine(at)
    return Target(*((a + annealing * b) / whole for a, b in zip(target, plain, strict=True)))


def detach(target: Target, at: Angle) -> Target:
    """(M5) ψ := cos θ + stop(ψ − cos θ): the value with its margin, the slope without it."""
    return Target(target.value, -at.sin, np.zeros_like(target.value))


def cone(target: Target, at: Angle) -> np.ndarray:
    """(M6) (R,) True where ψ(θ) has no gradient: at a pole (no tangent) with a slope that is not 0.

    The passes then take the centre of the generalised gradient: no tangential part.
    """
    return at.at_pole & (target.slope != 0)


def own_slope(slope: Any, at: Angle) -> Any:
    """A user's ψ'(θ), whose rounding must not make a cone of a smooth pole (sin mπ is not quite 0)."""
    steepness = np.abs(nearest(slope))
    steepest = max(1.0, np.max(steepness, initial=0.0))
    return np.where(at.at_pole & (steepness <= 64 * np.finfo(float).eps * steepest), 0.0, slope)


def choose(where: Any, u: Any, v: Any, unsure: Any) -> Any:
    """u or v; where their own errors leave it unsure which, known to be off by as much as they differ."""
    apart = np.abs(nearest(u) - nearest(v)) + error_of(u) + error_of(v)
    return widened(np.where(where, u, v), np.where(unsure, apart, 0.0))


def _choose(where: Any, a: Target, b: Target, decider: Any) -> Target:
    """a or b, by the sign of a number; its own error may leave that sign open."""
    unsure = (np.abs(nearest(decider)) <= error_of(decider)) & (error_of(decider) > 0)
    return Target(*(choose(where, u, v, unsure) for u, v in zip(a, b, strict=True)))
