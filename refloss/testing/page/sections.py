"""The parts of a report on the page, in the order in which a reader asks for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from refloss.record import STAGES
from refloss.testing.diagnosis.match import PARTLY, Match
from refloss.testing.diagnosis.rows import Arrow, Rows
from refloss.testing.diagnosis.suspects import SLIP
from refloss.testing.page.drawings import Angle, Log, arrows, scatter
from refloss.testing.page.markup import Html, box, folded, joined, listed, table, tag

if TYPE_CHECKING:
    from refloss.testing.report import CaseResult, Report

OTHER = "other"  # the column of what has no stage of its own
# errors in tolerances up to which each colour goes; what it says
COLOURS = ((0.1, "e0", "up to 0.1"), (1.0, "e1", "up to 1, all that is allowed"), (10.0, "e2", "✗ up to 10"),
           (1000.0, "e3", "✗ up to 1000"), (math.inf, "e4", "✗ more, or no number"))  # fmt: skip


def mark(report: Report) -> str:
    """The verdict as a symbol."""
    return "✓" if report.passed else "✗"


def sections(report: Report, name: str, level: int) -> Iterator[Html]:
    """Everything under the report's title; headings of this level, ids that begin with the name."""
    yield tag("p", f"{mark(report)} {report.verdict()}", class_="verdict")
    for line in report._ended():
        yield tag("p", line)
    if begins := report._begins():
        yield tag("p", begins[0].upper() + begins[1:])
    yield tag("p", f"Next: {report._next()}")
    parts = {
        "Facts": _facts(report), "Known bugs that it looks like": _suspects(report),
        "Error in tolerances, case by stage": _map(report), "The largest errors": _largest(report),
        "Error of every sample": _charts(report.rows),
        "The gradient of wrong rows": _arrows(report.arrows), "What else failed": _else(report),
        "What was reached": _coverage(report), "To reproduce": _reproducer(report), "Settings": _settings(report),
    }  # fmt: skip
    for k, (title, inside) in enumerate(parts.items()):
        if shown := list(inside):
            heading = tag(f"h{level}", title, id=f"{name}part{k}")
            yield tag("section", heading, *shown, aria_labelledby=f"{name}part{k}")


# -- why -------------------------------------------------------------------------------------------


def _facts(report: Report) -> Iterator[Html]:
    if report.facts:
        yield listed(joined([tag("strong", fact.sentence), f" ({fact.evidence})"]) for fact in report.facts)


def _suspects(report: Report) -> Iterator[Html]:
    if report.suspects:
        yield listed(_suspect(match) for match in report.suspects)
        yield tag(
            "p", "The share says how much of what is wrong the bug explains, less what it would get wrong besides.",
            class_="quiet",
        )  # fmt: skip


def _suspect(match: Match) -> Html:
    times = "" if match.factor == 1 else f", its error times {match.factor:.3g}"
    parts: list[object] = ["partly like " if match.match < PARTLY else "", tag("strong", match.name)]
    parts += [f" ({match.match:.0%}{times}): {match.explanation}"]
    parts += [f" Seen in: {match.seen_in}" if match.seen_in != SLIP else ""]
    if match.as_well:
        parts.append(f" It gets {', '.join(match.as_well)} wrong as well.")
    if match.but_not:
        parts.append(f" It does not get {', '.join(match.but_not)} wrong.")
    return joined(parts)


# -- how far off -----------------------------------------------------------------------------------


def _map(report: Report) -> Iterator[Html]:
    """A table with a row for each case, the wrong ones first."""
    seen = {s for result in report.results for s in (*result.grades, *(f.stage for f in result.failures))}
    columns = [stage for stage in STAGES if stage in seen] + [OTHER] * bool(seen - set(STAGES))
    if not columns:
        return
    groups = [(words, those) for words, those in (
        ("wrong", [r for r in report.results if r.failures]), ("right", [r for r in report.results if not r.failures]),
    ) if those]  # fmt: skip
    bodies = []
    for words, those in groups:
        many = f"{len(those)} case{'s' * (len(those) > 1)} {words}"
        first = tag("tr", tag("th", many, scope="rowgroup", colspan=len(columns) + 1), class_="group")
        rows = [
            tag("tr", tag("th", result.name, scope="row"), *(_cell(result, stage) for stage in columns))
            for result in those
        ]
        bodies.append(tag("tbody", first, *rows))
    head = tag("tr", tag("th", "case", scope="col"), *(tag("th", stage, scope="col") for stage in columns))
    yield tag("ul", *(tag("li", words, class_=c) for _, c, words in COLOURS), tag("li", "· did not come back"),
              class_="key")  # fmt: skip
    yield box(tag("table", tag("thead", head), *bodies, class_="map"), "error in tolerances, case by stage")
    why = [(r.name, r.shape, r.reason, ", ".join(r.flags)) for r in report.results]
    yield folded("What each case provokes", table(("case", "input", "why it is there", "flags"), why, "the cases"))


