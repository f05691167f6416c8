"""What a witness says of one input: its gradient, and per row how far it may be off."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """gradient: shaped like the input. error: (rows,), inf where the witness has not looked or cannot see."""

    gradient: np.ndarray
    error: np.ndarray
