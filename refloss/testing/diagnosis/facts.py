"""What is true of a failure, computed from what came back, what was due and the record: not from a list of bugs.

Where it starts, by how many cases; what came back as a simple function of what was due; what the wrong rows, classes
and cases have in common that the right ones lack; the size of the errors; errors that all lie on one side.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.precision.dtypes import DTYPES
from refloss.record import STAGES
from refloss.testing.diagnosis.facts_as_if import as_if
from refloss.testing.diagnosis.facts_common import MOST, Common, common, pooled
from refloss.testing.diagnosis.facts_implied import implied, logits_of, slope_of
from refloss.testing.diagnosis.facts_known import View, facts_about_rows, flat, view
from refloss.testing.diagnosis.facts_relations import CLEAR, FEWEST, Relation, relation
from refloss.testing.diagnosis.match import SMALL, Observed
from refloss.testing.judging import units
from refloss.testing.judging.draws import TEXTBOOK, draw, envelope_of
from refloss.testing.judging.scales import natural_scale
from refloss.testing.judging.truth import Grade
from refloss.testing.report import EXPLAINED, CaseResult, Fact

AT_MOST = 6
VALUES = ("value", "nan", "inf")
INDEPENDENT = 64  # rows whose signs tell a bias
CONSTANTS = 2.0  # roundings that are the same in every row
LEAST_D = 3  # dimensions in which a direction says something
ALONG = 0.9  # of the rows that are clearly wrong
FEW = 4  # cases that are told by their names
MOSTLY = 0.95  # of the cases where something is due may be wrong
ONE_SIDED = 0.2  # of the errors of one sign: rounding has both
SURE = 2.0**-60  # of rounding that gives so many errors of one sign
LARGEST = 6  # cases of the largest errors, on which a dtype's arithmetic is tried
VALUES_POOLED = 100_000  # units that properties are looked for in


def facts_of(
    cases: Sequence[Case],
    results: Sequence[CaseResult],
    observed: Sequence[Observed],
    grade: Grade,
    bug_known: bool = False,
) -> list[Fact]:
    """The facts of a check that failed, the strongest first.

    bug_known: a known bug explains all that came out; that the errors have the size of a dtype's is then chance.
    """
    found = _of_kinds(cases, results)
    wrong = _wrong_stages(results)
    if wrong and (grade_lost := _only_precision(results)):
        found += [_where_it_begins(wrong, results), _too_few_bits(wrong, grade_lost, observed)]
        found += _as_if(observed, grade, wrong, found[0].stage)
    elif wrong:
        found += _of_values(cases, results, observed, grade, wrong, bug_known)
    found += biases(observed)
    kept: dict[str, Fact] = {}
    for fact in sorted(found, key=lambda f: -f.strength):
        kept.setdefault(fact.sentence, fact)
    return list(kept.values())[:AT_MOST]


def _wrong_stages(results: Sequence[CaseResult]) -> dict[str, list[str]]:
    """stage → the cases where its values are wrong, by grade F if there is any."""
    failures = [f for r in results for f in r.failures if f.kind in VALUES]
    if any(f.grade == "F" for f in failures):
        failures = [f for f in failures if f.grade == "F"]
    wrong: dict[str, list[str]] = defaultdict(list)
    for f in failures:
        if f.case not in wrong[f.stage]:
            wrong[f.stage].append(f.case)
    return {stage: wrong[stage] for stage in STAGES if stage in wrong}


def _only_precision(results: Sequence[CaseResult]) -> str:
    """The grade that explains every wrong value, or "" if none does."""
    worst = max((f.grade for r in results for f in r.failures if f.kind in VALUES), default="F")
    return "" if worst == "F" else worst


def _too_few_bits(wrong: Mapping[str, Sequence[str]], grade: str, observed: Sequence[Observed]) -> Fact:
    """No formula is wrong: what kind of arithmetic errs by as much."""
    truth, failing = observed[0].truth, sorted({case for its in wrong.values() for case in its})
    words = f"{_listed(list(wrong))} {'is' if len(wrong) == 1 else 'are'} as far off as "
    words += EXPLAINED[grade].format(compute=truth.compute.name, dtype=truth.dtype.name) + " is, and no farther"
    evidence = f"explains all {len(failing)} failing cases; `refloss precision` says which step needs more bits"
    return Fact(words, evidence, next(iter(wrong)), tuple(failing), 1.0)


def weightiest_stage(wrong: Mapping[str, Sequence[str]]) -> str:
    """The stage where most of the failing cases begin to be wrong."""
    return Counter(_begun(wrong).values()).most_common(1)[0][0]


def _begun(wrong: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """case → the stage where it begins to be wrong."""
    first: dict[str, str] = {}
    for stage, its in wrong.items():
        for case in its:
            first.setdefault(case, stage)
    return first


# -- values ------------------------------------------------------------------------------------------


def _of_values(
    cases: Sequence[Case], results: Sequence[CaseResult], observed: Sequence[Observed], grade: Grade,
    wrong: Mapping[str, Sequence[str]], bug_known: bool,
) -> list[Fact]:  # fmt: skip
    small = _small(observed)
    found = [_where_it_begins(wrong, results)]
    focus = found[0].stage
    views: dict[str, tuple[list[View], list[View]]] = {}
    told: dict[str, list[tuple[str, Relation]]] = defaultdict(list)
    for stage, its in wrong.items():
        failing = [view(o, stage, grade) for o in small if stage in o.got and o.case in its]
        passing = [view(o, stage, grade) for o in small if stage in o.got and o.case not in its]
        if (simplest := relation(failing)) is not None:
            told[simplest.words].append((stage, simplest))
        views[stage] = failing, passing
    explained = {stage for pairs in told.values() for stage, r in pairs if r.named and not r.only_wrong}
    if not set(wrong) <= explained and (whole := _as_if(observed, grade, wrong, focus)):
        found += whole
        explained |= set(wrong)
    for stage in [s for s in wrong if s not in explained]:
        found += _of_units(stage, *views[stage]) if stage == focus or len(views) < 4 else []
        found += _along(stage, views[stage][0]) if stage in units.ROWWISE else []
        # rounding in few bits shows in most cases
        often = 2 * len(wrong[stage]) >= sum(stage in o.got for o in observed)
        if not (explained or bug_known) and often and (size := _digits(stage, views[stage][0])):
            found.append(size)
    if not explained and (of := next((s for s in ("grad_x", "grad_W") if s in wrong), "")):
        found += _implied(of, observed, grade, wrong)
    for words, pairs in told.items():
        stages = [stage for stage, _ in pairs]
        held = sorted({case for _, r in pairs for case in r.held})
        share = min(len(r.held) / r.clear for _, r in pairs)
        only = "in the wrong rows or entries, " if any(r.only_wrong for _, r in pairs) else ""
        are = "are" if len(stages) > 1 else "is"
        sentence = f"{only}{_listed(stages)} {are} {words}"
        counts = {s: _of_clear(len(r.held), r.clear) for s, r in pairs}
        alike = len(set(counts.values())) == 1
        parts = counts[stages[0]] if alike else "; ".join(f"{s}: {count}" for s, count in counts.items())
        weight = 1.0 if focus in stages else 0.9
        named = 1.0 if pairs[0][1].named else 0.6
        # a simple relation in all cases explains more than anything else
        strength = share * weight * named * (1.2 - 0.01 * min(pairs[0][1].simple, 30.0))
        found.append(Fact(sentence, f"holds in {parts}", stages[0], tuple(held), strength))
    found += _of_cases(cases, results, observed, focus, wrong[focus])
    return found


def _of_clear(held: int, tried: int) -> str:
    return f"{_part(held, tried)} clearly failing cases tried"


def _part(some: int, of: int) -> str:
    return f"all {of}" if some == of else f"{some} of {of}"


def _small(observed: Sequence[Observed]) -> Sequence[Observed]:
    return [o for o in observed if o.size <= SMALL] or list(observed)[:1]


def _as_if(observed: Sequence[Observed], grade: Grade, wrong: Mapping[str, Sequence[str]], focus: str) -> list[Fact]:
    """What one changed quantity explains: the stage `focus`, and what else it can."""
    bad = {case for its in wrong.values() for case in its}
    failing, others = ([o for o in _small(observed) if (o.case in bad) is is_bad] for is_bad in (True, False))
    if (found := as_if(failing, others, grade, focus)) is None:
        return []
    stages = [s for s in found.stages if s in wrong]
    what = "everything that came back is" if found.whole else f"{_listed(stages)} {'are' if len(stages) > 1 else 'is'}"
    if not found.whole and set(stages) == set(wrong):
        what += ", with nothing else changed,"
    evidence = f"explains {'every stage' if found.whole else _listed(stages)} in "
    evidence += _of_clear(len(found.held), found.tried)
    strength = (1.2 if found.whole else 1.1) * len(found.held) / found.tried
    return [Fact(f"{what} as if {found.words}", evidence, focus, found.held, strength)]


def _where_it_begins(wrong: Mapping[str, Sequence[str]], results: Sequence[CaseResult]) -> Fact:
    failing, focus = _begun(wrong), weightiest_stage(wrong)
    begins = [r for r in results if failing.get(r.name) == focus]
    right = [s for s in STAGES if begins and all(r.grades.get(s, "F") != "F" for r in begins) and s != focus]
    words = f"{focus} is the first wrong stage"
    if right:
        words += f"; {_listed(right)} {'are' if len(right) > 1 else 'is'} right where it is wrong"
    evidence = f"in {_part(len(begins), len(failing))} failing cases"
    return Fact(words, evidence, focus, tuple(r.name for r in begins), 0.7 * len(begins) / len(failing))


def _of_units(stage: str, failing: Sequence[View], passing: Sequence[View]) -> list[Fact]:
    """What wrong rows, classes and entries have in common: among all cases, among what can be told from nothing, or
    else within the failing cases."""
    failing = [v for v in failing if v.wrong.ndim]
    every = [*failing, *(v for v in passing if v.wrong.ndim)]
    for views, where, due in (
        (every, "in all cases", False),
        (every, "where something is due", True),
        (failing, "in the failing cases", False),
    ):
        parts, wrong, held, count = [], [], [], 0
        for v in views:
            count += v.wrong.size
            if count > VALUES_POOLED:
                break
            chosen = v.wrong | (units.size(stage, v.due) > v.room) if due else np.ones_like(v.wrong)
            features = facts_about_rows(v, getattr(getattr(v.plain, "q", None), "margin", None))
            parts.append({n: np.broadcast_to(np.asarray(f), v.wrong.shape)[chosen] for n, f in features.items()})
            wrong.append(v.wrong[chosen])
            held += [v.o.case] if v.wrong.any() else []
        if not parts:
            return []
        found = common(pooled(parts), np.concatenate(wrong), MOSTLY if due else MOST)
        if found is not None:
            unit = _unit_of(stage)
            words = f"{stage} is wrong only in {unit} with: {found.words}"
            return [Fact(words, _counted(found, unit, where), stage, tuple(held), 1.05 if found.exact else 0.75)]
    return []


def _implied(stage: str, observed: Sequence[Observed], grade: Grade, wrong: Mapping[str, Sequence[str]]) -> list[Fact]:
    """What is wrong with the logits, the gradient in them or the margin's slope that a gradient implies."""
    bad = {case for its in wrong.values() for case in its}
    if {"logits", "grad_logits"} & set(wrong) or any("grad_logits" in o.got for o in observed):
        return []
    seen = [v for o in _small(observed) if stage in o.got and (v := implied(o, stage, grade))]
    views = {"grad_logits": seen}
    if "loss" in wrong or "losses" in wrong:
        views = {"z": (z := [v for each in seen if (v := logits_of(each))])}
        known = {v.o.case: v for v in z}
        seen = [v for v in seen if v.o.case in known]
        slopes = [slope_of(v, known[v.o.case]) for v in seen]
    else:
        slopes = [slope_of(v) for v in seen]
    if seen and seen[0].plain.on.any():
        views["dψ/dcos θ_y"] = slopes
    found: list[Fact] = []
    for what, of in views.items():
        failing, passing = ([v for v in of if (v.o.case in bad) is which] for which in (True, False))
        failing = [v for v in failing if v.wrong.any()]
        if len(failing) < 2:
            continue
        # a threshold would be of how well an entry is told
        for fact in (f for f in _of_units(of[0].stage, failing, passing) if not set("≤≥") & set(f.sentence)):
            found.append(replace(fact, sentence=fact.sentence.replace(of[0].stage, what, 1), stage=stage))
        if (simplest := relation(failing)) is not None:
            only = "where it is wrong, " if simplest.only_wrong else ""
            evidence = f"holds in {_of_clear(len(simplest.held), simplest.clear)}"
            strength = len(simplest.held) / simplest.clear
            found.append(Fact(f"{only}{what} is {simplest.words}", evidence, stage, tuple(simplest.held), strength))
    return [replace(f, sentence=f"as {stage} tells, {f.sentence}") for f in found]


