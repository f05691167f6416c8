"""Comparing gradients against other implementations: the natural scale, and points in a plane.

The natural scale of a gradient is the sum of its terms' sizes before they
cancel, Σ_j G_j ‖∇z_j‖, with G_j the terms of ∂L/∂z_j. It is computed here from plain formulas and
shares no code with refloss.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from helpers import need
from scipy.special import softmax

TOLERANCE = 1e-9  # of the natural scale: what is owed against every other implementation in doubles


def one_thread_of_torch() -> ModuleType:
    """torch, on one thread: on inputs this small its threads only wait for each other on a busy machine."""
    torch = need("torch")
    torch.set_num_threads(1)
    return torch


def logit_terms(z, target, class_weights=None, smoothing=0.0, share=1.0, soft=False):
    """G (M, C). z: (M, C); target: (M, C), one-hot or soft; share: upstream / divisor, () or (M,).

    A hard label without smoothing has one term per class, |g_j|; anything else p_j Σ_c a_c + a_j. A zero
    row of a one-hot target is an ignored row and has no terms.
    """
    classes = z.shape[1]
    w = np.ones(classes) if class_weights is None else np.asarray(class_weights)
    p = softmax(z, axis=1)
    t = (1 - smoothing) * target + smoothing / classes
    a = w * t
    G = p * a.sum(axis=1, keepdims=True) + a
    if not soft:
        if smoothing == 0:
            at_y = target == 1
            complement = np.where(at_y, 0.0, p).sum(axis=1, keepdims=True)
            w_y = (target * w).sum(axis=1, keepdims=True)
            G = w_y * np.where(at_y, complement, p)
        G = np.where(target.any(axis=1, keepdims=True), G, 0.0)
    return G * np.broadcast_to(np.abs(share), len(z))[:, None]


def polar_sizes(x, W, labels, radius, psi, dpsi, scale=1.0):
    """(‖∇_{x_i} z_ij‖, ‖∇_{W_j} z_ij‖), each (N, C), of z_j = r cos θ_j and z_y = r ψ(θ_y).

    radius: "scale" (r = s), "x_norm" (r = s‖x‖) or "both_norms" (r = s‖x‖‖W_j‖).
    """
    x_norm = np.linalg.norm(x, axis=1)[:, None]
    W_norm = np.linalg.norm(W, axis=1)[None, :]
    cos = np.clip((x / x_norm) @ (W / W_norm.T).T, -1, 1)
    theta = np.arccos(cos)
    value, slope = cos.copy(), -np.sin(theta)
    pairs = np.arange(len(x)), labels
    value[pairs], slope[pairs] = psi(theta[pairs]), dpsi(theta[pairs])
    ones = np.ones_like(cos)
    r, in_x, in_W = {
        "scale": (scale * ones, 0 * ones, 0 * ones),
        "x_norm": (scale * x_norm * ones, scale * ones, 0 * ones),
        "both_norms": (scale * x_norm * W_norm, scale * W_norm * ones, scale * x_norm * ones),
    }[radius]
    return np.hypot(in_x * value, r * slope / x_norm), np.hypot(in_W * value, r * slope / W_norm)


def worst_of_rows(got, want, scale):
    """The largest ‖got_i − want_i‖ / scale_i over rows; where the scale is 0, both must be exactly 0."""
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    assert got.shape == want.shape, f"shapes differ: {got.shape} and {want.shape}"
    assert np.isfinite(got).all(), f"not finite: {got}"
    assert np.isfinite(want).all(), f"not finite: {want}"
    rows = len(scale)
    error = np.linalg.norm((got - want).reshape(rows, -1), axis=1)
    empty = scale == 0
    assert not got.reshape(rows, -1)[empty].any(), "a gradient without terms must be exactly 0"
    assert not want.reshape(rows, -1)[empty].any(), "a gradient without terms must be exactly 0"
    return float(np.max(error[~empty] / scale[~empty], initial=0.0))


def assert_rows_agree(got, want, scale, what, tolerance=TOLERANCE):
    """Every row of got within `tolerance` of want, relative to its natural scale."""
    worst = worst_of_rows(got, want, scale)
    assert worst <= tolerance, f"{what}: off by {worst:.3g} of the natural scale\ngot  {got}\nwant {want}"


def assert_values_agree(got, want, what, tolerance=TOLERANCE):
    """Losses against themselves: all their terms have one sign, so nothing cancels."""
    want = np.asarray(want, dtype=float)
    assert_rows_agree(np.ravel(got), want.ravel(), np.abs(want).ravel(), what, tolerance)


def in_the_plane(*angles):
    """(R, 2) unit vectors at these angles, radians."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def piecewise_psi(m):
    """(ψ, ψ') of L-Softmax: ψ(θ) = (−1)^k cos mθ − 2k on [kπ/m, (k+1)π/m]."""

    def branch(theta):
        return np.clip(np.floor(m * theta / np.pi), 0, m - 1)

    def psi(theta):
        k = branch(theta)
        return (-1.0) ** k * np.cos(m * theta) - 2 * k

    def dpsi(theta):
        return -((-1.0) ** branch(theta)) * m * np.sin(m * theta)

    return psi, dpsi
