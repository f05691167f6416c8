"""The floating-point types that an implementation may compute in, and rounding to them.

Rounding is to nearest even, subnormals included, in NumPy's float64 alone: no package for bfloat16 is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DType:
    """A binary floating-point type.

    digits   significant bits, the hidden one included
    lowest   exponent e of the smallest normal number 2^e
    largest  the largest finite number
    """

    name: str
    digits: int
    lowest: int
    largest: float

    @property
    def u(self) -> float:
        """Unit roundoff: the largest relative error of rounding a normal number."""
        return 2.0**-self.digits

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.lowest

    @property
    def smallest_subnormal(self) -> float:
        return 2.0 ** (self.lowest - self.digits + 1)

    @property
    def is_half(self) -> bool:
        """16 bits: what is computed in float32 inside by default."""
        return self.digits < 24


DTYPES = {
    "float64": DType("float64", 53, -1022, float(np.finfo(np.float64).max)),
    "float32": DType("float32", 24, -126, float(np.finfo(np.float32).max)),
    "float16": DType("float16", 11, -14, float(np.finfo(np.float16).max)),
    "bfloat16": DType("bfloat16", 8, -126, (2 - 2.0**-7) * 2.0**127),
}


def ulp(values: np.ndarray, dtype: DType) -> np.ndarray:
    """The distance from each |value| to the next number of the type, that of the subnormals at least."""
    _, exponent = np.frexp(np.where(np.isfinite(values), values, 0.0))
    lowest = dtype.lowest - dtype.digits + 1
    exponent = np.where(values == 0, lowest, np.maximum(exponent - dtype.digits, lowest))
    return np.ldexp(1.0, exponent)


def rounded(values: np.ndarray, dtype: DType) -> np.ndarray:
    """The values rounded to the type, as float64; ±inf beyond its largest number."""
    values = np.asarray(values, dtype=np.float64)
    if dtype.name == "float64":
        return values.copy()
    step = ulp(values, dtype)
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values / step) * step
    return np.where(np.abs(nearest) > dtype.largest, np.copysign(np.inf, values), nearest)
