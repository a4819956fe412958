"""What ran is said by model and users, whatever the profile is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedllm_bench.common import files
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.run import Model
from fedllm_bench.config.run_labels import base_label, is_invented
from fedllm_bench.report.labels import base_of, in_figure, what_ran

RUN = {"dataset": "mini-aya", "method": "fedavg", "seed": 1, "profile": "mini", "model": "mini"}
SMOL = "SmolLM2-135M-Instruct (4-bit weights unpacked)"


@pytest.mark.parametrize(
    ("changes", "said", "in_title"),
    [
        ({}, "profile mini (embedded model and invented world)", "mini-aya, fedavg, seed 1"),
        (
            {"dataset": "mine"},
            "profile mini, embedded model, 7 users of mine",
            "mine, embedded model, fedavg, seed 1",
        ),
        (
            {"dataset": "mine", "profile": "small"},
            "profile small, embedded model, 7 users of mine",
            "mine, embedded model, fedavg, seed 1",
        ),
        (
            {"dataset": "mine", "profile": "small", "model": "smollm2-135m-instruct", "base": SMOL},
            f"profile small, {SMOL}, 7 users of mine",
            f"mine, {SMOL}, fedavg, seed 1",
        ),
        (
            {"model": "org/model", "base": "org/model"},
            "profile mini, org/model, invented world",
            "mini-aya, org/model, fedavg, seed 1",
        ),
        (
            {"dataset": "aya", "profile": "paper", "model": "meta-llama/Llama-2-7b-hf"},  # of a file of before
            "profile paper, meta-llama/Llama-2-7b-hf, 7 users of aya",
            "aya, meta-llama/Llama-2-7b-hf, fedavg, seed 1",
        ),
        (
            {"model": "mini (4bit)", "base": "embedded model, 4bit"},
            "profile mini, embedded model (4bit), invented world",
            "mini-aya, embedded model (4bit), fedavg, seed 1",
        ),
    ],
)
def test_the_label_follows_what_ran(changes: dict[str, str], said: str, in_title: str) -> None:
    run = RUN | changes
    assert what_ran(run, 7) == said
    assert in_figure(run) == in_title
    assert base_of(run).startswith("embedded model") is run["model"].startswith("mini")


def test_a_base_is_called_by_its_name_the_folder_or_the_hub_id(tmp_path: Path) -> None:
    def called(name: str, **more: str) -> str:
        return base_label(Model(name=name, dtype="float32", **more), AdapterKind())

    folder = files.make_folder(tmp_path / "secret" / "my-model")
    assert called("mini") == "embedded model"
    assert called(str(folder)) == "my-model"
    assert called("org/model") == "org/model"
    assert called("smollm2-135m-instruct") == SMOL
    assert called(str(folder), adapter=str(tmp_path / "start"), quantization="4bit") == "my-model + start, 4bit"
    assert called("mini", trainable="full") == "embedded model, all weights"
    files.write_json(folder / "base.json", {"label": SMOL})
    assert called(str(folder)) == SMOL


def test_only_splits_of_the_mini_world_are_invented() -> None:
    assert [is_invented(name) for name in ("mini-aya", "aya", "aya-small", "minified", "mine")] == [True, *[False] * 4]
