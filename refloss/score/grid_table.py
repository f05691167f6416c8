"""The adversarial grid run through refloss and its peers, every number measured against proven enclosures.

outcomes = [outcome for point in grid() for outcome in run_point(point)]
print(GridReport(outcomes))
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

import refloss
from refloss.cases.case import Point
from refloss.cases.grid import KINDS, LIMIT
from refloss.losses.passes import PRECISIONS
from refloss.proof.certify import StageError, certify, enclose_decided, measure
from refloss.score.peers import available, run_peer
from refloss.writing import Printed

NO_DIGIT = 0.1  # of the natural scale, or of the loss itself: not even the first digit is sure
U = 2.0**-53
Measured = tuple[Mapping[str, StageError], bool]  # the stages, and whether all is finite
GRADIENTS = ("grad_x", "grad_W", "grad_b")  # of these a peer has all that the loss has
LOSSES = ("losses", "loss")


@dataclass(frozen=True)
class Outcome:
    """What one implementation gave at one point, measured.

    by       "double" and "extended" (refloss), or the name of a peer
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
    point: Point, precisions: Sequence[str] = ("double",), peers: Sequence[str] = ()
) -> list[Outcome]:
    """One point through refloss at these precisions, and through these peers where they have the loss."""
    x, W, labels, b, upstream = point.x, point.W, point.labels, point.b, point.upstream
    enclosures = enclose_decided(point.loss, x, W, labels, b, upstream=upstream)

    def of_refloss(precision: str) -> Measured:
        loss = replace(point.loss, precision=precision)
        stages = certify(loss, x, W, labels, b, upstream=upstream, enclosures=enclosures).stages
        return stages, not any("not finite" in stage.reason for stage in stages.values())

    def of_peer(name: str) -> Measured | None:
        stages = run_peer(name, point)
        if stages is None:
            return None
        return measure(enclosures, stages), all(np.isfinite(value).all() for value in stages.values())

    owed = bool(enclosures.owed.all())
    outcomes = [_outcome(point, owed, precision, of_refloss) for precision in precisions]
    outcomes += [_outcome(point, owed, name, of_peer) for name in peers]
    return [outcome for outcome in outcomes if outcome is not None]


