"""Honest implementations of the losses, as good practitioners write them: the oracle must accept every one of them.

Each computes the textbook's formulas in its dtype, without tricks for hard input beyond a maximum taken out of the
softmax and a cosine kept inside (−1, 1). All take one view: a logit is r cos θ_j, and r ψ(θ_y) for the target of a
margin loss, with r a factor (s, α or 1) times those of ‖x‖ and ‖W_j‖ that the loss feels. They differ in framework,
in how ψ comes of cos θ, in how log Σe^z is kept and joined, in where lengths are divided out, in who differentiates, in
what 16 bits are computed and stored in, and in the order of their sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from refloss.losses import CrossEntropy
from refloss.precision.dtypes import DTYPES
from refloss.textbook.family import factor_name, formula_of, member_of, radius_of

Stages = dict[str, Any]


@dataclass(frozen=True)
class Writer:
    """One way to write the losses.

    framework  "numpy", "torch" or "jax": of the arrays that it takes
    make       make(loss) → f(x, W, labels), or f(logits, targets) for `refloss.CrossEntropy`; None where this way
               has nothing to offer for the loss
    half       what 16-bit inputs are computed in: "storage" (their own dtype, throughout), "float32", or "stored":
               float32, with what some steps hand on stored in 16 bits
    """

    name: str
    description: str
    framework: str
    make: Callable[[Any], Callable[..., Any] | None]
    half: str

    def owes(self, dtype: str) -> str:
        """The grade that it must reach."""
        return {"storage": "E", "stored": "D", "float32": "C"}[self.half] if DTYPES[dtype].is_half else "C"


def available() -> list[str]:
    """The names of those whose framework is installed."""
    return [name for name, writer in WRITERS.items() if find_spec(writer.framework) is not None]


def _known(loss: Any) -> bool:
    named = isinstance(loss, CrossEntropy) or formula_of(loss)
    return bool(named) and getattr(loss, "continuation", None) is None


# -- frameworks ------------------------------------------------------------------------------------


class _NumPy:
    """What the formulas need besides the functions of `xp`. The order of sums is that of `product` and `total`.

    product  (N, K), (C, K) → (N, C), Σ_k u_ik v_jk
    total    (…), axis → the sum over it
    """

    xp: Any = np

    def __init__(self, product: Callable[..., Any], total: Callable[..., Any]) -> None:
        self.product, self.total = product, total

    def cast(self, v: Any, like: Any) -> Any:
        return self.xp.asarray(v).astype(like.dtype)

    def wide(self, v: Any) -> Any:
        """16 bits as float32."""
        return v.astype(np.float32) if v.dtype.itemsize == 2 else v

    def norm(self, v: Any) -> Any:
        return self.xp.sqrt(self.total(v * v, -1))

    def stop(self, v: Any) -> Any:
        return v

    def length(self, v: Any) -> Any:
        """‖v‖ (rows,); of a zero row 0, without a derivative."""
        zero = ~(v != 0).any(-1)
        return self.xp.where(zero, 0.0, self.norm(self.xp.where(zero[:, None], 1.0, v)))

    def unit(self, v: Any) -> Any:
        """v / ‖v‖; of a zero row 0, without a derivative."""
        zero = ~(v != 0).any(-1)[:, None]
        safe = self.xp.where(zero, 1.0, v)
        return self.xp.where(zero, 0.0, safe / self.norm(safe)[:, None])

    def over(self, length: Any) -> Any:
        """1 / length; of a zero row 0."""
        return self.xp.where(length == 0, 0.0, 1 / self.xp.where(length == 0, 1.0, length))


class _Torch(_NumPy):
    def __init__(self) -> None:
        import torch

        self.xp = torch
        super().__init__(torch.nn.functional.linear, torch.sum)

    def cast(self, v: Any, like: Any) -> Any:
        return self.xp.as_tensor(v).to(like)

    def wide(self, v: Any) -> Any:
        return v.float() if v.dtype.itemsize == 2 else v

    def norm(self, v: Any) -> Any:
        return self.xp.linalg.vector_norm(v, dim=-1)

    def stop(self, v: Any) -> Any:
        return v.detach()

    def log_softmax(self, z: Any) -> Any:
        return self.xp.nn.functional.log_softmax(z, -1)

    def logsumexp(self, z: Any) -> Any:
        return self.xp.logsumexp(z, -1)


class _JAX(_NumPy):
    def __init__(self) -> None:
        import jax

        self.jax, self.xp = jax, jax.numpy
        # "highest": float32 where an accelerator would take less
        super().__init__(lambda u, v: jax.numpy.matmul(u, v.T, precision="highest"), jax.numpy.sum)

    def norm(self, v: Any) -> Any:
        return self.xp.linalg.norm(v, axis=-1)

    def unit(self, v: Any) -> Any:
        # its division has 1/‖v‖² as a slope, which may leave float16
        largest = self.stop(self.xp.max(self.xp.abs(v), axis=-1, keepdims=True))
        return super().unit(v / self.xp.where(largest == 0, 1.0, largest))

    def stop(self, v: Any) -> Any:
        return self.jax.lax.stop_gradient(v)

    def log_softmax(self, z: Any) -> Any:
        return self.jax.nn.log_softmax(z, axis=-1)

    def logsumexp(self, z: Any) -> Any:
        return self.jax.nn.logsumexp(z, axis=-1)


# -- targets and reductions ------------------------------------------------------------------------


class Rows(NamedTuple):
    """What N rows of logits are compared with.

    y        (N,) the classes; 0 where there is none
    valid    (N,)
    on       (N, C) the class of each valid row; nowhere for soft targets
    a        (N, C) w_c t_c, 0 on ignored rows
    divisor  of the reduction
    """

    y: Any
    valid: Any
    on: Any
    a: Any
    divisor: Any


def _rows(ops: Any, loss: Any, labels: Any, C: int, like: Any) -> Rows:
    """labels (N,) integers, or (N, C) soft; like: an array of the dtype to compute in."""
    xp, y = ops.xp, labels
    if labels.ndim == 2:
        target, on = ops.cast(labels, like), labels != labels
        valid = (labels == labels).all(-1)
    else:
        valid = labels == labels if loss.ignore_index is None else labels != loss.ignore_index
        y = xp.where(valid, labels, 0)
        on = (y[:, None] == ops.cast(np.arange(C), labels)) & valid[:, None]
        target = ops.cast(on, like)
    a, w = target, None
    if loss.label_smoothing:
        t = (1 - loss.label_smoothing) * target + loss.label_smoothing / C
        a = xp.where(valid[:, None], t, 0.0)
    if loss.class_weights is not None:
        w = ops.cast(np.array(loss.class_weights), like)
        a = w * a
    divisor: Any = 1.0
    if loss.reduction == "mean":
        divisor = ops.cast(valid.sum(), like)
    elif loss.reduction == "weighted_mean":
        divisor = (target if w is None else w * target).sum()
    return Rows(y, valid, on, a, divisor)


def _as_rows(xp: Any, axis: int, logits: Any, labels: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    """Bare logits (R, C), their labels (R,) or (R, C), and what gives such rows the shape of the logits or labels."""
    z = xp.moveaxis(logits, axis, -1)
    shape, C = z.shape[:-1], z.shape[-1]
    soft = labels.ndim == logits.ndim
    flat = xp.moveaxis(labels, axis, -1).reshape(-1, C) if soft else labels.reshape(-1)

    def shaped(v: Any) -> Any:
        return v.reshape(shape) if v.ndim == 1 else xp.moveaxis(v.reshape(*shape, C), -1, axis)

    return z.reshape(-1, C), flat, lambda v: shaped(v) if v.ndim else v


# -- ψ(θ) of a cosine ------------------------------------------------------------------------------


def _angle(xp: Any, c: Any) -> Any:
    """θ = arccos c; where |c| ≥ 1, of the number next to ±1, and frameworks see no derivative, as of any clamp."""
    u = float(xp.finfo(c.dtype).eps) / 2
    return xp.arccos(xp.where(xp.abs(c) < 1, c, xp.sign(c) * (1 - u)))


def _branch(xp: Any, theta: Any, m: Any) -> Any:
    """k, in the dtype of θ."""
    return xp.clip(xp.floor(m * theta / math.pi), 0, m - 1)


def _sign(k: Any) -> Any:
    """(−1)^k."""
    return 1 - 2 * (k % 2)


class Parts(NamedTuple):
    """What ψ is made of. c: cos θ, in the shape of ψ; functions of m: cos(θ + m), whether θ + m < π, cos mθ, and k."""

    c: Any
    theta: Any
    turned: Callable[[float], Any]
    before_pi: Callable[[float], Any]
    multiple: Callable[[Any], Any]
    branch: Callable[[Any], Any]


def by_arccos(ops: Any, c: Any, theta: Any = None) -> Parts:
    """Of θ = arccos c."""
    xp = ops.xp
    angle = _angle(xp, c) if theta is None else theta
    return Parts(
        c,
        angle,
        turned=lambda m: xp.cos(angle + m),
        before_pi=lambda m: angle + m < math.pi,
        multiple=lambda m: xp.cos(m * angle),
        branch=lambda m: _branch(xp, angle, m),
    )


def by_polynomial(ops: Any, c: Any) -> Parts:
    """Of c and √(1 − c²) alone: cos(θ + m) by addition, cos mθ as Chebyshev's polynomial."""
    xp = ops.xp

    def turned(m: float) -> Any:
        square = 1 - c * c
        sine = xp.sqrt(xp.where(square > 0, square, float(xp.finfo(c.dtype).tiny)))
        return c * math.cos(m) - sine * math.sin(m)

    def multiple(m: int) -> Any:
        before, value = 0 * c + 1, c
        for _ in range(1, m):
            before, value = value, 2 * c * value - before
        return value

    def branch(m: int) -> Any:
        return sum((ops.cast(c < math.cos(j * math.pi / m), c) for j in range(1, m)), 0 * c)

    return Parts(c, None, turned, lambda m: c > math.cos(math.pi - m), multiple, branch)


