"""An honest torch kernel of every loss, in parts, and how a wrong part of one is entered into a set.

A kernel is called as f(x, W, labels), with b=None where the loss has a bias, and returns the loss alone, which autograd
differentiates. What is wrong in the backward only is `custom`, or something detached: then the loss is right.

x (N, D), W (C, D), b (C,), labels (N,) int64; half inputs are computed in float32, the loss is rounded back.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from helpers import need

import refloss

torch = need("torch")
F = torch.nn.functional

BLOCK = 8  # classes at a time, in the kernels that go by blocks


# -- the logits ------------------------------------------------------------------------------------


def tiny(v):
    """The smallest normal number of v's dtype."""
    return torch.finfo(v.dtype).tiny


def unit(v):
    """The rows of v (M, D), each of length 1."""
    return F.normalize(v, dim=1, eps=tiny(v))


def kept_off_poles(cos):
    """cos θ within ±(1 − eps): at ±1 the slope of acos is infinite."""
    nearly_one = 1 - torch.finfo(cos.dtype).eps
    return cos.clamp(-nearly_one, nearly_one)


def angle_of(cos):
    """θ of cos θ, kept off the poles."""
    return torch.acos(kept_off_poles(cos))


def branch(loss, theta):
    """k of the branch [kπ/m, (k + 1)π/m] on which θ lies."""
    return torch.floor(loss.margin * theta / math.pi).clamp(0, loss.margin - 1)


def sign(k):
    """(−1)^k."""
    return 1 - 2 * torch.remainder(k, 2)


def margin_of(loss, cos, theta=None):
    """ψ(θ), before annealing and detaching, of any cos θ; by way of its θ."""
    theta = angle_of(cos) if theta is None else theta
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


def detached(loss, cos, psi):
    """ψ, whose slope is that of cos θ where the loss detaches its margin."""
    return cos + (psi - cos).detach() if loss.detach_margin else psi


def row_norm(v):
    """‖v‖ (M, 1)."""
    return v.norm(dim=1, keepdim=True)


def radius_of(loss, x, W, norm_x=row_norm, norm_W=row_norm):
    """r of z_y = r ψ(θ_y): a number, (N, 1) or (N, C)."""
    match loss:
        case refloss.LSoftmax():
            return norm_x(x) * norm_W(W).T
        case refloss.ASoftmax():
            return norm_x(x)
    return loss.scale


def plain_logits(loss, x, W, b=None, unit_x=unit, unit_W=unit, product=F.linear):
    """(N, C) logits without any margin; product(u (N, D), V (C, D), b (C,) or None) is the linear layer."""
    match loss:
        case refloss.L2Softmax():
            return product(loss.alpha * unit_x(x), W, b)
        case refloss.WNormSoftmax() | refloss.ASoftmax():
            return product(x, unit_W(W), None)
        case refloss.Softmax() | refloss.LSoftmax():
            return product(x, W, b)
    return loss.scale * product(unit_x(x), unit_W(W), None)


def biased(product):
    """A linear layer of a matrix product without bias."""
    return lambda u, V, b: product(u, V) if b is None else product(u, V) + b


def is_target(loss, labels, classes):
    """(N, C) where a row's label is; an ignored row has none."""
    valid = torch.ones_like(labels, dtype=torch.bool)
    if loss.ignore_index is not None:
        valid = labels != loss.ignore_index
    return F.one_hot(torch.where(valid, labels, 0), classes).bool() & valid[:, None]


def all_classes(loss, labels, classes):
    """(N, C) True."""
    return torch.ones(len(labels), classes, dtype=torch.bool, device=labels.device)


def by_constant_norm(v):
    """v̂ as if ‖v‖ were a constant."""
    return v / row_norm(v).detach().clamp(min=tiny(v))


