"""How far an honest implementation in a dtype may stray from the truth: derived, never chosen.

The truth is refloss's own pass in float64 at the inputs as the dtype holds them. Around it stand nested envelopes, one
a grade:

    A   one unit in the last place of the output's dtype, and the reference's own bound
    B   that, and what a stable formula errs by in the compute dtype
    C   that, and what the textbook formula errs by in the compute dtype
    D   that, and what the textbook formula errs by in the storage dtype throughout

What a formula errs by is four times the largest of 16 draws of the `perturbed` witness, and never less than two
roundings of the natural scale (the terms before they cancel). Two more draws lose the gradient where cos θ is clamped,
which counts once. grad_x and grad_W are judged row by row in the Euclidean norm, everything else entry by entry.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy
from refloss.precision.dtypes import DTYPES, DType, rounded, ulp
from refloss.testing.judging.perturbed import (
    Noise,
    Noisy,
    gradients,
    namespace,
    stable_angle,
    stable_cross_entropy,
    variable,
)
from refloss.testing.plain_loss import Kernel, inverse
from refloss.textbook import formulas
from refloss.textbook.family import differentiable, parameters
from refloss.textbook.rows import row_norm

GRADES = "ABCD"  # and F
DRAWS, LOSSY = 16, 2
FACTOR = 4.0  # of the largest draw
FLOOR = 2.0  # roundings of the natural scale
ODDS = 8.0  # times the draws' width: no honest rounding moves all of them that far to one side
ROWWISE = ("grad_x", "grad_W")
STABLE, TEXTBOOK = "stable", "textbook"


@dataclass
class Truth:
    """What is due on one case, and how far off each grade may be.

    stages     name → float64, the reference's
    bound      name → what the reference itself may be off by, entry by entry
    envelope   grade → name → what a formula may err by: per row for grad_x and grad_W, else per entry; inf where the
               formula itself overflows in that dtype
    scale      name → the natural scale, shaped likewise
    at_odds    the stages where the reference lies far outside all draws of the stable form: it is not to be trusted
    cone       name → (rows,) how long a part across the row is accepted besides: at x ∥ W_y the loss has no gradient
    kernel     the plain kernel on this case, and plain, its stages: for wrong copies
    """

    loss: Any
    dtype: DType
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    upstream: Any
    out: Any
    grads: Any
    stages: dict[str, np.ndarray]
    bound: dict[str, np.ndarray]
    envelope: dict[str, dict[str, np.ndarray]]
    scale: dict[str, np.ndarray]
    kernel: Kernel
    plain: dict[str, np.ndarray]
    slack: float = 1.0
    cone: dict[str, np.ndarray] = field(default_factory=dict)
    at_odds: tuple[str, ...] = ()

    def as_wrong(self, stage: str, made: np.ndarray) -> np.ndarray:
        """A wrong copy that the plain kernel made, rounded to the dtype, without the plain kernel's own rounding."""
        due, plain = self.stages[stage], self.plain.get(stage)
        if plain is None or np.shape(made) != np.shape(due):
            return rounded(made, self.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            made = np.where(made == plain, due, np.where(np.isfinite(made), due + (made - plain), made))
        return rounded(made, self.dtype)

    # -- judging -----------------------------------------------------------------------------------

    def excess(self, stage: str, got: np.ndarray) -> np.ndarray:
        """What of the error grade A does not explain: (rows,) for grad_x and grad_W, else per entry."""
        due = self.stages[stage]
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(got - due)
            error = np.where(
                got == due, 0.0, np.where(np.isnan(error), np.inf, error)
            )  # a masked logit is −inf
            flushed = (got == 0) & (np.abs(due) < self.dtype.smallest_normal) & (self.dtype.name != "float16")
            rest = np.maximum(error - ulp(due, self.dtype) - self.bound[stage], 0.0)
            rest = np.where(flushed, 0.0, rest)
        if stage not in ROWWISE:
            return rest
        if stage in self.cone and self.cone[stage].any():
            rest = self._off_the_cone(stage, got - due, rest)
        return row_norm(rest)

    def _off_the_cone(self, stage: str, error: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """The error without a part across the row that is no longer than the cone is wide."""
        along = self.kernel.x_hat if stage == "grad_x" else self.kernel.W_hat
        radial = np.sum(error * along, axis=1, keepdims=True) * along
        across = row_norm(error - radial)
        kept = np.maximum(across - self.cone[stage] * (1 + 1e-9), 0.0)
        left = np.hypot(row_norm(radial), kept)
        # as much of it as is left, spread over the row as it was
        share = np.where(across > 0, left / np.where(across > 0, row_norm(error), 1.0), 1.0)
        return np.where(self.cone[stage][:, None] > 0, rest * np.minimum(share, 1.0)[:, None], rest)

    def allowed(self, stage: str, grade: str) -> np.ndarray:
        """What `excess` may be at this grade."""
        if grade == "A":
            return np.zeros(np.shape(self.envelope["B"][stage]))
        return self.slack * self.envelope[grade][stage]

    def grade_of(self, stage: str, got: np.ndarray) -> str:
        """The best grade whose envelope holds all of it, or F."""
        excess = self.excess(stage, got)
        for grade in GRADES:
            if (excess <= self.allowed(stage, grade)).all():
                return grade
        return "F"

    def passes(self, stage: str, got: np.ndarray, grade: str) -> bool:
        return bool((self.excess(stage, got) <= self.allowed(stage, grade)).all())

    def tolerance(self, stage: str, grade: str, index: tuple[int, ...]) -> float:
        """The largest error accepted at one entry, the others of its row being right."""
        own = float(np.asarray(ulp(self.stages[stage], self.dtype) + self.bound[stage])[index])
        room = np.asarray(self.allowed(stage, grade))
        return own + float(room[index[0]] if stage in ROWWISE else room[index])


def truth(
    loss: Any, inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any, dtype: str,
    compute: str | None = None, slack: float = 1.0,
) -> Truth:  # fmt: skip
    """The truth on one input and what each grade allows around it.

    inputs: x (N, D), W (C, D) and b (C,) or None, or logits; read as they are, so round them to the dtype before.
    upstream: () or the losses' shape under reduction="none". compute: what B and C are computed in; by default
    float32 for 16 bits, else the dtype itself.
    """
    storage = DTYPES[dtype]
    inner = DTYPES[compute or ("float32" if storage.is_half else dtype)]
    if isinstance(loss, CrossEntropy):
        out = loss.forward(inputs["logits"], labels)
    else:
        out = loss.forward(inputs["x"], inputs["W"], labels, inputs.get("b"))
    grads = loss.backward(out, upstream)
    stages = {name: np.asarray(v) for name, v in {**out.stages(), **grads.stages()}.items()}
    kernel = Kernel(loss, inputs, labels, upstream)
    plain = kernel.run()
    scale = natural_scale(kernel, stages)
    stable = _drawn(kernel, inner, STABLE)
    found = {
        "B": _strayed(stable, stages, scale, inner),
        "C": _strayed(_drawn(kernel, inner, TEXTBOOK), stages, scale, inner),
    }
    found["D"] = (
        found["C"]
        if inner is storage
        else _strayed(_drawn(kernel, storage, TEXTBOOK), stages, scale, storage)
    )
    envelope: dict[str, dict[str, np.ndarray]] = {"B": found["B"]}
    for better, grade in ("BC", "CD"):
        envelope[grade] = {name: np.maximum(envelope[better][name], found[grade][name]) for name in stages}
    bound = _own_bound(loss, out, grads, stages, storage)
    return Truth(
        loss, storage, inputs, labels, upstream, out, grads, stages, bound, envelope, scale, kernel, plain,
        slack, _cones(kernel, out, stages), _at_odds(stable, stages, scale, inner),
    )  # fmt: skip


def _own_bound(
    loss: Any, out: Any, grads: Any, stages: Mapping[str, np.ndarray], storage: DType
) -> dict[str, Any]:
    """The reference's proven bound in float64; in the other dtypes it is far below the last place, and 0 here."""
    if storage.name == "float64":
        known = {**out.error_bound, **grads.error_bound}
        return {name: np.asarray(known[name]) for name in stages}
    return {name: np.zeros(np.shape(value)) for name, value in stages.items()}


# -- the draws -------------------------------------------------------------------------------------


def _drawn(kernel: Kernel, dtype: DType, way: str) -> dict[str, np.ndarray]:
    """Every stage, one copy a draw."""
    seed = zlib.crc32(b"".join(np.ascontiguousarray(v).tobytes() for v in kernel_inputs(kernel)))
    with np.errstate(all="ignore"):
        return Draws(kernel, Noise(dtype, DRAWS, seed, LOSSY), way).stages()


def _strayed(
    drawn: Mapping[str, np.ndarray],
    stages: Mapping[str, np.ndarray],
    scale: Mapping[str, np.ndarray],
    dtype: DType,
) -> dict[str, np.ndarray]:
    """name → FACTOR × the largest error of the draws, and at least FLOOR roundings of the natural scale.

    What the lossy draws lose is lost once, not four times over.
    """
    envelope = {}
    with np.errstate(all="ignore"):
        for name, due in stages.items():
            error = np.abs(drawn[name] - due)
            if name in ROWWISE:
                error = np.stack([row_norm(e) for e in error])
            error = np.where(np.isnan(error), np.inf, error)
            worst, lossy = error[:DRAWS].max(axis=0), error[DRAWS:].max(axis=0)
            least = dtype.smallest_subnormal * (np.asarray(scale[name]) > 0)
            strayed = np.maximum(FACTOR * worst, worst + lossy)
            envelope[name] = np.maximum(strayed, FLOOR * dtype.u * scale[name] + least)
    return envelope


def _at_odds(
    drawn: Mapping[str, np.ndarray],
    stages: Mapping[str, np.ndarray],
    scale: Mapping[str, np.ndarray],
    dtype: DType,
) -> tuple[str, ...]:
    """The stages of which some entry lies farther from the middle of the draws than they lie apart, many times over."""
    found = []
    with np.errstate(all="ignore"):
        for name, due in stages.items():
            width = np.ptp(drawn[name], axis=0)
            size = np.asarray(scale[name])
            size = size[:, None] if name in ROWWISE else size
            # among very many entries a few have all their draws on one side
            relative = (width / size)[np.isfinite(width) & (size > 0)]
            width = np.maximum(width, size * (np.median(relative) if relative.size else 0.0))
            off = np.abs(np.median(drawn[name], axis=0) - due)
            if (
                np.isfinite(width) & (off > ODDS * (width + FLOOR * dtype.u * size) + dtype.smallest_normal)
            ).any():
                found.append(name)
    return tuple(found)


def kernel_inputs(kernel: Kernel) -> list[np.ndarray]:
    return [kernel.logits_given] if kernel.bare else [kernel.x, kernel.W]


class Draws:
    """The textbook form of one case in perturbed arithmetic: every stage, one copy a draw."""

    def __init__(self, kernel: Kernel, noise: Noise, way: str) -> None:
        self.kernel, self.noise, self.way = kernel, noise, way
        self.rows = np.flatnonzero(kernel.valid)
        self.y = kernel.target[self.rows]
        # smoothing and weights are numbers that the dtype rounds too; 0 and 1 it holds
        t = kernel.smoothed()[self.rows]
        self.t = np.where(np.isin(t, (0.0, 1.0)), t, noise.of(np.broadcast_to(t, (noise.draws, *t.shape))))
        self.w = np.where(kernel.w == 1, 1.0, noise.of(np.broadcast_to(kernel.w, (noise.draws, 1, kernel.C))))
        divisor = kernel.divisor() or 1.0
        self.divisor = (
            np.full(noise.draws, divisor) if divisor == 1 else noise.of(np.full(noise.draws, divisor))
        )
        share = kernel.share()[self.rows] * np.ones((noise.draws, 1))
        self.share = share if divisor == 1 else noise.of(share, None, 2)

    def stages(self) -> dict[str, np.ndarray]:
        found = self._bare() if self.kernel.bare else self._with_x_and_W()
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
        if self.kernel.reduction == "none":
            return losses
        total = self.noise.of(losses.sum(-1), np.abs(losses).sum(-1), losses.shape[-1])
        return total if (self.divisor == 1).all() else self.noise.of(total / self.divisor)

    def _full(self, value: np.ndarray) -> np.ndarray:
        """(K, R, …) → (K, N, …), 0 on ignored rows."""
        full = np.zeros((self.noise.draws, self.kernel.N, *value.shape[2:]))
        full[:, self.rows] = value
        return full

    def _bare(self) -> dict[str, np.ndarray]:
        k = self.kernel
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
        k, draws = self.kernel, self.noise.draws
        if value.ndim == 3:
            axis = k.axis % len(k.shape)
            return np.moveaxis(value.reshape(draws, *k.shape), -1, axis + 1)
        return value.reshape(draws, *k.shape[:-1]) if value.ndim == 2 else value

    def _with_x_and_W(self) -> dict[str, np.ndarray]:
        k, noise, rows = self.kernel, self.noise, self.rows
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
        k = self.kernel
        return {"zero_x": ~k.x[rows].any(axis=1), "zero_W": ~k.W.any(axis=1)}

    def _logits(self, leaves: dict[str, Noisy]) -> tuple[Noisy, np.ndarray | None]:
        """z (K, R, C) of the valid rows, and the target's angle (K, R)."""
        k, noise = self.kernel, self.noise
        zero = self._zero(self.rows)
        q = parameters(k.loss, **zero, **{name: leaves[name] for name in differentiable(k.loss)})
        x, W = leaves["x"], leaves["W"]
        xp, theta = namespace(noise), None
        if k.on.any():
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
        k, noise, rows = self.kernel, self.noise, np.arange(self.kernel.N)
        xp, zero = namespace(noise), self._zero(slice(None))
        x, W = variable(k.x, noise), variable(k.W, noise)
        cos = formulas.inner(
            xp, formulas.unit(xp, x, zero["zero_x"]), formulas.unit(xp, W, zero["zero_W"])
        ).value
        q = parameters(k.loss, **zero)
        q.detach_margin, q.frozen = True, 0  # z_y = r cos θ_y, whichever class y is
        y = np.zeros((k.N, k.C))
        y[:, 0] = 1.0
        b = None if k.b is None else variable(k.b, noise)
        plain = q.logits(xp, q, x, W, b, y).value
        return plain[:, rows].copy(), cos, formulas.norm(xp, x).value, formulas.norm(xp, W).value


# -- natural scales and cones ----------------------------------------------------------------------


def natural_scale(k: Kernel, stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """name → the size of the terms before they cancel, shaped like its envelope."""
    size = {name: np.abs(value) for name, value in stages.items() if not name.startswith("grad_")}
    share = np.abs(k.share())[:, None]
    mass = k.a.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        G = share * (k.p * np.where(k.a == mass, 0.0, np.abs(mass - k.a)) + k.a * k.others)
    size["grad_logits"] = k._shaped({"g": G})["g"]
    if k.bare:
        return size
    bias = 0.0 if k.b is None else np.abs(k.b)
    sin, ones = np.sin(k.theta), np.ones_like(k.cos)
    turn = np.abs(k.rise) * sin
    x_over, W_over = inverse(k.x_norm)[:, None], inverse(k.W_norm)[None, :]
    size["cos_theta"] = ones
    size["logits"] = np.maximum(k.r, np.abs(k.r * k.value)) + bias
    size["grad_x"] = np.sum(G * k.r * np.hypot(k.p_x * k.value, turn), axis=1) * x_over[:, 0]
    size["grad_W"] = np.sum(G * k.r * np.hypot(k.p_W * k.value, turn), axis=0) * W_over[0]
    size["grad_b"] = G.sum(axis=0)
    radial = np.sum(G * k.r * np.abs(k.value))
    size["grad_scale"] = size["grad_alpha"] = radial / k.factor()
    size["grad_margin"] = np.sum(np.where(k.on, G * k.r, 0.0))
    return {name: size[name] for name in stages}


def _cones(k: Kernel, out: Any, stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How long the part across x_i, or W_y, may be where the target logit has a cone: |g_iy| r |ψ'| / length."""
    cone = getattr(out, "cone", None)
    if cone is None or not np.any(cone):
        return {}
    i = np.flatnonzero(cone)
    j = k.y[i]
    pole = np.where(k.theta[i, j] < 1, 0.0, np.pi)
    kept = np.zeros_like(k.theta) + 1.0
    kept[i, j] = pole
    slope = np.abs(np.imag(k.psi(kept + 1e-30j)) / 1e-30)[i, j]
    length = np.abs(stages["grad_logits"][i, j]) * k.r[i, j] * slope
    radius = {"grad_x": np.zeros(k.N), "grad_W": np.zeros(k.C)}
    radius["grad_x"][i] = length * inverse(k.x_norm)[i]
    np.add.at(radius["grad_W"], j, length * inverse(k.W_norm)[j])
    return radius
