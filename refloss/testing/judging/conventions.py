"""Where a kernel may take 0 · NaN for NaN, or 0 · (−inf), and the reference says 0: told as a convention, not as F."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy

MASKED = "convention: 0·(−inf) taken as NaN where a masked class has no share of the target"
NO_NUMBERS = "convention: 0·NaN of an ignored row taken as NaN in what it adds to; 0 is due"
EMPTY = "convention: the gradient of a mean over nothing taken as NaN; 0 is due"
FORWARD = ("x_norm", "cos_theta", "theta", "logits", "probabilities")
BY_ROW = ("losses", "grad_logits", "grad_x")


@dataclass(frozen=True)
class Convention:
    """NaN that it explains. where: stage → bool mask; fails: whether the input is one that the reference accepts."""

    words: str
    where: Mapping[str, np.ndarray]
    fails: bool


@dataclass(frozen=True)
class Conventions:
    """Of one input. unjudged: stage → mask of entries of which nothing is due."""

    known: tuple[Convention, ...] = ()
    unjudged: Mapping[str, np.ndarray] = field(default_factory=dict)

    def settle(self, stage: str, got: np.ndarray, due: np.ndarray) -> tuple[np.ndarray, list[Convention]]:
        """got with what is due where nothing is judged or a convention explains NaN, and these conventions."""
        met = []
        if stage in self.unjudged:
            got = np.where(self.unjudged[stage], due, got)
        for convention in self.known:
            odd = np.isnan(got) & convention.where.get(stage, np.False_) & ~np.isnan(due)
            if odd.any():
                met.append(convention)
                got = np.where(odd, due, got)
        return got, met


def defined(
    loss: Any, inputs: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
    """The inputs with 1 throughout the ignored rows that hold NaN or inf, and which these are, shaped like labels."""
    bare = isinstance(loss, CrossEntropy)
    key, axis = ("logits", loss.axis) if bare else ("x", -1)
    v = np.asarray(inputs[key])
    odd = np.isnan(v) | (np.isposinf(v) if bare else np.isinf(v))
    if loss.ignore_index is None or not odd.any():
        return inputs, None
    rows = odd.any(axis=axis) & (np.asarray(labels) == loss.ignore_index)
    return {**inputs, key: np.where(np.expand_dims(rows, axis), 1.0, v)}, rows


def conventions(
    loss: Any, inputs: Mapping[str, np.ndarray], labels: np.ndarray, stages: Mapping[str, np.ndarray],
    undefined: np.ndarray | None,
) -> Conventions:  # fmt: skip
    """Those of one input, of which `undefined` are the rows that `defined` replaced."""
    axis = getattr(loss, "axis", -1)
    known = []
    if isinstance(loss, CrossEntropy) and np.ndim(labels) == np.ndim(inputs["logits"]):
        hit = (np.isneginf(inputs["logits"]) & (np.asarray(labels) == 0)).any(axis=axis)
        if hit.any():
            known.append(Convention(MASKED, _reached(stages, hit, axis, BY_ROW), True))
    unjudged = {}
    if undefined is not None and undefined.any():
        known.append(Convention(NO_NUMBERS, _reached(stages, undefined, axis, BY_ROW), False))
        unjudged = {name: mask for name, mask in _reached(stages, undefined, axis, FORWARD).items() if name in FORWARD}
    if np.isnan(stages["loss"]).any():
        whole = {name: np.ones(np.shape(v), dtype=bool) for name, v in stages.items() if name.startswith("grad_")}
        known.append(Convention(EMPTY, whole, False))
    return Conventions(tuple(known), unjudged)


def _reached(
    stages: Mapping[str, np.ndarray], rows: np.ndarray, axis: int, by_row: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """stage → the entries that a NaN of these rows can reach: their own, and every sum over rows."""
    masks = {}
    for name, value in stages.items():
        shape = np.shape(value)
        if name in by_row or (name == "loss" and shape == rows.shape):
            own = rows if shape == rows.shape else np.expand_dims(rows, axis)
            masks[name] = np.broadcast_to(own, shape)
        elif name == "loss" or (name.startswith("grad_") and name not in BY_ROW):
            masks[name] = np.ones(shape, dtype=bool)
    return masks
