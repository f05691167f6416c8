"""Wrong implementations, a few lines each: mistakes that people made, or would make, in a loss of the family.

They serve twice. A test of a kernel that lets one of them pass is too weak; and where an unknown kernel fails, the
suspect that gives the same numbers names the mistake. Each changes a `Kernel` before it runs, and has the gradient
of its own wrong forward, as automatic differentiation would, unless the mistake is in the backward alone. Kernels that
run over blocks or shards of the classes have backwards of their own: p = exp(z − lse), with whatever lse they hold.
"""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.losses import AMSoftmax, ArcFace, ASoftmax, CrossEntropy, L2Softmax
from refloss.precision.dtypes import DTYPES, DType, rounded
from refloss.testing.plain_loss import Kernel
from refloss.textbook import formulas
from refloss.textbook.family import differentiable, formula_of, member_of, radius_kind, radius_of

GROUPS = (
    "margin", "scale", "norms", "gradient", "reduction", "upstream",
    "blocks", "options", "softmax", "precision", "state",
)  # fmt: skip
SLIP = "a common slip; no public report known"
BLOCKS = (8, 32, 64, 128, 256, 1024)  # columns or rows of a tile
SHARDS = (2, 4, 8)  # parts of the classes, one a device


@dataclass(frozen=True)
class Suspect:
    """One wrong implementation.

    Attributes:
        name (str): as `report.suspects` and ``refloss suspects`` call it.
        explanation (str): what the code does wrong, and what to look for.
        seen_in (str): owner/repo#number or owner/repo:path; or that no report is known.
        change (function): change(kernel), or change(kernel, variant) where there are variants.
        applies (function): applies(loss), whether the mistake can be made in this loss with its parameters.
        group (str): the kind of mistake, such as "margin" or "upstream".
        only_precision (bool): the formula is right, and is computed in fewer digits.
        variants (tuple): what stands for the mistake's constant: an ε, a block's size, a dtype.
    """

    name: str
    explanation: str
    seen_in: str
    change: Callable[..., None]
    applies: Callable[[Any], bool]
    group: str
    only_precision: bool = False
    variants: tuple[Any, ...] = (None,)


SUSPECTS: dict[str, Suspect] = {}


def suspects(loss: Any) -> list[Suspect]:
    """The suspects that this loss, with its parameters, could be confused with.

    Args:
        loss (Loss or CrossEntropy): the object; none for a loss that is not one of refloss.

    Returns:
        list of Suspect: in the order of `SUSPECTS`.

    Example:
        >>> import refloss
        >>> "margin_in_degrees" in [suspect.name for suspect in suspects(refloss.ArcFace())]
        True
    """
    if not isinstance(loss, CrossEntropy) and not formula_of(loss):
        return []
    return [suspect for suspect in SUSPECTS.values() if suspect.applies(loss)]


def wrong(
    suspect: Suspect,
    loss: Any,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    upstream: Any,
    previous: Kernel | None = None,
    variant: Any = None,
) -> dict[str, np.ndarray]:
    """The stages that the wrong implementation gives.

    inputs    x, W and perhaps b; or logits
    previous  an earlier call, for the suspects that remember one; without it they have nothing to remember
    variant   one of suspect.variants; None is the first
    """
    with np.errstate(all="ignore"):  # a mistake may well leave the numbers
        return _run(Kernel(loss, inputs, labels, upstream, previous), suspect, variant)


def _run(kernel: Kernel, suspect: Suspect, variant: Any) -> dict[str, np.ndarray]:
    previous = kernel.previous
    if previous is not None and not hasattr(previous, "stages"):
        previous.run()
    if suspect.variants == (None,):
        suspect.change(kernel)
    else:
        suspect.change(kernel, suspect.variants[0] if variant is None else variant)
    return kernel.run()


Change = Callable[..., None]


def suspect(
    group: str,
    applies: Callable[[Any], bool],
    variants: Sequence[Any] = (None,),
    only_precision: bool = False,
) -> Callable[[Change], Change]:
    """Registers a change under its name. Its docstring is the explanation, and may end in "Seen in …"."""

    def register(change: Change) -> Change:
        explanation, _, seen_in = " ".join((change.__doc__ or "").split()).partition(" Seen in ")
        SUSPECTS[change.__name__] = Suspect(
            change.__name__,
            explanation,
            seen_in or SLIP,
            change,
            applies,
            group,
            only_precision,
            tuple(variants),
        )
        return change

    return register


# -- which losses ----------------------------------------------------------------------------------


def every(loss: Any) -> bool:
    return True


def has_features(loss: Any) -> bool:
    return not isinstance(loss, CrossEntropy)


def has_margin(loss: Any) -> bool:
    """A margin that changes something."""
    neutral = 1 if multiplies_angle(loss) else 0
    return getattr(loss, "has_margin", False) and getattr(loss, "margin", None) != neutral


def is_arc(loss: Any) -> bool:
    return isinstance(loss, ArcFace) and has_margin(loss)


def is_cosine(loss: Any) -> bool:
    return isinstance(loss, AMSoftmax) and has_margin(loss)


def is_psi(loss: Any) -> bool:
    """The papers' ψ, with branches."""
    return multiplies_angle(loss) and has_margin(loss) and loss.continuation is None


def is_annealed(loss: Any) -> bool:
    return multiplies_angle(loss) and has_margin(loss) and loss.annealing > 0


def has_slope(loss: Any) -> bool:
    """The margin changes the tangential slope."""
    return has_margin(loss) and not is_cosine(loss) and not loss.detach_margin


def has_scale(loss: Any) -> bool:
    return is_scaled(loss) and loss.scale != 1


def normalises_x(loss: Any) -> bool:
    return has_features(loss) and not radius_of(loss).p


def normalises_W(loss: Any) -> bool:
    return has_features(loss) and not radius_of(loss).q


def through_x_norm(loss: Any) -> bool:
    """x̂ is formed, if only for the target's angle."""
    return normalises_x(loss) or has_margin(loss)


def through_W_norm(loss: Any) -> bool:
    return normalises_W(loss) or has_margin(loss)


def has_bias(loss: Any) -> bool:
    return has_features(loss) and loss.has_bias


def is_soft(loss: Any) -> bool:
    """Soft targets are possible."""
    return not getattr(loss, "has_margin", False) and loss.ignore_index is None


def has_weights(loss: Any) -> bool:
    return loss.class_weights is not None and any(w != 1 for w in loss.class_weights)


def has_smoothing(loss: Any) -> bool:
    return loss.label_smoothing > 0


def ignores(loss: Any) -> bool:
    return loss.ignore_index is not None


def is_mean(loss: Any) -> bool:
    return loss.reduction in ("mean", "weighted_mean")


def unreduced(loss: Any) -> bool:
    return loss.reduction == "none"


