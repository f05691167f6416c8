"""Checks of margin_softmax.md."""

from typing import Any

import numpy as np

import refloss
from pages.evaluator import mp
from pages.page import Page, parts
from pages.worlds import World, gradient, indexed, margin_world


def polar_world(seed: int, radius: str) -> World:
    """(G1) to (G10): any ψ, one of three radii; z alone is the target's logit."""
    world = margin_world(seed, radius, "own", "0.4")
    return world.extended(symbols={"z": "z:ij:y", "h": "h:ij"}, graph={"h": lambda w: gradient(w, "L", "r")})


page = Page(
    "margin_softmax.md",
    lambda: [polar_world(seed, radius) for seed, radius in enumerate(("s", "x_norm", "both"))],
    # the radial parts of (G10)
    terms_in_table=[
        [],
        [("x_i", r"\sum_j h_{ij} \hat x_i")],
        [("x_i", r"\sum_j h_{ij} \lVert W_j \rVert \hat x_i"), ("W_j", r"\sum_i h_{ij} \lVert x_i \rVert \hat w_j")],
    ],
)

page.reads(r"\sum_{i,j} h_{ij}")(lambda: [polar_world(1, "s")])


@page.reads(r"m_1 \theta + m_2")
def combined_margin():
    letters = {"m_1": mp.mpf("0.9"), "m_2": mp.mpf("0.4"), "m_3": mp.mpf("0.15")}

    def psi(w: World, theta: Any) -> Any:
        return mp.cos(w["m_1"] * theta + w["m_2"]) - w["m_3"]

    world = margin_world(1, "s", "none", 0)
    return [world.extended(given=letters, symbols=indexed("", *letters), graph={"psi_function": lambda w: psi})]


@page.claims(r"\psi(\theta_y), \qquad \psi'(\theta_y)")
def users_functions(latex):
    """(G4): both functions are called with the target's angle, and what they give is the record's."""
    assert [piece.split("(")[0] for piece in parts(latex)] == [r"\psi", r"\psi'"]
    called = []

    def psi(theta: Any, xp: Any) -> Any:
        called.append(theta)
        return xp.cos(theta) - 0.1 * theta**2

    def slope(theta: Any, xp: Any) -> Any:
        called.append(theta)
        return -xp.sin(theta) - 0.2 * theta

    x, W = np.array([[1.0, 2.0]]), np.array([[2.0, -1.0], [3.0, 1.0]])
    loss = refloss.MarginSoftmax(psi=psi, dpsi=slope, radius="scale", scale=2.0)
    called.clear()
    out = loss.forward(x, W, [1])
    assert len(called) >= 2
    assert all(np.array_equal(np.ravel(theta), out.theta) for theta in called)
    np.testing.assert_allclose(out.logits[0, 1], 2.0 * (np.cos(out.theta[0]) - 0.1 * out.theta[0] ** 2), rtol=1e-15)
