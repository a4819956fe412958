"""adapter_config.json of PEFT, written without loading PEFT, whose import takes as long as many runs train."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fedllm_bench.config.run import Lora

# What PEFT of this version writes for a LoRA adapter without special settings; another version is asked itself.
PEFT_VERSION = "0.21.2"
EMPTY = (
    *("alora_invocation_tokens", "arrow_config", "auto_mapping", "corda_config", "eva_config", "exclude_modules"),
    *("kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "lora_ga_config", "megatron_config"),
    *("modules_to_save", "monteclora_config", "revision", "target_parameters", "trainable_token_indices"),
    *("use_bdlora", "velora_config"),
)
PLAIN: dict[str, Any] = {
    **dict.fromkeys(EMPTY),
    **dict.fromkeys(("ensure_weight_tying", "lora_bias", "use_qalora", "use_rslora"), False),
    **{key: {} for key in ("alpha_pattern", "loftq_config", "rank_pattern")},
    "bias": "none",
    "inference_mode": True,
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "peft_type": "LORA",
    "peft_version": PEFT_VERSION,
    "qalora_group_size": 16,
    "task_type": "CAUSAL_LM",
}


def adapter_config(lora: Lora, targets: Sequence[str], base: str, *, transposed: bool) -> dict[str, Any]:
    """The contents of adapter_config.json, with its keys and targets in order. `base` is the id or folder of the base.

    PEFT keeps targets as a set, whose order changes from run to run.
    """
    own = {
        "base_model_name_or_path": base,
        "fan_in_fan_out": transposed,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "r": lora.rank,
        "target_modules": sorted(set(targets)),
        "use_dora": lora.dora,
    }
    found = {**PLAIN, **own} if version("peft") == PEFT_VERSION else {**_of_peft(own), **own}
    return dict(sorted(found.items()))


def _of_peft(own: dict[str, Any]) -> dict[str, Any]:
    """As the installed PEFT writes it."""
    import json
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from peft import LoraConfig

    with TemporaryDirectory() as folder:
        LoraConfig(task_type="CAUSAL_LM", inference_mode=True, **own).save_pretrained(folder)
        written: dict[str, Any] = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    return written
