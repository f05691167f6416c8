"""The kill matrix: the oracle notices what is wrong.

Every suspect × losses × dtypes, each rounded to the dtype as an ideal machine would; the checks that people use today
are asked the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from refloss.cases.configurations import make, objects
from refloss.cases.oracle import cases
from refloss.losses import losses
from refloss.precision.dtypes import DTYPES
from refloss.report import Grid, capped
from refloss.score.matrices import MatrixReport
from refloss.score.rivals import RIVALS, available
from refloss.testing.diagnosis.match import History
from refloss.testing.diagnosis.suspects import SUSPECTS, Suspect, suspects, wrong
from refloss.testing.judging.truth import Truth, required, truth_on

JUDGED = ("loss", "losses", "grad_x", "grad_W", "grad_b", "grad_scale", "grad_margin", "grad_alpha")
KILLED, INNOCENT, SURVIVED = "killed", "innocent", "survived"


def configurations() -> dict[str, tuple[Any, list[Suspect]]]:
    """Name → loss, and the suspects that it is asked about.

    Every loss is asked about all of its suspects; the last ones only about those that no other loss has.
    """
    found = {name: (loss, suspects(loss)) for name, loss in objects().items()}
    reached = {suspect.name for _, asked in found.values() for suspect in asked}
    last = {"arcface, m = 0": make("arcface", margin=0.0), "a_softmax, zero rows": make("a_softmax", zero_norm="zero")}
    for name, loss in last.items():
        found[name] = loss, [suspect for suspect in suspects(loss) if suspect.name not in reached]
    return found


@dataclass
class KillRow:
    """One suspect (one of its variants) on one loss in one dtype.

    fate     killed; innocent, if it agrees with the truth to the last place on every case; survived
    cases    on how many cases it was killed (without rivals the first is enough), and stage, where first
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

    @property
    def counts(self) -> bool:
        """Less precision alone counts only where it is noticed."""
        return self.fate == KILLED or not SUSPECTS[self.suspect].only_precision


def kill_job(name: str, dtype: str, quick: bool, rivals: bool) -> list[KillRow]:
    """Every suspect of one loss object in one dtype.

    rivals: the checks that people use are asked too, of the survey's losses, in float32 (in float64 those that take
    nothing else).
    """
    loss, suspected = configurations()[name]
    asked = losses() if rivals and dtype in ("float32", "float64") else []  # the others take their time
    tried = [
        (suspect, variant, KillRow(suspect.name, "" if variant is None else str(variant), name, dtype, INNOCENT))
        for suspect in suspected
        for variant in suspect.variants
    ]
    found = [kill for _, _, kill in tried]
    history = History()
    with np.errstate(all="ignore"):
        for case in cases(loss, dtype):
            if quick and not case.quick:
                continue
            left = [one for one in tried if rivals or one[2].fate != KILLED]
            if not left:
                break
            upstream = case.upstreams if loss.reduction == "none" else case.upstream
            at = truth_on(loss, case.inputs, case.labels, upstream, dtype)
            previous = history.before(at.plain)
            for suspect, variant, kill in left:
                _try(kill, suspect, variant, at, previous)
        for suspect in suspected if name in asked else ():
            kills = [kill for kill in found if kill.suspect == suspect.name]
            # the others are asked about the variant that is easiest to see, and not about what needs a history
            worst = max(range(len(kills)), key=lambda i: kills[i].cases)
            if kills[worst].fate != INNOCENT and suspect.group != "state":
                kills[worst].rivals = noticed_by(suspect, suspect.variants[worst], loss, dtype)
    return found


def _try(kill: KillRow, suspect: Suspect, variant: Any, at: Truth, previous: Any) -> None:
    made = wrong(suspect, at.loss, at.inputs, at.labels, at.upstream, previous, variant)
    require = required(None, kill.dtype)
    for stage in JUDGED if not at.plain.bare else ("loss", "losses", "grad_logits"):
        if stage not in at.stages:
            continue
        held = at.as_wrong(stage, made[stage])
        if not at.passes(stage, held, require):
            kill.fate, kill.stage = KILLED, kill.stage or stage
            kill.cases += 1
            return
        if kill.fate == INNOCENT and not at.passes(stage, held, "A"):
            kill.fate = SURVIVED


