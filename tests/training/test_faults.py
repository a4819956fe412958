"""Injected faults: a plan of (seed, round, client) alone, that every method survives and that resumes bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resumed_rounds import Killed, initial, killed_at, left_behind, same_bits
from scripted_rounds import START, by_client, scripted_run
from sweeps import HERE, UNLIKE, sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.config.run import Faults
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.registry import make_method
from fedllm_bench.pipeline.results_stage import failures_of, num_dropouts
from fedllm_bench.report.figures import loss_over_rounds
from fedllm_bench.training import faults
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.faults import DROPPED_OUT, drops_out, participants, steps_done
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

CELLS = [(seed, round_num, client) for seed in range(4) for round_num in range(30) for client in range(40)]
PLAN = (((0, 1),), ((2, 3),), ((4, 5),), ((6, 7),), ((8, 9),))


def always(away: set[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """These (round, client) pairs drop out, and no others."""
    monkeypatch.setattr(faults, "drops_out", lambda plan, seed, round_num, client: (round_num, client) in away)


def test_the_plan_has_the_asked_share_of_dropouts_and_a_larger_one_only_adds_some():
    few = {cell for cell in CELLS if drops_out(Faults(dropout=0.1), *cell)}
    many = {cell for cell in CELLS if drops_out(Faults(dropout=0.3), *cell)}
    assert few < many
    for found, share in ((few, 0.1), (many, 0.3)):
        # 4800 draws: four standard errors are 0.017 and 0.026
        assert abs(len(found) / len(CELLS) - share) < 4 * (share * (1 - share) / len(CELLS)) ** 0.5
    assert not any(drops_out(Faults(), *cell) for cell in CELLS)


def test_the_plan_differs_between_seeds_rounds_and_clients_and_straggling_is_drawn_apart():
    away = np.array([drops_out(Faults(dropout=0.5), *cell) for cell in CELLS], float).reshape(4, 30, 40)
    late = np.array([faults.straggles(Faults(stragglers=0.5), *cell) for cell in CELLS], float).reshape(4, 30, 40)
    for axis in range(3):
        turned = np.roll(away, 1, axis)
        assert abs(np.corrcoef(away.ravel(), turned.ravel())[0, 1]) < 0.06  # four standard errors
    assert abs(np.corrcoef(away.ravel(), late.ravel())[0, 1]) < 0.06


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1), (0.2, 1), (0.5, 2), (0.6, 3), (1.0, 5)])
def test_a_straggler_does_the_first_of_its_steps_and_at_least_one(share, expected):
    done = steps_done(Faults(stragglers=1.0, straggler_steps=share), 0, 0, 0, PLAN)
    assert done == PLAN[:expected]
    assert steps_done(Faults(stragglers=1.0, straggler_steps=share), 0, 0, 0, ()) == ()
    assert steps_done(Faults(straggler_steps=share), 0, 0, 0, PLAN) == PLAN


def test_fedavg_with_dropout_is_the_mean_over_who_is_left(tiny_clients, tiny_run_config, tmp_path, monkeypatch):
    config = tiny_run_config("fedavg", "federation.rounds=1", "federation.weighting=uniform", "faults.dropout=0.5")
    first, *others = schedule(config, 6)[0]
    always({(0, first)}, monkeypatch)
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    mean = sum(k + 1 for k in others) / 2
    assert server.params["w"].tolist() == pytest.approx([1 + mean, 2 - mean], rel=1e-6)
    assert [task.client for task in engine.tasks] == others  # who drops out is not trained
    (record,) = read_jsonl(tmp_path / "rounds.jsonl")
    assert record["clients"] == [first, *others]
    assert record["failures"] == [DROPPED_OUT, None, None]
    assert (record["losses"], record["steps"]) == ([None, 2.5, 2.5], [0, 2, 2])
    assert (record["bytes_up"], record["bytes_down"]) == (2 * 2 * 4, 3 * 2 * 4)  # all were sent the adapter


def test_a_round_without_any_answer_changes_nothing_and_the_run_goes_on(
    tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config = tiny_run_config("fedavgm", "faults.dropout=0.5", "federation.failure_limit=0.0")
    always({(1, k) for k in range(6)}, monkeypatch)
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    whole = run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert records[1]["failures"] == [DROPPED_OUT] * 3
    assert (records[1]["update_norm"], records[1]["bytes_up"]) == (0.0, 0)
    assert whole.round == 3
    assert {task.round_num for task in engine.tasks} == {0, 2}
    folder = tmp_path / "two"
    folder.mkdir()
    short = replace(config, federation=replace(config.federation, rounds=2))
    run_rounds(replace(run, config=short, folder=folder), START)
    after_two = load_server(folder / "checkpoint")
    one = replace(config, federation=replace(config.federation, rounds=1))
    folder = tmp_path / "one"
    folder.mkdir()
    after_one = run_rounds(replace(run, config=one, folder=folder), START)
    assert after_two is not None
    assert same_bits([after_two.params, after_two.slots], [after_one.params, after_one.slots])


def test_dropouts_do_not_count_towards_the_failure_limit(tiny_clients, tiny_run_config, tmp_path, monkeypatch):
    config = tiny_run_config("fedavg", "federation.rounds=1", "faults.dropout=0.5", "federation.failure_limit=0.5")
    first, second, third = schedule(config, 6)[0]
    always({(0, first), (0, second)}, monkeypatch)
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path)
    assert run_rounds(run, START).round == 1

    def fails(task):
        return replace(by_client(task), upload={}, losses=(), failure="loss nan")

    folder = tmp_path / "failing"
    folder.mkdir()
    run, _ = scripted_run(fails, config, tiny_clients, folder)
    with pytest.raises(UserError, match=rf"round 1: 1 of 1 client has no finite answer.*{tiny_clients.ids[third]}"):
        run_rounds(run, START)


FAULTY = ("faults.dropout=0.4", "faults.stragglers=0.5", "local.steps=3", "federation.rounds=4", "local.block_size=2")


@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
def test_every_method_survives_faults_and_resumes_bit_by_bit(name, dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(name, *FAULTY)
    method = make_method(config)
    engine = in_process(dropping, method, config)
    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path / "whole")
    run.folder.mkdir()
    server = run_rounds(run, initial(dropping))
    assert all(torch.isfinite(tensor).all() for tensor in server.params.values())
    whole = left_behind(run)
    steps = {count for record in whole["records"] for count in record["steps"]}
    away = num_dropouts(whole["records"])
    if method.pooled:  # one learner, who has no clients that could fail
        assert (steps, away) == ({3}, 0)
    else:
        assert steps == {sum(len(phase.steps) for phase in method.phases(number)) for number in (0, 2, 3)}
        assert 0 < away == sum(record["steps"].count(0) for record in whole["records"])
    assert failures_of(whole["records"]) == []
    broken = replace(run, folder=tmp_path / "broken")
    broken.folder.mkdir()
    with pytest.raises(Killed):
        run_rounds(replace(broken, map_blocks=killed_at(engine, 2, 0)), initial(dropping))
    run_rounds(broken, initial(dropping))
    assert same_bits(left_behind(broken), whole)


@pytest.mark.slow
def test_all_engines_meet_the_same_faults(tiny_model, tiny_clients, tiny_run_config, tmp_path):
    plans = {}
    for name in HERE:
        engine = ENGINES[name]
        config = tiny_run_config("fedavg", *FAULTY, "federation.rounds=3", engine=name)
        folder = tmp_path / name
        folder.mkdir()
        blocks = engine(tiny_model, make_method(config), config)
        run = TrainingRun(
            config=config, method=make_method(config), clients=tiny_clients, map_blocks=blocks, folder=folder
        )
        run_rounds(run, initial(tiny_model))
        records = read_jsonl(folder / "rounds.jsonl")
        plans[name] = [(record["clients"], record["failures"], record["steps"]) for record in records]
    assert len(plans) >= 2
    assert len({str(plan) for plan in plans.values()}) == 1
    assert {count for _, _, steps in plans["trl"] for count in steps} == {0, 2, 3}


def test_all_methods_of_a_seed_meet_the_same_faults(dropping, tiny_clients, tiny_run_config, tmp_path):
    plans = {}
    for name in METHODS:
        config = tiny_run_config(name, *FAULTY, "local.steps=2")
        if config.privacy.clip is not None:  # chosen one by one (Poisson), not so many a round
            continue
        folder = tmp_path / name
        folder.mkdir()
        run, _ = scripted_run(lambda task: replace(by_client(task), upload={}), config, tiny_clients, folder)
        run = replace(run, method=Nothing())
        run_rounds(run, START)
        records = read_jsonl(folder / "rounds.jsonl")
        plans[name] = [(record["clients"], record["failures"]) for record in records]
    assert len(plans) == len(METHODS) - 1
    assert len({str(plan) for plan in plans.values()}) == 1


class Nothing(METHODS["local"]):
    """Nothing is sent: what is compared is the plan."""


def test_a_plan_in_which_nobody_drops_out_changes_no_bit(
    dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    quiet, named = tiny_run_config("scaffold"), tiny_run_config("scaffold", "faults.dropout=0.9")
    assert quiet.faults == Faults()
    always(set(), monkeypatch)
    outcomes = []
    for config, folder in ((quiet, tmp_path / "a"), (named, tmp_path / "b")):
        folder.mkdir()
        method = make_method(config)
        blocks = in_process(dropping, method, config)
        run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        run_rounds(run, initial(dropping))
        outcomes.append(left_behind(run))
    assert same_bits(*outcomes)


def test_who_drops_out_each_time_is_no_participant(tiny_run_config, monkeypatch):
    config = tiny_run_config("local", "federation.clients_per_round=6", "faults.dropout=0.5")
    always({(round_num, 2) for round_num in range(3)} | {(0, 1)}, monkeypatch)
    assert participants(config, 6) == {0, 1, 3, 4, 5}


def test_the_figure_of_losses_survives_rounds_without_answers(tmp_path: Path):
    rounds = [
        {"round": 1, "losses": [None, None]},
        {"round": 2, "losses": [3.0, None]},
        {"round": 3, "losses": [None, None]},
    ]
    for number, rows in enumerate((rounds, rounds[:1])):
        paths = loss_over_rounds(rows, [(0, 3.2, None, None)], tmp_path / str(number))
        assert {path.suffix for path in paths} == {".png", ".svg"}
        assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("setting", ["faults.dropout=1.0", "faults.dropout=-0.1", "faults.stragglers=1.5"])
def test_a_share_out_of_range_is_refused(setting, tiny_run_config):
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        tiny_run_config("fedavg", setting)
