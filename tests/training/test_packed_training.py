"""Training on packed sequences is training on padded rows: the same numbers without the padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from architectures import load, make_folder
from block_runs import gap, start_of, tasks_of
from dpo_runs import dpo
from pairs import random_pairs
from sweeps import UNLIKE, sweep
from tiny import CPU, client_task, random_part, settings

from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.training.batches import NOT_COUNTED, collate
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import PassPlan


def in_small_passes(model: LoraModel) -> tuple[LoraModel, LoraModel]:
    """The model with padded rows and the same one with packed sequences, a few at a time."""
    assert model.plan.packed
    return tuple(replace(model, plan=PassPlan(80, packed=packed)) for packed in (False, True))


def assert_alike(padded: list[ClientResult], packed: list[ClientResult]) -> None:
    assert any(len(result.losses) > 1 for result in packed)
    for one, other in zip(padded, packed, strict=True):
        assert gap(one, other) < 1e-11
        assert other.losses == pytest.approx(one.losses, abs=1e-12)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", sweep(METHODS, *UNLIKE))
def test_every_method_trains_alike(name, checkpointing, load_tiny, tiny_run_config):
    """With dropout, accumulation, clients of unequal sizes and numbers of steps."""
    local = settings(accumulation=2, clip=0.5, gradient_checkpointing=checkpointing)
    method, found = make_method(tiny_run_config(name)), []
    for model in in_small_passes(load_tiny(dropout=0.3, dtype="float64")):
        start = start_of(model)
        message = method.broadcast(method.init(start))
        found.append(train_block(model, method, message, tasks_of(method, start, local), local))
    assert_alike(*found)


def test_preferences_train_alike(load_tiny):
    local, part, found = dpo("sigmoid", accumulation=2), random_pairs(seed=11, num_pairs=12), []
    for model in in_small_passes(load_tiny(dtype="float64")):
        tasks = [client_task(k, part, range(6 * k, 6 * k + 6), local, steps=2) for k in range(2)]
        found.append(train_block(model, FedAvg(), {"params": start_of(model)}, tasks, local))
    assert_alike(*found)


def test_one_client_through_pefts_layers_trains_alike(tmp_path):
    local, part, found = settings(), random_part(seed=3, num_rows=6), []
    for model in in_small_passes(load(make_folder(tmp_path / "gpt2", "gpt2"), dropout=0.2)):
        task = client_task(0, part, range(6), local, steps=2)
        found.append(train_block(model, FedAvg(), {"params": start_of(model)}, [task], local))
    assert_alike(*found)


def test_scores_are_alike(load_tiny):
    model, packing = in_small_passes(load_tiny(dtype="float64"))
    rows = list(random_part(seed=4, num_rows=9))
    with model.using(start_of(model)):
        padded, packed = (summed_nll(each, rows, 80) for each in (model, packing))
    assert packed == pytest.approx(padded, rel=1e-12)


def test_a_packed_batch_has_all_tokens_and_no_more():
    rows = list(random_part(seed=5, num_rows=4))
    batch = collate(rows, CPU, packed=True)
    assert batch.ids.tolist() == [[token for row in rows for token in row.ids]]
    assert batch.spans == tuple(len(row.ids) for row in rows)
    assert batch.packing.positions.tolist() == [[place for row in rows for place in range(len(row.ids))]]
    places = torch.arange(batch.ids.numel())
    assert batch.sequences_of(places).tolist() == [number for number, row in enumerate(rows) for _ in row.ids]
    firsts = batch.packing.bounds[:-1].long()
    assert batch.targets[0, firsts].tolist() == [NOT_COUNTED] * 4  # nothing of another sequence predicts them
    assert int((batch.targets != NOT_COUNTED).sum()) == sum(row.counted[1:].sum() for row in rows)


def test_a_model_that_cannot_pack_says_so_in_one_line(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("fedllm_bench.training.model.packed.packs", lambda base: "packed attention has no softcap")
    caplog.set_level("INFO", logger="fedllm_bench")
    model = load(make_folder(tmp_path / "llama", "llama"))
    assert not model.plan.packed
    assert [r.message for r in caplog.records if "packed" in r.message] == [
        "llama: sequences are padded, not packed (packed attention has no softcap)"
    ]
