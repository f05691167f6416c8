"""`refloss.testing.check`: somebody's kernel against the truth, case by case and stage by stage."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss import __version__
from refloss.cases.case import Case
from refloss.cases.coverage import regimes, wanted
from refloss.cases.oracle import cases as all_cases
from refloss.losses import CrossEntropy
from refloss.losses.loss import Loss
from refloss.precision.dtypes import DTYPES, rounded
from refloss.record import BACKWARD_STAGES
from refloss.testing.adapters import LOST, Adapter, Framework, Outcome, Problem, Takes, UnfitImplementation
from refloss.testing.ahead import Ahead
from refloss.testing.diagnosis.facts import biases, facts_of
from refloss.testing.diagnosis.match import History, Observed, name_the_bug
from refloss.testing.diagnosis.rows import arrows_of, rows_of
from refloss.testing.isolation import ONLY_ISOLATED, IsolatedAdapter
from refloss.testing.judging.directions import directions, second_derivatives, tangent
from refloss.testing.judging.laws import Laws, changed, offset
from refloss.testing.judging.selfcheck import SelfCheck
from refloss.testing.judging.truth import Truth, computed_in, required, truth_on
from refloss.testing.judging.verdict import judge, shape_of, underflow
from refloss.testing.report import CaseResult, Failure, Report, derived_stages
from refloss.testing.reproduce import described, reproducer
from refloss.testing.shrink import smallest_failing
from refloss.textbook.family import member_of
from refloss.validation import one_of

OFFSET = {"typical", "masked"}  # flags of the quick cases on which a common offset is tried


def check(
    implementation: Any,
    loss: Any,
    *,
    dtype: str = "float32",
    framework: str | Framework = "numpy",
    cases: str | Sequence[Any] = "all",
    require: str | Mapping[str, str] | None = None,
    compute: str | None = None,
    device: str | None = None,
    slack: float = 1.0,
    seed: int = 0,
    soft_targets: bool = False,
    isolated: bool = False,
    time_limit: float = 60.0,
    memory_limit: float = 4096.0,
    arguments: Mapping[str, str] | None = None,
    returns: int | None = None,
    mutates: Sequence[str] = (),
    deterministic: bool = True,
    without: Sequence[str] = (),
    second: bool = False,
    forward_mode: bool = False,
) -> Report:
    """Checks a kernel, an implementation of a loss, on aimed cases; the report's truth value is the verdict.

    Args:
        implementation: f(x, W, labels), or f(logits, targets) for `refloss.CrossEntropy`, on arrays of the framework;
            gets b, upstream and out by keyword if its signature has that name (b and upstream also by ``**kwargs``);
            a b without default always, zeros where there is no bias.
            Returns a loss, () or (N,), which torch and JAX then differentiate; or a mapping from stage names to
            arrays, any of them. out is a mapping of buffers, full of NaN, to be written instead.
        loss (Loss or CrossEntropy): the refloss object with the kernel's parameters.
        dtype (str): "float64", "float32", "float16" or "bfloat16"; the reference sees the inputs rounded to it.
        framework (str or Framework): "numpy", "torch" or "jax"; or one of your own, itself or "FILE.py:NAME" of it.
        cases: "all", "quick", names, or `Case` objects of your own.
        require: the worst grade that passes: "A", one unit in the last place; "B", a stable formula; "C", the textbook
            formula, both in compute; "D", that with what the steps hand on stored in dtype; "E", the textbook formula
            in dtype throughout. By default "D" for 16 bits, else "C". Or a mapping from stages to grades.
        compute (str): the dtype that A to C are computed in: float32 for 16 bits by default, else dtype itself.
        device (str): where the framework's arrays live.
        slack (float): times what a formula may err by; 1 by default, and no other tolerance can be set.
        seed (int): of the cases' random parts.
        soft_targets (bool): cases with soft targets (N, C) in place of labels.
        isolated (bool): run the kernel in a process of its own, as the command line does: a kernel that exits, crashes,
            hangs or changes what is around it is a failure in the report. It is found there by its name: a function
            of a module or file, or "FILE.py:FUNCTION".
        time_limit (float): seconds for each call of an isolated kernel, and for the import of its file.
        memory_limit (float): MiB that an isolated kernel may take besides what its framework takes (on Linux).
        arguments (mapping): the kernel's names for x, W, labels (or logits, labels), b, upstream, out, as in
            ``{"b": "bias", "labels": "target"}``; where the kernel takes no names, their order is that of the mapping.
        returns (int): which of the tuple that comes back is the result.
        mutates (list of str): arguments that the kernel may overwrite, such as ``["logits"]``.
        deterministic (bool): False: sums may come in varying order; two calls are judged each by the truth, and not
            against each other bit by bit.
        without (list of str): families of cases, by their flag, that the kernel was not made for; the report says so.
        second (bool): second derivatives too, through the backward of torch or JAX, against central differences of
            the reference's gradients.
        forward_mode (bool): the loss's derivative along directions too, by forward mode of torch or JAX.

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
        device=device, slack=slack, seed=seed, soft_targets=soft_targets, isolated=isolated, time_limit=time_limit,
        memory_limit=memory_limit, arguments=arguments, returns=returns, mutates=mutates, deterministic=deterministic,
        without=without, second=second, forward_mode=forward_mode,
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


