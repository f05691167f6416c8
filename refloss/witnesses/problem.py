"""What the witnesses differentiate: Σ_i c_i ℓ_i, in the textbook form, and how small an error can be seen.

`loss_problem` builds it for a loss of the family. Natural scale and rounding follow from the textbook form alone
(its logits and their Jacobians by complex step); nothing here looks at the passes under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    moved_class  moved_class(xp, name, at, j) → (K, N): the terms with row j of W or b at each of K places, up to what
               does not depend on that row; or None
    compared   name → the rows whose gradient is in question; all of a missing name
    looked_at  name → those of them that a witness looks at which goes entry by entry; all of a missing name
    measure    fills in scale, rounding, unit, step, noise, vanishes and pass_error
    try_measure a part of that, for these samples, to see how long it takes
    tell       tell(what, pairs): so many pairs of sample and class were evaluated, see `work`
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
    moved_class: Callable[..., Any] | None = None
    compared: Mapping[str, np.ndarray] = field(default_factory=dict)
    looked_at: Mapping[str, np.ndarray] = field(default_factory=dict)
    measure: Callable[[], None] = lambda: None
    try_measure: Callable[[np.ndarray], None] = lambda rows: None
    tell: Callable[[str, float], None] = lambda what, pairs: None

    @property
    def samples(self) -> int:
        return len(self.noise)

    @property
    def batch(self) -> int:
        """How many rows x has, whether or not each is a term of its own."""
        return len(self.inputs["x"]) if "x" in self.inputs else self.samples

    @property
    def classes(self) -> int:
        """How many logits a sample has; 1 without W."""
        return len(self.inputs["W"]) if "W" in self.inputs else 1

    def rows(self, name: str) -> np.ndarray:
        """The rows of this input whose gradient is in question."""
        return self.compared.get(name, np.arange(len(as_rows(self.inputs[name]))))

    def looked(self, name: str) -> np.ndarray:
        """The rows of this input that a witness looks at which goes entry by entry."""
        return self.looked_at.get(name, self.rows(name))

    def blocks(self, most: float) -> Iterator[np.ndarray]:
        """The samples, in blocks of at most `most` pairs of sample and class; all at once if no input is rowwise."""
        size = max(int(most / max(self.classes, 1)), 1) if self.rowwise else max(self.samples, 1)
        for start in range(0, max(self.samples, 1), size):
            yield np.arange(start, min(start + size, self.samples))

    def at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of these samples."""
        return {name: value[rows] if name in self.rowwise else value for name, value in self.inputs.items()}


def loss_problem(
    loss: Any, x: np.ndarray, W: np.ndarray, targets: Any, b: np.ndarray | None, upstream: np.ndarray
) -> Problem:
    """Σ_i upstream_i ℓ_i / divisor of a loss of the family; x, W, b, upstream float64, targets as in `steps`."""
    problem = stated(loss, x, W, targets, b, upstream)
    problem.measure()
    return problem


def stated(
    loss: Any, x: np.ndarray, W: np.ndarray, targets: Any, b: np.ndarray | None, upstream: np.ndarray
) -> Problem:
    """`loss_problem` before it is measured."""
    N, D = x.shape
    C = len(W)
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
    y = np.where(counts[:, None], y, np.eye(1, C, int(np.argmax(row_norm(W))))) if loss.has_margin else y

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

    def logits(xp: Any, given: dict[str, Any], rows: Any, y: Any, zero_W: Any) -> Any:
        now = {name: given[name] for name in names} | {"zero_x": q.zero_x[rows], "zero_W": zero_W}
        here = parameters(loss, **now, frozen=offset(xp)[rows] if q.detach_margin else None)
        return q.logits(xp, here, given["x"], given["W"], given.get("b"), y)

    def terms(xp: Any, given: dict[str, Any], rows: Any) -> Any:
        z = logits(xp, given, rows, y[rows], q.zero_W)
        return share[rows] * formulas.cross_entropy(xp, z, t[rows], w)

    problem = Problem(inputs, terms, frozenset({"x"}), noise=np.zeros(N), target_angle=angle, weight=weight)
    if angle is not None:
        # without zero_norm="zero" the formula has no direction to give a zero row (legal where m = 1)
        undefined = (q.zero_x | q.zero_W[y.argmax(axis=1)]) & (loss.zero_norm != "zero")
        problem.blind = counts & ((angle.pole < NEAR_POLE) | angle.on_jump | undefined)
    if min(C, D) > 1:  # else there is no rest, or no angle
        problem.moved_class = _MovedClass(problem, logits, q.zero_W, y, t * w, share, loss.has_margin)
    hard = targets.labels is not None and loss.label_smoothing == 0
    measure = _Measure(problem, loss, logits, q.zero_W, y, t, w, share, targets.matrix, hard)
    problem.measure, problem.try_measure = measure.every_block, measure.one_block
    return problem


