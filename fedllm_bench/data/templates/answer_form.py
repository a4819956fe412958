"""What a model maker's template writes around an answer: it marks nothing, so made-up answers go through it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.rows import Turn

Write = Callable[[Sequence[Turn], bool], str]  # turns, and whether the assistant is asked -> text
FindEnd = Callable[[str], int | None]  # text -> where the first control token in it stops
X = "\U0010fff0"  # a character without a meaning, which no template changes
SPACES = (" ", "\n", "\t")
UNTOUCHED = f"{X}Ab \u00e9  <b>1</b>\n\n{{{{ x }}}} {{% y %}}\n- 'c' & \"d\"{X}"
OPEN_THOUGHT = re.compile(r"<\w+>\s*$")
PLAIN = "--set data.template=plain takes a short one (fedllm-bench answer: --template plain)"


@dataclass(frozen=True)
class AnswerForm:
    """`lead` stands before an answer (mostly nothing), `end` behind it, up to the mark that ends the assistant's turn.

    `left` and `right`: the spaces that the template takes from either side of an answer; None means all kinds.
    """

    lead: str
    end: str
    left: str | None
    right: str | None

    def content(self, text: str) -> str:
        """An answer as the template writes it."""
        return text.lstrip(self.left).rstrip(self.right)

    def written(self, text: str) -> str:
        """The same with what stands around it."""
        return self.lead + self.content(text) + self.end


def unfit(why: str) -> UserError:
    return UserError(f"data.template=model: the base's own chat template {why}; {PLAIN}")


def answer_form(write: Write, find_end: FindEnd) -> AnswerForm:
    """The form of answers under the template that `write` renders.

    Raises a :class:`UserError` for a template under which an answer cannot be trained: that changes or drops what the
    assistant says, begins an answer with more than it asks with, leaves a thought open, or ends it with no token.
    """
    before, behind = _around(write, X)
    stop = find_end(behind)
    if stop is None:
        raise unfit(f"ends an answer with no token of the model ({behind[:40]!r}), so nothing would end one")
    if "".join(_around(write, UNTOUCHED)) != before + behind:
        raise unfit("changes what the assistant says")
    sides = [_around(write, space + X + space) for space in SPACES]
    left = _taken(before, [found for found, _ in sides], lambda space: before + space)
    right = _taken(behind, [found for _, found in sides], lambda space: space + behind)
    return AnswerForm(_lead(write([_turn("user", "a")], True), before), behind[:stop], left, right)


def _around(write: Write, content: str) -> tuple[str, str]:
    """What is written before and behind an answer."""
    text = write([_turn("user", "a"), _turn("assistant", content)], False)
    core = content.strip()
    if text.count(core) != 1:
        raise unfit("drops what the assistant says" if X not in text else "changes what the assistant says")
    before, _, behind = text.partition(core)
    return before, behind


def _taken(without: str, found: Sequence[str], with_space: Callable[[str], str]) -> str | None:
    """The spaces that were taken away, of which each was tried; None where all were."""
    taken = ""
    for space, text in zip(SPACES, found, strict=True):
        if text == without:
            taken += space
        elif text != with_space(space):
            raise unfit("changes what the assistant says")
    return None if len(taken) == len(SPACES) else taken


def _lead(asked: str, before: str) -> str:
    """What stands between the text that asks for an answer and the answer."""
    if before.startswith(asked):
        lead = before[len(asked) :]
        if lead.strip():
            raise unfit(f"does not write what begins an answer when it asks for one ({lead[:40]!r})")
        return lead
    if OPEN_THOUGHT.search(asked):
        raise unfit("begins every answer inside a thought")
    return ""  # as an empty thought that a finished answer is shown without


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}