class Asked:
    """What a check is asked for, without its kernel: its arguments refused in words, or settled, and its cases."""

    def __init__(
        self, loss: Any, dtype: str = "float32", cases: Any = "all", require: Any = None, compute: str | None = None,
        slack: float = 1.0, seed: int = 0, soft_targets: bool = False, without: Sequence[str] = (),
    ) -> None:  # fmt: skip
        one_of(dtype, "dtype", tuple(DTYPES))
        self.require = required(require, dtype)
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
        self.loss = replace(loss, precision="double")
        chosen = _chosen(cases, self.loss, dtype, seed, soft_targets)
        grades = {self.require} if isinstance(self.require, str) else set(self.require.values())
        every = len(chosen)
        if isinstance(cases, str) and ("E" in grades or (compute or computed_in(dtype)) == dtype):
            chosen = [case for case in chosen if "float32_inside" not in case.flags]
        self.not_owed = every - len(chosen)  # cases that need more than 16 bits inside
        self.cases = _without(without, chosen, lambda: all_cases(self.loss, dtype, seed, soft_targets))
        self.left_out = len(chosen) - len(self.cases)  # by `without`


class Checker:
    """One check. `run()` yields as cases are done, so that a caller may show how far it is; `report()` is the end."""

    def __init__(
        self, kernel: Any, loss: Any, *, dtype: str, framework: str | Framework, cases: Any, require: Any,
        compute: str | None, device: str | None, slack: float, seed: int, soft_targets: bool,
        shared: dict[Any, Truth] | None = None, isolated: bool = False, time_limit: float = 60.0,
        memory_limit: float = 4096.0, arguments: Mapping[str, str] | None = None, returns: int | None = None,
        mutates: Sequence[str] = (), deterministic: bool = True, without: Sequence[str] = (),
        second: bool = False, forward_mode: bool = False, jobs: int = 1, adapter: Adapter | None = None,
    ) -> None:  # fmt: skip
        asked = Asked(loss, dtype, cases, require, compute, slack, seed, soft_targets, without)
        self.require = asked.require
        switches = {"deterministic": deterministic, "second": second, "forward_mode": forward_mode}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        self.kernel, self.loss, self.slack = kernel, asked.loss, float(slack)
        self.device, self.seed, self.soft_targets = device, int(seed), soft_targets
        self.not_owed, self.left_out = asked.not_owed, asked.left_out
        bare = isinstance(loss, CrossEntropy)
        self.adapter: Adapter | IsolatedAdapter
        if isolated:
            self.adapter = IsolatedAdapter(
                kernel, bare, framework, dtype, device, time_limit, memory_limit, arguments, returns, mutates
            )
            self.kernel = self.adapter.kernel
        else:
            self.adapter = Adapter(framework, dtype, device) if adapter is None else adapter
        self.takes: Takes = self.adapter.signature(kernel, bare, arguments, returns, mutates)
        self.framework, named = framework, framework.name if isinstance(framework, Framework) else framework
        self.left_open = 0  # units whose second derivatives central differences do not give
        self.cases = [self._fitting(case) for case in asked.cases]
        self.deterministic, self.second, self.forward_mode = deterministic, second, forward_mode
        for name in ("second", "forward_mode"):
            if switches[name] and (self.takes.out or framework not in ("torch", "jax")):
                where = "a kernel that writes into out" if self.takes.out else f"framework {named!r}"
                raise ValueError(f"{name} needs a loss that torch or jax differentiates, and is not for {where}")
        declared: dict[str, Any] = {"arguments": arguments, "returns": returns, "mutates": self.takes.mutates,
                                    **switches, "without": _names(without)}  # fmt: skip
        self.declared = {name: value for name, value in declared.items()
                         if not (value is None or value == () or value is (name == "deterministic"))}  # fmt: skip
        self.found = Report(
            described(self.loss), _name_of(self.kernel), dtype, compute or computed_in(dtype), named,
            self.require if isinstance(self.require, str) else dict(require),
            derived=derived_stages(self.loss), chosen="quick " if cases == "quick" else "", seed=int(seed),
            versions=_versions(named),
        )  # fmt: skip
        self.self_check, self.laws = SelfCheck(self.require), Laws(self.require)
        self.coverage, self.underflow = Counter[str](), Counter[str]()
        self.observed: list[Observed] = []
        self.ran: list[Case] = []  # in step with the report's results
        self.history = History()
        self.upstream_is_one = False
        self.before: Case | None = None  # the case whose calls came last
        self.shared = shared  # truths by case, for those who check several kernels
        self.jobs = jobs  # processes that compute truths; 1: this one
        self.ahead: Ahead | None = None

    def run(self) -> Iterator[CaseResult]:
        """Every case, one after the other."""
        self.ahead = Ahead(self.jobs) if self.jobs > 1 else None
        try:
            for case in self.cases:
                result = self.on(case)
                if case is self.cases[-1]:
                    self.finish()
                if self.ahead is not None:
                    self.ahead.done(case.name)
                yield result
        finally:
            if self.ahead is not None:
                self.ahead.close()
            self.ahead = None

    def on(self, case: Case) -> CaseResult:
        """One of the cases."""
        self.found.results.append(self._one(case))
        self.ran.append(case)
        return self.found.results[-1]

    def finish(self) -> list[Failure]:
        """What is wrong after the last call, which goes to the last case."""
        wrong = _failures(self.ran[-1], self.adapter.finish())
        self.found.results[-1].failures += wrong
        return wrong

    def of_one(self, result: CaseResult, closely: bool) -> Report:
        """A report of one case alone that ran; closely: with suspects, and the smallest input that still fails."""
        report = replace(self.found, results=[result], facts=[], suspects=[], notes=[])
        at = next(i for i, other in enumerate(self.found.results) if other is result)
        self._explain(report, [self.ran[at]], [o for o in self.observed if o.case == result.name], closely)
        return report

    def report(self) -> Report:
        """The report of the cases that ran; runs every one unless some did."""
        report = self.found
        if not report.results:
            list(self.run())
        report.coverage, report.underflow = dict(self.coverage), dict(self.underflow)
        report.not_reached = [name for name in wanted(self.loss) if not self.coverage[name]]
        report.laws = {law: (held, tried, first) for law, (held, tried, first) in self.laws.seen.items()}
        report.void, report.not_checked = self.self_check.void, self.self_check.not_checked()
        report.oracle_faults, report.advice = self.self_check.faults, self.self_check.advice
        report.notes = self._notes()
        report.rows, report.arrows = rows_of(self.observed, self.require), arrows_of(self.observed, self.require)
        self._explain(report, self.ran, self.observed)
        self.adapter.close()
        report.notes += self.adapter.notes
        return report

    def _explain(
        self, report: Report, cases: Sequence[Case], observed: Sequence[Observed], closely: bool = True
    ) -> None:
        """Facts, suspects and reproducer of what failed on these cases."""
        if report.failures and not report.oracle_faults:
            lost = sum(any(f.kind in LOST for f in result.failures) for result in report.results)
            # of a kernel that raised in most cases too little is known
            if closely and any(o.failed for o in observed) and 2 * lost <= len(report.results):
                report.suspects = name_the_bug(self.loss, observed, self.require)
            bug_known = bool(report.suspects) and report.suspects[0].match == 1.0
            report.facts = facts_of(cases, report.results, observed, self.require, bug_known)
            judged = self.judged if closely else None
            case, whole, failure, ended = smallest_failing(self.loss, cases, report, judged)
            report.shrunk = f"{case.name}, {shape_of(case)}{f'; {ended}' if ended else ''}"
            options = self._unusual()
            options |= {name: value for name, value in self.declared.items() if name != "without"}
            if isinstance(self.adapter, IsolatedAdapter) and failure.kind in ONLY_ISOLATED:
                options |= self.adapter.asked
            report.reproducer = reproducer(self.kernel, self.loss, case, whole, options, failure)

    def _unusual(self) -> dict[str, Any]:
        """The options of `check` that are not as they are by default."""
        report = self.found
        usual = {"dtype": "float32", "framework": "numpy", "device": None, "slack": 1.0, "seed": 0,
                 "soft_targets": False, "require": required(None, report.dtype),
                 "compute": computed_in(report.dtype)}  # fmt: skip
        given = {name: getattr(report, name) for name in ("dtype", "require", "compute")}
        given |= {name: getattr(self, name) for name in ("framework", "device", "slack", "seed", "soft_targets")}
        return {name: value for name, value in given.items() if value != usual[name]}

    def _notes(self) -> list[str]:
        notes = [fact.sentence for fact in biases(self.observed)]
        if self.upstream_is_one:
            notes.append("the kernel takes no upstream and returns its own gradients: only upstream 1 was tried")
        if getattr(self.loss, "has_bias", False) and not self.takes.b:
            notes.append("the kernel takes no b: no case has a bias")
        told = Counter(words for result in self.found.results for words in result.notes)
        notes += [f"{words} (in {count} case{'s' if count > 1 else ''}; no failure)" for words, count in told.items()]
        if self.takes.needs_b and not getattr(self.loss, "has_bias", False):
            notes.append("the kernel needs b and this loss has none: it was given zeros, and its grad_b was not judged")
        if "without" in self.declared:
            notes.append(f"left out: cases flagged {' or '.join(self.declared['without'])} ({self.left_out})")
        if self.not_owed:
            notes.append(f"left out: cases that need more than 16 bits inside, not asked for ({self.not_owed})")
        if self.takes.mutates:
            notes.append(f"declared: the kernel may overwrite {', '.join(self.takes.mutates)}")
        if self.left_open:
            notes.append(f"second derivatives: {self.left_open} rows left open, next to where the gradient bends")
        if not self.deterministic:
            notes.append("declared: not deterministic; two calls were judged each, not compared bit by bit")
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
        return judge(self._truth(case, outcome), case, outcome, self.require)[0]

    def _one(self, case: Case) -> CaseResult:
        if self.adapter.stopped:
            whole = "losses" if self.loss.reduction == "none" else "loss"
            failure = Failure(case.name, whole, "not_run", self.adapter.stopped)
            return CaseResult(case.name, case.reason, case.flags, shape_of(case), failures=[failure])
        outcome = self._call(case)
        if self.ahead is not None:  # what is due of this kernel is most likely due in the cases to come as well
            done = len(self.found.results)
            for later in self.cases[done : done + 1 + self.ahead.reach]:
                self.ahead.expect(later.name, *self._due(later, outcome))
        truth = self._truth(case, outcome)
        result, got = judge(truth, case, outcome, self.require)
        self.laws.of_one_call(case.name, truth, got)
        self.underflow.update(underflow(truth, got))
        self.self_check.add(case.name, truth, got)
        if not any(f.kind in LOST for f in result.failures):
            self._again(case, outcome, truth, result)
            self._offset(case, result)
            self._along(case, outcome, truth, result)
        self.coverage.update(case.flags)
        self.coverage.update(regimes(self.loss, truth.out, case.labels))
        if got:
            failed = any(f.kind in ("value", "nan", "inf") and f.grade == "F" for f in result.failures)
            self.observed.append(Observed(case.name, truth, got, failed, self.history.before(truth.plain)))
        return result

    def _again(self, case: Case, outcome: Outcome, truth: Truth, result: CaseResult) -> None:
        """A second call must give the same bits, whatever was called meanwhile; twice the upstream, twice as much.

        On quick cases the kernel is called with the case before, of other shapes, between that call's forward and
        its backward.
        """
        meanwhile, self.before = self.before, case
        between = meanwhile if case.quick and not self.takes.out else None
        second = self._call(case, between=between)
        result.failures += _failures(case, second.problems, outcome.problems)
        if any(problem.kind in LOST for problem in second.problems):
            return
        if self.deterministic:
            moved = changed(case.name, outcome, second)
            if moved and between is not None and not changed(case.name, outcome, self._call(case)):
                words = f" when a call on {shape_of(between)} lies between: something is kept from call to call"
                moved = [replace(failure, message=failure.message + words) for failure in moved]
            result.failures += moved
        else:
            other, _ = judge(truth, case, second, self.require)
            seen = {(f.stage, f.kind) for f in result.failures}
            result.failures += [f for f in other.failures if (f.stage, f.kind) not in seen]
            for stage, grade in other.grades.items():
                result.grades[stage] = max(grade, result.grades.get(stage, grade))
            for stage, ratio in other.ratios.items():
                result.ratios[stage] = max(ratio, result.ratios.get(stage, ratio))
        if not (case.quick and (self.takes.upstream or outcome.differentiated)):
            return
        doubled = self._call(case, scale=2.0)
        result.failures += _failures(case, doubled.problems, outcome.problems, second.problems)
        if any(problem.kind in LOST for problem in doubled.problems):
            return
        stages = BACKWARD_STAGES if self.takes.upstream else outcome.differentiated
        broken = self.laws.of_twice_the_upstream(case.name, truth, outcome, doubled, stages)
        if broken and not any(f.stage == broken for f in result.failures):
            words = f"{broken} is not linear in what arrives: twice the upstream does not give twice the gradient"
            result.failures.append(Failure(case.name, broken, "law", words))

    def _offset(self, case: Case, result: CaseResult) -> None:
        """A common offset of all logits changes neither loss nor gradient; tried on a few quick cases."""
        ways = offset(case, DTYPES[self.found.dtype]) if case.quick and OFFSET & set(case.flags) else None
        if ways is None:
            return
        without, shifted = (self._call(way) for way in ways)
        if any(problem.kind in LOST for call in (without, shifted) for problem in call.problems):
            return  # a failure of the case itself says so
        broken, grade = self.laws.of_an_offset(case.name, self._truth(ways[1], shifted), without, shifted)
        if broken and not any(f.stage == broken for f in result.failures):
            words = f"{broken} changes with a common offset of all logits ({ways[1].name})"
            result.failures.append(Failure(case.name, broken, "law", words, grade))
            result.grades[broken] = max(grade, result.grades.get(broken, grade))

    def _along(self, case: Case, outcome: Outcome, truth: Truth, result: CaseResult) -> None:
        """Forward mode and second derivatives, along fixed directions."""
        if not (self.second or self.forward_mode) or case.layout.startswith("frozen_") or outcome.reduced is None:
            return
        per_sample = self.loss.reduction == "none"
        if np.shape(truth.upstream) == () and not per_sample:
            case = replace(case, upstream=float(truth.upstream))
        for way in directions(truth):
            for asked, second in ((self.forward_mode, False), (self.second, True)):
                if not asked:
                    continue
                found, raised = self.adapter.along(
                    self.kernel, case, self.takes, way, per_sample=per_sample, second=second
                )
                if raised:
                    kind, words = "exception", f"{'second derivatives' if second else 'forward mode'}: {raised}"
                elif second:
                    kind, (words, left_open) = "law", second_derivatives(truth, way, found)
                    self.left_open += left_open
                else:
                    kind, words = "law", tangent(truth, way, found["loss"])
                if words and not any((f.kind, f.stage) == (kind, outcome.reduced) for f in result.failures):
                    result.failures.append(Failure(case.name, outcome.reduced, kind, words))

    def _call(self, case: Case, scale: float = 1.0, between: Case | None = None) -> Outcome:
        shapes = None
        if self.takes.out:
            bare, unreduced = isinstance(self.loss, CrossEntropy), self.loss.reduction == "none"
            owed = ("losses" if unreduced else "loss", *(["grad_logits"] if bare else ["grad_x", "grad_W", "grad_b"]))
            stages = self._truth(case, None).stages
            shapes = {name: np.shape(stages[name]) for name in owed if name in stages}
        return self.adapter.call(
            self.kernel, case, self.takes, per_sample=self.loss.reduction == "none", out_shapes=shapes,
            upstream_scale=scale, between=between,
        )  # fmt: skip

    def _truth(self, case: Case, outcome: Outcome | None) -> Truth:
        """What is due for the loss as the kernel reduces it, with what arrives at it."""
        key, asked = self._due(case, outcome)
        if self.shared is not None and key in self.shared:
            return self.shared[key]
        found = self.ahead.truth(case.name, key) if self.ahead is not None else None
        found = truth_on(*asked) if found is None else found
        if self.shared is not None:
            self.shared[key] = found
        return found

    def _due(self, case: Case, outcome: Outcome | None) -> tuple[Any, tuple[Any, ...]]:
        """What tells a truth from the others, and what `truth_on` takes."""
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
        inputs = case.inputs
        if outcome is not None and "grad_b" in outcome.stages and "b" not in inputs and loss.has_bias:
            inputs = {**inputs, "b": np.zeros(len(inputs["W"]))}  # no bias, and still its gradient
        key = (case.name, tuple(inputs), loss.reduction, np.asarray(upstream).tobytes())
        return key, (loss, inputs, case.labels, upstream, self.found.dtype, self.found.compute, self.slack)

    def _fitting(self, case: Case) -> Case:
        """Without the bias that the kernel does not take; with zeros for one that it needs."""
        if "b" not in case.inputs and self.takes.needs_b and getattr(self.loss, "has_bias", False):
            return replace(case, inputs={**case.inputs, "b": np.zeros(len(case.inputs["W"]))})
        if "b" not in case.inputs or self.takes.b:
            return case
        return replace(case, inputs={name: v for name, v in case.inputs.items() if name != "b"})


