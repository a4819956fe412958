"""kill -9 at a random moment of a random round: every method ends with the same bits under every objective."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from resumed_rounds import initial, left_behind, same_bits
from sweeps import MIXING, sweep

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.losses.objectives import OBJECTIVES
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

ROUNDS, KILLS = 8, 3
OBJECTIVE_CASES = {"sft": ("aya", "tiny_clients"), "dpo": ("chatbot_pa", "pair_clients")}  # data set, fixture
EVERY = [(name, objective) for name in METHODS for objective in OBJECTIVE_CASES]
CASES = [(name, objective) for name, objective in EVERY if objective == "sft" or name not in MIXING]


def rounds_done(folder: Path) -> int:
    return len(read_jsonl(folder / "rounds.jsonl")) if (folder / "rounds.jsonl").is_file() else 0


def kill_in(run: TrainingRun, model: LoraModel, round_num: int, delay_seconds: float) -> int | None:
    """Run in a process of its own, killed `delay_seconds` after `round_num` rounds; its exit code."""
    # fork: loading torch and the model anew would take five seconds each time
    process = multiprocessing.get_context("fork").Process(target=run_rounds, args=(run, initial(model)))
    process.start()
    deadline = time.monotonic() + 120
    while rounds_done(run.folder) < round_num and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(delay_seconds)
    process.kill()
    process.join()
    return process.exitcode


def test_every_objective_has_a_case():
    """KTO's is in test_resume_dpo.py: its rows are answers, not pairs."""
    assert [*OBJECTIVE_CASES, "kto"] == list(OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "objective"),
    sweep(CASES, ("scaffold", "sft"), ("local", "dpo")),
)
def test_a_run_killed_in_random_rounds_ends_with_the_same_bits(
    name, objective, dropping, request, tiny_run_config, tmp_path
):
    dataset, fixture = OBJECTIVE_CASES[objective]
    clients = request.getfixturevalue(fixture)
    options = ["local.steps=1", "local.steps_rule=fixed"]
    config = tiny_run_config(name, f"federation.rounds={ROUNDS}", *options, dataset=dataset)
    assert config.local.loss == objective
    method = make_method(config)
    engine = in_process(dropping, method, config)
    whole = TrainingRun(config=config, method=method, clients=clients, map_blocks=engine, folder=tmp_path / "whole")
    broken = replace(whole, folder=tmp_path / "broken")
    whole.folder.mkdir()
    broken.folder.mkdir()
    run_rounds(whole, initial(dropping))
    seconds = np.median([record["seconds"] for record in read_jsonl(whole.folder / "rounds.jsonl")])
    rng = np.random.default_rng([7, list(METHODS).index(name), list(OBJECTIVES).index(objective)])
    reached = []
    for round_num in sorted(rng.choice(np.arange(1, ROUNDS - 1), KILLS, replace=False)):
        code = kill_in(broken, dropping, int(round_num), float(rng.uniform(0, seconds)))
        if code == -signal.SIGKILL:
            reached.append(rounds_done(broken.folder))
    assert reached, "every run was done before it was killed"
    assert any(0 < done < ROUNDS for done in reached)
    run_rounds(broken, initial(dropping))
    assert same_bits(left_behind(broken), left_behind(whole))
    states = [state for state in left_behind(whole)["states"] if state]
    assert bool(states) == bool(method.client_init(initial(dropping)))
    assert bool(states) == (name in {"local", "scaffold", "feddyn", "hetlora"} or method.personal)
