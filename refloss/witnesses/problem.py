"""What the witnesses differentiate: Σ_i c_i ℓ_i, in the textbook form, and how small an error can be seen.

`loss_problem` builds it for a loss of the family. Natural scale and rounding follow from the textbook form alone
(its logits and their Jacobians by complex step); nothing here looks at the passes under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from refloss.textbook import formulas
from refloss.textbook.family import differentiable, member_of, parameters, radius_of
from refloss.textbook.namespaces import complex_namespace, numpy_namespace
from refloss.textbook.rows import as_rows, or_one, row_norm

U = np.finfo(float).eps / 2
TINY = np.finfo(float).smallest_subnormal


@dataclass
class Problem:
    """A sum of terms, one per sample, of named inputs.

    inputs     name → array; its rows are what errors are measured on: x (N, D), W (C, D), b (C,), scalars ()
    terms      terms(xp, inputs, rows) → (…, R): the terms of the samples `rows` at inputs whose leading axes "…"
               hold many copies at once
    rowwise    inputs whose row i enters only term i
    scale      name → (rows,) natural scale of the gradient. A missing name is measured against the witness's own
    rounding   name → (rows,) bound of the error of the textbook form, and of a correct pass, in float64
    unit       name → (rows,) the length > 0 in which a witness steps
    step       name → (rows,) its first step in that unit; 0 where a kink or jump is too near
    noise      (N,) bound of the rounding error of each term
    vanishes   name → (rows,) bool: nothing can arrive there, so that the gradient must be exactly 0
    blind      (N,) bool: terms whose derivative float64 arithmetic cannot give at all
    pass_error name → (rows,) how far a correct float64 backward may be off. Used instead of `rounding` by the ball
               witness, which has no rounding error
    """

    inputs: dict[str, np.ndarray]
    terms: Callable[..., Any]
    rowwise: frozenset[str] = frozenset()
    scale: dict[str, np.ndarray] = field(default_factory=dict)
    rounding: dict[str, np.ndarray] = field(default_factory=dict)
    unit: dict[str, np.ndarray] = field(default_factory=dict)
    step: dict[str, np.ndarray] = field(default_factory=dict)
    noise: np.ndarray = field(default_factory=lambda: np.zeros(0))
    runs_everywhere: bool = True  # False: only on real NumPy arrays, one copy at a time
    target_angle: TargetAngle | None = None  # of a margin loss
    weight: float = 1.0  # the gradient is this times that of `terms`
    vanishes: dict[str, np.ndarray] = field(default_factory=dict)
    blind: np.ndarray | None = None
    pass_error: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        return len(self.noise)


def loss_problem(
    loss: Any, x: np.ndarray, W: np.ndarray, targets: Any, b: np.ndarray | None, upstream: np.ndarray
) -> Problem:
    """Σ_i upstream_i ℓ_i / divisor of a loss of the family; x, W, b, upstream float64, targets as in `steps`."""
    N, D = x.shape
    C = len(W)
    xp = numpy_namespace
    w = np.ones(C) if loss.class_weights is None else np.array(loss.class_weights)
    valid = ~targets.ignored
    t = np.where(valid[:, None], (1 - loss.label_smoothing) * targets.matrix + loss.label_smoothing / C, 0.0)
    divisor = _divisor(loss.reduction, targets.matrix, w, valid)
    share = np.where(valid, np.broadcast_to(upstream / divisor, N), 0.0) if divisor else np.zeros(N)
    weight = float(np.max(np.abs(share), initial=0.0)) or 1.0
    share = share / weight  # so that a tiny upstream does not drown the witnesses in subnormals

    # a sample that counts nothing may lie where the formula has no value: it is moved to where it has one
    counts = share != 0
    x = np.where(counts[:, None], x, _harmless(D))
    y = targets.matrix if targets.labels is not None else np.zeros((N, C))
    y = np.where(counts[:, None], y, np.eye(C)[np.argmax(row_norm(W))]) if loss.has_margin else y

    inputs: dict[str, Any] = {"x": x, "W": W}
    if b is not None:
        inputs["b"] = b
    names = differentiable(loss)
    inputs |= {name: np.float64(getattr(loss, name)) for name in names}

    q = parameters(loss)
    q.zero_x, q.zero_W = row_norm(x) == 0, row_norm(W) == 0
    angle = _target_angle(loss, q, x, W, y) if loss.has_margin else None
    frozen: dict[int, Any] = {}

    def offset(xp: Any) -> Any:
        if id(xp) not in frozen:
            frozen[id(xp)] = formulas.frozen_offset(xp, q, x, W, y)
        return frozen[id(xp)]

    def logits(xp: Any, given: dict[str, Any], rows: Any) -> Any:
        now = {name: given[name] for name in names} | {"zero_x": q.zero_x[rows], "zero_W": q.zero_W}
        here = parameters(loss, **now, frozen=offset(xp)[rows] if q.detach_margin else None)
        return q.logits(xp, here, given["x"], given["W"], given.get("b"), y[rows])

    def terms(xp: Any, given: dict[str, Any], rows: Any) -> Any:
        return share[rows] * formulas.cross_entropy(xp, logits(xp, given, rows), t[rows], w)

    problem = Problem(inputs, terms, rowwise=frozenset({"x"}), target_angle=angle, weight=weight)
    if angle is not None:
        # without zero_norm="zero" the formula has no direction to give a zero row (legal where m = 1)
        undefined = (q.zero_x | q.zero_W[y.argmax(axis=1)]) & (loss.zero_norm != "zero")
        problem.blind = counts & ((angle.pole < NEAR_POLE) | angle.on_jump | undefined)
    with np.errstate(all="ignore"):
        z = logits(xp, inputs, np.arange(N))
        p = np.exp(z - xp.logsumexp(z)[:, None])
        mass = np.sum(w * t, axis=1, keepdims=True)  # Σ_c w_c t_c
        felt = np.abs(share)[:, None] * (p * mass + w * t)  # the terms of g_j before they cancel
        G = felt
        hard = targets.labels is not None and loss.label_smoothing == 0
        if hard:  # |g_j|, 1 − p_y as a sum
            one = targets.matrix
            others = np.sum(p * (1 - one), axis=1, keepdims=True)
            G = np.abs(share)[:, None] * np.where(one > 0, others, p) * mass
        nothing = ~counts[:, None] | (mass == 0) | ((C == 1) & hard)  # (N, 1) samples without any gradient
        # a probability among the subnormals is off by its last bit
        felt = felt + 4 * TINY / U * np.abs(share)[:, None] * mass
        J = _jacobian_norms(problem, loss, logits, z)
        size = radius_of(loss).of(row_norm(x), row_norm(W))
        off, own = _logit_error(z, size, D, y, angle), _logit_error(z, size, D, y, None)
        _measure(problem, loss, J, G, felt, off, own, size, y, nothing)
        # how far rounding moves each term: its logits, and the cross-entropy itself
        losses = formulas.cross_entropy(xp, z, t, w)
        problem.noise = np.abs(share) * (off[:, 0] * mass[:, 0] + rounding_of(D, C) * losses)
    return problem


NEAR_POLE = 1e-6  # radians; there arccos of a rounded cosine has no derivative to speak of


def _harmless(D: int) -> np.ndarray:
    """A feature in general position."""
    return np.cos(1.0 + np.arange(D) ** 2)


def rounding_of(D: int, C: int) -> float:
    """Room for the roundings of a dot product of D terms and a sum of C: generous, and still tiny."""
    return 8.0 * (D + C + 8) * U


def _logit_error(z: np.ndarray, size: np.ndarray, D: int, y: np.ndarray, angle: TargetAngle | None) -> np.ndarray:
    """(N, 1) how far each row's logits may be off: by their own rounding, and the target's by arccos."""
    largest = np.max(np.maximum(np.abs(z), size), axis=1, initial=0.0)
    off = rounding_of(D, z.shape[1]) * np.maximum(largest, 1.0)[:, None]
    return off if angle is None else off + np.sum(y * angle.radius, axis=1, keepdims=True) * angle.drift


def _measure(
    problem: Problem, loss: Any, J: dict[str, np.ndarray], G: np.ndarray, felt: np.ndarray, off: np.ndarray,
    own: np.ndarray, size: np.ndarray, y: np.ndarray, nothing: np.ndarray,
) -> None:  # fmt: skip
    """Fills in natural scale, rounding, unit and first step of every input.

    G, felt, size, y: (N, C); off, own (without arccos), nothing: (N, 1), see above.
    """
    x, W, weight = problem.inputs["x"], problem.inputs["W"], problem.weight
    angle = problem.target_angle
    units = {
        "x": or_one(row_norm(x)),
        "W": or_one(row_norm(W)),
        "b": np.ones(len(W)),
        "scale": np.array([getattr(loss, "scale", 1.0)]),
        "margin": np.ones(1),
        "alpha": np.array([getattr(loss, "alpha", 1.0)]),
    }
    c = rounding_of(x.shape[1], len(W))
    for name in problem.inputs:
        axis = {"x": 1, "W": 0, "b": 0}.get(name)  # of (N, C), summed; scalars sum both
        length = units[name][:, None] if name == "x" else units[name]
        # the logits' error; and what is left of z_j's size where a projection cancels
        rounding = off * felt * J[name] + (0 if name == "b" else c * felt * size / length)
        if angle is not None:  # the target's own slope: along the tangent, or in a parameter
            slope = angle.drift if name == "scale" else angle.unsure * angle.radius / length
            rounding = rounding + y * felt * slope
        # besides: a zero W_j or x_i as the other factor, one dimension to turn in, a margin that is detached
        idle = (size == 0) | _cannot_turn(loss, name, x.shape[1]) | (name == "margin" and loss.detach_margin)
        fixed = nothing | (J[name] == 0) & idle
        problem.vanishes[name] = np.atleast_1d(np.all(fixed, axis=axis))
        problem.scale[name] = weight * np.atleast_1d(np.sum(G * J[name], axis=axis))
        lost = 0 if name == "b" else 8 * TINY * np.sum(size / length, axis=axis)  # where g_ij is subnormal
        problem.rounding[name] = weight * np.atleast_1d(np.sum(rounding, axis=axis)) + lost
        # a pass that keeps 1 − p_y and θ apart from rounding errs relative to the terms of g themselves
        kept_apart = own * G * J[name] + (0 if name == "b" else c * G * size / length)
        problem.pass_error[name] = weight * np.atleast_1d(np.sum(kept_apart, axis=axis)) + lost
        problem.unit[name] = units[name]
        problem.step[name] = _first_step(name, J[name] * length, y, angle, getattr(loss, "margin", 1.0))


def _cannot_turn(loss: Any, name: str, D: int) -> bool:
    """In one dimension a row that is normalised has only two directions, and no gradient."""
    return D == 1 and member_of(loss).zero_rows.get(name) == "every"


def _divisor(reduction: str, target: np.ndarray, w: np.ndarray, valid: np.ndarray) -> float:
    if reduction == "mean":
        return float(valid.sum())
    if reduction == "weighted_mean":
        return float((target * w)[valid].sum())
    return 1.0


@dataclass
class TargetAngle:
    """The target's angle by the textbook, and what its arccos costs."""

    theta: np.ndarray  # (N,)
    radius: np.ndarray  # (N, C)
    drift: np.ndarray  # (N, 1) error of ψ(θ) that comes of arccos
    unsure: np.ndarray  # (N, 1) error of the tangential slope, in units of the radius
    near: np.ndarray  # (N,) distance to the nearest pole, knot, kink or jump
    pole: np.ndarray  # (N,) distance to the nearest pole
    on_jump: np.ndarray  # (N,) bool: rounding decides the side of a jump or kink


