"""What a pass leaves behind: every named stage, in one vocabulary and order for the whole project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

FORWARD_STAGES = ("x_norm", "W_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "loss")
BACKWARD_STAGES = ("grad_logits", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha")
STAGES = (*FORWARD_STAGES, *BACKWARD_STAGES)


class _Stages:
    """Shared by both records: the stages that apply, and a repr that shows their shapes."""

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
        for name, value in self.stages().items():
            shape = np.shape(value)
            shown = f"{float(value):.17g}" if shape == () else f"{shape} {value.dtype}"
            lines.append(f"  {name:<13} {shown}")
        return "\n".join([f"{type(self).__name__} of {self._made_by!r}", *lines])  # type: ignore


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Forward(_Stages):
    """The record of a forward pass; a stage that the loss does not have is None, and every array is read-only.

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

    logits: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray
    loss: np.ndarray
    ignored: np.ndarray
    # arrays, or None
    complement: Any
    x_norm: Any = None
    W_norm: Any = None
    cos_theta: Any = None
    theta: Any = None
    cone: Any = None
    # what the backward consumes beyond the stages
    _made_by: Any
    _passes: Any

    def __post_init__(self) -> None:
        for name in (*FORWARD_STAGES, "complement", "ignored", "cone"):
            _freeze(getattr(self, name))

    def stages(self) -> Mapping[str, Any]:
        """The stages that apply.

        Returns:
            Mapping: name → read-only array: x_norm, W_norm, cos_theta, theta, logits, probabilities, losses, loss,
            in this order.
        """
        return {name: getattr(self, name) for name in FORWARD_STAGES if getattr(self, name) is not None}

    def _bounds(self, bounded: Any) -> Mapping[str, np.ndarray]:
        with np.errstate(all="ignore"):
            bounds = self._passes.bounds(bounded).forward()
        wanted = (*FORWARD_STAGES, "complement")
        return _read_only({name: bounds[name] for name in wanted if bounds.get(name) is not None})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Gradients(_Stages):
    """The gradients of Σ upstream · loss; None where the loss has no such input. Every array is read-only.

    As stages their names are grad_logits, grad_x and so on.

    Attributes:
        logits (N, C): in z; of `refloss.CrossEntropy` shaped like the logits.
        x (N, D): in the features.
        W (C, D): in the class weights.
        b (C,): in the bias, where one was given.
        scale (scalar): in s.
        margin (scalar): in a margin that is a real number; an integer has no derivative.
        alpha (scalar): in α.
    """

    logits: np.ndarray
    # arrays, or None
    x: Any = None
    W: Any = None
    b: Any = None
    scale: Any = None
    margin: Any = None
    alpha: Any = None
    _made_by: Any
    _passes: Any
    _upstream: Any

    def __post_init__(self) -> None:
        for value in self.stages().values():
            _freeze(value)

    def stages(self) -> Mapping[str, Any]:
        """The stages that apply.

        Returns:
            Mapping: name → read-only array: grad_logits, grad_x, grad_W, grad_b, grad_scale, grad_margin, grad_alpha,
            in this order.
        """
        fields = {name: getattr(self, name.removeprefix("grad_")) for name in BACKWARD_STAGES}
        return {name: value for name, value in fields.items() if value is not None}

    def _bounds(self, bounded: Any) -> Mapping[str, np.ndarray]:
        with np.errstate(all="ignore"):
            passes = self._passes.bounds(bounded)
            passes.forward()
            g, grads = passes.backward(self._upstream)
        bounds = {"logits": g, **grads}
        return _read_only({f"grad_{name}": bounds[name] for name in bounds})


def _read_only(bounds: dict[str, Any]) -> Mapping[str, np.ndarray]:
    for value in bounds.values():
        _freeze(value)
    return MappingProxyType(bounds)


def _freeze(value: Any) -> None:
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
