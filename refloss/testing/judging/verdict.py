"""One case judged: the grade of every stage that came back, and in words what is wrong."""

from __future__ import annotations

import numpy as np

from refloss.cases.case import Case
from refloss.losses import CrossEntropy
from refloss.testing.adapters import Outcome
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade, Truth, grade_at
from refloss.testing.places import entry, first, told_apart
from refloss.testing.report import CaseResult, Failure


def judge(truth: Truth, case: Case, outcome: Outcome, require: Grade) -> tuple[CaseResult, dict[str, np.ndarray]]:
    """The result, and what came back in the right shape."""
    result = CaseResult(case.name, case.reason, case.flags, shape_of(case))
    result.failures = [Failure(case.name, p.stage, p.kind, p.message) for p in outcome.problems]
    got = {}
    for stage, value in outcome.stages.items():
        due = truth.stages.get(stage)
        if due is None or value.shape != due.shape:
            words = f"{stage} came back, and this loss has no such stage"
            if due is not None:
                words = f"{stage} has shape {value.shape}, {due.shape} is due"
            result.failures.append(Failure(case.name, stage, "shape", words))
            continue
        wrong_type = _wrong_dtype(truth, outcome.dtypes.get(stage, truth.dtype.name), due)
        if wrong_type:
            result.failures.append(Failure(case.name, stage, "dtype", f"{stage} {wrong_type}"))
        came = value
        value, met = truth.conventions.settle(stage, came, due)
        got[stage] = value
        result.grades[stage] = truth.grade_of(stage, value)
        for convention in met:
            if convention.fails:
                at = first(np.isnan(came) & ~np.isnan(due))
                words = f"{entry(stage, at)} is nan, {due[at]:.9g} is due; {convention.words}"
                result.failures.append(
                    Failure(case.name, stage, "convention", words, result.grades[stage], at, np.nan, float(due[at]))
                )
            elif convention.words not in result.notes:
                result.notes.append(convention.words)
        if failure := _wrong_value(truth, case, stage, value, require, result):
            result.failures.append(failure)
    return result, got


def underflow(truth: Truth, got: dict[str, np.ndarray]) -> dict[str, int]:
    """stage → how many entries lie below the normal numbers of the dtype."""
    counts = {}
    for stage in got:
        due = truth.stages[stage]
        with np.errstate(invalid="ignore"):
            count = np.count_nonzero((due != 0) & (np.abs(due) < truth.dtype.smallest_normal))
        if count:
            counts[stage] = int(count)
    return counts


def _wrong_dtype(truth: Truth, came: str, due: np.ndarray) -> str:
    """'' or what is wrong: a stage may come in the dtype of the inputs or in what 16 bits are computed in."""
    allowed = dict.fromkeys((truth.dtype.name, truth.compute.name))
    if came in allowed or (came.startswith("python") and due.shape == ()):
        return ""
    return f"came as {came}; {' or '.join(allowed)} is due"


