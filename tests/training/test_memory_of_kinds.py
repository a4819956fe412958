"""Estimates of memory count what a kind of adapter trains, and the coarse bound is above them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kind_models import KINDS, load_kind

from fedllm_bench.common.trees import num_bytes
from fedllm_bench.config.size_bound import bound_of
from fedllm_bench.training.memory import estimate
from fedllm_bench.training.model.base import load_settings
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.process_memory import estimate_process


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_counts_what_a_kind_trains(kind, tiny_run_config, tiny_folder):
    config = replace(tiny_run_config("fedavg"), adapter=KINDS[kind])
    settings = load_settings(tiny_folder, "tiny")
    needed, of_lora = (estimate(one, settings, "cpu") for one in (config, tiny_run_config("fedavg")))
    model = load_kind(tiny_folder, kind)
    assert 4 * needed.trainable == num_bytes({"delta": initial_adapter(model.layers, rank=1, seed=0)})
    assert needed.base == of_lora.base
    assert 0 < needed.activations < 2 * of_lora.activations
    bound = bound_of(config, tiny_folder)
    assert bound is not None
    assert bound > estimate_process(config, settings).total