# -- helpers ---------------------------------------------------------------------------------------


def _failures(case: Case, problems: Sequence[Problem], *known: Sequence[Problem]) -> list[Failure]:
    """Of a later call: the problems of a kind that the calls before did not have there."""
    told = {(problem.kind, problem.stage) for before in known for problem in before}
    return [Failure(case.name, p.stage, p.kind, p.message) for p in problems if (p.kind, p.stage) not in told]


def _chosen(chosen: Any, loss: Any, dtype: str, seed: int, soft: bool) -> list[Case]:
    own = not isinstance(chosen, str) and isinstance(chosen, Sequence) and chosen
    if own and all(isinstance(case, Case) for case in chosen):
        return [_rounded(case, dtype) for case in chosen]
    every = all_cases(loss, dtype, seed, soft)
    if isinstance(chosen, str) and chosen in ("all", "quick"):
        return [case for case in every if chosen == "all" or case.quick]
    if not isinstance(chosen, (str, Sequence)):
        raise TypeError(f"cases must be 'all', 'quick', names or Case objects, got {type(chosen).__name__}")
    if not chosen:
        raise ValueError("cases must not be empty: 'all', 'quick', names or Case objects")
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    known = {case.name: case for case in every}
    unknown = [str(name) for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"cases must be 'all', 'quick', names or Case objects; unknown for this loss: {', '.join(unknown)}; "
            f"there are {', '.join(known)}"
        )
    return [known[name] for name in names]


