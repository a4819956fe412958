"""`fedllm-bench bench chatbot_pa` end to end at a tiny size: preference training, and SFT then DPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_runs import assert_refused, outcome, quick
from dpo_commands import run, words

from fedllm_bench.common import files
from fedllm_bench.results.schema import check_results


@pytest.fixture(scope="module")
def finished(pair_split, tiny_folder, tmp_path_factory) -> Path:
    return run("chatbot_pa", pair_split, tiny_folder, tmp_path_factory.mktemp("dpo"))


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = files.read_json(folder / "results.json")
    check_results(results)
    return results


def test_a_run_has_metrics_of_preferences_against_the_base_and_training_alone(finished):
    metrics = results_of(finished)["metrics"]
    names = ["preference_accuracy", "preference_accuracy_unseen", "preference_margin", "preference_margin_unseen"]
    names += ["preference_loss", "preference_loss_worst_tenth", "preference_loss_unseen"]
    assert list(metrics) == [*names, "mini_refusal", "mini_refusal_refusers", "mini_refusal_others"]
    accuracy, margin = metrics["preference_accuracy"], metrics["preference_margin"]
    assert (accuracy["before"]["mean"], margin["before"]["mean"]) == (0.5, 0.0)
    assert margin["difference"]["mean"] == pytest.approx(margin["after"]["mean"])
    assert margin["after"]["mean"] != 0
    for entry in (accuracy, margin):
        assert entry["before"]["n"] == entry["after"]["n"] == entry["difference"]["n"] == 6
        assert entry["difference"]["ci_low"] <= entry["difference"]["mean"] <= entry["difference"]["ci_high"]
        assert entry["local"]["n"] == entry["difference_to_local"]["n"] == 2
    assert 0 < metrics["mini_refusal"]["before"]["mean"] < 1


def test_a_run_again_is_the_same_to_the_last_bit(finished, pair_split, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))  # tokens and reference are computed anew
    assert outcome(run("chatbot_pa", pair_split, tiny_folder, tmp_path)) == outcome(finished)


def test_sft_then_dpo(finished, tiny_split, pair_split, tiny_folder, tmp_path):
    """The adapter of a finished run starts the next one: it is merged into the reference too."""
    adapter = run("aya", tiny_split, tiny_folder, tmp_path) / "adapter"
    second = run("chatbot_pa", pair_split, tiny_folder, tmp_path, f"model.adapter={adapter}")
    assert second.name != finished.name
    bases = [files.read_json(folder / "environment.json")["data"]["base_hash"] for folder in (finished, second)]
    assert bases[0] != bases[1]
    metrics, plain = results_of(second)["metrics"], results_of(finished)["metrics"]
    assert metrics["preference_margin"]["before"]["mean"] == 0
    assert metrics["preference_margin"]["after"]["mean"] != plain["preference_margin"]["after"]["mean"]
    assert metrics["mini_refusal"]["before"]["mean"] != plain["mini_refusal"]["before"]["mean"]


def test_a_bad_starting_adapter_is_one_line_and_no_run(pair_split, tiny_folder, tmp_path, capsys):
    argv = words("chatbot_pa", pair_split, tiny_folder, tmp_path, f"model.adapter={tmp_path}")
    with quick():
        assert_refused(argv, tmp_path, capsys, "model.adapter=", "no adapter_config.json")


# --- other objectives


@pytest.mark.parametrize(
    "settings",
    [
        ("local.loss=kto", "data.split_pairs=true"),
        pytest.param(("local.dpo_loss=simpo", "local.dpo_beta=2"), marks=pytest.mark.slow),
        pytest.param(("local.dpo_loss=orpo",), marks=pytest.mark.slow),
    ],
    ids=["kto", "simpo", "orpo"],
)
def test_other_objectives_have_the_same_metrics_and_move_the_model(
    settings, finished, pair_split, tiny_folder, tmp_path
):
    asked = "evaluation.metrics=preference_accuracy,preference_margin,likelihood_accuracy"
    folder = run("chatbot_pa", pair_split, tiny_folder, tmp_path, asked, *settings)
    results, plain = results_of(folder), results_of(finished)
    metrics = results["metrics"]
    assert metrics["preference_accuracy"]["before"]["mean"] == 0.5
    assert metrics["preference_margin"]["after"]["mean"] != plain["metrics"]["preference_margin"]["after"]["mean"]
    assert 0 < metrics["likelihood_accuracy"]["before"]["mean"] < 1
    assert results["data"]["cut"] == plain["data"]["cut"]
    assert results["run"]["dataset"].endswith(", votes split") == ("kto" in settings[0])
