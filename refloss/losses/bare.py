"""The passes of logits that are given, not computed: those of `refloss.CrossEntropy`."""

from __future__ import annotations

import numpy as np

from refloss import validation as check
from refloss.losses.passes import Arithmetic, EndStages
from refloss.precision.numbers import Array
from refloss.steps.cross_entropy import finish
from refloss.steps.logsumexp import gather
from refloss.steps.targets import Setting


class BareLogits(EndStages):
    """One forward pass of logits of any shape, classes on `axis`: one row per prediction, one block."""

    work = 0  # no matrix product
    has: frozenset[str] = frozenset()

    def __init__(self, logits: np.ndarray, axis: int, setting: Setting, precision: str, bounded: type | None = None):
        self.inputs = (logits, axis, setting, precision)
        self.arithmetic = Arithmetic(precision, bounded)
        z = np.moveaxis(logits, axis, -1)
        self.axis, self.shape_of_targets = axis, z.shape[:-1]
        self.blocks = [slice(0, z.shape[-1])]
        self.z, self.setting = self.arithmetic.of(z.reshape(-1, z.shape[-1])), setting

    def logits(self, k: int) -> Array:
        return self.z

    def forward(self) -> None:
        """The losses and the loss."""
        block = self.blocks[0]
        self.end = finish(gather(self.z, self.setting.weighted(block, self.z), block), self.setting)

    def stage(self, name: str) -> np.ndarray | None:
        """A stage as doubles, laid out like the logits and the targets; None for one of other losses."""
        if name == "logits":
            return self.inputs[0] if self.arithmetic.bounded is None else np.zeros(self.inputs[0].shape)
        stage = None
        if name in ("probabilities", "complement"):
            stage = self.end_stage(name)
        elif name in ("losses", "loss"):
            stage = getattr(self, name)
        if stage is None or not stage.ndim:
            return stage
        return self._laid_out(stage) if stage.ndim == 2 else stage.reshape(self.shape_of_targets)

    def shape(self, stage: str) -> tuple[int, ...]:
        """Of a stage."""
        return self.shape_of_targets if stage == "losses" else self.inputs[0].shape

    def backward(self, upstream: np.ndarray) -> dict[str, np.ndarray]:
        """∂/∂z, laid out like the logits; there are no other gradients. upstream: () or like the targets."""
        gradient = self._laid_out(self.grad_logits(upstream.ravel() if upstream.ndim else upstream))
        if self.arithmetic.bounded is None and not self.end.empty:
            check.finite_gradients({"logits": gradient})
        return {"logits": gradient}

    def bounds(self, bounded: type) -> BareLogits:
        """The same, read for the error bounds of `bounded` numbers instead of the values."""
        return BareLogits(*self.inputs, bounded)

    def _laid_out(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(rows.reshape(*self.shape_of_targets, rows.shape[1]), -1, self.axis))
