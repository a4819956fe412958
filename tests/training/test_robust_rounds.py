"""Rounds with attackers and robust rules: what is recorded, too few answers, kills, engines."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from resumed_rounds import Killed, anew, distance, initial, killed_at, left_behind, outcome_of, same_bits, undisturbed
from scripted_rounds import START, by_client, fails_in_round, scripted_run

from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.registry import make_method
from fedllm_bench.methods.robust.attacks import attackers_of
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

MEDIAN = ("aggregation.rule=median", "federation.weighting=uniform")
NOISE = ("attack.kind=noise", "attack.clients=0.5", "attack.scale=2")


def test_the_median_of_a_round_is_what_the_server_takes(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *MEDIAN, "federation.rounds=2")
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    moved = sum(sorted(record["clients"])[1] + 1 for record in records)  # the middle one of three
    assert server.params["w"].tolist() == [1.0 + moved, 2.0 - moved]
    assert [record["rule"] for record in records] == ["median", "median"]
    assert all("attackers" not in record for record in records)


def test_without_rule_and_attack_a_record_says_nothing_of_them(tiny_clients, tiny_run_config, tmp_path):
    run, _ = scripted_run(by_client, tiny_run_config("fedavg"), tiny_clients, tmp_path)
    run_rounds(run, START)
    assert not any({"rule", "attackers", "kept"} & record.keys() for record in read_jsonl(tmp_path / "rounds.jsonl"))


def test_the_clients_whom_a_rule_chose_are_recorded(tiny_clients, tiny_run_config, tmp_path):
    """Krum of three is one of the two that are closest to each other; the one in the middle is closer to all."""
    config = tiny_run_config(
        *("fedavg", "aggregation.rule=krum", "aggregation.byzantine=0", "federation.weighting=uniform"),
        *("federation.rounds=2", "federation.clients_per_round=3"),
    )
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    (first,), (second,) = (record["kept"] for record in records)
    assert all(record["kept"][0] in record["clients"] for record in records)
    assert server.params["w"].tolist() == [1.0 + first + 1 + second + 1, 2.0 - first - 1 - second - 1]


def test_a_round_with_too_few_answers_takes_the_median_and_says_so(tiny_clients, tiny_run_config, tmp_path, caplog):
    config = tiny_run_config(
        *("fedavg", "aggregation.rule=krum", "aggregation.byzantine=0", "federation.weighting=uniform"),
        *("federation.rounds=2", "federation.clients_per_round=3"),
    )
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path / "whole")
    run.folder.mkdir()
    run_rounds(run, START)
    chosen = read_jsonl(run.folder / "rounds.jsonl")[1]["clients"]
    run, _ = scripted_run(fails_in_round(1, chosen[2]), config, tiny_clients, tmp_path / "fails")
    run.folder.mkdir()
    caplog.set_level(logging.WARNING, logger="fedllm_bench")
    run_rounds(run, START)
    records = read_jsonl(run.folder / "rounds.jsonl")
    assert [record["rule"] for record in records] == ["krum", "median"]
    assert ["kept" in record for record in records] == [True, False]
    assert "round 2: too few answers for aggregation.rule=krum; the median of them is taken" in caplog.text
    assert records[1]["update_norm"] == pytest.approx((chosen[0] + chosen[1] + 2) / 2 * 2**0.5, rel=1e-6)


def test_attackers_are_recorded_where_their_answers_count(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *NOISE, "federation.rounds=3", "attack.clients=1.0")
    first = schedule(config, len(tiny_clients))[0][0]
    run, _ = scripted_run(fails_in_round(0, first), config, tiny_clients, tmp_path)
    run_rounds(run, START)
    among = attackers_of(config.attack, config.seed, len(tiny_clients))
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert first not in records[0]["attackers"]
    for record in records:
        counted = [c for c, why in zip(record["clients"], record["failures"], strict=True) if why is None]
        assert record["attackers"] == [client for client in counted if client in among]
    assert any(record["attackers"] for record in records)


@pytest.mark.parametrize(
    "more",
    [
        (*MEDIAN, *NOISE, "communication.upload_dtype=float16"),
        pytest.param(MEDIAN, marks=pytest.mark.slow),
        pytest.param(NOISE, marks=pytest.mark.slow),
    ],
    ids=["both in float16", "rule", "attack"],
)
def test_a_killed_run_ends_as_an_undisturbed_one(more, dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("scaffold", "local.block_size=1", "local.steps=1", "federation.rounds=2", *more)
    run, start, whole = undisturbed(dropping, tiny_clients, config, tmp_path)
    for round_num, answers in [(0, 2), (1, 3)]:
        broken = anew(run, f"{round_num}-{answers}")
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, round_num, answers)), start)
        run_rounds(broken, start)
        assert same_bits(left_behind(broken), whole), (round_num, answers)


@pytest.mark.parametrize("engine", ["inprocess", pytest.param("trl", marks=pytest.mark.slow)])
def test_engines_and_block_sizes_agree_on_attacks_and_rules(
    engine, double_model, tiny_clients, tiny_run_config, tmp_path
):
    def run(engine: str, block_size: int) -> list[Tree]:
        config = tiny_run_config(
            "fedavg", f"local.block_size={block_size}", "federation.rounds=2", *MEDIAN, *NOISE, "attack.kind=sign_flip"
        )
        method, folder = make_method(config, len(tiny_clients)), tmp_path / f"{engine}-{block_size}"
        blocks = ENGINES[engine](double_model, method, config)
        whole = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        return outcome_of(whole, initial(double_model, torch.float64))

    reference = run("inprocess", 1)
    if engine == "inprocess":
        assert distance(run(engine, 8), reference) < 1e-11
    else:
        assert distance(run(engine, 1), reference) < 1e-3


def test_a_rule_without_attackers_is_another_run_than_the_mean_and_a_weak_bound_is_the_same(
    dropping, tiny_clients, tiny_run_config, tmp_path
):
    found = {}
    settings = {
        "mean": (),
        "median": ("aggregation.rule=median",),
        "loose": ("aggregation.rule=norm_bound", "aggregation.bound=1e9"),
        "tight": ("aggregation.rule=norm_bound", "aggregation.bound=1e-3"),
    }
    for label, more in settings.items():
        (tmp_path / label).mkdir()
        config = tiny_run_config("fedavg", "federation.weighting=uniform", "federation.rounds=1", *more)
        found[label] = undisturbed(dropping, tiny_clients, config, tmp_path / label)[2]["server"].params
    assert same_bits(found["loose"], found["mean"])
    assert not same_bits(found["median"], found["mean"])
    start = initial(dropping)
    moved = sum(float((found["tight"][name] - start[name]).double().square().sum()) for name in start) ** 0.5
    assert moved <= 1e-3 * (1 + 1e-6)
