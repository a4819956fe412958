"""Adapters as plain PEFT saves them: merged they are the live PEFT model, or the setting that forbids it is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import assert_refused, quick, words
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.starting import NOT_MERGED, adapter_settings, locate_adapter
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.answering.subjects import plain_lora
from fedllm_bench.training.model.adapter import merged
from fedllm_bench.training.model.base import load_base, load_tokenizer, save_plain

IDS = torch.arange(4, 28).view(2, 12)
LAYERS = ["q_proj", "v_proj", "up_proj"]
MERGED: dict[str, dict[str, Any]] = {
    "plain": {},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "embeddings": {"target_modules": [*LAYERS, "embed_tokens"]},
    "head": {"target_modules": [*LAYERS, "lm_head"]},
    "both ends": {"target_modules": [*LAYERS, "lm_head", "embed_tokens"]},
    "both ends tied": {"target_modules": [*LAYERS, "embed_tokens"], "ensure_weight_tying": True},
    "whole embeddings": {"modules_to_save": ["embed_tokens"]},
    "whole head": {"modules_to_save": ["lm_head"]},
    "some tokens": {"trainable_token_indices": [5, 6, 7]},
    "rsLoRA and DoRA": {"use_rslora": True, "use_dora": True},
    "biases": {"bias": "all"},
    "without a layer": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=IDS).logits
    return found


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trained(folder: Path, out: Path, **options: Any) -> Tensor:
    """The adapter of a PEFT model whose trainable weights were moved, saved into `out`; the logits of the model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **{"target_modules": LAYERS, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(plain(folder), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(str(out))
    return logits(model)


@pytest.mark.filterwarnings("ignore")  # PEFT warns of tied weights, and of what it saves
@pytest.mark.parametrize("options", MERGED.values(), ids=MERGED)
def test_merged_and_written_it_is_the_live_model(options: dict[str, Any], tiny_folder: Path, tmp_path: Path) -> None:
    live = trained(tiny_folder, tmp_path / "adapter", **options)
    assert not torch.allclose(live, logits(plain(tiny_folder)), atol=0.05)
    base = load_base(tiny_folder, "tiny", torch.float32)
    before = torch.get_rng_state()
    ours = merged(base, str(tmp_path / "adapter"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(logits(ours), live, atol=1e-4)
    save_plain(tmp_path / "model", ours, load_tokenizer(tiny_folder, "tiny"))
    assert torch.allclose(logits(plain(tmp_path / "model")), live, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("end", ["embed_tokens", "lm_head"])
def test_an_adapter_on_one_of_two_tied_ends_leaves_the_other_alone(end: str, tiny_folder: Path, tmp_path: Path) -> None:
    live = trained(tiny_folder, tmp_path, target_modules=[*LAYERS, end])
    with_tensors(tmp_path, lambda found: {k: t for k, t in found.items() if not k.endswith(".base_layer.weight")})
    ours = merged(load_base(tiny_folder, "tiny", torch.float32), str(tmp_path))
    assert torch.allclose(logits(ours), live, atol=1e-4)
    save_plain(tmp_path / "model", ours, load_tokenizer(tiny_folder, "tiny"))
    assert torch.allclose(logits(plain(tmp_path / "model")), live, atol=1e-4)
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert settings["tie_word_embeddings"] is False  # other programs read one tensor for both where it says so


REFUSED: dict[str, dict[str, Any]] = {
    "lora_bias=True": {"lora_bias": True},
    "layer_replication=": {"layer_replication": [[0, 2], [1, 2]]},
    "init_lora_weights=pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "init_lora_weights=loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
    "init_lora_weights=corda": {"init_lora_weights": "corda"},
    "init_lora_weights=lora_ga": {"init_lora_weights": "lora_ga"},
    "alora_invocation_tokens=": {"alora_invocation_tokens": [5, 6]},
    "megatron_config=": {"megatron_config": {"any": 1}, "megatron_core": "os"},
    "arrow_config=": {"arrow_config": {"top_k": 2}},
    "velora_config=": {"velora_config": {"num_groups": 4}},
    "kasa_config=": {"kasa_config": {"beta": 0.1}},
    "use_bdlora=": {"use_bdlora": {"nblocks": 2}},
    "use_qalora=True": {"use_qalora": True},
    "monteclora_config=": {"monteclora_config": {"num_samples": 2}},
}


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    trained(tiny_folder, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(("setting", "options"), REFUSED.items(), ids=REFUSED)
def test_a_setting_that_cannot_be_merged_is_named(setting: str, options: dict[str, Any], adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
    with pytest.raises(UserError, match=r"adapter_config\.json says") as caught:
        locate_adapter(str(adapter))
    assert setting in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {name.partition("=")[0] for name in REFUSED} == set(NOT_MERGED)


def test_an_adapter_on_changed_weights_is_not_put_on_the_plain_base(tiny_folder: Path, tmp_path: Path) -> None:
    trained(tiny_folder, tmp_path, init_lora_weights="pissa")
    assert plain_lora(adapter_settings(tmp_path)) is None


Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def with_tensors(folder: Path, change: Change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def spoiled(value: float) -> Change:
    """One value of one B is no number."""

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(name for name in tensors if "lora_B" in name)
        tensors[name][0, 0] = value
        return tensors

    return change


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_starting_adapter_without_finite_weights_is_one_line_and_no_run(
    value: float,
    adapter: Path,
    tiny_folder: Path,
    tiny_split: Split,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_tensors(adapter, spoiled(value))
    more = ("--model", str(tiny_folder), "--metrics", "heldout", "--set", f"model.adapter={adapter}")
    argv = words("fedavg", tiny_split.folder, tmp_path / "runs", *more)
    with quick():
        assert_refused(argv, tmp_path, capsys, f"model.adapter={adapter}: it cannot be merged (NaNs detected")


def test_a_whole_layer_without_finite_weights_is_refused_too(tiny_folder: Path, tmp_path: Path) -> None:
    from fedllm_bench.config.run import Lora, Model
    from fedllm_bench.training.model.lora_model import load_model

    trained(tiny_folder, tmp_path, modules_to_save=["lm_head"])
    with_tensors(tmp_path, lambda found: {k: t.fill_(torch.nan) if "lm_head" in k else t for k, t in found.items()})
    lora = Lora(rank=4, alpha=8, dropout=0.0, targets=("q_proj",))
    with pytest.raises(UserError, match="logits are not finite in float32"):
        load_model(Model(name=str(tiny_folder), dtype="float32", adapter=str(tmp_path)), lora)


def test_an_adapter_of_integers_is_not_taken_for_weights(adapter: Path) -> None:
    with_tensors(adapter, lambda tensors: {name: tensor.to(torch.int32) for name, tensor in tensors.items()})
    with pytest.raises(UserError, match=r"model\.adapter=\S+: .*quantised already \(\S+ is I32 in adapter_model"):
        locate_adapter(str(adapter))


def test_an_adapter_that_git_lfs_did_not_fetch_is_named(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"model\.adapter=\S+: adapter_model\.safetensors is a Git LFS pointer"):
        locate_adapter(str(adapter))


def test_pefts_warnings_of_what_is_refused_are_not_shown(
    adapter: Path, tiny_folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with_tensors(adapter, lambda tensors: dict(list(tensors.items())[1:]))
    with pytest.raises(UserError, match=r"1 of its tensors are missing"):
        merged(plain(tiny_folder), str(adapter))
    assert not [warning for warning in recwarn if "peft" in warning.filename]


@pytest.mark.parametrize("changes", [{"r": "four"}, {"target_modules": 7}, {"bias": "some"}, {"lora_alpha": None}])
def test_settings_of_a_wrong_kind_are_one_line(changes: dict[str, Any], adapter: Path, tiny_folder: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=f"model.adapter={adapter}") as caught:
        merged(load_base(tiny_folder, "tiny", torch.float32), str(adapter))
    assert "\n" not in str(caught.value)
