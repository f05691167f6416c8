"""How every figure looks: a paper's width, DejaVu, colours that the colour-blind tell apart, fixed bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from string import ascii_lowercase
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 7.0  # inches: two columns of a paper
DPI = {"png": 200, "svg": 160}  # the latter of dense scatters only, which an SVG holds as pictures

# Okabe and Ito, "Color Universal Design", 2008
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#666666"
CLASS_1, CLASS_2 = BLUE, VERMILION
TINT_1, TINT_2, NEITHER, BOTH = "#C3DDEE", "#F6D6BF", "#EFEFEF", "#E3B7CE"
# ten classes: Paul Tol's "muted" scheme and a grey
TEN = ("#CC6677", "#332288", "#999933", "#117733", "#88CCEE", "#882255", "#44AA99", "#DDAA33", "#AA4499", "#777777")

SETTINGS: Any = {
    "figure.facecolor": "white",  # not transparent: the page behind may be dark
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "mathtext.fontset": "dejavusans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.4,
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "refloss",
}
METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


@contextmanager
def paper() -> Iterator[None]:
    """matplotlib's defaults and SETTINGS, whatever the user's own; the user's own again afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def panels(rows: int, columns: int, height: float, titles: Sequence[str] = (), **options: Any) -> tuple[Figure, Any]:
    """A figure of WIDTH × height inches and its axes, (rows, columns); never pyplot's, which keeps every figure.

    titles: of the first panels, row by row; each at its panel's left, after (a), (b), …
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for a, letter, title in zip(axes.flat, ascii_lowercase, titles, strict=False):
        a.set_title(rf"$\bf{{{letter}}}$   {title}", loc="left")
    return figure, axes


def regions(axes: Any, x: np.ndarray, y: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Where class 1's condition holds (first > 0), class 2's, neither or both; and the boundaries.

    x (n,), y (k,); first, second (k, n).
    """
    axes.set_facecolor(NEITHER)
    for value, tint in ((first, TINT_1), (second, TINT_2), (np.minimum(first, second), BOTH)):
        if value.max() > 0:
            axes.contourf(x, y, value, levels=[0.0, value.max() + 1.0], colors=[tint])
    one = np.allclose(first, -second)  # no margin: the two boundaries are the same
    for value, colour in ((first, BLACK),) if one else ((first, CLASS_1), (second, CLASS_2)):
        axes.contour(x, y, value, levels=[0.0], colors=[colour], linewidths=1.2)


def render(figure: Figure, form: str) -> bytes:
    """The figure as "svg" or "png": the same bytes every time, no dates."""
    buffer = io.BytesIO()
    with paper():
        figure.savefig(buffer, format=form, dpi=DPI[form], metadata=METADATA[form])
    return buffer.getvalue()
