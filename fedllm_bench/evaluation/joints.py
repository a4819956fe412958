"""Where scoring meets its neighbours: the judges' grades and the declarations of benchmarks.

Looked up when called, so that a folder can be reported on without either being loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence

from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.metrics.base import Score

GRADING, BENCHMARKS = "fedllm_bench.evaluation.grading", "fedllm_bench.evaluation.benchmarks"


def grades(
    prompts: Sequence[Prompt], answers: Mapping[str, Answer], judgements: Sequence[Judgement], *, benchmark: str
) -> list[Score]:
    """A score for each question and turn, the mean over repeats; every one unscored where nothing was judged."""
    if not judgements:
        turns = {p.item_id: range(1, len(p.turns) + 1) for p in prompts}
        return [
            Score(item, None, "no judge", cluster=item, group={"turn": str(turn)})
            for item, all_turns in turns.items()
            for turn in all_turns
        ]
    found: list[Score] = importlib.import_module(GRADING).scores_of(prompts, answers, judgements, benchmark=benchmark)
    return found


def declared_version(benchmark: str) -> str:
    """The version that the suite declares for a benchmark; "" for one that it does not know."""
    if importlib.util.find_spec(BENCHMARKS) is None:
        return ""
    declared = importlib.import_module(BENCHMARKS).BENCHMARKS
    return str(declared[benchmark].version) if benchmark in declared else ""
