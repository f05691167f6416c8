"""Sums and means of the losses."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("reduction")


@suspect(when.is_mean)
def mean_forgotten(k: PlainLoss) -> None:
    """The losses are summed where the mean was asked for: loss and gradients are N times too large."""
    k.divisor = lambda: 1.0


@suspect(when.is_mean, "eriklindernoren/PyTorch-YOLOv3#137")
def mean_twice(k: PlainLoss) -> None:
    """The mean is taken twice, in the kernel and by its caller: loss and gradients are N times too small."""
    after(k, "divisor", lambda divisor: divisor**2)


@suspect(when.is_mean)
def mean_missing_in_gradient(k: PlainLoss) -> None:
    """The loss is a mean, and its gradient that of the sum."""
    after(k, "share", lambda share: share * k.divisor())


@suspect(when.ignores & when.option(reduction="mean"), "PaddlePaddle/Paddle#76033")
def mean_counts_ignored(k: PlainLoss) -> None:
    """The mean divides by N with the ignored rows counted: too small by the share of valid rows."""
    k.counts[:] = True


@suspect(when.is_mean)
def mean_over_classes(k: PlainLoss) -> None:
    """The mean is taken over samples and classes: too small by the factor C."""
    after(k, "divisor", lambda divisor: divisor * k.C)


@suspect(when.has_weights & when.option(reduction="mean"), "pytorch/pytorch#50528")
def mean_of_weights(k: PlainLoss) -> None:
    """The mean divides by the sum of the targets' class weights (torch's "mean" for labels) where the number
    of samples was asked for. If it is meant, set reduction="weighted_mean"."""
    k.reduction = "weighted_mean"


@suspect(when.has_weights & when.option(reduction="mean"), "ronghuaiyang/arcface-pytorch:models/focal_loss.py")
def weights_after_mean(k: PlainLoss) -> None:
    """The mean loss is multiplied by the mean of the weights, where each sample's loss should be weighted first."""
    w = (k.target * k.w)[k.valid].sum() / max(k.valid.sum(), 1)
    k.weighted = lambda: k.smoothed() * w


@suspect(when.has_weights & when.option(reduction="weighted_mean"))
def weighted_mean_by_count(k: PlainLoss) -> None:
    """The weighted mean divides by the number of samples where it should divide by the sum of their weights."""
    k.reduction = "mean"


@suspect(when.option(reduction="sum"), "facebookresearch/detectron2#3454")
def sum_averaged(k: PlainLoss) -> None:
    """The sum is divided by N: loss and gradients are those of the mean."""
    k.divisor = lambda: float(k.N)


@suspect(~when.is_mean, "paiml/aprender#2182")
def gradient_averaged(k: PlainLoss) -> None:
    """The loss is not averaged, and its gradient is: N times too small."""
    after(k, "share", lambda share: share / k.N)
