"""Sequences of a pass one behind another in one row, without padding: attention sees each of them by itself.

N tokens of all sequences, S sequences, H heads, G heads of keys and values, D numbers of a head.

transformers finds attention by name in two registries, one of attention functions and one of masks. A name without a
mask has no padding hidden from it, so :func:`install` adds both; the mask is that of "sdpa", for passes of padded rows.
A packed pass brings a mask of one number: transformers hands a mask of four dimensions on as it is and makes none of
N x N. On CUDA attention is torch's varlen attention. Elsewhere its rows are padded, and nothing else is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedllm_bench.common.errors import first_line
from fedllm_bench.training.model.base import FORWARD_ERRORS
from fedllm_bench.training.packing import Packing

NAME = "fedllm_packed"
HALF = (torch.float16, torch.bfloat16)  # all that varlen attention takes
UNUSED = ("position_ids", "sliding_window", "is_causal")  # named to attention, and no other function than ours
# Padded and packed states of a sequence may differ by so much of their length (norm). Where a sequence saw another
# one, they differ by a tenth at least in random models of two layers.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
HALF_TOLERANCE = 0.05
PROBED = (13, 5)  # tokens of the rows of a probe, where the model has no window of attention
MOST_PROBED = 1026  # and at most so many on a CPU


class CannotPack(ValueError):
    """Packed attention has not what the model's attention needs."""


def hidden_states(base: Any, ids: Tensor, packing: Packing) -> Tensor:
    """Last hidden states, shape (1, N, H), of a packed row of ids, shape (1, N), of a model that :func:`packs`."""
    decoder = base.get_decoder()
    if decoder.config._attn_implementation != NAME:  # which would take all sequences for one, and say nothing
        raise ValueError(f"a packed pass with the attention {decoder.config._attn_implementation}; ask `packs` first")
    mask = torch.zeros(1, 1, 1, 1, dtype=base.dtype, device=ids.device)
    out = decoder(input_ids=ids, position_ids=packing.positions, attention_mask=mask, use_cache=False, packing=packing)
    states: Tensor = out.last_hidden_state
    return states


def packs(base: Any) -> str:
    """Why sequences cannot be packed for the model of transformers `base`; "" where they can.

    Two packed rows are compared with padded ones. Where they are equal, the model's attention is
    :func:`packed_attention` from now on, which is that of "sdpa" for padded rows; else it stays what it is.
    """
    if base.device.type == "cuda" and base.dtype not in HALF:
        return f"varlen attention takes half precision, not {str(base.dtype).removeprefix('torch.')}"
    lengths = _probed_lengths(base.config.get_text_config().to_dict())
    if base.device.type == "cpu" and lengths[0] > MOST_PROBED:
        return f"its window of {lengths[0] - 2:,} tokens takes long to try on a CPU"
    config = base.get_decoder().config
    ids = torch.arange(sum(lengths), device=base.device) * 37 % config.get_text_config().vocab_size
    before = config._attn_implementation
    with torch.no_grad():
        padded = _padded_states(base, ids, lengths)
        install(base)
        try:
            problem = _difference(_packed_states(base, ids, lengths), padded, lengths)
            problem = problem or _of_gradients(base, ids, (min(lengths[0], PROBED[0]), lengths[1]))
        except CannotPack as error:
            problem = str(error)
        except (*FORWARD_ERRORS, ImportError) as error:
            problem = f"its decoder takes no packed rows: {first_line(error)[:200] or type(error).__name__}"
    if not problem and before not in ("sdpa", NAME):  # which it would be for padded rows
        problem = f"its own attention is {before}, not sdpa"
    if problem:
        config._attn_implementation = before
    return problem


def install(base: Any) -> None:
    """Let the model's attention be :func:`packed_attention`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.get_decoder().config._attn_implementation = NAME


def _probed_lengths(config: dict[str, Any]) -> tuple[int, int]:
    """A row that is longer than the model's window of attention, and a short one."""
    windows = [config.get(name) or 0 for name in ("sliding_window", "attention_chunk_size")]
    longest = max(PROBED[0], 2 + max(windows))
    return min(longest, config.get("max_position_embeddings") or longest), PROBED[1]


