"""Held-out loss of each client every E rounds: the right numbers, once, after any kill, and no adapter changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_runs import TINY, assert_refused, folder_of, outcome, quick, run, words
from benches import Killed, bench_loader, lines_of, run_of
from sweeps import sweep

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import Server
from fedllm_bench.metrics.likelihood import HeldoutLoss
from fedllm_bench.results.per_client import moments
from fedllm_bench.runs import client_rounds
from fedllm_bench.runs.client_rounds import FILE, watcher
from fedllm_bench.runs.score_files import read_scores
from fedllm_bench.scores.score import is_unseen
from fedllm_bench.scores.summaries import per_cluster
from fedllm_bench.training import rounds
from fedllm_bench.training.rounds import run_rounds

SIX_ROUNDS = (*TINY, "federation.rounds=6", "local.steps=1")
SHARING = [name for name in METHODS if not METHODS[name].personal]


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def bench_of(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """bench_of("scaffold", "evaluation.every=2"): a loaded cell of six rounds in an empty folder."""
    return bench_loader(tiny_split, tiny_folder, tmp_path_factory, SIX_ROUNDS)


def test_a_line_is_the_held_out_loss_of_each_client_under_the_adapter_of_its_round(bench_of):
    bench = bench_of("fedavg", "evaluation.every=2")
    servers: list[Server] = []
    run_rounds(replace(run_of(bench), watch=lambda server: servers.append(server) or watcher(bench)(server)),
               bench.initial)  # fmt: skip
    lines = lines_of(bench)
    assert [line["round"] for line in lines] == [2, 4]  # neither the base nor the last round: those are in scores/
    by_round = {server.round: server.params for server in servers}
    for line in lines:
        with bench.model.using(by_round[line["round"]]):
            scores = HeldoutLoss().score(bench.model, bench.items, bench.settings)
        for part, wanted in (("heldout", False), ("unseen", True)):
            clusters = per_cluster(score for score in scores if is_unseen(score) == wanted)
            assert line[part] == {client: cluster.mean for client, cluster in clusters.items()}
    assert (len(lines[0]["heldout"]), len(lines[0]["unseen"])) == (6, 4)
    assert lines[0]["heldout"] != lines[1]["heldout"]


@pytest.mark.parametrize(
    "name", sweep([n for n in METHODS if not METHODS[n].personal], "fedavg", "scaffold", "fedadam")
)
def test_looking_changes_no_bit_of_any_method(name, bench_of):
    servers = []
    for every in (0, 1):
        bench = bench_of(name, f"evaluation.every={every}", "federation.rounds=3", "lora.dropout=0.1")
        servers.append(run_rounds(run_of(bench), bench.initial))
        assert [line["round"] for line in lines_of(bench)] == [1, 2][: 2 * every]
    ours, theirs = ({"params": server.params, **server.slots} for server in servers)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key][n], theirs[key][n]) for key in ours for n in ours[key])


@pytest.mark.parametrize(("where", "call"), [
    (rounds, 1), (rounds, 3), (rounds, 4), (client_rounds, 1), (client_rounds, 2),
])  # fmt: skip
def test_after_a_kill_anywhere_the_lines_are_those_of_an_undisturbed_run_and_none_is_made_twice(
    where, call, bench_of, monkeypatch
):
    whole = bench_of("scaffold", "evaluation.every=2")
    run_rounds(run_of(whole), whole.initial)
    broken = bench_of("scaffold", "evaluation.every=2")
    name = "save_server" if where is rounds else "_line"
    real, made = getattr(where, name), list[int]()

    def failing(*args: Any) -> Any:
        made.append(args[1].round)
        if len(made) == call:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, failing)
        with pytest.raises(Killed):
            run_rounds(run_of(broken), broken.initial)
    scored: list[int] = []
    line = client_rounds._line
    before = [line["round"] for line in lines_of(broken)]
    monkeypatch.setattr(client_rounds, "_line", lambda *args: scored.append(args[1].round) or line(*args))
    run_rounds(run_of(broken), broken.initial)
    assert lines_of(broken) == lines_of(whole)
    assert [*before, *scored] == [2, 4]
    assert torch.equal(*(next(iter(run_rounds(run_of(b), b.initial).params.values())) for b in (whole, broken)))
    assert scored == [number for number in (2, 4) if number not in before]  # a finished run scores nothing again


def test_a_run_without_it_has_no_file_and_one_with_it_has_base_and_end_from_the_scores(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path
):
    less = ("--model", str(tiny_folder), "--metrics", "heldout")
    plain = run("fedavg", tiny_split.folder, tmp_path / "plain", *less)
    looked = run("fedavg", tiny_split.folder, tmp_path / "looked", *less, "--set", "evaluation.every=1",
                 "--set", "evaluation.personal_steps=1")  # fmt: skip
    assert not (plain / FILE).exists()
    assert files.read_json(plain / "results.json")["over_rounds"] is None
    results = files.read_json(looked / "results.json")
    found = results["over_rounds"]
    assert [row["round"] for row in found["rounds"]] == [0, 1, 2]
    for side, row in (("before", found["rounds"][0]), ("after", found["rounds"][2])):
        scores = read_scores(looked, side, ["heldout"])["heldout"]
        for part in ("heldout", "unseen"):
            values = [c.mean for c in per_cluster(s for s in scores if is_unseen(s) == (part == "unseen")).values()]
            expected = moments(np.array(values), higher_is_better=False)
            assert {key: row[part][key] for key in expected} == pytest.approx(expected)
    assert results["cost"]["seconds"]["score rounds"] > 0
    a, b = (outcome(folder) for folder in (plain, looked))
    assert a["files"]["adapter/adapter_model.safetensors"] == b["files"]["adapter/adapter_model.safetensors"]
    assert a["metrics"] == b["metrics"]
    assert a["rounds"] == b["rounds"]


def test_local_passes_it_over_and_keeps_its_folder(tiny_split: Split, tiny_folder: Path, tmp_path: Path, caplog):
    less = ("--model", str(tiny_folder), "--metrics", "heldout")
    views = ("--set", "evaluation.every=1", "--set", "evaluation.personal_steps=2")
    run("fedavg", tiny_split.folder, tmp_path, *less, *views)
    baseline = folder_of("local", tmp_path)  # the one that fedavg read
    (baseline / "results.json").unlink()
    with caplog.at_level("INFO"):
        assert run("local", tiny_split.folder, tmp_path, *less, *views) == baseline
    assert "evaluation.every=1 is passed over" in caplog.text
    assert "evaluation.personal_steps=2 is passed over" in caplog.text
    results = files.read_json(baseline / "results.json")
    assert results["over_rounds"] is results["personalisation"] is None
    assert not (baseline / FILE).exists()


@pytest.mark.parametrize("key", ["every", "personal_steps"])
def test_a_look_at_a_metric_that_is_not_scored_is_refused(key, tiny_split: Split, tmp_path: Path, capsys):
    argv = words("fedavg", tiny_split.folder, tmp_path, "--metrics", "mini_choice", "--set", f"evaluation.{key}=1")
    assert_refused(argv, tmp_path, capsys, f"evaluation.{key}=1", "metric heldout")
