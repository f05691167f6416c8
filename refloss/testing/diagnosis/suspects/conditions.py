"""In which losses a mistake can be made; conditions are joined by &, | and ~."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refloss.losses import AMSoftmax, ArcFace, CrossEntropy, L2Softmax
from refloss.textbook import formulas
from refloss.textbook.family import differentiable, member_of, radius_kind, radius_of


class Condition:
    """Whether something holds of a loss with its parameters."""

    def __init__(self, holds: Callable[[Any], bool]) -> None:
        self.holds = holds

    def __call__(self, loss: Any) -> bool:
        return self.holds(loss)

    def __and__(self, other: Condition) -> Condition:
        return Condition(lambda loss: self(loss) and other(loss))

    def __or__(self, other: Condition) -> Condition:
        return Condition(lambda loss: self(loss) or other(loss))

    def __invert__(self) -> Condition:
        return Condition(lambda loss: not self(loss))


def of_class(*classes: type) -> Condition:
    return Condition(lambda loss: isinstance(loss, classes))


def option(**values: Any) -> Condition:
    """Parameters of the loss have these values."""
    return Condition(lambda loss: all(getattr(loss, name, None) == value for name, value in values.items()))


every = Condition(lambda loss: True)
has_features = ~of_class(CrossEntropy)

# the margin
multiplies_angle = has_features & Condition(lambda loss: member_of(loss).multiplies_angle)
# it changes something
has_margin = option(has_margin=True) & ~((multiplies_angle & option(margin=1)) | (~multiplies_angle & option(margin=0)))
through_margin = has_margin & ~option(detach_margin=True)
is_arc = of_class(ArcFace) & has_margin
is_cosine = of_class(AMSoftmax) & has_margin
# the papers' ψ, with branches
is_psi = multiplies_angle & has_margin & option(continuation=None)
is_annealed = multiplies_angle & has_margin & Condition(lambda loss: loss.annealing > 0)
# it changes the tangential slope
has_slope = through_margin & ~is_cosine
# θ beyond π − m is reached, and bears a margin
has_tail = is_arc & ~(option(easy_margin=True) & Condition(lambda loss: loss.margin <= np.pi / 2))

# scale and lengths
is_scaled = has_features & Condition(lambda loss: radius_kind(loss) == "scale")  # r = s: no length counts
has_scale = is_scaled & ~option(scale=1)
has_alpha = of_class(L2Softmax) & ~option(alpha=1)
normalises_x = has_features & Condition(lambda loss: not radius_of(loss).p)
normalises_W = has_features & Condition(lambda loss: not radius_of(loss).q)
# x̂ is formed, if only for the target's angle
through_x_norm = normalises_x | has_margin
through_W_norm = normalises_W | has_margin
normalises = normalises_x | normalises_W
through_a_norm = through_x_norm | through_W_norm


def learns(*names: str) -> Condition:
    """One of these parameters has a gradient."""
    return has_features & Condition(lambda loss: not set(names).isdisjoint(differentiable(loss)))


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


def target_below(gap: float) -> Condition:
    """A target logit can be farther than this below the others."""
    return Condition(lambda loss: reach(loss) > gap)


def logits_beyond(size: float) -> Condition:
    """Logits can be larger than this."""
    return ~is_scaled | Condition(lambda loss: loss.scale > size)


# the cross-entropy's options
has_bias = has_features & Condition(lambda loss: loss.has_bias)
# soft targets are possible
is_soft = ~option(has_margin=True) & option(ignore_index=None)
has_weights = Condition(lambda loss: loss.class_weights is not None and any(w != 1 for w in loss.class_weights))
has_smoothing = Condition(lambda loss: loss.label_smoothing > 0)
ignores = ~option(ignore_index=None)
is_mean = option(reduction="mean") | option(reduction="weighted_mean")
