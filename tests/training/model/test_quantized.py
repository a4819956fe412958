"""Quantised bases: PEFT's own layers on them are the reference, adapters stay float32, and a resume is bit-equal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import TINY, assert_refused, quick, run, words
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16
from bitsandbytes.nn import Int8Params
from merged_models import IDS, logits
from resumed_rounds import Killed, killed_at, left_behind, same_bits
from tiny import ALL_LINEAR, adapter_parameters, client_task, plain_loss, random_part, random_tree, settings

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config import preflight, starting
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.runs.cell import Cell
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import in_process
from fedllm_bench.training.model import quantized
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun

KINDS = ("4bit", "8bit")
LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=ALL_LINEAR)
PART = random_part(seed=11, num_rows=12)
LOCAL = settings(optimizer="sgd", lr=0.1, clip=1e9, accumulation=1)
# 4-bit weights are unpacked exactly, so only sums are rounded in another order. Under LLM.int8() a rounding of sums can
# move an input by one of 127 steps.
TOLERANCE = {"4bit": 1e-5, "8bit": 1e-2}


@pytest.fixture(scope="module")
def loaded(packable_folder: Path) -> Any:
    @cache
    def load(kind: str) -> LoraModel:
        return load_model(named(packable_folder, kind), LORA)

    return load


@pytest.fixture(scope="module")
def plain(loaded: Any) -> LoraModel:
    """The same base, not quantised."""
    model: LoraModel = loaded("none")
    return model


def named(folder: Path, kind: str) -> Model:
    return Model(name=str(folder), dtype="float32", quantization=kind)  # type: ignore[arg-type]


def start_of(model: LoraModel) -> Tree:
    return random_tree(initial_adapter(model.layers, rank=4, seed=0), seed=6, scale=0.1, dtype=torch.float32)


def tasks(count: int = 3, steps: int = 2) -> list[ClientTask]:
    return [client_task(k, PART, range(4 * k, 4 * k + 4), LOCAL, steps=steps) for k in range(count)]


def distance(ours: Tree, theirs: Tree) -> float:
    """Relative L2."""
    return norm(tmap(torch.sub, ours, {name: theirs[name] for name in ours})) / norm(theirs)


def by_peft(folder: Path, kind: str, start: Tree, task: ClientTask) -> tuple[list[float], Tree]:
    """Losses and the change of the adapter by PEFT's own layers for bitsandbytes, and torch's SGD."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    options = quantized.loading_options(named(folder, kind), "cpu")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    quantized.make_exact(base, str(folder))  # else it is bitsandbytes' own fast path, which rounds to bfloat16
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    assert not set_peft_model_state_dict(model, start).unexpected_keys
    parameters = adapter_parameters(model)
    assert type(model.base_model.model.model.layers[0].mlp.up_proj).__module__ == "peft.tuners.lora.bnb"
    optimiser, losses = torch.optim.SGD(parameters.values(), LOCAL.lr), []
    for step in task.steps:
        optimiser.zero_grad()
        rows = [task.rows[task.row_numbers[i]] for micro in step for i in micro]
        loss = plain_loss(model, sorted(rows, key=lambda row: len(row.ids)))
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    return losses, {name: (p - start[name]).detach() for name, p in parameters.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_pefts_own_layers(kind, loaded, packable_folder):
    model, (task,) = loaded(kind), tasks(1)
    start = start_of(model)
    (ours,) = train_block(model, FedAvg(), {"params": start}, [task], LOCAL)
    losses, delta = by_peft(packable_folder, kind, start, task)
    assert ours.losses == pytest.approx(losses, rel=TOLERANCE[kind])
    assert norm(delta) > 1e-2
    assert distance(ours.upload["delta"], delta) < TOLERANCE[kind]
    assert {tensor.dtype for tensor in ours.upload["delta"].values()} == {torch.float32}


def in_float64(layer: Any) -> torch.Tensor:
    """The weights of a 4-bit layer from its codes and scales, as section 3 of the paper has it, in float64."""
    state = layer.weight.quant_state
    packed = layer.weight.data.view(-1)
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).view(-1, state.blocksize).long()
    scales = state.state2.absmax.double().repeat_interleave(state.state2.blocksize)[: len(codes)]
    scales = state.state2.code.double()[state.absmax.long()] * scales + state.offset.double()
    return (state.code.double()[codes] * scales[:, None]).view(tuple(state.shape))


def error_of_product(layer: Any) -> float:
    """Relative L2 of a layer's product on normal inputs, against the product in float64."""
    x = torch.randn(16, layer.in_features, generator=torch.Generator().manual_seed(0))
    wanted = x.double() @ in_float64(layer).T
    with torch.no_grad():
        return ((layer(x).double() - wanted).norm() / wanted.norm()).item()


