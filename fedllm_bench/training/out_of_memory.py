"""Out of memory in a pass: fewer tokens at once, then fewer clients, and the run goes on.

Neither changes what is computed, dropout included: clients of a block do not touch each other, and a step's gradient is
a sum over its rows, in however many passes they come. Sums are rounded in another order.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.passes import Pass, PassPlan, passes_of

log = logging.getLogger(__name__)
# What torch's allocator for the CPU says, on Linux and on Windows; it raises a plain RuntimeError.
CPU_MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


@dataclass(frozen=True)
class Limit:
    """The most clients in a block, and padded tokens in a pass; None where nothing failed yet."""

    clients: int | None = None
    tokens: int | None = None


Train = Callable[[Sequence[ClientTask], int | None], list[ClientResult]]  # clients, tokens of a pass


@dataclass
class WithinMemory:
    """Trains blocks by `train` and remembers for the rest of the run what was too large.

    `plan` is that of passes where nothing failed yet.
    """

    train: Train
    plan: PassPlan
    limit: Limit = Limit()

    def __call__(self, block: Sequence[ClientTask]) -> list[ClientResult]:
        """The results of all clients of the block, in as many passes as memory needs.

        Raises a :class:`UserError` where one row of one client does not fit.
        """
        results: list[ClientResult] = []
        while left := block[len(results) :]:
            part = left[: self.limit.clients]
            tokens = self.limit.tokens or self.plan.tokens
            trained, problem = self._tried(part, tokens)
            results += trained
            if problem:
                free_memory()  # only here, where no frame of the failed pass holds its tensors any more
                self.limit = smaller(self.limit, part, replace(self.plan, tokens=tokens), problem)
        return results

    def _tried(self, part: Sequence[ClientTask], tokens: int | None) -> tuple[list[ClientResult], str]:
        """The results, or why there was no memory for them."""
        try:
            return self.train(part, tokens), ""
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return [], (str(error).strip().splitlines() or ["out of memory"])[0][:200]


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in CPU_MESSAGES)


def free_memory() -> None:
    """Tensors in cycles first, then what torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def smaller(limit: Limit, part: Sequence[ClientTask], plan: PassPlan, problem: str) -> Limit:
    """The limit after a pass of the clients of `part` failed; says so in the log."""
    rows, tokens = largest_pass(part, plan)
    if rows > 1:
        after = replace(limit, tokens=tokens // 2)
        log.warning(
            "out of memory with %s in a pass; from here on at most %s, with the same rows in a step",
            counted(tokens, "token"),
            f"{after.tokens:,}",
        )
        return after
    if len(part) > 1:
        after = replace(limit, clients=len(part) // 2)
        clients = counted(len(part), "client")
        log.warning("out of memory with the adapters of %s; from here on %d at a time", clients, after.clients)
        return after
    raise UserError(
        f"one row of one client does not fit into memory ({problem}); "
        "--set local.gradient_checkpointing=true, a smaller local.sequence_length or lora.rank, "
        "model.dtype=bfloat16, a smaller MODEL, or a larger device"
    )


def largest_pass(part: Sequence[ClientTask], plan: PassPlan) -> tuple[int, int]:
    """Rows and tokens, padding included, of the largest pass of these clients; (0, 0) where no client has a step.

    Of passes of several rows, where there are any: these can be made smaller.
    """
    found = [(0, 0)]
    for number in range(max((len(task.steps) for task in part), default=0)):
        moving = [task for task in part if number < len(task.steps)]
        for rows in passes_of(moving, number, plan.tokens, packed=plan.packed):
            found.append((len(rows), _tokens_of(rows, packed=plan.packed)))
    return max(found, key=lambda size: (size[0] > 1, size[1]))


def _tokens_of(rows: Pass, *, packed: bool) -> int:
    lengths = [len(sequence.ids) for each in rows for sequence in each.row.sequences]
    return sum(lengths) if packed else max(lengths) * len(lengths)
