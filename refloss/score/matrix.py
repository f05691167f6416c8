"""Two tables about the oracle itself: it accepts what is honest, and notices what is wrong.

`honest_matrix` runs honest implementations × dtypes × losses × seeds: an alarm there is false. `kill_matrix` runs every
suspect × dtypes × losses, each rounded to the dtype as an ideal machine would; and asks the checks that people use
today the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from refloss.cases.gradcheck import WEIGHTS, default_loss
from refloss.cases.oracle import cases
from refloss.losses import CrossEntropy, get, losses
from refloss.precision.dtypes import DTYPES
from refloss.testing.check import Checker
from refloss.testing.diagnosis.match import History
from refloss.testing.diagnosis.suspects import SUSPECTS, Suspect, suspects, wrong
from refloss.testing.judging.truth import Truth, truth_on

JUDGED = ("loss", "losses", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha")
KILLED, INNOCENT, SURVIVED = "killed", "innocent", "survived"


def objects() -> dict[str, Any]:
    """The losses of both matrices by readable name: the survey's with their defaults, and every option somewhere."""
    weights = {"class_weights": WEIGHTS}
    found: dict[str, Any] = {name: default_loss(name) for name in losses()}
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "softmax, sum": ("softmax", {"reduction": "sum"}),
        "softmax, none": ("softmax", {"reduction": "none"}),
        "softmax, ignored, smoothed": ("softmax", {"ignore_index": -100, "label_smoothing": 0.1}),
        "weighted_softmax, smoothed": ("weighted_softmax", {**weights, "label_smoothing": 0.2}),
        "weighted_softmax, weighted mean": ("weighted_softmax", {**weights, "reduction": "weighted_mean"}),
        "a_softmax, annealed": ("a_softmax", {"annealing": 5.0}),
        "f_norm_sphereface, s = 8": ("f_norm_sphereface", {"scale": 8.0}),
        "am_softmax, none, ignored": ("am_softmax", {"reduction": "none", "ignore_index": -100}),
        "arcface, linear past π": ("arcface", {"past_pi": "linear"}),
        "arcface, easy margin, s = 16": ("arcface", {"easy_margin": True, "scale": 16.0}),
        "l_softmax, m = 2, detached": ("l_softmax", {"margin": 2, "detach_margin": True}),
    }
    found |= {name: get(kind, **parameters) for name, (kind, parameters) in options.items()}
    found["cross_entropy, axis 1"] = CrossEntropy(axis=1)
    return found


# -- honest implementations ------------------------------------------------------------------------


@dataclass
class Honest:
    """One honest implementation of one loss in one dtype: its grade, and false alarms among the cases judged."""

    implementation: str
    loss: str
    dtype: str
    require: str
    cases: int = 0
    grade: str = ""
    worst: float = 0.0  # largest error over what is allowed
    where: str = ""
    alarms: list[str] = field(default_factory=list)


def honest_job(name: str, dtype: str, seed: int, quick: bool) -> list[Honest]:
    """Every honest implementation of one loss object in one dtype on the cases of one seed.

    Seed 0 takes every case, the others the quick ones; JAX, which compiles for every shape, the quick ones of seed 0.
    """
    from refloss.score.honest import HONEST, available

    loss, found = objects()[name], []
    shared: dict[Any, Truth] = {}
    with np.errstate(all="ignore"):
        for honest in (HONEST[key] for key in available()):
            made = honest.make(loss)
            unable = honest.framework == "numpy" and dtype == "bfloat16" and not _has("ml_dtypes")
            if made is None or unable or (honest.framework == "jax" and seed):
                continue
            storage = DTYPES[dtype].is_half and honest.half == "storage"
            result = Honest(honest.name, name, dtype, "D" if storage else "C")
            checker = Checker(
                made, loss, dtype=dtype, framework=honest.framework,
                cases="quick" if quick or seed or honest.framework == "jax" else "all",
                require=result.require, compute=None, device=None, slack=1.0, seed=seed, soft_targets=False,
                shared=shared,
            )  # fmt: skip
            for case in checker.cases:
                judged = checker.judged(case)
                result.cases += 1
                result.grade = max(result.grade, *judged.grades.values(), "A")
                ratio = max(judged.ratios.values(), default=0.0)
                if ratio > result.worst:
                    result.worst, result.where = ratio, f"{case.name} (seed {seed})"
                result.alarms += [f"seed {seed}: {failure}" for failure in judged.failures]
            found.append(result)
    return found


