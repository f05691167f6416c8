"""The third set of wrong torch kernels, written like the second: from the formulas and a line on each mistake.

What a part is called with, and the shapes, stand in kit.py. Each entry makes its mistake in the way that comes first
to mind.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from kernels import kit

torch, F = kit.torch, kit.torch.nn.functional

EPS = 1e-4  # what is added to a norm, or to its square

THIRD = kit.Kernels()
wrong, add = THIRD.wrong, THIRD.add


# -- the margin ------------------------------------------------------------------------------------


@wrong("the margin is given in degrees with one decimal", kit.arcface)
def margin_rounded_in_degrees(loss):
    return replace(loss, margin=math.radians(round(math.degrees(loss.margin), 1)))


@wrong("θ is clamped to [−1, 1], as a cosine would be", kit.arcface)
def angle_clamped(loss, cos):
    return kit.margin_of(loss, cos, kit.angle_of(cos).clamp(-1, 1))


def chebyshev(m, c):
    """cos mθ of c = cos θ; its slope is finite at the poles."""
    before, now = torch.ones_like(c), c
    for _ in range(m - 1):
        before, now = now, 2 * c * now - before
    return now


@wrong("k = ⌊mθ/π⌋ is m where θ is rounded to π: the slope there is −m² for m²", kit.f_norm_sphereface)
def k_off_by_one_at_pi(loss, cos):
    if loss.continuation is not None:
        return kit.margin_of(loss, cos)  # it has no k
    theta = torch.acos(cos.detach().clamp(-1, 1))
    k = torch.floor(loss.margin * theta / math.pi)
    return kit.sign(k) * chebyshev(int(loss.margin), cos) - 2 * k


@wrong("ψ is right, and its slope lacks the factor m", kit.a_softmax)
def multiplier_missing_in_slope(loss, cos):
    psi = kit.margin_of(loss, cos)
    too_flat = psi / loss.margin
    if loss.continuation is not None:  # what follows π/m brings a slope of its own
        too_flat = torch.where(kit.angle_of(cos) < math.pi / loss.margin, too_flat, psi)
    return kit.value_of(psi.detach(), too_flat)


@wrong("λ cos θ + ψ without the division by 1 + λ", partial(kit.a_softmax, annealing=3.0))
def annealing_not_normalised(loss, cos, psi):
    return loss.annealing * cos + psi


@wrong("the other classes' logits are multiplied by λ/(1 + λ) as well", partial(kit.a_softmax, annealing=3.0))
def annealing_on_other_logits(loss, x, W, labels, b):
    z = kit.logits_of(loss, x, W, labels)
    return torch.where(kit.is_target(loss, labels, len(W)), z, z * loss.annealing / (1 + loss.annealing))


@wrong("cos(θ + m) is right, its slope sin(θ + m)/sin θ is clamped to [0, 2]", kit.arcface)
def slope_clamped(loss, cos):
    theta = kit.angle_of(cos.detach())
    slope = (torch.sin(theta + loss.margin) / torch.sin(theta)).clamp(0, 2)
    return kit.arc_options(loss, cos, kit.value_of(torch.cos(theta + loss.margin), slope * cos))


def with_psi(psi_of):
    """The logits of a loss whose ψ (N, 1) is psi_of(loss, cos θ_y (N, 1)); cos θ_y is 0 on ignored rows."""

    def logits(loss, x, W, labels, b):
        cos = F.linear(kit.unit(x), kit.unit(W))
        cos_y = torch.where(kit.is_target(loss, labels, len(W)), cos, 0.0).sum(dim=1, keepdim=True)
        return kit.margin_logits(loss, cos, psi_of(loss, cos_y), kit.radius_of(loss, x, W), labels)

    return logits


def psi_of_acos(loss, cos_y):
    return kit.margin_of(loss, cos_y, torch.acos(cos_y.clamp(-1, 1)))


def psi_of_square_root(loss, cos_y):
    sin_y = torch.sqrt((1 - cos_y.square()).clamp(min=0))
    return kit.arc_options(loss, cos_y, cos_y * math.cos(loss.margin) - sin_y * math.sin(loss.margin))


INFINITE = "whose slope is infinite where the cosine is rounded to ±1"
add("pole_gives_nan", f"θ_y = acos cos θ_y, {INFINITE}", kit.f_norm_sphereface, logits=with_psi(psi_of_acos))
add("pole_gives_nan", f"sin θ_y = √(1 − cos²), {INFINITE}", kit.arcface, logits=with_psi(psi_of_square_root))


def masked_by_product(off_poles):
    """r (ψ · one-hot + cos θ · (1 − one-hot)), acos of every cosine that is not off_poles(target) (N, C)."""

    def logits(loss, x, W, labels, b):
        cos = F.linear(kit.unit(x), kit.unit(W))
        target = kit.is_target(loss, labels, len(W))
        theta = torch.acos(torch.where(off_poles(target), kit.kept_off_poles(cos), cos.clamp(-1, 1)))
        psi = kit.detached(loss, cos, kit.anneal(loss, cos, kit.margin_of(loss, cos, theta)))
        one_hot = target.to(cos.dtype)
        return kit.radius_of(loss, x, W) * (psi * one_hot + cos * (1 - one_hot))

    return logits


linear_arcface = partial(kit.arcface, past_pi="linear")
add(
    "other_pole_gives_nan",
    "ψ of every class times the one-hot: 0 · ∞ at the pole of any class",
    linear_arcface,
    logits=masked_by_product(torch.zeros_like),
)
add(
    "other_pole_gives_nan",
    "ψ of every class times the one-hot: 0 · ∞ at another's pole, the target's is safe",
    linear_arcface,
    logits=masked_by_product(torch.clone),
    name="other_pole_gives_nan-target_kept_off",
)


# -- lengths and α ---------------------------------------------------------------------------------


def with_norms(norm_x, norm_W):
    """Logits of a margin loss in which a function (M, D) → (M, 1) is the norm, as a divisor and as r."""

    def logits(loss, x, W, labels, b):
        cos = F.linear(x / norm_x(x), W / norm_W(W))
        return kit.margin_logits(loss, cos, kit.margin_of(loss, cos), kit.radius_of(loss, x, W, norm_x, norm_W), labels)

    return logits


def right_norm(v):
    return kit.row_norm(v).clamp(min=kit.tiny(v))


def root_with_eps(v):
    return torch.sqrt(v.square().sum(dim=1, keepdim=True) + EPS)


def norm_plus_eps(v):
    return kit.row_norm(v) + EPS


add(
    "eps_inside_x_norm",
    "‖x‖ is √(Σx² + 1e-4)",
    partial(kit.a_softmax, detach_margin=True),
    kit.am_softmax,
    logits=with_norms(root_with_eps, right_norm),
)
add("eps_added_to_norms", "the norms are ‖v‖ + 1e-4", kit.a_softmax, logits=with_norms(norm_plus_eps, norm_plus_eps))

# v/n of n = ‖v‖ + EPS; the backward is that of v/‖v‖, with n for ‖v‖
unit_with_eps = kit.custom(
    lambda v: v / norm_plus_eps(v), lambda grad, v: (kit.projected(grad, v / norm_plus_eps(v)) / norm_plus_eps(v),)
)
add(
    "eps_missing_in_backward",
    "the norms are ‖v‖ + 1e-4, the backward is that of v/‖v‖ with them",
    kit.am_softmax,
    unit_x=unit_with_eps,
    unit_W=unit_with_eps,
)


@wrong("the backward of W·(αx̂) leaves out α", kit.l2_softmax)
def alpha_missing_in_gradient(loss, x, W, labels, b):
    z = kit.with_gradient(F.linear(loss.alpha * kit.unit(x), W), lambda grad: grad / loss.alpha)
    return z if b is None else z + b


@wrong("α z/‖z‖ of z = W·x + b in place of W·(αx̂) + b", kit.l2_softmax)
def logits_normalised(loss, x, W, labels, b):
    return loss.alpha * kit.unit(F.linear(x, W, b))


# -- the linear layer ------------------------------------------------------------------------------


def of_product(forward, backward):
    """The logits of a loss without margin, of a matrix product with a backward of its own."""
    product = kit.biased(kit.custom(forward, backward))
    return lambda loss, x, W, labels, b: kit.plain_logits(loss, x, W, b, product=product)


add(
    "W_gradient_transposed",
    "∂L/∂z (N, C) is reshaped to (C, N), not transposed, on its way to W",
    kit.w_norm_softmax,
    kit.softmax,
    logits=of_product(lambda u, V: u @ V.T, lambda grad, u, V: (grad @ V, grad.reshape(len(V), len(u)) @ u)),
)

# u ŵ_j; what flows back to u is made with W_j
with_raw_W = kit.custom(lambda u, W_hat, W: u @ W_hat.T, lambda grad, u, W_hat, W: (grad @ W, grad.T @ u, None))


@wrong("∂L/∂x is made with W_j where the forward used ŵ_j", kit.f_norm_sphereface, kit.w_norm_softmax)
def raw_W_in_gradient(loss, x, W, labels, b):
    if not loss.has_margin:
        return with_raw_W(x, kit.unit(W), W)
    cos = with_raw_W(kit.unit(x), kit.unit(W), W)
    return kit.margin_logits(loss, cos, kit.margin_of(loss, cos), kit.radius_of(loss, x, W), labels)


# -- the reduction, and classes by blocks or devices -----------------------------------------------


@wrong("the loss is not averaged, its gradient is divided by N", kit.unreduced)
def gradient_averaged(loss, z, labels):
    if loss.reduction in ("mean", "weighted_mean"):
        return kit.cross_entropy(loss, z, labels)
    return kit.by_hand(lambda upstream, p, at: kit.right_rule(upstream, p, at) / len(p))(loss, z, labels)


@wrong("the devices' maxima are added up, and each takes out its own", kit.w_norm_softmax)
def maxima_added_over_shards(z):
    shards = kit.shards_of(z)
    maxima = [shard.detach().amax(dim=1, keepdim=True) for shard in shards]
    total = sum(torch.exp(shard - at_most).sum(dim=1) for shard, at_most in zip(shards, maxima, strict=True))
    return sum(maxima)[:, 0] + torch.log(total)


@wrong("∂L/∂z is written for the first 8 classes, the others have 0", kit.f_norm_sphereface)
def classes_beyond_block_without_gradient(upstream, p, at):
    seen = torch.arange(p.shape[1], device=p.device) < kit.BLOCK
    return kit.right_rule(upstream, p, at) * seen


@wrong("the target's logit counts as 0 unless the first device has it", kit.summed)
def target_logit_not_reduced(loss, z, at):
    elsewhere = torch.arange(z.shape[1], device=z.device) >= kit.shards_of(z)[0].shape[1]
    lost = (1 - loss.label_smoothing) * at.w * (at.target & elsewhere)  # the smooth part is not
    return (at.a * torch.logsumexp(z, dim=1, keepdim=True) - (at.a - lost) * z).sum(dim=1)


# -- smoothing and class weights -------------------------------------------------------------------


def with_targets(targets):
    """The losses of targets(target (N, C), ε, C), (N, C)."""

    def losses(loss, z, at):
        t = targets(at.target.to(z.dtype), loss.label_smoothing, z.shape[1])
        return -(at.w * t * at.valid[:, None] * kit.log_softmax_of(z)).sum(dim=1)

    return losses


def renormalised(target, smoothing, C):
    return (target + smoothing / C) / (1 + smoothing)


add("smoothing_renormalised", "(target + ε/C)/(1 + ε)", kit.smoothed, losses=with_targets(renormalised))


@wrong("Σ t (log t − log p): the smoothed target's entropy is subtracted", kit.smoothed)
def smoothing_entropy_subtracted(loss, z, at):
    smoothing = loss.label_smoothing
    t = (1 - smoothing) * at.target.to(z.dtype) + smoothing / z.shape[1]
    log_t = torch.where(t > 0, t, 1.0).log()  # 0 log 0 = 0
    return (at.a * (log_t - kit.log_softmax_of(z))).sum(dim=1)


def target_left(target, smoothing, C):
    return torch.where(target == 1, 1 - smoothing / C, target.new_tensor(smoothing / C))


def share_added(target, smoothing, C):
    return (1 - smoothing / C) * target + smoothing / C


add(
    "smoothing_leaves_target",
    "1 − ε/C on the target, ε/C on the others",
    kit.smoothed,
    losses=with_targets(target_left),
)
add(
    "smoothing_leaves_target",
    "(1 − ε/C) target + ε/C: 1 on the target, ε/C on the others",
    kit.smoothed,
    losses=with_targets(share_added),
    name="smoothing_leaves_target-plus_share",
)


@wrong(
    "the class weights multiply the logits in place of the losses",
    partial(kit.softmax, reduction="weighted_mean", class_weights=kit.some_weights),
)
def weights_on_logits(loss, z, labels):
    at = kit.terms(loss, z, labels)
    unweighted = kit.terms(replace(loss, class_weights=(1.0,) * z.shape[1]), z, labels)
    return kit.reduce(loss, kit.losses_of(loss, at.w * z, unweighted), at.divisor)


# -- the logarithm, and precision ------------------------------------------------------------------


@wrong("log of a p that may be rounded to 0", kit.a_softmax)
def log_of_softmax(loss, z, at):
    p = torch.where(at.a != 0, F.softmax(z, dim=1), 1.0)  # a class that is not asked for has no term
    return kit.losses_of(loss, z, at, torch.log(p))


@wrong("−log(p + 1e-6)", partial(kit.weighted_softmax, class_weights=kit.some_weights))
def probability_plus_eps(loss, z, at):
    return kit.losses_of(loss, z, at, torch.log(F.softmax(z, dim=1) + 1e-6))


def product_in_bf16(A, B):
    """A (M, K) times B (K, L), with a running sum that is rounded to bfloat16 after each of the K terms."""
    total = A.new_zeros(A.shape[0], B.shape[1])
    for column, row in zip(A.T, B, strict=True):
        total = kit.in_bf16(total + column[:, None] * row)
    return total


add(
    "bf16_accumulation",
    "dot products are accumulated in bfloat16, forward and backward",
    kit.l2_softmax,
    logits=of_product(
        lambda u, V: product_in_bf16(u, V.T), lambda grad, u, V: (product_in_bf16(grad, V), product_in_bf16(grad.T, u))
    ),
)


@wrong("the losses and their sum are stored in bfloat16", kit.w_norm_softmax)
def bf16_loss(loss, z, labels):
    at = kit.terms(loss, z, labels)
    losses = kit.losses_of(loss, z, at)
    losses = kit.value_of(kit.in_bf16(losses.detach()), losses)
    if loss.reduction == "none":
        return losses
    total = losses.sum()
    return kit.value_of(kit.in_bf16(total.detach()), total) / at.divisor
