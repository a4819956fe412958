"""Instruction-following difficulty: how little an instruction helps a base model to predict the response.

Li et al., 2024, From Quantity to Quality (arXiv:2308.12032), Section 2.2, Equations 3 to 5:

    s(A | Q) = mean of -log P(a_i | Q, a_1 .. a_i-1)   the loss of the response given the instruction
    s(A)     = mean of -log P(a_i | a_1 .. a_i-1)      the loss of the response alone
    IFD(Q, A) = s(A | Q) / s(A)                        near 0: easy to follow; above 1: the instruction does not help

Both means are over the same tokens. As in the authors' code the response alone keeps the words of the template that
announce it ("### Response:"), so that its first token has a context too. The token that ends an answer is not counted.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedllm_bench.common.files import sha256_json
from fedllm_bench.common.progress import track
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.rows import Turn
from fedllm_bench.data.tokens import TokenRow, encode_turns
from fedllm_bench.data.written_marks import mark_pattern
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.metrics.likelihood import summed_nll
from fedllm_bench.training.model.lora_model import LoraModel

VERSION = "ifd-1"  # another one where equal texts could get other numbers
VERSION_OF_MARKS = "ifd-2"  # of texts that hold control tokens, which are text since
ROWS_AT_ONCE = 256  # computed and kept together: what a killed process loses at most
MARK = "\u27e6instruction\u27e7"
Text = tuple[str, str]  # prompt and completion
Floats = NDArray[np.float32]


class KeptScores(Protocol):
    """What is kept of an earlier run, as fedllm_bench.diversity.embedding.cache.ValueCache."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Floats]: ...
    def put_many(self, values: Mapping[str, Floats]) -> None: ...


@dataclass(frozen=True)
class Difficulty:
    """Mean losses in nats a token, over `num_tokens` tokens of the response."""

    given: float
    alone: float
    num_tokens: int

    @property
    def ifd(self) -> float | None:
        """None where the response alone is certain, so that nothing is left to help with."""
        return self.given / self.alone if self.alone > 0 else None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A base model that reads responses. `id` names its weights; a row is cut to `max_tokens` at the end."""

    model: LoraModel
    id: str
    template: str
    max_tokens: int
    batch_tokens: int

    @functools.cached_property
    def chat(self) -> ChatEncoder:
        return ChatEncoder(self.model.tokenizer, self.template)

    @functools.cached_property
    def announced(self) -> list[int]:
        """The tokens that stand between an instruction and its response."""
        return self.chat.markup(self.chat.asked([_turn("user", MARK)]).rpartition(MARK)[2])

    @functools.cached_property
    def marks(self) -> re.Pattern[str]:
        """Finds control tokens in texts."""
        return mark_pattern(self.chat.control.values())

    def key(self, text: Text) -> str:
        version = VERSION_OF_MARKS if any(map(self.marks.search, text)) else VERSION
        return sha256_json([version, self.id, self.chat.cache_name, self.max_tokens, *text])


def difficulties(rows: Sequence[DiversityRow], reader: Reader, kept: KeptScores) -> list[Difficulty | None]:
    """The difficulty of each row; None for a response without a token within `max_tokens`. Equal texts once.

    Texts are sorted by length and cut into chunks, a chunk is read whole where any of it is not kept, and kept at once:
    so batches, and with them every digit, are the same whether a process was killed in between or not.
    """
    texts = sorted({(row.prompt, row.completion) for row in rows}, key=lambda text: (sum(map(len, text)), text))
    chunks = [texts[i : i + ROWS_AT_ONCE] for i in range(0, len(texts), ROWS_AT_ONCE)]
    found: dict[Text, Difficulty | None] = {}
    for chunk in track(chunks, "quality (IFD)", len(chunks)):
        found |= _read(chunk, reader, kept)
    return [found[row.prompt, row.completion] for row in rows]


def _read(chunk: Sequence[Text], reader: Reader, kept: KeptScores) -> dict[Text, Difficulty | None]:
    keys = {text: reader.key(text) for text in chunk}
    values = dict(kept.get_many(list(keys.values())))
    if len(values) < len(keys):
        fresh = dict(zip(keys.values(), _losses(chunk, reader), strict=True))
        kept.put_many({key: value for key, value in fresh.items() if key not in values})
        values = fresh | values
    return {text: _difficulty(values[key]) for text, key in keys.items()}


def _difficulty(value: Floats) -> Difficulty | None:
    given, alone, num_tokens = value.tolist()
    return Difficulty(given, alone, int(num_tokens)) if num_tokens else None


def _losses(chunk: Sequence[Text], reader: Reader) -> list[Floats]:
    """[mean loss given the prompt, mean loss alone, tokens] of each text; zeros where no token is left."""
    both = list(_sequences(chunk, reader))
    flat = [row for pair in both if pair for row in pair]
    with reader.model.using(None):
        sums = iter(summed_nll(reader.model, flat, reader.batch_tokens))
    return [_mean(pair[0].num_counted, next(sums), next(sums)) if pair else np.zeros(3, np.float32) for pair in both]


def _mean(count: int, given: float, alone: float) -> Floats:
    return np.array([given / count, alone / count, count], np.float32)


def _sequences(chunk: Sequence[Text], reader: Reader) -> Iterator[tuple[TokenRow, TokenRow] | None]:
    """(response after the prompt, response alone) with equal counted tokens."""
    turns = [[_turn("user", prompt), _turn("assistant", completion)] for prompt, completion in chunk]
    for whole in encode_turns(turns, reader.model.tokenizer, reader.template, last_only=True):
        given = _cut(whole, reader)
        answer = given.ids[given.counted]
        yield (given, _after(reader.announced, answer)) if len(answer) else None


def _cut(row: TokenRow, reader: Reader) -> TokenRow:
    """Without the token that ends the answer, and with none beyond the longest."""
    ends = len(row.ids) > 0 and int(row.ids[-1]) in reader.chat.ends
    length = min(len(row.ids) - ends, reader.max_tokens)
    return TokenRow(row.ids[:length], row.counted[:length])


def _after(context: Sequence[int], answer: NDArray[np.int32]) -> TokenRow:
    ids = np.concatenate([np.array(context, np.int32), answer])
    return TokenRow(ids, np.arange(len(ids)) >= len(context))


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}
