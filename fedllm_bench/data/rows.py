"""The row of a client split: one Arrow schema per task, whatever the upstream was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pyarrow as pa

Task = Literal["sft", "preference"]
INPUT = "input"  # the role of a text that goes with the user's turn before it, such as a passage that a question is on

TURN = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
_COMMON = [
    pa.field("client_id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),  # "train" or "heldout"
    pa.field("row_id", pa.string(), nullable=False),
    pa.field("language", pa.string(), nullable=False),  # ISO 639-3, or "und"
    pa.field("source", pa.string(), nullable=False),
]
SCHEMAS: dict[Task, pa.Schema] = {
    "sft": pa.schema([*_COMMON, pa.field("messages", pa.list_(TURN), nullable=False)]),
    "preference": pa.schema(
        [
            *_COMMON,
            pa.field("prompt", pa.list_(TURN), nullable=False),
            pa.field("chosen", pa.string(), nullable=False),
            pa.field("rejected", pa.string(), nullable=False),
        ]
    ),
}


class Turn(TypedDict):
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class SftRow:
    """One conversation of one client; the last turn is the assistant's completion."""

    client_id: str
    split: str
    row_id: str
    language: str
    source: str
    messages: tuple[Turn, ...]

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> SftRow:
        return cls(**{**record, "messages": tuple(record["messages"])})

    @property
    def prompt(self) -> str:
        """The text of the turns before the completion."""
        return "\n".join(turn["content"] for turn in self.messages[:-1])

    @property
    def completion(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True, kw_only=True)
class PreferenceRow:
    """One vote of one client; `prompt` ends with the user's turn that both answers follow."""

    client_id: str
    split: str
    row_id: str
    language: str
    source: str
    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> PreferenceRow:
        return cls(**{**record, "prompt": tuple(record["prompt"])})


Row = SftRow | PreferenceRow
