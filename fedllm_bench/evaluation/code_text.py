"""Which parts of a text are code: fenced blocks and inline code, as CommonMark 0.31 reads them (sections 4.5 and 6.1).

A block closes by the sign that opened it, at least as long and with nothing behind it; a fence that never closes runs
to the end. A list item may hold a block, which is then indented as the item's text is. Indented blocks without a fence
are not told from other text: models indent for other reasons.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

LineKind = Literal["text", "fence", "code"]

FENCE = re.compile(r"(`{3,}(?=[^`]*$)|~{3,})")  # an information string behind backticks has no backtick in it
CLOSING = re.compile(r"(`{3,}|~{3,})\s*$")
ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]+")
DEEPEST = 3  # spaces before a fence
RUN = re.compile("`+")
PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
LONGEST_INLINE = 2000  # characters


@dataclass
class _Block:
    """Where the reading of lines is. `offset`: how far the list item's text is indented; `sign`: the open fence."""

    offset: int = 0
    sign: str = ""

    def read(self, line: str) -> LineKind:
        if not line:  # often, in hostile text
            return "code" if self.sign else "text"
        text = line.expandtabs(4)
        indent = len(text) - len(text.lstrip())
        return self._inside(text.strip(), indent) if self.sign else self._outside(text, indent)

    def _inside(self, text: str, indent: int) -> LineKind:
        closing = CLOSING.fullmatch(text)
        if closing and indent <= self.offset + DEEPEST and closing[1].startswith(self.sign):
            self.sign = ""
            return "fence"
        return "code"

    def _outside(self, text: str, indent: int) -> LineKind:
        item = ITEM.match(text, indent)
        if text.strip() and (item or indent < self.offset):
            self.offset = item.end() if item else 0
        start = item.end() if item else indent
        fence = FENCE.match(text, start)
        if fence is None or (not item and indent > self.offset + DEEPEST):
            return "text"
        self.sign = fence[1]
        return "fence"


def line_kinds(lines: Sequence[str]) -> list[LineKind]:
    """Of each line: whether it is text, a fence, or inside a block of code."""
    block = _Block()
    return [block.read(line) for line in lines]


def code_places(text: str) -> Callable[[int], int | None]:
    """From a place in the text to the start of the code that it is in, None outside of code."""
    blocks, at, opened = list[tuple[int, int]](), 0, None
    lines = text.split("\n")
    for line, kind in zip(lines, line_kinds(lines), strict=True):
        if kind == "fence":
            if opened is None:
                opened = at
            else:
                blocks.append((opened, at))
                opened = None
        at += len(line) + 1
    if opened is not None:
        blocks.append((opened, at))
    spans = sorted([*blocks, *inline_code(text)])
    begins = [start for start, _ in spans]

    def code_at(place: int) -> int | None:
        number = bisect.bisect_right(begins, place) - 1
        return begins[number] if number >= 0 and place < spans[number][1] else None

    return code_at


def inline_code(text: str) -> list[tuple[int, int]]:
    """(start, end) of inline code with its backticks, within a paragraph; as many backticks close it as opened it."""
    runs = [match.span() for match in RUN.finditer(text)]
    following = _next_of_equal_length(runs)
    found, place = [], 0
    while place < len(runs):
        start, end = runs[place]
        close = following[place]
        is_code = close is not None and runs[close][0] - end <= LONGEST_INLINE
        if is_code and close is not None and not PARAGRAPH_END.search(text, end, runs[close][0]):
            found.append((start, runs[close][1]))
            place = close
        place += 1
    return found


def _next_of_equal_length(runs: Sequence[tuple[int, int]]) -> list[int | None]:
    """Of each run of backticks the number of the next one that is as long."""
    following: list[int | None] = [None] * len(runs)
    last: dict[int, int] = {}
    for place in range(len(runs) - 1, -1, -1):
        length = runs[place][1] - runs[place][0]
        following[place] = last.get(length)
        last[length] = place
    return following
