"""Powers of two that keep small numbers away from the subnormals."""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.precision import elementary
from refloss.precision.numbers import Numbers
from refloss.precision.pair import Pair

HEADROOM = 900  # e^v · 2^900 is a normal number down to v = −1332


def headroom(numbers: Any) -> int:
    """The power of two by which probabilities and what comes of them are kept larger: 0 for doubles."""
    return HEADROOM if isinstance(numbers, Numbers) else 0


def exp(v: Any, exponent: int = 0) -> Any:
    """e^v · 2^exponent; the exponent of doubles is 0."""
    return elementary.exp(v, exponent) if isinstance(v, Pair) else np.exp(v)


def times_power(v: Any, exponent: Any) -> Any:
    """v · 2^exponent, exact but for what leaves the range of doubles."""
    return np.ldexp(v, exponent) if np.any(exponent) else v
