"""What a pass leaves behind: every named stage, in one vocabulary and order for the whole project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

FORWARD_STAGES = ("x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss")
BACKWARD_STAGES = ("grad_logits", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha")
STAGES = (*FORWARD_STAGES, *BACKWARD_STAGES)


class _Computed:
    """A stage that is computed when it is first read, and kept from then on, read-only."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, record: Any, owner: type | None = None) -> Any:
        if record is None:
            return self
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            value = record._computed(self.name)
        return record._hold(self.name, value)


class _StageMap(Mapping):
    """The stages of a record by name, each computed when it is read."""

    def __init__(self, record: Any, fields: dict[str, str]) -> None:
        self._record, self._fields = record, fields

    def __getitem__(self, stage: str) -> Any:
        return getattr(self._record, self._fields[stage])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __or__(self, other: Mapping) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping) -> dict[str, Any]:
        return {**other, **self}


class _Stages:
    """Shared by both records: the stages that apply, and a repr that shows their shapes and computes none."""

    _made_by: Any
    _passes: Any
    _upstream: Any

    def _hold(self, name: str, value: Any) -> Any:
        _freeze(value)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _computed(self, name: str) -> Any:
        raise NotImplementedError

    def _shape(self, stage: str) -> tuple[int, ...]:
        """Of a stage that may not have been computed yet."""
        raise NotImplementedError

    def stages(self) -> Mapping[str, Any]:
        """The stages that apply.

        Returns:
            Mapping: name → read-only array, in the project's order.
        """
        raise NotImplementedError

    @cached_property
    def error_bound(self) -> Mapping[str, np.ndarray]:
        """Stage name → how far each of its entries may be from the truth at most, proven, in an array like the stage.

        Absolute. The truth is the formula in real numbers at the given inputs. Computed when first asked for, by
        running the passes once more over numbers that carry a bound (derivations/precision.md). inf where nothing can
        be said: a divisor whose sign is lost. A decision inside a user's own ψ or D (``xp.where``) is taken as it
        falls: next to a kink of theirs the bound is that of the side taken.
        """
        from refloss.precision.bounded import Bounded

        return self._bounds(Bounded)

    @cached_property
    def probable_error_bound(self) -> Mapping[str, np.ndarray]:
        """`error_bound` with rounding errors that grow like √n in a sum of n terms, probable and not proven."""
        from refloss.precision.bounded import ProbablyBounded

        return self._bounds(ProbablyBounded)

    def _bounds(self, bounded: Any) -> Mapping[str, np.ndarray]:
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = []
        for name in self.stages():
            shape = self._shape(name)
            shown = f"{float(self.stages()[name]):.17g}" if shape == () else f"{shape} float64"
            lines.append(f"  {name:<13} {shown}")
        return "\n".join([f"{type(self).__name__} of {self._made_by!r}", *lines])


