"""Training that makes losses larger than the base's is noticed in its first round, and a sane rate never is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resumed_rounds import initial
from scripted_rounds import START, by_client, scripted_run
from tiny import ALL_LINEAR

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import read_jsonl
from fedllm_bench.config.run import Lora, Model, RunConfig
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.pairs import tokenise_pairs
from fedllm_bench.methods.registry import make_method
from fedllm_bench.runs.cell import settings_hash
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.training.checkpoint import load_server
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.divergence import margin_above
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

FAR_TOO_HIGH, TOO_HIGH, SANE = "local.lr=20", "local.lr=0.5", "local.lr=1e-2"
Losses = Callable[[ClientTask], tuple[float, ...]]


@pytest.fixture(scope="module")
def mini_model() -> LoraModel:
    """The embedded base, which knows its world: a random one has losses that hardly anything makes larger."""
    return load_model(Model(name="mini", dtype="float32"), Lora(rank=4, alpha=8, dropout=0.0, targets=ALL_LINEAR))


@pytest.fixture(scope="module")
def votes(mini_model: LoraModel, pair_split: Split) -> Clients:
    cache = files.cache_root()
    parts = tokenise_pairs(pair_split, mini_model.tokenizer, template_text("mini"), 256, cache)
    parts = with_reference(parts, mini_model, base_hash="mini", batch_tokens=2048, cache=cache)
    return Clients(pair_split, parts)


def answering(losses: Losses) -> Callable[[ClientTask], ClientResult]:
    return lambda task: replace(by_client(task), losses=losses(task))


def real_run(config: RunConfig, model: Any, clients: Any, folder: Path) -> TrainingRun:
    method = make_method(config)
    engine = ENGINES[config.engine](model, method, config)
    return TrainingRun(config=config, method=method, clients=clients, map_blocks=engine, folder=folder)


def test_a_rate_that_is_too_high_stops_after_round_1_and_says_what_to_type(
    mini_model, tiny_clients, tiny_run_config, tmp_path
):
    run = real_run(tiny_run_config("fedavg", TOO_HIGH), mini_model, tiny_clients, tmp_path)
    with pytest.raises(UserError, match=r"losses of round 1 end at \d+\.\d\d, and the base's") as caught:
        run_rounds(run, initial(mini_model))
    assert "--set local.lr=0.05;" in str(caught.value)
    assert "--set local.on_divergence=go" in str(caught.value)
    assert "\n" not in str(caught.value)
    server = load_server(tmp_path / "checkpoint")
    assert server is not None
    assert server.round == 1


def test_the_same_command_stops_again_and_go_goes_on_from_there(
    mini_model, tiny_clients, tiny_run_config, tmp_path, caplog
):
    run = real_run(tiny_run_config("fedavg", TOO_HIGH), mini_model, tiny_clients, tmp_path)
    for _ in range(2):
        with pytest.raises(UserError, match="training diverges"):
            run_rounds(run, initial(mini_model))
    assert len(read_jsonl(tmp_path / "rounds.jsonl")) == 1
    going = tiny_run_config("fedavg", TOO_HIGH, "local.on_divergence=go")
    with caplog.at_level(logging.WARNING):
        run_rounds(replace(run, config=going), initial(mini_model))
    assert len(read_jsonl(tmp_path / "rounds.jsonl")) == 3
    assert caplog.text.count("training diverges") == 1


def test_go_warns_once_and_keeps_what_was_found(mini_model, tiny_clients, tiny_run_config, tmp_path, caplog):
    config = tiny_run_config("fedavg", TOO_HIGH, "local.on_divergence=go")
    with caplog.at_level(logging.WARNING):
        run_rounds(real_run(config, mini_model, tiny_clients, tmp_path), initial(mini_model))
    assert caplog.text.count("training diverges") == 1
    records = read_jsonl(tmp_path / "rounds.jsonl")
    assert [sorted(record.get("divergence", ())) for record in records] == [
        ["base", "clients", "loss", "margin", "rise"],
        [],
        [],
    ]
    assert records[0]["divergence"]["clients"] == 3


@pytest.mark.parametrize("method", ["fedavg", "scaffold", "feddyn", "local", "central"])
@pytest.mark.parametrize("rate", [TOO_HIGH, SANE])
def test_it_is_noticed_under_any_kind_of_method(method, rate, mini_model, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(method, rate, "federation.rounds=1")
    run = real_run(config, mini_model, tiny_clients, tmp_path)
    if rate == SANE:
        run_rounds(run, initial(mini_model))
        return
    with pytest.raises(UserError, match="training diverges"):
        run_rounds(run, initial(mini_model))


@pytest.mark.parametrize(("rate", "stops"), [("local.lr=5000", True), ("local.lr=0.1", False)])
def test_it_is_noticed_under_sgd(rate, stops, mini_model, tiny_clients, tiny_run_config, tmp_path):
    words = ("local.optimizer=sgd", "federation.rounds=1", rate)
    run = real_run(tiny_run_config("fedavg", *words), mini_model, tiny_clients, tmp_path)
    if not stops:
        run_rounds(run, initial(mini_model))
        return
    with pytest.raises(UserError, match="training diverges"):
        run_rounds(run, initial(mini_model))


def test_it_is_noticed_by_the_engine_trl(mini_model, tiny_clients, tiny_run_config, tmp_path):
    words = (FAR_TOO_HIGH, "federation.rounds=1", "federation.clients_per_round=2")
    config = tiny_run_config("fedavg", *words, engine="trl", model="mini")
    run = real_run(config, mini_model, tiny_clients, tmp_path)
    with pytest.raises(UserError, match="training diverges"):
        run_rounds(run, initial(mini_model))


@pytest.mark.parametrize(("rate", "stops"), [(FAR_TOO_HIGH, True), (SANE, False)])
def test_one_step_a_client_is_seen_a_round_later(rate, stops, mini_model, tiny_clients, tiny_run_config, tmp_path):
    run = real_run(tiny_run_config("fedavg", rate, "local.steps=1"), mini_model, tiny_clients, tmp_path)
    if not stops:
        run_rounds(run, initial(mini_model))
        return
    with pytest.raises(UserError, match="losses of round 2 end at"):
        run_rounds(run, initial(mini_model))


@pytest.mark.parametrize(("loss", "rate", "stops"), [
    ("sigmoid", TOO_HIGH, True),
    ("sigmoid", "local.lr=2e-3", False),
    ("ipo", "local.lr=2e-3", False),
])  # fmt: skip
def test_preferences_have_their_own_scale(loss, rate, stops, mini_model, votes, tiny_run_config, tmp_path):
    words = (rate, "local.steps=4", f"local.dpo_loss={loss}", "federation.rounds=1")
    config = tiny_run_config("fedavg", *words, dataset="chatbot_pa")
    run = real_run(config, mini_model, votes, tmp_path)
    if not stops:
        run_rounds(run, initial(mini_model))
        return
    with pytest.raises(UserError, match="training diverges"):
        run_rounds(run, initial(mini_model))


def test_ipo_is_allowed_half_of_the_bases_loss(tiny_run_config):
    """With beta = 0.1 the base's loss is 25, and pairs alone move a step's by several."""
    local = tiny_run_config("fedavg", "local.dpo_loss=ipo", dataset="chatbot_pa").local
    assert (margin_above(25.0, local), margin_above(0.25, local)) == (12.5, 0.5)
    assert margin_above(25.0, replace(local, dpo_loss="sigmoid")) == 0.5
    assert margin_above(25.0, replace(local, loss="sft")) == 0.5


def test_rows_that_are_hard_for_the_base_too_are_no_divergence(tiny_clients, tiny_run_config, tmp_path):
    """The last step of every client has harder rows than its first: 9 nats against 2, for the base as well."""
    config = tiny_run_config("fedavg", "federation.rounds=1")
    run, engine = scripted_run(
        answering(lambda task: (9.0,) if len(task.steps) == 1 else (2.0, 9.0)), config, tiny_clients, tmp_path
    )
    run_rounds(run, START)
    assert len(engine.rates) == 2  # it was looked at
    assert "divergence" not in read_jsonl(tmp_path / "rounds.jsonl")[0]


def test_no_step_is_added_where_losses_fall(tiny_clients, tiny_run_config, tmp_path):
    run, engine = scripted_run(by_client, tiny_run_config("fedavg"), tiny_clients, tmp_path)
    run_rounds(run, START)
    assert len(engine.rates) == 3


@pytest.mark.parametrize(("rising", "stops"), [(1, False), (2, False), (3, True), (4, True)])
def test_more_than_half_of_the_clients_must_have_risen(rising, stops, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "federation.rounds=1", "federation.clients_per_round=4")
    chosen: list[int] = []

    def losses(task: ClientTask) -> tuple[float, ...]:
        chosen.append(task.client)
        if len(task.steps) == 1:  # the base's, on the rows of the last step
            return (2.0,)
        return (2.0, 30.0) if sorted(set(chosen)).index(task.client) < rising else (2.0, 1.9)

    run, _ = scripted_run(answering(losses), config, tiny_clients, tmp_path)
    if not stops:
        run_rounds(run, START)
        return
    with pytest.raises(UserError, match="medians over 4 clients"):
        run_rounds(run, START)


def test_the_answer_to_a_divergence_does_not_name_another_run(tiny_run_config):
    """Else a run that stopped could not go on where it is."""
    stop, go = (tiny_run_config("fedavg", f"local.on_divergence={word}") for word in ("stop", "go"))
    assert settings_hash(stop, "split", "base") == settings_hash(go, "split", "base")
    assert settings_hash(replace(stop, seed=1), "split", "base") != settings_hash(go, "split", "base")
