"""Cross-entropy of the softmax of z, for labels and soft targets alike, and back to z.

Derivation: derivations/cross_entropy.md, steps (C5)–(C9). (C1) is in `targets`, (C2)–(C4) in `logsumexp`. The classes
may come in blocks: `finish` takes the sums over all of them, `cross_entropy_backward` gives a block's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.precision.numbers import Array, is_extended, like, nearest
from refloss.precision.scaled import HEADROOM, exponent_of, times_power
from refloss.steps.logsumexp import Gathered, exponentials, others
from refloss.steps.targets import OneHot, Setting


@dataclass(frozen=True, eq=False)
class CrossEntropyPass:
    """Everything that (C1)–(C7) computed and (C8)–(C9) consume."""

    setting: Setting
    gathered: Gathered
    losses: Array  # (M,), times 2^losses_headroom
    losses_headroom: np.ndarray  # (M,)
    loss: Array  # () or (M,), times 2^loss_headroom
    loss_headroom: Any
    divisor_below_one: Array  # n / 2^divisor_exponent; n itself in doubles
    divisor_exponent: int

    @property
    def empty(self) -> bool:
        """Whether a mean was taken over nothing."""
        return bool(nearest(self.divisor_below_one) == 0)


def finish(gathered: Gathered, setting: Setting) -> CrossEntropyPass:
    """(C5)–(C7): losses and loss."""
    log, headroom = _log_of_total(gathered, setting)
    # (C5) ℓ = Σ_c a_c d_c + (Σ_c a_c) log(1 + r): no term is negative
    losses = times_power(gathered.weighted_gap, headroom) + gathered.weight.total * log
    # (C6) the divisor n of the reduction
    divisor = _divisor(setting, losses)
    exponent = exponent_of(divisor) if gathered.headroom else 0
    divisor_below_one = times_power(divisor, -exponent)
    # (C7) L = Σ_i ℓ_i / n
    loss, loss_headroom = _reduced(losses, headroom, divisor_below_one, exponent, setting)
    return CrossEntropyPass(setting, gathered, losses, headroom, loss, loss_headroom, divisor_below_one, exponent)


def _log_of_total(gathered: Gathered, setting: Setting) -> tuple[Any, Any]:
    """log(1 + r) times 2^headroom, and this headroom, each (M,).

    It is 0 but where log(1 + r) is all that the loss will hold, and tiny: there it stays until after the reduction.
    """
    rest, headroom = gathered.mass.rest, gathered.headroom
    if not headroom:
        return np.log1p(rest), 0
    tiny = (nearest(rest) < 2.0 ** (headroom - 120)) & (nearest(gathered.weighted_gap) < 2.0**-60)
    log = np.where(tiny, times_power(rest, -setting.exponent), np.log1p(times_power(rest, -headroom)))
    return log, np.where(tiny, headroom - setting.exponent, 0)


def cross_entropy_backward(
    z: Array, end: CrossEntropyPass, upstream: np.ndarray, block: slice, headroom: int = 0
) -> Array:
    """∂/∂z of Σ_i upstream_i ℓ_i / n, (M, B), times 2^(headroom + divisor_exponent). upstream: () or (M,)."""
    # (C8) every sample's share v_i / n of the gradient that arrives
    arriving = like(np.full(len(z), upstream), z)
    share = _divide(arriving, end.divisor_below_one, end.setting.empty_mean)
    share = np.where(end.setting.targets.ignored, 0.0, share)
    a, e = end.setting.weighted(block, z), exponentials(z, end.gathered, block)
    left = others(e, end.gathered, block, a.pairs if isinstance(a, OneHot) else None)
    e, left = (times_power(v, headroom - end.gathered.headroom) for v in (e, left))
    # (C9) p_j Σ_c a_c − a_j = p_j Σ_{c≠j} a_c − a_j Σ_{k≠j} p_k, p = e / (1 + r): for a label, p_j or −(1 − p_y)
    share = share / end.gathered.total
    if isinstance(a, OneHot):
        g = e * (share * end.gathered.weight.total)[:, None]
        g[a.pairs] = -(share[a.pairs.rows] * a.own) * left
        return g
    return e * (share[:, None] * end.gathered.weight.without(a, block)) - (share[:, None] * a) * left


def _divisor(setting: Setting, numbers: Array) -> Array:
    """Σ of what a mean is taken over; 1 for none and sum."""
    if setting.reduction in ("none", "sum"):
        return like(1.0, numbers)
    targets, w = setting.targets, setting.class_weights
    valid = ~targets.ignored
    count = np.count_nonzero(valid)
    if setting.reduction == "mean":
        divisor = like(float(count), numbers)
    elif targets.labels is not None:
        rows, y = targets.pairs
        divisor = like(np.ones(len(rows)) if w is None else w[y], numbers).sum()
    else:
        divisor = (like(targets.soft[valid], numbers) * (1.0 if w is None else w)).sum()  # type: ignore[index]
    if nearest(divisor) == 0 and setting.empty_mean == "error":
        what = "no valid row" if count == 0 else "the weights of the valid rows sum to 0"
        raise ValueError(
            f"reduction={setting.reduction!r} divides by zero: {what}. "
            "Pass empty_mean='zero' or empty_mean='nan', or reduction='sum'"
        )
    return divisor


def _reduced(
    losses: Array, headroom: Any, divisor_below_one: Array, exponent: int, setting: Setting
) -> tuple[Array, Any]:
    """Σ_i ℓ_i / n times 2^headroom, and this headroom; or the losses as they are. headroom: (M,), or 0 of all."""
    if setting.reduction == "none":
        return losses, headroom
    common = np.min(headroom, initial=max(HEADROOM - setting.exponent, 0)) if is_extended(losses) else 0
    losses = times_power(losses, common - headroom)
    total = losses.sum()
    if not np.isfinite(nearest(total)) and nearest(divisor_below_one) > 1:
        loss = (losses / divisor_below_one).sum()  # the sum may overflow where the mean does not
    else:
        loss = _divide(total, divisor_below_one, setting.empty_mean)
    return loss, common + exponent


def _divide(value: Array, divisor: Array, empty_mean: str) -> Array:
    if nearest(divisor) == 0:
        return value * 0.0 if empty_mean == "zero" else value * np.nan
    return value / divisor
