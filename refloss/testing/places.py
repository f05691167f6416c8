"""Entries of an array, found and named."""

from __future__ import annotations

import math

import numpy as np


def first(mask: np.ndarray) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def entry(name: str, index: tuple[int, ...]) -> str:
    """As in grad_x[0, 5]; the name alone of what has no axes."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def told_apart(a: float, b: float, digits: int) -> tuple[str, str]:
    """Both numbers with this many significant digits, or as many more as it takes to see the difference."""
    gap, size = abs(a - b), max(abs(a), abs(b))
    if 0 < gap < math.inf:
        digits = min(max(digits, math.ceil(math.log10(size) - math.log10(gap)) + 1), 17)
    return f"{a:.{digits}g}", f"{b:.{digits}g}"
