"""`refloss.testing.check`: somebody's implementation against the truth, case by case and stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.cases.coverage import regimes, wanted
from refloss.cases.oracle import cases as all_cases
from refloss.losses import CrossEntropy
from refloss.losses.loss import Loss
from refloss.precision.dtypes import DTYPES, rounded, ulp
from refloss.record import BACKWARD_STAGES
from refloss.testing.adapters import Adapter, Outcome, Takes, UnfitImplementation
from refloss.testing.diagnosis.match import History, Observed, name_the_bug
from refloss.testing.judging.selfcheck import LIVE, VOID, Vacuity, fates
from refloss.testing.judging.tolerances import GRADES, ROWWISE, Truth, truth
from refloss.testing.report import CaseResult, Failure, Report, derived_stages
from refloss.testing.reproduce import described, reproducer
from refloss.testing.shrink import shrunk
from refloss.textbook.family import member_of
from refloss.validation import one_of

SUM, ACROSS_X, ACROSS_W, LINEAR = "Σ_j ∂z_j = 0", "∂x ⟂ x", "∂W ⟂ W", "linear in upstream"


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
    """Checks an implementation of a loss on aimed cases; the report's truth value is the verdict.

    Args:
        implementation: f(x, W, labels), or f(logits, targets) for `refloss.CrossEntropy`, on arrays of the framework;
            gets b, upstream and out by keyword if its signature has that name (b and upstream also by ``**kwargs``).
            Returns a loss, () or (N,), which torch and JAX then differentiate; or a mapping from stage names to
            arrays, any of them. out is a mapping of buffers, full of NaN, to be written instead.
        loss (Loss or CrossEntropy): the refloss object with the implementation's parameters.
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
            name, a framework that is not installed, an implementation that does not take these arguments. What the
            implementation itself raises is a failure in the report.

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
        loss (Loss or CrossEntropy): the refloss object with the implementation's parameters.
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
        self, implementation: Any, loss: Any, *, dtype: str, framework: str, cases: Any, require: str,
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
        if not isinstance(loss, (CrossEntropy, Loss)):
            raise TypeError(f"loss must be one of refloss, got {type(loss).__name__}")
        if isinstance(loss, Loss):
            member_of(loss)  # says what is missing
        self.implementation, self.loss = implementation, replace(loss, precision="double")
        self.dtype, self.require, self.slack = dtype, require, float(slack)
        self.compute = compute or ("float32" if DTYPES[dtype].is_half else dtype)
        self.adapter = Adapter(framework, dtype, device)
        self.takes: Takes = self.adapter.signature(implementation, bare=isinstance(loss, CrossEntropy))
        self.cases = [self._fitting(case) for case in _chosen(cases, self.loss, dtype, seed, soft_targets)]
        self.quick = isinstance(cases, str) and cases == "quick"
        self.options = {"dtype": dtype, "framework": framework, "require": require}
        self.vacuity, self.coverage, self.laws = Vacuity(), Counter[str](), dict[str, list[Any]]()
        self.observed: list[Observed] = []
        self.results: list[CaseResult] = []
        self.advice: list[str] = []
        self.underflow, self.faults = Counter[str](), dict[str, None]()
        self.history = History()
        self.upstream_is_one = self.ran = False
        self.shared = shared  # truths by case, for those who check several implementations

    # -- the whole ---------------------------------------------------------------------------------

    def run(self) -> Iterator[CaseResult]:
        """Every case, one after the other."""
        self.ran = True
        for case in self.cases:
            self.results.append(self._one(case))
            yield self.results[-1]

    def report(self) -> Report:
        """The report; runs every case unless that was done."""
        if not self.ran:
            list(self.run())
        report = Report(
            loss=described(self.loss),
            implementation=_name_of(self.implementation),
            dtype=self.dtype,
            compute=self.compute,
            framework=self.options["framework"],
            require=self.require,
            results=self.results,
            coverage=dict(self.coverage),
            not_reached=[name for name in wanted(self.loss) if not self.coverage[name]],
            void=self.vacuity.void,
            not_checked=self.vacuity.not_checked(),
            oracle_faults=list(self.faults),
            laws={law: (held, tried, first) for law, (held, tried, first) in self.laws.items()},
            advice=self.advice,
            underflow=dict(self.underflow),
            notes=self._notes(),
            derived=derived_stages(self.loss),
            chosen="quick " if self.quick else "",
        )
        if report.failures and not report.oracle_faults:
            # what 16 bits explain is no bug to be named
            grade = max(self.require, "D" if self.compute != self.dtype else self.require)
            if any(o.failed for o in self.observed):
                report.suspects = name_the_bug(self.loss, self.observed, grade)
            self._shrink(report)
        return report

    def _notes(self) -> list[str]:
        notes = []
        if self.upstream_is_one:
            notes.append(
                "the implementation takes no upstream and returns its own gradients: only upstream 1 was tried"
            )
        if getattr(self.loss, "has_bias", False) and not self.takes.b:
            notes.append("the implementation takes no b: no case has a bias")
        seen = {stage for result in self.results for stage in result.grades}
        if "losses" in seen and "loss" not in seen and self.loss.reduction != "none":
            notes.append(
                f"one loss a sample came back and was checked as `losses`: reduction={self.loss.reduction!r} was not"
            )
        if seen and not seen & set(BACKWARD_STAGES):
            notes.append("no gradient came back: only values were checked")
        return notes

    # -- one case ----------------------------------------------------------------------------------

    def _call(self, case: Case, scale: float = 1.0) -> Outcome:
        shapes = None
        if self.takes.out:
            stages = self._truth(case, self._upstream(case, None)).stages
            owed = (
                "loss" if self.loss.reduction != "none" else "losses",
                "grad_x",
                "grad_W",
                "grad_b",
                "grad_logits",
            )
            shapes = {name: np.shape(stages[name]) for name in owed if name in stages}
            if not isinstance(self.loss, CrossEntropy):
                shapes.pop("grad_logits")
        return self.adapter.call(
            self.implementation, case, self.takes, per_sample=self.loss.reduction == "none", out_shapes=shapes,
            upstream_scale=scale,
        )  # fmt: skip

    def _upstream(self, case: Case, outcome: Outcome | None) -> tuple[Any, Any]:
        """(the loss as the implementation reduces it, what arrives at it)."""
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
        return loss, upstream

    def _truth(self, case: Case, asked: tuple[Any, Any]) -> Truth:
        loss, upstream = asked
        key = (case.name, tuple(case.inputs), loss.reduction, np.asarray(upstream).tobytes())
        if self.shared is not None and key in self.shared:
            return self.shared[key]
        at = truth(loss, case.inputs, case.labels, upstream, self.dtype, self.compute, self.slack)
        if self.shared is not None:
            self.shared[key] = at
        return at

    def judged(self, case: Case) -> CaseResult:
        """One case without the questions about the oracle, and without a second call."""
        outcome, at, result = self._prepared(case)
        result.failures, _ = self._judge(case, outcome, at, result)
        return result

    def _prepared(self, case: Case) -> tuple[Outcome, Truth, CaseResult]:
        outcome = self._call(case)
        at = self._truth(case, self._upstream(case, outcome))
        return outcome, at, CaseResult(case.name, case.reason, case.flags, _shape(case))

    def _fitting(self, case: Case) -> Case:
        """Without the bias that the implementation does not take."""
        if "b" not in case.inputs or self.takes.b:
            return case
        return replace(case, inputs={name: v for name, v in case.inputs.items() if name != "b"})

    def _one(self, case: Case) -> CaseResult:
        outcome, at, result = self._prepared(case)
        result.failures, got = self._judge(case, outcome, at, result)
        self._self_check(case, at, got)
        if not any(f.kind == "exception" for f in result.failures):
            self._again(case, outcome, at, result)
        self.coverage.update(case.flags)
        self.coverage.update(regimes(self.loss, at.out, case.labels))
        if got:
            failed = any(f.kind in ("value", "nan", "inf") and f.grade == "F" for f in result.failures)
            self.observed.append(Observed(case.name, at, got, failed, self.history.before(at.kernel)))
        return result

    def _judge(
        self, case: Case, outcome: Outcome, at: Truth, result: CaseResult
    ) -> tuple[list[Failure], dict[str, np.ndarray]]:
        """The failures, and what came back in the right shape."""
        failures = [Failure(case.name, p.stage, p.kind, p.message) for p in outcome.problems]
        got = {}
        for stage, value in outcome.stages.items():
            if stage not in at.stages:
                words = f"{stage} came back, and this loss has no such stage"
                failures.append(Failure(case.name, stage, "shape", words))
                continue
            due = at.stages[stage]
            if value.shape != due.shape:
                words = f"{stage} has shape {value.shape}, {due.shape} is due"
                failures.append(Failure(case.name, stage, "shape", words))
                continue
            wrong_type = self._wrong_dtype(outcome.dtypes.get(stage, self.dtype), due)
            if wrong_type:
                failures.append(Failure(case.name, stage, "dtype", f"{stage} {wrong_type}"))
            got[stage] = value
            result.grades[stage] = at.grade_of(stage, value)
            failure = self._value_failure(case, stage, value, at, result)
            if failure is not None:
                failures.append(failure)
            with np.errstate(invalid="ignore"):
                below = (due != 0) & (np.abs(due) < at.dtype.smallest_normal)
            if below.any():
                self.underflow[stage] += int(np.count_nonzero(below))
        self._laws(case, got, at)
        return failures, got

    def _wrong_dtype(self, came: str, due: np.ndarray) -> str:
        """'' or what is wrong: a stage may come in the dtype of the inputs or in what 16 bits are computed in."""
        if came in (self.dtype, self.compute) or (came.startswith("python") and due.shape == ()):
            return ""
        allowed = dict.fromkeys((self.dtype, self.compute))
        return f"came as {came}; {' or '.join(allowed)} is due"

    def _value_failure(
        self, case: Case, stage: str, value: np.ndarray, at: Truth, result: CaseResult
    ) -> Failure | None:
        due = at.stages[stage]
        lost = ~np.isfinite(value) & np.isfinite(due)
        if lost.any():
            index = _first(lost)
            what = "nan" if np.isnan(value[index]) else "inf"
            role = _role(self.loss, case, stage, index, at)
            many = int(np.count_nonzero(lost))
            words = f"{stage}{_at(index)} is {value[index]}, {due[index]:.9g} is due ({role})"
            words += f"; {many} of {lost.size} not finite"
            result.ratios[stage] = np.inf
            return Failure(case.name, stage, what, words, "F", index, float(value[index]), float(due[index]),
                           np.inf, at.tolerance(stage, self.require, index), role)  # fmt: skip
        excess, room = at.excess(stage, value), at.allowed(stage, self.require)
        with np.errstate(invalid="ignore", over="ignore"):
            full = np.abs(value - due)
        result.ratios[stage] = _ratio(excess, room)
        over = ~(excess <= room)
        if not over.any():
            return None
        index = _worst(stage, excess, room, full)
        role = _role(self.loss, case, stage, index, at)
        tolerance = at.tolerance(stage, self.require, index)
        grade = result.grades[stage]
        count = int(np.count_nonzero(over))
        unit = "rows" if stage in ROWWISE else "entries"
        words = (
            f"{stage}{_at(index)} is {value[index]:.9g}, {due[index]:.9g} is due ({role}): "
            f"off by {full[index]:.2g}, {tolerance:.2g} allowed; {count} of {np.size(over)} {unit} wrong"
        )
        result.ratios[stage] = full[index] / tolerance if tolerance else np.inf
        if grade != "F":
            words += f" (grade {grade})"
        return Failure(case.name, stage, "value", words, grade, index, float(value[index]), float(due[index]),
                       float(full[index]), tolerance, role, result.ratios[stage])  # fmt: skip

    # -- the oracle itself -------------------------------------------------------------------------

    def _self_check(self, case: Case, at: Truth, got: Mapping[str, np.ndarray]) -> None:
        for stage in at.at_odds:
            self.faults[f"in {case.name} the reference's {stage} is far from its own textbook form"] = None
        found = fates(at, got, self.require)
        self.vacuity.add(case.name, found)
        if self.require not in "CD":
            return
        void = {stage for (stage, _), fate in found.items() if fate == VOID}
        if void:
            sharper = fates(at, void, "B")
            for stage in void:
                told = any(
                    found[key] == VOID and fate == LIVE for key, fate in sharper.items() if key[0] == stage
                )
                if (
                    told
                    and at.passes(stage, got[stage], self.require)
                    and not at.passes(stage, got[stage], "B")
                ):
                    self.advice.append(
                        f"advice: in {case.name} a wrong {stage} could hide within grade {self.require}; "
                        "yours is outside of grade B there"
                    )

    # -- laws --------------------------------------------------------------------------------------

    def _law(self, law: str, case: Case, holds: bool) -> None:
        seen = self.laws.setdefault(law, [0, 0, ""])
        seen[0] += holds
        seen[1] += 1
        if not holds and not seen[2]:
            seen[2] = case.name

    def _laws(self, case: Case, got: Mapping[str, np.ndarray], at: Truth) -> None:
        """What holds whatever the margin is: it needs no reference."""
        with np.errstate(invalid="ignore", over="ignore"):
            if "grad_logits" in got:
                axis = getattr(self.loss, "axis", -1)
                g = got["grad_logits"]
                room = _room(at, "grad_logits", self.require)
                self._law(SUM, case, bool((np.abs(g.sum(axis)) <= room.sum(axis)).all()))
            for law, stage, name, feels in (
                (ACROSS_X, "grad_x", "x", getattr(self.loss, "feels_x_norm", True)),
                (ACROSS_W, "grad_W", "W", getattr(self.loss, "feels_W_norm", True)),
            ):
                if stage in got and not feels:
                    v = at.kernel.x_hat if name == "x" else at.kernel.W_hat
                    own = np.linalg.norm(_own(at, stage), axis=1)
                    room = at.allowed(stage, self.require) + own
                    self._law(law, case, bool((np.abs(np.sum(got[stage] * v, axis=1)) <= room).all()))

    def _again(self, case: Case, outcome: Outcome, at: Truth, result: CaseResult) -> None:
        """A second call must give the same bits; with twice the upstream, twice the gradient."""
        second = self._call(case)
        moved = [stage for stage in outcome.bits if second.bits.get(stage) != outcome.bits[stage]]
        if moved:
            stage = moved[0]
            words = f"{stage} changes from one call to the next on the same input"
            a, b = outcome.stages.get(stage), second.stages.get(stage)
            if a is not None and b is not None and a.shape == b.shape:
                with np.errstate(invalid="ignore"):
                    words += f" by up to {np.nanmax(np.abs(a - b), initial=0.0):.2g}"
            result.failures.append(Failure(case.name, stage, "nondeterministic", words))
        if not (case.quick and (self.takes.upstream or outcome.differentiated)):
            return
        doubled, broken = self._call(case, scale=2.0), ""
        for stage in BACKWARD_STAGES if self.takes.upstream else outcome.differentiated:
            first, twice = outcome.stages.get(stage), doubled.stages.get(stage)
            if (
                first is None
                or twice is None
                or stage not in at.stages
                or first.shape != at.stages[stage].shape
            ):
                continue
            with np.errstate(invalid="ignore"):
                off = np.abs(twice - 2 * first)
                if not (off <= 3 * _room(at, stage, self.require)).all() and not broken:
                    broken = stage
        self._law(LINEAR, case, not broken)
        if broken and not any(f.stage == broken for f in result.failures):
            words = (
                f"{broken} is not linear in what arrives: twice the upstream does not give twice the gradient"
            )
            result.failures.append(Failure(case.name, broken, "law", words))

    # -- the smallest failing input ----------------------------------------------------------------

    def _shrink(self, report: Report) -> None:
        by_name = {case.name: case for case in self.cases}
        order = sorted((r for r in self.results if r.failures), key=lambda r: _entries(by_name[r.name]))
        first = report.first_divergent_stage
        failure = max(report.failures, key=lambda f: (f.grade == "F", f.stage == first))
        result = next(
            r for r in order if any((f.stage, f.grade) == (failure.stage, failure.grade) for f in r.failures)
        )
        failure = next(f for f in result.failures if (f.stage, f.grade) == (failure.stage, failure.grade))
        case = by_name[result.name]
        if failure.kind not in ("mutated", "nondeterministic", "law"):
            case = shrunk(self.loss, case, lambda candidate: self._fails(candidate, failure))
        report.shrunk = f"{case.name}, {_shape(case)}"
        report.reproducer = reproducer(
            self.implementation,
            self.loss,
            case,
            by_name[result.name],
            self.options,
            self._fresh(case, failure),
        )

    def _fresh(self, case: Case, failure: Failure) -> Failure | None:
        """The failure as it is on the smaller input."""
        kept = self.laws, self.underflow
        self.laws, self.underflow = {}, Counter()  # what is tried on the way counts nothing
        try:
            outcome, at, result = self._prepared(case)
            failures, _ = self._judge(case, outcome, at, result)
        finally:
            self.laws, self.underflow = kept
        return next((f for f in failures if (f.stage, f.kind) == (failure.stage, failure.kind)), None)

    def _fails(self, case: Case, failure: Failure) -> bool:
        return self._fresh(case, failure) is not None


