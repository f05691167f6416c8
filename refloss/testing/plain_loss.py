"""Any loss of the family, plainly, with steps that can be replaced one by one: what suspects are made of.

The polar view: z_j = r cos θ_j, and r ψ(θ_y) for the target, with r = s‖x‖^p‖W_j‖^q. Ordinary float64, right to what
ordinary float64 gives; the truth is `loss.forward` and `loss.backward`, never this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.losses import CrossEntropy
from refloss.record import STAGES
from refloss.textbook import formulas
from refloss.textbook.family import POWERS, differentiable, factor_name, parameters
from refloss.textbook.namespaces import complex_namespace

STEP = 1e-30  # of the complex step


class PlainLoss:
    """One loss on one input. Change an attribute or replace a method, then `run()`.

    x (N, D), W (C, D), b (C,) or None; or logits of `CrossEntropy`
    q           the parameters, as the textbook form reads them: q.margin, q.scale, q.alpha, q.annealing …
    y, valid    (N,) the label's class; bool
    target      (N, C) one-hot or soft
    w           (C,) class weights
    on          (N, C) bool: the pairs whose logit carries the margin
    upstream    () or (N,)
    previous    an earlier call with the same W's shape, if there is one of the same x's shape too
    earliest    the first call with the same W's shape
    passes_x, passes_W     whether the gradient goes back through that normalisation's length: a bool, or (N, C)
    radial_x, radial_W     whether it goes through ‖x‖, ‖W_j‖ as a factor of the logit: likewise
    stages      of the last run
    """

    def __init__(
        self,
        loss: Any,
        inputs: Mapping[str, np.ndarray],
        labels: np.ndarray,
        upstream: Any,
        previous: PlainLoss | None = None,
    ) -> None:
        self.earliest: PlainLoss | None = None
        self.loss, self.previous, self.upstream = loss, previous, np.asarray(upstream, dtype=float)
        self.bare = isinstance(loss, CrossEntropy)
        self.reduction = loss.reduction
        self.smoothing = loss.label_smoothing
        if self.bare:
            self.axis = loss.axis
            logits = np.asarray(inputs["logits"], dtype=float)
            targets = check.flat_targets(labels, logits.shape, loss.axis, loss)
            self.shape = np.moveaxis(logits, loss.axis, -1).shape
            self.logits_given = logits
            self.C, rows = self.shape[-1], int(np.prod(self.shape[:-1]))
        else:
            self.x, self.W = (np.array(inputs[name], dtype=float) for name in "xW")
            self.b = None if inputs.get("b") is None else np.array(inputs["b"], dtype=float)
            self.C, rows = len(self.W), len(self.x)
            targets = check.targets(labels, rows, self.C, loss)
            self.q = parameters(loss)
            self.factor_name = factor_name(loss)
            self.p_x, self.p_W = POWERS[self.q.radius]
            # a record holds only what its loss needs
            self.owed = [name for name, power in (("x_norm", self.p_x), ("W_norm", self.p_W)) if not power]
            if loss.has_margin:
                self.owed = ["x_norm", "W_norm", "cos_theta", "theta"]
            self.passes_x: Any = True
            self.passes_W: Any = True
            self.radial_x: Any = True
            self.radial_W: Any = True
        self.hard = targets.labels is not None
        self.target, self.valid = np.array(targets.matrix, dtype=float), ~targets.ignored
        self.given = labels
        # an ignored row's label may be no class at all
        self.y = np.where(self.valid, np.asarray(labels).ravel(), 0).astype(int) if self.hard else self.target.argmax(1)
        self.w = np.ones(self.C) if loss.class_weights is None else np.array(loss.class_weights)
        self.on = np.zeros((rows, self.C), dtype=bool)
        if getattr(loss, "has_margin", False):
            self.on = self.target > 0
        self.counts = self.valid.copy()  # the rows in the divisor
        self.reached = self.valid.copy()  # the rows that any gradient reaches
        self.N = rows

    # -- forward -----------------------------------------------------------------------------------

    def length(self, v: np.ndarray) -> np.ndarray:
        """(rows,) Euclidean lengths."""
        largest = np.max(np.abs(v), axis=1, initial=0.0)
        safe = np.where(largest > 0, largest, 1.0)
        return safe * np.sqrt(np.sum((v / safe[:, None]) ** 2, axis=1))

    def x_length(self) -> np.ndarray:
        return self.length(self.x)

    def W_length(self) -> np.ndarray:
        return self.length(self.W)

    def x_unit(self) -> np.ndarray:
        return self.x * inverse(self.x_norm)[:, None]

    def W_unit(self) -> np.ndarray:
        return self.W * inverse(self.W_norm)[:, None]

    def x_growth(self) -> np.ndarray:
        """(N, D) the gradient of each length."""
        return self.x_hat

    def W_growth(self) -> np.ndarray:
        """(C, D)."""
        return self.W_hat

    def product(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """A matrix product; forward and backward use it."""
        return left @ right

    def cosines(self) -> np.ndarray:
        return self.product(self.x_hat, self.W_hat.T)

    def angles(self) -> np.ndarray:
        """θ of every pair (N, C), of the targets without the arccosine's loss near 0 and π."""
        theta = np.arccos(np.clip(self.cos, -1, 1))
        if self.hard:
            x, w = self.x_hat, self.W_hat[self.y]
            exact = 2 * np.arctan2(np.linalg.norm(x - w, axis=1), np.linalg.norm(x + w, axis=1))
            either = x.any(axis=1) & w.any(axis=1)
            theta[np.arange(self.N), self.y] = np.where(either, exact, np.pi / 2)
        return theta

    def psi(self, theta: np.ndarray) -> np.ndarray:
        """What becomes of the target's angle; theta may be complex, and then its slope is the complex step's."""
        return self.q.target(complex_namespace, self.q, theta)

    def values(self) -> np.ndarray:
        """(N, C) cos θ, and ψ(θ) where the margin is."""
        return np.where(self.on, np.real(self.psi(self.theta)), self.cos) if self.on.any() else self.cos

    def radius(self) -> np.ndarray:
        """r (N, C)."""
        size = self.factor() * np.ones((self.N, self.C))
        if self.p_x:
            size = size * self.x_norm[:, None]
        return size * self.W_norm if self.p_W else size

    def factor(self) -> float:
        """s or α."""
        return getattr(self.q, self.factor_name) if self.factor_name else 1.0

    def logits(self) -> np.ndarray:
        """(N, C); bare ones as they were given."""
        if self.bare:
            return np.moveaxis(self.logits_given, self.axis, -1).reshape(self.N, self.C)
        z = self.r * self.value
        return z if self.b is None else z + self.bias()

    def bias(self) -> np.ndarray:
        return np.asarray(self.b)

    def smoothed(self) -> np.ndarray:
        """t (N, C)."""
        return (1 - self.smoothing) * self.target + self.smoothing / self.C

    def weighted(self) -> np.ndarray:
        """a (N, C), a_c = w_c t_c."""
        return self.w * self.smoothed()

    def logsumexp(self, z: np.ndarray) -> np.ndarray:
        """(N,)."""
        top = z.max(axis=1)
        return top + np.log(np.sum(np.exp(z - top[:, None]), axis=1))

    def log_probabilities(self) -> np.ndarray:
        return self.z - self.lse[:, None]

    def softmax(self) -> np.ndarray:
        return np.exp(self.log_p)

    def sample_losses(self) -> np.ndarray:
        """(N,) −Σ_c a_c log p_c, a = w t, in non-negative terms."""
        if self.hard and not self.smoothing:
            gap = -self.log_p[np.arange(self.N), self.y]
            rest = np.log1p(self.others[np.arange(self.N), self.y] / np.maximum(self._p_y(), 1e-300))
            gap = np.where(self._standard() & (self._p_y() > 0.5), rest, gap)
            return self.a[np.arange(self.N), self.y] * gap
        return np.sum(self.a * np.where(self.a != 0, -self.log_p, 0.0), axis=1)

    def _p_y(self) -> np.ndarray:
        return self.p[np.arange(self.N), self.y]

    def _standard(self) -> bool:
        """Whether the softmax is the plain one, so that 1 − p_y is the sum of the others."""
        return not {"logsumexp", "log_probabilities", "softmax"} & set(vars(self))

    def divisor(self) -> float:
        if self.reduction == "mean":
            return float(self.counts.sum())
        if self.reduction == "weighted_mean":
            return float((self.target * self.w)[self.counts].sum())
        return 1.0

    def reduce(self, losses: np.ndarray) -> np.ndarray:
        return losses if self.reduction == "none" else np.sum(losses) / self.divisor()

    # -- backward ----------------------------------------------------------------------------------

    def share(self) -> np.ndarray:
        """(N,) of the gradient that arrives."""
        each = np.broadcast_to(self.upstream.ravel() if self.upstream.ndim else self.upstream, self.N)
        with np.errstate(divide="ignore", invalid="ignore"):  # a mean over nothing
            return np.where(self.reached, each / self.divisor(), 0.0)

    def grad_logits(self) -> np.ndarray:
        """(N, C) p Σ_c a_c − a, without cancellation where one class has it all; before the sample's share."""
        mass = self.a.sum(axis=1, keepdims=True)
        if not self._standard():
            return self.p * mass - self.a
        # p_j Σ_{c≠j} a_c − a_j Σ_{k≠j} p_k
        return self.p * np.where(self.a == mass, 0.0, mass - self.a) - self.a * self.others

    def shared_gradient(self) -> np.ndarray:
        """(N, C) of the reduced loss, times what arrives."""
        return self.share()[:, None] * self.grad_logits()

    def slope(self) -> np.ndarray:
        """(N, C) dz/dcos θ over r: 1, and −ψ'(θ)/sin θ for the targets; 0 at a pole's cone."""
        slope = np.ones_like(self.cos)
        if self.on.any() and not self.q.detach_margin:
            turn = np.imag(self.psi(self.theta + 1j * STEP)) / STEP
            sin = np.sin(self.theta)
            inner = np.where((sin > 1e-9), -turn / np.where(sin > 1e-9, sin, 1.0), self._at_pole())
            slope = np.where(self.on, inner, slope)
        return slope

    def _at_pole(self) -> float:
        """dψ/dcos θ at θ = 0 and π where it exists, else the centre of the cone."""
        m = getattr(self.q, "margin", 0.0)
        if self.q.target is formulas.annealed_psi:
            return (self.q.annealing + m**2) / (1 + self.q.annealing)
        return 1.0 if self.q.target is formulas.cosine_margin else 0.0

    def grad_x(self) -> np.ndarray:
        A, B, over = self.g * self.r * self.rise, self.g * self.r * self.value, inverse(self.x_norm)[:, None]
        along = np.sum(A * self.cos * self.passes_x, axis=1, keepdims=True) * self.x_growth()
        grown = np.sum(B * self.radial_x, axis=1, keepdims=True) * self.x_growth() if self.p_x else 0.0
        return (self.product(A, self.W_hat) - along + grown) * over

    def grad_W(self) -> np.ndarray:
        A, B, over = self.g * self.r * self.rise, self.g * self.r * self.value, inverse(self.W_norm)[:, None]
        along = np.sum(A * self.cos * self.passes_W, axis=0)[:, None] * self.W_growth()
        grown = np.sum(B * self.radial_W, axis=0)[:, None] * self.W_growth() if self.p_W else 0.0
        return (self.product(A.T, self.x_hat) - along + grown) * over

    def grad_b(self) -> np.ndarray:
        return self.g.sum(axis=0)

    def grad_scale(self) -> np.ndarray:
        """Of s, or of α."""
        return np.asarray(np.sum(self.g * self.r * self.value) / self.factor())

    def grad_margin(self) -> np.ndarray:
        if self.q.detach_margin:
            return np.zeros(())
        kept, self.q.margin = self.q.margin, self.q.margin + 1j * STEP
        moved = np.imag(self.psi(self.theta + 0j)) / STEP
        self.q.margin = kept
        return np.asarray(np.sum(np.where(self.on, self.g * self.r * moved, 0.0)))

    def alike(self, other: PlainLoss) -> bool:
        """Whether both have inputs of the same shapes."""
        return self.shapes() == other.shapes()

    def shapes(self) -> tuple[Any, ...]:
        """Those of its inputs."""
        if self.bare:
            return self.logits_given.shape, self.given.shape
        return self.x.shape, self.W.shape, self.given.shape, self.b is None

    # -- the whole ---------------------------------------------------------------------------------

    def run(self) -> dict[str, np.ndarray]:
        """Every stage by name, in the project's order."""
        with np.errstate(all="ignore"):
            stages = self._forward()
            stages |= self._backward()
        self.stages = {name: stages[name] for name in STAGES if name in stages}
        return self.stages

    def _forward(self) -> dict[str, np.ndarray]:
        stages: dict[str, np.ndarray] = {}
        if self.bare:
            self.z = self.logits()
        else:
            self.x_norm, self.W_norm = self.x_length(), self.W_length()
            self.x_hat, self.W_hat = self.x_unit(), self.W_unit()
            self.cos = self.cosines()
            self.theta = self.angles()
            self.r = self.radius()
            self.value = self.values()
            self.z = self.logits()
            theta = np.where(self.valid, self.theta[np.arange(self.N), self.y], 0.0)
            made = {"x_norm": self.x_norm, "W_norm": self.W_norm, "cos_theta": self.cos, "theta": theta}
            stages |= {name: made[name] for name in self.owed}
        self.a = np.where(self.valid[:, None], self.weighted(), 0.0)
        self.lse = self.logsumexp(self.z)
        self.log_p = self.log_probabilities()
        self.p = self.softmax()
        top = np.argmax(self.p, axis=1)
        self.others = 1 - self.p  # Σ_{k≠j} p_k
        at = np.arange(self.N), top
        without = self.p.copy()
        without[at] = 0.0
        self.others[at] = without.sum(axis=1)
        losses = np.where(self.valid, self.sample_losses(), 0.0)
        stages |= {"logits": self.z, "probabilities": self.p, "losses": losses, "loss": np.asarray(self.reduce(losses))}
        return self._shaped(stages)

    def _backward(self) -> dict[str, np.ndarray]:
        self.g = self.shared_gradient()
        stages = {"grad_logits": self.g}
        if not self.bare:
            self.rise = self.slope()
            stages |= {"grad_x": self.grad_x(), "grad_W": self.grad_W()}
            if self.b is not None:
                stages["grad_b"] = self.grad_b()
            made = {"scale": self.grad_scale, "alpha": self.grad_scale, "margin": self.grad_margin}
            stages |= {f"grad_{name}": np.asarray(made[name]()) for name in differentiable(self.loss)}
        return self._shaped(stages)

    def _shaped(self, stages: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Back to the shape of bare logits."""
        if not self.bare:
            return stages
        for name, value in stages.items():
            if value.ndim == 2:
                stages[name] = np.moveaxis(value.reshape(self.shape), -1, self.axis)
            elif value.ndim == 1:
                stages[name] = value.reshape(self.shape[:-1])
        return stages


def inverse(lengths: np.ndarray) -> np.ndarray:
    """1/‖v‖, 0 for zero rows: nothing flows back through their normalisation."""
    return np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1.0), 0.0)
