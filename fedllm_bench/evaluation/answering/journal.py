"""Answers while they are being made: a line for each finished turn, on the disk before the next batch begins.

A kill leaves at most one torn line, the last, which is dropped when the work goes on. The final file of answers is
written whole from the journal, which is then removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.records import STRICT, Answer, Finish, Prompt

Key = tuple[str, int]  # item, turn; turns count from 0


@checked_dataclass(frozen=True, kw_only=True, config=STRICT)
class AnsweredTurn:
    """The answer to one turn of a prompt; `tokens` is the number of new ones. "failed": `reason` says why."""

    item_id: str
    prompt_hash: str
    turn: int
    text: str
    tokens: int
    finish: Finish
    reason: str = ""

    @property
    def key(self) -> Key:
        return self.item_id, self.turn


_TURN: TypeAdapter[AnsweredTurn] = TypeAdapter(AnsweredTurn)


@dataclass
class Journal:
    """The turns of one side that are done, in `path` and in memory."""

    path: Path
    turns: dict[Key, AnsweredTurn] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, prompts: Sequence[Prompt]) -> Journal:
        """What an earlier session left, without a torn last line and without turns of other prompts."""
        hashes = {prompt.item_id: prompt.hash for prompt in prompts}
        turns = [turn for turn in _whole_lines(path) if hashes.get(turn.item_id) == turn.prompt_hash]
        return cls(path, {turn.key: turn for turn in turns})

    def append(self, turns: Iterable[AnsweredTurn]) -> None:
        """Add turns; they are on the disk when this returns."""
        new = list(turns)
        if not new:
            return
        with self.path.open("ab") as file:
            file.write("".join(files.canonical_json(asdict(turn)) + "\n" for turn in new).encode())
            file.flush()
            os.fsync(file.fileno())
        self.turns |= {turn.key: turn for turn in new}

    @staticmethod
    def rewrite(path: Path, turns: Iterable[AnsweredTurn]) -> None:
        """A journal of these turns, in place of an older one."""
        files.write_jsonl(path, [asdict(turn) for turn in turns])

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def journal_file(answers: Path) -> Path:
    """Beside the file of answers that it becomes."""
    return answers.with_name(answers.name + ".partial")


def _whole_lines(path: Path) -> list[AnsweredTurn]:
    """The turns in a journal, which is cut behind its last whole line, so that what is added begins a new one."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    lines = content.split(b"\n")
    torn = lines.pop()  # b"" where the last line is whole
    if torn:
        with path.open("r+b") as file:
            file.truncate(len(content) - len(torn))
    return [_turn(path, number, line) for number, line in enumerate(lines, start=1)]


def _turn(path: Path, number: int, line: bytes) -> AnsweredTurn:
    try:
        return _TURN.validate_json(line)
    except ValidationError as error:
        raise UserError(f"{path}, line {number}: no finished turn; the file was changed; remove it, which gives up "
                        "the answers in it, and run again") from error  # fmt: skip


def assembled(prompts: Sequence[Prompt], turns: Mapping[Key, AnsweredTurn]) -> list[Answer]:
    """The answers to all prompts, in their order. A turn behind one that failed has failed too."""
    return [_answer(prompt, turns) for prompt in prompts]


def _answer(prompt: Prompt, turns: Mapping[Key, AnsweredTurn]) -> Answer:
    made: list[AnsweredTurn] = []
    for number in range(len(prompt.turns)):
        failed = made[-1] if made and made[-1].finish == "failed" else None
        made.append(failed or turns[prompt.item_id, number])
    return Answer(
        item_id=prompt.item_id,
        prompt_hash=prompt.hash,
        turns=tuple(turn.text for turn in made),
        tokens=tuple(turn.tokens for turn in made),
        finish=tuple(turn.finish for turn in made),
        reason=next((turn.reason for turn in made if turn.reason), ""),
    )


def as_turns(answer: Answer) -> list[AnsweredTurn]:
    """The turns of a whole answer, to go on from."""
    return [
        AnsweredTurn(
            item_id=answer.item_id, prompt_hash=answer.prompt_hash, turn=i, text=text, tokens=tokens, finish=finish
        )
        for i, (text, tokens, finish) in enumerate(zip(answer.turns, answer.tokens, answer.finish, strict=True))
    ]


def next_turn(prompt: Prompt, turns: Mapping[Key, AnsweredTurn]) -> int | None:
    """The first turn without an answer; None where all have one, or one failed."""
    for number in range(len(prompt.turns)):
        found = turns.get((prompt.item_id, number))
        if found is None:
            return number
        if found.finish == "failed":
            return None
    return None
