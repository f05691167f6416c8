"""Which worlds the pages of the derivations speak of, and the checks of formulas that cannot be read.

WORLDS has a page's own worlds. Under `@reads(page, piece)` a function gives the worlds for the blocks of a page that
contain this piece of LaTeX. Under `@claims(page, latex)` a function checks one block by hand; it is handed the page's
LaTeX.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pages import formula_worlds as worlds
from pages.formula_evaluator import Evaluator, close, mp
from pages.formula_worlds import World, angle_of, length, plain_world, reals, unit
from pages.latex_maths import Node, statements

# (seed, m): with these three samples all branches of the papers' ψ are met, of m = 4 in two worlds
BRANCHES = ((2, 2), (3, 3), (20, 4), (3, 4))

WORLDS: dict[str, Callable[[], list[World]]] = {
    "softmax.md": lambda: [worlds.linear_world(seed, "x", "W", True) for seed in (1, 2)],
    "weighted_softmax.md": lambda: [worlds.weighted_world(seed) for seed in (1, 2)],
    "w_norm_softmax.md": lambda: [worlds.linear_world(seed, "x", "W_hat", False) for seed in (1, 2)],
    "l2_softmax.md": lambda: [worlds.linear_world(seed, "feature", "W", True) for seed in (1, 2)],
    "l_softmax.md": lambda: [worlds.margin_world(seed, "both", "papers", m) for seed, m in BRANCHES],
    "a_softmax.md": lambda: [worlds.margin_world(seed, "x_norm", "papers", m) for seed, m in BRANCHES],
    "f_norm_sphereface.md": lambda: [worlds.margin_world(seed, "s", "papers", m) for seed, m in BRANCHES],
    "am_softmax.md": lambda: [worlds.margin_world(seed, "s", "cosine", "0.35") for seed in (1, 2)],
    "arcface.md": lambda: [worlds.margin_world(seed, "s", "angle", "0.5") for seed in (1, 2)],
    "cross_entropy.md": lambda: [worlds.cross_entropy_world(seed) for seed in (1, 2)],
    "normalisation.md": lambda: [worlds.normalisation_world(seed) for seed in (1, 2)],
    "angle.md": lambda: [worlds.angle_world(seed) for seed in (1, 2)],
    "psi.md": lambda: [worlds.psi_world(seed, m) for seed, m in BRANCHES],
    "margins.md": lambda: [worlds.polar_world(2, "both")],
    "margin_softmax.md": lambda: [
        worlds.polar_world(seed, radius) for seed, radius in enumerate(("s", "x_norm", "both"))
    ],
    "bounds.md": lambda: [bounds_world(seed, C) for seed, C in ((1, 3), (2, 4))],
    "second_derivatives.md": lambda: [
        worlds.pairs_world(1, "both", "papers", 2),
        worlds.pairs_world(2, "x_norm", "own", "0.4"),
        worlds.pairs_world(3, "s", "angle", "0.5"),
    ],
    "schedules.md": lambda: [worlds.annealed_world(m, m) for m in (2, 4)],
}

# A ∋ B in the cells of a table, one row a world: the radial parts of (G10)
TERMS_IN_TABLES = {
    "margin_softmax.md": [
        [],
        [("x_i", r"\sum_j h_{ij} \hat x_i")],
        [
            ("x_i", r"\sum_j h_{ij} \lVert W_j \rVert \hat x_i"),
            ("W_j", r"\sum_i h_{ij} \lVert x_i \rVert \hat w_j"),
        ],
    ]
}
OTHER_WORLDS: dict[tuple[str, str], Callable[[], list[World]]] = {}
CLAIMS: dict[tuple[str, str], Callable[[str], None]] = {}
NO_CLAIM: dict[tuple[str, str], str] = {}


def squeezed(latex: str) -> str:
    return re.sub(r"\s+", "", latex)


def reads(page: str, *pieces: str) -> Callable[[Callable[[], list[World]]], Callable[[], list[World]]]:
    """The function under this line gives the worlds of the page's blocks that contain one of the pieces."""

    def keep(function: Callable[[], list[World]]) -> Callable[[], list[World]]:
        for piece in pieces:
            OTHER_WORLDS[page, squeezed(piece)] = function
        return function

    return keep


def no_claim(page: str, latex: str, why: str) -> None:
    """An equation in the text that is a condition, a definition or somebody's mistake."""
    NO_CLAIM[page, squeezed(latex)] = why