def _has(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def honest_jobs(
    dtypes: Sequence[str], names: Sequence[str], seeds: int, quick: bool
) -> list[tuple[str, str, int, bool]]:
    """The arguments of every `honest_job`."""
    return [(name, dtype, seed, quick) for name in names for dtype in dtypes for seed in range(seeds)]


@dataclass
class HonestReport:
    """honest implementation × dtype: passed if no case of any seed raised an alarm."""

    rows: list[Honest]
    seeds: int
    title = "Honest matrix"
    about = """\
Implementations that are right, and compute in the dtype named. A cell holds the worst grade, and the largest
error beyond the last place over what is allowed. Made by `refloss matrix honest --format markdown`."""

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not any(row.alarms for row in self.rows)

    def __bool__(self) -> bool:
        return self.passed

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "seeds": self.seeds, "rows": [asdict(row) for row in self.rows]}

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table: implementation, then each dtype."""
        dtypes = list(dict.fromkeys(row.dtype for row in self.rows))
        lines = []
        for name in dict.fromkeys(row.implementation for row in self.rows):
            cells = [name]
            for dtype in dtypes:
                rows = [row for row in self.rows if (row.implementation, row.dtype) == (name, dtype)]
                cells.append(_honest_cell(rows))
            lines.append(cells)
        return ["implementation", *dtypes], lines

    def summary(self) -> str:
        judged, alarms = sum(row.cases for row in self.rows), sum(len(row.alarms) for row in self.rows)
        worst = max(self.rows, key=lambda row: row.worst)
        where = f"{worst.implementation}, {worst.loss}, {worst.dtype}, {worst.where}"
        return (
            f"{judged} cases judged with {self.seeds} seed{'s' * (self.seeds != 1)}: {alarms} false alarms; the "
            f"largest error is {worst.worst:.2f} of what is allowed ({where})"
        )

    def details(self) -> list[str]:
        return [
            f"ALARM {r.implementation}, {r.loss}, {r.dtype}: {a}" for r in self.rows for a in r.alarms[:3]
        ]


def _honest_cell(rows: list[Honest]) -> str:
    if not rows:
        return "–"
    alarms = sum(len(row.alarms) for row in rows)
    grade, worst = max(row.grade for row in rows), max(row.worst for row in rows)
    return f"{alarms} alarms of {sum(row.cases for row in rows)}" if alarms else f"{grade} {worst:.2f}"


# -- wrong implementations -------------------------------------------------------------------------


@dataclass
class Kill:
    """One suspect (one of its variants) on one loss in one dtype.

    fate     killed; innocent, if it agrees with the truth to the last place on every case; survived
    cases    on how many cases it was killed, and stage, where first
    rivals   check that people use → whether that check notices; missing where it cannot be used
    """

    suspect: str
    variant: str
    loss: str
    dtype: str
    fate: str
    cases: int = 0
    stage: str = ""
    rivals: dict[str, bool] = field(default_factory=dict)


def kill_job(name: str, dtype: str, quick: bool, rivals: bool) -> list[Kill]:
    """Every suspect of one loss object in one dtype.

    rivals: the checks that people use are asked too, of the survey's losses, in float32 (in float64 those that take
    nothing else).
    """
    loss, found = objects()[name], []
    asked = losses() if rivals and dtype in ("float32", "float64") else []  # the others take their time
    seen: list[tuple[Truth, Any]] = []
    history = History()
    with np.errstate(all="ignore"):
        for case in cases(loss, dtype):
            if quick and not case.quick:
                continue
            upstream = case.upstreams if loss.reduction == "none" else case.upstream
            at = truth_on(loss, case.inputs, case.labels, upstream, dtype)
            seen.append((at, history.before(at.plain)))
        for suspect in suspects(loss):
            kills = []
            for variant in suspect.variants:
                kills.append(
                    Kill(suspect.name, "" if variant is None else str(variant), name, dtype, INNOCENT)
                )
                for at, previous in seen:
                    _try(kills[-1], suspect, variant, at, previous)
            # the others are asked about the variant that is easiest to see, and not about what needs a history
            worst = max(range(len(kills)), key=lambda i: kills[i].cases)
            if name in asked and kills[worst].fate != INNOCENT and suspect.group != "state":
                kills[worst].rivals = noticed_by(suspect, suspect.variants[worst], loss, dtype)
            found += kills
    return found


def _try(kill: Kill, suspect: Suspect, variant: Any, at: Truth, previous: Any) -> None:
    made = wrong(suspect, at.loss, at.inputs, at.labels, at.upstream, previous, variant)
    for stage in JUDGED if not at.plain.bare else ("loss", "losses", "grad_logits"):
        if stage not in at.stages:
            continue
        held = at.as_wrong(stage, made[stage])
        if not at.passes(stage, held, "C"):
            kill.fate, kill.stage = KILLED, kill.stage or stage
            kill.cases += 1
            return
        if kill.fate == INNOCENT and not at.passes(stage, held, "A"):
            kill.fate = SURVIVED


def noticed_by(suspect: Suspect, variant: Any, loss: Any, dtype: str) -> dict[str, bool]:
    """Check that people use → whether it notices this suspect."""
    from refloss.score.rivals import RIVALS, available

    def run(inputs: Any, labels: Any, upstream: Any) -> dict[str, np.ndarray]:
        return wrong(suspect, loss, inputs, labels, upstream, None, variant)

    noticed = {}
    for name in available():
        if (RIVALS[name].only_float64) != (dtype == "float64"):
            continue
        accepted = RIVALS[name].accepts(run, loss, dtype)
        if accepted is not None:
            noticed[name] = not accepted
    return noticed


@dataclass
class KillReport:
    """suspect × dtype: passed if every bug is killed in float64 and float32, and 95 % of them in 16 bits."""

    rows: list[Kill]
    title = "Kill matrix"
    about = """\
