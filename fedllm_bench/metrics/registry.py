"""The metrics by name. To add one: an object with these members, and a line in METRICS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedllm_bench.metrics.base import MetricInfo, Score
from fedllm_bench.metrics.items import HeldoutItem
from fedllm_bench.metrics.likelihood import HeldoutLoss, MiniChoice
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.settings import EvalSettings
from fedllm_bench.training.model import LoraModel


class Metric(Protocol):
    """Scores of held-out items under the adapter that is attached to the model when it is called.

    `needs_probes`: only for the mini world's questions, whose tasks and right answers are known.
    """

    @property
    def info(self) -> MetricInfo: ...
    @property
    def needs_probes(self) -> bool: ...
    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]: ...


LOSS = HeldoutLoss.info.name  # the metric of each client over rounds and after personalisation
METRICS: dict[str, Metric] = {metric.info.name: metric for metric in (HeldoutLoss(), MiniExact(), MiniChoice())}
