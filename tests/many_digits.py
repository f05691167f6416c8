"""Losses, gradients and their natural scales from the textbook form in as many digits as a test asks for.

The same independence as in `fifty_digits` (refloss' textbook formulas, mpmath's arithmetic, derivatives by complex
step), but nothing is rounded on the way: weights, smoothing and divisors are exact, and results stay in mpmath. Every
z_ij sees only x_i, W_j and b_j, so that one step of a column of x or W gives that column of all Jacobians at once.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mpmath
import numpy as np
from fifty_digits import exact, namespace

from refloss.textbook import formulas
from refloss.textbook.family import differentiable, parameters

U = 2.0**-53
SUBNORMAL = 5e-324

_each = np.frompyfunc
_real, _size, _imag = _each(mpmath.re, 1, 1), _each(abs, 1, 1), _each(mpmath.im, 1, 1)
_root = _each(mpmath.sqrt, 1, 1)


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
        t, y, valid = _targets(loss, labels, N, C)
        x = np.where(valid[:, None], x, 1.0)  # nothing of an ignored row counts
        if loss.has_margin:
            y = np.where(valid[:, None], y, np.eye(C)[np.argmax(np.abs(W).max(axis=1))])
        q, step = _parameters(loss, x, W), mpmath.mpf(10) ** -(digits // 4)
        given = {"x": exact(x), "W": exact(W), "b": None if b is None else exact(b)}
        given |= {name: getattr(q, name) for name in differentiable(loss)}
        if loss.detach_margin if loss.has_margin else False:
            q.frozen = formulas.frozen_offset(namespace, q, x, W, y)

        def logits(**moved: Any) -> np.ndarray:
            now = given | moved
            here = SimpleNamespace(**(vars(q) | {k: v for k, v in now.items() if k in vars(q)}))
            return q.logits(namespace, here, now["x"], now["W"], now["b"], y)

        def slope(**moved: Any) -> np.ndarray:
            return _imag(logits(**moved)) / step

        J: dict[str, np.ndarray] = {}  # (N, C, D), or (N, C)
        for name in ("x", "W"):
            value = given[name]
            length = exact(np.ldexp(1.0, np.frexp(np.abs(value.astype(float)).max(axis=1))[1]))
            columns = []
            for d in range(value.shape[1]):
                moved = value.copy()
                moved[:, d] = moved[:, d] + mpmath.mpc(0, step) * length
                per_row = length[:, None] if name == "x" else length
                columns.append(slope(**{name: moved}) / per_row)
            J[name] = np.stack(columns, axis=2)
        if b is not None:
            J["b"] = exact(np.ones((N, C)))
        for name in differentiable(loss):
            J[name] = slope(**{name: given[name] + mpmath.mpc(0, step)})
        return _joined(loss, _real(logits()), t, valid, upstream, J)


def bare_truth(loss: Any, z: Any, targets: Any, upstream: Any = 1.0, digits: int = 100) -> SimpleNamespace:
    """The same of `refloss.CrossEntropy` on logits (N, C); −inf is a masked class."""
    with mpmath.workdps(digits):
        z = np.asarray(z, dtype=float)
        t, _, valid = _targets(loss, targets, *z.shape)
        return _joined(loss, exact(z), t, valid, upstream, {})


def _targets(loss: Any, labels: Any, N: int, C: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t (N, C) with smoothing, exactly; y one-hot; which rows count."""
    labels = np.asarray(labels)
    soft = labels.ndim == 2
    valid = np.ones(N, dtype=bool) if soft or loss.ignore_index is None else labels != loss.ignore_index
    y = labels.astype(float) if soft else np.eye(C)[np.where(valid, labels, 0)]
    epsilon = mpmath.mpf(loss.label_smoothing)
    t = exact(y) * (1 - epsilon) + epsilon / C
    t[~valid] = mpmath.mpf(0)
    return t, np.zeros_like(y) if soft else y, valid


def _parameters(loss: Any, x: np.ndarray, W: np.ndarray) -> Any:
    q = parameters(loss)
    for name in ("scale", "margin", "alpha", "annealing"):
        if isinstance(getattr(q, name, None), float):
            setattr(q, name, mpmath.mpf(getattr(q, name)))
    q.zero_x, q.zero_W = ~x.any(axis=1), ~W.any(axis=1)
    return q


