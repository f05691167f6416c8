"""Wrong torch kernels of the losses, one mistake each, that a check must catch and name.

An honest kernel is put together from small parts (`kernel`); a wrong one replaces a part. Every kernel is
called as f(x, W, labels), with b=None where the loss has a bias, and returns the loss alone, which autograd
differentiates. What is wrong in the backward only is a torch.autograd.Function, or something detached: then
the loss is right.

x (N, D), W (C, D), b (C,), labels (N,) int64; half inputs are computed in float32, the loss is rounded back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from helpers import need

import refloss

torch = need("torch")
F = torch.nn.functional

BLOCK = 8  # classes at a time, in the kernels that go by blocks


@dataclass(frozen=True)
class WrongKernel:
    """A kernel with one mistake. loss() makes a loss where it shows, make(loss) the kernel for that loss."""

    name: str
    suspect: str
    description: str
    loss: Callable[[], Any]
    make: Callable[[Any], Callable]


WRONG: list[WrongKernel] = []


# -- an honest kernel, in parts --------------------------------------------------------------------


def unit(v):
    """The rows of v (M, D), each of length 1."""
    return F.normalize(v, dim=1, eps=torch.finfo(v.dtype).tiny)


def angle_of(cos):
    """θ of cos θ, kept off the poles, where the slope of acos is infinite."""
    nearly_one = 1 - torch.finfo(cos.dtype).eps
    return torch.acos(cos.clamp(-nearly_one, nearly_one))


def branch(loss, theta):
    """k of the branch [kπ/m, (k + 1)π/m] on which θ lies."""
    return torch.floor(loss.margin * theta / math.pi).clamp(0, loss.margin - 1)


def sign(k):
    """(−1)^k."""
    return 1 - 2 * torch.remainder(k, 2)


def margin_of(loss, cos):
    """ψ(θ), before annealing and detaching, of any cos θ."""
    theta = angle_of(cos)
    match loss:
        case refloss.AMSoftmax():
            return cos - loss.margin
        case refloss.ArcFace():
            return arc_options(loss, cos, torch.cos(theta + loss.margin))
        case refloss.LSoftmax() | refloss.ASoftmax() | refloss.FNormSphereFace():
            k = branch(loss, theta)
            psi = sign(k) * torch.cos(loss.margin * theta) - 2 * k
            if loss.continuation is None:
                return psi
            end = math.pi / loss.margin
            return torch.where(theta < end, psi, loss.continuation[0](theta.clamp(min=end), torch))
    raise TypeError(f"{loss!r} has no margin")


def arc_options(loss, cos, psi):
    """ArcFace's ψ with what past_pi and easy_margin make of it."""
    if loss.past_pi == "linear":
        threshold, drop = math.cos(math.pi - loss.margin), loss.margin * math.sin(loss.margin)
        psi = torch.where(cos > threshold, psi, cos - drop)
    if loss.easy_margin:
        psi = torch.where(cos > 0, psi, cos)
    return psi


def anneal(loss, cos, psi):
    """(λ cos θ + ψ) / (1 + λ)."""
    annealing = getattr(loss, "annealing", 0.0)
    return (annealing * cos + psi) / (1 + annealing)


def radius_of(loss, x, W):
    """r of z_y = r ψ(θ_y): a number, (N, 1) or (N, C)."""
    match loss:
        case refloss.LSoftmax():
            return x.norm(dim=1, keepdim=True) * W.norm(dim=1)
        case refloss.ASoftmax():
            return x.norm(dim=1, keepdim=True)
    return loss.scale


def plain_logits(loss, x, W, b=None, unit_x=unit, unit_W=unit):
    """(N, C) logits without any margin."""
    match loss:
        case refloss.L2Softmax():
            return F.linear(loss.alpha * unit_x(x), W, b)
        case refloss.WNormSoftmax() | refloss.ASoftmax():
            return F.linear(x, unit_W(W))
        case refloss.Softmax() | refloss.LSoftmax():
            return F.linear(x, W, b)
    return loss.scale * F.linear(unit_x(x), unit_W(W))


def is_target(loss, labels, classes):
    """(N, C) where a row's label is; an ignored row has none."""
    valid = torch.ones_like(labels, dtype=torch.bool)
    if loss.ignore_index is not None:
        valid = labels != loss.ignore_index
    return F.one_hot(torch.where(valid, labels, 0), classes).bool() & valid[:, None]


