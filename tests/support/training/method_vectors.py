"""Methods on plain vectors, for comparison with a transcription of their papers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from papers import CHOSEN, LR, NUM_CLIENTS, NUM_ROWS, STEPS, Quadratic
from tiny import CPU, client_task, random_part, settings
from torch import Tensor

from fedllm_bench.common.trees import Tree
from fedllm_bench.methods.base import ClientState, FedAvg
from fedllm_bench.methods.wrapped import Wrapped
from fedllm_bench.training import block
from fedllm_bench.training.aggregation import Gathered, Mean
from fedllm_bench.training.steps import mixing, zeroth_order

SGD = settings(optimizer="sgd", lr=LR, clip=1e9, weight_decay=0.0)


NO_MODEL: Any = SimpleNamespace(device=CPU, student=None)  # gradients come from elsewhere


def core(method: FedAvg) -> FedAvg:
    """The method without its wrappers."""
    while isinstance(method, Wrapped):
        method = method.inner
    return method


def as_tree(vector: Tensor) -> Tree:
    return {"w": vector[:2].clone(), "b": vector[2:].clone().view(3, 1)}


def as_vector(tree: Tree) -> Tensor:
    return torch.cat([tree["w"], tree["b"].view(-1)])


def run_suite(method: FedAvg, f: Quadratic, x: Tensor, patch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The suite's training loop, mean and update; `f` gives gradients and losses. Server and clients at the end."""

    def gradients(model, layout, y_KP, tasks, *rest):
        rows = [f.grad(task.client, as_vector(layout.unpack(y))) for task, y in zip(tasks, y_KP, strict=True)]
        return [1.0] * len(tasks), torch.stack([layout.pack(as_tree(row)) for row in rows])

    def losses(step, y_KP):
        pairs = zip(step.tasks, y_KP, strict=True)
        return torch.stack([f.loss(task.client, as_vector(step.layout.unpack(y))) for task, y in pairs])

    def rows(step, y_KP, add):
        """One row of each client, of the loss of `f`."""
        every = torch.arange(len(step.tasks))

        def losses_of(y_KP):
            pairs = zip(step.tasks, y_KP, strict=True)
            return torch.stack([f.loss(task.client, as_vector(step.layout.unpack(y))) for task, y in pairs])

        add(every.tolist(), every, torch.ones_like(every), losses_of)

    patch.setattr(mixing, "over_rows", rows)
    patch.setattr(block, "_step_gradients", gradients)
    patch.setattr(zeroth_order, "step_losses", losses)
    part = random_part(seed=0, num_rows=20)
    server, states, path = method.init(as_tree(x)), dict[int, ClientState](), []
    for chosen in CHOSEN:
        tasks = [
            client_task(
                k,
                part,
                range(NUM_ROWS[k]),
                SGD,
                steps=STEPS[k],
                state=states.get(k, method.client_init(server.params)),
            )
            for k in chosen
        ]
        mean, gathered = Mean({}, {}), Gathered()
        for result in block.train_block(NO_MODEL, method, method.broadcast(server), tasks, SGD):
            states[result.client] = result.state
            received = method.receive(server, result.upload)
            weight = result.num_examples if method.weighting == "examples" else 1.0
            mean = mean.add(replace(result, upload=received), weight)
            gathered = gathered.add(received, weight)
        expected = method.expected_clients()
        whole = method.combine(server, *vars(gathered).values()) if method.needs_all else mean.value(expected)
        server = method.update(server, whole, (expected or len(chosen)) / NUM_CLIENTS)
        path.append(as_vector(server.params))
    clients = [
        method.serve(server.params, states.get(k, method.client_init(server.params)) | method.tell(server, k))
        for k in range(NUM_CLIENTS)
    ]
    return path, [as_vector(tree) for tree in clients]
