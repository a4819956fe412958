"""The metrics by name. To add one: an object with these members, and a line in METRICS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fedllm_bench.data.rows import Task
from fedllm_bench.metrics.base import MetricInfo, Score
from fedllm_bench.metrics.likelihood import HeldoutLoss, MiniChoice
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.preference import MiniRefusal, PreferenceAccuracy, PreferenceMargin
from fedllm_bench.metrics.settings import EvalSettings
from fedllm_bench.training.model import LoraModel


class Metric(Protocol):
    """Scores of held-out items under the adapter that is attached to the model when it is called.

    `needs_probes`: only for the mini world's questions, whose tasks and right answers are known. `task`: of which
    splits it scores the rows; items are :class:`HeldoutItem` for sft, :class:`PairItem` for preference.
    """

    @property
    def info(self) -> MetricInfo: ...
    @property
    def needs_probes(self) -> bool: ...
    @property
    def task(self) -> Task: ...
    def score(self, model: LoraModel, items: Sequence[Any], settings: EvalSettings) -> list[Score]: ...


LOSS = HeldoutLoss.info.name  # the metric of each client over rounds and after personalisation
ALL: tuple[Metric, ...] = (
    HeldoutLoss(),
    MiniExact(),
    MiniChoice(),
    PreferenceAccuracy(),
    PreferenceMargin(),
    MiniRefusal(),
)
METRICS: dict[str, Metric] = {metric.info.name: metric for metric in ALL}
