"""An adapter for answering: added to the weights of a small model, beside those of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree
from fedllm_bench.metrics.batches import ALL
from fedllm_bench.training.model.lora import PREFIX, LoraLinear
from fedllm_bench.training.model.lora_model import LoraModel

MOST_BYTES = 2**30  # of adapted weights, which are kept twice


@contextmanager
def answering_with(model: LoraModel, adapter: Tree | None) -> Iterator[None]:
    """As `model.using`; where that is exact but for rounding and cheap, the update is added to the weights.

    In a small model the small products of LoRA take a third of a step. Weights of less than float32 would round the
    update away, so there, and in a large model, it stays beside them. Afterwards the weights are the old ones to the
    last bit.
    """
    if adapter is None or not _can_be_added(model):
        with model.using(adapter):
            yield
        return
    before: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, layer in model.layers.items():
                weight = _weight(layer)
                before[name] = weight.clone()
                a, b = (adapter[f"{PREFIX}{name}.lora_{letter}.weight"].to(weight) for letter in "AB")
                weight.add_(b @ a, alpha=layer.scale)  # type: ignore[attr-defined]
            with model.using(None):
                yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                _weight(model.layers[name]).copy_(weight)


def using_merged(model: LoraModel, adapters: Mapping[str, Tree], owners: Sequence[str]) -> AbstractContextManager[None]:
    """On a worker, for one batch: answering with the one adapter, or with the base alone where there is none."""
    return answering_with(model, adapters.get(ALL))


def _weight(layer: object) -> Tensor:
    assert isinstance(layer, LoraLinear)
    weight: Tensor = layer.base.weight
    return weight


def _can_be_added(model: LoraModel) -> bool:
    layers = list(model.layers.values())
    if not all(isinstance(layer, LoraLinear) and type(layer.base) is nn.Linear for layer in layers):
        return False
    weights = [_weight(layer) for layer in layers]
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    return size <= MOST_BYTES and all(weight.dtype in (torch.float32, torch.float64) for weight in weights)
