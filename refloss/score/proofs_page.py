"""docs/proofs.md: the grid's report in Markdown, with the peers of refloss and the sharpness of its error bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refloss.cases.grid import KINDS, LIMIT
from refloss.losses.passes import PRECISIONS
from refloss.proof.grid_report import NO_DIGIT, GridReport, Outcome, number, worst
from refloss.report import Grid
from refloss.score.sharpness import Sharpness

DEFINITIONS = (
    "- **u** is 2^-53, the unit roundoff of float64.\n"
    "- **natural scale**: of a gradient Σ_j G_j‖∇z_j‖, the sizes of its terms before they cancel (G_j those of "
    "∂L/∂z_j), row by row for x and W; of a logit r(‖x‖, ‖W_j‖) + |b_j|; of everything else its own size.\n"
    "- **ulp** is the distance between neighbouring floats at the true loss.\n"
    '- **of limit**: the largest error as a part of what refloss owes at that point: with precision "double" the '
    'bound that its own record states, with "extended" 4 ulp of losses and 8 u of all other stages wherever '
    f"r + |b| ≤ 2^{int(math.log2(LIMIT))} (and, with a margin of one's own, π − θ ≥ 2^-45: it is given θ only); its "
    "worst errors, too, are over those points.\n"
    "- **undecided** entries lie at a cone or on a jump of the formula, where the gradient is no single number.\n"
    f"- **no digit**: points with a loss or a gradient row off by {NO_DIGIT:.0%} of its scale or more, NaN included; "
    "**not finite**: points with NaN or Inf. An error of inf is NaN, Inf, or anything but 0 where exactly 0 is due.",
)
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
SHARPNESS_WORDS = (
    "`error_bound` is proven; `probable_error_bound` has √n for the n terms of every sum and is not. Both as multiples "
    "of the error, over the rows of logits, losses and gradients of every loss at random inputs (normal, N = 16)."
)


def page(report: GridReport, command: str, sharpness: Sequence[Sharpness] = ()) -> str:
    """The page, headed by the command that makes it; `sharpness` has a section of its own where it was measured."""
    made = (
        f"Made by `{command}` with {', '.join(report.versions())}. Every number is proven: an upper bound "
        "of the distance to everything that Arb balls around the true value hold."
    )
    own, others = ([row for row in report.rows() if (row.by in PRECISIONS) == ours] for ours in (True, False))
    parts = ["# How far from the truth: the adversarial grid", made, *DEFINITIONS, report.verdict()]
    parts += ["## refloss", report.grid(own).markdown()]
    if others:
        parts += ["## In float64 on the same points", PEERS_WORDS, report.grid(others).markdown()]
    parts += ["## Kind by kind", KIND_WORDS, _kinds(report.outcomes)]
    for heading, lines in (
        ("Over the limit", report.failures(1000)),
        ("Undecided", report.undecided()),
        ("Exceptions", report.raised()),
    ):
        if lines:
            parts += [f"## {heading}", "\n".join(f"- {line}" for line in lines)]
    if sharpness:
        head = ["D", "C", "proven, median", "90 %", "probable, median", "90 %"]
        rows = [[str(r.D), str(r.C), *(f"{v:.0f}" for v in (*r.proven, *r.probable))] for r in sharpness]
        parts += ["## How sharp the bounds are", SHARPNESS_WORDS, Grid(head, rows, "r" * len(head)).markdown()]
    return "\n\n".join(parts)


def _kinds(outcomes: Sequence[Outcome]) -> str:
    """A table: the worst gradient in u and loss in ulp of every kind of point by every implementation."""
    columns = list(dict.fromkeys(outcome.by for outcome in outcomes))
    rows = []
    for kind, provokes in KINDS.items():
        of_survey = [o for o in outcomes if o.kind == kind and o.loss != "margin_softmax"]
        here = [o for o in of_survey if o.owed or o.by != "extended"]
        if here:
            rows.append([f"**{kind}**: {provokes}"])
            for by in columns:
                found = [o for o in here if o.by == by]
                measured = any(outcome.stages for outcome in found)
                rows[-1].append(", ".join(number(error) for error, _ in worst(found)) if measured else "")
    return Grid(["points", *columns], rows, "l" + "r" * len(columns)).markdown()