class _MovedClass:
    """`Problem.moved_class` of a loss of the family, whose logit z_ij sees no other row of W and b than row j.

    With L_i = log Σ_{k≠j} e^{z_ik} held, log Σ_k e^{z_ik} = log(e^{z_ij} + e^{L_i}): the cross-entropy is that of two
    logits, z_ij and L_i, but for the sum of the w_c t_c (L_i − z_ic), which do not depend on row j.
    """

    def __init__(
        self, problem: Problem, logits: Callable, zero_W: np.ndarray, y: np.ndarray, wt: np.ndarray, share: np.ndarray,
        has_margin: bool,
    ) -> None:  # fmt: skip
        self.problem, self.logits, self.zero_W, self.y, self.wt, self.share = problem, logits, zero_W, y, wt, share
        self.has_margin = has_margin
        self.rest: dict[int, np.ndarray] = {}  # class → (N, 2): L_i; Σ_{c≠j} w_c t_c

    def __call__(self, xp: Any, name: str, at: np.ndarray, j: int) -> Any:
        if j not in self.rest:
            self._hold()
        held = self.rest[j]
        inputs, K, N = self.problem.inputs, len(at), self.problem.samples
        W = at if name == "W" else np.repeat(inputs["W"][j : j + 1], K, axis=0)
        b = None if "b" not in inputs else at if name == "b" else np.repeat(inputs["b"][j : j + 1], K)
        hit = (self.y[:, j] > 0) & self.has_margin
        z = np.empty((K, N), dtype=at.dtype)
        if (~hit).any():  # the copies as so many classes, beside a zero row that has the target's part
            rows, zero = np.flatnonzero(~hit), np.append(np.full(K, self.zero_W[j]), True)
            given = {"x": inputs["x"][rows], "W": np.concatenate([W, 0 * W[:1]])}
            given |= {} if b is None else {"b": np.append(b, 0)}
            z[:, rows] = self.logits(xp, inputs | given, rows, np.eye(1, K + 1, K).repeat(len(rows), 0), zero)[:, :K].T
        if hit.any():
            rows = np.flatnonzero(hit)
            given = {"x": inputs["x"][rows], "W": W[:, None]} | ({} if b is None else {"b": b[:, None]})
            z[:, rows] = self.logits(xp, inputs | given, rows, np.ones((len(rows), 1)), self.zero_W[j : j + 1])[..., 0]
        # the short axis comes last, and lies outermost in memory: sums over it are then sums of long rows
        two = np.moveaxis(np.stack(np.broadcast_arrays(z, held[:, 0])), 0, -1)
        t = np.stack([self.wt[:, j], held[:, 1]], axis=-1)
        return self.share * formulas.cross_entropy(xp, two, t, np.ones(2))

    def _hold(self) -> None:
        """`rest` of all classes that are looked at."""
        classes = np.unique(
            np.concatenate([self.problem.looked(name) for name in ("W", "b") if name in self.problem.inputs])
        )
        self.rest = {int(j): np.empty((self.problem.samples, 2)) for j in classes}
        for rows in self.problem.blocks(AT_ONCE):
            z = self.logits(numpy_namespace, self.problem.at(rows), rows, self.y[rows], self.zero_W)
            largest = np.max(z, axis=1)
            exps, wt = np.exp(z - largest[:, None]), self.wt[rows]
            total, mass = np.sum(exps, axis=1), np.sum(wt, axis=1)
            for j, held in self.rest.items():
                with np.errstate(divide="ignore", invalid="ignore"):  # of the rows that are mended below
                    L, left = np.log(total - exps[:, j]) + largest, mass - wt[:, j]
                # where j has a large part, what is left of a difference is rounding
                most = np.flatnonzero((exps[:, j] > total / 4) | (np.abs(wt[:, j]) > np.abs(mass) / 4))
                L[most] = numpy_namespace.logsumexp(np.delete(z[most], j, axis=1))
                left[most] = np.sum(np.delete(wt[most], j, axis=1), axis=1)
                held[rows] = np.stack([L, left], axis=-1)