def _unit_of(stage: str) -> str:
    if stage in ("grad_W", "grad_b", "W_norm"):
        return "classes"
    return "entries" if stage in ("logits", "probabilities", "grad_logits", "cos_theta") else "rows"


def _counted(found: Common, unit: str, where: str) -> str:
    rest = (
        f"none of the {found.right} right ones"
        if found.exact
        else f"{found.right_with} of the {found.right} right ones"
    )
    return f"all {found.wrong} wrong {unit} {where}, {rest}"


def _along(stage: str, failing: Sequence[View]) -> list[Fact]:
    """The one direction that the errors of a row have."""
    ways: dict[str, Callable[[View], np.ndarray]] = {"Ŵ": lambda v: v.plain.W_hat}
    if stage == "grad_x":
        ways = {"x̂": lambda v: v.plain.x_hat, "W_y": lambda v: v.plain.W_hat[v.plain.y]}
    for words, way_of in ways.items():
        lie, held, count = [], [], 0
        for v in failing:
            clear = v.wrong & (v.off > CLEAR * v.room) & np.isfinite(v.off)
            if v.due.shape[1] < LEAST_D or not clear.any():
                continue
            error, way = (v.got - v.due)[clear], way_of(v)[clear]
            across = error - np.sum(error * way, axis=1, keepdims=True) * way
            lie.append(units.size(stage, across) <= np.maximum(2 * v.room[clear], 1e-3 * v.off[clear]))
            held.append(v.o.case)
            count += int(clear.sum())
        if count >= FEWEST and np.mean(np.concatenate(lie)) >= ALONG:
            sentence = f"the errors of {stage} lie along {words}: its part across {words} is right"
            return [Fact(sentence, f"in {count} clearly wrong rows of {len(held)} cases", stage, tuple(held), 0.9)]
    return []


