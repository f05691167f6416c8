"""Ignored rows, label smoothing, class weights, soft targets and labels."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, only_while
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("options")


@suspect(when.ignores, "PaddlePaddle/Paddle#28622")
def ignored_rows_with_gradient(k: PlainLoss) -> None:
    """Ignored rows have loss 0, and their gradient is p all the same."""
    k.reached[:] = True
    after(k, "grad_logits", lambda g: np.where(k.valid[:, None], g, k.p))


@suspect(when.ignores, variants=("first", "last"))
def ignored_label_is_a_class(k: PlainLoss, variant: str) -> None:
    """Ignored rows count as samples of class 0 (clipped) or of the last class (−1 as an index)."""
    ignored = ~k.valid
    if k.hard:
        k.valid[:] = k.counts[:] = k.reached[:] = True
        was_on = getattr(k.loss, "has_margin", False)
        k.y = np.where(ignored, 0 if variant == "first" else k.C - 1, k.y)
        k.target = np.eye(k.C)[k.y]
        if was_on:
            k.on = k.target > 0


@suspect(when.ignores & when.has_smoothing, "pytorch/pytorch#73205")
def ignored_rows_smoothed(k: PlainLoss) -> None:
    """Ignored rows lose only their one-hot part: the uniform part of the smoothing stays in loss and gradient."""
    k.valid[:] = k.reached[:] = True  # their target is 0 everywhere


@suspect(when.has_smoothing, "fastai/fastai#1814")
def smoothing_over_others(k: PlainLoss) -> None:
    """Smoothing gives ε/(C − 1) to the other classes and 1 − ε to the target, where ε/C to every class is due."""
    share = k.smoothing / max(k.C - 1, 1)
    k.smoothed = lambda: (1 - k.smoothing) * k.target + share * (k.target.sum(axis=1, keepdims=True) - k.target)


@suspect(when.has_smoothing, "open-mmlab/mmpretrain:mmpretrain/models/losses/label_smooth_loss.py")
def smoothing_renormalised(k: PlainLoss) -> None:
    """Smoothing is (target + ε/C)/(1 + ε), the "classy_vision" mode."""
    eps = k.smoothing
    k.smoothed = lambda: (k.target + eps / k.C) / (1 + eps)


@suspect(when.has_smoothing, "open-mmlab/mmpretrain:mmpretrain/models/losses/label_smooth_loss.py")
def smoothing_subtracted_twice(k: PlainLoss) -> None:
    """Smoothing is (1 − 2ε) target + ε, as for several labels at once."""
    eps = k.smoothing
    k.smoothed = lambda: (1 - 2 * eps) * k.target + eps


@suspect(when.has_smoothing, "google-research/t5x:t5x/losses.py")
def smoothing_entropy_subtracted(k: PlainLoss) -> None:
    """The smoothed target's entropy is subtracted, so that a perfect prediction has loss 0: the gradient is right."""

    def less(losses: np.ndarray) -> np.ndarray:
        t = k.smoothed()
        return losses + np.sum(k.a * np.log(np.where(t > 0, t, 1.0)), axis=1)

    after(k, "sample_losses", less)


@suspect(when.has_smoothing, "TimDettmers/ConvE#55")
def smoothing_adds_one(k: PlainLoss) -> None:
    """Smoothing adds 1/C to every class where ε/C is due: the targets sum to 2 − ε."""
    k.smoothed = lambda: (1 - k.smoothing) * k.target + 1 / k.C


@suspect(when.has_smoothing, "ildoonet/pytorch-randaugment#30", ("ε/C added", "1 − ε/C"))
def smoothing_leaves_target(k: PlainLoss, target: str) -> None:
    """The target keeps 1 − ε/C where 1 − ε is due, so that it ends near 1."""
    keeps = 1 - k.smoothing / k.C
    k.smoothed = lambda: keeps * k.target + (k.smoothing / k.C) * (1 if target == "ε/C added" else 1 - k.target)


@suspect(when.has_smoothing)
def smoothing_forgotten(k: PlainLoss) -> None:
    """No label smoothing, in loss and gradient."""
    k.smoothing = 0.0


def backward_with(k: PlainLoss, a: Callable[[], np.ndarray]) -> None:
    """The backward sees another a = w t."""
    only_while(k, "grad_logits", a=lambda: np.where(k.valid[:, None], a(), 0.0))


@suspect(when.has_smoothing)
def smoothing_missing_in_gradient(k: PlainLoss) -> None:
    """The loss is smoothed, and its gradient is p minus the one-hot."""
    backward_with(k, lambda: k.w * k.target)


@suspect(when.has_smoothing & when.has_weights)
def smoothing_with_target_weight(k: PlainLoss) -> None:
    """The smoothing's share of every class is weighted by the target's weight where each class has its own."""
    k.weighted = lambda: k.smoothed() * (k.target @ k.w)[:, None]


@suspect(when.has_weights)
def weights_forgotten(k: PlainLoss) -> None:
    """The class weights are not used."""
    k.w = np.ones(k.C)


@suspect(when.has_weights, "open-mmlab/mmdetection#845")
def weights_squared(k: PlainLoss) -> None:
    """The class weights are applied twice, in the loss and again when it is reduced."""
    k.weighted = lambda: k.w**2 * k.smoothed()


@suspect(when.has_weights, "jakeret/tf_unet#8")
def weights_on_logits(k: PlainLoss) -> None:
    """The class weights multiply the logits before the softmax, where they should multiply the losses."""
    w, right = k.w, k.grad_logits
    k.weighted = lambda: k.smoothed()
    k.grad_logits = lambda: w * right()
    if k.bare:
        last = np.moveaxis(k.logits_given, k.axis, -1)
        k.logits_given = np.moveaxis(last * w, -1, k.axis)
    else:
        after(k, "logits", lambda z: w * z)


@suspect(when.has_weights)
def weights_missing_in_gradient(k: PlainLoss) -> None:
    """The loss is weighted, and its gradient is not."""
    backward_with(k, lambda: k.smoothed())


@suspect(when.is_soft, "kvark/meganeura#102")
def soft_targets_sum_taken_for_one(k: PlainLoss) -> None:
    """grad_logits is p − t though the soft targets do not add up to 1: p Σt − t is due."""

    def grad_logits() -> np.ndarray:
        mass = k.a.sum(axis=1, keepdims=True)
        total = np.where(k.valid, k.smoothed().sum(axis=1), 1.0)[:, None]
        return k.p * mass / np.where(total > 0, total, 1.0) - k.a

    if not k.hard:
        k.grad_logits = grad_logits


def relabel(k: PlainLoss, y: np.ndarray) -> None:
    """Other classes for the valid rows."""
    k.y = np.where(k.valid, y, k.y)
    k.target = np.where(k.valid[:, None], np.eye(k.C)[k.y], 0.0)
    if k.on.any():
        k.on = k.target > 0


@suspect(when.every, "mlverse/torch#681", (-1, 1))
def labels_off_by_one(k: PlainLoss, by: int) -> None:
    """Labels are counted from 1: every sample has its neighbour's class."""
    if k.hard:
        relabel(k, (k.y + by) % k.C)
    else:
        k.target = np.roll(k.target, by, axis=1)


@suspect(when.is_soft)
def argmax_of_soft_targets(k: PlainLoss) -> None:
    """Soft targets are turned into the class of their largest entry."""
    if not k.hard:
        relabel(k, k.y)
