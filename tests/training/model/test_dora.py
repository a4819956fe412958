"""DoRA: PEFT's own layers are the reference, one client at a time, and the adapter is PEFT's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import quick, run
from merged_models import cli_merge, logits
from resumed_rounds import Killed, killed_at, left_behind, same_bits
from sweeps import PLAIN_LORA
from tiny import ALL_LINEAR, client_task, plain_loss, plain_steps, random_part, random_tree, settings, widen_norms

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, norm, tmap
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.methods.registry import make_method
from fedllm_bench.training.block import train_block
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.engines import ENGINES, in_process
from fedllm_bench.training.model.adapter import save_adapter
from fedllm_bench.training.model.lora import Masks, attach, detach, initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel, load_model
from fedllm_bench.training.rounds import run_rounds
from fedllm_bench.training.run import TrainingRun
from fedllm_bench.training.trl_client import adapter_parameters

LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=ALL_LINEAR, dora=True)
PART = random_part(seed=11, num_rows=12)
IDS = torch.arange(4, 40).view(2, 18)
MAGNITUDE = ".lora_magnitude_vector"


def load(folder: Path, dtype: str = "float32", quantization: str = "none") -> LoraModel:
    named = Model(name=str(folder), dtype=dtype, quantization=quantization)  # type: ignore[arg-type]
    model = load_model(named, LORA)
    if dtype == "float64":
        widen_norms(model.base)
    return model


@pytest.fixture(scope="module")
def double(tiny_folder: Path) -> LoraModel:
    return load(tiny_folder, "float64")


@pytest.fixture(scope="module")
def single(tiny_folder: Path) -> LoraModel:
    return load(tiny_folder)


def start_of(model: LoraModel, dtype: torch.dtype = torch.float64) -> Tree:
    """As after some training."""
    tree = initial_adapter(model.layers, rank=4, seed=0)
    return tmap(lambda a, b: a.to(dtype) + b.to(dtype), tree, random_tree(tree, seed=6, scale=0.1))


def task_of(local: Any) -> ClientTask:
    return client_task(0, PART, range(8), local, steps=3)


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("float32", "4bit")])
def test_the_first_adapter_leaves_every_bit_of_the_base(dtype, quantization, packable_folder):
    model = load(packable_folder, dtype, quantization)
    tree = initial_adapter(model.layers, rank=4, seed=0)
    assert len(tree) == 3 * 2 * len(ALL_LINEAR)  # A, B and magnitudes; layers; targets
    with model.using(None):
        base = model.base(input_ids=IDS).logits
    with model.using(tree):
        assert torch.equal(model.base(input_ids=IDS).logits, base)
    with model.using({n: t * 1.5 if n.endswith(MAGNITUDE) else t for n, t in tree.items()}):
        assert not torch.allclose(model.base(input_ids=IDS).logits, base, atol=0.1)


def plain_dora(folder: Path, start: Tree) -> Any:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(ALL_LINEAR), task_type="CAUSAL_LM", use_dora=True)
    model = get_peft_model(base, config, autocast_adapter_dtype=False).to(torch.float64)
    widen_norms(model)
    assert not set_peft_model_state_dict(model, dict(start)).unexpected_keys
    return model.eval()


def test_training_is_that_of_peft_and_torch(double, tiny_folder):
    local, start = settings(accumulation=2, weight_decay=0.05), start_of(double)
    task = task_of(local)
    (ours,) = train_block(double, FedAvg(), {"params": start}, [task], local)
    model = plain_dora(tiny_folder, start)
    parameters = adapter_parameters(model)
    assert parameters.keys() == start.keys()
    plain_steps(parameters, task, local, lambda rows: plain_loss(model, rows))
    for name, parameter in parameters.items():
        moved = (parameter - start[name]).detach()
        assert moved.abs().max() > 1e-3, name
        assert torch.allclose(ours.upload["delta"][name], moved, rtol=0, atol=1e-9), name


def test_the_reference_engine_agrees(single, tiny_folder, tiny_run_config):
    local, start = settings(accumulation=2), start_of(single, torch.float32)
    config = tiny_run_config("fedavg", "lora.dora=true", f"lora.targets={','.join(ALL_LINEAR)}")
    (ours,) = train_block(single, FedAvg(), {"params": start}, [task_of(local)], local)
    engine = ENGINES["trl"](single, FedAvg(), config)
    ((theirs,),) = engine({"params": start}, [[task_of(local)]], local)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4)
    gap = tmap(torch.sub, ours.upload["delta"], {name: theirs.upload["delta"][name] for name in start})
    assert norm(gap) < 1e-3 * norm(ours.upload["delta"])


def test_dropout_is_a_function_of_its_seed_and_only_in_training(tiny_folder):
    lora = replace(LORA, dropout=0.5)
    model = load_model(Model(name=str(tiny_folder), dtype="float32"), lora)
    tree = start_of(model, torch.float32)

    def logits(seed: int | None) -> torch.Tensor:
        stream = [torch.Generator().manual_seed(seed)] if seed is not None else []
        attach(model.layers, {name: tensor[None] for name, tensor in tree.items()})
        model.switch.masks = Masks(stream * 2, (0, 18), (18, 18), 36) if stream else None
        try:
            with torch.no_grad():
                return model.logits(model.hidden(IDS))
        finally:
            model.switch.masks = None
            detach(model.layers)

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    with model.using(tree):
        assert torch.equal(model.base(input_ids=IDS).logits, logits(None))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - PLAIN_LORA))
def test_every_method_trains_and_resumes_with_the_same_bits(name, single, tiny_clients, tiny_run_config, tmp_path):
    config = tiny_run_config(name, "lora.dora=true", "federation.rounds=2", "local.steps=1")
    method, start = make_method(config), initial_adapter(single.layers, rank=4, seed=0)
    real = in_process(single, method, config)
    whole = TrainingRun(config=config, method=method, clients=tiny_clients, map_blocks=real, folder=tmp_path / "whole")
    broken = replace(whole, folder=tmp_path / "broken", map_blocks=killed_at(real, 1, 0))
    for each in (whole, broken):
        each.folder.mkdir()
    server = run_rounds(whole, start)
    moved = {n: t - start[n] for n, t in method.adapter(server).items() if n.endswith(MAGNITUDE)}
    assert len(moved) == 2 * len(ALL_LINEAR)
    assert method.personal or norm(moved) > 1e-3
    with pytest.raises(Killed):
        run_rounds(broken, start)
    run_rounds(replace(broken, map_blocks=real), start)
    assert same_bits(left_behind(broken), left_behind(whole))


def test_plain_peft_loads_what_is_saved(single, tiny_folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tree = start_of(single, torch.float32)
    save_adapter(tmp_path / "adapter", tree, LORA, str(tiny_folder))
    settings = files.read_json(tmp_path / "adapter" / "adapter_config.json")
    assert settings["use_dora"] is True
    assert settings["target_modules"] == sorted(ALL_LINEAR)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad(), single.using(tree):
        ours = single.base(input_ids=IDS).logits
        assert torch.allclose(theirs(input_ids=IDS).logits, ours, rtol=0, atol=1e-5)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=IDS).logits, ours, atol=0.1)


@pytest.mark.slow
def test_a_run_merges_and_another_starts_from_its_adapter(tiny_split, tiny_folder, tmp_path):
    words = ("--model", str(tiny_folder), "--metrics", "heldout", "--set", "lora.rank=4", "--set", "lora.dora=true")
    with quick():
        first = run("fedavg", tiny_split.folder, tmp_path / "first", *words)
        start = ("--set", f"model.adapter={first / 'adapter'}")
        second = run("fedavg", tiny_split.folder, tmp_path / "second", *words, *start)
    cli_merge(first, tmp_path / "one")
    cli_merge(second, tmp_path / "both")
    assert torch.allclose(logits(tmp_path / "one"), logits(tiny_folder, first / "adapter"), atol=1e-4)
    assert torch.allclose(logits(tmp_path / "both"), logits(tmp_path / "one", second / "adapter"), atol=1e-4)
    assert not torch.allclose(logits(tmp_path / "both"), logits(tmp_path / "one"), atol=1e-2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("communication.aggregation_error=true", "communication.aggregation_error: it measures B A"),
        (
            "communication.lora_aggregation=frozen_a",
            "communication.lora_aggregation=frozen_a: it combines A and B alone",
        ),
        ("model.quantization=8bit", "model.quantization=8bit: PEFT has no lora.dora=true"),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(other, expected, tiny_run_config):
    with pytest.raises(UserError, match=f"^{expected}"):
        tiny_run_config("fedavg", "lora.dora=true", other)
