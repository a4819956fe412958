"""Which layers get LoRA: those named, PEFT's choice, or all linear ones of the decoder's blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.ranks import parsed
from fedllm_bench.config.run import Lora
from fedllm_bench.training.model.lora import AdaptedLayer, LoraLinear, Switch
from fedllm_bench.training.model.peft_layers import wrapped

AUTO, ALL_LINEAR = "auto", "all-linear"
WORDS = {AUTO, ALL_LINEAR}
ADVICE = "name layers with --set lora.targets=a,b"


def insert(base: Any, lora: Lora) -> tuple[dict[str, AdaptedLayer], Switch]:
    """Freeze `base`, put LoRA layers in place of those that `lora.targets` names (no words: :func:`resolve` first).

    Returns the layers by module name, in the model's order. Raises a :class:`UserError` for wrong targets.
    """
    base.requires_grad_(False)
    switch = Switch(dropout=lora.dropout)
    found = matching(base, lora.targets)
    others = [name for name, module in found.items() if lora.dora or not isinstance(module, nn.Linear)]
    through_peft = wrapped(base, others, lora, switch) if others else {}
    layers: dict[str, AdaptedLayer] = {}
    for name, module in found.items():
        if isinstance(module, nn.Linear) and name not in through_peft:
            layers[name] = LoraLinear(module, lora.alpha / lora.rank, switch)
        else:
            layers[name] = through_peft[name]
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, layers[name])
    _check_width(layers, lora)
    return layers, switch


def _check_width(layers: Mapping[str, AdaptedLayer], lora: Lora) -> None:
    """Refuse ranks of clients that B A of a layer cannot have: it has no more than the layer's inputs or outputs."""
    if lora.ranks is None:
        return
    most = max(parsed(lora.ranks, lora.rank).values)
    for name, layer in layers.items():
        a, b, *_ = layer.shapes(most)
        width = min(a[1], b[0])
        if most > width:
            raise UserError(
                f"lora.ranks={lora.ranks}: {most} is above {width}, the smaller width of the layer {name}; give ranks "
                f"up to {width}, or name other layers with lora.targets"
            )


def resolve(base: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """Names of layers instead of the words "auto" and "all-linear", as adapter_config.json gets them.

    Raises a :class:`UserError` for a word beside other names, and where PEFT has no choice for "auto".
    """
    words = WORDS & set(targets)
    if words and len(targets) > 1:
        raise UserError(f"lora.targets: {min(words)} stands alone, but got {', '.join(targets)}; {ADVICE}")
    if AUTO in words:
        return _peft_choice(base)
    if ALL_LINEAR in words:
        return last_names(_linear_in_blocks(base))
    return tuple(targets)


def matching(base: Any, targets: Sequence[str], key: str = "lora.targets") -> dict[str, nn.Module]:
    """Modules by full name whose name is, or ends with, one of `targets`, the value of `key`: PEFT's own rule.

    Raises a :class:`UserError` for a target that matches nothing, and for one that matches the output head.
    """
    found: dict[str, nn.Module] = {}
    missing = set(targets)
    for name, module in base.named_modules():
        fits = {target for target in targets if name == target or name.endswith(f".{target}")}
        if fits:
            found[name] = module
            missing -= fits
    if missing:
        raise UserError(
            f"{key}: no linear layer is called {', '.join(sorted(missing))}; "
            f"this model has {', '.join(_linear_names(base)) or 'none'}; name layers with --set {key}=a,b"
        )
    head = base.get_output_embeddings()
    if any(module is head for module in found.values()):
        raise UserError(
            f"{key}: {', '.join(targets)} matches the output head, which stays frozen; "
            f"this model has {', '.join(_linear_names(base)) or 'none'}; name layers with --set {key}=a,b"
        )
    return found


def last_names(names: Iterable[str]) -> tuple[str, ...]:
    """The sorted last parts of full names of modules."""
    return tuple(sorted({name.rpartition(".")[2] for name in names}))


def _peft_choice(base: Any) -> tuple[str, ...]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    kind = base.config.model_type
    choice = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)
    if choice is None or isinstance(choice, str):  # a pattern, for models that are more than a decoder
        raise UserError(
            f"lora.targets=auto: PEFT has no choice for the architecture {kind}; "
            f"this model has {', '.join(_linear_names(base)) or 'none'}; {ADVICE}, or lora.targets=all-linear"
        )
    return tuple(choice)


def _linear_in_blocks(base: Any) -> list[str]:
    """Full names of the linear layers inside the numbered blocks of the decoder."""
    head = base.get_output_embeddings()
    inside = {id(module) for stack in _stacks(base.get_decoder()) for module in stack.modules()}
    return [name for name, module in _linear(base) if id(module) in inside and module is not head]


def _stacks(decoder: nn.Module) -> list[nn.Module]:
    return [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]


def _linear(base: nn.Module) -> list[tuple[str, nn.Module]]:
    from transformers.pytorch_utils import Conv1D

    return [(name, module) for name, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _linear_names(base: Any) -> tuple[str, ...]:
    """What can be named, without the head."""
    head = base.get_output_embeddings()
    return last_names(name for name, module in _linear(base) if module is not head)
