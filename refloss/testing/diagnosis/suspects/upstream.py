"""The gradient that arrives at the loss."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("upstream")


def set_upstream(k: PlainLoss, change: Callable[[np.ndarray], Any]) -> None:
    k.upstream = np.asarray(change(k.upstream), dtype=float)


@suspect(when.every, "dmlc/gluon-cv#1668")
def upstream_ignored(k: PlainLoss) -> None:
    """The gradient that arrives is taken for 1: right only where the loss is the last operation."""
    set_upstream(k, np.ones_like)


@suspect(when.option(reduction="none"))
def upstream_averaged(k: PlainLoss) -> None:
    """Every row gets the mean of the gradients that arrive."""
    set_upstream(k, np.mean)


@suspect(when.every)
def upstream_squared(k: PlainLoss) -> None:
    """The gradient that arrives is multiplied in twice, in the kernel and by its caller."""
    set_upstream(k, np.square)


@suspect(when.option(reduction="none"), "linkedin/Liger-Kernel#1298")
def upstream_of_first_row(k: PlainLoss) -> None:
    """Every row gets the first row's gradient (a vector read as a scalar)."""
    set_upstream(k, lambda upstream: upstream.ravel()[:1].sum())


@suspect(when.option(reduction="none"))
def upstream_reversed(k: PlainLoss) -> None:
    """The rows' gradients arrive in the opposite order (a stride or an index is wrong)."""
    set_upstream(k, lambda upstream: upstream[::-1] if upstream.ndim == 1 else upstream[..., ::-1])
