"""The weighted mean of what clients sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedllm_bench.common.trees import Tree, tmap
from fedllm_bench.methods.base import Upload
from fedllm_bench.training.block import ClientResult


@dataclass(frozen=True)
class Mean:
    """A running weighted sum of uploads: one upload in memory, however many clients."""

    total: Mapping[str, Tree]
    weights: Mapping[str, float]

    def add(self, result: ClientResult, weight: float) -> Mean:
        total, weights = dict(self.total), dict(self.weights)
        for key, tree in result.upload.items():
            # control variates and the like must be uniform means, whatever the weighting of "delta"
            w = weight if key == "delta" else 1.0
            scaled = {name: tensor * w for name, tensor in tree.items()}
            total[key] = tmap(lambda t, u: t + u, total[key], scaled) if key in total else scaled
            weights[key] = weights.get(key, 0.0) + w
        return Mean(total, weights)

    def value(self, expected_clients: float | None = None) -> Upload:
        """The mean, or the sum over `expected_clients`; zero where no client had an example to count by."""
        return {
            key: {name: tensor / (expected_clients or self.weights[key] or 1.0) for name, tensor in tree.items()}
            for key, tree in self.total.items()
        }
