"""The site builds without a warning, and every page of it opens from a file, without a network, in a browser.

`docs/build.py` builds it into docs/_build/html. Every page is opened in headless Chromium at
the width of a desktop and of a phone.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from helpers import need, need_program

import refloss
from pages.markdown import ROOT, displayed, read

BUILD = ROOT / "docs" / "_build"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# what Chromium does on its own account is not to look like a request of a page
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the site, built once: of several pytest processes the others wait, and find it done."""
    for package in ("sphinx", "myst_parser", "furo", "sphinx_copybutton"):
        need(package)
    for program in ("node", "npm"):
        need_program(program)
    BUILD.mkdir(exist_ok=True)
    run, built_by = os.environ.get("PYTEST_XDIST_TESTRUNUID", "alone"), BUILD / "built_by"
    with need("filelock").FileLock(BUILD / "lock"):
        if run == "alone" or not built_by.exists() or built_by.read_text() != run:
            built = subprocess.run([sys.executable, ROOT / "docs" / "build.py"], capture_output=True, text=True)
            assert built.returncode == 0, built.stdout + built.stderr
            built_by.write_text(run)
    return BUILD / "html"


@pytest.fixture(scope="module")
def open_page() -> Iterator[Callable[..., Any]]:
    """open_page(**context) → an empty page of Chromium, without a network."""
    playwright = need("playwright.sync_api")
    chromium = need_program("chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        yield lambda **context: browser.new_context(viewport=DESKTOP, offline=True, **context).new_page()
        browser.close()


# -- what may be wrong with a page -----------------------------------------------------------------

LOOK = """() => {
  const faults = [];
  for (const image of document.images)
    if (!image.complete || image.naturalWidth === 0) faults.push(`no picture: ${image.src}`);
  for (const error of document.querySelectorAll(".katex-error")) faults.push(`formula: ${error.textContent}`);
  for (const formula of document.querySelectorAll(".katex-html")) {
    const box = formula.getBoundingClientRect();
    if (box.width === 0 || box.height === 0) faults.push(`formula without a size: ${formula.textContent}`);
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (/\\$/.test(text.data) && !text.parentElement.closest("pre, code, script, style, annotation"))
      faults.push(`unread formula: ${text.data.trim()}`);
  }
  const over = (box) => box.scrollWidth > box.clientWidth + 1;
  const cut = (selector) => [...document.querySelectorAll(selector)].filter(over);
  for (const formula of cut(".katex-display")) faults.push(`formula cut: ${formula.textContent}`);
  for (const code of cut(".highlight pre")) faults.push(`code cut: ${code.textContent}`);
  for (const table of cut(".table-wrapper"))
    if (!getComputedStyle(table).backgroundImage.includes("gradient")) faults.push(`table cut: ${table.textContent}`);
  for (const formula of document.querySelectorAll("article .katex")) {
    const box = formula.closest(".katex-display, .table-wrapper, article").getBoundingClientRect();
    if (formula.getBoundingClientRect().right > box.right + 1 && !formula.closest(".table-wrapper"))
      faults.push(`formula over the edge: ${formula.textContent}`);
  }
  const {scrollWidth, clientWidth} = document.documentElement;
  if (scrollWidth > clientWidth) faults.push(`${scrollWidth - clientWidth} px too wide`);
  return faults;
}"""


def faults_of(page: Any, urls: list[str]) -> list[str]:
    """Opens each in the page, wide and narrow, and says what is wrong."""
    faults: list[str] = []

    def note(what: str) -> None:
        faults.append(f"{page.url}: {what}")

    def on_request(request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            note(f"asks for {request.url}")

    page.on("console", lambda message: message.type == "error" and note(message.text))
    page.on("pageerror", lambda error: note(str(error)))
    page.on("request", on_request)
    page.on("requestfailed", lambda request: note(f"did not get {request.url}"))
    for url in urls:
        page.set_viewport_size(DESKTOP)
        page.goto(url)
        for width in (DESKTOP, PHONE):
            page.set_viewport_size(width)
            for fault in page.evaluate(LOOK):
                note(f"{fault} (at {width['width']} px)")
    return faults


WRONG = {
    "<img src='missing.svg'>": "no picture",
    "<span class='katex-error'>\\frac</span>": "formula: ",
    "<span class='katex-html'></span>": "formula without a size",
    "<p>$$ x $$</p>": "unread formula",
    "<p>and $x$</p>": "unread formula",
    "<p style='width: 600px'>wide</p>": "px too wide (at 390 px)",
    "<div class='katex-display' style='overflow: auto'><p style='width: 600px'>x</p></div>": "formula cut: x",
    f"<div class='highlight'><pre style='overflow: auto'>{99 * 'x'}</pre></div>": "code cut: x",
    "<div class='table-wrapper' style='overflow: auto'><p style='width: 600px'>x</p></div>": "table cut: x",
    "<article style='overflow: hidden'><p class='katex' style='width: 600px'>x</p></article>": "over the edge: x",
    "<script>console.error('said')</script>": "said",
    "<script>throw new Error('thrown')</script>": "thrown",
    "<script src='https://example.org/x.js'></script>": "asks for https://example.org/x.js",
    "<link rel='stylesheet' href='missing.css'>": "did not get",
}


@pytest.mark.parametrize("html", WRONG)
def test_wrong_pages_are_noticed(html, open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><body>{html}</body>", encoding="utf-8")
    assert WRONG[html] in "\n".join(faults_of(open_page(), [path.as_uri()]))


def test_a_right_page_has_no_faults(open_page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><body><p>Costs <code>$5</code>.</p></body>", encoding="utf-8")
    assert faults_of(open_page(), [path.as_uri()]) == []


# -- formulas --------------------------------------------------------------------------------------


def extension(name: str) -> Any:
    """A module of docs/_ext."""
    need("sphinx")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("text", "latex"), [
    ("z_j = s cos θ_j,  z_y = s cos(θ_y + m)", r"z_{j}=s\cos\theta_{j},\qquad z_{y}=s\cos(\theta_{y}+m)"),
    ("ŵ_j = W_j / ‖W_j‖", r"\hat{w}_{j}=W_{j}/\lVert W_{j}\rVert"),
    ("ψ = (−1)^k cos(mθ) − 2k on [a, b]", r"\psi=(-1)^{k}\cos(m\theta)-2k\text{on}[a,b]"),
    ("−Σ_c w_c t_ic", r"-\sum_{c}w_{c}t_{ic}"),
    ("log(q + √(q² + p/(1 − p)))  (B1), full=True", r"\log(q+\sqrt{q^2+p/(1-p)})\qquad\text{(B1)},\texttt{full=True}"),
])  # fmt: skip
def test_formulas_of_docstrings(text, latex):
    assert extension("docstring_maths").latex(text).replace(" ", "") == latex.replace(" ", "")


def test_where_a_formula_may_break():
    """Between the formulas of a list, not inside short brackets."""
    katex_html = extension("katex_html")
    assert katex_html.pieces(r"a = b, \qquad c_{x \qquad y} \left( d \qquad e \right)") == [
        "a = b, ", r" c_{x \qquad y} \left( d \qquad e \right)",
    ]  # fmt: skip
    assert katex_html.unbroken(r"\cos(\theta + m) + f(x) + \Big( a + b \Big) + (a - \frac{b) c}{d}") == (
        r"\cos({\theta + m}) + f(x) + \Big( a + b \Big) + (a - \frac{b) c}{d}"
    )


# -- the pages of the site -------------------------------------------------------------------------


def test_every_page_opens(site, open_page):
    """Formulas rendered and whole, pictures there, no error, no request, nothing cut or wider than the window.

    Of the pages of code, all made alike, those of the losses are opened, and the longest.
    """
    code = sorted((site / "code").rglob("*.html"), key=lambda path: path.stat().st_size)
    pages = sorted(set(site.rglob("*.html")) - set(code) - {site / "index.html"})
    assert len(pages) > 30
    pages += [*(site / "code" / "refloss" / "losses").iterdir(), code[-1]]
    faults = faults_of(open_page(), [path.as_uri() for path in pages])
    assert not faults, "\n".join(faults)


def test_every_displayed_formula_is_there(site):
    """As many as the Markdown has, of every page; a list of formulas in one display is one."""
    counted = 0
    for source in [*ROOT.glob("derivations/*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/[!_an]*/*.md")]:
        name = source.relative_to(ROOT)
        due = len(displayed(read(str(name))))
        page = site / name.with_suffix(".html")
        assert page.read_text(encoding="utf-8").count('<div class="math">') == due, source
        counted += due
    assert counted > 100


def test_formulas_of_docstrings_are_rendered(site):
    """One page a loss, each with its formula; those of the reference's other pages are the bounds'."""
    pages = sorted((site / "docs" / "api" / "losses").glob("*.html"))
    assert [page.stem for page in pages] == sorted([*refloss.losses(), "cross_entropy", "margin_softmax"])
    for page in [*pages, site / "docs" / "api" / "bounds.html"]:
        assert 'class="katex-display"' in page.read_text(encoding="utf-8"), page


def test_front_page(site, open_page):
    """index.html of the site's folder leads to it; its sidebar shows at most 20 entries, the learning path first."""
    page = open_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    assert page.inner_text("h1").startswith("refloss")
    entries = [entry.inner_text() for entry in page.query_selector_all(".sidebar-tree a") if entry.is_visible()]
    assert 10 < len(entries) <= 20
    assert entries[:5] == ["p − y", "Through a length", "Through an angle", "CosFace", "ArcFace"]


def test_the_outline_of_a_long_page_is_in_sight(site, open_page):
    page = open_page()
    page.goto((site / "derivations" / "arcface.html").as_uri())
    outline = page.query_selector(".toc-drawer").bounding_box()
    text = page.query_selector("article").bounding_box()
    assert text["x"] + text["width"] <= outline["x"] <= outline["x"] + outline["width"] <= DESKTOP["width"]
    page.set_viewport_size(PHONE)
    assert page.query_selector(".toc-drawer").bounding_box()["x"] >= PHONE["width"]


def test_pictures_lead_to_themselves_and_are_dark_in_the_dark(site, open_page):
    """White paper in the light; in the dark what was white is as dark as the page."""
    for scheme, filtered in (("light", False), ("dark", True)):
        page = open_page(color_scheme=scheme)
        page.goto((site / "docs" / "figures.html").as_uri())
        pictures = page.query_selector_all("article img")
        assert len(pictures) == read("docs/figures.md").count("](figures/") > 5
        for picture in pictures:
            assert picture.evaluate("p => p.parentElement.href === p.src")
            assert picture.evaluate("p => getComputedStyle(p).filter.includes('invert')") == filtered


def test_every_page_describes_itself(site):
    """By its title and its first sentences, for search engines; pages of code do not."""
    pages = [path for folder in ("docs", "derivations") for path in (site / folder).rglob("*.html")]
    pattern = r'<meta name="description" content="([^"]*)"'
    described = {path.name: re.findall(pattern, path.read_text(encoding="utf-8")) for path in pages}
    assert all(len(found) == 1 and 30 < len(found[0]) <= 200 for found in described.values()), described
    assert len({found[0] for found in described.values()}) == len(described)


def test_search_from_a_file(site, open_page):
    """Type a word on any page: there are results, and they lead to a page that has it."""
    page = open_page()
    page.goto((site / "docs" / "oracle.html").as_uri())
    page.fill(".sidebar-search", "ArcFace")
    page.press(".sidebar-search", "Enter")
    page.wait_for_selector("ul.search li a")
    page.wait_for_function("document.querySelectorAll('ul.search li a').length >= 5")
    page.click("ul.search li a")
    page.wait_for_load_state()
    assert "search.html" not in page.url
    assert "arcface" in page.inner_text("article").lower()


COLOURS = """() => [getComputedStyle(document.body).backgroundColor,
                    getComputedStyle(document.querySelector("article p")).color]"""


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(1, 2, 3)" by the accessibility guidelines, WCAG 2."""
    parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_light_and_dark(site, open_page):
    """The page is as the system is, the button changes it, and text stands out from the ground both times.

    Comments are upright: the hat of x̂ comes off a slanted letter.
    """
    url = (site / "derivations" / "arcface.html").as_uri()
    seen = {}
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        page.goto(url)
        ground, text = seen[scheme] = page.evaluate(COLOURS)
        assert page.evaluate("getComputedStyle(document.querySelector('.highlight .c1')).fontStyle") == "normal"
        dark, bright = sorted((luminance(ground), luminance(text)))
        assert (bright + 0.05) / (dark + 0.05) > 7  # the guidelines' ratio for text, AAA
    assert luminance(seen["light"][0]) > 0.5 > luminance(seen["dark"][0])
    chosen = []
    for _ in range(3):  # light, dark, as the system
        page.click(".theme-toggle:visible")
        chosen.append(page.evaluate(COLOURS))
    assert seen["light"] in chosen
    assert seen["dark"] in chosen


# -- links -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.links.add(value)
            if name == "id" and value:
                self.anchors.add(value)


def broken_links(folder: Path) -> list[str]:
    """Links that lead to no file or no anchor of the folder, or outside of it by anything but https."""
    pages = {path.resolve(): Page(path) for path in folder.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                well = (
                    parts.scheme in ("https", "data") and " " not in link and ("." in parts.netloc or not parts.netloc)
                )
            else:
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                anchor = unquote(parts.fragment)
                well = target.is_file() and target.is_relative_to(folder.resolve())
                if well and anchor and target in pages:
                    well = anchor in pages[target].anchors
            if not well:
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return sorted(broken)


def test_links(site):
    """Those outside are looked at only: they can be followed on another day, and not without a network."""
    assert broken_links(site) == []


def test_broken_links_are_noticed(tmp_path):
    (tmp_path / "a.html").write_text(
        "<a href='b.html'></a><a href='#here'></a><a href='a.html#there'></a><a href='https://example.org/'></a>"
        "<img src='c.svg'><a href='http://example.org/'></a><p id='here'></p><a href='../x.html'></a>"
    )
    links = [line.split(": ", 1)[1] for line in broken_links(tmp_path)]
    assert links == ["../x.html", "a.html#there", "b.html", "c.svg", "http://example.org/"]