def _padded_states(base: Any, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """States of the sequences as rows padded on the right, without the padding: (N, H)."""
    rows = nn.utils.rnn.pad_sequence(list(ids.split(list(lengths))), batch_first=True)
    states = base.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
    return torch.cat([row[:length] for row, length in zip(states, lengths, strict=True)])


def _packed_states(base: Any, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    """The same of packed sequences."""
    return hidden_states(base, ids[None], Packing.of(lengths, base.device))[0]


def _of_gradients(base: Any, ids: Tensor, lengths: Sequence[int]) -> str:
    """ "" where short sequences have the gradients that they have as padded rows: some attention runs forward alone."""
    ids = ids[: sum(lengths)]
    found = [_gradient(base, partial(make, base, ids, lengths)) for make in (_packed_states, _padded_states)]
    if not all(bool(gradient.isfinite().all()) for gradient in found):
        return "its gradients are not finite"
    limit = TOLERANCES.get(base.dtype, HALF_TOLERANCE)
    if (found[0] - found[1]).norm() > limit * found[1].norm():
        return "a packed sequence gets another gradient than a padded one"
    return ""


def _gradient(base: Any, states_of: Callable[[], Tensor]) -> Tensor:
    """Of a weighted sum of the states, with respect to the embeddings; summed over tokens, (H,) in float64."""
    leaves: list[Tensor] = []

    def note(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        leaves.append(out.detach().requires_grad_())
        return leaves[-1]

    hook = base.get_input_embeddings().register_forward_hook(note)
    try:
        with torch.enable_grad():
            states = states_of().double()
            weights = torch.linspace(-1, 2, states.shape[1], dtype=states.dtype, device=states.device)
            (gradient,) = torch.autograd.grad((states @ weights).sum(), leaves[0])
    finally:
        hook.remove()
    return gradient.double().flatten(0, -2).sum(0)


def _difference(found: Tensor, expected: Tensor, lengths: Sequence[int]) -> str:
    """ "" where each sequence has the states that it has among padded rows, up to rounding."""
    limit = TOLERANCES.get(expected.dtype, HALF_TOLERANCE)
    for ours, theirs in zip(found.double().split(list(lengths)), expected.double().split(list(lengths)), strict=True):
        if not (ours - theirs).norm() <= limit * theirs.norm():  # NaN is a difference too
            return "a packed sequence gets other states than a padded one"
    return ""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence, as transformers calls it: (1, N, H, D) of `query` (1, H, N, D), `key` and
    `value` (1, G, N, D).

    Without `packing` it is that of "sdpa". Raises :class:`CannotPack` for what it has no argument for.
    """
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return found
    _check(dropout, others)
    window = others.get("sliding_window")
    window = None if window is None or window >= packing.longest else int(window)
    if query.is_cuda and query.dtype in HALF:
        return _varlen(query, key, value, packing, scaling, window), None
    return _by_rows(query, key, value, packing, scaling, window), None


def _check(dropout: float, others: dict[str, Any]) -> None:
    """Refuse what no argument of ours stands for, as "softcap", "s_aux" (sinks) or "position_bias"."""
    wanted = [name for name, value in others.items() if name not in UNUSED and value is not None and value is not False]
    if dropout:
        wanted.append("dropout")
    if others.get("is_causal") is False:
        wanted.append("attention to later tokens")
    if wanted:
        raise CannotPack(f"packed attention has no {', '.join(sorted(wanted))}")


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """By torch's varlen attention, whose arguments changed from 2.10 to 2.12."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (N, heads, D)
    options, q = _varlen_options(frozenset(inspect.signature(varlen_attn).parameters), q, k, scaling, window)
    out = varlen_attn(q, k, v, packing.bounds, packing.bounds, packing.longest, packing.longest, **options)
    assert isinstance(out, Tensor)  # and no tuple, which is for those who ask for more
    return out[None]


def _varlen_options(
    known: frozenset[str], q: Tensor, k: Tensor, scaling: float | None, window: int | None
) -> tuple[dict[str, Any], Tensor]:
    """What varlen attention with the arguments `known` is given beside its tensors, and the query."""
    options: dict[str, Any] = {}
    if "window_size" in known:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise CannotPack(f"varlen attention of torch {torch.__version__} has no sliding window")
    if "enable_gqa" in known and q.shape[1] != k.shape[1]:
        options["enable_gqa"] = True
    if scaling is not None and "scale" in known:
        options["scale"] = scaling
    elif scaling is not None:
        q = q * (scaling * q.shape[-1] ** 0.5)
    return options, q


def _by_rows(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None, window: int | None
) -> Tensor:
    """By one product over padded rows: attention alone sees the padding, and is a small part of a pass."""
    q, k, v = (_as_rows(tensor[0].transpose(0, 1), packing).transpose(1, 2) for tensor in (query, key, value))
    mask = None if window is None else _window_mask(packing.longest, window, q.device)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return _as_tokens(out.transpose(1, 2), packing)[None]


def _as_rows(tokens: Tensor, packing: Packing) -> Tensor:
    """(N, heads, D) as (S, T, heads, D)."""
    if packing.is_even:
        return tokens.view(-1, packing.longest, *tokens.shape[1:])
    rows: Tensor = _Padded.apply(tokens, packing)  # type: ignore[no-untyped-call]
    return rows


def _as_tokens(rows: Tensor, packing: Packing) -> Tensor:
    """(S, T, heads, D) as (N, heads, D)."""
    if packing.is_even:
        return rows.flatten(0, 1)
    tokens: Tensor = _Unpadded.apply(rows, packing)  # type: ignore[no-untyped-call]
    return tokens


class _Padded(torch.autograd.Function):
    """Tokens (N, heads, D) as rows (S, T, heads, D). Behind a row's end are tokens that none of its own looks at."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        chosen = tokens.index_select(0, packing.token_at.clamp(max=len(tokens) - 1))
        return chosen.view(len(packing.lengths), packing.longest, *tokens.shape[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.flatten(0, 1).index_select(0, ctx.packing.place_of), None


class _Unpadded(torch.autograd.Function):
    """The tokens (N, heads, D) of rows (S, T, heads, D); what is behind a row's end gets no gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, packing: Packing) -> Tensor:
        ctx.packing = packing
        return rows.flatten(0, 1).index_select(0, packing.place_of)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        packing: Packing = ctx.packing
        with_zero = torch.cat([grad, grad.new_zeros(1, *grad.shape[1:])])
        chosen = with_zero.index_select(0, packing.token_at)
        return chosen.view(len(packing.lengths), packing.longest, *grad.shape[1:]), None


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Which tokens each one sees, (length, length): itself and the `window` - 1 before it."""
    behind = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (behind >= 0) & (behind < window)
