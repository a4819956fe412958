"""Adapters in PEFT's format: written so that plain `peft` loads them, and merged into a base to start from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Lora
from fedllm_bench.config.starting import ADVICE, CHANGE_THE_BASE, CONFIG, TENSORS, adapter_settings, locate_adapter
from fedllm_bench.training.model.adapter_config import adapter_config
from fedllm_bench.training.model.lora import A_AND_B
from fedllm_bench.training.model.targets import WORDS, last_names


def save_adapter(
    folder: Path,
    tree: Tree,
    lora: Lora,
    base: str,
    *,
    transposed: bool = False,
    texts: Mapping[str, bytes] | None = None,
) -> None:
    """adapter_model.safetensors and adapter_config.json; `base` is the id or folder of the base model.

    The words "auto" and "all-linear" of `lora.targets` become the names of the layers that `tree` adapts.
    `transposed` is that of the model: PEFT's `fan_in_fan_out`. `texts` by file name are the licence and notices of the
    base, which go with what was made on it.
    """
    from safetensors.torch import save

    targets = _adapted(tree) if WORDS & set(lora.targets) else lora.targets
    with files.new_folder(folder) as part:
        files.write_json(part / CONFIG, adapter_config(lora, targets, base, transposed=transposed))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tree.items()}
        files.write_bytes(part / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
        files.write_all(part, texts or {})


def as_wide_as(tree: Tree, lora: Lora) -> Lora:
    """`lora` with the rank of the tree's adapter, a multiple of its own, and as many times its alpha: one scale."""
    rank = next((len(tensor) for name, tensor in tree.items() if name.endswith(A_AND_B[0])), lora.rank)
    return replace(lora, rank=rank, alpha=lora.alpha * (rank // lora.rank))


def merged(base: Any, name: str, label: str = "model.adapter") -> Any:
    """`base`, a model of transformers, with the adapter of LoRA or IA3 in the folder `name` merged into its weights.

    `label` says in messages what `name` is. Raises a :class:`UserError` where that is no adapter, one of another
    model, or one that cannot be merged exactly.
    """
    folder, about = locate_adapter(name), f"{label}={name}"
    with warnings.catch_warnings(action="ignore"):  # PEFT warns at length of what is looked at here
        config = _loadable(folder, about)
        model = _attached(base, folder, config, about)
        _untie_adapted(model)
        try:
            return model.merge_and_unload(safe_merge=True)
        except Exception as error:  # PEFT raises anything for what it cannot merge
            raise UserError(f"{about}: it cannot be merged ({_reason(error)}); {ADVICE}") from error


def _loadable(folder: Path, about: str) -> Any:
    """PEFT's config of the adapter; a :class:`UserError` where it holds what PEFT does not take."""
    from peft import IA3Config, LoraConfig

    kind = IA3Config if adapter_settings(folder)["peft_type"] == "IA3" else LoraConfig
    try:
        config = kind.from_pretrained(str(folder))
    except Exception as error:  # a config may hold anything
        raise UserError(f"{about}: {CONFIG} cannot be read ({_reason(error)}); {ADVICE}") from error
    if isinstance(config, LoraConfig) and config.init_lora_weights not in CHANGE_THE_BASE:
        config.init_lora_weights = True  # only how A and B began, which are read from the file
    return config


def _attached(base: Any, folder: Path, config: Any, about: str) -> Any:
    """The adapter on `base` under PEFT, all of its tensors and none besides."""
    import torch
    from peft import PeftModel
    from safetensors import safe_open

    # on the meta device PEFT draws no first values, and cannot take them out of the base's weights either
    is_plain = vars(config).get("init_lora_weights", True) is True  # IA3 has none
    try:
        with safe_open(folder / TENSORS, framework="pt") as file:
            wanted = set(file.keys())
        with torch.random.fork_rng(devices=[]):
            model = PeftModel.from_pretrained(base, str(folder), config=config, low_cpu_mem_usage=is_plain)
    except Exception as error:  # PEFT raises anything for tensors and settings that do not fit
        raise UserError(f"{about}: it does not fit this base model ({_reason(error)}); {ADVICE}") from error
    _check_all_used(model, wanted, about)
    return model


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_all_used(model: Any, wanted: set[str], about: str) -> None:
    """PEFT passes over tensors that the base has no place for, and leaves those it misses empty."""
    from peft import get_peft_model_state_dict

    # "auto" would ask the hub; PEFT writes the whole embedding where the adapter is on it
    whole = any(name.endswith(".base_layer.weight") for name in wanted)
    wrong = sorted(set(get_peft_model_state_dict(model, save_embedding_layers=whole)) ^ wanted)
    if wrong:
        raise UserError(
            f"{about}: {len(wrong)} of its tensors are missing or have no place in this base model, as "
            f"{wrong[0]}; {ADVICE}"
        )


def _untie_adapted(model: Any) -> None:
    """Give the output head weights of its own where an adapter changes the embedding that it is tied to.

    Under PEFT the adapter is on one of the two alone; merged into a weight that both share it would change both.
    """
    from peft.tuners.lora import LoraLayer
    from torch import nn

    base = model.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if not any(isinstance(end, LoraLayer) for end in ends) or None in ends:
        return
    weights = [end.get_base_layer() if isinstance(end, LoraLayer) else end for end in ends]
    if weights[0].weight is weights[1].weight:
        weights[1].weight = nn.Parameter(weights[0].weight.detach().clone(), requires_grad=False)


def _adapted(tree: Tree) -> tuple[str, ...]:
    """Last names of the layers whose A and B are in `tree`."""
    return last_names(name.rpartition(".lora_")[0] for name in tree)
