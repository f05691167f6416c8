"""What the README prints is what comes out, and the links of all pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pages.markdown import ROOT, anchors, code, links, prose, read

PAGES = [
    str(path.relative_to(ROOT))
    for where in ("", "derivations/", "docs/", "docs/[!_n]*/")
    for path in sorted(ROOT.glob(f"{where}*.md"))
]


@pytest.mark.parametrize("page", PAGES)
def test_links_point_to_something(page):
    """Every relative link of a page leads to a file or folder of the project, and to a heading of it."""
    for link in links(prose(read(page))):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        there = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert there.exists(), link
        assert there.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), link


def called_by_file_name(text: str) -> list[str]:
    """The links to pages whose text is the page's file, "[softmax.md](softmax.md)", and not its title."""
    return [
        f"[{words}]({target})"
        for words, target in re.findall(r"\[([^\]\[]*)\]\(([^)\s#]+\.md)", text)
        if words.strip("`").endswith(".md") or words.strip("`") == Path(target).stem
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_to_pages_say_their_titles(page):
    assert called_by_file_name(prose(read(page))) == []


def test_file_names_are_noticed():
    right = "[Softmax](softmax.md), [the glossary](glossary.md), [softmax.py](../refloss/losses/softmax.py)"
    wrong = "[a_softmax.md](a_softmax.md#geometry), [`softmax`](../derivations/softmax.md)"
    assert called_by_file_name(right) == []
    assert called_by_file_name(wrong) == ["[a_softmax.md](a_softmax.md)", "[`softmax`](../derivations/softmax.md)"]


def test_two_commands_for_a_stranger():
    """The README prints exactly the install command and the test command, which CI runs as printed."""
    assert code(read("README.md"), "sh") == [
        "pip install . && refloss gradcheck\n",
        'pip install ".[test]" && pytest\n',
    ]
