"""Every weight of the base is trained, one client at a time: float32 master weights in the place of an adapter.

The base keeps its own weights beside them, which answer where nothing is attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree
from fedllm_bench.training.model.base import load_tokenizer, prepare_to_chat, save_plain


class FullWeights:
    """All parameters of a model as one layer with the name "", so that a tree has them under their own names.

    Tied parameters are one tensor of the tree, under the first of their names. Tensors are cast to the model's type
    at use, so that small steps are not lost in a narrow one (mixed precision, arXiv:1710.03740, section 3.1).

    `names`: the parameters that are meant, where these are not all, by what a tree calls them.
    """

    stackable = False

    def __init__(self, base: Any, names: Mapping[str, str] | None = None) -> None:
        base.requires_grad_(False)
        self._base, self.attached, self._names = base, False, names
        own: dict[str, nn.Parameter] = dict(base.named_parameters())
        self._own = own if names is None else {name: own[of_base] for name, of_base in names.items()}
        self._places = _places(base, self._own)

    def on(self, base: Any) -> FullWeights:
        """The same parameters of `base`, which has those of the same names."""
        return FullWeights(base, self._names)

    @property
    def has_head(self) -> bool:
        """Whether the output head is among them."""
        return self._names is None

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self._own)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Those of the base, as it was loaded."""
        return tuple(weight.detach() for weight in self._own.values())

    @property
    def base(self) -> nn.Module:
        module: nn.Module = self._base
        return module

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(weight.shape) for weight in self._own.values())

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        """The base's weights; float32 at least."""
        wide = (weight.cpu() for weight in self.weights)
        return tuple(w.to(torch.promote_types(w.dtype, torch.float32), copy=True) for w in wide)

    def attach(self, *tensors_K: Tensor) -> None:
        """Use the weights of one client: the leading axes have length 1."""
        for (name, own), tensor_K in zip(self._own.items(), tensors_K, strict=True):
            self._put(name, tensor_K[0].to(own.dtype))
        self.attached = True

    def detach(self) -> None:
        for name, own in self._own.items():
            self._put(name, own)
        self.attached = False

    def _put(self, name: str, tensor: Tensor) -> None:
        """As torch.func.functional_call does it: a tensor inside a client's graph stands where a parameter stood."""
        for module, attribute in self._places[name]:
            module._parameters[attribute] = tensor  # type: ignore[assignment]


def _places(base: nn.Module, own: dict[str, nn.Parameter]) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each parameter stands; a tied one stands in several modules."""
    names = {id(parameter): name for name, parameter in own.items()}
    places: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in own}
    for module in base.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in names:
                places[names[id(parameter)]].append((module, attribute))
    return places


def save_model(
    folder: Path, model: Any, tree: Tree, source: Path, template: str, texts: Mapping[str, bytes] | None = None
) -> None:
    """A plain model of transformers with the weights of `tree` in the run's type, and its tokenizer.

    `model` is the run's LoraModel, `source` the folder of its base; `template` becomes the chat template. `texts` by
    file name are the licence and notices of the base.
    """
    tokenizer = load_tokenizer(source, str(source))
    prepare_to_chat(model.base, tokenizer, template)
    with model.using(tree):
        save_plain(folder, model.base, tokenizer, texts=texts)
