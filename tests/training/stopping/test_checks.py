"""Rounds that end once the validation loss gets no better, and what they leave; losses are scripted here."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resumed_rounds import Killed, anew, asked_in, initial, killed_at, left_behind, same_bits
from sweeps import UNLIKE, sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.interrupts import Interrupted, Stop
from fedllm_bench.common.trees import num_bytes
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg, Server, trains_alone
from fedllm_bench.methods.registry import make_method
from fedllm_bench.results.budget import MB, ended_early
from fedllm_bench.results.early_stop import best_round, early_stop_block, has_stopped, kept_round, stopped_early
from fedllm_bench.training.checkpoint import ClientStates, load_server
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.stopping import checks
from fedllm_bench.training.stopping.checks import Looked, Validation

# By round: the second is the best, and nothing is better in two checks after it.
LOSSES: Mapping[int, float | None] = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.0, 5: 1.0, 6: 0.5}
EVERY = [name for name in METHODS if name != "dp_fedavg"]  # which is refused: see tests/config/test_stopping.py
ASKED = ("federation.rounds=6", "federation.patience=2", "local.steps=1", "local.block_size=1")


def scripted(losses: Mapping[int, float | None], clients: Sequence[int] = range(6), **more: Any) -> Validation:
    def look(server: Server) -> Looked:
        if "at" in more and server.round == more["at"]:
            more.pop("at")
            raise more["error"]
        return Looked(losses[server.round], 12, 0.25)

    return Validation(clients=clients, look=look)


def run_of(model: Any, clients: Any, config: RunConfig, folder: Path, losses: Any = LOSSES) -> TrainingRun:
    folder.mkdir(exist_ok=True)
    method = make_method(config, len(clients))
    validation = scripted(losses) if config.federation.patience else None
    return TrainingRun(config=config, method=method, clients=clients, map_blocks=in_process(model, method, config),
                       folder=folder, validation=validation)  # fmt: skip


def records_of(run: TrainingRun) -> list[dict[str, Any]]:
    return read_jsonl(run.folder / "rounds.jsonl")


@pytest.mark.parametrize("name", EVERY)
def test_what_is_left_is_the_best_round_of_the_same_run_without_checks(
    name, dropping, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config(name, *ASKED)
    run = run_of(dropping, tiny_clients, config, tmp_path / "stopped")
    kept = run_rounds(run, initial(dropping))
    assert [record["round"] for record in records_of(run)] == [1, 2, 3, 4]
    assert kept.round == 2

    # a run of all rounds that is cut off after the second: the same schedule of the rate, no checks
    plain = run_of(dropping, tiny_clients, tiny_run_config(name, *ASKED[:1], *ASKED[2:]), tmp_path / "plain")
    with pytest.raises(Killed):
        run_rounds(replace(plain, map_blocks=killed_at(plain.map_blocks, 2, 0)), initial(dropping))
    there = load_server(plain.folder / "checkpoint")
    assert same_bits(kept, there)
    for client in range(len(tiny_clients)):  # own adapters are those of the best round too
        assert same_bits(run.states.get(client, {}, kept.round), plain.states.get(client, {}, 2)), client


@pytest.mark.parametrize("name", sweep(EVERY, *(name for name in UNLIKE if name in EVERY)))
def test_a_run_that_was_killed_anywhere_ends_as_an_undisturbed_one(
    name, dropping, tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    config, start = tiny_run_config(name, *ASKED), initial(dropping)
    run = run_of(dropping, tiny_clients, config, tmp_path / "whole")
    kept, whole = run_rounds(run, start), left_behind(run)
    for round_num, answers in [(1, 2), (2, 0), (3, 3)]:
        broken = anew(run, f"{round_num}-{answers}")
        with pytest.raises(Killed):
            run_rounds(replace(broken, map_blocks=killed_at(run.map_blocks, round_num, answers)), start)
        assert same_bits(run_rounds(broken, start), kept)
        assert same_bits(left_behind(broken), whole), (round_num, answers)
    for place in ("save_server", "write_jsonl"):  # before the best server is on disk, and between it and its check
        broken = anew(run, place)
        with monkeypatch.context() as patch:
            patch.setattr(checks, place, killed)
            with pytest.raises(Killed):
                run_rounds(broken, start)
        assert (load_server(broken.folder / "checkpoint") or Server({})).round == 1
        assert same_bits(run_rounds(broken, start), kept)
        assert same_bits(left_behind(broken), whole), place


def killed(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("at", [1, 2, 4])
def test_ctrl_c_in_a_check_or_a_round_goes_on_with_that_check(at, dropping, tiny_clients, tiny_run_config, tmp_path):
    config, start = tiny_run_config("ditto", *ASKED), initial(dropping)
    run = run_of(dropping, tiny_clients, config, tmp_path / "whole")
    kept, whole = run_rounds(run, start), left_behind(run)
    broken = replace(anew(run, "check"), validation=scripted(LOSSES, at=at, error=Interrupted(signal.SIGINT)))
    with pytest.raises(Interrupted):
        run_rounds(broken, start)
    assert "check" not in records_of(broken)[-1]
    assert same_bits(run_rounds(broken, start), kept)
    assert same_bits(left_behind(broken), whole)
    stop = Stop()
    broken = replace(anew(run, "round"), stop=stop, map_blocks=asked_in(stop, run.map_blocks, at - 1, 1))
    with pytest.raises(Interrupted):
        run_rounds(broken, start)
    assert same_bits(run_rounds(replace(broken, stop=Stop(), map_blocks=run.map_blocks), start), kept)
    assert same_bits(left_behind(broken), whole)


def test_checks_come_every_few_rounds_and_after_the_last(dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *ASKED, "federation.rounds=5", "federation.check_every=2")
    losses = {2: 2.0, 4: 3.0, 5: 1.5}
    run = run_of(dropping, tiny_clients, config, tmp_path / "run", losses)
    assert run_rounds(run, initial(dropping)).round == 5
    found = {record["round"]: record["check"]["loss"] for record in records_of(run) if "check" in record}
    assert found == losses


def test_a_check_is_counted_with_the_bytes_of_its_round(dropping, tiny_clients, tiny_run_config, tmp_path):
    config, start = tiny_run_config("fedavg", *ASKED), initial(dropping)
    run = run_of(dropping, tiny_clients, config, tmp_path / "run")
    run_rounds(run, start)
    for record in records_of(run):
        check = record["check"]
        assert (check["bytes_down"], check["bytes_up"]) == (6 * num_bytes({"x": start}), 6 * 8)
        assert record["bytes_down"] == (3 + 6) * num_bytes({"x": start})
        assert record["bytes_up"] == 3 * num_bytes({"x": start}) + 6 * 8
    for name in ("local", "central"):  # nothing is sent there
        alone = run_of(dropping, tiny_clients, tiny_run_config(name, *ASKED), tmp_path / name)
        run_rounds(alone, start)
        assert {(r["bytes_up"], r["bytes_down"], r["check"]["bytes_down"]) for r in records_of(alone)} == {(0, 0, 0)}


@pytest.mark.parametrize("rule", ["mean", "stack", "exact", "restart"])
def test_a_budget_leaves_room_for_the_last_check(rule, load_tiny, tiny_clients, tiny_run_config, tmp_path):
    model = load_tiny(targets=("q_proj", "v_proj"))
    start = initial(model)
    allowed = (
        2.5 * (6 + 6) * num_bytes({"x": start}) / MB
    )  # two rounds of three clients with checks of six, not a third
    config = tiny_run_config("fedavg", *ASKED, f"communication.budget_mb={allowed}", "federation.check_every=4",
                             f"communication.lora_aggregation={rule}", "federation.patience=1")  # fmt: skip
    run = run_of(model, tiny_clients, config, tmp_path / "run", dict.fromkeys(range(9), 1.0))
    run_rounds(run, start)
    records = records_of(run)
    assert 0 < len(records) < 6
    assert [("check" in record) for record in records] == [*[False] * (len(records) - 1), True]
    assert sum(record["bytes_up"] + record["bytes_down"] for record in records) <= allowed * MB
    assert ended_early(config, records)  # the budget ended it, and no check
    assert not stopped_early(config, records)


def test_a_best_server_that_is_gone_is_named(dropping, tiny_clients, tiny_run_config, tmp_path):
    run = run_of(dropping, tiny_clients, tiny_run_config("fedavg", *ASKED), tmp_path / "run")
    run_rounds(run, initial(dropping))
    (run.folder / "checkpoint" / "best" / "server.safetensors").unlink()
    with pytest.raises(UserError, match=r"best: it does not hold round 2, the best one by rounds.jsonl, so"):
        run_rounds(run, initial(dropping))


def test_losses_that_are_not_finite_are_no_improvement(dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", *ASKED)
    run = run_of(dropping, tiny_clients, config, tmp_path / "run", {1: None, 2: float("nan")})
    assert run_rounds(run, initial(dropping)).round == 2  # without a best round the last one is kept
    records = records_of(run)
    assert [record["check"]["loss"] for record in records] == [None, None]
    assert "is not finite in 2 checks" in stopped_early(config, records)
    block = early_stop_block(config, records, 12, 6)
    assert block is not None
    assert (block["best_round"], block["best_loss"]) == (2, None)


def test_the_decision_is_a_function_of_the_lines():
    lines = [{"round": n, "check": {"loss": loss}} for n, loss in LOSSES.items()]
    assert best_round(lines[:4]) == 2  # the first of equal ones
    assert kept_round([{"round": 1}, {"round": 2}]) == 2
    assert best_round([]) is None


def test_without_patience_nothing_is_checked_or_kept(dropping, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg")
    run = run_of(dropping, tiny_clients, config, tmp_path / "run")
    assert run_rounds(run, initial(dropping)).round == 3
    assert not any("check" in record for record in records_of(run))
    assert not (run.folder / "checkpoint" / "best").exists()
    assert not has_stopped(config, records_of(run))
    assert early_stop_block(config, records_of(run), 0, 0) is None


def test_states_of_the_best_round_stay_until_a_better_one_comes(tmp_path):
    states = ClientStates(tmp_path)
    import torch

    def put(number: int) -> None:
        states.put(0, {"own": {"w": torch.full((1,), float(number))}}, number)

    for number, kept in [(1, None), (2, 1), (3, 1), (4, 3)]:
        put(number)
        states.forget_before([0], number, kept)
    assert sorted(path.stem for path in (tmp_path / "c000000").iterdir()) == ["r000003", "r000004"]
    assert float(states.get(0, {}, 3)["own"]["w"]) == 3


def test_every_kind_of_method_was_seen():
    assert any(trains_alone(kind) for kind in METHODS.values())
    assert any(kind.personal and kind.sends for kind in METHODS.values())
    assert issubclass(METHODS["fedavg"], FedAvg)
    assert len(EVERY) == len(METHODS) - 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss", float("nan")),
        ("loss", True),
        ("loss", "1"),
        ("seconds", None),
        ("seconds", float("inf")),
        ("rows", 1.5),
    ],
)
def test_a_changed_check_is_refused_in_one_line(key, value, dropping, tiny_clients, tiny_run_config, tmp_path):
    run = run_of(dropping, tiny_clients, tiny_run_config("fedavg", *ASKED), tmp_path / "run")
    run_rounds(run, initial(dropping))
    lines = records_of(run)
    lines[0]["check"][key] = value
    (run.folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"rounds.jsonl: it has not the 4 rounds of the checkpoint, so that it was"):
        run_rounds(run, initial(dropping))