class _Measure:
    """`Problem.measure` of a loss of the family: natural scale, rounding, unit and step of every input, and noise.

    zero_W (C,), y, t, one (N, C), w (C,), share (N,): see `stated`; one: the labels, one-hot, whatever they count
    hard  no smoothing and no soft targets
    """

    def __init__(
        self, problem: Problem, loss: Any, logits: Callable, zero_W: np.ndarray, y: np.ndarray, t: np.ndarray,
        w: np.ndarray, share: np.ndarray, one: np.ndarray, hard: bool,
    ) -> None:  # fmt: skip
        self.problem, self.loss, self.logits, self.zero_W, self.y, self.t = problem, loss, logits, zero_W, y, t
        self.w, self.share, self.one, self.hard = w, share, one, hard
        x, W = problem.inputs["x"], problem.inputs["W"]
        self.lengths = row_norm(x), row_norm(W)
        self.units = {
            "x": or_one(self.lengths[0]),
            "W": or_one(self.lengths[1]),
            "b": np.ones(len(W)),
            "scale": np.array([getattr(loss, "scale", 1.0)]),
            "margin": np.ones(1),
            "alpha": np.array([getattr(loss, "alpha", 1.0)]),
        }

    def every_block(self) -> None:
        """`Problem.measure`."""
        self.start()
        for rows in self.problem.blocks(measured_at_once(self.problem)):
            self.block(rows)
            self.problem.tell("measure", len(rows) * self.problem.classes)

    def one_block(self, rows: np.ndarray) -> None:
        """`Problem.try_measure`."""
        self.start()
        self.block(rows)

    def start(self) -> None:
        """Nothing is known yet."""
        problem = self.problem
        count = {name: len(as_rows(value)) for name, value in problem.inputs.items()}
        for of in (problem.scale, problem.rounding, problem.pass_error):
            of |= {name: np.zeros(rows) for name, rows in count.items()}
        problem.vanishes |= {name: np.ones(rows, dtype=bool) for name, rows in count.items()}
        problem.step |= {name: np.full(rows, 0.25) for name, rows in count.items()}
        problem.unit |= {name: self.units[name] for name in count}

    def block(self, rows: np.ndarray) -> None:
        """Adds what these samples contribute."""
        problem, loss, xp = self.problem, self.loss, numpy_namespace
        x, W = problem.inputs["x"], problem.inputs["W"]
        (N, D), C = x[rows].shape, len(W)
        y, t, w, share = self.y[rows], self.t[rows], self.w, np.abs(self.share[rows])[:, None]
        angle = problem.target_angle and problem.target_angle.of(rows)
        with np.errstate(all="ignore"):
            z = self.logits(xp, problem.at(rows), rows, y, self.zero_W)
            p = np.exp(z - xp.logsumexp(z)[:, None])
            mass = np.sum(w * t, axis=1, keepdims=True)  # Σ_c w_c t_c
            felt = share * (p * mass + w * t)  # the terms of g_j before they cancel
            G = felt
            if self.hard:  # |g_j|, 1 − p_y as a sum
                one = self.one[rows]
                others = np.sum(p * (1 - one), axis=1, keepdims=True)
                G = share * np.where(one > 0, others, p) * mass
            nothing = (share == 0) | (mass == 0) | ((C == 1) & self.hard)  # (N, 1) samples without any gradient
            # a probability among the subnormals is off by its last bit
            felt = felt + 4 * TINY / U * share * mass
            size = radius_of(loss).of(self.lengths[0][rows], self.lengths[1])
            own = _logit_error(z, size, D, y, None)
            off = _logit_error(z, size, D, y, angle)
            plane = _Plane(x[rows], W, self.lengths[0][rows], self.lengths[1])
            for name in problem.inputs:
                # the rows of this input in question: of x among these samples, of W and b among the classes
                i, j = np.arange(N), np.arange(C)
                if name == "x":
                    i = np.flatnonzero(np.isin(rows, problem.rows(name)))
                elif name in ("W", "b"):
                    j = problem.rows(name)
                if not (len(i) and len(j)):
                    continue
                pairs: Any = np.ix_(i, j) if (len(i), len(j)) != (N, C) else ...
                J = self._jacobian_norms(name, plane, rows, i, j, z[pairs])
                part = None if angle is None else angle.of(i)
                self._add(
                    name, rows[i], j, J, G[pairs], felt[pairs], off[i], own[i], size[pairs], y[pairs], nothing[i], part
                )
            # how far rounding moves each term: its logits, and the cross-entropy itself
            losses = formulas.cross_entropy(xp, z, t, w)
            problem.noise[rows] = share[:, 0] * (off[:, 0] * mass[:, 0] + rounding_of(D, C) * losses)

    def _add(
        self, name: str, i: np.ndarray, j: np.ndarray, J: np.ndarray, G: np.ndarray, felt: np.ndarray, off: np.ndarray,
        own: np.ndarray, size: np.ndarray, y: np.ndarray, nothing: np.ndarray, angle: TargetAngle | None,
    ) -> None:  # fmt: skip
        """Of one input, from samples i and classes j; arrays (i, j), but off, own (without arccos), nothing (i, 1)."""
        problem, loss = self.problem, self.loss
        D, c = problem.inputs["x"].shape[1], rounding_of(*problem.inputs["W"].shape[::-1])
        axis = {"x": 1, "W": 0, "b": 0}.get(name)  # summed; scalars sum both
        at = {"x": i, "W": j, "b": j}.get(name, np.arange(1))
        unit = self.units[name][at]
        length = unit[:, None] if name == "x" else unit
        # the logits' error; and what is left of z_j's size where a projection cancels
        rounding = off * felt * J + (0 if name == "b" else c * felt * size / length)
        if angle is not None:  # the target's own slope: along the tangent, or in a parameter
            slope = angle.drift if name == "scale" else angle.unsure * size / length
            rounding = rounding + y * felt * slope
        # besides: a zero W_j or x_i as the other factor, one dimension to turn in, a margin that is detached
        idle = (size == 0) | _cannot_turn(loss, name, D) | (name == "margin" and loss.detach_margin)
        lost = 0 if name == "b" else 8 * TINY * np.sum(size / length, axis=axis)  # where g_ij is subnormal
        # a pass that keeps 1 − p_y and θ apart from rounding errs relative to the terms of g themselves
        kept_apart = own * G * J + (0 if name == "b" else c * G * size / length)
        problem.scale[name][at] += problem.weight * np.sum(G * J, axis=axis)
        problem.rounding[name][at] += problem.weight * np.sum(rounding, axis=axis) + lost
        problem.pass_error[name][at] += problem.weight * np.sum(kept_apart, axis=axis) + lost
        problem.vanishes[name][at] &= np.all(nothing | (J == 0) & idle, axis=axis)
        gentle = _gentle_step(J * length, y, angle, getattr(loss, "margin", 1.0))
        problem.step[name][at] = np.minimum(problem.step[name][at], gentle.min(axis=axis, initial=0.25))

    def _jacobian_norms(
        self, name: str, plane: _Plane, rows: np.ndarray, i: np.ndarray, j: np.ndarray, z: np.ndarray
    ) -> np.ndarray:
        """(i, j): ‖∇ z_ij‖ in that input, by complex step in the plane of x_i and W_j; z_ij sees no other rows.

        A logit of the family is a function of ‖x_i‖, ‖W_j‖ and their angle: turning both changes neither it nor the
        length of its gradient.
        """
        problem, h = self.problem, 1e-30
        x, W = plane.x[i], plane.W if plane.W.shape[:2] == (len(i), len(j)) else plane.W[np.ix_(i, j)]
        y, zero = self.y[rows[i]][:, j][:, None], self.zero_W[j]
        b = problem.inputs.get("b")
        b = None if b is None else b[j]
        whole = len(j) == self.y.shape[1]
        if not whole:  # besides, a zero row that has the target's part where the target is not among them
            W, zero = np.concatenate([W, np.zeros((len(i), 1, W.shape[-1]))], axis=1), np.append(zero, True)
            y, b = (
                np.concatenate([y, 1 - y.sum(axis=-1, keepdims=True)], axis=-1),
                None if b is None else np.append(b, 0),
            )
        given = problem.inputs | {"x": x, "W": W} | ({} if b is None else {"b": b})
        value = np.asarray(given[name])
        own = {"x": self.units["x"][rows[i]], "W": self.units["W"][j]}.get(
            name, self.units[name] if value.ndim == 0 else np.ones(1)
        )
        step = np.append(own, 1.0) if name == "W" and not whole else own
        squares = np.zeros(z.shape)
        for d in range(value.shape[-1] if name in ("x", "W") else 1):
            moved = value.astype(complex)
            if name == "x":
                moved[:, 0, d] += 1j * h * step
            elif name == "W":
                moved[:, :, d] += 1j * h * step
            else:
                moved = moved + 1j * h * (step[0] if value.ndim == 0 else 1.0)
            found = self.logits(complex_namespace, given | {name: moved}, rows[i][:, None], y, zero)
            squares += (np.imag(found)[:, 0, : len(j)] / h) ** 2
        unit = own[:, None] if name == "x" else own
        norms = np.sqrt(squares) / unit
        if _cannot_turn(self.loss, name, problem.inputs["x"].shape[1]):  # what is left of the derivative is rounding
            norms = np.where(norms * unit <= 64 * U * np.maximum(np.abs(z), 1e-300), 0.0, norms)
        return norms


