"""Weighted softmax loss. Derivation: derivations/weighted_softmax.md, whose steps (1)–(5) are lines of softmax.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from refloss.losses.softmax import Softmax
from refloss.validation import edge_map


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightedSoftmax(Softmax):
    """Weighted softmax loss, in which every class c counts w_c times::

        ℓ = −Σ_c w_c y_c log p_c,  p = softmax(z),  z_j = W_j·x + b_j

    Logits and their backward are those of `refloss.Softmax`, steps (1) and (3)–(5); the weights enter the
    cross-entropy, step (2).

    Source:
        Survey, section 2.1.3, after Xie & Tu, "Holistically-nested edge detection", ICCV 2015, eq. (2).

    Shapes:
        x (N, D), W (C, D), b (C,) optional, labels (N,) or soft targets y_c (N, C).

    Args:
        class_weights (C,): w_c ≥ 0, required.
        **options: the others of `refloss.Loss`.

    Singular points:
        None: smooth everywhere.

    Released code:
        HED leaves a gradient on pixels that are neither edge nor non-edge although their loss is 0; torch divides
        the mean for labels by the weights of the valid rows (our "weighted_mean").

    Raises:
        ValueError, TypeError: for a parameter outside its domain; for inputs as `refloss.Loss.forward`.

    Example:
        >>> x, W = [[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> out = WeightedSoftmax(class_weights=[1.0, 3.0]).forward(x, W, labels=[1])
        >>> print(f"{out.loss:.12f}")  # 3 log(1 + e^(1 − 2))
        0.939785062555
    """

    name: ClassVar[str] = "weighted_softmax"

    class_weights: Sequence[float] = field()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weights is None:
            raise TypeError("class_weights must be given: (C,) weights ≥ 0")


def hed_class_weights(labels: Any, ignore_index: int | None = None) -> np.ndarray:
    """The edge-detection balancing of classes 0 (non-edge) and 1 (edge)::

        w = [|Y₊|/|Y|, |Y₋|/|Y|]

    Use it per image, with reduction "sum", as the paper does.

    Source:
        Xie & Tu, ICCV 2015, eq. (2): β = ``|Y₋|/|Y|`` weighs the edges.

    Args:
        labels (any shape): integers, 0 or 1.
        ignore_index (int): entries equal to it are not counted.

    Returns:
        (2,) float64: the weights; an absent class gives weight 0 to the other; where all are ignored both are 0.

    Raises:
        TypeError: labels that are not integers.
        ValueError: any other label, or no entry at all.

    Example:
        >>> print(hed_class_weights([[0, 0, 0], [0, 1, 0]]))
        [0.16666667 0.83333333]
    """
    edges = edge_map(labels, ignore_index)
    positive, total = np.count_nonzero(edges), edges.size
    return np.array([positive, total - positive]) / max(total, 1)