def test_four_bit_products_are_those_of_float64(loaded):
    """On any processor: float32 rounds at 1e-7, and what was rounded to bfloat16 on the way is 3e-3 off."""
    errors = [error_of_product(layer.base) for layer in loaded("4bit").layers.values()]
    assert len(errors) == 14
    assert max(errors) < 1e-6


@pytest.mark.skipif(not has_avx512bf16(), reason="needs a processor with bfloat16 arithmetic (AVX512-BF16)")
def test_what_is_switched_off_rounds_to_bfloat16(packable_folder):
    """The fast path of bitsandbytes, for which two processors gave two losses: it is the one that is off."""
    layer = next(iter(load_model(named(packable_folder, "4bit"), LORA).layers.values())).base
    layer.support_avx512bf16_for_cpu = True
    assert 1e-3 < error_of_product(layer) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable", ["ATEN_CPU_CAPABILITY=avx2", "ATEN_CPU_CAPABILITY=default", "ONEDNN_MAX_CPU_ISA=AVX2"]
)
def test_other_processors_are_equal_to_peft_and_to_float64_too(variable):
    """Torch, oneDNN and bitsandbytes read what the processor can when they are loaded."""
    name, _, value = variable.partition("=")
    words = [sys.executable, "-m", "pytest", __file__, "-k", "pefts_own_layers or float64"]
    ran = subprocess.run(words, env={**os.environ, name: value}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout


def test_stacked_clients_on_four_bits_are_the_clients_one_by_one(loaded):
    model = loaded("4bit")
    assert model.stackable
    start = start_of(model)
    together = train_block(model, FedAvg(), {"params": start}, tasks(), LOCAL)
    for task, ours in zip(tasks(), together, strict=True):
        (alone,) = train_block(model, FedAvg(), {"params": start}, [task], LOCAL)
        assert ours.losses == pytest.approx(alone.losses, rel=1e-5)
        assert distance(ours.upload["delta"], alone.upload["delta"]) < 1e-5


def test_clients_on_eight_bits_are_not_stacked_because_one_row_changes_another(loaded, tiny_run_config):
    """A large value in any row takes its column out of the rounding, in all rows."""
    model = loaded("8bit")
    assert not model.stackable
    layer = next(iter(model.layers.values())).base
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, layer.in_features, generator=stream)
    x[1, 3] = 10.0  # beyond the threshold of 6
    with torch.no_grad():
        assert not torch.equal(layer(x)[0], layer(x[:1])[0])
    engine = in_process(model, FedAvg(), tiny_run_config())
    (alone,) = train_block(model, FedAvg(), {"params": start_of(model)}, tasks()[1:2], LOCAL)
    (block,) = engine({"params": start_of(model)}, [tasks()], LOCAL)
    assert same_bits(block[1].upload, alone.upload)


@pytest.mark.parametrize(("kind", "dtype", "share"), [("4bit", torch.uint8, 0.5), ("8bit", torch.int8, 1.0)])
def test_the_base_is_packed_and_its_head_is_not(kind, dtype, share, loaded, plain):
    model = loaded(kind)
    assert model.layers.keys() == plain.layers.keys()
    for name, layer in model.layers.items():
        weight = layer.base.weight
        assert weight.dtype == dtype
        assert weight.numel() == share * plain.layers[name].base.weight.numel()
    assert model.base.get_output_embeddings().weight.dtype == torch.float32
    assert model.base.dtype == torch.float32


@pytest.mark.parametrize(("kind", "low", "high"), [("4bit", 0.08, 0.11), ("8bit", 0.002, 0.01)])
def test_the_packed_weights_are_the_bases_own_up_to_rounding(kind, low, high, loaded, plain):
    """Of normal weights: about a tenth in four bits, and 1/127 of a row's largest over the root of 12 in eight."""
    for name, layer in loaded(kind).layers.items():
        weight = plain.layers[name].base.weight
        gap = ((unpacked(layer.base) - weight).norm() / weight.norm()).item()
        assert low < gap < high, (name, gap)


