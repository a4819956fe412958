"""MT-Bench's pairs of answers as work for a judge: each in both orders; replies are kept word for word.

    FOLDER/judgements/<judge>/mt_bench_pairs/<model_a>-vs-<model_b>.jsonl     a Judgement a line, order ab or ba

Only a reply to the same request counts: of this judge, to this prompt, about these answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedllm_bench.evaluation.judges.preset import Preset
from fedllm_bench.evaluation.judges.questions import Question, Slot, request_hash
from fedllm_bench.evaluation.judging.judging import JudgingFile
from fedllm_bench.evaluation.judging.pair_prompts import ORDERS, BattleMaterial, PairOrder, pair_messages
from fedllm_bench.evaluation.judging.votes import Match
from fedllm_bench.evaluation.records import Judgement, judgements_file, read_records

BENCHMARK = "mt_bench_pairs"


def sample(matches: Iterable[Match], limit: int | None) -> list[Match]:
    """At most `limit` of them, the same ones each time, from as many questions as possible."""
    by_question: dict[str, list[Match]] = {}
    for match in sorted(set(matches), key=_shuffled):
        by_question.setdefault(match.question, []).append(match)
    rounds = sorted((place, _shuffled(match), match) for own in by_question.values() for place, match in enumerate(own))
    return sorted(match for _, _, match in rounds[:limit])


def _shuffled(match: Match) -> str:
    return hashlib.sha256(repr(match).encode()).hexdigest()


def pair_works(
    folder: Path, preset: Preset, matches: Iterable[Match], material: BattleMaterial, repeats: int = 1
) -> list[JudgingFile]:
    """The questions about `matches`, a file for each pair of models; what :func:`judging.judge_all` takes."""
    return [
        JudgingFile(
            benchmark=BENCHMARK,
            side="-vs-".join(models),
            path=_file(folder, preset, models),
            prompts=(),
            answers={},
            questions=lambda own=own: _questions(own, material, repeats),  # type: ignore[misc]
            is_paired=True,
        )
        for models, own in _by_models(matches).items()
    ]


def _questions(matches: Sequence[Match], material: BattleMaterial, repeats: int) -> Iterator[Question]:
    for match in matches:
        for order in ORDERS:
            messages = pair_messages(material, match, order)
            for repeat in range(repeats):
                yield Question(Slot(match.question, match.turn, repeat, order), messages)


def _by_models(matches: Iterable[Match]) -> dict[tuple[str, str], list[Match]]:
    found: dict[tuple[str, str], list[Match]] = {}
    for match in sorted(matches, key=lambda match: (match.model_a, match.model_b, match)):
        found.setdefault((match.model_a, match.model_b), []).append(match)
    return found


def _file(folder: Path, preset: Preset, models: tuple[str, str]) -> Path:
    return judgements_file(folder, preset.id, BENCHMARK, "-vs-".join(models))


def stored_judgements(
    folder: Path, preset: Preset, matches: Iterable[Match], material: BattleMaterial
) -> dict[Match, list[Judgement]]:
    """What is kept of a judge on `matches`, of every repeat; one of which nothing is kept has no key."""
    found: dict[Match, list[Judgement]] = {}
    for models, own in _by_models(matches).items():
        wanted = {(match.question, match.turn): match for match in own}
        for judgement in read_records(_file(folder, preset, models), Judgement):
            match = wanted.get((judgement.item_id, judgement.turn))
            if match is None or not judgement.order:
                continue
            if judgement.request_hash == _key(preset, material, match, judgement.order, judgement.repeat):
                found.setdefault(match, []).append(judgement)
    return found


def _key(preset: Preset, material: BattleMaterial, match: Match, order: PairOrder, repeat: int) -> str:
    return request_hash(preset.model, preset.options, pair_messages(material, match, order), repeat)
