"""Floating-point operations of a sequence, by the parts of the model (docs/cost.md).

A product of an (n, k) and a (k, m) matrix is 2 n k m FLOP: a multiplication and an addition each. Of a sequence of T
tokens, C of which have a loss:

    forward   2 (T (W + R) + T^2 A + C H)
    backward  2 (T (W_x + W_g + R_b) + T^2 A_b + C H_b)

    W    weights of the linear layers that a token goes through; embeddings are looked up and count nothing
    W_x  of these, those whose input needs a gradient: not the layers before the first adapter
    W_g  weights with a gradient of their own: all of W where every weight is trained, none under LoRA, which is what
         LoRA saves: a third of the products of full training
    R    of each adapted layer r (I + O), for A x and B (A x)
    R_b  of each 2 r O + r I, for the gradients of A x, B and A, and r I more where its input needs one
    A    2 n d for each layer with n heads of d numbers: scores and their mean of values. No half is taken off for the
         causal mask, which dense kernels compute too. A_b is 4 n d
    H    hidden size x vocabulary of the head; H_b is as much, twice where the head is trained

A bottleneck of M numbers behind a layer is M O twice in the place of r I and r O. With V virtual tokens the pairs of
attention are T (T + V) of a prefix, and of a prompt, whose tokens go through the layers too, (T + V)^2, with T + V in
the place of T elsewhere. That is as PEFT passes each row; here virtual tokens are passed once for several rows.

Norms, activations, IA3's scales, the encoder of P-tuning, softmax, dropout, losses and the optimiser are not counted:
they are of the size of the numbers that they touch, not of products. Nor is what is computed a second time (gradient
checkpointing), or on padding: these are the FLOP of the model, which are the same on any engine.

Which layers need what is not derived from names: a pass of a few tokens shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import first_line
from fedllm_bench.training.model.base import FORWARD_ERRORS
from fedllm_bench.training.model.full import FullWeights
from fedllm_bench.training.model.kinds.beside import widths_of
from fedllm_bench.training.model.kinds.bottleneck import BottleneckLayer
from fedllm_bench.training.model.kinds.scaled import ScaledLayer
from fedllm_bench.training.model.kinds.virtual import Prefix, VirtualTokens
from fedllm_bench.training.model.lora import A_AND_B, AdaptedLayer, detach
from fedllm_bench.training.model.lora_model import LoraModel

PROBED = 4  # tokens of the pass that shows which layers there are


class NoFormula(ValueError):
    """The model has parts that the formula does not know."""


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """The letters of the formula; multiply-adds of a token, of a pair of tokens (attention) or of a loss (head)."""

    linear: int  # W
    linear_inputs: int  # W_x
    linear_gradients: int  # W_g
    low_rank: int  # R
    low_rank_back: int  # R_b
    attention: int  # A
    attention_back: int  # A_b
    head: int  # H
    head_back: int  # H_b
    virtual: int = 0  # V
    passed: int = 0  # of these, those that go through the layers

    def forward(self, tokens: Any, counted: Any, *, has_adapter: bool = True) -> Any:
        """FLOP of sequences of so many tokens, `counted` of them with a loss; numbers or arrays of them."""
        of_token = self.linear + (self.low_rank if has_adapter else 0)
        through, seen = self._tokens(tokens, has_adapter)
        return 2 * (through * of_token + through * seen * self.attention + counted * self.head)

    def backward(self, tokens: Any, counted: Any) -> Any:
        of_token = self.linear_inputs + self.linear_gradients + self.low_rank_back
        through, seen = self._tokens(tokens, True)
        return 2 * (through * of_token + through * seen * self.attention_back + counted * self.head_back)

    def _tokens(self, tokens: Any, has_adapter: bool) -> tuple[Any, Any]:
        """Those that go through the layers, and those that each of them looks at."""
        return (tokens + self.passed, tokens + self.virtual) if has_adapter else (tokens, tokens)

    def answer(self, prompt: Any, made: Any, *, has_adapter: bool = True) -> Any:
        """FLOP of `made` tokens after a prompt, one by one, with keys and values kept: each token is passed once, and
        looks at those before it. The head is applied once for each.
        """
        of_token = self.linear + (self.low_rank if has_adapter else 0)
        through, before = self._tokens(prompt, has_adapter)
        seen = through * before + made * before + made * (made + 1) // 2
        return 2 * ((through + made) * of_token + seen * self.attention + made * self.head)


@dataclass
class _Seen:
    """A layer in the pass: its weights, whether its input and they need gradients, by how many tokens it was called."""

    weights: int
    low_rank: tuple[int, int]  # r I and r O; zeros without an adapter
    needs_input: bool
    is_trained: bool
    share: float


def model_flops(model: LoraModel, rank: int) -> ModelFlops:
    """The formula of a model with an adapter of this rank, or with weights of its own trained.

    Raises :class:`NoFormula` for a model with weights that are neither of linear layers nor looked up.
    """
    decoder, whole = model.base.get_decoder(), model.layers.get("")
    trains_head = isinstance(whole, FullWeights) and whole.has_head
    virtual = whole.sizes.tokens if isinstance(whole, VirtualTokens) else 0
    _check_known(decoder)
    seen = _seen(model, decoder, rank)
    config, layers = model.base.config.get_text_config(), _attention_layers(decoder)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    back = sum(_has_backward(name, seen) for name in layers)
    head = config.hidden_size * model.vocabulary
    weights = sum(round(one.weights * one.share) for one in seen.values())
    return ModelFlops(
        linear=weights,
        linear_inputs=sum(round(one.weights * one.share) for one in seen.values() if one.needs_input),
        linear_gradients=sum(round(one.weights * one.share) for one in seen.values() if one.is_trained),
        low_rank=sum(round(sum(one.low_rank) * one.share) for one in seen.values()),
        low_rank_back=sum(round(_low_rank_back(one) * one.share) for one in seen.values()),
        attention=2 * width * len(layers),
        attention_back=4 * width * back,
        head=head,
        head_back=2 * head if trains_head else head,
        virtual=virtual,
        passed=0 if isinstance(whole, Prefix) else virtual,
    )


def _seen(model: LoraModel, decoder: nn.Module, rank: int) -> dict[str, _Seen]:
    """The linear layers that a pass of a few tokens calls."""
    seen: dict[str, _Seen] = {}
    ids = torch.arange(PROBED, device=model.device)[None]
    try:
        with _noting(model, decoder, rank, seen), _attached(model, rank), torch.enable_grad():
            model.hidden(ids)
    except FORWARD_ERRORS as error:
        raise NoFormula(f"a pass of {PROBED} tokens fails ({first_line(error)[:100]})") from error
    if not seen:
        raise NoFormula("no linear layer was called")
    return seen


def _low_rank(layer: AdaptedLayer | None, rank: int, sizes: tuple[int, int]) -> tuple[int, int]:
    """r I and r O of a layer, or what is in their place."""
    if isinstance(layer, BottleneckLayer):
        return layer.width * sizes[1], layer.width * sizes[1]
    has_pair = layer is not None and layer.parts[: len(A_AND_B)] == A_AND_B
    return (rank * sizes[0], rank * sizes[1]) if has_pair else (0, 0)


def _scales_inputs(layer: AdaptedLayer | None) -> bool:
    return isinstance(layer, ScaledLayer) and layer.of_inputs


def _low_rank_back(one: _Seen) -> int:
    of_inputs, of_outputs = one.low_rank
    return 2 * of_outputs + of_inputs * (2 if one.needs_input else 1)


def _check_known(decoder: nn.Module) -> None:
    """Refuse weights of two axes or more in what is neither a linear layer nor an embedding."""
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Embedding) or _sizes(module) is not None:
            continue
        for own, weight in module._parameters.items():
            if weight is not None and weight.dim() > 1:
                raise NoFormula(f"{name}.{own} belongs to a {type(module).__name__}, which is no linear layer")


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer; None of any other module."""
    try:
        return widths_of(module)
    except TypeError:
        return None


