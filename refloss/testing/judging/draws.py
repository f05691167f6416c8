"""The textbook form of one case in perturbed arithmetic, many times over: what a formula errs by in a dtype."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

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
STABLE, TEXTBOOK = "stable", "textbook"


def draw(plain: PlainLoss, dtype: DType, way: str) -> dict[str, np.ndarray]:
    """Every stage, one copy per draw."""
    inputs = [plain.logits_given] if plain.bare else [plain.x, plain.W]
    seed = zlib.crc32(b"".join(np.ascontiguousarray(v).tobytes() for v in inputs))
    with np.errstate(all="ignore"):
        return Draws(plain, Noise(dtype, DRAWS, seed, LOSSY), way).stages()


def envelope_of(
    copies: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray], scale: Mapping[str, np.ndarray], dtype: DType
) -> dict[str, np.ndarray]:
    """name → FACTOR × the largest error of the draws, and at least FLOOR roundings of the natural scale.

    What the lossy draws lose is lost once, not four times over.
    """
    envelope = {}
    with np.errstate(all="ignore"):
        for name, due in stages.items():
            error = np.stack([units.size(name, copy - due) for copy in copies[name]])
            error = np.where(np.isnan(error), np.inf, error)
            worst, lossy = error[:DRAWS].max(axis=0), error[DRAWS:].max(axis=0)
            least = dtype.smallest_subnormal * (np.asarray(scale[name]) > 0)
            furthest = np.maximum(FACTOR * worst, worst + lossy)
            widest = np.maximum(furthest, FLOOR * dtype.u * scale[name] + least)
            envelope[name] = np.where(np.isnan(units.size(name, due)), 0.0, widest)  # NaN is due, and nothing else
    return envelope


def unexplained(
    copies: Mapping[str, np.ndarray], stages: Mapping[str, np.ndarray], scale: Mapping[str, np.ndarray], dtype: DType
) -> tuple[str, ...]:
    """The stages with an entry that lies many times farther from the middle of the draws than these lie apart."""
    found = []
    with np.errstate(all="ignore"):
        for name, due in stages.items():
            width = np.ptp(copies[name], axis=0)
            size = units.spread(name, scale[name])
            # among very many entries a few have all their draws on one side
            relative = (width / size)[np.isfinite(width) & (size > 0)]
            width = np.maximum(width, size * (np.median(relative) if relative.size else 0.0))
            off = np.abs(np.median(copies[name], axis=0) - due)
            if (np.isfinite(width) & (off > FAR * (width + FLOOR * dtype.u * size) + dtype.smallest_normal)).any():
                found.append(name)
    return tuple(found)


class Draws:
    """The textbook form of one case in perturbed arithmetic: every stage, one copy per draw."""

    def __init__(self, plain: PlainLoss, noise: Noise, way: str) -> None:
        self.plain, self.noise, self.way = plain, noise, way
        self.rows = np.flatnonzero(plain.valid)
        self.y = plain.target[self.rows]
        # smoothing and weights are numbers that the dtype rounds too; 0 and 1 it holds
        t = plain.smoothed()[self.rows]
        self.t = np.where(np.isin(t, (0.0, 1.0)), t, noise.of(np.broadcast_to(t, (noise.draws, *t.shape))))
        self.w = np.where(plain.w == 1, 1.0, noise.of(np.broadcast_to(plain.w, (noise.draws, 1, plain.C))))
        divisor = plain.divisor() or 1.0
        self.divisor = np.full(noise.draws, divisor) if divisor == 1 else noise.of(np.full(noise.draws, divisor))
        share = plain.share()[self.rows] * np.ones((noise.draws, 1))
        self.share = share if divisor == 1 else noise.of(share, None, 2)

    def stages(self) -> dict[str, np.ndarray]:
        found = self._bare() if self.plain.bare else self._with_x_and_W()
        return {name: np.asarray(value) for name, value in found.items()}

    def _cross_entropy(self, z: Noisy) -> tuple[Noisy, np.ndarray]:
        """(losses (K, R), probabilities (K, R, C))."""
        xp = namespace(self.noise)
        losses = (
            stable_cross_entropy(z, self.t, self.w)
            if self.way == STABLE
            else formulas.cross_entropy(xp, z, self.t, self.w)
        )
        return losses, self._softmax(z.value)

    def _softmax(self, z: np.ndarray) -> np.ndarray:
        of = self.noise.of
        e = of(np.exp(of(z - z.max(axis=-1, keepdims=True))))
        s = of(e.sum(-1, keepdims=True), None, e.shape[-1])
        if self.way == STABLE:
            return of(e / s)
        # e^{z − log Σe^z}: its exponent is rounded
        lse = of(of(np.log(s)) + z.max(axis=-1, keepdims=True))
        return of(np.exp(of(z - lse)))

    def _reduced(self, losses: np.ndarray) -> np.ndarray:
        if self.plain.reduction == "none":
            return losses
        total = self.noise.of(losses.sum(-1), np.abs(losses).sum(-1), losses.shape[-1])
        return total if (self.divisor == 1).all() else self.noise.of(total / self.divisor)

    def _full(self, value: np.ndarray) -> np.ndarray:
        """(K, R, …) → (K, N, …), 0 on ignored rows."""
        full = np.zeros((self.noise.draws, self.plain.N, *value.shape[2:]))
        full[:, self.rows] = value
        return full

    def _bare(self) -> dict[str, np.ndarray]:
        k = self.plain
        lowest = -1e300 if self.noise.largest > 1e300 else -self.noise.largest / 8
        z = np.where(np.isneginf(k.z), lowest, k.z)
        leaf = variable(z[self.rows], self.noise)
        losses, _ = self._cross_entropy(leaf)
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
        leaves = {"x": variable(k.x[rows], noise), "W": variable(k.W, noise)}
        if k.b is not None:
            leaves["b"] = variable(k.b, noise)
        for name in differentiable(k.loss):
            leaves[name] = Noisy(noise.of(np.full(noise.draws, getattr(k.loss, name))), noise)
        z, theta = self._logits(leaves)
        losses, _ = self._cross_entropy(z)
        names = list(leaves)
        g, *found = gradients(losses, self.share, [z, *leaves.values()])
        full = self._full(losses.value)
        every, cos, x_norm, W_norm = self._geometry()
        every[:, rows] = z.value
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
        for name, gradient in zip(names, found, strict=True):
            stages[f"grad_{name}"] = self._full(gradient) if name == "x" else gradient
        return stages

    def _zero(self, rows: Any) -> dict[str, Any]:
        k = self.plain
        return {"zero_x": ~k.x[rows].any(axis=1), "zero_W": ~k.W.any(axis=1)}

    def _logits(self, leaves: dict[str, Noisy]) -> tuple[Noisy, np.ndarray | None]:
        """z (K, R, C) of the valid rows, and the target's angle (K, R)."""
        k, noise = self.plain, self.noise
        zero = self._zero(self.rows)
        q = parameters(k.loss, **zero, **{name: leaves[name] for name in differentiable(k.loss)})
        x, W = leaves["x"], leaves["W"]
        xp, theta = namespace(noise), None
        if k.loss.has_margin:
            y = self.y.argmax(axis=1)
            some = zero["zero_x"] | zero["zero_W"][y]
            if self.way == STABLE and not some.any():
                xp = namespace(noise, arccos=lambda c: stable_angle(x, W, y))
            if q.detach_margin:
                q.frozen = Noisy(formulas.frozen_offset(xp, q, x, W, self.y).value, noise)  # a constant
            theta = formulas.theta(xp, q, x, W, self.y).value
        return q.logits(xp, q, x, W, leaves.get("b"), self.y), theta

    def _geometry(self) -> tuple[np.ndarray, ...]:
        """Logits of every row as if it were ignored (no margin), cosines and lengths; no derivative."""
        k, noise, rows = self.plain, self.noise, np.arange(self.plain.N)
        xp, zero = namespace(noise), self._zero(slice(None))
        x, W = variable(k.x, noise), variable(k.W, noise)
        cos = formulas.inner(xp, formulas.unit(xp, x, zero["zero_x"]), formulas.unit(xp, W, zero["zero_W"])).value
        q = parameters(k.loss, **zero)
        q.detach_margin, q.frozen = True, 0  # z_y = r cos θ_y, whichever class y is
        y = np.zeros((k.N, k.C))
        y[:, 0] = 1.0
        b = None if k.b is None else variable(k.b, noise)
        z = q.logits(xp, q, x, W, b, y).value
        return z[:, rows].copy(), cos, formulas.norm(xp, x).value, formulas.norm(xp, W).value
