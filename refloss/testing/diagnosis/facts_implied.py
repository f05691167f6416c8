"""What a kernel had on the way back, as far as the grad_x or grad_W that it gives can tell.

Across its row, a gradient is a sum over the pairs (i, c) of ∂L/∂cos θ_ic times the tangent from x̂_i to Ŵ_c (or back).
Where a row has fewer pairs than dimensions the sum can be undone, and an error be seen at the pair where it was made.
"""

from __future__ import annotations

import numpy as np

from refloss.testing.diagnosis.facts_known import View, view
from refloss.testing.diagnosis.match import Observed
from refloss.testing.judging.truth import Grade
from refloss.testing.plain_loss import inverse

ILL = 1e-9  # ratio of singular values below which the sum is not undone
LEAST = 2.0  # tolerances that a p must be to have a logarithm
FEWEST = 3  # of a row: most of its logits are taken to be right


def implied(o: Observed, stage: str, grade: Grade) -> View | None:
    """The gradient in the logits (N, C) that grad_x or grad_W implies, dz/dcos θ being right; None if none does."""
    plain, seen = o.truth.plain, view(o, stage, grade)
    own, other, length = (plain.x_hat, plain.W_hat, plain.x_norm)
    scale = plain.r * plain.rise  # dz/dcos θ
    if stage == "grad_W":
        own, other, length, scale = plain.W_hat, plain.x_hat, plain.W_norm, scale.T
    if not own.size or not 0 < len(other) < own.shape[1] or not np.isfinite(seen.got).all():
        return None
    # (rows, pairs, D): the tangents, over the length, times dz/dcos θ
    ways = other[None, :, :] - (own @ other.T)[:, :, None] * own[:, None, :]
    ways = ways * (scale * inverse(length)[:, None])[:, :, None]
    left, size, right = np.linalg.svd(ways, full_matrices=False)
    told = (size[:, 0] > 0) & (size[:, -1] > ILL * size[:, 0])
    undo = left @ (right / np.where(told[:, None], size, np.inf)[:, :, None])  # the transposed pseudo-inverse
    error = seen.got - seen.due
    across = error - np.sum(error * own, axis=1, keepdims=True) * own
    off = np.einsum("rpd,rd->rp", undo, across)
    rest = np.linalg.norm(across - np.einsum("rp,rpd->rd", off, ways), axis=1)
    if not told.any() or not (rest <= np.maximum(seen.room, 1e-3 * seen.off))[told].all():
        return None
    tol = np.where(told[:, None], np.linalg.norm(undo, axis=2) * seen.room[:, None], np.inf)
    if stage == "grad_W":
        off, tol = off.T, tol.T
    return View(o, "grad_logits", plain.g + off, plain.g, tol, tol, np.abs(off) > tol, grade)


def logits_of(v: View) -> View | None:
    """The logits (N, C) by whose softmax the gradient is what it is; None where the targets have no p of their own.

    Only the other classes' p are read, p_y being what they leave, so that a wrong slope of the margin is no matter. A
    row's logits are known up to a number in common: most of them are taken to be right.
    """
    plain = v.plain
    share = plain.share()[:, None]
    if not plain.hard or plain.smoothing or plain.loss.class_weights is not None or plain.C < 3:
        return None
    target = plain.target > 0
    with np.errstate(all="ignore"):
        p, tol = np.where(target, 0.0, v.got / share), np.where(target, 0.0, v.tol / np.abs(share))
        p = np.where(target, 1 - p.sum(axis=1, keepdims=True), p)
        tol = np.where(target, tol.sum(axis=1, keepdims=True), tol)
        told = (p > LEAST * tol) & (plain.p > LEAST * tol) & plain.valid[:, None]
        off = np.where(told, np.log(p) - np.log(plain.p), np.nan)
        enough = told.sum(axis=1) >= FEWEST
        common = np.array([np.median(row[known]) if known.any() else 0.0 for row, known in zip(off, told, strict=True)])
        told &= enough[:, None]
        off = np.where(told, off - common[:, None], 0.0)
        tol = np.where(told, tol / p + v.o.truth.tolerance("logits", v.grade), np.inf)
    return View(v.o, "logits", plain.z + off, plain.z, tol, tol, np.abs(off) > tol, v.grade)


def slope_of(v: View, logits: View | None = None) -> View:
    """dψ/dcos θ_y (N,) that an implied gradient has, if p − t is right, or that of these logits."""
    plain = v.plain
    at = np.arange(plain.N), plain.y
    with np.errstate(all="ignore"):
        g = v.due[at]
        if logits is not None:
            g = (np.exp(logits.got[at] - plain.logsumexp(logits.got)) - 1) * plain.share()
        over = np.where((g != 0) & (v.tol[at] < np.abs(g)), plain.rise[at] / g, 0.0)
        tol = np.where(over != 0, v.tol[at] * np.abs(over) * 2, np.inf)
        got = np.where(over != 0, v.got[at] * over, plain.rise[at])
    return View(v.o, "theta", got, plain.rise[at], tol, tol, np.abs(got - plain.rise[at]) > tol, v.grade)
