"""The report page in Chromium: as the docs have it, and one whose kernel wants to run a script.

tests/pages/test_site.py opens the docs' two with all other pages in a light scheme.
"""

from __future__ import annotations

import pytest

from pages.test_site import COLOURS, faults_of, luminance, open_page, site  # noqa: F401
from refloss.testing.page import page
from refloss.testing.report import CaseResult, Failure, Report

# how much higher each is than its summary
FOLDED = """() => [...document.querySelectorAll("details")].map(
    d => d.getBoundingClientRect().height - d.firstElementChild.getBoundingClientRect().height)"""
EVIL = "</title></style></pre><script>console.error('ran')</script><img src=x onerror=alert(1)>" + "x" * 400


def evil():
    results = [CaseResult("a" * 90, EVIL, (EVIL,), EVIL, failures=[Failure("a", "loss", "exception", EVIL)])]
    return Report(EVIL, EVIL, "float32", "float32", "numpy", "C", results, reproducer=EVIL, shrunk=EVIL)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_both_schemes(scheme, site, open_page, tmp_path):  # noqa: F811
    """Nothing wider than the window, no error, no request; text stands out from the ground."""
    (tmp_path / "evil.html").write_text(page([(EVIL, evil()), ("again", evil())]), encoding="utf-8")
    paths = [site / "_static" / "reports" / f"{name}.html" for name in ("failing", "passing")]
    for path in (*paths, tmp_path / "evil.html"):
        tab = open_page(color_scheme=scheme)
        faults = faults_of(tab, [path.as_uri()])
        assert not faults, "\n".join(faults)
        ground, text = tab.evaluate(COLOURS.replace("document.body", "document.documentElement"))
        dark, bright = sorted((luminance(ground), luminance(text)))
        assert (bright + 0.05) / (dark + 0.05) > 7
        assert (luminance(ground) > 0.5) is (scheme == "light")


def test_on_paper_it_is_light_and_nothing_is_folded(site, open_page):  # noqa: F811
    tab = open_page(color_scheme="dark")
    tab.goto((site / "_static" / "reports" / "failing.html").as_uri())
    assert max(tab.evaluate(FOLDED)) < 1
    tab.emulate_media(media="print")
    assert min(tab.evaluate(FOLDED)) > 10
    ground, _ = tab.evaluate(COLOURS.replace("document.body", "document.documentElement"))
    assert luminance(ground) > 0.5


def test_the_docs_link_to_both(site):  # noqa: F811
    text = (site / "docs" / "tutorials" / "read_a_report.html").read_text(encoding="utf-8")
    for name, verdict in (("failing", "✗ FAILED: 7 of 16 quick cases"), ("passing", "✓ PASSED")):
        assert f"../../_static/reports/{name}.html" in text
        assert verdict in (site / "_static" / "reports" / f"{name}.html").read_text(encoding="utf-8")