class Forward(_Stages):
    """The record of a forward pass; a stage that the loss does not have is None, and every array is read-only.

    It holds the inputs, losses and loss; every other stage is computed when it is read, to the same bits each time.
    Of `refloss.CrossEntropy`, whose logits may have any shape, N stands for the targets' shape.

    Attributes:
        x_norm (N,): ‖x_i‖.
        W_norm (C,): ‖W_j‖.
        cos_theta (N, C): cosine of the angle between x_i and W_j.
        theta (N,): the target's angle in radians; 0 on ignored rows.
        logits (N, C): what the softmax sees, margin and scale included.
        probabilities (N, C): the softmax of the logits.
        losses (N,): one per sample, after class weights; 0 on ignored rows.
        loss (scalar): reduced; (N,) under reduction="none".
        complement (N,): 1 − p_y without cancellation; 0 on ignored rows, None for soft targets.
        ignored (N,): bool.
        cone (N,): bool: the target logit has no gradient here (x ∥ W_y); the backward takes the centre of the
            generalised gradient. None where a loss has no margin.
    """

    logits = _Computed()
    probabilities = _Computed()
    complement = _Computed()
    x_norm = _Computed()
    W_norm = _Computed()
    cos_theta = _Computed()
    theta = _Computed()
    cone = _Computed()

    losses: np.ndarray
    loss: np.ndarray
    ignored: np.ndarray

    def __init__(self, made_by: Any, passes: Any, ignored: np.ndarray) -> None:
        self.__dict__.update(_made_by=made_by, _passes=passes)
        for name, value in (("losses", passes.stage("losses")), ("loss", passes.stage("loss")), ("ignored", ignored)):
            self._hold(name, value)

    def stages(self) -> Mapping[str, Any]:
        """The stages that apply.

        Returns:
            Mapping: name → read-only array: x_norm, W_norm, cos_theta, theta, logits, probabilities, losses, loss,
            in this order.
        """
        has = {"logits", "probabilities", "losses", "loss", *self._passes.has}
        return _StageMap(self, {name: name for name in FORWARD_STAGES if name in has})

    def _computed(self, name: str) -> Any:
        return self._passes.stage(name)

    def _shape(self, stage: str) -> tuple[int, ...]:
        return np.shape(self.loss) if stage == "loss" else self._passes.shape(stage)

    def _bounds(self, bounded: Any) -> Mapping[str, np.ndarray]:
        with np.errstate(all="ignore"):
            passes = self._passes.bounds(bounded)
            passes.forward()
            bounds = {name: passes.stage(name) for name in (*FORWARD_STAGES, "complement")}
        return _read_only({name: bound for name, bound in bounds.items() if bound is not None})


class Gradients(_Stages):
    """The gradients of Σ upstream · loss; None where the loss has no such input. Every array is read-only.

    As stages their names are grad_logits, grad_x and so on. `logits` is computed when it is read.

    Attributes:
        logits (N, C): in z; of `refloss.CrossEntropy` shaped like the logits.
        x (N, D): in the features.
        W (C, D): in the class weights.
        b (C,): in the bias, where one was given.
        scale (scalar): in s.
        margin (scalar): in a margin that is a real number; an integer has no derivative.
        alpha (scalar): in α.
    """

    logits = _Computed()
    # arrays, or None
    x: Any = None
    W: Any = None
    b: Any = None
    scale: Any = None
    margin: Any = None
    alpha: Any = None

    def __init__(self, made_by: Any, passes: Any, upstream: Any, gradients: dict[str, Any]) -> None:
        self.__dict__.update(_made_by=made_by, _passes=passes, _upstream=upstream)
        for name, value in gradients.items():
            if passes is None and name == "W":
                self.__dict__[name] = value  # the caller's own array
            else:
                self._hold(name, value)

    def stages(self) -> Mapping[str, Any]:
        """The stages that apply.

        Returns:
            Mapping: name → read-only array: grad_logits, grad_x, grad_W, grad_b, grad_scale, grad_margin, grad_alpha,
            in this order.
        """
        fields = {name: name.removeprefix("grad_") for name in BACKWARD_STAGES}
        return _StageMap(self, {name: field for name, field in fields.items() if self._has(field)})

    def _has(self, field: str) -> bool:
        return self._passes is not None if field == "logits" else getattr(self, field) is not None

    def _computed(self, name: str) -> Any:
        self._need_record()
        return self._passes.grad_logits(self._upstream)

    def _need_record(self) -> None:
        if self._passes is None:
            raise ValueError(
                "value_and_grad(..., out=...) keeps no record: gradient of the logits and error bounds come from "
                "forward and backward"
            )

    def _shape(self, stage: str) -> tuple[int, ...]:
        field = stage.removeprefix("grad_")
        return self._passes.shape(field) if field == "logits" else np.shape(getattr(self, field))

    def _bounds(self, bounded: Any) -> Mapping[str, np.ndarray]:
        self._need_record()
        with np.errstate(all="ignore"):
            passes = self._passes.bounds(bounded)
            passes.forward()
            bounds = passes.backward(self._upstream)
            if "logits" not in bounds:
                bounds = {"logits": passes.grad_logits(self._upstream)} | bounds
        return _read_only({f"grad_{name}": bound for name, bound in bounds.items()})


def _read_only(bounds: dict[str, Any]) -> Mapping[str, np.ndarray]:
    for value in bounds.values():
        _freeze(value)
    return MappingProxyType(bounds)


def _freeze(value: Any) -> None:
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
