"""Entries of an array, found and named."""

from __future__ import annotations

import numpy as np


def first(mask: np.ndarray) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def entry(name: str, index: tuple[int, ...]) -> str:
    """As in grad_x[0, 5]; the name alone of what has no axes."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name