def psi(ops: Any, loss: Any, c: Any, way: Callable[..., Parts]) -> Any:
    """ψ of cosines, with the loss's options."""
    xp, by, m = ops.xp, way(ops, c), getattr(loss, "margin", 0.0)
    if loss.name == "am_softmax":
        value = c - m
    elif loss.name == "arcface":
        value = by.turned(m)
        if loss.past_pi == "linear":
            value = xp.where(by.before_pi(m), value, by.c - m * math.sin(m))
        value = xp.where(by.c > 0, value, by.c) if loss.easy_margin else value
    elif member_of(loss).multiplies_angle:
        k = by.branch(m)
        value = _sign(k) * by.multiple(m) - 2 * k
        if loss.annealing:
            value = (loss.annealing * c + value) / (1 + loss.annealing)
    else:
        value = loss.psi(by.theta, xp)
    return c + ops.stop(value - c) if loss.detach_margin else value


class _Polar:
    """Lengths and directions of x and W, and what makes logits of them.

    u, v      their inner product times the factor is the plain logit
    stages    of those that the loss has
    """

    def __init__(self, ops: Any, loss: Any, x: Any, W: Any) -> None:
        self.ops, self.loss, self.x_hat, self.W_hat, self.margin = ops, loss, x, W, loss.has_margin
        self.factor, p, q = radius_of(loss)
        self.feels_x, self.feels_W = bool(p), bool(q)
        self.name = factor_name(loss)
        self.stages: Stages = {}
        if self.margin or not self.feels_x:
            self.stages["x_norm"], self.x_hat = ops.length(x), ops.unit(x)
        if self.margin or not self.feels_W:
            self.stages["W_norm"], self.W_hat = ops.length(W), ops.unit(W)
        self.u, self.v = x if self.feels_x else self.x_hat, W if self.feels_W else self.W_hat

    def radius(self, y: Any) -> tuple[Any, Any]:
        """r (N,) of these classes, and r without ‖x‖."""
        rest = self.factor * self.stages["W_norm"][y] if self.feels_W else self.factor
        return (rest * self.stages["x_norm"] if self.feels_x else rest), rest


