"""The adversarial grid run through refloss, every number measured against proven enclosures.

outcomes = [outcome for point in grid() for outcome in run_point(point)]
print(GridReport(outcomes))
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np

import refloss
from refloss.cases.case import Point
from refloss.losses.passes import PRECISIONS
from refloss.proof.certify import StageError, certify, enclose_decided, measure
from refloss.report import BaseReport, Grid, capped

NO_DIGIT = 0.1  # of the natural scale, or of the loss itself: not even the first digit is sure
U = 2.0**-53
Measured = tuple[Mapping[str, StageError], bool]  # the stages, and whether all is finite
GRADIENTS = ("grad_x", "grad_W", "grad_b")  # of these a peer has all that the loss has
LOSSES = ("losses", "loss")


@dataclass(frozen=True)
class Outcome:
    """What one implementation gave at one point, measured.

    by       "double" and "extended" (refloss), or the name of a peer (an implementation by others)
    stages   name → StageError; empty if it raised
    finite   whether no stage has NaN or Inf
    raised   the exception in one line, or ""
    owed     whether extended precision owes all its digits at this point
    """

    by: str
    loss: str
    point: str
    kind: str
    made_by: str
    owed: bool
    stages: Mapping[str, StageError] = field(default_factory=dict)
    finite: bool = True
    raised: str = ""

    @property
    def of_refloss(self) -> bool:
        return self.by in PRECISIONS

    @property
    def over_limit(self) -> list[StageError]:
        """The stages that are over what refloss owes them; none of a peer, which owes nothing."""
        return [stage for stage in self.stages.values() if not stage.within] if self.of_refloss else []

    @property
    def undecided(self) -> int:
        return sum(stage.undecided for stage in self.stages.values()) if self.of_refloss else 0

    @property
    def no_digit(self) -> bool:
        """Some gradient is off by a tenth of its natural scale, or some loss by a tenth of itself."""
        judged = [stage for name, stage in self.stages.items() if name in (*GRADIENTS, "losses")]
        return any(not stage.worst_u * U < NO_DIGIT for stage in judged)


def run_point(
    point: Point,
    precisions: Sequence[str] = ("double",),
    peers: Mapping[str, Callable[[Point], Mapping[str, np.ndarray] | None]] = MappingProxyType({}),
) -> list[Outcome]:
    """One point through refloss at these precisions, and through these peers.

    peers: name → function of a point that gives the stages, or None where the peer does not have the loss.
    """
    x, W, labels, b, upstream = point.x, point.W, point.labels, point.b, point.upstream
    enclosures = enclose_decided(point.loss, x, W, labels, b, upstream=upstream)

    def of_refloss(precision: str) -> Measured:
        loss = replace(point.loss, precision=precision)
        stages = certify(loss, x, W, labels, b, upstream=upstream, enclosures=enclosures).stages
        return stages, not any("not finite" in stage.reason for stage in stages.values())

    def of_peer(name: str) -> Measured | None:
        stages = peers[name](point)
        if stages is None:
            return None
        return measure(enclosures, stages), all(np.isfinite(value).all() for value in stages.values())

    owed = bool(enclosures.owed.all())
    outcomes = [_outcome(point, owed, precision, of_refloss) for precision in precisions]
    outcomes += [_outcome(point, owed, name, of_peer) for name in peers]
    return [outcome for outcome in outcomes if outcome is not None]


def _outcome(point: Point, owed: bool, by: str, run: Callable[[str], Measured | None]) -> Outcome | None:
    outcome = Outcome(by, point.name.split(".")[0], point.name, point.kind, repr(point.loss), owed)
    try:
        measured = run(by)
    except Exception as error:  # a finding about whoever raised it, not the end of the table
        message = (str(error).splitlines() or [""])[0]
        return replace(outcome, raised=f"{type(error).__name__}: {message}")
    if measured is None:
        return None
    stages, finite = measured
    return replace(outcome, stages=stages, finite=finite)


# -- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One loss by one implementation over its points.

    gradient_u, loss_ulp   worst errors with the points where they occur; of "extended" over the points that it owes
    of_limit               worst error as a part of what refloss owes there (a peer owes nothing: None)
    over_limit, not_finite, no_digit, raised   numbers of points;  undecided   number of entries
    """

    loss: str
    by: str
    points: int
    gradient_u: float
    gradient_at: str
    loss_ulp: float
    loss_at: str
    of_limit: float | None
    over_limit: int
    undecided: int
    not_finite: int
    no_digit: int
    raised: int


