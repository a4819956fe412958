"""Recorded judgements as those of this suite: each reply is set beside the request that the answers here make.

A reply counts where its recorded request is the one that the suite would make now, but for space. One that was about
another answer, or another prompt, does not count; one whose request is not recorded counts, and is called unchecked.
What a reply says is read by the suite's own reader; where the file made another score of it, that is said.

    FOLDER/judgements/imported-<judge>-<hash>/judge.json    kind "imported", and of each file what was imported
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedllm_bench import __version__
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges.preset import IMPORTED, Preset
from fedllm_bench.evaluation.judges.questions import Question, Slot, request_hash, scale
from fedllm_bench.evaluation.judges.templates import CONTROL
from fedllm_bench.evaluation.judging.grading import reply_rating, unfinished
from fedllm_bench.evaluation.judging.judging import JudgingFile
from fedllm_bench.evaluation.judging.recorded_files import FAILED, RecordedReply
from fedllm_bench.evaluation.judging.verdicts import pair_verdict
from fedllm_bench.evaluation.outside_files import MOST_OBJECTS
from fedllm_bench.evaluation.records import Judgement, Order, Prompt, Reply, read_records, write_records

NONE, SEVERAL = "no reply to it in the imported file", "the imported file has different replies to it"
NO_REPLY = "the judge gave no reply where it was asked"
OTHER = "the imported reply is to another request than these answers make"
PLACES = {"A": "1", "B": "2", "tie": "tie"}


@dataclass(frozen=True, kw_only=True)
class JudgementImport:
    """What became of the questions of one file of judgements; lists name them as "81 turn 2".

    `differing`: with what the file says and what is read here.
    """

    judgements: tuple[Judgement, ...]
    checked: int
    unchecked: int
    other_requests: tuple[str, ...]
    missing: tuple[str, ...]
    several: tuple[str, ...]
    failed: tuple[str, ...]
    differing: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def num_replies(self) -> int:
        return self.checked + self.unchecked


def imported_preset(judge: str) -> Preset:
    """The judge of recorded replies: nobody can ask it, and its id says so."""
    return Preset(
        name=f"{judge} (imported)",
        model=judge,
        kind=IMPORTED,
        options={"recorded by": "FastChat"},
        note="its replies were recorded elsewhere and imported",
    )


def match(
    work: JudgingFile, preset: Preset, replies: Iterable[RecordedReply], models: Sequence[str]
) -> JudgementImport:
    """Each question of `work` with its reply. `models` are the side's own and, in pairs, the other's."""
    given: dict[Slot, list[RecordedReply]] = {}
    for reply in replies:
        if slot := _slot(reply, models):
            given.setdefault(slot, []).append(reply)
    made = [_made(work, preset, question, given) for question in work.questions()]
    asked = {one.question.slot for one in made}
    by_kind: dict[str, list[str]] = {}
    for one in made:
        by_kind.setdefault(one.kind, []).append(_named(one.question.slot))
    return JudgementImport(
        judgements=tuple(one.judgement for one in made),
        checked=len(by_kind.get("checked", ())),
        unchecked=len(by_kind.get("unchecked", ())),
        other_requests=tuple(by_kind.get(OTHER, ())),
        missing=tuple(by_kind.get(NONE, ())),
        several=tuple(by_kind.get(SEVERAL, ())),
        failed=tuple(by_kind.get(NO_REPLY, ())),
        differing=tuple(one.differs for one in made if one.differs),
        unknown=tuple(_named(slot) for slot in given if slot not in asked),
    )


@dataclass(frozen=True, kw_only=True)
class MatchedQuestion:
    """`kind`: "checked" or "unchecked" where there is a reply, else why there is none."""

    question: Question
    judgement: Judgement
    kind: str
    differs: str = ""


def _slot(reply: RecordedReply, models: Sequence[str]) -> Slot | None:
    """None where it is about others."""
    if len(models) == 1:
        return Slot(reply.question, reply.turn) if reply.models == tuple(models) else None
    own, other = models
    orders: Mapping[tuple[str, ...], Order] = {(own, other): "ab", (other, own): "ba"}
    order = orders.get(reply.models)
    return None if order is None else Slot(reply.question, reply.turn, order=order)


def _named(slot: Slot) -> str:
    order = {"ab": " shown first", "ba": " shown second"}.get(slot.order, "")
    return f"{slot.item_id} turn {slot.turn}{order}"


def _made(
    work: JudgingFile, preset: Preset, question: Question, given: Mapping[Slot, Sequence[RecordedReply]]
) -> MatchedQuestion:
    slot, replies = question.slot, given.get(question.slot, ())
    kind, reason = _kind(question, replies)
    reply = Reply(text=replies[0].text, model=preset.model, finish="stop") if not reason else None
    own = work.answers.get(slot.item_id) if work.is_paired else None
    key = request_hash(preset.model, preset.options, question.messages, slot.repeat) if question.messages else ""
    judgement = Judgement(
        item_id=slot.item_id,
        turn=slot.turn,
        request_hash=key,
        order=slot.order,
        reply=reply,
        reason=reason,
        answer_hash=own.hash_to(slot.turn) if own else "",
    )
    differs = _differs(work, question, reply, replies[0].stated) if reply else ""
    return MatchedQuestion(question=question, judgement=judgement, kind=kind, differs=differs)


def _kind(question: Question, replies: Sequence[RecordedReply]) -> tuple[str, str]:
    """What is to be said of it, and why it has no reply."""
    if not question.messages:
        return "not asked", question.reason
    if not replies:
        return NONE, NONE
    if len({(reply.text, reply.prompt) for reply in replies}) > 1:
        return SEVERAL, SEVERAL
    if replies[0].text.strip() == FAILED:
        return NO_REPLY, NO_REPLY
    if replies[0].prompt is None:
        return "unchecked", ""
    is_equal = _plain(replies[0].prompt) == _plain(str(question.messages[-1]["content"]))
    return ("checked", "") if is_equal else (OTHER, OTHER)


def _plain(text: str) -> str:
    """But for space, and for control characters, which no judge is shown."""
    return " ".join(CONTROL.sub("\ufffd", text.replace("\r\n", "\n")).split())


def _differs(work: JudgingFile, question: Question, reply: Reply, stated: float | str | None) -> str:
    """How the reply is read here, where the file says otherwise."""
    read = _read(work, question, reply)
    if read == stated or stated is None:
        return (
            ""
            if read == stated or work.is_paired
            else f"{_named(question.slot)}: none in the file, {_shown(read)} here"
        )
    return f"{_named(question.slot)}: {_shown(stated)} in the file, {_shown(read)} here"


def _read(work: JudgingFile, question: Question, reply: Reply) -> float | str | None:
    if work.is_paired:
        winner = None if unfinished(reply) else pair_verdict(reply.text).value
        return PLACES[winner] if winner else None
    prompt = _prompt(work.prompts, question.slot.item_id)
    low, high = scale(work.benchmark, prompt, question.slot.turn)
    return reply_rating(reply, low, high, (*prompt.turns, *question.given)).value


def _prompt(prompts: Iterable[Prompt], item: str) -> Prompt:
    return next(prompt for prompt in prompts if prompt.item_id == item)


def _shown(value: float | str | None) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else value


# --- what is written


def write_import(work: JudgingFile, preset: Preset, found: JudgementImport, source: Path) -> bool:
    """Whether anything was written: an equal import changes nothing.

    Raises a :class:`UserError` where other judgements of this judge are there.
    """
    if work.path.is_file():
        if tuple(read_records(work.path, Judgement)) != found.judgements:
            raise UserError(f"{work.path}: other judgements of {preset.id} are there already; remove the file first, "
                            "or give another --out")  # fmt: skip
        _write_judge(work, preset, found, source)  # it may have been lost or changed
        return False
    _write_judge(work, preset, found, source)
    write_records(work.path, found.judgements)
    return True


def _write_judge(work: JudgingFile, preset: Preset, found: JudgementImport, source: Path) -> None:
    path = work.path.parent.with_name("judge.json")
    about = {
        "file": source.name,
        "sha256": files.sha256_file(source),
        "replies": found.num_replies,
        "checked": found.checked,
        "differing": len(found.differing),
    }
    key = f"{work.benchmark}/{work.path.stem}"
    stated: dict[str, Any] = {
        "id": preset.id,
        "suite": __version__,
        **asdict(preset),
        IMPORTED: {**_imports(path), key: about},
    }
    files.make_folder(path.parent)
    if path.is_symlink() or _stated(path) != json.loads(json.dumps(stated)):
        files.write_json(path, stated)


def import_notes(judge_file: Path, benchmark: str) -> Iterator[str]:
    """For results: which judgements of a benchmark were imported, and how many of their requests were checked.

    Nothing for another judge, or for what is no judge.json: a folder may come from someone else.
    """
    for key, about in _imports(judge_file).items():
        of, _, name = key.partition("/")
        counts = [about.get(count) for count in ("replies", "checked")] if isinstance(about, dict) else [None]
        if of == benchmark and files.SAFE_NAME.fullmatch(name) and all(map(_is_count, counts)):
            yield (f"{benchmark}: {counts[0]} replies of {judge_file.parent.name} about {name} were recorded "
                   f"elsewhere and imported; the requests of {counts[1]} of them could be checked")  # fmt: skip


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_OBJECTS


def _imports(judge_file: Path) -> dict[str, Any]:
    """What judge.json says of imports; {} where it says nothing that can be read."""
    imports = _stated(judge_file).get(IMPORTED, {})
    return imports if isinstance(imports, dict) else {}


def _stated(judge_file: Path) -> dict[str, Any]:
    try:
        stated = files.read_json(judge_file) if judge_file.is_file() else {}
    except (ValueError, RecursionError, OSError):
        return {}
    return stated if isinstance(stated, dict) else {}