# -- differentiated by a framework -----------------------------------------------------------------


@dataclass(frozen=True)
class Differentiable:
    """The forward pass alone.

    psi     the way that ψ is formed
    half    as a writer's; "stored": the inner products are of 16 bits, so what enters them is, and float32 follows
    raw     everything from x·W_j: one product of what is stored, and lengths divided out afterwards
    stages  every stage comes back, not the loss alone
    entropy "log_softmax"; "lse": of one log Σe^z; "shifted": log Σ e^(z − z_y)
    """

    ops: Callable[[], Any]
    psi: Callable[..., Parts] = by_arccos
    half: str = "storage"
    raw: bool = False
    stages: bool = False
    entropy: str = "log_softmax"

    def __call__(self, loss: Any) -> Callable[..., Any] | None:
        no_psi = isinstance(loss, CrossEntropy) or loss.name == "margin_softmax"
        no_label = self.entropy == "shifted" and loss.label_smoothing
        if not _known(loss) or (no_psi and self.psi is not by_arccos) or no_label:
            return None
        return partial(self._bare if isinstance(loss, CrossEntropy) else self._run, self.ops(), loss)

    def _answer(self, ops: Any, loss: Any, stages: Stages, like: Any) -> Any:
        stages = {name: ops.cast(v, like) for name, v in stages.items()}
        return stages if self.stages else stages["losses" if loss.reduction == "none" else "loss"]

    def _wide(self, ops: Any, v: Any) -> Any:
        return v if v is None or self.half == "storage" else ops.wide(v)

    def _product(self, ops: Any, u: Any, v: Any, stored: Any) -> Any:
        """Inner products, of 16 bits if those are what is handed on."""
        if self.half != "stored":
            return ops.product(u, v)
        return ops.wide(ops.product(ops.cast(u, stored), ops.cast(v, stored)))

    def _bare(self, ops: Any, loss: Any, logits: Any, targets: Any) -> Any:
        z, labels, shaped = _as_rows(ops.xp, loss.axis, logits, targets)
        z = self._wide(ops, z)
        stages = self._cross_entropy(ops, loss, z, _rows(ops, loss, labels, z.shape[1], z))
        return self._answer(ops, loss, {name: shaped(v) for name, v in stages.items()}, logits)

    def _run(self, ops: Any, loss: Any, x: Any, W: Any, labels: Any, b: Any = None) -> Any:
        stored, xp = x, ops.xp
        x, W, b = (self._wide(ops, v) for v in (x, W, b))
        at, rows = _Polar(ops, loss, x, W), _rows(ops, loss, labels, len(W), x)
        if self.raw:
            along = self._product(ops, x, W, stored)
            z, cos = at.factor * along, along
            if "x_norm" in at.stages:
                cos = cos * ops.over(at.stages["x_norm"])[:, None]
                z = z if at.feels_x else at.factor * cos
            if "W_norm" in at.stages:
                over = ops.over(at.stages["W_norm"])
                z, cos = z if at.feels_W else z * over, cos * over
        else:
            z = at.factor * self._product(ops, at.u, at.v, stored)
            cos = self._product(ops, at.x_hat, at.W_hat, stored) if at.margin else None
        stages = at.stages
        if at.margin:
            c = cos[ops.cast(np.arange(len(x)), labels), rows.y]
            r, _ = at.radius(rows.y)
            z = xp.where(rows.on, (r * psi(ops, loss, c, self.psi))[:, None], z)
            stages |= {"cos_theta": cos, "theta": xp.where(rows.valid, _angle(xp, c), 0.0)}
        z = z if b is None else z + b
        stages |= {"logits": z} | self._cross_entropy(ops, loss, z, rows)
        return self._answer(ops, loss, stages, stored)

    def _cross_entropy(self, ops: Any, loss: Any, z: Any, rows: Rows) -> Stages:
        xp, some = ops.xp, rows.a != 0  # a masked class has z = log p = −inf and no target
        if self.entropy == "log_softmax":
            log_p = ops.log_softmax(z)
            losses = -xp.where(some, rows.a * log_p, 0.0).sum(-1)
        else:
            if self.entropy == "shifted":
                z = z - xp.where(rows.on, z, 0.0).sum(-1)[:, None]
            lse = ops.logsumexp(z)
            losses = rows.a.sum(-1) * lse - xp.where(some, rows.a * z, 0.0).sum(-1)
            log_p = z - lse[:, None]
        stages = {"probabilities": xp.exp(log_p), "losses": losses}
        if loss.reduction != "none":  # divided first, so that the sum stays within 16 bits
            stages["loss"] = (losses / rows.divisor).sum()
        return stages


