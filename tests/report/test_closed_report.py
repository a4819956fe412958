"""Closed benchmarks in report.html and on the terminal, also without a single open-ended answer."""

from __future__ import annotations

import re

from closed_records import right_or_wrong, write_closed
from evaluation_records import write_mt_bench
from html_reader import Page

from fedllm_bench.cli import main
from fedllm_bench.evaluation.closed.closed_samples import samples_file
from fedllm_bench.evaluation.scoring.evaluation_json import read_evaluation
from fedllm_bench.report.page.charts import charts
from fedllm_bench.report.page.write import write_evaluation_report

HALF, MOST = [i % 2 == 0 for i in range(60)], [i % 5 != 0 for i in range(60)]


def write_subjects(folder, **more):
    sides = {"base": right_or_wrong(HALF, "mmlu_art"), "global": right_or_wrong(MOST, "mmlu_art")}
    sides = {side: [*found, *right_or_wrong(HALF[:10], "mmlu_law")] for side, found in sides.items()}
    return write_closed(folder, "mmlu", **sides, **more)


def test_the_table_and_the_charts_have_base_global_and_the_change(tmp_path, capsys):
    write_subjects(tmp_path)
    assert main(["report", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"mmlu ↑ +0\.500 \[0\.\d+, 0\.\d+\] +0\.757 \[.*\] +\+0\.257 \[\+0\.\d+, \+0\.\d+\]", shown)
    assert "mmlu_law" not in shown  # subjects are drawn
    words = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words)
    for part in ("Closed benchmarks", "mmlu ↑ by category (share)", "mmlu_law", "closed benchmarks ↑ (share)", "0.757"):
        assert part in words
    assert "No answers of benchmarks here" not in words
    drawn = charts(read_evaluation(tmp_path / "evaluation.json"))
    assert [(chart.title, len(chart.bars)) for chart in drawn] == [
        ("closed benchmarks ↑ (share)", 2),
        ("mmlu ↑ by category (share)", 4),
    ]


def test_open_and_closed_metrics_have_a_table_each(tmp_path):
    write_mt_bench(tmp_path, {"base": 6.0, "client-x": 7.0})
    write_subjects(tmp_path)
    page = Page(write_evaluation_report(tmp_path).page.read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert words.index("mmlu ↑") < words.index("mt_bench@stub ↑")
    assert "client-x - base, paired" in words
    assert "global - base, paired" in words


def test_disagreement_with_lm_eval_is_told_on_the_terminal_and_on_the_page(tmp_path, capsys):
    write_closed(tmp_path, "medqa", base=right_or_wrong(HALF, values={"acc": 1.0}))
    assert main(["report", str(tmp_path)]) == 0
    line = "medqa, base: 30 of 60 items have another value than lm-eval gave, as t/1: 0, and lm-eval 1"
    assert line in capsys.readouterr().out
    assert line in " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).words)


def test_a_broken_sample_is_one_line_and_no_file_is_written(tmp_path, capsys):
    write_subjects(tmp_path)
    samples_file(tmp_path, "mmlu", "global").write_text("{\n")
    assert main(["report", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "global.jsonl, line 1" in line
    assert not (tmp_path / "evaluation.json").exists()
    assert not (tmp_path / "report.html").exists()
