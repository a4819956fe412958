"""The starting adapter: a PEFT adapter that is merged into the base model at load. Nothing here loads torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedllm_bench import models
from fedllm_bench.errors import UserError
from fedllm_bench.files import sha256_file, sha256_json

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ADVICE = "give the folder of a LoRA adapter in PEFT's format, such as adapter/ of a finished run"
PLACES = ("base_model_name_or_path", "revision", "inference_mode")  # where the adapter was made, not what it is


def locate_adapter(name: str) -> Path:
    """The folder of a LoRA adapter in PEFT's format. Raises a :class:`UserError` where there is none.

    Weights as pickle are refused: reading them can run code.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"model.adapter={name}: no such folder; {ADVICE}")
    for file in (CONFIG, TENSORS):
        if not (folder / file).is_file():
            hint = " (adapter_model.bin is a pickle, which is not read)" if any(folder.glob("*.bin")) else ""
            raise UserError(f"model.adapter={name}: the folder has no {file}{hint}; {ADVICE}")
    kind = adapter_settings(folder).get("peft_type")
    if kind != "LORA":
        raise UserError(f"model.adapter={name}: it is of PEFT type {kind}, only LORA can be merged; {ADVICE}")
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
    base = models.fingerprint(folder)
    if adapter is not None:
        base = sha256_json([base, adapter_fingerprint(locate_adapter(adapter))])
    return base if quantization == "none" else sha256_json([base, quantization])
