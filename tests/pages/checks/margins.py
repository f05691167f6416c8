"""Checks of margins.md."""

import itertools
import math
import re
from typing import Any

from scipy.optimize import brentq

from pages import worlds
from pages.checks.margin_softmax import polar_world
from pages.checks.readme import PAGE_OF
from pages.evaluator import STEP, mp, slope
from pages.page import PAGES, Page
from pages.plane import margin_psi, zero_of
from pages.tables import Claim, equals, formula, inline, rows_of_table
from pages.worlds import World, array, each, vector

page = Page("margins.md", lambda: [polar_world(2, "both")])

# (M1) to (M4): a margin on the target's angle, with P, B and the rows of the pairs
for kind, m, pieces in (
    ("none", 0, [r"\frac{\partial\psi}{\partial m} = 0"]),
    ("cosine", "0.35", [r"\frac{\partial\psi}{\partial m} = -1"]),
    ("angle", "0.5", [r"\cos(\theta + m)", r"\sqrt{B - P^2}"]),
    ("tail", "0.5", [r"-\sin m - m \cos m"]),
):
    page.reads(*pieces)(lambda kind=kind, m=m: [worlds.psi_world(1, m, kind)])
page.reads(r"\psi \leftarrow \frac{\lambda")(lambda: [worlds.annealed_world(m, m) for m in (2, 3)])


@page.reads(r"\mathrm{stop}")
def detaching():
    """(M5): after the step the offset ψ − cos θ is a number that nothing moves."""
    before = worlds.margin_world(1, "s", "angle", "0.5")
    frozen = before["psi"] - each(lambda w, i: mp.cos(worlds.targets_angle(w, i)))(before)
    graph = {
        "psi": each(lambda w, i: mp.cos(worlds.targets_angle(w, i)) + frozen[i]),
        "psi'": each(lambda w, i: slope(lambda t: mp.cos(t) + frozen[i], worlds.targets_angle(w, i))),
    }
    stop = {"stop": lambda w, values, place: values[0]}
    return [before.extended(after=before.extended(graph=graph), functions=stop)]


@page.claims(r"\text{cone} \iff x \parallel w, \quad D \ge 2, \quad \psi' \ne 0")
def cones(latex):
    """A cone: the rates in two opposite directions are not each other's negatives."""
    for psi, parallel, D in itertools.product(("angle", "papers"), (True, False), (1, 2, 3)):
        function = margin_psi(psi, "0.5" if psi == "angle" else 2)
        x = vector(2, *[0] * (D - 1))
        w = 3 * x if parallel or D == 1 else x + vector(*range(D))
        v = vector(*range(1, D + 1))
        at, ahead, back = (function(worlds.angle_of(x + step * v, w)) for step in (0, STEP, -STEP))
        cone = abs((ahead - at) + (back - at)) / STEP > mp.mpf(10) ** -10
        steep = abs(slope(function, worlds.angle_of(x, w))) > mp.mpf(10) ** -10
        assert cone == (bool(parallel or D == 1) and D >= 2 and steep)


# -- what the gradients of s and m tell ------------------------------------------------------------


def scaled_world(seed: int) -> World:
    """Logits s a_j, with a_j = cos θ_j and a_y = ψ(θ_y); v_j is what the detached form hands to c_j."""
    return worlds.margin_world(seed, "s", "angle", "0.5").extended(
        graph={
            "factors": lambda w: worlds.at_targets(w, w["cos"], lambda i: w["psi"][i]),
            "handed": lambda w: w["s"] * (w["p"] - w["onehot"]),
        },
        symbols={"a": "factors:ij", "v": "handed:ij"},
    )


page.reads(
    r"\frac{\partial \ell}{\partial s}",
    r"\frac{\partial^2 \ell}{\partial s^2}",
    r"\frac{\partial \ell}{\partial m}",
    r"\frac{\partial v_j}{\partial c_y}",
    r"\partial p_j / \partial s",
    r"v_j = s (p_j",
)(lambda: [scaled_world(seed) for seed in (1, 2)])


