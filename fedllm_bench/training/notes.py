"""What the record of a round says of its uploads where the config asks for more than their size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.accounting import spent_epsilon
from fedllm_bench.methods.base import FedAvg, Server, Upload
from fedllm_bench.methods.privacy import Private, joint_norm
from fedllm_bench.methods.wrapped import find
from fedllm_bench.training.aggregation import aggregation_error


@dataclass
class UploadNotes:
    """Notes on the uploads of one round; nothing is kept unless privacy or the aggregation error is on."""

    config: RunConfig
    method: FedAvg
    num_clients: int
    norms: list[float] = field(default_factory=list)
    deltas: list[Tree] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, sent: Upload, received: Upload, weight: float) -> None:
        """Note what a client sent, and what the server counts of it."""
        if self.config.privacy.clip is not None:
            self.norms.append(joint_norm(sent))
        if self.config.communication.aggregation_error:
            self.deltas.append(received["delta"])
            self.weights.append(weight)

    def record(self, server: Server) -> dict[str, Any]:
        """Keys for the record of the round that starts from `server`."""
        private = find(self.method, Private)
        return {**(self._privacy(private, server.round + 1) if private else {}), **self._aggregation(server.params)}

    def _privacy(self, private: Private, rounds: int) -> dict[str, Any]:
        """Epsilon after all rounds so far (null without noise), and the norms before clipping."""
        rate, delta = private.expected / self.num_clients, self.config.privacy.delta
        clipped = sum(norm > private.clip for norm in self.norms)
        return {
            "epsilon": spent_epsilon(private.noise_multiplier, delta, rate, rounds),
            "upload_norms": self.norms,
            "clipped": clipped / len(self.norms) if self.norms else None,
        }

    def _aggregation(self, params: Tree) -> dict[str, Any]:
        """The error of averaging A and B apart: its norm, and that over the norm of the mean of the B_k A_k."""
        if not self.config.communication.aggregation_error:
            return {}
        if not sum(self.weights):
            return {"aggregation_error_norm": None, "aggregation_error": None}
        error, whole = aggregation_error(params, self.deltas, self.weights)
        scale = self.config.lora.alpha / self.config.lora.rank
        return {"aggregation_error_norm": scale * error, "aggregation_error": error / whole if whole else 0.0}
