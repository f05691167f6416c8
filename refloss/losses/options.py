"""The options that every loss has, and what they make of a forward and a backward pass."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.losses.bare import BareLogits
from refloss.losses.blocks import silent
from refloss.losses.passes import PRECISIONS, Passes
from refloss.record import Forward, Gradients
from refloss.steps.targets import Setting, Targets

SHARED = {"shared": True}  # metadata of the options that losses share: a repr shows one only where it was set


@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropyOptions:
    """Options of the cross-entropy, shared by every loss and by `refloss.CrossEntropy`; see `Loss`."""

    reduction: str = field(default="mean", metadata=SHARED)
    class_weights: Any = field(default=None, metadata=SHARED)
    label_smoothing: float = field(default=0.0, metadata=SHARED)
    ignore_index: int | None = field(default=None, metadata=SHARED)
    empty_mean: str = field(default="error", metadata=SHARED)
    precision: str = field(default="double", metadata=SHARED)

    def __post_init__(self) -> None:
        self._set(
            reduction=check.one_of(self.reduction, "reduction", ("mean", "sum", "none", "weighted_mean")),
            class_weights=check.weights_tuple(self.class_weights),
            label_smoothing=check.fraction(self.label_smoothing, "label_smoothing"),
            ignore_index=None if self.ignore_index is None else check.integer(self.ignore_index, "ignore_index"),
            empty_mean=check.one_of(self.empty_mean, "empty_mean", ("error", "zero", "nan")),
            precision=check.one_of(self.precision, "precision", PRECISIONS),
        )

    def _set(self, **checked: Any) -> None:
        """Replaces fields by their checked values while the object is being made."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.metadata == SHARED and value == option.default:
                continue
            if isinstance(value, tuple) and len(value) > 8:
                shown.append(f"{option.name}=<{len(value)} weights>")
            else:
                shown.append(f"{option.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _setting(self, targets: Targets) -> Setting:
        return Setting(
            targets=targets,
            reduction=self.reduction,
            class_weights=check.class_weights(self, targets.classes),
            label_smoothing=self.label_smoothing,
            empty_mean=self.empty_mean,
        )

    def _recorded(self, passes: Passes | BareLogits, ignored: np.ndarray) -> Forward:
        """Runs the forward of checked inputs."""
        with silent():
            passes.forward()
            out = Forward(self, passes, ignored)
        check.finite_losses(out.losses, out.loss, passes.end.empty)
        return out

    def _gradients(self, out: Forward, upstream: Any) -> Gradients:
        """Runs the backward of a record."""
        if not isinstance(out, Forward):
            raise TypeError(f"out must be the record that forward returned, got {type(out).__name__}")
        if out._made_by is not self and out._made_by != self:
            raise ValueError(f"out was made by {out._made_by!r}, not by {self!r}")
        upstream = check.upstream_gradient(upstream, out.losses.shape, self.reduction)
        passes: Passes | BareLogits = out._passes
        with silent():
            grads = passes.backward(upstream)
        return Gradients(self, passes, upstream, grads)
