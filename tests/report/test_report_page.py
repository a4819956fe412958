"""report.html without a browser: what it holds, what it escapes, what it cuts; and the command that writes it."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from evaluation_records import (
    HOSTILE,
    judgements_of,
    mt_bench_prompts,
    plain_prompts,
    results_json,
    write_answers,
    write_hostile,
    write_judgements,
    write_mt_bench,
    write_prompts,
)
from html_reader import Page

from fedllm_bench.cli import main
from fedllm_bench.common import files
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.scoring.answered import read_folder
from fedllm_bench.evaluation.scoring.score_all import score_all
from fedllm_bench.report.page.browser import browser_data, script_json
from fedllm_bench.report.page.charts import charts, loss_curve
from fedllm_bench.report.page.page import policy
from fedllm_bench.report.page.write import write_evaluation_report
from fedllm_bench.results.schema import results_of


def data_of(path):
    data, _ = Page(path.read_text(encoding="utf-8")).scripts
    return json.loads(data)


def test_the_report_has_the_numbers_of_both_files(tmp_path, capsys):
    write_mt_bench(tmp_path, {"base": 6.0, "global": 7.0})
    files.write_json(tmp_path / "results.json", results_json())
    assert main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"mt_bench@stub ↑ +5\.487 \[.*\] +6\.487 \[.*\] +\+1\.000", shown)
    assert str(tmp_path / "evaluation.json") in shown
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words)
    for part in (
        "mini-aya · fedavg · seed 0",
        "5.487",
        "6.487",
        "first turn",
        "second turn",
        "heldout ↓",
        "by category",
    ):
        assert part in text
    assert "Held-out loss of 24 clients" in text


def test_the_page_may_run_its_own_script_and_load_nothing(tmp_path):
    write_mt_bench(tmp_path, {"base": 6.0})
    page = Page(write_evaluation_report(tmp_path).page.read_text(encoding="utf-8"))
    _, script = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy()
    assert policy().startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert page.suspect == []
    assert not page.tags.keys() & {"img", "iframe", "link", "object", "embed", "base", "form", "audio", "video"}
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert word not in script


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_adds_no_element_and_comes_through_as_it_was(tmp_path, text):
    pages = []
    for name, words in (("plain", "harmless words"), ("hostile", text)):
        folder = tmp_path / name
        write_hostile(folder, words)
        page = write_evaluation_report(folder).page
        pages.append(Page(page.read_text(encoding="utf-8")))
    if len(text) <= 20_000:  # of longer ones the page says that they were cut
        assert pages[0].tags == pages[1].tags
    assert pages[1].tags.keys() <= pages[0].tags.keys()
    assert pages[1].suspect == []
    item = data_of(page)["items"][0]
    for shown in (item["turns"][0], item["references"][0], item["answers"]["base"]["turns"][0]):
        assert (shown[0] if isinstance(shown, list) else shown) == text[:20_000]
    reply = item["replies"]["stub"]["base"][0]["text"]
    assert (reply[0] if isinstance(reply, list) else reply.removesuffix("\n[[3]]")) == text[:20_000]


def test_json_in_the_page_has_no_character_that_html_or_javascript_reads():
    text = script_json({"a": "</script><!-- & \u2028\u2029\x00\ud800"})
    assert not re.search("[<>&\u2028\u2029\x00\ud800]", text)
    assert json.loads(text)["a"] == "</script><!-- & \u2028\u2029\x00?"


def test_long_texts_are_cut_alike_until_all_fit_and_the_page_says_so(tmp_path):
    prompts = plain_prompts(40)
    write_prompts(tmp_path, "advbench", prompts)
    write_answers(tmp_path, "advbench", "base", prompts, lambda p, turn: "x" * (900 if p.item_id == "7" else 3_000))
    materials = read_folder(tmp_path)
    whole = browser_data(materials, [])
    assert whole.cut == ()
    cut = browser_data(materials, [], most=60_000)  # 40 times 1,000 fits, 40 times 2,000 does not
    assert cut.cut == ("39 of 80 texts are longer than 1,000 characters and are cut there.",)
    answers = [item["answers"]["base"]["turns"][0] for item in json.loads(cut.text)["items"]]
    assert answers[0] == ["x" * 1000, 3000]
    assert answers[7] == "x" * 900
    least = browser_data(materials, [], most=2_000)
    assert "The first 9 of 40 questions are shown" in least.cut[1]
    assert len(json.loads(least.text)["items"]) == 9


def test_the_browser_has_scores_by_question_and_turn_and_why_there_is_none(tmp_path):
    prompts = mt_bench_prompts(8)
    write_prompts(tmp_path, "mt_bench", prompts)
    write_answers(tmp_path, "mt_bench", "base", prompts, lambda p, turn: "x")
    told = judgements_of(prompts, lambda p, turn: f"[[{4 + turn}]]")
    write_judgements(tmp_path, "mt_bench", "base", told[:-1])
    materials = read_folder(tmp_path)
    items = json.loads(browser_data(materials, score_all(materials, OPEN_METRICS)).text)["items"]
    assert items[0]["scores"] == {"mt_bench@stub": {"base": [5.5, "", [5.0, 6.0]]}}
    assert items[-1]["scores"] == {"mt_bench@stub": {"base": [None, "no judge", [5.0, None]]}}
    assert [reply["text"] for reply in items[0]["replies"]["stub"]["base"]] == ["[[5]]", "[[6]]"]


def test_bars_are_in_percent_of_the_range_and_refused_means_have_none(tmp_path):
    prompts = write_mt_bench(tmp_path, {"base": 6.0, "global": 7.0})
    told = judgements_of(prompts, lambda p, turn: "[[7]]")
    write_judgements(tmp_path, "mt_bench", "global", told[:-1])
    (chart,) = charts(write_evaluation_report(tmp_path).evaluation)
    assert [bar.label for bar in chart.bars[::2]][:2] == ["writing", "roleplay"]
    assert len(chart.bars) == 16
    whole, refused = chart.bars[1], chart.bars[-1]
    assert (whole.width, whole.value, whole.colour) == (70.0, "7.000", 1)
    assert (refused.width, refused.low, refused.value) == (0.0, None, "9/10 scored")


def test_the_curve_runs_from_the_first_round_to_the_last_with_the_loss_downwards():
    curve = loss_curve(results_of(results_json()).over_rounds)
    points = [tuple(map(float, point.split(","))) for point in curve.median.split()]
    assert len(points) == 4
    assert (points[0][0], points[-1][0]) == (curve.left, curve.right)
    assert points[0][1] < points[-1][1]  # SVG counts downwards
    assert loss_curve(None) is None


def test_a_run_without_answers_has_a_page_of_its_training_alone(tmp_path, capsys):
    files.write_json(tmp_path / "results.json", results_json())
    assert main(["report", str(tmp_path)]) == 0
    assert "fedllm-bench answer RUN makes them" in capsys.readouterr().out
    assert not (tmp_path / "evaluation.json").exists()
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.tags["script"] == 0
    assert "heldout ↓" in " ".join(page.words)


def test_results_that_cannot_be_read_are_left_out_and_said(tmp_path, capsys):
    write_mt_bench(tmp_path, {"base": 6.0})
    (tmp_path / "results.json").write_text('{"schema_version": 1}')
    assert main(["report", str(tmp_path)]) == 0
    assert "results.json is left out: results: the key" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{empty}"], "neither answers nor results.json"),
        (["{answered}", "--min-coverage", "0"], "'0' is not a share above 0, up to 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, told):
    places = {"empty": tmp_path / "empty", "answered": tmp_path / "answered"}
    places["empty"].mkdir()
    write_prompts(places["answered"], "advbench", plain_prompts(2))
    write_answers(places["answered"], "advbench", "base", plain_prompts(2), lambda p, turn: "x")
    try:
        code = main(["report", *(word.format(**places) for word in words)])
    except SystemExit as stop:  # as argparse ends
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert told in said
    assert said.count("\n") == 1