def unpacked(layer: Any) -> torch.Tensor:
    if isinstance(layer.weight, Int8Params):
        layer(torch.zeros(1, layer.in_features))  # the first pass moves the scales to where they are kept
        return layer.state.CB.float() * layer.state.SCB[:, None] / 127
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def test_four_bit_weights_keep_their_layout_on_a_cpu_with_bfloat16(packable_folder, loaded, monkeypatch):
    """There bitsandbytes packs them anew in evaluation, and gradients through that layout are lost."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    monkeypatch.setattr("bitsandbytes.nn.modules._convert_weight_packed_for_cpu", None)
    model = load_model(named(packable_folder, "4bit"), LORA)
    ours, usual = (train_block(m, FedAvg(), {"params": start_of(m)}, tasks(1), LOCAL) for m in (model, loaded("4bit")))
    assert same_bits(ours[0].upload, usual[0].upload)


def test_rows_that_bitsandbytes_unpacks_wrongly_on_a_cpu_are_refused(tiny_folder):
    with pytest.raises(UserError, match=r"multiple of 64 inputs, and model.layers.0.self_attn.q_proj has 32; give mod"):
        load_model(named(tiny_folder, "4bit"), LORA)
    assert load_model(named(tiny_folder, "8bit"), LORA).layers


def test_each_quantisation_is_another_base(packable_folder):
    prints = {starting.base_fingerprint(packable_folder, None, kind) for kind in ("none", *KINDS)}
    assert len(prints) == 3
    assert starting.base_fingerprint(packable_folder, None) in prints


def test_base_scores_references_and_runs_of_each_have_their_own_names(tiny_split, tiny_run_config, tmp_path):
    """All three are named by the base's hash."""
    configs = [tiny_run_config("fedavg", f"model.quantization={kind}") for kind in ("none", *KINDS)]
    cells = [Cell(config, tiny_split, tmp_path, threads=1) for config in configs]
    assert len({cell.base_hash for cell in cells}) == len({cell.hash for cell in cells}) == 3
    assert cells[0].like(configs[1]).base_hash == cells[1].base_hash


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_ends_as_an_undisturbed_one(kind, loaded, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config("scaffold", "local.block_size=2", "local.steps=1", f"model.quantization={kind}")
    model, method = loaded(kind), make_method(config)
    real, start = in_process(model, method, config), initial_adapter(model.layers, rank=4, seed=0)
    whole = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=real, folder=tmp_path / "whole")
    broken = replace(whole, folder=tmp_path / "broken", map_blocks=killed_at(real, 1, 1))
    for each in (whole, broken):
        each.folder.mkdir()
    run_rounds(whole, start)
    with pytest.raises(Killed):
        run_rounds(broken, start)
    run_rounds(replace(broken, map_blocks=real), start)
    assert same_bits(left_behind(broken), left_behind(whole))


def test_without_the_package_one_line_says_what_to_install(tiny_split, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    line = words("fedavg", tiny_split.folder, tmp_path, "--set", "model.quantization=4bit")
    assert_refused(line, tmp_path, capsys, "model.quantization=4bit", "pip install 'fedllm-bench[quantized]'")
    with pytest.raises(UserError, match="bitsandbytes"):
        quantized.loading_options(named(tmp_path, "8bit"), "cpu")


def test_a_starting_adapter_must_be_merged_first(tiny_run_config):
    with pytest.raises(UserError, match=r"model.adapter: .*fedllm-bench merge RUN --out DIR, then MODEL=DIR"):
        tiny_run_config("fedavg", "model.quantization=4bit", "model.adapter=runs/adapter")


def test_a_quantised_run_is_scored_and_merges_into_the_base_as_it_was(tiny_split, packable_folder, tmp_path, capsys):
    more = ("--metrics", "heldout,mini_exact", "--set", "lora.rank=4", "--set", "model.quantization=4bit")
    with quick():
        folder = run("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(packable_folder), *more)
    assert cli.main(["merge", str(folder), "--out", str(tmp_path / "merged")]) == 0
    assert "trained on the base in 4bit, merged into the base as it was" in capsys.readouterr().out
    assert files.read_json(tmp_path / "merged" / "merged_from.json")["quantization"] == "4bit"
    ours = logits(tmp_path / "merged")
    assert ours.shape[:2] == IDS.shape
    assert torch.allclose(ours, logits(packable_folder, folder / "adapter"), atol=1e-4)
    assert not torch.allclose(ours, logits(packable_folder), atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_preferences_train_on_a_quantised_base(kind, pair_split, tmp_path):
    settings = [word for setting in (*TINY, f"model.quantization={kind}") for word in ("--set", setting)]
    sets = ["--split", str(pair_split.folder), *settings]
    with quick():
        assert cli.main(["bench", "chatbot_pa", "fedavg", "--profile", "mini", "--out", str(tmp_path), *sets]) == 0
    (folder,) = (tmp_path / "mini-chatbot_pa" / "fedavg").iterdir()
    found = files.read_json(folder / "results.json")
    assert found["run"]["model"] == f"mini ({kind})"
    assert found["metrics"]["preference_accuracy"]["after"]["n_unscored"] == 0
