"""The fewest rows, classes and dimensions on which it still fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.losses import CrossEntropy
from refloss.testing.report import LOST, CaseResult, Failure, Report

TRIES, SECONDS = 120, 20.0  # what shrinking may take; a trial that has begun is not cut off
LONG = 16  # times as many classes as are kept: then it is worth a trial
KEPT = 2  # dimensions: in one, every direction is parallel to every other, and hardly a kernel was written for it
# what costs a process each, or comes of another call: the case stays as it is
NOT_AGAIN = ("exited", "memory", "crashed", "timeout", "global_state", "overwritten", "printed", "mutated",
             "nondeterministic", "law")  # fmt: skip
Way = Callable[[Case, np.ndarray], Case | None]  # leaves only these rows, classes or dimensions


def smallest_failing(
    loss: Any, cases: Sequence[Case], report: Report, judged: Callable[[Case], CaseResult] | None
) -> tuple[Case, Case, Failure, str]:
    """(a failing case with what it does not need left out, the named case that it was cut from, its failure, a word).

    It fails in the first stage that diverges, where that has grade F, on the smallest of the report's cases. The word
    says so if the budget ended it before nothing more could be left out, and is empty else.
    """
    by_name = {case.name: case for case in cases}
    ran = [r for r in report.results if r.failures and r.failures[0].kind != "not_run"]
    order = sorted(ran, key=lambda r: _cost(by_name[r.name]))
    first = report.first_divergent_stage
    most = max(report.failures, key=lambda f: (f.kind not in LOST, f.grade == "F", f.stage == first))
    alike = (most.stage, most.grade, most.kind)
    failure = next(f for r in order for f in r.failures if (f.stage, f.grade, f.kind) == alike)
    whole = by_name[failure.case]
    if judged is None or failure.kind in NOT_AGAIN:
        return whole, whole, failure, ""
    last = [failure]

    def fails(case: Case) -> bool:
        same = [f for f in judged(case).failures if (f.stage, f.kind) == (failure.stage, failure.kind)]
        last[:] = same[:1] or last
        return bool(same)

    case, ended = shrunk(loss, whole, fails)
    return case, whole, last[0], ended


def _cost(case: Case) -> tuple[bool, int]:
    """By which the cheapest comes first; one of a single dimension, or without numbers, only if there is no other."""
    flat = "W" in case.inputs and _length(case, _dimensions) < KEPT
    return flat or bool({"empty", "nonfinite"} & set(case.flags)), entries(case)


def entries(case: Case) -> int:
    return sum(np.size(value) for value in case.inputs.values())


def shrunk(
    loss: Any, case: Case, fails: Callable[[Case], bool], tries: int = TRIES, seconds: float = SECONDS
) -> tuple[Case, str]:
    """(the case with classes, rows and dimensions left out as long as `fails` holds, "" or what ended it early).

    Of very many all but a few first; then all that can go, halves, ever smaller parts; at last upstreams of 1 and an
    ordinary layout in place of what is not needed. Of bare logits only rows of two-dimensional logits are left out.
    """
    began, tried, best = time.monotonic(), 0, case

    def still(candidate: Case) -> bool:
        nonlocal tried, best
        if tried >= tries:
            raise _Ended(f"shrinking ended after {tried} trials")
        if time.monotonic() - began > seconds:
            raise _Ended(f"shrinking ended after {seconds:g} s, {tried} trials")
        tried += 1
        try:
            found = fails(candidate)
        except ValueError:  # the loss takes no such input: no valid row, …
            return False
        best = candidate if found else best
        return found

    ways: list[Way] = []
    if not isinstance(loss, CrossEntropy):
        # a weight for each class, or an ignored label among them, fixes what the classes are called
        ignored = -1 if loss.ignore_index is None else loss.ignore_index
        named = loss.class_weights is not None or 0 <= ignored < len(case.inputs["W"])
        ways = [_rows, _dimensions] if named else [_classes, _rows, _dimensions]
    elif case.inputs["logits"].ndim == 2 and loss.axis in (1, -1):
        ways = [_rows]
    before = None
    try:
        while best is not before:
            before = best
            for way in ways:
                _least(best, way, still)
        for simpler in _plainer(best):
            still(replace(best, **simpler))
    except _Ended as ended:
        return best, str(ended)
    return best, ""


class _Ended(Exception):
    """The budget is spent."""


def _plainer(case: Case) -> Iterator[dict[str, Any]]:
    """What a case need not have."""
    if case.upstream != 1:
        yield {"upstream": 1.0}
    if (case.upstreams != 1).any():
        yield {"upstreams": np.ones_like(case.upstreams)}
    if case.layout != "contiguous":
        yield {"layout": "contiguous"}


def _least(case: Case, way: Way, still: Callable[[Case], bool]) -> None:
    """Asks whether fewer of them do: parts of those that can go are left out."""
    free = _free(case, way)
    few = 1
    while few * LONG < len(free):  # of very many, a few first: what is left costs less from then on
        candidate = way(case, np.delete(np.arange(_length(case, way)), free[few:]))
        if candidate is not None and still(candidate):
            case, free = candidate, _free(candidate, way)
            break
        few *= 4
    part, least = len(free), KEPT if way is _dimensions else 1
    while part >= 1:
        start = 0
        while start < len(free):
            count = _length(case, way)
            kept = np.delete(np.arange(count), free[start : start + part])
            candidate = way(case, kept) if least <= len(kept) < count else None
            if candidate is not None and still(candidate):
                case, free = candidate, _free(candidate, way)
            else:
                start += part
        part //= 2


def _free(case: Case, way: Way) -> np.ndarray:
    """The rows, classes or dimensions that may be left out: not the class of a sample."""
    count = _length(case, way)
    if way is not _classes or case.labels.ndim == 2:
        return np.arange(count)
    return np.setdiff1d(np.arange(count), case.labels)


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
