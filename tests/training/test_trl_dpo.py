"""TRL's DPOTrainer as the reference of preference training, and SFTTrainer of conversations of several turns."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from dpo_runs import dpo
from pairs import random_pairs
from resumed_rounds import initial
from sweeps import sweep
from tiny import client_task, random_tree, settings
from trl_double import skip_without_sft_in_double, widen_trl
from trl_steps import SHARP, check_equal, difference

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, norm
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.rows import SftRow
from fedllm_bench.data.tokens import TokenPart, TokenRow, encode
from fedllm_bench.methods.base import FedAvg, Message
from fedllm_bench.methods.registry import make_method
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.training import trl
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.losses import trl_trainers
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.trl_client import TrainedClient, adapter_parameters, put

ROWS, STEPS = (range(5), range(5, 9), range(9, 22)), (2, 0, 3)


@pytest.fixture
def _double(monkeypatch):
    widen_trl(monkeypatch)


@pytest.fixture(scope="module")
def part(double_model, tmp_path_factory):
    cache = tmp_path_factory.mktemp("reference")
    pairs = {"train": random_pairs(seed=4, num_pairs=22)}
    return with_reference(pairs, double_model, base_hash="tiny", batch_tokens=200, cache=cache)["train"]


def setting(model: LoraModel, method: FedAvg, part, local) -> tuple[Message, list[ClientTask]]:
    """A message and clients as after some rounds: nothing in them is zero."""
    start, dtype = initial_adapter(model.layers, rank=4, seed=0), model.base.dtype
    message = method.broadcast(method.init(random_tree(start, seed=6, scale=0.1, dtype=dtype)))
    message |= {key: random_tree(start, seed=7, scale=0.02, dtype=dtype) for key in message if key != "params"}
    tasks = []
    for k, rows in enumerate(ROWS):
        keys = method.client_init(message["params"])
        state = {key: random_tree(start, seed=20 + k, scale=0.02, dtype=dtype) for key in keys}
        tasks.append(client_task(k, part, rows, local, steps=STEPS[k], state=state))
    return message, tasks


LOSSES = [(name, kind) for name in SHARP for kind in ("sigmoid", "ipo")]


@pytest.mark.parametrize(("name", "kind"), sweep(LOSSES, ("fedprox", "sigmoid"), ("fedavg", "ipo")))
@pytest.mark.usefixtures("_double")
def test_dpo_trainer_trains_as_train_block_does(name, kind, part, double_model, tiny_run_config):
    """After some rounds, where a copy of the current adapter would be the wrong reference; with accumulation,
    clipping, weight decay, answers of unlike lengths and unequal numbers of steps."""
    method, local = SHARP[name], dpo(kind, accumulation=2, clip=0.05, weight_decay=0.1)
    message, tasks = setting(double_model, method, part, local)
    ours = train_block(double_model, method, message, tasks, local)
    (theirs,) = ENGINES["trl"](double_model, method, tiny_run_config())(message, [tasks], local)
    assert [len(result.losses) for result in theirs] == list(STEPS)
    for a, b in zip(ours, theirs, strict=True):
        check_equal(a, b, 1e-9)
    assert norm(theirs[2].upload["delta"]) > 0.1


@pytest.fixture(scope="module")
def double_clients(pair_clients: Clients, double_model, tmp_path_factory) -> Clients:
    """The voters with the reference of the model in float64."""
    cache = tmp_path_factory.mktemp("reference")
    parts: Any = pair_clients.tokens
    found = with_reference(parts, double_model, base_hash="double", batch_tokens=2048, cache=cache)
    return replace(pair_clients, tokens=found)


def rounds_by(engine: str, config: Any, model: LoraModel, clients: Clients, folder: Path) -> tuple[list[Tree], Any]:
    """The server's trees and the clients' states after a whole run, and its records."""
    method = make_method(config)
    map_blocks = ENGINES[engine](model, method, config)
    run = TrainingRun(config=config, method=method, clients=clients, map_blocks=map_blocks, folder=folder / engine)
    run.folder.mkdir()
    server = run_rounds(run, initial(model, model.base.dtype))
    states = [run.states.get(client, {}, server.round) for client in range(len(clients))]
    trees = [server.params, *server.slots.values(), *(tree for state in states for tree in state.values())]
    return trees, files.read_jsonl(run.folder / "rounds.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("fedavg", "sigmoid"), ("fedavg", "ipo"), ("fedprox", "sigmoid"), ("scaffold", "sigmoid")]
)
@pytest.mark.usefixtures("_double")
def test_two_federated_rounds_of_dpo_are_those_of_trl(
    name, kind, double_model, double_clients, tiny_run_config, tmp_path
):
    """In round 2 a client starts from the server's adapter, and its reference must still be the base."""
    config = tiny_run_config(
        name,
        *("federation.rounds=2", "federation.clients_per_round=2"),
        *("local.micro_batch=3", "local.accumulation=2", f"local.dpo_loss={kind}"),
        dataset="chatbot_pa",
    )
    ours, records = rounds_by("inprocess", config, double_model, double_clients, tmp_path)
    theirs, references = rounds_by("trl", config, double_model, double_clients, tmp_path)
    assert (
        len(ours) == len(theirs) == (2 + len({c for r in records for c in r["clients"]}) if name == "scaffold" else 1)
    )
    assert difference(ours[0], initial(double_model, torch.float64)) > 0.05
    assert max(difference(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-8
    for record, expected in zip(records, references, strict=True):
        assert record["losses"] == pytest.approx(expected["losses"], rel=1e-5)


@pytest.mark.usefixtures("_double")
def test_a_copy_of_the_adapter_as_reference_shows_from_round_two_on(
    double_model, double_clients, tiny_run_config, tmp_path, monkeypatch
):
    """What DPOTrainer does by itself to a PEFT model; the tests above would see it."""
    monkeypatch.setattr(trl_trainers, "refer_to_base", lambda peft_model: None)
    config = tiny_run_config("fedavg", "federation.rounds=2", "federation.clients_per_round=1", dataset="chatbot_pa")
    _, records = rounds_by("inprocess", config, double_model, double_clients, tmp_path)
    _, trapped = rounds_by("trl", config, double_model, double_clients, tmp_path)
    assert trapped[0]["losses"] == pytest.approx(records[0]["losses"], rel=1e-5)
    assert trapped[1]["losses"] != pytest.approx(records[1]["losses"], rel=1e-2)


def test_no_reference_adapter_stays_on_the_model(part, tiny_model, tiny_run_config, monkeypatch):
    loaded, real = [], trl.load_peft
    monkeypatch.setattr(trl, "load_peft", lambda *args: loaded.append(real(*args)) or loaded[0])
    local = dpo("sigmoid", gradient_checkpointing=True)
    message, tasks = setting(tiny_model, FedAvg(), part, local)
    ours = train_block(tiny_model, FedAvg(), message, tasks, local)
    (theirs,) = ENGINES["trl"](tiny_model, FedAvg(), tiny_run_config())(message, [tasks], local)
    for a, b in zip(ours, theirs, strict=True):
        check_equal(a, b, 2e-3)
    (peft_model,) = loaded
    assert list(peft_model.peft_config) == ["default"]
    assert "forward" not in vars(peft_model.get_base_model())


# --- conversations of several turns


@pytest.mark.usefixtures("_double")
def test_sft_of_several_turns_is_that_of_trl_with_assistant_only_loss(double_model, tiny_run_config):
    """The labels too are TRL's own: from messages, through the template vicuna_v1.1 and its generation marks."""
    skip_without_sft_in_double()
    from trl import SFTConfig

    texts = [("who", "a b"), ("who", "me", "and you", "not me at all"), ("1", "2", "3", "4", "5", "6 7")]
    rows = [conversation(*turns) for turns in texts]
    template = template_text("vicuna_v1.1")
    encoded = encode(rows, double_model.tokenizer, template)
    assert [int(np.diff(row.counted.astype(int)).clip(0).sum()) for row in encoded] == [1, 2, 3]
    local = settings(micro_batch=3, accumulation=1, clip=0.05)
    task = client_task(0, part_of(encoded), range(3), local, steps=2)
    start = random_tree(initial_adapter(double_model.layers, rank=4, seed=0), seed=6, scale=0.1)
    (ours,) = train_block(double_model, FedAvg(), {"params": start}, [task], local)
    order = [[rows[task.row_numbers[i]] for micro in step for i in micro] for step in task.steps]
    client = TrainedClient(FedAvg(), {"params": start}, {}, local, y={})
    with tempfile.TemporaryDirectory() as folder, trl.undisturbed():
        peft_model = trl.load_peft(double_model, tiny_run_config())
        parameters = adapter_parameters(peft_model)
        client.y = {name: parameters[name] for name in start}
        put(client.y, start)
        tokenizer = copy.deepcopy(double_model.tokenizer)
        tokenizer.chat_template = template
        options = {**trl._shared(local, trl.planned_rows(task, local)), "assistant_only_loss": True, "max_length": None}
        trainer = trl.client_trainer()(
            client=client,
            model=peft_model,
            args=SFTConfig(output_dir=folder, use_cpu=True, **options),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"messages": list(row.messages)} for step in order for row in step]),
        )
        trainer.train()
    theirs = client.result(task, None)
    check_equal(ours, theirs, 1e-9)
    assert norm(theirs.upload["delta"]) > 0.1


def conversation(*turns: str) -> SftRow:
    messages = tuple({"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns))
    return SftRow(client_id="c", split="train", row_id="1", language="eng", source="", messages=messages)


def part_of(rows: Sequence[TokenRow]) -> TokenPart:
    return TokenPart(
        ids=np.concatenate([row.ids for row in rows]),
        counted=np.concatenate([row.counted for row in rows]),
        starts=np.cumsum([0, *(len(row.ids) for row in rows)]),
        rows=np.arange(len(rows)),
        num_cut=0,
        num_skipped=0,
    )


def test_kto_with_an_old_trl_is_refused_before_the_base_is_loaded(double_model, tiny_run_config, monkeypatch):
    answers = tiny_run_config("fedavg", "local.loss=kto", dataset="chatbot_pa")
    monkeypatch.setattr(trl_trainers, "version", {"trl": "1.7.1"}.get)
    monkeypatch.setattr(trl, "load_peft", lambda model, config: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"TRL 1\.8 or newer, got 1\.7\.1; pip install"):
        ENGINES["trl"](double_model, FedAvg(), answers)
    monkeypatch.setattr(trl_trainers, "version", {"trl": "1.8.0"}.get)
    trl_trainers.check_kto()
