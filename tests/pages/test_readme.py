"""What the README prints is what comes out, and its links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/oracle.md",
    "docs/findings.md",
    "docs/honest_matrix.md",
    "docs/kill_matrix.md",
]


def test_examples():
    """Every example of the README runs and prints what stands there."""
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert tried >= 10
    assert failed == 0


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_exist(page):
    """Every relative link of a page leads to a file or folder of the project."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_two_commands_for_a_stranger():
    """The README prints exactly the install command and the test command, which CI runs as printed."""
    commands = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert commands == ["pip install . && refloss gradcheck", 'pip install ".[test]" && pytest']
