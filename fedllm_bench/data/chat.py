"""Chat templates: the text of a conversation, and which spans of it the assistant said.

The prompt of training and of evaluation is the same text, cut at the same place, so that a model is asked
in the words it was trained on. (The published evaluation used other prompts than its training.)

What people wrote reaches a template as data: nothing in it is run. Whether it looks like the template's own marks is
for whoever tokenises it (:mod:`fedllm_bench.data.encoder`), who is told where quoted stretches of it stand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from typing import Any

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.data.rows import INPUT, Turn

NAMES = ("alpaca", "alpaca_input", "mini", "plain", "vicuna_v1.1")
Spans = Sequence[tuple[int, int]]
PRIVATE = range(0x100000, 0x10FFFE)  # characters without a meaning, for marks in a text that has none of them
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text; `counted` where the assistant speaks, so that the loss counts it.

    `quoted` are the places of the stretches that were to be found again.
    """

    text: str
    counted: bool
    quoted: tuple[tuple[int, int], ...] = ()


def template_text(name: str) -> str:
    """The Jinja source of one of the suite's templates."""
    if name not in NAMES:
        raise unknown("chat template", name, NAMES)
    return (files("fedllm_bench.data") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def without_input(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with each input behind the user's turn that it goes with, after an empty line."""
    found: list[Turn] = []
    for turn in turns:
        if turn["role"] == INPUT and found and found[-1]["role"] == "user":
            found[-1] = {"role": "user", "content": found[-1]["content"] + "\n\n" + turn["content"]}
        else:
            found.append(turn)
    return found


def segments(template: str, conversations: Sequence[Sequence[Turn]], eos_token: str) -> list[list[Segment]]:
    """Each conversation as alternating segments, cut where the template's generation marks stand."""
    if not GENERATION_MARK.search(template):
        raise ValueError("the chat template has no {% generation %} marks")
    return render(template, conversations, {"eos_token": eos_token})


def prompts(template: str, conversations: Sequence[Sequence[Turn]], eos_token: str) -> list[str]:
    """The text of turns that end with the user's, up to where the assistant begins."""
    cut = render(template, conversations, {"eos_token": eos_token}, asks=True)
    return ["".join(segment.text for segment in found) for found in cut]


def render(
    template: str, conversations: Sequence[Sequence[Turn]], values: Mapping[str, str], *, asks: bool = False
) -> list[list[Segment]]:
    """Each conversation in segments; one segment under a template without generation marks.

    With `asks` it goes on to where the assistant begins. Raises a :class:`UserError` for a role that is no word: some
    templates make a mark of it.
    """
    for turns in conversations:
        _check_roles(turns)
    texts, spans = _render(template, conversations, values, asks)
    return [_cut(text, found) for text, found in zip(texts, spans, strict=True)]


def render_quoted(
    template: str, turns: Sequence[Turn], quoted: Sequence[Spans], values: Mapping[str, str], *, asks: bool = False
) -> list[Segment]:
    """One conversation as :func:`render` gives it, with the places of what is `quoted`: spans of each turn's content.

    A private character goes through the template in front of each quoted stretch. A template may still trim, split or
    drop what it is given, as it would without; what is cut apart is not found again.
    """
    stretches = sorted({turn["content"][a:b] for turn, spans in zip(turns, quoted, strict=True) for a, b in spans})
    marks = dict(zip(stretches, _unused(len(stretches), template, turns), strict=True))
    marked: list[Turn] = [
        {"role": turn["role"], "content": _mark(turn["content"], spans, marks)}
        for turn, spans in zip(turns, quoted, strict=True)
    ]
    (found,) = render(template, [marked], values, asks=asks)
    return [_unmark(segment, {mark: stretch for stretch, mark in marks.items()}) for segment in found]


def _unused(count: int, template: str, turns: Sequence[Turn]) -> list[str]:
    used = set(template).union(*(turn["content"] for turn in turns))
    return list(islice((char for char in map(chr, PRIVATE) if char not in used), count))


def _mark(content: str, spans: Spans, marks: Mapping[str, str]) -> str:
    for start, stop in sorted(spans, reverse=True):
        content = content[:start] + marks[content[start:stop]] + content[start:]
    return content


def _unmark(segment: Segment, stretches: Mapping[str, str]) -> Segment:
    pieces = re.split(f"([{''.join(stretches)}])", segment.text) if stretches else [segment.text]
    text, quoted = pieces[0], []
    for mark, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if piece.startswith(stretches[mark]):
            quoted.append((len(text), len(text) + len(stretches[mark])))
        text += piece
    return Segment(text, segment.counted, tuple(quoted))


def _check_roles(turns: Sequence[Turn]) -> None:
    for turn in turns:
        if not turn["role"].isidentifier():
            raise UserError(f"a turn has the role {turn['role'][:100]!r}; a role is a word, such as user or assistant")


def _render(
    template: str, conversations: Sequence[Sequence[Turn]], values: Mapping[str, str], asks: bool
) -> tuple[list[str], list[Spans]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    texts: Any
    spans: Any
    marks = GENERATION_MARK.search(template) is not None
    texts, spans = render_jinja_template(
        [list(turns) for turns in conversations],
        chat_template=template,
        return_assistant_tokens_mask=marks,
        add_generation_prompt=asks,
        **values,
    )
    return texts, spans if marks else [[] for _ in texts]


def _cut(text: str, spans: Spans) -> list[Segment]:
    found, end = [], 0
    for start, stop in spans:
        found += [Segment(text[end:start], False), Segment(text[start:stop], True)]
        end = stop
    found.append(Segment(text[end:], False))
    return [segment for segment in found if segment.text]
