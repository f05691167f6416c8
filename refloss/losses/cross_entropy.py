"""Cross-entropy on bare logits of any shape. Derivation: derivations/cross_entropy.md, (C1)–(C9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refloss import validation as check
from refloss.losses.bare import BareLogits
from refloss.losses.options import CrossEntropyOptions
from refloss.precision.numbers import nearest
from refloss.record import Forward, Gradients


@dataclass(frozen=True, kw_only=True, repr=False)
class CrossEntropy(CrossEntropyOptions):
    """Softmax cross-entropy on bare logits, the survey's loss "per pixel"::

        ℓ = −Σ_c w_c t_c log p_c,  p = softmax(z),  t = (1 − ε) target + ε/C

    Source:
        Survey, sections 1.1 and 2.1.3.

    Shapes:
        Logits of any shape with the classes on one axis; targets are integers, shaped like the logits without that
        axis, or soft targets, shaped like the logits. They are told apart by their number of axes, never by dtype.
        `out.losses` has the shape of the labels; so has upstream under reduction="none".

    Args:
        axis (int): of the classes: −1, or 1 for images (N, C, H, W).
        **options: those of the cross-entropy, reduction to precision of `refloss.Loss`.

    Singular points:
        None. A logit of −inf is a masked class, an error where its target is positive.

    Raises:
        ValueError, TypeError: for a parameter outside its domain.

    Example:
        >>> image = np.zeros((1, 3, 2, 2))  # three classes, four pixels
        >>> out = CrossEntropy(axis=1).forward(image, np.array([[[0, 1], [2, 2]]]))
        >>> print(out.losses.shape, f"{out.loss:.12f}")  # log 3
        (1, 2, 2) 1.098612288668
    """

    name: ClassVar[str] = "cross_entropy"

    axis: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(axis=check.integer(self.axis, "axis"))

    def forward(self, logits: Any, targets: Any) -> Forward:
        """The forward pass.

        Args:
            logits (any shape): finite, or −inf for a masked class; classes on `axis`.
            targets (labels or soft targets): integers, shaped like the logits without the class axis; or numbers ≥ 0,
                shaped like the logits.

        Returns:
            Forward: the record of every stage.

        Raises:
            TypeError: what is no array of real numbers (labels: of integers).
            ValueError: NaN, +inf, shapes that do not fit, a label out of range, a target on a masked class, a mean
                over nothing, a loss beyond float64. The message names the argument, where, and what was due.
        """
        logits = check.logits(logits, self.axis)
        rows = check.flat_targets(targets, logits.shape, self.axis, self)
        passes = BareLogits(logits, self.axis, self._setting(rows), self.precision)
        check.unmasked_targets(nearest(passes.z), rows, self, passes.shape_of_targets)
        return self._recorded(passes, rows.ignored.reshape(passes.shape_of_targets))

    def backward(self, out: Forward, upstream: Any = 1.0) -> Gradients:
        """The backward pass of a record, which it does not change.

        Args:
            out (Forward): what `forward` of an equal object returned.
            upstream (scalar or labels' shape): the gradient arriving at `out.loss`; an array only under
                reduction="none", where a scalar means every prediction.

        Returns:
            Gradients: of Σ upstream · out.loss; only logits, shaped like the logits.

        Raises:
            TypeError: out is no record, or upstream holds no real numbers.
            ValueError: out was made by another loss, upstream has another shape, NaN or Inf, or a gradient leaves
                the range of float64.
        """
        return self._gradients(out, upstream)

    def value_and_grad(self, logits: Any, targets: Any, upstream: Any = 1.0) -> tuple[np.ndarray, Gradients]:
        """One forward and one backward pass.

        Args:
            logits (any shape): as `forward` takes them.
            targets (labels or soft targets): as `forward` takes them.
            upstream (scalar or labels' shape): as `backward` takes it.

        Returns:
            tuple: (out.loss, Gradients).

        Raises:
            TypeError, ValueError: as `forward` and `backward`.
        """
        out = self.forward(logits, targets)
        return out.loss, self.backward(out, upstream)
