"""Preference training after a kill, with dynamic steps: undisturbed bit by bit, whichever method; groupings agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from resumed_rounds import (
    Killed,
    anew,
    distance,
    initial,
    killed_at,
    left_behind,
    outcome_of,
    same_bits,
    undisturbed,
)
from sweeps import UNLIKE, sweep

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.data.pairs import AnswerPart
from fedllm_bench.methods.registry import make_method
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun


def config_of(tiny_run_config, name: str, *overrides: str):
    """Steps as published: ceil(3 n / (R S / N) / rows of a step)."""
    dynamic = ("local.steps=1", "local.steps_rule=dynamic", "local.micro_batch=8", "local.block_size=1")
    dynamic += ("federation.rounds=2", "federation.clients_per_round=6")
    return tiny_run_config(name, *dynamic, *overrides, dataset="chatbot_pa")


@pytest.mark.parametrize("name", sweep(UNLIKE, "fedavg", "scaffold"))
def test_a_run_that_was_killed_anywhere_ends_as_an_undisturbed_one(
    name, tiny_model, pair_clients, tiny_run_config, tmp_path
):
    """One method of each kind; all of them are killed under DPO in test_kill_methods.py."""
    config = config_of(tiny_run_config, name)
    run, start, whole = undisturbed(tiny_model, pair_clients, config, tmp_path)
    steps = {steps for record in read_jsonl(run.folder / "rounds.jsonl") for steps in record["steps"]}
    assert run.method.pooled or len(steps) > 1
    broken = anew(run, "broken")
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, 1, 0 if run.method.pooled else 3)), start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)


@pytest.mark.parametrize("name", sweep(UNLIKE, "scaffold"))
def test_kto_goes_on_where_it_was_killed_as_well(name, tiny_model, pair_clients, tiny_run_config, tmp_path):
    """Each answer is a row, and a client has twice as many. Rows are all that a method sees of an objective."""
    answers = {**pair_clients.tokens, "train": AnswerPart(pair_clients.tokens["train"])}
    clients = replace(pair_clients, tokens=answers)
    run, start, whole = undisturbed(tiny_model, clients, config_of(tiny_run_config, name, "local.loss=kto"), tmp_path)
    broken = anew(run, "broken")
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, 1, 0 if run.method.pooled else 3)), start)
    run_rounds(broken, start)
    assert same_bits(left_behind(broken), whole)


@pytest.mark.slow
def test_block_sizes_agree(double_model, pair_clients, tiny_run_config, tmp_path):
    parts = with_reference(
        pair_clients.tokens, double_model, base_hash="double", batch_tokens=2048, cache=tmp_path / "cache"
    )
    clients = replace(pair_clients, tokens=parts)

    def run(block_size: int):
        config = config_of(tiny_run_config, "scaffold", f"local.block_size={block_size}")
        method, folder = make_method(config), tmp_path / str(block_size)
        blocks = in_process(double_model, method, config)
        whole = TrainingRun(config=config, method=method, clients=clients, map_blocks=blocks, folder=folder)
        return outcome_of(whole, initial(double_model, torch.float64))

    assert distance(run(4), run(1)) < 1e-11
