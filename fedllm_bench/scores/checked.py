"""What a metric of a plugin gave, looked at before it is used: whoever wrote it is told in one line what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.scores.score import MetricInfo, Score

IN_ORDER = "give one for each, in order"
Row = tuple[str, str]  # client and row id


def scores_of_rows(found: object, info: MetricInfo, rows: Sequence[Row]) -> list[Score]:
    """The scores of held-out rows, one for each of `rows` in their order.

    Raises a :class:`UserError` of one line, which names the metric, for anything else.
    """
    scores = checked_scores(found, info)
    if len(scores) != len(rows):
        raise wrong(info, f"gave {counted(len(scores), 'score')} for {counted(len(rows), 'row')}; {IN_ORDER}")
    for number, (score, (client, row)) in enumerate(zip(scores, rows, strict=True), start=1):
        if score.item_id != row:
            text = f"gave as score {number} one of {_short(score.item_id)}, and row {number} is {_short(row)}"
            raise wrong(info, f"{text}; {IN_ORDER}, with item_id=item.row.row_id")
        if score.cluster != client:
            text = f"gave row {_short(row)} of client {_short(client)} the cluster {_short(score.cluster)}"
            raise wrong(info, f"{text}; give cluster=item.row.client_id")
    return scores


def scores_of_questions(found: object, info: MetricInfo, turns: Mapping[str, int]) -> list[Score]:
    """The scores of the questions of a benchmark; `turns`: item_id of each question -> how many turns it has.

    A score is of a question, or of one of its turns: then "/<turn>" stands behind the item_id, and `cluster` is the
    question. Raises a :class:`UserError` of one line, which names the metric, for anything else.
    """
    scores = checked_scores(found, info)
    seen: set[str] = set()
    for score in scores:
        question = score.cluster or score.item_id
        if question not in turns or score.item_id not in _names(question, turns[question]):
            raise wrong(
                info, f"gave a score of {_short(score.item_id)}, which was not asked; give the prompt's item_id"
            )
        if score.item_id in seen:
            raise wrong(info, f"gave two scores of {_short(score.item_id)}; give one")
        seen.add(score.item_id)
    if missing := len(turns.keys() - {score.cluster or score.item_id for score in scores}):
        raise wrong(info, f"gave no score for {missing} of {len(turns)} questions; give one for each")
    return scores


def _names(question: str, turns: int) -> set[str]:
    return {question, *(f"{question}/{turn}" for turn in range(1, turns + 1))}


def checked_scores(found: object, info: MetricInfo) -> list[Score]:
    """A list of scores whose values are plain numbers. Raises a :class:`UserError` of one line for anything else."""
    if not isinstance(found, list):
        raise wrong(info, f"gave {type(found).__name__}; its `score` should give a list of Score")
    if not all(isinstance(score, Score) for score in found):
        raise wrong(info, "gave a list with other things in it; its `score` should give a list of Score")
    return [_plain(score, info) for score in found]


def _plain(score: Score, info: MetricInfo) -> Score:
    """With numbers that JSON can hold; those of numpy become Python's."""
    if not isinstance(score.item_id, str) or not isinstance(score.cluster, str):
        raise wrong(info, f"gave a score of {_short(score.item_id)}; item_id and cluster should be text")
    try:
        json.dumps([score.evidence, score.group])
    except (TypeError, ValueError, RecursionError) as error:
        text = f"gave {_short(score.item_id)} evidence or a group that JSON cannot hold ({error})"
        raise wrong(info, f"{text}; give plain numbers, texts, lists and dicts") from error
    if type(score.weight) in (int, float) and (score.value is None or type(score.value) in (int, float)):
        return score
    value = None if score.value is None else float(score.value)
    return replace(score, value=value, weight=float(score.weight))


def wrong(info: MetricInfo, text: str) -> UserError:
    return UserError(f"the metric {info.name} ({info.version}) {text}")


def _short(value: object) -> str:
    return repr(value)[:80]
