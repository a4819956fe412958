"""`bench --dry-run` tells seconds by stage from a short probe: the tokens it counts are those that a run takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import make_folder

from fedllm_bench import cli
from fedllm_bench.common import hardware
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import Split
from fedllm_bench.pipeline import forecast, probe
from fedllm_bench.pipeline.stages import run_cell
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.passes import PassPlan
from fedllm_bench.training.steps import step_passes

QUICK = ("evaluation.local_clients=2", "federation.rounds=2", "evaluation.metrics=heldout")


def cell_of(config: RunConfig, split: Split, out: Path) -> Cell:
    return Cell(config, split, out, 1)


@pytest.mark.parametrize("method", ["fedavg", "central", "local"])
def test_the_tokens_of_training_are_those_that_go_through_the_model(
    method, tiny_split, tiny_run_config, tmp_path, monkeypatch
):
    seen: list[int] = []
    real = step_passes.collate

    def counting(rows: Any, device: Any, *, packed: bool) -> Any:
        batch = real(rows, device, packed=packed)
        seen.append(batch.ids.numel())
        return batch

    config = tiny_run_config(method, *QUICK, "local.accumulation=2", "local.micro_batch=3", "local.block_size=2")
    bench = load_bench(cell_of(config, tiny_split, tmp_path))
    run = probe.training_run(bench)
    monkeypatch.setattr(step_passes, "collate", counting)
    expected = probe.trained_tokens(run)
    only = frozenset(bench.local_sample)
    for number in range(2):
        for tasks in probe.blocks_of(run, 1, number):
            states = [replace(task, state=bench.method.client_init(bench.initial)) for task in tasks]
            message = bench.method.broadcast(bench.method.init(bench.initial))
            list(run.map_blocks(message, [states], config.local))
            assert method != "local" or all(task.client in only for task in tasks)
    assert sum(seen) == expected > 0


def test_of_many_rounds_some_are_counted_and_the_rest_taken_to_be_alike(tiny_split, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *QUICK, "federation.rounds=90")
    run = probe.training_run(load_bench(cell_of(config, tiny_split, tmp_path)))
    whole = sum(probe.padded_of(tasks, probe.row_lengths(run), run.plan) for tasks in probe.blocks_of(run, 90))
    assert probe.trained_tokens(run) == pytest.approx(whole, rel=0.15)
    assert probe.trained_tokens(run, 90) == 0


def test_padding_is_counted_over_the_clients_of_a_pass() -> None:
    def task(*rows: int) -> ClientTask:
        steps = ((tuple(range(2)), tuple(range(2, 4))),)
        return ClientTask(client=0, client_id="", seed=0, round_num=0, rows=None, row_numbers=rows, steps=steps,
                          state={})  # type: ignore[arg-type]  # fmt: skip

    lengths = np.array([5, 1, 9, 2, 7, 7, 1, 1])
    # sorted: 9 | 5 | 2 1, and 9 | 7 7 | 5 | 2 | 1 1 1
    assert probe.padded_of([task(0, 1, 2, 3)], lengths, PassPlan(18)) == 9 + 5 + 2 * 2
    assert probe.padded_of([task(0, 1, 2, 3), task(4, 5, 6, 7)], lengths, PassPlan(14)) == 9 + 2 * 7 + 5 + 2 + 3 * 1


def test_the_tokens_of_scoring_are_those_of_its_batches(items):
    lengths = sorted(len(item.tokens.ids) for item in items)
    assert probe.scored_tokens(items, 1) == sum(lengths)  # a batch of one row has no padding
    assert sum(lengths) <= probe.scored_tokens(items, 2048) <= 1.6 * sum(lengths)
    assert probe.scored_tokens(items, 10**9) == len(lengths) * lengths[-1]


def test_a_finished_part_costs_nothing_and_says_so(tiny_split, tiny_run_config, tmp_path):
    cell = cell_of(tiny_run_config("fedavg", *QUICK), tiny_split, tmp_path)
    first = {stage.name: stage for stage in forecast.forecast(cell).stages}
    assert list(first) == ["load", "score the base", "train", "score", "local baseline"]
    assert not cell.folder.exists()
    assert all(stage.needed.low <= stage.needed.about <= stage.needed.high for stage in first.values())
    assert first["train"].needed.about > 0
    run_cell(cell)
    other = cell_of(tiny_run_config("fedprox", *QUICK), tiny_split, tmp_path)
    left = {stage.name: stage.note for stage in forecast.forecast(other).stages if stage.seconds is None}
    assert left == {"score the base": "in the cache", "local baseline": "done"}
    (cell.folder / "results.json").unlink()
    left = {stage.name: stage.note for stage in forecast.forecast(cell).stages if stage.seconds is None}
    assert left == {"score the base": "done", "score": "done", "local baseline": "done"}
    assert next(s for s in forecast.forecast(cell).stages if s.name == "train").needed.about == 0
    assert len(read_jsonl(cell.folder / "rounds.jsonl")) == 2


def test_a_baseline_beside_adds_only_what_it_takes_longer(tiny_split, tiny_run_config, tmp_path, monkeypatch, capsys):
    stages = [forecast.Stage(name, probe.Seconds(about, about - 1, about + 1))
              for name, about in (("load", 5.0), ("train", 60.0), ("score", 20.0))]  # fmt: skip
    for about, total in ((50.0, 85.0), (100.0, 105.0)):
        baseline = forecast.Stage("local baseline", probe.Seconds(about, about, about), is_beside=True)
        found = forecast.Forecast([*stages, baseline], 1.0, 1.0)
        assert found.total.about == total
        assert "at the same time in a process of its own" in found.lines()[4]
    monkeypatch.setattr(hardware, "num_threads", lambda: 2)
    words = ["bench", "aya", "fedavg", "--profile", "mini", "--split", str(tiny_split.folder), "--out", str(tmp_path)]
    settings = [word for setting in (*QUICK, "federation.clients_per_round=3") for word in ("--set", setting)]
    assert cli.main([*words, *settings, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "trains at the same time, in a process of its own with as much memory; threads: 1 and 1" in shown
    assert "at the same time in a process of its own\n" in shown
    assert not list(tmp_path.iterdir())


def test_votes_have_a_stage_for_their_reference(pair_split, tiny_run_config, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))  # another test's reference may be in that of all
    words = [word for word in QUICK if "metrics" not in word]
    config = tiny_run_config("fedavg", *words, "evaluation.metrics=preference_loss", dataset="chatbot_pa")
    stages = {stage.name: stage for stage in forecast.forecast(cell_of(config, pair_split, tmp_path)).stages}
    assert stages["reference"].needed.about > 0
    load_bench(cell_of(config, pair_split, tmp_path))
    stages = {stage.name: stage for stage in forecast.forecast(cell_of(config, pair_split, tmp_path)).stages}
    assert stages["reference"].note == "in the cache"


def test_a_busy_machine_is_named():
    stage = forecast.Stage("train", probe.Seconds(100.0, 90.0, 110.0))
    busy, free = (forecast.Forecast([stage], 5.0, cores).lines() for cores in (0.25, 0.95))
    assert "the probe had 25% of a core; with one to itself it takes about 25.0 s in all" in busy[-1]
    assert free == busy[:-1]
    assert free[-1] == "  in all           about 1 min 40 s (1 min 30 s to 1 min 50 s)"


def test_a_dry_run_writes_no_run(tiny_folder, tmp_path, capsys):
    words = ["--profile", "mini", "--model", str(tiny_folder), "--out", str(tmp_path / "runs"), "--dry-run"]
    assert cli.main(["bench", "aya", "fedavg", *words, "--metrics", "heldout", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Memory on the device in training: about ")
    assert lines[1].startswith("Numbers in an adapter: ")
    assert lines[2].startswith("Memory of the whole process on a CPU: about ")
    assert lines[3].startswith("Time, as this machine is now, from a probe of ")
    assert [line.split("  ")[1].strip() for line in lines[4:10]] == [
        "load", "score the base", "train", "score", "local baseline", "in all",
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("profile", ["paper", "gpu24"])
def test_a_profile_for_a_gpu_is_not_tried_on_a_cpu(profile, tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    words = ["bench", "aya", "fedavg", "--profile", profile, "--model", str(tiny_folder), "--dry-run"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    assert f"Time: not known, since profile {profile} is for a GPU" in capsys.readouterr().out


def test_what_would_be_fetched_is_not_known(tmp_path, capsys, monkeypatch):
    assert cli.main(["bench", "aya", "fedavg", "--profile", "small", "--out", str(tmp_path), "--dry-run"]) == 0
    assert "not known before the model is here: fedllm-bench model get smollm2-135m-instruct" in capsys.readouterr().out


def test_users_who_are_not_built_yet_are_not_built_for_it(tiny_folder, tmp_path, capsys):
    words = ["bench", "aya", "fedavg", "--profile", "small", "--model", str(tiny_folder), "--out", str(tmp_path)]
    assert cli.main([*words, "--dry-run"]) == 0
    assert "Time: not known, since the users of profile small are not built yet" in capsys.readouterr().out


def test_a_model_without_an_estimate_of_memory_is_tried_all_the_same(tiny_split, tmp_path, capsys):
    folder = make_folder(tmp_path / "gpt2", "gpt2")
    words = ["--split", str(tiny_split.folder), "--model", str(folder), "--metrics", "heldout", "--set",
             "local.sequence_length=32", "--set", "federation.clients_per_round=2"]  # fmt: skip
    assert cli.main(["bench", "aya", "fedavg", "--profile", "mini", *words, "--out", str(tmp_path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "Memory: no estimate of memory for gpt2" in out
    assert "  train " in out
