"""Softmax, log-sum-exp and the logarithm of p."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refloss.precision.dtypes import DTYPES
from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("softmax")


@suspect(when.logits_beyond(11.1), "tenstorrent/tt-metal#10001", ("float16", "float32", "float64"))
def exp_without_maximum(k: PlainLoss, dtype: str) -> None:
    """The softmax does not subtract the largest logit: exp overflows beyond 11 in float16, 88.7 in float32
    and 709.8 in float64, and the loss is inf or NaN."""
    kind = DTYPES[dtype]

    def exp(z: np.ndarray) -> np.ndarray:
        e = np.exp(z)
        return np.where(e > kind.largest, np.inf, np.where(e < kind.smallest_subnormal / 2, 0.0, e))

    k.logsumexp = lambda z: np.log(np.sum(exp(z), axis=1))
    k.softmax = lambda: exp(k.z) / np.sum(exp(k.z), axis=1, keepdims=True)


def set_log_p(k: PlainLoss, log_p: Callable[[], np.ndarray]) -> None:
    """Another log p in the losses, −Σ a log p."""
    k.sample_losses = lambda: -np.sum(np.where(k.a != 0, k.a * log_p(), 0.0), axis=1)


@suspect(when.target_below(18), "onnx/onnx:onnx/reference/ops/op_log_softmax.py", ("float16", "float32", "float64"))
def log_of_softmax(k: PlainLoss, dtype: str) -> None:
    """The loss is the logarithm of a probability that has been rounded to 0: inf where the target is far below."""
    kind = DTYPES[dtype]
    set_log_p(k, lambda: np.log(np.where(k.p < kind.smallest_subnormal / 2, 0.0, k.p)))


def clamped(k: PlainLoss, log: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], np.ndarray]) -> None:
    """Another log p; slope is p d log p/dp."""
    set_log_p(k, lambda: log(k.p))

    def grad_logits() -> np.ndarray:
        b = k.a * slope(k.p)
        return k.p * b.sum(axis=1, keepdims=True) - b

    k.grad_logits = grad_logits


PROBABILITIES = (1e-15, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5)


@suspect(when.every, "keras-team/keras#17634", PROBABILITIES)
def probability_clamped(k: PlainLoss, eps: float) -> None:
    """The loss is −log max(p, ε): capped at −log ε, with no gradient on the samples that need it most."""
    clamped(k, lambda p: np.log(np.maximum(p, eps)), lambda p: (p > eps) * 1.0)


@suspect(when.every, "maxvfischer/keras-image-segmentation-loss-functions#1", PROBABILITIES)
def probability_plus_eps(k: PlainLoss, eps: float) -> None:
    """The loss is −log(p + ε): too small on hard samples, whose gradient fades, and negative on perfect ones."""
    clamped(k, lambda p: np.log(p + eps), lambda p: p / (p + eps))


@suspect(
    when.target_below(72),
    "deepinsight/insightface:recognition/arcface_torch/partial_fc_v2.py",
    [(cap, way) for way in ("by hand", "autograd") for cap in (87.3365, 69.0776)],
)
def loss_capped(k: PlainLoss, variant: tuple[float, str]) -> None:
    """A sample's loss ends at 87.34 (the smallest float32) or 69.08 (1e-30); the gradient knows nothing of
    it, or is 0 from there on."""
    cap, way = variant

    def gaps() -> np.ndarray:
        return k.lse[:, None] - np.where(k.a != 0, k.z, 0.0)

    k.sample_losses = lambda: np.sum(np.where(k.a != 0, k.a * np.minimum(gaps(), cap), 0.0), axis=1)
    if way == "autograd":
        after(k, "grad_logits", lambda g: np.where(np.any((k.a != 0) & (gaps() > cap), axis=1)[:, None], 0.0, g))


@suspect(when.every, "PaddlePaddle/Paddle#27311")
def wrong_axis(k: PlainLoss) -> None:
    """The softmax runs over the last axis of images where classes are on another, or over the samples of a batch."""
    if k.bare and k.axis % k.logits_given.ndim != k.logits_given.ndim - 1:
        native, axis = (*k.shape[:-1], k.C), -2  # the classes' axis is last now, and the last one beside it
    else:
        native, axis = (k.N, k.C), 0

    def total(v: np.ndarray) -> np.ndarray:
        """Sums over the wrong axis, (N, C)."""
        v = v.reshape(native)
        return np.broadcast_to(v.sum(axis=axis, keepdims=True), native).reshape(k.N, k.C)

    def log_p() -> np.ndarray:
        z = k.z.reshape(native)
        top = z.max(axis=axis, keepdims=True)
        return (z - top - np.log(np.exp(z - top).sum(axis=axis, keepdims=True))).reshape(k.N, k.C)

    k.softmax = lambda: np.exp(log_p())
    set_log_p(k, log_p)
    share = k.share  # other rows' shares arrive, too

    def grad_logits() -> np.ndarray:
        arriving = share()[:, None] * k.a
        return k.p * total(arriving) - arriving

    k.grad_logits = grad_logits
    k.share = lambda: np.ones(k.N)


@suspect(when.every, variants=("differentiated", "by hand", "log₂ p", "log₂ p, loss alone"))
def log2_for_log(k: PlainLoss, backward: str) -> None:
    """log₂ stands for log in the log-sum-exp (exp2 and log2 without their factor), or in −log p: the loss is
    too large. A backward by hand takes p = exp(z − lse) from it."""
    if backward.startswith("log₂ p"):
        after(k, "sample_losses", lambda losses: losses / np.log(2))
        if backward == "log₂ p":
            after(k, "grad_logits", lambda g: g / np.log(2))
        return

    def logsumexp(z: np.ndarray) -> np.ndarray:
        top = z.max(axis=1)
        return top + np.log2(np.sum(np.exp(z - top[:, None]), axis=1))

    def grad_logits() -> np.ndarray:
        """The largest logit is a constant there but for its own place in the sum."""
        top = k.z == k.z.max(axis=1, keepdims=True)
        p = np.exp(k.z - right(k.z)[:, None]) / np.log(2)
        p = p + top * (1 - p.sum(axis=1, keepdims=True))
        return p * k.a.sum(axis=1, keepdims=True) - k.a

    right, k.logsumexp = k.logsumexp, logsumexp
    if backward == "differentiated":
        k.grad_logits = grad_logits


@suspect(when.every, "Lightning-Universe/lightning-bolts#654")
def logits_twice_softmax(k: PlainLoss) -> None:
    """Probabilities are given to a cross-entropy that expects logits: the softmax runs twice, and the loss
    never falls below log(1 + (C − 1)/e)."""
    right = k.logsumexp

    def first() -> np.ndarray:
        return np.exp(k.z - right(k.z)[:, None])

    def grad_logits() -> np.ndarray:
        p = first()
        g = k.p * k.a.sum(axis=1, keepdims=True) - k.a
        return p * (g - np.sum(p * g, axis=1, keepdims=True))

    k.logsumexp = lambda z: right(first())
    k.softmax = lambda: np.exp(first() - k.lse[:, None])
    k.sample_losses = lambda: np.sum(k.a * (k.lse[:, None] - first()), axis=1)
    k.grad_logits = grad_logits
