"""`fedllm-bench evaluate`: what answer, judge and report do one after another, in one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import code_of, quick, run

from fedllm_bench import cli
from fedllm_bench.commands import evaluate, judge
from fedllm_bench.common import hardware
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.closed.declared import is_installed

MORE = ("--metrics", "heldout", "--set", "lora.rank=4", "--set", "lora.alpha=8", "--set", "evaluation.local_clients=1")


@pytest.fixture(scope="module")
def run_folder(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("runs")
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "num_threads", lambda: 1)
        run("fedavg", tiny_split.folder, out, "--model", str(tiny_folder), *MORE)
        yield next((out / "mini-aya" / "fedavg").iterdir())


def test_a_mini_run_is_answered_graded_by_the_rule_and_reported(run_folder: Path, capsys) -> None:
    assert cli.main(["evaluate", str(run_folder), "--limit", "5"]) == 0
    assert "mini_rule" in capsys.readouterr().out
    found = json.loads((run_folder / "evaluation.json").read_text(encoding="utf-8"))
    names = {name.partition("-")[0] for name in found["metrics"]}
    assert names >= {"over_refusal", "mini@mini_rule"}
    assert ("mini_closed_choice" in names) == is_installed()
    page = (run_folder / "report.html").read_text(encoding="utf-8")
    assert "mini_rule" in page

    before = {path: path.read_bytes() for path in (run_folder / "answers").rglob("*.jsonl")}
    assert len(before) == 6  # prompts, base and global of two benchmarks
    assert cli.main(["evaluate", str(run_folder), "--limit", "5"]) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_without_a_judge_rules_still_score(run_folder: Path, capsys) -> None:
    assert cli.main(["evaluate", str(run_folder), "--metrics", "harmless", "--limit", "5"]) == 0
    assert "over_refusal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--limit", "none"], "--limit"),
        (["--metrics", "mtbench"], "mt_bench"),
        (["--judge", "nobody"], "nobody"),
        (["--max-cost", "much"], "--max-cost"),
        (["--judge", "gpt-6-luna"], "--max-cost"),
    ],
)
def test_bad_words_end_before_anything_is_asked(run_folder: Path, capsys, words: list[str], expected: str) -> None:
    before = sorted(run_folder.rglob("*"))
    assert code_of(["evaluate", str(run_folder), *words]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert sorted(run_folder.rglob("*")) == before


def test_what_is_left_out_of_requests_to_the_judge_is_an_option_here_too(run_folder: Path) -> None:
    sent = ["--no-system-role", "--no-temperature", "--no-seed", "--token-limit-name", "max_completion_tokens"]
    parser = cli.build_parser()
    args = parser.parse_args(["evaluate", str(run_folder), "--judge-model", "m", *sent])
    _, asked, _ = evaluate._stages(args)
    preset = judge.preset_of(parser.parse_args(asked))
    assert (preset.model, preset.system_role, preset.options) == ("m", False, {"max_completion_tokens": 2048})


def test_what_is_no_run_is_refused(tmp_path: Path, capsys) -> None:
    assert code_of(["evaluate", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.skipif(not is_installed(), reason="lm-eval is not installed")
def test_closed_and_open_ended_names_are_asked_together(run_folder: Path, capsys) -> None:
    words = ["evaluate", str(run_folder), "--metrics", "mini_closed_text,harmless", "--limit", "5", "--sides", "base"]
    assert cli.main(words) == 0
    found = json.loads((run_folder / "evaluation.json").read_text(encoding="utf-8"))
    assert {"mini_closed_text", "over_refusal"} <= set(found["metrics"])
    kept = run_folder / "closed/mini_closed_text/base.jsonl"
    before = kept.stat().st_mtime_ns
    assert cli.main([*words[:3], "mini_closed_text", *words[4:]]) == 0
    assert "there before" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before


def test_all_names_are_listed(capsys) -> None:
    assert code_of(["evaluate", "--list-metrics"]) == 0
    said = capsys.readouterr().out
    for name in ("mt_bench", "mmlu", "openfedllm_medical", "humaneval"):
        assert name in said


def test_a_folder_of_answers_alone_has_no_model_to_ask(tmp_path: Path, capsys) -> None:
    (tmp_path / "answers").mkdir()
    assert code_of(["evaluate", str(tmp_path), "--metrics", "mmlu"]) == 2
    assert "has no model to ask" in capsys.readouterr().err


def test_a_list_that_nobody_reads_to_its_end_is_no_error() -> None:
    """As behind `| head -1`."""
    end, pipe = os.pipe()
    os.close(end)
    command = [sys.executable, "-m", "fedllm_bench", "evaluate", "--list-metrics"]
    done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, b"")
