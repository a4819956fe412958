"""A bottleneck adapter that a run left, put into a plain model of transformers. Its files are JSON and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.common.trees import Tree
from fedllm_bench.config import starting
from fedllm_bench.training.model.kinds.building import insert_kind
from fedllm_bench.training.model.kinds.settings import kind_of
from fedllm_bench.training.model.lora import attach, tensor_names


def attach_bottleneck(base: Any, folder: str | Path) -> Any:
    """`base`, a model of transformers, with the bottleneck adapter in `folder` behind its layers.

    The base's weights are frozen and stay as they are. Raises a :class:`UserError` where that is no such adapter, or
    one of another model; `base` is unchanged then.
    """
    place = starting.find_adapter(str(folder))
    adapter = kind_of(starting.adapter_settings(place), str(place))
    if adapter is None or adapter.kind != "bottleneck":
        raise UserError(
            f"{place}: it is no bottleneck adapter; load it with peft: PeftModel.from_pretrained(base, FOLDER)"
        )
    tree = read_tensors(place)
    before, trained = dict(base.named_modules()), [each for each in base.parameters() if each.requires_grad]
    layers, _, _ = insert_kind(base, adapter)
    shapes = {
        n: s for name, layer in layers.items() for n, s in zip(tensor_names(name, layer), layer.shapes(1), strict=True)
    }
    if {name: tuple(tensor.shape) for name, tensor in tree.items()} != shapes:
        for name in layers:
            parent, _, child = name.rpartition(".")
            setattr(base.get_submodule(parent), child, before[name])
        for parameter in trained:
            parameter.requires_grad_(True)
        raise UserError(f"{place}: its tensors are not those of this model; give the model that it was trained on")
    attach(layers, {name: tensor[None] for name, tensor in tree.items()})
    return base


def read_tensors(folder: Path) -> Tree:
    """The tensors of an adapter's folder; a :class:`UserError` where they cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tree: Tree = load_file(folder / starting.TENSORS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"the adapter {folder} cannot be read ({first_line(error)[:200]}); restore it") from error
    return tree