@page.reads(r"\frac{1}{1 + e^{4s/5}}")
def scale_of_two_samples():
    """The loss of both as the page gives them, and where its slope in s is 0."""

    def losses(s: Any) -> Any:
        gaps = (mp.mpf("-0.8"), mp.mpf("0.8") - mp.mpf("0.4"))
        return sum(mp.log(1 + mp.exp(s * gap)) for gap in gaps)

    return [worlds.plain_world({"s": zero_of(lambda s: -slope(losses, s), mp.mpf("0.5"), mp.mpf(2))})]


# -- tables ----------------------------------------------------------------------------------------


@page.table
def radii(text):
    for name, radius, _ in rows_of_table(text, "| loss | radius |"):
        here = PAGES[PAGE_OF[name]].worlds()
        yield Claim(name, rf"z_j = {formula(radius)} \cos\theta_j \quad (j \ne y)", here)


@page.table
def dropped_factors(text):
    kinds = {"(M2)": "am_softmax.md", "(M3)": "arcface.md", "(P5)": "f_norm_sphereface.md"}
    for step, factor, *_ in rows_of_table(text, "| margin | factor dropped"):
        latex = rf"\frac{{\psi'}}{{-\sin\theta}} = {formula(factor) or factor[0]}"
        yield Claim(step, latex, PAGES[kinds[step]].worlds())


@page.table
def worked_margins(text):
    """The page works its steps at two angles, with the cosine and the sine of m as fractions."""
    example = text.split("## Worked example")[1]
    starts = [found.start() for found in re.finditer(re.escape(r"| step | by hand | $\psi$ |"), example)]

    def at(x: tuple[int, int], psi: str, m: Any, **changes: Any) -> World:
        rows = {"x": array([vector(*x)]), "W": array([vector(0, 1)])}
        return worlds.margin_world(0, "s", psi, m, labels=[0], **rows, **changes)

    near, far = (3, 4), (5, -12)
    plain, turned = at(near, "none", 0), at(near, "angle", mp.atan(mp.mpf(5) / 12))
    after = worlds.annealed(at(near, "papers", 2, **{"lambda": mp.mpf(3)})).after
    wide = mp.atan(mp.mpf(3) / 4)
    # of (M5) the value is that of (M3) and the slope that of (M1)
    first = [(here, here) for here in (plain, at(near, "cosine", "0.2"), turned, after)] + [(turned, plain)]
    second = [(here, here) for here in (at(far, "angle", wide), at(far, "tail", wide), at(far, "none", 0))]
    for start, steps in zip(starts, (first, second), strict=True):
        rows = rows_of_table(example[start : example.index("\n\n", start)], "| step")
        for (step, by_hand, *shown), (of_value, of_slope) in zip(rows, steps, strict=True):
            yield Claim(step, rf"\psi {equals(shown[0])}", [of_value])
            yield Claim(step, rf"\psi' {equals(shown[1])}", [of_slope])
            for latex, value in zip(inline(by_hand), shown, strict=False):
                yield Claim(step, f"{latex} {equals(value)}", [of_value])


page.numbers(
    {
        "−1.1173": -math.cos(0.5) - 0.5 * math.sin(0.5),
        "0.4794": math.sin(0.5),
        # where cos m + m sin m comes back to 1
        "2.331": brentq(lambda m: math.cos(m) + m * math.sin(m) - 1, 2, 3),
        "1.3914": 64 * (math.cos(math.pi / 3 + 0.3) - 0.2),
        "133.33°": 180 / 1.35,
        "34.9446": 64 * (math.cos(1.35 * math.pi) + 1),
        "23.13°": math.degrees(math.atan(math.sin(0.5) / (2 - math.cos(0.5)))),
        "151.35°": 180 - math.degrees(0.5),
    }
)
