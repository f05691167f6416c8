"""The passes of a loss over blocks of classes, in the arithmetic that its precision asks for.

    precision="double"    arrays of doubles
    precision="extended"  arrays of pairs (`refloss.precision.pair`)

Blocks stay in the cache and run on several threads (`blocks`); what they give is joined in the order of the classes.
The passes themselves, in the losses' files and in `steps`, know of none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np

from refloss import validation as check
from refloss.losses.blocks import blocks_of, in_order
from refloss.precision.numbers import Array, error_of, is_extended, nearest
from refloss.precision.pair import Pair
from refloss.precision.products import add_at
from refloss.precision.scaled import HEADROOM, at, exponent_of, next_to_one, rows_times_power, spare_exponent
from refloss.steps.angle import Angle, angle
from refloss.steps.cross_entropy import CrossEntropyPass, cross_entropy_backward, finish
from refloss.steps.logsumexp import Gathered, gather, join, softmax
from refloss.steps.margin import Psi, cone
from refloss.steps.normalise import Rows
from refloss.steps.targets import MeasuredPairs, Pairs, Setting

PRECISIONS = ("double", "extended")
ENTRIES_OF_PAIRS = 1 << 16  # numbers in the rows of target pairs that are measured together
OPERATIONS_OF_AN_ANGLE = 64  # for each of these numbers
KEPT = 1 << 25  # logits kept from forward to backward, at most; more are computed anew


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
        v = at(0, v)
        if self.bounded is None:
            return nearest(v)
        rounding = 2.0**-53 * np.abs(nearest(v)) + 2.0**-1074 if is_extended(v) else 0.0
        return np.asarray(error_of(v) + rounding)


ABSENT: Any = None  # what a loss does not have


@dataclass(eq=False, kw_only=True)
class LogitsPass:
    """What `forward_logits` computed and `backward_logits` consumes, of a block of classes."""

    x: Rows
    W: Rows
    logits: Array
    has_b: bool = False
    x_norm: Array = ABSENT
    W_norm: Array = ABSENT
    cos_theta: Array = ABSENT  # for the record; of several blocks none is kept
    along: Array = ABSENT  # W_j·x̂_i, or the cosine, for the backward
    near: Pairs = ABSENT  # those next to a pole
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
    @property
    def has_margin(self) -> bool: ...
    def psi_of(self, angles: Angle) -> Psi: ...
    def forward_logits(self, x: Rows, W: Rows, b: Array | None, pairs: Pairs) -> LogitsPass: ...
    def backward_logits(self, kept: LogitsPass, g: Array) -> dict[str, Array]: ...


class EndStages:
    """The stages that follow from (M, C) logits alone, of a subclass that has them by block."""

    arithmetic: Arithmetic
    setting: Setting
    blocks: list[slice]
    work: int  # multiplications of a block
    end: CrossEntropyPass
    _complement: np.ndarray | None = None

    def logits(self, k: int) -> Array:
        """The logits of block k."""
        raise NotImplementedError

    @property
    def losses(self) -> np.ndarray:
        """(M,)"""
        return self.arithmetic.read(self.end.losses)

    @property
    def loss(self) -> np.ndarray:
        """() or (M,)"""
        return self.arithmetic.read(self.end.loss)

    def end_stage(self, name: str) -> np.ndarray | None:
        """logits or probabilities (M, C), complement (M,): block by block."""
        targets, read = self.setting.targets, self.arithmetic.read
        M, C = len(targets.ignored), targets.classes
        if name == "complement" and (targets.labels is None or self._complement is not None):
            return self._complement
        stage, complement = np.empty((M, 0 if name == "complement" else C)), np.zeros(M)

        def fill(k: int) -> None:
            block, z = self.blocks[k], self.logits(k)
            if name == "logits":
                stage[:, block] = read(z)
                return
            pairs = targets.pairs.within(block)
            p, q = softmax(z, self.end.gathered, block, pairs)
            if name == "probabilities":
                stage[:, block] = read(p)
            complement[pairs.rows] = read(q)

        self.each(fill)
        if name != "logits" and targets.labels is not None:
            self._complement = complement  # either is made with the other
        return complement if name == "complement" else stage

    def grad_logits(self, upstream: np.ndarray) -> np.ndarray:
        """∂/∂z (M, C), as doubles."""
        targets, arriving = self.setting.targets, next_to_one(self.arithmetic.of(upstream))
        gradient = np.empty((len(targets.ignored), targets.classes))

        def fill(k: int) -> None:
            g = cross_entropy_backward(self.logits(k), self.end, arriving, self.blocks[k])
            gradient[:, self.blocks[k]] = self.arithmetic.read(g)

        self.each(fill)
        return gradient

    def each(self, function: Any) -> list[Any]:
        """What a function gives of every block."""
        return list(in_order(function, len(self.blocks), self.work))


class Passes(EndStages):
    """One forward pass of a loss, kept for its backward. x (N, D), W (C, D), b (C,) or None, checked."""

    def __init__(
        self,
        loss: LogitsOfLoss,
        x: np.ndarray,
        W: np.ndarray | check.Stream,
        b: np.ndarray | None,
        setting: Setting,
        bounded: type | None = None,
    ):
        self.own, self.inputs, self.setting = loss, (x, W, b), setting
        self.arithmetic = Arithmetic(loss.precision, bounded)
        self.blocks = blocks_of(len(W), max(x.shape))
        self.work = len(x) * W.shape[1] * self.blocks[0].stop
        self.keeps = len(x) * len(W) <= KEPT
        self._kept: dict[int, LogitsPass] = {}
        self._W_exponents: dict[int, np.ndarray | int] = {}
        self._only_W: Rows | None = None  # of an only block, where the target pairs share it
        self.has: set[str] = set()  # stages before the logits
        self.progress: Callable[[int, int], None] | None = None

    def _spare(self, v: np.ndarray, feels_norm: bool) -> np.ndarray | int:
        """(R,) the power of two that is taken out of every row where its length does not matter, so that nothing
        leaves the range; 0 if none is."""
        return 0 if feels_norm else spare_exponent(v, always=self.arithmetic.precision == "extended")

    def _measured(self, pairs: Pairs) -> MeasuredPairs:
        """The target pairs with θ and ψ(θ): of all at once, rather than of a few in every block."""
        if len(self.blocks) == 1:
            self._only_W = self._W(0).normalised()
            W = self._only_W[pairs.y]
        else:
            of_pairs = self.inputs[1][pairs.y]
            W = Rows(self.arithmetic.of(rows_times_power(of_pairs, -self._spare(of_pairs, self.own.feels_W_norm))))
        x, D = self.x.normalised()[pairs.rows], W.v.shape[1]
        width = max(1, min(len(x), ENTRIES_OF_PAIRS // D))

        def part(k: int) -> tuple[Angle, Psi]:
            at = slice(k * width, (k + 1) * width)
            angles = angle(x[at], W[at])
            return angles, self.own.psi_of(angles)

        parts = list(in_order(part, max(1, -(-len(x) // width)), OPERATIONS_OF_AN_ANGLE * width * D))
        measured = MeasuredPairs(*pairs)
        measured.angles, measured.psi = parts[0] if len(parts) == 1 else map(_all_rows, zip(*parts, strict=True))
        return measured

    def _W_exponent(self, k: int) -> np.ndarray | int:
        """The powers of two taken out of the class weights of block k."""
        if k not in self._W_exponents:
            self._W_exponents[k] = self._spare(self.inputs[1][self.blocks[k]], self.own.feels_W_norm)
        return self._W_exponents[k]

    def _W(self, k: int, norm: Array | None = None) -> Rows:
        """The class weights of block k, without these powers."""
        if self._only_W is not None:
            return self._only_W
        W = rows_times_power(self.inputs[1][self.blocks[k]], -self._W_exponent(k))
        return Rows(self.arithmetic.of(W), norm)

    def _computed(self, k: int) -> LogitsPass:
        block, b = self.blocks[k], self.inputs[2]
        pairs = self.pairs.within(block)
        bias = None if b is None else self.arithmetic.of(b[block])
        return self.own.forward_logits(self.x, self._W(k), bias, pairs)

    def _block(self, k: int) -> LogitsPass:
        """What the backward needs of block k: as the forward left it, or computed anew."""
        if k not in self._kept:
            return self._computed(k)
        kept = self._kept[k]
        return kept if len(self.blocks) == 1 else replace(kept, W=self._W(k, kept.W_norm))

    def _keep(self, k: int, made: LogitsPass) -> None:
        """All of an only block; of many what is no array of C·D numbers, and the logits."""
        if len(self.blocks) == 1:
            self._kept[k] = made
        elif self.keeps:
            self._kept[k] = replace(made, W=ABSENT, cos_theta=ABSENT)

    def logits(self, k: int) -> Array:
        return self._kept[k].logits if k in self._kept else self._computed(k).logits

    def forward(self) -> None:
        """The losses and the loss."""
        x, pairs = self.inputs[0], self.setting.targets.pairs
        self.x_exponent = self._spare(x, self.own.feels_x_norm)
        self.x = Rows(self.arithmetic.of(rows_times_power(x, -self.x_exponent)))
        self.pairs = self._measured(pairs) if self.own.has_margin else pairs

        def part(k: int) -> Gathered:
            block, made = self.blocks[k], self._computed(k)
            z = made.logits
            if self.arithmetic.bounded is None:
                check.finite_logits(nearest(z), block.start)
            if k == 0:
                self.has = {name for name in ("x_norm", "W_norm", "cos_theta") if getattr(made, name) is not None}
                self.has |= {"theta", "cone"} if made.pairs is not None else set()
            self._keep(k, made)
            return gather(z, self.setting.weighted(block, z), block)

        self.end = finish(reduce(join, self._in_order(part, 0)), self.setting)

    def _in_order(self, part: Callable, done: int) -> Iterator[Any]:
        """part(k) of every block k, with word to `progress`. done: blocks of the passes before."""
        for result in in_order(part, len(self.blocks), self.work):
            yield result
            done += 1
            if self.progress is not None:
                self.progress(done, 2 * len(self.blocks))

    def stage(self, name: str) -> np.ndarray | None:
        """A stage of the forward as doubles; None where the loss has no such stage."""
        N, C, read = len(self.x), self.setting.targets.classes, self.arithmetic.read
        if name in ("losses", "loss"):
            return getattr(self, name)
        if name in ("logits", "probabilities", "complement"):
            return self.end_stage(name)
        if name not in self.has:
            return None
        if name == "x_norm":
            return read(np.ldexp(self.x.norm, self.x_exponent))
        stage: np.ndarray = {"W_norm": np.empty(C), "theta": np.zeros(N), "cone": np.zeros(N, dtype=bool)}.get(
            name, np.empty((N, C) if name == "cos_theta" else 0)
        )

        def fill(k: int) -> None:
            block = self.blocks[k]
            if name == "W_norm":
                stage[block] = read(np.ldexp(self._W(k).norm, self._W_exponent(k)))
                return
            made = self._block(k)
            if name == "cos_theta":
                made = made if made.cos_theta is not None else self._computed(k)
                stage[:, block] = read(made.cos_theta)
            elif name == "theta":
                stage[made.pairs.rows] = read(made.angles.theta)
            else:
                stage[made.pairs.rows] = cone(made.psi, made.angles)

        self.each(fill)
        return stage

    def shape(self, stage: str) -> tuple[int, ...]:
        """Of a stage."""
        N, C = len(self.x), self.setting.targets.classes
        return {"x_norm": (N,), "theta": (N,), "losses": (N,), "W_norm": (C,)}.get(stage, (N, C))

    def backward(self, upstream: np.ndarray, out: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The gradients by name, as doubles, but for that of the logits. upstream: () or (N,); out: for that in W."""
        arriving, power = next_to_one(self.arithmetic.of(upstream)), self._power(upstream)
        read = self.arithmetic.read
        of_classes: dict[str, np.ndarray] = {"W": np.empty(self.inputs[1].shape) if out is None else out}
        if self.inputs[2] is not None:
            of_classes["b"] = np.empty(len(self.inputs[1]))

        # a mean over nothing may have been asked to give NaN (empty_mean="nan")
        checked = self.arithmetic.bounded is None and not self.end.empty
        suspicious: list[str] = []

        def part(k: int) -> dict[str, Array]:
            block, made = self.blocks[k], self._block(k)
            g = cross_entropy_backward(made.logits, self.end, arriving, block)
            grads = self.own.backward_logits(made, at(power, g))
            for name, array in of_classes.items():  # the block's own rows
                of_rows = -power - self._W_exponent(k) if name == "W" else -power
                array[block] = read(rows_times_power(grads.pop(name), of_rows))
                if checked and not np.isfinite(array[block]).all():
                    suspicious.append(name)
            return grads

        totals: dict[str, Any] = {}
        for grads in self._in_order(part, len(self.blocks)):
            for name, value in grads.items():
                totals[name] = value if name not in totals else totals[name] + value
        for name in totals:
            of_name = -power - self.x_exponent if name == "x" else -power
            totals[name] = read(rows_times_power(totals[name], of_name))
        if checked and (suspicious or not all(np.isfinite(value).all() for value in totals.values())):
            # what is wrong in the gradient of the logits is wrong everywhere
            found = {name: of_classes[name] for name in of_classes if name in ("W", *suspicious)}
            check.finite_gradients({"logits": self.grad_logits(upstream)} | totals | found)
        return totals | of_classes

    def bounds(self, bounded: type) -> Passes:
        """The same passes, read for the error bounds of `bounded` numbers instead of the values."""
        return Passes(self.own, *self.inputs, self.setting, bounded)

    def _power(self, upstream: np.ndarray) -> int:
        """Gradients in extended precision are computed times 2^power: tiny ones stay normal numbers, and no product
        with what the loss puts in overflows."""
        if self.arithmetic.precision == "double":
            return 0
        loss = self.own
        factors = [getattr(loss, "scale", 1.0), getattr(loss, "alpha", 1.0)]
        factors += [self.inputs[0]] if loss.feels_x_norm else []
        if loss.feels_W_norm:
            factors.append(max(float(np.abs(self.inputs[1][block]).max()) for block in self.blocks))
        room = self.setting.exponent + sum(max(0, exponent_of(v)) for v in factors)
        return HEADROOM - room + exponent_of(self.end.divisor) - exponent_of(upstream)


def _all_rows(parts: tuple) -> Any:
    """The fields of all parts, one below the other."""
    return type(parts[0])(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def add_at_pairs(grad_x: Array, grad_W: Array, pairs: Pairs, pair_x: Array, pair_W: Array) -> None:
    """Adds the target pairs' gradients (R, D) to their rows of x, and of W where classes repeat."""
    grad_x[pairs.rows] += pair_x
    add_at(grad_W, pairs.y, pair_W)
