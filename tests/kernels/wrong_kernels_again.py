"""A second set of wrong torch kernels, written from the formulas and a line on each mistake alone.

The honest kernel and its parts are those of wrong_kernels.py; what is called how, and the shapes, stand
there. Each entry of AGAIN makes its mistake in the way that comes first to mind.
"""

from __future__ import annotations

import math
from functools import partial

from kernels.wrong_kernels import (
    BLOCK,
    WrongKernel,
    a_softmax,
    am_softmax,
    angle_of,
    arcface,
    branch,
    by_constant_norm,
    by_hand,
    cross_entropy,
    five_weights,
    is_target,
    kernel,
    l2_softmax,
    logits_of,
    margin_of,
    of_logsumexp,
    on_all_classes,
    plain_logits,
    reduce,
    replace,
    right_rule,
    softmax,
    terms,
    torch,
    unit,
    w_norm_softmax,
    wrong,
    wrong_backward,
)

F = torch.nn.functional

AGAIN: list[WrongKernel] = []


again, again_backward = partial(wrong, into=AGAIN), partial(wrong_backward, into=AGAIN)


# -- a value with another's gradient ---------------------------------------------------------------


class Backward(torch.autograd.Function):
    """v as it is; the gradient that arrives goes through rule."""

    @staticmethod
    def forward(ctx, v, rule):
        ctx.rule = rule
        return v.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.rule(grad), None


class ValueOf(torch.autograd.Function):
    """The value of one tensor, the gradient for another of the same shape."""

    @staticmethod
    def forward(ctx, value, slope):
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        return None, grad


def in_bf16(v):
    """v rounded to bfloat16, in its own dtype."""
    return v.bfloat16().to(v.dtype)


# -- the reduction ---------------------------------------------------------------------------------


@again(
    "mean_over_classes", "the mean divides by N·C, as that of an (N, C) array", softmax, part="cross_entropy"
)
def mean_over_classes(loss, z, labels):
    value = cross_entropy(loss, z, labels)
    return value / z.shape[1] if loss.reduction == "mean" else value


@again(
    "sum_averaged", "the sum is divided by N", partial(softmax, reduction="sum"), part="cross_entropy",
)  # fmt: skip
def sum_averaged(loss, z, labels):
    value = cross_entropy(loss, z, labels)
    return value / len(z) if loss.reduction == "sum" else value


@again(
    "weighted_mean_by_count", "the weighted mean divides by the number of rows",
    partial(five_weights, reduction="weighted_mean"), part="cross_entropy",
)  # fmt: skip
def weighted_mean_by_count(loss, z, labels):
    by_count = loss.reduction == "weighted_mean"
    return cross_entropy(replace(loss, reduction="mean") if by_count else loss, z, labels)


# -- class weights, smoothing, ignored rows --------------------------------------------------------


def without_weights(loss, classes):
    """The same loss with a weight of 1 for each class."""
    return replace(loss, class_weights=(1.0,) * classes)


@again("weights_forgotten", "the class weights are not applied", five_weights, part="cross_entropy")
def weights_forgotten(loss, z, labels):
    return cross_entropy(without_weights(loss, z.shape[1]), z, labels)


@again("weights_squared", "the class weights are applied twice", five_weights, part="cross_entropy")
def weights_squared(loss, z, labels):
    at = terms(loss, z, labels)
    return reduce(loss, -(at.w * at.a * F.log_softmax(z, dim=1)).sum(dim=1), at.divisor)


def backward_of(other, loss, z, labels):
    """The cross-entropy of loss, whose backward takes the target t of another; the divisor is right."""
    their = terms(other, z, labels)
    return by_hand(lambda upstream, p, at: right_rule(upstream, p, their))(loss, z, labels)


@again(
    "weights_missing_in_gradient", "the class weights are in the loss, not in the gradient",
    five_weights, part="cross_entropy",
)  # fmt: skip
def weights_missing_in_gradient(loss, z, labels):
    return backward_of(without_weights(loss, z.shape[1]), loss, z, labels)


