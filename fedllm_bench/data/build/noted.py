"""What a pipeline notes of single rows: how many rows, and the first few values that they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fedllm_bench.common.text import counted
from fedllm_bench.data.build.sample import Note

MOST_VALUES = 5
LONGEST_VALUE = 40  # characters


@dataclass
class Noted:
    """The tally of notes over rows; it grows with the number of kinds of notes, not of rows."""

    rows: Counter[str] = field(default_factory=Counter)  # by the text of the note
    values: dict[str, list[str]] = field(default_factory=dict)  # the first different ones, by the text of the note

    def add(self, notes: Iterable[Note]) -> None:
        """Count the notes of one row."""
        self.rows.update({note.text for note in notes})
        for note in notes:
            seen, value = self.values.setdefault(note.text, []), repr(note.value[:LONGEST_VALUE])
            if len(seen) <= MOST_VALUES and value not in seen:
                seen.append(value)

    def lines(self) -> Iterator[str]:
        for text, rows in self.rows.items():
            more = ", ..." if len(self.values[text]) > MOST_VALUES else ""
            shown = ", ".join(self.values[text][:MOST_VALUES]) + more
            yield text.format(rows=counted(rows, "raw row"), values=shown)
