"""The section `adapter`: off by default, and no setting that would change nothing."""

from __future__ import annotations

from typing import get_args

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.config.kinds.adapter_kind import NEEDS, VIRTUAL, WORDS, AdapterKind, Kind
from fedllm_bench.config.run import check
from fedllm_bench.config.run_labels import base_label
from fedllm_bench.methods.registry import make_method

KINDS = get_args(Kind)


def load(*settings, method="fedavg", **options):
    return presets.load("aya", method, "mini", settings, **options)


def line(*settings, **options) -> str:
    with pytest.raises(UserError) as caught:
        make_method(load(*settings, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lora_is_the_default_and_leaves_no_trace():
    plain = load()
    assert plain.adapter == AdapterKind() == load("adapter.kind=lora").adapter
    assert "adapter" not in plain.to_dict()
    assert base_label(plain.model, plain.adapter) == "embedded model"
    assert plain.hash == load("adapter.kind=lora").hash


def test_each_kind_is_another_run_that_survives_json():
    configs = [load(f"adapter.kind={kind}") for kind in KINDS]
    assert len({config.hash for config in configs}) == len(KINDS) == len(WORDS) == 6
    assert all(check(config.to_dict()) == config for config in configs)
    assert load("adapter.kind=prefix", "adapter.tokens=5").adapter.num_tokens == 5
    assert load("adapter.kind=prefix").adapter.num_tokens == 20
    prompt = load("adapter.kind=prompt", "adapter.tokens=5")
    assert base_label(prompt.model, prompt.adapter) == "embedded model, prompt tuning (5 tokens)"


@pytest.mark.parametrize(("key", "kind"), [(key, kind) for key in NEEDS for kind in KINDS if kind not in NEEDS[key]])
def test_a_setting_of_another_kind_is_refused(key, kind):
    value = "q_proj" if key == "targets" else "4"
    said = line(f"adapter.kind={kind}", f"adapter.{key}={value}")
    assert f"adapter.{key}={value}: it belongs to adapter.kind=" in said


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lora"])
@pytest.mark.parametrize(
    "setting",
    [
        "lora.ranks=2,4",
        "lora.rank=4",
        "lora.dora=true",
        "communication.lora_aggregation=flex",
        "communication.lora_aggregation=frozen_a",
        "communication.aggregation_error=true",
        "model.trainable=full",
        "model.quantization=4bit",
    ],
)
def test_what_is_of_matrices_is_refused_in_one_line(kind, setting):
    said = line(f"adapter.kind={kind}", setting)
    assert setting.partition("=")[0] in said
    assert f"adapter.kind={kind}" in said or f"the kind is {kind}" in said


def test_trl_and_methods_of_products_are_refused():
    assert "engine=trl: it goes with adapter.kind=lora" in line("adapter.kind=ia3", engine="trl")
    assert "adapter.kind=prompt: hetlora weighs clients" in line("adapter.kind=prompt", method="hetlora")
    for kind in ("prefix", "prompt"):
        assert f"adapter.kind={kind}: fedrep keeps parts" in line(f"adapter.kind={kind}", method="fedrep")


def test_what_is_written_of_p_tuning_is_a_prompt():
    kinds = {kind: AdapterKind(kind=kind).written.kind for kind in KINDS}
    assert kinds == {**{kind: kind for kind in KINDS}, "p_tuning": "prompt"}
    assert all(AdapterKind(kind=kind).num_tokens == (20 if kind in VIRTUAL else 0) for kind in KINDS)
