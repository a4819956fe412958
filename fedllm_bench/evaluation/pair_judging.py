"""Asking a judge about pairs of answers, each in both orders; replies are kept word for word.

    FOLDER/judgements/<judge>/mt_bench_pairs/<model_a>-vs-<model_b>.jsonl     a Judgement a line, order ab or ba

What has a stored reply to the same request is not asked again, and only such a reply counts. The file of a pair of
models is written when all of its requests are answered, and also when the run is interrupted before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedllm_bench import files
from fedllm_bench.evaluation.pair_prompts import ORDERS, Material, Messages, PairOrder, pair_messages
from fedllm_bench.evaluation.records import Judgement, Reply, judgements_file, read_records, write_records
from fedllm_bench.evaluation.votes import Match
from fedllm_bench.progress import track

BENCHMARK = "mt_bench_pairs"
Place = tuple[str, int, str, int]  # question, turn, order, repeat: where a judgement belongs in the file of its models


class NoReplyError(Exception):
    """A judge did not reply to one request, after its retries; the text says why. Other requests go on."""


class Judge(Protocol):
    """`name` names its folder: model snapshot and options. Calls may come from several threads at once."""

    @property
    def name(self) -> str: ...

    def ask(self, messages: Messages, *, repeat: int) -> Reply:
        """The reply to a chat. Equal arguments may be answered from a cache; another `repeat` is another sample.

        Raises :class:`NoReplyError` for what concerns this request alone; any other error ends the run.
        """


@dataclass(frozen=True, order=True)
class Request:
    match: Match
    order: PairOrder
    repeat: int

    @property
    def place(self) -> Place:
        return self.match.question, self.match.turn, self.order, self.repeat


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked: every match in both orders, `repeats` times; `folder` keeps the replies."""

    folder: Path
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class PairFile:
    """The requests about one pair of models, by hash, and the judgements that its file has or will have."""

    path: Path
    hashes: Mapping[Request, str]
    judgements: dict[Place, Judgement]

    def todo(self) -> list[Request]:
        """What has no reply to the same request."""
        return [request for request, key in self.hashes.items() if not self._is_answered(request, key)]

    def _is_answered(self, request: Request, key: str) -> bool:
        judgement = self.judgements.get(request.place)
        return judgement is not None and judgement.reply is not None and judgement.request_hash == key

    def write(self) -> None:
        write_records(self.path, [self.judgements[place] for place in sorted(self.judgements)])


def sample(matches: Iterable[Match], limit: int | None) -> list[Match]:
    """At most `limit` of them, the same ones each time, from as many questions as possible."""
    by_question: dict[str, list[Match]] = {}
    for match in sorted(set(matches), key=_shuffled):
        by_question.setdefault(match.question, []).append(match)
    rounds = sorted((place, _shuffled(match), match) for own in by_question.values() for place, match in enumerate(own))
    return sorted(match for _, _, match in rounds[:limit])


def _shuffled(match: Match) -> str:
    return hashlib.sha256(repr(match).encode()).hexdigest()


def pair_files(judge: str, matches: Iterable[Match], material: Material, asking: Asking) -> list[PairFile]:
    """All requests about `matches`, with what is kept of them. Raises a :class:`UserError` for a changed file."""
    return [_pair_file(judge, models, own, material, asking) for models, own in _by_models(matches).items()]


def _by_models(matches: Iterable[Match]) -> dict[tuple[str, str], list[Match]]:
    found: dict[tuple[str, str], list[Match]] = {}
    for match in sorted(matches, key=lambda match: (match.model_a, match.model_b, match)):
        found.setdefault((match.model_a, match.model_b), []).append(match)
    return found


def _pair_file(
    judge: str, models: tuple[str, str], matches: Sequence[Match], material: Material, asking: Asking
) -> PairFile:
    requests = [Request(match, order, n) for match in matches for order in ORDERS for n in range(asking.repeats)]
    path = judgements_file(asking.folder, judge, BENCHMARK, "-vs-".join(models))
    return PairFile(
        path=path,
        hashes={request: _request_hash(judge, request, material) for request in requests},
        judgements={_place(judgement): judgement for judgement in read_records(path, Judgement)},
    )


def _place(judgement: Judgement) -> Place:
    return judgement.item_id, judgement.turn, judgement.order, judgement.repeat


def ask_about(judge: Judge, files_of: Sequence[PairFile], material: Material, workers: int = 1) -> None:
    """Ask what has no reply, and keep what comes. The first error but :class:`NoReplyError` ends it."""
    left = {number: len(file.todo()) for number, file in enumerate(files_of)}
    todo = [(number, request) for number, file in enumerate(files_of) for request in file.todo()]

    def ask(number: int, request: Request) -> int:
        file = files_of[number]
        file.judgements[request.place] = _ask(judge, request, material, file.hashes[request])
        return number

    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        asked = as_completed([pool.submit(ask, *each) for each in todo])
        for future in track(asked, f"ask {judge.name}", len(todo)) if todo else ():
            number = future.result()
            left[number] -= 1
            if not left[number]:
                files_of[number].write()
    finally:  # after an error, or Ctrl-C: requests on their way are waited for and kept, the others never begin
        pool.shutdown(cancel_futures=True)
        for number, missing in left.items():
            if missing:
                files_of[number].write()


def _ask(judge: Judge, request: Request, material: Material, request_hash: str) -> Judgement:
    reply, reason = None, ""
    try:
        reply = judge.ask(pair_messages(material, request.match, request.order), repeat=request.repeat)
    except NoReplyError as error:
        reason = str(error) or "no reply"
    return Judgement(
        item_id=request.match.question,
        turn=request.match.turn,
        request_hash=request_hash,
        repeat=request.repeat,
        order=request.order,
        reply=reply,
        reason=reason,
    )


def _request_hash(judge: str, request: Request, material: Material) -> str:
    messages = [dict(message) for message in pair_messages(material, request.match, request.order)]
    asked = {"judge": judge, "messages": messages, "order": request.order, "repeat": request.repeat}
    return files.sha256_json(asked)[:32]  # with the order: two models may have given the same answer


def stored_judgements(
    folder: Path, judge: str, matches: Iterable[Match], material: Material
) -> dict[Match, list[Judgement]]:
    """What is kept of a judge on `matches`, of every repeat; one of which nothing is kept has no key.

    A judgement of another request, as of other answers or another prompt, does not count.
    """
    found: dict[Match, list[Judgement]] = {}
    for models, own in _by_models(matches).items():
        wanted = {(match.question, match.turn): match for match in own}
        for judgement in read_records(judgements_file(folder, judge, BENCHMARK, "-vs-".join(models)), Judgement):
            match = wanted.get((judgement.item_id, judgement.turn))
            if match is None or not judgement.order:
                continue
            request = Request(match, judgement.order, judgement.repeat)
            if judgement.request_hash == _request_hash(judge, request, material):
                found.setdefault(match, []).append(judgement)
    return found
