"""What lm-eval asks as token ids, cut between context and continuation where its own `HFLM` cuts.

One thing is otherwise: questions are untrusted text. The name of a control token in one, as `<|end|>` or `</s>`, is
text here, as in the whole suite, and a token for `HFLM`. Only what a chat template itself wrote is a mark; it stands in
contexts under a secret name until it is encoded (:meth:`fedllm_bench.data.templates.marked_text.MarkedText.masked`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.encoder import ChatEncoder
from fedllm_bench.data.rows import Turn
from fedllm_bench.data.templates.marked_text import Ids, MarkedText
from fedllm_bench.evaluation.closed.tails import encoded_alike

AT_ONCE = 4096  # texts that are encoded in one call


@dataclass(frozen=True)
class AskedPair:
    """Tokens of a context, and of what is to follow it."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClosedTexts:
    """A fast tokenizer of transformers; `template` is the Jinja source of a chat template, None for bare texts."""

    tokenizer: Any
    template: str | None = None

    @cached_property
    def _chat(self) -> ChatEncoder | None:
        return None if self.template is None else ChatEncoder(self.tokenizer, self.template)

    @cached_property
    def _marked(self) -> MarkedText:
        return MarkedText(self.tokenizer, "") if self._chat is None else self._chat.marked

    @cached_property
    def _begin(self) -> Ids:
        """What the tokenizer itself puts before a text."""
        found = self.tokenizer("a", return_special_tokens_mask=True)
        mask = found["special_tokens_mask"]
        count = next((place for place, is_special in enumerate(mask) if not is_special), 0)
        ids: Ids = found["input_ids"][:count]
        return ids

    @property
    def prefix(self) -> int:
        """The token that stands for an empty context: that which begins a text, else that which ends one."""
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of whole texts, with the tokens that the tokenizer puts in front where a template has not."""
        return [ids if ids[:1] == self._begin[:1] else self._begin + ids for ids in self.bare(texts)]

    def bare(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of texts alone."""
        starts = range(0, len(texts), AT_ONCE)
        return [ids for start in starts for ids in self._some(texts[start : start + AT_ONCE])]

    def _some(self, texts: Sequence[str]) -> list[Ids]:
        """A text with the name of a control token is encoded by itself, as are all that a template wrote."""
        if self.template is not None:
            return self._marked.encode(texts)
        found = encoded_alike(texts, lambda some: self.tokenizer(list(some), add_special_tokens=False).encodings)
        odd = [number for number, ids in enumerate(found) if self._marked.count([ids])]
        for number, ids in zip(odd, self._marked.encode([texts[number] for number in odd]), strict=True):
            found[number] = ids
        return found

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[AskedPair]:
        """Contexts and continuations: spaces that end a context go to the continuation, and both are encoded as one
        text, which is cut behind as many tokens as the context alone has."""
        moved = [_moved(context, continuation) for context, continuation in requests]
        wholes = [(context, context + continuation) for context, continuation in moved if context]
        ids = self._distinct([text for pair in wholes for text in pair])
        bare = self._distinct([continuation for context, continuation in moved if not context], is_bare=True)
        return [
            self._cut(ids[context], ids[context + continuation])
            if context
            else self._behind_nothing(bare[continuation])
            for context, continuation in moved
        ]

    def _distinct(self, texts: Sequence[str], *, is_bare: bool = False) -> Mapping[str, Ids]:
        """Each text once: the choices of a question share their context."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, (self.bare if is_bare else self.encode)(distinct), strict=True))

    def _cut(self, context: Ids, whole: Ids) -> AskedPair:
        return AskedPair(tuple(context), tuple(whole[len(context) :]))

    def _behind_nothing(self, ids: Ids) -> AskedPair:
        if ids[:1] == [self.prefix]:
            return AskedPair(tuple(ids[:1]), tuple(ids[1:]))
        return AskedPair((self.prefix,), tuple(ids))

    def chat(self, history: Sequence[Mapping[str, str]], *, goes_on: bool) -> str:
        """A conversation as the template writes it, marks under secret names; with `goes_on` its last turn is the
        beginning of the answer."""
        turns: list[Turn] = [{"role": turn["role"], "content": turn["content"]} for turn in history]
        last = turns.pop()["content"] if goes_on and turns and turns[-1]["role"] == "assistant" else ""
        if self._chat is None:
            raise UserError("a chat template was asked for, and there is none")
        return self._chat.masked(turns) + last

    def shown(self, text: str) -> str:
        """A text that :meth:`chat` gave, as the template wrote it."""
        return self._marked.unmasked(text)


def _moved(context: str, continuation: str) -> tuple[str, str]:
    spaces = len(context) - len(context.rstrip()) if context else 0
    if not spaces:
        return context, continuation
    return context[:-spaces], context[-spaces:] + continuation


def windows(ids: Ids, prefix: int, longest: int) -> Iterator[AskedPair]:
    """All tokens of a text, each predicted once from at most `longest` tokens before it.

    As lm-eval's rolling windows: the first begins with `prefix`, and every other one has one token of context, or as
    many as there is room for in the last.
    """
    if ids:
        first = min(longest, len(ids))
        yield AskedPair((prefix,), tuple(ids[:first]))
        for start in range(first, len(ids), longest):
            end = min(start + longest, len(ids))
            begin = end - longest - 1
            yield AskedPair(tuple(ids[begin:start]), tuple(ids[start:end]))
