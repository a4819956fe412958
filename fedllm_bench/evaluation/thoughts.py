"""What a model said to its user: its text without the thoughts that it holds. The one reader of thoughts.

Records keep answers and replies word for word; scores, judges and verdicts read what this module leaves of them.

    tags        <think>, <thinking>, <thought>, <reasoning>, <seed:think> and so on, in any case, with attributes
    own marks   [THINK], and the pairs of special tokens of Cohere, Gemma, Kimi, OpenThinker and Apertus
    channels    <|channel|>analysis<|message|> ... (harmony), also where a decoder dropped the special tokens
    headings    "Here is my thought process:" ... "Here is my response:" (Granite)

A closing mark that nothing opened ends a thought that the chat template opened: all before it is thought. A thought
that never closes runs to the end. Thoughts may hold thoughts. A label alone before a thought ("Assistant:") goes too.

Text about these marks is left alone. Outside of a thought a mark is only named, and changes nothing, where it stands in
code or a block quote, right behind a quotation mark, or in the middle of a sentence (a word and a blank before it, a
blank and a small letter or a stop behind it), and an opening one also where it never closes and other words stand
before it on its line. What no mark tells, as special tokens that a decoder dropped, is read as said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex

from fedllm_bench.evaluation.code_text import code_places
from fedllm_bench.evaluation.records import Answer
from fedllm_bench.evaluation.thought_marks import LABEL, LONGEST_LABEL, Mark, marks_of

ENDED_WITHIN = "the answer ended within its thought"

BARE = regex.compile(r"<\|(?:begin_of_solution|end_of_solution|START_RESPONSE|END_RESPONSE)\|>")  # around what is said
WORDS = (
    "think",
    "thought",
    "reasoning",
    "reflection",
    "scratchpad",
    "cot",
    "chain",
    "inner",
    "internal",
    "unused9",
    "channel",
)
BEGINNING = regex.compile(
    r"\A\s*(?:assistant\s*)?(?:analysis|commentary|final)|\A\W*here\W.{0,4}my thought", regex.IGNORECASE
)

CHANNEL = regex.compile(
    r"""(?<!["'`“‘«])(?:<\|start\|>\w+(?: [^<]{0,80})?)?<\|channel\|>\s*(?:analysis|commentary|final)\b"""
)
MESSAGE_END = regex.compile(r"<\|(?:start|end|return|call)\|>")
DROPPED = regex.compile(
    r"\A\s*(?:assistant\s*)?(?:(?:analysis|commentary)(?=[\s\p{Lu}\p{Lo}\p{P}\p{N}])|final(?=[\n\p{Lu}\p{Lo}]))"
)
DROPPED_FINAL = regex.compile(r"assistant\n?final|\A\s*final(?=[\n\p{Lu}\p{Lo}])")
DROPPED_CUT = regex.compile(r"\A\s*(?:assistant)?(?:analysis|commentary)(?=\p{Lu}|\p{Lo})")
HEADING = regex.compile(r"\A\W*here(?: is|['’]s) my thought process\s*:?", regex.IGNORECASE)
RESPONSE = regex.compile(r"here(?: is|['’]s) my response\s*:?", regex.IGNORECASE)


@dataclass(frozen=True)
class Spoken:
    """`text`: what was said, as it stands where there is no thought. `is_cut`: the last thought never ends."""

    text: str
    has_thoughts: bool = False
    is_cut: bool = False

    @property
    def why_none(self) -> str:
        """Why there is no answer at all; "" where there is one, and also where it is empty."""
        return ENDED_WITHIN if self.is_cut and not self.text else ""


def said(text: str) -> Spoken:
    """What a model said to its user."""
    if not BEGINNING.match(text) and not _has_word(text):  # fast: most texts end here
        return Spoken(text)
    return _channels(text) or _dropped_channels(text) or _headings(text) or _tagged(text)


def _has_word(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in WORDS)


def first_said(answer: Answer) -> Spoken:
    """Of an answer's first turn, which most metrics read."""
    return said(answer.turns[0])


def has_thoughts(answer: Answer) -> bool:
    return any(said(text).has_thoughts for text in answer.turns)


def without_thoughts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(said(text).text for text in texts)


# --- channels and headings


def _channels(text: str) -> Spoken | None:
    """Harmony's messages: what was said is in the channel `final`, or in a message without a channel."""
    first = CHANNEL.search(text)
    if first is None or code_places(text)(first.start()) is not None:
        return None
    messages = [_message(part) for part in MESSAGE_END.split(text[first.start() :])]
    final = [body for channel, body in messages if channel in ("final", "assistant")]
    return Spoken("\n".join(final).strip(), has_thoughts=True, is_cut=not final)


def _message(part: str) -> tuple[str, str]:
    """(channel, or the role where there is none; text), of what stands between two messages' ends."""
    header, mark, body = part.partition("<|message|>")
    channel = header.partition("<|channel|>")[2] or header
    return (channel.split() or [""])[0] if mark else "", body


def _dropped_channels(text: str) -> Spoken | None:
    """The same where a decoder dropped the special tokens: "analysis... assistantfinal..."."""
    if DROPPED.search(text) is None:
        return None
    found = list(DROPPED_FINAL.finditer(text))
    if found:
        return Spoken(text[found[-1].end() :].strip(), has_thoughts=found[-1].start() > 0)
    return Spoken("", has_thoughts=True, is_cut=True) if DROPPED_CUT.match(text) else None


def _headings(text: str) -> Spoken | None:
    if HEADING.match(text) is None:
        return None
    response = RESPONSE.search(text)
    return Spoken(text[response.end() :].strip() if response else "", has_thoughts=True, is_cut=response is None)


# --- marks in pairs


@dataclass(frozen=True)
class _Thought:
    """`end` is None where the thought never closes. `start` is None where the chat template opened it."""

    start: int | None
    end: int | None


def _tagged(text: str) -> Spoken:
    thoughts = list(_thoughts(marks_of(text)))
    if not thoughts:
        return Spoken(text)
    parts, at = list[str](), 0
    for thought in thoughts:
        if thought.start is None:
            parts.clear()
        else:
            parts.append(text[at : thought.start])
        at = len(text) if thought.end is None else thought.end
    parts.append(text[at:])
    if len(parts) > 1 and len(parts[0]) <= LONGEST_LABEL and LABEL.fullmatch(parts[0]):
        parts[0] = ""
    return Spoken(_joined(parts), has_thoughts=True, is_cut=thoughts[-1].end is None)


def _joined(parts: Sequence[str]) -> str:
    """What stood on both sides of a thought, with a blank where two words would run together."""
    whole = ""
    for part in parts:
        is_glued = whole[-1:].isalnum() and part[:1].isalnum()
        whole += f" {part}" if is_glued else part
    plain: str = BARE.sub("", whole)
    return plain.strip()


def _thoughts(marks: Sequence[Mark]) -> Iterator[_Thought]:
    """Thoughts in order; one in another is a part of it."""
    place, closings = 0, _closings(marks)
    last = max((number for number, mark in enumerate(marks) if not mark.opens), default=-1)
    while place < len(marks):
        first = marks[place]
        if not first.opens or first.is_empty:
            yield _Thought(first.start if first.is_empty else None, first.end)
            place += 1
            continue
        # where a tag is only named in a thought, the last one of all closes it
        close = closings.get(place, last if first.is_led and place < last else None)
        if close is not None:
            yield _Thought(first.start, marks[close].end)
            place = close + 1
        elif first.is_led:
            yield _Thought(first.start, None)
            return
        else:
            place += 1  # it never closes, and words stand before it: it is only named


def _closings(marks: Sequence[Mark]) -> dict[int, int]:
    """Of each mark that opens a thought the one that closes it, where there is one."""
    found, opened = dict[int, int](), list[int]()
    for number, mark in enumerate(marks):
        if mark.opens and not mark.is_empty:
            opened.append(number)
        elif not mark.opens and opened:
            found[opened.pop()] = number
    return found
