"""diversity.html and diversity.md: self-contained, escaped, whole."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from browser import chromium, contrast
from diversity_reports import HOSTILE, against, made_up
from html_reader import Page

from fedllm_bench.report import style
from fedllm_bench.report.diversity import drawing, writing
from fedllm_bench.report.diversity.page import policy
from fedllm_bench.report.diversity.writing import write_report


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("diversity")
    report, arrays = made_up(9, preference=True)
    report["against"] = against(report, made_up(5, seed=1)[0])
    with pytest.MonkeyPatch.context() as patch:
        for module in (style, writing):  # drawing twice would double the time
            patch.setattr(module, "METADATA", {"svg": style.METADATA["svg"]})
        return report, out, write_report(report, arrays, out)


def test_all_that_is_written_is_named_and_all_figures_are_in_the_page_and_the_card(written):
    _, out, paths = written
    assert sorted(paths) == sorted(path for path in out.rglob("*") if path.is_file())
    assert len(paths) == len(drawing.FIGURES) + 2
    page, card = ((out / f"diversity.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for name in drawing.FIGURES:
        assert f'<section id="{name}">' in page
        assert f"(figures/{name}.png)" in card
    for text in ("Gini coefficient of sizes", "made-up", "Jensen-Shannon"):
        assert text in page


def test_the_page_asks_nothing_of_any_host_and_runs_its_own_script_only(written):
    _, out, _ = written
    text = (out / "diversity.html").read_text(encoding="utf-8")
    page = Page(text)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy()
    assert not page.tags.keys() & {"img", "iframe", "link", "object", "embed", "base", "form", "audio", "video"}
    loaded = re.findall(r'(?:href|src)="([^"]*)"', text)
    assert loaded
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in loaded)
    assert {name for name in page.suspect if name.startswith("on") or name in ("src", "srcset", "action")} == set()
    assert "innerHTML" not in script


@pytest.mark.slow
def test_hostile_names_and_terms_add_no_element(written, tmp_path, monkeypatch):
    shown = ("instruction_sunburst", "instruction_clients", "topics_by_client", "distance_to_rest")
    monkeypatch.setattr(drawing, "FIGURES", {name: drawing.FIGURES[name] for name in shown})
    report, arrays = made_up(9, preference=True)
    plain = Page((written[1] / "diversity.html").read_text(encoding="utf-8"))
    for topic in report["sections"]["instruction"]["topics"]:
        topic["terms"][0] = HOSTILE
        topic["inner"][0]["terms"] = [f"--></svg>{HOSTILE}"]
    report["split"]["name"] = HOSTILE
    report["sections"]["quality"] = {"skipped": HOSTILE}
    write_report(report, arrays, tmp_path)
    text = (tmp_path / "diversity.html").read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert Page(text).tags["script"] == plain.tags["script"] == 1
    assert "<!--" not in text
    card = (tmp_path / "diversity.md").read_text(encoding="utf-8")
    assert "<script>" not in card.replace("\\<", "")
    assert "Not computed: quality" in card


def test_no_id_stands_twice_and_every_reference_in_a_figure_is_there(written):
    text = (written[1] / "diversity.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids)) > 100
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used - {"main"} <= set(ids)


@pytest.mark.slow
def test_a_report_of_counts_alone_says_what_was_skipped_and_why(tmp_path):
    report, arrays = made_up(4, embedded=False)
    write_report(report, arrays, tmp_path)
    for kind in ("html", "md"):
        text = (tmp_path / f"diversity.{kind}").read_text(encoding="utf-8")
        assert "Not computed: embedding" in text
        assert "pip install sentence" in text
    assert not (tmp_path / "figures" / "similarity.svg").exists()


def test_letters_that_cannot_be_drawn_are_warned_of_on_the_page_and_in_the_log(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fedllm_bench.report.diversity.fonts.font_manager.findSystemFonts", list)
    monkeypatch.setattr(writing, "draw_all", lambda frame: [])
    write_report(*made_up(4), tmp_path)
    assert "no font here can show CJK, Telugu" in caplog.text
    page = (tmp_path / "diversity.html").read_text(encoding="utf-8")
    assert "no font here can show CJK, Telugu" in page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_sorts_fits_a_phone_and_asks_for_nothing(written, scheme):
    report, out, _ = written
    with chromium() as browser:
        browser.prefer(scheme)
        browser.resize(390, 900)
        browser.open(out / "diversity.html")
        assert browser.run("return document.documentElement.scrollWidth") == 390
        first = "return document.querySelector('#clients-table tbody th').textContent"
        browser.run("document.querySelectorAll('#clients-table thead button')[1].click()")
        largest = max(report["clients"], key=lambda client: client["rows"])
        assert browser.run(first) == largest["id"]
        browser.run("document.querySelectorAll('#clients-table thead button')[1].click()")
        assert browser.run(first) == min(report["clients"], key=lambda client: client["rows"])["id"]
        ink = browser.run("return getComputedStyle(document.querySelector('#quantity svg [id*=text_1] g')).fill")
        paper = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert contrast(ink, paper) > 7
        assert browser.console() == []
        asked = [address for address in browser.requests() if not address.startswith(("file:", "data:"))]
        assert asked == []
