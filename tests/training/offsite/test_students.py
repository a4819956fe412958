"""Clients train the ends of a model on an emulator: against plain torch, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from architectures import make_folder
from offsite_models import IDS, LAYERS, emulator_of, load_offsite, plain_student, renumbered
from tiny import client_task, plain_loss, plain_steps, random_part, settings, widen_norms

from fedllm_bench.common.trees import num_bytes, tmap
from fedllm_bench.methods.adapters.emulated import EMULATOR
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.block import train_block
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.offsite.emulating import emulating

PART = random_part(seed=11, num_rows=12)
KEPT = (0, 1, 4, 5)  # of 6 layers with one at each end and half of the others
HOW = ("full", "adapter")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("models") / "llama", "llama", layers=LAYERS)


@pytest.fixture(scope="module")
def models(folder):
    return {how: load_offsite(folder, how) for how in HOW}


def start_of(model):
    return initial_adapter(model.layers, rank=4, seed=0)


def logits(model, tree=None):
    with model.using(tree):
        return model.base(input_ids=IDS).logits


def tasks(local, clients=1):
    return [client_task(k, PART, range(4 * k, 4 * k + 4), local, steps=3) for k in range(clients)]


@pytest.mark.parametrize("how", HOW)
def test_an_untrained_plug_in_is_the_base_bit_for_bit(how, models, folder):
    model = models[how]
    assert torch.equal(logits(model, start_of(model)), logits(model))
    assert torch.equal(logits(model.student.model, start_of(model)), logits(model.student.model))
    assert model.student.kept == KEPT
    assert torch.allclose(logits(model.student.model), plain_student(folder, KEPT)(input_ids=IDS).logits, atol=1e-4)


@pytest.mark.parametrize("how", HOW)
def test_an_emulator_of_all_layers_is_the_model_bit_for_bit(how, folder):
    model = load_offsite(folder, how, drop=0.0)
    with emulating(model, emulator_of(model)) as student:
        assert torch.equal(logits(student, start_of(model)), logits(model))


def test_whole_layers_are_trained_as_a_plain_loop_trains_them(folder):
    """transformers, torch.optim.AdamW and clip_grad_norm_ on a model of the kept layers, of which two are trained."""
    model = load_offsite(folder, "full", dtype="float64")
    small = model.student.model
    widen_norms(small.base)  # which puts other modules there, and so other places of weights
    small = replace(small, layers={"": small.layers[""].on(small.base)})
    model = replace(model, student=replace(model.student, model=small))
    local = settings(lr=1e-3, weight_decay=0.1)
    (task,) = tasks(local)
    plain = plain_student(folder, KEPT, torch.float64)
    widen_norms(plain)
    ends = {n: p for n, p in plain.named_parameters() if n.startswith(("model.layers.0.", "model.layers.3."))}
    first = {name: p.detach().clone() for name, p in ends.items()}
    plain_steps(ends, task, local, lambda rows: plain_loss(plain, rows))
    (ours,) = train_block(model, FedAvg(), {"params": start_of(model)}, [task], local)
    delta = renumbered(ours.upload["delta"], KEPT)
    assert delta.keys() == ends.keys()
    for name, weight in ends.items():
        moved = weight.detach() - first[name]
        assert moved.abs().max() > 1e-4, name
        assert torch.allclose(delta[name], moved, rtol=0, atol=1e-9), name


@pytest.mark.parametrize("how", HOW)
def test_an_upload_is_the_layers_at_the_ends_alone_and_nothing_else_moves(how, models):
    model, local = models[how], settings(lr=1e-2)
    start, emulator = start_of(model), emulator_of(model)
    frozen = {name: weight.clone() for name, weight in model.base.state_dict().items()}
    base = logits(model)
    message = {"params": start, EMULATOR: emulator}
    (result,) = train_block(model, FedAvg(), message, tasks(local), local)
    names = [name.split("layers.")[1].split(".")[0] for name in result.upload["delta"]]
    assert set(names) == {"0", "5"}
    if how == "full":
        size = sum(p.numel() for place in (0, 5) for p in model.base.model.layers[place].parameters())
        assert num_bytes(result.upload) == 4 * size
    assert not torch.allclose(logits(model, tmap(torch.add, start, result.upload["delta"])), base, atol=1e-2)
    assert torch.equal(logits(model), base)
    assert all(torch.equal(weight, frozen[name]) for name, weight in model.base.state_dict().items())
    assert not any(layer.attached for layer in model.student.emulator.values())


@pytest.mark.parametrize("how", HOW)
def test_clients_train_on_the_emulator_of_the_message(how, models):
    model, local = models[how], settings(lr=1e-3)
    start = start_of(model)
    emulator = tmap(lambda t: t + 0.05, emulator_of(model))
    (plain,) = train_block(model, FedAvg(), {"params": start, EMULATOR: emulator_of(model)}, tasks(local), local)
    (other,) = train_block(model, FedAvg(), {"params": start, EMULATOR: emulator}, tasks(local), local)
    (none,) = train_block(model, FedAvg(), {"params": start}, tasks(local), local)
    assert plain.losses == none.losses
    assert plain.losses[0] != other.losses[0]


def test_clients_of_a_block_are_trained_as_one_by_one_on_one_emulator(models):
    model, local = models["adapter"], settings(block_size=3)
    message = {"params": start_of(model), EMULATOR: tmap(lambda t: t + 0.05, emulator_of(model))}
    together = train_block(model, FedAvg(), message, tasks(local, clients=3), local)
    for k, task in enumerate(tasks(local, clients=3)):
        (alone,) = train_block(model, FedAvg(), message, [task], local)
        for name, tensor in alone.upload["delta"].items():
            assert torch.allclose(together[k].upload["delta"][name], tensor, rtol=0, atol=1e-4), name


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
@pytest.mark.parametrize("how", HOW)
def test_other_architectures_are_parted_too(kind, how, tmp_path):
    model, local = load_offsite(make_folder(tmp_path / kind, kind, layers=LAYERS), how), settings(lr=1e-2)
    start = start_of(model)
    assert torch.equal(logits(model, start), logits(model))
    (result,) = train_block(model, FedAvg(), {"params": start, EMULATOR: emulator_of(model)}, tasks(local), local)
    assert result.failure is None
    assert any(bool(t.any()) for t in result.upload["delta"].values())