def _target_angle(loss: Any, q: SimpleNamespace, x: np.ndarray, W: np.ndarray, y: np.ndarray) -> TargetAngle:
    xp, D = numpy_namespace, x.shape[1]
    with np.errstate(all="ignore"):
        theta = formulas.theta(xp, q, x, W, y)
        behind = np.sum(x * (y @ W), axis=1) < 0
        theta = np.where(np.isfinite(theta), theta, np.where(behind, np.pi, 0.0))  # |cos| rounded past 1
        sin = np.sin(theta)

        def psi(angle: np.ndarray) -> np.ndarray:
            if loss.detach_margin:
                return np.cos(angle)
            return q.target(complex_namespace, q, angle)

        h, apart = 1e-30, 1e-5
        slope = np.imag(psi(theta + 1j * h)) / h
        after, before = (np.imag(psi(theta + side + 1j * h)) / h for side in (apart, -apart))
        bend = np.maximum(np.abs(after - slope), np.abs(slope - before)) / apart
        moved = np.imag(q.target(complex_namespace, q, theta + 1j * h)) / h
        # θ = arccos c moves by (D + 4)u / sin θ, and its own slope 1/sin θ by that over sin θ again
        off = 8 * (D + 4) * U / sin
        drift = np.maximum(np.abs(slope), np.abs(moved)) * off
        unsure = off * (np.abs(bend) + np.abs(slope) / sin)
        near = pole = np.minimum(theta, np.pi - theta)
        jump = np.full(len(theta), np.inf)
        if getattr(loss, "past_pi", "cos") == "linear":
            jump = np.minimum(jump, np.abs(np.pi - loss.margin - theta))
        if getattr(loss, "easy_margin", False):
            jump = np.minimum(jump, np.abs(np.pi / 2 - theta))
        if q.continuation is not None:
            jump = np.minimum(jump, np.abs(np.pi / loss.margin - theta))
        near = np.minimum(near, jump)
        if q.continuation is None and member_of(loss).multiplies_angle:  # at kπ/m the second derivative jumps
            branch, last = np.pi / loss.margin, loss.margin - 1
            knot = np.clip(np.round(theta / branch), 1, max(last, 1)) * branch
            near = np.minimum(near, np.abs(knot - theta)) if last else near
        r = radius_of(loss).of(row_norm(x), row_norm(W))
    near = np.where(y.any(axis=1), near, np.pi)
    return TargetAngle(theta, r, drift[:, None], unsure[:, None], near, pole, jump <= 2 * off)


