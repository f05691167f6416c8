"""Labels and soft targets, told apart by their number of axes, never by dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refloss.steps.targets import Targets
from refloss.validation.arrays import as_array, first, indexed, integers, itself, real_array
from refloss.validation.parameters import integer


def targets(value: Any, rows: int, classes: int, loss: Any, name: str = "labels", place: Any = itself) -> Targets:
    """Labels (M,) or soft targets (M, C), told apart by their number of axes.

    place(i) or place(i, c) is the caller's own index of row i (and class c), for the messages.
    """
    array = as_array(value, name)
    if array.ndim == 2 and getattr(loss, "has_margin", False):
        raise ValueError(
            f"{name} must be classes of shape (N,), got shape {array.shape}: "
            f"{type(loss).__name__} puts its margin on one class, and a soft target has none{_column(array, name)}"
        )
    if array.ndim == 2:
        return _soft_targets(array, rows, classes, loss, name, place)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be classes of shape (N,) or soft targets of shape (N, C), got shape {array.shape}"
        )
    if array.shape != (rows,):
        raise ValueError(f"{name} must have one entry per row, shape ({rows},), got {array.shape}")
    array = integers(array, name, place)
    ignored = np.zeros(rows, dtype=bool)
    outside = (array < 0) | (array >= classes)
    if loss.ignore_index is not None:
        ignored = array == loss.ignore_index
        outside &= ~ignored
    if outside.any():
        bad = np.flatnonzero(outside)
        raise ValueError(
            f"{indexed(name, place(bad[0]))} is {array[bad[0]]}; "
            f"{name} must lie in 0 … {classes - 1} (C = {classes}), "
            f"or be the ignore_index, which is {loss.ignore_index}"
        )
    classes_of = np.where(ignored, 0, array).astype(np.intp)
    return Targets(classes_of, None, ignored, classes)


def _column(array: np.ndarray, name: str) -> str:
    return f"; for a column of classes pass {name}.ravel()" if array.shape[1] == 1 else ""


def _soft_targets(array: np.ndarray, rows: int, classes: int, loss: Any, name: str, place: Any) -> Targets:
    if loss.ignore_index is not None:
        raise ValueError(f"ignore_index needs class labels: soft targets ({name} with axis C) have no index")
    if array.shape != (rows, classes):
        raise ValueError(
            f"soft {name} must have shape (N, C) = ({rows}, {classes}), got {array.shape}{_column(array, name)}"
        )
    soft = real_array(array, name, place=place)
    if (soft < 0).any():
        at = first(soft < 0)
        raise ValueError(f"{indexed(name, place(*at))} is {soft[at]}; soft {name} must not be negative")
    return Targets(None, soft, np.zeros(rows, dtype=bool), classes)


def flat_targets(value: Any, shape: tuple[int, ...], axis: int, loss: Any) -> Targets:
    """Targets of logits of this shape as one row per prediction; soft if they have all its axes."""
    array = as_array(value, "targets")
    classes = shape[axis]
    axis = axis % len(shape)
    labels_shape = shape[:axis] + shape[axis + 1 :]
    due = f"the logits' shape without the class axis, {labels_shape}, or, for soft targets, {shape}"
    if array.shape not in (labels_shape, shape):
        raise ValueError(f"targets must have {due}, got {array.shape}")
    rows = math.prod(labels_shape)

    def place(i: int, *c: int) -> tuple[int, ...]:
        at = list(itself(*np.unravel_index(i, labels_shape)))
        if c:
            at.insert(axis, int(c[0]))
        return tuple(at)

    if array.ndim == len(shape):
        array = np.moveaxis(array, axis, -1).reshape(rows, classes)
        return targets(array, rows, classes, loss, "targets", place)
    return targets(array.reshape(rows), rows, classes, loss, "targets", place)


def unmasked_targets(z: np.ndarray, rows: Targets, loss: Any, shape: tuple[int, ...]) -> None:
    """A class masked by −inf cannot carry probability of the target; some class must remain.

    An ignored prediction has no target, and may be masked altogether. shape: of the labels.
    """
    masked = z == -np.inf
    if not masked.any():
        return

    def place(i: int) -> str:
        return ", ".join(map(str, itself(*np.unravel_index(i, shape))))

    y = rows.matrix
    wanted = (y > 0) | (loss.label_smoothing > 0)
    bad = masked & wanted & ~rows.ignored[:, None]
    if bad.any():
        i, c = first(bad)
        why = "label_smoothing gives every class a share" if y[i, c] == 0 else "the target is on it"
        raise ValueError(f"logits: class {c} of prediction {place(i)} is masked (-inf), but {why}")
    empty = np.flatnonzero(masked.all(axis=1) & ~rows.ignored)
    if empty.size:
        raise ValueError(f"logits: every class of prediction {place(empty[0])} is masked (-inf), and it is not ignored")


def edge_map(value: Any, ignore_index: int | None) -> np.ndarray:
    """The valid labels of an edge map, flat: integers, all of them 0 or 1."""
    array = integers(as_array(value, "labels"), "labels")
    if array.size == 0:
        raise ValueError(f"labels must have at least one entry, got shape {array.shape}")
    if ignore_index is not None:
        ignore_index = integer(ignore_index, "ignore_index")
    bad = (array != 0) & (array != 1) & (array != ignore_index)
    if bad.any():
        at = first(bad)
        raise ValueError(f"{indexed('labels', at)} is {array[at]}; labels must be 0 (non-edge) or 1 (edge)")
    return array[array != ignore_index]
