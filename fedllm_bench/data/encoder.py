"""Conversations as token ids: what the template writes is markup, what people or models wrote is text.

Training, scoring and answering all come through here, so that a text has the same tokens in each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from fedllm_bench.data.chat import GENERATION_MARK, Segment, render, render_quoted
from fedllm_bench.data.control import PlainTokenizer, control_tokens, plain
from fedllm_bench.data.rows import Turn

Ids = list[int]


@dataclass(frozen=True)
class Encoded:
    """One conversation: token ids by piece, and which pieces the assistant said.

    `holds_control`: a text in it has a control token of the tokenizer, which is tokenised as text.
    """

    pieces: tuple[Ids, ...]
    counted: tuple[bool, ...]
    holds_control: bool = False

    @property
    def ids(self) -> Ids:
        return list(chain.from_iterable(self.pieces))


@dataclass(frozen=True, eq=False)
class ChatEncoder:
    """A fast tokenizer of transformers with the Jinja source of a chat template.

    Under a template with generation marks each segment is tokenised alone, after the token that begins a text, so that
    a prompt is always the same. Another one is the model maker's: it is rendered and tokenised as transformers does it.
    A conversation without control tokens in its texts gets the ids that the tokenizer itself gives it.
    """

    tokenizer: Any
    template: str
    _expected: dict[tuple[bool, tuple[str, ...]], int] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, conversations: Sequence[Sequence[Turn]], *, asks: bool = False) -> list[Encoded]:
        """Ids of whole conversations; with `asks` up to where the assistant begins.

        Raises what the template raises, and a :class:`UserError` for a role that is no word.
        """
        cut = render(self.template, conversations, self._values, asks=asks)
        ids = iter(self._usual([segment.text for found in cut for segment in found]))
        return [
            self._checked(turns, found, [next(ids) for _ in found], asks)
            for turns, found in zip(conversations, cut, strict=True)
        ]

    def markup(self, text: str) -> Ids:
        """Ids of a stretch that the template itself wrote, after the token that begins a text."""
        return self._begin + self._usual([text])[0]

    @cached_property
    def is_cut(self) -> bool:
        """Whether the template marks what the assistant says."""
        return GENERATION_MARK.search(self.template) is not None

    @property
    def _values(self) -> Mapping[str, str]:
        """What a template may name: the maker's own writes all marks itself."""
        own: Mapping[str, str] = self.tokenizer.special_tokens_map
        return {"eos_token": self.tokenizer.eos_token or ""} if self.is_cut else own

    @cached_property
    def _begin(self) -> Ids:
        bos = self.tokenizer.bos_token_id if self.is_cut else None
        return [] if bos is None else [bos]

    @cached_property
    def control(self) -> dict[int, str]:
        """The control tokens by id."""
        own = self.tokenizer.chat_template or {}
        templates = list(own.values()) if isinstance(own, dict) else [own]
        return control_tokens(self.tokenizer.backend_tokenizer, [self.template, *templates])

    @cached_property
    def _names(self) -> re.Pattern[str]:
        """Finds the name of a control token in a folded text."""
        names = sorted(filter(None, map(_folded, self.control.values())))
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    @cached_property
    def _plain(self) -> PlainTokenizer:
        return plain(self.tokenizer.backend_tokenizer, self.control)

    def _usual(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of markup: control tokens are found anywhere in a text."""
        ids: list[Ids] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def _checked(self, turns: Sequence[Turn], found: Sequence[Segment], usual: list[Ids], asks: bool) -> Encoded:
        """The usual ids where no text has a control token.

        The number of them alone does not tell: a template may leave out an empty turn, and unknown characters count.
        Nor do their names: a normaliser may make one of other letters.
        """
        pieces = usual
        is_named = any(self._names.search(_folded(turn["content"])) for turn in turns)
        if is_named or self._count(usual) != self._expected_count(turns, asks):
            spans = [[(start, stop) for start, stop, _ in self._marks(turn["content"])] for turn in turns]
            if any(spans):
                found = render_quoted(self.template, turns, spans, self._values, asks=asks)
                pieces = [self._encode_quoted(segment) for segment in found]
        counted = (False, *(segment.counted for segment in found))
        return Encoded((self._begin, *pieces), counted, holds_control=pieces != usual)

    def _count(self, pieces: Sequence[Ids]) -> int:
        return sum(map(self.control.__contains__, chain.from_iterable(pieces)))

    def _expected_count(self, turns: Sequence[Turn], asks: bool) -> int:
        """Control tokens of a conversation of the same roles whose texts have none."""
        key = asks, tuple(turn["role"] for turn in turns)
        if key not in self._expected:
            neutral: list[Turn] = [{"role": role, "content": "a"} for role in key[1]]
            (found,) = render(self.template, [neutral], self._values, asks=asks)
            self._expected[key] = self._count(self._usual([segment.text for segment in found]))
        return self._expected[key]

    def _marks(self, text: str) -> list[tuple[int, int, int]]:
        """Start, stop and id of the control tokens that the tokenizer finds in a text, without spaces around them.

        An unknown character has the id of the unknown token too, but is none.
        """
        (encoding,) = self.tokenizer([text], add_special_tokens=False).encodings
        found = []
        for place, token in enumerate(encoding.ids):
            if token in self.control:
                start, stop = encoding.token_to_chars(place)
                written = text[start:stop]
                start, stop = stop - len(written.lstrip()), start + len(written.rstrip())
                if token != self.tokenizer.unk_token_id or _folded(written) == _folded(self.control[token]):
                    found.append((start, stop, token))
        return found

    def _encode_quoted(self, segment: Segment) -> Ids:
        """The template's own marks under their secret names, and all else as text."""
        text, end = "", 0
        for start, stop, token in self._marks(segment.text):
            if not any(start < b and a < stop for a, b in segment.quoted):
                text, end = text + segment.text[end:start] + self._plain.names[token], stop
        return self._plain.encode(text + segment.text[end:])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()
