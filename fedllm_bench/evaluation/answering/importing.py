"""Answers made elsewhere as the records of this suite's own: judges, rules, reports and comparisons take both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.provenance import environment
from fedllm_bench.common.text import counted, part_of
from fedllm_bench.evaluation.answering.answer_side import finished, locked
from fedllm_bench.evaluation.answering.matching import FoundAnswer, found_answers
from fedllm_bench.evaluation.answering.plan import OF_FILE, forget_unused, keep_to, plan_file, plan_of, read_plan
from fedllm_bench.evaluation.benchmarks import Benchmark, Overrides
from fedllm_bench.evaluation.imported_files import ImportedAnswer
from fedllm_bench.evaluation.records import (
    Answer,
    Finish,
    Prompt,
    answers_file,
    prompts_file,
    read_records,
    write_records,
)

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
    failed: tuple[str, ...]
    several: tuple[str, ...]
    wrong_turns: tuple[str, ...]
    unknown: tuple[str, ...]
    more: int

    @property
    def num_whole(self) -> int:
        return sum(answer.is_whole for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where answers go: the questions of a benchmark, in a folder, as those of a side.

    `model`: the one whose answers are taken, where the files have several.
    """

    benchmark: Benchmark
    prompts: Sequence[Prompt]
    overrides: Overrides
    folder: Path
    side: str
    model: str = ""


def import_answers(paths: Sequence[Path], read: tuple[str, Sequence[ImportedAnswer]], to: Target) -> Imported:
    """Write the answers that were `read` of files where they belong. An equal import changes nothing.

    Raises a :class:`UserError` for files that answer nothing of it, and where the folder holds answers that were made
    otherwise.
    """
    form, rows = read
    found = imported(form, rows, to.prompts)
    if not found.num_whole:
        raise UserError(f"{paths[0]}: {counted(len(rows), 'answer')}, and no whole answer to a question of "
                        f"{to.benchmark.name}; {told(found)}. Its questions have the ids "
                        f"{few([prompt.item_id for prompt in to.prompts])}")  # fmt: skip
    with locked(to.folder):
        _keep_to(paths, to, found)
        _write_prompts(to)
        if finished(to.folder, to.benchmark.name, to.side, to.prompts) is None:
            write_records(answers_file(to.folder, to.benchmark.name, to.side), found.answers)
    return found


def _write_prompts(to: Target) -> None:
    """What the plan says was asked, also where the file was lost or changed."""
    path = prompts_file(to.folder, to.benchmark.name)
    try:
        is_there = not path.is_symlink() and tuple(read_records(path, Prompt)) == tuple(to.prompts)
    except UserError:
        is_there = False
    if not is_there:
        write_records(path, to.prompts)


def _keep_to(paths: Sequence[Path], to: Target, found: Imported) -> None:
    """plan.json says that the answers were imported; a side is named by the sha256 of its files."""
    forget_unused(to.folder, to.benchmark.name)  # of an import that was killed before it wrote an answer
    _forget_side(to)
    sha256 = _sha256(paths)
    plan = plan_of(
        to.benchmark,
        to.prompts,
        to.overrides,
        template={"name": IMPORTED, "hash": ""},
        model={"name": IMPORTED},
        seed=0,
        followed={},
    )
    fingerprint = f"{OF_FILE}{sha256}" + (f" {to.model}" if to.model else "")
    keep_to(to.folder, plan, to.side, fingerprint, {**_by(), IMPORTED: {}})
    stored: dict[str, Any] = files.read_json(plan_file(to.folder, to.benchmark.name))
    named = ", ".join(path.name for path in paths)
    about = {"file": named, "sha256": sha256, "format": found.form, "models": list(found.models)}
    told_of = stored["environment"].get(IMPORTED)
    told_of = told_of if isinstance(told_of, dict) else {}
    if to.side not in told_of:
        stored["environment"][IMPORTED] = {**told_of, to.side: about}
        files.write_json(plan_file(to.folder, to.benchmark.name), stored)


