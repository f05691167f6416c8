"""The peers of `refloss certify --peers` are given the right problem: at ordinary points they agree with refloss."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import worst_of_rows
from helpers import NAMES, PSI, need

from refloss.cases.grid import grid
from refloss.score.peers import PEERS, available, run_peer

# each option of the cross-entropy, and ordinary angles in every variant
CHOSEN = ("ordinary_4d", "none", "sum", "weighted_mean_smoothing", "weighted_mean_ignore", "soft_weighted_mean")


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", NAMES)
def test_peers_agree_where_nothing_is_difficult(name, peer):
    """Losses and gradients to 1e-9 of the largest row: every peer that has the loss, every option."""
    need(PEERS[peer][0])
    ran = 0
    for point in grid([name]):
        if point.name.split(".")[-1] not in CHOSEN:
            continue
        stages = run_peer(peer, point)
        if stages is None:
            continue
        ran += 1
        out = point.loss.forward(point.x, point.W, point.labels, point.b)
        ours = {**out.stages(), **point.loss.backward(out, point.upstream).stages()}
        assert set(stages) == {"losses", "grad_x", "grad_W"} | ({"grad_b"} if point.b is not None else set())
        for stage, value in stages.items():
            largest = np.full(len(value), np.max(np.abs(ours[stage])))
            assert worst_of_rows(value, ours[stage], largest) < 1e-9, f"{point.name}: {stage}"
    without = {
        "torch_clamp": set(NAMES) - {*PSI, "arcface"},
        "metric_learning": {"softmax", "weighted_softmax", "l2_softmax"},
    }
    without["torch_polynomial"] = without["torch_clamp"]
    assert (ran == 0) == (name in without.get(peer, ()))


def test_the_versions_are_those_installed():
    """Only peers whose package is there, each with its version."""
    torch = need("torch")
    assert available()["torch"] == f"torch {torch.__version__}"
    assert set(available()) <= set(PEERS)