def both(*conditions: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """All of the conditions."""
    return lambda loss: all(condition(loss) for condition in conditions)


def multiplies_angle(loss: Any) -> bool:
    return has_features(loss) and member_of(loss).multiplies_angle


def is_scaled(loss: Any) -> bool:
    """r = s: no length counts."""
    return has_features(loss) and radius_kind(loss) == "scale"


def reach(loss: Any) -> float:
    """How far below the others a target logit can be: inf where the features' length counts."""
    if not is_scaled(loss):
        return np.inf
    lowest = -1.0
    if multiplies_angle(loss):
        lowest = 1.0 - 2 * loss.margin
    elif member_of(loss).target is formulas.cosine_margin:
        lowest = -1.0 - loss.margin
    return loss.scale * (1.0 - lowest)


# -- what the changes share ------------------------------------------------------------------------


def after(kernel: Kernel, step: str, change: Callable[[np.ndarray], Any]) -> None:
    """Puts `change` on the result of a step."""
    right = getattr(kernel, step)
    setattr(kernel, step, lambda *given: change(right(*given)))


def only_while(kernel: Kernel, step: str, **changed: Callable[[], Any]) -> None:
    """A step that sees other values of these attributes, made when it runs."""
    right = getattr(kernel, step)

    def other() -> np.ndarray:
        kept = {name: getattr(kernel, name) for name in changed}
        values = {name: value() for name, value in changed.items()}
        vars(kernel).update(values)
        result = right()
        vars(kernel).update(kept)
        return result

    setattr(kernel, step, other)


def set_margin(kernel: Kernel, margin: float, slope: float) -> None:
    """Another m, and how it moves with the m that was given."""
    kernel.q.margin = margin
    after(kernel, "grad_margin", lambda grad: grad * slope)


def set_psi(kernel: Kernel, psi: Callable[[np.ndarray], np.ndarray]) -> None:
    """Another ψ, annealed as the loss says."""
    q = kernel.q
    kernel.psi = lambda theta: (q.annealing * np.cos(theta) + psi(theta)) / (1 + q.annealing)


def set_factor(kernel: Kernel, factor: float, slope: float) -> None:
    """Another s or α, and how it moves with the one that was given."""
    kernel.factor = lambda: factor
    after(kernel, "grad_scale", lambda grad: grad * slope)


def from_cosine(kernel: Kernel) -> None:
    """θ = arccos of the cosine at hand, clipped to ±1: for cosines that are not the angle's own."""
    kernel.angles = lambda: np.arccos(np.clip(kernel.cos, -1, 1))
    if kernel.q.target is formulas.cosine_margin:  # needs no angle
        kernel.values = lambda: kernel.cos - kernel.on * kernel.q.margin
        return
    slope = kernel.slope
    kernel.slope = lambda: np.where(kernel.on & (np.abs(kernel.cos) > 1), 0.0, slope())


def relabel(kernel: Kernel, y: np.ndarray) -> None:
    """Other classes for the valid rows."""
    kernel.y = np.where(kernel.valid, y, kernel.y)
    kernel.target = np.where(kernel.valid[:, None], np.eye(kernel.C)[kernel.y], 0.0)
    if kernel.on.any():
        kernel.on = kernel.target > 0


def on_target(kernel: Kernel) -> np.ndarray:
    """(N, C) bool."""
    one = np.zeros((kernel.N, kernel.C), dtype=bool)
    one[np.arange(kernel.N), kernel.y] = kernel.valid
    return one


def over_axis(v: np.ndarray, axis: int | None) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """v over its lengths along an axis (None: of the whole matrix), and the gradient back through that."""
    length = np.sqrt(np.sum(v * v, axis=axis, keepdims=True))
    unit = v / length
    return unit, lambda g: (g - unit * np.sum(g * unit, axis=axis, keepdims=True)) / length


Pullback = Callable[[np.ndarray], np.ndarray]


def replace_unit(kernel: Kernel, side: str, unit: np.ndarray, pullback: Pullback) -> None:
    """x̂ or ŵ made in another way, where the loss normalises."""
    from_cosine(kernel)
    if side == "x":
        kernel.x_unit = lambda: unit
        kernel.grad_x = lambda: pullback(kernel.product(kernel.g * kernel.r * kernel.rise, kernel.W_hat))
    else:
        kernel.W_unit = lambda: unit
        kernel.grad_W = lambda: pullback(kernel.product((kernel.g * kernel.r * kernel.rise).T, kernel.x_hat))


def side_of(kernel: Kernel, first: str) -> str:
    """The normalised side: `first` if both are."""
    sides = [name for name, power in (("x", kernel.p_x), ("W", kernel.p_W)) if not power]
    return first if first in sides else sides[0]


# == margin ========================================================================================


@suspect("margin", is_arc, variants=("degrees for radians", "radians for degrees"))
def margin_in_degrees(k: Kernel, variant: str) -> None:
    """The margin is converted between degrees and radians where it should not be (some releases take
    degrees): it has next to no effect, or a random one.

    Seen in KevinMusgrave/pytorch-metric-learning:src/pytorch_metric_learning/losses/arcface_loss.py
    """
    unit = np.pi / 180 if variant == "degrees for radians" else 180 / np.pi
    set_margin(k, k.q.margin * unit, unit)


@suspect("margin", is_arc)
def margin_rounded_in_degrees(k: Kernel) -> None:
    """The margin is given in degrees with one decimal (28.6° for 0.5): logits are off by 1e-3 of the scale at
    the targets alone.

    Seen in KevinMusgrave/pytorch-metric-learning:src/pytorch_metric_learning/losses/arcface_loss.py
    """
    set_margin(k, np.deg2rad(round(np.rad2deg(k.q.margin), 1)), 1.0)


@suspect("margin", lambda loss: is_arc(loss) or is_cosine(loss))
def margin_of_wrong_sign(k: Kernel) -> None:
    """The margin makes the target easier: cos(θ − m) or cos θ + m. The target's logit comes out too large."""
    set_margin(k, -k.q.margin, -1.0)


@suspect("margin", has_margin)
def margin_on_all_classes(k: Kernel) -> None:
    """The margin is applied to every class (the one-hot mask is missing): the others' logits are wrong
    too.

    Seen in Confusezius/Revisiting_Deep_Metric_Learning_PyTorch#12
    """
    k.on = np.broadcast_to(k.valid[:, None], k.on.shape).copy()


@suspect("margin", has_margin)
def margin_on_wrong_class(k: Kernel) -> None:
    """The margin lands on the class after the target (labels shifted by one when the mask is made)."""
    k.on = np.roll(k.on, 1, axis=1)


@suspect(
    "margin",
    lambda loss: has_margin(loss) and not loss.detach_margin,
    variants=("its slope", "its value too"),
)
def margin_detached(k: Kernel, variant: str) -> None:
    """The margin is applied without gradient (in place under no_grad): the loss is right, and the target's
    slope is that of cos θ. If it is meant, set detach_margin=True.

    Seen in deepinsight/insightface#2309
    """
    if variant == "its slope":
        k.q.detach_margin = True
    else:  # the whole gradient is that of the plain logit, the part through the lengths included
        for step in ("grad_x", "grad_W"):
            without_margin(k, step)


@suspect("margin", lambda loss: has_margin(loss) and loss.detach_margin)
def margin_differentiated(k: Kernel) -> None:
    """detach_margin=True was asked for, and the gradient goes through the margin all the same."""
    k.q.detach_margin = False


@suspect("margin", has_margin)
def margin_forgotten(k: Kernel) -> None:
    """No margin at all, as at test time: every logit is r cos θ."""
    k.on[:] = False


@suspect("margin", is_arc)
def cosine_margin_for_angle(k: Kernel) -> None:
    """CosFace in place of ArcFace: cos θ − m for cos(θ + m)."""
    k.q.target = formulas.cosine_margin


@suspect("margin", is_cosine)
def angle_margin_for_cosine(k: Kernel) -> None:
    """ArcFace in place of CosFace: cos(θ + m) for cos θ − m."""
    k.q.target, k.q.past_pi, k.q.easy_margin = formulas.arc_margin, "cos", False


@suspect("margin", lambda loss: isinstance(loss, (ArcFace, AMSoftmax)) and loss.margin == 0)
def zero_margin_replaced(k: Kernel) -> None:
    """A margin of 0 counts as "not given" (`if not m`), and the default takes its place.

    Seen in cvqluu/Angular-Penalty-Softmax-Losses-Pytorch:loss_functions.py
    """
    k.q.margin = type(k.loss).margin
    k.on = k.target > 0


def past_pi(k: Kernel, tail: Callable[[np.ndarray, float], np.ndarray]) -> None:
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


def has_tail(loss: Any) -> bool:
    """θ beyond π − m is reached, and bears a margin."""
    return is_arc(loss) and not (loss.easy_margin and loss.margin <= np.pi / 2)


@suspect("margin", lambda loss: has_tail(loss) and loss.past_pi == "cos")
def linear_past_pi(k: Kernel) -> None:
    """Beyond θ = π − m the target is cos θ − m sin m, as first released, where cos(θ + m) was asked for. If
    it is meant, set past_pi="linear".

    Seen in deepinsight/insightface:src/train_softmax.py
    """
    k.q.past_pi = "linear"


@suspect("margin", lambda loss: has_tail(loss) and loss.past_pi == "linear")
def cosine_past_pi(k: Kernel) -> None:
    """past_pi="linear" was asked for, and cos(θ + m) goes on beyond π, where it rises again.

    Seen in KevinMusgrave/pytorch-metric-learning#537
    """
    k.q.past_pi = "cos"


@suspect("margin", has_tail)
def plain_past_pi(k: Kernel) -> None:
    """Beyond θ = π − m the target has no margin: the value jumps up there.

    Seen in JDAI-CV/FaceX-Zoo:head/ArcFace.py
    """
    past_pi(k, lambda theta, m: np.cos(theta))


@suspect("margin", has_tail)
def zero_past_pi(k: Kernel) -> None:
    """Beyond θ = π − m the target's logit is 0: the branch is masked out and never filled.

    Seen in HiKapok/tf.extra_losses:py_loss.py
    """
    past_pi(k, lambda theta, m: 0 * theta)


@suspect("margin", has_tail)
def mirrored_past_pi(k: Kernel) -> None:
    """Beyond θ = π − m the target is −2 − cos(θ + m), which keeps falling.

    Seen in leondgarse/Keras_insightface:losses.py
    """
    past_pi(k, lambda theta, m: -2 - np.cos(theta + m))


@suspect("margin", lambda loss: has_tail(loss) and loss.past_pi == "linear" and loss.scale != 1)
def linear_tail_scaled(k: Kernel) -> None:
    """Beyond θ = π − m, m sin m is multiplied by the scale before the whole target is: s(cos θ − s m sin m).

    Seen in auroua/InsightFace_TF#1
    """
    s = k.factor()
    past_pi(k, lambda theta, m: np.cos(theta) - s * m * np.sin(m))

    def grad_scale() -> np.ndarray:
        m = k.q.margin
        beyond = k.on & (k.theta + m >= np.pi) & ((k.theta < np.pi / 2) | (not k.q.easy_margin))
        return np.asarray(np.sum(k.g * (k.value - beyond * s * m * np.sin(m))))

    k.grad_scale = grad_scale


@suspect("margin", lambda loss: is_arc(loss) and not loss.detach_margin)
def angle_clamped(k: Kernel) -> None:
    """The angle is clamped to [−1, 1], meant for the cosine: targets beyond 57° all count as 57°, without gradient.

    Seen in jonasgrebe/pt-femb-face-embeddings#3
    """
    after(k, "angles", lambda theta: np.where(k.on, np.minimum(theta, 1.0), theta))
    after(k, "slope", lambda rise: np.where(k.on & (k.theta >= 1.0), 0.0, rise))


@suspect("margin", lambda loss: (is_arc(loss) and not loss.easy_margin) or is_cosine(loss))
def margin_where_cos_positive(k: Kernel) -> None:
    """The margin only where cos θ > 0 (easy_margin left on by default): targets beyond π/2 have none.

    Seen in xiaoboCASIA/SV-X-Softmax:fc_layers.py
    """
    right = k.psi
    k.psi = lambda theta: np.where(np.real(theta) < np.pi / 2, right(theta), np.cos(theta))


@suspect("margin", lambda loss: is_arc(loss) and loss.easy_margin)
def easy_margin_forgotten(k: Kernel) -> None:
    """easy_margin=True was asked for, and targets with cos θ ≤ 0 bear the margin all the same."""
    k.q.easy_margin = False


@suspect("margin", is_cosine)
def margin_where_cos_exceeds_margin(k: Kernel) -> None:
    """The margin only where cos θ > m: the target's value jumps at cos θ = m, and is too large below.

    Seen in happynear/caffe-windows:src/caffe/layers/label_specific_add.cpp
    """
    right = k.psi
    k.psi = lambda theta: np.where(np.cos(np.real(theta)) > np.real(k.q.margin), right(theta), np.cos(theta))


def branch(k: Kernel, theta: np.ndarray) -> np.ndarray:
    """k = floor(mθ/π), at most m − 1."""
    m = k.q.margin
    return np.clip(np.floor(m * np.real(theta) / np.pi), 0, m - 1)


@suspect("margin", is_psi)
def k_rounded(k: Kernel) -> None:
    """ψ's branch is round(mθ/π) where it should be floor: wrong on the second half of every branch."""
    m = k.q.margin

    def psi(theta: np.ndarray) -> np.ndarray:
        n = np.clip(np.rint(m * np.real(theta) / np.pi), 0, m - 1)
        return (-1) ** n * np.cos(m * theta) - 2 * n

    set_psi(k, psi)


@suspect("margin", is_psi)
def k_offset_missing(k: Kernel) -> None:
    """ψ without its −2k: (−1)^k cos mθ runs down from 1 on every branch. The gradient is right."""
    set_psi(k, lambda theta: (-1) ** branch(k, theta) * np.cos(k.q.margin * theta))


@suspect("margin", is_psi)
def k_sign_missing(k: Kernel) -> None:
    """ψ without its (−1)^k: cos mθ − 2k rises on the odd branches."""
    set_psi(k, lambda theta: np.cos(k.q.margin * theta) - 2 * branch(k, theta))


@suspect("margin", is_psi)
def no_branches(k: Kernel) -> None:
    """Plain cos mθ for ψ: right for θ < π/m, and periodic beyond.

    Seen in cvqluu/Angular-Penalty-Softmax-Losses-Pytorch:loss_functions.py
    """
    set_psi(k, lambda theta: np.cos(k.q.margin * theta))


@suspect("margin", lambda loss: is_psi(loss) and not loss.detach_margin, variants=(2e-8, 4e-4))
def k_off_by_one_at_pi(k: Kernel, near: float) -> None:
    """k reaches m where θ is π or is rounded to it: the value is still right there, and the slope −m² for m².

    Seen in tpys/face-recognition-caffe2:caffe2/operators/lsoftmax_with_loss.cu
    """
    m, right = k.q.margin, k.slope

    def psi(theta: np.ndarray) -> np.ndarray:
        n = np.where(np.real(theta) > np.pi - near, m, branch(k, theta))
        return (-1) ** n * np.cos(m * theta) - 2 * n

    set_psi(k, psi)
    at_pole = (k.q.annealing - m**2) / (1 + k.q.annealing)
    k.slope = lambda: np.where(k.on & (np.pi - k.theta < 1e-9), at_pole, right())


@suspect("margin", is_psi)
def cosine_powers_divided(k: Kernel) -> None:
    """cos mθ is summed by a recurrence that divides by cos² θ: NaN where x is exactly perpendicular to W_y.

    Seen in luoyetx/mx-lsoftmax:operator/lsoftmax.cu
    """
    after(k, "values", lambda value: np.where(k.on & (np.abs(k.cos) < 1e-15), np.nan, value))


@suspect("margin", lambda loss: is_psi(loss) and not loss.detach_margin)
def multiplier_missing_in_slope(k: Kernel) -> None:
    """The slope of ψ without the factor m: the loss is right, and the target's tangential gradient m times
    too small.

    Seen in ydwen/opensphere:model/head/gasoftmaxloss.py
    """
    lam, m = k.q.annealing / (1 + k.q.annealing), k.q.margin
    after(k, "slope", lambda rise: np.where(k.on, lam + (rise - lam) / m, rise))


@suspect("margin", is_annealed)
def annealing_forgotten(k: Kernel) -> None:
    """λ is taken for 0: the full margin at once."""
    k.q.annealing = 0.0


@suspect("margin", lambda loss: is_annealed(loss) and loss.annealing != 1)
def annealing_inverted(k: Kernel) -> None:
    """λ weighs the margin and 1 the cosine: (cos θ + λψ)/(1 + λ)."""
    k.q.annealing = 1 / k.q.annealing


@suspect("margin", is_annealed)
def annealing_not_normalised(k: Kernel) -> None:
    """λ cos θ + ψ without the division by 1 + λ."""
    right, lam = k.psi, k.q.annealing
    k.psi = lambda theta: (1 + lam) * right(theta)
    k._at_pole = lambda: lam + k.q.margin**2


@suspect("margin", is_annealed)
def annealing_on_other_logits(k: Kernel) -> None:
    """The other classes' logits are multiplied by λ/(1 + λ) as well.

    Seen in HiKapok/tf.extra_losses:l_softmax_op.cc
    """
    part = k.q.annealing / (1 + k.q.annealing)
    after(k, "radius", lambda r: np.where(k.on, r, part * r))


# == scale =========================================================================================


@suspect("scale", both(is_cosine, has_scale))
def scale_before_margin(k: Kernel) -> None:
    """s cos θ − m: the margin is subtracted after scaling, and is s times too small."""
    s = k.factor()
    set_margin(k, k.q.margin / s, 1 / s)
    k.grad_scale = lambda: np.asarray(np.sum(k.g * k.cos))


@suspect("scale", has_scale)
def scale_missing(k: Kernel) -> None:
    """The logits are not scaled: the loss stays near log C."""
    set_factor(k, 1.0, 0.0)


@suspect("scale", has_scale)
def scale_squared(k: Kernel) -> None:
    """The scale is applied twice, to the features or the cosines and again to the logits."""
    s = k.factor()
    set_factor(k, s * s, 2 * s)


@suspect("scale", both(has_scale, has_margin))
def scale_not_on_target(k: Kernel) -> None:
    """The target's logit is written after scaling and has no scale: its logit is tiny beside the others."""
    right, s = k.grad_scale, k.factor()
    after(k, "radius", lambda r: np.where(k.on, 1.0, r))
    k.grad_scale = lambda: right() - np.sum(np.where(k.on, k.g * k.value, 0.0)) / s


@suspect("scale", has_scale)
def scale_missing_in_gradient(k: Kernel) -> None:
    """The backward leaves out the factor s: loss and grad_logits are right, grad_x and grad_W s times too
    small."""
    for step in ("grad_x", "grad_W"):
        after(k, step, lambda grad: grad / k.factor())


@suspect("scale", both(has_scale, has_margin))
def scale_gradient_without_margin(k: Kernel) -> None:
    """∂L/∂s takes cos θ for the target where it should take ψ(θ)."""
    k.grad_scale = lambda: np.asarray(np.sum(k.g * k.cos))


@suspect("scale", lambda loss: bool({"scale", "alpha"} & set(_parameters(loss))))
def scale_gradient_averaged(k: Kernel) -> None:
    """∂L/∂s or ∂L/∂α is averaged over the samples where it should be their sum."""
    after(k, "grad_scale", lambda grad: grad / k.N)


@suspect("scale", has_scale)
def temperature_divided(k: Kernel) -> None:
    """The scale is taken for a temperature: the logits are divided by s."""
    s = k.factor()
    set_factor(k, 1 / s, -1 / s**2)


@suspect("scale", lambda loss: has_scale(loss) and loss.reduction != "none")
def loss_divided_by_scale(k: Kernel) -> None:
    """The loss is divided by s to tame its gradient: loss and gradients come out s times too small.

    Seen in ydwen/opensphere:model/head/spherefacer.py
    """
    s, right, reduced = k.factor(), k.grad_scale, k.reduce
    after(k, "divisor", lambda divisor: divisor * s)

    def reduce(losses: np.ndarray) -> np.ndarray:
        loss = reduced(losses)
        k.grad_scale = lambda: right() - np.sum(k.upstream * loss) / s
        return loss

    k.reduce = reduce


@suspect("scale", lambda loss: isinstance(loss, L2Softmax) and loss.alpha != 1)
def alpha_missing(k: Kernel) -> None:
    """The features are normalised and not multiplied by α."""
    set_factor(k, 1.0, 0.0)


@suspect("scale", lambda loss: isinstance(loss, L2Softmax) and loss.alpha != 1)
def alpha_missing_in_gradient(k: Kernel) -> None:
    """The backward leaves out the factor α: grad_x and grad_W are α times too small."""
    for step in ("grad_x", "grad_W"):
        after(k, step, lambda grad: grad / k.factor())


def _parameters(loss: Any) -> list[str]:
    return differentiable(loss) if has_features(loss) else []


# == norms =========================================================================================


def pass_by(k: Kernel, side: str) -> None:
    """No gradient through the normalisation: of every pair, or of the target's angle where only that needs it."""
    power = k.p_x if side == "x" else k.p_W
    setattr(k, f"passes_{side}", ~k.on if power else False)


@suspect("norms", through_x_norm)
def x_projection_missing(k: Kernel) -> None:
    """The backward takes ‖x‖ for a constant: grad_x lacks the projection I − x̂x̂ᵀ, and has a part along
    x."""
    pass_by(k, "x")


@suspect("norms", through_W_norm)
def W_projection_missing(k: Kernel) -> None:
    """The backward takes ‖W_j‖ for a constant: grad_W lacks the projection I − ŵŵᵀ, and has a part along W_j.

    Seen in wy1iu/sphereface:tools/caffe-sphereface/src/caffe/layers/margin_inner_product_layer.cpp
    """
    pass_by(k, "W")


@suspect("norms", both(through_x_norm, through_W_norm))
def both_projections_missing(k: Kernel) -> None:
    """Both norms are constants to the backward: features and weights normalised without gradient."""
    pass_by(k, "x")
    pass_by(k, "W")


@suspect("norms", normalises_W)
def gradient_of_unit_W(k: Kernel) -> None:
    """W is normalised in place first, so that grad_W is the gradient in ŵ: no projection, and no 1/‖W_j‖.

    Seen in ydwen/opensphere:opensphere/module/head/arcface.py
    """
    k.grad_W = lambda: k.product((k.g * k.r * k.rise).T, k.x_hat)


EPSILONS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-3, 1e-2)


