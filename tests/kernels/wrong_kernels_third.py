"""A third set of wrong torch kernels, written like the second: from the formulas and a line on each mistake.

The honest kernel and its parts are those of wrong_kernels.py; what is called how, and the shapes, stand
there. Each entry of THIRD makes its mistake in the way that comes first to mind.
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
    anneal,
    arc_options,
    arcface,
    branch,
    by_hand,
    cross_entropy,
    f_norm_sphereface,
    is_target,
    l2_softmax,
    logits_of,
    margin_of,
    of_logsumexp,
    radius_of,
    reduce,
    refloss,
    replace,
    right_rule,
    sign,
    softmax,
    terms,
    torch,
    unit,
    w_norm_softmax,
    weighted_softmax,
    wrong,
    wrong_backward,
)
from kernels.wrong_kernels_again import Backward, ValueOf, in_bf16

F = torch.nn.functional

EPS = 1e-4  # what is added to a norm, or to its square
SHARDS = 2  # devices that the classes are split over

THIRD: list[WrongKernel] = []


third, third_backward = partial(wrong, into=THIRD), partial(wrong_backward, into=THIRD)


some_weights = (0.5, 2.0, 1.0, 0.25, 3.0)
smoothed = partial(softmax, label_smoothing=0.1)


# -- the margin ------------------------------------------------------------------------------------


def margin_logits(loss, cos, psi, radius, labels):
    """(N, C): r cos θ, and on the target r ψ of a ψ that is neither annealed nor detached yet.

    cos (N, C); psi (N, C) or (N, 1); radius a number, (N, 1) or (N, C).
    """
    psi = anneal(loss, cos, psi)
    if loss.detach_margin:
        psi = cos + (psi - cos).detach()
    return radius * torch.where(is_target(loss, labels, cos.shape[1]), psi, cos)


def margin_at(loss, cos, theta):
    """ψ(θ) by way of this θ; of ArcFace or the papers' ψ, with its continuation."""
    if isinstance(loss, refloss.ArcFace):
        return arc_options(loss, cos, torch.cos(theta + loss.margin))
    k = branch(loss, theta)
    psi = sign(k) * torch.cos(loss.margin * theta) - 2 * k
    if loss.continuation is None:
        return psi
    end = math.pi / loss.margin
    return torch.where(theta < end, psi, loss.continuation[0](theta.clamp(min=end), torch))


@third(
    "margin_rounded_in_degrees", "the margin is given in degrees with one decimal", arcface, part="margin",
)  # fmt: skip
def margin_rounded_in_degrees(loss, cos):
    return margin_of(replace(loss, margin=math.radians(round(math.degrees(loss.margin), 1))), cos)


@third("angle_clamped", "θ is clamped to [−1, 1], as a cosine would be", arcface, part="margin")
def angle_clamped(loss, cos):
    return margin_at(loss, cos, angle_of(cos).clamp(-1, 1))


def chebyshev(m, c):
    """cos mθ of c = cos θ; its slope is finite at the poles."""
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return now


@third(
    "k_off_by_one_at_pi", "k = ⌊mθ/π⌋ is m where θ is rounded to π: the slope there is −m² for m²",
    f_norm_sphereface, part="margin",
)  # fmt: skip
def k_off_by_one_at_pi(loss, cos):
    if loss.continuation is not None:
        return margin_of(loss, cos)  # it has no k
    theta = torch.acos(cos.detach().clamp(-1, 1))
    k = torch.floor(loss.margin * theta / math.pi)
    return sign(k) * chebyshev(int(loss.margin), cos) - 2 * k


@third(
    "multiplier_missing_in_slope", "ψ is right, and its slope lacks the factor m", a_softmax, part="margin"
)
def multiplier_missing_in_slope(loss, cos):
    psi = margin_of(loss, cos)
    too_flat = psi / loss.margin
    if loss.continuation is not None:  # what follows π/m brings a slope of its own
        too_flat = torch.where(angle_of(cos) < math.pi / loss.margin, too_flat, psi)
    return ValueOf.apply(psi.detach(), too_flat)


