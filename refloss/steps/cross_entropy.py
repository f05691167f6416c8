"""Cross-entropy of the softmax of z, for labels and soft targets alike, and back to z.

Derivation: derivations/cross_entropy.md, steps (C5)–(C9); it lists the symbols with their names here. (C1) is in
`targets`, (C2)–(C4) in `logsumexp`. The classes may come in blocks: `finish` takes the sums over all of them,
`cross_entropy_backward` gives a block of g.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refloss.precision.numbers import Array, like, nearest
from refloss.precision.scaled import next_to_one
from refloss.steps.logsumexp import Gathered, exponentials, others
from refloss.steps.targets import OneHot, Setting


@dataclass(frozen=True, eq=False)
class CrossEntropyPass:
    """The losses ℓ_i, the divisor n and the loss L, and what they were made of: the setting and the gathered sums."""

    setting: Setting
    gathered: Gathered
    losses: Array  # (M,)
    divisor: Array  # ()
    loss: Array  # () or (M,)

    @property
    def empty(self) -> bool:
        """Whether n = 0, as of a mean over no valid row, or over rows whose weights sum to 0."""
        return bool(nearest(self.divisor) == 0)


def finish(gathered: Gathered, setting: Setting) -> CrossEntropyPass:
    """The losses and the loss."""
    # (C5) ℓ = Σ_c a_c d_c + (Σ_c a_c) log(1 + r): no term is negative
    losses = gathered.weighted_gap + gathered.weight.total * np.log1p(gathered.rest)
    # (C6) n, the divisor of the reduction
    divisor = _divisor(setting, losses)
    # (C7) L = Σ_i ℓ_i / n; the ℓ_i themselves under "none"
    loss = losses if setting.reduction == "none" else _mean(losses, divisor, setting.empty_mean)
    return CrossEntropyPass(setting, gathered, losses, divisor, loss)


def _divisor(setting: Setting, numbers: Array) -> Array:
    """n: the number of valid rows, or Σ w_y over them (of soft targets Σ_c w_c y_c); 1 for "sum" and "none"."""
    targets, w = setting.targets, setting.class_weights
    valid = ~targets.ignored
    count = np.count_nonzero(valid)
    if setting.reduction in ("none", "sum"):
        divisor = like(1.0, numbers)
    elif setting.reduction == "mean":
        divisor = like(float(count), numbers)
    elif targets.labels is not None:
        rows, y = targets.pairs
        divisor = like(np.ones(len(rows)) if w is None else w[y], numbers).sum()
    else:
        divisor = (like(targets.soft[valid], numbers) * (1.0 if w is None else w)).sum()  # type: ignore[index]
    if nearest(divisor) == 0 and setting.empty_mean == "error":
        what = "no valid row" if count == 0 else "the weighted targets of the valid rows sum to 0"
        raise ValueError(
            f"reduction={setting.reduction!r} divides by zero: {what}. "
            "Pass empty_mean='zero' or empty_mean='nan', or reduction='sum'"
        )
    return next_to_one(divisor)


def _mean(losses: Array, divisor: Array, empty_mean: str) -> Array:
    """Σ_i ℓ_i / n."""
    total = losses.sum()
    if not np.isfinite(nearest(total)) and nearest(divisor) > 1:
        return (losses / divisor).sum()  # the sum may overflow where the mean does not
    return _divide(total, divisor, empty_mean)


def _divide(value: Array, divisor: Array, empty_mean: str) -> Array:
    """value / n; if n = 0, the 0 or NaN of `empty_mean`."""
    if nearest(divisor) == 0:
        return value * 0.0 if empty_mean == "zero" else value * np.nan
    return value / divisor


def cross_entropy_backward(z: Array, end: CrossEntropyPass, upstream: Array, block: slice) -> Array:
    """g of a block, the gradient of Σ_i v_i ℓ_i / n in z, (M, B). upstream: v, () or (M,)."""
    # (C8) v_i / n, the gradient in ℓ_i; 0 in ignored rows
    grad_losses = _divide(upstream, end.divisor, end.setting.empty_mean)
    grad_losses = np.where(end.setting.targets.ignored, 0.0, grad_losses)
    # of this block e_j (C2); a_j (C1) and Σ_{k≠j} e_k (C4), for labels without smoothing of the target pairs alone
    a, e = end.setting.weighted(block, z), exponentials(z, end.gathered, block)
    left = others(e, end.gathered, block, a.pairs if isinstance(a, OneHot) else None)
    # (C9) g_ij = share_i (e_j Σ_{c≠j} a_c − a_j Σ_{k≠j} e_k), share_i = v_i / (n (1 + r))
    share = grad_losses / end.gathered.total
    if isinstance(a, OneHot):  # only a_y is not 0: the first term alone for j ≠ y, the second alone for j = y
        g = e * (share * end.gathered.weight.total)[:, None]
        g[a.pairs] = -(share[a.pairs.rows] * a.own) * left
        return g
    return e * (share[:, None] * end.gathered.weight.without(a, block)) - (share[:, None] * a) * left
