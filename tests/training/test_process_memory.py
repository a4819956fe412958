"""The memory of a whole process on a CPU: what lives while a batch is scored, what would fit, and who is not asked."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from architectures import make_folder
from torch import nn

from fedllm_bench import cli
from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.config.size_bound import bound_of, fits_for_sure
from fedllm_bench.runs import opening
from fedllm_bench.runs.opening import check_memory
from fedllm_bench.training.fitting import ERROR, check_process_fits, model_settings
from fedllm_bench.training.live_memory import LiveBytes
from fedllm_bench.training.memory import estimate
from fedllm_bench.training.process_memory import (
    LIBRARIES,
    ProcessEstimate,
    estimate_process,
    scoring_bytes,
)

KINDS = ["llama", "gemma2", "qwen2"]


@pytest.fixture
def config(tiny_run_config, tmp_path) -> RunConfig:
    folder = make_folder(tmp_path / "llama", "llama")
    found: RunConfig = tiny_run_config("fedavg", "evaluation.batch_tokens=8192", model=str(folder))
    return found


def with_evaluation(config: RunConfig, tokens: int) -> RunConfig:
    return replace(config, evaluation=replace(config.evaluation, batch_tokens=tokens))


def test_what_lives_is_counted_until_it_is_dropped():
    weights = torch.zeros(1000)
    with LiveBytes([weights]) as live:
        a = torch.ones(100)
        b = a + weights[:100]
        assert live.now == 800
        del a
        assert live.now == 400
        c = b.view(10, 10)
        del b
        assert live.now == 400  # a view keeps it
        del c
        assert live.now == 0
    assert live.peak == 800


def test_layers_that_follow_each_other_do_not_add_up():
    sizes = []
    for layers in (2, 8):
        base = nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers)))
        with torch.no_grad(), LiveBytes(base.parameters()) as live:
            base(torch.zeros(32, 64))
        sizes.append(live.peak)
    assert sizes[0] == sizes[1] < 4 * 32 * 64 * 4


def test_scoring_needs_more_for_larger_batches_and_a_row_at_least(config):
    settings = model_settings(config)
    small, large = (scoring_bytes(with_evaluation(config, tokens), settings) for tokens in (1024, 8192))
    assert 5 * small < large < 9 * small
    assert scoring_bytes(with_evaluation(config, 1), settings) < small


def test_a_local_baseline_loads_the_base_once_more(config, tiny_run_config):
    settings = model_settings(config)
    alone = replace(config, method=replace(config.method, name="local"))
    assert estimate_process(config, settings).base == 2 * estimate_process(alone, settings).base
    assert estimate_process(alone, settings).base == estimate(alone, settings).base


def test_the_larger_of_scoring_and_training_counts():
    found = ProcessEstimate(libraries=1, base=10, scoring=300, training=100)
    assert found.total == replace(found, training=200).total == 11 + round(1.15 * 300)
    assert replace(found, training=400).total == 11 + round(1.15 * 400)


def test_smaller_batches_of_scoring_are_named_where_they_are_enough(config, caplog):
    settings = model_settings(config)
    config = with_evaluation(config, 2**17)
    enough = estimate_process(with_evaluation(config, 2**15), settings).total
    with caplog.at_level(logging.WARNING):
        check_process_fits(config, settings, enough)
    (line,) = caplog.messages
    assert line.endswith("would fit: --set evaluation.batch_tokens=32768")
    assert "libraries 30" in line


def test_what_never_fits_is_refused_and_what_may_fit_is_not(config, caplog):
    settings = model_settings(config)
    with pytest.raises(UserError, match="or take a machine with more free memory") as caught:
        check_process_fits(config, settings, LIBRARIES // 2)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        check_process_fits(config, settings, LIBRARIES - 1)
    assert "so it may not fit" in caplog.text


def test_enough_memory_is_passed_over_in_silence(config, caplog):
    settings = model_settings(config)
    with caplog.at_level(logging.WARNING):
        check_process_fits(config, settings, estimate_process(config, settings).total)
    assert not caplog.messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [(), ("local.block_size=8", "local.micro_batch=8"), ("lora.rank=64",)])
def test_the_bound_is_above_the_estimate(kind, words, tiny_run_config, tmp_path):
    folder = make_folder(tmp_path / kind, kind)
    config = tiny_run_config("fedavg", "lora.targets=auto", *words, model=str(folder))
    bound = bound_of(config, folder)
    assert bound is not None
    assert bound > estimate_process(config, model_settings(config)).total
    assert fits_for_sure(config, bound)
    assert not fits_for_sure(config, bound - 1)


@pytest.mark.parametrize("shape", [(576, 1536, 30, 9, 49152), (640, 2048, 18, 4, 262144), (4096, 11008, 32, 32, 32000)])
@pytest.mark.parametrize("words", [(), ("local.gradient_checkpointing=true", "local.micro_batch=1"),
                                   ("evaluation.batch_tokens=65536",)])  # fmt: skip
def test_the_bound_is_above_the_estimate_of_real_shapes(shape, words, tiny_run_config, tmp_path, monkeypatch):
    from transformers import LlamaConfig

    hidden, inner, layers, heads, vocabulary = shape
    settings = LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                           num_attention_heads=heads, vocab_size=vocabulary)  # fmt: skip
    settings.save_pretrained(tmp_path)
    count = 2 * vocabulary * hidden + layers * (4 * hidden**2 + 3 * hidden * inner)
    monkeypatch.setattr("fedllm_bench.config.model_files.num_parameters", lambda folder: count)
    words = ("lora.targets=all-linear", "local.sequence_length=256", *words)
    config = tiny_run_config("fedavg", *words, model=str(tmp_path))
    bound = bound_of(config, tmp_path)
    assert bound is not None
    assert bound > estimate_process(config, settings).total


def test_nothing_is_bounded_of_layers_that_are_not_known(tiny_run_config, tmp_path):
    folder = make_folder(tmp_path / "gpt2", "gpt2")
    config = tiny_run_config("fedavg", model=str(folder))
    assert bound_of(config, folder) is None
    assert not fits_for_sure(config, 10**15)
    assert not fits_for_sure(replace(config, model=replace(config.model, name="some/where")), 10**15)


def test_a_small_run_loads_nothing_to_know_that_it_fits(tiny_run_config, monkeypatch):
    monkeypatch.setattr(opening, "available_memory", lambda: 10**13)
    monkeypatch.setattr("fedllm_bench.training.fitting.check_process_fits", None)
    check_memory(tiny_run_config("fedavg", model="mini"))


def test_where_the_machine_does_not_say_what_is_free_nothing_is_asked(tiny_run_config, monkeypatch):
    monkeypatch.setattr(opening, "available_memory", lambda: None)
    monkeypatch.setattr("fedllm_bench.training.fitting.check_process_fits", None)
    check_memory(tiny_run_config("fedavg", model="mini"))


def test_a_run_that_cannot_fit_does_not_start(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)
    monkeypatch.setattr(opening, "available_memory", lambda: int(LIBRARIES * (1 - ERROR) / 2))
    words = ["--profile", "mini", "--model", str(tiny_folder), "--out", str(tmp_path / "runs")]
    assert cli.main(["bench", "aya", "fedavg", *words]) == 2
    assert "memory: about " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
