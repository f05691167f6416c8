"""One file per loss: its docstring gives formula, source and shapes; then come the forward and the backward."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from refloss.losses.a_softmax import ASoftmax
from refloss.losses.am_softmax import AMSoftmax
from refloss.losses.arcface import ArcFace
from refloss.losses.cross_entropy import CrossEntropy
from refloss.losses.f_norm_sphereface import FNormSphereFace
from refloss.losses.l2_softmax import L2Softmax
from refloss.losses.l_softmax import LSoftmax
from refloss.losses.loss import Loss
from refloss.losses.margin_softmax import MarginSoftmax
from refloss.losses.softmax import Softmax
from refloss.losses.w_norm_softmax import WNormSoftmax
from refloss.losses.weighted_softmax import WeightedSoftmax, hed_class_weights

ModifiedSoftmax = WNormSoftmax
SphereFace = ASoftmax
CosFace = AMSoftmax

# in the survey's order
LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (
        Softmax,
        WeightedSoftmax,
        WNormSoftmax,
        LSoftmax,
        ASoftmax,
        FNormSphereFace,
        L2Softmax,
        AMSoftmax,
        ArcFace,
    )
}

# the names that the papers' own code has for some of them
ALIASES: dict[str, type[Loss]] = {"modified_softmax": WNormSoftmax, "sphereface": ASoftmax, "cosface": AMSoftmax}


def losses() -> list[str]:
    """The names of the survey's losses, in its order.

    Returns:
        list of str: each a name for `refloss.get`.

    Example:
        >>> losses()[:3]
        ['softmax', 'weighted_softmax', 'w_norm_softmax']
    """
    return list(LOSSES)


def get(name: str, **parameters: Any) -> Loss:
    """The loss of a name, made with these parameters.

    Args:
        name (str): one of `refloss.losses()`; or "modified_softmax", "sphereface", "cosface".
        **parameters: of the loss, as its class takes them.

    Returns:
        Loss: the frozen loss object.

    Raises:
        ValueError: an unknown name, or what the loss raises for its parameters.
        TypeError: a parameter that the loss does not have, or of another kind.

    Example:
        >>> get("arcface", margin=0.3)
        ArcFace(scale=64.0, margin=0.3, easy_margin=False, past_pi='cos')
    """
    known = LOSSES | ALIASES
    if not isinstance(name, str) or name not in known:
        names = f"{', '.join(LOSSES)} (or {', '.join(ALIASES)})"
        raise ValueError(f"name must be one of {names}, got {name!r}{_meant(str(name))}")
    return construct(known[name], name, parameters)


def construct(kind: Any, name: str, parameters: dict[str, Any]) -> Any:
    """A loss of this class, called `name` in what is said of parameters that it does not have."""
    fields = [field.name for field in dataclasses.fields(kind)]
    if unknown := [parameter for parameter in parameters if parameter not in fields]:
        raise TypeError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(fields)}")
    return kind(**parameters)


def _meant(name: str) -> str:
    """'; did you mean …?' for a class name, or a name that is similar."""
    known = {cls.__name__.lower(): cls.name for cls in LOSSES.values()} | {
        called: called for called in LOSSES | ALIASES
    }
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {known[close[0]]!r}?" if close else ""


__all__ = [
    "AMSoftmax",
    "ASoftmax",
    "ArcFace",
    "CosFace",
    "CrossEntropy",
    "FNormSphereFace",
    "L2Softmax",
    "LSoftmax",
    "MarginSoftmax",
    "ModifiedSoftmax",
    "Softmax",
    "SphereFace",
    "WNormSoftmax",
    "WeightedSoftmax",
    "get",
    "hed_class_weights",
    "losses",
]