def _jacobian_norms(problem: Problem, loss: Any, logits: Callable, z: np.ndarray) -> dict[str, np.ndarray]:
    """name → (N, C): ‖∇ z_ij‖ in that input, by complex step; z_ij sees only row i of x and row j of W."""
    everyone = np.arange(len(problem.inputs["x"]))
    h, norms = 1e-30, {}
    for name, value in problem.inputs.items():
        rows = as_rows(value)
        unit = or_one(row_norm(rows))[:, None]
        squares = np.zeros(z.shape)
        for d in range(rows.shape[1]):
            moved = rows.astype(complex)
            moved[:, d] += 1j * h * unit[:, 0]
            given = problem.inputs | {name: moved.reshape(value.shape) if value.ndim else moved[0, 0]}
            squares += (np.imag(logits(complex_namespace, given, everyone)) / h) ** 2
        per_row = unit if name == "x" else unit[:, 0]
        norms[name] = np.sqrt(squares) / per_row
        if _cannot_turn(loss, name, rows.shape[1]):  # what is left of the derivative is rounding
            turned = norms[name] * per_row <= 64 * U * np.maximum(np.abs(z), 1e-300)
            norms[name] = np.where(turned, 0.0, norms[name])
    return norms


def _first_step(name: str, change: np.ndarray, y: np.ndarray, angle: TargetAngle | None, m: float) -> np.ndarray:
    """(rows,) a first step that changes no logit by much more than 1/4 and stays off kinks and poles.

    change: (N, C), how far each logit moves in one unit of the input.
    """
    gentle = 0.25 / np.maximum(np.nan_to_num(change, nan=0.0), 1.0)
    if angle is not None:
        turn = np.minimum(0.25 / max(float(m), 1.0), angle.near / 8)
        gentle = np.where(y > 0, np.minimum(gentle, turn[:, None]), gentle)
    if name == "x":
        return gentle.min(axis=1, initial=0.25)
    if name in ("W", "b"):
        return gentle.min(axis=0, initial=0.25)
    return np.atleast_1d(gentle.min(initial=0.25))
