"""Two rows in a plane, W_1 at the angle 0 and W_2 at t, and a feature between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pages.evaluator import mp
from pages.worlds import Array, margin_world, vector

Psi = Callable[[Any], Any]


def direction(angle: Any) -> Array:
    return vector(mp.cos(angle), mp.sin(angle))


def margin_psi(kind: str, m: Any) -> Psi:
    world = margin_world(1, "s", kind, m)
    return lambda theta: world["psi_function"](world, theta)


def zero_of(falling: Psi, low: Any, high: Any) -> Any:
    """Where a falling function is 0, by bisection to 2^-180 of the interval."""
    assert falling(low) > 0 > falling(high)
    for _ in range(180):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low


def ahead(psi: Psi, t: Any, angle: Any) -> Any:
    """ψ(θ_1) − cos θ_2 of a feature that stands at an angle from W_1."""
    return psi(abs(angle)) - mp.cos(t - angle)


def keeps(psi: Psi, t: Any, angle: Any) -> bool:
    """Whether class 1 is satisfied there."""
    return ahead(psi, t, angle) > 0


def boundary(psi: Psi, t: Any, low: Any = mp.zero) -> Any:
    """Where ψ(θ_1) = cos θ_2 between a position and W_2."""
    return zero_of(lambda angle: ahead(psi, t, angle), low, t)


def boundary_in_degrees(psi: Psi, degrees: float, low: float = 0) -> float:
    return float(mp.degrees(boundary(psi, mp.radians(degrees), mp.radians(low))))