def logits_of(
    loss, x, W, labels, b=None, *,
    margin=margin_of, anneal=anneal, radius=radius_of, on=is_target, unit_x=unit, unit_W=unit,
):  # fmt: skip
    """(N, C): the plain logits, and r ψ(θ) `on` the target."""
    plain = plain_logits(loss, x, W, b, unit_x, unit_W)
    if not loss.has_margin:
        return plain
    cos = F.linear(unit_x(x), unit_W(W))
    psi = anneal(loss, cos, margin(loss, cos))
    if loss.detach_margin:
        psi = cos + (psi - cos).detach()
    return torch.where(on(loss, labels, len(W)), radius(loss, x, W) * psi, plain)


class Terms(NamedTuple):
    """What the cross-entropy takes from labels and options."""

    target: Any  # (N, C) bool
    valid: Any  # (N,) bool
    w: Any  # (C,) class weights
    a: Any  # (N, C) w_c t_ic, 0 on ignored rows
    divisor: Any  # () of the reduction


def terms(loss, z, labels):
    """The Terms of logits z (N, C)."""
    target = is_target(loss, labels, z.shape[1])
    valid = target.any(dim=1)
    w = z.new_ones(z.shape[1]) if loss.class_weights is None else z.new_tensor(loss.class_weights)
    smoothing = loss.label_smoothing
    t = (1 - smoothing) * target.to(z.dtype) + smoothing / z.shape[1]
    return Terms(target, valid, w, w * t * valid[:, None], divisor(loss, target, valid, w))


def divisor(loss, target, valid, w):
    """What the reduction divides by."""
    total = {
        "mean": lambda: valid.sum().to(w.dtype),
        "weighted_mean": lambda: (w * target).sum(),
        "sum": lambda: w.new_ones(()),
        "none": lambda: w.new_ones(()),
    }[loss.reduction]()
    return torch.where(total == 0, 1.0, total) if loss.empty_mean == "zero" else total


def reduce(loss, losses, divisor):
    """losses (N,) reduced as the loss says."""
    return losses if loss.reduction == "none" else losses.sum() / divisor


def cross_entropy(loss, z, labels):
    """The loss of logits z (N, C)."""
    at = terms(loss, z, labels)
    return reduce(loss, -(at.a * F.log_softmax(z, dim=1)).sum(dim=1), at.divisor)


class ByHand(torch.autograd.Function):
    """The cross-entropy of a fused kernel: it keeps log p, and its backward is the kernel's own.

    rule(upstream (N, 1), p (N, C), Terms) gives ∂/∂z (N, C), still without the reduction's divisor.
    """

    @staticmethod
    def forward(ctx, z, loss, at, rule, log_softmax):
        log_p = log_softmax(z)
        ctx.rule, ctx.at = rule, at
        ctx.save_for_backward(log_p)
        return reduce(loss, -(at.a * log_p).sum(dim=1), at.divisor)

    @staticmethod
    def backward(ctx, grad_output):
        (log_p,) = ctx.saved_tensors
        upstream = grad_output.expand(len(log_p))[:, None]
        return ctx.rule(upstream, log_p.exp(), ctx.at) / ctx.at.divisor, None, None, None, None


def right_rule(upstream, p, at):
    """upstream (p Σ_c a_c − a)."""
    return upstream * (p * at.a.sum(dim=1, keepdim=True) - at.a)


def log_softmax_of(z):
    """(N, C) log p."""
    return F.log_softmax(z, dim=1)


def by_hand(rule=right_rule, log_softmax=log_softmax_of):
    """A cross-entropy with this backward, and p as log_softmax gives it."""

    def fused(loss, z, labels):
        return ByHand.apply(z, loss, terms(loss, z, labels), rule, log_softmax)

    return fused


def widened(v):
    """Half precision is computed in float32."""
    return v.float() if v is not None and v.dtype in (torch.bfloat16, torch.float16) else v


def kernel(loss, *, logits=logits_of, cross_entropy=cross_entropy, **parts):
    """The kernel of a loss with some of its parts replaced; without any, an honest one."""

    def with_bias(x, W, labels, b=None):
        z = logits(loss, widened(x), widened(W), labels, widened(b), **parts)
        return cross_entropy(loss, z, labels).to(x.dtype)

    def without_bias(x, W, labels):
        return with_bias(x, W, labels)

    return with_bias if loss.has_bias else without_bias


