"""What a loss is called with: x, W, b, bare logits, upstream gradients."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from refloss.validation.arrays import matrix, real_array


def features_and_weights(x: Any, W: Any) -> tuple[np.ndarray, np.ndarray]:
    """x (N, D) and W (C, D), with at least one class and one dimension."""
    x, W = matrix(x, "x", "(N, D)"), matrix(W, "W", "(C, D)")
    if x.shape[1] != W.shape[1]:
        turned = "; W has one row per class: pass W.T" if x.shape[1] == W.shape[0] else ""
        raise ValueError(
            "x (N, D) and W (C, D) must have the same number of columns D, "
            f"got x of shape {x.shape} and W of shape {W.shape}{turned}"
        )
    if W.shape[0] == 0 or W.shape[1] == 0:
        raise ValueError(f"W needs at least one class and one dimension, got shape {W.shape}")
    return x, W


def bias(b: Any, classes: int, loss: Any) -> np.ndarray | None:
    if b is None:
        return None
    if not loss.has_bias:
        raise ValueError(f"{type(loss).__name__} has no bias: b must be None")
    b = real_array(b, "b")
    if b.shape != (classes,):
        raise ValueError(f"b must have shape (C,) = ({classes},), got {b.shape}")
    return b


def logits(value: Any, axis: int) -> np.ndarray:
    """Bare logits of any shape with classes on `axis`; −inf masks a class."""
    array = real_array(value, "logits", allow_minus_inf=True)
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"logits must have the class axis {axis}, got shape {array.shape}")
    if array.shape[axis] == 0:
        raise ValueError(f"logits need at least one class on axis {axis}, got shape {array.shape}")
    return array


def no_zero_rows(v: np.ndarray, name: str, rows: np.ndarray, loss: Any, first: int = 0) -> None:
    """Refuses a zero row among `rows` of v where the loss has no value or derivative there. v[0] is row `first`."""
    blank = (v[:, 0] == 0).nonzero()[0]  # few: the others need no look at
    if not blank.size:
        return
    blank = blank[~v[blank].any(axis=1)]
    zero = rows[np.isin(rows, blank)]
    if zero.size and loss.zero_norm == "error":
        zero = zero + first
        shown = ", ".join(map(str, zero[:8])) + (", …" if len(zero) > 8 else "")
        raise ValueError(
            f"{name}[{zero[0]}] is a zero row (zero rows: {shown}), where {type(loss).__name__} is singular: "
            "remove it, or pass zero_norm='zero' to take the zero vector for its direction"
        )


def upstream_gradient(value: Any, shape: tuple[int, ...], reduction: str) -> np.ndarray:
    """The gradient arriving at out.loss: a scalar, or one per sample under reduction="none"."""
    if type(value) is float and isfinite(value):
        return np.array(value)
    array = real_array(value, "upstream")
    if array.ndim == 0 or (reduction == "none" and array.shape == shape):
        return array
    due = f"a scalar or shape {shape}" if reduction == "none" else "a scalar"
    raise ValueError(f"upstream must be {due} under reduction={reduction!r}, got shape {array.shape}")


def class_weights(loss: Any, classes: int) -> np.ndarray | None:
    """The loss's class weights (C,), now that C is known."""
    if loss.class_weights is None:
        return None
    if len(loss.class_weights) != classes:
        raise ValueError(f"class_weights must have shape (C,) = ({classes},), got {len(loss.class_weights)} weights")
    return np.array(loss.class_weights)
