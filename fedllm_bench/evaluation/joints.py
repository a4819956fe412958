"""Where scoring meets the judges: their grades, looked up when called, so that rules need none of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from fedllm_bench.evaluation.records import Answer, Judgement, Prompt
from fedllm_bench.metrics.base import Score

GRADING = "fedllm_bench.evaluation.grading"


def grades(
    prompts: Sequence[Prompt], answers: Mapping[str, Answer], judgements: Sequence[Judgement], *, benchmark: str
) -> list[Score]:
    """A score for each question and turn, the mean over repeats; every one unscored where nothing was judged."""
    if not any(judgement.order == "" for judgement in judgements):  # pairs are for comparing two sides
        return [
            Score(prompt.item_id, None, "no judge", cluster=prompt.item_id, group={"turn": str(turn)})
            for prompt in prompts
            for turn in range(1, len(prompt.turns) + 1)
        ]
    scores_of = importlib.import_module(GRADING).scores_of
    found: list[Score] = scores_of(prompts, list(answers.values()), judgements, benchmark=benchmark)
    return found
