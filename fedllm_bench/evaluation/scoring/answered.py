"""The records of a folder, checked against each other: answers are to the prompts beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import SAFE_NAME
from fedllm_bench.evaluation.answering.plan import PLAN, PlanHead, read_head
from fedllm_bench.evaluation.judging import staleness
from fedllm_bench.evaluation.judging.pair_files import JudgedPairs, digest, pair_names
from fedllm_bench.evaluation.records import (
    Answer,
    Finish,
    Judgement,
    Prompt,
    answers_file,
    judgements_file,
    prompts_file,
    read_records,
)
from fedllm_bench.evaluation.thoughts import has_thoughts

MISSING = "the other answers or judge.json are not in this folder"
BASE, PROMPTS, JUDGE = "base", "prompts", "judge.json"


@dataclass(frozen=True, kw_only=True)
class AnsweredBenchmark:
    """What a folder holds of one benchmark: answers by side and item, judgements by judge and side, and of pairs.

    `clients`: item -> the client whose row it is, where the run's split says so; no record of the folder does.
    """

    prompts: tuple[Prompt, ...]
    plan: PlanHead
    answers: Mapping[str, Mapping[str, Answer]]
    judgements: Mapping[str, Mapping[str, Sequence[Judgement]]]
    notes: tuple[str, ...] = ()
    pairs: tuple[JudgedPairs, ...] = ()
    clients: Mapping[str, str] = field(default_factory=dict)

    @property
    def sides(self) -> list[str]:
        return list(self.answers)

    @property
    def judges(self) -> list[str]:
        return list(self.judgements)


def read_folder(folder: Path) -> dict[str, AnsweredBenchmark]:
    """Benchmark -> its records, of those that a side has answered; {} where nothing was answered.

    Raises a :class:`UserError` that names the file for records that do not fit together.
    """
    found = {name: _material(folder, name) for name in names_in(folder / "answers")}
    return {name: material for name, material in found.items() if material.answers}


def _material(folder: Path, benchmark: str) -> AnsweredBenchmark:
    path = prompts_file(folder, benchmark)
    prompts = read_records(no_link(path), Prompt)
    sides = [name for name in names_in(path.parent, ".jsonl") if name != PROMPTS]
    if sides and not prompts:
        raise UserError(f"{path} is not there, so nobody knows what was asked; run fedllm-bench answer again")
    by_id = _by_id(prompts, path)
    answers = {side: _answers(answers_file(folder, benchmark, side), by_id) for side in ordered_sides(sides)}
    judges = {judge: _judged(folder, judge, benchmark, prompts, answers) for judge in names_in(folder / "judgements")}
    pairs, unread = _pairs(folder, benchmark, prompts, answers)
    why = [one.note for told in judges.values() for one in told.values() if one.note]
    notes = dict.fromkeys(staleness.unchecked(benchmark, note) for note in why)
    notes |= dict.fromkeys([*unread, *(one.note for one in pairs if one.note), *_of_thoughts(benchmark, answers)])
    return AnsweredBenchmark(
        prompts=tuple(prompts),
        plan=read_head(no_link(path.with_name(PLAN))),
        answers=answers,
        judgements={judge: {s: one.judgements for s, one in told.items()} for judge, told in judges.items() if told},
        notes=tuple(notes),
        pairs=tuple(pairs),
    )


def _of_thoughts(benchmark: str, sides: Mapping[str, Mapping[str, Answer]]) -> Iterator[str]:
    for side, answers in sides.items():
        if count := sum(map(has_thoughts, answers.values())):
            yield (f"{benchmark}: {count} of {len(answers)} answers of {side} hold thoughts: they are kept "
                   "and shown, and scores and judges do not read them")  # fmt: skip


def ordered_sides(sides: Iterable[str]) -> list[str]:
    return sorted(sides, key=lambda side: ({BASE: 0, "global": 1}.get(side, 2), side))


def names_in(folder: Path, suffix: str = "") -> list[str]:
    """The names of folders in `folder`, or of files with a suffix; names that are not ours are passed over."""
    if not folder.is_dir():
        return []
    fitting = [p for p in folder.iterdir() if p.name.endswith(suffix) and p.is_dir() == (not suffix)]
    return sorted(name for p in fitting if SAFE_NAME.fullmatch(name := p.name.removesuffix(suffix)))


def no_link(path: Path) -> Path:
    """`path`, which is no link to another place: a folder may come from someone else."""
    if path.is_symlink():
        raise UserError(f"{path} is a link; put the file itself there")
    return path


def _by_id(prompts: Sequence[Prompt], path: Path) -> dict[str, Prompt]:
    by_id = {prompt.item_id: prompt for prompt in prompts}
    if len(by_id) < len(prompts):
        raise UserError(f"{path} has two prompts of one item_id; run fedllm-bench answer again")
    return by_id


def _answers(path: Path, prompts: Mapping[str, Prompt]) -> dict[str, Answer]:
    """The last answer of each item."""
    answers = {}
    for answer in read_records(no_link(path), Answer):
        prompt = _known(answer.item_id, prompts, path)
        if not len(prompt.turns) == len(answer.turns) == len(answer.tokens) == len(answer.finish):
            raise UserError(f"{path}: item {answer.item_id!r} does not have one answer for each of its "
                            f"{len(prompt.turns)} turns; remove the file and run again")  # fmt: skip
        answers[answer.item_id] = answer if answer.prompt_hash == prompt.hash else _of_another(answer)
    return answers


def _of_another(answer: Answer) -> Answer:
    """An answer to what is no longer the prompt: none."""
    failed: tuple[Finish, ...] = tuple("failed" for _ in answer.turns)
    reason = "it answers another version of the prompt"
    return replace(answer, turns=("",) * len(failed), finish=failed, reason=reason)


def _judged(
    folder: Path, judge: str, benchmark: str, prompts: Sequence[Prompt], sides: Mapping[str, Mapping[str, Answer]]
) -> dict[str, staleness.Checked]:
    """What a judge said of each side that it judged."""
    told: dict[str, staleness.Checked] = {}
    by_id = {prompt.item_id: prompt for prompt in prompts}
    for side, answers in sides.items():
        path = judgements_file(folder, judge, benchmark, side)
        judgements = _judgements(path, by_id)
        judge_file = path.parent.with_name(JUDGE)
        if judgements:
            told[side] = staleness.checked(judgements, judge_file, prompts, answers, benchmark=benchmark)
    return told


def _pairs(
    folder: Path, benchmark: str, prompts: Sequence[Prompt], answers: Mapping[str, Mapping[str, Answer]]
) -> tuple[list[JudgedPairs], list[str]]:
    """Pairs that judges compared, and a note for each file of which nobody knows whose pairs it has."""
    found, notes = [], []
    by_digest = {digest(answers_file(folder, benchmark, side)): side for side in answers}
    by_id = {prompt.item_id: prompt for prompt in prompts}
    for path in _pair_files(folder / "judgements", benchmark, answers):
        judge, names = path.parents[1].name, pair_names(path.stem, answers)
        if names is None:
            notes.append(f"{benchmark}: {judge}'s pairs in {path.name} are left out: whose they are is not clear")
        elif told := _judgements(path, by_id):
            pairs = JudgedPairs(judge=judge, names=names, here=by_digest.get(names.digest, ""), judgements=told)
            found.append(_checked_pairs(pairs, path.parents[1] / JUDGE, benchmark, prompts, answers))
    return found, notes


def _pair_files(judgements: Path, benchmark: str, sides: Iterable[str]) -> Iterator[Path]:
    for judge in names_in(judgements):
        place = judgements / judge / benchmark
        yield from (
            place / f"{name}.jsonl" for name in names_in(place, ".jsonl") if "-vs-" in name and name not in sides
        )


def _checked_pairs(
    pairs: JudgedPairs,
    judge_file: Path,
    benchmark: str,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Mapping[str, Answer]],
) -> JudgedPairs:
    """Without replies about other answers: by the whole request where both sides' answers are here, else by our own.

    The other ones are told by the digest in the file's name.
    """
    ours = answers[pairs.names.side]
    found = staleness.Checked(staleness.of_these(pairs.judgements, ours), MISSING)
    if pairs.here and judge_file.is_file():
        others = answers[pairs.here]
        found = staleness.checked(found.judgements, judge_file, prompts, ours, benchmark=benchmark, others=others)
    is_told = all(judgement.answer_hash for judgement in pairs.judgements if judgement.reply is not None)
    what = f"{benchmark}, {pairs.names.side} against {pairs.names.other}"
    note = staleness.unchecked(what, found.note) if found.note and not is_told else ""
    return replace(pairs, judgements=tuple(found.judgements), note=note)


def _judgements(path: Path, prompts: Mapping[str, Prompt]) -> tuple[Judgement, ...]:
    judgements = tuple(read_records(no_link(path), Judgement))
    for judgement in judgements:
        _known(judgement.item_id, prompts, path)
    return judgements


def _known(item: str, prompts: Mapping[str, Prompt], path: Path) -> Prompt:
    if item not in prompts:
        raise UserError(f"{path}: item {item!r} is not among the prompts beside it; remove the file and run again")
    return prompts[item]
