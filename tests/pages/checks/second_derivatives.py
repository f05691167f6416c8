"""Checks of second_derivatives.md."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pages import worlds
from pages.evaluator import close, mp, slope
from pages.page import Page
from pages.tables import Claim, formula, rows_of_table
from pages.worlds import Array, Rule, World, each, pairs, reals


def pairs_world(seed: int, radius: str, psi: str, m: Any) -> World:
    """Single pairs x, w, each with an angle, a radius r(ρ, ω) and a logit z = r ψ(θ), and a direction v."""
    N, D = 2, 3
    rng = np.random.default_rng(seed)
    x, w, v_x, v_w = (reals(rng, N, D) for _ in range(4))
    r = worlds.RADIUS[radius]

    def plane(x: Array, w: Array) -> Array:
        """The projection on what is orthogonal to x and w: from a third vector, made orthogonal to both."""
        third = worlds.unit(np.cross(x, worlds.across(x, w)))
        return np.outer(third, third)

    def along(name: str, of: str) -> Rule:
        return each(lambda w, i: sum(w[name][i] * w[of][i]))

    def of_radius(function: Callable[[Any, Any, Any], Any]) -> Rule:
        return each(lambda w, i: function(worlds.length(w["x"][i]), worlds.length(w["w"][i]), w["s"]))

    scalars: dict[str, Rule] = {
        "rho": pairs(lambda x, w: worlds.length(x)),
        "omega": pairs(lambda x, w: worlds.length(w)),
        "c": each(lambda w, i: mp.cos(worlds.targets_angle(w, i))),
        "r": of_radius(r),
        "r_rho": of_radius(lambda rho, omega, s: slope(lambda t: r(t, omega, s), rho)),
        "r_omega": of_radius(lambda rho, omega, s: slope(lambda t: r(rho, t, s), omega)),
        "r_rhoomega": of_radius(lambda rho, omega, s: slope(lambda t: slope(lambda u: r(u, t, s), rho), omega)),
        "z": each(lambda w, i: w["r"][i] * w["psi"][i]),
        "a": along("hat x", "v_x"),
        "beside": along("t_x", "v_x"),
        "a'": along("hat w", "v_w"),
        "b'": along("t_w", "v_w"),
        "dot z": lambda w: slope(lambda t: w.replaced({"x": w["x"] + t * w["v_x"], "w": w["w"] + t * w["v_w"]})["z"]),
    }
    world = worlds.margin_world(seed, radius, psi, m, labels=list(range(N)), x=x, W=w)
    world = world.extended(
        graph={**scalars, "hat w": pairs(lambda x, w: worlds.unit(w)), "P": pairs(plane)},
        given={"v_x": v_x, "v_w": v_w},
    )
    known = ("x", "hat x", "t_x", "t_w", "theta", "psi", "psi'", "psi''", "k", "s", "m")
    world.symbols = {name: worlds.SYMBOLS[name] for name in known} | worlds.indexed("i", *scalars)
    world.symbols |= {**worlds.indexed("id", "w", "hat w"), "P": "P:idd", "b": "beside:i", "alpha": "s"}
    world.kinds = {**worlds.KINDS, "c": "d"}
    world.ranges = {"i": range(N), **dict.fromkeys("abcd", range(D))}
    return world


page = Page(
    "second_derivatives.md",
    lambda: [
        pairs_world(1, "both", "papers", 2),
        pairs_world(2, "x_norm", "own", "0.4"),
        pairs_world(3, "s", "angle", "0.5"),
    ],
)

page.reads(r"\psi'' = -m^2")(lambda: [pairs_world(m, "s", "papers", m) for m in (2, 3, 4)])
page.reads(r"\frac{\partial^2 z}{\partial s \partial m}", r"\nabla_x z = -s \psi'")(
    lambda: [pairs_world(3, "s", "angle", "0.5"), pairs_world(4, "s", "tail", "0.5")]
)


def curvature_world(seed: int) -> World:
    """Cross-entropy with weights and smoothing, and a direction ż of the logits."""
    world = worlds.cross_entropy_world(seed)
    direction = reals(seed, *world["z"].shape)
    world = world.extended(graph={"A": lambda w: w["a"].sum(axis=1)}, given={"direction": direction})
    world.symbols = {name: worlds.SYMBOLS[name] for name in ("z", "p", "a", "ell", "L")}
    world.symbols |= {"A": "A:i", "dot z": "direction:ij"}
    return world


page.reads(r"\partial z_j \partial z_k", r"\partial \ell / \partial z_j", r"A = \sum_c", r"p_j / \partial z_k")(
    lambda: [curvature_world(seed) for seed in (1, 2)]
)


@page.claims(
    r"\nabla^2 L v = \sum_{ij} \dot g_{ij} \nabla z_{ij}"
    r" + \sum_{ij} g_{ij} \nabla^2 z_{ij} v, \qquad \dot z_{ij} = \nabla z_{ij} \cdot v"
)
def product_rule_of_a_loss(latex):
    """Each rate along v is a difference of the thing itself at both ends of a step along v; ∇ is in x here."""
    world = worlds.margin_world(2, "s", "angle", "0.5")
    v = reals(5, *world["x"].shape)

    def rate(of: Callable[[World], Any]) -> Any:
        return slope(lambda t: of(world.replaced({"x": world["x"] + t * v})), mp.zero)

    def jacobian(w: World) -> Any:
        """∂z_ij / ∂x_kd."""
        columns = np.empty((3, 3, 3, 3), dtype=object)
        for k, d in itertools.product(range(3), range(3)):
            columns[:, :, k, d] = slope(lambda t, at=(k, d): w.moved("x", at, t)["z"], mp.zero)
        return columns

    left = rate(lambda w: worlds.gradient(w, "L", "x"))
    J, g = jacobian(world), world["g"]
    right = np.tensordot(rate(lambda w: w["g"]), J, 2) + np.tensordot(g, rate(jacobian), 2)
    assert close(np.ravel(left), np.ravel(right))
    assert close(np.ravel(rate(lambda w: w["z"])), np.ravel(np.tensordot(J, v, 2)))


@page.table
def second_slopes(text):
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
        here = [worlds.margin_world(3, "s", *kinds[step])]
        for name, cell in zip(left, (psi, *cells), strict=True):
            if formula(cell):
                yield Claim(step, f"{name} = {formula(cell)}", here)


@page.table
def radii_and_their_slopes(text):
    kinds = {
        "both lengths": "both",
        "length of $x$": "x_norm",
        "scale": "s",
        r"$\alpha$ times the length of $w$": "w_norm",
    }
    for radius, _, *cells in rows_of_table(text, "| radius | loss |"):
        here = [pairs_world(1, kinds[radius], "own", "0.4")]
        for name, cell in zip(("r", r"r_\rho", r"r_\omega", r"r_{\rho\omega}"), cells, strict=True):
            yield Claim(radius, f"{name} = {formula(cell)}", here)


page.numbers({"−30739": -64 * math.sin(0.501) / math.tan(1e-3)})