@again(
    "smoothing_forgotten", "label_smoothing is not used", partial(softmax, label_smoothing=0.1),
    part="cross_entropy",
)  # fmt: skip
def smoothing_forgotten(loss, z, labels):
    return cross_entropy(replace(loss, label_smoothing=0.0), z, labels)


@again(
    "smoothing_missing_in_gradient", "the loss is smoothed, the gradient is that of hard labels",
    partial(softmax, label_smoothing=0.1), part="cross_entropy",
)  # fmt: skip
def smoothing_missing_in_gradient(loss, z, labels):
    return backward_of(replace(loss, label_smoothing=0.0), loss, z, labels)


@again(
    "ignored_label_is_a_class", "ignored rows count as rows of class 0",
    partial(softmax, ignore_index=-100), part="cross_entropy",
)  # fmt: skip
def ignored_label_is_a_class(loss, z, labels):
    if loss.ignore_index is not None:
        labels = torch.where(labels == loss.ignore_index, 0, labels)
    return cross_entropy(replace(loss, ignore_index=None), z, labels)


# -- what arrives from upstream --------------------------------------------------------------------


@again_backward(
    "upstream_reversed", "row i gets the gradient of row N − 1 − i", partial(softmax, reduction="none")
)
def upstream_reversed(upstream, p, at):
    return right_rule(upstream.flip(0), p, at)


@again_backward(
    "upstream_of_first_row", "every row gets the gradient of the first", partial(arcface, reduction="none")
)
def upstream_of_first_row(upstream, p, at):
    return right_rule(upstream[:1], p, at)


@again_backward("gradient_doubled", "all gradients are twice as large, as of a square", softmax)
def gradient_doubled(upstream, p, at):
    return 2 * right_rule(upstream, p, at)


# -- lengths ---------------------------------------------------------------------------------------


