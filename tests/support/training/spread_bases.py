"""Bases whose layers lie on two devices, or on one with accelerate's hooks all the same."""

from __future__ import annotations

from typing import Any

import pytest
from architectures import SIZES
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fedllm_bench.config.run import Lora
from fedllm_bench.training.model import lora_model, packed, targets
from fedllm_bench.training.model.base import load_base
from fedllm_bench.training.model.lora_model import LoraModel


def spread_over(patch: pytest.MonkeyPatch, first: str, last: str) -> None:
    """From now on a base that is loaded lies on both devices, with hooks on every layer."""

    def load(folder: Any, name: str, dtype: Any, **options: Any) -> Any:
        base = load_base(folder, name, dtype)
        hooked(base, places_of(base, first, last), first)
        return base

    patch.setattr(lora_model, "load_base", load)


def hooked(base: Any, places: dict[str, str], main: str) -> None:
    """`base` with its modules on `places`; a CPU among them computes too, and is no store of weights."""
    from accelerate import dispatch_model

    dispatch_model(base, places, main_device=main, force_hooks=True, skip_keys=sorted(base._skip_keys_device_placement))


def places_of(base: Any, first: str, last: str) -> dict[str, str]:
    """Embeddings, the first half of the layers and a tied head on `first`, all else on `last`."""
    ties = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    head = next(name for name, module in base.named_children() if module is base.get_output_embeddings())
    places = {head: first if ties else last}
    for name, child in base.get_decoder().named_children():
        name = f"{base.base_model_prefix}.{name}"
        if isinstance(child, nn.ModuleList):
            half = len(child) // 2
            places |= {f"{name}.{number}": first if number < half else last for number in range(len(child))}
        else:
            places[name] = first if isinstance(child, nn.Embedding) else last
    return places


def fake_model(first: str, last: str, lora: Lora) -> tuple[LoraModel, FakeTensorMode]:
    """A Llama over two devices whose tensors have no contents, and the mode to use it in."""
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(LlamaConfig(vocab_size=101, **{**SIZES, "tie_word_embeddings": False})).eval()
    hooked(base, places_of(base, first, last), first)
    layers, switch = targets.insert(base, lora)
    packed.install(base)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for module in base.modules():
        for place in (module._parameters, module._buffers):
            place |= {name: mode.from_tensor(value) for name, value in place.items() if isinstance(value, Tensor)}
    return LoraModel(base, None, layers, switch, lora.targets), mode
