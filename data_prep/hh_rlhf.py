"""Helpful and harmless answers: two transcripts that share their beginning, as pairs of a chosen and a rejected answer.

Upstream: Bai et al., 2022 (arXiv:2204.05862), Anthropic/hh-rlhf. A transcript is turns, each after an empty line and
"Human:" or "Assistant:". Both are cut at turns: the prompt is all that comes before the last answer.

OpenFedLLM cuts where the two texts begin to differ. Words with which both answers begin are then in neither, and in no
prompt. :data:`RELEASED` does so, and a note of the split counts these rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import commonprefix
from typing import NamedTuple

from fedllm_bench.data.build.build import Builder
from fedllm_bench.data.build.columns import Columns, Kind
from fedllm_bench.data.build.readers import RawRecord
from fedllm_bench.data.build.recipe import Declaration, Flag
from fedllm_bench.data.build.sample import NOBODY, Message, Note, Sample

from .conversations import EQUAL, alternates
from .openfedllm import as_released, dealt

ROLES = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"\n\n(Human|Assistant):")
MALFORMED = Flag("transcript", "a transcript is not Human, Assistant, Human, ... up to an Assistant's turn")
PARTED = Flag("parted", "the two transcripts part before their last answers")
LOST = "released cut: of {rows} both answers begin with the same words, which are in no turn; such as {values}"
COLUMNS: dict[str, Kind] = {"chosen": str, "rejected": str}
DECLARATION: Declaration = replace(
    dealt("hh_rlhf", "Anthropic/hh-rlhf", "MIT", 5), task="preference", checks=(MALFORMED, PARTED, EQUAL),
    has_users=False, splits=("train",),
)  # fmt: skip


class CutPair(NamedTuple):
    """The turns that both answers follow, the chosen and the rejected answer, and what the row fails."""

    turns: tuple[Message, ...]
    answers: tuple[str, ...]
    failed: tuple[Flag, ...] = ()
    notes: tuple[Note, ...] = ()


def turns_of(transcript: str) -> tuple[Message, ...]:
    """Role and content of each turn, without the space behind the colon; what stands before the first is a turn too."""
    before, *pieces = TURN.split(transcript)
    spoken = tuple((ROLES[who], said.removeprefix(" ")) for who, said in zip(pieces[::2], pieces[1::2], strict=True))
    return ((("", before), *spoken)) if before.strip() else spoken


def transcript_of(turns: Sequence[Message]) -> str:
    """The text of the turns, as the upstream writes it."""
    names = {role: name for name, role in ROLES.items()}
    return "".join(f"\n\n{names[role]}: {content}" for role, content in turns)


def at_turns(chosen: str, rejected: str) -> CutPair:
    """The prompt is what comes before the last answer, which is all that may differ."""
    sides = turns_of(chosen), turns_of(rejected)
    if not all(map(alternates, sides)):
        return CutPair((), (), (MALFORMED,))
    answers = tuple(side[-1][1] for side in sides)
    parted = (PARTED,) if sides[0][:-1] != sides[1][:-1] else ()
    return CutPair(sides[0][:-1], answers, (*parted, *_equal(answers)))


def at_letters(chosen: str, rejected: str) -> CutPair:
    """As released: the prompt is the turns of the longest common beginning; from its last letter the answers go on."""
    shared = commonprefix([chosen, rejected])  # noqa: RUF071 (letters are meant)
    talk = turns_of(shared)
    turns = talk[:-1] if talk and talk[-1][0] == "assistant" else talk
    start = max(len(shared) - 1, 0)
    answers = tuple(text[start:].removeprefix(" ") for text in (chosen, rejected))
    if len(talk) == len(turns) or not alternates(talk):
        return CutPair(turns, answers, (MALFORMED,))
    lost = talk[-1][1].strip()
    return CutPair(turns, answers, _equal(answers), (Note(LOST, lost),) if lost else ())


def _equal(answers: Sequence[str]) -> tuple[Flag, ...]:
    return (EQUAL,) if len({answer.strip() for answer in answers}) < 2 else ()


def _sample(record: RawRecord, pair: CutPair) -> Sample:
    return Sample(
        client=NOBODY,
        turns=pair.turns,
        answers=pair.answers,
        language="eng",
        source=DECLARATION.dataset,
        upstream_split=record.split,
        file=record.file,
        flags=frozenset(flag.name for flag in pair.failed),
        notes=pair.notes,
    )


def sample_of(record: RawRecord) -> Sample:
    return _sample(record, at_turns(record.values["chosen"], record.values["rejected"]))


def released_of(record: RawRecord) -> Sample:
    return _sample(record, at_letters(record.values["chosen"], record.values["rejected"]))


class HhPipeline(NamedTuple):
    """What a pipeline module offers."""

    DECLARATION: Declaration
    build: Builder


def _pipeline(declared: Declaration, *, released: bool) -> HhPipeline:
    return HhPipeline(declared, Builder(declared, Columns(COLUMNS, {}), released_of if released else sample_of))


SETS: Mapping[str, HhPipeline] = {"hh_rlhf": _pipeline(DECLARATION, released=False)}
RELEASED: Mapping[str, HhPipeline] = {
    "hh_rlhf": _pipeline(replace(as_released(DECLARATION), version="1, released cut"), released=True)
}