def _outcome(point: Point, owed: bool, by: str, run: Callable[[str], Measured | None]) -> Outcome | None:
    def outcome(**found: Any) -> Outcome:
        return Outcome(
            by=by,
            loss=point.name.split(".")[0],
            point=point.name,
            kind=point.kind,
            made_by=repr(point.loss),
            owed=owed,
            **found,
        )

    try:
        measured = run(by)
    except Exception as error:  # a finding about whoever raised it, not the end of the table
        message = (str(error).splitlines() or [""])[0]
        return outcome(raised=f"{type(error).__name__}: {message}")
    if measured is None:
        return None
    stages, finite = measured
    return outcome(stages=stages, finite=finite)


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
class GridReport(Printed):
    """Everything that was measured. Its truth value is the verdict on refloss, its text the table.

    passed  refloss raised nothing and no stage is over its limit: what its records state as their bounds with
            precision "double", 4 ulp of losses and 8 u of all else with "extended"
    """

    width = 190

    outcomes: list[Outcome]

    @property
    def passed(self) -> bool:
        own = [outcome for outcome in self.outcomes if outcome.of_refloss]
        return bool(own) and not any(outcome.over_limit or outcome.raised for outcome in own)

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
            "versions": versions(self._peers()),
            "rows": [asdict(row) for row in self.rows()],
            "outcomes": [
                {**asdict(outcome), "stages": {name: asdict(s) for name, s in outcome.stages.items()}}
                for outcome in self.outcomes
            ],
        }

    # -- text --------------------------------------------------------------------------------------

    def print(self, console: Any) -> None:
        """The table, what is over its limit, what stays undecided and the verdict, on a rich console."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=heading in LEFT)
        for row in self.rows():
            wrong = row.by in PRECISIONS and (row.over_limit or row.raised)
            table.add_row(*map(Text, _cells(row)), style="bold red" if wrong else None)
        console.print(table)
        for line in (LEGEND, *self._failures(20), *self._undecided(), *self._raised(), self.verdict()):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def to_markdown(self, command: str) -> str:
        """The page of the docs, headed by the command that makes it."""
        title = "# How far from the truth: the adversarial grid"
        made = (
            f"Made by `{command}` with {', '.join(versions(self._peers()))}. Every number is proven: an upper bound "
            "of the distance to everything that Arb balls around the true value hold."
        )
        own = [row for row in self.rows() if row.by in PRECISIONS]
        others = [row for row in self.rows() if row.by not in PRECISIONS]
        parts = [
            title,
            made,
            *DEFINITIONS,
            self.verdict(),
            "## refloss",
            markdown(HEADINGS, [*map(_cells, own)], LEFT),
        ]
        if others:
            parts += [
                "## In float64 on the same points",
                PEERS_WORDS,
                markdown(HEADINGS, [*map(_cells, others)], LEFT),
            ]
        parts += ["## Kind by kind", KIND_WORDS, self._kinds()]
        for heading, lines in (
            ("Over the limit", self._failures(1000)),
            ("Undecided", self._undecided()),
            ("Exceptions", self._raised()),
        ):
            if lines:
                parts += [f"## {heading}", "\n".join(f"- {line}" for line in lines)]
        return "\n\n".join(parts)

    def _kinds(self) -> str:
        """A Markdown table: the worst gradient and loss of every kind of point by every implementation."""
        columns = list(dict.fromkeys(outcome.by for outcome in self.outcomes))
        rows = []
        for kind, provokes in KINDS.items():
            of_survey = [o for o in self.outcomes if o.kind == kind and o.loss != "margin_softmax"]
            here = [o for o in of_survey if o.owed or o.by != "extended"]
            if here:
                worst = [_pair([o for o in here if o.by == by]) for by in columns]
                rows.append([f"**{kind}**: {provokes}", *worst])
        return markdown(["points", *columns], rows, ["points"])

    def verdict(self) -> str:
        own = [outcome for outcome in self.outcomes if outcome.of_refloss]
        points = len({outcome.point for outcome in own})
        over = sum(bool(outcome.over_limit) for outcome in own)
        raised = sum(bool(outcome.raised) for outcome in own)
        open_ = sum(outcome.undecided for outcome in own)
        return (
            f"{'PASSED' if self.passed else 'FAILED'}: {points} points, {len(own)} runs of refloss, "
            f"{over} over a limit, {raised} exceptions, {open_} entries undecided"
        )

    def _failures(self, most: int) -> list[str]:
        lines = [
            f"FAILED {outcome.point} [{outcome.by}] {stage.stage}{list(stage.index)}: {stage.reason}; "
            f"{_number(stage.worst_u)} u, {_number(stage.worst_ulp)} ulp, {_number(stage.of_limit)} of its limit"
            for outcome in self.outcomes
            for stage in outcome.over_limit
        ]
        rest = len(lines) - most
        return lines if rest <= 0 else [*lines[:most], f"… and {rest} more stages over their limit"]

    def _undecided(self) -> list[str]:
        reasons: dict[str, dict[str, int]] = {}
        for outcome in self.outcomes:
            if outcome.of_refloss:
                for stage in outcome.stages.values():
                    if stage.undecided and stage.within:
                        at = reasons.setdefault(stage.reason, {})
                        at[outcome.point] = at.get(outcome.point, 0) + stage.undecided
        return [
            f"undecided, {reason}: {sum(at.values())} entries at {len(at)} points ({_some(list(at))})"
            for reason, at in reasons.items()
        ]

    def _raised(self) -> list[str]:
        messages: dict[tuple[str, str], list[str]] = {}
        for outcome in self.outcomes:
            if outcome.raised:
                # messages that show numbers differ from point to point; their beginnings do not
                short = outcome.raised if len(outcome.raised) <= 80 else f"{outcome.raised[:80]}…"
                messages.setdefault((outcome.by, short), []).append(outcome.point)
        return [f"{by} raised {message} ({_some(at)})" for (by, message), at in messages.items()]

    def _peers(self) -> list[str]:
        return [by for by in dict.fromkeys(o.by for o in self.outcomes) if by not in PRECISIONS]


HEADINGS = (
    "loss", "by", "points", "gradients, u", "at", "losses, ulp", "at ", "of limit", "over", "undecided",
    "not finite", "no digit", "raised",
)  # fmt: skip
LEFT = ("loss", "by", "at", "at ")
LEGEND = (
    "worst gradient in u = 2^-53 of its natural scale, worst loss in units in its last place; of limit: the largest "
    "part of what refloss owes"
)
DEFINITIONS = (
    "- **u** is 2^-53, the unit roundoff of float64.\n"
    "- **natural scale**: of a gradient Σ_j G_j‖∇z_j‖, the sizes of its terms before they cancel (G_j those of "
    "∂L/∂z_j), row by row for x and W; of a logit r(‖x‖, ‖W_j‖) + |b_j|; of everything else its own size.\n"
    "- **ulp** is the distance between neighbouring floats at the true loss.\n"
    "- **of limit**: the largest error as a part of what refloss owes at that point: with precision \"double\" the "
    "bound that its own record states, with \"extended\" 4 ulp of losses and 8 u of all other stages wherever "
    f"r + |b| ≤ 2^{int(np.log2(LIMIT))} (and, with a margin of one's own, π − θ ≥ 2^-45: it is given θ only); its "
    "worst errors, too, are over those points.\n"
    "- **undecided** entries lie at a cone or on a jump of the formula, where the gradient is no single number.\n"
    f"- **no digit**: points with a loss or a gradient row off by {NO_DIGIT:.0%} of its scale or more, NaN included; "
    "**not finite**: points with NaN or Inf. An error of inf is NaN, Inf, or anything but 0 where exactly 0 is due.",
)  # fmt: skip
KIND_WORDS = (
    "Worst gradient in u, worst loss in ulp over the survey's losses. (A margin of one's own is left out: it is asked "
    "for ψ'(θ), and next to π no double θ tells how far π is.) Where `double` keeps no digit: at `confidence` g is "
    "subnormal; `exact_angle` and `past_pi` hold θ = π/2 with the margin float(π/2), 6e-17 before the jump of "
    'past_pi="linear", whose side no double can tell.'
)
PEERS_WORDS = (
    "Each as people write it, eager, on the points whose loss and options it has. `torch` takes arccos of the cosine, "
    "`torch_clamp` clamps the cosine to ±(1 − 1e-7) before, `torch_polynomial` takes cos(θ + m) and cos(mθ) from cos θ "
    "without arccos, `jax` is the first under jax.grad, `metric_learning` is pytorch-metric-learning."
)


def versions(peers: Sequence[str] = ()) -> list[str]:
    """refloss, Python, NumPy, python-flint, and the packages of these peers."""
    from importlib.metadata import version

    own = [f"refloss {refloss.__version__}", f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    found = available() if peers else {}
    return [*own, f"python-flint {version('python-flint')}", *dict.fromkeys(found[name] for name in peers)]


def _row(loss: str, by: str, outcomes: Sequence[Outcome]) -> Row:
    mine = by in PRECISIONS
    owed = [outcome for outcome in outcomes if outcome.owed or by != "extended"]
    (gradient, gradient_at), (ulp, ulp_at) = _worst(owed)
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


def _pair(outcomes: Sequence[Outcome]) -> str:
    """Worst gradient in u, worst loss in ulp; nothing where there is no point."""
    if not any(outcome.stages for outcome in outcomes):
        return ""
    return ", ".join(_number(error) for error, _ in _worst(outcomes))


def _worst(outcomes: Sequence[Outcome]) -> tuple[tuple[float, str], tuple[float, str]]:
    """The worst gradient in u and the worst loss in ulp, each with its point."""
    stages = [(name, stage, o.point) for o in outcomes for name, stage in o.stages.items()]
    gradients = [(stage.worst_u, point) for name, stage, point in stages if name.startswith("grad_")]
    losses = [(stage.worst_ulp, point) for name, stage, point in stages if name in LOSSES]
    gradient, loss = (max(v, key=lambda e: e[0], default=(0.0, "")) for v in (gradients, losses))
    return gradient, loss


def _cells(row: Row) -> list[str]:
    """The row's cells, in the order of HEADINGS; a point is named without its loss."""
    at = [point.partition(".")[2] for point in (row.gradient_at, row.loss_at)]
    limit = "" if row.of_limit is None else _number(row.of_limit)
    counts = (row.over_limit, row.undecided) if row.by in PRECISIONS else ("", "")
    return [
        row.loss, row.by, str(row.points), _number(row.gradient_u), at[0], _number(row.loss_ulp), at[1], limit,
        *map(str, counts), str(row.not_finite), str(row.no_digit), str(row.raised),
    ]  # fmt: skip


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """A Markdown table; columns are right-aligned but for those named `left`."""
    rule = ["---" if heading in left else "---:" for heading in headings]
    lines = [[heading.strip() for heading in headings], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1e5 else f"{value:.0e}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", and {len(names) - 4} more" if len(names) > 4 else "")