def noticed_by(suspect: Suspect, variant: Any, loss: Any, dtype: str) -> dict[str, bool]:
    """Check that people use → whether it notices this suspect."""

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
class KillReport(MatrixReport):
    """suspect × dtype: passed if every bug is killed in float64 and float32, and 95 % of them in 16 bits."""

    rows: list[KillRow]
    title = "Kill matrix"
    about = """\
Wrong implementations, each rounded to the dtype as an ideal machine would, judged by loss and gradients alone
at grade C, in 16 bits at D (stored in 16 bits, computed in float32). A cell says on how many losses the suspect
is killed, of those where it is a bug: where it differs from the truth by more than the last place on some case.
The columns behind the dtypes are the checks that people use, on the losses of the survey with their defaults, in
float32 (gradcheck, where it is among them: float64). They are asked for the constant (ε, block) that is easiest
to see, and not about bugs that need an earlier call. *hidden*: less precision does not show there. Made by
`refloss matrix kill --rivals --format markdown`."""

    def fates(self) -> dict[tuple[str, str], str]:
        """(suspect, dtype) → killed, wherever one of its variants is a bug; survived; innocent everywhere."""
        found: dict[tuple[str, str], str] = {}
        by: dict[tuple[str, str], dict[str, list[KillRow]]] = {}
        for row in self.rows:
            by.setdefault((row.suspect, row.dtype), {}).setdefault(row.loss, []).append(row)
        for key, of in by.items():
            fates = [_of_variants(kills) for kills in of.values()]
            guilty = [fate for fate in fates if fate != INNOCENT]
            found[key] = INNOCENT if not guilty else KILLED if set(guilty) == {KILLED} else SURVIVED
        return found

    def score(self, dtype: str) -> tuple[int, int]:
        """(killed, guilty) suspects in a dtype; those that only lower precision count where they are noticed."""
        counted = [
            fate
            for (name, kind), fate in self.fates().items()
            if kind == dtype and (fate == KILLED or (fate == SURVIVED and not SUSPECTS[name].only_precision))
        ]
        return counted.count(KILLED), len(counted)

    @property
    def passed(self) -> bool:
        enough = {dtype: 0.95 if DTYPES[dtype].is_half else 1.0 for dtype in self.dtypes}
        scores = {dtype: self.score(dtype) for dtype in self.dtypes}
        return bool(scores) and all(k >= enough[dtype] * n and n for dtype, (k, n) in scores.items())

    def to_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "scores": {dtype: self.score(dtype) for dtype in self.dtypes},
            "rows": [asdict(row) for row in self.rows],
        }

    def rivals(self) -> dict[str, tuple[int, int]]:
        """Check → (noticed, asked), of the suspects that are bugs there."""
        asked: dict[str, list[bool]] = {}
        for row in self.rows:
            for name, noticed in row.rivals.items() if row.counts else ():
                asked.setdefault(name, []).append(noticed)
        return {name: (sum(noticed), len(noticed)) for name, noticed in asked.items()}

    def beside(self, dtype: str) -> tuple[int, int]:
        """(killed, asked) of the very rows that the other checks were asked about in this dtype."""
        fates = [row.fate for row in self.rows if row.dtype == dtype and row.rivals and row.counts]
        return fates.count(KILLED), len(fates)

    def grid(self) -> Grid:
        """Suspect; on how many losses it is killed in each dtype, and the other checks notice it."""
        fates, others = self.fates(), list(self.rivals())
        lines = []
        for name in dict.fromkeys(row.suspect for row in self.rows):
            cells = [name, *(self._cell(name, dtype, fates) for dtype in self.dtypes)]
            for other in others:
                seen = [r.rivals[other] for r in self.rows if r.suspect == name and other in r.rivals]
                cells.append(f"{sum(seen)}/{len(seen)}" if seen else "–")
            lines.append(cells)
        return Grid(["suspect", *self.dtypes, *others], lines)

    def _cell(self, name: str, dtype: str, fates: dict[tuple[str, str], str]) -> str:
        fate = fates.get((name, dtype), "")
        if fate != KILLED and SUSPECTS[name].only_precision:
            return "hidden" if fate else "–"
        rows = [row for row in self.rows if (row.suspect, row.dtype) == (name, dtype) and row.fate != INNOCENT]
        if not fate or fate == INNOCENT:
            return "–"
        return f"{len({row.loss for row in rows if row.fate == KILLED})}/{len({row.loss for row in rows})}"

    def facts(self) -> list[str]:
        scores = [f"{dtype} {killed} of {guilty}" for dtype in self.dtypes for killed, guilty in [self.score(dtype)]]
        beside = {dtype: self.beside(dtype) for dtype in self.dtypes}
        return [
            f"suspects killed: {', '.join(scores)}",
            *(f"of what the others were asked, {d}: refloss notices {k} of {n}" for d, (k, n) in beside.items() if n),
            *(f"{name} notices {noticed} of {n}" for name, (noticed, n) in self.rivals().items()),
        ]

    def details(self) -> list[str]:
        fates = self.fates()
        left = [
            f"SURVIVED {row.suspect} {row.variant} in {row.loss}, {row.dtype}"
            for row in self.rows
            if row.fate == fates[row.suspect, row.dtype] == SURVIVED and row.counts
        ]
        return capped(left, 40, "survivors")


def _of_variants(kills: Sequence[KillRow]) -> str:
    """Of one suspect on one loss: killed if the tolerances notice any of its variants."""
    fates = {kill.fate for kill in kills}
    return KILLED if KILLED in fates else SURVIVED if SURVIVED in fates else INNOCENT


def kill_jobs(
    dtypes: Sequence[str], names: Sequence[str], quick: bool, rivals: bool
) -> list[tuple[str, str, bool, bool]]:
    """The arguments of every `kill_job`."""
    return [(name, dtype, quick, rivals) for dtype in dtypes for name in names]