def _digits(stage: str, failing: Sequence[View]) -> Fact | None:
    """The errors have the size that a coarser dtype's arithmetic gives."""
    sizes, held, signs = [], [], []
    for v in failing:
        with np.errstate(all="ignore"):
            scale = units.size(stage, v.due)
            size = np.where(scale > 0, v.off / scale, np.nan)[v.wrong]
            signs.append((np.sign(v.got - v.due) * np.sign(v.due))[v.wrong].ravel())
        if size.size and np.isfinite(size).any():
            sizes.append(np.nanmedian(size))
            held.append(v.o.case)
    if len(sizes) < 3 or not ONE_SIDED <= np.mean(np.concatenate(signs) > 0) <= 1 - ONE_SIDED:
        return None
    low, middle, high = np.quantile(sizes, [0.1, 0.5, 0.9])
    own = 2.0 ** -failing[0].o.truth.compute.digits
    for name in ("bfloat16", "float16", "float32"):
        u = 2.0 ** -DTYPES[name].digits
        # a few roundings each, and no dtype lies between
        if u > 8 * own and u / 4 <= middle <= 4 * u and u / 32 <= low and high <= 32 * u:
            called = f"{name} (or TensorFloat-32)" if name == "float16" else name
            words = f"the errors of {stage} are as large as {called} arithmetic makes them"
            words += f": about {middle:.1g} of what is due"
            if not all(_rounds_so(v, name) for v in sorted(failing, key=_relative)[-LARGEST:]):
                return None
            return Fact(words, f"the middle of the wrong ones in {len(sizes)} failing cases", stage, tuple(held), 0.85)
    return None


