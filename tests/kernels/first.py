"""The first set of wrong torch kernels, one mistake each, that a check must catch and name.

What a part is called with, and the shapes, stand in kit.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from kernels import kit

torch, F = kit.torch, kit.torch.nn.functional

FIRST = kit.Kernels()
wrong, add = FIRST.wrong, FIRST.add


# -- the margin ------------------------------------------------------------------------------------


@wrong("the margin, given in radians, is taken as degrees", kit.arcface)
def margin_in_degrees(loss):
    return replace(loss, margin=math.radians(loss.margin))


@wrong("cos(θ − m), which makes the target easier", kit.arcface, suspect="margin_of_wrong_sign")
def arc_margin_of_wrong_sign(loss, cos):
    return kit.arc_options(loss, cos, torch.cos(kit.angle_of(cos) - loss.margin))


@wrong("cos θ + m, which makes the target easier", kit.am_softmax, suspect="margin_of_wrong_sign")
def cosine_margin_of_wrong_sign(loss, cos):
    return cos + loss.margin


add("margin_on_all_classes", "the margin is put on every class", kit.arcface, kit.am_softmax, on=kit.all_classes)


@wrong("the margin is put on the class after the label", kit.arcface, kit.am_softmax)
def margin_on_wrong_class(loss, labels, classes):
    return kit.is_target(loss, labels, classes).roll(1, dims=1)


@wrong("the margin is computed without gradients: slope of the plain logit", kit.arcface, kit.l_softmax, kit.a_softmax)
def margin_detached(loss, x, W, labels, b):
    z = kit.plain_logits(loss, x, W)
    with torch.no_grad():
        offset = kit.logits_of(loss, x, W, labels) - z
    return z + offset


@wrong("cos θ − m in place of cos(θ + m)", kit.arcface)
def cosine_margin_for_angle(loss, cos):
    return kit.arc_options(loss, cos, cos - loss.margin)


@wrong("cos θ − m sin m where θ > π − m, though cos(θ + m) is asked for", partial(kit.arcface, past_pi="cos"))
def linear_past_pi(loss, cos):
    cos_m, sin_m = math.cos(loss.margin), math.sin(loss.margin)
    phi = cos * cos_m - torch.sin(kit.angle_of(cos)) * sin_m
    if loss.easy_margin:
        return torch.where(cos > 0, phi, cos)
    return torch.where(cos > math.cos(math.pi - loss.margin), phi, cos - sin_m * loss.margin)


@wrong("plain cos θ where θ > π − m", kit.arcface)
def plain_past_pi(loss, cos):
    return torch.where(kit.angle_of(cos) > math.pi - loss.margin, cos, kit.margin_of(loss, cos))


@wrong("the margin only where cos θ > 0", kit.arcface)
def margin_where_cos_positive(loss, cos):
    return torch.where(cos > 0, kit.margin_of(loss, cos), cos)


@wrong("the margin only where cos θ > m", kit.am_softmax)
def margin_where_cos_exceeds_margin(loss, cos):
    return torch.where(cos > loss.margin, cos - loss.margin, cos)


add("margin_forgotten", "no margin at all", kit.am_softmax, kit.a_softmax, margin=lambda loss, cos: cos)


@wrong("k = round(mθ/π) in place of the floor", kit.l_softmax, kit.a_softmax)
def k_rounded(loss, cos):
    m_theta = loss.margin * kit.angle_of(cos)
    k = torch.round(m_theta / math.pi)
    return kit.sign(k) * torch.cos(m_theta) - 2 * k


@wrong("(−1)^k cos mθ without −2k", kit.a_softmax)
def k_offset_missing(loss, cos):
    theta = kit.angle_of(cos)
    return kit.sign(kit.branch(loss, theta)) * torch.cos(loss.margin * theta)


@wrong("cos mθ for every θ", kit.f_norm_sphereface, kit.l_softmax)
def no_branches(loss, cos):
    return torch.cos(loss.margin * kit.angle_of(cos))


@wrong("(cos θ + λψ)/(1 + λ): λ on the margin in place of the plain cosine", partial(kit.a_softmax, annealing=3))
def annealing_inverted(loss, cos, psi):
    return (cos + loss.annealing * psi) / (1 + loss.annealing)


# -- the scale -------------------------------------------------------------------------------------


@wrong("the logits are not multiplied by s", partial(kit.arcface, scale=16))
def scale_missing(loss):
    return replace(loss, scale=1.0)


@wrong("the logits are multiplied by s twice", partial(kit.am_softmax, scale=8))
def scale_squared(loss, x, W, labels, b):
    return loss.scale * kit.logits_of(loss, x, W, labels)


@wrong("s cos θ − m in place of s (cos θ − m)", kit.am_softmax)
def scale_before_margin(loss, x, W, labels, b):
    return kit.plain_logits(loss, x, W) - loss.margin * kit.is_target(loss, labels, len(W))


add("scale_not_on_target", "the target's logit lacks s", partial(kit.arcface, scale=8), radius=lambda *_: 1.0)


# -- lengths ---------------------------------------------------------------------------------------


for of, makers in {"x": (kit.arcface, kit.l2_softmax), "W": (kit.am_softmax, kit.w_norm_softmax)}.items():
    description = f"the backward takes ‖{of}‖ as a constant"
    add(f"{of}_projection_missing", description, *makers, **{f"unit_{of}": kit.by_constant_norm})


def by_root(v):
    return v / torch.sqrt(v.square().sum(dim=1, keepdim=True) + 1e-6)


add("eps_inside_norms", "x and W are divided by √(Σv² + 1e-6)", kit.arcface, unit_x=by_root, unit_W=by_root)


@wrong("cos θ is clamped to ±0.99, with no gradient beyond", kit.arcface)
def clamp_kills_gradient(loss, x, W, labels, b):
    cos = F.linear(kit.unit(x), kit.unit(W)).clamp(-1 + 1e-2, 1 - 1e-2)
    return kit.margin_logits(loss, cos, kit.margin_of(loss, cos), loss.scale, labels)


@wrong("x is divided by the norm of the whole batch", kit.am_softmax)
def norm_over_batch(x):
    return x / x.norm().clamp(min=kit.tiny(x))


by_columns = partial(F.normalize, dim=0)
add("norm_over_wrong_axis", "x and W are normalised over axis 0", kit.arcface, unit_x=by_columns, unit_W=by_columns)

add("W_not_normalised", "W is not normalised", partial(kit.arcface, scale=4), kit.w_norm_softmax, unit_W=kit.as_it_is)


@wrong("∂L/∂W takes the target's logit for the plain one; ∂L/∂x is right", kit.l_softmax, kit.arcface)
def W_gradient_ignores_margin(loss, x, W, labels, b):
    plain = kit.plain_logits(loss, x.detach(), W)
    return kit.logits_of(loss, x, W.detach(), labels) + (plain - plain.detach())


@wrong("z_y = ‖x‖ψ(θ) is not differentiated in ‖x‖", kit.a_softmax)
def radial_gradient_missing(loss, x, W):
    return kit.radius_of(loss, x, W).detach()


@wrong("α multiplies the bias too", kit.l2_softmax)
def bias_scaled(loss, x, W, labels, b):
    return loss.alpha * F.linear(kit.unit(x), W, b)


add("x_not_normalised", "W·(αx) in place of W·(αx̂)", kit.l2_softmax, unit_x=kit.as_it_is)


# -- the mean --------------------------------------------------------------------------------------


@wrong("the sum in place of the mean", kit.softmax)
def mean_forgotten(loss):
    return replace(loss, reduction="sum") if loss.reduction == "mean" else loss


@wrong("the mean is divided by N once more", kit.softmax)
def mean_twice(loss, z, labels):
    value = kit.cross_entropy(loss, z, labels)
    return value / kit.terms(loss, z, labels).valid.sum() if loss.reduction == "mean" else value


@wrong("the mean divides by the number of all rows, ignored ones too", kit.ignoring)
def mean_counts_ignored(loss, z, labels):
    if loss.reduction != "mean":
        return kit.cross_entropy(loss, z, labels)
    return kit.cross_entropy(replace(loss, reduction="none"), z, labels).mean()


@wrong("the mean divides by the sum of the labels' weights, as torch's does", kit.five_weights)
def mean_of_weights(loss, z, labels):
    if loss.reduction != "mean":
        return kit.cross_entropy(loss, z, labels)
    options = {} if loss.ignore_index is None else {"ignore_index": loss.ignore_index}
    w = z.new_tensor(loss.class_weights)
    return F.cross_entropy(z, labels, weight=w, label_smoothing=loss.label_smoothing, **options)


# -- what arrives from upstream --------------------------------------------------------------------


add(
    "upstream_ignored",
    "the backward does not use the gradient that arrives",
    kit.softmax,
    kit.arcface,
    upstream=torch.ones_like,
)
add("upstream_averaged", "every row gets the mean of the gradients that arrive", kit.unreduced, upstream=torch.mean)


@wrong("the gradient that arrives is multiplied in twice", kit.softmax)
def upstream_squared(upstream, p, at):
    return upstream * kit.right_rule(upstream, p, at)


# -- rows, classes and blocks of them --------------------------------------------------------------


def overwriting(loss):
    """A linear layer with its cross-entropy; ∂L/∂W gets p first, and then the labels' rows by assignment."""

    def whole(x, W, labels, b=None):
        def forward(x, W, b):
            return kit.cross_entropy(loss, F.linear(x, W, b), labels)

        def backward(grad, x, W, b):
            z = F.linear(x, W, b)
            at = kit.terms(loss, z, labels)
            upstream = grad.expand(len(x))[:, None] / at.divisor
            dz = kit.right_rule(upstream, kit.log_softmax_of(z).exp(), at)
            # the one-hot part, −(1 − ε) w_y, is left to the assignment
            one_hot_part = (1 - loss.label_smoothing) * at.w * at.target * upstream
            grad_W, y = (dz + one_hot_part).T @ x, labels[at.valid]
            grad_W[y] = grad_W[y] - one_hot_part.sum(dim=1, keepdim=True)[at.valid] * x[at.valid]
            return dz @ W, grad_W, None if b is None else dz.sum(dim=0)

        return kit.custom(forward, backward)(kit.widened(x), kit.widened(W), kit.widened(b)).to(x.dtype)

    return whole