# -- helpers ---------------------------------------------------------------------------------------


def _chosen(chosen: Any, loss: Any, dtype: str, seed: int, soft: bool) -> list[Case]:
    if (
        not isinstance(chosen, str)
        and isinstance(chosen, Sequence)
        and chosen
        and all(isinstance(c, Case) for c in chosen)
    ):
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


def _name_of(implementation: Any) -> str:
    return getattr(implementation, "__qualname__", None) or type(implementation).__name__


def _shape(case: Case) -> str:
    if "logits" in case.inputs:
        return f"logits {case.inputs['logits'].shape}"
    (N, D), C = case.inputs["x"].shape, len(case.inputs["W"])
    return f"N = {N}, C = {C}, D = {D}"


def _entries(case: Case) -> int:
    return sum(np.size(v) for v in case.inputs.values())


def _at(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(mask), mask.shape))


def _own(at: Truth, stage: str) -> np.ndarray:
    """What storing an entry costs, and the reference's own bound."""
    return ulp(at.stages[stage], at.dtype) + at.bound[stage]


def _room(at: Truth, stage: str, grade: str) -> np.ndarray:
    """The largest accepted error of every entry."""
    allowed = np.asarray(at.allowed(stage, grade))
    return _own(at, stage) + (allowed[:, None] if stage in ROWWISE else allowed)