# -- with a backward written by hand ---------------------------------------------------------------


@dataclass(frozen=True)
class Explicit:
    """Forward and backward by hand; 16 bits are computed in float32.

    block   so many classes at a time (below 1: that part of them), with an online softmax; 0: all together, and every
            stage comes back
    lse     log Σe^z is kept as one number, blocks are joined by theirs, and p = e^(z − lse)
    powers  of two in place of e: logits are multiplied by log₂ e first
    half    "stored": a gradient is stored, and then multiplied by what arrives
    """

    ops: Callable[[], Any]
    block: float = 0
    half: str = "float32"
    lse: bool = False
    powers: bool = False

    def __call__(self, loss: Any) -> Callable[..., Any] | None:
        if not _known(loss):
            return None
        return partial(self._bare if isinstance(loss, CrossEntropy) else self._run, self.ops(), loss)

    def _answer(self, ops: Any, loss: Any, stages: Stages, like: Any) -> Stages:
        few = {"losses" if loss.reduction == "none" else "loss", "grad_x", "grad_W", "grad_b"}
        few |= {"grad_logits"} if isinstance(loss, CrossEntropy) else set()
        return {name: ops.cast(v, like) for name, v in stages.items() if name in few or not self.block}

    def _bare(self, ops: Any, loss: Any, logits: Any, targets: Any, upstream: Any = 1.0) -> Stages:
        z, labels, shaped = _as_rows(ops.xp, loss.axis, logits, targets)
        z = ops.wide(z)
        rows = _rows(ops, loss, labels, z.shape[1], z)
        end = _CrossEntropy(ops, loss, lambda at: z[:, at], rows, self, logits)
        _, p, g = zip(*end.backward(upstream), strict=True)
        stages = end.stages | {"probabilities": ops.xp.concatenate(p, -1), "grad_logits": ops.xp.concatenate(g, -1)}
        return self._answer(ops, loss, {name: shaped(v) for name, v in stages.items()}, logits)

    def _run(self, ops: Any, loss: Any, x: Any, W: Any, labels: Any, b: Any = None, upstream: Any = 1.0) -> Stages:
        stored, x, W, b = x, ops.wide(x), ops.wide(W), None if b is None else ops.wide(b)
        rows = _rows(ops, loss, labels, len(W), x)
        logits = _Logits(ops, loss, x, W, b, rows)
        end = _CrossEntropy(ops, loss, logits.of, rows, self, stored)
        late = self.half == "stored" and loss.reduction != "none"
        blocks = list(end.backward(1.0 if late else upstream))
        grads = logits.backward(blocks)
        if late:
            arrives = ops.cast(upstream, x)
            grads = {name: ops.wide(ops.cast(v, stored)) * arrives for name, v in grads.items()}
            blocks = [(at, p, ops.wide(ops.cast(g, stored)) * arrives) for at, p, g in blocks]
        stages = logits.stages | end.stages | grads
        if not self.block:
            ((at, p, g),) = blocks
            stages |= {"logits": logits.of(at), "probabilities": p, "grad_logits": g}
        return self._answer(ops, loss, stages, stored)