def wrong(suspect, description, *losses, part, name=None, into=WRONG):
    """Enters a function as that part of a wrong kernel, once for each of the losses (their makers), into a list."""

    def enter(function):
        for loss in losses:
            into.append(
                WrongKernel(
                    name=f"{loss().name}-{name or suspect}",
                    suspect=suspect,
                    description=description,
                    loss=loss,
                    make=partial(kernel, **{part: function}),
                )
            )
        return function

    return enter


def wrong_backward(suspect, description, *losses, into=WRONG):
    """The same of a rule for ∂/∂z in a cross-entropy whose forward is right."""

    def enter(rule):
        wrong(suspect, description, *losses, part="cross_entropy", into=into)(by_hand(rule))
        return rule

    return enter


softmax, weighted_softmax, w_norm_softmax = refloss.Softmax, refloss.WeightedSoftmax, refloss.WNormSoftmax
l_softmax, a_softmax, f_norm_sphereface = refloss.LSoftmax, refloss.ASoftmax, refloss.FNormSphereFace
l2_softmax, am_softmax, arcface = refloss.L2Softmax, refloss.AMSoftmax, refloss.ArcFace
five_weights = partial(weighted_softmax, class_weights=(0.4, 2.5, 1.0, 0.7, 3.2))


# -- the margin ------------------------------------------------------------------------------------


@wrong("margin_in_degrees", "the margin, given in radians, is taken as degrees", arcface, part="margin")
def margin_in_degrees(loss, cos):
    return margin_of(replace(loss, margin=math.radians(loss.margin)), cos)


@wrong("margin_of_wrong_sign", "cos(θ − m), which makes the target easier", arcface, part="margin")
def arc_margin_of_wrong_sign(loss, cos):
    return arc_options(loss, cos, torch.cos(angle_of(cos) - loss.margin))


@wrong("margin_of_wrong_sign", "cos θ + m, which makes the target easier", am_softmax, part="margin")
def cosine_margin_of_wrong_sign(loss, cos):
    return cos + loss.margin


@wrong("margin_on_all_classes", "the margin is put on every class", arcface, am_softmax, part="on")
def on_all_classes(loss, labels, classes):
    return torch.ones(len(labels), classes, dtype=torch.bool, device=labels.device)


@wrong(
    "margin_on_wrong_class", "the margin is put on the class after the label", arcface, am_softmax, part="on",
)  # fmt: skip
def on_next_class(loss, labels, classes):
    return is_target(loss, labels, classes).roll(1, dims=1)


@wrong(
    "margin_detached", "the margin is computed without gradients: slope of the plain logit",
    arcface, l_softmax, a_softmax, part="logits",
)  # fmt: skip
def margin_under_no_grad(loss, x, W, labels, b):
    z = plain_logits(loss, x, W)
    with torch.no_grad():
        offset = logits_of(loss, x, W, labels) - z
    return z + offset


@wrong("cosine_margin_for_angle", "cos θ − m in place of cos(θ + m)", arcface, part="margin")
def cosine_margin_for_angle(loss, cos):
    return arc_options(loss, cos, cos - loss.margin)


@wrong(
    "linear_past_pi", "cos θ − m sin m where θ > π − m, though cos(θ + m) is asked for",
    partial(arcface, past_pi="cos"), part="margin",
)  # fmt: skip
def linear_past_pi(loss, cos):
    cos_m, sin_m = math.cos(loss.margin), math.sin(loss.margin)
    phi = cos * cos_m - torch.sin(angle_of(cos)) * sin_m
    if loss.easy_margin:
        return torch.where(cos > 0, phi, cos)
    return torch.where(cos > math.cos(math.pi - loss.margin), phi, cos - sin_m * loss.margin)


@wrong("plain_past_pi", "plain cos θ where θ > π − m", arcface, part="margin")
def plain_past_pi(loss, cos):
    return torch.where(angle_of(cos) > math.pi - loss.margin, cos, margin_of(loss, cos))


@wrong("margin_where_cos_positive", "the margin only where cos θ > 0", arcface, part="margin")
def margin_where_cos_positive(loss, cos):
    return torch.where(cos > 0, margin_of(loss, cos), cos)