def claims(page: str, latex: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """The function under this line checks that block, whose LaTeX it is given."""

    def keep(check: Callable[[str], None]) -> Callable[[str], None]:
        CLAIMS[page, squeezed(latex)] = check
        return check

    return keep


# -- tools for checks by hand ----------------------------------------------------------------------


def parts(latex: str) -> list[str]:
    """The block's pieces between \\qquad, without the words in \\text that follow a \\quad."""
    return [re.sub(r"\\quad\s*\\text\{.*", "", piece).strip(" ,.\n") for piece in latex.split(r"\qquad")]


def last_side(piece: str, world: World, place: dict[str, int] | None = None) -> Any:
    """The value of what stands after the last relation."""
    (statement,) = statements(piece)
    return Evaluator(world).value(statement.relation.sides[-1], place or {"i": 0})


def last_side_of_text(piece: str, world: World) -> Any:
    """The value of what stands after the last =, where what stands before cannot be read."""
    return Evaluator(world).value(statements(piece.rsplit("=", 1)[1])[0].relation.sides[0], {"i": 0})


def holds(piece: str, world: World) -> bool:
    """Whether the only statement of the piece is true in a world."""
    (statement,) = statements(piece)
    return Evaluator(world).holds(statement.relation, {"i": 0})


def draws(seed: int, count: int, low: float = 0, high: float = 1) -> Iterator[Any]:
    rng = np.random.default_rng(seed)
    return (mp.mpf(float(value)) for value in rng.uniform(low, high, count))


# -- the losses ------------------------------------------------------------------------------------


@reads("l_softmax.md", r"\frac{\lambda W_y \cdot x")
def annealed_logit():
    return [worlds.annealed_world(m, m) for m in (2, 3)]


@reads("weighted_softmax.md", "Y_{+}", "z_1 - z_0")
def edges_and_others():
    return [worlds.hed_world(1)]


def in_plane(t: Any, angle: Any) -> tuple[Any, Any]:
    """θ_1 and θ_2 of a feature that stands at an angle from W_1, in the plane, W_2 at t."""
    return abs(angle), min(abs(t - angle), 2 * mp.pi - abs(t - angle))


def margin_psi(kind: str, m: Any) -> Callable[[Any], Any]:
    world = worlds.margin_world(1, "s", kind, m)
    return lambda theta: world["psi_function"](world, theta)


def zero_of(falling: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Where a falling function is 0, by bisection to 2^-180 of the interval."""
    assert falling(low) > 0 > falling(high)
    for _ in range(180):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return low


def boundary(psi: Callable[[Any], Any], t: Any, low: Any, high: Any) -> Any:
    """Where ψ(θ_1) = cos θ_2 in the plane, between two positions with W_1 at 0 and W_2 at t."""

    def wins(at: Any) -> Any:
        first, second = in_plane(t, at)
        return psi(first) - mp.cos(second)

    return zero_of(wins, low, high)


def keeps(psi: Callable[[Any], Any], t: Any, at: Any) -> bool:
    """Whether class 1 is satisfied there."""
    first, second = in_plane(t, at)
    return psi(first) > mp.cos(second)


@claims(
    "l_softmax.md",
    r"\theta_1 \lt \frac{t}{m + 1} \quad \text{towards } W_2,"
    r" \qquad \theta_1 \lt \frac{t}{m - 1} \quad \text{away from } W_2",
)
def arc_of_l_softmax(latex):
    towards, away = parts(latex)
    for m, t in itertools.product((2, 3, 4), (mp.mpf("0.4"), mp.mpf("1.3"))):
        psi = margin_psi("papers", m)
        for angle in draws(m, 30, 0, float(t)):
            world = plain_world({"theta_1": angle, "t": t, "m": m})
            assert holds(towards, world) == keeps(psi, t, angle)
            assert holds(away, world) == keeps(psi, t, -angle) or angle + t > mp.pi


@reads("l_softmax.md", r"t - \frac{2t}{m + 1}")
def arc_between():
    found = []
    for m in (2, 3, 4):
        t = mp.mpf("1.3")
        first = boundary(margin_psi("papers", m), t, mp.mpf(0), t)
        world = plain_world({"t": t, "m": m}, meanings=[])
        assert close(
            t - 2 * first, Evaluator(world).value(statements("t - 2t / (m + 1)")[0].relation.sides[0], {})
        )
        found.append(world)
    return found


@claims(
    "l_softmax.md",
    r"\max_\theta \sqrt{\psi^2 + \psi'^2} = \sqrt{m^2 + 4 (m - 1)^2 + \frac{4 (m - 1)}{m + 1}}",
)
def largest_gradient_of_l_softmax(latex):
    for m in (2, 3, 4):
        psi = margin_psi("papers", m)
        sizes = [
            mp.hypot(psi(at), worlds.slope(psi, at))
            for at in mp.linspace(mp.mpf("0.001"), mp.mpf("3.141"), 3001)
        ]
        due = last_side(latex, plain_world({"m": m}))
        # a grid of steps of 0.001 misses the top by half a curvature, m³ times its square, at most
        assert due - 1e-5 * m**3 <= max(sizes) <= due


@claims(
    "am_softmax.md",
    r"\hat x \cdot \left( \hat w_1 - \hat w_2 \right) = m,"
    r" \qquad \hat x \cdot \left( \hat w_2 - \hat w_1 \right) = m",
)
def planes_of_am_softmax(latex):
    m, t = mp.mpf("0.35"), mp.mpf("1.3")
    psi = margin_psi("cosine", m)
    first = boundary(psi, t, mp.mpf(0), t)
    for piece, at in zip(parts(latex), (first, t - first), strict=True):
        rows = {
            "hat x": [mp.cos(at), mp.sin(at)],
            "hat w_1": [mp.one, mp.zero],
            "hat w_2": [mp.cos(t), mp.sin(t)],
        }
        world = plain_world(
            {**{name: np.array(row, dtype=object) for name, row in rows.items()}, "m": m},
            dict.fromkeys(rows, "d"),
        )
        assert holds(piece, world)


@reads("am_softmax.md", r"\theta_1 = \frac{t}{2} - \arcsin")
def end_of_class_1_of_am_softmax():
    found = []
    for t in (mp.mpf("0.9"), mp.mpf("1.3"), mp.mpf(3)):
        m = mp.mpf("0.35")
        first = boundary(margin_psi("cosine", m), t, mp.mpf(0), t)
        found.append(plain_world({"theta_1": first, "t": t, "m": m}, meanings=[t - 2 * first]))
    return found


@reads("am_softmax.md", r"\arctan \frac{\eta G}")
def turn_of_one_step():
    x, across, eta, G = (
        np.array([3, 4], dtype=object),
        np.array([-4, 3], dtype=object),
        mp.mpf("0.1"),
        mp.mpf(7),
    )
    # the gradient is across x and 1/‖x‖ times what it is at length 1
    moved = x - eta * G / length(x) * unit(across)
    return [plain_world({"x": x, "eta": eta, "G": G}, {"x": "d"}, meanings=[angle_of(x, moved)])]


@claims("arcface.md", r"\theta_1 + m \lt \theta_2, \qquad \theta_2 + m \lt \theta_1")
def regions_of_arcface(latex):
    m = mp.mpf("0.5")
    psi = margin_psi("angle", m)
    first, second = parts(latex)
    for one, other in itertools.product(draws(1, 12, 0, 2.6), draws(2, 12, 0, 2.6)):
        world = plain_world({"theta_1": one, "theta_2": other, "m": m})
        assert holds(first, world) == (psi(one) > mp.cos(other))
        assert holds(second, world) == (psi(other) > mp.cos(one))


@claims(
    "arcface.md",
    r"\theta_1 \lt \frac{t - m}{2} \quad \text{towards } W_2,"
    r" \qquad \theta_1 \lt \pi - \frac{t + m}{2} \quad \text{away from } W_2",
)
def arc_of_arcface(latex):
    m = mp.mpf("0.5")
    psi = margin_psi("angle", m)
    towards, away = parts(latex)
    for t in (mp.mpf("0.7"), mp.mpf("1.3"), mp.mpf("2.5")):
        for angle in draws(3, 30, 0, 3.14):
            world = plain_world({"theta_1": angle, "t": t, "m": m})
            if angle < mp.pi - m:  # beyond, the plain formula has the region of the ellipse
                assert holds(towards, world) == keeps(psi, t, angle) or angle > t
                assert holds(away, world) == keeps(psi, t, -angle)


@reads("arcface.md", r"\log \left( 1 + e^{s (\cos t - \cos m)}")
def loss_at_the_centre():
    s, t, m = mp.mpf(64), mp.mpf("0.35"), mp.mpf("0.5")
    z = [s * mp.cos(0 + m), s * mp.cos(t)]
    return [
        plain_world(
            {"s": s, "t": t, "m": m}, meanings=[-mp.log(mp.exp(z[0]) / (mp.exp(z[0]) + mp.exp(z[1])))]
        )
    ]


@claims("arcface.md", r"(\pi - \theta_1) + (\pi - \theta_2) \lt m ,")
def ellipse_of_arcface(latex):
    m = mp.mpf("0.5")
    psi = margin_psi("angle", m)
    seen = set()
    for one, other in itertools.product(draws(4, 20, float(mp.pi - m), 3.1415), draws(5, 20, 2, 3.1415)):
        truth = psi(one) > mp.cos(other)
        assert holds(*parts(latex), plain_world({"theta_1": one, "theta_2": other, "m": m})) == truth
        seen.add(bool(truth))
    assert seen == {True, False}


@claims("arcface.md", r"\hat w_2 - \sin(\theta + m) t_x \quad \text{and} \quad \hat w_2 - \sin\theta t_x")
def straight_through_directions(latex):
    """By the loss itself; the detached one is ψ = cos θ plus a constant."""
    m, theta, scale = mp.mpf("0.5"), mp.mpf("0.6"), mp.mpf(3)
    x = np.array([mp.one, mp.zero, mp.zero], dtype=object)
    rows = [
        np.array(row, dtype=object)
        for row in ([mp.cos(theta), mp.sin(theta), mp.zero], [mp.zero, mp.zero, mp.one])
    ]
    offset = mp.cos(theta + m) - mp.cos(theta)
    for psi, side in (
        (lambda at: mp.cos(at + m), latex.split(r"\quad")[0]),
        (lambda at: mp.cos(at) + offset, latex.split(r"\quad")[2]),
    ):

        def loss(features: Any, psi: Any = psi) -> Any:
            gap = mp.cos(angle_of(features, rows[1])) - psi(angle_of(features, rows[0]))
            return mp.log(1 + mp.exp(scale * gap))

        steps = [worlds.STEP * np.array([mp.mpf(d == k) for k in range(3)], dtype=object) for d in range(3)]
        gradient = np.array(
            [(loss(x + step) - loss(x - step)) / (2 * worlds.STEP) for step in steps], dtype=object
        )
        t_x = np.array([mp.zero, mp.one, mp.zero], dtype=object)
        world = plain_world(
            {"theta": theta, "m": m, "t_x": t_x, "hat w_2": rows[1]}, {"t_x": "d", "hat w_2": "d"}
        )
        (statement,) = statements(side)
        due = Evaluator(world).value(statement.relation.sides[0], {})
        assert close(unit(gradient), unit(due))


@reads("l_softmax.md", r"\nabla_x z_y \to")
def beside_the_row(radius="both"):
    """Samples 1e-15 from their rows, where the papers' ψ is smooth."""
    found = []
    for m in (2, 3, 4):
        world = worlds.margin_world(m, radius, "papers", m)
        x = 2 * world["w"] + mp.mpf(10) ** -15 * world["x"]
        world.near = [world.replaced({"x": x})]
        found.append(world)
    return found


@reads("a_softmax.md", r"\nabla_x z_y \to")
def beside_the_row_without_its_length():
    return beside_the_row("x_norm")


@reads("a_softmax.md", r"\theta_2 - \theta_1 = (m - 1)")
def margin_at_the_boundary():
    found = []
    for m, t in ((2, mp.mpf("1.1")), (4, mp.mpf("0.6"))):
        first = boundary(margin_psi("papers", m), t, mp.mpf(0), t)
        found.append(plain_world({"theta_1": first, "theta_2": t - first, "m": m}))
    return found


@reads("am_softmax.md", r"2 \sin(t/2)")
def two_rows():
    found = []
    for t, at in ((mp.mpf("0.9"), mp.mpf("0.3")), (mp.mpf("2.4"), mp.mpf(1))):
        rows = {"hat w_1": [mp.one, mp.zero], "hat w_2": [mp.cos(t), mp.sin(t)]}
        arrays = {name: np.array(row, dtype=object) for name, row in rows.items()}
        letters = {"t": t, "theta_1": at, "theta_2": t - at, "m": mp.mpf("0.35")}
        # the block of the end of class 1 has its own
        found.append(plain_world({**arrays, **letters}, dict.fromkeys(rows, "d")))
    return found


def unequal_rows() -> list[World]:
    """Rows of unequal length and a feature on the boundary of the softmax, in their plane."""
    found = []
    for t, longer in ((mp.mpf("1.2"), mp.mpf("1.3")), (mp.pi / 2, mp.mpf("0.4"))):
        first = boundary(lambda at, longer=longer: longer * mp.cos(at), t, mp.mpf("0.001"), t)
        rows = {"W_1": [longer, mp.zero], "W_2": [mp.cos(t), mp.sin(t)]}
        arrays = {name: np.array(row, dtype=object) * mp.mpf("0.7") for name, row in rows.items()}
        found.append(
            plain_world({**arrays, "t": t, "theta_1": first, "theta_2": t - first}, dict.fromkeys(rows, "d"))
        )
    return found


reads("softmax.md", r"\tan\theta_1", r"\lVert W_1 \rVert \cos\theta_1 =")(unequal_rows)


@reads("w_norm_softmax.md", r"\tan\theta_1")
def rows_at_a_right_angle():
    return unequal_rows()[1:]


@reads("l2_softmax.md", r"\sin\varphi")
def tilted_plane():
    """A feature on the boundary: its height above the plane without a bias, by the angle to W_1 − W_2."""
    alpha, b = mp.mpf("2.3"), (mp.mpf("0.2"), mp.mpf("0.9"))
    W = [np.array(row, dtype=object) for row in ([mp.one, mp.mpf("0.2")], [mp.mpf("-0.3"), mp.one])]
    normal = unit(W[0] - W[1])
    across = np.array([-normal[1], normal[0]], dtype=object)

    def behind(height: Any) -> Any:
        x = alpha * (mp.sin(height) * normal + mp.cos(height) * across)
        return b[1] - b[0] - sum((W[0] - W[1]) * x)

    varphi = zero_of(behind, -mp.pi / 2, mp.pi / 2)
    letters = {"W_1": W[0], "W_2": W[1], "b_1": b[0], "b_2": b[1], "alpha": alpha, "varphi": varphi}
    return [plain_world(letters, {"W_1": "d", "W_2": "d"})]


@reads("margin_softmax.md", r"m_1 \theta + m_2")
def combined_margin():
    world = worlds.margin_world(1, "s", "none", 0)
    letters = {"m_1": mp.mpf("0.9"), "m_2": mp.mpf("0.4"), "m_3": mp.mpf("0.15")}
    world = world.replaced(letters)
    world.symbols = {**world.symbols, **{name: [worlds.quantity(name)] for name in letters}}
    combined = lambda w, theta: mp.cos(w["m_1"] * theta + w["m_2"]) - w["m_3"]  # noqa: E731
    world.graph = {**world.graph, "psi_function": lambda w: combined}
    return [world]


@reads("cross_entropy.md", r"1 - p_y = e^{-d}")
def two_classes():
    d = mp.mpf("1.7")
    return [plain_world({"p_y": mp.exp(d) / (mp.exp(d) + 1), "d": d})]


@reads("normalisation.md", r"h = \partial L / \partial \hat v")
def arriving():
    world = worlds.normalisation_world(1)
    world.graph = {**world.graph, "h": lambda w: worlds.gradient(w, "L", "x_hat")}
    world.symbols = {**world.symbols, "h": [worlds.quantity("h", "id")]}
    return [world]


@reads("normalisation.md", r"h = \partial L / \partial v", r"\lVert v - \eta h \rVert")
def handed_back():
    world = worlds.normalisation_world(1).replaced({"eta": mp.mpf("0.3")})
    world.graph = {**world.graph, "h": lambda w: worlds.gradient(w, "L", "x")}
    world.symbols = {**world.symbols, "h": [worlds.quantity("h", "id")], "eta": [worlds.quantity("eta")]}
    return [world]


@reads("psi.md", r"\lvert \sin(m\pi - m\varphi) \rvert")
def beside_pi():
    found = []
    for m in (2, 3, 4):
        world, near = (
            plain_world({"m": m, "theta": mp.pi - varphi, "varphi": varphi})
            for varphi in (mp.mpf("0.3"), mp.mpf(10) ** -8)
        )
        world.near = [near]
        found.append(world)
    return found


@reads("singular_points.md", r"s\cos(\varphi - m)")
def tip_of_the_cone():
    """≈ is to first order in φ."""
    world, near = (
        plain_world({"s": 2, "m": mp.mpf("0.5"), "theta": mp.pi - varphi, "varphi": varphi})
        for varphi in (mp.mpf("0.3"), mp.mpf(10) ** -8)
    )
    world.near = [near]
    return [world]


# -- README, the shared steps ----------------------------------------------------------------------


@reads("README.md", r"\frac{m - 1}{2m}")
def share_of_wrong_signs():
    """Beyond π/m the sample is never class 1's, but the table says so where cos mθ_1 > cos θ_2; uniform angles."""
    found = []
    for m in (2, 3, 4):
        knots = [mp.pi * k / m for k in range(1, m + 1)]
        share = mp.quad(lambda theta, m=m: 1 - mp.acos(mp.cos(m * theta)) / mp.pi, knots) / mp.pi
        found.append(plain_world({"m": m}, meanings=[share]))
    return found


@claims("angle.md", r"x \leftarrow 2^{480 - e} x, \qquad w \leftarrow 2^{480 - f} w")
def powers_of_two_keep_the_angle(latex):
    """The angle stays, and the largest entries come to lie between 2^479 and 2^480."""
    for seed, size in ((1, 1), (2, mp.mpf(2) ** -900)):
        rng = np.random.default_rng(seed)
        rows = {"x": reals(rng, 3) * size, "w": reals(rng, 3) / size}
        letters = {
            name: int(mp.floor(mp.log(max(abs(row)), 2))) + 1
            for name, row in zip("ef", rows.values(), strict=True)
        }
        world = plain_world({**rows, **letters}, {"x": "d", "w": "d"})
        scaled = [last_side(piece.replace(r"\leftarrow", "="), world) for piece in parts(latex)]
        assert close(angle_of(*scaled), angle_of(*rows.values()))
        assert all(mp.mpf(2) ** 479 <= max(abs(row)) < mp.mpf(2) ** 480 for row in scaled)


@claims("cross_entropy.md", r"2^{H} e^{-d} \ge 2^{-1022} \iff d \le 1922 \log 2 = 1332.2")
def headroom(latex):
    first, second = latex.split(r"\iff")
    limit = 1922 * mp.log(2)
    assert round(float(limit), 1) == 1332.2
    for d in (limit * (1 - mp.mpf(10) ** -30), limit * (1 + mp.mpf(10) ** -30)):
        world = plain_world({"H": 900, "d": d})
        assert holds(first, world) == holds(second.split("=")[0], world) == (d < limit)


@claims("margins.md", r"\text{cone} \iff x \parallel w, \quad D \ge 2, \quad \psi' \ne 0")
def cones(latex):
    """A cone: the rates in two opposite directions are not each other's negatives."""
    assert parts(latex)
    h = mp.mpf(10) ** -18
    for psi, parallel, D in itertools.product(("angle", "papers"), (True, False), (1, 2, 3)):
        function = margin_psi(psi, "0.5" if psi == "angle" else 2)
        x = np.array([mp.mpf(2)] + [mp.zero] * (D - 1), dtype=object)
        w = 3 * x if parallel or D == 1 else x + np.array([mp.mpf(k) for k in range(D)], dtype=object)
        v = np.array([mp.mpf(k + 1) for k in range(D)], dtype=object)
        at, ahead, back = (function(angle_of(x + step * v, w)) for step in (0, h, -h))
        cone = abs((ahead - at) + (back - at)) / h > mp.mpf(10) ** -10
        slope = worlds.slope(function, angle_of(x, w))
        assert cone == (bool(parallel or D == 1) and D >= 2 and abs(slope) > mp.mpf(10) ** -10)


@claims("margin_softmax.md", r"\psi(\theta_y), \qquad \psi'(\theta_y)")
def users_functions(latex):
    """(G4): both functions are called with the target's angle, and what they give is the record's."""
    import refloss

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
    np.testing.assert_allclose(
        out.logits[0, 1], 2.0 * (np.cos(out.theta[0]) - 0.1 * out.theta[0] ** 2), rtol=1e-15
    )


@claims(
    "normalisation.md",
    r"y = \frac{x}{\alpha} \quad \Rightarrow \quad \frac{dy}{dx}"
    r" = \frac{1}{\alpha}, \qquad \alpha = \lVert x \rVert .",
)
def surveys_derivative(latex):
    """With α held it is I/α; of the full Jacobian it is the size across x, and along x there is nothing."""
    assert r"\frac{1}{\alpha}" in latex
    x = reals(np.random.default_rng(1), 3)
    alpha = length(x)
    for held, along_x, across_x in ((True, 1 / alpha, 1 / alpha), (False, mp.zero, 1 / alpha)):
        y = (lambda v: v / alpha) if held else (lambda v: v / length(v))
        for direction, due in (
            (unit(x), along_x),
            (unit(worlds.across(x, reals(np.random.default_rng(2), 3))), across_x),
        ):
            rate = (y(x + worlds.STEP * direction) - y(x - worlds.STEP * direction)) / (2 * worlds.STEP)
            assert close(rate, due * direction)


@reads("normalisation.md", r"\frac{\partial y_a}{\partial v_b}")
def other_divisors():
    """y = v / q with a q of the length alone; q' is its slope there."""

    def world(q: Callable[[Any], Any]) -> World:
        here = worlds.normalisation_world(1)
        here.graph = {
            **here.graph,
            "q": lambda w: np.array([q(length(row)) for row in w["x"]], dtype=object),
            "q'": lambda w: np.array([worlds.slope(q, length(row)) for row in w["x"]], dtype=object),
            "divided": lambda w: w["x"] / w["q"][:, None],
        }
        here.symbols = {
            **here.symbols, "y": [worlds.quantity("divided", "id")], "q": [worlds.quantity("q", "i")],
            "q'": [worlds.quantity("q'", "i")],
        }  # fmt: skip
        here.positions = {}
        return here

    return [world(lambda r: mp.sqrt(r**2 + mp.mpf("0.1"))), world(lambda r: r + mp.mpf("0.1"))]


@reads("psi.md", r"D\left(", "D(")
def own_continuation():
    return [worlds.continuation_world(m, m) for m in (2, 3)]


@reads("margins.md", r"\frac{\partial\psi}{\partial m} = 0")
def no_margin():
    return [worlds.pair_margin_world(1, "none", 0)]


@reads("margins.md", r"\frac{\partial\psi}{\partial m} = -1")
def margin_on_the_cosine():
    return [worlds.pair_margin_world(1, "cosine", "0.35")]


@reads("margins.md", r"\cos(\theta + m)", r"\sqrt{B - P^2}")
def margin_on_the_angle():
    return [worlds.pair_margin_world(1, "angle", "0.5")]


@reads("margins.md", r"-\sin m - m \cos m")
def linear_tail():
    return [worlds.pair_margin_world(1, "tail", "0.5")]


@reads("margins.md", r"\psi \leftarrow \frac{\lambda")
def annealing():
    return [worlds.annealed_world(m, m) for m in (2, 3)]


@reads("margin_softmax.md", r"\sum_{i,j} h_{ij}")
def scale_as_radius():
    return [worlds.polar_world(1, "s")]


@reads("margins.md", r"\mathrm{stop}")
def detaching():
    return [worlds.detached_world(1, "0.5")]


# -- singular points -------------------------------------------------------------------------------


@claims(
    "singular_points.md",
    r"\theta \approx \left\lVert \frac{dx_\perp}{\lVert x"
    r" \rVert} - \frac{dw_\perp}{\lVert w \rVert} \right\rVert ,",
)
def angle_near_a_pole(latex):
    assert r"\approx" in latex
    rng = np.random.default_rng(1)
    x = reals(rng, 3)
    w = mp.mpf("1.7") * x
    dx, dw = reals(rng, 3), reals(rng, 3)
    side = latex.split(r"\approx")[1].replace(r"dx_\perp", "a").replace(r"dw_\perp", "b")
    vectors = {"x": x, "w": w, "a": worlds.across(x, dx), "b": worlds.across(x, dw)}
    rate = last_side_of_text("= " + side.strip(" ,"), plain_world(vectors, dict.fromkeys(vectors, "d")))
    h = mp.mpf(10) ** -12
    # to first order in h
    assert abs(angle_of(x + h * dx, w + h * dw) / h - rate) < 100 * h


def at_a_pole(seed: int) -> tuple[World, list[Any]]:
    """ArcFace with samples 0 and 2, both of class 0, 1e-12 away from their row."""
    world = worlds.margin_world(seed, "s", "angle", "0.5")
    x = world["x"].copy()
    for i, size in ((0, 2), (2, 3)):
        x[i] = size * world["W"][0] + mp.mpf(10) ** -12 * reals(np.random.default_rng(seed + i), 3)
    return world.replaced({"x": x}), [0, 2]


def pull(world: World, by: str, row: int) -> Any:
    """The gradient less its centre, which is the gradient with the target's angle held."""
    held = world.replaced({"theta": world["theta"]})
    latex = rf"\frac{{\partial L}}{{\partial {by}}}"
    node: Node = statements(latex)[0].relation.sides[0]
    place = {"i": row, "j": row}
    return Evaluator(world).value(node, place) - Evaluator(held).value(node, place)


@claims(
    "singular_points.md",
    r"\nabla_{x_i} L + v, \qquad v \perp \hat x_i, \qquad \lVert v \rVert"
    r" \le \frac{\lvert g_{iy} \rvert s \sin m}{\lVert x_i \rVert}",
)
def ball_of_x(latex):
    """Near the pole the target's part is a vector across x whose length is the bound's: the ball's surface."""
    *_, bound = parts(latex)
    for seed in (1, 2):
        world, samples = at_a_pole(seed)
        for i in samples:
            v = pull(world, "x_i", i)
            largest = last_side(bound.replace(r"\lVert v \rVert", "s"), world, {"i": i})
            # 1e-12 from the pole
            assert abs(length(v) / largest - 1) < 1e-10
            assert abs(sum(v * world["x_hat"][i])) < 1e-10 * length(v)


@claims(
    "singular_points.md",
    r"\nabla_{W_y} L + v, \qquad v \perp \hat w_y, \qquad \lVert v \rVert"
    r" \le \sum_{i \text{ at a pole}} \frac{\lvert g_{iy} \rvert s \sin m}{\lVert W_y \rVert}",
)
def ball_of_W(latex):
    *_, bound = parts(latex)
    term = bound.split(r"\text{ at a pole}}")[1]
    for seed in (1, 2, 3):
        world, samples = at_a_pole(seed)
        v = pull(world, "W_j", 0)
        largest = [last_side(term, world, {"i": i}) for i in samples]
        # the samples' pulls are that long each and point anywhere across the row
        assert abs(largest[0] - largest[1]) * (1 - 1e-10) <= length(v) <= sum(largest) * (1 + 1e-10)
        assert abs(sum(v * world["W_hat"][0])) < 1e-10 * length(v)


# -- second derivatives ----------------------------------------------------------------------------


@reads(
    "second_derivatives.md",
    r"\partial z_j \partial z_k", r"\partial \ell / \partial z_j", r"A = \sum_c", r"p_j / \partial z_k",
)  # fmt: skip
def curvature_of_cross_entropy():
    return [worlds.curvature_world(seed) for seed in (1, 2)]


@reads("second_derivatives.md", r"\psi'' = -m^2")
def multiplied_angles():
    return [worlds.pairs_world(m, "s", "papers", m) for m in (2, 3, 4)]


@reads("second_derivatives.md", r"\frac{\partial^2 z}{\partial s \partial m}", r"\nabla_x z = -s \psi'")
def parameters():
    return [worlds.pairs_world(3, "s", "angle", "0.5"), worlds.pairs_world(4, "s", "tail", "0.5")]


@claims(
    "second_derivatives.md",
    r"\nabla^2 L v = \sum_{ij} \dot g_{ij} \nabla z_{ij}"
    r" + \sum_{ij} g_{ij} \nabla^2 z_{ij} v, \qquad \dot z_{ij} = \nabla z_{ij} \cdot v",
)
def product_rule_of_a_loss(latex):
    """Each rate along v is a difference of the thing itself at both ends of a step along v; ∇ is in x here."""
    assert latex.count(r"\sum_{ij}") == 2
    world = worlds.margin_world(2, "s", "angle", "0.5")
    v = reals(np.random.default_rng(5), *world["x"].shape)

    def rate(of: Callable[[World], Any]) -> Any:
        ends = [of(world.replaced({"x": world["x"] + sign * worlds.STEP * v})) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * worlds.STEP)

    def jacobian(w: World) -> Any:
        """∂z_ij / ∂x_kd."""
        columns = np.empty((3, 3, 3, 3), dtype=object)
        for k, d in itertools.product(range(3), range(3)):
            ends = [w.moved("x", (k, d), sign * worlds.STEP)["z"] for sign in (1, -1)]
            columns[:, :, k, d] = (ends[0] - ends[1]) / (2 * worlds.STEP)
        return columns

    left = rate(lambda w: worlds.gradient(w, "L", "x"))
    J, g = jacobian(world), world["g"]
    right = np.tensordot(rate(lambda w: w["g"]), J, 2) + np.tensordot(g, rate(jacobian), 2)
    assert close(np.ravel(left), np.ravel(right))
    assert close(np.ravel(rate(lambda w: w["z"])), np.ravel(np.tensordot(J, v, 2)))


# -- what the gradients of s and m tell ------------------------------------------------------------


def scaled_world(seed: int) -> World:
    """Logits s a_j, with a_j = cos θ_j and a_y = ψ(θ_y); v_j is what the detached form hands to c_j."""
    world = worlds.margin_world(seed, "s", "angle", "0.5")

    def a(w: World) -> Any:
        found = w["cos"].copy()
        for i, y in enumerate(w.labels):
            found[i, y] = w["psi"][i]
        return found

    world.graph = {**world.graph, "factors": a, "handed": lambda w: w["s"] * (w["p"] - w["onehot"])}
    world.symbols = {
        **world.symbols, "a": [worlds.quantity("factors", "ij")], "v": [worlds.quantity("handed", "ij")]
    }  # fmt: skip
    return world


@reads(
    "margins.md",
    r"\frac{\partial \ell}{\partial s}", r"\frac{\partial^2"
    r" \ell}{\partial s^2}", r"\frac{\partial \ell}{\partial m}",
    r"\frac{\partial v_j}{\partial c_y}", r"\partial p_j / \partial s", r"v_j = s (p_j",
)  # fmt: skip
def scale_and_margin():
    return [scaled_world(seed) for seed in (1, 2)]


@reads("margins.md", r"\frac{1}{1 + e^{4s/5}}")
def scale_of_two_samples():
    """The loss of both as the page gives them, and where its slope in s is 0."""

    def slope(s: Any) -> Any:
        def losses(s: Any) -> Any:
            return sum(
                mp.log(1 + mp.exp(s * (other - own)))
                for own, other in ((mp.mpf("0.8"), 0), (mp.mpf("0.4"), mp.mpf("0.8")))
            )

        return worlds.slope(losses, s)

    return [plain_world({"s": zero_of(lambda s: -slope(s), mp.mpf("0.5"), mp.mpf(2))})]


# -- bounds and schedules --------------------------------------------------------------------------


def bounds_world(seed: int, C: int) -> World:
    """C classes with a row of W and a sample each, all of length 1; i and j are classes."""
    rng = np.random.default_rng(seed)
    W, x = (np.array([unit(row) for row in reals(rng, C, 3)], dtype=object) for _ in range(2))
    s = mp.mpf("1.7")
    cosines = x @ W.T
    ell = np.array(
        [
            -mp.log(mp.exp(s * row[i]) / sum(mp.exp(s * entry) for entry in row))
            for i, row in enumerate(cosines)
        ]
    )
    exponents = np.array(
        [s * (sum(row) - C * row[i]) / (C - 1) for i, row in enumerate(cosines)], dtype=object
    )
    angles = np.array([[angle_of(a, b) if a is not b else mp.zero for b in W] for a in W], dtype=object)
    world = plain_world(
        {
            "W": W, "x": x, "s": s, "C": C, "ell": ell, "v": exponents, "bar v": sum(exponents) / C,
            "bar W": sum(W) / C, "theta": angles, "p": mp.exp(-min(ell)),
        },
        {"W": "jd", "x": "jd", "ell": "j", "v": "j", "bar W": "d", "theta": "jj"},
    )  # fmt: skip
    world.kinds = {**world.kinds, "i": "class"}
    world.ranges = {letter: range(C) for letter in "ij"}
    return world


@reads("bounds.md", r"p = \frac{e^{\alpha}}", r"(1 - p) t^2", r"\alpha = \log")
def one_class_opposite():
    found = []
    for alpha, C in ((mp.mpf("1.3"), 4), (mp.mpf("5.1"), 40)):
        z = [alpha, -alpha] + [mp.zero] * (C - 2)
        p = mp.exp(z[0]) / sum(mp.exp(entry) for entry in z)
        root = mp.exp(alpha)
        other = -p / ((1 - p) * root)  # their product is −p / (1 − p)
        found.append(plain_world({"alpha": alpha, "C": C, "p": p, "t": root, "q": (root + other) / 2}))
    return found


@reads("bounds.md", r"\alpha_{low}", r"p (e^{\alpha} + C - 2)")
def no_class_opposite():
    found = []
    for alpha, C in ((mp.mpf("1.3"), 4), (mp.mpf("5.1"), 40)):
        z = [alpha] + [mp.zero] * (C - 2)
        p = mp.exp(z[0]) / sum(mp.exp(entry) for entry in z)
        found.append(plain_world({"alpha_low": alpha, "alpha": alpha, "C": C, "p": p}))
    return found


def simplex_probability(s: Any, C: int) -> Any:
    """The most that all classes can reach at once: cosines of 1 and −1/(C − 1)."""
    z = [s] + [-s / (C - 1)] * (C - 1)
    return mp.exp(z[0]) / sum(mp.exp(entry) for entry in z)


@claims("bounds.md", r"\log \left( 1 + (C - 1) e^{-s C / (C - 1)} \right) \le -\log p")
@claims("bounds.md", r"s \ge \frac{C - 1}{C} \log \frac{(C - 1) p}{1 - p}")
def least_scale(latex):
    seen = set()
    for C, s in itertools.product((3, 10), draws(1, 20, 0.5, 9)):
        truth = simplex_probability(s, C) >= mp.mpf("0.9")
        assert holds(latex, plain_world({"s": s, "C": C, "p": mp.mpf("0.9")})) == truth
        seen.add(bool(truth))
    assert seen == {True, False}


@claims("bounds.md", r"m \le 1 - \max_{i \ne j} \cos\theta_{ij}")
def all_margins_met(latex):
    world = bounds_world(1, 4)
    cosines = world["W"] @ world["W"].T
    seen = set()
    for m in draws(1, 40, 0, 0.1):
        world.symbols["m"] = [worlds.quantity("m")]
        truth = all(1 - m >= cosines[i, j] for i in range(4) for j in range(4) if i != j)
        assert holds(latex, world.replaced({"m": m})) == truth
        seen.add(truth)
    assert seen == {True, False}


@reads("bounds.md", r"2 \sin^2\frac{\pi}{C}", r"\frac{t}{m - 1}", r"t - \frac{2t}{m + 1}", r"\iff")
def margins_and_classes():
    """m on both sides of every boundary, close by."""
    values = (mp.mpf(value) for value in ("2", "2.99", "3", "3.01", "3.73", "3.74", "4", "6"))
    return [plain_world({"m": m, "C": m, "t": mp.mpf("0.9") + m}) for m in values]


@reads("schedules.md", r"\beta \left( 1 + \gamma", r"n + n_0 =")
def inverse_power():
    """Without a floor in sight; v is a value that the schedule passes."""
    base, gamma, power, start, n = mp.mpf(1000), mp.mpf("0.12"), mp.mpf(2), 3, 17
    at = base * mp.exp(-power * mp.log(1 + gamma * (n + start)))
    letters = {"beta": base, "gamma": gamma, "kappa": power, "n_0": start, "n": n, "v": at}
    floor = {"lambda_min": mp.mpf(10) ** 4, "lambda": mp.mpf(10) ** 4}
    return [plain_world({**letters, "lambda": at, "lambda_min": 0}), plain_world({**letters, **floor})]


@reads("schedules.md", r"\beta \rho^{n - 1}")
def geometric():
    found = []
    for n, floor in ((1, 0), (5, 0), (40, 20)):
        value = mp.mpf(100)
        for _ in range(n - 1):
            value *= mp.mpf("0.9")
        found.append(
            plain_world(
                {"beta": 100, "rho": mp.mpf("0.9"), "n": n, "lambda_min": floor, "lambda": max(value, floor)}
            )
        )
    return found


@reads("singular_points.md", r"\psi(\theta) + \psi(\pi - \theta)", r"\psi'' = -(-1)^k")
def opposite_angles():
    return [worlds.psi_world(m, m) for m in (2, 3, 4)]


# -- equations in the text that claim nothing ------------------------------------------------------

no_claim(
    "am_softmax.md",
    r"\cos\theta = x \cdot W / \max(\lVert x \rVert \lVert W \rVert, 10^{-8})",
    "released code's",
)
no_claim("bounds.md", r"\cos\theta_{ij} = -1/(C - 1)", "where the bound is reached")
no_claim("bounds.md", r"\sum_i a_i W_i = 0", "numbers a that exist")
no_claim("l2_softmax.md", r"h_{ij} = g_{ij} \lVert W_j \rVert", "what stands for h of another page")
no_claim("psi.md", r"w = (2^{50}, 1, 2^{50})", "an input")
no_claim("weighted_softmax.md", r"g_{ij} = w_j (p_{ij} - y_{ij})", "a common mistake")
no_claim("weighted_softmax.md", r"(W_1 - W_2) \cdot x + b_1 - b_2 = 0", "the boundary")
