"""Asking a judge about pairs of answers, each in both orders; replies are kept word for word.

    FOLDER/judgements/<judge>/mt_bench_pairs/<model_a>-vs-<model_b>.jsonl     a Judgement a line, order ab or ba

What has a stored reply to the same request is not asked again. The file of a pair of models is written when all of
its requests are answered, and also when the run is interrupted before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
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
    """How to ask: every match in both orders, `repeats` times, `workers` requests at once."""

    folder: Path
    repeats: int = 1
    workers: int = 1


def sample(matches: Iterable[Match], limit: int | None) -> list[Match]:
    """At most `limit` of them, the same ones each time, from as many questions as possible."""
    by_question: dict[str, list[Match]] = {}
    for match in sorted(set(matches), key=_shuffled):
        by_question.setdefault(match.question, []).append(match)
    rounds = sorted((place, _shuffled(match), match) for own in by_question.values() for place, match in enumerate(own))
    return sorted(match for _, _, match in rounds[:limit])


def _shuffled(match: Match) -> str:
    return hashlib.sha256(repr(match).encode()).hexdigest()


def ask_about(judge: Judge, matches: Iterable[Match], material: Material, asking: Asking) -> None:
    """Ask what has no stored reply to the same request, and keep the replies."""
    for (model_a, model_b), own in _by_models(matches).items():
        requests = [Request(match, order, n) for match in own for order in ORDERS for n in range(asking.repeats)]
        path = pair_file(asking.folder, judge.name, model_a, model_b)
        _ask_pair(judge, sorted(requests), material, path, asking.workers)


def _by_models(matches: Iterable[Match]) -> dict[tuple[str, str], list[Match]]:
    found: dict[tuple[str, str], list[Match]] = {}
    for match in sorted(matches, key=lambda match: (match.model_a, match.model_b, match)):
        found.setdefault((match.model_a, match.model_b), []).append(match)
    return found


def pair_file(folder: Path, judge: str, model_a: str, model_b: str) -> Path:
    return judgements_file(folder, judge, BENCHMARK, f"{model_a}-vs-{model_b}")


def _ask_pair(judge: Judge, requests: Sequence[Request], material: Material, path: Path, workers: int) -> None:
    stored = {_place(judgement): judgement for judgement in read_records(path, Judgement)}
    hashes = {request: _request_hash(judge, request, material) for request in requests}
    todo = [request for request in requests if not _is_answered(stored.get(request.place), hashes[request])]

    def ask(request: Request) -> None:
        stored[request.place] = _ask(judge, request, material, hashes[request])

    if not todo:
        return
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        asked = [pool.submit(ask, request) for request in todo]
        for future in track(as_completed(asked), f"ask {judge.name}: {path.stem}", len(todo)):
            future.result()
    finally:  # after an error, or Ctrl-C: requests on their way are waited for and kept, the others never begin
        pool.shutdown(cancel_futures=True)
        write_records(path, [stored[place] for place in sorted(stored)])


def _place(judgement: Judgement) -> Place:
    return judgement.item_id, judgement.turn, judgement.order, judgement.repeat


def _is_answered(judgement: Judgement | None, request_hash: str) -> bool:
    return judgement is not None and judgement.reply is not None and judgement.request_hash == request_hash


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


def _request_hash(judge: Judge, request: Request, material: Material) -> str:
    messages = [dict(message) for message in pair_messages(material, request.match, request.order)]
    asked = {"judge": judge.name, "messages": messages, "order": request.order, "repeat": request.repeat}
    return files.sha256_json(asked)[:32]  # with the order: two models may have given the same answer


def stored_judgements(folder: Path, judge: str, matches: Iterable[Match]) -> dict[Match, list[Judgement]]:
    """What is kept of a judge on `matches`; one that is not there has no key."""
    found: dict[Match, list[Judgement]] = {}
    for (model_a, model_b), own in _by_models(matches).items():
        wanted = {(match.question, match.turn): match for match in own}
        for judgement in read_records(pair_file(folder, judge, model_a, model_b), Judgement):
            match = wanted.get((judgement.item_id, judgement.turn))
            if match is not None and judgement.order:
                found.setdefault(match, []).append(judgement)
    return found