@wrong("margin_where_cos_exceeds_margin", "the margin only where cos θ > m", am_softmax, part="margin")
def margin_where_cos_exceeds_margin(loss, cos):
    return torch.where(cos > loss.margin, cos - loss.margin, cos)


@wrong("margin_forgotten", "no margin at all", am_softmax, a_softmax, part="margin")
def margin_forgotten(loss, cos):
    return cos


@wrong("k_rounded", "k = round(mθ/π) in place of the floor", l_softmax, a_softmax, part="margin")
def k_rounded(loss, cos):
    m_theta = loss.margin * angle_of(cos)
    k = torch.round(m_theta / math.pi)
    return sign(k) * torch.cos(m_theta) - 2 * k


@wrong("k_offset_missing", "(−1)^k cos mθ without −2k", a_softmax, part="margin")
def k_offset_missing(loss, cos):
    theta = angle_of(cos)
    return sign(branch(loss, theta)) * torch.cos(loss.margin * theta)


@wrong("no_branches", "cos mθ for every θ", f_norm_sphereface, l_softmax, part="margin")
def no_branches(loss, cos):
    return torch.cos(loss.margin * angle_of(cos))


@wrong(
    "annealing_inverted", "(cos θ + λψ)/(1 + λ): λ on the margin in place of the plain cosine",
    partial(a_softmax, annealing=3), part="anneal",
)  # fmt: skip
def annealing_inverted(loss, cos, psi):
    return (cos + loss.annealing * psi) / (1 + loss.annealing)


# -- the scale -------------------------------------------------------------------------------------


@wrong("scale_missing", "the logits are not multiplied by s", partial(arcface, scale=16), part="logits")
def scale_missing(loss, x, W, labels, b):
    return logits_of(replace(loss, scale=1.0), x, W, labels)


@wrong("scale_squared", "the logits are multiplied by s twice", partial(am_softmax, scale=8), part="logits")
def scale_squared(loss, x, W, labels, b):
    return loss.scale * logits_of(loss, x, W, labels)


@wrong("scale_before_margin", "s cos θ − m in place of s (cos θ − m)", am_softmax, part="logits")
def scale_before_margin(loss, x, W, labels, b):
    return plain_logits(loss, x, W) - loss.margin * is_target(loss, labels, len(W))


@wrong("scale_not_on_target", "the target's logit lacks s", partial(arcface, scale=8), part="radius")
def scale_not_on_target(loss, x, W):
    return 1.0


# -- lengths ---------------------------------------------------------------------------------------


def by_constant_norm(v):
    """v̂ as if ‖v‖ were a constant."""
    with torch.no_grad():
        norm = v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    return v / norm


for of, makers in {"x": (arcface, l2_softmax), "W": (am_softmax, w_norm_softmax)}.items():
    wrong(
        f"{of}_projection_missing", f"the backward takes ‖{of}‖ as a constant", *makers, part=f"unit_{of}"
    )(by_constant_norm)  # fmt: skip


@wrong("eps_inside_norms", "x and W are divided by √(Σv² + 1e-6)", arcface, part="logits")
def eps_inside_norm(loss, x, W, labels, b):
    def divided(v):
        return v / torch.sqrt(v.square().sum(dim=1, keepdim=True) + 1e-6)

    return logits_of(loss, x, W, labels, unit_x=divided, unit_W=divided)


@wrong(
    "clamp_kills_gradient", "cos θ is clamped to ±0.99, with no gradient beyond", arcface, part="logits",
)  # fmt: skip
def clamp_kills_gradient(loss, x, W, labels, b):
    cos = F.linear(unit(x), unit(W)).clamp(-1 + 1e-2, 1 - 1e-2)
    psi = margin_of(loss, cos)
    if loss.detach_margin:
        psi = cos + (psi - cos).detach()
    return loss.scale * torch.where(is_target(loss, labels, len(W)), psi, cos)


@wrong("norm_over_batch", "x is divided by the norm of the whole batch", am_softmax, part="unit_x")
def divided_by_norm_of_batch(x):
    return x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)


@wrong("norm_over_wrong_axis", "x and W are normalised over axis 0", arcface, part="logits")
def norm_over_wrong_axis(loss, x, W, labels, b):
    unit_columns = partial(F.normalize, dim=0)
    return logits_of(loss, x, W, labels, unit_x=unit_columns, unit_W=unit_columns)