def _cell(result: CaseResult, stage: str) -> Html:
    """An error in tolerances, or what kind of failure it is if it has no size."""
    here = [f for f in result.failures if (f.stage == stage if stage != OTHER else f.stage not in STAGES)]
    kinds = dict.fromkeys(f.kind for f in here if f.kind != "value")
    if kinds:
        return tag("td", f"✗ {', '.join(kinds)}", class_="e4")
    if stage not in result.ratios:
        return tag("td", "·", class_="quiet")
    ratio = result.ratios[stage]
    wrong = bool(here)
    among = [colour for colour in COLOURS if (colour[0] > 1) is wrong]
    colour = next((c for most, c, _ in among if ratio <= most), among[-1][1])
    return tag("td", f"{'✗ ' * wrong}{number(ratio)}", class_=colour)


def number(ratio: float) -> str:
    """An error in tolerances, short."""
    if not math.isfinite(ratio):
        return "∞"
    if 0 < ratio < 0.01:
        return "<0.01"
    if ratio < 10_000:
        return f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"
    return f"{ratio:.0e}".replace("e+0", "e").replace("e+", "e")


def _largest(report: Report) -> Iterator[Html]:
    grid = report.grid()
    if grid.rows:
        yield table(grid.header, grid.rows, "the largest error of each stage", grid.wrong, grid.align)
    if failures := report.failures:
        worst = report._worst_lines()
        yield listed(worst)
        if len(failures) > len(worst):
            yield folded(f"All {len(failures)} failures", listed(failures))


def _charts(rows: Sequence[Rows]) -> Iterator[Html]:
    by_angle = [(t, e) for r in rows for t, e in zip(r.theta, r.error, strict=False) if not math.isnan(t)]
    by_size = [(z, e) for r in rows for z, e in zip(r.logit, r.error, strict=False) if z > 0]
    drawn = []
    if by_angle:
        drawn.append(_chart(by_angle, Angle(), "the target’s angle θ", "{:.3g}"))
    if by_size:
        sizes = [z for z, _ in by_size]
        drawn.append(_chart(by_size, Log(min(sizes), max(sizes), "the largest |z| of the sample"), "the largest |z|",
                            "{:.2g}"))  # fmt: skip
    if drawn:
        yield tag("p", "Each sample of each case with the worst of its own stages (not loss, ∂W and ∂b, which belong "
                       "to no sample): ● up to what is allowed, ✗ above.", class_="quiet")  # fmt: skip
        yield tag("div", *drawn, class_="charts")


def _chart(points: Sequence[tuple[float, float]], across: Angle | Log, what: str, form: str) -> Html:
    wrong = [x for x, error in points if error > 1]
    words = f"{len(points)} samples by {what}: none is wrong, the largest error is {number(max(e for _, e in points))}"
    if wrong:
        between = " to ".join(dict.fromkeys(form.format(end) for end in (min(wrong), max(wrong))))
        words = f"{len(points)} samples by {what}: {len(wrong)} are wrong, at {between}"
    return tag("figure", scatter(points, across, f"Error in tolerances against {what}. {words}."),
               tag("figcaption", f"Error in tolerances: {words}."))  # fmt: skip


# -- in the plane ----------------------------------------------------------------------------------

SAMPLE = Html(
    '<svg viewBox="0 0 48 12" aria-hidden="true"><g class="{name}"><path class="shaft" d="M3 6H45"></path></g></svg>'
)


def _arrows(drawn: Sequence[Arrow]) -> Iterator[Html]:
    if not drawn:
        return
    first = drawn[0]
    whose, own = ("class", "ŵ") if first.stage == "grad_W" else ("sample", "x̂")
    words = f"{first.stage} in case {first.case}, at most six of its wrong rows; {own} points to the right, and the "
    words += "longer of the two arrows is drawn at full length. "
    if first.dimensions > 2:
        spans = " and ".join(first.plane)
        words += f"Projected from {first.dimensions} dimensions on the plane of {spans}"
        if first.plane[1:] == ("ŵ_y",):
            words += " (that of x̂ and its tangent towards the target’s class)"
        others = any(arrow.plane != first.plane for arrow in drawn)
        words += ", or where these are parallel as it says; " if others else "; "
        words += "what of the gradient that came lies outside of it is told as a share."
    yield tag("p", words)
    key = [joined([Html(SAMPLE.format(name=name)), f" {said}"]) for name, said in (("due", "due"), ("got", "came"))]
    yield tag("ul", *(tag("li", item) for item in key), class_="key")
    yield tag("div", *(_panel(arrow, whose, arrow.plane != first.plane) for arrow in drawn), class_="panels")


