"""The estimate of memory counts what clients train, and an emulator that is aligned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from architectures import make_folder

from fedllm_bench.training.fitting import model_settings
from fedllm_bench.training.memory import estimate
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.offsite.loading import load_for

ON = ("offsite.variant=fedot", "offsite.left=1", "offsite.right=1", "offsite.drop=0.5")


@pytest.mark.parametrize("how", ["full", "adapter"])
def test_the_numbers_of_the_ends_alone_are_trained(how, tiny_run_config, tmp_path):
    folder = make_folder(tmp_path / "llama", "llama", layers=6)
    config = tiny_run_config("fedavg", *ON, f"model.trainable={how}", model=str(folder))
    settings = model_settings(config)
    needed = estimate(config, settings, "cpu")
    model = load_for(config.model, config.lora, config.offsite)
    tree = initial_adapter(model.layers, config.lora.rank, 0)
    assert needed.trainable == sum(tensor.numel() for tensor in tree.values())
    frozen = replace(config, offsite=replace(config.offsite, steps=0))
    aligned = needed.adapters - estimate(frozen, settings, "cpu").adapters
    assert model.student is not None
    assert aligned == (6 * model.student.emulator_bytes if how == "full" else 0)  # float32, as the model is