def _joined(loss: Any, z: Any, t: Any, valid: np.ndarray, upstream: Any, J: dict) -> SimpleNamespace:
    """Cross-entropy of z, its gradient g = share (p Σ w t − w t), and Σ g ∂z with the size of its terms."""
    N, C = z.shape
    w = exact(np.ones(C) if loss.class_weights is None else np.asarray(loss.class_weights))
    a = t * w
    e = np.empty((N, C), dtype=object)
    top = [max(row) for row in z]
    for i, j in np.ndindex(N, C):
        below = z[i, j] - top[i]
        e[i, j] = mpmath.exp(below) if below > -(10**5) else mpmath.mpf(0)  # beyond every digit asked for
    p = e / e.sum(axis=1, keepdims=True) if N else e
    log_sum = np.array(
        [m + mpmath.log(mpmath.fsum(row)) for m, row in zip(top, e, strict=True)], dtype=object
    )
    with_target = np.array([[v if v else mpmath.mpf(0) for v in row] for row in a], dtype=object)
    losses = np.array(
        [
            mpmath.fsum(u * (log_sum[i] - v) for u, v in zip(with_target[i], z[i], strict=True) if u)
            for i in range(N)
        ],
        dtype=object,
    )
    divisor = {
        "none": mpmath.mpf(1),
        "sum": mpmath.mpf(1),
        "mean": mpmath.mpf(int(valid.sum())),
        "weighted_mean": _weights_of(loss, t, w, valid),
    }[loss.reduction]
    share = exact(np.broadcast_to(np.asarray(upstream, dtype=float), (N,)) * valid) / divisor
    mass = a.sum(axis=1, keepdims=True)
    g = share[:, None] * (p * mass - a)
    terms = _size(share)[:, None] * (p * mass + a)
    if loss.label_smoothing == 0 and np.isin(t.astype(float), (0.0, 1.0)).all():  # labels: |g| itself
        others = np.array(
            [[mpmath.fsum([*row[:j], *row[j + 1 :]]) for j in range(C)] for row in p], dtype=object
        )
        g = np.where(t == 1, -share[:, None] * mass * others, share[:, None] * mass * p)
        terms = _size(g)
    gradients, scales = {"logits": g}, {"logits": terms}
    for name, slopes in J.items():
        axis = {"x": 1, "W": 0, "b": 0}.get(name, (0, 1))
        if slopes.ndim == 3:
            sizes = _root((slopes * slopes).sum(axis=2))
            gradients[name] = (g[:, :, None] * slopes).sum(axis=axis)
        else:
            sizes = _size(slopes)
            gradients[name] = (g * slopes).sum(axis=axis)
        scales[name] = (terms * sizes).sum(axis=axis)
    loss_value = losses if loss.reduction == "none" else losses.sum() / divisor
    return SimpleNamespace(losses=losses, loss=loss_value, gradients=gradients, scales=scales, p=p)


def _weights_of(loss: Any, t: Any, w: Any, valid: np.ndarray) -> Any:
    """Σ_i Σ_c w_c target_ic of the valid rows, without smoothing."""
    epsilon = mpmath.mpf(loss.label_smoothing)
    if epsilon == 1:
        raise NotImplementedError("the target cannot be read back from t when ε = 1")
    target = (t - epsilon / len(w)) / (1 - epsilon)
    return (target[valid] * w).sum()


# -- errors ----------------------------------------------------------------------------------------


def ulps(got: Any, due: Any) -> float:
    """The largest error of `got` in units in the last place of the true values (the smallest subnormal at least)."""
    got, due = np.ravel(np.asarray(got, dtype=float)), np.ravel(np.asarray(due, dtype=object))
    assert got.shape == due.shape
    assert np.isfinite(got).all(), got
    return max(
        (
            float(abs(mpmath.mpf(a) - b) / float(np.spacing(abs(float(b)))))
            for a, b in zip(got, due, strict=True)
        ),
        default=0.0,
    )


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