@contextmanager
def _noting(model: LoraModel, decoder: nn.Module, rank: int, seen: dict[str, _Seen]) -> Iterator[None]:
    """Inside the block each call of a linear layer of the decoder, adapted or not, is noted in `seen`."""
    adapted = {id(layer): layer for layer in model.layers.values()}
    needs_all = _is_prompt(model)  # its tokens stand beside those of each row from the first layer on
    wrappers = [name for name, module in decoder.named_modules() if id(module) in adapted and name]

    def note(
        name: str, weights: int, low_rank: tuple[int, int], is_scaled: bool, module: nn.Module, args: tuple[Tensor, ...]
    ) -> None:
        x = args[0]
        share = x.numel() / x.shape[-1] / PROBED
        before = seen.get(name)
        if before is not None:  # a layer that is called again, for other tokens or the same ones
            share += before.share
        own = module._parameters.get("weight")
        is_trained = own is not None and own.requires_grad
        seen[name] = _Seen(weights, low_rank, x.requires_grad or is_scaled or needs_all, is_trained, share)

    with ExitStack() as stack:
        for name, module in decoder.named_modules():
            layer = adapted.get(id(module)) if name else None
            inner = any(name.startswith(f"{wrapper}.") for wrapper in wrappers)
            sizes = _sizes(layer.base if layer is not None else module)
            if sizes is None or inner:
                continue
            call = partial(note, name, sizes[0] * sizes[1], _low_rank(layer, rank, sizes), _scales_inputs(layer))
            stack.callback(module.register_forward_pre_hook(call).remove)
        yield


@contextmanager
def _attached(model: LoraModel, rank: int) -> Iterator[None]:
    """Inside the block the layers have tensors that need gradients; their values do not matter.

    Those of a prompt are left out: what it does is known, and to attach it is a pass of its own.
    """
    if _is_prompt(model):
        yield
        return
    try:
        for layer in model.layers.values():
            layer.attach(*(tensor[None].requires_grad_() for tensor in _tensors(layer, rank, model.device)))
        yield
    finally:
        detach(model.layers)


def _is_prompt(model: LoraModel) -> bool:
    whole = model.layers.get("")
    return isinstance(whole, VirtualTokens) and not isinstance(whole, Prefix)


def _tensors(layer: AdaptedLayer, rank: int, device: torch.device) -> Iterable[Tensor]:
    """Of the shapes of what is trained; where that is every weight, these themselves, without a copy."""
    if isinstance(layer, FullWeights):
        return layer.weights
    return (torch.ones(shape, device=device) for shape in layer.shapes(rank))


def _attention_layers(decoder: nn.Module) -> list[str]:
    """Names of the innermost modules of attention."""
    names = [name for name, module in decoder.named_modules() if type(module).__name__.endswith("Attention")]
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _has_backward(attention: str, seen: dict[str, _Seen]) -> bool:
    """Whether a gradient goes through it: its last linear layer gets one for its input."""
    inside = [one for name, one in seen.items() if name.startswith(f"{attention}.")]
    return bool(inside) and inside[-1].needs_input
