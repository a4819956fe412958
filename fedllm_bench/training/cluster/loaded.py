"""What a worker is asked to load, and what it says of itself then. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedllm_bench.common import provenance
from fedllm_bench.config.kinds.adapter_kind import AdapterKind
from fedllm_bench.config.sections import Lora, Model


@dataclass(frozen=True, kw_only=True)
class LoadedBase:
    """What a worker loads: a base with its layers. `threads` are those of a worker on a CPU."""

    model: Model
    lora: Lora
    threads: int
    adapter: AdapterKind = field(default_factory=AdapterKind)

    @property
    def content(self) -> tuple[Model, Lora, AdapterKind]:
        """What lies in memory."""
        return self.model, self.lora, self.adapter


@dataclass(frozen=True, kw_only=True)
class About:
    """A worker that has loaded: where it is, and what its base says to a fixed input.

    `digest` is of all logits, bit by bit; `logits` are those of the last tokens, rows x V.
    """

    node: str
    host: str
    pid: int
    device: str
    threads: int
    version: str
    digest: str
    logits: Any

    @property
    def in_words(self) -> str:
        threads = "" if self.device != provenance.cpu_name() else f", threads: {self.threads}"
        return f"{self.device}{threads}"