class _CrossEntropy:
    """Σ_c a_c (log Σe^z − z_c) of logits that come in blocks of classes, and its gradient.

    logits  a slice of the classes → (N, B)
    stored  an array of the dtype that a gradient is stored in
    """

    def __init__(
        self, ops: Any, loss: Any, logits: Callable[[slice], Any], rows: Rows, way: Explicit, stored: Any
    ) -> None:
        xp, C = ops.xp, rows.a.shape[1]
        self.ops, self.rows, self.way, self.stored = ops, rows, way, stored
        self.unit = math.log2(math.e) if way.powers else 1.0
        self.exp, log = (xp.exp2, xp.log2) if way.powers else (xp.exp, xp.log)
        self.logits = (lambda at: self.unit * logits(at)) if way.powers else logits
        size = math.ceil(way.block if way.block >= 1 else way.block * C) or C
        self.blocks = [slice(i, i + size) for i in range(0, C, size)]
        self.mass = ops.total(rows.a, -1)
        self.sum = along = 0 * self.mass
        self.largest = self.lse = self.sum - math.inf
        for at in self.blocks:
            z, a = self.logits(at), rows.a[:, at]
            largest = xp.amax(z, -1) if way.lse else xp.maximum(self.largest, xp.amax(z, -1))
            base = xp.where(largest > -math.inf, largest, 0.0)  # all masked so far
            total = ops.total(self.exp(z - base[:, None]), -1)
            along = along + ops.total(xp.where(a != 0, a * z, 0.0), -1)
            if way.lse:
                self.lse = self._joined(self.lse, base + log(total), log)
            else:
                self.sum = self.sum * self.exp(self.largest - base) + total
            self.largest, self.z = largest, z
        if way.lse or way.block:
            lse = self.lse if way.lse else self.largest + log(self.sum)
            losses = (self.mass * lse - along) / self.unit
        else:
            log_p = (z - self.largest[:, None] - log(self.sum)[:, None]) / self.unit
            losses = -ops.total(xp.where(a != 0, a * log_p, 0.0), -1)
        self.stages: Stages = {"losses": losses}
        if loss.reduction != "none":
            self.stages["loss"] = ops.total(losses, -1) / rows.divisor

    def _joined(self, lse: Any, other: Any, log: Callable[[Any], Any]) -> Any:
        """log(e^lse + e^other)."""
        if len(self.blocks) == 1:
            return other
        xp = self.ops.xp
        high, low = xp.maximum(lse, other), xp.minimum(lse, other)
        base = xp.where(high > -math.inf, high, 0.0)
        return high + log(1 + self.exp(low - base))

    def backward(self, upstream: Any) -> Iterator[tuple[slice, Any, Any]]:
        """Each block with its probabilities and ∂L/∂z: upstream (p Σa − a) / divisor."""
        ops, late = self.ops, self.way.half == "stored"
        arrives = ops.cast(upstream, self.mass).reshape(-1)[:, None]
        share = (0 * arrives + 1 if late else arrives) / self.rows.divisor
        for at in self.blocks:
            z = self.logits(at) if self.way.block else self.z
            if self.way.lse:
                p = self.exp(z - self.lse[:, None])
            else:
                p = self.exp(z - self.largest[:, None]) / self.sum[:, None]
            g = share * (p * self.mass[:, None] - self.rows.a[:, at])
            yield at, p, ops.wide(ops.cast(g, self.stored)) * arrives if late else g