def _forget_side(to: Target) -> None:
    """The same where other sides have answers: an import of another file may follow."""
    plan = read_plan(to.folder, to.benchmark.name)
    if plan is None or answers_file(to.folder, to.benchmark.name, to.side).exists():
        return
    if plan["sides"].get(to.side, "").startswith(OF_FILE):
        del plan["sides"][to.side]
        told_of = plan["environment"].get(IMPORTED)
        if isinstance(told_of, dict):
            told_of.pop(to.side, None)
        files.write_json(plan_file(to.folder, to.benchmark.name), plan)


def _sha256(paths: Sequence[Path]) -> str:
    """Of the file; of several, of their sha256 in a row, in whatever order the files are named."""
    found = sorted(files.sha256_file(path) for path in paths)
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def _by() -> dict[str, Any]:
    """What imported them; where they were made is not known."""
    found = environment()
    return {key: found[key] for key in ("fedllm_bench", "commit", "dirty", "date")}


def models_of(folder: Path, benchmark: str, side: str) -> tuple[str, ...]:
    """The models that the file of imported answers named; () for answers that were not imported."""
    stated = (read_plan(folder, benchmark) or {}).get("environment", {}).get(IMPORTED, {})
    about = stated.get(side, {}) if isinstance(stated, dict) else {}
    named = about.get("models", ()) if isinstance(about, dict) else ()
    return tuple(name for name in named if isinstance(name, str)) if isinstance(named, list | tuple) else ()


def imported(form: str, rows: Sequence[ImportedAnswer], prompts: Sequence[Prompt]) -> Imported:
    """Which row answers which prompt. Equal answers to one question count as one."""
    given, unknown = found_answers(rows, prompts)
    num_turns = {prompt.item_id: len(prompt.turns) for prompt in prompts}
    clear = {item: found for item, found in given.items() if not (found.is_several or found.reason)}
    wrong = [item for item, found in clear.items() if len(found.turns) != num_turns[item]]
    return Imported(
        form=form,
        models=tuple(sorted({row.model for row in rows} - {""})),
        answers=tuple(_answer(prompt, given.get(prompt.item_id)) for prompt in prompts),
        missing=tuple(prompt.item_id for prompt in prompts if prompt.item_id not in given),
        failed=tuple(item for item, found in given.items() if found.reason),
        several=tuple(item for item, found in given.items() if found.is_several),
        wrong_turns=tuple(wrong),
        unknown=tuple(unknown),
        more=sum(row.more for row in rows),
    )


def _answer(prompt: Prompt, found: FoundAnswer | None) -> Answer:
    """The record of an answer; numbers of tokens that are not known are 0."""
    turns, reason = (found.turns if found else ()), ""
    if found is None or found.is_several:
        turns, reason = (), SEVERAL if found else MISSING
    elif len(turns) != len(prompt.turns):
        reason = found.reason or f"the imported file has {counted(len(turns), 'turn')} of {len(prompt.turns)}"
        turns = turns if len(turns) < len(prompt.turns) else ()
    lost = len(prompt.turns) - len(turns)
    said = found.finish[: len(turns)] if found else ()
    failed: tuple[Finish, ...] = ("failed",)
    return Answer(
        item_id=prompt.item_id,
        prompt_hash=prompt.hash,
        turns=(*turns, *("" for _ in range(lost))),
        tokens=(*(found.tokens[: len(turns)] if found else ()), *(0 for _ in range(lost))),
        finish=(*said, *failed * lost),
        reason=reason,
    )


def told(found: Imported) -> str:
    """How many questions have an answer, and those that have none, in one line."""
    lists: Mapping[str, Sequence[str]] = {
        "without an answer": found.missing,
        "that failed where they were made": found.failed,
        "with different answers": found.several,
        "with another number of turns": found.wrong_turns,
        "unknown to the benchmark": found.unknown,
    }
    parts = [f"{len(names)} {what} ({few(names)})" for what, names in lists.items() if names]
    if found.more:
        parts.append(f"{found.more} further choices of a question left out")
    return ", ".join([f"{part_of(found.num_whole, len(found.answers), 'question')} answered", *parts])


def few(names: Sequence[str], longest: int = 40) -> str:
    """The first of them, for a message."""
    shown = ", ".join(ascii(" ".join(name.split()))[1:-1][:longest] for name in names[:FEW])
    return f"{shown}, ..." if len(names) > FEW else shown
