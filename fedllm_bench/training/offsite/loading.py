"""A model for offsite tuning: the whole of it, and beside it the student that clients have, on the same weights.

Both have the same trees, under the names of the whole model: what a client has trained in the student is plugged into
the whole model by attaching it there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.parts.offsite import Offsite
from fedllm_bench.config.run import Lora, Model
from fedllm_bench.training.model import norms, targets
from fedllm_bench.training.model.full import FullWeights
from fedllm_bench.training.model.lora import AdaptedLayer, Switch
from fedllm_bench.training.model.lora_model import LoraModel, Student, load_frozen, load_model, made_ready
from fedllm_bench.training.offsite.stack import Parting, cut_of, without_layers


def load_for(config: Model, lora: Lora, offsite: Offsite, device: str = "cpu", tokenizer: Any = None) -> LoraModel:
    """As :func:`load_model`; under offsite tuning with a `student`.

    Raises a :class:`UserError` for a model that cannot be parted so.
    """
    if not offsite.is_on:
        return load_model(config, lora, device, tokenizer)
    base, tokenizer = load_frozen(config, device, tokenizer)
    whole = parted(base, tokenizer, config, lora, cut_of(base, offsite, config.name))
    student = whole.student
    assert student is not None
    ready = made_ready(student.model, config)
    return replace(made_ready(whole, config), student=replace(student, model=ready))


def parted(base: Any, tokenizer: Any, config: Model, lora: Lora, cut: Parting) -> LoraModel:
    """`base` with what is trained of its ends, and a student beside it; nothing of it has run yet."""
    small = without_layers(base, cut)
    ends = tuple(
        model.get_submodule(f"{cut.path}.{place}")
        for model, place in ((base, cut.num_layers - cut.right - 1), (small, len(cut.kept) - cut.right - 1))
    )
    if config.trainable == "full":
        whole, student, emulator = _of_weights(base, small, tokenizer, cut)
    else:
        whole, student, emulator = _of_lora(base, small, tokenizer, lora, cut)
    frozen = [small.get_submodule(f"{cut.path}.{cut.kept.index(number)}") for number in cut.middle]
    size = sum(weight.numel() * weight.element_size() for layer in frozen for weight in layer.parameters())
    found = Student(student, emulator, (ends[0], ends[1]), cut.kept, cut.num_layers, size)
    return replace(whole, student=found)


Parts = tuple[LoraModel, LoraModel, Mapping[str, AdaptedLayer]]


def _of_weights(base: Any, small: Any, tokenizer: Any, cut: Parting) -> Parts:
    """Whole layers are trained."""
    names = [name for name, _ in base.named_parameters()]
    own = _within(names, cut, cut.adapter)
    whole = LoraModel(base, tokenizer, {"": FullWeights(base, {name: name for name in own})}, Switch(), ())
    layer = FullWeights(small, {name: _in_student(name, cut) for name in own})
    emulator = FullWeights(small, {name: _in_student(name, cut) for name in _within(names, cut, cut.middle)})
    return whole, LoraModel(small, tokenizer, {"": layer}, Switch(), ()), {"": emulator}


def _of_lora(base: Any, small: Any, tokenizer: Any, lora: Lora, cut: Parting) -> Parts:
    """LoRA on the layers that are trained, and on those of the emulator, which are aligned without dropout."""
    found = list(targets.matching(base, targets.resolve(base, lora.targets)))
    own, others = _within(found, cut, cut.adapter), _within(found, cut, cut.middle)
    if not own or not others:
        raise UserError(
            f"lora.targets: {', '.join(lora.targets)} matches no layer in the decoder layers of the "
            f"{'emulator' if own else 'ends'}; {targets.ADVICE}"
        )
    layers, switch = targets.insert(base, replace(lora, targets=own))
    in_student, student_switch = _named(small, own, lora, cut)
    emulator, _ = _named(small, others, replace(lora, dropout=0.0), cut)
    for model in (base, small):
        norms.replace_norms(model)
    whole = LoraModel(base, tokenizer, layers, switch, own)
    return whole, LoraModel(small, tokenizer, in_student, student_switch, own), emulator


def _named(small: Any, names: Sequence[str], lora: Lora, cut: Parting) -> tuple[dict[str, AdaptedLayer], Switch]:
    """LoRA layers in the student, by their names in the whole model."""
    by_place = {_in_student(name, cut): name for name in names}
    with warnings.catch_warnings(action="ignore"):  # PEFT's, of a model that has layers of its own already
        layers, switch = targets.insert(small, replace(lora, targets=tuple(by_place)))
    return {by_place[place]: layer for place, layer in layers.items()}, switch


def _within(names: Sequence[str], cut: Parting, numbers: Sequence[int]) -> tuple[str, ...]:
    prefixes = tuple(cut.prefix(number) for number in numbers)
    return tuple(name for name in names if prefixes and name.startswith(prefixes))


def _in_student(name: str, cut: Parting) -> str:
    """The name in the student of a part of a layer that it has."""
    number, _, rest = name.removeprefix(f"{cut.path}.").partition(".")
    return f"{cut.prefix(cut.kept.index(int(number)))}{rest}"
