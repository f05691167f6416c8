"""NumPy, and what the other frameworks do like it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from refloss.testing.adapters.bits import BITS
from refloss.testing.adapters.words import UnfitImplementation, one_line


class Framework:
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


def imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnfitImplementation(f"framework {name!r} cannot be imported: {one_line(error)}") from error
        words = f"framework {name!r} is not installed: pip install refloss[{name}]"
        raise UnfitImplementation(words) from None
    except Exception as error:
        raise UnfitImplementation(f"framework {name!r} cannot be imported: {one_line(error)}") from error
