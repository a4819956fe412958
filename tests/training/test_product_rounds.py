"""Whole rounds under a rule of products: what they leave, bytes, resuming, engines, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from resumed_rounds import Killed, anew, initial, killed_at, left_behind, same_bits, undisturbed
from sweeps import slow

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.common.trees import num_bytes
from fedllm_bench.methods.products.factors import distance, pairs_of
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.batches import schedule
from fedllm_bench.training.budget import Traffic, rounds_within
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

RULES = ("flex", "stack", "exact", "fair", "restart")
ERROR = "communication.aggregation_error=true"


def rule(name: str) -> str:
    return f"communication.lora_aggregation={name}"


def records_of(run: TrainingRun) -> list[dict[str, Any]]:
    return read_jsonl(run.folder / "rounds.jsonl")


@pytest.fixture(scope="module")
def left(tiny_model: Any, tiny_clients: Any, tiny_run_config: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """By rule a run of three rounds, where it began, and what it left."""
    found = {}
    for name in ("mean", *RULES):
        config = tiny_run_config("fedavg", rule(name), ERROR)
        found[name] = undisturbed(tiny_model, tiny_clients, config, tmp_path_factory.mktemp(name))
    return found


def test_the_error_of_aggregation_is_that_of_the_rule(left):
    errors = {name: [record["aggregation_error"] for record in records_of(run)] for name, (run, *_) in left.items()}
    assert all(error > 1e-2 for error in errors["mean"][:1])
    for name in ("stack", "exact"):
        assert all(error < 1e-6 for error in errors[name]), name
    assert 1e-6 < errors["flex"][0] < errors["mean"][0]
    assert 1e-6 < errors["fair"][0] < errors["mean"][0]


def test_a_round_moves_the_adapter_by_what_its_record_says(left):
    for name in ("stack", "exact", "restart"):
        run, start, outcome = left[name]
        adapter = run.method.adapter(outcome["server"])
        moved = [record["update_norm"] for record in records_of(run)]
        assert 0 < distance(adapter, start) <= sum(moved) * (1 + 1e-6)


def test_bytes_are_those_of_what_travels(left):
    for name in ("flex", "fair", "mean"):
        run, start, _ = left[name]
        whole = 3 * num_bytes({"params": start})
        assert [(r["bytes_down"], r["bytes_up"]) for r in records_of(run)] == [(whole, whole)] * 3
    for name, added, own in (("stack", 12, 0), ("exact", 8, 1), ("restart", 8, 0)):  # 3 clients of rank 4; (K - 1) r
        run, start, _ = left[name]
        sizes = [(b.shape[0], a.shape[1]) for a, b in pairs_of(start).values()]
        whole, first = num_bytes({"params": start}), 4 if name == "restart" else 0
        down = [
            3 * (own * whole + sum(4 * min((first + added * n) * (o + i), o * i) for o, i in sizes)) for n in range(3)
        ]
        assert [record["bytes_down"] for record in records_of(run)] == down
        assert [record["bytes_up"] for record in records_of(run)] == [3 * whole] * 3


def test_the_plan_of_a_budget_knows_how_messages_grow(left, tiny_run_config):
    for name in ("stack", "exact", "restart"):
        run, start, _ = left[name]
        used = [record["bytes_down"] + record["bytes_up"] for record in records_of(run)]
        plan = schedule(run.config, len(run.clients), run.clients.file_order)
        for rounds, budget in ((2, sum(used) - 1), (3, sum(used))):
            config = tiny_run_config("fedavg", rule(name), f"communication.budget_mb={budget / 2**20!r}")
            assert rounds_within(config, run.method, start, plan) == rounds


@pytest.mark.parametrize("name", ["stack", "exact"])
def test_a_run_ends_at_its_budget_also_when_it_is_gone_on_with(
    name, left, tiny_model, tiny_clients, tiny_run_config, tmp_path
):
    used = [record["bytes_down"] + record["bytes_up"] for record in records_of(left[name][0])]
    config = tiny_run_config("fedavg", rule(name), f"communication.budget_mb={(sum(used) - 1) / 2**20!r}")
    method = make_method(config)
    engine = in_process(tiny_model, method, config)
    run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=engine, folder=tmp_path)
    with pytest.raises(Killed):
        run_rounds(replace(run, map_blocks=killed_at(engine, 1, 0)), initial(tiny_model))
    assert run_rounds(run, initial(tiny_model)).round == 2


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("answers", [0, 1])
def test_a_killed_run_ends_with_the_same_bits(name, answers, left, tiny_model):
    whole, start, expected = left[name]
    run = anew(whole, f"broken-{answers}")
    with pytest.raises(Killed):
        run_rounds(replace(run, map_blocks=killed_at(whole.map_blocks, 1, answers)), start)
    run_rounds(run, start)
    assert same_bits(left_behind(run), expected)


@pytest.mark.parametrize("name", ["stack", "flex"])
def test_clients_may_have_ranks_of_their_own(name, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", rule(name), ERROR, "lora.ranks=1,4")
    run, start, outcome = undisturbed(tiny_model, tiny_clients, config, tmp_path)
    records = records_of(run)
    assert {rank for record in records for rank in record["ranks"]} == {1, 4}
    error = [record["aggregation_error"] for record in records]
    if name == "flex":
        assert all(bytes_ < 3 * num_bytes({"params": start}) for bytes_ in (r["bytes_down"] for r in records))
        assert error[0] > 1e-6
        return
    assert max(error) < 1e-6
    gained = [sum(record["ranks"]) for record in records]
    sizes = [(b.shape[0], a.shape[1]) for a, b in pairs_of(start).values()]
    down = [sum(4 * min(sum(gained[:number]) * (o + i), o * i) for o, i in sizes) for number in range(3)]
    assert [record["bytes_down"] for record in records] == [3 * each for each in down]
    traffic = Traffic(run.method, start, 1e-3)
    for number, record in enumerate(records):
        assert sum(traffic.of_client(number, client)[0] for client in record["clients"]) == record["bytes_down"]
        traffic = traffic.after(number, record["clients"])
    (a, _), *_ = pairs_of(outcome["server"].slots["residual"]).values()
    assert len(a) == min(sum(gained), *sizes[0])


@pytest.mark.parametrize(("name", "engine"), [slow((name, "trl")) for name in RULES])
def test_the_reference_engine_agrees(name, engine, tiny_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", rule(name), "local.optimizer=sgd", "local.lr=0.5", "local.lr_end=0.5")
    method, found = make_method(config), []
    for number, map_blocks in enumerate((in_process, ENGINES[engine])):
        folder = tmp_path / str(number)
        folder.mkdir()
        blocks = map_blocks(tiny_model, method, config)
        run = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=blocks, folder=folder)
        found.append(method.adapter(run_rounds(run, initial(tiny_model))))
    size = distance(found[0], initial(tiny_model))
    assert size > 1e-3
    assert distance(*found) < 1e-4 * size


def test_the_checkpoint_holds_the_change_of_the_base(left):
    run, _, outcome = left["stack"]
    server = outcome["server"]
    again = load_server(run.folder / "checkpoint")
    assert again is not None
    assert same_bits(again, server)
    assert set(server.slots) == {"residual"}
    assert all(bool(torch.isfinite(t).all()) for t in server.slots["residual"].values())
    assert not any(bool(b.any()) for _, b in pairs_of(server.params).values())


# --- what is refused


@pytest.mark.parametrize(
    ("method", "options", "text"),
    [
        ("scaffold", ["flex"], "scaffold works with the averages of A and B, which this rule replaces"),
        ("scaffold", ["stack"], "which this rule replaces (its hook `init`); take fedavg or fedprox"),
        ("scaffold", ["exact", "method.eta=0.5"], "scaffold needs method.eta=1 here, and has 0.5"),
        ("fedadam", ["exact"], "fedadam works with the averages of A and B"),
        ("feddyn", ["stack"], "feddyn works with the averages of A and B"),
        ("fedavgm", ["fair"], "fedavgm works with the averages of A and B"),
        ("local", ["flex"], "local sends nothing"),
        ("central", ["stack"], "central has no clients"),
        ("dp_fedavg", ["stack"], "the noise of privacy is for a mean of uploads"),
        ("fedavg", ["exact", "lora.ranks=1,4"], "it is for clients of one rank"),
        ("fedavg", ["fair", "lora.ranks=1,4"], "it is for clients of one rank"),
        ("hetlora", ["stack"], "hetlora works with the averages of A and B"),
    ],
)
def test_what_a_rule_cannot_be_put_around_is_refused_in_one_line(method, options, text, tiny_run_config):
    name, *more = options
    config = tiny_run_config(method, rule(name), *more)
    with pytest.raises(UserError) as caught:
        make_method(config)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["exact", "lora.dora=true"], "lora.dora=true has a third part"),
        (["stack", "model.quantization=4bit"], "which model.quantization=4bit does not allow"),
        (["exact", "model.quantization=8bit"], "which model.quantization=8bit does not allow"),
        (["stack", "model.device_map=balanced"], "which model.device_map=balanced does not allow"),
        (["stack", "model.trainable=full"], "communication.lora_aggregation=stack is for adapters"),
        (["flex", "communication.fair_lambda=0.5"], "it belongs to lora_aggregation=fair"),
        (["fair", "communication.fair_lambda=-1"], "communication.fair_lambda"),
        (["stacked"], "communication.lora_aggregation"),
    ],
)
def test_settings_that_contradict_a_rule_are_refused(options, text, tiny_run_config):
    name, *more = options
    with pytest.raises(UserError, match=text):
        tiny_run_config("fedavg", rule(name), *more)


def test_trl_cannot_refer_to_a_base_that_changes(tiny_run_config):
    config = tiny_run_config("fedavg", rule("exact"), engine="trl", dataset="chatbot_pa")
    with pytest.raises(UserError, match="for the reference"):
        make_method(config)
