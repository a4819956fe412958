"""The base model of a run: loaded once, frozen, with LoRA layers that any adapter can be put into."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.trees import Tree
from fedllm_bench.config import base_model
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.training.model import limits, norms, packed, quantized, spread, targets
from fedllm_bench.training.model import lora as lora_layers
from fedllm_bench.training.model.adapter import merged
from fedllm_bench.training.model.base import FORWARD_ERRORS, load_base, load_tokenizer
from fedllm_bench.training.model.carried import Carried, carrying, plain_layers, put_down
from fedllm_bench.training.model.full import FullWeights
from fedllm_bench.training.model.head import whole_output
from fedllm_bench.training.model.kinds.building import check_virtual, insert_kind
from fedllm_bench.training.model.kinds.virtual_attention import standing_before
from fedllm_bench.training.model.one_by_one import why_one_by_one
from fedllm_bench.training.model.peft_layers import is_transposed
from fedllm_bench.training.packing import Packing, spans_of
from fedllm_bench.training.passes import DEFAULT, PassPlan

log = logging.getLogger(__name__)
LORA = AdapterKind()


@dataclass(frozen=True)
class LoraModel:
    """One resident base; adapters are arguments. `base` maps (B, T) token ids to logits over V tokens.

    `targets` are the names of the adapted layers for adapter_config.json. `split_head`: its logits are its head on
    its decoder's states, and nothing more (no scaling, no capping). `plan` says how large a pass of training is.
    """

    base: Any
    tokenizer: Any
    layers: Mapping[str, lora_layers.AdaptedLayer]
    switch: lora_layers.Switch
    targets: tuple[str, ...]
    split_head: bool = True
    plan: PassPlan = DEFAULT
    carried: Carried = field(default_factory=Carried)
    student: Student | None = None

    @property
    def device(self) -> torch.device:
        """Where token ids go and adapters lie: that of the embeddings, where the base lies on several."""
        return torch.device(self.base.device)

    def hidden(self, ids: Tensor, packing: Packing | None = None) -> Tensor:
        """Last hidden states, shape (S, T, H), of right-padded ids of shape (S, T), or (1, N, H) of a packed row.

        Padding needs no mask: attention is causal, so no real token sees what is behind it. They lie where the last
        layer does.
        """
        if packing is not None:
            return packed.hidden_states(self.base, ids, packing)
        states: Tensor = self.base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states of shape (..., H), as the whole model makes them; they lie where the head does."""
        head: nn.Module = self.base.get_output_embeddings()
        out: Tensor = head(hidden) if self.split_head else whole_output(self.base, hidden)
        return out

    @property
    def vocabulary(self) -> int:
        """V, the number of logits of a token."""
        return int(self.base.config.get_text_config().vocab_size)

    @property
    def stackable(self) -> bool:
        """Whether several clients can go through the base in one pass."""
        return all(layer.stackable for layer in self.layers.values())

    @property
    def transposed(self) -> bool:
        """Whether weights lie as (inputs, outputs), as in Conv1D: `fan_in_fan_out` of adapter_config.json."""
        return any(is_transposed(layer.base) for layer in self.layers.values())

    @property
    def trains_head(self) -> bool:
        """Whether the output head is among what is trained now, as where every weight is."""
        full = [layer for layer in self.layers.values() if isinstance(layer, FullWeights)]
        return any(layer.attached and layer.has_head for layer in full)

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is in the layers; without one the base answers alone."""
        return any(layer.attached for layer in self.layers.values())

    def carrying(self, change: Tree) -> AbstractContextManager[None]:
        """Inside the block the base carries this change of it (`training/model/carried.py`)."""
        return carrying(plain_layers(self.layers), change, self.carried)

    def first_base(self) -> AbstractContextManager[None]:
        """Inside the block the base is that of before training, also inside `carrying`."""
        return put_down(self.carried)

    @contextmanager
    def using(self, adapter: Tree | None) -> Iterator[None]:
        """Evaluate with one adapter (or the base alone) inside the block; no gradient is kept."""
        if adapter is not None:
            moved = {name: tensor[None].to(self.device) for name, tensor in adapter.items()}
            lora_layers.attach(self.layers, moved)
        try:
            with torch.no_grad():
                yield
        finally:
            lora_layers.detach(self.layers)

    @contextmanager
    def using_each(self, adapters: Sequence[Tree], rows: Sequence[int]) -> Iterator[None]:
        """Evaluate with several adapters inside the block: the first `rows[0]` rows of every batch have the first, the
        next `rows[1]` the second, and so on. No gradient is kept.
        """
        stacked = {name: torch.stack([adapter[name] for adapter in adapters]) for name in adapters[0]}

        def note(_: nn.Module, args: Any, inputs: Any) -> None:  # answers go on by one token of each row
            ids = args[0] if args else inputs["input_ids"]
            spans = iter(spans_of(ids, inputs.get("packing")))
            self.switch.segments = tuple(sum(islice(spans, count)) for count in rows)

        lora_layers.attach(self.layers, {name: tensor.to(self.device) for name, tensor in stacked.items()})
        hook = self.base.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
        try:
            with torch.no_grad():
                yield
        finally:
            hook.remove()
            self.switch.segments = ()
            lora_layers.detach(self.layers)


@dataclass(frozen=True)
class Student:
    """What clients have of a model, where that is not all of it (`training/offsite/`): `model` with the same trees.

    The server may give other weights to its `emulator`, which no client trains; its layers have `emulator_bytes`.
    `ends`: the last layers before those at the end that are trained, in the whole model and in the student. `kept`: the
    layers that the student has, of the `num_layers` of the whole model.
    """

    model: LoraModel
    emulator: Mapping[str, lora_layers.AdaptedLayer]
    ends: tuple[nn.Module, nn.Module]
    kept: tuple[int, ...]
    num_layers: int
    emulator_bytes: int


def load_model(
    config: Model, lora: Lora, device: str = "cpu", tokenizer: Any = None, adapter: AdapterKind = LORA
) -> LoraModel:
    """Load base and tokenizer from a folder, the hub cache or the package (name "mini").

    `tokenizer` is the base's own, where it was loaded before. `lora` is of layers for an `adapter` of LoRA.

    Raises a :class:`UserError` where there is no model, or one whose output is not made of its decoder's states.
    """
    base, tokenizer = load_frozen(config, device, tokenizer)
    model = made_ready(_with_layers(base, tokenizer, config, lora, adapter), config)
    check_virtual(base, model.layers, adapter)
    return model


def load_frozen(config: Model, device: str, tokenizer: Any = None) -> tuple[Any, Any]:
    """The base model in evaluation mode with its starting adapter merged, and its tokenizer."""
    options = quantized.loading_options(config, device) | spread.loading_options(config)
    folder = base_model.locate(config.name, config.revision)
    tokenizer = tokenizer or load_tokenizer(folder, config.name)
    base = load_base(folder, config.name, getattr(torch, config.dtype), **options)
    spread.check_placed(base, config, device)
    limits.check_tokens(base, tokenizer, config.name)
    if config.adapter is not None:
        base = merged(base, config.adapter)
    return (base if options else base.to(device)).eval(), tokenizer  # else it is there already


def made_ready(model: LoraModel, config: Model) -> LoraModel:
    """The model after a first pass, with the passes that it can have."""
    model = _tried(model, config)
    model = packing_where_it_can(model) if is_by_row(config) else replace(model, plan=PassPlan(None))
    if not model.stackable:
        log.info("%s: %s", model.base.config.model_type, why_one_by_one(model.layers, config))
    return model


def packing_where_it_can(model: LoraModel) -> LoraModel:
    """The model with passes of packed sequences; where it cannot have them, a line says why."""
    if standing_before(model.base) is not None:  # virtual tokens come before padded rows
        return model
    problem = packed.packs(model.base)
    if problem:
        log.info("%s: sequences are padded, not packed (%s)", model.base.config.model_type, problem)
        return model
    return replace(model, plan=replace(model.plan, packed=True))


def is_by_row(config: Model) -> bool:
    """Whether what a row becomes does not depend on who shares its pass: 8-bit products do."""
    return config.quantization != "8bit"


def takes_several(config: Model) -> bool:
    """Whether several clients may go through the base in one pass; over several GPUs it is one at a time."""
    return is_by_row(config) and not config.device_map


def _with_layers(base: Any, tokenizer: Any, config: Model, lora: Lora, adapter: AdapterKind) -> LoraModel:
    """The base with what is trained of it: layers of an adapter, or all weights."""
    if config.trainable == "full":
        return LoraModel(base, tokenizer, {"": FullWeights(base)}, lora_layers.Switch(), ())
    if not adapter.is_lora:
        layers, switch, names = insert_kind(base, adapter)
        norms.replace_norms(base)
        return LoraModel(base, tokenizer, layers, switch, names)
    if config.quantization == "4bit":
        quantized.make_exact(base, config.name)
    names = targets.resolve(base, lora.targets)
    layers, switch = targets.insert(base, replace(lora, targets=names))
    for layer in layers.values():
        layer.stackable = layer.stackable and takes_several(config)
    norms.replace_norms(base)
    return LoraModel(base, tokenizer, layers, switch, names)


def _tried(model: LoraModel, config: Model) -> LoraModel:
    """The model after a first pass: how logits follow from hidden states, and which layers take several clients.

    Training applies the head at counted tokens only; that must give what the whole model gives.
    """
    name, ids = config.name, torch.arange(8, device=model.device).view(2, 4)
    with torch.no_grad():
        try:
            with _noting_partial(model.layers, ids):
                whole = model.base(input_ids=ids).logits.flatten(0, 1)
            states = model.hidden(ids).flatten(0, 1)
        except FORWARD_ERRORS as error:  # as where a model reads the weight of a layer instead of calling it
            raise UserError(
                f"MODEL={name} cannot run with LoRA on {', '.join(model.targets)} ({first_line(error)[:200]}); "
                f"{targets.ADVICE}"
            ) from error
        limits.check_finite(whole, config)
        as_whole = replace(model, split_head=False)
        if _gives(as_whole, states, whole):
            far = 1000 * states  # a cap bends large logits, and a tiny model has none
            return model if _gives(model, far, as_whole.logits(far)) else as_whole
        if _gives(model, states, whole):
            return model
    raise UserError(f"MODEL={name}: its logits do not follow from its decoder's hidden states; {base_model.ADVICE}")


def _gives(model: LoraModel, states: Tensor, expected: Tensor) -> bool:
    try:
        ours = model.logits(states)
    except FORWARD_ERRORS:  # an output layer that wants more than states
        return False
    return torch.allclose(expected.float(), ours.float().to(expected.device), rtol=1e-3, atol=1e-3)


@contextmanager
def _noting_partial(layers: Mapping[str, Any], ids: Tensor) -> Iterator[None]:
    """A linear layer that does not see every token, as in an expert, cannot tell whose tokens it sees."""
    layers = {name: layer for name, layer in layers.items() if layer.stackable and isinstance(layer, nn.Module)}
    seen: dict[str, list[bool]] = {name: [] for name in layers}

    def note(name: str, x: Tensor) -> None:
        seen[name].append(x.shape[:-1] in (ids.shape, (ids.numel(),)))

    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        layer.stackable = bool(seen[name]) and all(seen[name])
