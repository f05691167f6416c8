"""Every docstring's example runs and prints what stands there."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
from helpers import need

import refloss

MODULES = [m.name for m in pkgutil.walk_packages(refloss.__path__, "refloss.") if not m.name.endswith("__main__")]
EXAMPLES = {
    "refloss.losses.arcface",
    "refloss.losses.l_softmax",
    "refloss.proof.certify",
    "refloss.witnesses.gradcheck",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    """The examples of one module; every loss has one."""
    if name.startswith("refloss.proof.") or name == "refloss.score.proofs_page":
        need("flint")
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    if name in EXAMPLES:
        assert result.attempted > 0