def lengthen(k: Kernel, side: str, longer: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """longer(v) gives the lengths that stand for ‖v‖, and by how much they grow with ‖v‖."""
    from_cosine(k)
    v = getattr(k, side)
    true = k.length(v)
    length, growth = longer(v)
    unit = v / np.where(true > 0, true, 1.0)[:, None]
    setattr(k, f"{side}_length", lambda: length)
    setattr(k, f"{side}_growth", lambda: unit * growth[:, None])


def inside(k: Kernel, side: str, eps: float) -> None:
    def longer(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = np.hypot(k.length(v), np.sqrt(eps))
        return length, k.length(v) / length

    lengthen(k, side, longer)


@suspect("norms", through_x_norm, variants=EPSILONS)
def eps_inside_x_norm(k: Kernel, eps: float) -> None:
    """‖x‖ is √(Σx² + ε): short features do not reach length 1, and their cosines are too small.

    Seen in happynear/caffe-windows:src/caffe/layers/normalize_layer.cpp
    """
    inside(k, "x", eps)


@suspect("norms", through_W_norm, variants=EPSILONS)
def eps_inside_W_norm(k: Kernel, eps: float) -> None:
    """‖W_j‖ is √(Σw² + ε): short rows of W do not reach length 1, and their cosines are too small.

    Seen in happynear/caffe-windows:src/caffe/layers/inner_product_layer.cpp
    """
    inside(k, "W", eps)


@suspect("norms", both(through_x_norm, through_W_norm), variants=EPSILONS)
def eps_inside_norms(k: Kernel, eps: float) -> None:
    """Both norms are √(Σv² + ε): cosines of short rows are too small.

    Seen in apple/axlearn#21
    """
    inside(k, "x", eps)
    inside(k, "W", eps)


@suspect("norms", lambda loss: through_x_norm(loss) or through_W_norm(loss), variants=EPSILONS)
def eps_added_to_norms(k: Kernel, eps: float) -> None:
    """The norms are ‖v‖ + ε: cosines of short rows are too small, and no cosine reaches 1.

    Seen in pppoe/tensorflow-sphereface-asoftmax:Loss_ASoftmax.py
    """
    for side, used in (("x", through_x_norm), ("W", through_W_norm)):
        if used(k.loss):
            lengthen(k, side, lambda v: (k.length(v) + eps, np.ones(len(v))))


@suspect("norms", lambda loss: through_x_norm(loss) or through_W_norm(loss), variants=EPSILONS)
def eps_missing_in_backward(k: Kernel, eps: float) -> None:
    """The norms are ‖v‖ + ε in the forward, and the backward is that of v/‖v‖ with them: wrong for short rows.

    Seen in chainer/chainer#4190
    """
    for side, used in (("x", through_x_norm), ("W", through_W_norm)):
        if used(k.loss):
            growth = getattr(k, f"{side}_growth")
            lengthen(k, side, lambda v: (k.length(v) + eps, np.ones(len(v))))
            setattr(k, f"{side}_growth", growth)


@suspect("norms", lambda loss: through_x_norm(loss) or through_W_norm(loss), variants=EPSILONS)
def norms_clamped(k: Kernel, eps: float) -> None:
    """The norms are max(‖v‖, ε), as F.normalize has it: rows shorter than ε are not normalised.

    Seen in CVI-SZU/UniFace:head.py
    """
    for side, used in (("x", through_x_norm), ("W", through_W_norm)):
        if used(k.loss):
            lengthen(k, side, lambda v: (np.maximum(k.length(v), eps), (k.length(v) > eps) * 1.0))


def clamp(k: Kernel, eps: float) -> Callable[[], np.ndarray]:
    """cos θ clamped to ±(1 − ε); returns what tells which pairs were."""
    lowest = np.arccos(1 - eps)
    where = np.ones_like(k.on) if k.q.radius == "scale" else k.on  # elsewhere plain products make the others
    hit = np.zeros_like(k.on)

    def cosines(cos: np.ndarray) -> np.ndarray:
        hit[:] = where & (np.abs(cos) > 1 - eps)
        return np.where(where, np.clip(cos, eps - 1, 1 - eps), cos)

    after(k, "cosines", cosines)
    after(k, "angles", lambda theta: np.where(where, np.clip(theta, lowest, np.pi - lowest), theta))
    return lambda: hit


CLAMPS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@suspect("norms", has_margin, variants=CLAMPS)
def clamp_kills_gradient(k: Kernel, eps: float) -> None:
    """cos θ is clamped to ±(1 − ε): near the poles the value is off by up to ε times the scale, and the
    gradient 0.

    Seen in mk-minchul/AdaFace:head.py
    """
    hit = clamp(k, eps)
    after(k, "slope", lambda rise: np.where(hit(), 0.0, rise))


@suspect("norms", has_margin, variants=CLAMPS)
def clamp_value_only(k: Kernel, eps: float) -> None:
    """cos θ is clamped to ±(1 − ε), and a hand-written backward goes on as if it were not.

    Seen in happynear/caffe-windows:src/caffe/layers/label_specific_margin.cu
    """
    clamp(k, eps)


@suspect("norms", lambda loss: is_arc(loss) and not loss.detach_margin)
def slope_clamped(k: Kernel) -> None:
    """The target's slope sin(θ + m)/sin θ is clamped to [0, 2]: the gradient is wrong at small θ and beyond π
    − m.

    Seen in happynear/caffe-windows:src/caffe/layers/label_specific_margin.cu
    """
    after(k, "slope", lambda rise: np.where(k.on, np.clip(rise, 0.0, 2.0), rise))


@suspect(
    "norms",
    lambda loss: is_arc(loss) and not loss.detach_margin and loss.past_pi == "cos",
    variants=(1e-12, 1e-9, 1e-7, 1e-6, 1e-4),
)
def eps_inside_sine(k: Kernel, eps: float) -> None:
    """sin θ is √(1 − cos² θ + ε) in cos θ cos m − sin θ sin m: the target is off near the poles."""
    easy = k.q.easy_margin

    def psi(theta: np.ndarray) -> np.ndarray:
        value = np.cos(theta) * np.cos(k.q.margin) - np.sqrt(np.sin(theta) ** 2 + eps) * np.sin(k.q.margin)
        return np.where(np.real(theta) < np.pi / 2, value, np.cos(theta)) if easy else value

    k.psi = psi


@suspect("norms", lambda loss: has_slope(loss) and not is_cosine(loss), variants=(2e-8, 4e-4))
def pole_gives_nan(k: Kernel, near: float) -> None:
    """The slope of arccos or √(1 − cos²) is infinite where cos θ_y rounds to ±1: the loss is right, its
    gradient NaN.

    Seen in ronghuaiyang/arcface-pytorch#91
    """
    after(k, "slope", lambda rise: np.where(k.on & (np.sin(k.theta) < near), np.nan, rise))


@suspect("norms", lambda loss: has_slope(loss) and not is_cosine(loss), variants=(2e-8, 4e-4))
def other_pole_gives_nan(k: Kernel, near: float) -> None:
    """The margin is computed for every class and masked by a product with the one-hot: 0 · ∞ makes the
    gradient NaN where x is parallel to another class's row.

    Seen in ronghuaiyang/arcface-pytorch#68
    """
    after(k, "slope", lambda rise: np.where(np.sin(k.theta) < near, np.nan, rise))


@suspect(
    "norms",
    lambda loss: (
        getattr(loss, "zero_norm", "error") == "zero" and (through_x_norm(loss) or through_W_norm(loss))
    ),
)
def zero_row_gives_nan(k: Kernel) -> None:
    """A zero row is divided by its length: 0/0 spreads NaN over its cosines.

    Seen in wy1iu/LargeMargin_Softmax_Loss:src/caffe/layers/largemargin_inner_product_layer.cu
    """
    if through_x_norm(k.loss):
        after(k, "x_unit", lambda unit: np.where(k.x_norm[:, None] > 0, unit, np.nan))
    if through_W_norm(k.loss):
        after(k, "W_unit", lambda unit: np.where(k.W_norm[:, None] > 0, unit, np.nan))


@suspect("norms", lambda loss: normalises_x(loss) or normalises_W(loss), variants=("one", "both"))
def norm_over_wrong_axis(k: Kernel, sides: str) -> None:
    """W (where the loss normalises only x: x) is normalised along the wrong axis, every feature over the
    classes.

    Seen in ronghuaiyang/arcface-pytorch#1
    """
    for side in (side_of(k, "W"), side_of(k, "x"))[: 1 if sides == "one" else 2]:
        replace_unit(k, side, *over_axis(getattr(k, side), 0))


@suspect("norms", lambda loss: normalises_x(loss) or normalises_W(loss))
def norm_over_batch(k: Kernel) -> None:
    """x (or W) is divided by the norm of the whole matrix: the axis of the norm is missing."""
    side = side_of(k, "x")
    replace_unit(k, side, *over_axis(getattr(k, side), None))
    setattr(
        k, f"{side}_length", lambda: np.full(len(getattr(k, side)), np.sqrt(np.sum(getattr(k, side) ** 2)))
    )


@suspect("norms", normalises_x)
def x_not_normalised(k: Kernel) -> None:
    """x is taken to have length 1 already: the logits grow with ‖x‖.

    Seen in TreB1eN/InsightFace_Pytorch#70
    """
    replace_unit(k, "x", k.x, lambda g: g)


@suspect("norms", normalises_W)
def W_not_normalised(k: Kernel) -> None:
    """W is not normalised (or only in name): the logits grow with ‖W_j‖.

    Seen in cvqluu/Angular-Penalty-Softmax-Losses-Pytorch:loss_functions.py
    """
    replace_unit(k, "W", k.W, lambda g: g)


@suspect("norms", lambda loss: has_features(loss) and not normalises_x(loss))
def x_normalised(k: Kernel) -> None:
    """x is normalised where the loss keeps its length: the logits lack the factor ‖x‖."""
    k.p_x = 0


@suspect("norms", lambda loss: has_features(loss) and not normalises_W(loss))
def W_normalised(k: Kernel) -> None:
    """W is normalised where the loss keeps its length: the logits lack the factor ‖W_j‖.

    Seen in PistonY/torch-toolbox:torchtoolbox/nn/metric_loss.py
    """
    k.p_W = 0


@suspect("norms", lambda loss: isinstance(loss, L2Softmax))
def logits_normalised(k: Kernel) -> None:
    """The logits are normalised and scaled by α in place of the features.

    Seen in THUFutureLab/gluon-face:gluonfr/loss.py
    """
    k.p_x = 1
    alpha = k.q.alpha

    def logits() -> np.ndarray:
        z = k.product(k.x, k.W.T)
        z = z if k.b is None else z + k.b
        k.length_of_z = np.sqrt(np.sum(z * z, axis=1, keepdims=True))
        return alpha * z / k.length_of_z

    def inner() -> np.ndarray:
        unit = k.z / alpha
        across = k.g - unit * np.sum(k.g * unit, axis=1, keepdims=True)
        return alpha * across / k.length_of_z

    k.logits = logits
    k.grad_x = lambda: k.product(inner(), k.W)
    k.grad_W = lambda: k.product(inner().T, k.x)
    k.grad_b = lambda: inner().sum(axis=0)
    k.grad_scale = lambda: np.asarray(np.sum(k.g * k.z) / alpha)


@suspect("norms", lambda loss: normalises_x(loss) or normalises_W(loss))
def norm_squared(k: Kernel) -> None:
    """x (or W) is divided by ‖v‖² (the root is missing): cosines are off by the factor 1/‖v‖."""
    side = side_of(k, "x")
    v = getattr(k, side)
    square = np.sum(v * v, axis=1, keepdims=True)
    unit = v / square
    replace_unit(k, side, unit, lambda g: g / square - 2 * unit * np.sum(g * unit, axis=1, keepdims=True))
    setattr(k, f"{side}_length", lambda: square[:, 0])


@suspect("norms", lambda loss: normalises_x(loss) or normalises_W(loss))
def norm_factor_missing(k: Kernel) -> None:
    """The backward of v/‖v‖ leaves out 1/‖v‖: grad_x (or grad_W) is off by the factor ‖v‖."""
    side = side_of(k, "x")
    after(k, f"grad_{side}", lambda grad: grad * k.length(getattr(k, side))[:, None])


@suspect("norms", both(normalises_x, normalises_W))
def W_norm_factor_missing(k: Kernel) -> None:
    """The backward of W_j/‖W_j‖ leaves out 1/‖W_j‖: grad_W is off by the factor ‖W_j‖."""
    after(k, "grad_W", lambda grad: grad * k.length(k.W)[:, None])


@suspect("norms", lambda loss: has_margin(loss) and not normalises_x(loss), variants=("every", "target"))
def radial_gradient_missing(k: Kernel, classes: str) -> None:
    """The norm is detached where it is a factor of the logit (r ψ with r a constant): gradients lack their
    radial part."""
    k.radial_x = ~k.on if k.p_W or classes == "target" else False
    k.radial_W = ~k.on


# == gradient ======================================================================================


def without_margin(k: Kernel, step: str) -> None:
    only_while(k, step, rise=lambda: np.ones_like(k.cos), value=lambda: k.cos)


@suspect("gradient", has_slope)
def W_gradient_ignores_margin(k: Kernel) -> None:
    """grad_W is that of m = 1 (grad_logitsᵀ x̂): the rows of classes that are targets are wrong.

    Seen in wy1iu/sphereface:tools/caffe-sphereface/src/caffe/layers/margin_inner_product_layer.cpp
    """
    without_margin(k, "grad_W")


@suspect("gradient", has_slope)
def x_gradient_ignores_margin(k: Kernel) -> None:
    """grad_x is that of the plain logits, though the loss has a margin."""
    without_margin(k, "grad_x")


@suspect("gradient", lambda loss: isinstance(loss, ASoftmax) and is_psi(loss) and not loss.detach_margin)
def sphereface_released_backward(k: Kernel) -> None:
    """The released layer's backward: the target's part of grad_x is divided by √(coeff_w² + coeff_x²), and
    grad_W is grad_logitsᵀ x, without margin, projection or 1/‖W‖.

    Seen in wy1iu/sphereface#2
    """

    def grad_x() -> np.ndarray:
        lam = k.q.annealing
        slope, value = (1 + lam) * k.rise - lam, (1 + lam) * k.value - lam * k.cos  # of ψ alone
        at_w, at_x = slope, (value - slope * k.cos) / k.x_norm[:, None]
        size = np.hypot(at_w, at_x)
        at_w = np.where(k.on, (at_w / size + lam) / (1 + lam), 1.0)
        at_x = np.where(k.on, at_x / size / (1 + lam), 0.0)
        return k.product(k.g * at_w, k.W_hat) + np.sum(k.g * at_x, axis=1, keepdims=True) * k.x

    k.grad_x = grad_x
    k.grad_W = lambda: k.product(k.g.T, k.x)


@suspect("gradient", has_features)
def W_gradient_transposed(k: Kernel) -> None:
    """grad_logits (N, C) is reshaped to (C, N) where it should be transposed: grad_W mixes samples and
    classes."""
    only_while(k, "grad_W", g=lambda: k.g.reshape(k.C, k.N).T)


@suspect("gradient", has_features)
def W_gradient_on_present_classes_only(k: Kernel) -> None:
    """grad_W is written only for classes that some sample has: rows of absent classes are 0."""
    after(k, "grad_W", lambda grad: grad * np.max(k.target > 0, axis=0)[:, None])


@suspect("gradient", has_features, variants=("whole", "one-hot"))
def duplicates_overwritten(k: Kernel, part: str) -> None:
    """The target's part of grad_W is assigned by index where it should be added: of the samples of one class,
    the last one wins.

    Seen in pytorch/pytorch#1528
    """

    def last_of_each_class() -> np.ndarray:
        last = {y: i for i, y in enumerate(k.y) if k.valid[i]}
        lost = np.array([i for i in range(k.N) if last.get(k.y[i]) != i], dtype=int)
        g = k.g.copy()
        if part == "whole":
            g[lost, k.y[lost]] = 0.0
        else:  # p is added up, and only the −1 of the one-hot assigned
            g[lost, k.y[lost]] += (k.share()[:, None] * (1 - k.smoothing) * k.w * k.target)[lost, k.y[lost]]
        return g

    only_while(k, "grad_W", g=last_of_each_class)


@suspect("gradient", has_features)
def all_overwritten(k: Kernel) -> None:
    """grad_W is assigned row by row where it should be accumulated: the last sample's is left."""
    only_while(k, "grad_W", g=lambda: np.where(np.arange(k.N)[:, None] == k.N - 1, k.g, 0.0))


@suspect("gradient", every)
def off_target_dropped(k: Kernel) -> None:
    """Only the target's column of grad_logits is written: the others, p_j, are 0."""
    after(k, "grad_logits", lambda g: np.where(on_target(k), g, 0.0))


@suspect("gradient", every)
def one_hot_forgotten(k: Kernel) -> None:
    """grad_logits is p without the −1 at the target."""
    k.grad_logits = lambda: k.p * k.a.sum(axis=1, keepdims=True)


@suspect("gradient", has_features)
def target_row_only(k: Kernel) -> None:
    """grad_logits is right, and only its target column goes on to grad_x and grad_W."""
    for step in ("grad_x", "grad_W"):
        only_while(k, step, g=lambda: np.where(on_target(k), k.g, 0.0))


@suspect("gradient", every)
def gradient_zero(k: Kernel) -> None:
    """Every gradient is 0: the graph is cut, or the buffer never written.

    Seen in microsoft/DirectML#739
    """
    after(k, "share", lambda share: 0 * share)


@suspect("gradient", every)
def gradient_of_wrong_sign(k: Kernel) -> None:
    """Every gradient points the other way (one-hot − p).

    Seen in deeplearning4j/deeplearning4j#349
    """
    after(k, "share", lambda share: -share)


@suspect("gradient", every)
def gradient_two_percent_too_large(k: Kernel) -> None:
    """Every gradient is 2 % too large: what a loose tolerance lets pass."""
    after(k, "share", lambda share: 1.02 * share)


@suspect("gradient", every)
def gradient_doubled(k: Kernel) -> None:
    """Every gradient comes twice: accumulated in two places, or a square's factor 2."""
    after(k, "share", lambda share: 2 * share)


@suspect(
    "gradient", lambda loss: "margin" in _parameters(loss) and has_margin(loss) and not loss.detach_margin
)
def margin_gradient_of_wrong_sign(k: Kernel) -> None:
    """∂L/∂m has the wrong sign: a learned margin would grow where it should shrink."""
    after(k, "grad_margin", lambda grad: -grad)


@suspect("gradient", normalises_W, variants=("grad_x", "before x̂'s projection"))
def raw_W_in_gradient(k: Kernel, where: str) -> None:
    """grad_x is made with W where the forward used ŵ: off by the factor ‖W_j‖ class by class."""

    def cosines() -> np.ndarray:
        return k.cos if where == "grad_x" else k.x_hat @ k.W.T

    only_while(k, "grad_x", W_hat=lambda: k.W, cos=cosines)


@suspect("gradient", normalises_x)
def raw_x_in_gradient(k: Kernel) -> None:
    """grad_W is made with x where the forward used x̂: off by the factor ‖x‖ sample by sample."""
    only_while(k, "grad_W", x_hat=lambda: k.x)


@suspect("gradient", has_bias)
def bias_gradient_missing(k: Kernel) -> None:
    """grad_b is 0: the bias takes part in the forward alone."""
    after(k, "grad_b", lambda grad: 0 * grad)


@suspect("gradient", has_bias)
def bias_gradient_averaged(k: Kernel) -> None:
    """grad_b is the mean of grad_logits over the samples where it should be the sum."""
    after(k, "grad_b", lambda grad: grad / k.N)


@suspect("gradient", has_bias)
def bias_ignored(k: Kernel) -> None:
    """The bias is not added to the logits."""
    if k.b is not None:
        k.bias = lambda: np.zeros(k.C)
        after(k, "grad_b", lambda grad: 0 * grad)


@suspect("gradient", lambda loss: isinstance(loss, L2Softmax) and loss.alpha != 1)
def bias_scaled(k: Kernel) -> None:
    """α multiplies the bias too: α(W·x̂ + b)."""
    if k.b is not None:
        alpha, b = k.factor(), k.b
        k.bias = lambda: alpha * b
        after(k, "grad_b", lambda grad: alpha * grad)
        after(k, "grad_scale", lambda grad: grad + np.sum(k.g * b))


# == reduction =====================================================================================


@suspect("reduction", is_mean)
def mean_forgotten(k: Kernel) -> None:
    """The losses are summed where the mean was asked for: loss and gradients are N times too large."""
    k.divisor = lambda: 1.0


@suspect("reduction", is_mean)
def mean_twice(k: Kernel) -> None:
    """The mean is taken twice, in the kernel and by its caller: loss and gradients are N times too small.

    Seen in eriklindernoren/PyTorch-YOLOv3#137
    """
    after(k, "divisor", lambda divisor: divisor**2)


@suspect("reduction", is_mean)
def mean_missing_in_gradient(k: Kernel) -> None:
    """The loss is a mean, and its gradient that of the sum."""
    after(k, "share", lambda share: share * k.divisor())


@suspect("reduction", lambda loss: loss.reduction == "mean" and ignores(loss))
def mean_counts_ignored(k: Kernel) -> None:
    """The mean divides by N with the ignored rows counted: too small by the share of valid rows.

    Seen in PaddlePaddle/Paddle#76033
    """
    k.counts[:] = True


@suspect("reduction", is_mean)
def mean_over_classes(k: Kernel) -> None:
    """The mean is taken over samples and classes: too small by the factor C."""
    after(k, "divisor", lambda divisor: divisor * k.C)


@suspect("reduction", lambda loss: loss.reduction == "mean" and has_weights(loss))
def mean_of_weights(k: Kernel) -> None:
    """The mean divides by the sum of the targets' class weights (torch's "mean" for labels) where the number
    of samples was asked for. If it is meant, set reduction="weighted_mean".

    Seen in pytorch/pytorch#50528
    """
    k.reduction = "weighted_mean"


@suspect("reduction", lambda loss: loss.reduction == "mean" and has_weights(loss))
def weights_after_mean(k: Kernel) -> None:
    """The mean loss is multiplied by the mean of the weights, where each sample's loss should be weighted
    first.

    Seen in ronghuaiyang/arcface-pytorch:models/focal_loss.py
    """
    w = (k.target * k.w)[k.valid].sum() / max(k.valid.sum(), 1)
    k.weighted = lambda: k.smoothed() * w


@suspect("reduction", lambda loss: loss.reduction == "weighted_mean" and has_weights(loss))
def weighted_mean_by_count(k: Kernel) -> None:
    """The weighted mean divides by the number of samples where it should divide by the sum of their
    weights."""
    k.reduction = "mean"


@suspect("reduction", lambda loss: loss.reduction == "sum")
def sum_averaged(k: Kernel) -> None:
    """The sum is divided by N: loss and gradients are those of the mean.

    Seen in facebookresearch/detectron2#3454
    """
    k.divisor = lambda: float(k.N)


@suspect("reduction", lambda loss: loss.reduction in ("sum", "none"))
def gradient_averaged(k: Kernel) -> None:
    """The loss is not averaged, and its gradient is: N times too small.

    Seen in paiml/aprender#2182
    """
    after(k, "share", lambda share: share / k.N)


# == upstream ======================================================================================


def set_upstream(k: Kernel, change: Callable[[np.ndarray], Any]) -> None:
    k.upstream = np.asarray(change(k.upstream), dtype=float)


@suspect("upstream", every)
def upstream_ignored(k: Kernel) -> None:
    """The gradient that arrives is taken for 1: right only where the loss is the last operation.

    Seen in dmlc/gluon-cv#1668
    """
    set_upstream(k, np.ones_like)


@suspect("upstream", unreduced)
def upstream_averaged(k: Kernel) -> None:
    """Every row gets the mean of the gradients that arrive."""
    set_upstream(k, np.mean)


@suspect("upstream", every)
def upstream_squared(k: Kernel) -> None:
    """The gradient that arrives is multiplied in twice, in the kernel and by its caller."""
    set_upstream(k, np.square)


@suspect("upstream", unreduced)
def upstream_of_first_row(k: Kernel) -> None:
    """Every row gets the first row's gradient (a vector read as a scalar).

    Seen in linkedin/Liger-Kernel#1298
    """
    set_upstream(k, lambda upstream: upstream.ravel()[:1].sum())


@suspect("upstream", unreduced)
def upstream_reversed(k: Kernel) -> None:
    """The rows' gradients arrive in the opposite order (a stride or an index is wrong)."""
    set_upstream(k, lambda upstream: upstream[::-1] if upstream.ndim == 1 else upstream[..., ::-1])


# == blocks ========================================================================================


def complete(size: int, block: int) -> int:
    """How many of `size` entries lie in whole blocks; all, where there is but one block."""
    return size - size % block if size > block else size


def classes_counted(k: Kernel, times: np.ndarray) -> None:
    """Each class counts so often (C,) in the softmax's sum."""

    def logsumexp(z: np.ndarray) -> np.ndarray:
        seen = np.where(times > 0, z, -np.inf)
        top = seen.max(axis=1)
        return top + np.log(np.sum(times * np.exp(seen - top[:, None]), axis=1))

    if (times != 1).any():
        k.logsumexp = logsumexp
        k.softmax = lambda: np.where(times > 0, np.exp(k.z - k.lse[:, None]), 0.0)
        k.grad_logits = lambda: np.where(times > 0, times * k.p * k.a.sum(axis=1, keepdims=True) - k.a, 0.0)


@suspect("blocks", every, variants=BLOCKS)
def last_class_block_dropped(k: Kernel, block: int) -> None:
    """The classes beyond the last whole block (C mod block) are left out of the softmax, and get no
    gradient."""
    classes_counted(k, (np.arange(k.C) < complete(k.C, block)) * 1.0)


@suspect("blocks", every, variants=BLOCKS)
def last_class_block_counted_twice(k: Kernel, block: int) -> None:
    """The last block is moved back to end at C, and the classes that it shares with the one before count
    twice."""
    classes = np.arange(k.C)
    shared = (classes < complete(k.C, block)) & (classes >= k.C - block) & (block < k.C) & (k.C % block != 0)
    classes_counted(k, 1.0 + shared)


def rows_dropped(k: Kernel, kept: int) -> None:
    """Rows from `kept` on are never written."""
    rows = np.arange(k.N) < kept
    k.reached &= rows
    after(k, "sample_losses", lambda losses: np.where(rows, losses, 0.0))


@suspect("blocks", every, variants=BLOCKS)
def padding_counted(k: Kernel, block: int) -> None:
    """The last block is padded with logits of 0, and each adds e⁰ to the softmax's sum: probabilities are too small.

    Seen in verl-project/verl#2899
    """
    padding = -k.C % block

    def logsumexp(z: np.ndarray) -> np.ndarray:
        z = np.pad(z, ((0, 0), (0, padding)))
        top = z.max(axis=1)
        return top + np.log(np.sum(np.exp(z - top[:, None]), axis=1))

    if padding:
        k.logsumexp = logsumexp


@suspect("blocks", every)
def last_row_dropped(k: Kernel) -> None:
    """The last sample has loss 0 and gradient 0 (an index runs to N − 1)."""
    rows_dropped(k, k.N - 1)


@suspect("blocks", every, variants=BLOCKS)
def last_row_block_dropped(k: Kernel, block: int) -> None:
    """The samples beyond the last whole block (N mod block) have loss 0 and gradient 0."""
    rows_dropped(k, complete(k.N, block))


@suspect("blocks", has_features, variants=BLOCKS)
def last_feature_block_dropped(k: Kernel, block: int) -> None:
    """Dot products leave out the features beyond the last whole block (D mod block): their gradient is wrong
    too."""
    D = k.x.shape[1]
    kept = np.arange(D) < complete(D, block)
    if not kept.all():
        from_cosine(k)
        product = k.product
        k.cosines = lambda: (k.x_hat * kept) @ k.W_hat.T
        k.product = lambda left, right: product(left, right) * kept


@suspect("blocks", every, variants=[(block, way) for way in ("p", "autograd") for block in BLOCKS])
def online_softmax_without_rescaling(k: Kernel, variant: tuple[int, str]) -> None:
    """The running sum of exponentials is not rescaled when a later block has a larger logit: the loss is too
    large wherever the largest logit is not in the first block."""
    block, way = variant
    seen: list[tuple[np.ndarray, np.ndarray]] = []  # of each block: e^{z − its maximum}, and where that lies

    def logsumexp(z: np.ndarray) -> np.ndarray:
        seen.clear()
        for start in range(0, k.C, block):
            so_far = z[:, : start + block]
            top = so_far.max(axis=1, keepdims=True)
            seen.append((np.exp(z[:, start : start + block] - top), so_far.argmax(axis=1)))
        return top[:, 0] + np.log(sum(e.sum(axis=1) for e, _ in seen))

    def slope() -> np.ndarray:
        """Through the sum and through every maximum, as automatic differentiation goes."""
        total = sum(e.sum(axis=1) for e, _ in seen)
        p = np.concatenate([e for e, _ in seen], axis=1) / total[:, None]
        rows = np.arange(k.N)
        p[rows, seen[-1][1]] += 1
        for e, at in seen:
            p[rows, at] -= e.sum(axis=1) / total
        return p

    if block < k.C:
        k.logsumexp = logsumexp
        if way == "autograd":
            k.softmax = slope


def shards(k: Kernel, parts: int) -> list[np.ndarray]:
    """The classes of every shard."""
    return [part for part in np.array_split(np.arange(k.C), parts) if part.size]


@suspect("blocks", every, variants=[(parts, way) for way in ("by hand", "autograd") for parts in SHARDS])
def maxima_added_over_shards(k: Kernel, variant: tuple[int, str]) -> None:
    """Classes on several devices: the largest logits are reduced by a sum where it should be a maximum, and
    the sums of exponentials belong to each device's own."""

    parts, way = variant

    def logsumexp(z: np.ndarray) -> np.ndarray:
        tops = [z[:, own].max(axis=1) for own in shards(k, parts)]
        sums = [
            np.sum(np.exp(z[:, own] - top[:, None]), axis=1)
            for own, top in zip(shards(k, parts), tops, strict=True)
        ]
        return np.sum(tops, axis=0) + np.log(np.sum(sums, axis=0))

    def softmax() -> np.ndarray:
        """The maxima are constants: each term over the sum of all."""
        e = [np.exp(k.z[:, own] - k.z[:, own].max(axis=1, keepdims=True)) for own in shards(k, parts)]
        return np.concatenate(e, axis=1) / sum(part.sum(axis=1, keepdims=True) for part in e)

    k.logsumexp = logsumexp
    if way == "autograd":
        k.softmax = softmax


@suspect("blocks", every, variants=[(parts, where) for where in ("p too", "loss alone") for parts in SHARDS])
def loss_plus_log_shards(k: Kernel, variant: tuple[int, str]) -> None:
    """Classes on several devices: the sum of exponentials is reduced twice, so that the loss is too large by
    the logarithm of their number and every probability too small by it.

    Seen in NVIDIA/Megatron-LM#7452
    """
    parts, where = variant
    right = k.logsumexp
    if where == "p too":
        k.logsumexp = lambda z: right(z) + np.log(len(shards(k, parts)))
    else:
        after(k, "sample_losses", lambda losses: losses + k.a.sum(axis=1) * np.log(parts))


@suspect("blocks", every, variants=BLOCKS)
def classes_beyond_block_without_gradient(k: Kernel, block: int) -> None:
    """The backward writes the first block of classes only: the columns beyond are 0."""
    after(k, "grad_logits", lambda g: np.where(np.arange(k.C) < block, g, 0.0))


@suspect("blocks", every, variants=SHARDS)
def one_hot_on_first_shard_only(k: Kernel, parts: int) -> None:
    """Classes on several devices: the −1 of the target is subtracted only where the class lies on the first
    device."""
    first = np.isin(np.arange(k.C), shards(k, parts)[0])
    after(k, "grad_logits", lambda g: np.where(first, g, k.p * k.a.sum(axis=1, keepdims=True)))


@suspect("blocks", every, variants=SHARDS)
def gradient_on_owner_shard_only(k: Kernel, parts: int) -> None:
    """Classes on several devices: only the device that has a sample's class gets a gradient for that sample.

    Seen in modelscope/ms-swift#9947
    """
    owner = np.concatenate([np.full(len(own), part) for part, own in enumerate(shards(k, parts))])
    after(k, "grad_logits", lambda g: np.where(owner == owner[k.y][:, None], g, 0.0))


@suspect("blocks", has_smoothing, variants=SHARDS)
def smoothing_over_shard(k: Kernel, parts: int) -> None:
    """Classes on several devices: label smoothing takes the first device's classes for all of them.

    Seen in NVIDIA/Megatron-LM#737
    """
    first = shards(k, parts)[0]
    here = np.isin(np.arange(k.C), first)
    k.smoothed = lambda: (1 - k.smoothing) * k.target + k.smoothing / len(first) * here


@suspect("blocks", every, variants=[(parts, way) for way in ("by hand", "autograd") for parts in SHARDS])
def target_logit_not_reduced(k: Kernel, variant: tuple[int, str]) -> None:
    """Classes on several devices: the target's logit is not shared, and counts as 0 unless the first device
    has it."""
    parts, way = variant
    first = np.isin(np.arange(k.C), shards(k, parts)[0])
    if way == "autograd":
        after(k, "grad_logits", lambda g: g + np.where(first, 0.0, (1 - k.smoothing) * k.w * k.target))
    after(
        k,
        "sample_losses",
        lambda losses: losses + np.sum(np.where(first, 0.0, k.a * np.where(k.a != 0, k.z, 0)), axis=1),
    )


# == options =======================================================================================


@suspect("options", ignores)
def ignored_rows_with_gradient(k: Kernel) -> None:
    """Ignored rows have loss 0, and their gradient is p all the same.

    Seen in PaddlePaddle/Paddle#28622
    """
    k.reached[:] = True
    after(k, "grad_logits", lambda g: np.where(k.valid[:, None], g, k.p))


@suspect("options", ignores, variants=("first", "last"))
def ignored_label_is_a_class(k: Kernel, variant: str) -> None:
    """Ignored rows count as samples of class 0 (clipped) or of the last class (−1 as an index)."""
    ignored = ~k.valid
    if k.hard:
        k.valid[:] = k.counts[:] = k.reached[:] = True
        was_on = getattr(k.loss, "has_margin", False)
        k.y = np.where(ignored, 0 if variant == "first" else k.C - 1, k.y)
        k.target = np.eye(k.C)[k.y]
        if was_on:
            k.on = k.target > 0


@suspect("options", both(ignores, has_smoothing))
def ignored_rows_smoothed(k: Kernel) -> None:
    """Ignored rows lose only their one-hot part: the uniform part of the smoothing stays in loss and
    gradient.

    Seen in pytorch/pytorch#73205
    """
    k.valid[:] = k.reached[:] = True  # their target is 0 everywhere


@suspect("options", has_smoothing)
def smoothing_over_others(k: Kernel) -> None:
    """Smoothing gives ε/(C − 1) to the other classes and 1 − ε to the target, where ε/C to every class is
    due.

    Seen in fastai/fastai#1814
    """
    share = k.smoothing / max(k.C - 1, 1)
    k.smoothed = lambda: (
        (1 - k.smoothing) * k.target + share * (k.target.sum(axis=1, keepdims=True) - k.target)
    )


@suspect("options", has_smoothing)
def smoothing_renormalised(k: Kernel) -> None:
    """Smoothing is (target + ε/C)/(1 + ε), the "classy_vision" mode.

    Seen in open-mmlab/mmpretrain:mmpretrain/models/losses/label_smooth_loss.py
    """
    eps = k.smoothing
    k.smoothed = lambda: (k.target + eps / k.C) / (1 + eps)


@suspect("options", has_smoothing)
def smoothing_subtracted_twice(k: Kernel) -> None:
    """Smoothing is (1 − 2ε) target + ε, as for several labels at once.

    Seen in open-mmlab/mmpretrain:mmpretrain/models/losses/label_smooth_loss.py
    """
    eps = k.smoothing
    k.smoothed = lambda: (1 - 2 * eps) * k.target + eps


@suspect("options", has_smoothing)
def smoothing_entropy_subtracted(k: Kernel) -> None:
    """The smoothed target's entropy is subtracted, so that a perfect prediction has loss 0: the gradient is
    right.

    Seen in google-research/t5x:t5x/losses.py
    """

    def less(losses: np.ndarray) -> np.ndarray:
        t = k.smoothed()
        return losses + np.sum(k.a * np.log(np.where(t > 0, t, 1.0)), axis=1)

    after(k, "sample_losses", less)


@suspect("options", has_smoothing)
def smoothing_adds_one(k: Kernel) -> None:
    """Smoothing adds 1/C to every class where ε/C is due: the targets sum to 2 − ε.

    Seen in TimDettmers/ConvE#55
    """
    k.smoothed = lambda: (1 - k.smoothing) * k.target + 1 / k.C


@suspect("options", has_smoothing, variants=("ε/C added", "1 − ε/C"))
def smoothing_leaves_target(k: Kernel, target: str) -> None:
    """The target keeps 1 − ε/C where 1 − ε is due, so that it ends near 1.

    Seen in ildoonet/pytorch-randaugment#30
    """
    keeps = 1 - k.smoothing / k.C
    k.smoothed = lambda: (
        keeps * k.target + (k.smoothing / k.C) * (1 if target == "ε/C added" else 1 - k.target)
    )


@suspect("options", has_smoothing)
def smoothing_forgotten(k: Kernel) -> None:
    """No label smoothing, in loss and gradient."""
    k.smoothing = 0.0


def backward_with(k: Kernel, a: Callable[[], np.ndarray]) -> None:
    """The backward sees another a = w t."""
    only_while(k, "grad_logits", a=lambda: np.where(k.valid[:, None], a(), 0.0))


@suspect("options", has_smoothing)
def smoothing_missing_in_gradient(k: Kernel) -> None:
    """The loss is smoothed, and its gradient is p minus the one-hot."""
    backward_with(k, lambda: k.w * k.target)


@suspect("options", both(has_smoothing, has_weights))
def smoothing_with_target_weight(k: Kernel) -> None:
    """The smoothing's share of every class is weighted by the target's weight where each class has its
    own."""
    k.weighted = lambda: k.smoothed() * (k.target @ k.w)[:, None]


@suspect("options", has_weights)
def weights_forgotten(k: Kernel) -> None:
    """The class weights are not used."""
    k.w = np.ones(k.C)


@suspect("options", has_weights)
def weights_squared(k: Kernel) -> None:
    """The class weights are applied twice, in the loss and again when it is reduced.

    Seen in open-mmlab/mmdetection#845
    """
    k.weighted = lambda: k.w**2 * k.smoothed()


@suspect("options", has_weights)
def weights_on_logits(k: Kernel) -> None:
    """The class weights multiply the logits before the softmax, where they should multiply the losses.

    Seen in jakeret/tf_unet#8
    """
    w, right = k.w, k.grad_logits
    k.weighted = lambda: k.smoothed()
    k.grad_logits = lambda: w * right()
    if k.bare:
        last = np.moveaxis(k.logits_given, k.axis, -1)
        k.logits_given = np.moveaxis(last * w, -1, k.axis)
    else:
        after(k, "logits", lambda z: w * z)


@suspect("options", has_weights)
def weights_missing_in_gradient(k: Kernel) -> None:
    """The loss is weighted, and its gradient is not."""
    backward_with(k, lambda: k.smoothed())


@suspect("options", is_soft)
def soft_targets_sum_taken_for_one(k: Kernel) -> None:
    """grad_logits is p − t though the soft targets do not add up to 1: p Σt − t is due.

    Seen in kvark/meganeura#102
    """

    def grad_logits() -> np.ndarray:
        mass = k.a.sum(axis=1, keepdims=True)
        total = np.where(k.valid, k.smoothed().sum(axis=1), 1.0)[:, None]
        return k.p * mass / np.where(total > 0, total, 1.0) - k.a

    if not k.hard:
        k.grad_logits = grad_logits


@suspect("options", every, variants=(-1, 1))
def labels_off_by_one(k: Kernel, by: int) -> None:
    """Labels are counted from 1: every sample has its neighbour's class.

    Seen in mlverse/torch#681
    """
    if k.hard:
        relabel(k, (k.y + by) % k.C)
    else:
        k.target = np.roll(k.target, by, axis=1)


@suspect("options", is_soft)
def argmax_of_soft_targets(k: Kernel) -> None:
    """Soft targets are turned into the class of their largest entry."""
    if not k.hard:
        relabel(k, k.y)


# == softmax =======================================================================================


@suspect(
    "softmax",
    lambda loss: not is_scaled(loss) or loss.scale > 11.1,
    variants=("float16", "float32", "float64"),
)
def exp_without_maximum(k: Kernel, dtype: str) -> None:
    """The softmax does not subtract the largest logit: exp overflows beyond 11 in float16, 88.7 in float32
    and 709.8 in float64, and the loss is inf or NaN.

    Seen in tenstorrent/tt-metal#10001
    """
    kind = DTYPES[dtype]

    def exp(z: np.ndarray) -> np.ndarray:
        e = np.exp(z)
        return np.where(e > kind.largest, np.inf, np.where(e < kind.smallest_subnormal / 2, 0.0, e))

    k.logsumexp = lambda z: np.log(np.sum(exp(z), axis=1))
    k.softmax = lambda: exp(k.z) / np.sum(exp(k.z), axis=1, keepdims=True)


@suspect("softmax", lambda loss: reach(loss) > 18, variants=("float16", "float32", "float64"))
def log_of_softmax(k: Kernel, dtype: str) -> None:
    """The loss is the logarithm of a probability that has been rounded to 0: inf where the target is far
    below.

    Seen in onnx/onnx:onnx/reference/ops/op_log_softmax.py
    """
    kind = DTYPES[dtype]

    def losses() -> np.ndarray:
        log_p = np.log(np.where(k.p < kind.smallest_subnormal / 2, 0.0, k.p))
        return -np.sum(np.where(k.a != 0, k.a * log_p, 0.0), axis=1)

    k.sample_losses = losses


def clamped(
    k: Kernel, log: Callable[[np.ndarray], np.ndarray], slope: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Another log p; slope is p d log p/dp."""
    k.sample_losses = lambda: -np.sum(np.where(k.a != 0, k.a * log(k.p), 0.0), axis=1)

    def grad_logits() -> np.ndarray:
        b = k.a * slope(k.p)
        return k.p * b.sum(axis=1, keepdims=True) - b

    k.grad_logits = grad_logits


PROBABILITIES = (1e-15, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5)


@suspect("softmax", every, variants=PROBABILITIES)
def probability_clamped(k: Kernel, eps: float) -> None:
    """The loss is −log max(p, ε): capped at −log ε, with no gradient on the samples that need it most.

    Seen in keras-team/keras#17634
    """
    clamped(k, lambda p: np.log(np.maximum(p, eps)), lambda p: (p > eps) * 1.0)


@suspect("softmax", every, variants=PROBABILITIES)
def probability_plus_eps(k: Kernel, eps: float) -> None:
    """The loss is −log(p + ε): too small on hard samples, whose gradient fades, and negative on perfect
    ones.

    Seen in maxvfischer/keras-image-segmentation-loss-functions#1
    """
    clamped(k, lambda p: np.log(p + eps), lambda p: p / (p + eps))


@suspect(
    "softmax", lambda loss: reach(loss) > 72,
    variants=[(cap, way) for way in ("by hand", "autograd") for cap in (87.3365, 69.0776)],
)  # fmt: skip
def loss_capped(k: Kernel, variant: tuple[float, str]) -> None:
    """A sample's loss ends at 87.34 (the smallest float32) or 69.08 (1e-30); the gradient knows nothing of
    it, or is 0 from there on.

    Seen in deepinsight/insightface:recognition/arcface_torch/partial_fc_v2.py
    """
    cap, way = variant

    def gaps() -> np.ndarray:
        return k.lse[:, None] - np.where(k.a != 0, k.z, 0.0)

    k.sample_losses = lambda: np.sum(np.where(k.a != 0, k.a * np.minimum(gaps(), cap), 0.0), axis=1)
    if way == "autograd":
        after(
            k, "grad_logits", lambda g: np.where(np.any((k.a != 0) & (gaps() > cap), axis=1)[:, None], 0.0, g)
        )


@suspect("softmax", every)
def wrong_axis(k: Kernel) -> None:
    """The softmax runs over the last axis of images where classes are on another, or over the samples of a
    batch.

    Seen in PaddlePaddle/Paddle#27311
    """
    if k.bare and k.axis % k.logits_given.ndim != k.logits_given.ndim - 1:
        native, axis = (*k.shape[:-1], k.C), -2  # the classes' axis is last now, and the last one beside it
    else:
        native, axis = (k.N, k.C), 0

    def total(v: np.ndarray) -> np.ndarray:
        """Sums over the wrong axis, (N, C)."""
        v = v.reshape(native)
        return np.broadcast_to(v.sum(axis=axis, keepdims=True), native).reshape(k.N, k.C)

    def log_p() -> np.ndarray:
        z = k.z.reshape(native)
        top = z.max(axis=axis, keepdims=True)
        return (z - top - np.log(np.exp(z - top).sum(axis=axis, keepdims=True))).reshape(k.N, k.C)

    k.softmax = lambda: np.exp(log_p())
    k.sample_losses = lambda: -np.sum(np.where(k.a != 0, k.a * log_p(), 0.0), axis=1)

    share = k.share  # other rows' shares arrive, too

    def grad_logits() -> np.ndarray:
        arriving = share()[:, None] * k.a
        return k.p * total(arriving) - arriving

    k.grad_logits = grad_logits
    k.share = lambda: np.ones(k.N)


@suspect("softmax", every, variants=("differentiated", "by hand", "log₂ p", "log₂ p, loss alone"))
def log2_for_log(k: Kernel, backward: str) -> None:
    """log₂ stands for log in the log-sum-exp (exp2 and log2 without their factor), or in −log p: the loss is too
    large. A backward by hand takes p = exp(z − lse) from it."""
    if backward.startswith("log₂ p"):
        after(k, "sample_losses", lambda losses: losses / np.log(2))
        if backward == "log₂ p":
            after(k, "grad_logits", lambda g: g / np.log(2))
        return

    def logsumexp(z: np.ndarray) -> np.ndarray:
        top = z.max(axis=1)
        return top + np.log2(np.sum(np.exp(z - top[:, None]), axis=1))

    def grad_logits() -> np.ndarray:
        """The largest logit is a constant there but for its own place in the sum."""
        top = k.z == k.z.max(axis=1, keepdims=True)
        p = np.exp(k.z - right(k.z)[:, None]) / np.log(2)
        p = p + top * (1 - p.sum(axis=1, keepdims=True))
        return p * k.a.sum(axis=1, keepdims=True) - k.a

    right, k.logsumexp = k.logsumexp, logsumexp
    if backward == "differentiated":
        k.grad_logits = grad_logits


@suspect("softmax", every)
def logits_twice_softmax(k: Kernel) -> None:
    """Probabilities are given to a cross-entropy that expects logits: the softmax runs twice, and the loss
    never falls below log(1 + (C − 1)/e).

    Seen in Lightning-Universe/lightning-bolts#654
    """
    right = k.logsumexp

    def first() -> np.ndarray:
        return np.exp(k.z - right(k.z)[:, None])

    def grad_logits() -> np.ndarray:
        p = first()
        g = k.p * k.a.sum(axis=1, keepdims=True) - k.a
        return p * (g - np.sum(p * g, axis=1, keepdims=True))

    k.logsumexp = lambda z: right(first())
    k.softmax = lambda: np.exp(first() - k.lse[:, None])
    k.sample_losses = lambda: np.sum(k.a * (k.lse[:, None] - first()), axis=1)
    k.grad_logits = grad_logits


# == precision =====================================================================================

BF16, FP16, FP32 = DTYPES["bfloat16"], DTYPES["float16"], DTYPES["float32"]
TF32 = DType("tf32", 11, -126, (2 - 2.0**-10) * 2.0**127)


def accumulated(left: np.ndarray, right: np.ndarray, dtype: DType, chunk: int) -> np.ndarray:
    """left @ right whose running sum is rounded after every chunk of terms."""
    total = np.zeros((len(left), right.shape[1]))
    for start in range(0, left.shape[1], chunk):
        part = slice(start, start + chunk)
        total = rounded(total + left[:, part] @ right[part], dtype)
    return total


@suspect("precision", has_features, only_precision=True)
def tf32(k: Kernel) -> None:
    """Matrix products read their operands with 11 digits (TF32): cosines are off by up to 1e-3.

    Seen in pytorch/pytorch#53635
    """
    from_cosine(k)
    k.product = lambda left, right: rounded(left, TF32) @ rounded(right, TF32)


@suspect("precision", has_features, variants=(1, 32), only_precision=True)
def bf16_accumulation(k: Kernel, chunk: int) -> None:
    """Dot products are accumulated in bfloat16: errors grow with the number of terms."""
    from_cosine(k)
    k.product = lambda left, right: accumulated(left, right, BF16, chunk)


@suspect("precision", has_features, variants=(1, 32), only_precision=True)
def bf16_gradient_accumulation(k: Kernel, chunk: int) -> None:
    """grad_W is accumulated over blocks of samples in bfloat16: small contributions are lost.

    Seen in linkedin/Liger-Kernel#830
    """
    made = k.grad_W

    def grad_W() -> np.ndarray:
        plain, k.product = k.product, lambda left, right: accumulated(left, right, BF16, chunk)
        grad = made()
        k.product = plain
        return grad

    k.grad_W = grad_W


def round_logits(k: Kernel, dtype: DType) -> None:
    if k.bare:
        k.logits_given = rounded(k.logits_given, dtype)
    else:
        after(k, "logits", lambda z: rounded(z, dtype))


@suspect("precision", every, only_precision=True)
def fp16_logits(k: Kernel) -> None:
    """The logits are stored in float16 before the softmax: probabilities are off by 3 % at a logit of 64.

    Seen in ydwen/opensphere:opensphere/module/head/arcface.py
    """
    round_logits(k, FP16)


@suspect("precision", every, only_precision=True)
def bf16_logits(k: Kernel) -> None:
    """The logits are stored in bfloat16 before the softmax: probabilities are off by up to 28 % at a logit of
    64."""
    round_logits(k, BF16)


@suspect("precision", every, variants=("bfloat16", "float16"), only_precision=True)
def p_rounded(k: Kernel, dtype: str) -> None:
    """The probabilities are rounded before the one-hot is subtracted: the target's gradient has no digit left
    on confident samples.

    Seen in linkedin/Liger-Kernel#1268
    """
    after(k, "softmax", lambda p: rounded(p, DTYPES[dtype]))


@suspect("precision", has_features, only_precision=True)
def cos_in_bf16(k: Kernel) -> None:
    """The cosines are rounded to bfloat16 before margin and scale: logits are off by 0.2 % of the scale."""
    from_cosine(k)
    after(k, "cosines", lambda cos: rounded(cos, BF16))


def round_gradients(k: Kernel, dtype: DType) -> None:
    right = k._backward

    def backward() -> dict[str, np.ndarray]:
        return {name: rounded(grad, dtype) for name, grad in right().items()}

    k._backward = backward


@suspect("precision", every, variants=("results", "grad_logits too"), only_precision=True)
def bf16_gradients(k: Kernel, what: str) -> None:
    """Gradients are stored in bfloat16: the results, or grad_logits before the matrix products too."""
    if not k.bare and what == "grad_logits too":
        right = k.grad_logits
        k.grad_logits = lambda: _rounded_share(k, right())
    round_gradients(k, BF16)


def _rounded_share(k: Kernel, g: np.ndarray) -> np.ndarray:
    """g such that its product with the sample's share is a bfloat16."""
    share = k.share()[:, None]
    return rounded(share * g, BF16) / np.where(share != 0, share, 1.0)


@suspect("precision", every, only_precision=True)
def bf16_loss(k: Kernel) -> None:
    """The losses and their sum are stored in bfloat16: three digits are left.

    Seen in linkedin/Liger-Kernel#1372
    """
    after(k, "sample_losses", lambda losses: rounded(losses, BF16))
    after(k, "reduce", lambda loss: rounded(loss, BF16))


@suspect("precision", every, only_precision=True)
def float32_inside(k: Kernel) -> None:
    """float64 input is computed in float32: seven digits are left."""
    round_logits(k, FP32)
    if not k.bare:
        from_cosine(k)
        k.x, k.W = rounded(k.x, FP32), rounded(k.W, FP32)
        after(k, "cosines", lambda cos: rounded(cos, FP32))
    after(k, "logsumexp", lambda lse: rounded(lse, FP32))
    after(k, "softmax", lambda p: rounded(p, FP32))
    after(k, "sample_losses", lambda losses: rounded(losses, FP32))
    after(k, "reduce", lambda loss: rounded(loss, FP32))
    round_gradients(k, FP32)


# == state =========================================================================================


@suspect("state", through_W_norm, variants=("ŵ of the first call", "‖W‖ of the last call"))
def stale_cache(k: Kernel, what: str) -> None:
    """ŵ or ‖W_j‖ is kept from an earlier call by W's shape, though W has changed since."""
    if k.previous is None:
        return
    from_cosine(k)
    first = k.previous.earliest or k.previous
    unit, norm = first.W_hat, k.previous.W_norm
    if what == "ŵ of the first call":
        k.W_unit = lambda: unit
    else:
        k.W_length = lambda: norm


@suspect("state", every)
def stale_gradient_buffer(k: Kernel) -> None:
    """Gradients are added to those of an earlier call: a buffer is not cleared."""
    if k.previous is not None and k.previous.alike(k):
        before, right = k.previous.stages, k._backward
        added = ("grad_x", "grad_W", "grad_b") if not k.bare else ("grad_logits",)

        def backward() -> dict[str, np.ndarray]:
            return {name: grad + before[name] if name in added else grad for name, grad in right().items()}

        k._backward = backward


@suspect("state", every)
def result_of_earlier_call(k: Kernel) -> None:
    """The arrays returned are those of an earlier call: its memory is used again, or its result kept.

    Seen in flashinfer-ai/flashinfer-bench-starter-kit#21
    """
    if k.previous is not None and k.previous.alike(k):
        stages = {name: np.array(value) for name, value in k.previous.stages.items()}
        k.run = lambda: stages
