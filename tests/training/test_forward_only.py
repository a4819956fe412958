"""Steps without a backward pass keep nothing for one, take the memory of scoring, and the estimate knows it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import make_folder
from memory_shapes import LENGTH, ROWS, full_rows, with_local
from saved import saved_bytes
from tiny import ALL_LINEAR, CPU, client_task, random_tree, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, norm
from fedllm_bench.config.run import Lora, Method, Model
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.fedkseed import FedKSeed
from fedllm_bench.methods.fedmezo import FedMeZO
from fedllm_bench.training.batches import collate
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import ENGINES
from fedllm_bench.training.fitting import check_fits, model_settings
from fedllm_bench.training.live_memory import LiveBytes
from fedllm_bench.training.loss import counted_nll
from fedllm_bench.training.memory import FLOAT32, PROBED_OPTIMIZER, estimate
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model

PROBING = [FedMeZO(mu=1e-3), FedKSeed(mu=1e-3, seeds=16, pro=False), FedKSeed(mu=1e-3, seeds=16, pro=True)]
LOCAL = settings(optimizer="sgd", lr=1e-3, clip=1e9, micro_batch=ROWS, sequence_length=LENGTH)
TASK = client_task(0, full_rows(2 * ROWS), range(ROWS), LOCAL, steps=3)  # all tokens are counted, as in an estimate
FEW = full_rows(2 * ROWS)  # of each row four tokens are counted, so that layers need more than logits
FEW = replace(FEW, counted=np.arange(len(FEW.ids)) % LENGTH >= LENGTH - 4)
FEW_TASK = client_task(0, FEW, range(ROWS), LOCAL, steps=3)


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> LoraModel:
    """Llama of few weights, so that activations are most of what a step needs."""
    folder = make_folder(tmp_path_factory.mktemp("deep"), "llama")
    return load_model(Model(name=str(folder), dtype="float32"), Lora(rank=2, alpha=4, dropout=0.1, targets=ALL_LINEAR))


def start_of(model: LoraModel) -> Tree:
    return initial_adapter(model.layers, 2, 0)


def peak_of_training(model: LoraModel, method: FedAvg, task: ClientTask) -> int:
    message = method.broadcast(method.init(start_of(model)))
    live = LiveBytes([*model.base.parameters(), *model.base.buffers()])
    with live:
        (result,) = train_block(model, method, message, [task], LOCAL)
    assert result.failure is None
    assert len(result.losses) == 3
    return live.peak


def peak_of_scoring(model: LoraModel) -> int:
    """Of the rows of a step at once."""
    tree, rows = start_of(model), [FEW_TASK.rows[i] for micro in FEW_TASK.steps[0] for i in micro]
    live = LiveBytes([*model.base.parameters(), *model.base.buffers()])
    with live, torch.no_grad(), model.using(tree):
        counted_nll(model, collate(rows, CPU, packed=model.plan.packed))
    return live.peak


@pytest.mark.parametrize("method", PROBING, ids=["fedmezo", "fedkseed", "pro"])
def test_nothing_is_kept_for_a_backward_pass_and_none_is_taken(method, deep, monkeypatch):
    def no_backward(*args, **options):
        raise AssertionError("a backward pass")

    message = method.broadcast(method.init(start_of(deep)))
    with saved_bytes(deep.base) as kept:
        train_block(deep, FedAvg(), {"params": start_of(deep)}, [FEW_TASK], LOCAL)
    assert kept.peak > 10**6
    monkeypatch.setattr(torch.autograd, "grad", no_backward)
    monkeypatch.setattr(torch.Tensor, "backward", no_backward)
    with saved_bytes(deep.base) as kept:
        (result,) = train_block(deep, method, message, [FEW_TASK], LOCAL)
    assert kept.peak == 0
    assert norm(result.upload["delta"]) > 0


@pytest.mark.parametrize("method", PROBING, ids=["fedmezo", "fedkseed", "pro"])
def test_a_step_needs_the_memory_of_scoring_the_same_rows(method, deep):
    """Adapters and their like come on top: here the message, the adapter and four of its size."""
    scoring, training = peak_of_scoring(deep), peak_of_training(deep, method, FEW_TASK)
    adapter = FLOAT32 * sum(tensor.numel() for tensor in start_of(deep).values())
    assert 0.8 * scoring < training < 1.25 * scoring + 8 * adapter
    assert peak_of_training(deep, FedAvg(), FEW_TASK) > 2.5 * training


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("name", ["fedmezo", "fedkseed"])
def test_the_estimate_is_what_training_takes(name, kind, tmp_path, tiny_run_config):
    folder = make_folder(tmp_path / kind, kind)
    words = ("lora.targets=auto", "lora.dropout=0.1", "lora.rank=2")
    config = tiny_run_config(name, *words, model=str(folder))
    config = with_local(config, micro_batch=ROWS, sequence_length=LENGTH, block_size=1)
    found = estimate(config, model_settings(config))
    usual = estimate(replace(config, method=Method(name="fedavg", constants={})), model_settings(config))
    training = peak_of_training(load_model(config.model, config.lora), FedMeZO(mu=1e-3), TASK)
    # of a base in float32 the estimate counts the logits once too often
    assert training < found.total - found.base < training + 1.2 * found.logits / 3
    assert usual.activations > 1.5 * found.activations
    assert usual.logits > found.logits
    assert found.optimizer == PROBED_OPTIMIZER * FLOAT32 * found.trainable


def test_checkpointing_is_no_way_out_where_nothing_is_kept(tiny_run_config, tmp_path, caplog):
    folder = make_folder(tmp_path / "llama", "llama")
    config = with_local(tiny_run_config("fedmezo", "lora.targets=auto", model=str(folder)), block_size=4, micro_batch=4)
    needed = model_settings(config)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match=r"even one row of one client needs [\d.]+ MB"),
    ):
        check_fits(config, needed, 10**5)
    checkpointed = with_local(config, gradient_checkpointing=True)
    assert estimate(checkpointed, needed) == estimate(config, needed)


def test_the_reference_engine_refuses_what_it_would_train_otherwise(tiny_model, tiny_run_config):
    with pytest.raises(UserError, match="ENGINE=trl: TRL's trainers take each step by a backward pass"):
        ENGINES["trl"](tiny_model, FedMeZO(mu=1e-3), tiny_run_config("fedavg"))


def test_dropout_masks_are_the_same_at_both_points(load_tiny):
    """Else the slope would be the difference of two masks over 2 mu, ten times as large for a tenth of mu."""
    model, task, slopes = load_tiny(dropout=0.3, dtype="float64"), replace(TASK, steps=TASK.steps[:1]), []
    start = random_tree(initial_adapter(model.layers, rank=4, seed=0), seed=6)
    for mu in (1e-4, 1e-5):
        method = FedKSeed(mu=mu, seeds=1, pro=False)
        (result,) = train_block(model, method, method.broadcast(method.init(start)), [task], LOCAL)
        slopes.append(float(result.upload["delta"]["a"][0]))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3)
