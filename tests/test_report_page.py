"""The report page: what stands on it and in which order, nothing of a kernel's as markup, the same bytes, one file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import refloss
from refloss.testing import Case, check
from refloss.testing.diagnosis.match import Match
from refloss.testing.diagnosis.rows import Arrow, Rows
from refloss.testing.page import page
from refloss.testing.page.drawings import Angle, Log, power, scatter
from refloss.testing.page.markup import tag
from refloss.testing.page.sections import number
from refloss.testing.report import CaseResult, Failure, Report

LOSS = refloss.ArcFace(scale=8)
EVIL = "<script>alert('x')</script> & \"quoted\" \x1b[31m \ud800"
VOID = {"meta"}


def right(x, W, labels, upstream=1.0):
    out = LOSS.forward(x, W, labels)
    stages = {**out.stages(), **LOSS.backward(out, upstream).stages()}
    return {name: stages[name].astype(x.dtype) for name in ("theta", "logits", "loss", "grad_x", "grad_W")}


def three_times(x, W, labels, upstream=1.0):
    made = right(x, W, labels, upstream)
    return made | {"grad_x": 3 * made["grad_x"]}


def raises(x, W, labels, upstream=1.0):
    raise RuntimeError(EVIL)


@pytest.fixture(scope="module")
def failing():
    return check(three_times, LOSS, cases=["typical", "typical_two_dimensions"])


@pytest.fixture(scope="module")
def passing():
    return check(right, LOSS, cases=["typical"])


class Reader(HTMLParser):
    """Elements that are closed in order; headings, ids, links, texts of rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)
        if name == "tr":
            self.cells.append([])
        elif name in ("th", "td"):
            self.cells[-1].append("")
        elif re.fullmatch("h[1-6]", name):
            self.headings.append((int(name[1]), ""))

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if "tr" in self.open and self.open[-1] not in ("table", "tr"):
            self.cells[-1][-1] += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, words = self.headings[-1]
            self.headings[-1] = (level, words + data)

    def row(self, first):
        return next(cells for cells in self.cells if cells and cells[0].endswith(first))


def made_of(*failures, **options):
    results = [CaseResult("a", "why", ("flag",), "N = 1"), CaseResult("b", "", (), "", {"loss": "A"}, {"loss": 0.5})]
    results[0].failures += failures
    return Report("refloss.Softmax()", "f", "float32", "float32", "numpy", "C", results, **options)


# -- structure -------------------------------------------------------------------------------------


