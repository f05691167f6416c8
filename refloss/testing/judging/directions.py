"""Derivatives along a direction: of the loss by forward mode, of its gradient by a second derivative.

What is due comes from the reference's explicit backward pass. How far off it may be comes from what the gradients
themselves may be off by, `Truth.room`, of the textbook formula in the dtype.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy
from refloss.precision.dtypes import rounded, ulp
from refloss.testing.judging import units
from refloss.testing.judging.truth import Truth
from refloss.testing.places import entry, first

STEP = 2.0**-18  # of central differences in float64: the power of 2 next to ∛u
GRID = 2.0**-17  # what directions are multiples of, in units of their row: inputs move by STEP times that exactly
OPEN = 1e-3  # of what is due: as the witnesses of gradcheck, which abstain beyond


def directions(truth: Truth) -> list[dict[str, np.ndarray]]:
    """Of all inputs together, exact in the dtype: along the gradient, row by row, and a random one.

    A step moves logits by about 1: rows of x and W have the length of the input's row over the largest logit, b and
    rows of logits length 1. No masked logit moves, and no row of zeros: it may have no direction.
    """
    rng = np.random.default_rng(zlib.crc32(truth.labels.tobytes()))
    noise = {name: rng.normal(size=value.shape) for name, value in truth.inputs.items()}
    along = {name: truth.stages[f"grad_{name}"] for name in truth.inputs}
    return [{name: _as_long(value, name, truth) for name, value in way.items()} for way in (along, noise)]


def _as_long(direction: np.ndarray, name: str, truth: Truth) -> np.ndarray:
    given, axis = truth.inputs[name], getattr(truth.loss, "axis", -1)
    length: Any = 1.0
    if name in ("x", "W"):
        z = truth.stages["logits"]
        largest = np.max(np.abs(z), initial=1.0, where=np.isfinite(z))
        length = np.linalg.norm(given, axis=1, keepdims=True) / largest
    moved = np.where(np.isfinite(given), direction, 0.0)
    highest = np.max(np.abs(moved), axis=axis, keepdims=True)
    moved = moved / np.where(highest > 0, highest, 1.0)  # tiny gradients keep their digits
    size = np.linalg.norm(moved, axis=axis, keepdims=True)
    moved = moved / np.where(size > 0, size, 1.0) * length
    highest = np.max(np.abs(moved), axis=axis, keepdims=True)
    last = np.exp2(np.ceil(np.log2(np.where(highest > 0, highest, 1.0)))) * GRID
    return rounded(np.round(moved / last) * last, truth.dtype)


def _grade(truth: Truth) -> str:
    """Whatever is required of the gradients, other derivatives than theirs are formulas of their own."""
    return "C" if truth.compute is truth.dtype else "D"


def _room(truth: Truth, stage: str) -> np.ndarray:
    """What the gradient may be off by in each unit, a cone included."""
    room = truth.room(stage, _grade(truth))
    return room + truth.cone[stage] if stage in truth.cone else room


def due_along(truth: Truth, way: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """(Σ ⟨gradient, direction⟩, how far off it may be): room times length, unit by unit, and a sum over samples."""
    value = room = terms = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for name, direction in way.items():
            stage = f"grad_{name}"
            parts = truth.stages[stage] * direction
            value += float(np.sum(parts))
            terms += float(np.sum(np.abs(parts)))
            room += float(np.sum(_room(truth, stage) * units.size(stage, direction)))
    samples = truth.labels.size
    return value, room + samples * truth.dtype.u * terms + float(ulp(np.asarray(value), truth.dtype))


def due_second(
    truth: Truth, way: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """name → the second derivatives times the direction, what each unit may be off by, and whether that is known.

    Central differences of the reference's gradients over h and h/2, extrapolated; what they differ by is their error.
    To that comes what central differences of gradients with their room could not tell at the best step s, room/s and
    what they leave out, c s², together: s = ∛(room/2c), and at most ∛u. A unit is left open where the reference's own
    error is larger than that and than 1e-3 of what is due: there the gradient bends.
    """
    wide, narrow = (_difference(truth, way, step) for step in (STEP, STEP / 2))
    due = {name: (4 * narrow[name] - wide[name]) / 3 for name in way}
    room, known = {}, {}
    for name in way:
        stage = f"grad_{name}"
        off = units.size(stage, narrow[name] - wide[name]) * 4 / 3
        gradient, bend = _room(truth, stage), off / STEP**2
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.fmin(np.cbrt(gradient / (2 * bend)), np.cbrt(truth.dtype.u))
        untold = np.where(gradient > 0, gradient / step + bend * step**2, 0.0)
        whole = units.size(stage, due[name])
        known[name] = ~(off > untold + OPEN * whole)
        # what differences can hardly tell from nothing may be lost, as by a clamp of cos θ
        room[name] = off + untold + np.where(2 * untold > whole, whole, 0.0)
    return due, room, known


def _difference(truth: Truth, way: Mapping[str, np.ndarray], h: float) -> dict[str, np.ndarray]:
    ahead, behind = (
        _gradients(truth, {name: value + sign * h * way[name] for name, value in truth.inputs.items()})
        for sign in (1, -1)
    )
    return {name: (ahead[name] - behind[name]) / (2 * h) for name in way}


def _gradients(truth: Truth, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    loss: Any = truth.loss
    if isinstance(loss, CrossEntropy):
        out = loss.forward(inputs["logits"], truth.labels)
    else:
        out = loss.forward(inputs["x"], inputs["W"], truth.labels, inputs.get("b"))
    stages = loss.backward(out, truth.upstream).stages()
    return {name: np.asarray(stages[f"grad_{name}"]) for name in inputs}


# -- in words --------------------------------------------------------------------------------------


def tangent(truth: Truth, way: Mapping[str, np.ndarray], got: Any) -> str:
    """'' or what is wrong with the loss's derivative along a direction."""
    due, room = due_along(truth, way)
    error = abs(float(got) - due)
    if error <= room:
        return ""
    words = f"forward mode gives {float(got):.9g} along a direction, {due:.9g} is due"
    return f"{words}: off by {error:.2g}, {room:.2g} allowed"


def second_derivatives(truth: Truth, way: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> tuple[str, int]:
    """('' or what is wrong with the gradients' derivative along a direction, in how many units it is not known)."""
    due, room, known = due_second(truth, way)
    words, open_units = "", sum(int(np.count_nonzero(~units_known)) for units_known in known.values())
    for name, expected in due.items():
        stage = f"grad_{name}"
        with np.errstate(invalid="ignore", divide="ignore"):
            error = units.size(stage, got[name] - expected)
            ratio = np.where((error <= room[name]) | ~known[name], 0.0, error / room[name])
        count = np.count_nonzero(ratio)
        if count and not words:
            at = first(np.isnan(ratio) | (ratio == np.nanmax(ratio, initial=0.0)))
            words = f"second derivatives: {stage} along a direction is off by {error[at]:.2g} in {entry(stage, at)}, "
            size = units.size(stage, expected)[at]
            words += f"{room[name][at]:.2g} allowed of {size:.2g}; {count} of {error.size} {units.name(stage)} wrong"
    return words, open_units
