"""The same losses in float64 as people write them: torch, JAX and pytorch-metric-learning on a point of the grid.

A peer is a function Point → stages (losses, grad_x, grad_W, and grad_b where there is a bias), or None where it has
no such loss or option. Every formula here is the usual one, unit vectors by `F.normalize` or by dividing by the
norm, angles by arccos: it is there to be measured, not to be trusted.

Where conventions differ the peer is given what it needs: pytorch-metric-learning takes W as (D, C) and ArcFace's
margin in degrees; reductions are applied here, as weights of the per-sample losses, so that no peer's "mean" counts
differently.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from refloss import validation as check
from refloss.cases.case import Point
from refloss.textbook import formulas
from refloss.textbook.family import formula_of, member_of, radius_kind
from refloss.textbook.rows import row_norm

Stages = Mapping[str, np.ndarray]


def available() -> dict[str, str]:
    """Peer → the version of the package it needs, for those whose package is installed."""
    from importlib.metadata import version

    found = {name: package for name, (package, _) in PEERS.items() if importlib.util.find_spec(package)}
    return {name: f"{package} {version(package.replace('_', '-'))}" for name, package in found.items()}


def run_peer(name: str, point: Point) -> Stages | None:
    """The stages that this peer computes at this point, or None; raises what the peer raises."""
    with warnings.catch_warnings():
        # what a peer has to say about its own numerics or its neighbours' versions is no result
        warnings.simplefilter("ignore")
        with np.errstate(all="ignore"):
            return PEERS[name][1](point)


# -- what is asked of every peer -------------------------------------------------------------------


def _problem(point: Point) -> SimpleNamespace | None:
    """One-hot or soft target, smoothed target, weights and each sample's share of what arrives at the loss."""
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
    divisor = {
        "mean": float(valid.sum()),
        "weighted_mean": float((targets.matrix * weights)[valid].sum()),
    }.get(loss.reduction, 1.0)
    return SimpleNamespace(
        target=targets.matrix,
        smooth=np.where(
            valid[:, None], (1 - loss.label_smoothing) * targets.matrix + loss.label_smoothing / C, 0.0
        ),
        weights=weights,
        share=np.where(valid, point.upstream / divisor, 0.0),
        plain=loss.class_weights is None and loss.label_smoothing == 0 and targets.labels is not None,
        everyone=bool(valid.all()),
    )


# -- torch and JAX ---------------------------------------------------------------------------------


def _torch(point: Point, how: str = "arccos") -> Stages | None:
    """torch in eager mode: F.normalize, F.linear, F.cross_entropy."""
    problem = _problem(point)
    if problem is None or (
        how != "arccos" and member_of(point.loss).target not in (formulas.annealed_psi, formulas.arc_margin)
    ):
        return None
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(1)  # on inputs this small threads only wait for each other
    given = {"x": point.x, "W": point.W} | ({} if point.b is None else {"b": point.b})
    inputs = {name: torch.tensor(value, requires_grad=True) for name, value in given.items()}
    lib = SimpleNamespace(
        xp=torch, unit=F.normalize, length=lambda v: v.norm(dim=-1), constant=lambda v: v.detach()
    )
    z = _logits(
        lib, point.loss, inputs["x"], inputs["W"], inputs.get("b"), torch.tensor(problem.target == 1), how
    )
    losses = F.cross_entropy(
        z,
        torch.tensor(point.labels),
        weight=torch.tensor(problem.weights),
        reduction="none",
        label_smoothing=point.loss.label_smoothing,
        ignore_index=-100 if point.loss.ignore_index is None else point.loss.ignore_index,  # -100: its own
    )
    (losses * torch.tensor(problem.share)).sum().backward()
    grads = {f"grad_{name}": np.asarray(value.grad) for name, value in inputs.items()}
    return {"losses": losses.detach().numpy(), **grads}


def _jax(point: Point) -> Stages | None:
    """JAX with x64: v / jnp.linalg.norm(v), jnp.arccos, jax.nn.log_softmax, jax.grad."""
    problem = _problem(point)
    if problem is None:
        return None
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    lib = SimpleNamespace(
        xp=jnp,
        unit=lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True),
        length=lambda v: jnp.linalg.norm(v, axis=-1),
        constant=jax.lax.stop_gradient,
    )

    def losses(inputs: dict[str, Any]) -> Any:
        z = _logits(lib, point.loss, inputs["x"], inputs["W"], inputs.get("b"), problem.target == 1, "arccos")
        return -jnp.sum(problem.weights * problem.smooth * jax.nn.log_softmax(z), axis=-1)

    inputs = {"x": jnp.asarray(point.x), "W": jnp.asarray(point.W)}
    if point.b is not None:
        inputs["b"] = jnp.asarray(point.b)
    value, back = jax.vjp(losses, inputs)
    (grads,) = back(jnp.asarray(problem.share))
    return {"losses": np.asarray(value), **{f"grad_{name}": np.asarray(g) for name, g in grads.items()}}