class _Logits(_Polar):
    """The logits of a block of classes, and back to x, W, b and the parameters by the chain rule."""

    def __init__(self, ops: Any, loss: Any, x: Any, W: Any, b: Any, rows: Rows) -> None:
        super().__init__(ops, loss, x, W)
        self.b, self.on = b, rows.on
        if self.margin:
            self.c = ops.total(self.x_hat * self.W_hat[rows.y], -1)
            self.r, self.over_x = self.radius(rows.y)
            theta = _angle(ops.xp, self.c)
            self.psi = psi(ops, loss, self.c, by_arccos)
            self.slope, self.in_margin = self._slopes(theta)
            self.stages["cos_theta"] = ops.product(self.x_hat, self.W_hat)
            self.stages["theta"] = ops.xp.where(rows.valid, theta, 0.0)

    def _slopes(self, theta: Any) -> tuple[Any, Any]:
        """(N,) dψ/dcos θ and ∂ψ/∂m."""
        loss, c, xp = self.loss, self.c, self.ops.xp
        m, zero, one = getattr(loss, "margin", 0.0), 0 * c, 0 * c + 1
        if loss.detach_margin:
            return one, zero
        if loss.name == "am_softmax":
            return one, -one
        turn = 1 / xp.sin(theta)  # −dθ/dcos θ; of the θ that was used, so that a pole has one too
        if member_of(loss).multiplies_angle:
            slope = _sign(_branch(xp, theta, m)) * m * xp.sin(m * theta) * turn
            return (loss.annealing + slope) / (1 + loss.annealing), zero
        if loss.name != "arcface":
            return -turn * loss.dpsi(theta, xp), zero
        slope, in_margin = turn * xp.sin(theta + m), -xp.sin(theta + m)
        if loss.past_pi == "linear":
            before = theta + m < math.pi
            slope = xp.where(before, slope, one)
            in_margin = xp.where(before, in_margin, -(math.sin(m) + m * math.cos(m)))
        if loss.easy_margin:
            slope, in_margin = xp.where(c > 0, slope, one), xp.where(c > 0, in_margin, zero)
        return slope, in_margin

    def of(self, at: slice) -> Any:
        """(N, B)"""
        z = self.factor * self.ops.product(self.u, self.v[at])
        if self.margin:
            z = self.ops.xp.where(self.on[:, at], (self.r * self.psi)[:, None], z)
        return z if self.b is None else z + self.b[at]

    def backward(self, blocks: list[tuple[slice, Any, Any]]) -> Stages:
        """The gradients of Σ g z, from g (N, B) of each block."""
        ops, xp = self.ops, self.ops.xp
        # what arrives at u, x̂, the target logits and the factor
        to_u, to_x_hat, g_y, to_factor = 0 * self.u, 0 * self.x_hat, 0 * self.u[:, 0], 0.0
        parts, norms = [], self.stages
        for at, _, g in blocks:
            to_W_hat = radial = None
            others = g
            if self.margin:
                own, others = xp.where(self.on[:, at], g, 0.0), xp.where(self.on[:, at], 0.0, g)
                g_y = g_y + ops.total(own, -1)
                turning = own * (self.r * self.slope)[:, None]  # ∂L/∂cos θ_y
                to_x_hat = to_x_hat + ops.product(turning, self.W_hat[at].T)
                to_W_hat = ops.product(turning.T, self.x_hat.T)
                if self.feels_W:
                    radial = ops.total(own * (self.factor * norms["x_norm"] * self.psi)[:, None], 0)
            to_u = to_u + self.factor * ops.product(others, self.v[at].T)
            to_v = self.factor * ops.product(others.T, self.u.T)
            to_factor = to_factor + ops.total((others * ops.product(self.u, self.v[at])).reshape(-1), -1)
            length = norms["W_norm"][at] if "W_norm" in norms else None
            grad_W = self._back(self.feels_W, to_v, to_W_hat, radial, self.W_hat[at], length)
            parts.append((grad_W, ops.total(g, 0)))
        radial = g_y * self.over_x * self.psi if self.margin and self.feels_x else None
        to_x_hat = to_x_hat if self.margin else None
        grad_W, grad_b = (xp.concatenate(blocks) for blocks in zip(*parts, strict=True))
        x_norm = norms.get("x_norm")
        grads = {"grad_x": self._back(self.feels_x, to_u, to_x_hat, radial, self.x_hat, x_norm), "grad_W": grad_W}
        if self.b is not None:
            grads["grad_b"] = grad_b
        if self.name:
            grads[f"grad_{self.name}"] = to_factor + (ops.total(g_y * self.psi, -1) if self.margin else 0.0)
        if isinstance(getattr(self.loss, "margin", None), float):
            grads["grad_margin"] = ops.total(g_y * self.r * self.in_margin, -1)
        return grads

    def _back(self, feels: bool, plain: Any, to_hat: Any, radial: Any, hat: Any, length: Any) -> Any:
        """∂L/∂v of what arrives at v (or at v̂, unless the plain logits feel ‖v‖), at v̂ and at ‖v‖."""
        if feels and to_hat is None:
            return plain
        whole = to_hat if feels else plain if to_hat is None else plain + to_hat
        across = whole - self.ops.total(whole * hat, -1)[:, None] * hat
        grad = across * self.ops.over(length)[:, None]
        grad = plain + grad if feels else grad
        return grad if radial is None else grad + radial[:, None] * hat


