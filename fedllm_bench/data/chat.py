"""Chat templates: the text of a conversation, and which spans of it the assistant said.

The prompt of training and of evaluation is the same text, cut at the same place, so that a model is asked
in the words it was trained on. (The published evaluation used other prompts than its training.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fedllm_bench.data.rows import Turn
from fedllm_bench.errors import unknown

NAMES = ("alpaca", "mini", "vicuna_v1.1")
GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text; `counted` where the assistant speaks, so that the loss counts it."""

    text: str
    counted: bool


def template_text(name: str) -> str:
    """The Jinja source of one of the suite's templates."""
    if name not in NAMES:
        raise unknown("chat template", name, NAMES)
    return (files("fedllm_bench.data") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def segments(template: str, conversations: Sequence[Sequence[Turn]], eos_token: str) -> list[list[Segment]]:
    """Each conversation as alternating segments, cut where the template's generation marks stand."""
    if not GENERATION_MARK.search(template):
        raise ValueError("the chat template has no {% generation %} marks")
    texts, spans = _render(template, conversations, eos_token, marks=True)
    return [_cut(text, found) for text, found in zip(texts, spans, strict=True)]


def prompts(template: str, conversations: Sequence[Sequence[Turn]], eos_token: str) -> list[str]:
    """The text of turns that end with the user's, up to where the assistant begins."""
    texts, _ = _render(template, conversations, eos_token, marks=False)
    return texts


def prompt_segments(template: str, conversations: Sequence[Sequence[Turn]], eos_token: str) -> list[list[Segment]]:
    """As :func:`prompts`, cut as in training: what the assistant said before is apart from what the user said."""
    return [
        _cut(text, spans)
        for text, spans in zip(*_render(template, conversations, eos_token, marks=True, asks=True), strict=True)
    ]


def _render(
    template: str, conversations: Sequence[Sequence[Turn]], eos_token: str, *, marks: bool, asks: bool | None = None
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    texts: Any
    spans: Any
    texts, spans = render_jinja_template(
        [list(turns) for turns in conversations],
        chat_template=template,
        return_assistant_tokens_mask=marks,
        add_generation_prompt=not marks if asks is None else asks,
        eos_token=eos_token,
    )
    return texts, spans


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> list[Segment]:
    found, end = [], 0
    for start, stop in spans:
        found += [Segment(text[end:start], False), Segment(text[start:stop], True)]
        end = stop
    found.append(Segment(text[end:], False))
    return [segment for segment in found if segment.text]
