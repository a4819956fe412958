"""Metrics of greedy answers to held-out prompts, each against the answer that the user gave.

A loss falls already when a model learns the form of answers: the language, copying, where to stop. These metrics tell
what of an answer is right. `chrf` is how near it comes to the user's, `over_copy` how much nearer than the part of
the prompt that is most like the user's answer would, which needs no model. `edit_f05` looks at corrections alone, and
there at what was changed; what is copied counts nothing. `ended` is the form by itself.

An answer that fills `evaluation.max_new_tokens` is scored as it is. Its text is kept as evidence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import without_input
from fedllm_bench.data.rows import SftRow, Task
from fedllm_bench.metrics.chrf import chrf
from fedllm_bench.metrics.edits import agreement, copied, is_correction
from fedllm_bench.metrics.items import HeldoutItem, owners_of
from fedllm_bench.metrics.running import EvalSettings, GreedyAnswer, greedy_answers
from fedllm_bench.scores.score import CHRF, F_HALF, MetricInfo, Score
from fedllm_bench.training.model.lora_model import LoraModel


def answers_to(
    model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings
) -> dict[tuple[str, str], GreedyAnswer]:
    """(Client, row) -> the greedy answer to all turns before the user's last answer."""
    given = greedy_answers(model, [item.row.messages[:-1] for item in items], settings, owners_of(items))
    return {_key(item): answer for item, answer in zip(items, given, strict=True)}


def _key(item: HeldoutItem) -> tuple[str, str]:
    return item.row.client_id, item.row.row_id


class OfAnswer(ABC):
    """A metric that is a function of a row and the answer to it, so that one answer serves all of them."""

    info: ClassVar[MetricInfo]
    needs_probes = False
    task: ClassVar[Task] = "sft"

    @abstractmethod
    def value(self, row: SftRow, answer: GreedyAnswer) -> tuple[float, Mapping[str, Any]]:
        """The score of an answer, and evidence beside its text."""

    def asks(self, row: SftRow) -> bool:
        """Whether the metric scores this row; rows that it does not score have no entry among its scores."""
        return True

    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]:
        asked = [item for item in items if self.asks(item.row)]
        return self.scores(asked, answers_to(model, asked, settings))

    def scores(self, items: Sequence[HeldoutItem], given: Mapping[tuple[str, str], GreedyAnswer]) -> list[Score]:
        """The scores of items, in their order, whose :func:`answers_to` are known."""
        return [self._score(item, given[_key(item)]) for item in items if self.asks(item.row)]

    def _score(self, item: HeldoutItem, answer: GreedyAnswer) -> Score:
        value, more = self.value(item.row, answer)
        evidence = {"answer": answer.text, "ended": answer.ended, **more}
        return Score(item.row.row_id, value, evidence=evidence, cluster=item.row.client_id, group=item.group)


class Chrf(OfAnswer):
    """chrF2 of a sentence (:func:`fedllm_bench.metrics.chrf.chrf`); a client has the mean over their rows."""

    info = MetricInfo(
        name="chrf",
        version="1",
        unit=CHRF,
        higher_is_better=True,
        description="greedy answer against the user's own",
    )

    def value(self, row: SftRow, answer: GreedyAnswer) -> tuple[float, Mapping[str, Any]]:
        return chrf(answer.text, row.completion), {}


class OverCopy(OfAnswer):
    """chrF of the answer minus that of the part of the user's last turn that is most like the user's own answer.

    The part is chosen with the user's answer in view (:func:`fedllm_bench.metrics.edits.copied`): no way of copying a
    line of the prompt does much better. Above 0 a model says more that is right than a copy does.
    """

    info = MetricInfo(
        name="over_copy",
        version="1",
        unit="points of chrF",
        higher_is_better=True,
        description="chrF of the greedy answer minus that of copying the prompt's nearest part",
    )

    def value(self, row: SftRow, answer: GreedyAnswer) -> tuple[float, Mapping[str, Any]]:
        copy = chrf(copied(_asked(row), row.completion)[0], row.completion)
        return chrf(answer.text, row.completion) - copy, {"copy": copy}


class EditF05(OfAnswer):
    """F0.5 of the words that an answer changes against those that the user changed, on rows that are corrections.

    A row is one where a part of the prompt and the user's answer have most words in common
    (:func:`fedllm_bench.metrics.edits.is_correction`); others have no entry. The F0.5 is of each row, and a client has
    the mean over their corrections, where the field adds up edits over all of them: so every row counts alike, and a
    row without any edit on either side counts as 1, one with edits on one side alone as 0.
    """

    info = MetricInfo(
        name="edit_f05",
        version="1",
        unit=F_HALF,
        higher_is_better=True,
        description="words changed by the greedy answer against those changed by the user, on corrections",
    )

    def asks(self, row: SftRow) -> bool:
        return is_correction(_asked(row), row.completion)

    def value(self, row: SftRow, answer: GreedyAnswer) -> tuple[float, Mapping[str, Any]]:
        source, _ = copied(_asked(row), row.completion)
        found = agreement(source, answer.text, row.completion)
        return found.f_half, asdict(found)


class EndedByItself(OfAnswer):
    """Whether the answer ended by itself; it learns nothing from the user's own answer."""

    info = MetricInfo(
        name="ended",
        version="1",
        unit="share",
        higher_is_better=True,
        description="greedy answer ends by itself within max_new_tokens",
    )

    def value(self, row: SftRow, answer: GreedyAnswer) -> tuple[float, Mapping[str, Any]]:
        return float(answer.ended), {}


def asked_of(metric: OfAnswer, items: Sequence[HeldoutItem]) -> int:
    """How many of the items a metric scores. Raises a :class:`UserError` where it is none."""
    found = sum(metric.asks(item.row) for item in items)
    if not found and items:
        raise UserError(
            f"METRICS={metric.info.name}: it scores none of {len(items)} held-out rows, since no answer repeats most "
            "words of its prompt; leave it out of --metrics"
        )
    return found


def _asked(row: SftRow) -> str:
    """The user's last turn, with the input that goes with it."""
    turns = without_input(row.messages)
    return turns[-2]["content"] if len(turns) > 1 else ""
