"""One side's answers to one benchmark: the plan, the journal, the file of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.progress import Meter
from fedllm_bench.evaluation.answering.journal import Journal, as_turns, assembled, journal_file, next_turn
from fedllm_bench.evaluation.answering.model_answers import Answerer
from fedllm_bench.evaluation.records import Answer, Prompt, answers_file, prompts_file, read_records, write_records


@dataclass(frozen=True)
class SideOutcome:
    """`new` counts the turns that this session made."""

    answers: list[Answer]
    new: int

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.is_whole]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else answers into `folder` inside the block; a :class:`UserError` where somebody does."""
    answers = files.make_folder(folder / "answers")
    try:
        with FileLock(answers / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{answers}: another process is answering into it; wait, or give another --out") from error
    except OSError as error:
        if not (answers / ".lock").is_symlink():
            raise
        raise UserError(f"{answers / '.lock'} is a link; remove it") from error


def finished(folder: Path, benchmark: str, side: str, prompts: Sequence[Prompt]) -> list[Answer] | None:
    """The answers of a side that is done; None where it is not.

    Raises a :class:`UserError` where the file is not of these prompts.
    """
    path = answers_file(folder, benchmark, side)
    answers = read_records(path, Answer)
    if not path.is_file():
        return None
    if [(answer.item_id, answer.prompt_hash) for answer in answers] != [(p.item_id, p.hash) for p in prompts]:
        raise UserError(f"{path} does not hold one answer to each prompt; remove it and run again")
    return answers


def answer_side(
    folder: Path, benchmark: str, side: str, prompts: Sequence[Prompt], answerer: Callable[[], Answerer]
) -> SideOutcome:
    """The answers of `side`, made where they are not there; `answerer` is called only if so.

    Whatever ends this before the file is written, turns that were finished are not made again.
    """
    there = finished(folder, benchmark, side, prompts)
    path = answers_file(folder, benchmark, side)
    if there is not None:
        journal_file(path).unlink(missing_ok=True)  # a kill may come between the last two lines below
        return SideOutcome(there, 0)
    write_records(prompts_file(folder, benchmark), prompts)
    journal = Journal.open(journal_file(path), prompts)
    before = len(journal.turns)
    left = [prompt for prompt in prompts if next_turn(prompt, journal.turns) is not None]
    if left:
        _answer(journal, left, answerer(), Meter(f"{benchmark} {side}", len(prompts), len(prompts) - len(left)))
    answers = assembled(prompts, journal.turns)
    write_records(path, answers)
    journal.remove()
    return SideOutcome(answers, len(journal.turns) - before)


def _answer(journal: Journal, prompts: Sequence[Prompt], answerer: Answerer, meter: Meter) -> None:
    by_id = {prompt.item_id: prompt for prompt in prompts}
    with meter:
        for turns in answerer(prompts, dict(journal.turns)):
            journal.append(turns)
            done = sum(next_turn(by_id[turn.item_id], journal.turns) is None for turn in turns)
            meter.add(done, sum(turn.tokens for turn in turns))


def forget_failed(
    folder: Path, benchmark: str, side: str, prompts: Sequence[Prompt], *, empty_too: bool = False
) -> int:
    """Make failed turns unanswered again, whether the side is done or not; returns how many items had one.

    `empty_too`: also empty ones, and what came after them. Earlier versions recorded a server's error so.
    """
    path = answers_file(folder, benchmark, side)
    there = finished(folder, benchmark, side, prompts)
    if there is None:
        turns = list(Journal.open(journal_file(path), prompts).turns.values())
    else:
        turns = [turn for answer in there for turn in as_turns(answer)]
    failed = {turn.key for turn in turns if turn.finish == "failed" or (empty_too and not turn.text)}
    first = {item: min(number for other, number in failed if other == item) for item, _ in failed}
    kept = [turn for turn in turns if turn.turn < first.get(turn.item_id, turn.turn + 1)]
    if failed:
        Journal.rewrite(journal_file(path), kept)
        path.unlink(missing_ok=True)  # the journal is whole by now
    return len(first)
