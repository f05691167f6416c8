"""The page's pictures, as inline SVG whose colours are the page's own: a scatter on a log scale, arrows in a plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

from refloss.testing.diagnosis.rows import Arrow
from refloss.testing.page.markup import Html, tag

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 14, 44
LEAST = 1e-2  # tolerances: what is smaller stands at the foot
SIDE, REACH = 200, 84  # of an arrow's picture, and of the longer arrow


def scatter(points: Sequence[tuple[float, float]], across: Axis, label: str) -> Html:
    """Errors in tolerances over something: dots up to 1, crosses above, those that are not finite along the top.

    points: (what lies across, error). Points that fall on the same place of the picture are drawn once.
    """
    up = Log(LEAST, max((y for _, y in points if 10 < y < math.inf), default=10.0))
    dots: set[tuple[int, int]] = set()
    crosses: set[tuple[int, int]] = set()
    for x, y in points:
        place = (_x(across.share(x)), TOP if math.isinf(y) else _y(up.share(max(y, LEAST))))
        (crosses if y > 1 else dots).add(place)
    parts = [*_frame(across, up)]
    parts.append(tag("path", class_="dots", d="".join(f"M{x} {y}h0" for x, y in sorted(dots - crosses))))
    parts.append(tag("path", class_="crosses", d="".join(f"M{x - 3} {y - 3}l6 6m0-6l-6 6" for x, y in sorted(crosses))))
    parts.append(_text(WIDTH - RIGHT - 2, _y(up.share(1)) - 4, "allowed", "end", class_="quiet"))
    if any(math.isinf(y) for _, y in points):
        parts.append(_text(LEFT - 6, TOP + 4, "∞", "end"))
    return tag(
        "svg", tag("title", label), *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label,
        class_="scatter",
    )  # fmt: skip


class Axis:
    """From numbers to shares of an axis, with the places of its ticks."""

    title = ""

    def share(self, value: float) -> float:
        raise NotImplementedError

    def ticks(self) -> list[tuple[float, str]]:
        raise NotImplementedError


class Angle(Axis):
    """0 to π."""

    title = "the target’s angle θ"

    def share(self, value: float) -> float:
        return value / math.pi

    def ticks(self) -> list[tuple[float, str]]:
        return [(k / 4, name) for k, name in enumerate(("0", "π/4", "π/2", "3π/4", "π"))]


class Log(Axis):
    """Powers of ten, at most seven of which are named."""

    def __init__(self, least: float, most: float, title: str = "") -> None:
        self.low, self.high = math.floor(math.log10(least)), math.ceil(math.log10(most))
        self.high += self.high == self.low
        self.title = title

    def share(self, value: float) -> float:
        return min(max((math.log10(value) - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        step = next(k for k in count(1) if (self.high - self.low) / k <= 6)
        powers = [k for k in range(self.low, self.high + 1) if k % step == 0]
        return [((k - self.low) / (self.high - self.low), power(k)) for k in powers]


def power(exponent: int) -> str:
    """10 to that."""
    plain = {-2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1000"}
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return plain.get(exponent, f"10{digits}")


def _x(share: float) -> int:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT))


def _y(share: float) -> int:
    return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP - 14))  # above it lies what is not finite


def _text(x: float | str, y: float | str, words: str, anchor: str = "middle", **more: object) -> Html:
    return tag("text", words, x=x, y=y, text_anchor=anchor, **more)


def _frame(across: Axis, up: Log) -> list[Html]:
    """Axes, ticks and the line of what is allowed."""
    parts = []
    for share, name in up.ticks():
        y, allowed = _y(share), name == "1"
        name = name if share else f"≤ {name}"
        line = f"M{LEFT} {y}H{WIDTH - RIGHT}"
        parts += [tag("path", class_="allowed" if allowed else "grid", d=line), _text(LEFT - 6, y + 4, name, "end")]
    foot = HEIGHT - BOTTOM
    for share, name in across.ticks():
        x = _x(share)
        parts += [tag("path", class_="axis", d=f"M{x} {foot}v4"), _text(x, foot + 17, name)]
    parts.append(tag("path", class_="axis", d=f"M{LEFT} {TOP}V{foot}H{WIDTH - RIGHT}"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, across.title))
    return parts


# -- arrows ----------------------------------------------------------------------------------------


def arrows(arrow: Arrow, label: str) -> Html:
    """The gradient that is due, broad, and the one that came, dashed; x̂ to the right, ŵ_y at its angle."""
    c = SIDE / 2
    own, *_ = arrow.plane or ("",)
    parts = [tag("path", class_="axis", d=f"M{c} {c}H{SIDE - 8}"), _text(SIDE - 10, c + 14, own, "end", class_="quiet")]
    if arrow.target:
        u, v = arrow.target
        parts.append(tag("path", class_="axis", d=f"M{c} {c}L{_at(c + u * 92)} {_at(c - v * 92)}"))
        parts.append(_text(_at(c + u * 86 + 8), _at(c - v * 86 + (12 if v < 0 else -4)), "ŵ", class_="quiet"))
    for name, ends in (("due", arrow.due), ("got", arrow.got)):
        if ends:
            parts.append(_arrow(name, c, *ends))
    return tag("svg", tag("title", label), *parts, viewBox=f"0 0 {SIDE} {SIDE}", role="img", aria_label=label,
               class_="arrows")  # fmt: skip


def _arrow(name: str, c: float, u: float, v: float) -> Html:
    """One of them, with its head; a dot if it has no length to be seen."""
    x, y, length = c + REACH * u, c - REACH * v, math.hypot(u, v)
    if length * REACH < 3:
        return tag("circle", class_=name, cx=c, cy=c, r=4 if name == "due" else 2.5)
    du, dv = u / length, -v / length
    head = [(x - 9 * du + s * 5 * dv, y - 9 * dv - s * 5 * du) for s in (1, -1)]
    (ax, ay), (bx, by) = head
    shaft = tag("path", class_="shaft", d=f"M{c} {c}L{_at(x)} {_at(y)}")
    tip = tag("path", class_="tip", d=f"M{_at(ax)} {_at(ay)}L{_at(x)} {_at(y)}L{_at(bx)} {_at(by)}")
    return tag("g", shaft, tip, class_=name)


def _at(value: float) -> str:
    return f"{value:.1f}"