def _logits(lib: Any, loss: Any, x: Any, W: Any, b: Any, hot: Any, how: str) -> Any:
    """z (N, C) as the papers' implementations form it. hot (N, C): bool, the target's column of each row."""
    formula = formula_of(loss)
    if formula == "w_norm_softmax":
        return x @ lib.unit(W).T
    if formula in ("softmax", "l2_softmax"):
        z = (x if formula == "softmax" else loss.alpha * lib.unit(x)) @ W.T
        return z if b is None else z + b
    cos = lib.unit(x) @ lib.unit(W).T
    radius = {
        "scale": lambda: loss.scale,
        "x_norm": lambda: lib.length(x)[:, None],
        "both_norms": lambda: lib.length(x)[:, None] * lib.length(W),
    }[radius_kind(loss)]()
    return radius * lib.xp.where(hot, _psi(lib, loss, formula, cos, how), cos)


def _psi(lib: Any, loss: Any, formula: str, cos: Any, how: str) -> Any:
    """ψ(arccos(cos)) elementwise. how: "arccos", "clamp" (cos to ±(1 − 1e-7) first), "polynomial" (no arccos)."""
    xp, m = lib.xp, loss.margin
    if formula == "am_softmax":
        psi = cos - m
    else:
        edge = 1 - 1e-7 if how == "clamp" else 1.0
        inside = xp.clip(cos, -edge, edge)
        theta = xp.arccos(inside if how != "polynomial" else lib.constant(inside))
        psi = (_arc if formula == "arcface" else _multiplied)(xp, loss, inside, theta, how)
    if getattr(loss, "annealing", 0.0):
        psi = (loss.annealing * cos + psi) / (1 + loss.annealing)
    return cos + lib.constant(psi - cos) if loss.detach_margin else psi


def _arc(xp: Any, loss: Any, cos: Any, theta: Any, how: str) -> Any:
    m = loss.margin
    if how == "polynomial":  # cos(θ + m) from cos θ and √(1 − cos²θ), as the early ports have it
        psi = cos * np.cos(m) - xp.sqrt(1 - cos * cos) * np.sin(m)
    else:
        psi = xp.cos(theta + m)
    if loss.past_pi == "linear":
        psi = xp.where(cos > np.cos(np.pi - m), psi, cos - m * np.sin(m))
    return xp.where(cos > 0, psi, cos) if loss.easy_margin else psi


def _multiplied(xp: Any, loss: Any, cos: Any, theta: Any, how: str) -> Any:
    m = loss.margin
    k = xp.floor(m * theta / np.pi)
    multiple = _chebyshev(m, cos) if how == "polynomial" else xp.cos(m * theta)
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def _chebyshev(m: int, cos: Any) -> Any:
    """cos mθ as a polynomial of cos θ."""
    before, now = 1.0, cos
    for _ in range(m - 1):
        before, now = now, 2 * cos * now - before
    return now


# -- pytorch-metric-learning -----------------------------------------------------------------------


def _metric_learning(point: Point) -> Stages | None:
    """ArcFaceLoss, CosFaceLoss, LargeMarginSoftmaxLoss, SphereFaceLoss and NormalizedSoftmaxLoss."""
    problem = _problem(point)
    if problem is None or not (problem.plain and problem.everyone):
        return None
    named = _metric_learning_name(point)
    if named is None:
        return None
    import torch
    from pytorch_metric_learning import distances, losses, reducers

    torch.set_num_threads(1)
    name, parameters = named
    if name == "NormalizedSoftmaxLoss":  # its default would normalise x as well
        parameters["distance"] = distances.DotProductSimilarity(normalize_embeddings=False)
    module = getattr(losses, name)(
        num_classes=len(point.W),
        embedding_size=point.W.shape[1],
        reducer=reducers.DoNothingReducer(),
        **parameters,
    )
    module.W.data = torch.tensor(point.W.T.copy())
    x = torch.tensor(point.x, requires_grad=True)
    unit_x = formula_of(point.loss) == "f_norm_sphereface"  # its SphereFace leaves ‖x‖ in the logits
    embeddings = torch.nn.functional.normalize(x) if unit_x else x
    value = module(embeddings, torch.tensor(point.labels))["loss"]["losses"]
    (value * torch.tensor(problem.share)).sum().backward()
    return {
        "losses": value.detach().numpy(),
        "grad_x": np.asarray(x.grad),
        "grad_W": np.asarray(module.W.grad).T,
    }


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


# name → (package, function)
PEERS: dict[str, tuple[str, Callable[[Point], Stages | None]]] = {
    "torch": ("torch", _torch),
    "torch_clamp": ("torch", partial(_torch, how="clamp")),
    "torch_polynomial": ("torch", partial(_torch, how="polynomial")),
    "jax": ("jax", _jax),
    "metric_learning": ("pytorch_metric_learning", _metric_learning),
}