def _panel(arrow: Arrow, whose: str, other_plane: bool) -> Html:
    words = f"{whose} {arrow.row}: ‖due‖ = {arrow.due_length:.3g}, "
    words += f"‖came‖ = {arrow.got_length:.3g}" if arrow.got else "what came is not finite"
    if arrow.got and arrow.due_length and arrow.got_length:
        (a, b), (c, d) = arrow.due, arrow.got
        if (a or b) and (c or d):
            words += f", {abs(math.degrees(math.atan2(a * d - b * c, a * c + b * d))):.3g}° apart"
    if arrow.outside > 0.005:
        words += f", {arrow.outside:.0%} outside of the plane"
    if other_plane:
        words += f"; plane of {' and '.join(arrow.plane)}"
    return tag("figure", arrows(arrow, f"Gradient due and gradient that came, {words}"), tag("figcaption", words))


# -- the rest --------------------------------------------------------------------------------------


def _else(report: Report) -> Iterator[Html]:
    """What is wrong besides sizes, and what could not be told."""
    said: list[object] = [f"the oracle is at fault: {fault}" for fault in report.oracle_faults]
    kinds: dict[tuple[str, str], list[str]] = {}
    for failure in report.failures:
        if failure.kind != "value":
            kinds.setdefault((failure.kind, failure.stage), []).append(str(failure))
    rows = [(kind, stage, len(those), those[0]) for (kind, stage), those in kinds.items()]
    if rows:
        yield table(("kind", "stage", "cases", "the first"), rows, "failures that are no size", align="llrl")
    said += [f"{stage} was not checked: no case would have caught {', '.join(copies)}"
             for stage, copies in report.not_checked.items()]  # fmt: skip
    said += [f"the law {law} is broken in {tried - held} of {tried} cases, first in {first}"
             for law, (held, tried, first) in report.laws.items() if held < tried]  # fmt: skip
    said += [f"note: {note}" for note in (*report.notes, *report.advice)]
    if said:
        yield listed(said)


def _coverage(report: Report) -> Iterator[Html]:
    said = []
    if report.laws:
        said.append("laws: " + ", ".join(f"{law} {held}/{tried}"
                                                    for law, (held, tried, _) in report.laws.items()))  # fmt: skip
    if report.not_reached:
        said.append(f"branches that the loss has and no case came to: {', '.join(report.not_reached)}")
    if report.underflow:
        few = ", ".join(f"{stage} {many}" for stage, many in report.underflow.items())
        said.append(f"entries below the normal numbers of {report.dtype}, judged by its spacing: {few}")
    if report.void:
        words = (
            "cases in which a wrong copy of a stage would have passed (each was caught in another case, or the stage "
        )
        said.append(f"{words}is named as not checked): {len(report.void)}")
    if said:
        yield listed(said)
    reached = [(name, many) for name, many in report.coverage.items() if many]
    if reached:
        shown = table(("branch or kind of case", "samples or cases"), reached, "what was reached", align="lr")
        yield folded(f"{len(reached)} branches and kinds of case reached", shown) if report.failures else shown


def _reproducer(report: Report) -> Iterator[Html]:
    if report.reproducer:
        yield tag("p", f"{report.shrunk}: the failing input with what it does not need left out.")
        yield tag("pre", tag("code", report.reproducer), tabindex=0, role="region", aria_label="code to reproduce it")


def _settings(report: Report) -> Iterator[Html]:
    chosen = f" ({report.chosen.strip()})" if report.chosen else ""
    rows = [
        ("checked", report.implementation), ("against", report.loss), ("framework", report.framework),
        ("dtype", report.dtype), ("grades A to C are computed in", report.compute),
        ("grade required", report._required), ("grade reached", report.grade or "none"),
        ("cases", f"{len(report.results)}{chosen}"), ("seed of the cases", report.seed),
        *((f"version of {name}", version) for name, version in report.versions.items()),
    ]  # fmt: skip
    yield table(("setting", "value"), rows, "settings")
