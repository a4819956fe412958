"""Scores and answers by workers of a cluster of two nodes: those of one process, also where a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, outcome, quick, run
from benches import bench_loader, trained
from ray_clusters import cluster_of
from tiny import random_tree

from fedllm_bench import cli
from fedllm_bench.common.files import sha256_file
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.config.run import Ray
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.answering.journal import Journal
from fedllm_bench.metrics import likelihood, running
from fedllm_bench.metrics.batches import using_adapters
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.runs.loading import Bench
from fedllm_bench.runs.personalise import personalise
from fedllm_bench.runs.scoring import evaluate, evaluate_each
from fedllm_bench.training.cluster.computing import Batched, UnderAdapters, Workers
from fedllm_bench.training.cluster.pool import POOLS

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 120
SMALL = (*TINY, "local.block_size=1", "evaluation.batch_tokens=400", "evaluation.personal_steps=2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(2) as found:
        yield found


@pytest.fixture(scope="module")
def bench_of(
    tiny_split: Split, pair_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Bench]:
    """bench_of("sft"): a loaded cell with all metrics of the task."""
    of = {"sft": tiny_split, "preference": pair_split}

    def load(task: str) -> Bench:
        bench = bench_loader(of[task], tiny_folder, tmp_path_factory, SMALL)("fedavg")
        return replace(bench, metrics=tuple(name for name, metric in METRICS.items() if metric.task == task))

    return load


def over_ray(bench: Bench) -> Bench:
    """The same with workers of Ray."""
    config = replace(bench.config, engine="ray")
    workers = Workers.of(bench.model, config.model, config.lora, Ray())
    return replace(bench, cell=replace(bench.cell, config=config), workers=workers)


def have_two(bench: Bench) -> None:
    """Wait until two workers have loaded: the batches of a test are done before the second one has."""
    assert bench.workers is not None
    pool, _ = bench.workers.under("", {}, using_adapters).open(bench.model)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(pool.seats) < 2 or not all(seat.about for seat in pool.seats):
        assert time.monotonic() < deadline
        pool.tend()
        for seat in [seat for seat in pool.seats if not seat.about]:
            if pool.connection.ray.wait([seat.loading], timeout=1)[0]:
                pool.seated(seat)


def kill_at(count: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """Does what `real` does; at its call of that number a worker is killed, one that is at work where there is one."""
    calls = iter(range(10**6))

    def calling(*args: Any) -> Any:
        if next(calls) == count:
            seats = sorted((seat for seat in POOLS[0].seats if seat.about), key=lambda seat: seat.work is None)
            os.kill(seats[0].about.pid, signal.SIGKILL)  # type: ignore[union-attr]
        return real(*args)

    return calling


@pytest.mark.parametrize("task", ["sft", "preference"])
def test_scores_of_workers_are_those_of_one_process(
    task: str, cluster: Any, bench_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(task)
    tree, ids = trained(bench).params, bench.clients.ids
    each = {client: random_tree(tree, seed=k, scale=0.3, dtype=None) for k, client in enumerate(ids)}
    pairs = [(None, bench.items), (tree, bench.items)]
    expected = evaluate(bench, pairs, "here"), evaluate_each(bench, each, "here")
    ours, ledger = over_ray(bench), Ledger(tmp_path / "kept", "k")
    have_two(ours)
    nodes: list[str] = []
    send = Batched.send
    monkeypatch.setattr(Batched, "send", lambda *args: nodes.append(args[1].about.node) or send(*args))
    assert (evaluate(ours, pairs, "there", ledger=ledger), evaluate_each(ours, each, "there")) == expected
    none = {"canary_exposure", "canary_auc", "mia_auc", "mia_tpr"}  # of canaries and training rows: the cell has none
    assert {name for name, scores in expected[0].items() if len(scores) <= 8} == (none if task == "sft" else set())
    assert len(set(nodes)) == 2
    assert len(nodes) > 20
    again = evaluate(bench, pairs, "here", ledger=Ledger(tmp_path / "kept", "k"))
    assert again == expected[0], "what workers computed is gone on with in one process"


def test_personal_adapters_are_scored_between_blocks_that_train(cluster: Any, bench_of: Any) -> None:
    bench = bench_of("sft")
    expected = personalise(bench, trained(bench))
    other = bench_of("sft")
    assert personalise(over_ray(other), trained(other)) == expected
    assert {score.cluster for score in expected} == set(bench.clients.ids)


def test_a_worker_killed_while_it_scores_changes_nothing(
    cluster: Any, bench_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = bench_of("sft")
    pairs = [(trained(bench).params, bench.items)]
    expected = evaluate(bench, pairs, "here")
    monkeypatch.setattr(Ledger, "put", kill_at(3, Ledger.put))
    assert evaluate(over_ray(bench), pairs, "there", ledger=Ledger(tmp_path / "kept", "k")) == expected
    assert "computed again by another" in caplog.text


def test_a_run_with_ray_computes_no_score_in_its_own_process(
    cluster: Any, tiny_split: Split, tiny_folder: Path, tmp_path: Path
) -> None:
    scored = ("--metrics", "heldout,mini_exact,mini_choice,chrf", "--model", str(tiny_folder), "--threads", "1")
    more = [word for setting in (*SMALL, "evaluation.every=1") for word in ("--set", setting)]
    found = []
    with quick():
        for name in ("ray", "inprocess"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / f"cache-{name}"))
                if name == "ray":
                    patch.setattr(likelihood, "counted_nll", lambda *args: pytest.fail("a loss was computed here"))
                    patch.setattr(running, "_batch_answers", lambda *args: pytest.fail("an answer was made here"))
                found.append(
                    outcome(run("fedavg", tiny_split.folder, tmp_path / name, *scored, *more, "--engine", name))
                )
    for each in found:
        assert each["files"].pop("config.json")
        assert len(each["files"]) > 10
        assert each["over_rounds"]
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def folder(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model."""
    out = tmp_path_factory.mktemp("runs")
    settings = [word for setting in TINY for word in ("--set", setting)]
    with quick():
        line = ["bench", "aya", "fedavg", "--profile", "mini", "--split", str(tiny_split.folder), "--out", str(out)]
        assert cli.main([*line, "--metrics", "heldout", *settings]) == 0
    (found,) = (path.parent for path in out.glob("mini-aya/fedavg/*/results.json"))
    return found


def answers(folder: Path, out: Path, *more: str) -> dict[str, str]:
    with quick():
        line = ["answer", str(folder), "--metrics", "mini,harmless", "--limit", "40", "--threads", "1"]
        assert cli.main([*line, "--batch-tokens", "2000", "--out", str(out), *more]) == 0
    found = {f"{path.parent.name}/{path.name}": sha256_file(path) for path in out.rglob("answers/*/*.jsonl")}
    assert len(found) == 6
    return found


def test_answers_of_workers_are_those_of_one_process(
    cluster: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To the last letter here: rounding, which hangs on who shares a batch, flips none of these tokens."""
    expected = answers(folder, tmp_path / "here")
    sent: list[int] = []
    real = UnderAdapters.as_ready

    def counting(self: UnderAdapters, model: Any, take: Any) -> Any:
        for values in real(self, model, take):
            sent.append(len(values))
            yield values

    monkeypatch.setattr(UnderAdapters, "as_ready", counting)
    assert answers(folder, tmp_path / "there", "--engine", "ray") == expected
    assert len(sent) > 8
    monkeypatch.setattr(Journal, "append", kill_at(2, Journal.append))
    assert answers(folder, tmp_path / "killed", "--engine", "ray") == expected
    assert "computed again by another" in caplog.text
