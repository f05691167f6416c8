"""The backward alone, and the bias."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

import numpy as np

from refloss.losses import ASoftmax
from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, only_while, without_margin
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("gradient")


@suspect(when.has_slope, "wy1iu/sphereface:tools/caffe-sphereface/src/caffe/layers/margin_inner_product_layer.cpp")
def W_gradient_ignores_margin(k: PlainLoss) -> None:
    """grad_W is that of m = 1 (grad_logitsᵀ x̂): the rows of classes that are targets are wrong."""
    without_margin(k, "grad_W")


@suspect(when.has_slope)
def x_gradient_ignores_margin(k: PlainLoss) -> None:
    """grad_x is that of the plain logits, though the loss has a margin."""
    without_margin(k, "grad_x")


@suspect(when.of_class(ASoftmax) & when.is_psi & when.through_margin, "wy1iu/sphereface#2")
def sphereface_released_backward(k: PlainLoss) -> None:
    """The released layer's backward: the target's part of grad_x is divided by √(coeff_w² + coeff_x²), and
    grad_W is grad_logitsᵀ x, without margin, projection or 1/‖W‖."""

    def grad_x() -> np.ndarray:
        lam = k.q.annealing
        slope, value = (1 + lam) * k.rise - lam, (1 + lam) * k.value - lam * k.cos  # of ψ alone
        at_w, at_x = slope, (value - slope * k.cos) / k.x_norm[:, None]
        size = np.hypot(at_w, at_x)
        at_w = np.where(k.on, (at_w / size + lam) / (1 + lam), 1.0)
        at_x = np.where(k.on, at_x / size / (1 + lam), 0.0)
        return k.product(k.g * at_w, k.W_hat) + np.sum(k.g * at_x, axis=1, keepdims=True) * k.x

    k.grad_x = grad_x
    k.grad_W = lambda: k.product(k.g.T, k.x)


@suspect(when.has_features)
def W_gradient_transposed(k: PlainLoss) -> None:
    """grad_logits (N, C) is reshaped to (C, N) where it should be transposed: grad_W mixes samples and classes."""
    only_while(k, "grad_W", g=lambda: k.g.reshape(k.C, k.N).T)


@suspect(when.has_features)
def W_gradient_on_present_classes_only(k: PlainLoss) -> None:
    """grad_W is written only for classes that some sample has: rows of absent classes are 0."""
    after(k, "grad_W", lambda grad: grad * np.max(k.target > 0, axis=0)[:, None])


@suspect(when.has_features, "pytorch/pytorch#1528", ("whole", "one-hot"))
def duplicates_overwritten(k: PlainLoss, part: str) -> None:
    """The target's part of grad_W is assigned by index where it should be added: of the samples of one class,
    the last one wins."""

    def last_of_each_class() -> np.ndarray:
        last = {y: i for i, y in enumerate(k.y) if k.valid[i]}
        lost = np.array([i for i in range(k.N) if last.get(k.y[i]) != i], dtype=int)
        g = k.g.copy()
        if part == "whole":
            g[lost, k.y[lost]] = 0.0
        else:  # p is added up, and only the −1 of the one-hot assigned
            g[lost, k.y[lost]] += (k.share()[:, None] * (1 - k.smoothing) * k.w * k.target)[lost, k.y[lost]]
        return g

    only_while(k, "grad_W", g=last_of_each_class)


@suspect(when.has_features)
def all_overwritten(k: PlainLoss) -> None:
    """grad_W is assigned row by row where it should be accumulated: the last sample's is left."""
    only_while(k, "grad_W", g=lambda: np.where(np.arange(k.N)[:, None] == k.N - 1, k.g, 0.0))


def on_target(k: PlainLoss) -> np.ndarray:
    """(N, C) bool."""
    one = np.zeros((k.N, k.C), dtype=bool)
    one[np.arange(k.N), k.y] = k.valid
    return one


@suspect(when.every)
def off_target_dropped(k: PlainLoss) -> None:
    """Only the target's column of grad_logits is written: the others, p_j, are 0."""
    after(k, "grad_logits", lambda g: np.where(on_target(k), g, 0.0))


@suspect(when.every)
def one_hot_forgotten(k: PlainLoss) -> None:
    """grad_logits is p without the −1 at the target."""
    k.grad_logits = lambda: k.p * k.a.sum(axis=1, keepdims=True)


@suspect(when.has_features)
def target_row_only(k: PlainLoss) -> None:
    """grad_logits is right, and only its target column goes on to grad_x and grad_W."""
    for step in ("grad_x", "grad_W"):
        only_while(k, step, g=lambda: np.where(on_target(k), k.g, 0.0))


@suspect(when.every, "microsoft/DirectML#739")
def gradient_zero(k: PlainLoss) -> None:
    """Every gradient is 0: the graph is cut, or the buffer never written."""
    after(k, "share", lambda share: 0 * share)


@suspect(when.every, "deeplearning4j/deeplearning4j#349")
def gradient_of_wrong_sign(k: PlainLoss) -> None:
    """Every gradient points the other way (one-hot − p)."""
    after(k, "share", lambda share: -share)


@suspect(when.every)
def gradient_two_percent_too_large(k: PlainLoss) -> None:
    """Every gradient is 2 % too large: what a loose tolerance lets pass."""
    after(k, "share", lambda share: 1.02 * share)


@suspect(when.every)
def gradient_doubled(k: PlainLoss) -> None:
    """Every gradient comes twice: accumulated in two places, or a square's factor 2."""
    after(k, "share", lambda share: 2 * share)


@suspect(when.learns("margin") & when.through_margin)
def margin_gradient_of_wrong_sign(k: PlainLoss) -> None:
    """∂L/∂m has the wrong sign: a learned margin would grow where it should shrink."""
    after(k, "grad_margin", lambda grad: -grad)


@suspect(when.normalises_W, variants=("grad_x", "before x̂'s projection"))
def raw_W_in_gradient(k: PlainLoss, where: str) -> None:
    """grad_x is made with W where the forward used ŵ: off by the factor ‖W_j‖ class by class."""

    def cosines() -> np.ndarray:
        return k.cos if where == "grad_x" else k.x_hat @ k.W.T

    only_while(k, "grad_x", W_hat=lambda: k.W, cos=cosines)


@suspect(when.normalises_x)
def raw_x_in_gradient(k: PlainLoss) -> None:
    """grad_W is made with x where the forward used x̂: off by the factor ‖x‖ sample by sample."""
    only_while(k, "grad_W", x_hat=lambda: k.x)


@suspect(when.has_bias)
def bias_gradient_missing(k: PlainLoss) -> None:
    """grad_b is 0: the bias takes part in the forward alone."""
    after(k, "grad_b", lambda grad: 0 * grad)


@suspect(when.has_bias)
def bias_gradient_averaged(k: PlainLoss) -> None:
    """grad_b is the mean of grad_logits over the samples where it should be the sum."""
    after(k, "grad_b", lambda grad: grad / k.N)


@suspect(when.has_bias)
def bias_ignored(k: PlainLoss) -> None:
    """The bias is not added to the logits."""
    if k.b is not None:
        k.bias = lambda: np.zeros(k.C)
        after(k, "grad_b", lambda grad: 0 * grad)


@suspect(when.has_alpha)
def bias_scaled(k: PlainLoss) -> None:
    """α multiplies the bias too: α(W·x̂ + b)."""
    if k.b is not None:
        alpha, b = k.factor(), k.b
        k.bias = lambda: alpha * b
        after(k, "grad_b", lambda grad: alpha * grad)
        after(k, "grad_scale", lambda grad: grad + np.sum(k.g * b))