def measured_at_once(problem: Problem) -> float:
    """Pairs of sample and class: what stays in a cache, unless so few samples would not pay for a pass over W."""
    return min(max(PAIRS, SAMPLES * problem.classes), AT_ONCE)


class _Plane:
    """Every pair x_i, W_j turned into its own plane: x (N, 1, 2) on the first axis, W (N, C, 2). Up to D = 2 as is."""

    def __init__(self, x: np.ndarray, W: np.ndarray, x_norm: np.ndarray, W_norm: np.ndarray) -> None:
        (N, D), C = x.shape, len(W)
        if D <= 2:
            self.x, self.W = x[:, None], np.broadcast_to(W, (N, C, D))
            return
        ahead = x / or_one(x_norm)[:, None]
        along = ahead @ W.T
        cos = along / or_one(W_norm)
        across = W_norm * np.sqrt(np.maximum((1 - cos) * (1 + cos), 0.0))
        i, j = np.nonzero((1 - np.abs(cos) < NEAR) & (W_norm > 0))  # there 1 − cos² has lost its digits
        for start in range(0, len(i), int(AT_ONCE / D) + 1):
            at = i[start : start + int(AT_ONCE / D) + 1], j[start : start + int(AT_ONCE / D) + 1]
            across[at] = row_norm(W[at[1]] - along[at][:, None] * ahead[at[0]])
        self.x = np.stack([x_norm, np.zeros(N)], axis=-1)[:, None]
        self.W = np.moveaxis(np.stack([along, across]), 0, -1)


