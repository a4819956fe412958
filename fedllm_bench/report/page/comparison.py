"""Two sides as one comparison: the numbers, a sentence for each, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedllm_bench.comparison.compare import (
    Comparison,
    alike_named,
    check_alike,
    chosen_metrics,
    compare_methods,
    compare_models,
    shared_seeds,
)
from fedllm_bench.comparison.run_scores import ScoredRun, differences
from fedllm_bench.report.page.compare_text import sentence

VERSION = 1


def compared(a: Sequence[ScoredRun], b: Sequence[ScoredRun], wanted: Sequence[str] | None) -> dict[str, Any]:
    """The whole comparison as JSON data (docs/comparing.md); `wanted` are metrics, None for all that both sides have.

    Raises a :class:`UserError` where the sides have no metric or seed in common, or are not comparable.
    """
    named = alike_named([*a, *b], wanted)
    a, b = named[: len(a)], named[len(a) :]
    metrics = chosen_metrics(a[0], b[0], wanted)
    check_alike([*a, *b], metrics)
    pairs = shared_seeds(a, b)

    def rows(found: Sequence[Comparison]) -> list[dict[str, Any]]:
        return [{**each.to_dict(), "sentence": sentence(each.to_dict())} for each in found]

    models = [row for one, other in pairs for row in compare_models(one, other, metrics)]
    return {
        "comparison_version": VERSION,
        "sides": {"a": _titles(a), "b": _titles(b)},
        "notes": _notes(a, b, len(pairs)),
        "methods": rows(compare_methods(pairs, metrics)) if len(pairs) > 1 else [],
        "models": rows(models),
    }


def _titles(runs: Sequence[ScoredRun]) -> list[str]:
    return [f"{run.title}  {run.path}" for run in runs]


def _notes(a: Sequence[ScoredRun], b: Sequence[ScoredRun], num_pairs: int) -> list[str]:
    """What A and B differ in, and what one should know before quoting the numbers."""
    differs = differences(a[0].config, b[0].config, besides=() if len(a) == len(b) == 1 else ("seed",))
    notes = [f"A and B differ in {', '.join(differs)}." if differs else "A and B have equal settings."]
    sides = {"A": a, "B": b}
    notes += [f"{side}, seed {run.seed}: {run.ended}." for side, runs in sides.items() for run in runs if run.ended]
    if num_pairs == 1:
        notes.append("One seed on each side: of the methods nothing is said.")
    if dropped := _unpaired(a, b):
        notes.append(f"Left out, for the other side lacks the seed: {dropped}.")
    return notes


def _unpaired(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> str:
    if len(a) == len(b) == 1:
        return ""
    sides = {"A": (a, b), "B": (b, a)}
    return ", ".join(
        f"seed {run.seed} of {name}"
        for name, (own, other) in sides.items()
        for run in own
        if run.seed not in {each.seed for each in other}
    )
