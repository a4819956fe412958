"""What a metric says about itself, and what it says about one item."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, Self

# Task of a split -> the metric that is its loss: that of each client over rounds and after personalisation.
LOSSES = {"sft": "heldout", "preference": "preference_loss"}


# Unit -> the lowest and the highest possible value, of units that have both. Ratings come with their own.
CHRF, F_HALF = "chrF, 0 to 100", "F0.5"
SCALES = {"share": (0.0, 1.0), CHRF: (0.0, 100.0), F_HALF: (0.0, 1.0)}


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """`version` changes whenever equal answers could score otherwise; `unit` is that of one item's value."""

    name: str
    version: str
    unit: str
    higher_is_better: bool
    description: str


@dataclass(frozen=True)
class Score:
    """The score of one item. `value` is None where it could not be computed, and `reason` says why.

    `cluster` is the client that the item belongs to, `weight` how much the item counts within its client
    (the number of counted tokens of a row; 1 for an answer that is right or wrong), `group` what it can be
    broken down by (task, language, part). A value that is not finite becomes None here, so that no
    later step can take it for a number. An item is named by (cluster, item_id).
    """

    item_id: str
    value: float | None
    reason: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    cluster: str = ""
    group: dict[str, str] = field(default_factory=dict)
    weight: float = 1.0

    def __post_init__(self) -> None:
        for number in (self.value, self.weight):
            if number is not None and not isinstance(number, float | int | Real):
                raise ValueError(
                    f"item {self.item_id!r} has {number!r:.60}, which is no number; give None and a reason"
                )
        if self.value is not None and not math.isfinite(self.value):
            object.__setattr__(self, "reason", self.reason or f"the value is {self.value}")
            object.__setattr__(self, "value", None)
        if self.value is None and not self.reason:
            raise ValueError(f"item {self.item_id!r} has no value and no reason; say why it is unscored")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"item {self.item_id!r} has weight {self.weight}; it must be finite, 0 or more")

    @property
    def is_scored(self) -> bool:
        """A row of weight 0 has nothing that was counted, so it has no score either."""
        return self.value is not None and self.weight > 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        return cls(**record)


def is_unseen(score: Score) -> bool:
    """Whether the item is of a user without any training row."""
    return score.group.get("part") == "unseen"


def is_seen(score: Score) -> bool:
    return not is_unseen(score)
