"""HTML in which a text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Markup; any other string is text."""


def text(words: object) -> Html:
    """The words as they are to be read, whatever they hold; control characters and lone surrogates as their escapes."""
    if isinstance(words, Html):
        return words
    legal = (c if c in "\t\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in str(words))
    return Html(escape("".join(legal)))


def joined(parts: Iterable[object]) -> Html:
    """One after the other."""
    return Html("".join(map(text, parts)))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element. An attribute of None is left out; class_ is class, aria_label is aria-label."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    given = "".join(f' {key}="{text(value)}"' for key, value in named.items())
    return Html(f"<{name}{given}>{joined(inside)}</{name}>")


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], label: str, wrong: Sequence[bool] = (), align: str = ""
) -> Html:
    """A table in a box of its own, in which it scrolls where the window is narrow; the first cell of a row heads it.

    align has a letter for each column, "r" for numbers; rows that are wrong have a cross before their first cell.
    """
    classes = ["number" if letter == "r" else None for letter in align] or [None] * len(header)
    head = tag("tr", *(tag("th", name, scope="col", class_=c) for name, c in zip(header, classes, strict=True)))
    body = []
    for k, (first, *others) in enumerate(rows):
        is_wrong = k < len(wrong) and wrong[k]
        cells = [tag("td", cell, class_=c) for cell, c in zip(others, classes[1:], strict=True)]
        mark = [tag("span", "✗ ", class_="cross")] if is_wrong else []
        body.append(tag("tr", tag("th", *mark, first, scope="row"), *cells, class_="wrong" if is_wrong else None))
    return box(tag("table", tag("thead", head), tag("tbody", *body)), label)


def box(inside: Html, label: str) -> Html:
    """A box that scrolls from side to side, by the keyboard too."""
    return tag("div", inside, class_="wide", role="region", aria_label=label, tabindex=0)


def folded(summary: object, *inside: object) -> Html:
    """What is opened by a click, and is open on paper."""
    return tag("details", tag("summary", summary), *inside)


def listed(items: Iterable[object]) -> Html:
    """An unordered list."""
    return tag("ul", *(tag("li", item) for item in items))