def _wrong_value(
    truth: Truth, case: Case, stage: str, value: np.ndarray, require: Grade, result: CaseResult
) -> Failure | None:
    """What is wrong with a stage, if anything; notes how near it is to what is allowed."""
    due, grade = truth.stages[stage], result.grades[stage]
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(value - due)
    # a gradient that is stored in 16 bits before it is multiplied may overflow; a formula that does is no use
    overflows = grade_at(stage, require) == "D" and ~np.isfinite(units.spread(stage, truth.allowed(stage, require)))
    lost = ~np.isfinite(value) & np.isfinite(due) & ~np.asarray(overflows)
    if lost.any():
        index, grade, size, ratio = first(lost), "F", np.inf, np.inf
        kind = "nan" if np.isnan(value[index]) else "inf"
        tolerance = float(truth.tolerance(stage, require)[index])
    else:
        excess, allowed = truth.judged(stage, value, require)
        result.ratios[stage] = units.ratio(excess, allowed)
        over = ~(excess <= allowed)
        if not over.any():
            return None
        index, kind = units.worst(stage, excess, allowed, error), "value"
        size, tolerance = _decided(truth, stage, require, index, error, excess, allowed)
        ratio = size / tolerance if tolerance else np.inf
    result.ratios[stage] = ratio
    role, expected = _role(truth, case, stage, index), float(due[index])
    if np.isnan(expected):
        words = f"{value[index]:.9g}, nan is due ({role})"
    elif lost.any():
        words = f"{value[index]}, {expected:.9g} is due ({role}); "
        words += f"{int(np.count_nonzero(lost))} of {lost.size} not finite"
    else:
        (came, wanted), (off, room) = told_apart(float(value[index]), expected, 9), told_apart(size, tolerance, 2)
        whose = "its row is off" if stage in units.ROWWISE else "off"
        words = f"{came}, {wanted} is due ({role}): {whose} by {off}, {room} allowed; "
        words += f"{int(np.count_nonzero(over))} of {np.size(over)} {units.name(stage)} wrong"
        words += f" (grade {grade})" if grade != "F" else ""
    return Failure(
        case.name, stage, kind, f"{entry(stage, index)} is {words}", grade, index, float(value[index]), expected,
        size, tolerance, role, ratio,
    )  # fmt: skip


def _decided(
    truth: Truth, stage: str, require: Grade, index: tuple[int, ...], error: np.ndarray, excess: np.ndarray,
    allowed: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """(the error, what was allowed) of the unit that the entry belongs to: the numbers that decide.

    Allowed is what the grade allows and what grade A explains of this very error, so that the error is the larger of
    the two just where the verdict is that it is wrong.
    """
    unit = index[:1] if stage in units.ROWWISE else index
    size, rest, room = (float(v[unit]) for v in (units.size(stage, error), excess, allowed))
    tolerance = size - rest + room
    return size, tolerance if np.isfinite(tolerance) else float(truth.tolerance(stage, require)[index])


# -- words -----------------------------------------------------------------------------------------


def shape_of(case: Case) -> str:
    if "logits" in case.inputs:
        return f"logits {case.inputs['logits'].shape}"
    (N, D), C = case.inputs["x"].shape, len(case.inputs["W"])
    return f"N = {N}, C = {C}, D = {D}"


def _role(truth: Truth, case: Case, stage: str, index: tuple[int, ...]) -> str:
    """What the entry is: the target, another class, an ignored row."""
    if not index:
        return "the whole batch"
    if isinstance(truth.loss, CrossEntropy):
        return _role_among_logits(truth, case, stage, index)
    ignored = np.asarray(truth.out.ignored)
    soft, N = case.labels.ndim == 2, len(ignored)
    i = index[0]
    if stage in ("W_norm", "grad_W", "grad_b"):
        if soft:
            return f"class {i}"
        count = int(np.count_nonzero((case.labels == i) & ~ignored))
        return f"class {i}, target of {count} of {N} samples" if count else f"class {i}, no sample's target"
    if ignored[i]:
        return "ignored row"
    theta = "" if truth.out.theta is None else f", θ = {float(truth.out.theta[i]):.4g}"
    if len(index) == 1 or stage == "grad_x":
        return f"sample {i}" + ("" if soft else f", target {case.labels[i]}{theta}")
    if soft:
        return f"target share {case.labels[index]:.3g}"
    return f"target{theta}" if case.labels[i] == index[1] else f"other class, target {case.labels[i]}"


def _role_among_logits(truth: Truth, case: Case, stage: str, index: tuple[int, ...]) -> str:
    """The same for a loss of bare logits, whose classes may lie on any axis."""
    axis = truth.loss.axis
    sample = index if stage == "losses" else tuple(np.delete(index, axis % len(index)))
    if np.asarray(truth.out.ignored)[sample]:
        return "ignored row"
    if stage == "losses":
        return "a sample"
    if case.labels.ndim == len(index):
        return f"target share {case.labels[index]:.3g}"
    return "target" if case.labels[sample] == index[axis] else "other class"
