"""The site of the leaderboard in a real browser: sort, filter, open, themes, keys; nothing from outside, no error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from board_entries import TRACK, entry, full
from board_in_browser import COUNT, METHODS, SORT, choose, column_of, head
from board_submissions import write_method
from browser import chromium, contrast, wait_until

from fedllm_bench.leaderboard.ranking.standing import board_of
from fedllm_bench.leaderboard.site.board_page import board_page
from fedllm_bench.leaderboard.site.build import build

pytestmark = pytest.mark.slow
LEVELS = {"fedavg": 0.5, "fedprox": 0.52, "scaffold": 0.7, "fedavgm": 0.6, "local": 0.3}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("board")
    for method, level in LEVELS.items():
        write_method(root / "submissions", method, level, kind="canary" if method == "local" else "method")
    write_method(root / "submissions", HOSTILE, 0.4, made_by="fedavg", seeds=(0,), slug="2026-02-01_hostile",
                 date="2026-02-01", answer="</script><script>alert(1)</script>", tuning=HOSTILE)  # fmt: skip
    build(root / "submissions", root / "out")
    return root / "out"


def test_many_processes_write_what_one_does(site, monkeypatch, tmp_path):
    monkeypatch.setattr("fedllm_bench.leaderboard.site.build.FEW", 2)
    build(site.parent / "submissions", tmp_path / "out", jobs=2)
    folders = (tmp_path / "out", site)
    ours, theirs = ({p.relative_to(of): p.read_bytes() for p in of.rglob("*") if p.is_file()} for of in folders)
    assert ours == theirs
    assert len(ours) == 6 + 6 * 2


def test_the_table_sorts_by_each_column_and_says_so(browser, site):
    browser.open(site / "index.html")
    assert browser.run(METHODS)[0] == "scaffold"
    exact, method = column_of(browser, "mini_exact"), column_of(browser, "method")
    browser.click(head(exact))
    assert browser.run(SORT)[exact - 1] == "descending"
    best_first = browser.run(METHODS)
    assert (best_first[0], best_first[-1]) == ("scaffold", "local")
    browser.click(head(exact))
    assert browser.run(SORT)[exact - 1] == "ascending"
    assert browser.run(METHODS) == best_first[::-1]
    browser.click(head(method))
    assert browser.run(METHODS)[-1] == "scaffold"
    assert browser.run(SORT).count(None) == len(browser.run(SORT)) - 1
    browser.click(head(1))
    assert browser.run(METHODS)[-2:] in ([HOSTILE, "local"], ["local", HOSTILE])  # what has no rank is last
    assert browser.console() == []


def test_rows_are_filtered_by_words_kind_and_tier(browser, site):
    browser.open(site / "index.html")
    assert browser.run(COUNT) == "6 of 6 rows"
    browser.type("#f-search", "FEDAVG")
    assert sorted(browser.run(METHODS)) == ["fedavg", "fedavgm"]
    assert browser.run(COUNT) == "2 of 6 rows"
    browser.click("#f-reset")
    for kind, expected in (("ranked", 4), ("unranked", 1), ("canary", 1)):
        choose(browser, "kind", kind)
        assert len(browser.run(METHODS)) == expected
    browser.click("#f-reset")
    choose(browser, "tier", "recomputed")
    assert browser.run(COUNT) == "6 of 6 rows"
    choose(browser, "search", "no such method")
    assert browser.run(COUNT).startswith("No row fits")
    assert browser.console() == []


def test_a_submission_and_its_answers_open_without_a_request_to_another_host(browser, site):
    browser.requests()
    browser.open(site / "index.html")
    browser.run("[...document.querySelectorAll('#board tbody a')].find((a) => a.textContent === 'scaffold').click()")
    wait_until(lambda: browser.run("return document.title").startswith("scaffold"))
    assert browser.run("return document.querySelectorAll('svg.curve polyline').length") == 3
    assert "fedllm-bench bench aya scaffold" in browser.run("return document.getElementById('reproduce').textContent")
    browser.run("[...document.querySelectorAll('nav a')].find((a) => a.textContent === 'Answers').click()")
    wait_until(lambda: browser.run("return document.querySelectorAll('article').length") == 20)
    assert browser.run("return [...document.querySelectorAll('article')][0].querySelectorAll('.answer').length") == 4
    assert {address.partition(":")[0] for address in browser.requests()} == {"file"}
    assert browser.console() == []
    assert browser.dialog() is None


def test_hostile_names_and_answers_are_text(browser, site):
    for page in ("index.html", "answers.html"):
        browser.open(site / "submissions" / "2026-02-01_hostile" / page)
        assert browser.run("return document.querySelector('h1').textContent").startswith(HOSTILE)
        assert browser.run("return document.querySelectorAll('img').length") == 0
        assert browser.dialog() is None
        assert browser.console() == []


def test_a_keyboard_is_enough(browser, site):
    browser.open(site / "index.html")
    browser.press("tab")
    assert browser.run("return document.activeElement.className") == "skip"
    browser.run("document.querySelector('#board thead button').focus()")
    browser.press("tab", "enter")
    assert browser.run(SORT)[1] == "ascending"
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    unnamed = (
        "return [...document.querySelectorAll('input, select, button')].filter((e) => !(e.labels && e.labels.length)"
        " && !e.textContent.trim()).map((e) => e.id)"
    )
    assert browser.run(unnamed) == []
    assert browser.run("return document.querySelectorAll('svg:not([aria-label]):not([aria-hidden])').length") == 0
    assert browser.run("return [...document.querySelectorAll('table')].every((e) => e.caption)")


def test_the_theme_follows_the_system_until_it_is_chosen(browser, site):
    paper = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    browser.open(site / "index.html")
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        seen[scheme] = browser.run(paper)
    assert seen["light"] != seen["dark"]
    browser.click("#theme")
    assert browser.run("return document.getElementById('theme').textContent") == "Theme: light"
    assert browser.run(paper) == seen["light"]
    browser.click("#theme")
    browser.prefer("light")
    assert browser.run(paper) == seen["dark"]
    browser.click("#theme")
    assert browser.run(paper) == seen["light"]
    assert browser.console() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_their_width_and_are_readable_in_both_schemes(browser, site, scheme, width):
    browser.resize(width, 800)
    browser.prefer(scheme)
    for name in (
        "index.html",
        "submissions/2026-01-31_scaffold/index.html",
        "submissions/2026-02-01_hostile/answers.html",
    ):
        browser.open(site / name)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        ink, paper = browser.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
        assert contrast(ink, paper) > 7
        colours = browser.run(
            "return ['.note', '.interval', '.better', '.worse', '.tag', 'a'].map((c) => document.querySelector(c))"
            ".filter(Boolean).map((e) => getComputedStyle(e).color)"
        )
        assert len(colours) >= (5 if name == "index.html" else 1)
        assert all(contrast(colour, paper) > 4.5 for colour in colours)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_alarm_is_read_before_the_table(browser, tmp_path, scheme):
    rng = np.random.default_rng(0)
    rows = [entry(name, full(rng, mean)) for name, mean in LEVELS.items()]
    canary = entry("constant answer", full(rng, 0.9), kind="canary", made_by="")
    board = board_of([*rows, canary], TRACK)
    page = tmp_path / "index.html"
    page.write_text(board_page(board, [board], root=""), encoding="utf-8")
    browser.prefer(scheme)
    browser.open(page)
    seen = browser.run(
        "return [...document.querySelectorAll('header .warning')].map((e) => [e.innerText,"
        " e.getBoundingClientRect().bottom, getComputedStyle(e).color, getComputedStyle(e).backgroundColor])"
    )
    top = browser.run("return document.getElementById('board').getBoundingClientRect().top")
    metrics = ("heldout", "mini_exact", "mini_choice")
    line = "Alarm: constant answer, which is no method, does better than the median method on"
    assert [text for text, *_ in seen] == [f"{line} {name}. Read the metric with care." for name in metrics]
    for _, bottom, ink, paper in seen:
        assert 0 < bottom < top
        assert contrast(ink, paper) > 4.5


def test_a_board_of_500_rows_opens_sorts_and_filters_quickly(browser, tmp_path):
    rng = np.random.default_rng(0)
    few = board_of([entry(name, full(rng, mean)) for name, mean in LEVELS.items()], TRACK)
    rows = tuple(replace(few.rows[i % 5], slug=f"s{i}", method=f"method {i:03d}") for i in range(500))
    page = tmp_path / "index.html"
    page.write_text(board_page(replace(few, rows=rows), [few], root=""), encoding="utf-8")
    assert page.stat().st_size < 1_000_000
    browser.devtools("Performance.enable", {"timeDomain": "threadTicks"})  # processor time: other work is not counted
    before = seconds_of_tasks(browser)
    browser.open(page)
    assert browser.run(f"document.body.offsetHeight; {COUNT}") == "500 of 500 rows, the first 100 shown"
    assert 0 < seconds_of_tasks(browser) - before < 1
    assert len(browser.run(METHODS)) == 100
    browser.click(head(2))
    assert browser.run(METHODS)[:2] == ["method 000", "method 001"]
    browser.click("#more")
    assert len(browser.run(METHODS)) == 500
    choose(browser, "search", "method 499")
    assert browser.run(COUNT) == "1 of 500 rows"


def seconds_of_tasks(browser):
    metrics = browser.devtools("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
