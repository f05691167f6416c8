"""The family as data: what the papers say of each loss, for everything that checks the passes.

A logit of the family is r cos θ_j, and r ψ(θ_y) for the target of a margin loss, with r = a ‖x‖^p ‖W_j‖^q, plus a bias.
`FAMILY` holds one `Member` per loss: its formula, its radius, where its parameters may lie, which zero rows have no
direction, the branches of its target logit, and the numbered steps of its derivation. The passes in `refloss.losses`
make their own statement of these things and share nothing with this one; the tests hold the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from refloss.textbook import formulas

POWERS = {"both_norms": (1, 1), "x_norm": (1, 0), "W_norm": (0, 1), "scale": (0, 0)}  # p, q by kind of radius


class Radius(NamedTuple):
    """r = factor · ‖x‖^p · ‖W_j‖^q, the size of a logit without its margin and bias."""

    factor: float
    p: int
    q: int

    def of(self, x_norm: np.ndarray, W_norm: np.ndarray) -> np.ndarray:
        """(N, C). x_norm: (N,), W_norm: (C,)."""
        x = x_norm if self.p else np.ones(len(x_norm))
        W = W_norm if self.q else np.ones(len(W_norm))
        return self.factor * (x[:, None] * W)


class Domain(NamedTuple):
    """Where a parameter may lie: an interval, without its ends where they are open.

    whole  whole numbers only
    owed   whether the backward gives a gradient in it
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    owed: bool = True


class Branches(NamedTuple):
    """The branches of a target logit in the order of θ, and which of them each angle (R,) lies on, (R,) integers."""

    names: tuple[str, ...] = ()
    which: Callable[[np.ndarray], np.ndarray] = lambda theta: np.zeros(len(theta), dtype=int)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One loss of the family, as the papers write it.

    logits      formulas.…(xp, q, x, W, b, y) → (N, C)
    radius      a key of `POWERS`; None: the loss's own attribute `radius`
    factor      the parameter that is the factor of its radius; "" for 1
    target      what becomes of the target's angle, formulas.…(xp, q, θ) → ψ(θ); None without a margin
    parameters  name → domain, of those that its formula has
    zero_rows   "x", "W" → whose rows of length zero have no direction: "every", or "target" (x_i and W_y alone)
    branches    loss → `Branches`
    steps       stage → the steps of the loss's own derivation that give it
    """

    logits: Callable[..., Any]
    radius: str | None
    factor: str = ""
    target: Callable[..., Any] | None = None
    parameters: Mapping[str, Domain] = field(default_factory=dict)
    zero_rows: Mapping[str, str] = field(default_factory=dict)
    branches: Callable[[Any], Branches] = lambda loss: Branches()
    steps: Mapping[str, str] = field(default_factory=dict)

    @property
    def multiplies_angle(self) -> bool:
        """Whether its margin m multiplies the angle (ψ has m branches)."""
        return self.target is formulas.annealed_psi

    @property
    def adds_to_angle(self) -> bool:
        """Whether its margin m is added to the angle (ψ changes at θ = π − m)."""
        return self.target is formulas.arc_margin


# -- branches --------------------------------------------------------------------------------------


def _branches_of_psi(loss: Any) -> Branches:
    m = loss.margin
    if loss.continuation is not None:
        return Branches(("θ < π/m", "D(θ)"), lambda theta: (theta >= np.pi / m).astype(int))
    names = tuple(f"k={k}" for k in range(m))
    return Branches(names, lambda theta: np.clip(np.floor(m * theta / np.pi), 0, m - 1).astype(int))


def _branches_of_arc(loss: Any) -> Branches:
    def which(theta: np.ndarray) -> np.ndarray:
        past = (theta + loss.margin >= np.pi).astype(int)
        return np.where(theta >= np.pi / 2, 2, past) if loss.easy_margin else past

    return Branches(("θ+m < π", "θ+m ≥ π", *(["cos θ ≤ 0"] if loss.easy_margin else [])), which)


# -- the losses ------------------------------------------------------------------------------------

POSITIVE = Domain(0.0, open_low=True)
MULTIPLIED = {"margin": Domain(1, whole=True, owed=False), "annealing": Domain(0.0, owed=False)}
EVERY = {"x": "every", "W": "every"}

_LINEAR = {"logits": "(1)", "grad_x": "(3)", "grad_W": "(4)", "grad_b": "(5)"}
_ANGLES = {"x_norm": "(1)", "W_norm": "(1)", "cos_theta": "(2)", "theta": "(3)", "logits": "(4), (5)"}
_SCALED = _ANGLES | {"grad_x": "(7) to (9)", "grad_W": "(7) to (9)", "grad_scale": "(10)"}
_SHARED = {  # the steps that all losses share: page and number
    "x_norm": "normalisation.md (N2)",
    "W_norm": "normalisation.md (N2)",
    "cos_theta": "angle.md (A1)",
    "probabilities": "cross_entropy.md (C2) to (C4)",
    "losses": "cross_entropy.md (C5)",
    "loss": "cross_entropy.md (C6), (C7)",
    "grad_logits": "cross_entropy.md (C8), (C9)",
}

FAMILY: dict[str, Member] = {
    "softmax": Member(logits=formulas.softmax, radius="both_norms", steps=_LINEAR),
    "weighted_softmax": Member(logits=formulas.softmax, radius="both_norms", steps=_LINEAR),
    "w_norm_softmax": Member(
        logits=formulas.w_norm_softmax,
        radius="x_norm",
        zero_rows={"W": "every"},
        steps={"W_norm": "(1)", "logits": "(2)", "grad_x": "(4)", "grad_W": "(5), (6)"},
    ),
    "l_softmax": Member(
        logits=formulas.margin_logits,
        radius="both_norms",
        target=formulas.annealed_psi,
        parameters=MULTIPLIED,
        zero_rows={"x": "target", "W": "target"},
        steps=_ANGLES | {"grad_x": "(7) to (10)", "grad_W": "(7) to (10)"},
        branches=_branches_of_psi,
    ),
    "a_softmax": Member(
        logits=formulas.margin_logits,
        radius="x_norm",
        target=formulas.annealed_psi,
        parameters=MULTIPLIED,
        zero_rows=EVERY,
        steps=_ANGLES | {"grad_x": "(7), (9) to (11)", "grad_W": "(7) to (9), (11)"},
        branches=_branches_of_psi,
    ),
    "f_norm_sphereface": Member(
        logits=formulas.margin_logits,
        radius="scale",
        factor="scale",
        target=formulas.annealed_psi,
        parameters={"scale": POSITIVE} | MULTIPLIED,
        zero_rows=EVERY,
        steps=_SCALED,
        branches=_branches_of_psi,
    ),
    "l2_softmax": Member(
        logits=formulas.l2_softmax,
        radius="W_norm",
        factor="alpha",
        parameters={"alpha": POSITIVE},
        zero_rows={"x": "every"},
        steps={
            "x_norm": "(1)",
            "logits": "(2)",
            "grad_x": "(4), (7)",
            "grad_W": "(5)",
            "grad_b": "(6)",
            "grad_alpha": "(8)",
        },
    ),
    "am_softmax": Member(
        logits=formulas.margin_logits,
        radius="scale",
        factor="scale",
        target=formulas.cosine_margin,
        parameters={"scale": POSITIVE, "margin": Domain(0.0, 2.0)},
        zero_rows=EVERY,
        steps=_SCALED | {"grad_margin": "(11)"},
    ),
    "arcface": Member(
        logits=formulas.margin_logits,
        radius="scale",
        factor="scale",
        target=formulas.arc_margin,
        parameters={"scale": POSITIVE, "margin": Domain(0.0, math.pi, open_high=True)},
        zero_rows=EVERY,
        branches=_branches_of_arc,
        steps=_SCALED | {"grad_margin": "(11)"},
    ),
    "margin_softmax": Member(
        logits=formulas.margin_logits,
        radius=None,
        factor="scale",
        target=formulas.own_margin,
        parameters={"scale": POSITIVE},
        zero_rows=EVERY,
        steps={
            "x_norm": "(G1)",
            "W_norm": "(G1)",
            "cos_theta": "(G2)",
            "theta": "(G3)",
            "logits": "(G4), (G5)",
            "grad_x": "(G7) to (G10)",
            "grad_W": "(G7) to (G10)",
            "grad_scale": "(G10)",
        },
    ),
}


# -- a loss object's place in it -------------------------------------------------------------------


def formula_of(loss: Any) -> str:
    """The name in `FAMILY` of this loss's formula: that of the class its `forward_logits` stands in; "" for none."""
    for cls in type(loss).__mro__:
        if "forward_logits" in vars(cls):
            name = vars(cls).get("name", "")
            return name if name in FAMILY else ""
    return ""


