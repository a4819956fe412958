"""A metric of your own, in one file: how much shorter or longer the model answers than the user did.

    fedllm-bench bench aya fedavg --profile mini --plugin examples/own_metric.py --metrics heldout,length_gap

It is computed before and after training and for clients alone, with an interval over clients, as the suite's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedllm_bench.data.rows import Task
from fedllm_bench.metrics.items import HeldoutItem
from fedllm_bench.metrics.running import EvalSettings, answers
from fedllm_bench.scores.score import MetricInfo, Score
from fedllm_bench.training.model.lora_model import LoraModel


@dataclass(frozen=True)
class LengthGap:
    """Characters of the model's answer less those of the user's, without sign, as a share of the user's."""

    info = MetricInfo(
        name="length_gap",
        version="1",
        unit="share",
        higher_is_better=False,
        description="|characters of the answer - characters of the user's| / characters of the user's",
    )
    needs_probes = False  # True where a metric is of the mini world's questions alone
    task: ClassVar[Task] = "sft"

    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]:
        """One score for each held-out row, in order. A row that cannot be scored has no value, and a reason."""
        given = answers(model, [item.row.messages[:-1] for item in items], settings)
        return [score_of(item, answer) for item, answer in zip(items, given, strict=True)]


def score_of(item: HeldoutItem, answer: str) -> Score:
    """`cluster` is the client: items of one client are alike, and the interval is over clients."""
    wanted = len(item.row.completion)
    if wanted == 0:
        return Score(item.row.row_id, None, "the user wrote nothing", cluster=item.row.client_id, group=item.group)
    gap = abs(len(answer) - wanted) / wanted
    return Score(item.row.row_id, gap, cluster=item.row.client_id, group=item.group)


METRICS = {"length_gap": LengthGap()}
