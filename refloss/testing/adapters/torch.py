"""PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from refloss.testing.adapters.numpy import BITS, NumPy, imported
from refloss.testing.adapters.words import UnfitImplementation, kind_of, one_line


class Torch(NumPy):
    differentiates = has_graph = True

    def __init__(self, dtype: str, device: str | None) -> None:
        self.dtype, self.device, self.torch = dtype, device, imported("torch")
        try:
            self.torch.zeros(1, dtype=getattr(self.torch, dtype), device=device).cpu()
        except Exception as error:
            words = f"device {device!r} is not available in torch for {dtype}: {one_line(error)}"
            raise UnfitImplementation(words) from None

    def context(self) -> AbstractContextManager[Any]:
        return self.torch.enable_grad()

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        return self.torch.from_numpy(bits.copy()).to(self.device or "cpu").view(getattr(self.torch, dtype))

    def bits(self, array: Any, dtype: str) -> np.ndarray:
        kind = np.dtype(BITS.get(dtype, np.int64)).name
        return array.detach().cpu().view(getattr(self.torch, kind)).numpy()

    def no_gradient_of(self, value: Any) -> str:
        if not isinstance(value, self.torch.Tensor):
            return f"the loss came back as {kind_of(value)}, not as a tensor"
        if not value.requires_grad:
            return "the loss that came back does not require grad (detached, under no_grad, or not from x)"
        return ""

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        arriving = give(str(value.dtype).removeprefix("torch."))
        found = self.torch.autograd.grad(value, list(wanted.values()), arriving, allow_unused=True)
        return dict(zip(wanted, found, strict=True))

    def tangent(self, function: Callable[[Any], Any], inputs: Mapping[str, Any], way: Mapping[str, Any]) -> Any:
        dual = self.torch.autograd.forward_ad
        with dual.dual_level():
            moving = {name: dual.make_dual(array.detach(), way[name]) for name, array in inputs.items()}
            value = function(moving)
            moved = dual.unpack_dual(value).tangent
        return self.torch.zeros_like(value) if moved is None else moved

    def second(
        self, function: Callable[[Any], Any], inputs: Mapping[str, Any], way: Mapping[str, Any],
        give: Callable[[str], Any],
    ) -> dict[str, Any]:  # fmt: skip
        grad = self.torch.autograd.grad
        value = function(inputs)
        arriving = give(str(value.dtype).removeprefix("torch."))
        first = grad(value, list(inputs.values()), arriving, create_graph=True, allow_unused=True)
        found = [(gradient, way[name]) for name, gradient in zip(inputs, first, strict=True) if gradient is not None]
        twice = grad([g for g, _ in found], list(inputs.values()), [v for _, v in found], allow_unused=True)
        return {name: self.torch.zeros_like(inputs[name]) if gradient is None else gradient
                for name, gradient in zip(inputs, twice, strict=True)}  # fmt: skip
