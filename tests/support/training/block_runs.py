"""Clients in one pass and one by one, and how far they lie apart."""

from __future__ import annotations

from tiny import (
    client_task,
    random_part,
    random_tree,
)

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Local
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel

ROWS = {0: range(5), 1: range(5, 8), 2: range(8, 20), 3: range(20, 22)}


STEPS = {0: 3, 1: 1, 2: 4, 3: 0}


PART = random_part(seed=11, num_rows=22)


GROUPINGS = ([[0, 1, 2, 3]], [[2, 0], [3, 1]], [[3, 2, 1, 0]], [[1], [0, 2], [3]])


def start_of(model: LoraModel) -> Tree:
    return random_tree(initial_adapter(model.layers, rank=4, seed=0), seed=6, scale=0.1)


def tasks_of(
    method: FedAvg, start: Tree, local: Local, clients=tuple(ROWS), steps=STEPS, part=PART
) -> list[ClientTask]:
    """Clients of unequal sizes and numbers of steps; a state is as after an earlier round."""
    tasks = []
    for k in clients:
        state = {key: random_tree(tree, seed=20 + k) for key, tree in method.client_init(start).items()}
        if method.changes("mixture"):
            state = {key: {name: t.softmax(0) for name, t in tree.items()} for key, tree in state.items()}  # shares
        tasks.append(client_task(k, part, ROWS[k], local, steps=steps[k], state=state))
    return tasks


def planned_steps(method: FedAvg) -> list[int]:
    """Local steps of each client, over all phases of its round."""
    return [sum(len(phase.steps) for phase in method.phases(steps)) for steps in STEPS.values()]


def gap(a: ClientResult, b: ClientResult) -> float:
    """The largest difference in anything that two results hold of numbers."""
    assert (a.client, a.client_id, a.num_examples, a.failure) == (b.client, b.client_id, b.num_examples, b.failure)
    assert a.upload.keys() == b.upload.keys()
    assert a.state.keys() == b.state.keys()
    pairs = [(a.upload[key], b.upload[key]) for key in a.upload] + [(a.state[key], b.state[key]) for key in a.state]
    differences = [(t - other[name]).abs().max().item() for one, other in pairs for name, t in one.items()]
    return max(differences, default=0.0)