@third(
    "annealing_not_normalised", "λ cos θ + ψ without the division by 1 + λ",
    partial(a_softmax, annealing=3.0), part="anneal",
)  # fmt: skip
def annealing_not_normalised(loss, cos, psi):
    return loss.annealing * cos + psi


@third(
    "annealing_on_other_logits", "the other classes' logits are multiplied by λ/(1 + λ) as well",
    partial(a_softmax, annealing=3.0), part="logits",
)  # fmt: skip
def annealing_on_other_logits(loss, x, W, labels, b):
    z = logits_of(loss, x, W, labels)
    return torch.where(is_target(loss, labels, len(W)), z, z * loss.annealing / (1 + loss.annealing))


@third(
    "slope_clamped", "cos(θ + m) is right, its slope sin(θ + m)/sin θ is clamped to [0, 2]", arcface,
    part="margin",
)  # fmt: skip
def slope_clamped(loss, cos):
    theta = angle_of(cos.detach())
    slope = (torch.sin(theta + loss.margin) / torch.sin(theta)).clamp(0, 2)
    return arc_options(loss, cos, ValueOf.apply(torch.cos(theta + loss.margin), slope * cos))


def target_cosine(loss, cos, labels):
    """cos θ_y (N, 1); 0 on ignored rows."""
    return torch.where(is_target(loss, labels, cos.shape[1]), cos, 0.0).sum(dim=1, keepdim=True)


@third(
    "pole_gives_nan", "θ_y = acos cos θ_y, whose slope is infinite where the cosine is rounded to ±1",
    f_norm_sphereface, part="logits",
)  # fmt: skip
def pole_of_acos(loss, x, W, labels, b):
    cos = F.linear(unit(x), unit(W))
    cos_y = target_cosine(loss, cos, labels)
    psi = margin_at(loss, cos_y, torch.acos(cos_y.clamp(-1, 1)))
    return margin_logits(loss, cos, psi, radius_of(loss, x, W), labels)


@third(
    "pole_gives_nan", "sin θ_y = √(1 − cos²), whose slope is infinite where the cosine is rounded to ±1",
    arcface, part="logits",
)  # fmt: skip
def pole_of_square_root(loss, x, W, labels, b):
    cos = F.linear(unit(x), unit(W))
    cos_y = target_cosine(loss, cos, labels)
    sin_y = torch.sqrt((1 - cos_y.square()).clamp(min=0))
    psi = arc_options(loss, cos_y, cos_y * math.cos(loss.margin) - sin_y * math.sin(loss.margin))
    return margin_logits(loss, cos, psi, loss.scale, labels)


def masked_by_product(loss, x, W, labels, off_poles):
    """r (ψ · one-hot + cos θ · (1 − one-hot)), acos of every cosine that is not off_poles(target) (N, C)."""
    cos = F.linear(unit(x), unit(W))
    target = is_target(loss, labels, len(W))
    nearly_one = 1 - torch.finfo(cos.dtype).eps
    kept_off = cos.clamp(-nearly_one, nearly_one)
    theta = torch.acos(torch.where(off_poles(target), kept_off, cos.clamp(-1, 1)))
    psi = anneal(loss, cos, margin_at(loss, cos, theta))
    if loss.detach_margin:
        psi = cos + (psi - cos).detach()
    one_hot = target.to(cos.dtype)
    return radius_of(loss, x, W) * (psi * one_hot + cos * (1 - one_hot))


@third(
    "other_pole_gives_nan", "ψ of every class times the one-hot: 0 · ∞ at the pole of any class",
    partial(arcface, past_pi="linear"), part="logits",
)  # fmt: skip
def pole_of_any_class(loss, x, W, labels, b):
    return masked_by_product(loss, x, W, labels, torch.zeros_like)


@third(
    "other_pole_gives_nan", "ψ of every class times the one-hot: 0 · ∞ at another's pole, the target's is safe",
    partial(arcface, past_pi="linear"), part="logits", name="other_pole_gives_nan-target_kept_off",
)  # fmt: skip
def pole_of_others(loss, x, W, labels, b):
    return masked_by_product(loss, x, W, labels, torch.clone)


# -- lengths and α ---------------------------------------------------------------------------------