def member_of(loss: Any) -> Member:
    """The loss's entry.

    Raises TypeError, which names the file, for a loss that has none.
    """
    name = formula_of(loss)
    if not name:
        raise TypeError(
            f"{type(loss).__name__} has no entry in FAMILY of refloss/textbook/family.py: enter its formula, radius "
            "and steps there under the `name` of the class that defines forward_logits"
        )
    return FAMILY[name]


def radius_kind(loss: Any) -> str:
    """A key of `POWERS`."""
    return member_of(loss).radius or loss.radius


def factor_name(loss: Any) -> str:
    """The parameter that is the factor of its radius: "scale", "alpha", or "" where it is 1."""
    member = member_of(loss)
    return member.factor if member.radius or loss.radius == "scale" else ""


def radius_of(loss: Any) -> Radius:
    """What multiplies the cosines of this loss."""
    name = factor_name(loss)
    return Radius(float(getattr(loss, name)) if name else 1.0, *POWERS[radius_kind(loss)])


def differentiable(loss: Any) -> list[str]:
    """The parameters whose gradient a loss owes: scale, margin and alpha where they are real numbers that it uses."""
    unused = "scale" if radius_kind(loss) != "scale" else ""
    return [name for name, at in member_of(loss).parameters.items() if at.owed and name != unused]


def parameters(loss: Any, **replaced: Any) -> SimpleNamespace:
    """The loss's parameters as its formula reads them; and what it is made of, `logits`, `target` and `radius`."""
    member = member_of(loss)
    values = {
        "logits": member.logits,
        "target": member.target,
        "radius": radius_kind(loss),
        "zero_x": None,
        "zero_W": None,
        "continuation": None,
        "annealing": 0.0,
        "detach_margin": False,
        "frozen": None,
    }
    values |= {name: getattr(loss, name) for name in loss.__dataclass_fields__}
    return SimpleNamespace(**(values | replaced))


def branches_of(loss: Any) -> Branches:
    """The branches of the loss's target logit; none without a margin."""
    return member_of(loss).branches(loss) if formula_of(loss) else Branches()


def derived_at(loss: Any, stage: str) -> str:
    """'arcface.md (4), (5)': the page of derivations/ and the steps that give this stage; '' where none is its own."""
    own = FAMILY[loss.name].steps if loss.name in FAMILY else {}
    return f"{loss.name}.md {own[stage]}" if stage in own else _SHARED.get(stage, "")
