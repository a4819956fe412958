"""Out of memory in a pass: fewer clients at once, then fewer rows at once, and the run goes on.

Neither changes what is computed. Clients of a pass do not touch each other, and a step's loss is a mean over all of
its counted tokens, however many micro-batches they come in; so the effective batch stays. Sums are rounded in another
order, and with `lora.dropout` other masks of the same distribution are drawn, since a mask is drawn for a micro-batch.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from fedllm_bench.common.errors import UserError
from fedllm_bench.training.batches import StepPlan
from fedllm_bench.training.block import ClientResult, ClientTask

log = logging.getLogger(__name__)
# What torch's allocator for the CPU says, on Linux and on Windows; it raises a plain RuntimeError.
CPU_MESSAGES = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


@dataclass(frozen=True)
class Limit:
    """The most clients, and rows of each, that go through the base at once; None where nothing failed yet."""

    clients: int | None = None
    rows: int | None = None


@dataclass
class WithinMemory:
    """Trains blocks by `train` and remembers for the rest of the run what was too large."""

    train: Callable[[Sequence[ClientTask]], list[ClientResult]]
    limit: Limit = Limit()

    def __call__(self, block: Sequence[ClientTask]) -> list[ClientResult]:
        """The results of all clients of the block, in as many passes as memory needs.

        Raises a :class:`UserError` where one row of one client does not fit.
        """
        results: list[ClientResult] = []
        while left := block[len(results) :]:
            part = [regrouped(task, self.limit.rows) for task in left[: self.limit.clients]]
            trained, problem = self._tried(part)
            results += trained
            if problem:
                free_memory()  # only here, where no frame of the failed pass holds its tensors any more
                self.limit = smaller(self.limit, part, problem)
        return results

    def _tried(self, part: Sequence[ClientTask]) -> tuple[list[ClientResult], str]:
        """The results, or why there was no memory for them."""
        try:
            return self.train(part), ""
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


def smaller(limit: Limit, part: Sequence[ClientTask], problem: str) -> Limit:
    """The limit after a pass of the clients of `part` failed; says so in the log."""
    clients, rows = len(part), rows_at_once(part)
    if clients > 1:
        after = replace(limit, clients=clients // 2)
    elif rows > 1:
        after = Limit(clients=1, rows=rows // 2)
    else:
        raise UserError(
            f"one row of one client does not fit into memory ({problem}); "
            "--set local.gradient_checkpointing=true, a smaller local.sequence_length or lora.rank, "
            "model.dtype=bfloat16, a smaller MODEL, or a larger device"
        )
    log.warning(
        "out of memory with %d client(s) of %d row(s) at once; from here on %d of %d, with the same rows in a step",
        clients,
        rows,
        after.clients or clients,
        after.rows or rows,
    )
    return after


def rows_at_once(part: Sequence[ClientTask]) -> int:
    """The largest micro-batch of the tasks; 0 where no task has a step."""
    return max((len(step[0]) for task in part for step in task.steps), default=0)


def regrouped(task: ClientTask, rows: int | None) -> ClientTask:
    """The same rows in each step, in micro-batches of at most `rows`."""
    if rows is None or rows_at_once([task]) <= rows:
        return task
    return replace(task, steps=tuple(_cut(step, rows) for step in task.steps))


def _cut(step: StepPlan, rows: int) -> StepPlan:
    flat = [row for micro in step for row in micro]
    return tuple(tuple(flat[start : start + rows]) for start in range(0, len(flat), rows))
