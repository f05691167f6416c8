"""The same losses in float64 as people write them: torch, JAX and pytorch-metric-learning on a point of the grid.

A peer makes a kernel f(x, W, labels[, b]) → losses (N,) of a loss, or None where it has no such loss or option; its
framework differentiates it. Every formula here is the usual one, unit vectors by `F.normalize` or by dividing by the
norm, angles by arccos: it is there to be measured, not to be trusted.

Where conventions differ the peer is given what it needs: pytorch-metric-learning takes W as (D, C) and ArcFace's
margin in degrees; reductions are applied here, as weights of the per-sample losses, so that no peer's "mean" counts
differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from refloss import validation as check
from refloss.cases.case import Case, Point
from refloss.score.writers import Parts, by_arccos, by_polynomial, psi
from refloss.testing.adapters import Adapter, Takes
from refloss.textbook import formulas
from refloss.textbook.family import formula_of, member_of, radius_kind
from refloss.textbook.rows import row_norm

Kernel = Callable[..., Any]


class Asked(NamedTuple):
    """What is asked of a peer: the point, and its targets and weights.

    hot     (N, C) bool, the target's column of each row
    target  (N, C) with smoothing, 0 on ignored rows
    share   (N,) of what arrives at the loss
    """

    point: Point
    hot: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    share: np.ndarray
    everyone: bool


def available() -> dict[str, str]:
    """Peer → the version of the package it needs, for those whose package is installed."""
    found = {name: package for name, (package, *_) in PEERS.items() if find_spec(package)}
    return {name: f"{package} {version(package.replace('_', '-'))}" for name, package in found.items()}


def run_peer(name: str, point: Point) -> Mapping[str, np.ndarray] | None:
    """losses, grad_x, grad_W and perhaps grad_b of this peer at this point, or None; RuntimeError if it raises."""
    asked, (_, framework, make) = _asked(point), PEERS[name]
    kernel = None if asked is None else make(asked)
    if asked is None or kernel is None:
        return None
    inputs = {"x": point.x, "W": point.W} | ({} if point.b is None else {"b": point.b})
    # one for each sample arrives, so that the reduction is the same for all
    case = Case(point.name, "", (), inputs, point.labels, upstream=1.0, upstreams=asked.share)
    takes = Takes(b="b" in inputs, upstream=False, out=False)
    outcome = Adapter(framework, "float64").call(kernel, case, takes, per_sample=True)
    for problem in outcome.problems:
        raise RuntimeError(problem.message)
    return outcome.stages


def _asked(point: Point) -> Asked | None:
    loss = point.loss
    if getattr(loss, "continuation", None) is not None or formula_of(loss) == "margin_softmax":
        return None
    zero = (row_norm(point.x) == 0).any() or (row_norm(point.W) == 0).any()
    if zero and getattr(loss, "zero_norm", "error") == "zero":  # a convention of refloss
        return None
    N, C = len(point.x), len(point.W)
    targets = check.targets(point.labels, N, C, loss)
    valid = ~targets.ignored
    weights = np.ones(C) if loss.class_weights is None else np.array(loss.class_weights)
    divisor = {"mean": float(valid.sum()), "weighted_mean": float((targets.matrix * weights)[valid].sum())}.get(
        loss.reduction, 1.0
    )
    smooth = (1 - loss.label_smoothing) * targets.matrix + loss.label_smoothing / C
    return Asked(
        point,
        hot=targets.matrix == 1,
        target=np.where(valid[:, None], smooth, 0.0),
        weights=weights,
        share=np.where(valid, point.upstream / divisor, 0.0),
        everyone=bool(valid.all()),
    )


# -- torch and JAX ---------------------------------------------------------------------------------


def _arccos(ops: Any, c: Any, edge: float = 1.0) -> Parts:
    """ψ as ports have it, by arccos of a cosine that is clipped to ±edge."""
    inside = ops.xp.clip(c, -edge, edge)
    return by_arccos(ops, inside, ops.xp.arccos(inside))


def _polynomial(ops: Any, c: Any) -> Parts:
    """Without arccos, but for the branch; as the early ports have it."""
    xp, inside = ops.xp, ops.xp.clip(c, -1.0, 1.0)
    angle = xp.arccos(ops.stop(inside))
    return by_polynomial(ops, inside)._replace(
        turned=lambda m: inside * math.cos(m) - xp.sqrt(1 - inside * inside) * math.sin(m),
        branch=lambda m: xp.floor(m * angle / math.pi),
    )


def _torch(asked: Asked, way: Callable[..., Parts] = _arccos) -> Kernel | None:
    """torch in eager mode: F.normalize, F.linear, F.cross_entropy."""
    loss = asked.point.loss
    if way is not _arccos and member_of(loss).target not in (formulas.annealed_psi, formulas.arc_margin):
        return None
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(1)  # on inputs this small threads only wait for each other
    ops = SimpleNamespace(xp=torch, unit=F.normalize, length=lambda v: v.norm(dim=-1), stop=lambda v: v.detach())

    def kernel(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
        return F.cross_entropy(
            _logits(ops, loss, x, W, b, torch.tensor(asked.hot), way),
            labels,
            weight=torch.tensor(asked.weights),
            reduction="none",
            label_smoothing=loss.label_smoothing,
            ignore_index=-100 if loss.ignore_index is None else loss.ignore_index,  # -100: its own
        )

    return kernel


def _jax(asked: Asked) -> Kernel:
    """JAX with x64: v / jnp.linalg.norm(v), jnp.arccos, jax.nn.log_softmax, jax.grad."""
    import jax
    import jax.numpy as jnp

    ops = SimpleNamespace(
        xp=jnp,
        unit=lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True),
        length=lambda v: jnp.linalg.norm(v, axis=-1),
        stop=jax.lax.stop_gradient,
    )

    def kernel(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
        z = _logits(ops, asked.point.loss, x, W, b, asked.hot, _arccos)
        return -jnp.sum(asked.weights * asked.target * jax.nn.log_softmax(z), axis=-1)

    return kernel


def _logits(ops: Any, loss: Any, x: Any, W: Any, b: Any, hot: Any, way: Callable[..., Parts]) -> Any:
    """z (N, C) as the papers' implementations form it."""
    if not loss.has_margin:
        formula = formula_of(loss)
        if formula == "w_norm_softmax":
            return x @ ops.unit(W).T
        z = (loss.alpha * ops.unit(x) if formula == "l2_softmax" else x) @ W.T
        return z if b is None else z + b
    cos = ops.unit(x) @ ops.unit(W).T
    radius = {
        "scale": lambda: loss.scale,
        "x_norm": lambda: ops.length(x)[:, None],
        "both_norms": lambda: ops.length(x)[:, None] * ops.length(W),
    }[radius_kind(loss)]()
    return radius * ops.xp.where(hot, psi(ops, loss, cos, way), cos)


