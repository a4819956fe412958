"""A stand-in for the module ray: workers that answer, wait or die as a script says, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from fedllm_bench.training.client_round import ClientResult
from fedllm_bench.training.cluster.connection import Connection
from fedllm_bench.training.cluster.loaded import About
from fedllm_bench.training.cluster.wire import Returned, SentResult, SentTask


class ActorDied(Exception):
    pass


class OtherError(Exception):
    pass


class TaskFailed(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


EXCEPTIONS = SimpleNamespace(
    RayTaskError=TaskFailed,
    RayActorError=ActorDied,
    ObjectLostError=OtherError,
    WorkerCrashedError=OtherError,
    OutOfMemoryError=OtherError,
)


def about_of(node: str = "n0", **changes: Any) -> About:
    values = {"host": "host-a", "pid": 1, "device": "CPU", "threads": 1, "version": "0.1.0", "digest": "same"}
    return About(node=node, **{**values, "logits": np.ones((2, 3)), **changes})


def answer_of(task: SentTask) -> ClientResult:
    return ClientResult(
        client=task.client, client_id=task.client_id, upload={}, state={}, num_examples=1, losses=(float(task.client),)
    )


@dataclass(eq=False)
class ScriptedWorker:
    """Ray's handle of an actor; `ray.training` says what comes of a block, `ray.computing` what of a batch."""

    ray: ScriptedRay
    node: str
    load: Any = None
    train: Any = None
    compute: Any = None

    def __post_init__(self) -> None:
        self.load = SimpleNamespace(remote=lambda base, is_on_gpu: self.ray.reference(self.ray.loading(self)))
        self.train = SimpleNamespace(remote=lambda *words: self.ray.reference(self.ray.training(self, words[-1])))
        self.compute = SimpleNamespace(remote=lambda *words: self.ray.reference(self.ray.computing(self, words[2])))


@dataclass
class ScriptedRay:
    """`fate(worker, clients)` returns an error for a block, or None where it is trained; `began` are all blocks."""

    fate: Callable[[ScriptedWorker, list[int]], Exception | None] = lambda worker, clients: None
    alive: list[str] = field(default_factory=lambda: ["n0"])
    cores: float = 1.0
    abouts: dict[str, Any] = field(default_factory=dict)
    began: list[list[int]] = field(default_factory=list)
    killed: int = 0
    stored: int = 0
    exceptions: ClassVar[Any] = EXCEPTIONS

    def __post_init__(self) -> None:
        self.made = 0

    def connection(self) -> Connection:
        return Connection(self, is_made=False)

    def reference(self, value: Any) -> list[Any]:
        return Reference([value])

    def loading(self, worker: ScriptedWorker) -> Any:
        return self.abouts.get(worker.node) or about_of(worker.node)

    def training(self, worker: ScriptedWorker, block: Sequence[SentTask]) -> Any:
        clients = [task.client for task in block]
        self.began.append(clients)
        return self.fate(worker, clients) or Returned([SentResult.of(answer_of(task)) for task in block], [])

    def computing(self, worker: ScriptedWorker, work: Any) -> Any:
        self.began.append(list(work.numbers))
        return self.fate(worker, list(work.numbers)) or Returned(work(None), [])

    # what the engine calls of the module

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "NodeID": name, "Resources": {"CPU": self.cores}} for name in self.alive]

    def remote(self, kind: type) -> Any:
        def made() -> ScriptedWorker:
            self.made += 1
            return ScriptedWorker(self, self.alive[(self.made - 1) % len(self.alive)])

        return SimpleNamespace(options=lambda **needs: SimpleNamespace(remote=made))

    def is_initialized(self) -> bool:
        return True

    def put(self, value: Any) -> Any:
        self.stored += 1
        return self.reference(value)

    def wait(self, references: Sequence[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return list(references[:1]), list(references[1:])

    def get(self, reference: Any) -> Any:
        if isinstance(reference[0], Exception):
            raise reference[0]
        return reference[0]

    def kill(self, worker: ScriptedWorker) -> None:
        self.killed += 1


class Reference(list[Any]):
    """A reference of Ray's can be a key."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__  # type: ignore[assignment]
