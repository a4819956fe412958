"""A cluster of Ray on this machine, of nodes with one core each, that come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedllm_bench.methods.base import Message
from fedllm_bench.training.client_round import ClientResult, MapBlocks
from fedllm_bench.training.cluster.connection import ADDRESS, ALONE
from fedllm_bench.training.cluster.pool import POOLS, close_pool

STORE_BYTES = 80 * 2**20  # of each node's store; Ray takes no less than 75 MiB


@contextmanager
def cluster_of(num_nodes: int) -> Iterator[Any]:
    """Ray's own cluster utility; RAY_ADDRESS names it inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ALONE, "RAY_AUTH_TOKEN": "0" * 32}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=_node())
        patch.setenv(ADDRESS, cluster.address)
        try:
            for _ in range(num_nodes - 1):
                add_node(cluster)
            yield cluster
        finally:
            import ray

            close_pool()
            ray.shutdown()
            cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Ray gives up after 30 seconds, which a busy machine needs now and then."""
    for last in (False, False, True):
        try:
            cluster.add_node(wait=False, **_node())
        except Exception as error:  # Ray raises a plain one
            if last or "timed out during startup" not in str(error):
                raise
        else:
            return


def _node() -> dict[str, Any]:
    return {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}


@dataclass
class Killing:
    """An engine that loses a worker in the middle of some rounds, and a node in others; another node joins.

    `workers` and `nodes` are the numbers of results, over all rounds, after which one is killed.
    """

    real: MapBlocks
    cluster: Any
    workers: frozenset[int]
    nodes: frozenset[int]
    seen: int = 0
    killed: list[str] = field(default_factory=list)

    def __call__(self, message: Message, blocks: Iterable[Any], local: Any) -> Iterator[list[ClientResult]]:
        for results in self.real(message, blocks, local):
            self.seen += 1
            if self.seen in self.workers:
                self._kill_worker()
            if self.seen in self.nodes:
                self._swap_node()
            yield results

    def _kill_worker(self) -> None:
        """One that is at work, where there is one."""
        seats = sorted((seat for seat in POOLS[0].seats if seat.about), key=lambda seat: seat.work is None)
        os.kill(seats[0].about.pid, signal.SIGKILL)
        self.killed.append("worker")

    def _swap_node(self) -> None:
        oldest = min(self.cluster.worker_nodes, key=lambda node: node.unique_id)
        self.cluster.remove_node(oldest, allow_graceful=False)
        add_node(self.cluster)
        self.killed.append("node")
