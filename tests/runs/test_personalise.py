"""Personalisation: plain local steps from the global adapter, the same after any kill and whoever else is there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import folder_of, outcome, quick, run, words
from benches import Killed, bench_loader, dying_after, trained
from sweeps import sweep

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics.items import of_clients
from fedllm_bench.metrics.likelihood import HeldoutLoss
from fedllm_bench.runs import personalise
from fedllm_bench.runs.loading import Bench
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import per_cluster
from fedllm_bench.training import engines
from fedllm_bench.training.batches import plan_steps
from fedllm_bench.training.block import train_block
from fedllm_bench.training.checkpoint import ClientStates
from fedllm_bench.training.client_round import ClientResult, ClientTask

SMALL = ("local.micro_batch=4", "local.accumulation=2", "lora.rank=4", "lora.alpha=8", "lora.dropout=0.1",
         "federation.rounds=4", "federation.clients_per_round=3", "local.block_size=1",
         "evaluation.personal_steps=3")  # fmt: skip


@pytest.fixture(scope="module")
def bench_of(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return bench_loader(tiny_split, tiny_folder, tmp_path_factory, SMALL)


def by_client(scores: list[Score]) -> dict[str, float | None]:
    return {client: cluster.mean for client, cluster in per_cluster(scores).items()}


def score(bench: Bench, adapter: Tree, client: str) -> list[Score]:
    items = [item for item in of_clients(bench.items, [client]) if item.part == "heldout"]
    with bench.model.using(adapter):
        return HeldoutLoss().score(bench.model, items, bench.settings)


def test_it_is_plain_local_steps_from_the_global_adapter_at_the_last_rate(bench_of):
    bench = bench_of("fedavg")
    server, config = trained(bench), bench.config
    found = personalise.personalise(bench, server)
    assert {s.cluster for s in found} == set(bench.clients.ids)
    local = replace(config.local, lr=config.local.lr_at(3, 4))
    assert config.local.lr_end < local.lr < config.local.lr
    for number, client in enumerate(bench.clients.ids):
        rows = bench.clients.train_rows[client]
        plan = plan_steps(config.seed, 2**31 - 1, number, num_rows=len(rows), steps=3, micro_batch=4, accumulation=2)
        task = ClientTask(client=number, client_id=client, seed=config.seed, round_num=2**31 - 1,
                          rows=bench.clients.tokens["train"], row_numbers=rows, steps=plan, state={})  # fmt: skip
        (result,) = train_block(bench.model, FedAvg(), {"params": server.params}, [task], local)
        own = tmap(lambda x, d: x + d, server.params, result.upload["delta"])
        assert [s for s in found if s.cluster == client] == score(bench, own, client)
        assert by_client(score(bench, own, client)) != by_client(score(bench, server.params, client))


def test_at_a_rate_of_nearly_zero_nothing_changes_and_a_given_rate_is_used(bench_of):
    bench = bench_of("fedavg", "evaluation.personal_lr=1e-12")
    server = trained(bench)
    found = by_client(personalise.personalise(bench, server))
    for client, loss in found.items():
        assert loss == pytest.approx(by_client(score(bench, server.params, client))[client], rel=1e-5)
    assert personalise.local_of(bench.config, 2).lr == 1e-12


def test_the_steps_know_nothing_of_the_method_of_the_rounds_nor_of_their_number(bench_of):
    plain = bench_of("fedavg")
    server = trained(plain)
    expected = personalise.personalise(plain, server)
    other = bench_of("scaffold", "federation.rounds=7", f"evaluation.personal_lr={plain.config.local.lr_at(3, 4)}")
    states = ClientStates(other.cell.folder / "checkpoint" / "clients")
    for client in range(6):
        states.put(client, {"c": tmap(torch.ones_like, other.initial)}, 1)
    assert personalise.personalise(other, replace(server, round=7)) == expected


@pytest.mark.parametrize("count", sweep([1, 2, 4], 2))
def test_a_client_of_a_sample_has_the_loss_that_it_has_among_all(count, bench_of):
    bench = bench_of("fedavg")
    server = trained(bench)
    everyone = by_client(personalise.personalise(bench, server))
    few = bench_of("fedavg", f"evaluation.personal_clients={count}")
    found = by_client(personalise.personalise(few, server))
    assert len(found) == count < len(everyone) == 6
    assert found.items() <= everyone.items()


@pytest.mark.parametrize("block_size", sweep([1, 2], 2))
def test_a_killed_stage_goes_on_to_the_same_bits_and_trains_nobody_twice(block_size, bench_of, monkeypatch):
    settings = f"local.block_size={block_size}"
    whole, broken = bench_of("fedavg", settings), bench_of("fedavg", settings)
    server = trained(whole)
    expected = personalise.personalise(whole, server)
    asked: list[list[int]] = []
    real = engines.ENGINES["inprocess"]
    monkeypatch.setitem(engines.ENGINES, "inprocess", dying_after(2, real, asked))
    with pytest.raises(Killed):
        personalise.personalise(broken, server)
    monkeypatch.setitem(engines.ENGINES, "inprocess", dying_after(99, real, asked))
    assert personalise.personalise(broken, server) == expected
    assert sorted(client for block in asked for client in block) == list(range(6))
    assert personalise.file_of(broken).read_bytes() == personalise.file_of(whole).read_bytes()
    asked.clear()
    assert personalise.personalise(broken, server) == expected
    assert not asked


def signalled_in(block: int, asked: list[list[int]], signal_it: Callable[[], None]) -> Any:
    """An engine during whose block of personalisation (not of the rounds) the signal comes; `asked` gets clients."""
    real = engines.ENGINES["inprocess"]

    def engine(model, method, config):
        def map_blocks(message, blocks, local):
            def noting():
                for tasks in blocks:
                    if tasks[0].round_num == personalise.ROUND:
                        asked.append([task.client for task in tasks])
                        if len(asked) == block:
                            signal_it()
                    yield tasks

            return real(model, method, config)(message, noting(), local)

        return map_blocks

    return engine


@pytest.mark.parametrize("block", sweep([1, 3], 1))
def test_when_it_is_to_stop_the_block_in_training_is_kept_and_no_other_begun(block, bench_of, monkeypatch):
    whole, broken = bench_of("fedavg", "local.block_size=2"), bench_of("fedavg", "local.block_size=2")
    server, stop, asked = trained(whole), Stop(), list[list[int]]()
    expected = personalise.personalise(whole, server)
    with monkeypatch.context() as patch:
        engine = signalled_in(block, asked, lambda: setattr(stop, "signum", signal.SIGTERM))
        patch.setitem(engines.ENGINES, "inprocess", engine)
        with pytest.raises(Interrupted) as error:
            personalise.personalise(broken, server, stop)
        assert error.value.signum == signal.SIGTERM
        assert len(asked) == block
        kept = {record["cluster"] for record in files.read_jsonl(personalise.file_of(broken))}
        assert kept == {broken.clients.ids[client] for clients in asked for client in clients}
        assert personalise.personalise(broken, server) == expected
    assert sorted(client for clients in asked for client in clients) == list(range(6))  # nobody twice
    assert personalise.file_of(broken).read_bytes() == personalise.file_of(whole).read_bytes()


def test_a_signal_ends_the_command_and_the_same_command_goes_on(tiny_split, tiny_folder, tmp_path, monkeypatch, capfd):
    less = ("--model", str(tiny_folder), "--metrics", "heldout", "--set", "evaluation.personal_steps=2",
            "--set", "local.block_size=2")  # fmt: skip
    argv, asked = words("fedavg", tiny_split.folder, tmp_path / "broken", *less), list[list[int]]()
    with quick():
        whole = run("fedavg", tiny_split.folder, tmp_path / "whole", *less)
        engine = signalled_in(2, asked, lambda: os.kill(os.getpid(), signal.SIGINT))
        monkeypatch.setitem(engines.ENGINES, "inprocess", engine)
        assert cli.main(argv) == 130
        folder = folder_of("fedavg", tmp_path / "broken")
        assert len(asked) == 2
        assert not (folder / "results.json").exists()
        assert "the same command goes on from there" in capfd.readouterr().err
        assert cli.main(argv) == 0
    assert sorted(client for clients in asked for client in clients) == list(range(6))
    assert outcome(folder) == outcome(whole)


def test_a_client_without_a_finite_answer_is_unscored_and_says_why(bench_of, monkeypatch):
    bench = bench_of("fedavg")
    server = trained(bench)

    def engine(model, method, config):
        def map_blocks(message, blocks, local):
            for block in blocks:
                yield [ClientResult(client=task.client, client_id=task.client_id, state={}, num_examples=1, losses=(),
                                    upload={} if task.client == 2 else {"delta": tmap(torch.zeros_like, server.params)},
                                    failure="loss nan" if task.client == 2 else None) for task in block]  # fmt: skip

        return map_blocks

    monkeypatch.setitem(engines.ENGINES, "inprocess", engine)
    found = personalise.personalise(bench, server)
    lost = [s for s in found if s.cluster == bench.clients.ids[2]]
    assert lost
    assert all(not s.is_scored and s.reason == "loss nan" for s in lost)
    losses = by_client(found)
    assert [losses[client] is None for client in bench.clients.ids] == [k == 2 for k in range(6)]
    kept = bench.clients.ids[0]
    assert losses[kept] == by_client(score(bench, server.params, kept))[kept]