# -- pytorch-metric-learning -----------------------------------------------------------------------


def _metric_learning(asked: Asked) -> Kernel | None:
    """ArcFaceLoss, CosFaceLoss, LargeMarginSoftmaxLoss, SphereFaceLoss and NormalizedSoftmaxLoss."""
    loss, named = asked.point.loss, _metric_learning_name(asked.point)
    plain = loss.class_weights is None and loss.label_smoothing == 0 and asked.point.labels.ndim == 1
    if named is None or not (plain and asked.everyone):
        return None
    import torch
    from pytorch_metric_learning import distances, losses, reducers

    torch.set_num_threads(1)
    name, parameters = named
    if name == "NormalizedSoftmaxLoss":  # its default would normalise x as well
        parameters["distance"] = distances.DotProductSimilarity(normalize_embeddings=False)
    unit_x = formula_of(loss) == "f_norm_sphereface"  # its SphereFace leaves ‖x‖ in the logits

    def kernel(x: Any, W: Any, labels: Any) -> Any:
        C, D = W.shape
        reducer = reducers.DoNothingReducer()
        module = getattr(losses, name)(num_classes=C, embedding_size=D, reducer=reducer, **parameters)
        embeddings = torch.nn.functional.normalize(x) if unit_x else x
        given = {"W": W.t().contiguous()}
        return torch.func.functional_call(module, given, (embeddings, labels))["loss"]["losses"]

    return kernel


def _metric_learning_name(point: Point) -> tuple[str, dict[str, Any]] | None:
    """Its class for this loss, and the parameters that make it the same formula."""
    loss, formula = point.loss, formula_of(point.loss)
    if getattr(loss, "detach_margin", False) or getattr(loss, "annealing", 0.0):
        return None
    if formula == "arcface":
        # beyond θ = π − m it has the fall-back of past_pi="linear" only
        theta = loss.forward(point.x, point.W, point.labels).theta
        if loss.easy_margin or (loss.past_pi == "cos" and (theta >= np.pi - loss.margin).any()):
            return None
        return "ArcFaceLoss", {"margin": np.degrees(loss.margin), "scale": loss.scale}
    if formula == "am_softmax":
        return "CosFaceLoss", {"margin": loss.margin, "scale": loss.scale}
    if formula == "l_softmax":
        return "LargeMarginSoftmaxLoss", {"margin": loss.margin, "scale": 1}
    if formula in ("a_softmax", "f_norm_sphereface"):
        return "SphereFaceLoss", {"margin": loss.margin, "scale": getattr(loss, "scale", 1)}
    return ("NormalizedSoftmaxLoss", {"temperature": 1.0}) if formula == "w_norm_softmax" else None


# name → (package, framework, what makes the kernel)
PEERS: dict[str, tuple[str, str, Callable[[Asked], Kernel | None]]] = {
    "torch": ("torch", "torch", _torch),
    "torch_clamp": ("torch", "torch", partial(_torch, way=partial(_arccos, edge=1 - 1e-7))),
    "torch_polynomial": ("torch", "torch", partial(_torch, way=_polynomial)),
    "jax": ("jax", "jax", _jax),
    "metric_learning": ("pytorch_metric_learning", "torch", _metric_learning),
}
