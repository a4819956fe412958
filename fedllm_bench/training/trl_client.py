"""What a method does to one client while a foreign trainer moves it: the hooks, between backward and optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedllm_bench.common.trees import Tree, moved_to, tmap, zeros_like
from fedllm_bench.config.run import Local
from fedllm_bench.methods.base import ClientState, FedAvg, Message, Upload
from fedllm_bench.training.client_round import ClientResult, ClientTask, own_state, upload_failure

CPU = torch.device("cpu")


class NotFinite(Exception):
    """A loss or a gradient is not finite; the text is the client's failure."""


@dataclass
class TrainedClient:
    """One client during local training; `y` are the model's own parameters, which the trainer's optimiser moves.

    `message` and `known`, the client's state and what it was told, lie on the model's device.
    """

    method: FedAvg
    message: Message
    known: ClientState
    local: Local
    y: dict[str, nn.Parameter]
    losses: list[float] = field(default_factory=list)
    grad_sum: Tree = field(default_factory=dict)
    step_loss: float = 0.0
    done: int = 0  # local steps of earlier phases of the round

    def values(self) -> Tree:
        return {name: p.detach().clone() for name, p in self.y.items()}

    def after_backward(self, loss: Tensor) -> None:
        """Note the loss of a micro-batch, which is over the counted tokens of the whole step."""
        self.step_loss += float(loss)

    def before_clipping(self) -> None:
        """Correct the gradient of a whole step in place. Raises :class:`NotFinite`."""
        grads = {name: _gradient(p) for name, p in self.y.items()}
        if not (math.isfinite(self.step_loss) and all(bool(torch.isfinite(g).all()) for g in grads.values())):
            number = self.done + len(self.losses) + 1
            raise NotFinite(f"loss {self.step_loss} or its gradient is not finite at local step {number}")
        self.losses.append(self.step_loss)
        self.step_loss = 0.0
        self.grad_sum = tmap(torch.add, self.grad_sum or zeros_like(grads), grads)
        corrected = self.method.correct(grads, self.values(), self.message, self.known)
        for name, p in self.y.items():
            p.grad = corrected[name]

    def after_step(self) -> None:
        """Once the optimiser has moved `y`."""
        put(self.y, self.method.after_step(self.values(), self.message, self.known, self.local.lr))

    def result(self, task: ClientTask, failure: str | None) -> ClientResult:
        state, upload = task.state, Upload()
        if failure is None:
            steps, y = len(task.steps), self.values()
            mean_grad = tmap(lambda g: g / max(steps, 1), self.grad_sum or zeros_like(y))
            known, upload = self.method.finish(self.message, self.known, y, mean_grad, steps, self.local.lr)
            state = own_state(task, known)
            failure = upload_failure(upload)
        if failure is not None:
            state, upload = task.state, {}
        return ClientResult(
            client=task.client,
            client_id=task.client_id,
            upload=moved_to(CPU, upload),
            state=moved_to(CPU, state),
            num_examples=len(task.row_numbers),
            losses=tuple(self.losses),
            failure=failure,
        )


def adapter_parameters(peft_model: Any) -> dict[str, nn.Parameter]:
    """The trainable tensors of a PEFT model under the names of its files, which are those of our trees."""
    named = peft_model.named_parameters()
    return {_name_in_file(name): p for name, p in named if p.requires_grad}


def _name_in_file(name: str) -> str:
    name = name.replace(".default.weight", ".weight")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")  # of DoRA


def put(parameters: dict[str, nn.Parameter], tree: Tree) -> None:
    """Write `tree` into the parameters; a :class:`ValueError` where the names differ."""
    with torch.no_grad():
        tmap(lambda p, t: p.copy_(t), parameters, tree)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """A copy of the gradient; zero where none arrived."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
