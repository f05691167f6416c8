"""The margin: its size, its sign, where it is, and the papers' ψ with its branches."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.losses import AMSoftmax, ArcFace
from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, set_margin, without_margin
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook import formulas

suspect = Group("margin")


@suspect(
    when.is_arc,
    "KevinMusgrave/pytorch-metric-learning:src/pytorch_metric_learning/losses/arcface_loss.py",
    ("degrees for radians", "radians for degrees"),
)
def margin_in_degrees(k: PlainLoss, variant: str) -> None:
    """The margin is converted between degrees and radians where it should not be (some releases take
    degrees): it has next to no effect, or a random one."""
    unit = np.pi / 180 if variant == "degrees for radians" else 180 / np.pi
    set_margin(k, k.q.margin * unit, unit)


@suspect(when.is_arc, "KevinMusgrave/pytorch-metric-learning:src/pytorch_metric_learning/losses/arcface_loss.py")
def margin_rounded_in_degrees(k: PlainLoss) -> None:
    """The margin is given in degrees with one decimal (28.6° for 0.5): logits are off by 1e-3 of the scale at
    the targets alone."""
    set_margin(k, np.deg2rad(round(np.rad2deg(k.q.margin), 1)), 1.0)


@suspect(when.is_arc | when.is_cosine)
def margin_of_wrong_sign(k: PlainLoss) -> None:
    """The margin makes the target easier: cos(θ − m) or cos θ + m. The target's logit comes out too large."""
    set_margin(k, -k.q.margin, -1.0)


@suspect(when.has_margin, "Confusezius/Revisiting_Deep_Metric_Learning_PyTorch#12")
def margin_on_all_classes(k: PlainLoss) -> None:
    """The margin is applied to every class (the one-hot mask is missing): the others' logits are wrong too."""
    k.on = np.broadcast_to(k.valid[:, None], k.on.shape).copy()


@suspect(when.has_margin)
def margin_on_wrong_class(k: PlainLoss) -> None:
    """The margin lands on the class after the target (labels shifted by one when the mask is made)."""
    k.on = np.roll(k.on, 1, axis=1)


@suspect(when.through_margin, "deepinsight/insightface#2309", ("its slope", "its value too"))
def margin_detached(k: PlainLoss, variant: str) -> None:
    """The margin is applied without gradient (in place under no_grad): the loss is right, and the target's
    slope is that of cos θ. If it is meant, set detach_margin=True."""
    if variant == "its slope":
        k.q.detach_margin = True
    else:  # the whole gradient is that of the plain logit, the part through the lengths included
        for step in ("grad_x", "grad_W"):
            without_margin(k, step)


@suspect(when.has_margin & when.option(detach_margin=True))
def margin_differentiated(k: PlainLoss) -> None:
    """detach_margin=True was asked for, and the gradient goes through the margin all the same."""
    k.q.detach_margin = False


@suspect(when.has_margin)
def margin_forgotten(k: PlainLoss) -> None:
    """No margin at all, as at test time: every logit is r cos θ."""
    k.on[:] = False


@suspect(when.is_arc)
def cosine_margin_for_angle(k: PlainLoss) -> None:
    """CosFace in place of ArcFace: cos θ − m for cos(θ + m)."""
    k.q.target = formulas.cosine_margin


@suspect(when.is_cosine)
def angle_margin_for_cosine(k: PlainLoss) -> None:
    """ArcFace in place of CosFace: cos(θ + m) for cos θ − m."""
    k.q.target, k.q.past_pi, k.q.easy_margin = formulas.arc_margin, "cos", False


@suspect(
    when.of_class(ArcFace, AMSoftmax) & when.option(margin=0),
    "cvqluu/Angular-Penalty-Softmax-Losses-Pytorch:loss_functions.py",
)
def zero_margin_replaced(k: PlainLoss) -> None:
    """A margin of 0 counts as "not given" (`if not m`), and the default takes its place."""
    k.q.margin = type(k.loss).margin
    k.on = k.target > 0


def past_pi(k: PlainLoss, tail: Callable[[np.ndarray, float], np.ndarray]) -> None:
    """Another target beyond θ = π − m."""
    right = k.psi
    k.q.past_pi = "cos"

    def psi(theta: np.ndarray) -> np.ndarray:
        m = k.q.margin
        beyond = np.real(theta + m) >= np.pi
        if k.q.easy_margin:
            beyond &= np.real(theta) < np.pi / 2
        return np.where(beyond, tail(theta, m), right(theta))

    k.psi = psi


