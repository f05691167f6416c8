"""Normalisation: ‖x‖ and ‖W_j‖, their ε, and cosines near ±1."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from refloss.losses import L2Softmax
from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, from_cosine
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("norms")
Pullback = Callable[[np.ndarray], np.ndarray]


def pass_by(k: PlainLoss, side: str) -> None:
    """No gradient through the normalisation: of every pair, or of the target's angle where only that needs it."""
    power = k.p_x if side == "x" else k.p_W
    setattr(k, f"passes_{side}", ~k.on if power else False)


@suspect(when.through_x_norm)
def x_projection_missing(k: PlainLoss) -> None:
    """The backward takes ‖x‖ for a constant: grad_x lacks the projection I − x̂x̂ᵀ, and has a part along x."""
    pass_by(k, "x")


@suspect(when.through_W_norm, "wy1iu/sphereface:tools/caffe-sphereface/src/caffe/layers/margin_inner_product_layer.cpp")
def W_projection_missing(k: PlainLoss) -> None:
    """The backward takes ‖W_j‖ for a constant: grad_W lacks the projection I − ŵŵᵀ, and has a part along W_j."""
    pass_by(k, "W")


@suspect(when.through_x_norm & when.through_W_norm)
def both_projections_missing(k: PlainLoss) -> None:
    """Both norms are constants to the backward: features and weights normalised without gradient."""
    pass_by(k, "x")
    pass_by(k, "W")


@suspect(when.normalises_W, "ydwen/opensphere:opensphere/module/head/arcface.py")
def gradient_of_unit_W(k: PlainLoss) -> None:
    """W is normalised in place first, so that grad_W is the gradient in ŵ: no projection, and no 1/‖W_j‖."""
    k.grad_W = lambda: k.product((k.g * k.r * k.rise).T, k.x_hat)


EPSILONS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
Longer = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray | None]]


