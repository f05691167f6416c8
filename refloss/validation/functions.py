"""A user's functions of θ: a margin of their own, or the continuation D(θ) of ψ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refloss.precision.numbers import Numbers, like
from refloss.validation.arrays import real_array
from refloss.validation.parameters import function


def per_angle(value: Any, theta: Any, name: str) -> Any:
    """What a user's function of θ gave: real, finite, one number per angle."""
    array = value if isinstance(value, Numbers) else like(real_array(value, f"{name}(theta, xp)"), theta)
    if array.shape != theta.shape:
        raise ValueError(f"{name}(theta, xp) must keep the shape of theta {theta.shape}, got {array.shape}")
    return array


def continuation(value: Any, m: int) -> tuple | None:
    """(D, D'): D(π/m) = −1, decreasing on [π/m, π], continuous, D' its derivative; 1001 points."""
    if value is None:
        return None
    if m == 1:
        raise ValueError("continuation: margin=1 has no branch beyond π/m = π, so it takes no continuation")
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(callable, value)):
        raise TypeError("continuation must be a pair (D, dD) of functions, each called as f(theta, xp)")
    D, slope_of_D = (function(f, f"continuation {what}") for f, what in zip(value, ("D", "dD"), strict=True))
    theta = np.linspace(math.pi / m, math.pi, 1001)
    d, slope = (real_array(f(theta, np), f"continuation {what}") for f, what in ((D, "D"), (slope_of_D, "dD")))
    if d.shape != theta.shape or slope.shape != theta.shape:
        raise ValueError(
            f"continuation: D and dD must keep the shape of theta {theta.shape}, got {d.shape}, {slope.shape}"
        )
    if abs(d[0] + 1) > 1e-9:  # cos(m·π/m) = −1, with room for a D that rounds
        raise ValueError(
            f"continuation: D(π/m) must be cos(π) = −1, where cos(mθ) ends; D({theta[0]:.6g}) = {d[0]:.12g}"
        )
    step, h = np.diff(d), theta[1] - theta[0]
    rising = np.flatnonzero(step >= 0)
    if rising.size:
        i = rising[0]
        raise ValueError(
            f"continuation: D must be decreasing on [π/m, π]; D({theta[i]:.6g}) = {d[i]:.6g} but "
            f"D({theta[i + 1]:.6g}) = {d[i + 1]:.6g}"
        )
    # within one step a continuous D with slope dD moves by the trapezoid, up to a kink's h·|dD|
    steepest = np.maximum(np.abs(slope[:-1]), np.abs(slope[1:]))
    torn = np.flatnonzero(np.abs(step - h * (slope[:-1] + slope[1:]) / 2) > h * steepest + 1e-9)
    if torn.size:
        i = torn[0]
        raise ValueError(
            f"continuation: D must be continuous with derivative dD; from theta = {theta[i]:.6g} "
            f"to {theta[i + 1]:.6g} D moves by {step[i]:.6g}, "
            f"and dD says {h * (slope[i] + slope[i + 1]) / 2:.6g}"
        )
    _slope_is_derivative(D, slope, theta)
    return D, slope_of_D


def _slope_is_derivative(D: Any, slope: np.ndarray, theta: np.ndarray) -> None:
    """Compares dD with central differences of D at the 999 inner points, a kink allowed for."""
    h = (theta[-1] - theta[0]) * 1e-6
    inner = theta[1:-1]
    forward = (D(inner + h, np) - D(inner, np)) / h
    backward = (D(inner, np) - D(inner - h, np)) / h
    central = (forward + backward) / 2
    # rounding of D over h; a kink at the point; half a step of the steepest change of slope
    bend = np.max(np.abs(np.diff(slope))) / (theta[1] - theta[0])
    room = 1e-7 * np.maximum(1.0, np.abs(central)) + np.abs(forward - backward) + h * bend
    off = np.flatnonzero(np.abs(slope[1:-1] - central) > room)
    if off.size:
        i = off[0]
        raise ValueError(
            f"continuation: dD must be the derivative of D; at theta = {inner[i]:.6g} "
            f"dD is {slope[1:-1][i]:.9g} and D's difference quotient {central[i]:.9g}"
        )
