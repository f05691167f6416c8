"""ψ and its slope."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from refloss.figures.style import BLUE, GREEN, GREY, VERMILION, panels
from refloss.steps.angle import angle
from refloss.steps.psi import multiplied_angle

MARGINS = {1: (GREY, "-"), 2: (BLUE, "-"), 3: (GREEN, "--"), 4: (VERMILION, "-.")}


def draw() -> Figure:
    """ψ and its slope for m = 1 to 4 over [0, π], the knots kπ/m marked.

    ψ of eq. (6) of Liu et al., "Large-Margin Softmax Loss", ICML 2016, as `refloss.steps.psi` computes it.
    """
    figure, axes = panels(1, 2, 2.7, (r"$\psi(\theta)$", r"$\psi'(\theta)$ (per radian)"))
    theta = np.linspace(0, np.pi, 721)  # holds every knot: 720 is a multiple of 1, 2, 3 and 4
    at = angle(np.stack([np.cos(theta), np.sin(theta)], axis=1), np.tile([1.0, 0.0], (len(theta), 1)))
    for m, (colour, dashes) in MARGINS.items():
        target = multiplied_angle(at, m)
        line: dict[str, Any] = {"color": colour, "ls": dashes, "label": f"$m={m}$"}
        if m > 1:
            line |= {"marker": "o", "ms": 3.5, "markevery": [720 * k // m for k in range(1, m)]}
        for a, value in zip(axes[0], (target.value, target.slope), strict=True):
            a.plot(np.degrees(theta), value, **line)
    for a in axes[0]:
        a.set(xlabel=r"$\theta$ (degrees)", xlim=(0, 180), xticks=range(0, 181, 30))
        a.grid(lw=0.3, color="#CCCCCC")
    axes[0, 0].set(yticks=range(-7, 2), ylim=(-7.2, 1.2))
    axes[0, 1].set(yticks=range(-4, 1), ylim=(-4.15, 0.15))
    axes[0, 0].legend(loc="lower left")
    return figure
