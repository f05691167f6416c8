"""The passes of a loss over blocks of classes, in the arithmetic that its precision asks for.

    precision="double"    arrays of doubles, all classes in one block
    precision="extended"  arrays of pairs (`refloss.precision.pair`), so many classes at a time that what is held
                          besides the record stays O(N · block)

The passes themselves, in the losses' files and in `steps`, do not know which it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from refloss import validation as check
from refloss.precision.numbers import nearest
from refloss.precision.pair import Pair
from refloss.precision.scaled import times_power
from refloss.steps.cross_entropy import (
    CrossEntropyPass,
    Gathered,
    Setting,
    cross_entropy_backward,
    finish,
    gather,
    join,
    softmax,
)
from refloss.steps.normalise import row_exponent

if TYPE_CHECKING:
    from refloss.losses.base import LogitsPass, Loss

ENTRIES = 1 << 19  # of the largest array of a block of pairs: 4 MiB a double


def as_they_are(v: Any) -> Any:
    return v


NUMBERS = {"double": as_they_are, "extended": Pair}


class Passes:
    """One forward pass of a loss, kept for its backward. x (N, D), W (C, D), b (C,) or None, checked."""

    def __init__(self, loss: Loss, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, setting: Setting):
        self.loss, self.b, self.setting = loss, b, setting
        self.numbers = NUMBERS[loss.precision]
        # rows whose length does not matter: a power of two out of each keeps everything in range
        self.x_exponent = np.zeros(len(x), dtype=int) if loss.feels_x_norm else row_exponent(x)
        self.W_exponent = np.zeros(len(W), dtype=int) if loss.feels_W_norm else row_exponent(W)
        self.x = self.numbers(np.ldexp(x, -self.x_exponent[:, None]))
        self.W = np.ldexp(W, -self.W_exponent[:, None])
        self.blocks = blocks(len(W), max(x.shape), loss.precision)
        self._only: LogitsPass | None = None
        self.record: dict[str, Any] = {}
        self.end: CrossEntropyPass

    def logits(self, block: slice) -> LogitsPass:
        """The logits of a block of classes. They are computed anew each time unless one block holds them all."""
        if self._only is not None:
            return self._only
        from refloss.losses.base import Pairs

        rows, y = self.setting.targets.pairs
        here = (y >= block.start) & (y < block.stop)
        pairs = Pairs(rows[here], y[here] - block.start)
        b = None if self.b is None else self.numbers(self.b[block])
        at = self.loss.forward_logits(self.x, self.numbers(self.W[block]), b, pairs)
        if len(self.blocks) == 1:
            self._only = at
        return at

    def forward(self) -> dict[str, Any]:
        """Every stage as doubles."""
        N, C = len(self.x), len(self.W)
        seen: Gathered | None = None
        stages: dict[str, Any] = {"logits": np.empty((N, C))}
        for block in self.blocks:
            at = self.logits(block)
            self._note(stages, at, block)
            part = gather(at.logits, self.setting.weighted(block, at.logits), block)
            seen = part if seen is None else join(seen, part)
        check.finite_logits(stages["logits"])
        assert seen is not None
        self.end = finish(seen, self.setting)
        check.finite_losses(self.end.losses, self.end.loss)
        return stages | probabilities(lambda block: self.logits(block).logits, self.blocks, self.end, C) | {
            "losses": self.end.losses, "loss": self.end.loss
        }  # fmt: skip

    def _note(self, stages: dict[str, Any], at: LogitsPass, block: slice) -> None:
        """Puts what a block has computed of the stages in its place."""
        N, C = len(self.x), len(self.W)
        stages["logits"][:, block] = nearest(at.logits)
        if at.cos_theta is not None:
            stages.setdefault("cos_theta", np.empty((N, C)))[:, block] = nearest(at.cos_theta)
        if at.x_norm is not None:
            stages["x_norm"] = np.ldexp(nearest(at.x_norm), self.x_exponent)
        if at.W_norm is not None:
            norms = np.ldexp(nearest(at.W_norm), self.W_exponent[block])
            stages.setdefault("W_norm", np.empty(C))[block] = norms
        if at.pairs is not None:
            stages.setdefault("theta", np.zeros(N))[at.pairs.rows] = nearest(at.angle.theta)
            stages.setdefault("cone", np.zeros(N, dtype=bool))[at.pairs.rows] = at.cone

    def backward(self, upstream: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """∂/∂z (N, C) and the gradients by name, as doubles. upstream: () or (N,)."""
        N, C = len(self.x), len(self.W)
        keep, shift, upstream = self._kept(upstream)
        g = np.empty((N, C))
        totals: dict[str, Any] = {}
        for block in self.blocks:
            at = self.logits(block)
            g_block = cross_entropy_backward(at.logits, self.end, upstream, block, keep)
            g[:, block] = nearest(times_power(g_block, shift))
            for name, part in self.loss.backward_logits(at, g_block).items():
                if name == "W":
                    self._place(
                        totals, "W", self.W.shape, part, shift - self.W_exponent[block][:, None], block
                    )
                elif name == "b":
                    self._place(totals, "b", (C,), part, shift, block)
                else:
                    totals[name] = part if name not in totals else totals[name] + part
        for name in totals.keys() - {"W", "b"}:
            exponent = shift - self.x_exponent[:, None] if name == "x" else shift
            totals[name] = nearest(times_power(totals[name], exponent))
        return g, totals

    @staticmethod
    def _place(
        totals: dict[str, Any], name: str, shape: tuple[int, ...], part: Any, exponent: Any, block: slice
    ) -> None:
        rows = nearest(times_power(part, exponent))
        totals.setdefault(name, np.empty(shape))[block] = rows

    def _kept(self, upstream: np.ndarray) -> tuple[int, int, np.ndarray]:
        factors = [self.W, getattr(self.loss, "scale", 1.0), getattr(self.loss, "alpha", 1.0)]
        return kept(self.end, upstream, nearest(self.x), *factors)


class BareLogits:
    """The same of logits z (M, C) that are given: one block."""

    def __init__(self, z: Any, setting: Setting):
        self.z, self.setting = z, setting
        self.block = slice(0, z.shape[1])
        self.end: CrossEntropyPass

    def forward(self) -> dict[str, Any]:
        """probabilities, complement, losses and loss as doubles."""
        gathered = gather(self.z, self.setting.weighted(self.block, self.z), self.block)
        self.end = finish(gathered, self.setting)
        of_rows = probabilities(lambda block: self.z, [self.block], self.end, self.block.stop)
        return of_rows | {"losses": self.end.losses, "loss": self.end.loss}

    def backward(self, upstream: np.ndarray) -> np.ndarray:
        """∂/∂z (M, C). upstream: () or (M,)."""
        keep, shift, upstream = kept(self.end, upstream)
        return nearest(
            times_power(cross_entropy_backward(self.z, self.end, upstream, self.block, keep), shift)
        )


def kept(end: CrossEntropyPass, upstream: np.ndarray, *factors: Any) -> tuple[int, int, np.ndarray]:
    """The power of two that gradients keep on their way, the one that takes it off, and upstream below 1.

    So high that a subnormal probability keeps its digits, so low that no factor on the way overflows.
    """
    if not end.headroom:
        return 0, 0, upstream
    keep = end.headroom - end.setting.exponent - sum(max(0, exponent_of(v)) for v in factors)
    taken = exponent_of(upstream)
    return keep, taken - keep, np.ldexp(upstream, -taken)


def blocks(classes: int, rows: int, precision: str) -> list[slice]:
    """All classes at once in doubles; of pairs as many as keep a block's arrays in bounds."""
    size = classes if precision == "double" else max(1, min(classes, ENTRIES // max(rows, 1)))
    return [slice(start, min(start + size, classes)) for start in range(0, classes, size)]


def probabilities(logits: Any, of: list[slice], end: CrossEntropyPass, classes: int) -> dict[str, Any]:
    """`probabilities` (M, C) and `complement` (M,) as doubles; logits(block) gives the logits of a block."""
    targets = end.setting.targets
    rows, y = targets.pairs
    p = np.empty((len(targets.ignored), classes))
    complement = None if targets.labels is None else np.zeros(len(p))
    for block in of:
        z = logits(block)
        p_block, others = softmax(z, end, block)
        p[:, block] = nearest(times_power(p_block, -end.headroom))
        if complement is not None:
            here = (y >= block.start) & (y < block.stop)
            at = rows[here], y[here] - block.start
            complement[rows[here]] = nearest(times_power(others[at], -end.headroom))
    return {"probabilities": p, "complement": complement}


def exponent_of(v: Any) -> int:
    """The e with 2^(e−1) ≤ max |v| < 2^e; 0 for zeros."""
    return int(np.frexp(np.max(np.abs(v), initial=0.0))[1])
