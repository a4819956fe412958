"""The student in the place of the model: what clients train, on the emulator that the server gave them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fedllm_bench.common.trees import Tree
from fedllm_bench.training.model.lora import attach, detach
from fedllm_bench.training.model.lora_model import LoraModel


@contextmanager
def emulating(model: LoraModel, emulator: Tree | None = None) -> Iterator[LoraModel]:
    """Inside the block the student of `model` has the weights of `emulator`; a model without a student is itself.

    Without weights, or with none, the emulator has those of the whole model.
    """
    student = model.student
    if student is None:
        yield model
        return
    if emulator:
        attach(student.emulator, {name: tensor[None].to(model.device) for name, tensor in emulator.items()})
    try:
        packed = model.plan.packed and student.model.plan.packed
        yield replace(student.model, plan=replace(model.plan, packed=packed))
    finally:
        detach(student.emulator)
