"""Which question of a benchmark an imported row answers, and which of its turns.

Prompts of one text take the rows of that text in turn. A row whose id is "<question>#<turn>" answers that turn
alone, as `fedllm-bench export prompts` names its requests; the turns of a question are put together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedllm_bench.evaluation.imported_files import ImportedAnswer
from fedllm_bench.evaluation.records import Finish, Prompt

OF_TURN = re.compile(r"(?P<item>.+)#(?P<turn>[1-9]\d{0,3})", re.DOTALL)
Placed = tuple[int, ImportedAnswer]  # the turn that a row answers, from 1; 0: as many as it has, from the first on


@dataclass(frozen=True, kw_only=True)
class FoundAnswer:
    """What rows say to a question: the turns from the first on, as far as there are any.

    `is_several`: rows say different things. `reason`: why a turn has no answer, where a row says that.
    """

    turns: tuple[str, ...]
    finish: tuple[Finish, ...]
    tokens: tuple[int, ...]
    is_several: bool = False
    reason: str = ""


def request_id(item: str, turn: int) -> str:
    """The name of a request for a turn (from 1) of a question."""
    return f"{item}#{turn}"


def found_answers(
    rows: Sequence[ImportedAnswer], prompts: Sequence[Prompt]
) -> tuple[dict[str, FoundAnswer], list[str]]:
    """Item -> what its rows say; and the names of rows of no item."""
    given, unknown = _matched(rows, prompts)
    return {item: _together(placed) for item, placed in given.items()}, unknown


def _matched(rows: Sequence[ImportedAnswer], prompts: Sequence[Prompt]) -> tuple[dict[str, list[Placed]], list[str]]:
    num_turns = {prompt.item_id: len(prompt.turns) for prompt in prompts}
    by_text: dict[str, list[str]] = {}
    for prompt in prompts:
        by_text.setdefault(_plain(prompt.turns[0]), []).append(prompt.item_id)
    given: dict[str, list[Placed]] = {}
    unknown, times = [], dict[str, int]()
    for row in rows:
        text = next((plain for one in row.texts if (plain := _plain(one)) in by_text), None)
        if text is not None:
            place = times[text] = times.get(text, 0) + 1
            at: tuple[str, int] | None = by_text[text][(place - 1) % len(by_text[text])], 0
        else:
            at = _by_id(row.ids, num_turns)
        if at is None:
            unknown.append(row.name)
        else:
            given.setdefault(at[0], []).append((at[1], row))
    return given, unknown


def _plain(text: str) -> str:
    return " ".join(text.split())


def _by_id(ids: Collection[str], num_turns: Mapping[str, int]) -> tuple[str, int] | None:
    """The question, and the turn that the id names, or 0."""
    if (whole := next((one for one in ids if one in num_turns), None)) is not None:
        return whole, 0
    for one in ids:
        found = OF_TURN.fullmatch(one)
        if found and int(found["turn"]) <= num_turns.get(found["item"], 0):
            return found["item"], int(found["turn"])
    return None


def _together(placed: Sequence[Placed]) -> FoundAnswer:
    """Equal rows count as one, and a row with an answer before one without."""
    parts: dict[int, list[ImportedAnswer]] = {}
    for turn, row in placed:
        parts.setdefault(turn, []).append(row)
    kinds = [_whole(parts.pop(0))] if 0 in parts else []
    kinds += [_joined(parts)] if parts else []
    first, *others = sorted(kinds, key=lambda found: not found.turns)
    differ = any(other.turns != first.turns for other in others if other.turns)
    return first if not differ else _with_several(first)


def _whole(rows: Sequence[ImportedAnswer]) -> FoundAnswer:
    answered = [row for row in rows if row.turns]
    if not answered:
        return FoundAnswer(turns=(), finish=(), tokens=(), reason=rows[0].reason)
    first, before = answered[0], len(answered[0].turns) - 1
    stop: tuple[Finish, ...] = ("stop",)
    return FoundAnswer(
        turns=first.turns,
        finish=(*stop * before, first.finish),
        tokens=(*(0,) * before, first.tokens),
        is_several=len({row.turns for row in answered}) > 1,
    )


def _joined(parts: Mapping[int, Sequence[ImportedAnswer]]) -> FoundAnswer:
    """Of rows of one turn each: up to the first turn that is missing, or that failed."""
    made: list[FoundAnswer] = []
    while (turn := len(made) + 1) in parts and (one := _whole(parts[turn])).turns:
        made.append(one)
    failed = _whole(parts[turn]).reason if turn in parts else ""
    return FoundAnswer(
        turns=tuple(text for one in made for text in one.turns),
        finish=tuple(end for one in made for end in one.finish),
        tokens=tuple(count for one in made for count in one.tokens),
        is_several=any(one.is_several for one in made),
        reason=failed,
    )


def _with_several(found: FoundAnswer) -> FoundAnswer:
    return FoundAnswer(turns=found.turns, finish=found.finish, tokens=found.tokens, is_several=True)