def _names(given: Any) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _without(flags: Any, chosen: list[Case], every: Callable[[], list[Case]]) -> list[Case]:
    """Those of none of these flags."""
    if not (flags := _names(flags)):
        return chosen
    known = sorted({flag for case in (*chosen, *every()) for flag in case.flags})
    if unknown := [str(flag) for flag in flags if flag not in known]:
        words = f"without must name flags of cases; unknown for this loss: {', '.join(unknown)}"
        raise ValueError(f"{words}; there are {', '.join(known)}")
    kept = [case for case in chosen if not set(flags) & set(case.flags)]
    if not kept:
        raise ValueError(f"without={list(flags)} leaves no case")
    return kept


def _rounded(case: Case, dtype: str) -> Case:
    """A user's case with its numbers as the dtype holds them."""
    kind = DTYPES[dtype]
    inputs = {name: rounded(value, kind) for name, value in case.inputs.items()}
    labels = np.asarray(case.labels)
    labels = rounded(labels, kind) if labels.dtype.kind == "f" else labels.astype(np.int64)
    return replace(case, inputs=inputs, labels=labels, upstream=float(rounded(np.asarray(case.upstream), kind)),
                   upstreams=rounded(case.upstreams, kind))  # fmt: skip


def _versions(framework: str) -> dict[str, str]:
    """Of what takes part; the framework is not imported for it, for it may live in the kernel's process alone."""
    found = {"refloss": __version__, "python": platform.python_version()}
    for name in dict.fromkeys(("numpy", framework)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _name_of(kernel: Any) -> str:
    return getattr(kernel, "__qualname__", None) or type(kernel).__name__


__all__ = ["Checker", "UnfitImplementation", "assert_matches", "check"]