def _relative(v: View) -> float:
    """The largest error of what is due."""
    with np.errstate(all="ignore"):
        return float(np.nanmax(v.off / units.size(v.stage, v.due), initial=0.0))


def _rounds_so(v: View, dtype: str) -> bool:
    """Whether the textbook formula in the dtype errs by as much on this case."""
    t = v.o.truth
    scale = natural_scale(t.plain, t.stages)
    errs = envelope_of(draw(t.plain, TEXTBOOK, DTYPES[dtype]), t.stages, scale, DTYPES[dtype]).largest[v.stage]
    return bool((t.excess(v.stage, v.o.got[v.stage]) <= errs).all())


def biases(observed: Sequence[Observed]) -> list[Fact]:
    """Losses whose errors lie on one side, more than rounding explains.

    Told where so many rows of one sign have a probability below 2⁻⁶⁰ if the signs were a coin's, and where the middle
    error, the median, is more than two roundings of lse and z_y, whose difference a loss is: an honest kernel
    has at most two rounded constants that err alike in every row (s and cos m, log₂ e and ln 2).
    """
    parts, held = [], []
    for o in observed:
        if "losses" not in o.got or o.failed:
            continue
        t = o.truth
        due, got = (flat(t.plain, v["losses"]) for v in (t.stages, o.got))
        z_y = t.plain.z[np.arange(t.plain.N), t.plain.y]
        with np.errstate(all="ignore"):
            # what is subtracted from each other
            size = np.maximum(np.abs(t.plain.lse) + np.abs(z_y), np.abs(due))
            error = (got - due) / (2.0**-t.dtype.digits * size)
        kept = (due != 0) & (error != 0) & np.isfinite(error)
        parts.append(np.stack([due[kept], error[kept]]))
        held.append(o.case)
    if not parts:
        return []
    every = np.concatenate(parts, axis=1)
    # the same row in another layout is no other row
    error = every[1][np.unique(every[0], return_index=True)[1]]
    low = int(np.count_nonzero(error < 0))
    more = max(low, error.size - low)
    if error.size < INDEPENDENT or abs(np.median(error)) <= CONSTANTS or _coin(error.size, more) >= SURE:
        return []
    q = np.quantile(error, [0.25, 0.75])
    side = "low" if low == more else "high"
    words = (
        f"{more} of {error.size} losses that differ are too {side}, in the middle by {abs(np.median(error)):.3g} times"
    )
    words += f" a rounding of lse and z_y (a quarter below {q[0]:.2g}, a quarter above {q[1]:.2g})"
    words += ": no rounding is so one-sided"
    return [Fact(words, f"over {len(held)} cases", "losses", tuple(held), 1.0)]


