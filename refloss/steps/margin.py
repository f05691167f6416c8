"""What happens to the target logit: z_y = r · ψ(θ). Additive margins, annealing, detaching.

(M1) to (M5) give ψ(θ), its slope ψ'(θ) and its derivative in m for R target pairs; the loss multiplies by its radius r.
Derivation: derivations/margins.md, steps (M1)–(M6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refloss.precision.exact import cos_sin, sine_of_sum
from refloss.precision.numbers import Array, error_of, functions_of, like, nearest, widened
from refloss.steps.angle import Angle, angle
from refloss.steps.normalise import Rows
from refloss.steps.targets import MeasuredPairs, Pairs


class Psi(NamedTuple):
    """ψ(θ) (R,), ψ'(θ) (R,) and ∂ψ/∂m (R,) of the target pairs."""

    value: Array
    slope: Array
    in_margin: Array


def measured(x: Rows, W: Rows, pairs: Pairs, psi_of: Callable[[Angle], Psi]) -> tuple[Angle, Psi]:
    """θ and ψ(θ) of the target pairs: as `pairs` carries them if all were measured at once; else formed here."""
    if isinstance(pairs, MeasuredPairs):
        return pairs.angles, pairs.psi
    angles = angle(x[pairs.rows], W[pairs.y])
    return angles, psi_of(angles)


def plain_cosine(angles: Angle) -> Psi:
    """(M1) no margin: ψ = cos θ, ψ' = −sin θ."""
    return Psi(angles.cos, -angles.sin, np.zeros_like(angles.cos))


def cosine_margin(angles: Angle, m: float) -> Psi:
    """(M2) ψ = cos θ − m, ψ' = −sin θ, ∂ψ/∂m = −1."""
    return Psi(angles.cos - m, -angles.sin, np.full_like(angles.cos, -1.0))


def arc_margin(angles: Angle, m: float, easy_margin: bool, past_pi: str) -> Psi:
    """(M3) ψ = cos(θ + m), ψ' = ∂ψ/∂m = −sin(θ + m).

    past_pi="linear": ψ = cos θ − m sin m from θ = π − m on, as released (the value jumps there).
    easy_margin=True: the margin only where cos θ > 0, else ψ = cos θ.
    """
    cos_m, sin_m = cos_sin(m, angles.cos)
    cos = angles.cos * cos_m - angles.sin * sin_m
    ahead, behind = angles.sin * cos_m, angles.cos * sin_m
    sin = ahead + behind
    if m:  # next to π − m they cancel, or cos θ itself is next to 0
        sin = sine_of_sum(sin, np.abs(ahead) + np.abs(sin_m), angles.x, angles.w, m)
    psi = Psi(cos, -sin, -sin)
    if past_pi == "linear":
        tail = Psi(angles.cos - m * sin_m, -angles.sin, np.zeros_like(sin) - (sin_m + m * cos_m))
        # the side of the jump is decided by θ as these numbers hold it
        short = functions_of(angles.cos).pi - angles.theta - m
        psi = _choose(short <= 0, tail, psi, short)
    if easy_margin:
        psi = _choose(angles.cos > 0, psi, plain_cosine(angles), angles.cos)
    return psi


def anneal(psi: Psi, angles: Angle, annealing: float) -> Psi:
    """(M4) (λ cos θ + ψ) / (1 + λ): from the plain logit (λ → ∞) to the margin (λ = 0)."""
    whole, plain = like(annealing, angles.cos) + 1.0, plain_cosine(angles)
    return Psi(*((a + annealing * b) / whole for a, b in zip(psi, plain, strict=True)))


def detach(psi: Psi, angles: Angle) -> Psi:
    """(M5) ψ := cos θ + stop(ψ − cos θ): the value with its margin, the slope without it."""
    return Psi(psi.value, -angles.sin, np.zeros_like(psi.value))


def cone(psi: Psi, angles: Angle) -> np.ndarray:
    """(M6) (R,) True where ψ(θ) has no gradient: at a pole (no tangent) with a slope that is not 0.

    The backward then takes the centre of the generalised gradient, which has no tangential part.
    """
    return angles.at_pole & (psi.slope != 0)


def own_slope(slope: Array, angles: Angle) -> Array:
    """A user's ψ'(θ), whose rounding must not make a cone of a smooth pole (sin mπ is not quite 0)."""
    steepness = np.abs(nearest(slope))
    steepest = max(1.0, np.max(steepness, initial=0.0))
    return np.where(angles.at_pole & (steepness <= 64 * np.finfo(float).eps * steepest), 0.0, slope)


def choose(where: Any, u: Any, v: Any, unsure: Any) -> Any:
    """np.where(where, u, v). Where rounding makes the condition uncertain, the error bound is widened to cover both."""
    apart = np.abs(nearest(u) - nearest(v)) + error_of(u) + error_of(v)
    return widened(np.where(where, u, v), np.where(unsure, apart, 0.0))


def _choose(where: Any, a: Psi, b: Psi, decider: Any) -> Psi:
    """a or b, by the sign of `decider`, which is uncertain where its error exceeds its size."""
    unsure = (np.abs(nearest(decider)) <= error_of(decider)) & (error_of(decider) > 0)
    return Psi(*(choose(where, u, v, unsure) for u, v in zip(a, b, strict=True)))
