"""JAX."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from refloss.testing.adapters.numpy import NumPy, imported
from refloss.testing.adapters.words import UnfitImplementation, kind_of, one_line


class JAX(NumPy):
    differentiates = True
    has_layouts = False

    def __init__(self, dtype: str, device: str | None) -> None:
        self.dtype, self.device, self.jax = dtype, device, imported("jax")
        self.place = None
        if device is not None:
            kind, _, index = device.partition(":")
            try:
                self.place = self.jax.devices(kind)[int(index or 0)]
            except Exception as error:
                words = f"device {device!r} is not available in jax: {one_line(error)}"
                raise UnfitImplementation(words) from None

    def context(self) -> AbstractContextManager[Any]:
        # jax.experimental had it first
        place = self.jax if hasattr(self.jax, "enable_x64") else importlib.import_module("jax.experimental")
        return place.enable_x64(self.dtype == "float64")

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        return self.jax.device_put(self.jax.numpy.array(bits.view(self.kind(dtype))), self.place)

    def no_gradient_of(self, value: Any) -> str:
        if isinstance(value, self.jax.Array):
            return ""
        return f"the loss came back as {kind_of(value)}, not as an array of jax"

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        traced, back = self.jax.vjp(again, dict(wanted))
        return back(give(traced.dtype.name))[0]

    def tangent(self, function: Callable[[Any], Any], inputs: Mapping[str, Any], way: Mapping[str, Any]) -> Any:
        return self.jax.jvp(function, (dict(inputs),), (dict(way),))[1]

    def second(
        self, function: Callable[[Any], Any], inputs: Mapping[str, Any], way: Mapping[str, Any],
        give: Callable[[str], Any],
    ) -> dict[str, Any]:  # fmt: skip
        def gradients(inputs: Mapping[str, Any]) -> Any:
            traced, back = self.jax.vjp(function, dict(inputs))
            return back(give(traced.dtype.name))[0]

        return self.jax.vjp(gradients, dict(inputs))[1](dict(way))[0]