NEAR = 1e-4
PAIRS, SAMPLES = 1 << 17, 64
AT_ONCE = 4e6  # numbers that a witness may hold in one array


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
    return off if angle is None else off + np.sum(y * size, axis=1, keepdims=True) * angle.drift


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
    drift: np.ndarray  # (N, 1) error of ψ(θ) that comes of arccos
    unsure: np.ndarray  # (N, 1) error of the tangential slope, in units of the radius
    near: np.ndarray  # (N,) distance to the nearest pole, knot, kink or jump
    pole: np.ndarray  # (N,) distance to the nearest pole
    on_jump: np.ndarray  # (N,) bool: rounding decides the side of a jump or kink

    def of(self, rows: np.ndarray) -> TargetAngle:
        """That of these samples."""
        return TargetAngle(**{name: value[rows] for name, value in vars(self).items()})


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
    near = np.where(y.any(axis=1), near, np.pi)
    return TargetAngle(theta, drift[:, None], unsure[:, None], near, pole, jump <= 2 * off)


def _gentle_step(change: np.ndarray, y: np.ndarray, angle: TargetAngle | None, m: float) -> np.ndarray:
    """(N, C) a first step that changes that logit by not much more than 1/4 and stays off kinks and poles.

    change: (N, C), how far each logit moves in one unit of the input.
    """
    gentle = 0.25 / np.maximum(np.nan_to_num(change, nan=0.0), 1.0)
    if angle is not None:
        turn = np.minimum(0.25 / max(float(m), 1.0), angle.near / 8)
        gentle = np.where(y > 0, np.minimum(gentle, turn[:, None]), gentle)
    return gentle