def _coin(n: int, k: int) -> float:
    """That k or more of n tosses, k ≥ n/2, are alike."""
    return 2 * sum(comb(n, j) for j in range(k, n + 1)) / 2**n


# -- cases -------------------------------------------------------------------------------------------


def _of_kinds(cases: Sequence[Case], results: Sequence[CaseResult]) -> list[Fact]:
    """Exceptions, shapes, NaN: which cases, and what they have in common."""
    found = []
    kinds = Counter(f.kind for r in results for f in r.failures if f.kind != "value")
    for kind in kinds:
        bad = [r for r in results if any(f.kind == kind for f in r.failures)]
        first = next(f for f in bad[0].failures if f.kind == kind)
        does = WORDS.get(kind, f"fails by {kind}")
        tells = _parted(cases, {r.name for r in bad}, {})
        if len(bad) == len(results):
            words, evidence = f"the kernel {does} in every case", f"{len(bad)} cases; first: {first.message}"
        elif len(bad) <= FEW:
            words = f"the kernel {does} only in {_listed([r.name for r in bad])}"
            evidence = _reasons(bad)
        elif tells is not None:
            words = f"the kernel {does} only where {tells.words}"
            evidence = _counted(tells, "cases", "in all")
        else:
            words = f"the kernel {does} in {len(bad)} of {len(results)} cases"
            evidence = f"first {bad[0].name}: {first.message if kind in SPEAKING else bad[0].reason}"
        found.append(
            Fact(words, evidence, first.stage, tuple(r.name for r in bad), 1.1 if tells or kind != "law" else 0.8)
        )
    return found


WORDS = {
    "exception": "raises", "nan": "gives NaN", "inf": "gives infinity", "shape": "gives a wrong shape",
    "dtype": "gives a wrong dtype", "mutated": "changes its inputs", "unwritten": "leaves outputs unwritten",
    "nondeterministic": "gives other numbers at a second call", "no_gradient": "gives no gradient",
    "wrong_type": "returns a wrong type", "law": "breaks a law",
}  # fmt: skip


SPEAKING = ("nondeterministic", "law", "exception")  # kinds whose message says what happened


