"""adapter_config.json is what PEFT itself would write, key by key, whether or not PEFT is asked for it."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
from peft import LoraConfig

from fedllm_bench.config.run import Lora
from fedllm_bench.training.model import adapter_config as module
from fedllm_bench.training.model.adapter_config import adapter_config


def by_peft(lora: Lora, targets: list[str], folder: Path, *, transposed: bool) -> str:
    """The text that PEFT writes, but for the order of targets, which in PEFT is that of a set."""
    LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
        base_model_name_or_path="/models/base",
        inference_mode=True,
        use_dora=lora.dora,
    ).save_pretrained(str(folder))
    found = json.loads((folder / "adapter_config.json").read_text())
    return json.dumps({**found, "target_modules": sorted(found["target_modules"])}, indent=2)


@pytest.mark.parametrize("asked", [False, True], ids=["own", "of PEFT"])
@pytest.mark.parametrize(
    ("lora", "transposed"),
    [
        (Lora(rank=4, alpha=8, dropout=0.05, targets=("q_proj", "v_proj")), False),
        (Lora(rank=16, alpha=32, dropout=0.0, targets=("q_proj",), dora=True), True),
    ],
)
def test_it_is_what_peft_writes(asked: bool, lora: Lora, transposed: bool, tmp_path: Path, monkeypatch):
    if asked:
        monkeypatch.setattr(module, "PEFT_VERSION", "another one")
    targets = ["v_proj", "q_proj", "v_proj"]
    found = adapter_config(lora, targets, "/models/base", transposed=transposed)
    assert json.dumps(found, indent=2) == by_peft(lora, targets, tmp_path, transposed=transposed)
    assert len(found) > 30
    assert found["peft_version"] == peft.__version__


def test_plain_peft_reads_it(tmp_path: Path):
    lora = Lora(rank=4, alpha=8, dropout=0.05, targets=("q_proj",))
    values = adapter_config(lora, ["q_proj"], "/models/base", transposed=False)
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    config = LoraConfig.from_pretrained(str(tmp_path))
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 8, {"q_proj"})
