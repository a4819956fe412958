"""What a run says of privacy: the block of results.json, its words, the warnings, the lines on the terminal."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

import pytest
from bench_runs import run

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods.registry import make_method
from fedllm_bench.results.privacy import communication_block, privacy_block, warnings_of
from fedllm_bench.results.schema import CommunicationBlock, PrivacyBlock, check_results

ROUNDS = [{"clipped": 0.5, "aggregation_error": 0.25}, {"clipped": None}, {"clipped": 1.0, "aggregation_error": 0.75}]


def with_noise(tiny_run_config, noise: float, *more: str):
    config = tiny_run_config("dp_fedavg", f"privacy.noise_multiplier={noise}", *more)
    return make_method(config), config


def test_the_block_counts_the_rounds_and_says_it_in_words(tiny_run_config):
    block = privacy_block(*with_noise(tiny_run_config, 2.0, "privacy.delta=1e-3"), 6, ROUNDS)
    assert block is not None
    assert list(block) == [field.name for field in fields(PrivacyBlock)]
    assert (block["sampling_rate"], block["rounds"], block["clipped"], block["clip"]) == (0.5, 3, 0.75, 1.0)
    for words in (f"({block['epsilon']:.2f}, 0.001) differential privacy", "each client", "secret seed", "is public"):
        assert words in block["statement"]
    assert privacy_block(make_method(tiny_run_config("fedavg")), tiny_run_config("fedavg"), 6, ROUNDS) is None


def test_without_noise_no_guarantee_is_stated(tiny_run_config):
    block = privacy_block(*with_noise(tiny_run_config, 0.0), 6, ROUNDS)
    assert block is not None
    assert block["epsilon"] is None
    assert block["statement"].startswith("no guarantee")


def test_errors_are_means_over_the_rounds_that_have_one(tiny_run_config):
    config = tiny_run_config("fedavg", "communication.upload_dtype=float16")
    block = communication_block(make_method(config), config, 6, ROUNDS)
    assert list(block) == [field.name for field in fields(CommunicationBlock)]
    assert (block["upload_dtype"], block["aggregation_error"], block["aggregation_error_norm"]) == (
        "float16",
        0.5,
        None,
    )


@pytest.mark.parametrize(
    ("noise", "more", "words"),
    [
        (0.0, (), ["privacy.noise_multiplier=0: uploads are clipped, but there is no guarantee"]),
        (0.3, (), ["bounds almost nothing"]),
        (2.0, ("privacy.delta=0.2",), ["privacy.delta=0.2: with 6 clients"]),
        (2.0, (), []),
    ],
)
def test_a_guarantee_that_is_none_is_warned_of(noise, more, words, tiny_run_config):
    found = warnings_of(*with_noise(tiny_run_config, noise, *more), 6)
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.slow
def test_a_run_ends_with_its_guarantee_on_the_terminal_and_in_its_results(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys, caplog
):
    sets = ["privacy.noise_multiplier=0.3", "privacy.epsilon=none", "communication.upload_dtype=float16"]
    sets += ["communication.aggregation_error=true", "federation.clients_per_round=1", "federation.rounds=4"]
    words = [word for setting in sets for word in ("--set", setting)]
    with caplog.at_level(logging.WARNING):
        folder = run(
            "dp_fedavg", tiny_split.folder, tmp_path, "--model", str(tiny_folder), "--metrics", "heldout", *words
        )
    assert "bounds almost nothing" in caplog.text
    results = files.read_json(folder / "results.json")
    check_results(results)
    records = files.read_jsonl(folder / "rounds.jsonl")
    assert min(len(record["clients"]) for record in records) == 0  # figures and tables live with that
    assert results["privacy"]["epsilon"] == records[-1]["epsilon"]
    assert results["communication"]["upload_dtype"] == "float16"
    errors = [record["aggregation_error"] for record in records if len(record["clients"]) > 1]
    assert errors
    assert 0 < results["communication"]["aggregation_error"] <= max(errors)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"privacy: {results['privacy']['statement']}" in shown
    assert "uploads: uploads in float16" not in shown
    assert "uploads in float16" in shown