def with_norms(loss, x, W, labels, norm_x, norm_W):
    """Logits of a margin loss in which a function (M, D) → (M, 1) is the norm, as a divisor and as r."""

    def radius(loss, x, W):
        match loss:
            case refloss.LSoftmax():
                return norm_x(x) * norm_W(W).T
            case refloss.ASoftmax():
                return norm_x(x)
        return radius_of(loss, x, W)

    cos = F.linear(x / norm_x(x), W / norm_W(W))
    return margin_logits(loss, cos, margin_of(loss, cos), radius(loss, x, W), labels)


def right_norm(v):
    """‖v‖ (M, 1)."""
    return v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)


@third(
    "eps_inside_x_norm", "‖x‖ is √(Σx² + 1e-4)", partial(a_softmax, detach_margin=True), am_softmax,
    part="logits",
)  # fmt: skip
def eps_inside_x_norm(loss, x, W, labels, b):
    def norm_x(x):
        return torch.sqrt(x.square().sum(dim=1, keepdim=True) + EPS)

    return with_norms(loss, x, W, labels, norm_x, right_norm)


@third("eps_added_to_norms", "the norms are ‖v‖ + 1e-4", a_softmax, part="logits")
def eps_added_to_norms(loss, x, W, labels, b):
    def norm(v):
        return v.norm(dim=1, keepdim=True) + EPS

    return with_norms(loss, x, W, labels, norm, norm)


class UnitWithEpsForward(torch.autograd.Function):
    """v/n of n = ‖v‖ + EPS; the backward is that of v/‖v‖, with n for ‖v‖."""

    @staticmethod
    def forward(ctx, v):
        norm = v.norm(dim=1, keepdim=True) + EPS
        ctx.save_for_backward(v / norm, norm)
        return v / norm

    @staticmethod
    def backward(ctx, grad):
        v_hat, norm = ctx.saved_tensors
        return (grad - (grad * v_hat).sum(dim=1, keepdim=True) * v_hat) / norm


@third(
    "eps_missing_in_backward", "the norms are ‖v‖ + 1e-4, the backward is that of v/‖v‖ with them",
    am_softmax, part="logits",
)  # fmt: skip
def eps_missing_in_backward(loss, x, W, labels, b):
    with_eps = UnitWithEpsForward.apply
    return logits_of(loss, x, W, labels, unit_x=with_eps, unit_W=with_eps)


@third("alpha_missing_in_gradient", "the backward of W·(αx̂) leaves out α", l2_softmax, part="logits")
def alpha_missing_in_gradient(loss, x, W, labels, b):
    z = Backward.apply(F.linear(loss.alpha * unit(x), W), lambda grad: grad / loss.alpha)
    return z if b is None else z + b


@third("logits_normalised", "α z/‖z‖ of z = W·x + b in place of W·(αx̂) + b", l2_softmax, part="logits")
def logits_normalised(loss, x, W, labels, b):
    return loss.alpha * unit(F.linear(x, W, b))


# -- the linear layer ------------------------------------------------------------------------------


def without_margin(loss, x, W, b, product):
    """The logits of a loss without margin, whose matrix product is product(u (N, D), V (C, D))."""
    match loss:
        case refloss.L2Softmax():
            z = product(loss.alpha * unit(x), W)
        case refloss.WNormSoftmax():
            z = product(x, unit(W))
        case _:
            z = product(x, W)
    return z if b is None else z + b


class ReshapedLinear(torch.autograd.Function):
    """u Vᵀ; ∂L/∂V takes ∂L/∂z (N, C) as if its memory were (C, N)."""

    @staticmethod
    def forward(ctx, u, V):
        ctx.save_for_backward(u, V)
        return u @ V.T

    @staticmethod
    def backward(ctx, grad):
        u, V = ctx.saved_tensors
        return grad @ V, grad.reshape(len(V), len(u)) @ u


@third(
    "W_gradient_transposed", "∂L/∂z (N, C) is reshaped to (C, N), not transposed, on its way to W",
    w_norm_softmax, softmax, part="logits",
)  # fmt: skip
def W_gradient_transposed(loss, x, W, labels, b):
    return without_margin(loss, x, W, b, ReshapedLinear.apply)


