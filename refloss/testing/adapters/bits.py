"""The bits of an array in a dtype, and how they are laid out in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.precision.dtypes import DTYPES, rounded

BITS = {"float64": np.int64, "float32": np.int32, "float16": np.int16, "bfloat16": np.int16}
# a NaN that no computation makes: where it is still found in a buffer, nothing was written
UNWRITTEN = {"float64": 0x7FF8_0BAD_0BAD_0BAD, "float32": 0x7FC0_0BAD, "float16": 0x7E5D, "bfloat16": 0x7FDD}


def to_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in the dtype, as signed integers; labels are their own."""
    if dtype == "int64":
        return np.array(values, dtype=np.int64)
    held = rounded(values, DTYPES[dtype])
    if dtype != "bfloat16":
        return np.ascontiguousarray(held.astype(dtype)).view(BITS[dtype]).reshape(values.shape)
    # the upper half of a float32
    upper = np.asarray(held.astype(np.float32)).view(np.uint32) >> np.uint32(16)
    return np.asarray(upper).astype(np.uint16).view(np.int16).reshape(values.shape)


def to_values(bits: Any, dtype: str) -> Any:
    """float64, from bits."""
    bits = np.asarray(bits)
    if dtype == "int64":
        return bits[()]
    if dtype == "bfloat16":
        return np.asarray(bits.astype(np.int32) << 16).view(np.float32).astype(np.float64)[()]
    return bits.view(dtype).astype(np.float64)[()]


def laid_out(
    bits: np.ndarray, layout: str, dtype: str, torch: bool
) -> tuple[np.ndarray, Callable[[Any], Any]]:
    """(contiguous memory, what makes the array of it); the same for arrays of every framework that is strided."""
    if layout == "upstream_strided" and torch and bits.size > 1 and (bits == bits.flat[0]).all():
        # the gradient of a sum: one number with stride 0
        one, shape = bits.reshape(-1)[:1].copy(), bits.shape
        return one, lambda a: np.broadcast_to(a, shape) if isinstance(a, np.ndarray) else a.expand(shape)
    if layout in ("strided", "upstream_strided") and bits.ndim:
        whole = np.empty((*bits.shape[:-1], 2 * bits.shape[-1]), dtype=bits.dtype)
        whole[..., ::2] = bits
        # between labels lie other labels: what reads them goes wrong and not astray
        whole[..., 1::2] = np.roll(bits, 1) if dtype == "int64" else to_bits(np.array(np.nan), dtype)
        return whole, lambda a: a[..., ::2]
    if layout == "transposed" and bits.ndim >= 2:
        return np.ascontiguousarray(bits.swapaxes(-1, -2)), lambda a: a.swapaxes(-1, -2)
    return np.ascontiguousarray(bits).reshape(bits.shape), lambda a: a
