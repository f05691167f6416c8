"""`refloss.gradcheck`: a loss's explicit gradients, or yours, against independent witnesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.cases.configurations import default_upstream
from refloss.cases.coverage import reached
from refloss.losses import LOSSES
from refloss.losses.loss import Loss
from refloss.textbook.family import branches_of, derived_at, formula_of, member_of
from refloss.witnesses.batches import sample
from refloss.witnesses.compare import compare, usable
from refloss.witnesses.foreign import described, foreign_gradients, foreign_problem
from refloss.witnesses.problem import Problem, stated
from refloss.witnesses.report import CaseResult, Report
from refloss.witnesses.work import Meter


def gradcheck(
    loss: Any,
    x: Any,
    W: Any,
    labels: Any,
    b: Any = None,
    witnesses: Sequence[str] | None = None,
    upstream: Any = None,
    strict: bool = False,
    rows: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
    seed: int = 0,
) -> Report:
    """Checks every gradient of a loss at these inputs; the report's truth value is the verdict.

    A row's error is measured against its natural scale Σ_j G_j‖∇z_j‖, never absolutely. Each witness bounds its own
    error and abstains where that exceeds 1e-3 of the scale; rows on which all abstain are counted as undecided.

    A loss of your own gets float64 copies, and b as a fourth argument only if you pass one. Its errors are relative to
    each row's own gradient. It is differentiated through its method textbook(xp, x, W, labels, b) → (N,) losses if it
    has one; else only finite differences of its forward can speak, which do not see rows far smaller than the rest.

    Finite differences and complex step go entry by entry. Where all rows of an input would take them too long, they
    look at rows drawn by seed, and the report says which; autograd looks at all. At rows that you choose all look.

    Args:
        loss: a loss of refloss; or any object with forward(x, W, labels[, b]) → a record with ``.loss`` and
            backward(record, upstream) → gradients with ``.x``, ``.W`` …; or a pair (f, gradient) of functions of
            (x, W, labels), of which gradient gets upstream=… if it has that parameter and returns (grad_x, grad_W) or
            a mapping.
        x (N, D): features.
        W (C, D): class weights.
        labels (N,): classes, or soft targets (N, C).
        b (C,): the bias, or None.
        witnesses (list of str): out of "finite_difference", "autograd", "complex_step", all three by default, and
            "ball": proven enclosures (needs python-flint, ``pip install python-flint``).
        upstream (scalar or (N,)): the gradient arriving at the loss; (N,) under reduction="none". By default not 1,
            and of mixed signs where it may be a vector.
        strict (bool): True: the report passes only if every row was decided.
        rows (list of int): the samples whose rows of grad_x are compared, by default all. The loss and every number of
            its gradient stay those of the whole input.
        classes (list of int): the classes whose rows of grad_W, and entries of grad_b, are compared, by default all.
        seed (int): of the rows that are drawn where all would take too long.

    Returns:
        refloss.witnesses.report.Report: the verdict, row by row and witness by witness.

    Raises:
        ValueError: input that the loss refuses, an unknown witness or none, a loss that changes its input, rows or
            classes that are none of the input's.
        TypeError: what is no loss; strict that is neither True nor False; rows or classes that are no whole numbers.

    Example:
        >>> import refloss
        >>> x, W = [[1.0, 2.0, 0.5], [0.3, -1.0, 2.0]], [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]
        >>> bool(refloss.gradcheck(refloss.ArcFace(scale=8), x, W, labels=[0, 1]))
        True
    """
    if not isinstance(strict, (bool, np.bool_)):
        raise TypeError(f"strict must be True or False, got {strict!r}")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise ValueError(f"seed must be an integer ≥ 0, got {seed!r}")
    result = check_input(loss, "your input", x, W, labels, b, witnesses, upstream, rows, classes, int(seed))
    return Report([result], all_branches([loss]), strict)


def gradcheck_cases(cases: Sequence[Any], witnesses: Sequence[str] | None = None) -> Report:
    """One report over many cases (see `refloss.cases.gradcheck`)."""
    return Report([check_case(case, witnesses) for case in cases], all_branches([c.loss for c in cases]))


def check_case(case: Any, witnesses: Sequence[str] | None = None) -> CaseResult:
    """One case's result."""
    return check_input(case.loss, case.name, case.x, case.W, case.labels, case.b, witnesses, case.upstream)


def check_input(
    loss: Any, case: str, x: Any, W: Any, labels: Any, b: Any, witnesses: Sequence[str] | None = None,
    upstream: Any = None, rows: Sequence[int] | None = None, classes: Sequence[int] | None = None, seed: int = 0,
    meter: Meter | None = None,
) -> CaseResult:  # fmt: skip
    """The result of `gradcheck`, under that name; `meter` is told what it will take."""
    compared = {}
    if rows is not None:
        compared["x"] = _chosen(rows, "rows", len(check.features_and_weights(x, W)[0]))
    if classes is not None:
        compared["W"] = compared["b"] = _chosen(classes, "classes", len(check.features_and_weights(x, W)[1]))
    witnesses = usable(witnesses)
    if type(loss) in LOSSES.values():
        member_of(loss)  # says what is missing
    known = isinstance(loss, Loss) and formula_of(loss)
    looking = _Looking(witnesses, compared, None, seed, meter)
    return (_check if known else _check_foreign)(loss, case, x, W, labels, b, upstream, looking)