class LinearWithRawW(torch.autograd.Function):
    """u ŵ_j; what flows back to u is made with W_j."""

    @staticmethod
    def forward(ctx, u, W_hat, W):
        ctx.save_for_backward(u, W)
        return u @ W_hat.T

    @staticmethod
    def backward(ctx, grad):
        u, W = ctx.saved_tensors
        return grad @ W, grad.T @ u, None


@third(
    "raw_W_in_gradient", "∂L/∂x is made with W_j where the forward used ŵ_j",
    f_norm_sphereface, w_norm_softmax, part="logits",
)  # fmt: skip
def raw_W_in_gradient(loss, x, W, labels, b):
    if not loss.has_margin:
        return LinearWithRawW.apply(x, unit(W), W)
    cos = LinearWithRawW.apply(unit(x), unit(W), W)
    return margin_logits(loss, cos, margin_of(loss, cos), radius_of(loss, x, W), labels)


# -- the reduction, and classes by blocks or devices -----------------------------------------------


@third(
    "gradient_averaged", "the loss is not averaged, its gradient is divided by N",
    partial(softmax, reduction="none"), part="cross_entropy",
)  # fmt: skip
def gradient_averaged(loss, z, labels):
    if loss.reduction in ("mean", "weighted_mean"):
        return cross_entropy(loss, z, labels)
    return by_hand(lambda upstream, p, at: right_rule(upstream, p, at) / len(p))(loss, z, labels)


def shards_of(z):
    """The columns of z (N, C) that each device has; one with none is left out."""
    return [shard for shard in z.tensor_split(SHARDS, dim=1) if shard.shape[1]]


@third(
    "maxima_added_over_shards", "the devices' maxima are added up, and each takes out its own",
    w_norm_softmax, part="cross_entropy",
)  # fmt: skip
def maxima_added_over_shards(loss, z, labels):
    shards = shards_of(z)
    maxima = [shard.detach().amax(dim=1, keepdim=True) for shard in shards]
    total = sum(torch.exp(shard - at_most).sum(dim=1) for shard, at_most in zip(shards, maxima, strict=True))
    return of_logsumexp(loss, z, labels, sum(maxima)[:, 0] + torch.log(total))


@third_backward(
    "classes_beyond_block_without_gradient", "∂L/∂z is written for the first 8 classes, the others have 0",
    f_norm_sphereface,
)  # fmt: skip
def classes_beyond_block_without_gradient(upstream, p, at):
    seen = torch.arange(p.shape[1], device=p.device) < BLOCK
    return right_rule(upstream, p, at) * seen


@third(
    "target_logit_not_reduced", "the target's logit counts as 0 unless the first device has it",
    partial(softmax, reduction="sum"), part="cross_entropy",
)  # fmt: skip
def target_logit_not_reduced(loss, z, labels):
    at = terms(loss, z, labels)
    elsewhere = torch.arange(z.shape[1], device=z.device) >= shards_of(z)[0].shape[1]
    lost = (1 - loss.label_smoothing) * at.w * (at.target & elsewhere)  # the smooth part is not
    losses = (at.a * torch.logsumexp(z, dim=1, keepdim=True) - (at.a - lost) * z).sum(dim=1)
    return reduce(loss, losses, at.divisor)


# -- smoothing and class weights -------------------------------------------------------------------


def with_targets(loss, z, labels, t):
    """The cross-entropy with targets t (N, C)."""
    at = terms(loss, z, labels)
    losses = -(at.w * t * at.valid[:, None] * F.log_softmax(z, dim=1)).sum(dim=1)
    return reduce(loss, losses, at.divisor)


@third("smoothing_renormalised", "(target + ε/C)/(1 + ε)", smoothed, part="cross_entropy")
def smoothing_renormalised(loss, z, labels):
    target = is_target(loss, labels, z.shape[1]).to(z.dtype)
    smoothing = loss.label_smoothing
    return with_targets(loss, z, labels, (target + smoothing / z.shape[1]) / (1 + smoothing))


