"""Resumed runs are undisturbed ones bit by bit; engines, groupings and orders of arrival agree; for every method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from resumed_rounds import Killed, anew, distance, initial, killed_at, left_behind, outcome_of, same_bits, undisturbed
from sweeps import UNLIKE, sweep

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree, norm
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Message, Server
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training import rounds
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.model.lora_model import load_model
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_was_killed_anywhere_ends_as_an_undisturbed_one(
    name, dropping, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, "local.block_size=1", "local.steps=1")
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    assert whole["server"].round == 3
    for round_num, answers in [(0, 2), (1, 0), (2, 1), (2, 3)]:
        broken = anew(run, f"{round_num}-{answers}")
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, round_num, answers)), start)
        found = load_server(broken.folder / "checkpoint")
        assert (found.round if found else 0) == round_num
        run_rounds(broken, start)
        assert same_bits(left_behind(broken), whole), (round_num, answers)


@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
@pytest.mark.parametrize("function", ["write_jsonl", "save_server"])
def test_a_kill_between_the_writes_of_a_round_changes_nothing(
    name, function, dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config(name, "local.steps=1")
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    broken = anew(run, "broken")
    real = getattr(rounds, function)

    def once(*args: Any) -> None:
        if (isinstance(args[1], Server) and args[1].round == 2) or (isinstance(args[1], list) and len(args[1]) == 2):
            raise Killed
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, function, once)
        with pytest.raises(Killed):
            run_rounds(broken, start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)


def test_a_finished_run_does_not_train_again(dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1")
    run = TrainingRun(
        config=config,
        method=FedAvg(),
        clients=tiny_clients,
        map_blocks=in_process(dropping, FedAvg(), config),
        folder=tmp_path,
    )
    first = run_rounds(run, initial(dropping))
    again = run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 0, 0)), initial(dropping))
    assert same_bits(first, again)


# All methods in blocks, and whole runs of one of each kind under TRL: that its rounds are ours under every method is in
# test_trl.py.
CASES = [*((name, "inprocess") for name in METHODS), *((name, "trl") for name in UNLIKE)]
QUICK = [(name, "inprocess") for name in UNLIKE]


@pytest.mark.parametrize(("name", "engine"), sweep(CASES, *QUICK))
def test_engines_and_block_sizes_agree(name, engine, double_model, tiny_clients, tiny_run_config, tmp_path):
    def run(engine: str, block_size: int) -> list[Tree]:
        config = tiny_run_config(name, f"local.block_size={block_size}", "federation.rounds=2")
        method, folder = make_method(config), tmp_path / f"{engine}-{block_size}"
        blocks = ENGINES[engine](double_model, method, config)
        whole = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        return outcome_of(whole, initial(double_model, torch.float64))

    reference = run("inprocess", 1)
    if engine == "inprocess":
        for block_size in (2, 8):
            assert distance(run(engine, block_size), reference) < 1e-11
        return
    # float32 inside: Adam turns rounding of near-zero gradients into steps, so the norm decides
    other = run(engine, 1)
    assert len(other) == len(reference)
    for ours, theirs in zip(other, reference, strict=True):
        gap = {name: ours[name] - theirs[name] for name in ours}
        assert norm(gap) < 1e-3 * norm(theirs)


@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
def test_the_order_in_which_blocks_arrive_changes_no_bit(name, dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(name, "local.block_size=1", "federation.rounds=2")
    method = make_method(config)
    real = in_process(dropping, method, config)

    def backwards(message: Message, blocks: Iterable[Any], local: Any) -> Iterable[list[ClientResult]]:
        return reversed(list(real(message, blocks, local)))

    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=real, folder=tmp_path / "forwards")
    forwards = outcome_of(run, initial(dropping))
    turned = outcome_of(replace(run, map_blocks=backwards, folder=tmp_path / "backwards"), initial(dropping))
    assert same_bits(forwards, turned)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_on_a_gpu_goes_on_from_states_that_lie_on_disk(
    name, tiny_folder, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, "federation.clients_per_round=6")
    model = load_model(config.model, config.lora, "cuda")
    method = make_method(config)
    engine = in_process(model, method, config)
    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path)
    with pytest.raises(Killed):
        run_rounds(replace(run, map_blocks=killed_at(run.map_blocks, 1, 1)), initial(model))
    server = run_rounds(run, initial(model))
    assert {tensor.device.type for tensor in server.params.values()} == {"cpu"}
    assert all(record["failures"] == [None] * 6 for record in read_jsonl(tmp_path / "rounds.jsonl"))
