"""What memory a run will need on its device, from the model's config.json alone: no weight is loaded.

The model is built of fake tensors, which have shapes and types and no contents, and one pass goes through its
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

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model
from fedllm_bench.config.config_uploads import CHANGES_BASE
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.live_memory import LiveBytes
from fedllm_bench.training.loss import tokens_at_once
from fedllm_bench.training.losses.objectives import OBJECTIVES
from fedllm_bench.training.model import quantized, targets
from fedllm_bench.training.model.full import FullWeights
from fedllm_bench.training.model.kinds.building import insert_kind
from fedllm_bench.training.model.lora import Masks, Switch, attach, tensor_names
from fedllm_bench.training.model.lora_model import LoraModel, is_by_row, takes_several
from fedllm_bench.training.model.recompute import decoder_layers, recomputing
from fedllm_bench.training.offsite.loading import parted
from fedllm_bench.training.offsite.stack import cut_of
from fedllm_bench.training.passes import PassPlan, most_tokens, sequences_of_row
from fedllm_bench.training.tasks import clients_of_length

FLOAT32 = 4  # bytes; adapters and optimiser states have this type whatever the base has
# Tensors of the size of a client's adapter: it and what the server sent, with error feedback also what it did not send
# yet (twice in a round of several trainings: as it was before the round too); and at the optimiser's step the sum of
# gradients, the gradient, the clipped one, both moments before and after, and three on the way.
ADAPTERS, UNSENT, OPTIMIZER = 2, 1, 10
# Of a method without a backward pass, where SGD has no moments: the gradient and a part of a direction; or at the end
# of a round a copy of the adapter, and its change.
PROBED_OPTIMIZER = 2
# In float32: logits, log-probabilities and gradient. A plain head under adapters makes the last in the room of the
# second; a trained head and one with a soft cap do not.
LOGITS_COPIES = 3
# Of the emulator's weights while they are aligned: they, what they were, the gradient, the clipped one, two moments.
EMULATOR_COPIES = 6
SCORED_COPIES = 2  # of a chunk of logits, in float32, while its loss is taken without gradients


class NoEstimate(UserError):
    """There is no estimate for this model; it may train all the same."""


@dataclass(frozen=True)
class MemoryEstimate:
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


def estimate(config: RunConfig, settings: Any, device: str = "cuda") -> MemoryEstimate:
    """For rows of the full sequence length, blocks of as many clients as the run would train together, and passes as
    large as on this kind of device ("cpu" or "cuda").

    `settings` is the model's config of transformers. Raises a :class:`UserError` for wrong LoRA targets, and
    :class:`NoEstimate` where they are not all linear layers.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    local, rank = config.local, config.lora.rank
    base = empty_base(config, settings)
    weights = quantized.packed_bytes(base, config.model.quantization)
    aligned = aligned_bytes(base, config)
    model = with_layers(base, config)
    with FakeTensorMode():
        model = filled(model)
        mean_length = local.sequence_length * sequences_of_row(local)
        clients = clients_of_length(local, mean_length, PassPlan()) if model.stackable else 1
        trainable = sum(torch.Size(s).numel() for layer in model.layers.values() for s in layer.shapes(rank))
        ids = torch.zeros(sequences_at_once(config, device), local.sequence_length, dtype=torch.long)
        probed = has_no_backward_pass(config)
        activations = passing_bytes(model, ids, config) if probed else kept_bytes(model, ids, config)
    of_client = clients * trainable * FLOAT32 * adapters_of(config)
    is_full = config.model.trainable == "full"
    cast = trainable * _width(model) if is_full and _width(model) < FLOAT32 else 0  # of all weights, for use
    logits = min(tokens_at_once(model.vocabulary), ids.numel()) * model.vocabulary
    logits *= (SCORED_COPIES if probed else LOGITS_COPIES) * FLOAT32 + _width(model)
    unsent = UNSENT * (1 + has_phases(config)) if config.communication.error_feedback else 0
    adapters = (ADAPTERS + unsent) * of_client + cast
    adapters += changed_base(config, model, device) + aligned
    optimizer = (PROBED_OPTIMIZER if probed else OPTIMIZER) * of_client
    return MemoryEstimate(weights, adapters, optimizer, activations, logits, trainable)


def adapters_of(config: RunConfig) -> int:
    """How many adapters each client trains."""
    kind = METHODS.get(config.method.name)
    default = getattr(kind, "adapters", 1)
    return int(config.method.constants.get("adapters", default)) if hasattr(kind, "adapters") else 1


def has_no_backward_pass(config: RunConfig) -> bool:
    """Whether the config's method steps by forward passes alone."""
    return _changes(config, "probe")


def has_phases(config: RunConfig) -> bool:
    """Whether a round of the config's method is several trainings."""
    return _changes(config, "phases")


def _changes(config: RunConfig, hook: str) -> bool:
    """Whether the config's method has a `hook` of its own; an unknown method is refused elsewhere."""
    method = METHODS.get(config.method.name)
    return method is not None and getattr(method, hook) is not getattr(FedAvg, hook)


def changed_base(config: RunConfig, model: LoraModel, device: str) -> int:
    """Bytes of the weights that clients begin with, where rounds change the base: a second copy of the adapted layers.

    On a CPU the change itself is there too, twice at the end of a round: as factors of a rank that grows with each.
    """
    if config.communication.lora_aggregation not in CHANGES_BASE:
        return 0
    federation, total = config.federation, 0
    gained = federation.rounds * federation.clients_per_round * config.lora.rank
    for layer in model.layers.values():
        (_, inputs), (outputs, _), *_ = layer.shapes(config.lora.rank)
        factors = min(gained, inputs, outputs) * (inputs + outputs) * FLOAT32
        total += inputs * outputs * _width(model) + (2 * factors if device == "cpu" else 0)
    return total


