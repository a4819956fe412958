"""Exact match on the mini world's questions: right answers are known, so no judge is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedllm_bench.data.rows import Task
from fedllm_bench.metrics.items import HeldoutItem, owners_of
from fedllm_bench.metrics.running import EvalSettings, answers
from fedllm_bench.scores.score import MetricInfo, Score
from fedllm_bench.training.model.lora_model import LoraModel


@dataclass(frozen=True)
class MiniExact:
    """Whether the greedy answer is the right one, letter by letter."""

    info = MetricInfo(
        name="mini_exact",
        version="1",
        unit="share",
        higher_is_better=True,
        description="greedy answer equals the right one",
    )
    needs_probes = True
    task: ClassVar[Task] = "sft"

    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]:
        asked = [item for item in items if item.task]
        given = answers(model, [item.row.messages[:-1] for item in asked], settings, owners_of(asked))
        return [_exact(item, answer) for item, answer in zip(asked, given, strict=True)]


def _exact(item: HeldoutItem, answer: str) -> Score:
    right = item.row.completion.strip()
    return Score(
        item.row.row_id,
        float(answer == right),
        evidence={"prompt": item.row.prompt, "answer": answer, "right": right},
        cluster=item.row.client_id,
        group=item.group,
    )
