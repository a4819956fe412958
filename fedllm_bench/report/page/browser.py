"""What the answers browser of report.html reads: prompts, answers, references, replies and scores as JSON in the page.

The page stays below a size that a browser opens at once: where all texts together are too long, each is cut to the same
number of characters, and the page says so. Whole texts are in the records of the run folder.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.evaluation.judging.pairing import pair_scores_of
from fedllm_bench.evaluation.judging.score_pairing import own_scores, scored_pairs
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.evaluation.scoring.answered import AnsweredBenchmark
from fedllm_bench.evaluation.scoring.score_all import Scored
from fedllm_bench.evaluation.scoring.views import labelled, per_question
from fedllm_bench.scores.score import Score

PAGE_SIZE = 20
MOST_CHARACTERS = 24_000_000  # of all texts together
LIMITS = (20_000, 10_000, 5_000, 2_000, 1_000, 500, 200)  # of one text; the largest with which all texts fit
COLLAPSED = ("advbench",)  # benchmarks whose answers may do harm
# "<" could end the script element or begin a comment; the last two end a line of JavaScript
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
Item = dict[str, Any]


@dataclass(frozen=True)
class BrowserData:
    """`text` is JSON that may stand in a script element; `cut` says what it leaves out."""

    text: str
    cut: tuple[str, ...]


def browser_data(
    materials: Mapping[str, AnsweredBenchmark], scored: Sequence[Scored], *, most: int = MOST_CHARACTERS
) -> BrowserData:
    """`most`: characters of all texts together."""
    return packed(items_of(materials, scored), most=most)


def items_of(materials: Mapping[str, AnsweredBenchmark], scored: Sequence[Scored]) -> list[Item]:
    """A question each, whole: what was asked and answered, with scores and judges' replies."""
    return [item for name in _ordered(materials) for item in _items(name, materials[name], scored)]


def packed(items: Sequence[Item], *, most: int = MOST_CHARACTERS) -> BrowserData:
    limit, kept, whole = _fitting(items, most)
    cut = sum(length > limit for item in kept for length in _lengths(item))
    payload = {"page_size": PAGE_SIZE, "collapsed": COLLAPSED, "items": [_shortened(item, limit) for item in kept]}
    said = []
    if cut:
        said.append(f"{cut:,} of {whole:,} texts are longer than {limit:,} characters and are cut there.")
    if len(kept) < len(items):
        said.append(f"The first {len(kept):,} of {len(items):,} questions are shown: all texts would be too much.")
    return BrowserData(script_json(payload), tuple(said))


def _ordered(benchmarks: Iterable[str]) -> list[str]:
    """As metrics are listed; what may do harm comes last."""
    known = list(dict.fromkeys(metric.benchmark for metric in OPEN_METRICS.values()))
    place = {name: i for i, name in enumerate(known)}
    return sorted(benchmarks, key=lambda name: (name in COLLAPSED, place.get(name, len(known)), name))


