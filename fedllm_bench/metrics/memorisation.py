"""What a model remembers of the rows that it was trained on: canaries, and membership by loss.

Exposure: Carlini et al., 2019 (arXiv:1802.08232), Section 4.4, by rank among R random fillings that were never planted:

    exposure = log2(R + 1) - log2(rank of the planted filling by its loss)

Membership inference by a threshold on the loss: Yeom et al., 2018 (arXiv:1709.01604), Section 3.4. Members are training
rows, non-members held-out rows of the same client, as many of each. docs/memorisation.md says what that can tell.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from fedllm_bench.data.rows import Task
from fedllm_bench.data.tokens import encode
from fedllm_bench.metrics.items import HeldoutItem, ItemPart, owners_of, unscored
from fedllm_bench.metrics.likelihood import answered_by, summed_nll
from fedllm_bench.metrics.running import EvalSettings
from fedllm_bench.scores.score import MetricInfo, Score
from fedllm_bench.training.model.lora_model import LoraModel

MOST_FALSE = 0.01  # of non-members, which `mia_tpr` may take for members
Rule = Callable[[str, float], float | None]
Losses = Sequence[Sequence[float]]  # of each item, in nats: of its own answer, then of others where it has some


class OfMemory(ABC):
    """A metric that is a function of losses of training rows, so that one pass of the model serves all of a `kind`.

    `parts`: the items that it needs. `needs_one_model`: whether all clients must be asked under one adapter.
    """

    info: ClassVar[MetricInfo]
    kind: ClassVar[str]
    parts: ClassVar[tuple[ItemPart, ...]]
    needs_one_model: ClassVar[bool] = False
    needs_probes = False
    task: ClassVar[Task] = "sft"

    @abstractmethod
    def losses(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> Losses:
        """What :meth:`scores` needs of the model; () for an item without tokens."""

    @abstractmethod
    def scores(self, items: Sequence[HeldoutItem], losses: Losses) -> list[Score]:
        """The scores of training rows among `items`; others are what they are compared with."""

    def score(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> list[Score]:
        items = [item for item in items if item.part in self.parts]
        return self.scores(items, self.losses(model, items, settings))


# --- canaries


class OfCanary(OfMemory):
    kind = "canary"
    parts = ("canary",)

    def losses(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> Losses:
        """Of the planted code, then of codes that were planted nowhere, as answers to the same question."""
        rows = [answered_by(item, choice) for item in items for choice in item.choices]
        encoded, owners = encode(rows, model.tokenizer, settings.template), [row.client_id for row in rows]
        sums = iter(summed_nll(model, encoded, settings.batch_tokens, settings.batches, owners))
        return [[next(sums) for _ in item.choices] for item in items]

    def scores(self, items: Sequence[HeldoutItem], losses: Losses) -> list[Score]:
        return [self._score(item, own, others) for item, (own, *others) in zip(items, losses, strict=True)]

    def _score(self, item: HeldoutItem, own: float, others: Sequence[float]) -> Score:
        is_finite = math.isfinite(own) and all(map(math.isfinite, others))  # else the model diverged
        rank = 1 + below(own, others)
        return Score(
            item.row.row_id,
            self.value(rank, len(others)) if is_finite else math.nan,
            evidence={"rank": rank, "of": len(others) + 1, "nll": round(own, 4)} if is_finite else {},
            cluster=item.row.client_id,
            group=item.group,
        )

    @abstractmethod
    def value(self, rank: float, num_others: int) -> float:
        """The score of a canary: 1 is the rank of the most likely of all fillings."""


def below(own: float, others: Sequence[float]) -> float:
    """How many of `others` are smaller than `own`; an equal one is half."""
    return float(sum((other < own) + (other == own) / 2 for other in others))


class CanaryExposure(OfCanary):
    """Of a model that never saw the canaries, 1.4 bits on the mean: that of a rank drawn at random from 256."""

    info = MetricInfo(
        name="canary_exposure",
        version="1",
        unit="bits",
        higher_is_better=False,
        description="exposure of planted secrets, by rank among 256; 1.42 by chance, 8 at most",
    )

    def value(self, rank: float, num_others: int) -> float:
        return math.log2(num_others + 1) - math.log2(rank)


class CanaryAuc(OfCanary):
    """Share of never planted fillings that are less likely than the planted one; 0.5 is chance, whatever the model."""

    info = MetricInfo(
        name="canary_auc",
        version="1",
        unit="share",
        higher_is_better=False,
        description="planted secret is more likely than a random one; 0.5 is chance",
    )

    def value(self, rank: float, num_others: int) -> float:
        return 1 - (rank - 1) / num_others


# --- membership by loss


class OfMembership(OfMemory):
    kind = "membership"
    parts = ("heldout", "train")

    def losses(self, model: LoraModel, items: Sequence[HeldoutItem], settings: EvalSettings) -> Losses:
        """The mean loss of a token of each row."""
        scored = [item for item in items if item.tokens is not None]
        rows, owners = [item.tokens for item in scored if item.tokens is not None], owners_of(scored)
        sums = iter(summed_nll(model, rows, settings.batch_tokens, settings.batches, owners))
        return [() if item.tokens is None else (next(sums) / item.tokens.num_counted,) for item in items]

    def scores(self, items: Sequence[HeldoutItem], losses: Losses) -> list[Score]:
        others: dict[str, list[float]] = defaultdict(list)
        for item, of_item in zip(items, losses, strict=True):
            if item.part == "heldout":
                others[item.row.client_id] += of_item
        value_of = self.rule(others)
        return [
            self._score(item, of_item, value_of(item.row.client_id, of_item[0]) if of_item else None)
            for item, of_item in zip(items, losses, strict=True)
            if item.part == "train"
        ]

    def _score(self, item: HeldoutItem, of_item: Sequence[float], value: float | None) -> Score:
        blank = unscored(item, "no held-out row to compare it with" if of_item else "no token within the length")
        if value is None:
            return blank
        evidence = {"loss": round(of_item[0], 4)} if math.isfinite(of_item[0]) else {}
        return Score(item.row.row_id, value, evidence=evidence, cluster=item.row.client_id, group=item.group)

    @abstractmethod
    def rule(self, others: Mapping[str, Sequence[float]]) -> Rule:
        """What gives a training row's score from its client and its loss; `others` are losses of non-members."""


