"""The passes of logits that are given, not computed: those of `refloss.CrossEntropy`."""

from __future__ import annotations

from typing import Any

import numpy as np

from refloss.losses.passes import Arithmetic, end_stages, gradient_powers
from refloss.precision.scaled import times_power
from refloss.steps.cross_entropy import CrossEntropyPass, cross_entropy_backward, finish
from refloss.steps.logsumexp import gather
from refloss.steps.targets import Setting


class BareLogits:
    """One forward pass of logits of any shape, classes on `axis`: one row per prediction, one block."""

    def __init__(self, logits: np.ndarray, axis: int, setting: Setting, precision: str, bounded: type | None = None):
        self.inputs = (logits, axis, setting, precision)
        self.arithmetic = Arithmetic(precision, bounded)
        z = np.moveaxis(logits, axis, -1)
        self.axis, self.shape = axis, z.shape[:-1]
        self.block = slice(0, z.shape[-1])
        self.z, self.setting = self.arithmetic.of(z.reshape(-1, z.shape[-1])), setting
        self.end: CrossEntropyPass

    def forward(self) -> dict[str, Any]:
        """Every stage as doubles, laid out like the logits and the targets."""
        gathered = gather(self.z, self.setting.weighted(self.block, self.z), self.block)
        self.end = finish(gathered, self.setting)
        stages = end_stages(lambda block: self.z, [self.block], self.end, self.block.stop, self.arithmetic)
        for name in ("losses", "complement") + (("loss",) if self.setting.reduction == "none" else ()):
            stages[name] = None if stages[name] is None else stages[name].reshape(self.shape)
        logits = self.inputs[0] if self.arithmetic.bounded is None else np.zeros(self.inputs[0].shape)
        return stages | {"logits": logits, "probabilities": self._laid_out(stages["probabilities"])}

    def backward(self, upstream: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """∂/∂z, laid out like the logits; there are no other gradients. upstream: () or like the targets."""
        headroom, exponent, upstream = gradient_powers(self.end, upstream.ravel() if upstream.ndim else upstream)
        g = cross_entropy_backward(self.z, self.end, upstream, self.block, headroom)
        return self._laid_out(self.arithmetic.read(times_power(g, exponent))), {}

    def bounds(self, bounded: type) -> BareLogits:
        """The same, read for the error bounds of `bounded` numbers instead of the values."""
        return BareLogits(*self.inputs, bounded)

    def _laid_out(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(rows.reshape(*self.shape, rows.shape[1]), -1, self.axis))
