"""The passes of a loss over blocks of classes, in the arithmetic that its precision asks for.

    precision="double"    arrays of doubles, all classes in one block
    precision="extended"  arrays of pairs (`refloss.precision.pair`), so many classes at a time that what is held
                          besides the record stays O(N · block)

The passes themselves, in the losses' files and in `steps`, do not know which it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from refloss import validation as check
from refloss.precision.numbers import Array, error_of, is_extended, nearest
from refloss.precision.pair import Pair
from refloss.precision.products import add_at
from refloss.precision.scaled import exponent_of, times_power
from refloss.steps.angle import Angle
from refloss.steps.cross_entropy import CrossEntropyPass, cross_entropy_backward, finish
from refloss.steps.logsumexp import Gathered, gather, join, softmax
from refloss.steps.margin import Psi, cone
from refloss.steps.normalise import spare_exponent
from refloss.steps.targets import Pairs, Setting

PRECISIONS = ("double", "extended")
ENTRIES = 1 << 20  # in the largest array of a block of pairs: 8 MiB per double


class Arithmetic(NamedTuple):
    """The numbers of one run of the passes: of a precision, and `bounded` to carry error bounds along, if not None."""

    precision: str
    bounded: type | None = None

    def of(self, v: np.ndarray) -> Array:
        """Doubles as these numbers."""
        numbers = Pair(v) if self.precision == "extended" else v
        return numbers if self.bounded is None else self.bounded(numbers)

    def read(self, v: Array) -> np.ndarray:
        """Doubles of these numbers: the nearest, or how far the nearest may be from the truth."""
        if self.bounded is None:
            return nearest(v)
        rounding = 2.0**-53 * np.abs(nearest(v)) + 2.0**-1074 if is_extended(v) else 0.0
        return np.asarray(error_of(v) + rounding)


ABSENT: Any = None  # a stage that a loss does not have


@dataclass(eq=False, kw_only=True)
class LogitsPass:
    """What `forward_logits` computed and `backward_logits` consumes, of a block of classes."""

    x: Array
    W: Array
    logits: Array
    has_b: bool = False
    x_norm: Array = ABSENT
    W_norm: Array = ABSENT
    x_hat: Array = ABSENT
    W_hat: Array = ABSENT
    cos_theta: Array = ABSENT
    along: Array = ABSENT  # W_j·x̂_i
    pairs: Pairs = ABSENT  # whose target logit carries a margin
    angles: Angle = ABSENT  # of those pairs
    psi: Psi = ABSENT  # of those pairs


class LogitsOfLoss(Protocol):
    """What the passes ask of a loss: whether lengths matter to it, and the part that is its own (see `Loss`)."""

    @property
    def precision(self) -> str: ...
    @property
    def feels_x_norm(self) -> bool: ...
    @property
    def feels_W_norm(self) -> bool: ...
    def forward_logits(self, x: Array, W: Array, b: Array | None, pairs: Pairs) -> LogitsPass: ...
    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]: ...


class Passes:
    """One forward pass of a loss, kept for its backward. x (N, D), W (C, D), b (C,) or None, checked."""

    def __init__(
        self,
        loss: LogitsOfLoss,
        x: np.ndarray,
        W: np.ndarray,
        b: np.ndarray | None,
        setting: Setting,
        bounded: type | None = None,
    ):
        self.loss, self.inputs, self.setting = loss, (x, W, b), setting
        self.arithmetic = Arithmetic(loss.precision, bounded)
        # Where a row's length does not matter, a power of two is taken out of it, so that nothing leaves the range
        self.x_exponent = np.zeros(len(x), dtype=int) if loss.feels_x_norm else spare_exponent(x)
        self.W_exponent = np.zeros(len(W), dtype=int) if loss.feels_W_norm else spare_exponent(W)
        self.x = self.arithmetic.of(np.ldexp(x, -self.x_exponent[:, None]))
        self.W = np.ldexp(W, -self.W_exponent[:, None])
        self.blocks = blocks_of(len(W), max(x.shape), loss.precision)
        self._only: LogitsPass | None = None
        self.end: CrossEntropyPass

    def logits(self, block: slice) -> LogitsPass:
        """The logits of a block of classes. They are computed anew each time unless one block holds them all."""
        if self._only is not None:
            return self._only
        pairs = self.setting.targets.pairs.within(block)
        b = None if self.inputs[2] is None else self.arithmetic.of(self.inputs[2][block])
        kept = self.loss.forward_logits(self.x, self.arithmetic.of(self.W[block]), b, pairs)
        if len(self.blocks) == 1:
            self._only = kept
        return kept

    def forward(self) -> dict[str, Any]:
        """Every stage as doubles."""
        N, C = len(self.x), len(self.W)
        seen: Gathered | None = None
        stages: dict[str, Any] = {"logits": np.empty((N, C))}
        for block in self.blocks:
            kept = self.logits(block)
            self._note(stages, kept, block)
            part = gather(kept.logits, self.setting.weighted(block, kept.logits), block)
            seen = part if seen is None else join(seen, part)
        if self.arithmetic.bounded is None:
            check.finite_logits(stages["logits"])
        assert seen is not None
        self.end = finish(seen, self.setting)
        return stages | end_stages(lambda block: self.logits(block).logits, self.blocks, self.end, C, self.arithmetic)

    def _note(self, stages: dict[str, Array], kept: LogitsPass, block: slice) -> None:
        """Puts what a block has computed of the stages in its place."""
        N, C, read = len(self.x), len(self.W), self.arithmetic.read
        stages["logits"][:, block] = read(kept.logits)
        if kept.cos_theta is not None:
            stages.setdefault("cos_theta", np.empty((N, C)))[:, block] = read(kept.cos_theta)
        if kept.x_norm is not None:
            stages["x_norm"] = read(np.ldexp(kept.x_norm, self.x_exponent))
        if kept.W_norm is not None:
            norms = read(np.ldexp(kept.W_norm, self.W_exponent[block]))
            stages.setdefault("W_norm", np.empty(C))[block] = norms
        if kept.pairs is not None:
            stages.setdefault("theta", np.zeros(N))[kept.pairs.rows] = read(kept.angles.theta)
            stages.setdefault("cone", np.zeros(N, dtype=bool))[kept.pairs.rows] = cone(kept.psi, kept.angles)

    def backward(self, upstream: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """∂/∂z (N, C) and the gradients by name, as doubles. upstream: () or (N,)."""
        N, C = len(self.x), len(self.W)
        headroom, exponent, upstream = self._powers(upstream)
        g = np.empty((N, C))
        totals: dict[str, Any] = {}
        for block in self.blocks:
            kept = self.logits(block)
            g_block = cross_entropy_backward(kept.logits, self.end, upstream, block, headroom)
            g[:, block] = self.arithmetic.read(times_power(g_block, exponent))
            for name, part in self.loss.backward_logits(kept, g_block).items():
                if name in ("W", "b"):  # the block's own rows
                    of_rows = exponent - self.W_exponent[block][:, None] if name == "W" else exponent
                    rows = self.arithmetic.read(times_power(part, of_rows))
                    totals.setdefault(name, np.empty((C, *rows.shape[1:])))[block] = rows
                else:
                    totals[name] = part if name not in totals else totals[name] + part
        for name in totals.keys() - {"W", "b"}:
            of_name = exponent - self.x_exponent[:, None] if name == "x" else exponent
            totals[name] = self.arithmetic.read(times_power(totals[name], of_name))
        return g, totals

    def bounds(self, bounded: type) -> Passes:
        """The same passes, read for the error bounds of `bounded` numbers instead of the values."""
        return Passes(self.loss, *self.inputs, self.setting, bounded)

    def _powers(self, upstream: np.ndarray) -> tuple[int, int, np.ndarray]:
        loss = self.loss
        factors = [getattr(loss, "scale", 1.0), getattr(loss, "alpha", 1.0)]
        factors += [nearest(self.x)] if loss.feels_x_norm else []
        factors += [self.W] if loss.feels_W_norm else []
        return gradient_powers(self.end, upstream, *factors)


def gradient_powers(
    end: CrossEntropyPass, upstream: np.ndarray, *factors: Array | float
) -> tuple[int, int, np.ndarray]:
    """(headroom, exponent, upstream below 1) of a backward pass; in doubles (0, 0, upstream).

    Gradients are computed times 2^headroom, so that tiny ones stay normal numbers, and so that no product with one of
    the factors overflows. Multiplying by 2^exponent undoes it, and puts back what came out of upstream and the divisor.
    """
    if not end.gathered.headroom:
        return 0, 0, upstream
    headroom = end.gathered.headroom - end.setting.exponent - sum(max(0, exponent_of(v)) for v in factors)
    exponent = exponent_of(upstream)
    return headroom, exponent - headroom - end.divisor_exponent, np.ldexp(upstream, -exponent)


def blocks_of(classes: int, rows: int, precision: str) -> list[slice]:
    """All classes at once in doubles; of pairs as many as keep a block's arrays in bounds."""
    size = classes if precision == "double" else max(1, min(classes, ENTRIES // max(rows, 1)))
    return [slice(start, min(start + size, classes)) for start in range(0, classes, size)]


def end_stages(
    logits: Callable, blocks: list[slice], end: CrossEntropyPass, classes: int, arithmetic: Arithmetic
) -> dict[str, Any]:
    """probabilities (M, C), complement, losses (M,) and loss; logits(block) gives the logits of a block."""
    targets, read = end.setting.targets, arithmetic.read
    p = np.empty((len(targets.ignored), classes))
    complement = None if targets.labels is None else np.zeros(len(p))
    for block in blocks:
        z = logits(block)
        p_block, others = softmax(z, end.gathered, block)
        p[:, block] = read(times_power(p_block, -end.gathered.headroom))
        if complement is not None:
            pairs = targets.pairs.within(block)
            complement[pairs.rows] = read(times_power(others[pairs], -end.gathered.headroom))
    losses = read(times_power(end.losses, -end.losses_headroom))
    loss = read(times_power(end.loss, -end.loss_headroom))
    return {"probabilities": p, "complement": complement, "losses": losses, "loss": loss}


def add_at_pairs(grad_x: Array, grad_W: Array, pairs: Pairs, pair_x: Array, pair_W: Array) -> None:
    """Adds the target pairs' gradients (R, D) to their rows of x, and of W where classes repeat."""
    grad_x[pairs.rows] += pair_x
    add_at(grad_W, pairs.y, pair_W)
