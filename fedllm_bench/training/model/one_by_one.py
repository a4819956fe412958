"""Why clients are trained one by one: what of a model takes one adapter at a time."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fedllm_bench.config.run import Model
from fedllm_bench.training.model.lora import AdaptedLayer
from fedllm_bench.training.model.peft_layers import DoraLayer


def why_one_by_one(layers: Mapping[str, AdaptedLayer], config: Model) -> str:
    if "" in layers:
        return "weights of the model itself are trained: clients are trained one by one"
    if config.device_map:
        return f"a base over several GPUs (model.device_map={config.device_map}): clients are trained one by one"
    if config.quantization == "8bit":
        return "8-bit products depend on all rows of a pass: clients are trained one by one"
    if any(isinstance(layer, DoraLayer) for layer in layers.values()):
        return "DoRA: clients are trained one by one through PEFT's own layers"
    single = {name: layer.base for name, layer in layers.items() if not layer.stackable}
    name, layer = next(iter(single.items()))
    short = name.rpartition(".")[2]
    if isinstance(layer, nn.Linear):
        return f"{short} sees only some tokens of a batch: clients are trained one by one"
    kind = type(layer).__name__
    return f"{short} is a {kind}, not nn.Linear: clients are trained one by one through PEFT's own layers"