def sequences_at_once(config: RunConfig, device: str) -> int:
    """Sequences of full length in a pass, at least one row: a pair of preferences is two."""
    local = config.local
    width = sequences_of_row(local)
    if not is_by_row(config.model):
        return width * local.micro_batch
    return width * max(1, most_tokens(local, device) // (width * local.sequence_length))


def empty_base(config: RunConfig, settings: Any) -> Any:
    """The base without contents, on the meta device; a :class:`UserError` where that is no causal language model."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, config.model.dtype)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, dtype=dtype, trust_remote_code=False).eval()
    except Exception as error:  # a config may hold anything
        raise base_model.not_a_model(config.model.name, error) from error


def with_layers(base: Any, config: RunConfig) -> LoraModel:
    """`base` with what is trained of it, or under offsite tuning the part of it that clients have; without tokenizer.

    Raises a :class:`UserError` for wrong LoRA targets, and :class:`NoEstimate` where they are not all linear layers.
    """
    if config.model.trainable == "full" and not config.offsite.is_on:
        return LoraModel(base, None, {"": FullWeights(base)}, Switch(), ())
    if config.model.trainable == "full":
        return student_of(base, config)
    if not config.adapter.is_lora:
        found, switch, names = insert_kind(base, config.adapter)
        return LoraModel(base, None, found, switch, names)
    names = targets.resolve(base, config.lora.targets)
    if any(not isinstance(module, nn.Linear) for module in targets.matching(base, names).values()):
        kind = base.config.model_type
        raise NoEstimate(f"no estimate of memory for {kind}: its LoRA targets are not all nn.Linear")
    if config.offsite.is_on:
        return student_of(base, config)
    layers, switch = targets.insert(base, replace(config.lora, targets=names))
    for layer in layers.values():
        layer.stackable = layer.stackable and takes_several(config.model)
    return LoraModel(base, None, layers, switch, names)


def student_of(base: Any, config: RunConfig) -> LoraModel:
    """The part of `base` that clients have."""
    cut = cut_of(base, config.offsite, config.model.name)
    student = parted(base, None, config.model, config.lora, cut).student
    assert student is not None
    return student.model


def aligned_bytes(base: Any, config: RunConfig) -> int:
    """Bytes of an emulator whose layers the server aligns, in the place of the clients or beside them.

    LoRA on them is as small as an adapter, and is not counted.
    """
    if not config.offsite.is_on or not config.offsite.steps or config.model.trainable == "adapter":
        return 0
    cut = cut_of(base, config.offsite, config.model.name)
    layers = base.get_submodule(cut.path)
    numbers = sum(weight.numel() for place in cut.middle for weight in layers[place].parameters())
    return int(EMULATOR_COPIES * numbers * FLOAT32)


def filled(model: LoraModel) -> LoraModel:
    """The model with tensors of the current fake mode in the place of those on the meta device.

    PEFT moves its parameters about when it adapts a layer, which fake ones do not allow; so they come afterwards.
    """
    made: dict[int, Tensor] = {}  # tied weights stay one
    for module in model.base.modules():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
        for place in places:
            for name in [name for name, value in place.items() if isinstance(value, Tensor)]:
                place[name] = made.setdefault(id(place[name]), _like(place[name]))
    whole = model.layers.get("")
    return replace(model, layers={"": whole.on(model.base)}) if isinstance(whole, FullWeights) else model


def _like(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def kept_bytes(model: LoraModel, ids: Tensor, config: RunConfig) -> int:
    """Bytes that autograd keeps of a pass of `ids` through the decoder; with checkpointing also those of one layer,
    which is computed again while the inputs of all are kept."""
    _attach_zeros(model, config)
    quantization = config.model.quantization
    with quantized.inputs_held(model.base, quantization) as held, kept(model.base) as whole:
        model.hidden(ids)
    if not config.local.gradient_checkpointing:
        return sum({**whole, **held}.values())
    with quantized.inputs_held(model.base, quantization) as held, recomputing(model, True), kept(model.base) as inputs:
        model.hidden(ids)
    return sum({**inputs, **held}.values()) + sum(whole.values()) // len(decoder_layers(model.base))


def passing_bytes(model: LoraModel, ids: Tensor, config: RunConfig) -> int:
    """The most bytes that live at a time of a pass of `ids` through the decoder of which nothing is kept."""
    known = [*model.base.parameters(), *model.base.buffers(), *_attach_zeros(model, config)]
    live = LiveBytes(known)
    with torch.no_grad(), live:
        model.hidden(ids)
    return live.peak


def _attach_zeros(model: LoraModel, config: RunConfig) -> list[Tensor]:
    """An adapter of zeros for one client, and dropout where there would be some."""
    adapters = {
        tensor: torch.zeros(1, *shape, requires_grad=True)
        for name, layer in model.layers.items()
        for tensor, shape in zip(tensor_names(name, layer), layer.shapes(config.lora.rank), strict=True)
    }
    attach(model.layers, adapters)
    model.switch.masks = _AllKept((), (), (), 0) if OBJECTIVES[config.local.loss].dropout else None
    return list(adapters.values())


class _AllKept(Masks):
    """Masks as large as real ones, for which nothing is drawn."""

    def kept(self, dropped: int, x_NI: Tensor) -> Tensor:
        return torch.ones_like(x_NI)


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
