"""adapter_config.json of each kind: PEFT's own settings, or those of this suite's bottleneck."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.training.model.kinds.building import feedforward_of
from fedllm_bench.training.model.kinds.virtual import VirtualTokens
from fedllm_bench.training.model.lora import AdaptedLayer

BOTTLENECK = "FEDLLM_BOTTLENECK"  # PEFT says of it that it knows no such type
TYPES = {  # PEFT's types -> what is in the file; P-tuning's is the prompt that its encoder made
    "PREFIX_TUNING": "prefix",
    "PROMPT_TUNING": "prompt",
    "P_TUNING": "prompt",
    "IA3": "ia3",
    BOTTLENECK: "bottleneck",
}


def settings_of(
    adapter: AdapterKind,
    model: Any,
    layers: Mapping[str, AdaptedLayer],
    targets: tuple[str, ...],
    base: str,
    *,
    transposed: bool,
) -> dict[str, Any]:
    """The contents of adapter_config.json, its keys and lists in order. `base` is the id or folder of `model`."""
    if adapter.kind == "bottleneck":
        found = {"peft_type": BOTTLENECK, "target_modules": list(targets), "reduction": adapter.times_smaller,
                 "task_type": "CAUSAL_LM"}  # fmt: skip
    elif adapter.kind == "ia3":
        found = _of_ia3(model, layers, targets, transposed=transposed)
    else:
        found = _of_virtual(adapter, model, layers)
    found["base_model_name_or_path"] = base
    return {key: sorted(value) if isinstance(value, list) else value for key, value in sorted(found.items())}


def _of_ia3(
    model: Any, layers: Mapping[str, AdaptedLayer], targets: tuple[str, ...], *, transposed: bool
) -> dict[str, Any]:
    from peft import IA3Config

    return _as_written(
        IA3Config(
            task_type="CAUSAL_LM",
            inference_mode=True,
            target_modules=list(targets),
            feedforward_modules=list(feedforward_of(model, targets, layers)),
            fan_in_fan_out=transposed,
        )
    )


def _of_virtual(adapter: AdapterKind, model: Any, layers: Mapping[str, AdaptedLayer]) -> dict[str, Any]:
    """With the sizes that PEFT reads off the model's settings."""
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
    from peft.utils import _prepare_prompt_learning_config

    kinds = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig, "p_tuning": PromptEncoderConfig}
    own: dict[str, Any] = {}
    if adapter.kind == "p_tuning":
        virtual = layers[""]
        assert isinstance(virtual, VirtualTokens)
        own = {"encoder_hidden_size": virtual.sizes.encoder}
    config = kinds[adapter.kind](
        task_type="CAUSAL_LM", inference_mode=True, num_virtual_tokens=adapter.num_tokens, **own
    )
    return _as_written(_prepare_prompt_learning_config(config, model.config))


def _as_written(config: Any) -> dict[str, Any]:
    """As PEFT itself writes the settings."""
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        written: dict[str, Any] = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
    return written


def kind_of(settings: Mapping[str, Any], about: str) -> AdapterKind | None:
    """The kind of an adapter with these settings, of PEFT or of this suite; None for LoRA and for what is not known.

    Raises a :class:`UserError`, which begins with `about`, for settings that the kind cannot have here.
    """
    kind = TYPES.get(str(settings.get("peft_type")))
    if kind is None:
        return None
    if settings.get("prefix_projection"):
        raise UserError(f"{about}: its prefix has a projection, which is not read here; train it without one")
    tokens, targets, reduction = (settings.get(key) for key in ("num_virtual_tokens", "target_modules", "reduction"))
    names = (
        targets if isinstance(targets, list) and targets and all(isinstance(n, str) and n for n in targets) else None
    )
    if kind in ("ia3", "bottleneck"):
        if names is None or (kind == "bottleneck" and not _is_count(reduction)):
            raise UserError(f"{about}: its adapter_config.json does not name its layers, or how wide they are")
        size = {"reduction": reduction} if kind == "bottleneck" else {}
        return AdapterKind(kind=kind, targets=tuple(sorted(set(names))), **size)  # type: ignore[arg-type]
    if not _is_count(tokens):
        raise UserError(f"{about}: its adapter_config.json does not say how many virtual tokens it has")
    return AdapterKind(kind=kind, tokens=tokens)  # type: ignore[arg-type]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
