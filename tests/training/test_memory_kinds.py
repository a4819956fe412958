"""The estimate of memory for preferences, quantised bases, DoRA and full fine-tuning, against what is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_shapes import LENGTH, ROWS, full_rows, llama_7b, paper, with_local
from saved import saved_bytes
from sweeps import sweep
from tiny import client_task, settings
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.block import train_block
from fedllm_bench.training.fitting import check_fits, model_settings
from fedllm_bench.training.memory import MemoryEstimate, estimate
from fedllm_bench.training.model.lora import attach, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.model.recompute import recomputing

__all__ = ["llama_7b", "paper"]  # fixtures
FULL = "model.trainable=full"


def with_model(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, model=replace(config.model, **changes))


@pytest.fixture
def measured(tiny_run_config: Any, packable_folder: Path) -> Any:
    """measured("lora.dora=true"): config, estimate, model, and the most bytes that autograd kept in one step."""

    def measure(*overrides: str, checkpointing: bool = False) -> tuple[RunConfig, MemoryEstimate, LoraModel, int]:
        dpo = overrides == ("dpo",)
        words = ["lora.targets=auto", *(() if dpo else overrides)]
        config = tiny_run_config("fedavg", *words, dataset="chatbot_pa" if dpo else "aya", model=str(packable_folder))
        sizes = {"micro_batch": ROWS, "sequence_length": LENGTH, "gradient_checkpointing": checkpointing}
        config = with_local(config, **sizes)
        found = estimate(with_local(config, block_size=1), model_settings(config))
        model = load_model(config.model, config.lora)
        local = settings(**sizes, loss=config.local.loss)
        rows: Any = full_rows(2 * ROWS)
        if dpo:
            rows = PairPart(rows, reference=torch.zeros(ROWS, 2).numpy())
        task = client_task(0, rows, range(ROWS), local, steps=1)
        start = initial_adapter(model.layers, config.lora.rank, 0)
        assert found.trainable == sum(tensor.numel() for tensor in start.values())
        with saved_bytes(model.base) as saved:
            train_block(model, FedAvg(), {"params": start}, [task], local)
        return config, found, model, saved.peak

    return measure


@pytest.mark.parametrize("kind", ["dpo", "lora.dora=true", "model.quantization=4bit"])
def test_activations_are_what_training_keeps(kind, measured):
    _, found, _, peak = measured(kind)
    assert 0.9 * found.activations < peak < 1.1 * (found.activations + found.logits)


@pytest.mark.parametrize("kind", sweep(["dpo", "lora.dora=true", "model.quantization=4bit"], "dpo"))
def test_with_checkpointing_they_are_an_upper_bound(kind, measured):
    _, found, _, peak = measured(kind, checkpointing=True)
    assert peak < 1.2 * (found.activations + found.logits)
    assert found.activations < measured(kind)[1].activations


def test_a_pair_is_two_sequences(measured):
    of_rows, of_pairs = measured()[1], measured("dpo")[1]
    assert of_pairs.activations == pytest.approx(2 * of_rows.activations, rel=0.01)  # but for tables of positions
    assert of_pairs.logits == 2 * of_rows.logits
    assert (of_pairs.base, of_pairs.adapters) == (of_rows.base, of_rows.adapters)


def test_full_fine_tuning_keeps_the_activations_and_its_own_weights(measured):
    """The master weights are one storage, which autograd keeps as the weights of every product."""
    _, found, model, peak = measured(FULL)
    weights = 4 * found.trainable
    assert found.base == sum(p.numel() * p.element_size() for p in model.base.parameters())
    assert found.trainable == sum(p.numel() for p in model.base.parameters())
    assert found.activations < peak - weights < 1.1 * (found.activations + found.logits)


def stored_bytes(base: nn.Module) -> int:
    """Of all weights and of what bitsandbytes needs to unpack them, but for the tables that all layers share."""
    tensors: list[Tensor] = list(base.parameters())
    for module in base.modules():
        weight = module._parameters.get("weight")
        if type(weight).__name__ == "Params4bit":
            state: Any = weight.quant_state  # type: ignore[union-attr]
            tensors += [state.absmax, state.offset, state.state2.absmax]
        elif type(module).__name__ == "Linear8bitLt":
            module_state: Any = module.state
            tensors.append(module_state.SCB)
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())


@pytest.mark.parametrize("kind", ["none", "4bit", "8bit"])
def test_the_bytes_of_a_quantised_base_are_those_of_the_loaded_one(kind, tiny_run_config, packable_folder):
    """The embedded base too, whose layers are large enough for scales of scales."""
    for name in (str(packable_folder), "mini"):
        config = tiny_run_config("fedavg", f"model.quantization={kind}", model=name)
        model = load_model(config.model, config.lora)
        model.base(input_ids=torch.arange(4, 8)[None])
        found = estimate(with_local(config, micro_batch=1, sequence_length=8, block_size=1), model_settings(config))
        assert found.base == stored_bytes(model.base)


@pytest.mark.parametrize(("kind", "held"), [("4bit", False), ("8bit", True)])
def test_eight_bit_layers_hold_their_inputs_under_checkpointing_too(kind, held, tiny_run_config, packable_folder):
    """bitsandbytes keeps them itself, also those of layers that are not adapted; no hook of autograd sees it."""
    words = ("lora.targets=q_proj", f"model.quantization={kind}")
    config = tiny_run_config("fedavg", *words, model=str(packable_folder))
    model = load_model(config.model, config.lora)
    inputs: list[StorageWeakRef] = []
    layer = model.base.get_submodule("model.layers.1.mlp.down_proj")
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(StorageWeakRef(args[0].untyped_storage())))
    start = initial_adapter(model.layers, config.lora.rank, 0)
    attach(model.layers, {name: tensor[None].requires_grad_() for name, tensor in start.items()})
    with recomputing(model, True):
        hidden = model.hidden(torch.arange(4, 20)[None])
    hook.remove()
    assert hidden.requires_grad
    assert [ref.expired() for ref in inputs] == [not held]


def test_what_eight_bit_layers_hold_is_counted(tiny_run_config):
    config = tiny_run_config("fedavg", "lora.targets=auto", "model.quantization=8bit")
    config = with_local(config, micro_batch=ROWS, sequence_length=LENGTH)
    inputs = 4 * ROWS * LENGTH * 2 * (32 + 32 + 64)  # float32; of o_proj, gate and up (one tensor), down; two layers
    for checkpointing in (False, True):
        each = with_local(config, gradient_checkpointing=checkpointing)
        found, plain = (
            estimate(with_local(c, block_size=1), model_settings(c)).activations for c in (each, with_none(each))
        )
        assert 0.5 * inputs < found - plain <= 1.5 * inputs, checkpointing


def with_none(config: RunConfig) -> RunConfig:
    return with_model(config, quantization="none")


def test_clients_that_are_trained_one_by_one_do_not_add_up(tiny_run_config):
    for word in ("lora.dora=true", "model.quantization=8bit", FULL):
        config = tiny_run_config("fedavg", word, "local.micro_batch=1", "local.sequence_length=16")
        one, four = (estimate(with_local(config, block_size=k), model_settings(config)) for k in (1, 4))
        assert (one.adapters, one.optimizer) == (four.adapters, four.optimizer)


@pytest.mark.slow
def test_llama_2_7b_in_four_bits(paper, llama_7b):
    """3.9 GB instead of 13.5: half a byte for each of 6,476,005,376 weights in layers and a byte for 64 of them."""
    plain, packed = (estimate(with_model(paper, quantization=kind), llama_7b) for kind in ("none", "4bit"))
    in_layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert plain.base - packed.base == pytest.approx(in_layers * (2 - 1 / 2 - 1 / 64 - 4 / 64 / 256), rel=1e-6)
    assert 3.8e9 < packed.base < 4.0e9
    assert packed.activations == plain.activations
    full = estimate(with_model(paper, trainable="full"), llama_7b)
    assert full.trainable == 6_738_415_616
    assert full.adapters + full.optimizer == full.trainable * (12 * 4 + 2)  # and a copy of all weights in bfloat16


@pytest.mark.slow
def test_quantisation_is_named_as_a_change_of_results_and_only_where_nothing_exact_fits(paper, caplog):
    from transformers import LlamaConfig

    small = LlamaConfig(vocab_size=100, hidden_size=512, intermediate_size=2048, num_hidden_layers=2)
    with pytest.raises(UserError) as caught:
        check_fits(paper, small, 10**6)
    exact, changes = str(caught.value).split("what changes results: ")
    assert "quantization" not in exact
    assert changes.startswith("--set model.quantization=4bit (needs ")
    for other in ({"quantization": "4bit"}, {"trainable": "full"}):
        with pytest.raises(UserError) as caught:
            check_fits(with_model(paper, **other), small, 10**6)
        assert "quantization=4bit" not in str(caught.value)


def test_smaller_micro_batches_are_no_way_out_on_eight_bits_where_they_change_results(paper, caplog):
    from transformers import LlamaConfig

    small = LlamaConfig(vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    for kind, fits in (("4bit", True), ("8bit", False)):
        config = with_model(paper, quantization=kind)
        less = estimate(with_local(config, micro_batch=2, accumulation=8), small).total
        if fits:
            check_fits(config, small, less)
            assert "--set local.micro_batch=2" in caplog.text
        else:
            with pytest.raises(UserError, match="even one row"):
                check_fits(config, small, less)


@pytest.mark.parametrize("word", sweep(["model.quantization=4bit", "lora.dora=true", FULL], FULL))
def test_a_dry_run_shows_it(word, packable_folder, tmp_path, capsys):
    words = ["bench", "chatbot_pa", "fedavg", "--profile", "mini", "--model", str(packable_folder), "--set", word]
    assert cli.main([*words, "--out", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("Memory on the device in training: about ")
