"""Tables of the derivations whose cells are formulas: what each cell claims, as an equation, and in which worlds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pages import formula_worlds as worlds
from pages.formula_evaluator import mp
from pages.formula_examples import inline
from pages.formula_pages import WORLDS
from pages.formula_worlds import World


class Claim(NamedTuple):
    """An equation that a row of a table stands for."""

    row: str
    latex: str
    worlds: list[World]


def rows_of_table(text: str, header: str) -> list[list[str]]:
    """The cells under the header line that starts so."""
    lines = text.split("\n")
    (start,) = (n for n, line in enumerate(lines) if line.startswith(header))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def formula(cell: str) -> str | None:
    """The cell's formula, or its number."""
    found = inline(cell)
    if found:
        return found[0]
    return cell if re.fullmatch(r"-?\d+", cell) else None


PAGE_OF = {
    "Softmax": "softmax.md", "Weighted softmax": "weighted_softmax.md", "W-Norm softmax": "w_norm_softmax.md",
    "L-Softmax": "l_softmax.md", "A-Softmax": "a_softmax.md", "F-Norm SphereFace": "f_norm_sphereface.md",
    "L2-constrained softmax": "l2_softmax.md", "AM-Softmax": "am_softmax.md", "ArcFace": "arcface.md",
}  # fmt: skip


def of_class_1(world: World) -> World:
    """All samples are of class 1."""
    there = world.replaced({})
    there.labels = [0] * len(world.labels)
    return there


def decision_boundaries(text: str) -> Iterator[Claim]:
    """z_1 − z_2 where class 1 is the target; the survey's formula where the last column says that it holds."""
    for names, boundary, survey, holds in rows_of_table(text, "| loss | `decision_boundary`"):
        for name in re.sub(r" \(.*?\)", "", names).split(", "):
            page = "softmax.md" if name == "Weighted softmax" else PAGE_OF[name]
            here = [of_class_1(world) for world in WORLDS[page]()]
            yield Claim(name, f"{formula(boundary)} = z_1 - z_2", here)
            if formula(survey):
                yield Claim(name, rf"{formula(survey)} = z_1 - z_2 \quad ({formula(holds)})", here)


def radii(text: str) -> Iterator[Claim]:
    for name, radius, _ in rows_of_table(text, "| loss | radius |"):
        yield Claim(name, rf"z_j = {formula(radius)} \cos\theta_j \quad (j \ne y)", WORLDS[PAGE_OF[name]]())


def dropped_factors(text: str) -> Iterator[Claim]:
    kinds = {"(M2)": "am_softmax.md", "(M3)": "arcface.md", "(P5)": "f_norm_sphereface.md"}
    for step, factor, *_ in rows_of_table(text, "| margin | factor dropped"):
        yield Claim(
            step, rf"\frac{{\psi'}}{{-\sin\theta}} = {formula(factor) or factor[0]}", WORLDS[kinds[step]]()
        )


def second_slopes(text: str) -> Iterator[Claim]:
    kinds = {
        "(M1)": ("none", "0"), "(M2)": ("cosine", "0.35"), "(M3)": ("angle", "0.5"),
        "(M3), linear tail": ("tail", "0.5"), "(P4)": ("papers", "3"),
    }  # fmt: skip
    left = (r"\psi", r"\psi''", r"\frac{\partial \psi'}{\partial m}", r"\frac{\partial^2 \psi}{\partial m^2}")
    for psi, step, *cells in rows_of_table(text, r"| $\psi$ | step | $\psi''$"):
        if step == "(M4)":
            here = [worlds.annealed_world(3, 3)]
            yield Claim(step, rf"\psi \leftarrow {formula(psi)}", here)
            yield Claim(step, rf"\psi'' \leftarrow {formula(cells[0])}", here)
            continue
        kind, m = kinds[step]
        here = [worlds.margin_world(3, "s", kind, m)]
        for name, cell in zip(left, (psi, *cells), strict=True):
            if formula(cell):
                yield Claim(step, f"{name} = {formula(cell)}", here)


def radii_and_their_slopes(text: str) -> Iterator[Claim]:
    kinds = {
        "both lengths": "both",
        "length of $x$": "x_norm",
        "scale": "s",
        r"$\alpha$ times the length of $w$": "w_norm",
    }
    for radius, _, r, *cells in rows_of_table(text, "| radius | loss |"):
        here = [worlds.pairs_world(1, kinds[radius], "own", "0.4")]
        yield Claim(radius, f"r = {formula(r)}", here)
        for name, cell in zip((r"r_\rho", r"r_\omega", r"r_{\rho\omega}"), cells, strict=True):
            yield Claim(radius, f"{name} = {formula(cell)}", here)


def chebyshev_polynomials(text: str) -> Iterator[Claim]:
    for m, polynomial, derivative in rows_of_table(text, "| $m$ | $T_m(c)$"):
        here = WORLDS["l_softmax.md"]()[:1]
        yield Claim(m, f"T_{m}(c) = {formula(polynomial)}", here)
        yield Claim(m, f"T_{m}'(c) = {formula(derivative)}", here)


def equals(value: str) -> str:
    """= a fraction, or ≈ a decimal number."""
    number = value.split(":")[0].replace("−", "-")
    return rf"\approx {number}" if "." in number else f"= {number}"


def worked_margins(text: str) -> Iterator[Claim]:
    """margins.md works its steps at two angles, with the cosine and the sine of m as fractions."""
    example = text.split("## Worked example")[1]
    header = r"| step | by hand | $\psi$ |"
    starts = [found.start() for found in re.finditer(re.escape(header), example)]
    near = {"x": (3, 4), "W": (0, 1)}
    far = {"x": (5, -12), "W": (0, 1)}
    m, wide = mp.atan(mp.mpf(5) / 12), mp.atan(mp.mpf(3) / 4)

    def at(rows: dict[str, tuple[int, int]], psi: str, margin: Any, **changes: Any) -> World:
        given = {
            name: np.array([[mp.mpf(entry) for entry in row]], dtype=object) for name, row in rows.items()
        }
        return worlds.margin_world(0, "s", psi, margin, labels=[0], **given, **changes)

    annealed = worlds.annealed(at(near, "papers", 2, **{"lambda": mp.mpf(3)})).after
    # of (M5) the value is that of (M3) and the slope that of (M1)
    kinds = [
        [(at(near, "none", 0),) * 2, (at(near, "cosine", mp.mpf("0.2")),) * 2, (at(near, "angle", m),) * 2,
         (annealed,) * 2, (at(near, "angle", m), at(near, "none", 0))],
        [(at(far, "angle", wide),) * 2, (at(far, "tail", wide),) * 2, (at(far, "none", 0),) * 2],
    ]  # fmt: skip
    for start, row_kinds in zip(starts, kinds, strict=True):
        ends = example.index("\n\n", start)
        for (step, by_hand, *shown), here in zip(
            rows_of_table(example[start:ends], "| step"), row_kinds, strict=True
        ):
            for name, value, world in zip((r"\psi", r"\psi'"), shown, here, strict=True):
                yield Claim(step, f"{name} {equals(value)}", [world])
            for latex, value in zip(inline(by_hand), shown, strict=False):
                yield Claim(step, f"{latex} {equals(value)}", [here[0]])


TABLES: dict[str, list[Callable[[str], Iterator[Claim]]]] = {
    "README.md": [decision_boundaries],
    "margins.md": [radii, dropped_factors, worked_margins],
    "second_derivatives.md": [second_slopes, radii_and_their_slopes],
    "l_softmax.md": [chebyshev_polynomials],
}
