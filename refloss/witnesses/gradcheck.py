"""`refloss.gradcheck`: a loss's explicit gradients, or yours, against independent witnesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.cases.configurations import default_upstream
from refloss.cases.coverage import reached
from refloss.losses import LOSSES
from refloss.losses.loss import Loss
from refloss.textbook.family import branches_of, derived_at, formula_of, member_of
from refloss.witnesses.compare import compare, usable
from refloss.witnesses.foreign import described, foreign_gradients, foreign_problem
from refloss.witnesses.problem import loss_problem
from refloss.witnesses.report import CaseResult, Report


def gradcheck(
    loss: Any,
    x: Any,
    W: Any,
    labels: Any,
    b: Any = None,
    witnesses: Sequence[str] | None = None,
    upstream: Any = None,
    strict: bool = False,
) -> Report:
    """Checks every gradient of a loss at these inputs; the report's truth value is the verdict.

    A row's error is measured against its natural scale Σ_j G_j‖∇z_j‖, never absolutely. Each witness bounds its own
    error and abstains where that exceeds 1e-3 of the scale; rows on which all abstain are counted as undecided.

    A loss of your own gets float64 copies, and b as a fourth argument only if you pass one. Its errors are relative to
    each row's own gradient. It is differentiated through its method textbook(xp, x, W, labels, b) → (N,) losses if it
    has one; else only finite differences of its forward can speak, which do not see rows far smaller than the rest.

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
            "ball": proven enclosures (needs python-flint, ``pip install refloss[certify]``).
        upstream (scalar or (N,)): the gradient arriving at the loss; (N,) under reduction="none". By default not 1,
            and of mixed signs where it may be a vector.
        strict (bool): True: the report passes only if every row was decided.

    Returns:
        refloss.witnesses.report.Report: the verdict, row by row and witness by witness.

    Raises:
        ValueError: input that the loss refuses, an unknown witness or none, a loss that changes its input.
        TypeError: what is no loss; strict that is neither True nor False.

    Example:
        >>> import refloss
        >>> x, W = [[1.0, 2.0, 0.5], [0.3, -1.0, 2.0]], [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]
        >>> bool(refloss.gradcheck(refloss.ArcFace(scale=8), x, W, labels=[0, 1]))
        True
    """
    if not isinstance(strict, (bool, np.bool_)):
        raise TypeError(f"strict must be True or False, got {strict!r}")
    result = _check(loss, "your input", x, W, labels, b, witnesses, upstream)
    return Report([result], all_branches([loss]), strict)


def gradcheck_cases(cases: Sequence[Any], witnesses: Sequence[str] | None = None) -> Report:
    """One report over many cases (see `refloss.cases.gradcheck`)."""
    return Report([check_case(case, witnesses) for case in cases], all_branches([c.loss for c in cases]))


def check_case(case: Any, witnesses: Sequence[str] | None = None) -> CaseResult:
    """One case's result."""
    return _check(case.loss, case.name, case.x, case.W, case.labels, case.b, witnesses, case.upstream)


def _check(
    loss: Any, case: str, x: Any, W: Any, labels: Any, b: Any, witnesses: Sequence[str] | None, upstream: Any
) -> CaseResult:
    witnesses = usable(witnesses)
    if type(loss) in LOSSES.values():
        member_of(loss)  # says what is missing
    if not (isinstance(loss, Loss) and formula_of(loss)):
        return _check_foreign(loss, case, x, W, labels, b, witnesses, upstream)
    if upstream is None:
        upstream = default_upstream(loss.reduction, len(x))
    out = loss.forward(x, W, labels, b)
    grads = loss.backward(out, upstream)
    x, W = check.features_and_weights(x, W)
    targets = check.targets(labels, len(x), len(W), loss)
    b = check.bias(b, len(W), loss)
    problem = loss_problem(loss, x, W, targets, b, check.real_array(upstream, "upstream"))
    results = compare(problem, {name: getattr(grads, name) for name in problem.inputs}, witnesses)
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
            again = _check(loss, case, x[rest], W, np.asarray(labels)[rest], b, witnesses, part)
            # with them in the batch what is summed over samples can only be refuted (NaN, say)
            results = [i for i in results if i.input == "x" or i.failed]
            results += [i for i in again.inputs if i.input != "x"]
    for result in results:
        result.failures = [replace(f, step=derived_at(loss, f"grad_{f.input}")) for f in result.failures]
    return CaseResult(loss.name, case, repr(loss), results, count or reached(loss, np.ones(0), np.ones(0)), note)


def _check_foreign(
    loss: Any, case: str, x: Any, W: Any, labels: Any, b: Any, witnesses: Sequence[str], upstream: Any
) -> CaseResult:
    name, made_by = described(loss)
    x, W = check.features_and_weights(x, W)
    labels = np.asarray(labels)
    b = None if b is None else check.real_array(b, "b")
    value, gradients, upstream = foreign_gradients(loss, x, W, labels, b, upstream)
    problem = foreign_problem(loss, x, W, labels, b, upstream, value)
    able = witnesses if problem.runs_everywhere else [w for w in witnesses if w == "finite_difference"]
    note = "errors are relative to each row's own witness gradient: no natural scale is known for a loss of your own"
    return CaseResult(name, case, made_by, compare(problem, gradients, able), note=note)


def all_branches(losses: Sequence[Any]) -> dict[str, list[str]]:
    """loss name → every branch that one of its variants has."""
    wanted: dict[str, list[str]] = {}
    for loss in losses:
        if isinstance(loss, Loss) and formula_of(loss):
            names = wanted.setdefault(loss.name, [])
            names += [name for name in branches_of(loss).names if name not in names]
    return wanted
