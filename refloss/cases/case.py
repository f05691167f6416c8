"""What a case is: one input, its name, and why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Point:
    """One input for one loss, of `gradcheck` or `certify`. All arrays are read-only.

    x (N, D), W (C, D), labels (N,) or soft (N, C), b (C,) or None. kind and quick are of certify's points alone.
    upstream None: `refloss.cases.configurations.default_upstream`.
    """

    name: str
    reason: str
    loss: Any
    x: np.ndarray
    W: np.ndarray
    labels: np.ndarray
    b: np.ndarray | None = None
    upstream: Any = None
    kind: str = ""
    quick: bool = False

    def __post_init__(self) -> None:
        for array in (self.x, self.W, self.labels, self.b, self.upstream):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False


@dataclass(frozen=True, eq=False)
class Case:
    """One input for one loss, and why it is there. All arrays are read-only.

    Attributes:
        name (str): stable, lower_snake_case.
        reason (str): what it provokes, and why a kernel gets it wrong.
        flags (tuple of str): the field's terms for it.
        inputs (Mapping): "x" (N, D), "W" (C, D), and "b" (C,) where the loss has a bias; or "logits". float64, exact in
            the dtype.
        labels (N,): int64, or soft targets (N, C); of `refloss.CrossEntropy` the logits' shape without the class axis,
            or theirs.
        upstream (scalar): arrives at a reduced loss; 1 by default.
        upstreams (N,): arrive at the losses of the samples, and have their shape; 1 by default, in the labels' shape.
        layout (str): "contiguous", "strided", "transposed", "padded", "channels_last", "read_only",
            "upstream_strided", "upstream_expanded"; "frozen_x" or "frozen_W": nothing differentiates this one.
        quick (bool): whether it belongs to cases="quick".
    """

    name: str
    reason: str
    flags: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    upstream: float = 1.0
    upstreams: np.ndarray = None  # type: ignore[assignment]
    layout: str = "contiguous"
    quick: bool = False

    def __post_init__(self) -> None:
        if self.upstreams is None:
            object.__setattr__(self, "upstreams", np.ones(np.shape(self.labels)))
