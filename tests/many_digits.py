"""The textbook form in as many digits as a test asks for: mpmath's arithmetic, derivatives by complex step there.

The formulas are refloss's textbook forms. The arithmetic and the differentiation share nothing with any pass, nor with
any witness in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np

from refloss.textbook import formulas
from refloss.textbook.family import differentiable, parameters
from refloss.textbook.namespaces import from_module

U = 2.0**-53
SUBNORMAL = 5e-324
DIGITS = 80  # of a witnesses' problem: a complex function is right normwise, a part of 1e-30 keeps 50 of them


def _each(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return np.frompyfunc(function, 1, 1)


def exact(array: Any) -> np.ndarray:
    """A float64 array, converted without rounding."""
    return _each(mpmath.mpf)(np.asarray(array, dtype=float))


NAMES = ("sqrt", "exp", "log", "cos", "sin", "floor")
namespace = from_module(
    np,
    constant=exact,
    pi=mpmath.pi,
    arccos=_each(mpmath.acos),
    real=_each(mpmath.re),
    logsumexp=lambda z: namespace.log(np.sum(namespace.exp(z), axis=-1)),
    **{name: _each(getattr(mpmath, name)) for name in NAMES},
)


def slopes_by_column(f: Callable[[Any], Any], value: Any, step: Any, length: Any = None) -> np.ndarray:
    """∂f of a matrix (rows, D) whose rows do not share any output, by a complex step of each column; (…, D).

    length: (rows,) by which each row's step is stretched; f's slopes are still those of a step of `step`.
    """
    length = 1 if length is None else length
    columns = []
    for d in range(value.shape[1]):
        moved = value.copy()
        moved[:, d] = moved[:, d] + mpmath.mpc(0, step) * length
        columns.append(_each(mpmath.im)(f(moved)) / step)
    return np.stack(columns, axis=-1)


# -- a problem of the witnesses --------------------------------------------------------------------


def value_and_gradients(problem: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(terms, name → gradient of their sum) of a `refloss.witnesses.problem.Problem`, rounded to float64 at the end."""
    with mpmath.workdps(DIGITS):
        inputs = {
            name: exact(value) if np.ndim(value) else mpmath.mpf(float(value)) for name, value in problem.inputs.items()
        }
        step, everyone = mpmath.mpf(10) ** -30, np.arange(problem.samples)  # truncation: the step's square

        def gradient(name: str) -> Any:
            value = inputs[name]

            def terms(moved: Any) -> np.ndarray:
                return problem.terms(namespace, inputs | {name: moved}, everyone)

            if name in problem.rowwise:
                return slopes_by_column(terms, value, step)
            found = np.empty(np.shape(value), dtype=object)
            for entry in np.ndindex(found.shape):
                if found.ndim:
                    moved = value.copy()
                    moved[entry] += mpmath.mpc(0, step)
                else:
                    moved = value + mpmath.mpc(0, step)
                found[entry] = np.sum(_each(mpmath.im)(terms(moved))) / step
            return found

        terms = problem.terms(namespace, inputs, everyone)
        weighted = {name: problem.weight * gradient(name).astype(float) for name in inputs}
        return problem.weight * _each(mpmath.re)(terms).astype(float), weighted


# -- losses, gradients and natural scales ----------------------------------------------------------

# Nothing is rounded on the way: weights, smoothing and divisors are exact, and results stay in mpmath. Every z_ij sees
# only x_i, W_j and b_j, so that one step of a column of x or W gives that column of all Jacobians at once.


