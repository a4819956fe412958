"""Adapters in PEFT's format: written so that plain `peft` loads them, and merged into a base to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedllm_bench import files
from fedllm_bench.config import Lora
from fedllm_bench.errors import UserError
from fedllm_bench.starting import ADVICE, TENSORS, locate_adapter
from fedllm_bench.training.targets import WORDS, last_names
from fedllm_bench.trees import Tree


def save_adapter(folder: Path, tree: Tree, lora: Lora, base: str, *, transposed: bool = False) -> None:
    """adapter_model.safetensors and adapter_config.json; `base` is the id or folder of the base model.

    The words "auto" and "all-linear" of `lora.targets` become the names of the layers that `tree` adapts.
    `transposed` is that of the model: PEFT's `fan_in_fan_out`.
    """
    from peft import LoraConfig
    from safetensors.torch import save

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(_adapted(tree) if WORDS & set(lora.targets) else lora.targets),
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
        use_dora=lora.dora,
    )
    with files.new_folder(folder) as part:
        config.save_pretrained(str(part))
        # PEFT keeps target_modules as a set, whose order changes from run to run
        text = files.read_json(part / "adapter_config.json")
        text["target_modules"] = sorted(text["target_modules"])
        files.write_json(part / "adapter_config.json", text)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tree.items()}
        files.write_bytes(part / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))


def merged(base: Any, name: str) -> Any:
    """`base`, a model of transformers, with the weights of the LoRA adapter in the folder `name` added to its own.

    Raises a :class:`UserError` where that is no adapter, or one of another model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError, safe_open

    folder = locate_adapter(name)
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            wanted = set(file.keys())
        # Without low_cpu_mem_usage PEFT would draw first values from the global generator.
        model = PeftModel.from_pretrained(base, str(folder), low_cpu_mem_usage=True)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model.adapter={name}: it does not fit this base model ({reason}); {ADVICE}") from error
    _check_all_used(model, wanted, name)
    return model.merge_and_unload(safe_merge=True)


def _check_all_used(model: Any, wanted: set[str], name: str) -> None:
    """PEFT passes over tensors that the base has no place for, and leaves those it misses empty."""
    from peft import get_peft_model_state_dict

    used = set(get_peft_model_state_dict(model, save_embedding_layers=False))  # "auto" would ask the hub
    wrong = sorted(used ^ wanted)
    if wrong:
        raise UserError(
            f"model.adapter={name}: {len(wrong)} of its tensors are missing or have no place in this base model, as "
            f"{wrong[0]}; {ADVICE}"
        )


def _adapted(tree: Tree) -> tuple[str, ...]:
    """Last names of the layers whose A and B are in `tree`."""
    return last_names(name.rpartition(".lora_")[0] for name in tree)
