"""The second set of wrong torch kernels, written from the formulas and a line on each mistake alone.

What a part is called with, and the shapes, stand in kit.py. Each entry makes its mistake in the way that comes first
to mind.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from kernels import kit

torch, F = kit.torch, kit.torch.nn.functional

SECOND = kit.Kernels()
wrong, add = SECOND.wrong, SECOND.add


# -- the reduction ---------------------------------------------------------------------------------


@wrong("the mean divides by N·C, as that of an (N, C) array", kit.softmax)
def mean_over_classes(loss, z, labels):
    value = kit.cross_entropy(loss, z, labels)
    return value / z.shape[1] if loss.reduction == "mean" else value


@wrong("the sum is divided by N", kit.summed)
def sum_averaged(loss, z, labels):
    value = kit.cross_entropy(loss, z, labels)
    return value / len(z) if loss.reduction == "sum" else value


@wrong("the weighted mean divides by the number of rows", partial(kit.five_weights, reduction="weighted_mean"))
def weighted_mean_by_count(loss):
    return replace(loss, reduction="mean") if loss.reduction == "weighted_mean" else loss


# -- class weights, smoothing, ignored rows --------------------------------------------------------


def without_weights(loss):
    """The same loss with a weight of 1 for each class."""
    return replace(loss, class_weights=(1.0,) * len(loss.class_weights))


def without_smoothing(loss):
    return replace(loss, label_smoothing=0.0)


def backward_of(other):
    """A cross-entropy whose backward takes the target t of other(loss); the divisor is right."""

    def fused(loss, z, labels):
        their = kit.terms(other(loss), z, labels)
        return kit.by_hand(lambda upstream, p, at: kit.right_rule(upstream, p, their))(loss, z, labels)

    return fused


add("weights_forgotten", "the class weights are not applied", kit.five_weights, options=without_weights)


@wrong("the class weights are applied twice", kit.five_weights)
def weights_squared(loss, z, at):
    return -(at.w * at.a * kit.log_softmax_of(z)).sum(dim=1)


add(
    "weights_missing_in_gradient",
    "the class weights are in the loss, not in the gradient",
    kit.five_weights,
    cross_entropy=backward_of(without_weights),
)
add("smoothing_forgotten", "label_smoothing is not used", kit.smoothed, options=without_smoothing)
add(
    "smoothing_missing_in_gradient",
    "the loss is smoothed, the gradient is that of hard labels",
    kit.smoothed,
    cross_entropy=backward_of(without_smoothing),
)


@wrong("ignored rows count as rows of class 0", kit.ignoring)
def ignored_label_is_a_class(loss, z, labels):
    if loss.ignore_index is not None:
        labels = torch.where(labels == loss.ignore_index, 0, labels)
    return kit.cross_entropy(replace(loss, ignore_index=None), z, labels)


# -- what arrives from upstream --------------------------------------------------------------------


unreduced_arcface = partial(kit.arcface, reduction="none")
add("upstream_reversed", "row i gets the gradient of row N − 1 − i", kit.unreduced, upstream=torch.flipud)
add(
    "upstream_of_first_row",
    "every row gets the gradient of the first",
    unreduced_arcface,
    upstream=lambda upstream: upstream[:1],
)


@wrong("all gradients are twice as large, as of a square", kit.softmax)
def gradient_doubled(upstream, p, at):
    return 2 * kit.right_rule(upstream, p, at)


# -- lengths ---------------------------------------------------------------------------------------


@wrong("x/‖x‖² in place of x/‖x‖", partial(kit.arcface, scale=8))
def norm_squared(x):
    return x / x.square().sum(dim=1, keepdim=True).clamp(min=kit.tiny(x))


add(
    "norm_factor_missing",
    "the backward of x̂ projects and does not divide by ‖x‖",
    kit.am_softmax,
    unit_x=kit.custom(kit.unit, lambda grad, x: (kit.projected(grad, kit.unit(x)),)),
)


@wrong("Ŵ·x̂ in place of Ŵ·x", kit.w_norm_softmax)
def x_normalised(loss, x, W, labels, b):
    return F.linear(kit.unit(x), kit.unit(W))


@wrong("Ŵ·(αx̂) in place of W·(αx̂)", kit.l2_softmax)
def W_normalised(loss, x, W, labels, b):
    return F.linear(loss.alpha * kit.unit(x), kit.unit(W), b)


add(
    "both_projections_missing",
    "the backward takes ‖x‖ and ‖W‖ as constants",
    kit.arcface,
    unit_x=kit.by_constant_norm,
    unit_W=kit.by_constant_norm,
)


def with_cache(loss):
    """A kernel with a cache of its own: Ŵ of the first W of each shape, given out for all that follow."""
    cache = {}

    def backward(grad, W, W_hat):  # through what the cache holds as Ŵ; ‖W‖ is that of W
        return kit.projected(grad, W_hat) / kit.row_norm(W).clamp(min=kit.tiny(W)), None

    def unit_W(W):
        if W.shape not in cache:
            cache[W.shape] = kit.unit(W.detach())
        return kit.custom(lambda W, W_hat: W_hat.clone(), backward)(W, cache[W.shape].to(W))

    return kit.kernel(loss, unit_W=unit_W)


add("stale_cache", "Ŵ is kept by the shape of W and used again in later calls", kit.am_softmax, make=with_cache)


# -- the margin ------------------------------------------------------------------------------------


@wrong("cos mθ − 2k without (−1)^k", kit.a_softmax)
def k_sign_missing(loss, cos):
    if loss.continuation is not None:
        return kit.margin_of(loss, cos)  # it has no k
    theta = kit.angle_of(cos)
    return torch.cos(loss.margin * theta) - 2 * kit.branch(loss, theta)


@wrong("ψ without λ", partial(kit.a_softmax, annealing=3))
def annealing_forgotten(loss, cos, psi):
    return psi


@wrong("0 where θ > π − m", kit.arcface)
def zero_past_pi(loss, cos):
    psi = kit.margin_of(replace(loss, easy_margin=False), cos)
    psi = torch.where(kit.angle_of(cos) > math.pi - loss.margin, 0.0, psi)
    return torch.where(cos > 0, psi, cos) if loss.easy_margin else psi


@wrong("cos(θ + m) in place of cos θ − m", kit.am_softmax)
def angle_margin_for_cosine(loss, cos):
    return torch.cos(kit.angle_of(cos) + loss.margin)


@wrong("∂L/∂x takes the target's logit for the plain one; ∂L/∂W is right", kit.arcface)
def x_gradient_ignores_margin(loss, x, W, labels, b):
    plain = kit.plain_logits(loss, x, W.detach())
    return kit.logits_of(loss, x.detach(), W, labels) + (plain - plain.detach())


@wrong(
    "the logits' values have the margin on every class, their slopes on the target",
    kit.arcface,
    name="margin_added_to_all_angles_in_value_only",
)
def margin_on_all_classes(loss, x, W, labels, b):
    value = kit.logits_of(loss, x, W, labels, on=kit.all_classes).detach()
    return kit.value_of(value, kit.logits_of(loss, x, W, labels))


@wrong("∂L/∂W = (∂L/∂z)ᵀ x, as if m = 1 and ‖W‖ = 1; ∂L/∂x is right", kit.a_softmax)
def sphereface_released_backward(loss, x, W, labels, b):
    product = F.linear(x.detach(), W)
    return kit.logits_of(loss, x, W.detach(), labels) + (product - product.detach())


# -- scale and α -----------------------------------------------------------------------------------


@wrong("the backward forgets the factor s", partial(kit.arcface, scale=16))
def scale_missing_in_gradient(loss, x, W, labels, b):
    return kit.with_gradient(kit.logits_of(loss, x, W, labels), lambda grad: grad / loss.scale)


@wrong("the cosines are divided by s", partial(kit.am_softmax, scale=8))
def temperature_divided(loss):
    return replace(loss, scale=1 / loss.scale)


@wrong("W·x̂ without α", kit.l2_softmax)
def alpha_missing(loss):
    return replace(loss, alpha=1.0)


# -- the linear layer ------------------------------------------------------------------------------


@wrong("∂L/∂b is zero", kit.softmax)
def bias_gradient_missing(loss, x, W, labels, b):
    return F.linear(x, W, None if b is None else kit.with_gradient(b, torch.zeros_like))


@wrong("∂L/∂W is zero for classes without a sample in the batch", kit.softmax)
def W_gradient_on_present_classes_only(loss, x, W, labels, b):
    present = kit.is_target(loss, labels, len(W)).any(dim=0)
    return F.linear(x, kit.with_gradient(W, lambda grad: torch.where(present[:, None], grad, 0.0)), b)


@wrong("∂L/∂W is assigned by each sample: the last one's stays", kit.softmax)
def all_overwritten(loss, x, W, labels, b):
    return torch.cat([F.linear(x[:-1], W.detach(), b), F.linear(x[-1:], W, b)])


@wrong("W·x runs over full blocks of 8 features; the ragged last one is not seen", kit.softmax)
def last_feature_block_dropped(loss, x, W, labels, b):
    seen = x.shape[1] // kit.BLOCK * kit.BLOCK  # none of fewer than 8
    return F.linear(x[:, :seen], W[:, :seen], b)


@wrong("samples after the last full block of 8 are not computed: loss 0, gradient 0", kit.summed)
def last_row_block_dropped(loss, z, at):
    seen = torch.arange(len(z), device=z.device) < len(z) // kit.BLOCK * kit.BLOCK
    return torch.where(seen, kit.losses_of(loss, z, at), 0.0)


# -- the softmax and its logarithm -----------------------------------------------------------------


@wrong("Σ e^z of two shards of classes is added up twice: log 2 too large", kit.softmax)
def loss_plus_log_shards(z):
    return kit.over_blocks(kit.shards_of(z)) + math.log(2)


@wrong("no sample's loss exceeds 87.3365, −log of float32's tiny", kit.softmax)
def loss_capped(loss, z, at):
    return kit.losses_of(loss, z, at).clamp(max=87.3365)


@wrong("−log2 p", kit.softmax)
def log2_for_log(loss, z, labels):
    return kit.cross_entropy(loss, z, labels) / math.log(2)


@wrong("the probabilities are taken for logits", kit.softmax)
def logits_twice_softmax(loss, z, labels):
    return kit.cross_entropy(loss, F.softmax(z, dim=1), labels)


@wrong("the softmax runs over the samples", kit.softmax)
def wrong_axis(loss, z, at):
    return kit.losses_of(loss, z, at, F.log_softmax(z, dim=0))


# -- precision -------------------------------------------------------------------------------------


@wrong("cos θ is rounded to bfloat16 before margin and scale", kit.arcface)
def cos_in_bf16(loss, x, W, labels, b):
    cos = kit.in_bf16(F.linear(kit.unit(x), kit.unit(W)))
    return kit.margin_logits(loss, cos, kit.margin_of(loss, cos), loss.scale, labels)


@wrong("∂L/∂x and ∂L/∂W are rounded to bfloat16", kit.softmax)
def bf16_gradients(loss, x, W, labels, b):
    return F.linear(kit.with_gradient(x, kit.in_bf16), kit.with_gradient(W, kit.in_bf16), b)
