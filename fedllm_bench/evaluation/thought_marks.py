"""Where a text has the marks around thoughts, without those that it only names; see thoughts.py for the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex

from fedllm_bench.evaluation.code_text import code_places

NAME = (
    r"(?:[a-z][\w-]{0,20}:)?"
    r"(?:(?:ant)?think(?:ing)?(?:[_-](?:process|steps?|block))?|thoughts?|reasoning|reflection|scratchpad|cot"
    r"|chain[_-]of[_-]thought|(?:inner|internal)[_-](?:thoughts?|monologue))"
)
OPEN = (
    rf"<\s*{NAME}(?:\s[^<>]{{0,200}})?/?>|<\|{NAME}\|>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|begin_of_thought\|>"
    r"|<\|inner_prefix\|>|<unused94>|<\|channel>\s*(?:thought)?"
)
CLOSE = (
    rf"<\s*/\s*{NAME}\s*>|<\|/{NAME}\|>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|end_of_thought\|>|<\|inner_suffix\|>"
    r"|<unused95>|<channel\|>"
)
MARK = regex.compile(rf"(?=<\s{{0,2}}[/|a-z]|\[/?T|◁)(?:(?P<open>{OPEN})|(?P<close>{CLOSE}))", regex.IGNORECASE)
LABEL = regex.compile(r"[\W_]*(?:\w[\w .-]{0,30}[:：])?[\W_]*")
LONGEST_LABEL = 80  # characters
LONGEST_LINE = 500  # of it what is looked at
SYMMETRIC_MARKS = frozenset("\"'`")
OPENING_MARKS = SYMMETRIC_MARKS | frozenset("“„‟«»‹›‘‚「『《")
CLOSING_MARKS = SYMMETRIC_MARKS | frozenset("”“«»‹›’‘」』》")
WORD_BEFORE = regex.compile(r"[\p{L}\p{N},;][ \t]+\Z")
GOES_ON = regex.compile(r"[ \t]+[\p{Ll}\p{Lo}\p{N}(&+]|[ \t]?[,.;:!?)]")


@dataclass(frozen=True)
class Mark:
    """`is_empty`: a tag that closes itself. `is_led`: no other words before it on its line."""

    start: int
    end: int
    opens: bool
    is_empty: bool
    is_led: bool


def marks_of(text: str) -> list[Mark]:
    """The marks that are no mere text about marks."""
    code_at, found = code_places(text), list[Mark]()
    depth, named = 0, set[int]()  # how many thoughts are open; parts of the code in which one was named
    for match in MARK.finditer(text):
        opens = match["open"] is not None
        code = code_at(match.start()) if depth == 0 else None
        if _is_quoted(text, match.span(), opens) or (depth == 0 and _is_about(text, match.span())):
            continue
        if code is not None and (opens or code in named):  # code may also be what a thought leaves open at its end
            named.add(code)
            continue
        is_empty = match[0].endswith("/>")
        depth = max(0, depth + (0 if is_empty else 1 if opens else -1))
        is_led = _is_led(text, match.start(), found)
        found.append(Mark(match.start(), match.end(), opens=opens, is_empty=is_empty, is_led=is_led))
    return found


def _is_led(text: str, start: int, found: Sequence[Mark]) -> bool:
    before = _line_before(text, start)
    is_short = len(before) <= LONGEST_LABEL
    return bool(found and found[-1].end == start) or (is_short and LABEL.fullmatch(before) is not None)


def _line_before(text: str, start: int) -> str:
    """What stands before a place on its line, the last LONGEST_LINE characters of it."""
    first = max(0, start - LONGEST_LINE)
    return text[max(first, text.rfind("\n", first, start) + 1) : start]


def _is_quoted(text: str, span: tuple[int, int], opens: bool) -> bool:
    """Right behind an opening quotation mark, and a closing tag before another: a thought may end with a quotation."""
    start, end = span
    if not start or text[start - 1] not in OPENING_MARKS or not (opens or text[end : end + 1] in CLOSING_MARKS):
        return False
    mark = text[start - 1]
    return mark not in SYMMETRIC_MARKS or _line_before(text, start).count(mark) % 2 == 1


def _is_about(text: str, span: tuple[int, int]) -> bool:
    """In a block quote or in the middle of a sentence."""
    start, end = span
    if _line_before(text, start).lstrip().startswith(">"):
        return True
    return bool(WORD_BEFORE.search(text[max(0, start - 8) : start]) and GOES_ON.match(text[end : end + 8]))
