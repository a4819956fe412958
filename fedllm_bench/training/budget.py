"""A budget of bytes as a rule of a run: `communication.budget_mb`, up and down together.

The boards of FlowerTune LLM (arXiv:2506.02961) allow 200,000 MB. Their code adds up all messages of a round, counts a
MB as 1024 * 1024 bytes, and warns when the sum is beyond. Here a run ends before the round that would pass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.trees import Tree, num_bytes
from fedllm_bench.config.run import RunConfig
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.results.budget import MB
from fedllm_bench.training.faults import dropouts


def bytes_of_client(method: FedAvg, params: Tree, lr: float) -> tuple[int, int]:
    """Bytes of the message to a client and of its upload, by the method's own functions; values do not matter."""
    message = method.broadcast(method.init(params))
    _, upload = method.finish(message, method.client_init(params), params, params, 1, lr)
    return num_bytes(message), num_bytes(upload)


@dataclass(frozen=True, kw_only=True)
class ByteBudget:
    """`most` bytes in the whole run, None for as many as it takes; `down` and `up` are those of one client."""

    most: float | None
    down: int = 0
    up: int = 0

    @classmethod
    def of(cls, config: RunConfig, method: FedAvg, params: Tree) -> ByteBudget:
        """That of the config. Where nothing is sent, none is passed."""
        allowed = config.communication.budget_mb
        if allowed is None or method.personal or method.pooled:
            return cls(most=None)
        down, up = bytes_of_client(method, params, config.local.lr)
        return cls(most=allowed * MB, down=down, up=up)

    def ends_at(self, used: int, chosen: int, present: int) -> bool:
        """Whether a round of so many chosen clients, of whom so many answer, goes beyond it after `used` bytes."""
        return self.most is not None and used + self.of_round(chosen, present) > self.most

    def of_round(self, chosen: int, present: int) -> int:
        return self.down * chosen + self.up * present


def num_present(config: RunConfig, round_num: int, chosen: Sequence[int]) -> int:
    """The chosen clients of a round who do not drop out by plan."""
    return len(chosen) - len(dropouts(config, round_num, list(chosen)))


def rounds_within(config: RunConfig, method: FedAvg, params: Tree, plan: Sequence[Sequence[int]]) -> int:
    """How many rounds of the plan the budget has room for; a failed answer leaves more.

    Raises a :class:`UserError` where it has none for the first.
    """
    budget, used = ByteBudget.of(config, method, params), 0
    if budget.most is None:
        return len(plan)
    for number, chosen in enumerate(plan):
        present = num_present(config, number, chosen)
        if budget.ends_at(used, len(chosen), present):
            _check_first(config, number, budget.of_round(len(chosen), present))
            return number
        used += budget.of_round(len(chosen), present)
    return len(plan)


def _check_first(config: RunConfig, number: int, needed: int) -> None:
    if number == 0:
        raise UserError(
            f"communication.budget_mb={config.communication.budget_mb:g}: the first round alone sends "
            f"{needed / MB:.6g} MB (of 1,048,576 bytes); give more, fewer clients a round or a smaller lora.rank"
        )
