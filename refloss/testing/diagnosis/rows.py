"""What the report page draws: how far off every row is, and the gradient of wrong rows as arrows in a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.testing.diagnosis.match import Observed
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade, Truth

OF_A_SAMPLE = ("x_norm", "cos_theta", "theta", "logits", "probabilities", "losses", "grad_logits", "grad_x")
OF_CLASSES = (
    "cos_theta",
    "logits",
    "probabilities",
    "grad_logits",
)  # with the logits' own axes where there are bare logits
MOST = 6  # rows whose arrows are kept
PARALLEL = 1e-6  # of a vector: a shorter part across the others gives no direction


@dataclass(frozen=True)
class Rows:
    """How far off the samples of one case are.

    Attributes:
        case (str): the case's name.
        error (tuple of float): of each sample its worst stage's error over what is allowed; 0 within the last place,
            inf for what is not finite. Stages that are not of samples (loss, grad_W …) do not count.
        logit (tuple of float): of each sample the largest logit, without its sign.
        theta (tuple of float): of each sample the target's angle in radians; NaN where it is ignored, empty where the
            loss has none.
    """

    case: str
    error: tuple[float, ...]
    logit: tuple[float, ...]
    theta: tuple[float, ...] = ()


@dataclass(frozen=True)
class Arrow:
    """The gradient of one row, as it came and as it is due, in a plane through the row.

    Attributes:
        case (str): the case's name.
        stage (str): grad_x or grad_W.
        row (int): which row of it.
        plane (tuple of str): what spans the plane: "x̂" and "ŵ_y" where they are not parallel.
        dimensions (int): D; the plane is all of it if that is 2.
        due (tuple of float): due along x̂ and across it, over the longer one's length.
        got (tuple of float): likewise; empty if it is not finite.
        target (tuple of float): ŵ_y along x̂ and across it; empty where there is none.
        due_length (float): ‖due‖.
        got_length (float): ‖got‖.
        outside (float): of got the share that lies across the plane.
    """

    case: str
    stage: str
    row: int
    plane: tuple[str, ...]
    dimensions: int
    due: tuple[float, ...]
    got: tuple[float, ...]
    target: tuple[float, ...]
    due_length: float
    got_length: float
    outside: float


def rows_of(observed: Sequence[Observed], require: Grade) -> list[Rows]:
    """Every case of which something came back that has a row for each sample."""
    found = []
    for o in observed:
        stages = [stage for stage in OF_A_SAMPLE if stage in o.got]
        if not stages:
            continue
        out = o.truth.out
        error = np.max([_by_row(o.truth, s, _errors(o.truth, s, o.got[s], require)) for s in stages], axis=0)
        with np.errstate(invalid="ignore"):
            z = np.abs(np.where(np.isfinite(o.truth.stages["logits"]), o.truth.stages["logits"], 0.0))
        theta = getattr(out, "theta", None)
        angle = () if theta is None else tuple(np.where(out.ignored, np.nan, theta).tolist())
        found.append(Rows(o.case, tuple(error.tolist()), tuple(_by_row(o.truth, "logits", z).tolist()), angle))
    return found


def _errors(truth: Truth, stage: str, got: np.ndarray, require: Grade) -> np.ndarray:
    """The error of each unit over what is allowed there: above 1 just where it is wrong."""
    excess, allowed = truth.judged(stage, got, require)
    with np.errstate(all="ignore"):
        size = units.size(stage, np.abs(got - truth.stages[stage]))
        right = np.where((excess > 0) & np.isfinite(allowed), excess / allowed, 0.0)
        ratio = np.where(excess <= allowed, right, size / (size - excess + allowed))
    return np.where(np.isnan(ratio), np.inf, ratio)


def _by_row(truth: Truth, stage: str, of_unit: np.ndarray) -> np.ndarray:
    """The largest of each sample's units."""
    if stage not in OF_CLASSES:
        return np.ravel(of_unit)
    last = np.moveaxis(of_unit, getattr(truth.loss, "axis", 1), -1)
    return last.max(axis=-1, initial=0.0).ravel()


# -- arrows ----------------------------------------------------------------------------------------


def arrows_of(observed: Sequence[Observed], require: Grade) -> list[Arrow]:
    """The wrong rows of grad_x, or else of grad_W, in one case, at most `MOST` of them.

    The case of the fewest dimensions, but two, for a plane shows most of it; of these the one with most wrong rows.
    """
    for stage in units.ROWWISE:
        wrong = [(o, np.flatnonzero(_errors(o.truth, stage, o.got[stage], require) > 1))
                 for o in observed if stage in o.got]  # fmt: skip
        if wrong := [(o, rows) for o, rows in wrong if len(rows)]:
            o, rows = min(wrong, key=lambda each: (abs(each[0].got[stage].shape[1] - 2), -len(each[1])))
            return [_arrow(o, stage, int(row)) for row in rows[:MOST]]
    return []


def _arrow(o: Observed, stage: str, row: int) -> Arrow:
    truth = o.truth
    due, got = truth.stages[stage][row], o.got[stage][row]
    own, other = ("x", "W") if stage == "grad_x" else ("W", "x")
    given: list[tuple[str, Any]] = [("x̂" if own == "x" else "ŵ", truth.inputs[own][row])]
    of_a_class = own == "x" and np.ndim(truth.labels) == 1 and not truth.out.ignored[row]
    if of_a_class:
        given.append(("ŵ_y", truth.inputs[other][truth.labels[row]]))
    whole = bool(np.isfinite(got).all())
    longest = max(_length(due), _length(got) if whole else 0.0) or 1.0
    parts = [("the due gradient", due / longest), *([("the gradient that came", got / longest)] if whole else [])]
    names, axes = _plane([*given, *parts])
    across = got / longest - (axes.T @ (axes @ (got / longest))) if whole else np.zeros(1)

    def seen(vector: np.ndarray) -> tuple[float, ...]:
        flat = axes @ vector
        return tuple(float(v) for v in (*flat, 0.0, 0.0)[:2])

    return Arrow(
        o.case, stage, row, names, len(due), seen(due / longest), seen(got / longest) if whole else (),
        seen(_unit(given[1][1])) if of_a_class else (), _length(due), _length(got) if whole else float("inf"),
        _length(across) / (_length(got / longest) or 1.0) if whole else 0.0,
    )  # fmt: skip


def _plane(given: Sequence[tuple[str, np.ndarray]]) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the first two that are not parallel, and (≤ 2, D) unit vectors at right angles that span them."""
    names: list[str] = []
    axes: list[np.ndarray] = []
    for name, vector in given:
        rest = unit = _unit(vector)
        for axis in (*axes, *axes):  # twice, for rounding
            rest = rest - (rest @ axis) * axis
        if len(axes) < 2 and _length(rest) > PARALLEL and unit.any():
            names.append(name)
            axes.append(_unit(rest))
    return tuple(names), np.array(axes).reshape(len(axes), len(given[0][1]))


def _length(vector: np.ndarray) -> float:
    largest = float(np.max(np.abs(vector), initial=0.0))
    return largest * float(np.linalg.norm(vector / largest)) if 0 < largest < np.inf else largest


def _unit(vector: np.ndarray) -> np.ndarray:
    largest = float(np.max(np.abs(vector), initial=0.0))
    if not 0 < largest < np.inf:
        return np.zeros(len(vector))
    scaled = vector / largest
    return scaled / np.linalg.norm(scaled)
