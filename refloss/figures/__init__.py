"""The survey's figures and a few of its own, drawn by the library itself: `refloss figures --out DIR`.

    figure = refloss.figures.draw("psi")          # a matplotlib Figure
    svg = refloss.figures.render(figure, "svg")   # bytes, the same on every run

One file per figure; the docstring of its `draw` says which figure of a paper it redraws and what differs. `training` is
the network that the first three share.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from refloss.figures import (
    a_softmax_two_classes,
    am_softmax_margin,
    decision_regions,
    error_against_angle,
    gradient_against_angle,
    gradient_on_the_circle,
    gradient_size,
    l_softmax_digits,
    psi,
    target_logits,
)
from refloss.figures.style import METADATA, paper, render
from refloss.figures.training import Track, untracked
from refloss.writing import docstring

__all__ = ["COMPUTED", "FIGURES", "FORMATS", "TRAINED", "about", "draw", "render"]

FORMATS = tuple(METADATA)
TRAINED: dict[str, Callable[[Track], Figure]] = {  # by a network on scikit-learn's digits
    "l_softmax_digits": l_softmax_digits.draw,
    "a_softmax_two_classes": a_softmax_two_classes.draw,
    "am_softmax_margin": am_softmax_margin.draw,
}
COMPUTED: dict[str, Callable[[], Figure]] = {
    "decision_regions": decision_regions.draw,
    "psi": psi.draw,
    "target_logits": target_logits.draw,
    "gradient_on_the_circle": gradient_on_the_circle.draw,
    "gradient_against_angle": gradient_against_angle.draw,
    "gradient_size": gradient_size.draw,
    "error_against_angle": error_against_angle.draw,
}
FIGURES = (*TRAINED, *COMPUTED)


def about(name: str) -> str:
    """What this figure shows, in a line."""
    return docstring(TRAINED.get(name) or COMPUTED[name]).partition("\n")[0]


def draw(name: str, track: Track = untracked) -> Figure:
    """The figure of this name, one of FIGURES.

    track(things, total, what) gives the same things and may show how far it is: steps of training come through it.

    Raises:
        KeyError: no figure has this name.
        ModuleNotFoundError: the figure needs scikit-learn's digits, and it is not installed.
    """
    with paper():
        if name in TRAINED:
            return TRAINED[name](track)
        return COMPUTED[name]()
