"""Virtual tokens before each sequence: prefix tuning, prompt tuning and P-tuning, as PEFT defines them.

prefix    Li and Liang, 2021 (arXiv:2101.00190), without the reparametrisation: the keys and values of V tokens in each
          layer are trained themselves. PEFT's PrefixTuningConfig(prefix_projection=False).
prompt    Lester et al., 2021 (arXiv:2104.08691): the embeddings of V tokens. PEFT's PromptTuningConfig, RANDOM.
p_tuning  Liu et al., 2021 (arXiv:2103.10385): those embeddings are what a network of three layers makes of others,
          and it is trained as well. PEFT's PromptEncoderConfig, MLP.

PEFT puts prompts before the embeddings of every row. No token sees what is behind it, so the keys and values of virtual
tokens do not depend on the row: here they are computed once for each client and pass, and the three kinds are one.
K clients, V virtual tokens, H hidden size, E width of the encoder, L layers, g heads of keys and values, D numbers of
a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.training.model.kinds.virtual_attention import Before, install
from fedllm_bench.training.model.lora import Switch

PROMPT = "prompt_embeddings"  # PEFT's name of what is trained of a prompt or a prefix, and of all that it saves


class VirtualTokens:
    """The tensors of a kind as one layer with the name "", so that a tree has them under their own names."""

    stackable = True
    parts: tuple[str, ...] = (PROMPT,)

    def __init__(self, base: Any, sizes: Sizes, switch: Switch) -> None:
        base.requires_grad_(False)
        self._base, self.sizes, self.before = base, sizes, install(base, switch, sizes.tokens)

    @property
    def base(self) -> nn.Module:
        module: nn.Module = self._base
        return module

    @property
    def attached(self) -> bool:
        return bool(self.before.layers)

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        return ((self.sizes.tokens, self.sizes.hidden),)

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        """As PEFT draws them: an nn.Embedding begins with standard normal numbers."""
        (shape,) = self.shapes(rank)
        return (torch.randn(shape, generator=stream),)

    def attach(self, *tensors_K: Tensor) -> None:
        """Use the tensors of K clients."""
        self.detach()
        self.before.layers = self.keys_and_values(*tensors_K)

    def detach(self) -> None:
        self.before.layers = {}

    def keys_and_values(self, *tensors_K: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Of each layer, (K, g, V, D): those that the base gives to its virtual tokens."""
        return of_embeddings(self._base, self.before, self.prompts(*tensors_K))

    def prompts(self, *tensors_K: Tensor) -> Tensor:
        """The embeddings of the virtual tokens, (K, V, H)."""
        (prompts_KVH,) = tensors_K
        return prompts_KVH

    def written(self, *tensors: Tensor) -> Tensor:
        """What PEFT saves of one client's tensors."""
        return self.prompts(*(tensor[None] for tensor in tensors))[0]


class PromptTokens(VirtualTokens):
    """Prompt tuning: trained are the embeddings."""


class Prefix(VirtualTokens):
    """Prefix tuning: (V, L x 2 x g x D), of each layer first keys and then values."""

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        sizes = self.sizes
        return ((sizes.tokens, sizes.layers * 2 * sizes.heads * sizes.of_head),)

    def keys_and_values(self, *tensors_K: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        (prefix_K,), sizes = tensors_K, self.sizes
        whole = prefix_K.view(len(prefix_K), -1, sizes.layers * 2, sizes.heads, sizes.of_head)
        parts = whole.permute(2, 0, 3, 1, 4)  # (L x 2, K, g, V, D)
        return {layer: (parts[2 * layer], parts[2 * layer + 1]) for layer in range(sizes.layers)}


class PTuning(VirtualTokens):
    """P-tuning: embeddings (V, H), and linear layers H -> E -> E -> H with a ReLU between them."""

    parts = ("embedding.weight", *(f"mlp_head.{n}.{part}" for n in (0, 2, 4) for part in ("weight", "bias")))

    def shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        hidden, width = self.sizes.hidden, self.sizes.encoder
        layers = [((outputs, inputs), (outputs,)) for inputs, outputs in
                  ((hidden, width), (width, width), (width, hidden))]  # fmt: skip
        return ((self.sizes.tokens, hidden), *(shape for layer in layers for shape in layer))

    def initial(self, rank: int, stream: torch.Generator) -> tuple[Tensor, ...]:
        """As torch draws an nn.Embedding and nn.Linear layers."""
        first, *others = self.shapes(rank)
        found = [torch.randn(first, generator=stream)]
        for weight, bias in zip(others[::2], others[1::2], strict=True):
            bound = 1 / math.sqrt(weight[1])
            found += [torch.empty(shape).uniform_(-bound, bound, generator=stream) for shape in (weight, bias)]
        return tuple(found)

    def prompts(self, *tensors_K: Tensor) -> Tensor:
        x_KVH, *layers = tensors_K
        for place in range(0, len(layers), 2):
            weight, bias = layers[place], layers[place + 1]
            x_KVH = torch.baddbmm(bias[:, None], x_KVH.relu() if place else x_KVH, weight.mT)
        return x_KVH


KINDS: dict[str, type[VirtualTokens]] = {"prefix": Prefix, "prompt": PromptTokens, "p_tuning": PTuning}


@dataclass(frozen=True)
class Sizes:
    """V, H, E, L, g and D of a model and a kind."""

    tokens: int
    hidden: int
    encoder: int
    layers: int
    heads: int
    of_head: int


def sizes_of(base: Any, adapter: AdapterKind) -> Sizes:
    """As PEFT reads them off the model's settings, so that it finds what it looks for in a saved adapter."""
    from peft import PrefixTuningConfig
    from peft.utils import _prepare_prompt_learning_config

    own = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=adapter.num_tokens)
    found = _prepare_prompt_learning_config(own, base.config)
    hidden = int(base.get_input_embeddings().weight.shape[1])
    return Sizes(
        tokens=adapter.num_tokens,
        hidden=hidden,
        encoder=adapter.encoder_width or hidden,
        layers=int(found.num_layers),
        heads=int(found.num_attention_heads),
        of_head=int(found.token_dim) // int(found.num_attention_heads),
    )


def of_embeddings(base: Any, before: Before, prompts_KVH: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values that the layers of `base` make of the embeddings of V tokens, each (K, g, V, D)."""
    with before.recording() as found:
        base.get_decoder()(inputs_embeds=prompts_KVH.to(base.dtype), use_cache=False)
        return found
