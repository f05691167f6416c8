"""Two report pages for the tutorials, of a wrong kernel and of a right one; `docs/build.py` makes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout, not what is installed

import numpy as np

import refloss

STAGES = ("theta", "logits", "loss", "grad_logits", "grad_x", "grad_W")
LINEAR = refloss.ArcFace(past_pi="linear")


def arcface(x: Any, W: Any, labels: Any, upstream: float = 1.0) -> dict[str, Any]:
    """The wrong kernel of docs/tutorials/read_a_report.md."""
    out = LINEAR.forward(x, W, labels)
    stages = {**out.stages(), **LINEAR.backward(out, upstream).stages()}
    return {name: stages[name].astype(x.dtype) for name in STAGES}


def cosface(x: Any, W: Any, labels: Any, upstream: float = 1.0) -> dict[str, Any]:
    """As one writes it, in the dtype of x throughout."""
    s, m, rows = x.dtype.type(64), x.dtype.type(0.35), np.arange(len(x))
    x_norm, W_norm = (np.linalg.norm(v, axis=1, keepdims=True) for v in (x, W))
    x_hat, W_hat = x / x_norm, W / W_norm
    z = s * (x_hat @ W_hat.T)
    z[rows, labels] -= s * m
    e = np.exp(z - z.max(axis=1, keepdims=True))
    total = e.sum(axis=1, keepdims=True)
    losses = np.log(total[:, 0]) - (z - z.max(axis=1, keepdims=True))[rows, labels]
    g = e / total
    others = g.copy()
    others[rows, labels] = 0
    g[rows, labels] = -others.sum(axis=1)  # p_y − 1 without cancellation
    g *= x.dtype.type(upstream) / len(x)
    to_x, to_W = s * (g @ W_hat), s * (g.T @ x_hat)
    return {
        "logits": z, "loss": losses.mean(), "grad_logits": g,
        "grad_x": (to_x - (to_x * x_hat).sum(axis=1, keepdims=True) * x_hat) / x_norm,
        "grad_W": (to_W - (to_W * W_hat).sum(axis=1, keepdims=True) * W_hat) / W_norm,
    }  # fmt: skip


EXAMPLES = {"failing": (arcface, refloss.ArcFace()), "passing": (cosface, refloss.AMSoftmax(scale=64))}


def write_reports(folder: Path) -> dict[str, refloss.testing.Report]:
    """failing.html and passing.html; returns the reports."""
    folder.mkdir(parents=True, exist_ok=True)
    reports = {name: refloss.testing.check(kernel, loss, cases="quick") for name, (kernel, loss) in EXAMPLES.items()}
    for name, report in reports.items():
        report.to_html(str(folder / f"{name}.html"))
    return reports
