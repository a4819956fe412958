"""Before a run: the profile and why; for `paper`, one line for each missing thing and what to type."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from checkout import ROOT

from fedllm_bench.common import hardware
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import preflight, presets
from fedllm_bench.config.run import Profile
from fedllm_bench.runs import opening


@pytest.mark.parametrize(
    ("requested", "cuda", "profile", "why", "other"),
    [
        (None, False, "mini", "no CUDA GPU was found", "PROFILE=paper"),
        (None, True, "paper", "a CUDA GPU was found", "PROFILE=mini"),
        ("mini", True, "mini", "as asked", "PROFILE=paper"),
        ("paper", False, "paper", "as asked", "PROFILE=mini"),
        (None, False, "mini", "no CUDA GPU was found", "for a real model and real users, add PROFILE=small"),
        ("small", True, "small", "as asked", "PROFILE=paper"),
        ("gpu24", True, "gpu24", "as asked", "PROFILE=paper"),
    ],
)
def test_the_profile_is_chosen_by_request_then_by_hardware(
    requested: str | None, cuda: bool, profile: str, why: str, other: str
) -> None:
    chosen, sentence = preflight.choose_profile(requested, cuda)
    assert chosen == profile
    assert why in sentence
    assert other in sentence
    assert "\n" not in sentence


def test_an_unknown_profile_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match="did you mean 'paper'"):
        preflight.choose_profile("papper", False)


def test_the_profiles_of_the_config_are_those_of_the_presets() -> None:
    names = list(get_args(Profile))
    assert sorted(names) == sorted(path.stem for path in (ROOT / "benchmarks" / "profiles").glob("*.toml"))
    assert len(names) == 4
    assert [preflight.choose_profile(name, False)[0] for name in names] == names


def test_nothing_is_missing_when_all_is_there() -> None:
    config = presets.load("aya", "fedprox", "paper")
    assert preflight.paper_problems(config, cuda=True, model_found=True, split_found=True) == []


def test_each_missing_thing_is_one_line_with_what_to_type() -> None:
    config = presets.load("aya", "fedprox", "paper")
    problems = preflight.paper_problems(config, cuda=False, model_found=False, split_found=False, method_ready=False)
    assert len(problems) == 4
    assert not any("\n" in line for line in problems)
    method, gpu, model, split = problems
    assert "METHOD=fedavg" in method
    assert gpu.endswith("make bench DATASET=aya METHOD=fedprox PROFILE=small, or PROFILE=mini for the embedded world")
    assert "https://huggingface.co/meta-llama/Llama-2-7b-hf" in model
    assert "hf auth login" in model
    assert "MODEL=" in model
    assert "fedllm-bench data build aya --raw" in split
    assert "CohereForAI/aya_dataset" in split
    assert split.endswith("PROFILE=paper SPLIT=DIR")


def test_a_gpu_without_bfloat16_is_named_where_the_base_has_that_type() -> None:
    there = {"cuda": True, "model_found": True, "split_found": True, "bfloat16": False}
    (line,) = preflight.paper_problems(presets.load("aya", "fedavg", "paper"), **there)
    assert line.startswith("GPU: it has no bfloat16 arithmetic")
    assert line.endswith('SET="model.dtype=float32"')
    assert preflight.paper_problems(presets.load("aya", "fedavg", "paper", ["model.dtype=float32"]), **there) == []


def test_a_quantised_base_without_its_package_is_named_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    monkeypatch.setattr(hardware, "has_bfloat16", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    config = presets.load("aya", "fedavg", "paper", ["model.quantization=8bit"])
    with pytest.raises(UserError, match=r"(?s)package: .*pip install 'fedllm-bench\[quantized\]'.*model: .*split: "):
        opening.open_cell(config, tmp_path, cuda=True)
    assert not preflight.quantization_problem(presets.load("aya", "fedavg", "paper").model)


def test_a_base_without_an_official_copy_must_be_chosen() -> None:
    config = presets.load("chatbot_pa", "fedavg", "paper")
    assert not preflight.model_available(config.model.name)
    (line,) = preflight.paper_problems(config, cuda=True, model_found=False, split_found=True)
    assert line.startswith("model: alpaca-7b")
    assert "MODEL=" in line


def test_a_given_but_missing_model_and_split_are_named() -> None:
    config = presets.load("aya", "fedavg", "paper", model="some/model", split="my/split")
    model, split = preflight.paper_problems(config, cuda=True, model_found=False, split_found=False)
    assert "some/model" in model
    assert "auth login" not in model
    assert "my/split is no split" in split


def test_a_model_is_found_in_the_package_in_a_folder_or_in_the_local_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    folder = tmp_path / "model"
    folder.mkdir()
    names = ("mini", str(folder), "some/model", "no such / name")
    assert [preflight.model_available(name) for name in names] == [True, False, False, False]

    (folder / "config.json").write_text("{}")
    snapshot = cache / "models--some--model/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (cache / "models--some--model/refs").mkdir()
    (cache / "models--some--model/refs/main").write_text("abc")
    assert [preflight.model_available(name) for name in names] == [True, True, True, False]


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("64", 3), ("", 3), ("0", 3), ("2,2", 2), ("x", 3)])
def test_omp_num_threads_bounds_the_cores(asked, expected, monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert hardware.num_threads() == expected
