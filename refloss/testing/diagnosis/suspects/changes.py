"""What the changes of several groups share."""

# mypy: disable-error-code="method-assign"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.testing.plain_loss import PlainLoss
from refloss.textbook import formulas


def after(k: PlainLoss, step: str, change: Callable[[np.ndarray], Any]) -> None:
    """Puts `change` on the result of a step."""
    right = getattr(k, step)
    setattr(k, step, lambda *given: change(right(*given)))


def only_while(k: PlainLoss, step: str, **changed: Callable[[], Any]) -> None:
    """A step that sees other values of these attributes, made when it runs."""
    right = getattr(k, step)

    def other() -> np.ndarray:
        kept = {name: getattr(k, name) for name in changed}
        values = {name: value() for name, value in changed.items()}
        vars(k).update(values)
        result = right()
        vars(k).update(kept)
        return result

    setattr(k, step, other)


def set_margin(k: PlainLoss, margin: float, slope: float) -> None:
    """Another m, and how it moves with the m that was given."""
    k.q.margin = margin
    after(k, "grad_margin", lambda grad: grad * slope)


def without_margin(k: PlainLoss, step: str) -> None:
    """A step of the backward that takes every logit for r cos θ."""
    only_while(k, step, rise=lambda: np.ones_like(k.cos), value=lambda: k.cos)


def from_cosine(k: PlainLoss) -> None:
    """θ = arccos of the cosine at hand, clipped to ±1: for cosines that are not the angle's own."""
    k.angles = lambda: np.arccos(np.clip(k.cos, -1, 1))
    if k.q.target is formulas.cosine_margin:  # needs no angle
        k.values = lambda: k.cos - k.on * k.q.margin
        return
    after(k, "slope", lambda slope: np.where(k.on & (np.abs(k.cos) > 1), 0.0, slope))