def _of_cases(
    cases: Sequence[Case], results: Sequence[CaseResult], observed: Sequence[Observed], stage: str, bad: Sequence[str]
) -> list[Fact]:
    # a case of a lesser failure is neither wrong nor right here
    tried = [r.name for r in results if stage in r.grades and (r.name in bad or not r.failures)]
    if len(bad) <= FEW < len(tried):
        few = [r for r in results if r.name in bad]
        words = f"{stage} is wrong only in {_listed([r.name for r in few])}: {_reasons(few)}"
        evidence = f"{len(tried) - len(bad)} other cases are right"
        if rest := sum(stage in r.grades for r in results) - len(tried):
            evidence += f", {rest} fail in another way"
        return [Fact(words, evidence, stage, tuple(bad), 0.8)]
    known = {o.case: o for o in observed}
    of_it = [case for case in cases if case.name in tried]
    found = _parted(of_it, set(bad), known)
    if found is None:  # where nothing is due, whatever a kernel leaves out is right
        due = {o.case for o in observed if stage in o.got and np.any(o.truth.stages[stage])}
        found = _parted([case for case in of_it if case.name in due], set(bad), known, MOSTLY)
    if found is None:
        return []
    words = f"{stage} is wrong only in cases with: {found.words}"
    return [Fact(words, _counted(found, "cases", "in all"), stage, tuple(bad), 0.95 if found.exact else 0.65)]


def _parted(cases: Sequence[Case], bad: set[str], known: Mapping[str, Observed], most: float = MOST) -> Common | None:
    flags = dict.fromkeys(flag for case in cases for flag in case.flags)
    parts = []
    for case in cases:
        features: dict[str, Any] = {f"the flag {flag}": flag in case.flags for flag in flags}
        features |= {f"layout {case.layout}": True} if case.layout != "contiguous" else {}
        features |= _about(case)
        if all(each.name in known for each in cases):
            features |= _about_observed(known[case.name])
        parts.append({name: np.atleast_1d(value) for name, value in features.items()})
    names = dict.fromkeys(name for part in parts for name in part)
    boolean = [name for name in names if name.startswith("layout ")]
    parts = [{**{name: np.zeros(1, dtype=bool) for name in boolean}, **part} for part in parts]
    return common(pooled(parts), np.array([case.name in bad for case in cases]), most)


def _about(case: Case) -> dict[str, Any]:
    """The sizes and sorts of an input."""
    labels = np.asarray(case.labels)
    found: dict[str, Any] = {
        "upstream": case.upstream,
        "an upstream below 0": bool(case.upstream < 0),
        "upstream 1": case.upstream == 1,
    }
    if "logits" in case.inputs:
        shape = case.inputs["logits"].shape
        found |= {"logits of more than two axes": len(shape) > 2, "the number of logits": int(np.prod(shape))}
        found["max |z|"] = np.max(np.abs(case.inputs["logits"]), initial=0.0)
    else:
        x, W = case.inputs["x"], case.inputs["W"]
        (N, D), C = x.shape, len(W)
        found |= {"N": N, "C": C, "D": D, "odd N": bool(N % 2), "odd C": bool(C % 2), "odd D": bool(D % 2)}
        found |= {"more classes than rows": C > N, "more rows than classes": N > C, "N = C": N == C, "N × C": N * C}
        with np.errstate(all="ignore"):
            for name, v in (("‖x‖", x), ("‖W_c‖", W)):
                length = np.sqrt(np.sum(v * v, axis=1))
                found |= {f"min {name}": length.min(initial=np.inf), f"max {name}": length.max(initial=0.0)}
        found |= {"C = D": C == D, "N = D": N == D, "a bias": case.inputs.get("b") is not None}
        for k in (8, 16, 32, 64, 128, 4):
            found |= {f"{n} not a multiple of {k}": bool(v % k) for n, v in (("N", N), ("C", C), ("D", D))}
    if labels.dtype.kind in "iu" and labels.size:
        inside = labels[labels >= 0]
        found["two rows of one label"] = len(np.unique(inside)) < inside.size
        found["a label below 0"] = bool((labels < 0).any())
    return found


def _about_observed(o: Observed) -> dict[str, Any]:
    plain = o.truth.plain
    found = {
        "max |z|": np.max(np.abs(plain.z[np.isfinite(plain.z)]), initial=0.0),
        "a call before of these shapes": o.previous is not None,
    }
    found |= {"ignored rows": bool((~plain.valid).any()), "no row that counts": not plain.valid.any()}
    found["the number of rows that count"] = int(plain.valid.sum())
    if not plain.bare and plain.loss.has_margin and plain.valid.any():
        theta = plain.theta[np.arange(plain.N), plain.y][plain.valid]
        found |= {"max θ_y": theta.max(), "min θ_y": theta.min()}
    return found


def _reasons(few: Sequence[CaseResult]) -> str:
    return "; ".join(dict.fromkeys(r.reason for r in few))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