@third(
    "smoothing_entropy_subtracted", "Σ t (log t − log p): the smoothed target's entropy is subtracted",
    smoothed, part="cross_entropy",
)  # fmt: skip
def smoothing_entropy_subtracted(loss, z, labels):
    at = terms(loss, z, labels)
    smoothing = loss.label_smoothing
    t = (1 - smoothing) * at.target.to(z.dtype) + smoothing / z.shape[1]
    log_t = torch.where(t > 0, t, 1.0).log()  # 0 log 0 = 0
    return reduce(loss, (at.a * (log_t - F.log_softmax(z, dim=1))).sum(dim=1), at.divisor)


@third("smoothing_leaves_target", "1 − ε/C on the target, ε/C on the others", smoothed, part="cross_entropy")
def smoothing_leaves_target(loss, z, labels):
    share = loss.label_smoothing / z.shape[1]
    return with_targets(
        loss, z, labels, torch.where(is_target(loss, labels, z.shape[1]), 1 - share, z.new_tensor(share))
    )


@third(
    "smoothing_leaves_target", "(1 − ε/C) target + ε/C: 1 on the target, ε/C on the others", smoothed,
    part="cross_entropy", name="smoothing_leaves_target-plus_share",
)  # fmt: skip
def smoothing_leaves_target_plus_share(loss, z, labels):
    share = loss.label_smoothing / z.shape[1]
    target = is_target(loss, labels, z.shape[1]).to(z.dtype)
    return with_targets(loss, z, labels, (1 - share) * target + share)


@third(
    "weights_on_logits", "the class weights multiply the logits in place of the losses",
    partial(softmax, reduction="weighted_mean", class_weights=some_weights), part="cross_entropy",
)  # fmt: skip
def weights_on_logits(loss, z, labels):
    at = terms(loss, z, labels)
    unweighted = terms(replace(loss, class_weights=(1.0,) * z.shape[1]), z, labels)
    losses = -(unweighted.a * F.log_softmax(at.w * z, dim=1)).sum(dim=1)
    return reduce(loss, losses, at.divisor)


# -- the logarithm, and precision ------------------------------------------------------------------


@third("log_of_softmax", "log of a p that may be rounded to 0", a_softmax, part="cross_entropy")
def log_of_softmax(loss, z, labels):
    at = terms(loss, z, labels)
    p = torch.where(at.a != 0, F.softmax(z, dim=1), 1.0)  # a class that is not asked for has no term
    return reduce(loss, -(at.a * torch.log(p)).sum(dim=1), at.divisor)


@third(
    "probability_plus_eps", "−log(p + 1e-6)", partial(weighted_softmax, class_weights=some_weights),
    part="cross_entropy",
)  # fmt: skip
def probability_plus_eps(loss, z, labels):
    at = terms(loss, z, labels)
    return reduce(loss, -(at.a * torch.log(F.softmax(z, dim=1) + 1e-6)).sum(dim=1), at.divisor)


def product_in_bf16(A, B):
    """A (M, K) times B (K, L), with a running sum that is rounded to bfloat16 after each of the K terms."""
    total = A.new_zeros(A.shape[0], B.shape[1])
    for column, row in zip(A.T, B, strict=True):
        total = in_bf16(total + column[:, None] * row)
    return total


class LinearInBf16(torch.autograd.Function):
    """u Vᵀ, forward and backward, accumulated in bfloat16."""

    @staticmethod
    def forward(ctx, u, V):
        ctx.save_for_backward(u, V)
        return product_in_bf16(u, V.T)

    @staticmethod
    def backward(ctx, grad):
        u, V = ctx.saved_tensors
        return product_in_bf16(grad, V), product_in_bf16(grad.T, u)


@third(
    "bf16_accumulation", "dot products are accumulated in bfloat16, forward and backward", l2_softmax,
    part="logits",
)  # fmt: skip
def bf16_accumulation(loss, x, W, labels, b):
    return without_margin(loss, x, W, b, LinearInBf16.apply)


@third("bf16_loss", "the losses and their sum are stored in bfloat16", w_norm_softmax, part="cross_entropy")
def bf16_loss(loss, z, labels):
    at = terms(loss, z, labels)
    losses = -(at.a * F.log_softmax(z, dim=1)).sum(dim=1)
    losses = ValueOf.apply(in_bf16(losses.detach()), losses)
    if loss.reduction == "none":
        return losses
    total = losses.sum()
    return ValueOf.apply(in_bf16(total.detach()), total) / at.divisor
