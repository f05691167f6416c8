"""Every loss with every option that changes its logits, by readable name, and the gradients that arrive at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy, MarginSoftmax, get, losses
from refloss.textbook import formulas
from refloss.textbook.family import factor_name, member_of

WEIGHTS = (0.5, 2.0, 1.0, 0.25, 3.0)
UPSTREAM = -1.375  # not 1: a backward that ignores what arrives must fail


def default_upstream(reduction: str, samples: int) -> Any:
    """Not 1; of mixed signs and sizes, one of them 0, where there is one per sample."""
    if reduction != "none":
        return UPSTREAM
    pattern = np.array([0.75, -1.5, 2.25, 0.0, -0.125, 1.0])
    return np.resize(pattern, samples)


# -- functions of one's own ------------------------------------------------------------------------


def parabola(theta: Any, xp: Any) -> Any:
    """A continuation for m = 4: D(θ) = −1 − (θ − π/4)²."""
    return -1 - (theta - xp.pi / 4) ** 2


def parabola_slope(theta: Any, xp: Any) -> Any:
    """Its derivative."""
    return -2 * (theta - xp.pi / 4)


def linear_psi(theta: Any, xp: Any) -> Any:
    """ψ(θ) = 1 − 2θ/π: a margin of one's own, with a cone at both poles."""
    return 1 - 2 * theta / xp.pi


def linear_psi_slope(theta: Any, xp: Any) -> Any:
    """Its derivative."""
    return -2 / xp.pi + 0 * theta


def squared_psi(theta: Any, xp: Any) -> Any:
    """ψ(θ) = cos θ − (1 − cos θ)²/4: a margin of one's own that is smooth at both poles."""
    return xp.cos(theta) - (1 - xp.cos(theta)) ** 2 / 4


def squared_psi_slope(theta: Any, xp: Any) -> Any:
    """Its derivative."""
    return -xp.sin(theta) * (3 - xp.cos(theta)) / 2


# -- the losses ------------------------------------------------------------------------------------

GROUPS = (*losses(), "margin_softmax")  # the survey's losses, and a margin of one's own


def make(name: str, classes: int = len(WEIGHTS), **options: Any) -> Any:
    """The loss of that name; with as many class weights as classes where it must have some."""
    if name == "weighted_softmax":
        options = {"class_weights": np.resize(WEIGHTS, classes)} | options
    if name == "margin_softmax":
        return MarginSoftmax(**({"psi": squared_psi, "dpsi": squared_psi_slope} | options))
    return get(name, **options)


def sized(loss: Any, x: np.ndarray, factor: float) -> tuple[Any, np.ndarray]:
    """The loss and features whose logits have this size: scale, alpha, or the length of x, is `factor`."""
    if name := factor_name(loss):
        return replace(loss, **{name: float(factor)}), x
    return loss, x * float(factor)


# target formula → name → the options that change the target's logit
VARIANTS: dict[Callable | None, dict[str, dict[str, Any]]] = {
    formulas.annealed_psi: {
        **{f"m{m}": {"margin": m} for m in (1, 2, 3, 5, 6, 7)},
        "annealed": {"annealing": 5.0},
        "m3_annealed_detached": {"margin": 3, "annealing": 2.0, "detach_margin": True},
        "detached": {"detach_margin": True},
        "continued": {"margin": 4, "continuation": (parabola, parabola_slope)},
        "continued_annealed": {"margin": 4, "continuation": (parabola, parabola_slope), "annealing": 1.0},
    },
    formulas.cosine_margin: {"m0": {"margin": 0.0}, "m2": {"margin": 2.0}, "detached": {"detach_margin": True}},
    formulas.arc_margin: {
        "m0": {"margin": 0.0},
        "m1": {"margin": 1.0},
        "m2": {"margin": 2.0},
        "m3": {"margin": 3.1},
        "half_pi": {"margin": float(np.pi / 2), "past_pi": "linear"},
        "easy": {"easy_margin": True},
        "linear": {"past_pi": "linear"},
        "linear_m2": {"past_pi": "linear", "margin": 2.0},
        "easy_linear": {"past_pi": "linear", "easy_margin": True},
        "detached": {"detach_margin": True},
        "linear_detached": {"past_pi": "linear", "detach_margin": True},
        "easy_detached": {"easy_margin": True, "detach_margin": True},
    },
    formulas.own_margin: {
        "linear": {"psi": linear_psi, "dpsi": linear_psi_slope},
        "x_norm": {"radius": "x_norm"},
        "both_norms": {"radius": "both_norms"},
        "detached": {"detach_margin": True},
    },
}


def variants(loss: Any) -> Mapping[str, dict[str, Any]]:
    """Variant → options of this loss; none without a margin."""
    return VARIANTS.get(member_of(loss).target, {})


# name → loss and options: with those above, every option somewhere
_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax, sum": ("softmax", {"reduction": "sum"}),
    "softmax, none": ("softmax", {"reduction": "none"}),
    "softmax, ignored, smoothed": ("softmax", {"ignore_index": -100, "label_smoothing": 0.1}),
    "weighted_softmax, smoothed": ("weighted_softmax", {"label_smoothing": 0.2}),
    "weighted_softmax, weighted mean": ("weighted_softmax", {"reduction": "weighted_mean"}),
    "a_softmax, annealed": ("a_softmax", {"annealing": 5.0}),
    "f_norm_sphereface, s = 8": ("f_norm_sphereface", {"scale": 8.0}),
    "am_softmax, none, ignored": ("am_softmax", {"reduction": "none", "ignore_index": -100}),
    "arcface, linear past π": ("arcface", {"past_pi": "linear"}),
    "arcface, easy margin, s = 16": ("arcface", {"easy_margin": True, "scale": 16.0}),
    "l_softmax, m = 2, detached": ("l_softmax", {"margin": 2, "detach_margin": True}),
}


def objects() -> dict[str, Any]:
    """The survey's losses with their defaults by name, and every option somewhere."""
    found = {name: make(name) for name in losses()}
    found |= {name: make(kind, **options) for name, (kind, options) in _OTHERS.items()}
    found["cross_entropy, axis 1"] = CrossEntropy(axis=1)
    return found
