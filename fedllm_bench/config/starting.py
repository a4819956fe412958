"""The starting adapter: a PEFT adapter that is merged into the base model at load. Nothing here loads torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import at_home, sha256_file, sha256_json
from fedllm_bench.config import base_model, model_files

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ADVICE = "give the folder of a LoRA adapter in PEFT's format, such as adapter/ of a finished run"
MERGED = ("LORA", "IA3")  # types of adapters that can become a part of the weights
PLACES = ("base_model_name_or_path", "revision", "inference_mode")  # where the adapter was made, not what it is

# Values of init_lora_weights under which PEFT takes the first A and B out of the base's weights, the same each time.
CHANGE_THE_BASE = ("pissa", "olora")
BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal", "mica", *CHANGE_THE_BASE)
CONVERTED = "save it as plain LoRA: save_pretrained(FOLDER, path_initial_model_for_weight_conversion=FIRST_ADAPTER)"
NOT_PLAIN = "which merged weights cannot do; train an adapter without it"
# Settings that cannot be merged: the values of each that can, and what to say of others.
NOT_MERGED: dict[str, tuple[tuple[object, ...], str]] = {
    "init_lora_weights": (BEGINNINGS, f"so it was trained on a changed base, which cannot be made again; {CONVERTED}"),
    "lora_bias": ((False,), "a bias beside A and B, for which a plain layer has no place; train an adapter without it"),
    "layer_replication": ((), "so it is for a model of more layers; train an adapter on the layers as they are"),
    "megatron_config": ((), "so it is for layers of Megatron; give an adapter on layers of transformers"),
    "use_qalora": ((False,), NOT_PLAIN),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "use_bdlora"), ((), NOT_PLAIN)),
    **dict.fromkeys(("velora_config", "monteclora_config", "kasa_config"), ((), NOT_PLAIN)),
}


def locate_adapter(name: str) -> Path:
    """The folder of an adapter in PEFT's format that can be merged. Raises a :class:`UserError` where there is none."""
    folder = find_adapter(name)
    settings = adapter_settings(folder)
    kind = settings.get("peft_type")
    if kind not in MERGED:
        raise UserError(f"model.adapter={name}: it is of PEFT type {kind}, only {' and '.join(MERGED)} can be merged; "
                        f"{ADVICE}")  # fmt: skip
    for key, (allowed, why) in NOT_MERGED.items():
        value = settings.get(key)
        if value and value not in allowed:
            raise UserError(f"model.adapter={name}: {CONFIG} says {key}={str(value)[:60]}, {why}")
    return folder


def find_adapter(name: str) -> Path:
    """The folder of an adapter of any kind. Raises a :class:`UserError` where there is none.

    Weights as pickle are refused: reading them can run code.
    """
    folder = at_home(name)
    if not folder.is_dir():
        here = "" if folder.is_absolute() else f" below {Path.cwd()}"
        raise UserError(f"model.adapter={name}: no such folder{here}; {ADVICE}")
    for file in (CONFIG, TENSORS):
        if not (folder / file).is_file():
            hint = " (adapter_model.bin is a pickle, which is not read)" if any(folder.glob("*.bin")) else ""
            raise UserError(f"model.adapter={name}: the folder has no {file}{hint}; {ADVICE}")
    problem = model_files.problem_of_tensors(folder / TENSORS)
    if problem is not None:
        raise UserError(f"model.adapter={name}: {problem}")
    return folder


def adapter_settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json; a :class:`UserError` where it is not a JSON object."""
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.adapter={folder}: {CONFIG} is not JSON ({error}); {ADVICE}") from error
    if not isinstance(settings, dict):
        raise UserError(f"model.adapter={folder}: {CONFIG} is not a JSON object; {ADVICE}")
    return settings


def adapter_fingerprint(folder: Path) -> str:
    """sha256 over tensors and settings, but for the place of the base that the adapter was made on."""
    settings = {key: value for key, value in adapter_settings(folder).items() if key not in PLACES}
    return sha256_json([settings, sha256_file(folder / TENSORS)])


def base_fingerprint(folder: Path, adapter: str | None, quantization: str = "none") -> str:
    """Of what is frozen: the base model in `folder`, with the starting adapter merged into it, quantised."""
    base = base_model.fingerprint(folder)
    if adapter is not None:
        base = sha256_json([base, adapter_fingerprint(locate_adapter(adapter))])
    return base if quantization == "none" else sha256_json([base, quantization])
