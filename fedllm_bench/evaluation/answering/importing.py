"""Answers made elsewhere as the records of this suite's own: judges, rules, reports and comparisons take both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.provenance import environment
from fedllm_bench.common.text import counted, part_of
from fedllm_bench.evaluation.answering.answer_side import finished, locked
from fedllm_bench.evaluation.answering.plan import OF_FILE, keep_to, plan_file, plan_of
from fedllm_bench.evaluation.benchmarks import Benchmark, Overrides
from fedllm_bench.evaluation.imported_files import ImportedAnswer
from fedllm_bench.evaluation.records import Answer, Finish, Prompt, answers_file, prompts_file, write_records

IMPORTED = "imported"
FEW = 5  # ids that a message names
MISSING, SEVERAL = "no answer to it in the imported file", "the imported file has different answers to it"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An answer for each prompt; those without one have failed. The rest names questions for a message."""

    form: str
    models: tuple[str, ...]
    answers: tuple[Answer, ...]
    missing: tuple[str, ...]
    several: tuple[str, ...]
    wrong_turns: tuple[str, ...]
    unknown: tuple[str, ...]
    more: int

    @property
    def num_whole(self) -> int:
        return sum(answer.is_whole for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where answers go: the questions of a benchmark, in a folder, as those of a side."""

    benchmark: Benchmark
    prompts: Sequence[Prompt]
    overrides: Overrides
    folder: Path
    side: str


def import_answers(path: Path, read: tuple[str, Sequence[ImportedAnswer]], to: Target) -> Imported:
    """Write the answers that were `read` of the file where they belong. An equal import changes nothing.

    Raises a :class:`UserError` for a file that answers nothing of it, and where the folder holds answers that were made
    otherwise.
    """
    form, rows = read
    found = imported(form, rows, to.prompts)
    if not found.num_whole:
        raise UserError(f"--import {path}: none of its {counted(len(rows), 'answer')} is a whole answer to a question "
                        f"of {to.benchmark.name}; {told(found)}. Its questions have the ids "
                        f"{_few([prompt.item_id for prompt in to.prompts])}")  # fmt: skip
    with locked(to.folder):
        _keep_to(path, to, found)
        if finished(to.folder, to.benchmark.name, to.side, to.prompts) is None:
            write_records(prompts_file(to.folder, to.benchmark.name), to.prompts)
            write_records(answers_file(to.folder, to.benchmark.name, to.side), found.answers)
    return found


def _keep_to(path: Path, to: Target, found: Imported) -> None:
    """plan.json says that the answers were imported; a side is named by the sha256 of its file."""
    sha256 = files.sha256_file(path)
    plan = plan_of(
        to.benchmark,
        to.prompts,
        to.overrides,
        template={"name": IMPORTED, "hash": ""},
        model={"name": IMPORTED},
        seed=0,
        followed={},
    )
    keep_to(to.folder, plan, to.side, f"{OF_FILE}{sha256}", {**_by(), IMPORTED: {}})
    place = plan_file(to.folder, to.benchmark.name)
    stored: dict[str, Any] = files.read_json(place)
    about = {"file": path.name, "sha256": sha256, "format": found.form, "models": list(found.models)}
    stored["environment"].setdefault(IMPORTED, {})[to.side] = about
    files.write_json(place, stored)


def _by() -> dict[str, Any]:
    """What imported them; where they were made is not known."""
    found = environment()
    return {key: found[key] for key in ("fedllm_bench", "commit", "dirty", "date")}


def imported(form: str, rows: Sequence[ImportedAnswer], prompts: Sequence[Prompt]) -> Imported:
    """Which row answers which prompt. Equal answers to one question count as one."""
    given, unknown = _matched(rows, prompts)
    several = [item for item, found in given.items() if len({row.turns for row in found}) > 1]
    wrong = [p.item_id for p in prompts if p.item_id in given and len(given[p.item_id][0].turns) != len(p.turns)]
    return Imported(
        form=form,
        models=tuple(sorted({row.model for row in rows} - {""})),
        answers=tuple(_answer(prompt, given.get(prompt.item_id, []), prompt.item_id in several) for prompt in prompts),
        missing=tuple(prompt.item_id for prompt in prompts if prompt.item_id not in given),
        several=tuple(several),
        wrong_turns=tuple(wrong),
        unknown=tuple(unknown),
        more=sum(row.more for row in rows),
    )


def _matched(
    rows: Sequence[ImportedAnswer], prompts: Sequence[Prompt]
) -> tuple[dict[str, list[ImportedAnswer]], list[str]]:
    """Item -> its rows; and the names of rows of no item. Prompts of one text take the rows of that text in turn."""
    known = {prompt.item_id for prompt in prompts}
    by_text: dict[str, list[str]] = {}
    for prompt in prompts:
        by_text.setdefault(_plain(prompt.turns[0]), []).append(prompt.item_id)
    given: dict[str, list[ImportedAnswer]] = {}
    unknown, times = [], dict[str, int]()
    for row in rows:
        text = next((plain for one in row.texts if (plain := _plain(one)) in by_text), None)
        if text is not None:
            place = times[text] = times.get(text, 0) + 1
            item: str | None = by_text[text][(place - 1) % len(by_text[text])]
        else:
            item = next((one for one in row.ids if one in known), None)
        if item is None:
            unknown.append(row.name)
        else:
            given.setdefault(item, []).append(row)
    return given, unknown


def _plain(text: str) -> str:
    return " ".join(text.split())


def _answer(prompt: Prompt, rows: Sequence[ImportedAnswer], is_several: bool) -> Answer:
    """The record of an answer; numbers of tokens are not known, and 0."""
    turns, reason = (rows[0].turns if rows else ()), ""
    if not rows or is_several:
        turns, reason = (), SEVERAL if rows else MISSING
    elif len(turns) != len(prompt.turns):
        reason = f"the imported file has {counted(len(turns), 'turn')} of {len(prompt.turns)}"
        turns = turns if len(turns) < len(prompt.turns) else ()
    lost = len(prompt.turns) - len(turns)
    said: tuple[Finish, ...] = ("stop",)
    failed: tuple[Finish, ...] = ("failed",)
    return Answer(
        item_id=prompt.item_id,
        prompt_hash=prompt.hash,
        turns=(*turns, *("" for _ in range(lost))),
        tokens=(0,) * len(prompt.turns),
        finish=said * len(turns) + failed * lost,
        reason=reason,
    )


def told(found: Imported) -> str:
    """How many questions have an answer, and those that have none, in one line."""
    lists: Mapping[str, Sequence[str]] = {
        "without an answer": found.missing,
        "with different answers": found.several,
        "with another number of turns": found.wrong_turns,
        "unknown to the benchmark": found.unknown,
    }
    parts = [f"{len(names)} {what} ({_few(names)})" for what, names in lists.items() if names]
    if found.more:
        parts.append(f"{found.more} further choices of a question left out")
    return ", ".join([f"{part_of(found.num_whole, len(found.answers), 'question')} answered", *parts])


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(ascii(" ".join(name.split()))[1:-1][:40] for name in names[:FEW])
    return f"{shown}, ..." if len(names) > FEW else shown
