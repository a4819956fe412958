"""Runs with `federation.patience` from end to end: what they leave, report, submit, and go on to after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import TINY, folder_of, outcome, quick, run, words
from safetensors.torch import load_file
from sweeps import slow

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.metrics.items import heldout_items
from fedllm_bench.report.legend import legend
from fedllm_bench.report.page.charts import check_curve
from fedllm_bench.results.early_stop import best_round
from fedllm_bench.results.schema import read_results, results_of
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.folder import RunFolder
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.runs.validation import validation_items, validation_of
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.stopping import checks

# A rate that makes things worse after some rounds.
STOPPING = ("federation.rounds=8", "federation.patience=2", "local.lr=0.05", "local.lr_end=0.05", "evaluation.every=3")
MORE = tuple(word for setting in STOPPING for word in ("--set", setting))


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def less(tiny_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_folder), "--metrics", "heldout", *MORE)


@pytest.fixture(scope="module")
def stopped(tiny_split: Split, less: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("fedavg", tiny_split.folder, tmp_path_factory.mktemp("runs"), *less)


def test_the_best_round_is_what_is_written_and_told(stopped):
    results, rounds = read_results(stopped / "results.json"), files.read_jsonl(stopped / "rounds.jsonl")
    stop = results.early_stop
    assert stop is not None
    assert (stop.rounds_asked, stop.rounds_run, stop.best_round) == (8, len(rounds), best_round(rounds))
    assert stop.best_round + 2 == stop.rounds_run < 8
    assert f"not better in 2 checks since; training ends after round {len(rounds)} of 8" in stop.stopped
    sent = [record["bytes_up"] + record["bytes_down"] for record in rounds]
    assert stop.bytes_to_end == sum(sent) == results.cost.bytes_up + results.cost.bytes_down
    assert stop.bytes_to_best == sum(sent[: stop.best_round])
    assert 0 < stop.bytes_of_checks < sum(sent)
    best = load_server(stopped / "checkpoint" / "best")
    assert best is not None
    written = load_file(stopped / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in best.params.items())
    last = load_server(stopped / "checkpoint")
    assert last is not None
    assert last.round == len(rounds)
    assert results.cost.seconds["check"] > 0
    assert not list(RunFolder(stopped).missing())
    looked = [one.round for one in results.over_rounds.rounds] if results.over_rounds else []
    assert looked == sorted({0, stop.best_round, *range(3, len(rounds) + 1, 3)})


def test_no_row_is_trained_on_and_checked_and_none_is_held_out(tiny_split, stopped):
    bench = load_bench(cell_of(tiny_split, stopped))
    items, clients = validation_items(bench), bench.clients
    stop = read_results(stopped / "results.json").early_stop
    assert stop is not None
    assert len(items) == stop.num_validation_rows
    names = {(item.row.client_id, item.row.row_id) for item in items}
    rows, tokens = clients.rows("train"), clients.tokens["train"]
    trained = [rows[int(tokens.rows[number])] for own in clients.train_rows.values() for number in own]
    assert names.isdisjoint((row.client_id, row.row_id) for row in trained)
    assert names.isdisjoint((item.row.client_id, item.row.row_id) for item in heldout_items(clients))
    counts = [line["num_examples"] for line in files.read_jsonl(stopped / "rounds.jsonl")]
    assert max(map(max, counts)) <= max(len(own) for own in clients.train_rows.values())


def test_a_check_is_the_held_out_loss_of_the_validation_rows(tiny_split, stopped):
    bench = load_bench(cell_of(tiny_split, stopped))
    validation, server = validation_of(bench), load_server(stopped / "checkpoint" / "best")
    assert validation is not None
    assert server is not None
    looked = validation.look(server)
    assert looked.loss == read_results(stopped / "results.json").early_stop.best_loss
    assert validation.look(replace(server, params={n: 0 * t for n, t in server.params.items()})).loss != looked.loss


def cell_of(split: Split, folder: Path) -> Cell:
    return Cell(RunFolder(folder).config, split, folder.parent.parent.parent, 1)


def test_flops_and_energy_are_told_with_their_method(stopped):
    cost = read_results(stopped / "results.json").cost
    assert cost.train_flops is not None
    assert cost.evaluation_flops is not None
    assert cost.train_flops > 10 * len(files.read_jsonl(stopped / "rounds.jsonl"))
    assert "docs/cost.md" in cost.flops_method
    assert cost.cpu_seconds is not None
    assert cost.energy_joules is not None
    assert cost.energy_method.startswith(("estimate: ", "RAPL"))
    text = "\n".join(legend(files.read_json(stopped / "results.json"), 200))
    for word in ("early stop: round ", "FLOP: training ", "energy: ", "of them "):
        assert word in text


def test_results_of_before_are_read_and_shown(stopped):
    payload = files.read_json(stopped / "results.json")
    del payload["early_stop"]
    for key in ("train_flops", "evaluation_flops", "flops_method", "cpu_seconds", "energy_joules", "energy_method"):
        del payload["cost"][key]
    found = results_of(payload)
    assert found.early_stop is None
    assert (found.cost.train_flops, found.cost.energy_method) == (None, "")
    assert not any(line.startswith(("early stop", "FLOP", "energy")) for line in legend(payload, 200))


def test_the_page_marks_the_best_round(stopped):
    stop = read_results(stopped / "results.json").early_stop
    curve = check_curve(stop)
    assert stop is not None
    assert curve is not None
    assert curve.best is not None
    assert curve.best[2] == f"best: round {stop.best_round}"
    assert f"{curve.best[0]},{curve.best[1]}" in curve.median.split()
    assert check_curve(None) is None


@pytest.mark.parametrize("method", ["fedavg", slow("ditto"), slow("fedem"), slow("local"), slow("central")])
@pytest.mark.parametrize("place", ["write_jsonl", slow("save_server")])
def test_a_kill_between_a_check_and_its_line_goes_on_to_the_same_bits(
    place, method, tiny_split, less, tmp_path, monkeypatch
):
    command = words(method, tiny_split.folder, tmp_path / "broken", *less)
    real, calls = getattr(checks, place), 0

    def failing(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("power cut")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checks, place, failing)
        with pytest.raises(RuntimeError, match="power cut"):
            cli.main(command)
    assert cli.main(command) == 0
    whole = run(method, tiny_split.folder, tmp_path / "whole", *less)
    assert outcome(folder_of(method, tmp_path / "broken")) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["stack", "exact", "restart", "share_a"])
def test_rules_that_change_the_base_keep_that_of_the_best_round(rule, tiny_split, less, tmp_path):
    folder = run("fedavg", tiny_split.folder, tmp_path, *less, "--set", f"communication.lora_aggregation={rule}")
    stop = read_results(folder / "results.json").early_stop
    assert stop is not None
    bench, best = load_bench(cell_of(tiny_split, folder)), load_server(folder / "checkpoint" / "best")
    assert best is not None
    assert best.round == stop.best_round
    if rule != "share_a":
        written = load_file(folder / "adapter" / "adapter_model.safetensors")
        assert all(torch.equal(written[name], tensor) for name, tensor in bench.method.adapter(best).items())


@pytest.mark.slow
def test_a_grid_of_stopped_runs_tells_their_rounds_and_flops(tiny_split, less, tmp_path, capsys):
    options = [word for setting in (*TINY, *STOPPING) for word in ("--set", setting)]
    model = less[: less.index("--set")]
    words_of_grid = ["grid", "aya", "--methods", "fedavg,local", "--seeds", "0", "--profile", "mini", "--split",
                     str(tiny_split.folder), "--out", str(tmp_path), "--jobs", "1", *model, *options]  # fmt: skip
    assert cli.main(words_of_grid) == 0
    (path,) = tmp_path.rglob("grid.json")
    payload = files.read_json(path)
    assert all(cell["stopped"][2] == 8 for cell in payload["cells"])
    assert all(cost["train_flops"] > 0 for cost in payload["cost"].values())
    assert "best round of each seed, which its row is of (federation.patience)" in capsys.readouterr().out
    assert "FLOP |" in path.with_name("table.md").read_text()
