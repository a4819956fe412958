"""`model.dtype=auto`: bfloat16 only where the processor has it and the model is wide enough for it to pay."""

from __future__ import annotations

import pytest
from architectures import make_folder

from fedllm_bench.common import hardware
from fedllm_bench.config import presets
from fedllm_bench.config.auto_dtype import dtype_for


@pytest.fixture(params=[True, False], ids=["arithmetic", "none"])
def computes(request, monkeypatch) -> bool:
    monkeypatch.setattr(hardware, "computes_bfloat16", lambda: request.param)
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)
    return request.param


def test_narrow_models_stay_in_float32(computes, tmp_path):
    assert dtype_for("mini", None) == "float32"
    assert dtype_for(str(make_folder(tmp_path / "narrow", "llama")), None) == "float32"
    config = presets.load("aya", "fedavg", "small", ["model.dtype=auto"], model="mini")
    assert config.model.dtype == "float32"


def test_wide_models_and_those_that_are_not_here_take_it_where_it_pays(computes, tmp_path):
    expected = "bfloat16" if computes else "float32"
    folder = make_folder(tmp_path / "wide", "llama")
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"hidden_size": 32', '"hidden_size": 512'), encoding="utf-8")
    assert dtype_for(str(folder), None) == expected
    assert dtype_for("qwen3-8b", None) == expected
    assert dtype_for("someone/not-fetched", None) == expected


def test_a_gpu_takes_it_for_every_model(monkeypatch):
    monkeypatch.setattr(hardware, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(hardware, "has_cuda", lambda: True)
    assert dtype_for("mini", None) == "bfloat16"
