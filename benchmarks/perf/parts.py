"""Where a training step's time goes, and where the memory of its process goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from fedllm_bench.common.own_memory import peak_bytes
from fedllm_bench.common.trees import Tree
from fedllm_bench.training import loss, memory, optimizer
from fedllm_bench.training.batches import Batch, collate
from fedllm_bench.training.client_round import ClientTask
from fedllm_bench.training.model import products
from fedllm_bench.training.model.lora import LoraLinear, attach, detach
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import Pass, passes_of

MARK = "part: "  # before the names of parts, among those of operators
REST = "the rest"
PARTS = ("linear layers", "LoRA", "attention", "norms", "elementwise", "head and loss", "clipping and optimiser", REST)


def step_parts(model: LoraModel, train: Callable[[], object]) -> dict[str, float]:
    """Share of the operators' time in each of PARTS, forward and backward together, while `train` runs once.

    What Python does between operators is in none.
    """
    microseconds: Counter[str] = Counter()
    for event, part in operators(model, train):
        microseconds[part] += event.self_cpu_time_total
    return {part: microseconds[part] / microseconds.total() for part in PARTS}


def operators(model: LoraModel, train: Callable[[], object]) -> list[tuple[Any, str]]:
    """Every operator that runs in `train`, as torch's profiler gives it, with the part of PARTS that it belongs to."""
    with _named_parts(model), profile(activities=[ProfilerActivity.CPU]) as profiler:
        train()
    events = [event for event in profiler.events() if not event.name.startswith(MARK)]
    made_by = {event.sequence_nr: _scope(event) for event in events if _is_forward(event)}  # the last one made the node
    return [(event, _scope(event) or _of_backward(event, made_by) or REST) for event in events]


def _scope(event: Any) -> str | None:
    """The innermost part that an operator was called in."""
    while event is not None:
        if event.name.startswith(MARK):
            return str(event.name.removeprefix(MARK))
        event = event.cpu_parent
    return None


def _is_forward(event: Any) -> bool:
    """Whether it may have made a node of the graph, which then carries its number."""
    return bool(event.sequence_nr >= 0) and not event.name.startswith("autograd::") and "Backward" not in event.name


def _of_backward(event: Any, made_by: dict[int, str | None]) -> str | None:
    """The part whose operator an operator of the backward pass belongs to."""
    while event is not None:
        if event.name.startswith("autograd::engine::evaluate_function"):
            return made_by.get(event.sequence_nr)
        event = event.cpu_parent
    return None


@contextmanager
def _named_parts(model: LoraModel) -> Iterator[None]:
    """Every part of a step under its name while the block runs."""
    decoder = model.base.get_decoder()
    inside = {layer.base: "linear layers" for layer in model.layers.values()}
    hooks = [hook for module in decoder.modules() if (part := inside.get(module) or _part_of(module, decoder))
             for hook in _watched(module, part)]  # fmt: skip
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        stack.enter_context(mock.patch.object(loss, "chunked_nll", _named("head and loss", loss.chunked_nll)))
        of_base = _named("linear layers", products.base_gradient)  # which a layer makes together with its update's
        stack.enter_context(mock.patch.object(products, "base_gradient", of_base))
        stack.enter_context(mock.patch.object(optimizer, "clip", _named(PARTS[-2], optimizer.clip)))
        steps = {name: _named(PARTS[-2], step) for name, step in optimizer.OPTIMIZERS.items()}
        stack.enter_context(mock.patch.dict(optimizer.OPTIMIZERS, steps))
        yield


def _part_of(module: nn.Module, decoder: nn.Module) -> str | None:
    kind = type(module).__name__
    if isinstance(module, LoraLinear):
        return "LoRA"
    if "Norm" in kind:
        return "norms"
    if kind.endswith("Attention"):
        return "attention"
    return "elementwise" if module is decoder else None


def _named(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def under_its_name(*args: Any, **options: Any) -> Any:
        with record_function(MARK + part):
            return function(*args, **options)

    return under_its_name


def _watched(module: nn.Module, part: str) -> list[Any]:
    """Hooks that open the part's scope before the module runs, and close it after."""
    open_scopes: list[Any] = []

    def enter(*_: Any) -> None:
        open_scopes.append(record_function(MARK + part))
        open_scopes[-1].__enter__()

    def leave(*_: Any) -> None:
        open_scopes.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def memory_parts(
    model: LoraModel, start: Tree, task: ClientTask, train: Callable[[], object], libraries: int
) -> dict[str, int]:
    """Bytes of the process at its peak while `train` runs, by what they are for.

    `libraries` is what the process took before the base was loaded. Adapters, optimiser and logits are counted by
    their shapes, activations by what autograd keeps of the longest step; what is left of the peak is short-lived
    tensors and what the allocator holds.
    """
    _forget_peak()
    train()
    parts = {
        "libraries": libraries,
        "base": sum(t.nbytes for t in {id(t): t for t in [*model.base.parameters(), *model.base.buffers()]}.values()),
        "adapters and optimiser": (memory.ADAPTERS + memory.OPTIMIZER) * sum(t.nbytes for t in start.values()),
        "activations": 0,
        "logits": 0,
    }
    for number in range(len(task.steps)):
        for rows in passes_of([task], number, model.plan.tokens, packed=model.plan.packed):
            kept, logits = _of_pass(model, start, _collated(rows, packed=model.plan.packed))
            parts["activations"], parts["logits"] = max(parts["activations"], kept), max(parts["logits"], logits)
    peak = peak_bytes()
    return parts | {"allocator and short-lived": peak - sum(parts.values()), "peak": peak}


def batch_of(task: ClientTask, number: int) -> Batch:
    """All rows of a step of one micro-batch, side by side."""
    (rows,) = passes_of([task], number, None)
    return _collated(rows)


def _collated(rows: Pass, *, packed: bool = False) -> Batch:
    sequences = [sequence for each in rows for sequence in each.row.sequences]
    return collate(sequences, torch.device("cpu"), packed=packed)


def _of_pass(model: LoraModel, start: Tree, batch: Batch) -> tuple[int, int]:
    """Bytes that autograd keeps of the decoder's pass, and those of the logits that live at a time."""
    attach(model.layers, {name: tensor[None].requires_grad_() for name, tensor in start.items()})
    try:
        with memory.kept(model.base) as sizes:
            model.hidden(batch.ids, batch.packing)
    finally:
        detach(model.layers)
    numbers = min(loss.tokens_at_once(model.vocabulary), int((batch.targets != -100).sum())) * model.vocabulary
    return sum(sizes.values()), numbers * (memory.LOGITS_COPIES * memory.FLOAT32 + model.base.dtype.itemsize)


def _forget_peak() -> None:
    """From now on VmHWM is the peak of what follows; where that is not allowed, of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