def logits_of(
    loss, x, W, labels, b=None, *,
    margin=margin_of, anneal=anneal, radius=radius_of, on=is_target, unit_x=unit, unit_W=unit,
):  # fmt: skip
    """(N, C): the plain logits, and r ψ(θ) `on` the target."""
    plain = plain_logits(loss, x, W, b, unit_x, unit_W)
    if not loss.has_margin:
        return plain
    cos = F.linear(unit_x(x), unit_W(W))
    psi = detached(loss, cos, anneal(loss, cos, margin(loss, cos)))
    return torch.where(on(loss, labels, len(W)), radius(loss, x, W) * psi, plain)


def margin_logits(loss, cos, psi, radius, labels):
    """(N, C): r cos θ, and on the target r ψ of a ψ that is neither annealed nor detached yet.

    cos (N, C); psi (N, C) or (N, 1); radius a number, (N, 1) or (N, C).
    """
    psi = detached(loss, cos, anneal(loss, cos, psi))
    return radius * torch.where(is_target(loss, labels, cos.shape[1]), psi, cos)


# -- the cross-entropy -------------------------------------------------------------------------------


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
    totals = {"mean": valid.sum().to(w.dtype), "weighted_mean": (w * target).sum()}
    total = totals.get(loss.reduction, w.new_ones(()))
    return torch.where(total == 0, 1.0, total) if loss.empty_mean == "zero" else total


def reduce(loss, losses, divisor):
    """losses (N,) reduced as the loss says."""
    return losses if loss.reduction == "none" else losses.sum() / divisor


def log_softmax_of(z):
    """(N, C) log p."""
    return F.log_softmax(z, dim=1)


def losses_of(loss, z, at, log_p=None):
    """The losses (N,) of logits z (N, C), or of log p."""
    return -(at.a * (log_softmax_of(z) if log_p is None else log_p)).sum(dim=1)


def by_losses(losses):
    """A cross-entropy whose losses (N,) are losses(loss, z, Terms)."""

    def cross_entropy(loss, z, labels):
        at = terms(loss, z, labels)
        return reduce(loss, losses(loss, z, at), at.divisor)

    return cross_entropy


def by_logsumexp(logsumexp):
    """A cross-entropy with this log Σ e^z of z (N, C), (N,)."""
    return by_losses(lambda loss, z, at: (at.a * (logsumexp(z)[:, None] - z)).sum(dim=1))


def shards_of(z):
    """The columns of z (N, C) that each of two devices has; one with none is left out."""
    return [shard for shard in z.tensor_split(2, dim=1) if shard.shape[1]]


def over_blocks(blocks):
    """log Σ e^z (N,) of blocks of columns."""
    return torch.logsumexp(torch.stack([torch.logsumexp(block, dim=1) for block in blocks]), dim=0)


cross_entropy = by_losses(losses_of)


def right_rule(upstream, p, at):
    """upstream (p Σ_c a_c − a)."""
    return upstream * (p * at.a.sum(dim=1, keepdim=True) - at.a)


def by_hand(rule=right_rule, log_softmax=log_softmax_of):
    """A fused cross-entropy with a backward of its own, and p as log_softmax gives it.

    rule(upstream (N, 1), p (N, C), Terms) gives ∂/∂z (N, C), still without the reduction's divisor.
    """

    def fused(loss, z, labels):
        at = terms(loss, z, labels)

        def backward(grad, z):
            return (rule(grad.expand(len(z))[:, None], log_softmax(z).exp(), at) / at.divisor,)

        return custom(lambda z: reduce(loss, losses_of(loss, z, at, log_softmax(z)), at.divisor), backward)(z)

    return fused


def by_upstream(change):
    """The same, right but for what it takes the gradient that arrives for."""
    return by_hand(lambda upstream, p, at: right_rule(change(upstream), p, at))


# -- a value with another's gradient ---------------------------------------------------------------


class Custom(torch.autograd.Function):
    """forward(*tensors), whose gradients are backward(gradient, *tensors): one for each tensor."""

    @staticmethod
    def forward(ctx, forward, backward, *tensors):
        ctx.own = backward
        ctx.save_for_backward(*tensors)
        return forward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        return None, None, *ctx.own(grad, *ctx.saved_tensors)


def custom(forward, backward):
    """A function of tensors with a backward of its own."""
    return partial(Custom.apply, forward, backward)


