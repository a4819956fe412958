"""Which parts of a judge's reply stand in quotation marks, in a block quote or in code."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedllm_bench.evaluation.code_text import LineKind, inline_code, line_kinds

# a quotation within a paragraph: not 5" (a letter or digit before it), closed where no word goes on
STRAIGHT = re.compile(r'(?<![\w"])"(?=[^\s"])((?:(?!\n[ \t]*\n)[^"]){1,2000})(?<=\S)"(?!\w)')
# likewise, where it holds what may be a verdict: other single marks are apostrophes as a rule
SINGLE = re.compile(r"(?<![\w'])'(?=[^\s'])(?=[^\n]{0,200}?\[\[)(?:[^'\n]|(?<=\w)'(?=\w)){1,200}(?<=\S)'(?!\w)")
# likewise between two marks that differ; not from where one quotation closes to where the next opens
PAIRED = re.compile(
    r"(?<![^\s(])(?:“[^“”]{1,2000}”|„[^„“”]{1,2000}[“”]|«[^«»]{1,2000}»|»[^«»]{1,2000}«)|「[^「」]{1,2000}」|『[^『』]{1,2000}』"
)
PAIRS = (("“", "”"), ("„", "“"), ("„", "”"), ("”", "”"), ("«", "»"), ("»", "«"), ("‹", "›"), ("›", "‹"), ("‚", "‘"),
         ("‘", "’"), ("「", "」"), ("『", "』"), ("《", "》"), ("〈", "〉"), ("〝", "〞"))  # fmt: skip
MARKS = "\"'`“”„‟«»‹›‚‘’「」『』《》〈〉〝〞"


@dataclass(frozen=True)
class ReplyLine:
    """A line of a reply and where it starts in it. `is_apart`: all of it is in a block of code or a block quote."""

    text: str
    start: int
    kind: LineKind
    is_apart: bool


@dataclass(frozen=True)
class Quotations:
    """What of a text is quoted; `spans` (start, end) are in order and apart."""

    lines: Sequence[ReplyLine]
    spans: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, text: str) -> Quotations:
        marked = [match.span() for form in (STRAIGHT, SINGLE, PAIRED) for match in form.finditer(text)]
        return cls(list(_lines(text)), _merged([*marked, *inline_code(text)]))

    def holds(self, line: ReplyLine, start: int, end: int) -> bool:
        """Whether [start, end) of a line is quoted."""
        place = line.start + start
        number = bisect.bisect_left(self.spans, (place, 0)) - 1  # the last one that begins before it
        is_inside = number >= 0 and place < self.spans[number][1]
        return line.is_apart or is_inside or _is_marked(line.text, start, end)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _lines(text: str) -> Iterator[ReplyLine]:
    lines, at = text.split("\n"), 0
    for line, kind in zip(lines, line_kinds(lines), strict=True):
        yield ReplyLine(line, at, kind, is_apart=kind != "text" or line.lstrip().startswith(">"))
        at += len(line) + 1


def _is_marked(line: str, start: int, end: int) -> bool:
    before, after = line[:start], line[end:]
    for mark in ('"', "`"):  # the same mark opens and closes; a quotation may have begun in an earlier line
        if (before.count(mark) % 2 and mark in after) or after.startswith(mark):
            return True
    if before.endswith("'") and after.startswith("'"):
        return True
    return any(_is_between(before, after, *pair) for pair in PAIRS)


def _is_between(before: str, after: str, left: str, right: str) -> bool:
    """Behind an opening mark that is still open, and before a closing one."""
    opened = before.rfind(left)
    if opened < 0 or right not in after or right in before[opened + 1 :]:
        return False
    is_reversed = left in "»›”"  # as in German and Danish; elsewhere the mark closes
    return not is_reversed or (not before[:opened].rstrip(" (").endswith(left) and _opens(before, opened))


def _opens(text: str, place: int) -> bool:
    """As an opening mark stands: a blank or nothing before it, and none behind it."""
    return (place == 0 or text[place - 1] in " \t(") and not text[place + 1 : place + 2].isspace()
