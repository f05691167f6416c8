"""The promises of precision, proven on the quick part of the adversarial grid.

The whole grid is `refloss certify`; its table is docs/proofs.md.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import need

need("flint")

from refloss.cases.configurations import GROUPS  # noqa: E402
from refloss.cases.grid import grid, largest_logit  # noqa: E402
from refloss.proof.grid_report import GridReport, run_point  # noqa: E402

U = 2.0**-53
AT_AN_ANGLE = (
    "tiny_angle",
    "parallel",
    "small_angle",
    "exact_angle",
    "ordinary",
    "knots",
    "past_pi",
    "cancelling",
    "ties",
)


@pytest.fixture(scope="module", params=GROUPS)
def measured(request):
    """(point, its outcomes by precision) of one loss."""
    points = grid([request.param], quick=True)
    return [(point, run_point(point, ("double", "extended"))) for point in points]


def test_everything_is_within_what_is_owed(measured):
    """Double within its own proven bound everywhere; extended within that, 4 ulp and 8 u."""
    report = GridReport([outcome for _, outcomes in measured for outcome in outcomes])
    assert report.passed, str(report)


def test_extended_precision_goes_past_what_it_owes(measured):
    """2 ulp and 4 u are the aim; measured 0.5 ulp and 1.0 u, one rounding of the finished number."""
    for point, outcomes in measured:
        for outcome in outcomes:
            if outcome.by == "extended" and outcome.owed:
                for name, stage in outcome.stages.items():
                    assert name not in ("losses", "loss") or stage.worst_ulp <= 2, (point.name, stage)
                    assert stage.worst_u <= 4, (point.name, stage)


def test_double_keeps_its_digits_at_every_target_angle(measured):
    """Gradients within 64 s √D u of the natural scale, r for s where the loss does not normalise.

    Not for a margin of one's own next to a pole (it is asked for ψ'(θ), which there has the absolute error of θ),
    nor on the wrong side of a jump that lies closer than a double can tell.
    """
    for point, outcomes in measured:
        if point.kind not in AT_AN_ANGLE or point.name.startswith(("margin_softmax.", "arcface.half_pi.")):
            continue
        r = max(1.0, float(np.max(largest_logit(point.loss, point.x, point.W))))
        for name in ("grad_x", "grad_W"):
            stage = outcomes[0].stages[name]
            assert stage.worst_u <= 64 * r * np.sqrt(point.x.shape[1]), (point.name, stage)


def test_double_at_ordinary_angles(measured):
    """≤ 2e-14 with D ≤ 16."""
    for point, outcomes in measured:
        if point.kind == "ordinary" and point.x.shape[1] <= 16 and not point.name.startswith("margin_softmax"):
            for name in ("grad_x", "grad_W"):
                assert outcomes[0].stages[name].worst_u * U <= 2e-14, (point.name, outcomes[0].stages[name])


def test_doubles_end_without_a_nan(measured):
    """A loss under 1e-308 is the rounded subnormal or 0, in both precisions."""
    for point, outcomes in measured:
        if point.kind == "confidence":
            for outcome in outcomes:
                assert outcome.finite, (point.name, outcome.by)
                assert outcome.stages["loss"].within, (point.name, outcome.by)
