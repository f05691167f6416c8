"""What every loss is: logits of its own, then the cross-entropy, which is the same for all.

The passes of a loss stand in its own file, as `forward_logits` and `backward_logits`, with `psi_of` where it has a
margin. Here they are only joined:

    forward     inputs → forward_logits → z → cross_entropy → loss
    backward    upstream → cross_entropy_backward → ∂L/∂z → backward_logits → gradients
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from refloss import validation as check
from refloss.losses.blocks import on_terminal, silent
from refloss.losses.options import SHARED, CrossEntropyOptions
from refloss.losses.passes import Arithmetic, LogitsPass, Passes
from refloss.precision.numbers import Array
from refloss.record import Forward, Gradients
from refloss.steps.angle import Angle
from refloss.steps.margin import Psi
from refloss.steps.normalise import Rows
from refloss.steps.targets import Pairs


@dataclass(frozen=True, kw_only=True, repr=False)
class Loss(CrossEntropyOptions):
    """What every loss is: logits, then the cross-entropy of their softmax::

        ℓ_i = −Σ_c w_c t_ic log p_ic,  p_i = softmax(z_i),  t_i = (1 − ε) target_i + ε/C

    Frozen, made with keywords only, compared and hashed by its parameters. The inputs may be arrays of any real
    dtype, strides and byte order, or lists; they are copied to float64 and never changed. All losses share the
    options below, but for zero_norm, of those that are singular at zero rows, and detach_margin, of those with a
    margin on the target.

    Source:
        Survey, sections 1.1 and 2.1.3.

    Args:
        reduction (str): "mean", Σℓ / the number of valid rows; "sum"; "none"; or "weighted_mean", Σℓ / Σ w_y over
            the valid rows (with soft targets Σ w_c target_c). torch's "mean" is our "weighted_mean" for labels
            and our "mean" for soft targets.
        class_weights (C,): w_c ≥ 0, or None for all 1.
        label_smoothing (float): ε in [0, 1].
        ignore_index (int): rows with this label have loss 0 and gradient 0, and are not counted.
        empty_mean (str): where a divisor is 0: "error", "zero" or "nan".
        precision (str): "double"; or "extended", every intermediate number of 106 bits, so that losses are right
            to a few units in the last place and gradients to a few u = 2^-53 of their natural scale.
        zero_norm (str): "error" names the zero rows; "zero" takes the zero vector for their direction
            (cos θ = 0, θ = π/2), and nothing flows back through that normalisation.
        detach_margin (bool): True: z_y = r · (cos θ + stop(ψ(θ) − cos θ)), as current InsightFace and OpenSphere
            do on purpose: the value with its margin, the slope without it.

    Attributes:
        name (str): what `refloss.get` calls it.
        has_bias (bool): whether b may be given.
        has_margin (bool): whether the target's logit has a margin; then soft targets are refused.
        feels_x_norm (bool): whether the logits change with ‖x‖.
        feels_W_norm (bool): whether they change with ‖W_j‖.

    Raises:
        TypeError: a parameter of another kind.
        ValueError: a parameter outside its domain. The message names it and what was due.
    """

    name: ClassVar[str]
    has_bias: ClassVar[bool] = False
    has_margin: ClassVar[bool] = False  # on the target's logit; then soft targets are refused
    feels_x_norm: ClassVar[bool] = True  # whether the logits change with ‖x‖, with ‖W_j‖
    feels_W_norm: ClassVar[bool] = True

    # -- the passes, in the file of each loss ------------------------------------------------------

    def psi_of(self, angles: Angle) -> Psi:
        """The margin of a loss that has one, formed for all target pairs before the classes come in blocks.

        `forward_logits` takes it, with the angles, by `measured(x, W, pairs, self.psi_of)` of `refloss.steps.margin`.

        Args:
            angles (Angle): the angles θ_y of R target pairs.

        Returns:
            Psi: ψ(θ_y), ψ'(θ_y) and ∂ψ/∂m, each (R,); after annealing and detaching.

        Raises:
            TypeError, ValueError: a user's own function gives something else than a finite real number for each angle.
        """
        raise NotImplementedError

    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass:
        """The logits of a block of classes: the part of a loss that is its own, in the file of each.

        Args:
            x (N, D): features, `x.v`, with their lengths `x.norm` and directions `x.hat`; doubles or pairs of them.
            W (B, D): the block's class weights, likewise.
            b (B,): the block's bias, or None.
            pairs (Pairs): the target pairs (row, class of the block); a block without the target lists none.

        Returns:
            LogitsPass: z (N, B), and what `backward_logits` needs.
        """
        raise NotImplementedError

    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]:
        """The backward of `forward_logits`, right under it in the file of each loss.

        Args:
            kept (LogitsPass): what `forward_logits` returned.
            g (N, B): the gradient arriving at its logits.

        Returns:
            dict: name → gradient of Σ g_ij z_ij, for x (N, D), W (B, D), and b (B,), scale, margin, alpha where they
            exist.
        """
        raise NotImplementedError

    # -- joined to the cross-entropy ---------------------------------------------------------------

    def forward(self, x: Any, W: Any, labels: Any, b: Any = None) -> Forward:
        """The forward pass.

        Args:
            x (N, D): features, one row per sample.
            W (C, D): class weights, one row per class.
            labels (N,): integers, 0 … C − 1 or ignore_index; or soft targets (N, C), ≥ 0, where the loss has no
                margin.
            b (C,): the bias, where the loss has one; or None.

        Returns:
            Forward: the record of every stage.

        Raises:
            TypeError: what is no array of real numbers (labels: of integers).
            ValueError: NaN, Inf, shapes that do not fit, a label out of range, soft targets where there is a margin,
                zero rows where the loss is singular, a mean over nothing, a loss beyond float64. The message names
                the argument, the shape or the first offending index, and what was due.
        """
        return self._forward(x, W, labels, b)

    def _forward(self, x: Any, W: Any, labels: Any, b: Any, progress: Callable | None = None) -> Forward:
        x, W = check.features_and_weights(x, W)
        b = check.bias(b, len(W), self)
        targets = check.targets(labels, len(x), len(W), self)
        self._refuse_zero_rows(x, W, targets.pairs, np.flatnonzero(~targets.ignored))
        passes = Passes(self, x, W, b, self._setting(targets))
        passes.progress = progress
        return self._recorded(passes, targets.ignored)

    def backward(self, out: Forward, upstream: Any = 1.0) -> Gradients:
        """The backward pass of a record, which it does not change.

        Args:
            out (Forward): what `forward` of an equal loss returned.
            upstream (scalar or (N,)): the gradient arriving at `out.loss`; (N,) only under reduction="none", where a
                scalar means every sample.

        Returns:
            Gradients: of Σ upstream · out.loss.

        Raises:
            TypeError: out is no record, or upstream holds no real numbers.
            ValueError: out was made by another loss, upstream has another shape, NaN or Inf, or a gradient leaves the
                range of float64 (a row so short that 1/‖x‖ is too large).
        """
        return self._gradients(out, upstream)

    def value_and_grad(
        self,
        x: Any,
        W: Any,
        labels: Any,
        b: Any = None,
        upstream: Any = 1.0,
        *,
        out: Mapping[str, np.ndarray] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, Gradients]:
        """One forward and one backward pass.

        With `out` the size of W is that of the disk: W, which may be a memory map, is read block by block and never
        copied, and its gradient is written into the array given. No record is kept, so that the gradient of the logits
        and the error bounds are not to be had. Where the run is interrupted, out["W"] is not whole.

        Args:
            x (N, D): features.
            W (C, D): class weights.
            labels (N,): classes, or soft targets (N, C).
            b (C,): the bias, or None.
            upstream (scalar or (N,)): the gradient arriving at the loss, as `backward` takes it.
            out (mapping): {"W": array}, an array (C, D) for the gradient in W: of a float type with at least the range
                of W's, overlapping neither itself nor an input.
            progress (function): called as progress(done, total) with the blocks of classes done, of both passes.
                None: with `out`, a line on stderr, if that is a terminal, after two seconds.

        Returns:
            tuple: (out.loss, Gradients).

        Raises:
            TypeError, ValueError: as `forward` and `backward`, and for an `out` that cannot take the gradient.
        """
        if not (progress is None or callable(progress)):
            raise TypeError(f"progress must be a function of (done, total), got {progress!r}")
        if out is None:
            record = self._forward(x, W, labels, b, progress)
            return record.loss, self.backward(record, upstream)
        return self._into(out, x, W, labels, b, upstream, progress or on_terminal())

    def _into(
        self, out: Any, x: Any, W: Any, labels: Any, b: Any, upstream: Any, progress: Callable | None
    ) -> tuple[np.ndarray, Gradients]:
        """value_and_grad without a record: the gradient in W goes into out["W"]."""
        given = {"W": W, "x": x, "labels": labels, "b": b, "upstream": upstream}
        W = check.as_array(W, "W")
        grad_W = check.target_of_gradient(out, W, given)
        x = check.matrix(x, "x", "(N, D)")
        targets = check.targets(labels, len(x), len(W), self)
        valid = np.flatnonzero(~targets.ignored)

        def refuse(rows: np.ndarray, first: int) -> None:
            here = targets.pairs.within(slice(first, first + len(rows)))
            self._refuse_zero_rows(x, rows, here, valid, first)

        stream = check.stream(W, x.shape[1], refuse)
        b = check.bias(b, len(W), self)
        passes = Passes(self, x, stream, b, self._setting(targets))
        passes.progress = progress
        record = self._recorded(passes, targets.ignored)
        upstream = check.upstream_gradient(upstream, record.losses.shape, self.reduction)
        try:
            with silent():
                gradients = passes.backward(upstream, grad_W)
        except BaseException as error:
            error.add_note('out["W"] is not whole: the gradient of only some classes was written')
            raise
        return record.loss, Gradients(self, None, upstream, gradients)

    def inference_logits(self, x: Any, W: Any, b: Any = None) -> np.ndarray:
        """Logits without any margin: what a classifier uses at test time.

        Args:
            x (N, D): features.
            W (C, D): class weights.
            b (C,): the bias, or None.

        Returns:
            (N, C) float64: the logits.

        Raises:
            TypeError, ValueError: as `forward`; a logit beyond float64 is named.
        """
        x, W = check.features_and_weights(x, W)
        return self._logits(x, W, check.bias(b, len(W), self), np.arange(0))

    def decision_boundary(self, x: Any, W: Any, b: Any = None) -> np.ndarray:
        """Class 1's target logit minus class 2's plain logit; zero on class 1's boundary.

        Source:
            The survey's Table 1 (Deng et al., arXiv 1801.07698v1, Table 1), wherever its formula is the loss's own.

        Args:
            x (N, D): features.
            W (2, D): class 1 in the first row; swap the rows for class 2's boundary.
            b (2,): the bias, or None.

        Returns:
            (N,) float64: the difference.

        Raises:
            TypeError, ValueError: as `forward`, and where W has not two rows.
        """
        x, W = check.features_and_weights(x, W)
        if len(W) != 2:
            raise ValueError(f"W must have two rows, class 1 and class 2, got shape {W.shape}")
        z = self._logits(x, W, check.bias(b, 2, self), np.arange(len(x)))
        return z[:, 0] - z[:, 1]

    def _logits(self, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, rows: np.ndarray):
        """Logits with class 0 as the target of `rows`; the others carry no margin."""
        pairs = Pairs(rows, np.zeros(len(rows), dtype=np.intp))
        self._refuse_zero_rows(x, W, pairs, np.arange(len(x)))
        arithmetic = Arithmetic(self.precision)
        bias = None if b is None else arithmetic.of(b)
        with silent():
            kept = self.forward_logits(Rows(arithmetic.of(x)), Rows(arithmetic.of(W)), bias, pairs)
        return check.finite_logits(arithmetic.read(kept.logits))

    def _refuse_zero_rows(self, x: np.ndarray, W: np.ndarray, pairs: Pairs, valid: np.ndarray, first: int = 0) -> None:
        """Losses with singular zero rows name them here. W: some classes, from `first` on; pairs: those of them."""


@dataclass(frozen=True, kw_only=True, repr=False)
class NormalisingLoss(Loss):
    """A loss that is singular at zero rows of x or W."""

    normalises_x: ClassVar[bool] = True  # whether a zero row of x, of W is singular
    normalises_W: ClassVar[bool] = True
    normalises_targets: ClassVar[bool] = False  # whether one of a target pair is, where others are not

    zero_norm: str = field(default="error", metadata=SHARED)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(zero_norm=check.one_of(self.zero_norm, "zero_norm", ("error", "zero")))

    def _refuse_zero_rows(self, x: np.ndarray, W: np.ndarray, pairs: Pairs, valid: np.ndarray, first: int = 0) -> None:
        if self.normalises_x and not first:
            check.no_zero_rows(x, "x", valid, self)
        if self.normalises_W:
            check.no_zero_rows(W, "W", np.arange(len(W)), self, first)
        if self.normalises_targets:
            check.no_zero_rows(x, "x", pairs.rows, self)
            check.no_zero_rows(W, "W", np.unique(pairs.y), self, first)
