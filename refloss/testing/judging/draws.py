"""The textbook form of one case in perturbed arithmetic, many times over: what a formula errs by in a dtype."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import numpy as np

from refloss.precision.dtypes import DType
from refloss.testing.judging import units
from refloss.testing.judging.perturbed import (
    Noise,
    Noisy,
    gradients,
    namespace,
    stable_angle,
    stable_cross_entropy,
    variable,
)
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook import formulas
from refloss.textbook.family import differentiable, parameters

DRAWS, LOSSY = 16, 2
FACTOR = 4.0  # of the largest draw
FLOOR = 2.0  # roundings of the natural scale
FAR = 8.0  # times the draws' width: no rounding moves all of them that far to one side


class Form(NamedTuple):
    """One way that people write the formula.

    stable         θ without the arccosine, and a cross-entropy in terms that do not cancel
    divides_after  lengths are divided out after the inner product
    keeps_lse      log Σe^z is kept as one rounded number, and p = e^(z − lse), z being computed anew on the way
                   back; so do blocks joined by such numbers, and powers of two in place of e
    shifts         the loss is log Σ e^(z − z_y), and the gradient goes through the difference
    """

    stable: bool
    divides_after: bool
    keeps_lse: bool
    shifts: bool = False

    def fits(self, plain: PlainLoss) -> bool:
        """Whether the loss has this form, and it differs from those before: only what is normalised has a length to
        divide by, only a label has a logit of its own."""
        if self.shifts:
            return plain.hard
        return not (self.stable and self.divides_after) or not (plain.bare or (plain.p_x and plain.p_W))


STABLE = (Form(True, False, False), Form(True, True, False))
TEXTBOOK = (Form(False, False, False), Form(False, True, True), Form(False, True, True, shifts=True))

Copies = dict[str, np.ndarray]  # every stage, one copy per draw
Known = dict[tuple, Any]  # what forms have in common, made once


def draw(
    plain: PlainLoss, forms: Sequence[Form], dtype: DType, storage: DType | None = None, known: Known | None = None
) -> list[Copies]:
    """The draws of each form in the dtype; storage: what stands between two steps is stored in this one."""
    known = {} if known is None else known
    inputs = [plain.logits_given] if plain.bare else [plain.x, plain.W]
    seed = zlib.crc32(b"".join(np.ascontiguousarray(v).tobytes() for v in inputs))
    found = []
    with np.errstate(all="ignore"):
        for form in (form for form in forms if form.fits(plain)):
            noise = Noise(
                dtype, DRAWS, seed, LOSSY, divides_after=form.divides_after, keeps_lse=form.keeps_lse, storage=storage
            )
            found.append(Draws(plain, noise, form, known).stages())
    return found


class Envelope(NamedTuple):
    """What a formula may err by, stage by stage, in each unit.

    largest  of the error
    least    what part of the due size must come out at least; 0 where a formula may lose all of it, or its sign
    losing   of gradients by row: the direction of what the lossy draws lose, 0 where roundings lose as much
    far      how far an error may go that way: a clamp loses a gradient, and does not turn it around
    """

    largest: dict[str, np.ndarray]
    least: dict[str, np.ndarray]
    losing: dict[str, np.ndarray]
    far: dict[str, np.ndarray]

    def __or__(self, other: Envelope) -> Envelope:
        """What either allows."""
        losing, far = {}, {}
        for name, way in self.losing.items():
            farthest = [np.where(e.losing[name].any(axis=-1), e.far[name], e.largest[name]) for e in (self, other)]
            losing[name] = np.where(way.any(axis=-1, keepdims=True), way, other.losing[name])
            far[name] = np.maximum(*farthest)
        return Envelope(
            {name: np.maximum(size, other.largest[name]) for name, size in self.largest.items()},
            {name: np.minimum(part, other.least[name]) for name, part in self.least.items()},
            losing,
            far,
        )


def envelope_of(
    forms: Sequence[Copies], stages: Mapping[str, np.ndarray], scale: Mapping[str, np.ndarray], dtype: DType
) -> Envelope:
    """The hull over the forms of FACTOR × the largest error of their draws, at least FLOOR roundings of the natural
    scale.

    What the lossy draws lose is lost once, not four times over. Where all draws keep the sign and err by less than
    what is due, they err by a factor: FACTOR times its logarithm is what may be lost, whatever sum that makes.
    """
    return reduce(or_, (_envelope_of_one(copies, stages, scale, dtype) for copies in forms))


def _envelope_of_one(
    copies: Copies, stages: Mapping[str, np.ndarray], scale: Mapping[str, np.ndarray], dtype: DType
) -> Envelope:
    found = Envelope({}, {}, {}, {})
    with np.errstate(all="ignore"):
        for name, due in stages.items():
            error = units.size(name, copies[name] - due)
            error = np.where(np.isnan(error), np.inf, error)
            worst, lossy = error[:DRAWS].max(axis=0), error[DRAWS:].max(axis=0)
            tiny = dtype.smallest_subnormal * (np.asarray(scale[name]) > 0)
            furthest = np.maximum(FACTOR * worst, worst + lossy)
            widest = np.maximum(furthest, FLOOR * dtype.u * scale[name] + tiny)
            found.largest[name] = np.where(np.isnan(units.size(name, due)), 0.0, widest)  # NaN is due, and nothing else
            smallest = np.min(units.times(name, copies[name], due), axis=0)
            by_a_factor = (smallest > 0) & (error.max(axis=0) < units.size(name, due))
            by_a_factor &= name not in ("loss", "losses")  # the roundings of lse and z_y add up
            found.least[name] = np.where(by_a_factor, np.minimum(smallest, 1 / np.e**0.25) ** FACTOR, 0.0)
            if name in units.ROWWISE:
                lost = copies[name][DRAWS:].mean(axis=0) - due
                way = lost / np.linalg.norm(lost, axis=-1, keepdims=True)
                way = np.where((lossy > worst)[:, None] & np.isfinite(way), way, 0.0)
                along = np.sum((copies[name] - due) * way, axis=-1)
                off, gone = np.maximum(along[:DRAWS].max(axis=0), 0.0), along[DRAWS:].max(axis=0)
                least = FLOOR * dtype.u * scale[name] + tiny
                found.losing[name], found.far[name] = way, np.maximum(FACTOR * off, off + gone) + least
    return found


def unexplained(
    copies: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray], scale: Mapping[str, np.ndarray], dtype: DType
) -> tuple[str, ...]:
    """The stages with an entry that lies many times farther from the middle of the draws than these lie apart."""
    found = []
    with np.errstate(all="ignore"):
        for name, due in stages.items():
            lowest, highest = copies[name].min(axis=0), copies[name].max(axis=0)
            outside = ~((lowest <= due) & (due <= highest))
            if not outside.any():
                continue
            width = highest - lowest
            size = units.spread(name, scale[name])
            # among very many entries a few have all their draws on one side
            relative = (width / size)[np.isfinite(width) & (size > 0)]
            width = np.maximum(width, size * (np.median(relative) if relative.size else 0.0))[outside]
            size = np.broadcast_to(size, outside.shape)[outside]
            off = np.abs(np.median(copies[name][:, outside], axis=0) - due[outside])
            if (np.isfinite(width) & (off > FAR * (width + FLOOR * dtype.u * size) + dtype.smallest_normal)).any():
                found.append(name)
    return tuple(found)


class Draws:
    """The textbook form of one case in perturbed arithmetic: every stage, one copy per draw.

    known  logits, cosines and lengths of this case in forms that do not differ in them
    """

    def __init__(self, plain: PlainLoss, noise: Noise, form: Form, known: Known) -> None:
        self.plain, self.noise, self.form, self.known = plain, noise, form, known
        self.rows = np.flatnonzero(plain.valid)
        self.y = plain.target[self.rows]
        # smoothing and weights are numbers that the dtype rounds too; 0 and 1 it holds
        t = plain.smoothed()[self.rows]
        self.t = np.where(np.isin(t, (0.0, 1.0)), t, noise.of(np.broadcast_to(t, (noise.draws, *t.shape))))
        self.w = np.where(plain.w == 1, 1.0, noise.of(np.broadcast_to(plain.w, (noise.draws, 1, plain.C))))
        divisor = plain.divisor() or 1.0
        self.divisor = np.full(noise.draws, divisor) if divisor == 1 else noise.of(np.full(noise.draws, divisor))
        arrives = np.broadcast_to(np.reshape(plain.upstream, -1), plain.valid.shape)[self.rows]
        share = plain.share()[self.rows]
        self.arrives = np.ones(len(share))
        if noise.storage is not None:  # what is stored is multiplied by what arrives afterwards
            self.arrives = arrives
            share = np.divide(share, arrives, out=np.zeros(len(share)), where=arrives != 0)
        share = share * np.ones((noise.draws, 1))
        self.share = share if divisor == 1 else noise.of(share, None, 2)

    def stages(self) -> dict[str, np.ndarray]:
        found = self._bare() if self.plain.bare else self._with_x_and_W()
        return {name: np.asarray(value) for name, value in found.items()}

    def _cross_entropy(self, z: Noisy, anew: np.ndarray | None = None) -> Noisy:
        """The losses (K, R). anew: the logits as the way back finds them, if they were not kept."""
        noise = self.noise
        if noise.storage is not None:  # the gradient is stored, then multiplied by what arrives, and stored again
            z = z.made(z.value, (z, lambda g: noise.stored(noise.stored(g) * self.arrives[:, None])))
        if self.form.stable:
            return stable_cross_entropy(z, self.t, self.w)
        z.anew = anew
        if self.form.shifts:
            z = z - self._of_target(z)[..., None]
        return formulas.cross_entropy(namespace(noise), z, self.t, self.w)

    def _of_target(self, z: Noisy) -> Noisy:
        """z_y (K, R)."""
        at = np.arange(len(self.rows)), self.plain.y[self.rows]

        def back(g: np.ndarray) -> np.ndarray:
            whole = np.zeros(z.shape)
            whole[:, *at] = g
            return whole

        return z.made(z.value[:, *at], (z, back))

    def _handed_out(self, gradient: np.ndarray) -> np.ndarray:
        """A gradient that is stored before it is multiplied by the scalar that arrives."""
        arrives = self.plain.upstream
        if self.noise.storage is None or self.plain.reduction == "none" or arrives == 0:
            return gradient
        return self.noise.stored(gradient / arrives) * arrives

    def _softmax(self, z: np.ndarray) -> np.ndarray:
        of = self.noise.of
        e = of(np.exp(of(z - z.max(axis=-1, keepdims=True))))
        s = of(e.sum(-1, keepdims=True), None, e.shape[-1])
        if not self.noise.keeps_lse:
            return of(e / s)
        lse = of(of(np.log(s)) + z.max(axis=-1, keepdims=True))
        return of(np.exp(of(z - lse)))

    def _reduced(self, losses: np.ndarray) -> np.ndarray:
        if self.plain.reduction == "none":
            return losses
        # rows that are alike are rounded alike, and no mean makes that less
        due, losses = np.reshape(self.plain.stages["losses"], -1), losses.copy()
        for draw, sign in enumerate((1.0, -1.0)):
            losses[draw] = due + sign * np.abs(losses[draw] - due)
        total = self.noise.of(losses.sum(-1), np.abs(losses).sum(-1), losses.shape[-1])
        return total if (self.divisor == 1).all() else self.noise.of(total / self.divisor)

    def _full(self, value: np.ndarray) -> np.ndarray:
        """(K, R, …) → (K, N, …), 0 on ignored rows."""
        full = np.zeros((self.noise.draws, self.plain.N, *value.shape[2:]))
        full[:, self.rows] = value
        return full

    def _bare(self) -> dict[str, np.ndarray]:
        k = self.plain
        lowest = -1e300 if self.noise.dtype.largest > 1e300 else -self.noise.dtype.largest / 8
        z = np.where(np.isneginf(k.z), lowest, k.z)
        leaf = variable(z[self.rows], self.noise)
        losses = self._cross_entropy(leaf)
        (g,) = gradients(losses, self.share, [leaf])
        full = self._full(losses.value)
        every = np.broadcast_to(k.z, (self.noise.draws, *k.z.shape))
        found = {
            "logits": every,
            "probabilities": self._softmax(np.where(np.isneginf(every), lowest, every)),
            "losses": full,
            "loss": self._reduced(full),
            "grad_logits": self._full(g),
        }
        return {name: self._bare_shape(value) for name, value in found.items()}

    def _bare_shape(self, value: np.ndarray) -> np.ndarray:
        k, draws = self.plain, self.noise.draws
        if value.ndim == 3:
            axis = k.axis % len(k.shape)
            return np.moveaxis(value.reshape(draws, *k.shape), -1, axis + 1)
        return value.reshape(draws, *k.shape[:-1]) if value.ndim == 2 else value

    def _with_x_and_W(self) -> dict[str, np.ndarray]:
        k, noise, rows = self.plain, self.noise, self.rows
        leaves, z, theta, anew = self._once(self._leaves_and_logits, self.form.stable, noise.keeps_lse)
        losses = self._cross_entropy(z, anew)
        names = list(leaves)
        g, *found = gradients(losses, self.share, [z, *leaves.values()])
        full = self._full(losses.value)
        every = z.value
        if len(rows) < k.N:
            every = np.empty((noise.draws, k.N, k.C))
            every[:, rows] = z.value
            ignored = np.flatnonzero(~k.valid)
            every[:, ignored] = self._without_margin(ignored)
        cos, x_norm, W_norm = self._once(self._cosines_and_lengths)
        stages = {
            "x_norm": x_norm,
            "W_norm": W_norm,
            "cos_theta": cos,
            "logits": every,
            "probabilities": self._softmax(every),
            "losses": full,
            "loss": self._reduced(full),
            "grad_logits": self._full(g),
        }
        if theta is not None:
            stages["theta"] = self._full(theta)
        for name, gradient in zip(names, map(self._handed_out, found), strict=True):
            stages[f"grad_{name}"] = self._full(gradient) if name == "x" else gradient
        return stages

    def _once(self, make: Callable[[], Any], *differs: bool) -> Any:
        """What `make` gives, once for all forms of this arithmetic that do not differ in `differs`."""
        same = make.__name__, self.noise.dtype, self.noise.storage, self.noise.divides_after, *differs
        if same not in self.known:
            self.known[same] = make()
        return self.known[same]

    def _leaves_and_logits(self) -> tuple[dict[str, Noisy], Noisy, np.ndarray | None, np.ndarray | None]:
        """The inputs by name, z of the valid rows, the target's angle, and z as a fused kernel finds it again."""
        k, noise = self.plain, self.noise
        leaves = {"x": variable(k.x[self.rows], noise), "W": variable(k.W, noise)}
        if k.b is not None:
            leaves["b"] = variable(k.b, noise)
        for name in differentiable(k.loss):
            leaves[name] = Noisy(noise.of(np.full(noise.draws, getattr(k.loss, name))), noise)
        z, theta = self._logits(leaves)
        # only fused kernels compute logits twice, and these never hold them in 16 bits
        fused = noise.keeps_lse and noise.storage is None and not noise.dtype.is_half
        return leaves, z, theta, self._logits(leaves)[0].value if fused else None

    def _zero(self, rows: Any) -> dict[str, Any]:
        k = self.plain
        return {"zero_x": ~k.x[rows].any(axis=1), "zero_W": ~k.W.any(axis=1)}

    def _logits(self, leaves: dict[str, Noisy]) -> tuple[Noisy, np.ndarray | None]:
        """z (K, R, C) of the valid rows, and the target's angle (K, R)."""
        k, noise = self.plain, self.noise
        zero = self._zero(self.rows)
        q = parameters(k.loss, **zero, **{name: leaves[name] for name in differentiable(k.loss)})
        x, W = leaves["x"], leaves["W"]
        xp = namespace(noise)
        if k.loss.has_margin:
            y = self.y.argmax(axis=1)
            some = zero["zero_x"] | zero["zero_W"][y]
            if self.form.stable and not some.any():
                xp = namespace(noise, arccos=lambda c: stable_angle(x, W, y))
            if q.detach_margin:
                q.frozen = Noisy(formulas.frozen_offset(xp, q, x, W, self.y).value, noise)  # a constant
        of_cosine, angles = xp.arccos, []

        def kept(cosine: Noisy) -> Noisy:
            angles.append(of_cosine(cosine))
            return angles[-1]

        xp.arccos = kept
        z = q.logits(xp, q, x, W, leaves.get("b"), self.y).stored()
        return z, angles[0].value if angles else None

    def _cosines_and_lengths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """cos θ (K, N, C), ‖x‖ (K, N), ‖W‖ (K, C); no derivative."""
        k, noise = self.plain, self.noise
        xp, zero = namespace(noise), self._zero(slice(None))
        x, W = variable(k.x, noise), variable(k.W, noise)
        cos = formulas.inner(xp, formulas.unit(xp, x, zero["zero_x"]), formulas.unit(xp, W, zero["zero_W"])).value
        return cos, formulas.norm(xp, x).value, formulas.norm(xp, W).value

    def _without_margin(self, rows: np.ndarray) -> np.ndarray:
        """Logits (K, R, C) of ignored rows; no derivative."""
        k, noise = self.plain, self.noise
        q = parameters(k.loss, **self._zero(rows))
        q.detach_margin, q.frozen = True, 0  # z_y = r cos θ_y, whichever class y is
        y = np.zeros((len(rows), k.C))
        y[:, 0] = 1.0
        b = None if k.b is None else variable(k.b, noise)
        return q.logits(namespace(noise), q, variable(k.x[rows], noise), variable(k.W, noise), b, y).stored().value
