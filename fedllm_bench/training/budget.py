"""A budget of bytes as a rule of a run: `communication.budget_mb`, up and down together.

The boards of FlowerTune LLM (arXiv:2506.02961) allow 200,000 MB. Their code adds up all messages of a round, counts a
MB as 1024 * 1024 bytes, and warns when the sum is beyond. Here a run ends before the round that would pass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, num_bytes
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg, Message, Server, Upload
from fedllm_bench.results.budget import MB
from fedllm_bench.training.faults import dropouts


def bytes_down(method: FedAvg, server: Server, message: Message, client: int) -> int:
    """Bytes that go to client number `client` in the round that starts from `server`."""
    return num_bytes(method.travels(message, method.tell(server, client))) if method.sends else 0


@dataclass(frozen=True)
class Traffic:
    """What clients get and send, by the method's own functions on tensors without memory: values do not matter."""

    method: FedAvg
    params: Tree
    lr: float

    def of_client(self, round_num: int, client: int) -> tuple[int, int]:
        """Bytes down and up of one client in a round (0 is the first)."""
        varies = self.method.changes("tell") or self.method.changes("travels")
        return self._of(round_num, client) if varies else self._of_any

    @cached_property
    def _of_any(self) -> tuple[int, int]:
        return self._of(0, 0)

    def _of(self, round_num: int, client: int) -> tuple[int, int]:
        if not self.method.sends:
            return 0, 0
        params = {name: tensor.to("meta") for name, tensor in self.params.items()}
        server = replace(self.method.init(params), round=round_num)
        message, state = self.method.broadcast(server), self.method.client_init(params)
        upload: Upload = {}
        for phase in self.method.phases(1):
            known = {**state, **self.method.tell(server, client)}
            state, sent = phase.method.finish(message, known, params, params, len(phase.steps), self.lr)
            upload |= sent
        return bytes_down(self.method, server, message, client), num_bytes(upload)


@dataclass(frozen=True, kw_only=True)
class ByteBudget:
    """`most` bytes in the whole run, None for as many as it takes."""

    config: RunConfig
    traffic: Traffic
    most: float | None

    @classmethod
    def of(cls, config: RunConfig, method: FedAvg, params: Tree) -> ByteBudget:
        """That of the config. Where nothing is sent, none is passed."""
        allowed = config.communication.budget_mb if method.sends else None
        most = None if allowed is None else allowed * MB
        return cls(config=config, traffic=Traffic(method, params, config.local.lr), most=most)

    def ends_at(self, used: int, round_num: int, chosen: Sequence[int]) -> bool:
        """Whether a round of the `chosen` clients goes beyond it after `used` bytes."""
        return self.most is not None and used + self.of_round(round_num, chosen) > self.most

    def of_round(self, round_num: int, chosen: Sequence[int]) -> int:
        """Bytes of a round in which all answer who do not drop out by plan."""
        away = dropouts(self.config, round_num, list(chosen))
        of_each = {client: self.traffic.of_client(round_num, client) for client in chosen}
        return sum(down + (0 if client in away else up) for client, (down, up) in of_each.items())


def rounds_within(config: RunConfig, method: FedAvg, params: Tree, plan: Sequence[Sequence[int]]) -> int:
    """How many rounds of the plan the budget has room for; a failed answer leaves more.

    Raises a :class:`UserError` where it has none for the first.
    """
    budget, used = ByteBudget.of(config, method, params), 0
    if budget.most is None:
        return len(plan)
    for number, chosen in enumerate(plan):
        if budget.ends_at(used, number, chosen):
            _check_first(config, number, budget.of_round(number, chosen))
            return number
        used += budget.of_round(number, chosen)
    return len(plan)


def _check_first(config: RunConfig, number: int, needed: int) -> None:
    if number == 0:
        raise UserError(
            f"communication.budget_mb={config.communication.budget_mb:g}: the first round alone sends "
            f"{needed / MB:.6g} MB (of 1,048,576 bytes); give more, fewer clients a round or a smaller lora.rank"
        )
