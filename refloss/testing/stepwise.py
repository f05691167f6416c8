"""A plain kernel whose every step can be stored in a dtype of its own.

It is what people write: unit vectors, cosines, arccosine, log-sum-exp, p = e^{z − lse}, the backward of v/‖v‖ as
autodiff has it. Every number is a NumPy float of the compute dtype, so its arithmetic is that dtype's own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from refloss.precision.dtypes import DType, rounded
from refloss.testing.plain_loss import STEP, PlainLoss
from refloss.textbook.family import differentiable

ACCUMULATOR = "accumulator of "


class Stepwise:
    """One loss on one input. `run()` gives every stage; `steps` then holds the names of the steps, in their order.

    A step is a quantity that a kernel may keep, or the accumulator of a sum: in 16 bits the sum is rounded after each
    of its terms.

    plain    the loss and its input: only what was given is read
    compute  float32 or float64: what a step is made in
    storage  what those in `coarse` are rounded to
    """

    def __init__(self, plain: PlainLoss, compute: DType, storage: DType, coarse: Collection[str] = ()) -> None:
        self.plain, self.compute, self.storage, self.coarse = plain, compute, storage, frozenset(coarse)
        self.type = np.dtype(compute.name)
        self.steps: dict[str, None] = {}

    # -- the hook ----------------------------------------------------------------------------------

    def made(self, value: Any) -> np.ndarray:
        """In the compute dtype."""
        return np.asarray(value, dtype=self.type)

    def at(self, step: str, value: Any) -> np.ndarray:
        """The step's value as it is kept."""
        self.steps[step] = None
        return self.stored(self.made(value)) if step in self.coarse else self.made(value)

    def stored(self, value: np.ndarray) -> np.ndarray:
        """Rounded to the storage dtype, and back."""
        if self.storage.name == "float16":
            return np.asarray(value.astype(np.float16).astype(self.type))
        if self.storage.name == "bfloat16" and self.type == np.float32:
            # the upper half of the bits, to nearest even; what `rounded` gives, in a tenth of the time
            bits = np.ascontiguousarray(value).view(np.uint32).reshape(value.shape)
            up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
            return np.asarray(((bits + up) & np.uint32(0xFFFF0000)).view(np.float32))
        return self.made(rounded(value, self.storage))

    def total(self, step: str, terms: np.ndarray, axis: int) -> np.ndarray:
        """Their sum, not yet kept."""
        name = ACCUMULATOR + step
        self.steps[name] = None
        if name not in self.coarse:
            return self.made(terms.sum(axis))
        terms = np.moveaxis(terms, axis, 0)
        found = np.zeros(terms.shape[1:], dtype=self.type)
        for term in terms:
            found = self.stored(found + term)
        return found

    def product(self, step: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a @ b, not yet kept."""
        name = ACCUMULATOR + step
        self.steps[name] = None
        if name not in self.coarse:
            return a @ b
        found = np.zeros((len(a), b.shape[1]), dtype=self.type)
        for k in range(a.shape[1]):
            found = self.stored(found + a[:, k, None] * b[k])
        return found

    # -- the whole ---------------------------------------------------------------------------------

    def run(self) -> dict[str, np.ndarray]:
        """Every stage that the loss has, in the compute dtype."""
        with np.errstate(all="ignore"):
            stages = self._logits()
            stages |= self._cross_entropy(stages["logits"])
            if not self.plain.bare:
                stages |= self._gradients(stages["grad_logits"])
        return self.plain._shaped(stages)

    def _logits(self) -> dict[str, np.ndarray]:
        k = self.plain
        if k.bare:
            return {"logits": self.made(k.z)}
        self.margin = bool(k.loss.has_margin)
        self.X, self.x_norm = self._side("x", k.x, self.margin or not k.p_x)
        self.V, self.W_norm = self._side("W", k.W, self.margin or not k.p_W)
        inner = "cos_theta" if self.margin or not (k.p_x or k.p_W) else "inner products"
        self.value = cos = self.at(inner, self.product(inner, self.X, self.V.T))
        size = np.ones_like(cos)
        if self.margin and k.p_x:
            size = size * self.x_norm[:, None]
        if self.margin and k.p_W:
            size = size * self.W_norm
        self.size, self.r = size, self.made(k.factor()) * size
        stages = {"x_norm": self.x_norm, "W_norm": self.W_norm, "cos_theta": cos}
        if self.margin:
            stages["theta"] = self._target(cos, (self.storage if inner in self.coarse else self.compute).u)
        z = self.r * self.value
        stages["logits"] = self.at("logits", z if k.b is None else z + self.made(k.b))
        return {name: value for name, value in stages.items() if name == "logits" or name in k.owed}

    def _side(self, name: str, given: np.ndarray, unit: bool) -> tuple[np.ndarray, np.ndarray]:
        """The rows as they go into the product, and their lengths."""
        v = self.made(given)
        if not unit:
            return v, np.ones(len(v), dtype=self.type)
        length = self.at(f"{name}_norm", np.sqrt(self.total(f"{name}_norm", v * v, 1)))
        return self.at(f"{name}_hat", np.where(length[:, None] > 0, v / length[:, None], 0)), length

    def _target(self, cos: np.ndarray, u: float) -> np.ndarray:
        """θ (N,); puts ψ(θ) in the target's place. The cosine is kept u away from ±1, so that the angle has a slope."""
        k = self.plain
        self.where = np.flatnonzero(k.on.any(axis=1)), k.y[k.on.any(axis=1)]
        self.kept = np.clip(cos[self.where], -1 + u, 1 - u)
        self.u, self.theta = u, self.at("theta", np.arccos(self.kept))
        self.value = cos.copy()
        self.value[self.where] = self.at("psi", np.real(k.psi(self.theta)))
        theta = np.zeros(k.N, dtype=self.type)
        theta[self.where[0]] = self.theta
        return theta

    def _cross_entropy(self, z: np.ndarray) -> dict[str, np.ndarray]:
        k = self.plain
        top = self.at("maximum", z.max(axis=1))
        e = self.at("exp", np.exp(self.at("logits - maximum", z - top[:, None])))
        lse = self.at("lse", np.log(self.at("sum_exp", self.total("sum_exp", e, 1))) + top)
        p = self.at("probabilities", np.exp(z - lse[:, None]))
        a = self.made(k.a)
        parts = np.where(a != 0, a * (lse[:, None] - np.where(a != 0, z, 0)), 0)
        losses = self.total("losses", parts, 1) if k.smoothing or not k.hard else parts.sum(1)
        losses = np.where(k.valid, self.at("losses", losses), 0)
        stages = {"probabilities": p, "losses": losses, "loss": losses}
        if k.reduction != "none":
            stages["loss"] = self.at("loss", self.total("loss", losses, 0) / self.made(k.divisor()))
        share = self.at("upstream / N", k.share())[:, None]
        g = self.at("grad_logits", share * (p * a.sum(axis=1, keepdims=True) - a))
        return stages | {"grad_logits": np.where(k.valid[:, None], g, 0)}

    def _gradients(self, g: np.ndarray) -> dict[str, np.ndarray]:
        k = self.plain
        A, radial = g * self.r, g * self.r * self.value
        if self.margin and not k.q.detach_margin:
            turn = np.imag(k.psi(self.theta + 1j * STEP)) / STEP
            sin = self.at("sin", np.sqrt(np.maximum(1 - self.kept * self.kept, self.u)))
            A[self.where] *= self.at("slope", -turn / sin)
        A = self.at("grad_cos_theta", A)
        found = {
            "grad_x": self._back("x", self.product("grad_x", A, self.V), radial),
            "grad_W": self._back("W", self.product("grad_W", A.T, self.X), radial.T),
        }
        if k.b is not None:
            found["grad_b"] = self.at("grad_b", self.total("grad_b", g, 0))
        for name in differentiable(k.loss):
            terms = self._margin_terms(g) if name == "margin" else g * self.size * self.value
            sums = self.total(f"grad_{name}", self.total(f"grad_{name}", terms, 1), 0)
            found[f"grad_{name}"] = self.at(f"grad_{name}", sums)
        return found

    def _back(self, name: str, G: np.ndarray, radial: np.ndarray) -> np.ndarray:
        """Through the normalisation, if there is one: (G − (G·v̂) v̂ + Σ radial · v̂) / ‖v‖."""
        k = self.plain
        power, hat, length = (k.p_x, self.X, self.x_norm) if name == "x" else (k.p_W, self.V, self.W_norm)
        if power and not self.margin:
            return self.at(f"grad_{name}", G)
        G = self.at(f"grad_{name}_hat", G)
        along = self.at(f"{name} projection", self.total(f"{name} projection", G * hat, 1))
        if power:
            along = along - self.at(f"{name} radial", self.total(f"{name} radial", radial, 1))
        back = np.where(length[:, None] > 0, (G - along[:, None] * hat) / length[:, None], 0)
        return self.at(f"grad_{name}", back)

    def _margin_terms(self, g: np.ndarray) -> np.ndarray:
        q, terms = self.plain.q, np.zeros_like(g)
        if not q.detach_margin:
            kept, q.margin = q.margin, q.margin + 1j * STEP
            moved = np.imag(self.plain.psi(self.theta)) / STEP
            q.margin = kept
            terms[self.where] = g[self.where] * self.r[self.where] * moved
        return terms