def _ratio(excess: np.ndarray, room: np.ndarray) -> float:
    """The worst error beyond the last place over what is allowed there."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(excess > 0, excess / room, 0.0)
    return float(np.max(ratio, initial=0.0))


def _worst(stage: str, excess: np.ndarray, room: np.ndarray, full: np.ndarray) -> tuple[int, ...]:
    """The worst entry: the most times too large, and the larger error among those where nothing is allowed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(excess > room, excess / room, 0.0)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    size = full if stage not in ROWWISE else full.max(axis=1, initial=0.0)
    best = ratio == ratio.max()
    index = _first(np.where(best, size, -1.0) == np.max(np.where(best, size, -1.0)))
    return (*index, int(np.argmax(full[index]))) if stage in ROWWISE else index


def _role(loss: Any, case: Case, stage: str, index: tuple[int, ...], at: Truth) -> str:
    """What the entry is: the target, another class, an ignored row."""
    ignored = np.asarray(at.out.ignored)
    if isinstance(loss, CrossEntropy):
        where = (
            index
            if stage in ("losses",)
            else tuple(np.delete(index, loss.axis % len(index)))
            if index
            else ()
        )
        if not index:
            return "the whole batch"
        if ignored[where]:
            return "ignored row"
        if stage == "losses" or case.labels.ndim == len(index):
            return "a sample" if stage == "losses" else f"target share {case.labels[index]:.3g}"
        return "target" if case.labels[where] == index[loss.axis] else "other class"
    if not index:
        return "the whole batch"
    soft, N = case.labels.ndim == 2, len(ignored)
    if stage in ("W_norm", "grad_W", "grad_b"):
        j = index[0]
        if soft:
            return f"class {j}"
        count = int(np.count_nonzero((case.labels == j) & ~ignored))
        return f"class {j}, target of {count} of {N} samples" if count else f"class {j}, no sample's target"
    i = index[0]
    if ignored[i]:
        return "ignored row"
    theta = "" if at.out.theta is None else f", θ = {float(at.out.theta[i]):.4g}"
    if len(index) == 2 and stage not in ROWWISE:
        if soft:
            return f"target share {case.labels[index]:.3g}"
        return f"target{theta}" if case.labels[i] == index[1] else f"other class, target {case.labels[i]}"
    return f"sample {i}" + ("" if soft else f", target {case.labels[i]}{theta}")


__all__ = ["Checker", "UnfitImplementation", "assert_matches", "check"]
