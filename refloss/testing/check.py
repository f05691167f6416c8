"""`refloss.testing.check`: somebody's kernel against the truth, case by case and stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.cases.coverage import regimes, wanted
from refloss.cases.oracle import cases as all_cases
from refloss.losses import CrossEntropy
from refloss.losses.loss import Loss
from refloss.precision.dtypes import DTYPES, rounded
from refloss.record import BACKWARD_STAGES
from refloss.testing.adapters import Adapter, Outcome, Takes, UnfitImplementation
from refloss.testing.diagnosis.match import History, Observed, name_the_bug
from refloss.testing.judging.laws import Laws, changed
from refloss.testing.judging.selfcheck import SelfCheck
from refloss.testing.judging.truth import GRADES, Truth, computed_in, truth_on
from refloss.testing.judging.verdict import judge, shape_of, underflow
from refloss.testing.report import CaseResult, Failure, Report, derived_stages
from refloss.testing.reproduce import described, reproducer
from refloss.testing.shrink import smallest_failing
from refloss.textbook.family import member_of
from refloss.validation import one_of


def check(
    implementation: Any,
    loss: Any,
    *,
    dtype: str = "float32",
    framework: str = "numpy",
    cases: str | Sequence[Any] = "all",
    require: str = "C",
    compute: str | None = None,
    device: str | None = None,
    slack: float = 1.0,
    seed: int = 0,
    soft_targets: bool = False,
) -> Report:
    """Checks a kernel, an implementation of a loss, on aimed cases; the report's truth value is the verdict.

    Args:
        implementation: f(x, W, labels), or f(logits, targets) for `refloss.CrossEntropy`, on arrays of the framework;
            gets b, upstream and out by keyword if its signature has that name (b and upstream also by ``**kwargs``).
            Returns a loss, () or (N,), which torch and JAX then differentiate; or a mapping from stage names to
            arrays, any of them. out is a mapping of buffers, full of NaN, to be written instead.
        loss (Loss or CrossEntropy): the refloss object with the kernel's parameters.
        dtype (str): "float64", "float32", "float16" or "bfloat16"; the reference sees the inputs rounded to it.
        framework (str): "numpy", "torch" or "jax".
        cases: "all", "quick", names, or `Case` objects of your own.
        require (str): the worst grade that passes: "A", one unit in the last place; "B", a stable formula; "C", the
            textbook formula, both in compute; "D", the textbook formula in dtype throughout.
        compute (str): the dtype that A to C are computed in: float32 for 16 bits by default, else dtype itself.
        device (str): where the framework's arrays live.
        slack (float): times what a formula may err by; 1 by default, and no other tolerance can be set.
        seed (int): of the cases' random parts.
        soft_targets (bool): cases with soft targets (N, C) in place of labels.

    Returns:
        Report: verdict, grade, first divergent stage, suspects, reproducer.

    Raises:
        ValueError, TypeError: in one line, for a call that cannot be: an unknown dtype, grade, framework, case or stage
            name, a framework that is not installed, a kernel that does not take these arguments. What the
            kernel itself raises is a failure in the report.

    Example:
        >>> import refloss
        >>> loss = refloss.ArcFace(scale=16)
        >>> def kernel(x, W, labels, upstream=1.0):
        ...     out = loss.forward(x, W, labels)
        ...     grads = loss.backward(out, upstream)
        ...     return {"loss": out.loss, "grad_x": grads.x, "grad_W": grads.W}
        >>> check(kernel, loss, dtype="float64", cases="quick").grade
        'A'
    """
    return Checker(
        implementation, loss, dtype=dtype, framework=framework, cases=cases, require=require, compute=compute,
        device=device, slack=slack, seed=seed, soft_targets=soft_targets,
    ).report()  # fmt: skip


def assert_matches(implementation: Any, loss: Any, **options: Any) -> None:
    """`refloss.testing.check`, for a test.

    Args:
        implementation: as `refloss.testing.check` takes it.
        loss (Loss or CrossEntropy): the refloss object with the kernel's parameters.
        **options: of `refloss.testing.check`.

    Raises:
        MismatchError: an AssertionError with the report in it, unless the check passed.
        ValueError, TypeError: as `refloss.testing.check`.

    Example:
        >>> import refloss
        >>> def kernel(logits, targets):
        ...     return {"loss": refloss.CrossEntropy().forward(logits, targets).loss}
        >>> assert_matches(kernel, refloss.CrossEntropy(), dtype="float64", cases=["typical"])
    """
    check(implementation, loss, **options).raise_if_failed()


class Checker:
    """One check. `run()` yields as cases are done, so that a caller may show how far it is; `report()` is the end."""

    def __init__(
        self, kernel: Any, loss: Any, *, dtype: str, framework: str, cases: Any, require: str,
        compute: str | None, device: str | None, slack: float, seed: int, soft_targets: bool,
        shared: dict[Any, Truth] | None = None,
    ) -> None:  # fmt: skip
        one_of(dtype, "dtype", tuple(DTYPES))
        one_of(require, "require", tuple(GRADES))
        if compute is not None:
            one_of(compute, "compute", tuple(DTYPES))
            if DTYPES[compute].digits < DTYPES[dtype].digits:
                raise ValueError(f"compute must be no coarser than dtype, got {compute!r} for {dtype!r}")
        if not (isinstance(slack, (int, float)) and not isinstance(slack, bool) and 0 < slack < np.inf):
            raise ValueError(f"slack must be a positive number, got {slack!r}")
        if not (isinstance(seed, (int, np.integer)) and seed >= 0):
            raise ValueError(f"seed must be an integer ≥ 0, got {seed!r}")
        if isinstance(loss, type):
            raise TypeError(f"loss must be an object, got the class {loss.__name__}: pass {loss.__name__}(…)")
        if not isinstance(loss, CrossEntropy):
            if not isinstance(loss, Loss):
                raise TypeError(f"loss must be one of refloss, got {type(loss).__name__}")
            member_of(loss)  # says what is missing
        self.kernel, self.loss, self.slack = kernel, replace(loss, precision="double"), float(slack)
        self.adapter = Adapter(framework, dtype, device)
        self.takes: Takes = self.adapter.signature(kernel, bare=isinstance(loss, CrossEntropy))
        self.cases = [self._fitting(case) for case in _chosen(cases, self.loss, dtype, seed, soft_targets)]
        self.found = Report(
            described(self.loss), _name_of(kernel), dtype, compute or computed_in(dtype), framework, require,
            derived=derived_stages(self.loss), chosen="quick " if cases == "quick" else "",
        )  # fmt: skip
        self.self_check, self.laws = SelfCheck(require), Laws(require)
        self.coverage, self.underflow = Counter[str](), Counter[str]()
        self.observed: list[Observed] = []
        self.history = History()
        self.upstream_is_one = False
        self.shared = shared  # truths by case, for those who check several kernels

    def run(self) -> Iterator[CaseResult]:
        """Every case, one after the other."""
        for case in self.cases:
            self.found.results.append(self._one(case))
            yield self.found.results[-1]

    def report(self) -> Report:
        """The report; runs every case unless that was done."""
        report = self.found
        if not report.results:
            list(self.run())
        report.coverage, report.underflow = dict(self.coverage), dict(self.underflow)
        report.not_reached = [name for name in wanted(self.loss) if not self.coverage[name]]
        report.laws = {law: (held, tried, first) for law, (held, tried, first) in self.laws.seen.items()}
        report.void, report.not_checked = self.self_check.void, self.self_check.not_checked()
        report.oracle_faults, report.advice = self.self_check.faults, self.self_check.advice
        report.notes = self._notes()
        if report.failures and not report.oracle_faults:
            # what 16 bits explain is no bug to be named
            grade = report.require if report.compute == report.dtype else max(report.require, "D")
            if any(o.failed for o in self.observed):
                report.suspects = name_the_bug(self.loss, self.observed, grade)
            case, whole, failure = smallest_failing(self.loss, self.cases, report, self.judged)
            report.shrunk = f"{case.name}, {shape_of(case)}"
            options = {name: getattr(report, name) for name in ("dtype", "framework", "require")}
            report.reproducer = reproducer(self.kernel, self.loss, case, whole, options, failure)
        return report

    def _notes(self) -> list[str]:
        notes = []
        if self.upstream_is_one:
            notes.append("the kernel takes no upstream and returns its own gradients: only upstream 1 was tried")
        if getattr(self.loss, "has_bias", False) and not self.takes.b:
            notes.append("the kernel takes no b: no case has a bias")
        told = Counter(words for result in self.found.results for words in result.notes)
        notes += [f"{words} (in {count} case{'s' if count > 1 else ''}; no failure)" for words, count in told.items()]
        seen = {stage for result in self.found.results for stage in result.grades}
        if "losses" in seen and "loss" not in seen and self.loss.reduction != "none":
            notes.append(
                f"one loss per sample came back and was checked as `losses`: reduction={self.loss.reduction!r} was not"
            )
        if seen and not seen & set(BACKWARD_STAGES):
            notes.append("no gradient came back: only values were checked")
        return notes

    # -- one case ----------------------------------------------------------------------------------

    def judged(self, case: Case) -> CaseResult:
        """One case without the questions about the oracle, and without a second call."""
        outcome = self._call(case)
        return judge(self._truth(case, outcome), case, outcome, self.found.require)[0]

    def _one(self, case: Case) -> CaseResult:
        outcome = self._call(case)
        truth = self._truth(case, outcome)
        result, got = judge(truth, case, outcome, self.found.require)
        self.laws.of_one_call(case.name, truth, got)
        self.underflow.update(underflow(truth, got))
        self.self_check.add(case.name, truth, got)
        if not any(f.kind == "exception" for f in result.failures):
            self._again(case, outcome, truth, result)
        self.coverage.update(case.flags)
        self.coverage.update(regimes(self.loss, truth.out, case.labels))
        if got:
            failed = any(f.kind in ("value", "nan", "inf") and f.grade == "F" for f in result.failures)
            self.observed.append(Observed(case.name, truth, got, failed, self.history.before(truth.plain)))
        return result

    def _again(self, case: Case, outcome: Outcome, truth: Truth, result: CaseResult) -> None:
        """A second call must give the same bits; with twice the upstream, twice the gradient."""
        result.failures += changed(case.name, outcome, self._call(case))
        if not (case.quick and (self.takes.upstream or outcome.differentiated)):
            return
        doubled = self._call(case, scale=2.0)
        stages = BACKWARD_STAGES if self.takes.upstream else outcome.differentiated
        broken = self.laws.of_twice_the_upstream(case.name, truth, outcome, doubled, stages)
        if broken and not any(f.stage == broken for f in result.failures):
            words = f"{broken} is not linear in what arrives: twice the upstream does not give twice the gradient"
            result.failures.append(Failure(case.name, broken, "law", words))

    def _call(self, case: Case, scale: float = 1.0) -> Outcome:
        shapes = None
        if self.takes.out:
            bare, unreduced = isinstance(self.loss, CrossEntropy), self.loss.reduction == "none"
            owed = ("losses" if unreduced else "loss", *(["grad_logits"] if bare else ["grad_x", "grad_W", "grad_b"]))
            stages = self._truth(case, None).stages
            shapes = {name: np.shape(stages[name]) for name in owed if name in stages}
        return self.adapter.call(
            self.kernel, case, self.takes, per_sample=self.loss.reduction == "none", out_shapes=shapes,
            upstream_scale=scale,
        )  # fmt: skip

    def _truth(self, case: Case, outcome: Outcome | None) -> Truth:
        """What is due for the loss as the kernel reduces it, with what arrives at it."""
        loss = self.loss
        if outcome is not None and outcome.reduced == "losses" and outcome.differentiated:
            loss = replace(loss, reduction="none")  # losses came back, and were differentiated one by one
        upstream: Any = case.upstreams if loss.reduction == "none" else np.float64(case.upstream)
        own = outcome is not None and any(
            s in BACKWARD_STAGES and s not in outcome.differentiated for s in outcome.stages
        )
        if own and not self.takes.upstream:
            self.upstream_is_one = True
            upstream = np.ones_like(upstream)
        key = (case.name, tuple(case.inputs), loss.reduction, np.asarray(upstream).tobytes())
        if self.shared is not None and key in self.shared:
            return self.shared[key]
        found = truth_on(loss, case.inputs, case.labels, upstream, self.found.dtype, self.found.compute, self.slack)
        if self.shared is not None:
            self.shared[key] = found
        return found

    def _fitting(self, case: Case) -> Case:
        """Without the bias that the kernel does not take."""
        if "b" not in case.inputs or self.takes.b:
            return case
        return replace(case, inputs={name: v for name, v in case.inputs.items() if name != "b"})


# -- helpers ---------------------------------------------------------------------------------------


def _chosen(chosen: Any, loss: Any, dtype: str, seed: int, soft: bool) -> list[Case]:
    own = not isinstance(chosen, str) and isinstance(chosen, Sequence) and chosen
    if own and all(isinstance(case, Case) for case in chosen):
        return [_rounded(case, dtype) for case in chosen]
    every = all_cases(loss, dtype, seed, soft)
    if isinstance(chosen, str) and chosen in ("all", "quick"):
        return [case for case in every if chosen == "all" or case.quick]
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    known = {case.name: case for case in every}
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"cases must be 'all', 'quick', names or Case objects; unknown for this loss: {', '.join(unknown)}; "
            f"there are {', '.join(known)}"
        )
    return [known[name] for name in names]


def _rounded(case: Case, dtype: str) -> Case:
    """A user's case with its numbers as the dtype holds them."""
    kind = DTYPES[dtype]
    inputs = {name: rounded(value, kind) for name, value in case.inputs.items()}
    labels = np.asarray(case.labels)
    labels = rounded(labels, kind) if labels.dtype.kind == "f" else labels.astype(np.int64)
    return replace(case, inputs=inputs, labels=labels, upstream=float(rounded(np.asarray(case.upstream), kind)),
                   upstreams=rounded(case.upstreams, kind))  # fmt: skip


def _name_of(kernel: Any) -> str:
    return getattr(kernel, "__qualname__", None) or type(kernel).__name__


__all__ = ["Checker", "UnfitImplementation", "assert_matches", "check"]