class MembershipAuc(OfMembership):
    """Share of a client's held-out rows with a larger loss: its mean over the training rows of the client is the AUC
    of telling these from those by their loss.
    """

    info = MetricInfo(
        name="mia_auc",
        version="1",
        unit="share",
        higher_is_better=False,
        description="AUC of membership by loss, training against held-out rows of a client; 0.5 is chance",
    )

    def rule(self, others: Mapping[str, Sequence[float]]) -> Rule:
        def placed(client: str, loss: float) -> float | None:
            own = others.get(client, ())
            if not own:
                return None
            is_finite = math.isfinite(loss) and all(map(math.isfinite, own))
            return 1 - below(loss, own) / len(own) if is_finite else math.nan

        return placed


class MembershipTpr(OfMembership):
    """Whether a row's loss is below all but 1% of the losses of all held-out rows; a model without memory has 1%."""

    info = MetricInfo(
        name="mia_tpr",
        version="1",
        unit="share",
        higher_is_better=False,
        description="training rows found by their loss, where 1% of held-out rows are taken for such; 0.01 is chance",
    )
    needs_one_model = True

    def rule(self, others: Mapping[str, Sequence[float]]) -> Rule:
        losses = sorted(loss for own in others.values() for loss in own)
        is_finite = all(map(math.isfinite, losses))
        threshold = losses[int(MOST_FALSE * len(losses))] if losses and is_finite else math.nan

        def is_found(client: str, loss: float) -> float | None:
            if not losses:
                return None
            return float(loss < threshold) if is_finite and math.isfinite(loss) else math.nan

        return is_found
