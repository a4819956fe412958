"""The metrics by name. To add one: an object with these members, and a line in METRICS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from fedllm_bench.data.rows import Task
from fedllm_bench.metrics.attack import AttackMisfire, AttackSuccess
from fedllm_bench.metrics.items import HELDOUT
from fedllm_bench.metrics.likelihood import HeldoutLoss, MiniChoice
from fedllm_bench.metrics.memorisation import CanaryAuc, CanaryExposure, MembershipAuc, MembershipTpr, OfMemory
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.plugin_errors import errors_of_metric
from fedllm_bench.metrics.preference import (
    LikelihoodAccuracy,
    LikelihoodMargin,
    MiniRefusal,
    OfLikelihood,
    OfMargin,
    OfPair,
    PreferenceAccuracy,
    PreferenceLoss,
    PreferenceMargin,
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
    LikelihoodAccuracy(),
    LikelihoodMargin(),
    MiniRefusal(),
    Chrf(),
    OverCopy(),
    EditF05(),
    EndedByItself(),
    CanaryExposure(),
    CanaryAuc(),
    MembershipAuc(),
    MembershipTpr(),
    AttackSuccess(),
    AttackMisfire(),
)
METRICS: dict[str, Metric] = {metric.info.name: metric for metric in ALL}
OF_ANSWER = [metric.info.name for metric in ALL if isinstance(metric, OfAnswer)]


def together(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The metrics in groups that :func:`score_group` scores in one pass of the model; in the order of `names`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_shared(name), []).append(name)
    return [tuple(group) for group in groups.values()]


def _shared(name: str) -> str:
    """Names the passes that a metric shares with others; its own name where it shares none."""
    if isinstance(metric := METRICS[name], OfMemory):
        return metric.kind
    kinds: dict[str, type] = {"margin": OfMargin, "likelihood": OfLikelihood, "answer": OfAnswer}
    return next((kind for kind, of in kinds.items() if isinstance(metric, of)), name)


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
    tokens = sum(
        len(part.ids) * (len(item.choices) if item.part == "canary" else 1)
        for item in items_of(group, items)
        if item.tokens is not None
        for part in item.tokens.sequences
    )
    return float(tokens * max(PASSES.get(name, 1.0) for name in group))


def items_of(group: Sequence[str], items: Sequence[Any]) -> list[Any]:
    """The items that the metrics of a group need: held-out rows, and training rows for what a model remembers."""
    metric = METRICS[group[0]]
    parts = metric.parts if isinstance(metric, OfMemory) else HELDOUT
    return [item for item in items if item.part in parts]


def needs_one_model(name: str) -> bool:
    """Whether a metric says nothing of clients who answer with adapters of their own."""
    metric = METRICS[name]
    return isinstance(metric, OfMemory) and metric.needs_one_model


def score_group(
    group: Sequence[str], model: LoraModel, items: Sequence[Any], settings: EvalSettings
) -> dict[str, list[Score]]:
    """The scores under each metric of a group, equal to those of each metric by itself."""
    items = items_of(group, items)
    if of_memory := {name: metric for name in group if isinstance(metric := METRICS[name], OfMemory)}:
        losses = next(iter(of_memory.values())).losses(model, items, settings)
        return {name: metric.scores(items, losses) for name, metric in of_memory.items()}
    if of_pair := {name: metric for name in group if isinstance(metric := METRICS[name], OfPair)}:
        found = next(iter(of_pair.values())).margins(model, items, settings)
        return {name: metric.scores(items, found) for name, metric in of_pair.items()}
    if of_answer := {name: metric for name in group if isinstance(metric := METRICS[name], OfAnswer)}:
        asked = [item for item in items if any(metric.asks(item.row) for metric in of_answer.values())]
        given = answers_to(model, asked, settings)
        return {name: metric.scores(asked, given) for name, metric in of_answer.items()}
    return {name: METRICS[name].score(model, items, settings) for name in group}
