"""Scores of one metric, with what must be equal on both sides before they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedllm_bench.scores.intervals import Scale
from fedllm_bench.scores.score import Score


@dataclass(frozen=True, kw_only=True)
class MetricScores:
    """The scores of one metric. `cluster`: what an item's cluster is, "client" or "question".

    `alike`: what else must be equal on both sides, as the split that items are of; name -> value.
    `scale`: the lowest and the highest possible score, where known.
    """

    scores: tuple[Score, ...]
    version: str
    unit: str
    higher_is_better: bool
    cluster: str = "client"
    judge: str = ""
    scale: Scale | None = None
    alike: Mapping[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, str]:
        """What must be equal on both sides."""
        own = {"version": self.version, "unit": self.unit, "judge": self.judge, "unit of resampling": self.cluster}
        return {**self.alike, **own}
