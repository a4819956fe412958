"""What a model cannot take: more positions or token ids than it has, and numbers beyond its type. Checked at load."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import Model
from fedllm_bench.training.model.kinds.virtual_attention import standing_before

log = logging.getLogger(__name__)
SPARE = 8  # rows that a table of positions may have beyond its positions: OPT has 2


def context_of(base: Any) -> int | None:
    """The tokens that the model has positions for, without those of virtual tokens; None where its architecture sets
    no limit."""
    stated, table = _stated(base), table_of(base)
    return table if table is not None or stated is None else stated - _reserved(base)


def table_of(base: Any) -> int | None:
    """The positions of a model that looks them up in a table, and so cannot go beyond; None for all others."""
    stated = _stated(base)
    if stated is None:
        return None
    tokens, rows = base.get_input_embeddings(), []
    for module in base.modules():
        if isinstance(module, nn.Embedding) and module is not tokens:
            unused = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from behind it
            if stated <= module.num_embeddings <= stated + SPARE:
                rows.append(module.num_embeddings - unused)
        rows += [stated for buffer in module._buffers.values() if _is_table(buffer, stated)]
    return min([stated, *rows]) - _reserved(base) if rows else None


def _reserved(base: Any) -> int:
    """The positions of virtual tokens, which stand before all others."""
    before = standing_before(base)
    return 0 if before is None else before.reserved


def check_length(base: Any, name: str, length: int) -> None:
    """Compare `local.sequence_length` with the positions of the model called `name`.

    Raises a :class:`UserError` where it has no more; where it can go on, though it was made for fewer, a line says so.
    """
    context = context_of(base)
    if context is None or length <= context:
        return
    reserved = _reserved(base)
    given = f"local.sequence_length={length} " + (f"and adapter.tokens={reserved} are" if reserved else "is")
    text = f"{given} more than the {context + reserved} positions of MODEL={name}"
    advice = f"--set local.sequence_length={context}" if context > 0 else "give fewer adapter.tokens"
    if table_of(base) is not None:
        raise UserError(f"{text}; {advice}")
    log.warning("%s (max_position_embeddings): longer rows are trained and scored beyond what it was made for; %s",
                text, advice)  # fmt: skip


def check_tokens(base: Any, tokenizer: Any, name: str) -> None:
    """Raise a :class:`UserError` for a tokenizer that cannot be used here, or not with this model."""
    if not tokenizer.is_fast:
        raise UserError(f"MODEL={name}: its tokenizer is not a fast one; save it with tokenizer.json")
    if tokenizer.eos_token is None:
        raise UserError(f"MODEL={name}: its tokenizer has no end-of-sequence token; set one and save it")
    rows = _num_rows(base)
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if len(tokenizer) > rows:
        raise UserError(
            f"MODEL={name}: its tokenizer has more tokens ({len(tokenizer)}) than the model has embeddings ({rows})"
        )
    if largest >= rows:
        raise UserError(
            f"MODEL={name}: its tokenizer gives {token!r} the id {largest}, and the model has embeddings for ids below "
            f"{rows}; give the tokenizer that the model was trained with"
        )


def check_finite(logits: Tensor, config: Model) -> None:
    """Raise a :class:`UserError` for logits of the base that are not numbers."""
    if bool(torch.isfinite(logits).all()):
        return
    advice = "a weight may be damaged: get the model again"
    if config.dtype == "float16":
        advice = f"--set model.dtype=bfloat16 or float32, which have a wider range; if that does not help, {advice}"
    raise UserError(f"MODEL={config.name}: its logits are not finite in {config.dtype}; {advice}")


def _stated(base: Any) -> int | None:
    # not every architecture has the setting, and some have it under another name that transformers maps to this one
    context = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    return int(context) if context else None


def _is_table(buffer: Tensor | None, stated: int) -> bool:
    """Positions may be computed once and kept, as in GPT-J, or a mask of all pairs of them."""
    return buffer is not None and buffer.ndim > 1 and stated in buffer.shape


def _num_rows(base: Any) -> int:
    """Ids that can be read and predicted."""
    head = base.get_output_embeddings()
    rows = [base.get_input_embeddings().weight.shape[0]]
    rows += [head.weight.shape[0]] if isinstance(head, nn.Linear) else []
    return int(min(rows))
