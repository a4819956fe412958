"""Ctrl-C and SIGTERM: the clients in training end first, their answers are kept, and the run goes on bit by bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from resumed_rounds import anew, left_behind, same_bits, undisturbed
from scripted_rounds import START, by_client, scripted_run
from sweeps import UNLIKE, sweep

from fedllm_bench import cli, worker
from fedllm_bench.commands import bench
from fedllm_bench.common import interrupts
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import Message
from fedllm_bench.training.block import MapBlocks
from fedllm_bench.training.checkpoint import load_partial, load_server
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.rounds import run_rounds


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", interrupts.SIGNALS)
def test_the_first_signal_is_noted_the_second_ends_at_once(signum, capfd):
    before = [signal.getsignal(each) for each in interrupts.SIGNALS]
    with interrupts.deferred() as stop:
        stop.check()
        send(signum)
        assert stop.signum == signum
        assert "once more stops at once" in capfd.readouterr().err
        with pytest.raises(Interrupted):
            send(signum)
        with pytest.raises(Interrupted):
            stop.check()
    assert [signal.getsignal(each) for each in interrupts.SIGNALS] == before


def test_a_signal_that_was_ignored_stays_ignored():
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.deferred() as stop:
            send(signal.SIGINT)
            assert not stop.asked
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, old)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_how_to_go_on(signum, code, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run", lambda args: send(signum))
    assert cli.main(["bench", "aya", "fedavg", "--set", "local.steps = 3"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the same command goes on from there: fedllm-bench bench aya fedavg --set 'local.steps = 3'")


def test_a_baseline_that_nobody_typed_names_no_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["worker", "baseline-of", "runs/a", "--threads=1"])
    monkeypatch.setattr("threading.Thread.start", lambda thread: None)
    monkeypatch.setattr(worker, "_run_baseline", lambda args: send(signal.SIGINT))
    assert worker.main() == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "fedllm-bench: interrupted; what is done is kept, and the command of the run goes on from there"


def asked_in(stop: Stop, real: MapBlocks, round_num: int, block: int) -> MapBlocks:
    """An engine in whose round and block the signal comes."""

    def map_blocks(message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        def noting() -> Iterable[Any]:
            for number, tasks in enumerate(blocks):
                if (tasks[0].round_num, number) == (round_num, block):
                    stop.signum = signal.SIGINT
                yield tasks

        return real(message, noting(), local)

    return map_blocks


def test_a_round_that_needs_its_uploads_together_begins_anew(dropping, tiny_clients, tiny_run_config, tmp_path):
    settings = ("local.block_size=2", "local.steps=1", "federation.clients_per_round=5")
    config = tiny_run_config("fedavg", *settings, "communication.aggregation_error=true")
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    broken, stop = anew(run, "broken"), Stop()
    with pytest.raises(Interrupted):
        run_rounds(replace(broken, stop=stop, map_blocks=asked_in(stop, run.map_blocks, 1, 0)), start)
    assert load_partial(broken.folder / "checkpoint", 1).results == ()
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)


@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
def test_an_interrupted_run_ends_as_an_undisturbed_one(name, dropping, tiny_clients, tiny_run_config, tmp_path):
    settings = ("local.block_size=2", "local.steps=1", "federation.clients_per_round=5", "faults.dropout=0.1")
    config = tiny_run_config(name, *settings)
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    pooled, kept = run.method.pooled, []
    # one client drops out of the second round, whose second block is then its last
    for round_num, block in [(0, 0), (1, 0), (2, 0)] if pooled else [(0, 1), (1, 0), (1, 1)]:
        broken, stop = anew(run, f"{round_num}-{block}"), Stop()
        with pytest.raises(Interrupted):
            run_rounds(replace(broken, stop=stop, map_blocks=asked_in(stop, run.map_blocks, round_num, block)), start)
        done = load_server(broken.folder / "checkpoint")
        kept.append(len(load_partial(broken.folder / "checkpoint", round_num).results))
        assert (done.round if done else 0) == round_num + (kept[-1] == 0)  # a whole round has its checkpoint
        run_rounds(broken, start)
        assert same_bits(left_behind(broken), whole), (round_num, block)
        assert not (broken.folder / "checkpoint" / "round.safetensors").exists()
    last = 4 if config.privacy.clip is not None else 0  # a Poisson sample has no fixed number of clients
    assert kept == ([0, 0, 0] if pooled else [4, 2, last])


def test_clients_whose_answers_were_kept_are_not_trained_again(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1", "federation.clients_per_round=5", "local.block_size=2")
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    stop = Stop()
    with pytest.raises(Interrupted):
        run_rounds(replace(run, stop=stop, map_blocks=asked_in(stop, engine, 0, 0)), START)
    server = run_rounds(run, START)
    assert [len(block) for block in engine.asked] == [2, 2, 1]
    assert len({k for block in engine.asked for k in block}) == 5
    folder = tmp_path / "whole"
    folder.mkdir()
    assert same_bits(server, run_rounds(replace(run, folder=folder), START))


def test_an_engine_that_lost_an_answer_is_noticed_though_the_run_is_to_stop(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "local.block_size=1")
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    stop = Stop(signal.SIGINT)

    def swaps(message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        for answered in engine(message, blocks, local):
            yield [replace(result, client=result.client + 100) for result in answered]

    with pytest.raises(RuntimeError, match="answered for other clients"):
        run_rounds(replace(run, stop=stop, map_blocks=swaps), START)