def with_gradient(v, rule):
    """v as it is; the gradient that arrives goes through rule."""
    return custom(torch.clone, lambda grad, v: (rule(grad),))(v)


# the value of one tensor, the gradient for another of the same shape
value_of = custom(lambda value, slope: value.clone(), lambda grad, value, slope: (None, grad))


def projected(grad, v_hat):
    """grad without its part along v̂, row by row."""
    return grad - (grad * v_hat).sum(dim=1, keepdim=True) * v_hat


def in_bf16(v):
    """v rounded to bfloat16, in its own dtype."""
    return v.bfloat16().to(v.dtype)


# -- a kernel, and the sets of wrong ones ----------------------------------------------------------


def widened(v):
    """Half precision is computed in float32."""
    return v.float() if v is not None and v.dtype in (torch.bfloat16, torch.float16) else v


def as_it_is(v):
    return v


def kernel(loss, *, options=as_it_is, logits=logits_of, cross_entropy=cross_entropy, **parts):
    """The kernel of a loss with some of its parts replaced; without any, an honest one.

    options(loss) is the loss that the kernel takes it for.
    """
    loss = options(loss)

    def with_bias(x, W, labels, b=None):
        z = logits(loss, widened(x), widened(W), labels, widened(b), **parts)
        return cross_entropy(loss, z, labels).to(x.dtype)

    def without_bias(x, W, labels):
        return with_bias(x, W, labels)

    return with_bias if loss.has_bias else without_bias


@dataclass(frozen=True)
class WrongKernel:
    """A kernel with one mistake. loss() makes a loss where it shows, make(loss) the kernel for that loss."""

    name: str
    suspect: str
    description: str
    loss: Callable[[], Any]
    make: Callable[[Any], Callable]


# by the arguments of a function, the part that it is
PARTS = {
    "loss": "options",
    "x": "unit_x",
    "loss cos": "margin",
    "loss cos psi": "anneal",
    "loss x W": "radius",
    "loss labels classes": "on",
    "loss x W labels b": "logits",
    "loss z labels": "cross_entropy",
    "loss z at": "losses",
    "z": "logsumexp",
    "upstream p at": "rule",
}
# what makes a cross-entropy of a part of it
CROSS_ENTROPIES = {"losses": by_losses, "logsumexp": by_logsumexp, "rule": by_hand, "upstream": by_upstream}


class Kernels(list[WrongKernel]):
    """A set of wrong kernels."""

    def add(self, suspect, description, *losses, name="", make=kernel, **parts):
        """Enters make(loss, **parts), a wrong kernel, for each of the losses (their makers)."""
        for made in CROSS_ENTROPIES.keys() & parts.keys():
            parts["cross_entropy"] = CROSS_ENTROPIES[made](parts.pop(made))
        for loss in losses:
            called = f"{loss().name}-{name or suspect}"
            self.append(WrongKernel(called, suspect, description, loss, partial(make, **parts)))

    def wrong(self, description, *losses, suspect="", name=""):
        """Enters the function that it decorates, a part by its arguments; without `suspect`, it is called like it."""

        def enter(function):
            part = PARTS[" ".join(inspect.signature(function).parameters)]
            self.add(suspect or function.__name__, description, *losses, name=name, **{part: function})
            return function

        return enter


softmax, weighted_softmax, w_norm_softmax = refloss.Softmax, refloss.WeightedSoftmax, refloss.WNormSoftmax
l_softmax, a_softmax, f_norm_sphereface = refloss.LSoftmax, refloss.ASoftmax, refloss.FNormSphereFace
l2_softmax, am_softmax, arcface = refloss.L2Softmax, refloss.AMSoftmax, refloss.ArcFace
five_weights = partial(weighted_softmax, class_weights=(0.4, 2.5, 1.0, 0.7, 3.2))
some_weights = (0.5, 2.0, 1.0, 0.25, 3.0)
smoothed = partial(softmax, label_smoothing=0.1)
ignoring = partial(softmax, ignore_index=-100)
unreduced = partial(softmax, reduction="none")
summed = partial(softmax, reduction="sum")
