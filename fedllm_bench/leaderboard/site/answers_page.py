"""The answers of a submission in one browser: the base model and each seed side by side.

Open-ended answers are read as the suite's own report reads them; AdvBench's stay folded. Of the mini world's questions
the answers are in the evidence of `mini_exact`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.evaluation.scoring.answered import BASE
from fedllm_bench.evaluation.scoring.score_all import score_all
from fedllm_bench.leaderboard.site.pages import browser_script, render
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.recompute import SeedScores, materials
from fedllm_bench.report.page.browser import Item, items_of, language_label, packed
from fedllm_bench.scores.score import Score

EXACT = "mini_exact"
MOST_CHARACTERS = 8_000_000  # of a page; the records have all


def answers_page(bundle: Bundle, scores: Sequence[SeedScores]) -> str | None:
    """None where nothing was answered."""
    items = [*_exact_items(scores), *_open_items(bundle)]
    if not items:
        return None
    data = packed(items, most=MOST_CHARACTERS)
    method = bundle.submission.method
    values = {
        "method": method,
        "facts": f"{len(items)} questions; sides are the base model and each seed's trained model.",
        "cut": [f"{line} Whole texts are in the records of the submission." for line in data.cut],
        "data": Markup(data.text),
        "browser": Markup(browser_script()),
    }
    return render("answers_page.html.jinja", title=f"{method}: answers", root="../../", values=values)


def _open_items(bundle: Bundle) -> list[Item]:
    merged: dict[tuple[str, str], Item] = {}
    for run in bundle.runs():
        if not run.benchmarks():
            continue
        found = materials(run)
        for item in items_of(found, score_all(found, OPEN_METRICS)):
            renamed = _renamed(item, run.seed)
            key = (item["benchmark"], item["id"])
            merged[key] = _joined(merged[key], renamed) if key in merged else renamed
    return list(merged.values())


def _renamed(item: Item, seed: int) -> Item:
    """With sides named after the seed; the base model's stays, for it is that of every run."""

    def names(sides: Mapping[str, Any]) -> dict[str, Any]:
        return {_side(side, seed): value for side, value in sides.items()}

    nested = {key: {name: names(sides) for name, sides in item[key].items()} for key in ("scores", "replies")}
    return {**item, "answers": names(item["answers"]), **nested}


def _side(side: str, seed: int) -> str:
    return side if side == BASE else f"seed {seed}" if side == GLOBAL else f"seed {seed} {side}"


def _joined(one: Item, other: Item) -> Item:
    nested = {
        key: {name: {**other[key].get(name, {}), **one[key].get(name, {})} for name in one[key] | other[key]}
        for key in ("scores", "replies")
    }
    return {**one, "answers": {**other["answers"], **one["answers"]}, **nested}


def _exact_items(scores: Sequence[SeedScores]) -> list[Item]:
    """The mini world's questions, by client and item."""
    sides: dict[str, Sequence[Score]] = {}
    for one in scores:
        if EXACT in one.metrics:
            sides.setdefault(BASE, one.metrics[EXACT].before or ())
            sides[f"seed {one.seed}"] = one.metrics[EXACT].after
    found: dict[tuple[str, str], dict[str, Score]] = {}
    for side, of in sides.items():
        for score in of:
            found.setdefault((score.cluster, score.item_id), {})[side] = score
    return [_exact_item(key, by_side) for key, by_side in sorted(found.items())]


def _exact_item(key: tuple[str, str], by_side: Mapping[str, Score]) -> Item:
    first = next(iter(by_side.values()))
    return {
        "benchmark": EXACT,
        "id": f"{key[0]} {key[1]}",
        "category": first.group.get("task", ""),
        "language": language_label(first.group.get("language", "")),
        "turns": [_text(first, "prompt")],
        "references": [_text(first, "right")],
        "answers": {side: _exact_answer(score) for side, score in by_side.items()},
        "scores": {EXACT: {side: [score.value, score.reason, [score.value]] for side, score in by_side.items()}},
        "replies": {},
    }


def _exact_answer(score: Score) -> Item:
    return {"turns": [_text(score, "answer")], "finish": ["stop"], "reason": ""}


def _text(score: Score, key: str) -> str:
    value = score.evidence.get(key, "")
    return value if isinstance(value, str) else ""