@dataclass(frozen=True)
class _Looking:
    """Who looks at what: `looked_at` is drawn if None."""

    witnesses: Sequence[str]
    compared: Mapping[str, np.ndarray]
    looked_at: Mapping[str, np.ndarray] | None
    seed: int
    meter: Meter | None

    def plan(self, problem: Problem, witnesses: Sequence[str]) -> None:
        """Tells the problem, and the meter what it will take."""
        problem.compared = {name: rows for name, rows in self.compared.items() if name in problem.inputs}
        problem.looked_at = sample(problem, witnesses, self.seed) if self.looked_at is None else self.looked_at
        if self.meter is not None:
            self.meter.begin(problem, witnesses)


def _chosen(chosen: Sequence[int], name: str, count: int) -> np.ndarray:
    """Sorted, each once."""
    array = np.asarray(chosen)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be a list of whole numbers, got {chosen!r}")
    wrong = [int(i) for i in array if not 0 <= i < count]
    if wrong:
        raise ValueError(f"{name} must lie in 0 … {count - 1}, got {wrong[0]}")
    return np.unique(array.astype(int))


def _as_lists(rows: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    return {name: array.tolist() for name, array in rows.items()}


def _check(loss: Any, case: str, x: Any, W: Any, labels: Any, b: Any, upstream: Any, looking: _Looking) -> CaseResult:
    if upstream is None:
        upstream = default_upstream(loss.reduction, len(x))
    made = None
    with suppress(ValueError, TypeError):  # what a loss refuses it says itself
        made = _stated(loss, x, W, labels, b, upstream)
        looking.plan(made[0], looking.witnesses)
    out = loss.forward(x, W, labels, b)
    grads = loss.backward(out, upstream)
    problem, targets, x, W = made or _stated(loss, x, W, labels, b, upstream)
    problem.measure()
    results = compare(problem, {name: getattr(grads, name) for name in problem.inputs}, looking.witnesses)
    count = None
    if problem.target_angle is not None:
        rows, y = targets.pairs
        count = reached(loss, problem.target_angle.theta[rows], np.asarray(out.probabilities)[rows, y])
    note = ""
    if problem.blind is not None and problem.blind.any():
        at = ", ".join(map(str, np.flatnonzero(problem.blind)[:8]))
        note = f"{case}: no witness can speak of samples at a pole (or a zero row), here {at}; they were set aside"
        rest = ~problem.blind
        if (rest & ~targets.ignored).any():
            part = upstream if np.ndim(upstream) == 0 else np.asarray(upstream)[rest]
            none = {"x": np.arange(0)}  # these were judged above
            again = replace(looking, compared={**problem.compared, **none}, looked_at={**problem.looked_at, **none})
            others = _check(loss, case, x[rest], W, np.asarray(labels)[rest], b, part, again)
            # with them in the batch what is summed over samples can only be refuted (NaN, say)
            results = [i for i in results if i.input == "x" or i.failed]
            results += [i for i in others.inputs if i.input != "x"]
    for result in results:
        result.failures = [replace(f, step=derived_at(loss, f"grad_{f.input}")) for f in result.failures]
    return CaseResult(
        loss.name, case, repr(loss), results, count or reached(loss, np.ones(0), np.ones(0)), note,
        _as_lists(problem.compared), _as_lists(problem.looked_at), looking.seed,
    )  # fmt: skip


def _stated(
    loss: Any, x: Any, W: Any, labels: Any, b: Any, upstream: Any
) -> tuple[Problem, Any, np.ndarray, np.ndarray]:
    """(what is differentiated, before it is measured; targets; x; W)."""
    x, W = check.features_and_weights(x, W)
    targets = check.targets(labels, len(x), len(W), loss)
    b = check.bias(b, len(W), loss)
    return stated(loss, x, W, targets, b, check.real_array(upstream, "upstream")), targets, x, W


def _check_foreign(
    loss: Any, case: str, x: Any, W: Any, labels: Any, b: Any, upstream: Any, looking: _Looking
) -> CaseResult:
    name, made_by = described(loss)
    x, W = check.features_and_weights(x, W)
    labels = np.asarray(labels)
    b = None if b is None else check.real_array(b, "b")
    value, gradients, upstream = foreign_gradients(loss, x, W, labels, b, upstream)
    problem = foreign_problem(loss, x, W, labels, b, upstream, value)
    able = looking.witnesses if problem.runs_everywhere else [w for w in looking.witnesses if w == "finite_difference"]
    looking.plan(problem, able)
    problem.measure()
    note = "errors are relative to each row's own witness gradient: no natural scale is known for a loss of your own"
    return CaseResult(
        name, case, made_by, compare(problem, gradients, able), note=note, compared=_as_lists(problem.compared),
        drawn=_as_lists(problem.looked_at), seed=looking.seed,
    )  # fmt: skip


def all_branches(losses: Sequence[Any]) -> dict[str, list[str]]:
    """loss name → every branch that one of its variants has."""
    wanted: dict[str, list[str]] = {}
    for loss in losses:
        if isinstance(loss, Loss) and formula_of(loss):
            names = wanted.setdefault(loss.name, [])
            names += [name for name in branches_of(loss).names if name not in names]
    return wanted
