"""Parameters of a loss: numbers, choices, margins with their units, class weights."""

from __future__ import annotations

import inspect
import math
import operator
from typing import Any

import numpy as np

from refloss.validation.arrays import EXACT_INTEGER, real_array


def real_number(value: Any, name: str) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number = float(array)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def positive(value: Any, name: str) -> float:
    number = real_number(value, name)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return number


def not_negative(value: Any, name: str) -> float:
    number = real_number(value, name)
    if number < 0:
        raise ValueError(f"{name} must be ≥ 0, got {value!r}")
    return number


def fraction(value: Any, name: str) -> float:
    number = real_number(value, name)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return number


def angle_margin(value: Any) -> float:
    """0 ≤ m < π, radians."""
    m = not_negative(value, "margin")
    if m >= math.pi:
        raise ValueError(
            f"margin must be an angle in radians, 0 ≤ margin < π, got {value!r}; "
            f"if these are degrees, pass margin={math.radians(m):.6g}"
        )
    return m


def cosine_offset(value: Any) -> float:
    """0 ≤ m ≤ 2, an offset of the cosine."""
    m = not_negative(value, "margin")
    if m > 2:
        raise ValueError(
            f"margin must be an offset of the cosine, 0 ≤ margin ≤ 2, got {value!r}; if these are degrees, "
            f"they are {math.radians(m):.6g} radians, an angle, and belong to ArcFace, not to a cosine margin"
        )
    return m


def multiplier(value: Any) -> int:
    """An integer m ≥ 1."""
    m = integer(value, "margin")
    if m < 1:
        raise ValueError(f"margin must be an integer ≥ 1 (θ is multiplied by it), got {value!r}")
    if m > EXACT_INTEGER:
        raise ValueError("margin must be at most 2**53, or mθ has no digit left")
    return m


def integer(value: Any, name: str) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def count(value: Any, name: str, least: int) -> int:
    """An integer from `least` to 2**53, which a float64 holds exactly."""
    n = integer(value, name)
    if not least <= n <= EXACT_INTEGER:
        raise ValueError(f"{name} must be an integer from {least} to 2**53, got {value!r}")
    return n


def boolean(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def function(value: Any, name: str) -> Any:
    """A function of (theta, xp), as far as its signature tells."""
    due = f"{name} must be a function called as {name.rpartition(' ')[2]}(theta, xp), got {value!r}"
    if not callable(value):
        raise TypeError(due)
    if isinstance(value, np.ufunc):  # a second argument would be where the result goes
        own = f": write lambda theta, xp: xp.{value.__name__}(theta)" if value.nin == 1 else ""
        raise TypeError(f"{due}{own}")
    try:
        signature = inspect.signature(value)
    except ValueError:  # none is known: the call will tell
        return value
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(f"{due}, which takes {signature}") from error
    return value


def one_of(value: Any, name: str, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def weights_tuple(value: Any) -> tuple[float, ...] | None:
    """Class weights as a tuple, so that a loss stays hashable; their number is checked against C."""
    if value is None:
        return None
    weights = real_array(value, "class_weights")
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(f"class_weights must have shape (C,), got shape {weights.shape}")
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"class_weights[{at}] is {weights[at]}; class_weights must be ≥ 0")
    return tuple(weights.tolist())
