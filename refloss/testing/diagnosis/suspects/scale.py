"""The scale s, and L2-softmax's α."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

import numpy as np

from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, set_margin
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("scale")


def set_factor(k: PlainLoss, factor: float, slope: float) -> None:
    """Another s or α, and how it moves with the one that was given."""
    k.factor = lambda: factor
    after(k, "grad_scale", lambda grad: grad * slope)


def missing_in_gradient(k: PlainLoss) -> None:
    for step in ("grad_x", "grad_W"):
        after(k, step, lambda grad: grad / k.factor())


@suspect(when.is_cosine & when.has_scale)
def scale_before_margin(k: PlainLoss) -> None:
    """s cos θ − m: the margin is subtracted after scaling, and is s times too small."""
    s = k.factor()
    set_margin(k, k.q.margin / s, 1 / s)
    k.grad_scale = lambda: np.asarray(np.sum(k.g * k.cos))


@suspect(when.has_scale)
def scale_missing(k: PlainLoss) -> None:
    """The logits are not scaled: the loss stays near log C."""
    set_factor(k, 1.0, 0.0)


@suspect(when.has_scale)
def scale_squared(k: PlainLoss) -> None:
    """The scale is applied twice, to the features or the cosines and again to the logits."""
    s = k.factor()
    set_factor(k, s * s, 2 * s)


@suspect(when.has_scale & when.has_margin)
def scale_not_on_target(k: PlainLoss) -> None:
    """The target's logit is written after scaling and has no scale: its logit is tiny beside the others."""
    right, s = k.grad_scale, k.factor()
    after(k, "radius", lambda r: np.where(k.on, 1.0, r))
    k.grad_scale = lambda: right() - np.sum(np.where(k.on, k.g * k.value, 0.0)) / s


@suspect(when.has_scale)
def scale_missing_in_gradient(k: PlainLoss) -> None:
    """The backward leaves out the factor s: loss and grad_logits are right, grad_x and grad_W s times too small."""
    missing_in_gradient(k)


@suspect(when.has_scale & when.has_margin)
def scale_gradient_without_margin(k: PlainLoss) -> None:
    """∂L/∂s takes cos θ for the target where it should take ψ(θ)."""
    k.grad_scale = lambda: np.asarray(np.sum(k.g * k.cos))


@suspect(when.learns("scale", "alpha"))
def scale_gradient_averaged(k: PlainLoss) -> None:
    """∂L/∂s or ∂L/∂α is averaged over the samples where it should be their sum."""
    after(k, "grad_scale", lambda grad: grad / k.N)


@suspect(when.has_scale)
def temperature_divided(k: PlainLoss) -> None:
    """The scale is taken for a temperature: the logits are divided by s."""
    s = k.factor()
    set_factor(k, 1 / s, -1 / s**2)


@suspect(when.has_scale & ~when.option(reduction="none"), "ydwen/opensphere:model/head/spherefacer.py")
def loss_divided_by_scale(k: PlainLoss) -> None:
    """The loss is divided by s to tame its gradient: loss and gradients come out s times too small."""
    s, right, reduced = k.factor(), k.grad_scale, k.reduce
    after(k, "divisor", lambda divisor: divisor * s)

    def reduce(losses: np.ndarray) -> np.ndarray:
        loss = reduced(losses)
        k.grad_scale = lambda: right() - np.sum(k.upstream * loss) / s
        return loss

    k.reduce = reduce


@suspect(when.has_alpha)
def alpha_missing(k: PlainLoss) -> None:
    """The features are normalised and not multiplied by α."""
    set_factor(k, 1.0, 0.0)


@suspect(when.has_alpha)
def alpha_missing_in_gradient(k: PlainLoss) -> None:
    """The backward leaves out the factor α: grad_x and grad_W are α times too small."""
    missing_in_gradient(k)
