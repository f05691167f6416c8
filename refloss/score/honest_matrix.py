"""The honest matrix: the oracle accepts what is right.

Right implementations × losses × dtypes × seeds of the cases; an alarm there is false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.cases.configurations import objects
from refloss.cases.oracle import cases
from refloss.precision.dtypes import DTYPES
from refloss.report import Grid, capped
from refloss.score import writers
from refloss.score.matrices import MatrixReport
from refloss.score.writers import Writer
from refloss.testing.check import Checker
from refloss.testing.judging.truth import Truth


@dataclass
class HonestRow:
    """One writer on one loss in one dtype: its grade, and false alarms among the cases judged."""

    implementation: str
    loss: str
    dtype: str
    require: str
    cases: int = 0
    grade: str = ""
    worst: float = 0.0  # largest error over what is allowed
    where: str = ""
    alarms: list[str] = field(default_factory=list)


def honest_job(name: str, dtype: str, seeds: int, quick: bool) -> list[HonestRow]:
    """Every writer on one loss in one dtype, on the cases of so many seeds.

    Seed 0 takes every case, the others the quick ones; JAX, which compiles for every shape, the quick ones of seed 0.
    """
    rows: dict[str, HonestRow] = {}
    for seed in range(seeds):
        one_seed(rows, name, dtype, seed, quick)
    return list(rows.values())


def one_seed(rows: dict[str, HonestRow], name: str, dtype: str, seed: int, quick: bool) -> None:
    """Adds what every writer does on the cases of this seed."""
    loss, shared = objects()[name], dict[Any, Truth]()
    every = [case for case in cases(loss, dtype, seed) if case.quick or not (quick or seed)]
    for writer in (writers.WRITERS[key] for key in writers.available()):
        kernel = writer.make(loss)
        jax, numpy = (writer.framework == other for other in ("jax", "numpy"))
        unable = numpy and dtype == "bfloat16" and find_spec("ml_dtypes") is None
        if kernel is None or unable or (jax and seed):
            continue
        require = writer.owes(dtype)
        row = rows.setdefault(writer.name, HonestRow(writer.name, name, dtype, require))
        # as `check` chooses: what needs more than 16 bits inside is asked of who has more
        inside = DTYPES[dtype].is_half and require != "E"
        chosen = [c for c in every if (c.quick or not jax) and (inside or "float32_inside" not in c.flags)]
        with np.errstate(all="ignore"):
            _judge(row, writer, kernel, loss, seed, chosen, shared)


def _judge(
    row: HonestRow, writer: Writer, kernel: Any, loss: Any, seed: int, chosen: list[Case], shared: dict[Any, Truth]
) -> None:
    checker = Checker(
        kernel, loss, dtype=row.dtype, framework=writer.framework, cases=chosen, require=row.require,
        compute=None, device=None, slack=1.0, seed=seed, soft_targets=False, shared=shared,
    )  # fmt: skip
    for case in checker.cases:
        judged = checker.judged(case)
        row.cases += 1
        row.grade = max(row.grade, *judged.grades.values(), "A")
        ratio = max(judged.ratios.values(), default=0.0)
        if ratio > row.worst:
            row.worst, row.where = ratio, f"{case.name} (seed {seed})"
        row.alarms += [f"seed {seed}: {failure}" for failure in judged.failures]


def honest_jobs(
    dtypes: Sequence[str], names: Sequence[str], seeds: int, quick: bool
) -> list[tuple[str, str, int, bool]]:
    """The arguments of every `honest_job`."""
    return [(name, dtype, seeds, quick) for name in names for dtype in dtypes]


@dataclass
class HonestReport(MatrixReport):
    """writer × dtype: passed if no case of any seed raised an alarm."""

    rows: list[HonestRow]
    seeds: int
    title = "Honest matrix"
    about = """\
Implementations that are right, and compute in the dtype named. A cell holds the worst grade, and the largest
error beyond the last place over what is allowed. Owed: C in float64 and float32; in 16 bits C of those who compute
in float32, D of those who store in between in 16 bits too, E of those who compute in 16 bits throughout. Made by
`refloss matrix honest --format markdown`."""

    @property
    def passed(self) -> bool:
        return bool(self.rows) and not any(row.alarms for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "seeds": self.seeds, "rows": [asdict(row) for row in self.rows]}

    def grid(self) -> Grid:
        """Writer, then each dtype."""
        cells: dict[str, dict[str, list[HonestRow]]] = {}
        for row in self.rows:
            cells.setdefault(row.implementation, {}).setdefault(row.dtype, []).append(row)
        lines = [[name, *(_cell(of.get(dtype, [])) for dtype in self.dtypes)] for name, of in cells.items()]
        return Grid(["implementation", *self.dtypes], lines)

    def facts(self) -> list[str]:
        judged, alarms = sum(row.cases for row in self.rows), sum(len(row.alarms) for row in self.rows)
        worst = max(self.rows, key=lambda row: row.worst)
        where = f"{worst.implementation}, {worst.loss}, {worst.dtype}, {worst.where}"
        return [
            f"{judged} cases judged with {self.seeds} seed{'s' * (self.seeds != 1)}: {alarms} false alarms",
            f"the largest error is {worst.worst:.2f} of what is allowed ({where})",
        ]

    def details(self) -> list[str]:
        alarms = [f"ALARM {r.implementation}, {r.loss}, {r.dtype}: {a}" for r in self.rows for a in r.alarms[:3]]
        return capped(alarms, 40, "alarms")


def _cell(rows: list[HonestRow]) -> str:
    if not rows:
        return "–"
    alarms = sum(len(row.alarms) for row in rows)
    grade, worst = max(row.grade for row in rows), max(row.worst for row in rows)
    return f"{alarms} alarms of {sum(row.cases for row in rows)}" if alarms else f"{grade} {worst:.2f}"
