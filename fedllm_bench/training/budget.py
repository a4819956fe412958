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

LOSS_BYTES = 8  # of the number that a client sends in a check


def bytes_down(method: FedAvg, server: Server, message: Message, client: int) -> int:
    """Bytes that go to client number `client` in the round that starts from `server`."""
    return num_bytes(method.travels(message, method.tell(server, client))) if method.sends else 0


@dataclass(frozen=True)
class Traffic:
    """What clients get and send, by the method's own functions on tensors without memory: values do not matter.

    `server` is that of the rounds before, where it grows from round to round (:meth:`after`); else None.
    """

    method: FedAvg
    params: Tree
    lr: float
    server: Server | None = None

    def of_client(self, round_num: int, client: int) -> tuple[int, int]:
        """Bytes down and up of one client in a round (0 is the first)."""
        varies = any(map(self.method.changes, ("tell", "travels", "grown")))
        return self._of(round_num, client) if varies else self._of_any

    def after(self, round_num: int, answered: Sequence[int]) -> Traffic:
        """The traffic of the rounds behind this one, in which these clients answered."""
        if not (answered and self.method.sends and self.method.changes("grown")):
            return self
        server = self._server(round_num)
        uploads = [self._upload(server, client) for client in answered]
        return replace(self, server=self.method.grown(server, uploads))

    @cached_property
    def _of_any(self) -> tuple[int, int]:
        return self._of(0, 0)

    def _of(self, round_num: int, client: int) -> tuple[int, int]:
        if not self.method.sends:
            return 0, 0
        server = self._server(round_num)
        message = self.method.broadcast(server)
        return bytes_down(self.method, server, message, client), num_bytes(self._upload(server, client))

    def _server(self, round_num: int) -> Server:
        if self.server is not None:
            return replace(self.server, round=round_num)
        params = {name: tensor.to("meta") for name, tensor in self.params.items()}
        return replace(self.method.init(params), round=round_num)

    def _upload(self, server: Server, client: int) -> Upload:
        message, params = self.method.broadcast(server), server.params
        state, upload = self.method.client_init(params), Upload()
        for phase in self.method.phases(1):
            known = {**state, **self.method.tell(server, client)}
            state, sent = phase.method.finish(message, known, params, params, len(phase.steps), self.lr)
            upload |= sent
        return upload


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

    def ends_at(self, used: int, round_num: int, chosen: Sequence[int], checked: Sequence[int] = ()) -> bool:
        """Whether a round of the `chosen` clients, with the check of `checked` after it, goes beyond it after `used`
        bytes: a run that checks leaves room for a last check.
        """
        if self.most is None:
            return False
        return used + self.of_round(round_num, chosen) + self.of_check(round_num, chosen, checked) > self.most

    def after(self, round_num: int, answered: Sequence[int]) -> ByteBudget:
        """The budget for the rounds behind this one, in which these clients answered."""
        return self if self.most is None else replace(self, traffic=self.traffic.after(round_num, answered))

    def as_planned(self, round_num: int, chosen: Sequence[int]) -> ByteBudget:
        """The same where all of the `chosen` answer who do not drop out by plan."""
        away = dropouts(self.config, round_num, list(chosen))
        return self.after(round_num, [client for client in chosen if client not in away])

    def of_round(self, round_num: int, chosen: Sequence[int]) -> int:
        """Bytes of a round in which all answer who do not drop out by plan."""
        away = dropouts(self.config, round_num, list(chosen))
        of_each = {client: self.traffic.of_client(round_num, client) for client in chosen}
        return sum(down + (0 if client in away else up) for client, (down, up) in of_each.items())

    def of_check(self, round_num: int, chosen: Sequence[int], checked: Sequence[int]) -> int:
        """Bytes of a check after this round: each of the `checked` clients gets what one of the next round gets."""
        if not checked or not self.traffic.method.sends:
            return 0
        traffic = self.as_planned(round_num, chosen).traffic
        return sum(traffic.of_client(round_num + 1, client)[0] + LOSS_BYTES for client in checked)


def rounds_within(
    config: RunConfig,
    method: FedAvg,
    params: Tree,
    plan: Sequence[Sequence[int]],
    checked: Sequence[int] = (),
) -> int:
    """How many rounds of the plan the budget has room for; a failed answer leaves more. `checked` are the clients who
    are asked in a check.

    Raises a :class:`UserError` where it has none for the first.
    """
    budget, used = ByteBudget.of(config, method, params), 0
    if budget.most is None:
        return len(plan)
    for number, chosen in enumerate(plan):
        of_check = budget.of_check(number, chosen, checked)
        if budget.ends_at(used, number, chosen, checked):
            _check_first(config, number, budget.of_round(number, chosen) + of_check)
            return number
        used += budget.of_round(number, chosen)
        used += 0 if (number + 1) % config.federation.check_every else of_check
        budget = budget.as_planned(number, chosen)
    return len(plan)


def _check_first(config: RunConfig, number: int, needed: int) -> None:
    if number == 0:
        raise UserError(
            f"communication.budget_mb={config.communication.budget_mb:g}: the first round alone sends "
            f"{needed / MB:.6g} MB (of 1,048,576 bytes); give more, fewer clients a round or a smaller lora.rank"
        )
