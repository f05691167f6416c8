"""A question in the words that people use leads to the page that answers it, with an excerpt, from a file."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from pages.test_site import open_page, site

__all__ = ["open_page", "site"]  # fixtures

# what is typed → the page, or pages, one of which is to be among the first two hits
QUESTIONS = {
    "my arcface gradient is NaN": "gradient_is_nan",
    "gradient nan but loss is finite": "gradient_is_nan",
    "arccos infinite slope NaN fp16": "gradient_is_nan",
    "NaN": "gradient_is_nan",
    "bf16 cross entropy tolerance": "which_tolerance",
    "which rtol atol for bfloat16": "which_tolerance",
    "assert_close tolerance AMP": "which_tolerance",
    "how to test a Triton cross entropy backward": "triton_backward",
    "test triton kernel without GPU CI": "triton_backward",
    "vocab parallel cross entropy gradient": "vocabulary_parallel",
    "tensor parallel": "vocabulary_parallel",
    "class parallel softmax all-reduce": "vocabulary_parallel",
    "label smoothing gradient with class weights": "label_smoothing_and_class_weights",
    "torch label_smoothing weight CE grad": "label_smoothing_and_class_weights",
    "gradient off by a factor of N": "off_by_a_factor",
    "backward is wrong by a constant factor": "off_by_a_factor",
    "gradient twice too large": "off_by_a_factor",
    "my gradient is N times too large": "off_by_a_factor",
    "my gradient is scaled, ratio to autograd constant": "off_by_a_factor",
    "grad does not match autograd": "off_by_a_factor",
    "ignore_index padding mean": "ignored_rows_and_means",
    "gradient accumulation gives a different loss": "ignored_rows_and_means",
    "pytorch cross entropy reduction mean weights": "torch_reduction",
    "which reduction is torch's": "torch_reduction",
    "loss differs from torch": "torch_reduction",
}
OTHERS = {
    "logsumexp": ("derivations/cross_entropy", "derivations/precision", "derivations/softmax", "docs/questions"),
    "bf16": ("docs/questions/which_tolerance", "docs/findings", "docs/oracle"),
    "derive arcface gradient": ("derivations/arcface", "docs/learn"),
    "softmax": ("derivations/softmax", "docs/learn"),
    "arcface": ("derivations/arcface", "docs/learn"),
    "l-softmax": ("derivations/l_softmax",),
    "cosface": ("derivations/am_softmax", "docs/learn/cosface"),
    "python install": ("README", "docs/index", "CONTRIBUTING", "docs/tutorials"),
}
WANTED = {question: (f"docs/questions/{page}",) for question, page in QUESTIONS.items()} | OTHERS


@pytest.fixture(scope="module")
def search(site, open_page):
    """search(words) → (address without the site's folder, title, excerpt, its marked words) of each hit, in order."""
    page = open_page()

    def asked(words: str) -> list[tuple[str, str, str, list[str]]]:
        page.goto(f"{(site / 'search.html').as_uri()}?q={quote(words)}")
        page.wait_for_function("/Search Results/.test(document.querySelector('#search-results h2')?.textContent)")
        hits = page.evaluate(
            """() => [...document.querySelectorAll("ul.search li")].map(hit => [
                hit.querySelector("a").href, hit.querySelector("a").textContent,
                hit.querySelector(".context")?.textContent ?? "",
                [...hit.querySelectorAll(".context .highlighted")].map(word => word.textContent)])"""
        )
        return [(url.removeprefix(f"{site.as_uri()}/"), *rest) for url, *rest in hits]

    return asked


@pytest.mark.parametrize("question", WANTED)
def test_a_question_leads_to_its_page(question, search):
    """As the first or second hit, with an excerpt that has one of the words asked for."""
    first = search(question)[:2]
    found = [hit for hit in first if hit[0].startswith(WANTED[question])]
    assert found, first
    _, _, excerpt, marked = found[0]
    assert marked, excerpt
    assert len(excerpt) > 40


def test_a_hit_leads_to_the_section(search, site, open_page):
    """Its address has the anchor of a heading, under which the words of the excerpt stand."""
    address, title, excerpt, _ = search("nothing flows back through a row of zeros")[0]
    page = open_page()
    page.goto(f"{site.as_uri()}/{address}")
    heading, _, text = page.inner_text(f"[id='{address.partition('#')[2]}']").partition("\n")
    assert title.endswith(f"› {heading.rstrip('#')}")
    assert excerpt.strip(" …").split(".")[0][:60] in " ".join(text.split())


def test_a_name_of_the_reference_comes_first(search):
    address, title, *_ = search("refloss.testing.check")[0]
    assert (address, title) == ("docs/api/testing.html#refloss.testing.check", "refloss.testing.check")


def test_an_excerpt_begins_with_a_sentence(search):
    """And not within a table, where there is a sentence that has one of the words."""
    assert search("grad wrong by factor of N")[0][2].startswith("What the factors mean")
    assert search("vocab parallel cross entropy all_reduce")[0][2].startswith("… ∂L/∂W is the rank’s own")


def test_it_says_how_many_pages_there_are(site, open_page):
    page = open_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=softmax+gradient")
    page.wait_for_selector("ul.search li:nth-child(20)")
    told = re.fullmatch(r"(\d+) pages have one of the words\. The best 20:", page.inner_text("p.search-summary"))
    assert told, page.inner_text("p.search-summary")
    assert page.locator("ul.search li").count() == 20 < int(told[1])


def test_words_that_are_nowhere_find_nothing(search):
    assert search("qwertyuiop zxcvbnm") == []