# -- orders of summation ---------------------------------------------------------------------------


_ORDERS = np.random.default_rng(0)


def _shuffled_product(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _shuffled_total(u[:, None] * v, -1)


def _shuffled_total(v: np.ndarray, axis: int) -> np.ndarray:
    """Term by term, in an order that changes from call to call."""
    if not v.shape[axis]:
        return v.sum(axis)
    return np.take(np.add.accumulate(np.take(v, _ORDERS.permutation(v.shape[axis]), axis), axis), -1, axis)


def _halved_product(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Eight chunks, added in pairs."""
    chunks = np.array_split(np.arange(u.shape[1]), 8)
    return _halved_total(np.stack([u[:, k] @ v[:, k].T for k in chunks]), 0)


def _halved_total(v: np.ndarray, axis: int) -> np.ndarray:
    v = np.moveaxis(v, axis, 0)
    if not len(v):
        return v.sum(0)
    while len(v) > 1:
        half = len(v) // 2
        v = np.concatenate([v[:half] + v[half : 2 * half], v[2 * half :]])
    return v[0]


# -- all of them -----------------------------------------------------------------------------------

_IN_ORDER = partial(_NumPy, lambda u, v: u @ v.T, np.sum)
_HALVED = partial(_NumPy, _halved_product, _halved_total)
_SHUFFLED = partial(_NumPy, _shuffled_product, _shuffled_total)

_WAYS: dict[str, tuple[Any, str]] = {
    "torch_arccos": (Differentiable(_Torch), "eager torch, arccos of a clamped cosine, autograd"),
    "torch_sqrt": (Differentiable(_Torch, by_polynomial), "eager torch, √(1 − cos²), Chebyshev's polynomials"),
    "torch_float32": (Differentiable(_Torch, half="float32"), "torch_arccos; 16 bits cast to float32, and back after"),
    "torch_backward": (Explicit(_Torch), "torch, every stage, backward by hand"),
    "torch_stages": (Differentiable(_Torch, stages=True), "torch_arccos with every stage"),
    "jax_arccos": (Differentiable(_JAX), "JAX, arccos of a clamped cosine"),
    "jax_sqrt": (Differentiable(_JAX, by_polynomial, "float32"), "JAX, √(1 − cos²), Chebyshev's polynomials"),
    "numpy_textbook": (Explicit(_IN_ORDER), "NumPy, every stage, backward by hand"),
    "numpy_online": (Explicit(_IN_ORDER, block=64), "NumPy, blocks of 64 classes and an online softmax"),
    "numpy_shuffled": (Explicit(_SHUFFLED), "numpy_textbook with every sum term by term, in a new order every time"),
    "numpy_pairwise": (Explicit(_HALVED), "numpy_textbook with sums by halves, and matrix products in eight chunks"),
    "torch_lse": (
        Differentiable(_Torch, half="float32", raw=True, entropy="lse"),
        "torch, logsumexp less the target's logit, lengths divided out after the product",
    ),
    "torch_shifted": (
        Differentiable(_Torch, half="float32", entropy="shifted"),
        "torch, logsumexp of the logits less the target's",
    ),
    "torch_head": (
        Differentiable(_Torch, half="stored"),
        "cross_entropy((x @ W.T).float(), y), and its like for cosines: products of 16 bits, float32 after them",
    ),
    "torch_head_raw": (
        Differentiable(_Torch, by_polynomial, "stored", raw=True, entropy="lse"),
        "x @ W.T in 16 bits, lengths divided out in float32 after it, logsumexp",
    ),
    "numpy_lse": (Explicit(_IN_ORDER, lse=True), "numpy_textbook with one rounded log Σe^z, and p = e^(z − lse)"),
    "numpy_joined": (
        Explicit(_SHUFFLED, block=1 / 3, lse=True),
        "three blocks of classes joined by their log-sum-exps, sums in a new order every time",
    ),
    "numpy_powers": (Explicit(_IN_ORDER, lse=True, powers=True), "numpy_lse with 2^z and log₂"),
    "numpy_powers_online": (Explicit(_IN_ORDER, block=1 / 4, powers=True), "four blocks, an online softmax, 2^z, log₂"),
    "numpy_stored": (
        Explicit(_SHUFFLED, half="stored"),
        "every gradient stored in 16 bits, then multiplied by what arrives; sums in a new order every time",
    ),
    "mixed": (
        Differentiable(_Torch, by_polynomial, "float32", raw=True),
        "torch, one product of x and W as stored, accumulated in float32, and everything after it in float32",
    ),
}
WRITERS: dict[str, Writer] = {
    name: Writer(name, words, "torch" if name == "mixed" else name.split("_")[0], make, make.half)
    for name, (make, words) in _WAYS.items()
}