def truth(
    loss: Any, x: Any, W: Any, labels: Any, b: Any = None, upstream: Any = 1.0, digits: int = 100
) -> SimpleNamespace:
    """losses (N,), loss, gradients and scales by name, in mpmath; a scale is Σ_j G_j ‖∇z_j‖, terms before they cancel.

    digits: more than twice those of 1 − cos θ, of the smallest probability, of the complement; the step is
    10^−(digits/4).
    """
    with mpmath.workdps(digits):
        x, W = np.array(x, dtype=float), np.asarray(W, dtype=float)
        (N, _), C = x.shape, len(W)
        t, target, valid = _targets(loss, labels, N, C)
        y = target if np.ndim(labels) == 1 else np.zeros((N, C))
        x = np.where(valid[:, None], x, 1.0)  # nothing of an ignored row counts
        if loss.has_margin:
            y = np.where(valid[:, None], y, np.eye(C)[np.argmax(np.abs(W).max(axis=1))])
        q, step = _parameters(loss, x, W), mpmath.mpf(10) ** -(digits // 4)
        given = {"x": exact(x), "W": exact(W), "b": None if b is None else exact(b)}
        given |= {name: getattr(q, name) for name in differentiable(loss)}
        if q.detach_margin:
            q.frozen = formulas.frozen_offset(namespace, q, x, W, y)

        def logits(**moved: Any) -> np.ndarray:
            now = given | moved
            here = SimpleNamespace(**(vars(q) | {k: v for k, v in now.items() if k in vars(q)}))
            return q.logits(namespace, here, now["x"], now["W"], now["b"], y)

        J: dict[str, np.ndarray] = {}  # (N, C, D), or (N, C)
        for name, spread in (("x", (slice(None), None, None)), ("W", (slice(None), None))):
            value = given[name]
            length = exact(np.ldexp(1.0, np.frexp(np.abs(value.astype(float)).max(axis=1))[1]))
            found = slopes_by_column(lambda moved, name=name: logits(**{name: moved}), value, step, length)
            J[name] = found / length[spread]
        if b is not None:
            J["b"] = exact(np.ones((N, C)))
        for name in differentiable(loss):
            J[name] = _each(mpmath.im)(logits(**{name: given[name] + mpmath.mpc(0, step)})) / step
        return _joined(loss, _each(mpmath.re)(logits()), t, target, valid, upstream, J)


def bare_truth(loss: Any, z: Any, targets: Any, upstream: Any = 1.0, digits: int = 100) -> SimpleNamespace:
    """The same of `refloss.CrossEntropy` on logits (N, C); −inf is a masked class."""
    with mpmath.workdps(digits):
        z = np.asarray(z, dtype=float)
        t, target, valid = _targets(loss, targets, *z.shape)
        return _joined(loss, exact(z), t, target, valid, upstream, {})


def _targets(loss: Any, labels: Any, N: int, C: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t (N, C) with smoothing, exactly; without, one-hot or soft, as float64; which rows count."""
    labels = np.asarray(labels)
    soft = labels.ndim == 2
    valid = np.ones(N, dtype=bool) if soft or loss.ignore_index is None else labels != loss.ignore_index
    target = labels.astype(float) if soft else np.eye(C)[np.where(valid, labels, 0)]
    epsilon = mpmath.mpf(loss.label_smoothing)
    t = exact(target) * (1 - epsilon) + epsilon / C
    t[~valid] = mpmath.mpf(0)
    return t, target, valid


def _parameters(loss: Any, x: np.ndarray, W: np.ndarray) -> Any:
    q = parameters(loss)
    for name in ("scale", "margin", "alpha", "annealing"):
        if isinstance(getattr(q, name, None), float):
            setattr(q, name, mpmath.mpf(getattr(q, name)))
    q.zero_x, q.zero_W = ~x.any(axis=1), ~W.any(axis=1)
    return q


def _joined(loss: Any, z: Any, t: Any, target: Any, valid: np.ndarray, upstream: Any, J: dict) -> SimpleNamespace:
    """Cross-entropy of z, its gradient g = share (p Σ w t − w t), and Σ g ∂z with the size of its terms."""
    N, C = z.shape
    w = exact(np.ones(C) if loss.class_weights is None else np.asarray(loss.class_weights))
    a = t * w
    mass = a.sum(axis=1, keepdims=True)
    top = z.max(axis=1, keepdims=True, initial=mpmath.mpf("-inf"))
    e = _each(_exp)(z - top)
    p = e / e.sum(axis=1, keepdims=True)
    losses = np.where(a == 0, mpmath.mpf(0), a * (top + namespace.log(e.sum(axis=1, keepdims=True)) - z)).sum(axis=1)
    divisor = {
        "none": mpmath.mpf(1),
        "sum": mpmath.mpf(1),
        "mean": mpmath.mpf(int(valid.sum())),
        "weighted_mean": (exact(target)[valid] * w).sum(),
    }[loss.reduction]
    share = exact(np.broadcast_to(np.asarray(upstream, dtype=float), (N,)) * valid)[:, None] / divisor
    g = share * (p * mass - a)
    terms = abs(share) * (p * mass + a)
    if loss.label_smoothing == 0 and np.isin(t.astype(float), (0.0, 1.0)).all():  # labels: |g| itself
        others = np.stack([np.delete(p, j, axis=1).sum(axis=1) for j in range(C)], axis=1)
        g = np.where(t == 1, -share * mass * others, share * mass * p)
        terms = abs(g)
    gradients, scales = {"logits": g}, {"logits": terms}
    for name, slopes in J.items():
        axis = {"x": 1, "W": 0, "b": 0}.get(name, (0, 1))
        each = slopes if slopes.ndim == 3 else slopes[:, :, None]
        gradient = (g[:, :, None] * each).sum(axis=axis)
        gradients[name] = gradient if slopes.ndim == 3 else gradient[..., 0]
        scales[name] = (terms * namespace.sqrt((each * each).sum(axis=2))).sum(axis=axis)
    loss_value = losses if loss.reduction == "none" else losses.sum() / divisor
    return SimpleNamespace(losses=losses, loss=loss_value, gradients=gradients, scales=scales, p=p)


def _exp(below: Any) -> Any:
    """e^below; 0 where that is beyond every digit asked for."""
    return mpmath.exp(below) if below > -(10**5) else mpmath.mpf(0)


# -- errors ----------------------------------------------------------------------------------------


def ulps(got: Any, due: Any) -> float:
    """The largest error of `got` in units in the last place of the true values (the smallest subnormal at least)."""
    got, due = np.ravel(np.asarray(got, dtype=float)), np.ravel(np.asarray(due, dtype=object))
    assert got.shape == due.shape
    assert np.isfinite(got).all(), got
    off = (abs(mpmath.mpf(a) - b) / float(np.spacing(abs(float(b)))) for a, b in zip(got, due, strict=True))
    return float(max(off, default=0.0))


def units(got: Any, due: Any, scale: Any) -> float:
    """The largest error in u of the natural scale, normwise along rows, one smallest subnormal an entry forgiven."""
    scale = np.asarray(scale, dtype=object)
    got, due = (np.reshape(v, (scale.size, -1)) for v in (np.asarray(got, dtype=float), due))
    assert np.isfinite(got).all(), got
    worst = 0.0
    for a, b, s in zip(got, due, scale.ravel(), strict=True):
        errors = [max(abs(mpmath.mpf(v) - w) - SUBNORMAL, 0) for v, w in zip(a, b, strict=True)]
        length = mpmath.sqrt(mpmath.fsum(v * v for v in errors))
        if length:
            assert s, f"a gradient without terms must be exactly 0, got {a}"
            worst = max(worst, float(length / (s * U)))
    return worst


def worst(loss: Any, inputs: dict, upstream: Any = 1.0, digits: int = 100) -> tuple[float, dict[str, float]]:
    """(ulp of losses and loss, u of every gradient) of a pass of `loss`, against `truth`."""
    due = truth(loss, **inputs, upstream=upstream, digits=digits)
    out = loss.forward(**inputs)
    grads = loss.backward(out, upstream)
    off = {name: units(getattr(grads, name), due.gradients[name], due.scales[name]) for name in due.gradients}
    return max(ulps(out.losses, due.losses), ulps(out.loss, due.loss)), off