def test_a_failing_page_says_all_of_it_in_order(failing):
    match = Match("thrice", "An explanation.", "a/repository", 1.0)
    text = replace(failing, suspects=[match]).to_html()
    read = Reader(text)
    due = [
        "Facts", "Known bugs that it looks like", "Error in tolerances, case by stage", "The largest errors",
        "Error of every sample", "The gradient of wrong rows", "What was reached", "To reproduce", "Settings",
    ]  # fmt: skip
    assert [words for level, words in read.headings if level == 2] == due
    assert [level for level, _ in read.headings] == [1] + [2] * len(due)
    places = [text.index(words) for words in (
        "✗ FAILED: 2 of 2", "First stage that diverges: grad_x", "grad_x is 3 × what is due",
        "An explanation. Seen in: a/repository", 'class="map"', 'class="scatter"', 'class="shaft"', "import refloss",
        "seed of the cases",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "<svg" in text
    assert read.row("grade required")[1] == "C"
    assert read.row("version of numpy")[1] == np.__version__
    assert read.row("version of refloss")[1] == refloss.__version__


def test_a_passing_page_has_map_errors_and_coverage(passing):
    read = Reader(passing.to_html())
    due = ["Error in tolerances, case by stage", "The largest errors", "Error of every sample", "What was reached"]
    assert [words for _, words in read.headings[1:]] == [*due, "Settings"]
    assert "✓ PASSED with grade A" in passing.to_html()
    assert "✗" not in "".join(map("".join, read.cells))


def test_the_map_has_a_number_and_a_cross_and_a_kind(failing):
    read = Reader(failing.to_html())
    row = read.row("typical_two_dimensions")
    header = read.row("case")
    assert header == ["case", "theta", "logits", "loss", "grad_x", "grad_W"]
    ratio = next(r for r in failing.results if r.name == row[0]).ratios["grad_x"]
    assert row[header.index("grad_x")] == f"✗ {number(ratio)}"
    assert not any("✗" in cell for cell in (row[1], row[2], row[3], row[5]))
    odd = Reader(made_of(Failure("a", "loss", "exception", "m"), Failure("a", "odd", "shape", "m")).to_html())
    assert odd.row("case") == ["case", "loss", "other"]
    assert odd.row("a") == ["a", "✗ exception", "✗ shape"]
    assert odd.row("b") == ["b", "0.5", "·"]


@pytest.mark.parametrize(("ratio", "words"), [
    (0.0, "0"), (0.001, "<0.01"), (0.42, "0.42"), (123.4, "123"), (99.9, "1e+02"), (2e5, "2e5"), (2e15, "2e15"),
    (math.inf, "∞"), (math.nan, "∞"),
])  # fmt: skip
def test_numbers_are_short(ratio, words):
    assert number(ratio) == words


def test_what_else_failed(failing):
    report = made_of(
        Failure("a", "loss", "nondeterministic", "other bits"), not_checked={"grad_x": ["zero"]},
        laws={"linear": (1, 3, "a")}, notes=["a note"], oracle_faults=["fell out"],
    )  # fmt: skip
    text = report.to_html()
    for words in ("nondeterministic", "a: other bits", "no case would have caught zero", "a note", "fell out",
                  "the law linear is broken in 2 of 3 cases"):  # fmt: skip
        assert words in text
    assert "What else failed" not in failing.to_html()


def test_tables_and_pictures_can_be_read_out(failing):
    text = failing.to_html()
    read = Reader(text)
    assert ("html", {"lang": "en"}) in read.tags
    assert read.headings[0][1] in text[text.index("<title>") : text.index("</title>")]
    assert all(given.get("scope") for name, given in read.tags if name == "th")
    pictures = [given for name, given in read.tags if name == "svg"]
    assert all(given.get("aria-label") or given.get("aria-hidden") for given in pictures)
    ids = [given["id"] for _, given in read.tags if given.get("id")]
    assert len(ids) == len(set(ids))


def test_nothing_comes_from_elsewhere_and_nothing_runs(failing):
    text = failing.to_html()
    read = Reader(text)
    assert not {"script", "link", "img", "iframe", "object"} & {name for name, _ in read.tags}
    assert not [
        given for _, given in read.tags if {"src", "style"} & set(given) or any(k.startswith("on") for k in given)
    ]
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 500_000


# -- whatever a kernel says ------------------------------------------------------------------------


def test_texts_of_a_kernel_are_text():
    report = check(raises, LOSS, cases=["typical"])
    report.implementation = EVIL
    text = report.to_html()
    Reader(text)
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp;" in text
    assert "\x1b" not in text
    text.encode()


def test_every_field_is_escaped():
    report = replace(
        made_of(Failure("a", EVIL, EVIL, EVIL)), loss=EVIL, notes=[EVIL], advice=[EVIL], not_reached=[EVIL],
        shrunk=EVIL, reproducer=EVIL, laws={EVIL: (0, 1, EVIL)}, coverage={EVIL: 1}, versions={EVIL: EVIL},
        underflow={EVIL: 1}, not_checked={EVIL: [EVIL]}, oracle_faults=[EVIL],
        arrows=[Arrow(EVIL, EVIL, 0, (EVIL,), 3, (1.0, 0.0), (), (), 1.0, math.inf, 0.0)],
    )  # fmt: skip
    read = Reader(page([(EVIL, report), (EVIL, report)]))
    assert "script" not in {name for name, _ in read.tags}
    assert tag("p", "<b>", title='"') == '<p title="&quot;">&lt;b&gt;</p>'


# -- bytes and files -------------------------------------------------------------------------------


def test_the_same_report_gives_the_same_bytes(tmp_path, failing, passing):
    text = failing.to_html(str(tmp_path / "a.html"))
    assert failing.to_html() == text
    assert check(right, LOSS, cases=["typical"]).to_html() == passing.to_html()
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == text + "\n"


def test_a_path_that_cannot_be(tmp_path, passing):
    with pytest.raises(FileNotFoundError):
        passing.to_html(str(tmp_path / "none" / "a.html"))
    with pytest.raises(IsADirectoryError):
        passing.to_html(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_several_reports_on_one_page(failing, passing):
    text = page([("first", failing), ("second", passing)])
    read = Reader(text)
    assert read.headings[0] == (1, "refloss check: 1 of 2 passed")
    assert [words for level, words in read.headings if level == 2] == ["first", "second"]
    links = [given["href"] for name, given in read.tags if name == "a"]
    ids = [given["id"] for _, given in read.tags if given.get("id")]
    assert links == ["#r1", "#r2"]
    assert set(link[1:] for link in links) <= set(ids)
    assert len(ids) == len(set(ids))
    with pytest.raises(ValueError, match="reports must not be empty"):
        page([])


def test_what_is_drawn_is_not_in_the_json(failing):
    assert failing.rows
    assert failing.arrows
    assert not {"rows", "arrows"} & set(json.loads(failing.to_json()))


# -- what is drawn ---------------------------------------------------------------------------------


def test_the_error_of_every_sample(failing):
    """Above 1 just where grad_x is wrong; the record's angles and logits."""
    drawn = next(rows for rows in failing.rows if rows.case == "typical")
    case = next(c for c in refloss.testing.cases(LOSS) if c.name == "typical")
    out = LOSS.forward(case.inputs["x"], case.inputs["W"], case.labels)
    np.testing.assert_allclose(drawn.theta, out.theta)
    np.testing.assert_allclose(drawn.logit, np.abs(out.logits).max(axis=1))
    assert min(drawn.error) > 1


def test_wrong_rows_alone_are_above_1_and_drawn_and_projected():
    def kernel(x, W, labels, upstream=1.0):
        made = right(x, W, labels, upstream)
        made["grad_x"][2:4] *= np.array([[np.nan], [5]], x.dtype)
        return made

    report = check(kernel, LOSS, cases=["typical"])
    errors = report.rows[0].error
    assert [k for k, error in enumerate(errors) if error > 1] == [2, 3]
    assert errors[2] == math.inf > errors[3]
    assert [(a.stage, a.row, bool(a.got)) for a in report.arrows] == [("grad_x", 2, False), ("grad_x", 3, True)]
    assert report.arrows[1].outside > 0.01
    text = report.to_html()
    assert "Projected from 8 dimensions on the plane of x̂ and ŵ_y" in text
    assert "what came is not finite" in text
    assert "outside of the plane" in text


def test_rows_of_every_stage_that_a_loss_has():
    """Stages of one number a sample and of one a class go together."""

    def every(x, W, labels, upstream=1.0):
        out = LOSS.forward(x, W, labels)
        return {**out.stages(), **LOSS.backward(out, upstream).stages()}

    (rows,) = check(every, LOSS, dtype="float64", cases=["typical"]).rows
    assert len(rows.error) == 12
    assert max(rows.error) <= 1


def test_bare_logits_have_no_angle_and_no_arrows():
    loss = refloss.CrossEntropy()
    report = check(lambda logits, targets: {"loss": 2 * loss.forward(logits, targets).loss.astype(logits.dtype),
                                            "grad_logits": np.zeros_like(logits)}, loss, cases=["typical"])  # fmt: skip
    assert report.rows[0].theta == ()
    assert report.arrows == []
    assert report.to_html().count('class="scatter"') == 1


def test_an_ignored_row_has_no_angle():
    loss = refloss.ArcFace(scale=8, ignore_index=-100)
    x, W = np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([[2.0, 1.0], [0.5, 1.0]])
    case = Case("mine", "", (), {"x": x, "W": W}, np.array([1, -100]))
    report = check(lambda x, W, labels: {"theta": loss.forward(x, W, labels).theta.astype(x.dtype)}, loss, cases=[case])
    assert [math.isnan(t) for t in report.rows[0].theta] == [False, True]


def test_arrows_lie_in_the_plane_of_two_dimensions(failing):
    """The case of two dimensions is drawn, where nothing lies outside; got is 3 × due."""
    assert {arrow.case for arrow in failing.arrows} == {"typical_two_dimensions"}
    for arrow in failing.arrows:
        assert (arrow.dimensions, arrow.plane) == (2, ("x̂", "ŵ_y"))
        np.testing.assert_allclose(arrow.got, 3 * np.array(arrow.due), rtol=1e-5, atol=1e-7)
        assert math.hypot(*arrow.got) == pytest.approx(1)
        assert math.hypot(*arrow.target) == pytest.approx(1)
        assert arrow.outside < 1e-6
    assert "Projected from" not in failing.to_html()


def test_the_largest_numbers_are_drawn():
    rows = [Rows("a", (1e308, 0.0, math.inf), (1e308, 5e-324, 1.0), (0.0, math.pi, math.nan))]
    Reader(replace(made_of(), rows=rows).to_html())


def test_the_scatter_has_dots_below_and_crosses_above():
    drawn = scatter([(0.0, 0.5), (1.0, 2.0), (2.0, math.inf), (2.0, math.inf)], Angle(), "words")
    (dots,), (crosses,) = (re.findall(rf'class="{name}" d="([^"]*)"', drawn) for name in ("dots", "crosses"))
    assert dots.count("h0") == 1
    assert crosses.count("M") == 2
    assert ">∞<" in drawn


def test_powers_of_ten_are_few_and_named():
    for least, most in ((1e-2, 10.0), (1e-300, 1e300), (3.0, 3.0)):
        ticks = Log(least, most).ticks()
        assert 1 <= len(ticks) <= 7
        assert all(0 <= share <= 1 for share, _ in ticks)
    assert [power(k) for k in (-2, 0, 3, -12)] == ["0.01", "1", "1000", "10⁻¹²"]
