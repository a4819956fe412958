"""Adapters in PEFT's format, which plain `peft` loads."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench import files
from fedllm_bench.config import Lora
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
    )
    with files.new_folder(folder) as part:
        config.save_pretrained(str(part))
        # PEFT keeps target_modules as a set, whose order changes from run to run
        text = files.read_json(part / "adapter_config.json")
        text["target_modules"] = sorted(text["target_modules"])
        files.write_json(part / "adapter_config.json", text)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tree.items()}
        files.write_bytes(part / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))


def _adapted(tree: Tree) -> tuple[str, ...]:
    """Last names of the layers whose A and B are in `tree`."""
    return last_names(name.rpartition(".lora_")[0] for name in tree)
