"""Every stage of a loss enclosed by balls, from the textbook form alone, with the natural scale of each.

Values and gradients come from `refloss.textbook.formulas`, run over balls in reverse mode. The natural scale
Σ_j G_j‖∇z_j‖ needs the lengths of single Jacobians; they follow from the polar form of a logit, z = r ψ(θ) with
r = a‖x‖^p‖w‖^q:

    ‖∇_x z‖ = (r/‖x‖) √(p²ψ² + ψ'²),    ‖∇_w z‖ = (r/‖w‖) √(q²ψ² + ψ'²)

with ψ' of the target by the tape too, in θ, where ψ has no pole. Which cosines are exactly −1, 0 or 1, which no ball of
finite width can tell, is settled in exact arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, ctx

from refloss import validation as check
from refloss.cases.grid import LIMIT
from refloss.losses.loss import Loss
from refloss.proof.angle import Angle, Arc, angle_of, sine_of
from refloss.proof.balls import namespace
from refloss.proof.tape import (
    NOTHING,
    ONE,
    Balls,
    asks,
    at_most,
    constant,
    each,
    exact,
    gradients,
    is_zero,
    join,
    less,
    lift,
    total,
    variable,
)
from refloss.textbook import formulas
from refloss.textbook.family import FAMILY, differentiable, formula_of, member_of, parameters, radius_of

_sqrt, _exp, absolute = each(arb.sqrt), each(arb.exp), each(abs)
_reaches_one = asks(lambda c: not (-1 < c < 1))
_larger = each(arb.max, 2)

LOWEST_BITS = 128  # products of two float64 numbers are exact
ALL_BITS = 4600  # a dot product of float64 vectors is exact
KNOT_BITS = 1024  # where ψ' still encloses 0 off the poles, θ is kπ/m exactly
KNOT: Any = arb(2) ** -44  # stands there for |ψ'| = 0 in the natural scale, so that 8 u of it is 2^-94 of a turn
NEXT_TO_PI = 2.0**-91  # of 1 + cos θ: π − θ below 2^-45


@dataclass
class Enclosures:
    """Balls that hold the truth, stage by stage.

    stages     name → object array of arb, shaped like the stage; `complement` among them
    scales     name → natural scale: shaped like the stage; of grad_x (N,) and grad_W (C,), one per row
    cone       (N,) bool: x ∥ W_y with a slope ψ' ≠ 0, D ≥ 2; `grad_x` and `grad_W` hold the centre of the
               generalised gradient
    spread     "grad_x" (N,), "grad_W" (C,): length of the vectors across the row that a cone adds to the centre
    torn       (N,) bool: rows on which the balls cannot tell two branches apart
    owed       (N,) bool: rows with max_j r + |b_j| ≤ 2^40 on which `precision="extended"` owes its limits; not where
               a user's own ψ is asked within 2^-45 of π
    undefined  a mean over nothing under empty_mean="nan": NaN is the truth
    x, W, labels, ignored   what was enclosed; labels (N,) or None for soft targets
    bits       working precision
    """

    stages: dict[str, np.ndarray]
    scales: dict[str, np.ndarray]
    cone: np.ndarray
    spread: dict[str, np.ndarray]
    torn: np.ndarray
    owed: np.ndarray
    undefined: bool
    x: np.ndarray
    W: np.ndarray
    labels: np.ndarray | None
    ignored: np.ndarray
    bits: int


def enclose(
    loss: Any, x: Any, W: Any, labels: Any, b: Any = None, *, upstream: Any = 1.0, bits: int = LOWEST_BITS
) -> Enclosures:
    """Proven enclosures of every stage of `loss` at these inputs, and of their natural scales.

    x (N, D), W (C, D), labels (N,) or soft (N, C), b (C,) or None, upstream () or (N,): as `loss.forward` and
    `loss.backward` take them, read as exact numbers. bits: working precision, at least 128. An enclosure is as
    narrow as the precision makes it, and infinite or NaN where that is too low.

    Raises ValueError or TypeError as the loss does. A zero row that the loss would refuse is read as
    zero_norm="zero" reads it.
    """
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be one of refloss with a textbook formula, got {type(loss).__name__}")
    member_of(loss)  # says what is missing
    x, W = check.features_and_weights(x, W)
    b = check.bias(b, len(W), loss)
    targets = check.targets(labels, len(x), len(W), loss)
    upstream = check.upstream_gradient(upstream, (len(x),), loss.reduction)
    with ctx.workprec(max(bits, LOWEST_BITS)):
        return _Point(loss, x, W, b, targets, upstream).enclose()


class _Point:
    """One loss at one input, at the working precision. R are the rows that are not ignored."""

    def __init__(
        self, loss: Any, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, targets: Any, upstream: np.ndarray
    ) -> None:
        self.loss, self.x, self.W, self.b, self.targets = loss, x, W, b, targets
        self.N, self.C = len(x), len(W)
        self.rows = np.flatnonzero(~targets.ignored)
        self.hard = targets.labels is not None
        self.pairs = (self.rows, targets.labels[self.rows]) if self.hard else targets.pairs
        # no margin at all: the target is one more plain class, W_y·x, smooth at zero rows too
        plain = formula_of(loss) == "l_softmax" and loss.margin == 1
        self.member = FAMILY["softmax"] if plain else member_of(loss)
        self.has_margin = loss.has_margin and not plain
        self.zero: dict[str, Any] = {"zero_x": ~x.any(axis=1), "zero_W": ~W.any(axis=1)}
        self.y = targets.matrix[self.rows]
        epsilon = arb(float(loss.label_smoothing))
        self.t = (1 - epsilon) * exact(self.y) + epsilon / self.C  # (R, C)
        self.w = exact(np.ones(self.C) if loss.class_weights is None else np.array(loss.class_weights))
        self.divisor = self._divisor()
        self.undefined = bool(self.divisor == 0) and loss.empty_mean == "nan"
        self.share = self._share(upstream)
        self.radius = _Radius(loss, x, W, self.zero)

    def _divisor(self) -> arb:
        if self.loss.reduction == "mean":
            return arb(len(self.rows))
        if self.loss.reduction == "weighted_mean":
            return total(exact(self.y) * self.w).item()
        return ONE

    def _share(self, upstream: np.ndarray) -> np.ndarray:
        """(R,) upstream_i / divisor."""
        arriving = exact(np.broadcast_to(upstream, self.N)[self.rows])
        if self.divisor == 0:
            return arriving * (arb.nan() if self.undefined else NOTHING)
        return arriving / self.divisor

    def enclose(self) -> Enclosures:
        rows, pairs = self.rows, self.pairs
        cos, sin = self._cosines()
        xp = namespace(self.known)
        leaves = {"x": variable(self.x[rows]), "W": variable(self.W)}
        if self.b is not None:
            leaves["b"] = variable(self.b)
        leaves |= {name: variable(getattr(self.loss, name)) for name in differentiable(self.loss)}
        branches = self._logits(xp, leaves)
        z = join(branches)
        losses = formulas.cross_entropy(xp, z, Balls(self.t), Balls(self.w))
        grad_z, *found = gradients(losses, self.share, [z, *leaves.values()])
        p = _exp(z.value - xp.logsumexp(z).value[:, None])
        others = total(p * exact(1 - self.y), axis=1)  # Σ_{j≠y} p_j

        stages = {
            "x_norm": self.radius.x_norm,
            "W_norm": self.radius.W_norm,
            "cos_theta": cos,
            "logits": self._full(z.value),
            "probabilities": self._full(p),
            "losses": self._full(losses.value),
            "loss": self._reduced(losses.value),
            "grad_logits": self._full(grad_z),
        }
        if self.loss.has_margin:
            stages["theta"] = self._full(angle_of(cos[pairs], sin[pairs]))
        if self.hard:
            stages["complement"] = self._full(others)
        if self.targets.ignored.any():
            stages["logits"], stages["probabilities"] = self._with_ignored(stages["logits"], stages["probabilities"])
        for name, gradient in zip(leaves, found, strict=True):
            stages[f"grad_{name}"] = self._full(gradient) if name == "x" else gradient

        # what each is measured against
        psi, turn, in_margin = (cos.copy(), sin.copy(), np.full(cos.shape, NOTHING, dtype=object))  # ψ, |ψ'|, ∂ψ/∂m
        if self.has_margin:
            psi[pairs], turn[pairs], in_margin[pairs] = self._target(xp, leaves, cos[pairs], sin[pairs])
        r, bias = self.radius.length(), exact(np.zeros(self.C) if self.b is None else np.abs(self.b))
        G = self._full(self._arriving(p, others))
        J = self.radius.jacobians(psi, turn, pairs if self.has_margin else None)
        J |= {
            "b": np.full(cos.shape, ONE, dtype=object),
            "scale": absolute(psi),
            "margin": r * absolute(in_margin),
            "alpha": self.radius.W_norm * absolute(psi),
        }
        scales = {name: absolute(value) for name, value in stages.items() if not name.startswith("grad")}
        scales["cos_theta"] = np.full(cos.shape, ONE, dtype=object)
        # |ψ| reaches 2m − 1: what is larger than r is measured by itself
        scales["logits"] = _larger(r, absolute(stages["logits"])) + bias
        scales["grad_logits"] = G
        for name in leaves:
            scales[f"grad_{name}"] = total(G * J[name], axis={"x": 1, "W": 0, "b": 0}.get(name))
        cone, spread = self._cones(turn, stages["grad_logits"], r)
        enclosures = Enclosures(
            stages, scales, cone, spread, self._torn(branches),
            at_most(np.max(r + bias, axis=1, initial=NOTHING), exact(LIMIT)) & ~self._next_to_pi(cos),
            self.undefined, self.x, self.W, self.targets.labels, self.targets.ignored, ctx.prec,
        )  # fmt: skip
        _exactly_zero_where_nothing_arrives(enclosures)
        return enclosures

    def _next_to_pi(self, cos: np.ndarray) -> np.ndarray:
        """(N,) rows where a user's own ψ is asked next to π.

        It is given θ to 106 bits, not π − θ: a slope that vanishes at π is right to 106 bits of π only.
        """
        near = np.zeros(self.N, dtype=bool)
        if self.member.target is formulas.own_margin:
            rows, y = self.targets.pairs
            near[rows] = less(1 + cos[rows, y], exact(NEXT_TO_PI))
        return near

    # -- geometry ----------------------------------------------------------------------------------

    def _cosines(self) -> tuple[np.ndarray, np.ndarray]:
        """cos θ and sin θ of every pair (N, C); exact at θ = 0 and π and, for the targets, π/2."""
        xp = namespace()
        x_hat = formulas.unit(xp, constant(self.x), self.zero["zero_x"])
        W_hat = formulas.unit(xp, constant(self.W), self.zero["zero_W"])
        cos = formulas.inner(xp, x_hat, W_hat).value
        self.known = np.full(len(self.rows), np.nan)
        for i, j in zip(*np.nonzero(_reaches_one(cos)), strict=True):
            side = parallel(self.x[i], self.W[j])
            cos[i, j] = arb(side) if side else cos[i, j].intersection(arb(0, 1))
        for r, (i, j) in enumerate(zip(*self.pairs, strict=True)):
            if cos[i, j].contains(0) and across(self.x[i], self.W[j]):
                cos[i, j] = NOTHING
            if cos[i, j] in (-1, 0, 1):
                self.known[r] = float(cos[i, j])
        return cos, sine_of(cos)

    def _cones(self, turn: np.ndarray, g: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(N,) bool, and how long what is missing to the centre may be: |g_iy| r |ψ'| / ‖x_i‖, and Σ_i by ‖W_y‖."""
        cone = np.zeros(self.N, dtype=bool)
        spread = {name: exact(np.zeros(n)) for name, n in (("grad_x", self.N), ("grad_W", self.C))}
        if self.has_margin and not self.loss.detach_margin and self.x.shape[1] > 1:
            for known, i, j in zip(self.known, *self.pairs, strict=True):
                if abs(known) == 1 and not is_zero(turn[i, j]):
                    length = abs(g[i, j]) * r[i, j] * turn[i, j]
                    spread["grad_x"][i] = length / self.radius.x_norm[i]
                    spread["grad_W"][j] += length / self.radius.W_norm[j]
                    cone[i] = not turn[i, j].contains(0)
        return cone, spread

    def _torn(self, branches: Balls) -> np.ndarray:
        """(N,) rows whose logits have alternatives that differ."""
        torn = np.zeros(self.N, dtype=bool)
        if branches.fork is not None:
            differ = asks(lambda a, b: not (a.mid() == b.mid() and a.rad() == b.rad()), 2)
            torn[self.rows] = differ(branches.value, branches.value[:1]).any(axis=(0, 2))
        return torn

    # -- the formula -------------------------------------------------------------------------------

    def _logits(self, xp: Any, leaves: dict[str, Balls]) -> Balls:
        """(R, C), with alternatives."""
        q = self._parameters(xp, leaves)
        return self.member.logits(xp, q, leaves["x"], leaves["W"], leaves.get("b"), self.y)

    def _parameters(self, xp: Any, leaves: dict[str, Balls]) -> Any:
        """Those of the loss, as leaves where there are; a detached margin is frozen at the value it has now."""
        now: dict[str, Any] = {name: leaves[name] for name in differentiable(self.loss) if name in leaves}
        # a ball, so that 1 + λ is not rounded
        if self.member.target is formulas.own_margin:  # ψ may be an angle itself
            now["psi"] = lambda theta, xp: lift(self.loss.psi(theta, xp))
        now["annealing"] = constant(np.float64(getattr(self.loss, "annealing", 0.0)))
        zero = {"zero_x": self.zero["zero_x"][self.rows], "zero_W": self.zero["zero_W"]}
        q = parameters(self.loss, **zero, **now)
        if self.has_margin and self.loss.detach_margin:
            constants = parameters(self.loss, **zero, **{k: v for k, v in now.items() if k not in leaves})
            q.frozen = formulas.frozen_offset(xp, constants, self.x[self.rows], self.W, self.y)
        return q

    def _with_ignored(self, z: np.ndarray, p: np.ndarray) -> Iterator[np.ndarray]:
        """Logits and probabilities with the ignored rows, whose target carries no margin."""
        xp, rows = namespace(), np.flatnonzero(self.targets.ignored)
        q = parameters(self.loss, zero_x=self.zero["zero_x"][rows], zero_W=self.zero["zero_W"])
        q.detach_margin, q.frozen = True, 0  # z_y = r cos θ_y, whichever class y is
        y = np.zeros((len(rows), self.C))
        y[:, 0] = 1.0
        b = None if self.b is None else constant(self.b)
        plain = self.member.logits(xp, q, constant(self.x[rows]), constant(self.W), b, y)
        for full, value in ((z, plain.value), (p, _exp(plain.value - xp.logsumexp(plain).value[:, None]))):
            full[rows] = value
            yield full

    def _target(
        self, xp: Any, leaves: dict[str, Balls], cos: np.ndarray, sin: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ψ, |ψ'| and ∂ψ/∂m of the targets (R,), differentiated in θ; at a pole ψ' is the slope of the cone.

        At kπ/m exactly, ψ' of the papers is 0 because cos θ is what it is, to the last of its infinitely many digits.
        """
        theta = Balls(angle_of(cos, sin))
        theta.varies = True
        c, s = Balls(cos, [(theta, lambda g: -g * sin)]), Balls(sin, [(theta, lambda g: g * cos)])
        arc = Arc(c)
        arc.sine, arc.theta = s, theta
        q = self._parameters(xp, {name: variable(getattr(self.loss, name)) for name in differentiable(self.loss)})
        psi = join(formulas.target(xp, q, Angle(arc)))
        one = exact(np.ones(len(cos)))
        turn = absolute(gradients(psi, one, [theta])[0])
        if self.x.shape[1] == 1:  # nowhere to turn
            turn = exact(np.zeros(len(cos)))
        if self.member.multiplies_angle:
            at_knot = asks(lambda v: v.contains(0) and (v == 0 or ctx.prec >= KNOT_BITS))(turn)
            turn = np.where(at_knot & (np.abs(np.nan_to_num(self.known)) != 1), KNOT, turn)
        in_margin = exact(np.zeros(len(cos)))
        if isinstance(getattr(q, "margin", None), Balls):
            for i in range(len(cos)):
                in_margin[i] = gradients(psi, exact(np.eye(len(cos))[i]), [q.margin])[0].item()
        return psi.value, turn, in_margin

    def _arriving(self, p: np.ndarray, others: np.ndarray) -> np.ndarray:
        """G (R, C): the terms of ∂L/∂z_j before they cancel."""
        mass, share = total(self.w * self.t, axis=1)[:, None], absolute(self.share)[:, None]
        if self.hard and self.loss.label_smoothing == 0:
            return share * mass * np.where(self.y > 0, others[:, None], p)
        return share * (p * mass + self.w * self.t)

    # -- layout ------------------------------------------------------------------------------------

    def _full(self, value: np.ndarray) -> np.ndarray:
        """(R, …) → (N, …), exactly 0 on ignored rows."""
        full = np.full((self.N, *value.shape[1:]), NOTHING, dtype=object)
        full[self.rows] = value
        return full

    def _reduced(self, losses: np.ndarray) -> np.ndarray:
        if self.loss.reduction == "none":
            return self._full(losses)
        if self.divisor == 0:
            return np.asarray(arb.nan() if self.undefined else NOTHING, dtype=object)
        return np.asarray(total(losses) / self.divisor, dtype=object)


class _Radius:
    """r = a‖x‖^p‖w‖^q of a loss, p and q 0 or 1, and its Jacobians' lengths."""

    def __init__(self, loss: Any, x: np.ndarray, W: np.ndarray, zero: dict[str, Any]) -> None:
        xp = namespace()
        self.zero_x, self.zero_W = zero["zero_x"], zero["zero_W"]
        self.x_norm = formulas.norm(xp, constant(x)).value
        self.W_norm = formulas.norm(xp, constant(W)).value
        a, self.p, self.q = radius_of(loss)
        self.a = arb(a)
        self.x_p, self.over_x = _powers(self.x_norm, self.zero_x, self.p)
        self.W_q, self.over_W = _powers(self.W_norm, self.zero_W, self.q)

    def length(self) -> np.ndarray:
        """r (N, C)."""
        return self.a * self.x_p[:, None] * self.W_q

    def jacobians(
        self, psi: np.ndarray, turn: np.ndarray, pairs: tuple[np.ndarray, np.ndarray] | None
    ) -> dict[str, np.ndarray]:
        """‖∇_x z_ij‖ and ‖∇_W z_ij‖ (N, C). pairs: the targets, if they carry a margin."""
        r_over_x = (self.a * self.over_x)[:, None] * self.W_q
        r_over_W = self.x_p[:, None] * (self.a * self.over_W)
        J = {
            "x": r_over_x * _sqrt(self.p * psi * psi + turn * turn),
            "W": r_over_W * _sqrt(self.q * psi * psi + turn * turn),
        }
        # a direction that is the zero vector makes a logit of 0 (only its target's ψ(π/2) may be more)
        gone = (self.zero_x[:, None] & (self.p == 0)) | (self.zero_W & (self.q == 0))
        J = {name: np.where(gone, NOTHING, value) for name, value in J.items()}
        if pairs is not None:
            i, j = pairs
            radial = self.p * r_over_x[pairs] * absolute(psi[pairs])
            zero_x, zero_W = self.zero_x[i], self.zero_W[j]
            J["x"][pairs] = np.where(zero_x, NOTHING, np.where(zero_W, radial, J["x"][pairs]))
            J["W"][pairs] = np.where(zero_x | zero_W, NOTHING, J["W"][pairs])
        return J


def _powers(lengths: np.ndarray, zero: np.ndarray, power: int) -> tuple[np.ndarray, np.ndarray]:
    """‖v‖^power and ‖v‖^(power − 1); 1/‖v‖ is 0 for zero rows: nothing flows back through their normalisation."""
    one = exact(np.ones(len(lengths)))
    return (lengths, one) if power else (one, np.where(zero, NOTHING, 1 / np.where(zero, ONE, lengths)))


def parallel(x: np.ndarray, w: np.ndarray) -> int:
    """±1 if x ∥ w exactly, the sign being that of x·w, else 0. x, w (D,), not 0."""
    p = int(np.argmax(np.abs(x)))
    a, b = exact(x), exact(w)
    if not all(left == right for left, right in zip(a * b[p], b * a[p], strict=True)):
        return 0
    return int(np.sign(x[p]) * np.sign(w[p]))


def across(x: np.ndarray, w: np.ndarray) -> bool:
    """x·w = 0 exactly."""
    with ctx.workprec(ALL_BITS):
        return bool(total(exact(x) * exact(w)).item() == 0)


def _exactly_zero_where_nothing_arrives(e: Enclosures) -> None:
    """A natural scale of exactly 0 means that every term of the gradient is 0; balls alone cannot say so."""
    for name, scale in e.scales.items():
        if name.startswith("grad"):
            nothing = is_zero(scale)
            nothing = nothing[:, None] if name in ("grad_x", "grad_W") else nothing
            e.stages[name] = np.where(nothing, NOTHING, e.stages[name])
