"""The checker is checked: every wrong backward must fail, and what no witness can see must not pass."""

from __future__ import annotations

import ast
import functools

import pytest
from mutants import all_mutants, by_hand, installed, losses_with, places

import refloss
from refloss.cases.configurations import make
from refloss.cases.gradcheck import cases
from refloss.witnesses.gradcheck import check_case

MUTANTS = all_mutants()


@functools.cache
def cases_of(name):
    return cases(make(name))


def killer(mutant, witnesses=None):
    """The first case that fails under the mutant, or None."""
    with installed(mutant):
        for name in losses_with(mutant):
            for case in cases_of(name):
                if check_case(case, witnesses).failures:
                    return f"{name} {case.name}"
    return None


def test_there_are_enough_mutants_and_no_two_alike():
    """At least 40 by hand, several hundred in all, each with a source of its own."""
    assert len(MUTANTS) > 250
    assert len({(m.owner, m.function, m.source) for m in MUTANTS}) > 0.95 * len(MUTANTS)


SWAPPED = """
def backward_logits(kept, g_y, s):
    step = angle_backward(kept.psi.slope * g_y * s, kept.angle)
    return s * kept.psi.slope
"""


def test_a_mistake_is_found_whatever_the_order_of_factors_and_the_names():
    """A name that the source does not have stands for what is there, the same wherever it stands."""
    [(node, bound)] = places(ast.parse(SWAPPED), "s * g_y * at.psi.slope")
    assert ast.unparse(node) == "kept.psi.slope * g_y * s"
    assert ast.unparse(bound["at"]) == "kept"
    assert not places(ast.parse(SWAPPED), "s * g_y * at.angle.slope")
    assert len(places(ast.parse(SWAPPED), "at.psi.slope")) == 2


def test_a_mistake_without_a_place_is_a_mutant_that_says_so():
    lost = by_hand("arcface", "backward_logits", "s * at.psi.shape", "0.0", "gone")
    assert (
        lost.missing
        == "arcface.backward_logits has 0 places like 's * at.psi.shape', not one: mend its line in BY_HAND"
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_no_mutant_survives(mutant):
    """Sign, factor, 0.05 %, lost terms, projection, 1/N … in any step of any backward: gradcheck fails."""
    assert not mutant.missing, mutant.missing
    assert killer(mutant), "survived every case"


@pytest.mark.parametrize("name", refloss.losses())
def test_the_unchanged_passes_pass_every_case(name):
    """The control of the mutation test."""
    report = refloss.witnesses.gradcheck.gradcheck_cases(cases_of(name))
    report.raise_if_failed()
