"""The decoder layers of a model, and which of them are trained, kept and left out.

Offsite-Tuning (Xiao et al., 2023, arXiv:2302.04870), with the layers that FS-LLM keeps of the middle. Of L layers the
first `left` and the last `right` are the adapter; of the n = L - left - right between them the emulator has
m = round(n (1 - drop)), spread evenly.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.parts.offsite import Offsite

SHARED_STATES = ("num_kv_shared_layers",)  # layers that read what another layer computed, as in Gemma 3n


@dataclass(frozen=True)
class Parting:
    """`path` is the name of the list of layers in the model; numbers are those of the whole model."""

    path: str
    num_layers: int
    left: int
    right: int
    middle: tuple[int, ...]  # those that the emulator keeps

    @property
    def adapter(self) -> tuple[int, ...]:
        """The layers that clients train."""
        return (*range(self.left), *range(self.num_layers - self.right, self.num_layers))

    @property
    def kept(self) -> tuple[int, ...]:
        """The layers that clients have, in their order."""
        first_right = self.num_layers - self.right
        return (*range(self.left), *self.middle, *range(first_right, self.num_layers))

    @property
    def num_middle(self) -> int:
        """The layers between the ends, in the whole model."""
        return self.num_layers - self.left - self.right

    def prefix(self, place: int) -> str:
        """What the names of a layer's parts begin with, by its place in the list."""
        return f"{self.path}.{place}."


def kept_layers(num: int, drop: float) -> tuple[int, ...]:
    """Of `num` layers those that stay: int(i (n - 1) / (m - 1)) for i < m, so the first and the last always.

    Where m is 1 it is the first.
    """
    most = round(num * (1 - drop))
    return (0,) if most == 1 else tuple(i * (num - 1) // (most - 1) for i in range(most))


def cut_of(base: Any, offsite: Offsite, name: str) -> Parting:
    """How the model of transformers `base`, which a config calls `name`, is parted.

    Raises a :class:`UserError` for a model whose decoder layers cannot be found or left out, and for numbers of layers
    that it has not.
    """
    path = layers_path(base, name)
    total, ends = len(base.get_submodule(path)), offsite.left + offsite.right
    if ends >= total:
        raise UserError(
            f"offsite.left={offsite.left}, offsite.right={offsite.right}: MODEL={name} has {total} decoder layers, and "
            f"one at least must be between the ends; give {total - 1} or fewer together"
        )
    middle = kept_layers(total - ends, offsite.drop)
    if not middle:
        raise UserError(
            f"offsite.drop={offsite.drop:g} leaves none of the {total - ends} layers between the ends of MODEL={name}; "
            "give less"
        )
    return Parting(path, total, offsite.left, offsite.right, tuple(offsite.left + place for place in middle))


def layers_path(base: Any, name: str) -> str:
    """The name of the list that holds the decoder layers of a model of any architecture.

    It is the outermost list of modules with as many as the model's settings count. Raises a :class:`UserError` where
    there is none or more than one, and where a layer reads what another one computed.
    """
    settings = base.config.get_text_config()
    kind = base.config.model_type
    for key in SHARED_STATES:
        if getattr(settings, key, 0):
            raise UserError(
                f"offsite: layers of MODEL={name} ({kind}) read what other layers computed ({key}), so none can be "
                "left out; give another model"
            )
    wanted = getattr(settings, "num_hidden_layers", None)
    lists: dict[str, nn.ModuleList] = {
        path: module for path, module in base.named_modules() if isinstance(module, nn.ModuleList)
    }
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    found = [path for path in outer if len(lists[path]) == wanted]
    if len(found) != 1:
        raise UserError(
            f"offsite: the decoder layers of MODEL={name} ({kind}) cannot be found: {len(found)} lists of "
            f"{wanted} modules; give a model whose layers lie in one list, such as one of Llama, Qwen, Gemma or GPT-2"
        )
    return found[0]


def without_layers(base: Any, cut: Parting) -> Any:
    """The model with the layers that are kept, all of whose weights are those of `base` itself: no number is copied.

    Its settings count its layers, so that caches and masks of transformers fit it.
    """
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    found = copy.deepcopy(base, shared)
    parent, _, child = cut.path.rpartition(".")
    layers = [found.get_submodule(cut.path)[number] for number in cut.kept]
    setattr(found.get_submodule(parent), child, nn.ModuleList(layers))
    for place, layer in enumerate(layers):
        _renumber(layer, place)
    _settle(found.config.get_text_config(), cut)
    return found


def _renumber(layer: nn.Module, place: int) -> None:
    """Where the layer finds its keys and values in a cache."""
    for module in layer.modules():
        if isinstance(vars(module).get("layer_idx"), int):
            module.layer_idx = place  # type: ignore[assignment]


def _settle(settings: Any, cut: Parting) -> None:
    """Settings with the number of layers left, and of lists with an entry for each layer those of the kept ones."""
    for key, value in list(vars(settings).items()):
        if isinstance(value, list) and len(value) == cut.num_layers:
            setattr(settings, key, _picked(value, cut.kept))
    settings.num_hidden_layers = len(cut.kept)


def _picked(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[place] for place in places]
