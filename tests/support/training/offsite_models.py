"""Tiny models that are parted for offsite tuning, and plain models of transformers that have the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import random_part

from fedllm_bench.common.interrupts import Stop
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.config.run import Local, Lora, Model
from fedllm_bench.data.tokens import TokenRow
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.offsite.alignment import Alignment, first_emulator
from fedllm_bench.training.offsite.loading import load_for

LORA = Lora(rank=4, alpha=8, dropout=0.0, targets=("auto",))
IDS = torch.arange(4, 40).view(2, 18)
PUBLIC = random_part(seed=7, num_rows=40)
LAYERS = 6


def load_offsite(folder: Path, trainable: str = "full", *, dtype: str = "float32", **offsite: Any) -> LoraModel:
    """Of 6 layers, one at each end is trained; half of the others are left out."""
    chosen = Offsite(**{"variant": "fedot", "left": 1, "right": 1, "drop": 0.5, **offsite})
    model = Model(name=str(folder), dtype=dtype, trainable=trainable)  # type: ignore[arg-type]
    return load_for(model, LORA, chosen)


def plain_student(folder: Path, kept: Sequence[int], dtype: torch.dtype = torch.float32) -> Any:
    """The model of `folder` with these layers alone, as transformers loads one that was saved so."""
    from transformers import AutoConfig, AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = AutoConfig.from_pretrained(folder)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = [kinds[number] for number in kept]
    config.num_hidden_layers = len(kept)
    small = AutoModelForCausalLM.from_config(config, dtype=dtype)
    small.load_state_dict(renumbered(whole.state_dict(), kept))
    return small.eval()


def renumbered(state: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """The weights of the kept layers under their new numbers, and those of no layer."""
    found = {}
    for name, tensor in state.items():
        words = name.split(".")
        place = next((i for i, word in enumerate(words) if word.isdigit()), None)
        if place is None:
            found[name] = tensor
        elif int(words[place]) in kept:
            found[".".join([*words[:place], str(kept.index(int(words[place]))), *words[place + 1 :]])] = tensor
    return found


def aligner(
    model: LoraModel,
    folder: Path,
    local: Local,
    method: FedAvg,
    *,
    seed: int = 0,
    stop: Stop | None = None,
    **offsite: Any,
) -> Alignment:
    """Of 12 steps of AdamW on 32 random rows, measured on 8 others, where nothing else is given."""
    usual = {"variant": "fedot", "left": 1, "right": 1, "drop": 0.5, "steps": 12, "lr": 0.01, "optimizer": "adamw"}
    rows: list[TokenRow] = [PUBLIC[place] for place in range(len(PUBLIC))]
    return Alignment(
        model=model,
        offsite=Offsite(**usual | offsite),
        local=local,
        rows=rows,
        seed=seed,
        folder=folder,
        adapter_of=method.adapter,
        stop=stop or Stop(),
    )


def emulator_of(model: LoraModel) -> dict[str, Any]:
    return first_emulator(model, LORA.rank, 0)