def script_json(value: Any) -> str:
    """JSON without any character that means something to HTML or to JavaScript."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter, escaped in UNSAFE.items():
        text = text.replace(letter, escaped)
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair has no UTF-8


def _items(benchmark: str, material: AnsweredBenchmark, scored: Sequence[Scored]) -> Iterator[Item]:
    metrics = [one for one in scored if one.metric.benchmark == benchmark]
    tables = {one.key: {side: _by_question(scores) for side, scores in one.sides.items()} for one in metrics}
    replies = {
        judge: {side: _by_item(judgements) for side, judgements in sides.items()}
        for judge, sides in material.judgements.items()
    }
    for pairs in material.pairs:  # two judges, or two other runs, never share a name
        side, title = pairs.names.side, f"{pairs.judge}, against {pairs.names.other}"
        scores = labelled(pair_scores_of(material.prompts, pairs.judgements), material.prompts)
        tables.setdefault(f"win rate, {title}", {})[side] = _by_question(scores)
        replies.setdefault(title, {})[side] = _by_item(pairs.judgements)
    for pairs in material.score_pairs:
        side, title = pairs.names.side, f"{pairs.judge}, scored against {pairs.names.other}"
        found = scored_pairs(material.prompts, pairs.judgements)
        tables.setdefault(f"score, {title}", {})[side] = _by_question(labelled(own_scores(found), material.prompts))
        replies.setdefault(title, {})[side] = _by_item(pairs.judgements)
    for prompt in material.prompts:
        item = prompt.item_id
        yield {
            **_about(benchmark, prompt),
            "answers": {side: _answer(answers[item]) for side, answers in material.answers.items() if item in answers},
            "scores": _nested(tables, item),
            "replies": _nested(replies, item),
        }


@functools.cache
def language_label(language: str) -> str:
    """The English name of an ISO 639-3 code; what it is no code of as it stands."""
    from fedllm_bench.data import languages

    codes: dict[str, str] = languages.NAMES
    names = {code: name.capitalize() for name, code in reversed(codes.items())}
    return names.get(language, language)


def _about(benchmark: str, prompt: Prompt) -> Item:
    return {
        "benchmark": benchmark,
        "id": prompt.item_id,
        "category": prompt.category,
        "language": language_label(prompt.language),
        "turns": list(prompt.turns),
        "references": list(prompt.references),
    }


def _answer(answer: Answer) -> Item:
    return {"turns": list(answer.turns), "finish": list(answer.finish), "reason": answer.reason}


def _by_question(scores: Sequence[Score]) -> dict[str, list[Any]]:
    """Question -> [its value, why there is none, the values of its turns]."""
    turns: dict[str, list[float | None]] = {}
    for score in scores:
        turns.setdefault(score.cluster, []).append(score.value)
    return {score.cluster: [score.value, score.reason, turns[score.cluster]] for score in per_question(scores)}


def _by_item(judgements: Iterable[Judgement]) -> dict[str, list[Item]]:
    replies: dict[str, list[Item]] = {}
    for told in judgements:
        text = None if told.reply is None else told.reply.text
        about = {"turn": told.turn, "repeat": told.repeat, "order": told.order}
        replies.setdefault(told.item_id, []).append({**about, "text": text, "reason": told.reason})
    return replies


def _nested(tables: Mapping[str, Mapping[str, Mapping[str, Any]]], item: str) -> dict[str, dict[str, Any]]:
    """Of name -> side -> item -> value the values of one item."""
    found = {name: {side: of[item] for side, of in sides.items() if item in of} for name, sides in tables.items()}
    return {name: sides for name, sides in found.items() if sides}


def _fitting(items: Sequence[Item], most: int) -> tuple[int, Sequence[Item], int]:
    """(characters of a text, the items that fit, number of texts); the last items go where no cut is short enough."""
    lengths = [list(_lengths(item)) for item in items]
    whole = sum(map(len, lengths))
    for limit in LIMITS:
        if sum(min(length, limit) for of in lengths for length in of) <= most:
            return limit, items, whole
    totals = itertools.accumulate(sum(min(length, LIMITS[-1]) for length in of) for of in lengths)
    return LIMITS[-1], items[: sum(total <= most for total in totals)], whole


def _lengths(item: Item) -> Iterator[int]:
    return (len(text) for text in _texts(item))


def _texts(item: Item) -> Iterator[str]:
    yield from item["turns"]
    yield from item["references"]
    for answer in item["answers"].values():
        yield from answer["turns"]
    for sides in item["replies"].values():
        for replies in sides.values():
            yield from (reply["text"] for reply in replies if reply["text"] is not None)


def _shortened(item: Item, limit: int) -> Item:
    """Each text that is too long as [its beginning, its length]."""

    def cut(text: str) -> Any:
        return [text[:limit], len(text)] if len(text) > limit else text

    def cut_all(texts: Iterable[str]) -> list[Any]:
        return [cut(text) for text in texts]

    return {
        **item,
        "turns": cut_all(item["turns"]),
        "references": cut_all(item["references"]),
        "answers": {side: {**answer, "turns": cut_all(answer["turns"])} for side, answer in item["answers"].items()},
        "replies": {
            judge: {side: [{**r, "text": r["text"] and cut(r["text"])} for r in found] for side, found in sides.items()}
            for judge, sides in item["replies"].items()
        },
    }