@dataclass
class GridReport(BaseReport):
    """Everything that was measured. Its truth value is the verdict on refloss, its text the table.

    passed  refloss raised nothing and no stage is over its limit: what its records state as their bounds with
            precision "double", 4 ulp of losses and 8 u of all else with "extended"
    peers   name → package and version, of the peers that may have been asked
    """

    width = 190

    outcomes: list[Outcome]
    peers: Mapping[str, str] = field(default_factory=dict)

    @property
    def _own(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.of_refloss]

    @property
    def passed(self) -> bool:
        return bool(self._own) and not any(outcome.over_limit or outcome.raised for outcome in self._own)

    def rows(self) -> list[Row]:
        """One a loss and implementation, in the order of the grid; refloss first."""
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome.loss, outcome.by), []).append(outcome)
        return [_row(loss, by, outcomes) for (loss, by), outcomes in groups.items()]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "passed": self.passed,
            "versions": self.versions(),
            "rows": [asdict(row) for row in self.rows()],
            "outcomes": [
                {**asdict(outcome), "stages": {name: asdict(s) for name, s in outcome.stages.items()}}
                for outcome in self.outcomes
            ],
        }

    # -- text --------------------------------------------------------------------------------------

    def grid(self, rows: Sequence[Row] | None = None) -> Grid:
        """One line for each loss and implementation, or for these rows."""
        rows = self.rows() if rows is None else rows
        wrong = [row.by in PRECISIONS and bool(row.over_limit or row.raised) for row in rows]
        return Grid(HEADINGS, [_cells(row) for row in rows], "llrrlrlrrrrrr", wrong)

    def details(self) -> list[str]:
        """What the units are, what is over its limit, what stays undecided and what was raised."""
        return [LEGEND, *self.failures(20), *self.undecided(), *self.raised()]

    def verdict(self) -> str:
        own = self._own
        points = len({outcome.point for outcome in own})
        over = sum(bool(outcome.over_limit) for outcome in own)
        raised = sum(bool(outcome.raised) for outcome in own)
        open_ = sum(outcome.undecided for outcome in own)
        return (
            f"{'PASSED' if self.passed else 'FAILED'}: {points} points, {len(own)} runs of refloss, "
            f"{over} over a limit, {raised} exceptions, {open_} entries undecided"
        )

    def failures(self, most: int) -> list[str]:
        lines = [
            f"FAILED {outcome.point} [{outcome.by}] {stage.stage}{list(stage.index)}: {stage.reason}; "
            f"{number(stage.worst_u)} u, {number(stage.worst_ulp)} ulp, {number(stage.of_limit)} of its limit"
            for outcome in self.outcomes
            for stage in outcome.over_limit
        ]
        return capped(lines, most, "stages over their limit")

    def undecided(self) -> list[str]:
        reasons: dict[str, dict[str, int]] = {}
        for outcome in self._own:
            for stage in outcome.stages.values():
                if stage.undecided and stage.within:
                    at = reasons.setdefault(stage.reason, {})
                    at[outcome.point] = at.get(outcome.point, 0) + stage.undecided
        return [
            f"undecided, {reason}: {sum(at.values())} entries at {len(at)} points ({_some(list(at))})"
            for reason, at in reasons.items()
        ]

    def raised(self) -> list[str]:
        messages: dict[tuple[str, str], list[str]] = {}
        for outcome in self.outcomes:
            if outcome.raised:
                # messages that show numbers differ from point to point; their beginnings do not
                short = outcome.raised if len(outcome.raised) <= 80 else f"{outcome.raised[:80]}…"
                messages.setdefault((outcome.by, short), []).append(outcome.point)
        return [f"{by} raised {message} ({_some(at)})" for (by, message), at in messages.items()]

    def versions(self) -> list[str]:
        """refloss, Python, NumPy, python-flint, and the packages of the peers that were asked."""
        own = [f"refloss {refloss.__version__}", f"Python {platform.python_version()}"]
        own += [f"NumPy {np.__version__}", f"python-flint {version('python-flint')}"]
        return list(dict.fromkeys([*own, *(self.peers[o.by] for o in self.outcomes if o.by not in PRECISIONS)]))


HEADINGS = (
    "loss", "by", "points", "gradients, u", "at", "losses, ulp", "at", "of limit", "over", "undecided",
    "not finite", "no digit", "raised",
)  # fmt: skip
LEGEND = (
    "worst gradient in u = 2^-53 of its natural scale, worst loss in units in its last place; of limit: the largest "
    "part of what refloss owes"
)


def _row(loss: str, by: str, outcomes: Sequence[Outcome]) -> Row:
    mine = by in PRECISIONS
    owed = [outcome for outcome in outcomes if outcome.owed or by != "extended"]
    (gradient, gradient_at), (ulp, ulp_at) = worst(owed)
    limits = [s.of_limit for o in outcomes for s in o.stages.values() if s.limit is not None]
    return Row(
        loss=loss,
        by=by,
        points=len(outcomes),
        gradient_u=gradient,
        gradient_at=gradient_at,
        loss_ulp=ulp,
        loss_at=ulp_at,
        of_limit=max(limits) if mine and limits else None,
        over_limit=sum(bool(outcome.over_limit) for outcome in outcomes),
        undecided=sum(outcome.undecided for outcome in outcomes),
        not_finite=sum(not outcome.finite for outcome in outcomes),
        no_digit=sum(outcome.no_digit for outcome in outcomes),
        raised=sum(bool(outcome.raised) for outcome in outcomes),
    )


def worst(outcomes: Sequence[Outcome]) -> tuple[tuple[float, str], tuple[float, str]]:
    """The worst gradient in u and the worst loss in ulp, each with its point."""
    stages = [(name, stage, o.point) for o in outcomes for name, stage in o.stages.items()]
    gradients = [(stage.worst_u, point) for name, stage, point in stages if name.startswith("grad_")]
    losses = [(stage.worst_ulp, point) for name, stage, point in stages if name in LOSSES]
    gradient, loss = (max(v, key=lambda e: e[0], default=(0.0, "")) for v in (gradients, losses))
    return gradient, loss


def _cells(row: Row) -> list[str]:
    """The row's cells, in the order of HEADINGS; a point is named without its loss."""
    at = [point.partition(".")[2] for point in (row.gradient_at, row.loss_at)]
    limit = "" if row.of_limit is None else number(row.of_limit)
    counts = (row.over_limit, row.undecided) if row.by in PRECISIONS else ("", "")
    return [
        row.loss, row.by, str(row.points), number(row.gradient_u), at[0], number(row.loss_ulp), at[1], limit,
        *map(str, counts), str(row.not_finite), str(row.no_digit), str(row.raised),
    ]  # fmt: skip


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1e5 else f"{value:.0e}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", and {len(names) - 4} more" if len(names) > 4 else "")
