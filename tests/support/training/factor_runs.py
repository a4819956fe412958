"""Rounds of a method on adapters of two layers, with quadratics in the place of a model: for transcriptions of papers.

f_k(A, B) = 1/2 sum of curvature (number - target)^2 over what client k has of A (R, I) and B (O, R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from method_vectors import NO_MODEL, SGD
from tiny import client_task, random_part, random_tree

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.adapters.ranks import CutRanks, masked
from fedllm_bench.methods.base import ClientState, FedAvg, Server
from fedllm_bench.methods.wrapped import find
from fedllm_bench.training import block
from fedllm_bench.training.aggregation import Gathered, Mean

CHOSEN = ([0, 1, 2], [0, 1], [0, 2], [0, 1, 2])
NUM_CLIENTS, LR, RANK = 3, 0.1, 3
NUM_ROWS, STEPS = (4, 7, 2), (3, 2, 3)  # of each client
LIKE = {
    "x.lora_A.weight": torch.zeros(RANK, 4),
    "x.lora_B.weight": torch.zeros(5, RANK),
    "y.lora_A.weight": torch.zeros(RANK, 2),
    "y.lora_B.weight": torch.zeros(3, RANK),
}
START = random_tree(LIKE, seed=1, scale=1.0)


def gradient(client: int, y: Tree) -> Tree:
    target, curvature = random_tree(LIKE, seed=30 + client, scale=1.0), random_tree(LIKE, seed=40 + client, scale=1.0)
    return {name: (0.5 + curvature[name].abs()) * (y[name] - target[name]) for name in y}


@dataclass
class Rounds:
    """What came of them: the server after each round, the last states, and each round's uploads by client."""

    servers: list[Server] = field(default_factory=list)
    states: dict[int, ClientState] = field(default_factory=dict)
    uploads: list[dict[int, dict[str, Tree]]] = field(default_factory=list)


def run_factors(method: FedAvg, patch: pytest.MonkeyPatch, chosen: Sequence[Sequence[int]] = CHOSEN) -> Rounds:
    """The suite's training loop, mean and update; only the gradients come from here."""
    ranks = find(method, CutRanks)

    def gradients(model, layout, y_KP, tasks, *rest):
        trees = [gradient(task.client, layout.unpack(y)) for task, y in zip(tasks, y_KP, strict=True)]
        if ranks is not None:  # of rows of zero a model has none
            trees = [masked(t, torch.arange(RANK) < ranks.rank_of(k.client)) for t, k in zip(trees, tasks, strict=True)]
        return [1.0] * len(tasks), torch.stack([layout.pack(tree) for tree in trees])

    patch.setattr(block, "_step_gradients", gradients)
    part, found = random_part(seed=0, num_rows=20), Rounds()
    server = method.init(START)
    for of_round in chosen:
        tasks = []
        for k in of_round:
            state = found.states.get(k, method.client_init(server.params))
            task = client_task(k, part, range(NUM_ROWS[k]), SGD, steps=STEPS[k], state=state)
            tasks.append(replace(task, told=method.tell(server, k)))
        mean, gathered = Mean({}, {}), Gathered()
        found.uploads.append({})
        for result in block.train_block(NO_MODEL, method, method.broadcast(server), tasks, SGD):
            found.states[result.client] = result.state
            found.uploads[-1][result.client] = result.upload
            received = method.receive(server, result.upload)
            weight = result.num_examples if method.weighting == "examples" else 1.0
            mean, gathered = mean.add(replace(result, upload=received), weight), gathered.add(received, weight)
        whole = method.combine(server, *vars(gathered).values()) if method.needs_all else mean.value()
        server = method.update(server, whole, len(of_round) / NUM_CLIENTS)
        found.servers.append(server)
    return found
