"""Control tokens that stand in what people wrote, counted by row: of common chat formats, and of a tokenizer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedllm_bench.data.lengths import texts_of
from fedllm_bench.data.rows import Row

# Of ChatML, GPT, Llama, Mistral, Gemma, DeepSeek and BERT. In HTML <s> is text that was struck out.
COMMON = (
    r"<\|[^<>|\n]{1,40}\|>|<\uff5c[^<>\n]{1,40}\uff5c>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|</?think>|"
    r"\[/?INST\]|<</?SYS>>|\[(?:CLS|SEP|MASK|PAD|UNK)\]"
)
SHOWN = 5  # marks that a line names


@dataclass(frozen=True)
class WrittenMarks:
    """Rows of each part that hold control tokens in their text, and rows for each such token, most first."""

    rows: Mapping[str, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """What a card says; "" where nothing was counted."""
        found = {part: rows for part, rows in self.rows.items() if rows}
        if not found:
            return "no row holds any in its text" if self.rows else ""
        shown = ", ".join(f"{mark} {rows}" for mark, rows in [*self.marks.items()][:SHOWN])
        parts = ", ".join(f"{part} {rows}" for part, rows in found.items())
        return f"{sum(found.values())} rows hold some in their text ({parts}; {shown}); they are tokenised as text"


def mark_pattern(tokens: Iterable[str] = ()) -> re.Pattern[str]:
    """Finds common control tokens and `tokens`; of two that begin alike the longer one."""
    own = sorted(map(re.escape, tokens), key=len, reverse=True)
    return re.compile("|".join([*own, COMMON]))


def marks_of(row: Row, pattern: re.Pattern[str]) -> frozenset[str]:
    """The control tokens in the texts of a row."""
    return frozenset(mark for text in texts_of(row).values() for mark in pattern.findall(text))


def count_marks(by_part: Mapping[str, Iterable[frozenset[str]]]) -> WrittenMarks:
    """From the marks of each row of each part."""
    rows, marks = Counter[str](), Counter[str]()
    for part, found in by_part.items():
        rows[part] = 0
        for own in found:
            rows[part] += bool(own)
            marks.update(own)
    ordered = sorted(marks.items(), key=lambda item: (-item[1], item[0]))
    return WrittenMarks(dict(rows), dict(ordered))
