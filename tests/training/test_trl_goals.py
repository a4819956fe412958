"""KTO, SimPO and ORPO against TRL: KTOTrainer as an engine, CPOTrainer's and ORPOTrainer's own losses of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from block_runs import start_of
from dpo_runs import dpo, kto
from pairs import random_pairs
from sweeps import sweep
from tiny import adapter_parameters, client_task, plain_peft, plain_steps, random_tree
from trl_double import widen_trl
from trl_steps import SHARP, check_equal, difference

from fedllm_bench.common.trees import norm
from fedllm_bench.config.run import Local
from fedllm_bench.data.pairs import AnswerPart, PairPart, PairRow
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.runs.reference import with_reference
from fedllm_bench.training.block import train_block
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.losses import trl_trainers
from fedllm_bench.training.model.lora import initial_adapter

ROWS, STEPS = (range(5), range(5, 9), range(9, 22)), (2, 0, 3)
LENGTH = 11
PAIRS = random_pairs(seed=4, num_pairs=22)


@pytest.fixture
def _double(monkeypatch):
    widen_trl(monkeypatch)


@pytest.fixture(scope="module")
def part(double_model, tmp_path_factory) -> AnswerPart:
    """Sequences are cut, as a split's are; a prompt with the answer of another row may be longer."""
    cache = tmp_path_factory.mktemp("reference")
    return AnswerPart(
        with_reference({"train": cut(PAIRS)}, double_model, base_hash="t", batch_tokens=200, cache=cache)["train"]
    )


def cut(pairs: PairPart) -> PairPart:
    rows = [row for i in range(len(pairs)) for row in pairs[i].sequences]
    short = [TokenRow(row.ids[:LENGTH], row.counted[:LENGTH]) for row in rows]
    assert any(len(row.ids) > LENGTH for row in rows)
    assert all(row.num_counted for row in short)
    sequences = replace(
        pairs.sequences,
        ids=np.concatenate([row.ids for row in short]),
        counted=np.concatenate([row.counted for row in short]),
        starts=np.cumsum([0, *(len(row.ids) for row in short)]),
    )
    return PairPart(sequences)


def setting(model, method, part, local):
    """A message and clients as after some rounds: nothing in them is zero."""
    start = initial_adapter(model.layers, rank=4, seed=0)
    message = method.broadcast(method.init(random_tree(start, seed=6, scale=0.1)))
    message |= {key: random_tree(start, seed=7, scale=0.02) for key in message if key != "params"}
    tasks = []
    for k, rows in enumerate(ROWS):
        state = {key: random_tree(start, seed=20 + k, scale=0.02) for key in method.client_init(message["params"])}
        tasks.append(client_task(k, part, rows, local, steps=STEPS[k], state=state))
    return message, tasks


@pytest.mark.parametrize("name", sweep(list(SHARP), "fedprox"))
@pytest.mark.usefixtures("_double")
def test_kto_trainer_trains_as_train_block_does(name, part, double_model, tiny_run_config):
    """After some rounds; with accumulation (a z0 for each micro-batch), weights, clipping, and prompts with the answers
    of other rows that are longer than the sequence length."""
    method = SHARP[name]
    local = kto(accumulation=2, clip=0.05, weight_decay=0.1, micro_batch=3, sequence_length=LENGTH)
    message, tasks = setting(double_model, method, part, local)
    ours = train_block(double_model, method, message, tasks, local)
    (theirs,) = ENGINES["trl"](double_model, method, tiny_run_config())(message, [tasks], local)
    assert [len(result.losses) for result in theirs] == list(STEPS)
    for a, b in zip(ours, theirs, strict=True):
        check_equal(a, b, 1e-9)
    assert norm(theirs[2].upload["delta"]) > 0.1


@pytest.mark.usefixtures("_double")
def test_a_copy_of_the_adapter_as_reference_of_kto_shows(part, double_model, tiny_run_config, monkeypatch):
    monkeypatch.setattr(trl_trainers, "refer_to_base", lambda peft_model: None)
    message, tasks = setting(double_model, FedAvg(), part, kto())
    ours = train_block(double_model, FedAvg(), message, tasks, kto())
    (theirs,) = ENGINES["trl"](double_model, FedAvg(), tiny_run_config())(message, [tasks], kto())
    assert difference(ours[2].upload["delta"], theirs[2].upload["delta"]) > 1e-3


# --- SimPO and ORPO: TRL's own functions of a batch, from the logits of PEFT's model


def trainer_of(local: Local) -> Any:
    """TRL's trainer with what its losses read, and nothing that a trainer loads."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    kind: Any = CPOTrainer if local.dpo_loss == "simpo" else ORPOTrainer
    trainer = object.__new__(kind)
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda tensor: tensor)
    known = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0, "is_encoder_decoder": False}
    known |= {"beta": local.dpo_beta, "simpo_gamma": local.simpo_gamma, "accelerator": accelerator}
    known |= {"aux_loss_enabled": False, "pad_token_id": 0, "padding_value": 0}
    vars(trainer).update(known)
    return trainer


def batch_of(pairs: Sequence[PairRow]) -> dict[str, torch.Tensor]:
    """A batch as TRL's collator makes it."""
    batch = {}
    for name in ("chosen", "rejected"):
        rows: list[TokenRow] = [vars(pair)[name] for pair in pairs]
        width = max(len(row.ids) for row in rows)
        ids, mask, labels = (torch.full((len(rows), width), fill) for fill in (0, 0, -100))
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)], mask[i, : len(row.ids)] = torch.tensor(row.ids).long(), 1
            labels[i, : len(row.ids)] = torch.where(torch.tensor(row.counted), ids[i, : len(row.ids)], -100)
        batch |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask, f"{name}_labels": labels}
    return batch


@pytest.mark.parametrize(("kind", "tolerance"), [("simpo", 1e-9), ("orpo", 1e-5)])  # ORPO's odds are float32 in TRL
def test_a_local_training_is_that_of_the_losses_of_trl(kind, tolerance, double_model, tiny_folder):
    local = dpo(kind, micro_batch=4, clip=0.3, weight_decay=0.05, simpo_gamma=0.8)
    start = start_of(double_model)
    task = client_task(2, PAIRS, ROWS[2], local, steps=3)
    (result,) = train_block(double_model, FedAvg(), {"params": start}, [task], local)
    model, trainer = plain_peft(tiny_folder, start, torch.float64), trainer_of(local)
    parameters = adapter_parameters(model)
    losses = plain_steps(parameters, task, local, lambda rows: trainer.get_batch_loss_metrics(model, batch_of(rows))[0])
    assert len(losses) == 3
    assert result.losses == pytest.approx(losses, rel=1e-6)
    moved = {name: parameters[name].detach() - start[name] for name in start}
    assert norm(moved) > 0.1
    assert difference(moved, result.upload["delta"]) < tolerance
