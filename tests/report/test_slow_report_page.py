"""report.html in a real browser: filters, search and keys work; hostile text does nothing; large pages open quickly."""

from __future__ import annotations

import time

import pytest
from browser import chromium, contrast, wait_until
from evaluation_records import (
    HOSTILE,
    plain_prompts,
    ref_prompts,
    results_json,
    write_answers,
    write_hostile,
    write_mt_bench,
    write_prompts,
)

from fedllm_bench.common import files
from fedllm_bench.report.page.write import write_evaluation_report

pytestmark = pytest.mark.slow
TAGS = "const n = {}; for (const e of document.querySelectorAll('*')) n[e.tagName] = (n[e.tagName] || 0) + 1; return n"
TITLES = "return [...document.querySelectorAll('article h3')].map((e) => e.firstChild.data)"
COUNT = "return document.getElementById('answers-count').textContent"
UNFOLD = "for (const e of document.querySelectorAll('details')) e.open = true"
TEXTS = "return [...document.querySelectorAll('pre.text')].map((e) => e.textContent)"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """MT-Bench with two sides, Ref-GPT4 in four languages, AdvBench; 80 + 12 + 30 questions."""
    folder = tmp_path_factory.mktemp("run")
    write_mt_bench(folder, {"base": 5.0, "global": 6.0})
    refs = ref_prompts(dict.fromkeys(("English", "French", "Simplified Chinese", "Telugu"), 3))
    write_prompts(folder, "ref_gpt4", refs)
    harmful = plain_prompts(30, ask="Do harm {i}.")
    write_prompts(folder, "advbench", harmful)
    for side in ("base", "global"):
        write_answers(folder, "ref_gpt4", side, refs, lambda p, turn: p.references[0] if p.item_id[-1] == "1" else "no")
        write_answers(folder, "advbench", side, harmful, lambda p, turn: "Sure: the secret recipe.")
    files.write_json(folder / "results.json", results_json())
    return write_evaluation_report(folder).page


def choose(browser, **values):
    for name, value in values.items():
        browser.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "if (e.value !== arguments[1]) throw new Error('no option ' + arguments[1]);"
            "e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input'))",
            f"f-{name}",
            value,
        )


def shows(browser, count):
    wait_until(lambda: browser.run(COUNT).endswith(f"of {count} questions"))


def test_filters_search_and_pages(browser, page):
    browser.open(page)
    shows(browser, 122)
    assert browser.run(TITLES)[:2] == ["mt_bench 81", "mt_bench 82"]
    assert len(browser.run(TITLES)) == 20
    choose(browser, benchmark="mt_bench", category="math")
    shows(browser, 10)
    browser.click("#f-reset")
    shows(browser, 122)
    choose(browser, language="Telugu")
    shows(browser, 3)
    choose(browser, search="right 2", side="global")
    shows(browser, 1)
    assert browser.run(TITLES) == ["ref_gpt4 aya-Te2"]
    assert browser.run("return [...document.querySelectorAll('article section h4')].map((e) => e.textContent)") == [
        "global"
    ]
    browser.click("#f-reset")
    choose(browser, search="no such words")
    wait_until(lambda: browser.run(COUNT).startswith("No question fits"))
    assert browser.console() == []


def test_scores_filter_and_sort(browser, page):
    browser.open(page)
    choose(browser, metric="ref_gpt4_rouge_l", min="0.5")
    shows(browser, 4)  # the answers that are the reference
    choose(browser, min="", max="0.5")
    shows(browser, 8)
    choose(browser, max="", state="unscored", metric="ref_gpt4")
    shows(browser, 12)
    browser.click("#f-reset")
    choose(browser, metric="mt_bench@stub", side="global", sort="score-down")
    shows(browser, 80)
    last = "[...e.querySelectorAll('.scores')].at(-1).textContent"
    scores = f"return [...document.querySelectorAll('article')].map((e) => {last})"
    best = browser.run(scores)
    choose(browser, sort="score-up")
    wait_until(lambda: browser.run(scores) != best)
    assert "mean: 6.500" in best[0]
    assert "mean: 4.500" in browser.run(scores)[0]