@wrong("W_not_normalised", "W is not normalised", partial(arcface, scale=4), w_norm_softmax, part="unit_W")
def as_it_is(W):
    return W


@wrong(
    "W_gradient_ignores_margin", "∂L/∂W takes the target's logit for the plain one; ∂L/∂x is right",
    l_softmax, arcface, part="logits",
)  # fmt: skip
def plain_in_W(loss, x, W, labels, b):
    plain = plain_logits(loss, x.detach(), W)
    return logits_of(loss, x, W.detach(), labels) + (plain - plain.detach())


@wrong("radial_gradient_missing", "z_y = ‖x‖ψ(θ) is not differentiated in ‖x‖", a_softmax, part="radius")
def constant_radius(loss, x, W):
    return radius_of(loss, x, W).detach()


@wrong("bias_scaled", "α multiplies the bias too", l2_softmax, part="logits")
def bias_scaled(loss, x, W, labels, b):
    return loss.alpha * F.linear(unit(x), W, b)


@wrong("x_not_normalised", "W·(αx) in place of W·(αx̂)", l2_softmax, part="logits")
def x_not_normalised(loss, x, W, labels, b):
    return F.linear(loss.alpha * x, W, b)


# -- the mean --------------------------------------------------------------------------------------


@wrong("mean_forgotten", "the sum in place of the mean", softmax, part="cross_entropy")
def mean_forgotten(loss, z, labels):
    return cross_entropy(replace(loss, reduction="sum") if loss.reduction == "mean" else loss, z, labels)


@wrong("mean_twice", "the mean is divided by N once more", softmax, part="cross_entropy")
def mean_twice(loss, z, labels):
    value = cross_entropy(loss, z, labels)
    return value / terms(loss, z, labels).valid.sum() if loss.reduction == "mean" else value


@wrong(
    "mean_counts_ignored", "the mean divides by the number of all rows, ignored ones too",
    partial(softmax, ignore_index=-100), part="cross_entropy",
)  # fmt: skip
def mean_counts_ignored(loss, z, labels):
    if loss.reduction != "mean":
        return cross_entropy(loss, z, labels)
    return cross_entropy(replace(loss, reduction="none"), z, labels).mean()


@wrong(
    "mean_of_weights", "the mean divides by the sum of the labels' weights, as torch's does",
    five_weights, part="cross_entropy",
)  # fmt: skip
def mean_of_weights(loss, z, labels):
    if loss.reduction != "mean":
        return cross_entropy(loss, z, labels)
    options = {} if loss.ignore_index is None else {"ignore_index": loss.ignore_index}
    w = z.new_tensor(loss.class_weights)
    return F.cross_entropy(z, labels, weight=w, label_smoothing=loss.label_smoothing, **options)


# -- what arrives from upstream --------------------------------------------------------------------


@wrong_backward("upstream_ignored", "the backward does not use the gradient that arrives", softmax, arcface)
def upstream_ignored(upstream, p, at):
    return right_rule(torch.ones_like(upstream), p, at)


@wrong_backward(
    "upstream_averaged", "every row gets the mean of the gradients that arrive",
    partial(softmax, reduction="none"),
)  # fmt: skip
def upstream_averaged(upstream, p, at):
    return right_rule(upstream.mean(), p, at)


@wrong_backward("upstream_squared", "the gradient that arrives is multiplied in twice", softmax)
def upstream_squared(upstream, p, at):
    return upstream * right_rule(upstream, p, at)


# -- rows, classes and blocks of them --------------------------------------------------------------


class OverwritingLinear(torch.autograd.Function):
    """A linear layer with its cross-entropy; ∂L/∂W gets p first, and then the labels' rows by assignment."""

    @staticmethod
    def forward(ctx, x, W, b, loss, labels):
        z = F.linear(x, W, b)
        at = terms(loss, z, labels)
        log_p = F.log_softmax(z, dim=1)
        ctx.at, ctx.has_b, ctx.smoothing = at, b is not None, loss.label_smoothing
        ctx.save_for_backward(x, W, log_p, labels)
        return reduce(loss, -(at.a * log_p).sum(dim=1), at.divisor)

    @staticmethod
    def backward(ctx, grad_output):
        x, W, log_p, labels = ctx.saved_tensors
        at = ctx.at
        upstream = grad_output.expand(len(x))[:, None] / at.divisor
        dz = right_rule(upstream, log_p.exp(), at)
        # the one-hot part, −(1 − ε) w_y, is left to the assignment
        one_hot_part = (1 - ctx.smoothing) * at.w * at.target * upstream
        grad_W = (dz + one_hot_part).T @ x
        y = labels[at.valid]
        grad_W[y] = grad_W[y] - one_hot_part.sum(dim=1, keepdim=True)[at.valid] * x[at.valid]
        return dz @ W, grad_W, dz.sum(dim=0) if ctx.has_b else None, None, None


