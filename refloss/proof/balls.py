"""The array namespace of balls that runs `refloss.textbook.formulas` as they stand.

Arrays of balls and their tape are in `tape`, angles in `angle`. Everything is computed at flint's working precision:
wrap calls in `flint.ctx.workprec(bits)`. On Arb: Johansson, "Arb: efficient arbitrary-precision midpoint-radius
interval arithmetic", 2017.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from flint import arb

from refloss.proof.angle import PI, Angle, Arc, cos, floor, sin
from refloss.proof.tape import Balls, ball, constant, each, exact, join, lift, product, result, total, where

_sqrt, _exp, _log = each(arb.sqrt), each(arb.exp), each(arb.log)


def sqrt(v: Balls) -> Balls:
    root = _sqrt(v.value)
    return Balls(root, [(v, lambda g: g / (2 * root))], v.fork)


def exp(v: Any) -> Balls:
    v = lift(v)
    value = _exp(v.value)
    return Balls(value, [(v, lambda g: g * value)], v.fork)


def log(v: Any) -> Balls:
    v = lift(v)
    return Balls(_log(v.value), [(v, lambda g: g / v.value)], v.fork)


def summed(v: Any, axis: int | None = None) -> Balls:
    """Σ over the last axis, or over all."""
    v = lift(v)
    if axis not in (None, -1):
        raise ValueError(f"balls sum over the last axis or over all, got axis={axis}")
    if axis is None:
        v = join(v)
    value = total(v.value, axis)

    def back(g: np.ndarray) -> np.ndarray:
        return np.broadcast_to(g if axis is None else g[..., None], v.value.shape)

    return Balls(value, [(v, back)], v.fork)


def matmul(a: Any, b: Any) -> Balls:
    """a (n, k) · b (k, m). A constant one-hot `a` picks rows of b, exactly and at no cost."""
    if not isinstance(a, Balls) and _picks_rows(np.asarray(a)):
        return lift(b)[np.argmax(a, axis=1)]
    a, b = lift(a), lift(b)
    if a.fork is not None or b.fork is not None:
        raise TypeError("balls multiply matrices without alternatives only")
    backs = [lambda g: product(g, b.value.T), lambda g: product(a.value.T, g)]
    return result(product(a.value, b.value), a, b, backs)


def _picks_rows(a: np.ndarray) -> bool:
    return bool(((a == 0) | (a == 1)).all() and (np.count_nonzero(a, axis=1) == 1).all())


def swapaxes(v: Any, first: int, second: int) -> Balls:
    v = lift(v)
    return Balls(np.swapaxes(v.value, first, second), [(v, lambda g: np.swapaxes(g, first, second))], v.fork)


def logsumexp(z: Balls) -> Balls:
    """log Σ_j e^{z_j}, shifted by the exact midpoint of the largest, so that the shift costs no width."""
    z = join(z)
    middle = each(arb.mid)(z.value)
    shift = np.max(middle, axis=-1, keepdims=True)
    value = _log(total(_exp(z.value - shift), axis=-1)) + shift[..., 0]
    return Balls(value, [(z, lambda g: g[..., None] * _exp(z.value - value[..., None]))])


def clip(v: Balls, low: Any, high: Any) -> Balls:
    """Of exact integers: the branch numbers of ψ."""
    low, high = ball(low), ball(high)
    return Balls(each(lambda k: min(max(k, low), high))(v.value), fork=v.fork)


def real(v: Any) -> Any:
    """Balls are real: a formula may branch on them, and gets every branch that they cannot exclude."""
    return v


def namespace(known_cosines: np.ndarray | None = None) -> SimpleNamespace:
    """The names that the textbook formulas need.

    known_cosines: (N,) the cosines of arccos' argument that are known exactly (−1, 0 or 1), NaN where not; a ball
    that encloses such a cosine is replaced by it, its derivative is not.
    """
    possible = arb(0, 1)

    def arccos(c: Balls) -> Angle:
        c = lift(c)
        value = each(lambda v: v if -1 < v < 1 else v.intersection(possible))(c.value)
        if known_cosines is not None:
            value = np.where(np.isnan(known_cosines), value, exact(np.nan_to_num(known_cosines)))
        return Angle(Arc(Balls(value, [(c, lambda g: g)], c.fork)))

    return SimpleNamespace(
        pi=PI, sum=summed, sqrt=sqrt, exp=exp, log=log, cos=cos, sin=sin, arccos=arccos, floor=floor, clip=clip,
        where=where, real=real, matmul=matmul, swapaxes=swapaxes, logsumexp=logsumexp, constant=constant,
    )  # fmt: skip
