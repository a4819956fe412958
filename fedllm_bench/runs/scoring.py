"""Scores of adapters on held-out items, kept as JSON lines in a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.common.cache import cached
from fedllm_bench.common.progress import track
from fedllm_bench.common.trees import Tree
from fedllm_bench.metrics.items import Item
from fedllm_bench.metrics.registry import score_group, together
from fedllm_bench.runs.loading import Bench
from fedllm_bench.scores.score import Score

Scores = dict[str, list[Score]]  # by metric


def evaluate(bench: Bench, pairs: Sequence[tuple[Tree | None, Sequence[Item[Any, Any]]]], label: str) -> Scores:
    """Every metric under each adapter (None is the base alone) on its items."""
    scores: Scores = {name: [] for name in bench.metrics}
    work = [(group, adapter, items) for adapter, items in pairs for group in together(bench.metrics)]
    for group, adapter, items in track(work, f"score {label}", len(work)):
        with bench.model.using(adapter):
            for name, found in score_group(group, bench.model, items, bench.settings).items():
                scores[name] += found
    return scores


def saved_scores(folder: Path, side: str, metrics: Iterable[str], compute: Callable[[], Scores]) -> Scores:
    """The scores in `folder`/scores, computed and written there when one is missing."""
    names = list(metrics)
    found = _found(folder, side, names)
    if found is None:
        _write(folder, side, names, compute())
        found = read_scores(folder, side, names)
    return found


def cached_scores(place: Path, key: str, side: str, metrics: Sequence[str], compute: Callable[[], Scores]) -> Scores:
    """As :func:`saved_scores` in the folder `place`/`key` of a cache, whole or not at all: see :func:`cached`."""
    return cached(
        place,
        key,
        make=lambda folder: _write(folder, side, metrics, compute()),
        read=lambda folder: _found(folder, side, metrics),
    )


def _found(folder: Path, side: str, metrics: Sequence[str]) -> Scores | None:
    """None where a file is missing."""
    there = all(_score_file(folder, side, name).is_file() for name in metrics)
    return read_scores(folder, side, metrics) if there else None


def _write(folder: Path, side: str, metrics: Iterable[str], scores: Scores) -> None:
    for name in metrics:
        files.make_folder(_score_file(folder, side, name).parent)
        files.write_jsonl(_score_file(folder, side, name), [score.to_dict() for score in scores[name]])


def read_scores(folder: Path, side: str, metrics: Iterable[str]) -> Scores:
    return {
        name: [Score.from_dict(row) for row in files.read_jsonl(_score_file(folder, side, name))] for name in metrics
    }


def _score_file(folder: Path, side: str, metric: str) -> Path:
    return folder / "scores" / f"{metric}.{side}.jsonl"
