"""Cross-entropy of the softmax of z, for labels and soft targets alike, and back to z.

Derivation: derivations/cross_entropy.md, steps (C1)–(C9).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Targets:
    """What M rows of logits are compared with, already checked.

    target   (M, C)  one-hot for labels, or the soft targets y_c; zero on ignored rows
    ignored  (M,)    bool
    labels   (M,)    the classes, or None for soft targets
    """

    target: np.ndarray
    ignored: np.ndarray
    labels: np.ndarray | None

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that have a class, and their classes: two index arrays (R,)."""
        if self.labels is None:
            return np.arange(0), np.arange(0)
        rows = np.flatnonzero(~self.ignored)
        return rows, self.labels[rows]


@dataclass(frozen=True, eq=False)
class CrossEntropyPass:
    """Everything that (C1)–(C7) computed and (C8)–(C9) consume."""

    probabilities: np.ndarray  # (M, C)
    others: np.ndarray  # (M, C)  Σ_{k≠j} p_k = 1 − p_j without cancellation
    weighted: np.ndarray  # (M, C)  a_c = w_c t_c
    losses: np.ndarray  # (M,)
    loss: np.ndarray  # () or (M,)
    divisor: float
    complement: np.ndarray | None  # (M,)
    ignored: np.ndarray  # (M,)


def cross_entropy(
    z: np.ndarray,
    targets: Targets,
    *,
    reduction: str,
    class_weights: np.ndarray | None,
    label_smoothing: float,
    empty_mean: str,
) -> CrossEntropyPass:
    """ℓ_i = −Σ_c w_c t_ic log p_ic and its reduction. z: (M, C), −inf where a class is masked."""
    C = z.shape[1]
    w = np.ones(C) if class_weights is None else class_weights
    valid = ~targets.ignored
    # (C1) t = (1 − ε) y + ε/C, a = w ⊙ t; an ignored row has no target at all
    t = (1.0 - label_smoothing) * targets.target + label_smoothing / C
    a = np.where(valid[:, None], w * t, 0.0)
    # (C2) every logit below the largest one; e^{−gap} ≤ 1 cannot overflow. An ignored row may have no
    # class at all (every logit −inf): its probabilities are 0
    with np.errstate(over="ignore", under="ignore"):
        largest = z.max(axis=1, keepdims=True)
        gap = np.where(largest == -np.inf, 0.0, largest) - z
        e = np.exp(-gap)
    # (C3) Σ_j e^{z_j − z_max} = 1 + rest, the 1 kept apart
    rest = sum_of_others(e, only_largest=True)
    # (C4) p_j, and 1 − p_j = Σ_{k≠j} p_k
    with np.errstate(over="ignore", under="ignore"):
        p = e / (1.0 + rest)[:, None]
        others = sum_of_others(p)
        # (C5) ℓ = Σ_c a_c (z_max − z_c) + (Σ_c a_c) log(1 + rest): no term is negative
        below = np.multiply(a, gap, out=np.zeros_like(a), where=a > 0)
        losses = below.sum(axis=1) + a.sum(axis=1) * np.log1p(rest)
        # (C6) the divisor of the reduction
        divisor = _divisor(reduction, targets.target * w, valid, empty_mean)
        # (C7) the reduction
        loss = losses if reduction == "none" else _reduced(losses, divisor, empty_mean)
    rows, y = targets.pairs
    complement = None
    if targets.labels is not None:
        complement = np.zeros(len(z))
        complement[rows] = others[rows, y]
    return CrossEntropyPass(p, others, a, losses, loss, divisor, complement, targets.ignored)


def cross_entropy_backward(at: CrossEntropyPass, upstream: np.ndarray, empty_mean: str) -> np.ndarray:
    """∂/∂z of Σ_i upstream_i ℓ_i / divisor. upstream: () or (M,). Returns (M, C)."""
    # (C8) every sample's share of the gradient that arrives
    share = np.broadcast_to(_divide(upstream, at.divisor, empty_mean), at.ignored.shape)
    # (C9) p_j Σ_c a_c − a_j = p_j Σ_{c≠j} a_c − a_j Σ_{k≠j} p_k: for a label, p_j or −(1 − p_y)
    with np.errstate(under="ignore"):
        g = at.probabilities * sum_of_others(at.weighted) - at.weighted * at.others
        return np.where(at.ignored[:, None], 0.0, share[:, None] * g)


def sum_of_others(v: np.ndarray, only_largest: bool = False) -> np.ndarray:
    """Σ_{k≠j} v_k for every j, v ≥ 0, (M, C) → (M, C), without cancellation.

    Leaving out anything but the largest leaves at least half of the total; the largest itself is
    left out before the sum. With `only_largest`, (M,): the sum without the (first) largest.
    """
    rows, largest = np.arange(len(v)), v.argmax(axis=1)
    without = v.copy()
    without[rows, largest] = 0.0
    rest = without.sum(axis=1)
    if only_largest:
        return rest
    others = (rest + v[rows, largest])[:, None] - v
    others[rows, largest] = rest
    return others


def _divisor(reduction: str, weighted: np.ndarray, valid: np.ndarray, empty_mean: str) -> float:
    if reduction in ("none", "sum"):
        return 1.0
    count = float(np.count_nonzero(valid))
    divisor = count if reduction == "mean" else float(weighted[valid].sum())
    if divisor == 0 and empty_mean == "error":
        what = "no valid row" if count == 0 else "the weights of the valid rows sum to 0"
        raise ValueError(
            f"reduction={reduction!r} divides by zero: {what}. "
            "Pass empty_mean='zero' or empty_mean='nan', or reduction='sum'"
        )
    return divisor


def _reduced(losses: np.ndarray, divisor: float, empty_mean: str) -> Any:
    total = losses.sum()
    if np.isinf(total) and divisor > 1:  # the sum may overflow where the mean does not
        return np.sum(losses / divisor)
    return _divide(total, divisor, empty_mean)


def _divide(value: Any, divisor: float, empty_mean: str) -> Any:
    if divisor == 0:
        return np.zeros_like(value) if empty_mean == "zero" else np.full_like(value, np.nan)
    return value / divisor