add(
    "duplicates_overwritten",
    "∂L/∂W of a label that occurs twice is assigned, not added up",
    kit.softmax,
    make=overwriting,
)


@wrong("the last sample is never computed: loss 0, gradient 0", kit.summed)
def last_row_dropped(loss, z, at):
    losses = z.new_zeros(len(z))
    losses[:-1] = -(at.a[:-1] * kit.log_softmax_of(z[:-1])).sum(dim=1)
    return losses


@wrong("Σ e^z runs over full blocks of 8 classes; the ragged last one is not seen", kit.softmax)
def last_class_block_dropped(z):
    size = min(kit.BLOCK, z.shape[1])
    return kit.over_blocks(z[:, i * size : (i + 1) * size] for i in range(z.shape[1] // size))


@wrong("the last block of 8 classes is moved back and overlaps the one before", kit.softmax)
def last_class_block_counted_twice(z):
    starts = [max(0, min(start, z.shape[1] - kit.BLOCK)) for start in range(0, z.shape[1], kit.BLOCK)]
    return kit.over_blocks(z[:, start : start + kit.BLOCK] for start in starts)


def online_logsumexp(z):
    """log Σ e^z (N,) in one pass over blocks, whose running sum stays in the units of an older maximum."""
    largest = z.new_full((len(z),), -math.inf)
    total = z.new_zeros(len(z))
    for block in z.split(kit.BLOCK, dim=1):
        largest = torch.maximum(largest, block.amax(dim=1))
        total = total + torch.exp(block - largest[:, None]).sum(dim=1)
    return largest + torch.log(total)


NOT_RESCALED = "the running sum is not rescaled when the running maximum grows"
add("online_softmax_without_rescaling", NOT_RESCALED, kit.softmax, logsumexp=online_logsumexp)
add(
    "online_softmax_without_rescaling",
    f"{NOT_RESCALED}; the backward takes p = e^(z − log Σ)",
    kit.softmax,
    name="online_softmax_without_rescaling-p_from_sum",
    cross_entropy=kit.by_hand(log_softmax=lambda z: z - online_logsumexp(z)[:, None]),
)


@wrong("p still flows back from ignored rows, whose loss is 0", kit.ignoring)
def ignored_rows_with_gradient(upstream, p, at):
    return torch.where(at.valid[:, None], kit.right_rule(upstream, p, at), upstream * p)


@wrong("the target is class y + 1", kit.softmax)
def labels_off_by_one(loss, z, labels):
    valid = kit.is_target(loss, labels, z.shape[1]).any(dim=1)
    shifted = torch.where(valid, (labels + 1) % z.shape[1], -1)
    return kit.cross_entropy(replace(loss, ignore_index=-1), z, shifted)


# -- smoothing -------------------------------------------------------------------------------------


@wrong("ε/(C − 1) on the other classes and 1 − ε on the target", kit.smoothed)
def smoothing_over_others(loss, z, at):
    t = torch.full_like(z, loss.label_smoothing / max(z.shape[1] - 1, 1))
    t[at.target] = 1 - loss.label_smoothing
    losses = -(at.w * t * kit.log_softmax_of(z)).sum(dim=1)
    return torch.where(at.valid, losses, 0)


@wrong("the smooth term has the weight of the label, not of each class", partial(kit.five_weights, label_smoothing=0.2))
def smoothing_with_target_weight(loss, z, at):
    log_p = kit.log_softmax_of(z)
    nll, smooth = -(log_p * at.target).sum(dim=1), -log_p.mean(dim=1)
    losses = (1 - loss.label_smoothing) * nll + loss.label_smoothing * smooth
    return (at.w * at.target).sum(dim=1) * losses


# -- precision -------------------------------------------------------------------------------------


@wrong("the logits are rounded to bfloat16 before the softmax", kit.softmax, kit.arcface)
def bf16_logits(loss, x, W, labels, b):
    return kit.in_bf16(kit.logits_of(loss, x, W, labels, b))


@wrong("p is rounded to bfloat16 before 1 is subtracted", kit.softmax)
def p_rounded(upstream, p, at):
    return kit.right_rule(upstream, kit.in_bf16(p), at)


def ten_bits(v):
    """v rounded to 10 explicit bits of mantissa."""
    mantissa, exponent = torch.frexp(v)
    return torch.ldexp(torch.round(mantissa * 2**11), exponent - 11)


def tf32_backward(grad, x, W):
    x, W, grad = map(ten_bits, (x, W, grad))
    return grad @ W, grad.T @ x


@wrong("operands of matrix products are rounded to 10 explicit bits", kit.softmax)
def tf32(loss, x, W, labels, b):
    return kit.biased(kit.custom(lambda x, W: ten_bits(x) @ ten_bits(W).T, tf32_backward))(x, W, b)


@wrong("log Σ e^z without the maximum taken out", kit.softmax)
def exp_without_maximum(z):
    return torch.log(torch.exp(z).sum(dim=1))


@wrong("log(p + 1e-7)", kit.softmax)
def probability_clamped(loss, z, at):
    return kit.losses_of(loss, z, at, torch.log(F.softmax(z, dim=1) + 1e-7))


# -- the cross-entropy's backward ------------------------------------------------------------------


@wrong("only the target's column of p − t flows back", kit.softmax, kit.arcface)
def off_target_dropped(upstream, p, at):
    return kit.right_rule(upstream, p, at) * at.target


@wrong("p flows back in place of p − t", kit.softmax)
def one_hot_forgotten(upstream, p, at):
    return upstream * p * at.a.sum(dim=1, keepdim=True)
