"""NumPy, and what the other frameworks do like it; the bits of an array, and how they are laid out in memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing.adapters.words import UnfitImplementation, one_line

BITS = {"float64": np.int64, "float32": np.int32, "float16": np.int16, "bfloat16": np.int16}
PADDING = 5  # at most as many columns lie between the rows of a padded array
# a NaN that no computation makes: where it is still found in a buffer, nothing was written
UNWRITTEN = {"float64": 0x7FF8_0BAD_0BAD_0BAD, "float32": 0x7FC0_0BAD, "float16": 0x7E5D, "bfloat16": 0x7FDD}


class NumPy:
    """NumPy, and what the others do like it. bits: signed integers of the dtype's width."""

    differentiates = False
    has_graph = False  # torch: inputs are marked as leaves, and any tensor on the way has a gradient
    has_layouts = True

    def __init__(self, dtype: str, device: str | None) -> None:
        self.dtype, self.device = dtype, device
        if device not in (None, "cpu"):
            words = f"device {device!r} is not available: framework 'numpy' has the CPU only"
            raise UnfitImplementation(words)
        self.kind(dtype)

    def kind(self, dtype: str) -> Any:
        """The NumPy dtype of this name."""
        if dtype != "bfloat16":
            return np.dtype(dtype)
        try:
            return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError:
            words = "dtype 'bfloat16' with framework 'numpy' needs ml_dtypes: pip install ml_dtypes"
            raise UnfitImplementation(words) from None

    def context(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        """A new array of these bits."""
        return bits.view(self.kind(dtype)).copy()

    def bits(self, array: Any, dtype: str) -> np.ndarray:
        values = np.asarray(array)
        return values.astype(np.int64) if dtype == "int64" else values.view(BITS[dtype])

    def readable(self, value: Any) -> Any:
        """What `read` reads, of an array of the framework."""
        return value

    def no_gradient_of(self, value: Any) -> str:
        """'' or why nothing can be differentiated through it."""
        raise NotImplementedError

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        """Of sum(upstream * value), by name; None where there is none.

        give(dtype): the upstream, of value's dtype; again(inputs): the value of a new call
        """
        raise NotImplementedError

    def tangent(self, function: Callable[[Any], Any], inputs: Mapping[str, Any], way: Mapping[str, Any]) -> Any:
        """The derivative of function(inputs) along `way`, by forward mode."""
        raise NotImplementedError

    def second(
        self, function: Callable[[Any], Any], inputs: Mapping[str, Any], way: Mapping[str, Any],
        give: Callable[[str], Any],
    ) -> dict[str, Any]:  # fmt: skip
        """The derivative of the gradients of sum(upstream * function(inputs)) along `way`, by backward mode twice."""
        raise NotImplementedError


def imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnfitImplementation(f"framework {name!r} cannot be imported: {one_line(error)}") from error
        words = f"framework {name!r} is not installed: pip install {name}"
        raise UnfitImplementation(words) from None
    except Exception as error:
        raise UnfitImplementation(f"framework {name!r} cannot be imported: {one_line(error)}") from error


# -- bits and layouts ------------------------------------------------------------------------------


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


def laid_out(bits: np.ndarray, layout: str, dtype: str) -> tuple[np.ndarray, Callable[[Any], Any]]:
    """(contiguous memory, what makes the array of it); the same for arrays of every framework that is strided."""
    if layout == "upstream_expanded" and bits.size > 1 and (bits == bits.flat[0]).all():
        # the gradient of a sum: one number with stride 0
        one, shape = bits.reshape(-1)[:1].copy(), bits.shape
        return one, lambda a: np.broadcast_to(a, shape) if isinstance(a, np.ndarray) else a.expand(shape)
    # between labels lie other labels: what reads them goes wrong and not astray
    between = np.roll(bits, 1) if dtype == "int64" else np.broadcast_to(to_bits(np.array(np.nan), dtype), bits.shape)
    if layout in ("strided", "upstream_strided") and bits.ndim:
        whole = np.empty((*bits.shape[:-1], 2 * bits.shape[-1]), dtype=bits.dtype)
        whole[..., ::2] = bits
        whole[..., 1::2] = between
        return whole, lambda a: a[..., ::2]
    if layout == "padded" and bits.ndim >= 2:
        width = bits.shape[-1]
        return np.concatenate([bits, between[..., :PADDING]], axis=-1), lambda a: a[..., :width]
    if layout == "channels_last" and bits.ndim >= 3:
        whole = np.ascontiguousarray(np.moveaxis(bits, 1, -1))
        return whole, lambda a: np.moveaxis(a, -1, 1) if isinstance(a, np.ndarray) else a.movedim(-1, 1)
    if layout == "transposed" and bits.ndim >= 2:
        return np.ascontiguousarray(bits.swapaxes(-1, -2)), lambda a: a.swapaxes(-1, -2)
    return np.ascontiguousarray(bits).reshape(bits.shape), lambda a: a
