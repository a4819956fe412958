"""Clients that attack: who they are, and what they send in the place of their uploads (docs/robust.md).

With u what a method would send, all its tensors, and c `attack.scale`:

    noise        Normal(0, c^2 rms(u)^2) in each tensor: as long as u for c = 1, in a random direction.
                 Blanchard et al., 2017 (arXiv:1703.02757), whose Gaussian attackers have a fixed variance
    sign_flip    -c u.     Li et al., 2019 (arXiv:1811.03761)
    scaled       c u.      Bagdasaryan et al., 2020 (arXiv:1807.00459), model replacement; so are the
                 uploads of attackers whose rows are poisoned, whose c is 1 unless given

An attacker trains as everyone does, keeps its state, and changes what it sends last: what travels is rounded after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree
from fedllm_bench.common.whole_numbers import whole_number
from fedllm_bench.config.config_robust import Attack
from fedllm_bench.methods.base import ClientState, Message, Server, Upload
from fedllm_bench.methods.wrapped import Wrapped

ATTACKS, WHO, HOW, ROWS = 40, 0, 1, 2  # purpose of the random streams, and its parts; faults have 10
OF_ROWS = ("trigger", "harmful")  # attacks by poisoned rows
TOLD = "attack"


@dataclass(frozen=True, kw_only=True)
class Attacked(Wrapped):
    """`inner` with uploads of the clients with the numbers `attackers` changed by the attack `kind`."""

    kind: str
    scale: float
    attackers: frozenset[int]
    seed: int

    def tell(self, server: Server, client: int) -> Message:
        """The seed of the client's noise in this round; 0 for a client that does not attack."""
        stream = np.random.default_rng([ATTACKS, HOW, self.seed, server.round, client]).integers(1, 2**63)
        number = torch.tensor(int(stream) if client in self.attackers else 0)
        return {**self.inner.tell(server, client), TOLD: {"stream": number}}

    def travels(self, message: Message, told: Message) -> Message:
        """Without what makes an attacker: nobody sends that."""
        return self.inner.travels(message, {key: tree for key, tree in told.items() if key != TOLD})

    def finish(
        self, message: Message, client: ClientState, y: Tree, mean_grad: Tree, steps: int, lr: float
    ) -> tuple[ClientState, Upload]:
        state, upload = self.inner.finish(message, client, y, mean_grad, steps, lr)
        stream = int(client[TOLD]["stream"])
        return state, self._sent(upload, stream) if stream else upload

    def _sent(self, upload: Upload, stream: int) -> Upload:
        if self.kind == "noise":
            source = torch.Generator().manual_seed(stream)  # on the CPU: the same noise on every device
            return {key: {n: self._noise(t, source) for n, t in tree.items()} for key, tree in upload.items()}
        factor = -self.scale if self.kind == "sign_flip" else self.scale
        return {key: {name: tensor * factor for name, tensor in tree.items()} for key, tree in upload.items()}

    def _noise(self, tensor: Tensor, source: torch.Generator) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=source, dtype=tensor.dtype).to(tensor.device)
        return drawn * (self.scale * tensor.square().mean().sqrt())


def changes_uploads(attack: Attack) -> bool:
    """Whether attackers send anything but what their rows give."""
    return attack.kind not in ("none", *OF_ROWS) or (attack.kind in OF_ROWS and attack.scale != 1)


def attackers_of(attack: Attack, seed: int, num_clients: int) -> tuple[int, ...]:
    """The numbers of the attackers among the clients of a split, in order; () where nobody attacks.

    A share is rounded to a number of clients, at least one, and dealt by the seed: a larger share adds attackers and
    removes none. Raises a :class:`UserError` for clients that do not exist.
    """
    if attack.kind == "none":
        return ()
    found = _named(attack.clients)
    if isinstance(found, float):
        count = max(1, round(found * num_clients))
        dealt = np.random.default_rng([ATTACKS, WHO, seed]).permutation(num_clients)
        return tuple(sorted(dealt[:count].tolist()))
    if beyond := [number for number in found if number >= num_clients]:
        raise UserError(
            f"attack.clients={attack.clients}: there is no client {beyond[0]}, the split has {num_clients} clients, "
            f"numbered from 0 to {num_clients - 1}"
        )
    return found


def _named(text: str) -> tuple[int, ...] | float:
    """Numbers of clients, or a share of them. Raises a :class:`UserError` for anything else."""
    numbers = [whole_number(word.strip()) for word in text.split(",")]
    if None not in numbers:
        return tuple(sorted({number for number in numbers if number is not None}))
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if "." not in text or not 0 < share <= 1:
        raise UserError(
            f"attack.clients={text or 'nothing'}: give numbers of clients, as in --set attack.clients=0,3, or a share "
            "of them above 0 and up to 1.0, as in --set attack.clients=0.2"
        )
    return share


def poisoned_rows(attack: Attack, seed: int, rows: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """Attacker -> which of its `rows` (so many by client) are poisoned, at least one; by the seed and the client."""
    found = {}
    for client, count in rows.items():
        order = np.random.default_rng([ATTACKS, ROWS, seed, client]).permutation(count)
        found[client] = tuple(sorted(order[: max(1, round(attack.rows * count))].tolist()))
    return found
