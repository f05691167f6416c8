"""Natural scales of the stages, and the cones where a gradient does not exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refloss.testing.plain_loss import PlainLoss, inverse


def natural_scale(k: PlainLoss, stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """name → the size of the terms before they cancel, shaped like its envelope."""
    size = {name: np.abs(value) for name, value in stages.items() if not name.startswith("grad_")}
    share = np.abs(k.share())[:, None]
    mass = k.a.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        G = share * (k.p * np.where(k.a == mass, 0.0, np.abs(mass - k.a)) + k.a * k.others)
    size["grad_logits"] = k._shaped({"g": G})["g"]
    if k.bare:
        return size
    bias = 0.0 if k.b is None else np.abs(k.b)
    sin, ones = np.sin(k.theta), np.ones_like(k.cos)
    turn = np.abs(k.rise) * sin
    x_over, W_over = inverse(k.x_norm)[:, None], inverse(k.W_norm)[None, :]
    size["cos_theta"] = ones
    size["logits"] = np.maximum(k.r, np.abs(k.r * k.value)) + bias
    size["grad_x"] = np.sum(G * k.r * np.hypot(k.p_x * k.value, turn), axis=1) * x_over[:, 0]
    size["grad_W"] = np.sum(G * k.r * np.hypot(k.p_W * k.value, turn), axis=0) * W_over[0]
    size["grad_b"] = G.sum(axis=0)
    radial = np.sum(G * k.r * np.abs(k.value))
    size["grad_scale"] = size["grad_alpha"] = radial / k.factor()
    size["grad_margin"] = np.sum(np.where(k.on, G * k.r, 0.0))
    return {name: size[name] for name in stages}


def cones(k: PlainLoss, out: Any, stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How long the part across x_i, or W_y, may be where the target logit has a cone: |g_iy| r |ψ'| / length."""
    cone = getattr(out, "cone", None)
    if cone is None or not np.any(cone):
        return {}
    i = np.flatnonzero(cone)
    j = k.y[i]
    pole = np.where(k.theta[i, j] < 1, 0.0, np.pi)
    kept = np.zeros_like(k.theta) + 1.0
    kept[i, j] = pole
    slope = np.abs(np.imag(k.psi(kept + 1e-30j)) / 1e-30)[i, j]
    length = np.abs(stages["grad_logits"][i, j]) * k.r[i, j] * slope
    radius = {"grad_x": np.zeros(k.N), "grad_W": np.zeros(k.C)}
    radius["grad_x"][i] = length * inverse(k.x_norm)[i]
    np.add.at(radius["grad_W"], j, length * inverse(k.W_norm)[j])
    return radius
