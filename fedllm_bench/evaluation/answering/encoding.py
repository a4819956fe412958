"""Conversations as token ids, in the chat template that a model was trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.rows import Turn as ChatTurn
from fedllm_bench.data.templates.sources import check_name, source_for

Encode = Callable[[Sequence[ChatTurn]], list[int]]


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template by name; `text` is its Jinja source."""

    name: str
    text: str

    @property
    def hash(self) -> str:
        return files.sha256_json(self.text)[:16]


def named_template(name: str, tokenizer: Callable[[], Any], model: str) -> ChatTemplate:
    """The template of that name for the base `model`, whose tokenizer is loaded for that alone.

    Raises a :class:`UserError` for another name, and for a template whose marks are no tokens of the model.
    """
    check_name(name)
    return ChatTemplate(name, source_for(name, tokenizer(), model))


def encoder(template: ChatTemplate, tokenizer: Any) -> Encode:
    """From turns that end with the user's to ids, up to where the assistant begins, as :class:`ChatEncoder` has them.

    What users wrote and what the model answered before are text: control tokens in them are none.
    """
    chat = ChatEncoder(tokenizer, template.text)

    def encode(turns: Sequence[ChatTurn]) -> list[int]:
        (encoded,) = chat([turns], asks=True)
        return encoded.ids

    return encode