WRONG.append(
    WrongKernel(
        name="softmax-duplicates_overwritten",
        suspect="duplicates_overwritten",
        description="∂L/∂W of a label that occurs twice is assigned, not added up",
        loss=softmax,
        make=lambda loss: (
            lambda x, W, labels, b=None: OverwritingLinear.apply(
                widened(x), widened(W), widened(b), loss, labels
            ).to(x.dtype)
        ),
    )
)


@wrong(
    "last_row_dropped", "the last sample is never computed: loss 0, gradient 0",
    partial(softmax, reduction="sum"), part="cross_entropy",
)  # fmt: skip
def last_row_dropped(loss, z, labels):
    at = terms(loss, z, labels)
    losses = z.new_zeros(len(z))
    losses[:-1] = -(at.a[:-1] * F.log_softmax(z[:-1], dim=1)).sum(dim=1)
    return reduce(loss, losses, at.divisor)


def of_logsumexp(loss, z, labels, logsumexp):
    """The loss with this log Σ e^z, (N,)."""
    at = terms(loss, z, labels)
    return reduce(loss, (at.a * (logsumexp[:, None] - z)).sum(dim=1), at.divisor)


@wrong(
    "last_class_block_dropped", "Σ e^z runs over full blocks of 8 classes; the ragged last one is not seen",
    softmax, part="cross_entropy",
)  # fmt: skip
def last_class_block_dropped(loss, z, labels):
    size = min(BLOCK, z.shape[1])
    blocks = [z[:, i * size : (i + 1) * size] for i in range(z.shape[1] // size)]
    partial_sums = torch.stack([torch.logsumexp(block, dim=1) for block in blocks])
    return of_logsumexp(loss, z, labels, torch.logsumexp(partial_sums, dim=0))


@wrong(
    "last_class_block_counted_twice", "the last block of 8 classes is moved back and overlaps the one before",
    softmax, part="cross_entropy",
)  # fmt: skip
def last_class_block_counted_twice(loss, z, labels):
    classes = z.shape[1]
    starts = [max(0, min(start, classes - BLOCK)) for start in range(0, classes, BLOCK)]
    partial_sums = torch.stack([torch.logsumexp(z[:, start : start + BLOCK], dim=1) for start in starts])
    return of_logsumexp(loss, z, labels, torch.logsumexp(partial_sums, dim=0))


def online_logsumexp(z):
    """log Σ e^z (N,) in one pass over blocks, whose running sum stays in the units of an older maximum."""
    largest = z.new_full((len(z),), -math.inf)
    total = z.new_zeros(len(z))
    for block in z.split(BLOCK, dim=1):
        largest = torch.maximum(largest, block.amax(dim=1))
        total = total + torch.exp(block - largest[:, None]).sum(dim=1)
    return largest + torch.log(total)


@wrong(
    "online_softmax_without_rescaling", "the running sum is not rescaled when the running maximum grows",
    softmax, part="cross_entropy",
)  # fmt: skip
def online_without_rescaling(loss, z, labels):
    return of_logsumexp(loss, z, labels, online_logsumexp(z))


wrong(
    "online_softmax_without_rescaling",
    "the running sum is not rescaled when the running maximum grows; the backward takes p = e^(z − log Σ)",
    softmax, part="cross_entropy", name="online_softmax_without_rescaling-p_from_sum",
)(by_hand(log_softmax=lambda z: z - online_logsumexp(z)[:, None]))  # fmt: skip


@wrong_backward(
    "ignored_rows_with_gradient", "p still flows back from ignored rows, whose loss is 0",
    partial(softmax, ignore_index=-100),
)  # fmt: skip
def ignored_rows_with_gradient(upstream, p, at):
    return torch.where(at.valid[:, None], right_rule(upstream, p, at), upstream * p)


@wrong("labels_off_by_one", "the target is class y + 1", softmax, part="cross_entropy")
def labels_off_by_one(loss, z, labels):
    valid = is_target(loss, labels, z.shape[1]).any(dim=1)
    shifted = torch.where(valid, (labels + 1) % z.shape[1], -1)
    return cross_entropy(replace(loss, ignore_index=-1), z, shifted)


# -- smoothing -------------------------------------------------------------------------------------


@wrong(
    "smoothing_over_others", "ε/(C − 1) on the other classes and 1 − ε on the target",
    partial(softmax, label_smoothing=0.1), part="cross_entropy",
)  # fmt: skip
def smoothing_over_others(loss, z, labels):
    at = terms(loss, z, labels)
    t = torch.full_like(z, loss.label_smoothing / max(z.shape[1] - 1, 1))
    t[at.target] = 1 - loss.label_smoothing
    losses = -(at.w * t * F.log_softmax(z, dim=1)).sum(dim=1)
    return reduce(loss, torch.where(at.valid, losses, 0), at.divisor)


@wrong(
    "smoothing_with_target_weight", "the smooth term has the weight of the label, not of each class",
    partial(five_weights, label_smoothing=0.2), part="cross_entropy",
)  # fmt: skip
def smoothing_with_target_weight(loss, z, labels):
    at = terms(loss, z, labels)
    log_p = F.log_softmax(z, dim=1)
    nll, smooth = -(log_p * at.target).sum(dim=1), -log_p.mean(dim=1)
    losses = (1 - loss.label_smoothing) * nll + loss.label_smoothing * smooth
    return reduce(loss, (at.w * at.target).sum(dim=1) * losses, at.divisor)


# -- precision -------------------------------------------------------------------------------------


@wrong(
    "bf16_logits", "the logits are rounded to bfloat16 before the softmax", softmax, arcface, part="logits",
)  # fmt: skip
def bf16_logits(loss, x, W, labels, b):
    return logits_of(loss, x, W, labels, b).bfloat16().to(x.dtype)


@wrong_backward("p_rounded", "p is rounded to bfloat16 before 1 is subtracted", softmax)
def p_rounded(upstream, p, at):
    return right_rule(upstream, p.bfloat16().to(p.dtype), at)


def ten_bits(v):
    """v rounded to 10 explicit bits of mantissa."""
    mantissa, exponent = torch.frexp(v)
    return torch.ldexp(torch.round(mantissa * 2**11), exponent - 11)


class TensorFloatLinear(torch.autograd.Function):
    """x Wᵀ, forward and backward, with operands of 10 explicit bits."""

    @staticmethod
    def forward(ctx, x, W):
        ctx.save_for_backward(x, W)
        return ten_bits(x) @ ten_bits(W).T

    @staticmethod
    def backward(ctx, grad):
        x, W = map(ten_bits, ctx.saved_tensors)
        grad = ten_bits(grad)
        return grad @ W, grad.T @ x


@wrong("tf32", "operands of matrix products are rounded to 10 explicit bits", softmax, part="logits")
def tf32(loss, x, W, labels, b):
    z = TensorFloatLinear.apply(x, W)
    return z if b is None else z + b


@wrong("exp_without_maximum", "log Σ e^z without the maximum taken out", softmax, part="cross_entropy")
def exp_without_maximum(loss, z, labels):
    return of_logsumexp(loss, z, labels, torch.log(torch.exp(z).sum(dim=1)))


@wrong("probability_clamped", "log(p + 1e-7)", softmax, part="cross_entropy")
def probability_clamped(loss, z, labels):
    at = terms(loss, z, labels)
    return reduce(loss, -(at.a * torch.log(F.softmax(z, dim=1) + 1e-7)).sum(dim=1), at.divisor)


# -- the cross-entropy's backward ------------------------------------------------------------------


@wrong_backward("off_target_dropped", "only the target's column of p − t flows back", softmax, arcface)
def off_target_dropped(upstream, p, at):
    return right_rule(upstream, p, at) * at.target


@wrong_backward("one_hot_forgotten", "p flows back in place of p − t", softmax)
def one_hot_forgotten(upstream, p, at):
    return upstream * p * at.a.sum(dim=1, keepdim=True)
