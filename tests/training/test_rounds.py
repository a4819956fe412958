"""The rounds of a run with scripted engines: what a client answers is known, so means and records can be checked."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from scripted_rounds import START, by_client, delta, fails_in_round, scripted_run

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.text import part_of
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.local import LocalOnly
from fedllm_bench.training import rounds
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.rounds import run_rounds


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_the_server_moves_by_the_weighted_mean(weighting, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1", f"federation.weighting={weighting}")
    run, _ = scripted_run(by_client, config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    chosen = schedule(config, 6)[0]
    sizes = {k: len(tiny_clients.train_rows[tiny_clients.ids[k]]) if weighting == "examples" else 1 for k in chosen}
    mean = sum(sizes[k] * (k + 1) for k in chosen) / sum(sizes.values())
    assert server.params["w"].tolist() == pytest.approx([1 + mean, 2 - mean], rel=1e-6)


def test_records_say_who_did_what_at_which_cost(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg")
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [record["round"] for record in records] == [1, 2, 3]
    for number, (record, chosen) in enumerate(zip(records, schedule(config, 6), strict=True)):
        assert record["clients"] == chosen
        assert record["client_ids"] == [tiny_clients.ids[k] for k in chosen]
        assert record["num_examples"] == [len(tiny_clients.train_rows[tiny_clients.ids[k]]) for k in chosen]
        assert record["lr"] == config.local.lr_at(number, 3) == engine.rates[number]
        assert record["losses"] == [2.5] * 3
        assert record["steps"] == [2] * 3
        assert record["failures"] == [None] * 3
        assert record["bytes_up"] == record["bytes_down"] == 3 * 2 * 4  # clients, numbers, bytes of float32
        assert record["update_norm"] > 0
        assert record["seconds"] >= 0
    assert records[0]["lr"] == config.local.lr
    assert [record["lr"] for record in records] == sorted((record["lr"] for record in records), reverse=True)


def test_progress_moves_with_each_block_of_clients_and_ends_with_the_rounds(
    tiny_clients, tiny_run_config, tmp_path, monkeypatch
):
    seen: list[float] = []
    monkeypatch.setattr(rounds.Share, "add", lambda self, amount, **_: seen.append(amount) or add(self, amount))
    settings = ("federation.clients_per_round=4", "local.block_size=2", "federation.rounds=2")
    run, _ = scripted_run(by_client, tiny_run_config("fedavg", *settings), tiny_clients, tmp_path)
    run_rounds(run, START)
    assert seen == pytest.approx([0.5] * 4)
    seen.clear()
    run_rounds(run, START)  # both rounds were done before
    assert seen == [2.0]


def add(self: rounds.Share, amount: float) -> None:
    self.done += amount


def test_tasks_hold_the_clients_own_rows_and_the_plan_of_their_round(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", seed=2)
    run, engine = scripted_run(by_client, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    assert len(engine.tasks) == 9
    rows = tiny_clients.split.rows("train")
    for task in engine.tasks:
        owners = {rows[int(tiny_clients.tokens["train"].rows[number])].client_id for number in task.row_numbers}
        assert owners == {task.client_id} == {tiny_clients.ids[task.client]}
        assert [len(step) for step in task.steps] == [1, 1]
        assert all(len(micro) == 4 for step in task.steps for micro in step)
    assert [task.round_num for task in engine.tasks] == [0] * 3 + [1] * 3 + [2] * 3
    assert {task.seed for task in engine.tasks} == {2}


def test_blocks_are_filled_in_the_order_of_the_clients(tiny_clients, tiny_run_config, tmp_path):
    settings = ("federation.clients_per_round=5", "local.block_size=2", "federation.rounds=1")
    run, engine = scripted_run(by_client, tiny_run_config("fedavg", *settings), tiny_clients, tmp_path)
    run_rounds(run, START)
    assert [len(block) for block in engine.asked] == [2, 2, 1]
    assert [k for block in engine.asked for k in block] == schedule(run.config, 6)[0]


def test_a_failing_client_is_left_out_and_recorded(tiny_clients, tiny_run_config, tmp_path, caplog):
    fractions: list[float] = []

    class Noting(FedAvg):
        def update(self, server, mean, fraction):
            fractions.append(fraction)
            return super().update(server, mean, fraction)

    config = tiny_run_config("fedavg", "federation.rounds=1", "federation.weighting=uniform")
    first, *others = schedule(config, 6)[0]
    method = Noting(weighting="uniform")
    run, _ = scripted_run(fails_in_round(0, first), config, tiny_clients, tmp_path, method=method)
    with caplog.at_level(logging.WARNING):
        server = run_rounds(run, START)
    mean = sum(k + 1 for k in others) / 2
    assert server.params["w"].tolist() == pytest.approx([1 + mean, 2 - mean], rel=1e-6)
    assert fractions == [2 / 6]
    (record,) = read_jsonl(tmp_path / "rounds.jsonl")
    assert record["failures"] == ["loss nan is not finite at local step 1", None, None]
    assert record["losses"] == [None, 2.5, 2.5]
    assert record["bytes_up"] == 2 * 2 * 4
    assert record["bytes_down"] == 3 * 2 * 4
    assert f"round 1, client {tiny_clients.ids[first]}: loss nan" in caplog.text


def test_a_round_without_any_answer_stops_and_keeps_the_checkpoint(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg")
    run, _ = scripted_run(fails_in_round(1, *range(6)), config, tiny_clients, tmp_path)
    first = tiny_clients.ids[schedule(config, 6)[1][0]]
    with pytest.raises(UserError, match=rf"round 2: 3 of 3 clients have no.*\(client {first}: loss nan") as caught:
        run_rounds(run, START)
    assert "\n" not in str(caught.value)
    server = load_server(tmp_path / "checkpoint")
    assert server is not None
    assert server.round == 1
    assert len(read_jsonl(tmp_path / "rounds.jsonl")) == 1
    assert torch.isfinite(server.params["w"]).all()


def test_the_state_of_a_failed_client_is_that_before_the_round(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("local", "federation.clients_per_round=6", "federation.rounds=2")
    fails = fails_in_round(1, 4)

    def script(task: ClientTask) -> ClientResult:
        state = {"own": {"w": torch.full((2,), 10.0 * task.round_num + task.client)}}
        return replace(fails(task), upload={}, state=state)

    run, engine = scripted_run(script, config, tiny_clients, tmp_path)
    run_rounds(run, START)
    assert [run.states.get(k, {}, 2)["own"]["w"][0].item() for k in range(6)] == [10, 11, 12, 13, 4, 15]
    assert [task.state["own"]["w"][0].item() for task in engine.tasks] == [1.0] * 6 + [0, 1, 2, 3, 4, 5]


def test_local_sends_nothing_and_trains_only_who_is_asked_for(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("local", "federation.clients_per_round=6")

    def script(task: ClientTask) -> ClientResult:
        return replace(delta(task, 1.0), upload={}, state={"own": START})

    run, engine = scripted_run(script, config, tiny_clients, tmp_path, only=frozenset({1, 4}))
    server = run_rounds(run, START)
    assert {client for block in engine.asked for client in block} == {1, 4}
    assert torch.equal(server.params["w"], START["w"])
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [(r["bytes_up"], r["bytes_down"], r["update_norm"]) for r in records] == [(0, 0, 0)] * 3
    assert isinstance(run.method, LocalOnly)


def test_a_round_of_clients_without_rows_leaves_the_server_as_it_is(tiny_clients, tiny_run_config, tmp_path):
    """All rows of a client may be longer than the sequence length; 0 / 0 is no mean."""

    class Empty(type(tiny_clients)):
        train_rows = dict.fromkeys(tiny_clients.ids, ())

    clients = Empty(tiny_clients.split, tiny_clients.tokens)
    run, engine = scripted_run(lambda task: delta(task, 0.0), tiny_run_config("fedavg"), clients, tmp_path)
    server = run_rounds(run, START)
    assert torch.equal(server.params["w"], START["w"])
    assert all(task.steps == () for task in engine.tasks)


@pytest.mark.parametrize(
    ("limit", "failing", "stops"), [(0.5, 1, False), (0.5, 2, True), (0.0, 1, True), (0.9, 2, False)]
)
def test_the_run_stops_where_more_clients_fail_than_the_limit_allows(
    limit, failing, stops, tiny_clients, tiny_run_config, tmp_path
):
    config = tiny_run_config("fedavg", "federation.rounds=1", f"federation.failure_limit={limit}")
    chosen = schedule(config, 6)[0]
    run, _ = scripted_run(fails_in_round(0, *chosen[:failing]), config, tiny_clients, tmp_path)
    if not stops:
        assert run_rounds(run, START).round == 1
        return
    with pytest.raises(UserError) as caught:
        run_rounds(run, START)
    text = str(caught.value)
    assert (
        f"round 1: {part_of(failing, 3, 'client', 'have')} no finite answer, more than federation.failure_limit={limit}"
        in text
    )
    assert f"client {tiny_clients.ids[chosen[0]]}: loss nan" in text


def test_central_training_pools_the_rows_of_all_clients(tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("central", "local.accumulation=2", "federation.rounds=2")
    run, engine = scripted_run(lambda task: delta(task, 1.0), config, tiny_clients, tmp_path)
    server = run_rounds(run, START)
    assert [task.client for task in engine.tasks] == [6, 6]
    first, second = engine.tasks
    assert sorted(first.row_numbers) == list(range(len(tiny_clients.tokens["train"])))
    assert len(first.steps) == 2  # as many as a client takes
    assert [len(step) for step in first.steps] == [2 * 3] * 2  # the micro-batches of all three clients of a round
    assert first.steps != second.steps
    assert server.params["w"].tolist() == [3.0, 0.0]
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [(r["bytes_up"], r["bytes_down"], r["client_ids"]) for r in records] == [(0, 0, ["central"])] * 2


def test_an_engine_that_answers_for_others_is_noticed(tiny_clients, tiny_run_config, tmp_path):
    run, _ = scripted_run(lambda task: replace(delta(task, 1.0), client=9), tiny_run_config(), tiny_clients, tmp_path)
    with pytest.raises(RuntimeError, match="answered for other clients"):
        run_rounds(run, START)