@suspect(when.has_tail & when.option(past_pi="cos"), "deepinsight/insightface:src/train_softmax.py")
def linear_past_pi(k: PlainLoss) -> None:
    """Beyond θ = π − m the target is cos θ − m sin m, as first released, where cos(θ + m) was asked for. If
    it is meant, set past_pi="linear"."""
    k.q.past_pi = "linear"


@suspect(when.has_tail & when.option(past_pi="linear"), "KevinMusgrave/pytorch-metric-learning#537")
def cosine_past_pi(k: PlainLoss) -> None:
    """past_pi="linear" was asked for, and cos(θ + m) goes on beyond π, where it rises again."""
    k.q.past_pi = "cos"


@suspect(when.has_tail, "JDAI-CV/FaceX-Zoo:head/ArcFace.py")
def plain_past_pi(k: PlainLoss) -> None:
    """Beyond θ = π − m the target has no margin: the value jumps up there."""
    past_pi(k, lambda theta, m: np.cos(theta))


@suspect(when.has_tail, "HiKapok/tf.extra_losses:py_loss.py")
def zero_past_pi(k: PlainLoss) -> None:
    """Beyond θ = π − m the target's logit is 0: the branch is masked out and never filled."""
    past_pi(k, lambda theta, m: 0 * theta)


@suspect(when.has_tail, "leondgarse/Keras_insightface:losses.py")
def mirrored_past_pi(k: PlainLoss) -> None:
    """Beyond θ = π − m the target is −2 − cos(θ + m), which keeps falling."""
    past_pi(k, lambda theta, m: -2 - np.cos(theta + m))


@suspect(when.has_tail & when.has_scale & when.option(past_pi="linear"), "auroua/InsightFace_TF#1")
def linear_tail_scaled(k: PlainLoss) -> None:
    """Beyond θ = π − m, m sin m is multiplied by the scale before the whole target is: s(cos θ − s m sin m)."""
    s = k.factor()
    past_pi(k, lambda theta, m: np.cos(theta) - s * m * np.sin(m))

    def grad_scale() -> np.ndarray:
        m = k.q.margin
        beyond = k.on & (k.theta + m >= np.pi) & ((k.theta < np.pi / 2) | (not k.q.easy_margin))
        return np.asarray(np.sum(k.g * (k.value - beyond * s * m * np.sin(m))))

    k.grad_scale = grad_scale


@suspect(when.is_arc & when.through_margin, "jonasgrebe/pt-femb-face-embeddings#3")
def angle_clamped(k: PlainLoss) -> None:
    """The angle is clamped to [−1, 1], meant for the cosine: targets beyond 57° all count as 57°, without
    gradient."""
    after(k, "angles", lambda theta: np.where(k.on, np.minimum(theta, 1.0), theta))
    after(k, "slope", lambda rise: np.where(k.on & (k.theta >= 1.0), 0.0, rise))


@suspect((when.is_arc & ~when.option(easy_margin=True)) | when.is_cosine, "xiaoboCASIA/SV-X-Softmax:fc_layers.py")
def margin_where_cos_positive(k: PlainLoss) -> None:
    """The margin only where cos θ > 0 (easy_margin left on by default): targets beyond π/2 have none."""
    right = k.psi
    k.psi = lambda theta: np.where(np.real(theta) < np.pi / 2, right(theta), np.cos(theta))


@suspect(when.is_arc & when.option(easy_margin=True))
def easy_margin_forgotten(k: PlainLoss) -> None:
    """easy_margin=True was asked for, and targets with cos θ ≤ 0 bear the margin all the same."""
    k.q.easy_margin = False


@suspect(when.is_cosine, "happynear/caffe-windows:src/caffe/layers/label_specific_add.cpp")
def margin_where_cos_exceeds_margin(k: PlainLoss) -> None:
    """The margin only where cos θ > m: the target's value jumps at cos θ = m, and is too large below."""
    right = k.psi
    k.psi = lambda theta: np.where(np.cos(np.real(theta)) > np.real(k.q.margin), right(theta), np.cos(theta))


def psi_on(theta: np.ndarray, m: float, branch: Any) -> np.ndarray:
    """The papers' ψ as it is on one branch."""
    return (-1) ** branch * np.cos(m * theta) - 2 * branch


