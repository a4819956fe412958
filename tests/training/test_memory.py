"""The estimate of memory: exact where it can be, near what is measured, and an answer to what would fit."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from architectures import make_folder
from memory_shapes import LENGTH, ROWS, full_rows, llama_7b, paper, with_local
from resumed_rounds import initial
from saved import saved_bytes
from tiny import client_task, settings

from fedllm_bench.common.errors import UserError
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.block import train_block
from fedllm_bench.training.fitting import check_fits, in_words, model_settings
from fedllm_bench.training.memory import MemoryEstimate, NoEstimate, estimate
from fedllm_bench.training.model.lora_model import load_model

__all__ = ["llama_7b", "paper"]  # fixtures
PLACES = ("cuda", "cpu")


@pytest.fixture
def small():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4
    )


@pytest.mark.slow
def test_the_published_numbers_of_llama_2_7b(paper, llama_7b):
    found = estimate(paper, llama_7b)
    assert found.trainable == 8_388_608
    assert found.base == 2 * (6_746_804_224 - 8_388_608)  # bfloat16
    assert found.adapters + found.optimizer == 12 * 4 * 8_388_608
    inputs = 4 * 1024 * 32 * 4096 * 2  # of each layer, in bfloat16
    assert inputs < found.activations < 2 * inputs


def test_checkpointing_changes_the_activations_alone(paper, small):
    plain, less = (estimate(with_local(paper, gradient_checkpointing=on), small) for on in (False, True))
    assert plain.activations > 2 * less.activations  # of four layers
    assert replace(plain, activations=0) == replace(less, activations=0)


def test_error_feedback_holds_one_more_adapter_for_each_client(paper, small):
    sent = replace(paper.communication, upload_dtype="int8", error_feedback=True)
    found = [estimate(replace(paper, communication=one), small) for one in (paper.communication, sent)]
    assert found[1].adapters - found[0].adapters == found[0].adapters // 2
    assert replace(found[1], adapters=0) == replace(found[0], adapters=0)


@pytest.mark.parametrize("name", ["ditto", "pfedme", "fedrep"])
def test_error_feedback_over_several_trainings_holds_two_more(name, paper, small):
    sent = replace(paper.communication, upload_dtype="int8", error_feedback=True)
    personal = replace(paper, method=replace(paper.method, name=name))
    found = [estimate(replace(personal, communication=one), small) for one in (paper.communication, sent)]
    assert found[1].adapters == 2 * found[0].adapters


@pytest.mark.parametrize("rule", ["stack", "exact"])
def test_a_base_that_changes_is_there_twice(rule, paper, small):
    config = replace(paper, communication=replace(paper.communication, lora_aggregation=rule))
    gpu, cpu = (estimate(config, small, device).adapters - estimate(paper, small, device).adapters for device in PLACES)
    adapted = 4 * 2 * 64 * 64  # q and v of four layers
    assert gpu == 2 * adapted  # bfloat16
    assert cpu == gpu + 2 * 4 * 2 * adapted  # both factors of the full rank of 64, before and after a round


def test_a_model_that_peft_adapts_has_no_estimate_and_is_not_refused(paper, tmp_path, caplog):
    from transformers import AutoConfig

    gpt2 = AutoConfig.from_pretrained(make_folder(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(NoEstimate, match="no estimate of memory for gpt2"):
        estimate(paper, gpt2)
    with caplog.at_level(logging.INFO):
        check_fits(paper, gpt2, 1)
    assert "no estimate of memory" in caplog.text


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_activations_are_what_training_keeps(kind, checkpointing, tmp_path, tiny_run_config):
    folder = make_folder(tmp_path / kind, kind)
    config = tiny_run_config("fedavg", "lora.targets=auto", "lora.dropout=0.1", model=str(folder))
    sizes = {"micro_batch": ROWS, "sequence_length": LENGTH, "gradient_checkpointing": checkpointing}
    config = with_local(config, **sizes)
    found = estimate(with_local(config, block_size=1), model_settings(config))
    model = load_model(config.model, config.lora)
    assert found.base == sum(p.numel() * p.element_size() for p in model.base.parameters())
    start = initial(model)
    assert found.trainable == sum(tensor.numel() for tensor in start.values())
    task = client_task(0, full_rows(ROWS), range(ROWS), settings(**sizes), steps=1)
    with saved_bytes(model.base) as saved:
        train_block(model, FedAvg(), {"params": start}, [task], settings(**sizes))
    if checkpointing:  # the hooks do not see what is kept inside the layer that is computed again
        assert saved.peak < 1.2 * (found.activations + found.logits)
    else:
        # a plain head keeps no logits for backward; under a soft cap they live together with all activations
        assert 0.9 * found.activations < saved.peak < 1.1 * (found.activations + found.logits)


def test_more_clients_have_more_adapters_and_rows_in_a_pass_until_it_is_full(paper, small):
    sizes = [with_local(paper, micro_batch=1, accumulation=1, block_size=k) for k in (1, 3, 60)]
    one, three, many = (estimate(config, small) for config in sizes)
    assert three.base == one.base
    assert three.adapters == 3 * one.adapters
    assert three.activations == pytest.approx(3 * one.activations, rel=0.05)
    assert many.activations == pytest.approx(16 * one.activations, rel=0.05)  # rows of 1,024 tokens in 16,384


@pytest.mark.slow
def test_what_fits_is_said_and_what_never_fits_is_refused(paper, small, caplog):
    config = with_local(paper, gradient_checkpointing=False)
    needed = estimate(config, small)
    with caplog.at_level(logging.WARNING):
        check_fits(config, small, needed.total)
        assert not caplog.messages
        check_fits(config, small, needed.total - 1)
        (line,) = caplog.messages
    assert line.endswith("would fit: --set local.gradient_checkpointing=true")
    assert in_words(needed) in line
    with pytest.raises(UserError, match=r"even one row of one client with gradient checkpointing needs [\d.]+ MB"):
        check_fits(config, small, 10**6)


def test_smaller_micro_batches_keep_the_rows_of_a_step(paper, small, caplog):
    needed = estimate(with_local(paper, micro_batch=2, accumulation=8), small)
    with caplog.at_level(logging.WARNING):
        check_fits(paper, small, needed.total)
    assert caplog.messages[0].endswith("would fit: --set local.micro_batch=2 --set local.accumulation=8")


def test_the_total_is_the_sum_of_its_parts():
    assert MemoryEstimate(base=1, adapters=2, optimizer=4, activations=8, logits=16, trainable=999).total == 31
