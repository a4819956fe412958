"""A worker: a process of Ray's that loads the base once, keeps it, and trains clients and scores rows with it.

The libraries that train are imported when the worker loads, after this process is prepared as the command is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench import __version__
from fedllm_bench.common import process, provenance
from fedllm_bench.common.errors import UserError
from fedllm_bench.training.cluster.loaded import About, LoadedBase

if TYPE_CHECKING:
    from fedllm_bench.training.cluster.wire import Computation, Returned, SentPlugin, SentTask
    from fedllm_bench.training.model.lora_model import LoraModel

PROBE = (2, 16)  # rows and tokens of the input that tells whether two processes compute the same bits


def about(model: LoraModel, node: str = "") -> About:
    """Of this process and `model`, whose layers hold no adapter."""
    import torch

    assert not model.has_adapter
    rows, tokens = PROBE
    ids = (torch.arange(rows * tokens, device=model.device) * 37 % model.vocabulary).view(rows, tokens)
    with torch.no_grad():
        logits = model.logits(model.hidden(ids)).float().cpu().numpy()
    on_gpu = model.device.type == "cuda"
    return About(
        node=node,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=torch.cuda.get_device_name(model.device) if on_gpu else provenance.cpu_name() or "CPU",
        threads=torch.get_num_threads(),
        version=__version__,
        digest=hashlib.sha256(logits.tobytes()).hexdigest(),
        logits=logits[:, -1].copy(),
    )


class ClientWorker:
    """Runs in a process of its own; what it is asked for comes one after another."""

    def __init__(self) -> None:
        self.plugins: set[str] = set()
        self.key = self.rows_key = ""
        self.base: LoadedBase | None = None
        self.is_on_gpu = False
        self.engine: Any = None
        self.engine_of: Any = None
        self.scorer: Any = None

    def load(self, base: LoadedBase, is_on_gpu: bool) -> About:
        """Load the base, where it is not there already.

        Raises a :class:`UserError` where it is not to be found on this machine.
        """
        process.prepare()
        import ray
        import torch

        if is_on_gpu and not torch.cuda.is_available():
            raise UserError(f"Ray gave a GPU of {socket.gethostname()} to a worker, and torch sees none there")
        self.is_on_gpu = is_on_gpu
        self._hold(base)
        return about(self.model, ray.get_runtime_context().get_node_id())

    def _hold(self, base: LoadedBase) -> None:
        """Have this base, and no other: cells of a grid may differ in what they train of one."""
        import torch

        from fedllm_bench.training.model.lora_model import load_model

        torch.set_num_threads(base.threads)
        if self.base is None or base.content != self.base.content:
            self.model: Any = None  # first, so that two never lie in memory
            self.engine = self.engine_of = self.scorer = None
            self.model = load_model(base.model, base.lora, "cuda" if self.is_on_gpu else "cpu", adapter=base.adapter)
        self.base = base

    def train(
        self,
        key: str,
        shared: Sequence[Any],
        rows_key: str,
        rows: Sequence[Any],
        plugins: Sequence[SentPlugin],
        block: Sequence[SentTask],
    ) -> Returned:
        """Train a block. `shared` and `rows` hold references to a SentRound and to rows, read if their key is new."""
        import ray

        from fedllm_bench.training.cluster.wire import Returned, SentResult, unpacked

        self._use(plugins)
        if key != self.key:
            sent = ray.get(shared[0])
            self._hold(sent.base)
            if self.engine_of != (sent.plan, sent.method, sent.config):  # else it knows what was too large for memory
                plan = replace(sent.plan, packed=sent.plan.packed and self.model.plan.packed)  # on this device
                self.engine = sent.engine(replace(self.model, plan=plan), sent.method, sent.config)
                self.engine_of = (sent.plan, sent.method, sent.config)
            self.message, self.local, self.key = unpacked(sent.message), sent.local, key
        if rows_key != self.rows_key:
            self.rows, self.rows_key = ray.get(rows[0]), rows_key
        tasks = [task.with_rows(self.rows) for task in block]
        with _noted() as warnings:
            (results,) = list(self.engine(self.message, [tasks], self.local))
        return Returned([SentResult.of(result) for result in results], warnings)

    def compute(self, key: str, shared: Sequence[Any], work: Computation, owners: Sequence[str]) -> Returned:
        """The values of a batch. `shared` holds a reference to a SentModel, read if its key is new."""
        import ray

        from fedllm_bench.training.cluster.wire import Returned, unpacked

        if key != self.key:
            sent = ray.get(shared[0])
            self._hold(sent.base)
            plan = replace(self.model.plan, packed=sent.is_packed and self.model.plan.packed)
            self.scorer = replace(self.model, plan=plan)
            self.adapters, self.using, self.key = unpacked(sent.adapters), sent.using, key
        with _noted() as warnings, self.using(self.scorer, self.adapters, owners):
            values = work(self.scorer)
        return Returned(values, warnings)

    def _use(self, plugins: Sequence[SentPlugin]) -> None:
        """Read the files of plugins, so that their classes are found by the names that this process was sent."""
        from fedllm_bench.config.plugin_files import read_file

        for plugin in plugins:
            if plugin.name not in self.plugins:
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / plugin.name
                    path.write_bytes(plugin.content)
                    read_file(path)
                self.plugins.add(plugin.name)


@contextmanager
def _noted() -> Iterator[list[str]]:
    """The warnings of the suite inside the block."""
    found: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler = Noting(logging.WARNING)
    logger = logging.getLogger("fedllm_bench")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