Wrong implementations, each rounded to the dtype as an ideal machine would, judged by loss and gradients alone
at grade C (float32 inside for 16 bits). A cell says on how many losses the suspect is killed, of those where it
is a bug: where it differs from the truth by more than the last place on some case. The columns behind the
dtypes are the checks that people use, on the losses of the survey with their defaults, in float32 (gradcheck:
float64). They are asked for the constant (ε, block) that is easiest to see, and not about bugs that need an
earlier call. *hidden*: less precision does not show there. Made by `refloss matrix kill --rivals --format
markdown`."""

    def fates(self) -> dict[tuple[str, str], str]:
        """(suspect, dtype) → killed, wherever one of its variants is a bug; survived; innocent everywhere."""
        found: dict[tuple[str, str], str] = {}
        by: dict[tuple[str, str], dict[str, list[Kill]]] = {}
        for row in self.rows:
            by.setdefault((row.suspect, row.dtype), {}).setdefault(row.loss, []).append(row)
        for key, of in by.items():
            fates = [_of_variants(kills) for kills in of.values()]
            guilty = [fate for fate in fates if fate != INNOCENT]
            found[key] = INNOCENT if not guilty else KILLED if set(guilty) == {KILLED} else SURVIVED
        return found

    def score(self, dtype: str) -> tuple[int, int]:
        """(killed, guilty) suspects in a dtype; those that only lower precision count where they are noticed."""
        fates = {name: fate for (name, kind), fate in self.fates().items() if kind == dtype}
        counted = {
            name: fate
            for name, fate in fates.items()
            if fate == KILLED or (fate == SURVIVED and not SUSPECTS[name].only_precision)
        }
        return sum(fate == KILLED for fate in counted.values()), len(counted)

    @property
    def dtypes(self) -> list[str]:
        return list(dict.fromkeys(row.dtype for row in self.rows))

    @property
    def passed(self) -> bool:
        enough = {dtype: 0.95 if DTYPES[dtype].is_half else 1.0 for dtype in self.dtypes}
        scores = {dtype: self.score(dtype) for dtype in self.dtypes}
        return bool(scores) and all(k >= enough[dtype] * n and n for dtype, (k, n) in scores.items())

    def __bool__(self) -> bool:
        return self.passed

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "scores": {dtype: self.score(dtype) for dtype in self.dtypes},
            "rows": [asdict(row) for row in self.rows],
        }

    def rivals(self) -> dict[str, tuple[int, int]]:
        """Check → (noticed, asked), of the suspects that are bugs there."""
        count: dict[str, list[int]] = {}
        for row in self.rows:
            for name, noticed in row.rivals.items():
                if SUSPECTS[row.suspect].only_precision and row.fate != KILLED:
                    continue
                seen = count.setdefault(name, [0, 0])
                seen[0] += noticed
                seen[1] += 1
        return {key: (noticed, asked) for key, (noticed, asked) in count.items()}

    def beside(self, dtype: str) -> tuple[int, int]:
        """(killed, asked) of the very rows that the other checks were asked about in this dtype."""
        rows = [
            row
            for row in self.rows
            if row.dtype == dtype
            and row.rivals
            and (row.fate == KILLED or not SUSPECTS[row.suspect].only_precision)
        ]
        return sum(row.fate == KILLED for row in rows), len(rows)

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: suspect; on how many losses it is killed in each dtype, and the other checks notice it."""
        fates, others = self.fates(), list(self.rivals())
        lines = []
        for name in dict.fromkeys(row.suspect for row in self.rows):
            cells = [name, *(self._cell(name, dtype, fates) for dtype in self.dtypes)]
            for other in others:
                seen = [r.rivals[other] for r in self.rows if r.suspect == name and other in r.rivals]
                cells.append(f"{sum(seen)}/{len(seen)}" if seen else "–")
            lines.append(cells)
        return ["suspect", *self.dtypes, *others], lines

    def _cell(self, name: str, dtype: str, fates: dict[tuple[str, str], str]) -> str:
        fate = fates.get((name, dtype), "")
        if fate != KILLED and SUSPECTS[name].only_precision:
            return "hidden" if fate else "–"
        rows = [
            row for row in self.rows if (row.suspect, row.dtype) == (name, dtype) and row.fate != INNOCENT
        ]
        killed = Counter(row.loss for row in rows if row.fate == KILLED)
        if not fate or fate == INNOCENT:
            return "–"
        return f"{len(killed)}/{len({row.loss for row in rows})}"

    def summary(self) -> str:
        parts = []
        for dtype in self.dtypes:
            killed, guilty = self.score(dtype)
            parts.append(f"{dtype} {killed} of {guilty}")
        lines = [f"suspects killed: {', '.join(parts)}"]
        asked = {dtype: self.beside(dtype) for dtype in self.dtypes if self.beside(dtype)[1]}
        lines += [
            f"of what the others were asked, {d}: refloss notices {k} of {n}" for d, (k, n) in asked.items()
        ]
        lines += [f"{name} notices {noticed} of {n}" for name, (noticed, n) in self.rivals().items()]
        return "; ".join(lines)

    def details(self) -> list[str]:
        left = [
            row for row in self.rows
            if row.fate == SURVIVED and self.fates()[row.suspect, row.dtype] == SURVIVED
            and not SUSPECTS[row.suspect].only_precision
        ]  # fmt: skip
        return [f"SURVIVED {row.suspect} {row.variant} in {row.loss}, {row.dtype}" for row in left]


def _of_variants(kills: Sequence[Kill]) -> str:
    """Of one suspect on one loss: killed if the tolerances notice any of its variants."""
    fates = {kill.fate for kill in kills}
    return KILLED if KILLED in fates else SURVIVED if SURVIVED in fates else INNOCENT


def kill_jobs(
    dtypes: Sequence[str], names: Sequence[str], quick: bool, rivals: bool
) -> list[tuple[str, str, bool, bool]]:
    """The arguments of every `kill_job`."""
    return [(name, dtype, quick, rivals) for dtype in dtypes for name in names]


def joined(parts: Iterable[list[Any]]) -> list[Any]:
    """One list; of honest rows, those of all seeds together."""
    rows: dict[Any, Any] = {}
    for part in parts:
        for row in part:
            if not isinstance(row, Honest):
                rows[len(rows)] = row
                continue
            key = (row.implementation, row.loss, row.dtype)
            if key not in rows:
                rows[key] = replace(row, alarms=list(row.alarms))
                continue
            known = rows[key]
            known.cases += row.cases
            known.grade = max(known.grade, row.grade)
            known.alarms += row.alarms
            if row.worst > known.worst:
                known.worst, known.where = row.worst, row.where
    return list(rows.values())
