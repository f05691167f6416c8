"""How much larger than the error the error bounds of double precision are, on ordinary inputs.

The error is measured against extended precision, whose own proven bound is one rounding of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import refloss

DIMENSIONS = (2, 16, 128, 512)
CLASSES = (5, 100)
SAMPLES = 16
MEASURED = ("logits", "losses", "grad_x", "grad_W")


class Sharpness(NamedTuple):
    """Ratios of bound to error at one size: medians, and nine tenths of the rows below."""

    D: int
    C: int
    proven: tuple[float, float]
    probable: tuple[float, float]


def sharpness() -> list[Sharpness]:
    """Every size, smallest first."""
    rows = []
    for D in DIMENSIONS:
        for C in CLASSES:
            proven, probable = zip(*_ratios(D, C), strict=True)
            rows.append(Sharpness(D, C, *(_spread(np.concatenate(ratios)) for ratios in (proven, probable))))
    return rows


def _spread(ratios: np.ndarray) -> tuple[float, float]:
    return float(np.median(ratios)), float(np.quantile(ratios, 0.9))


def _ratios(D: int, C: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per loss and stage: proven and probable bound over error, a row each."""
    rng = np.random.default_rng(D + C)
    for name in refloss.losses():
        weights = {"class_weights": np.linspace(0.5, 2, C)} if name == "weighted_softmax" else {}
        x, W = rng.normal(size=(SAMPLES, D)) * (3 / np.sqrt(D)), rng.normal(size=(C, D))
        labels = rng.integers(C, size=SAMPLES)
        double, extended = (
            _records(refloss.get(name, precision=precision, **weights), x, W, labels)
            for precision in ("double", "extended")
        )
        for record, truth in zip(double, extended, strict=True):
            for stage in MEASURED:
                if stage in record.stages():
                    error = _lengths(record.stages()[stage] - truth.stages()[stage])
                    seen = error > 0
                    bounds: tuple[Mapping[str, np.ndarray], ...]
                    bounds = record.error_bound, record.probable_error_bound
                    yield tuple(_lengths(bound[stage])[seen] / error[seen] for bound in bounds)  # type: ignore


def _records(loss: Any, x: np.ndarray, W: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    out = loss.forward(x, W, labels)
    return out, loss.backward(out)


def _lengths(v: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(v) if v.ndim < 2 else np.linalg.norm(v, axis=1))
