"""Checks of README.md."""

import math
import re

from pages.evaluator import mp
from pages.page import PAGES, Page
from pages.tables import Claim, formula, rows_of_table
from pages.worlds import plain_world

PAGE_OF = {
    "Softmax": "softmax.md",
    "Weighted softmax": "weighted_softmax.md",
    "W-Norm softmax": "w_norm_softmax.md",
    "L-Softmax": "l_softmax.md",
    "A-Softmax": "a_softmax.md",
    "F-Norm SphereFace": "f_norm_sphereface.md",
    "L2-constrained softmax": "l2_softmax.md",
    "AM-Softmax": "am_softmax.md",
    "ArcFace": "arcface.md",
}
page = Page("README.md")


@page.reads(r"\frac{m - 1}{2m}")
def share_of_wrong_signs():
    """Beyond π/m the sample is never class 1's, but the table says so where cos mθ_1 > cos θ_2; uniform angles."""
    for m in (2, 3, 4):
        knots = [mp.pi * k / m for k in range(1, m + 1)]
        share = mp.quad(lambda theta, m=m: 1 - mp.acos(mp.cos(m * theta)) / mp.pi, knots) / mp.pi
        yield plain_world({"m": m}, meanings=[share])


@page.table
def decision_boundaries(text):
    """z_1 − z_2 where class 1 is the target; the survey's formula where the last column says that it holds."""
    for names, boundary, survey, holds in rows_of_table(text, "| loss | `decision_boundary`"):
        for name in re.sub(r" \(.*?\)", "", names).split(", "):
            of_page = PAGES["softmax.md" if name == "Weighted softmax" else PAGE_OF[name]]
            here = [world.extended(labels=[0] * len(world.labels)) for world in of_page.worlds()]
            yield Claim(name, f"{formula(boundary)} = z_1 - z_2", here)
            if formula(survey):
                yield Claim(name, rf"{formula(survey)} = z_1 - z_2 \quad ({formula(holds)})", here)


page.numbers({"25 %": 100 / 4, "33 %": 100 / 3, "37.5 %": 100 * 3 / 8, "1.27 %": 100 * 0.5**2 / (2 * math.pi**2)})
