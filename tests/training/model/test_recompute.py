"""Gradient checkpointing changes memory and time, and no number: dropout draws the same masks twice."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from architectures import load, make_folder
from resumed_rounds import distance, initial, same_bits
from saved import saved_bytes
from tiny import client_task, random_part, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.block import train_block
from fedllm_bench.training.model.recompute import decoder_layers, recomputing

SIZES = {"micro_batch": 3, "accumulation": 2}


def trained(model, wanted: bool, clients: int = 3):
    """Results of clients with unequal numbers of steps."""
    local = settings(gradient_checkpointing=wanted, **SIZES)
    part = random_part(1, 30)
    tasks = [client_task(k, part, range(6 * k, 6 * k + 6), local, steps=k + 1) for k in range(clients)]
    return train_block(model, FedAvg(), {"params": initial(model, torch.float64)}, tasks, local)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("clients", [1, 3])
def test_it_gives_what_training_without_it_gives(dropout, clients, load_tiny):
    model = load_tiny(dropout=dropout, dtype="float64")
    with_it, without = trained(model, True, clients), trained(model, False, clients)
    assert distance([r.upload["delta"] for r in with_it], [r.upload["delta"] for r in without]) < 1e-12
    for ours, theirs in zip(with_it, without, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, abs=1e-12)
    again = trained(model, True, clients)
    assert same_bits([r.upload for r in again], [r.upload for r in with_it])


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "gpt_neox", "qwen3"])
def test_other_architectures_agree_too(kind, tmp_path):
    model = load(make_folder(tmp_path / kind, kind), dropout=0.2)
    with_it, without = trained(model, True, 1), trained(model, False, 1)
    assert distance([r.upload["delta"] for r in with_it], [r.upload["delta"] for r in without]) < 1e-12


def test_with_other_masks_in_the_second_pass_the_gradient_would_be_another(load_tiny, monkeypatch):
    """The test above can fail: this is what it would see."""
    model = load_tiny(dropout=0.3, dtype="float64")
    expected = trained(model, False)
    monkeypatch.setattr("fedllm_bench.training.model.recompute._as_then", lambda streams, states: nullcontext())
    wrong = trained(model, True)
    assert distance([r.upload["delta"] for r in wrong], [r.upload["delta"] for r in expected]) > 1e-4


def test_it_keeps_less(double_model):
    """Of each layer the input is kept, and of one at a time the rest."""
    part, peaks = random_part(1, 8, longest=40), {}
    for wanted in (False, True):
        local = settings(gradient_checkpointing=wanted, micro_batch=8)
        task = client_task(0, part, range(8), local, steps=1)
        with saved_bytes(double_model.base) as saved:
            train_block(double_model, FedAvg(), {"params": initial(double_model, torch.float64)}, [task], local)
        peaks[wanted] = saved.peak
    assert peaks[True] < 0.75 * peaks[False]  # two layers: one and two inputs instead of two


def test_the_model_is_afterwards_as_before(double_model):
    layers = decoder_layers(double_model.base)
    modes = [module.training for module in double_model.base.modules()]
    assert len(layers) == 2
    with recomputing(double_model, True):
        assert all("forward" in vars(layer) for layer in layers)
        assert [module.training for module in double_model.base.modules()] == modes
    assert not any("forward" in vars(layer) for layer in layers)


def test_a_model_without_such_layers_is_refused(double_model, monkeypatch):
    monkeypatch.setattr("fedllm_bench.training.model.recompute.decoder_layers", lambda base: [])
    with pytest.raises(UserError, match="gradient_checkpointing=false"), recomputing(double_model, True):
        pass
    with recomputing(double_model, False):
        pass
