"""The checker is checked: every wrong backward must fail, and what no witness can see must not pass."""

from __future__ import annotations

import pytest
from mutants import all_mutants, installed, losses_with

import refloss
from refloss.cases.configurations import make
from refloss.cases.gradcheck import cases
from refloss.witnesses.gradcheck import check_case

MUTANTS = all_mutants()
CASES = {name: cases(make(name)) for name in refloss.losses()}


def killer(mutant, witnesses=None):
    """The first case that fails under the mutant, or None."""
    with installed(mutant):
        for name in losses_with(mutant):
            for case in CASES[name]:
                if check_case(case, witnesses).failures:
                    return f"{name} {case.name}"
    return None


def test_there_are_enough_mutants_and_no_two_alike():
    """At least 40 by hand, several hundred in all, each with a source of its own."""
    assert len(MUTANTS) > 250
    assert len({(m.owner, m.function, m.source) for m in MUTANTS}) > 0.95 * len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_no_mutant_survives(mutant):
    """Sign, factor, 0.05 %, lost terms, projection, 1/N … in any step of any backward: gradcheck fails."""
    assert killer(mutant), "survived every case"


@pytest.mark.parametrize("name", refloss.losses())
def test_the_unchanged_passes_pass_every_case(name):
    """The control of the mutation test."""
    report = refloss.witnesses.gradcheck.gradcheck_cases(CASES[name])
    report.raise_if_failed()
