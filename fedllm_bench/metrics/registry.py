"""The metrics by name. To add one: an object with these members, and a line in METRICS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fedllm_bench.data.rows import Task
from fedllm_bench.metrics.attack import AttackMisfire, AttackSuccess
from fedllm_bench.metrics.likelihood import HeldoutLoss, MiniChoice
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.plugin_errors import errors_of_metric
from fedllm_bench.metrics.preference import (
    MiniRefusal,
    OfMargin,
    PreferenceAccuracy,
    PreferenceLoss,
    PreferenceMargin,
    margins,
)
from fedllm_bench.metrics.running import EvalSettings
from fedllm_bench.metrics.user_answers import Chrf, EditF05, EndedByItself, OfAnswer, OverCopy, answers_to
from fedllm_bench.scores.checked import scores_of_rows
from fedllm_bench.scores.score import MetricInfo, Score
from fedllm_bench.training.model.lora_model import LoraModel


@runtime_checkable
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


@dataclass(frozen=True)
class OfPlugin:
    """A metric of the plugin in the file `path`, which the version in its `info` names too."""

    metric: Metric
    info: MetricInfo
    path: str

    @property
    def needs_probes(self) -> bool:
        return self.metric.needs_probes

    @property
    def task(self) -> Task:
        return self.metric.task

    def score(self, model: LoraModel, items: Sequence[Any], settings: EvalSettings) -> list[Score]:
        """Raises a :class:`UserError` where the plugin fails, or gives anything but one score for each item."""
        with errors_of_metric(self.info, self.path):
            found = self.metric.score(model, items, settings)
        return scores_of_rows(found, self.info, [(item.row.client_id, item.row.row_id) for item in items])


ALL: tuple[Metric, ...] = (
    HeldoutLoss(),
    MiniExact(),
    MiniChoice(),
    PreferenceLoss(),
    PreferenceAccuracy(),
    PreferenceMargin(),
    MiniRefusal(),
    Chrf(),
    OverCopy(),
    EditF05(),
    EndedByItself(),
    AttackSuccess(),
    AttackMisfire(),
)
METRICS: dict[str, Metric] = {metric.info.name: metric for metric in ALL}
OF_ANSWER = [metric.info.name for metric in ALL if isinstance(metric, OfAnswer)]


def together(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The metrics in groups that :func:`score_group` scores in one pass of the model; in the order of `names`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        metric = METRICS[name]
        shared = "margin" if isinstance(metric, OfMargin) else "answer" if isinstance(metric, OfAnswer) else name
        groups.setdefault(shared, []).append(name)
    return [tuple(group) for group in groups.values()]


def shares_passes(names: Iterable[str]) -> bool:
    """Whether clients with adapters of their own can share passes, and passes be made by other processes.

    Not where a plugin scores: it knows of one adapter at a time, and may do anything with the model.
    """
    return not any(isinstance(METRICS[name], OfPlugin) for name in names)


# Metric -> seconds for an item's tokens in those of one pass over them; others take one. Measured on the mini world;
# answers of 64 tokens with a model of 270M parameters.
PASSES = {
    "mini_exact": 1.3,
    "mini_choice": 2.7,
    "mini_refusal": 0.8,
    "attack_success": 1.3,
    "attack_misfire": 1.3,
} | dict.fromkeys(OF_ANSWER, 3.0)


def work_of(group: Sequence[str], items: Sequence[Any], settings: EvalSettings, *, has_adapter: bool) -> float:
    """About how many tokens a group takes through the model: for a bar, so that only its pace hangs on it."""
    if not has_adapter and any(isinstance(METRICS[name], OfMargin) for name in group):
        return 0.0  # of the base alone every margin is 0
    tokens = sum(len(part.ids) for item in items if item.tokens is not None for part in item.tokens.sequences)
    return float(tokens * max(PASSES.get(name, 1.0) for name in group))


def score_group(
    group: Sequence[str], model: LoraModel, items: Sequence[Any], settings: EvalSettings
) -> dict[str, list[Score]]:
    """The scores under each metric of a group, equal to those of each metric by itself."""
    if of_margin := {name: metric for name in group if isinstance(metric := METRICS[name], OfMargin)}:
        found = margins(model, items, settings)
        return {name: metric.scores(items, found) for name, metric in of_margin.items()}
    if of_answer := {name: metric for name in group if isinstance(metric := METRICS[name], OfAnswer)}:
        asked = [item for item in items if any(metric.asks(item.row) for metric in of_answer.values())]
        given = answers_to(model, asked, settings)
        return {name: metric.scores(asked, given) for name, metric in of_answer.items()}
    return {name: METRICS[name].score(model, items, settings) for name in group}
