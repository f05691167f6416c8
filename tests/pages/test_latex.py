"""The reader and the evaluator of the derivations' formulas, on formulas whose truth is plain."""

from __future__ import annotations

import numpy as np
import pytest

from pages.evaluator import Evaluator, mp
from pages.latex import Unreadable, statements
from pages.worlds import World, cross_entropy_world, linear_world, plain_world


def world() -> World:
    """Letters, and two vectors across each other."""
    letters = {"a": 2, "b": 3, "m": 2, "theta": mp.mpf("0.3"), "t": 5, "n": 4}
    vectors = {"u": np.array([mp.mpf(3), mp.mpf(4)]), "v": np.array([mp.mpf(-4), mp.mpf(3)])}
    return plain_world({**letters, **vectors}, {"u": "d", "v": "d"})


def value(latex: str):
    (statement,) = statements(latex)
    return Evaluator(world()).value(statement.relation.sides[0], {"i": 0})


def truth(latex: str, here: World | None = None) -> bool:
    (statement,) = statements(latex)
    evaluator = Evaluator(here or world())
    places = list(evaluator.places(statement))
    assert places
    return all(evaluator.holds(statement.relation, place) for place in places)


@pytest.mark.parametrize(
    ("latex", "due"),
    [
        (r"-a^2 + 2ab", 8),
        (r"\frac{a + b}{t} \cdot 10", 10),
        (r"2^{-a} / b", mp.mpf(1) / 12),
        (r"(-1)^b \lvert a - t \rvert", -3),
        (r"\lVert u \rVert", 5),
        (r"u \cdot u + u^\top v", 25),
        (r"\lfloor t / a \rfloor", 2),
        (r"\max(a, b) - \min(a, b)", 1),
        (r"\sum_{k=1}^{n} k^2", 30),
        (r"e^{\log t}", 5),
        (r"\log_2(a^b)", 3),
        (r"\cos m\theta \cos\theta", mp.cos(mp.mpf("0.6")) * mp.cos(mp.mpf("0.3"))),
        (r"\cos(m + 1)\theta", mp.cos(mp.mpf("0.9"))),
        (r"\sin^2\theta b", mp.sin(mp.mpf("0.3")) ** 2 * 3),
        (r"\sin(\theta + m) b", mp.sin(mp.mpf("2.3")) * 3),
    ],
)
def test_how_far_things_go(latex, due):
    if r"\sum" in latex:
        here = world()
        here.kinds = {}
        (statement,) = statements(latex)
        found = Evaluator(here).value(statement.relation.sides[0], {"i": 0})
    else:
        found = value(latex)
    assert abs(found - due) < mp.mpf(10) ** -50


@pytest.mark.parametrize(
    ("latex", "why"),
    [
        (r"u v", "needs"),
        (r"a / b t", "a / b c"),
        (r"a / b / t", "a / b / c"),
        (r"u + a", "different shapes"),
        (r"u^2", "square of a vector"),
        (r"a^23", "braces"),
        (r"\xi + 1", "unknown symbol"),
        (r"w + 1", "does not know"),
        (r"\cos m n", "how far"),
        (r"\frac{\partial^2 a}{\partial b}", "order 2 by 1"),
        (r"\frac{\partial a}{\partial x}", "does not know"),
    ],
)
def test_what_only_a_reader_could_resolve_is_refused(latex, why):
    with pytest.raises(Unreadable, match=why):
        value(latex)


@pytest.mark.parametrize(
    ("latex", "true"),
    [
        (r"a \lt b \le 3", True),
        (r"a \lt b \le 2", False),
        (r"\frac{a}{b} \approx 0.67", True),
        (r"\frac{a}{b} \approx 0.66", False),
        (r"u / b \approx (1.00, 1.33)", True),
        (r"u / b \approx (1.00, 1.34)", False),
        (r"u \perp v", True),
        (r"u \perp u", False),
        (r"a \in \lbrace 1, \quad 2 \rbrace", True),
        (r"a \in \lbrace 1, \quad 3 \rbrace", False),
        (r"a = 0, \ldots, b", True),
        (r"a = 0, \ldots, b - 2", False),
        (r"a = 2 \iff b = 3", True),
        (r"a = 1 \iff b = 3", False),
        (r"a = 1 \iff b = 4", True),
    ],
)
def test_relations(latex, true):
    assert truth(latex) is true


def test_statements_and_their_conditions():
    """A condition reaches back to the last \\qquad; words and commas separate."""
    first, second, third = statements(r"a = 1, \qquad b = 2, \quad t = 3 \quad (a \lt b), \text{where} \quad")
    assert (first.conditions, len(second.conditions), len(third.conditions)) == ((), 1, 1)


def test_indices_are_tried_everywhere():
    """A formula that holds for the target's class alone is false; with its condition it is true."""
    here = cross_entropy_world(1)
    assert truth(r"q_j = 1 - p_j", here)
    assert not truth(r"q_j = 1 - p_y", here)
    assert truth(r"q_j = 1 - p_y \quad (j = y)", here)
    assert truth(r"\sum_{k \ne j} p_k = q_j", here)
    assert not truth(r"\sum_{k} p_k = q_j", here)


def test_derivatives_are_those_of_the_graph():
    """∂ moves one thing and all that follows from it: ℓ feels z through p, and p_c is no constant."""
    here = cross_entropy_world(1)
    assert truth(r"\frac{\partial p_c}{\partial z_j} = p_c (\delta_{cj} - p_j)", here)
    assert not truth(r"\frac{\partial p_c}{\partial z_j} = p_c \delta_{cj}", here)
    assert truth(r"\frac{\partial^2 p_c}{\partial z_j^2} = p_c ((\delta_{cj} - p_j)^2 - p_j (1 - p_j))", here)


def test_arrows_ask_what_depends_on_what():
    here = linear_world(1, "x", "W", bias=True)
    assert truth(r"z \mapsto p \mapsto \ell_i \mapsto L", here)
    assert not truth(r"p \mapsto z", here)
