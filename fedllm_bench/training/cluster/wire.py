"""What goes between this process and workers: arrays of numpy and dataclasses of this package, nothing else.

Ray lays arrays into shared memory and copies them between machines once; tensors it would pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fedllm_bench.common.trees import Tree
from fedllm_bench.config.run import Local, RunConfig
from fedllm_bench.data.pairs import PairPart
from fedllm_bench.data.tokens import TokenPart
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.training.batches import StepPlan
from fedllm_bench.training.client_round import ClientResult, ClientTask
from fedllm_bench.training.cluster.loaded import LoadedBase
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import PassPlan

Arrays = dict[str, dict[str, tuple[str, Any]]]  # trees of tensors: tree, name -> type and array
Rows = TokenPart | PairPart
# Puts adapters, by name or client, into a model for rows of these owners
Using = Callable[[LoraModel, Mapping[str, Tree], Sequence[str]], AbstractContextManager[None]]
Computation = Callable[[LoraModel], list[Any]]  # of a batch: a dataclass of this package that can be called


def packed(trees: Mapping[str, Mapping[str, torch.Tensor]]) -> Arrays:
    return {key: {name: _packed(tensor) for name, tensor in tree.items()} for key, tree in trees.items()}


def unpacked(arrays: Arrays) -> dict[str, Tree]:
    """Tensors of their own: what lies in shared memory must not be written to."""
    return {key: {name: _unpacked(*one) for name, one in tree.items()} for key, tree in arrays.items()}


def _packed(tensor: torch.Tensor) -> tuple[str, Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    plain = tensor.detach().cpu().contiguous()
    return kind, (plain.view(torch.int16) if tensor.dtype is torch.bfloat16 else plain).numpy()  # numpy has no bfloat16


def _unpacked(kind: str, array: Any) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if kind == "bfloat16" else tensor


def plain_rows(rows: Rows) -> Rows:
    """The same rows with arrays in memory: a file that is mapped here may not be there on another machine."""
    if isinstance(rows, PairPart):
        reference = None if rows.reference is None else np.asarray(rows.reference)
        return PairPart(plain_sequences(rows.sequences), reference)
    return plain_sequences(rows)


def plain_sequences(part: TokenPart) -> TokenPart:
    return replace(
        part,
        ids=np.asarray(part.ids),
        counted=np.asarray(part.counted),
        starts=np.asarray(part.starts),
        rows=np.asarray(part.rows),
    )


@dataclass(frozen=True)
class SentTask:
    """A :class:`ClientTask` without rows: only their numbers in the token store, which a worker has."""

    client: int
    client_id: str
    seed: int
    round_num: int
    row_numbers: tuple[int, ...]
    steps: tuple[StepPlan, ...]
    state: Arrays
    told: Arrays
    done: int

    @classmethod
    def of(cls, task: ClientTask) -> SentTask:
        fields = {key: value for key, value in vars(task).items() if key not in ("rows", "state", "told")}
        return cls(**fields, state=packed(task.state), told=packed(task.told))

    def with_rows(self, rows: Rows) -> ClientTask:
        trees = {"state": unpacked(self.state), "told": unpacked(self.told)}
        return ClientTask(**{**vars(self), "rows": rows, **trees})


@dataclass(frozen=True)
class SentResult:
    """A :class:`ClientResult` on its way back."""

    fields: Mapping[str, Any]
    upload: Arrays
    state: Arrays

    @classmethod
    def of(cls, result: ClientResult) -> SentResult:
        fields = {key: value for key, value in vars(result).items() if key not in ("upload", "state")}
        return cls(fields, packed(result.upload), packed(result.state))

    def result(self) -> ClientResult:
        return ClientResult(**self.fields, upload=unpacked(self.upload), state=unpacked(self.state))


@dataclass(frozen=True, kw_only=True)
class SentRound:
    """What all blocks of a call of the engine share; it is put into Ray's store once. `engine` trains on a worker."""

    base: LoadedBase
    plan: PassPlan
    engine: Any  # training.engines.Engine, by name
    method: FedAvg
    config: RunConfig
    message: Arrays
    local: Local


@dataclass(frozen=True, kw_only=True)
class SentPlugin:
    """A plugin's file, as a run folder keeps it."""

    name: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class SentModel:
    """What batches of scores or answers share: adapters of a base, put into Ray's store once.

    `using` is found by its name. `adapters` may be of one name, of clients, or none.
    """

    base: LoadedBase
    is_packed: bool  # sequences are, where the worker can
    adapters: Arrays
    using: Using


@dataclass(frozen=True)
class Returned:
    """What came of a piece of work, and what the worker logged meanwhile."""

    results: Sequence[Any]
    warnings: Sequence[str]