@again("norm_squared", "x/‖x‖² in place of x/‖x‖", partial(arcface, scale=8), part="unit_x")
def by_squared_norm(x):
    return x / x.square().sum(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


class UnitWithoutFactor(torch.autograd.Function):
    """x̂, whose backward is I − x̂x̂ᵀ without 1/‖x‖."""

    @staticmethod
    def forward(ctx, x):
        x_hat = unit(x)
        ctx.save_for_backward(x_hat)
        return x_hat

    @staticmethod
    def backward(ctx, grad):
        (x_hat,) = ctx.saved_tensors
        return grad - (grad * x_hat).sum(dim=1, keepdim=True) * x_hat


again(
    "norm_factor_missing", "the backward of x̂ projects and does not divide by ‖x‖", am_softmax, part="unit_x",
)(UnitWithoutFactor.apply)  # fmt: skip


@again("x_normalised", "Ŵ·x̂ in place of Ŵ·x", w_norm_softmax, part="logits")
def x_normalised(loss, x, W, labels, b):
    return F.linear(unit(x), unit(W))


@again("W_normalised", "Ŵ·(αx̂) in place of W·(αx̂)", l2_softmax, part="logits")
def W_normalised(loss, x, W, labels, b):
    return F.linear(loss.alpha * unit(x), unit(W), b)


@again("both_projections_missing", "the backward takes ‖x‖ and ‖W‖ as constants", arcface, part="logits")
def both_projections_missing(loss, x, W, labels, b):
    return logits_of(loss, x, W, labels, unit_x=by_constant_norm, unit_W=by_constant_norm)


class UnitByShape:
    """Ŵ of the first W of each shape, given out for all that follow."""

    def __init__(self):
        self.cache = {}

    def __call__(self, W):
        if W.shape not in self.cache:
            self.cache[W.shape] = unit(W.detach())
        return CachedUnit.apply(W, self.cache[W.shape].to(W))


class CachedUnit(torch.autograd.Function):
    """What the cache holds as Ŵ, forward and backward; ‖W‖ is that of W."""

    @staticmethod
    def forward(ctx, W, W_hat):
        ctx.save_for_backward(W, W_hat)
        return W_hat.clone()

    @staticmethod
    def backward(ctx, grad):
        W, W_hat = ctx.saved_tensors
        norm = W.norm(dim=1, keepdim=True).clamp(min=torch.finfo(W.dtype).tiny)
        return (grad - (grad * W_hat).sum(dim=1, keepdim=True) * W_hat) / norm, None


AGAIN.append(
    WrongKernel(
        name="am_softmax-stale_cache",
        suspect="stale_cache",
        description="Ŵ is kept by the shape of W and used again in later calls",
        loss=am_softmax,
        make=lambda loss: kernel(loss, unit_W=UnitByShape()),  # each kernel has a cache of its own
    )
)


# -- the margin ------------------------------------------------------------------------------------


@again("k_sign_missing", "cos mθ − 2k without (−1)^k", a_softmax, part="margin")
def k_sign_missing(loss, cos):
    if loss.continuation is not None:
        return margin_of(loss, cos)  # it has no k
    theta = angle_of(cos)
    return torch.cos(loss.margin * theta) - 2 * branch(loss, theta)


@again("annealing_forgotten", "ψ without λ", partial(a_softmax, annealing=3), part="anneal")
def annealing_forgotten(loss, cos, psi):
    return psi


@again("zero_past_pi", "0 where θ > π − m", arcface, part="margin")
def zero_past_pi(loss, cos):
    psi = margin_of(replace(loss, easy_margin=False), cos)
    psi = torch.where(angle_of(cos) > math.pi - loss.margin, 0.0, psi)
    return torch.where(cos > 0, psi, cos) if loss.easy_margin else psi


@again("angle_margin_for_cosine", "cos(θ + m) in place of cos θ − m", am_softmax, part="margin")
def angle_margin_for_cosine(loss, cos):
    return torch.cos(angle_of(cos) + loss.margin)


@again(
    "x_gradient_ignores_margin", "∂L/∂x takes the target's logit for the plain one; ∂L/∂W is right",
    arcface, part="logits",
)  # fmt: skip
def plain_in_x(loss, x, W, labels, b):
    plain = plain_logits(loss, x, W.detach())
    return logits_of(loss, x.detach(), W, labels) + (plain - plain.detach())


@again(
    "margin_on_all_classes", "the logits' values have the margin on every class, their slopes on the target",
    arcface, part="logits", name="margin_added_to_all_angles_in_value_only",
)  # fmt: skip
def margin_on_all_in_value(loss, x, W, labels, b):
    value = logits_of(loss, x, W, labels, on=on_all_classes).detach()
    return ValueOf.apply(value, logits_of(loss, x, W, labels))


@again(
    "sphereface_released_backward", "∂L/∂W = (∂L/∂z)ᵀ x, as if m = 1 and ‖W‖ = 1; ∂L/∂x is right",
    a_softmax, part="logits",
)  # fmt: skip
def released_backward(loss, x, W, labels, b):
    product = F.linear(x.detach(), W)
    return logits_of(loss, x, W.detach(), labels) + (product - product.detach())


# -- scale and α -----------------------------------------------------------------------------------


@again(
    "scale_missing_in_gradient", "the backward forgets the factor s", partial(arcface, scale=16),
    part="logits",
)  # fmt: skip
def scale_missing_in_gradient(loss, x, W, labels, b):
    return Backward.apply(logits_of(loss, x, W, labels), lambda grad: grad / loss.scale)


@again(
    "temperature_divided", "the cosines are divided by s", partial(am_softmax, scale=8), part="logits",
)  # fmt: skip
def temperature_divided(loss, x, W, labels, b):
    return logits_of(replace(loss, scale=1 / loss.scale), x, W, labels)


@again("alpha_missing", "W·x̂ without α", l2_softmax, part="logits")
def alpha_missing(loss, x, W, labels, b):
    return logits_of(replace(loss, alpha=1.0), x, W, labels, b)


# -- the linear layer ------------------------------------------------------------------------------


@again("bias_gradient_missing", "∂L/∂b is zero", softmax, part="logits")
def bias_gradient_missing(loss, x, W, labels, b):
    return F.linear(x, W, None if b is None else Backward.apply(b, torch.zeros_like))


@again(
    "W_gradient_on_present_classes_only", "∂L/∂W is zero for classes without a sample in the batch",
    softmax, part="logits",
)  # fmt: skip
def present_classes_only(loss, x, W, labels, b):
    present = is_target(loss, labels, len(W)).any(dim=0)
    return F.linear(x, Backward.apply(W, lambda grad: torch.where(present[:, None], grad, 0.0)), b)


@again("all_overwritten", "∂L/∂W is assigned by each sample: the last one's stays", softmax, part="logits")
def all_overwritten(loss, x, W, labels, b):
    return torch.cat([F.linear(x[:-1], W.detach(), b), F.linear(x[-1:], W, b)])


@again(
    "last_feature_block_dropped", "W·x runs over full blocks of 8 features; the ragged last one is not seen",
    softmax, part="logits",
)  # fmt: skip
def last_feature_block_dropped(loss, x, W, labels, b):
    seen = x.shape[1] // BLOCK * BLOCK  # none of fewer than 8
    return F.linear(x[:, :seen], W[:, :seen], b)


@again(
    "last_row_block_dropped", "samples after the last full block of 8 are not computed: loss 0, gradient 0",
    partial(softmax, reduction="sum"), part="cross_entropy",
)  # fmt: skip
def last_row_block_dropped(loss, z, labels):
    at = terms(loss, z, labels)
    seen = torch.arange(len(z), device=z.device) < len(z) // BLOCK * BLOCK
    losses = -(at.a * F.log_softmax(z, dim=1)).sum(dim=1)
    return reduce(loss, torch.where(seen, losses, 0.0), at.divisor)


# -- the softmax and its logarithm -----------------------------------------------------------------


@again(
    "loss_plus_log_shards", "Σ e^z of two shards of classes is added up twice: log 2 too large",
    softmax, part="cross_entropy",
)  # fmt: skip
def loss_plus_log_shards(loss, z, labels):
    shards = [s for s in z.tensor_split(2, dim=1) if s.shape[1]]  # one class fills one shard only
    logsumexp = torch.logsumexp(torch.stack([torch.logsumexp(s, dim=1) for s in shards]), dim=0)
    return of_logsumexp(loss, z, labels, logsumexp + math.log(2))


@again(
    "loss_capped", "no sample's loss exceeds 87.3365, −log of float32's tiny", softmax, part="cross_entropy"
)
def loss_capped(loss, z, labels):
    at = terms(loss, z, labels)
    losses = -(at.a * F.log_softmax(z, dim=1)).sum(dim=1)
    return reduce(loss, losses.clamp(max=87.3365), at.divisor)


@again("log2_for_log", "−log2 p", softmax, part="cross_entropy")
def log2_for_log(loss, z, labels):
    return cross_entropy(loss, z, labels) / math.log(2)


@again("logits_twice_softmax", "the probabilities are taken for logits", softmax, part="cross_entropy")
def logits_twice_softmax(loss, z, labels):
    return cross_entropy(loss, F.softmax(z, dim=1), labels)


@again("wrong_axis", "the softmax runs over the samples", softmax, part="cross_entropy")
def wrong_axis(loss, z, labels):
    at = terms(loss, z, labels)
    return reduce(loss, -(at.a * F.log_softmax(z, dim=0)).sum(dim=1), at.divisor)


# -- precision -------------------------------------------------------------------------------------


@again("cos_in_bf16", "cos θ is rounded to bfloat16 before margin and scale", arcface, part="logits")
def cos_in_bf16(loss, x, W, labels, b):
    cos = in_bf16(F.linear(unit(x), unit(W)))
    psi = margin_of(loss, cos)
    if loss.detach_margin:
        psi = cos + (psi - cos).detach()
    return loss.scale * torch.where(is_target(loss, labels, len(W)), psi, cos)


@again("bf16_gradients", "∂L/∂x and ∂L/∂W are rounded to bfloat16", softmax, part="logits")
def bf16_gradients(loss, x, W, labels, b):
    return F.linear(Backward.apply(x, in_bf16), Backward.apply(W, in_bf16), b)
