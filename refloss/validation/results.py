"""What leaves the range of float64 is reported by name, never returned as inf or NaN."""

from __future__ import annotations

import numpy as np

from refloss.validation.arrays import first, indexed


def finite_logits(logits: np.ndarray, first_class: int = 0) -> np.ndarray:
    """The logits, of a class and those after it, unless the inputs were so large that one left the range of float64."""
    finite = np.isfinite(logits)
    if not finite.all():
        i, j = first(~finite)
        at = i, j + first_class
        raise ValueError(
            f"{indexed('logits', at)} leaves the range of float64: x[{at[0]}] and W[{at[1]}] are too large"
        )
    return logits


def finite_losses(losses: np.ndarray, loss: np.ndarray, empty: bool) -> None:
    """Refuses a loss that left the range of float64 (logits more than 1.8e308 apart).

    empty: a mean over nothing, whose loss may have been asked to be NaN.
    """
    if np.isfinite(loss).all() and np.isfinite(losses).all():
        return
    for value, name in ((losses, "losses"), (loss, "loss")):
        bad = np.isinf(value) if empty else ~np.isfinite(value)
        if bad.any():
            at = indexed(name, first(bad))
            raise ValueError(f"{at} leaves the range of float64: the logits (from x and W) are too far apart")


def finite_gradients(gradients: dict[str, np.ndarray]) -> None:
    """Refuses a gradient that left the range of float64 (a row so short that 1/‖x‖ is too large)."""
    for name, gradient in gradients.items():
        finite = np.isfinite(gradient)
        if not finite.all():
            at = first(~finite)
            raise ValueError(
                f"{indexed('grad_' + name, at)} leaves the range of {gradient.dtype}: "
                f"the rows of x or W are too short or too long, or upstream is too large"
            )
