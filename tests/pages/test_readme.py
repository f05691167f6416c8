"""What the README prints is what comes out, and the links of all pages lead somewhere."""

from __future__ import annotations

import pytest

from pages.markdown import ROOT, anchors, code, links, read

PAGES = [
    str(path.relative_to(ROOT)) for where in ("", "docs/", "derivations/") for path in sorted(ROOT.glob(f"{where}*.md"))
]


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_something(page):
    """Every relative link of a page leads to a file or folder of the project, and to a heading of it."""
    for link in links(read(page)):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        there = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert there.exists(), link
        assert there.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), link


def test_two_commands_for_a_stranger():
    """The README prints exactly the install command and the test command, which CI runs as printed."""
    assert code(read("README.md"), "sh") == [
        "pip install . && refloss gradcheck\n",
        'pip install ".[test]" && pytest\n',
    ]
