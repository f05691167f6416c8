"""The fewest rows, classes and dimensions on which it still fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.losses import CrossEntropy
from refloss.testing.report import CaseResult, Failure, Report

TRIES = 120
# each costs a process, or comes from another call: the case stays as it is
NOT_AGAIN = ("exited", "memory", "crashed", "timeout", "global_state", "overwritten", "printed")
Way = Callable[[Case, np.ndarray], Case | None]  # leaves only these rows, classes or dimensions


def smallest_failing(
    loss: Any, cases: Sequence[Case], report: Report, judged: Callable[[Case], CaseResult]
) -> tuple[Case, Case, Failure | None]:
    """(a failing case with what it does not need left out, the named case that it was cut from, its failure).

    It fails in the first stage that diverges, where that has grade F, on the smallest of the report's cases.
    """
    by_name = {case.name: case for case in cases}
    ran = [r for r in report.results if r.failures and r.failures[0].kind != "not_run"]
    order = sorted(ran, key=lambda r: entries(by_name[r.name]))
    first = report.first_divergent_stage
    most = max(report.failures, key=lambda f: (f.grade == "F", f.stage == first))
    failure = next(f for r in order for f in r.failures if (f.stage, f.grade) == (most.stage, most.grade))

    def again(case: Case) -> Failure | None:
        same = (f for f in judged(case).failures if (f.stage, f.kind) == (failure.stage, failure.kind))
        return next(same, None)

    whole = case = by_name[failure.case]
    if failure.kind in NOT_AGAIN:
        return whole, whole, failure
    if failure.kind not in ("mutated", "nondeterministic", "law"):
        case = shrunk(loss, whole, lambda candidate: again(candidate) is not None)
    return case, whole, again(case)


def entries(case: Case) -> int:
    return sum(np.size(value) for value in case.inputs.values())


def shrunk(loss: Any, case: Case, fails: Callable[[Case], bool], tries: int = TRIES) -> Case:
    """The case with rows, classes and dimensions left out one after the other, as long as `fails` holds.

    Halves first, then ever smaller parts. Of bare logits only rows of two-dimensional logits are left out.
    """
    left = [tries]

    def still(candidate: Case) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        try:
            return fails(candidate)
        except ValueError:  # the loss takes no such input: no valid row, …
            return False

    ways: list[Way] = [_rows]
    if not isinstance(loss, CrossEntropy):
        # a weight for each class, or an ignored label among them, fixes what the classes are called
        ignored = -1 if loss.ignore_index is None else loss.ignore_index
        named = loss.class_weights is not None or 0 <= ignored < len(case.inputs["W"])
        ways += [_dimensions] if named else [_classes, _dimensions]
    elif case.inputs["logits"].ndim != 2 or loss.axis not in (1, -1):
        return case
    before = None
    while case is not before:
        before = case
        for way in ways:
            case = _least(case, way, still)
    return case


def _least(case: Case, way: Way, still: Callable[[Case], bool]) -> Case:
    count = _length(case, way)
    part = max(count // 2, 1)
    while part >= 1 and count > 1:
        start = 0
        while start < count and count > 1:
            kept = np.r_[0:start, min(start + part, count) : count]
            candidate = way(case, kept) if len(kept) else None
            if candidate is not None and still(candidate):
                case, count = candidate, len(kept)
            else:
                start += part
        part //= 2
    return case


def _length(case: Case, way: Way) -> int:
    if way is _rows:
        return len(case.labels)
    return case.inputs["W"].shape[0 if way is _classes else 1]


def _rows(case: Case, kept: np.ndarray) -> Case:
    name = "logits" if "logits" in case.inputs else "x"
    inputs = {**case.inputs, name: case.inputs[name][kept]}
    return replace(case, inputs=inputs, labels=case.labels[kept], upstreams=case.upstreams[kept])


def _classes(case: Case, kept: np.ndarray) -> Case | None:
    """Only classes that no sample has can go; labels are renumbered."""
    C = len(case.inputs["W"])
    inputs = {**case.inputs, "W": case.inputs["W"][kept]}
    if "b" in inputs:
        inputs["b"] = inputs["b"][kept]
    if case.labels.ndim == 2:
        return replace(case, inputs=inputs, labels=case.labels[:, kept])
    inside = (case.labels >= 0) & (case.labels < C)
    if not np.isin(case.labels[inside], kept).all():
        return None
    number = np.full(C, -1)
    number[kept] = np.arange(len(kept))
    labels = case.labels.copy()
    labels[inside] = number[case.labels[inside]]
    return replace(case, inputs=inputs, labels=labels)


def _dimensions(case: Case, kept: np.ndarray) -> Case:
    return replace(case, inputs={**case.inputs, "x": case.inputs["x"][:, kept], "W": case.inputs["W"][:, kept]})