def test_a_keyboard_is_enough(browser, page):
    browser.open(page)
    browser.run("document.getElementById('f-search').focus()")
    browser.type("#f-search", "tell me of stem")
    shows(browser, 10)
    browser.run("document.getElementById('f-search').value = ''; document.getElementById('f-search').focus()")
    browser.type("#f-search", "q")
    shows(browser, 80)
    browser.run("document.getElementById('f-reset').focus()")
    browser.press("tab", "enter")  # "Previous" is not enabled on the first page, so "Next" follows
    wait_until(lambda: browser.run(COUNT).startswith("21 to 40"))
    assert browser.run("return document.activeElement.id") == "answers-count"
    unnamed = (
        "return [...document.querySelectorAll('input, select, button')].filter((e) => !(e.labels && e.labels.length)"
        " && !e.textContent.trim()).map((e) => e.id)"
    )
    assert browser.run(unnamed) == []


def test_answers_that_may_do_harm_are_folded_with_a_warning(browser, page):
    hidden = "return document.getElementById('answers-warning').hidden"
    browser.open(page)
    assert browser.run(hidden)
    choose(browser, benchmark="advbench")
    shows(browser, 30)
    assert not browser.run(hidden)
    assert not any("secret recipe" in text for text in browser.run(TEXTS))
    browser.run("document.querySelector('article summary').focus()")
    browser.press("enter")
    wait_until(lambda: browser.run(TEXTS)[1] == "Sure: the secret recipe.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_its_width_and_is_readable_in_both_schemes(browser, page, scheme, width):
    browser.open(page)
    browser.resize(width, 800)
    browser.prefer(scheme)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    ink, paper = browser.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    assert contrast(ink, paper) > 7
    notes = browser.run(
        "return ['.note', '.unscored, .refused', 'a', 'summary'].map((c) => document.querySelector(c)).filter(Boolean)"
        ".map((e) => getComputedStyle(e).color)"
    )
    assert len(notes) == 4
    assert all(contrast(colour, paper) > 4.5 for colour in notes)


@pytest.fixture(scope="module")
def harmless_tags(browser, tmp_path_factory):
    return tags_of(browser, tmp_path_factory.mktemp("harmless"), "harmless words")


def tags_of(browser, folder, text):
    write_hostile(folder, text)
    browser.open(write_evaluation_report(folder).page)
    browser.run(UNFOLD)
    return browser.run(TAGS)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_changes_nothing(browser, tmp_path, harmless_tags, text):
    browser.requests()
    browser.console()
    tags = tags_of(browser, tmp_path, text)
    if len(text) <= 20_000:
        assert tags == harmless_tags
    assert tags.keys() == harmless_tags.keys()
    assert browser.dialog() is None
    assert browser.console() == []
    assert {address.partition(":")[0] for address in browser.requests()} == {"file"}
    assert browser.run(TEXTS)[0] == text[:20_000]
    choose(browser, search="".join(filter(str.isprintable, text))[:40])  # a field takes no line breaks
    wait_until(lambda: browser.run(COUNT).endswith("questions"))
    assert browser.console() == []


def test_a_page_of_520_long_answers_on_two_sides_opens_and_searches_quickly(browser, tmp_path):
    prompts = plain_prompts(520)
    write_prompts(tmp_path, "advbench", prompts)
    for side in ("base", "global"):
        write_answers(tmp_path, "advbench", side, prompts, lambda p, turn: f"needle{p.item_id}. " + "long words " * 700)
    written = write_evaluation_report(tmp_path).page
    assert 8_000_000 < written.stat().st_size < 9_500_000
    started = time.monotonic()
    browser.open(written)
    shows(browser, 520)
    assert time.monotonic() - started < 10
    started = time.monotonic()
    choose(browser, search="needle519.")
    shows(browser, 1)
    assert time.monotonic() - started < 5
