"""Released implementations, unchanged, as functions that `refloss.testing.check` can call.

Each adapter only hands over its arguments: W where the library keeps a parameter, degrees where it takes degrees, a
reduction under its own name. Logits and losses on the way are read, not made. `RELEASED` says which loss object each
of them is, which dtypes it takes and what must come out. Their library is imported at the first call.

    python tests/released.py                     the table of docs/findings.md, over every case: minutes
    python tests/released.py pml_arcface         its rows whose name begins so
    python tests/released.py pml_arcface float32 the report of one cell
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import refloss
from refloss.testing.check import Checker
from refloss.testing.report import CaseResult, Report

ALL = ("float64", "float32", "float16", "bfloat16")
HALF = ("float16", "bfloat16")
WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0, 1.5)  # exact in every dtype
DEGREES = math.radians(28.6)  # the default margin of pytorch-metric-learning's ArcFace


# -- pytorch-metric-learning -----------------------------------------------------------------------


def metric_learning(name: str, plain_dot: bool = False, **parameters: Any) -> Callable[..., Any]:
    """The module of that name with its defaults; its parameter W (D, C) is W.T."""

    def implementation(x: Any, W: Any, labels: Any) -> dict[str, Any]:
        torch = import_module("torch")
        given = dict(parameters)
        if plain_dot:
            distances = import_module("pytorch_metric_learning.distances")
            given["distance"] = distances.DotProductSimilarity(normalize_embeddings=False)
        make = getattr(import_module("pytorch_metric_learning.losses"), name)
        module = make(num_classes=len(W), embedding_size=W.shape[1], **given)
        seen: dict[str, Any] = {}
        module.cross_entropy.register_forward_hook(
            lambda _, arguments, result: seen.update(logits=arguments[0], losses=result)
        )
        loss = torch.func.functional_call(module, {"W": W.t()}, (x, labels))
        return {**seen, "loss": loss}

    return implementation


pml_arcface = metric_learning("ArcFaceLoss")
pml_subcenter = metric_learning("SubCenterArcFaceLoss", sub_centers=1)
pml_cosface = metric_learning("CosFaceLoss")
pml_sphereface = metric_learning("SphereFaceLoss")
pml_large_margin = metric_learning("LargeMarginSoftmaxLoss")
pml_normalized = metric_learning("NormalizedSoftmaxLoss")
pml_normalized_W = metric_learning("NormalizedSoftmaxLoss", plain_dot=True, temperature=1.0)


# -- torch -----------------------------------------------------------------------------------------


def linear_and_loss(reduction: str = "mean", weights: Any = None, smoothing: float = 0.0) -> Callable[..., Any]:
    """nn.Linear and nn.CrossEntropyLoss."""

    def implementation(x: Any, W: Any, labels: Any, b: Any = None) -> dict[str, Any]:
        torch = import_module("torch")
        linear = torch.nn.Linear(W.shape[1], len(W), bias=b is not None, dtype=x.dtype)
        parameters = {"weight": W} if b is None else {"weight": W, "bias": b}
        weight = None if weights is None else torch.tensor(weights, dtype=x.dtype)
        loss = torch.nn.CrossEntropyLoss(weight=weight, reduction=reduction, label_smoothing=smoothing)
        logits = torch.func.functional_call(linear, parameters, (x,))
        return {"logits": logits, "losses" if reduction == "none" else "loss": loss(logits, labels)}

    return implementation


torch_linear = linear_and_loss()
torch_linear_options = linear_and_loss("mean", WEIGHTS, 0.1)
torch_linear_options_sum = linear_and_loss("sum", WEIGHTS, 0.1)
torch_linear_options_none = linear_and_loss("none", WEIGHTS, 0.1)


def torch_linear_soft(x: Any, W: Any, labels: Any, b: Any = None) -> dict[str, Any]:
    """The same, with soft targets."""
    return torch_linear(x, W, labels, b)


def torch_autocast(x: Any, W: Any, labels: Any, b: Any = None) -> dict[str, Any]:
    """Under autocast, which multiplies in 16 bits and takes the cross-entropy in float32."""
    torch = import_module("torch")
    with torch.autocast("cpu", dtype=x.dtype):
        logits = torch.nn.functional.linear(x, W, b)
        return {"logits": logits, "loss": torch.nn.functional.cross_entropy(logits, labels)}


def torch_float32_inside(x: Any, W: Any, labels: Any, b: Any = None) -> dict[str, Any]:
    """16 bits in, float32 inside, 16 bits out: what a fused kernel does."""
    F = import_module("torch.nn.functional")
    logits = F.linear(x.float(), W.float(), None if b is None else b.float())
    return {"logits": logits, "loss": F.cross_entropy(logits, labels).to(x.dtype)}


def torch_cross_entropy(logits: Any, targets: Any) -> Any:
    """F.cross_entropy as it comes, of labels."""
    return import_module("torch.nn.functional").cross_entropy(logits, targets)


def torch_cross_entropy_soft(logits: Any, targets: Any) -> Any:
    """F.cross_entropy as it comes, of soft targets."""
    return import_module("torch.nn.functional").cross_entropy(logits, targets)


def torch_cross_entropy_smoothed(logits: Any, targets: Any) -> Any:
    """F.cross_entropy with label smoothing."""
    return import_module("torch.nn.functional").cross_entropy(logits, targets, label_smoothing=0.1)


def arcface_as_written(way: str, scale: float = 64.0, margin: float = 0.5) -> Callable[..., Any]:
    """ArcFace as it is often written. way: "acos", "acos_clamped" by 1e-7, or "sqrt": √(1 − cos²), no angle."""

    def implementation(x: Any, W: Any, labels: Any) -> dict[str, Any]:
        torch = import_module("torch")
        F = torch.nn.functional
        cos = F.linear(F.normalize(x), F.normalize(W))
        if way == "sqrt":
            sin = torch.sqrt((1.0 - cos**2).clamp(0, 1))
            turned = cos * math.cos(margin) - sin * math.sin(margin)
        else:
            most = 1.0 - (1e-7 if way == "acos_clamped" else 0.0)
            turned = torch.cos(torch.acos(cos.clamp(-most, most)) + margin)
        logits = scale * torch.where(F.one_hot(labels, len(W)).bool(), turned, cos)
        return {"cos_theta": cos, "logits": logits, "loss": F.cross_entropy(logits, labels)}

    return implementation


arcface_acos = arcface_as_written("acos")
arcface_acos_clamped = arcface_as_written("acos_clamped")
arcface_sqrt = arcface_as_written("sqrt")


# -- optax -----------------------------------------------------------------------------------------


@functools.cache
def _optax(name: str, linear: bool, axis: int) -> Any:
    """Under jit, as it is used."""
    jax, loss = import_module("jax"), getattr(import_module("optax"), name)

    def of_logits(logits: Any, targets: Any) -> dict[str, Any]:
        losses = loss(logits, targets) if axis == -1 else loss(logits, targets, axis=axis)
        return {"losses": losses, "loss": losses.mean()}

    def of_features(x: Any, W: Any, targets: Any, b: Any) -> dict[str, Any]:
        logits = x @ W.T if b is None else x @ W.T + b
        return {"logits": logits, **of_logits(logits, targets)}

    return jax.jit(of_features if linear else of_logits)


def optax_linear(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    """softmax_cross_entropy_with_integer_labels on x Wᵀ + b."""
    return _optax("softmax_cross_entropy_with_integer_labels", True, -1)(x, W, labels, b)


def optax_integer(logits: Any, targets: Any) -> Any:
    """softmax_cross_entropy_with_integer_labels."""
    return _optax("softmax_cross_entropy_with_integer_labels", False, 1)(logits, targets)


def optax_soft(logits: Any, targets: Any) -> Any:
    """softmax_cross_entropy."""
    return _optax("softmax_cross_entropy", False, -1)(logits, targets)


def optax_soft_safe(logits: Any, targets: Any) -> Any:
    """safe_softmax_cross_entropy."""
    return _optax("safe_softmax_cross_entropy", False, -1)(logits, targets)


# -- the list --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Released:
    """An implementation by others, and the refloss object that it is.

    package   what it needs, besides the framework whose arrays it takes
    title     for readers
    options   of `check`, besides dtype, framework and require
    """

    implementation: Callable[..., Any]
    package: str
    framework: str
    title: str
    loss: Any
    dtypes: tuple[str, ...] = ALL
    options: Mapping[str, Any] = field(default_factory=dict)

    def checker(self, dtype: str, cases: Any = "all", require: str | None = None) -> Checker:
        """Grade C is asked of float64 and float32, E of 16 bits, unless `require` says otherwise."""
        require = require or ("E" if dtype in HALF else "C")
        default = {"compute": None, "device": None, "slack": 1.0, "seed": 0, "soft_targets": False}
        return Checker(
            self.implementation, self.loss, dtype=dtype, framework=self.framework, cases=cases, require=require,
            **default | dict(self.options),
        )  # fmt: skip

    def check(self, dtype: str, cases: Any = "all", require: str | None = None) -> Report:
        """What `refloss.testing.check` gives."""
        return self.checker(dtype, cases, require).report()

    def results(self, dtype: str, cases: Any = "all", require: str | None = None) -> list[CaseResult]:
        """Without the search for a known bug and for a smaller input."""
        return list(self.checker(dtype, cases, require).run())


def _listed() -> dict[str, Released]:
    pml, torch = ("pytorch_metric_learning", "torch"), ("torch", "torch")
    jax, soft = ("optax", "jax"), {"soft_targets": True}
    past = refloss.ArcFace(margin=DEGREES, past_pi="linear")
    bare, rows = refloss.CrossEntropy(axis=1), refloss.CrossEntropy()

    def options(reduction: str) -> refloss.WeightedSoftmax:
        return refloss.WeightedSoftmax(
            class_weights=WEIGHTS, label_smoothing=0.1, ignore_index=-100, reduction=reduction
        )

    both = "Linear and CrossEntropyLoss"
    found = [
        Released(pml_arcface, *pml, "`ArcFaceLoss`", past),
        Released(pml_subcenter, *pml, "`SubCenterArcFaceLoss`, one centre", past),
        Released(pml_cosface, *pml, "`CosFaceLoss`", refloss.CosFace(scale=64)),
        Released(pml_sphereface, *pml, "`SphereFaceLoss`", refloss.SphereFace()),
        Released(pml_large_margin, *pml, "`LargeMarginSoftmaxLoss`", refloss.LSoftmax()),
        Released(pml_normalized, *pml, "`NormalizedSoftmaxLoss`", refloss.AMSoftmax(margin=0, scale=20)),
        Released(pml_normalized_W, *pml, "`NormalizedSoftmaxLoss`, x as it is", refloss.WNormSoftmax()),
        Released(torch_linear, *torch, both, refloss.Softmax()),
        Released(torch_linear_options, *torch, f"{both}, options, mean", options("weighted_mean")),
        Released(torch_linear_options_sum, *torch, f"{both}, options, sum", options("sum")),
        Released(torch_linear_options_none, *torch, f"{both}, options, none", options("none")),
        Released(torch_linear_soft, *torch, f"{both}, soft targets", refloss.Softmax(), options=soft),
        Released(torch_autocast, *torch, "`linear`, `cross_entropy` under autocast", refloss.Softmax(), HALF),
        Released(torch_float32_inside, *torch, "the same in float32, then rounded", refloss.Softmax(), HALF),
        Released(torch_cross_entropy, *torch, "`cross_entropy`, axis 1, labels", refloss.CrossEntropy(
            axis=1, ignore_index=-100)),
        Released(torch_cross_entropy_smoothed, *torch, "`cross_entropy`, `label_smoothing=0.1`",
                 refloss.CrossEntropy(axis=1, label_smoothing=0.1)),
        Released(torch_cross_entropy_soft, *torch, "`cross_entropy`, soft targets", bare, options=soft),
        Released(arcface_acos, *torch, "ArcFace by `acos`", refloss.ArcFace()),
        Released(arcface_acos_clamped, *torch, "ArcFace by `acos`, clamped by 1e-7", refloss.ArcFace()),
        Released(arcface_sqrt, *torch, "ArcFace by `sqrt`", refloss.ArcFace()),
        Released(optax_linear, *jax, "x Wᵀ, `…_with_integer_labels`", refloss.Softmax()),
        Released(optax_integer, *jax, "`…_with_integer_labels`, axis 1", bare),
        Released(optax_soft, *jax, "`softmax_cross_entropy`", rows, options=soft),
        Released(optax_soft_safe, *jax, "`safe_softmax_cross_entropy`", rows, options=soft),
    ]  # fmt: skip
    names = {id(value): name for name, value in globals().items() if callable(value)}
    for each in found:
        each.implementation.__qualname__ = names[id(each.implementation)]
    return {each.implementation.__qualname__: each for each in found}


RELEASED = _listed()


def cell(released: Released, dtype: str) -> str:
    """The grade; how many cases are wrong of how many; ? where a wrong gradient would not have been told."""
    checker = released.checker(dtype)
    results = list(checker.run())
    grade, wrong = max(result.grade for result in results), sum(bool(result.failures) for result in results)
    if wrong:
        return f"{grade} {wrong}/{len(results)}"
    return f"{grade} ?" if checker.self_check.not_checked() else grade


def main(begins: str = "", dtype: str = "") -> None:
    for name, released in RELEASED.items():
        if name == begins and dtype:
            print(released.check(dtype))
        elif name.startswith(begins):
            cells = [cell(released, d) if d in released.dtypes else "" for d in ALL]
            print("|", " | ".join([f"`{name}`", released.title, *cells]), "|", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
