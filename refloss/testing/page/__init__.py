"""Reports of `refloss.testing.check` as one HTML file: no script, nothing from elsewhere, the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from refloss.testing.page.markup import Html, joined, tag
from refloss.testing.page.sections import mark, sections
from refloss.testing.page.style import STYLE

if TYPE_CHECKING:
    from refloss.testing.report import Report

# should a text ever get through as markup, the browser still runs and fetches nothing
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(reports: Sequence[tuple[str, Report]]) -> str:
    """One page for one report or several, each under its title; of several a table of their verdicts first.

    Args:
        reports (list of tuple): (title, Report), in the order in which they are to stand.

    Returns:
        str: the HTML.

    Raises:
        ValueError: there is no report.
    """
    if not reports:
        raise ValueError("reports must not be empty")
    if len(reports) == 1:
        ((title, report),) = reports
        return _whole(title, [_article(title, report, "", 1)])
    passed = sum(report.passed for _, report in reports)
    title = f"refloss check: {passed} of {len(reports)} passed"
    rows = [tag("li", tag("a", f"{mark(r)} {t}", href=f"#r{k}", class_="passed" if r else "failed"), ": ", r.verdict())
            for k, (t, r) in enumerate(reports, 1)]  # fmt: skip
    front = tag("header", tag("h1", title), tag("nav", tag("ul", *rows), aria_label="reports"))
    return _whole(title, [front, *(_article(t, r, f"r{k}", 2) for k, (t, r) in enumerate(reports, 1))])


def _article(title: str, report: Report, name: str, level: int) -> Html:
    """One report, its title a heading of that level."""
    inside = sections(report, name, level + 1)
    return tag("article", tag(f"h{level}", title), *inside, id=name or None, class_="good" if report else "bad")


def _whole(title: str, parts: Sequence[Html]) -> str:
    head = joined([
        Html('<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'),
        Html('<meta name="color-scheme" content="light dark">\n'),
        tag("title", title), Html(f"<style>{STYLE}</style>"),
    ])  # fmt: skip
    body = tag("main", *parts)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>'


__all__ = ["page"]
