"""One upstream row, in the words of a client split."""

from __future__ import annotations

from typing import NamedTuple

Message = tuple[str, str]  # role, content
NOBODY = "everybody"  # the client of rows that no user wrote, before a partition makes clients of them


class Note(NamedTuple):
    """What a pipeline notes of a row; the text, with places for {rows} and {values}, is that of all rows like it."""

    text: str
    value: str


class Sample(NamedTuple):
    """One usable or unusable upstream row, in the words of a client split."""

    client: str
    turns: tuple[Message, ...]  # the prompt: all turns before the answer
    answers: tuple[str, ...]  # the completion; or the chosen and the rejected one
    language: str
    source: str
    upstream_split: str  # "train", "validation" or "test"
    file: str  # where it was read; no part of the row
    flags: frozenset[str] = frozenset()  # the declaration's checks that failed, and its flags that are up
    unsaid: frozenset[str] = frozenset()  # the declaration's flags of which the row says nothing
    notes: tuple[Note, ...] = ()  # for the notes of the split
    label: str = ""  # what the column holds that the recipe's partition names; read only where it names one
    place: int | None = None  # among the upstream's training rows, where the partition asks for it

    @property
    def prompt(self) -> str:
        return "\n".join(content for _, content in self.turns)
