"""What memory a run will need on its device, from the model's config.json alone: no weight is loaded.

The model is built of fake tensors, which have shapes and types and no contents, and one micro-batch goes through its
decoder. What autograd keeps of that pass is counted, so that it is right for any architecture, type of weights, number
of clients and LoRA targets. The rest are a few tensors whose sizes are known. What the allocator loses to fragments,
and short-lived tensors inside a layer, are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fedllm_bench.config import RunConfig
from fedllm_bench.errors import UserError
from fedllm_bench.training import targets
from fedllm_bench.training.lora import PREFIX, Masks, attach
from fedllm_bench.training.loss import LOGITS_AT_ONCE
from fedllm_bench.training.model import LoraModel
from fedllm_bench.training.recompute import decoder_layers, recomputing

FLOAT32 = 4  # bytes; adapters and optimiser states have this type whatever the base has
# Tensors of the size of a client's adapter: it and what the server sent; and at the optimiser's step the sum of
# gradients, the gradient, the clipped one, both moments before and after, and three on the way.
ADAPTERS, OPTIMIZER = 2, 10
LOGITS_COPIES = 3  # in float32: logits, log-probabilities and gradient


class NoEstimate(UserError):
    """There is no estimate for this model; it may train all the same."""


@dataclass(frozen=True)
class Estimate:
    """Bytes on the device during training; `trainable` counts the numbers of one adapter."""

    base: int
    adapters: int
    optimizer: int
    activations: int
    logits: int
    trainable: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self) if field.name != "trainable")


def estimate(config: RunConfig, settings: Any, *, clients: int | None = None) -> Estimate:
    """For passes of `clients` clients (default: `local.block_size`), with rows of the full sequence length.

    `settings` is the model's config of transformers. Raises a :class:`UserError` for wrong LoRA targets, and
    :class:`NoEstimate` where they are not all linear layers.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    local, clients = config.local, clients or config.local.block_size
    with FakeTensorMode():
        model = fake_model(config, settings)
        base = sum(tensor.numel() * tensor.element_size() for tensor in model.base.parameters())
        trainable = sum(
            torch.Size(s).numel() for layer in model.layers.values() for s in layer.shapes(config.lora.rank)
        )
        ids = torch.zeros(clients * local.micro_batch, local.sequence_length, dtype=torch.long)
        activations = kept_bytes(model, ids, clients, config.lora.rank, checkpointing=local.gradient_checkpointing)
    of_client = clients * trainable * FLOAT32
    logits = min(LOGITS_AT_ONCE, ids.numel() * model.vocabulary) * (LOGITS_COPIES * FLOAT32 + _width(model))
    return Estimate(base, ADAPTERS * of_client, OPTIMIZER * of_client, activations, logits, trainable)


def fake_model(config: RunConfig, settings: Any) -> LoraModel:
    """The base with LoRA layers in the current fake mode; without tokenizer. Raises :class:`NoEstimate`."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, config.model.dtype)).eval()
    names = targets.resolve(base, config.lora.targets)
    if any(not isinstance(module, nn.Linear) for module in targets.matching(base, names).values()):
        # PEFT, which adapts them, moves its parameters about, and fake ones cannot be moved
        raise NoEstimate(f"no estimate of memory for {settings.model_type}: its LoRA targets are not all nn.Linear")
    layers, switch = targets.insert(base, replace(config.lora, targets=names))
    return LoraModel(base, None, layers, switch, names)


def kept_bytes(model: LoraModel, ids: Tensor, clients: int, rank: int, *, checkpointing: bool) -> int:
    """Bytes that autograd keeps of a pass of `ids` through the decoder; with checkpointing also those of one layer,
    which is computed again while the inputs of all are kept."""
    shapes = {name: layer.shapes(rank) for name, layer in model.layers.items()}
    adapters = {
        f"{PREFIX}{name}.lora_{letter}.weight": torch.zeros(clients, *shape, requires_grad=True)
        for name, pair in shapes.items()
        for letter, shape in zip("AB", pair, strict=True)
    }
    attach(model.layers, adapters)
    model.switch.masks = _AllKept((), 1, ())
    with kept(model.base) as whole:
        model.hidden(ids)
    if not checkpointing:
        return sum(whole.values())
    with recomputing(model, True), kept(model.base) as inputs:
        model.hidden(ids)
    return sum(inputs.values()) + sum(whole.values()) // len(decoder_layers(model.base))


class _AllKept(Masks):
    """Masks as large as real ones, for which nothing is drawn."""

    def draw(self, keep: float, x_KNI: Tensor) -> Tensor:
        return torch.ones_like(x_KNI)


@contextmanager
def kept(base: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that is saved for the backward pass inside the block, but for those of weights."""
    weights = {tensor.untyped_storage()._cdata for tensor in [*base.parameters(), *base.buffers()]}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # else another tensor could get the place of one that is gone

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor.detach())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _width(model: LoraModel) -> int:
    """Bytes of one number of the base."""
    return int(model.base.dtype.itemsize)
