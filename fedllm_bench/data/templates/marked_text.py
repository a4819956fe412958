"""Rendered text as token ids, in which marks are tokens only where the template wrote them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from fedllm_bench.data.chat import Segment
from fedllm_bench.data.control import PlainTokenizer, control_tokens, plain
from fedllm_bench.data.rows import Turn

Ids = list[int]


@dataclass(frozen=True, eq=False)
class MarkedText:
    """A fast tokenizer of transformers beside a template, whose marks are control tokens too."""

    tokenizer: Any
    template: str
    _newline: dict[bool, Ids] = field(default_factory=dict, init=False, repr=False)

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

    def names_any(self, turns: Iterable[Turn]) -> bool:
        """Whether a text of the turns has the name of a control token in it, in whatever letters."""
        return any(self._names.search(_folded(turn["content"])) for turn in turns)

    def usual(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of markup: control tokens are found anywhere in a text."""
        ids: list[Ids] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return ids

    def count(self, pieces: Iterable[Ids]) -> int:
        """The control tokens among ids."""
        return sum(map(self.control.__contains__, chain.from_iterable(pieces)))

    def marks(self, text: str) -> list[tuple[int, int, int]]:
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

    def quoted_in(self, turns: Iterable[Turn]) -> list[list[tuple[int, int]]]:
        """The places of control tokens in the text of each turn."""
        return [[(start, stop) for start, stop, _ in self.marks(turn["content"])] for turn in turns]

    def encode_quoted(self, segment: Segment) -> Ids:
        """The template's own marks under their secret names, and all else as text."""
        return self._plain.encode(self._renamed(segment)[0])

    def masked(self, segment: Segment) -> str:
        """A rendered text with the template's own marks under their secret names, for :meth:`encode`."""
        return self._renamed(segment)[0]

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of untrusted texts: control tokens stand in them under their secret names alone."""
        usual = self.usual(texts)
        return [
            self._plain.encode(text) if self.count([ids]) or self._secrets.search(text) else ids
            for text, ids in zip(texts, usual, strict=True)
        ]

    def unmasked(self, text: str) -> str:
        """A masked text as it was, which is the same in every process."""
        shown = {name: self.control[token] for token, name in self._known.items()}
        return self._secrets.sub(lambda found: shown[found[0]], text)

    @property
    def _known(self) -> Mapping[int, str]:
        """The secret names, where any was given out."""
        return self._plain.names if "_plain" in vars(self) else {}

    @property
    def _secrets(self) -> re.Pattern[str]:
        return re.compile("|".join(self._known.values()) or "(?!)")

    def answer(self, segment: Segment) -> Ids:
        """Ids of text that stands behind other text: no space is put before it, as SentencePiece does at a beginning.

        A line end goes in front, and its ids are taken away again. Where it grows into the text nothing is put before.
        """
        is_quoted = bool(segment.quoted)
        moved = tuple((start + 1, stop + 1) for start, stop in segment.quoted)
        ids = self._encode(Segment("\n" + segment.text, segment.counted, moved), is_quoted)
        if is_quoted not in self._newline:
            self._newline[is_quoted] = self._encode(Segment("\n", False), is_quoted)
        newline = self._newline[is_quoted]
        return ids[len(newline) :] if ids[: len(newline)] == newline else self._encode(segment, is_quoted)

    def _encode(self, segment: Segment, is_quoted: bool) -> Ids:
        return self.encode_quoted(segment) if is_quoted else self.usual([segment.text])[0]

    def tokens_before(self, segment: Segment, places: Sequence[int], *, is_quoted: bool) -> list[int]:
        """How many tokens begin before each of these places of a segment's text."""
        if is_quoted:
            text, anchors = self._renamed(segment)
            encoding = self._plain.backend.encode(text, add_special_tokens=False)
            places = [place + [grown for stop, grown in anchors if stop <= place][-1] for place in places]
        else:
            (encoding,) = self.tokenizer([segment.text], add_special_tokens=False).encodings
        return [sum(start < place for start, _ in encoding.offsets) for place in places]

    def _renamed(self, segment: Segment) -> tuple[str, list[tuple[int, int]]]:
        """The text with secret names, and by how much it had grown behind each of them."""
        text, end, anchors = "", 0, [(0, 0)]
        for start, stop, token in self.marks(segment.text):
            if not any(start < b and a < stop for a, b in segment.quoted):
                text, end = text + segment.text[end:start] + self._plain.names[token], stop
                anchors.append((stop, len(text) - stop))
        return text + segment.text[end:], anchors


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()