def set_psi(k: PlainLoss, psi: Callable[..., np.ndarray]) -> None:
    """psi(θ, m, branch) in place of ψ, annealed as the loss says; branch is floor(mθ/π), at most m − 1."""
    q = k.q

    def annealed(theta: np.ndarray) -> np.ndarray:
        branch = np.clip(np.floor(q.margin * np.real(theta) / np.pi), 0, q.margin - 1)
        return (q.annealing * np.cos(theta) + psi(theta, q.margin, branch)) / (1 + q.annealing)

    k.psi = annealed


@suspect(when.is_psi)
def k_rounded(k: PlainLoss) -> None:
    """ψ's branch is round(mθ/π) where it should be floor: wrong on the second half of every branch."""

    def psi(theta: np.ndarray, m: float, _: np.ndarray) -> np.ndarray:
        return psi_on(theta, m, np.clip(np.rint(m * np.real(theta) / np.pi), 0, m - 1))

    set_psi(k, psi)


@suspect(when.is_psi)
def k_offset_missing(k: PlainLoss) -> None:
    """ψ without its −2k: (−1)^k cos mθ runs down from 1 on every branch. The gradient is right."""
    set_psi(k, lambda theta, m, branch: (-1) ** branch * np.cos(m * theta))


@suspect(when.is_psi)
def k_sign_missing(k: PlainLoss) -> None:
    """ψ without its (−1)^k: cos mθ − 2k rises on the odd branches."""
    set_psi(k, lambda theta, m, branch: np.cos(m * theta) - 2 * branch)


@suspect(when.is_psi, "cvqluu/Angular-Penalty-Softmax-Losses-Pytorch:loss_functions.py")
def no_branches(k: PlainLoss) -> None:
    """Plain cos mθ for ψ: right for θ < π/m, and periodic beyond."""
    set_psi(k, lambda theta, m, branch: np.cos(m * theta))


@suspect(
    when.is_psi & when.through_margin,
    "tpys/face-recognition-caffe2:caffe2/operators/lsoftmax_with_loss.cu",
    (2e-8, 4e-4),
)
def k_off_by_one_at_pi(k: PlainLoss, near: float) -> None:
    """k reaches m where θ is π or is rounded to it: the value is still right there, and the slope −m² for m²."""
    at_pole = (k.q.annealing - k.q.margin**2) / (1 + k.q.annealing)
    set_psi(k, lambda theta, m, branch: psi_on(theta, m, np.where(np.real(theta) > np.pi - near, m, branch)))
    after(k, "slope", lambda rise: np.where(k.on & (np.pi - k.theta < 1e-9), at_pole, rise))


@suspect(when.is_psi, "luoyetx/mx-lsoftmax:operator/lsoftmax.cu")
def cosine_powers_divided(k: PlainLoss) -> None:
    """cos mθ is summed by a recurrence that divides by cos² θ: NaN where x is exactly perpendicular to W_y."""
    after(k, "values", lambda value: np.where(k.on & (np.abs(k.cos) < 1e-15), np.nan, value))


@suspect(when.is_psi & when.through_margin, "ydwen/opensphere:model/head/gasoftmaxloss.py")
def multiplier_missing_in_slope(k: PlainLoss) -> None:
    """The slope of ψ without the factor m: the loss is right, and the target's tangential gradient m times
    too small."""
    lam, m = k.q.annealing / (1 + k.q.annealing), k.q.margin
    after(k, "slope", lambda rise: np.where(k.on, lam + (rise - lam) / m, rise))


@suspect(when.is_annealed)
def annealing_forgotten(k: PlainLoss) -> None:
    """λ is taken for 0: the full margin at once."""
    k.q.annealing = 0.0


@suspect(when.is_annealed & ~when.option(annealing=1))
def annealing_inverted(k: PlainLoss) -> None:
    """λ weighs the margin and 1 the cosine: (cos θ + λψ)/(1 + λ)."""
    k.q.annealing = 1 / k.q.annealing


@suspect(when.is_annealed)
def annealing_not_normalised(k: PlainLoss) -> None:
    """λ cos θ + ψ without the division by 1 + λ."""
    right, lam = k.psi, k.q.annealing
    k.psi = lambda theta: (1 + lam) * right(theta)
    k._at_pole = lambda: lam + k.q.margin**2


@suspect(when.is_annealed, "HiKapok/tf.extra_losses:l_softmax_op.cc")
def annealing_on_other_logits(k: PlainLoss) -> None:
    """The other classes' logits are multiplied by λ/(1 + λ) as well."""
    part = k.q.annealing / (1 + k.q.annealing)
    after(k, "radius", lambda r: np.where(k.on, r, part * r))