def always(value: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: value


def lengthen(k: PlainLoss, sides: str, eps: float, longer: Longer) -> None:
    """longer(‖v‖, ε) is the length that stands for ‖v‖, and by how much it grows with ‖v‖ (None: as ‖v‖ does)."""
    from_cosine(k)
    for side, used in (("x", when.through_x_norm), ("W", when.through_W_norm)):
        if side in sides and used(k.loss):
            v = getattr(k, side)
            true = k.length(v)
            length, growth = longer(true, eps)
            setattr(k, f"{side}_length", always(length))
            if growth is not None:
                unit = v / np.where(true > 0, true, 1.0)[:, None]
                setattr(k, f"{side}_growth", always(unit * growth[:, None]))


def inside(length: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    longer = np.hypot(length, np.sqrt(eps))
    return longer, length / longer


@suspect(when.through_x_norm, "happynear/caffe-windows:src/caffe/layers/normalize_layer.cpp", EPSILONS)
def eps_inside_x_norm(k: PlainLoss, eps: float) -> None:
    """‖x‖ is √(Σx² + ε): short features do not reach length 1, and their cosines are too small."""
    lengthen(k, "x", eps, inside)


@suspect(when.through_W_norm, "happynear/caffe-windows:src/caffe/layers/inner_product_layer.cpp", EPSILONS)
def eps_inside_W_norm(k: PlainLoss, eps: float) -> None:
    """‖W_j‖ is √(Σw² + ε): short rows of W do not reach length 1, and their cosines are too small."""
    lengthen(k, "W", eps, inside)


@suspect(when.through_x_norm & when.through_W_norm, "apple/axlearn#21", EPSILONS)
def eps_inside_norms(k: PlainLoss, eps: float) -> None:
    """Both norms are √(Σv² + ε): cosines of short rows are too small."""
    lengthen(k, "xW", eps, inside)


@suspect(when.through_a_norm, "pppoe/tensorflow-sphereface-asoftmax:Loss_ASoftmax.py", EPSILONS)
def eps_added_to_norms(k: PlainLoss, eps: float) -> None:
    """The norms are ‖v‖ + ε: cosines of short rows are too small, and no cosine reaches 1."""
    lengthen(k, "xW", eps, lambda length, eps: (length + eps, np.ones(len(length))))


@suspect(when.through_a_norm, "chainer/chainer#4190", EPSILONS)
def eps_missing_in_backward(k: PlainLoss, eps: float) -> None:
    """The norms are ‖v‖ + ε in the forward, and the backward is that of v/‖v‖ with them: wrong for short rows."""
    lengthen(k, "xW", eps, lambda length, eps: (length + eps, None))


@suspect(when.through_a_norm, "CVI-SZU/UniFace:head.py", EPSILONS)
def norms_clamped(k: PlainLoss, eps: float) -> None:
    """The norms are max(‖v‖, ε), as F.normalize has it: rows shorter than ε are not normalised."""
    lengthen(k, "xW", eps, lambda length, eps: (np.maximum(length, eps), (length > eps) * 1.0))


def clamp(k: PlainLoss, eps: float) -> Callable[[], np.ndarray]:
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


@suspect(when.has_margin, "mk-minchul/AdaFace:head.py", CLAMPS)
def clamp_kills_gradient(k: PlainLoss, eps: float) -> None:
    """cos θ is clamped to ±(1 − ε): near the poles the value is off by up to ε times the scale, and the
    gradient 0."""
    hit = clamp(k, eps)
    after(k, "slope", lambda rise: np.where(hit(), 0.0, rise))


@suspect(when.has_margin, "happynear/caffe-windows:src/caffe/layers/label_specific_margin.cu", CLAMPS)
def clamp_value_only(k: PlainLoss, eps: float) -> None:
    """cos θ is clamped to ±(1 − ε), and a hand-written backward goes on as if it were not."""
    clamp(k, eps)


@suspect(when.is_arc & when.through_margin, "happynear/caffe-windows:src/caffe/layers/label_specific_margin.cu")
def slope_clamped(k: PlainLoss) -> None:
    """The target's slope sin(θ + m)/sin θ is clamped to [0, 2]: the gradient is wrong at small θ and beyond π − m."""
    after(k, "slope", lambda rise: np.where(k.on, np.clip(rise, 0.0, 2.0), rise))


@suspect(when.is_arc & when.through_margin & when.option(past_pi="cos"), variants=(1e-12, 1e-9, 1e-7, 1e-6, 1e-4))
def eps_inside_sine(k: PlainLoss, eps: float) -> None:
    """sin θ is √(1 − cos² θ + ε) in cos θ cos m − sin θ sin m: the target is off near the poles."""
    easy = k.q.easy_margin

    def psi(theta: np.ndarray) -> np.ndarray:
        value = np.cos(theta) * np.cos(k.q.margin) - np.sqrt(np.sin(theta) ** 2 + eps) * np.sin(k.q.margin)
        return np.where(np.real(theta) < np.pi / 2, value, np.cos(theta)) if easy else value

    k.psi = psi


@suspect(when.has_slope, "ronghuaiyang/arcface-pytorch#91", (2e-8, 4e-4))
def pole_gives_nan(k: PlainLoss, near: float) -> None:
    """The slope of arccos or √(1 − cos²) is infinite where cos θ_y rounds to ±1: the loss is right, its
    gradient NaN."""
    after(k, "slope", lambda rise: np.where(k.on & (np.sin(k.theta) < near), np.nan, rise))


@suspect(when.has_slope, "ronghuaiyang/arcface-pytorch#68", (2e-8, 4e-4))
def other_pole_gives_nan(k: PlainLoss, near: float) -> None:
    """The margin is computed for every class and masked by a product with the one-hot: 0 · ∞ makes the
    gradient NaN where x is parallel to another class's row."""
    after(k, "slope", lambda rise: np.where(np.sin(k.theta) < near, np.nan, rise))


@suspect(
    when.through_a_norm & when.option(zero_norm="zero"),
    "wy1iu/LargeMargin_Softmax_Loss:src/caffe/layers/largemargin_inner_product_layer.cu",
)
def zero_row_gives_nan(k: PlainLoss) -> None:
    """A zero row is divided by its length: 0/0 spreads NaN over its cosines."""
    if when.through_x_norm(k.loss):
        after(k, "x_unit", lambda unit: np.where(k.x_norm[:, None] > 0, unit, np.nan))
    if when.through_W_norm(k.loss):
        after(k, "W_unit", lambda unit: np.where(k.W_norm[:, None] > 0, unit, np.nan))


def over_axis(v: np.ndarray, axis: int | None) -> tuple[np.ndarray, Pullback]:
    """v over its lengths along an axis (None: of the whole matrix), and the gradient back through that."""
    length = np.sqrt(np.sum(v * v, axis=axis, keepdims=True))
    unit = v / length
    return unit, lambda g: (g - unit * np.sum(g * unit, axis=axis, keepdims=True)) / length


def replace_unit(k: PlainLoss, side: str, unit: np.ndarray, pullback: Pullback) -> None:
    """x̂ or ŵ made in another way, where the loss normalises."""
    from_cosine(k)
    if side == "x":
        k.x_unit = lambda: unit
        k.grad_x = lambda: pullback(k.product(k.g * k.r * k.rise, k.W_hat))
    else:
        k.W_unit = lambda: unit
        k.grad_W = lambda: pullback(k.product((k.g * k.r * k.rise).T, k.x_hat))


def side_of(k: PlainLoss, first: str) -> str:
    """The normalised side: `first` if both are."""
    sides = [name for name, power in (("x", k.p_x), ("W", k.p_W)) if not power]
    return first if first in sides else sides[0]


@suspect(when.normalises, "ronghuaiyang/arcface-pytorch#1", ("one", "both"))
def norm_over_wrong_axis(k: PlainLoss, sides: str) -> None:
    """W (where the loss normalises only x: x) is normalised along the wrong axis, every feature over the classes."""
    for side in (side_of(k, "W"), side_of(k, "x"))[: 1 if sides == "one" else 2]:
        replace_unit(k, side, *over_axis(getattr(k, side), 0))


@suspect(when.normalises)
def norm_over_batch(k: PlainLoss) -> None:
    """x (or W) is divided by the norm of the whole matrix: the axis of the norm is missing."""
    side = side_of(k, "x")
    replace_unit(k, side, *over_axis(getattr(k, side), None))
    setattr(k, f"{side}_length", lambda: np.full(len(getattr(k, side)), np.sqrt(np.sum(getattr(k, side) ** 2))))


@suspect(when.normalises_x, "TreB1eN/InsightFace_Pytorch#70")
def x_not_normalised(k: PlainLoss) -> None:
    """x is taken to have length 1 already: the logits grow with ‖x‖."""
    replace_unit(k, "x", k.x, lambda g: g)


@suspect(when.normalises_W, "cvqluu/Angular-Penalty-Softmax-Losses-Pytorch:loss_functions.py")
def W_not_normalised(k: PlainLoss) -> None:
    """W is not normalised (or only in name): the logits grow with ‖W_j‖."""
    replace_unit(k, "W", k.W, lambda g: g)


@suspect(when.has_features & ~when.normalises_x)
def x_normalised(k: PlainLoss) -> None:
    """x is normalised where the loss keeps its length: the logits lack the factor ‖x‖."""
    k.p_x = 0


@suspect(when.has_features & ~when.normalises_W, "PistonY/torch-toolbox:torchtoolbox/nn/metric_loss.py")
def W_normalised(k: PlainLoss) -> None:
    """W is normalised where the loss keeps its length: the logits lack the factor ‖W_j‖."""
    k.p_W = 0


@suspect(when.of_class(L2Softmax), "THUFutureLab/gluon-face:gluonfr/loss.py")
def logits_normalised(k: PlainLoss) -> None:
    """The logits are normalised and scaled by α in place of the features."""
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


@suspect(when.normalises)
def norm_squared(k: PlainLoss) -> None:
    """x (or W) is divided by ‖v‖² (the root is missing): cosines are off by the factor 1/‖v‖."""
    side = side_of(k, "x")
    v = getattr(k, side)
    square = np.sum(v * v, axis=1, keepdims=True)
    unit = v / square
    replace_unit(k, side, unit, lambda g: g / square - 2 * unit * np.sum(g * unit, axis=1, keepdims=True))
    setattr(k, f"{side}_length", lambda: square[:, 0])


@suspect(when.normalises)
def norm_factor_missing(k: PlainLoss) -> None:
    """The backward of v/‖v‖ leaves out 1/‖v‖: grad_x (or grad_W) is off by the factor ‖v‖."""
    side = side_of(k, "x")
    after(k, f"grad_{side}", lambda grad: grad * k.length(getattr(k, side))[:, None])


@suspect(when.normalises_x & when.normalises_W)
def W_norm_factor_missing(k: PlainLoss) -> None:
    """The backward of W_j/‖W_j‖ leaves out 1/‖W_j‖: grad_W is off by the factor ‖W_j‖."""
    after(k, "grad_W", lambda grad: grad * k.length(k.W)[:, None])


@suspect(when.has_margin & ~when.normalises_x, variants=("every", "target"))
def radial_gradient_missing(k: PlainLoss, classes: str) -> None:
    """The norm is detached where it is a factor of the logit (r ψ with r a constant): gradients lack their
    radial part."""
    k.radial_x = ~k.on if k.p_W or classes == "target" else False
    k.radial_W = ~k.on
