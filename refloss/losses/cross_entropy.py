"""Cross-entropy on bare logits of any shape. Derivation: derivations/cross_entropy.md, (C1)–(C9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refloss import validation as check
from refloss.losses.base import CrossEntropyOptions, silent
from refloss.losses.blocks import BareLogits
from refloss.record import Forward, Gradients


@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(CrossEntropyOptions):
    """Softmax cross-entropy on bare logits: the survey's loss "per pixel".

        ℓ = −Σ_c w_c t_c log p_c,  p = softmax(z),  t = (1 − ε) target + ε/C

    Source: survey, sections 1.1 and 2.1.3. Logits of any shape with the classes on `axis` (1 for
    images (N, C, H, W)). Targets: integers, shaped like the logits without that axis, or soft
    targets, shaped like the logits; told apart by their number of axes, never by dtype. A logit of
    −inf is a masked class, an error where its target is positive. `out.losses` has the shape of the
    labels; so has `upstream` under reduction="none".

    Options of the cross-entropy, and errors: as in `refloss.Loss`.

    >>> image = np.zeros((1, 3, 2, 2))  # three classes, four pixels
    >>> out = CrossEntropy(axis=1).forward(image, np.array([[[0, 1], [2, 2]]]))
    >>> print(out.losses.shape, f"{out.loss:.12f}")  # log 3
    (1, 2, 2) 1.098612288668
    """

    name: ClassVar[str] = "cross_entropy"

    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(axis=check.integer(self.axis, "axis"))

    def forward(self, logits: Any, targets: Any) -> Forward:
        """logits of any shape, targets with or without its class axis. Returns the record."""
        logits = check.logits(logits, self.axis)
        z = np.moveaxis(logits, self.axis, -1)
        shape, classes = z.shape[:-1], z.shape[-1]
        # one row a prediction
        z = z.reshape(math.prod(shape), classes)
        rows = check.flat_targets(targets, logits.shape, self.axis, self)
        check.unmasked_targets(z, rows, self, shape)
        passes = BareLogits(logits, self.axis, self._setting(rows), self.precision)
        with silent():
            stages = passes.forward()
        check.finite_losses(stages["losses"], stages["loss"], passes.end.empty)
        return Forward(**stages, ignored=rows.ignored.reshape(shape), _made_by=self, _passes=passes)

    def backward(self, out: Forward, upstream: Any = 1.0) -> Gradients:
        """`grads.logits`, shaped like the logits. upstream: a scalar, or the labels' shape under "none"."""
        out = self._made(out)
        upstream = check.upstream_gradient(upstream, out.losses.shape, self.reduction)
        with silent():
            g, _ = out._passes.backward(upstream)
        if not out._passes.end.empty:
            check.finite_gradients({"logits": g})
        return Gradients(logits=g, _made_by=self, _passes=out._passes, _upstream=upstream)

    def value_and_grad(self, logits: Any, targets: Any, upstream: Any = 1.0) -> tuple[np.ndarray, Gradients]:
        """(out.loss, gradients) of one forward and backward pass."""
        out = self.forward(logits, targets)
        return out.loss, self.backward(out, upstream)
