"""How many workers fit on a cluster, and what each of them takes of a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedllm_bench.config.run import Ray

Nodes = Sequence[dict[str, Any]]  # of Connection.nodes


@dataclass(frozen=True)
class Room:
    """Workers of so many `threads` where they are `on_gpu` not; else each has a share of a GPU."""

    settings: Ray
    threads: int
    on_gpu: bool

    @classmethod
    def on(cls, nodes: Nodes, settings: Ray, threads: int) -> Room:
        """On GPUs where there are any, unless `ray.gpus_per_worker=0`."""
        return cls(settings, threads, settings.gpus_per_worker > 0 and any(node["GPU"] for node in nodes))

    def workers(self, nodes: Nodes) -> int:
        """As many as fit, or as were asked for."""
        if self.on_gpu:
            room = sum(int(node["GPU"] / self.settings.gpus_per_worker + 1e-6) for node in nodes)
        else:
            room = sum(int(node["CPU"] // self._cores(nodes)) for node in nodes)
        return min(room, self.settings.workers or room)

    def needs(self, nodes: Nodes) -> dict[str, Any]:
        """Of one worker, as options of Ray's."""
        if self.on_gpu:
            return {"num_cpus": 0, "num_gpus": self.settings.gpus_per_worker}
        return {"num_cpus": self._cores(nodes), "num_gpus": 0}

    def _cores(self, nodes: Nodes) -> int:
        """Cores for each worker on a CPU: its threads, but no more than some node has."""
        return max(1, min(self.threads, int(max((node["CPU"] for node in nodes), default=0))))
