"""The fields of manifest.json as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedllm_bench.data.rows import Task

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class UpstreamFile:
    name: str
    sha256: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Upstream:
    id: str
    revision: str | None
    files: tuple[UpstreamFile, ...]


@dataclass(frozen=True, kw_only=True)
class UpstreamPart:
    """One of the data sets that a split is mixed of; its file names begin with its name."""

    dataset: str
    version: str
    licence: str
    upstream: Upstream


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """What one step of the recipe removed; the last step's `rows_left` are the training and held-out rows."""

    step: str
    rows_removed: int
    rows_left: int
    clients_left: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ClientCount:
    id: str
    train: int
    heldout: int


@dataclass(frozen=True, kw_only=True)
class UnseenCount:
    id: str
    heldout: int


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What the maker of a split states about it; the rest of the manifest is counted from its rows.

    `notes` are what the maker saw and did not act on; they are no part of the hash. `parts` are the data sets of a
    mixed split, whose names are in its recipe. Manifests without any have no such field, so that those of the first
    release stay readable.
    """

    format: int = FORMAT
    name: str
    dataset: str
    task: Task
    version: str
    upstream: Upstream
    licence: str
    recipe: dict[str, Any]
    funnel: tuple[FunnelStep, ...]
    notes: tuple[str, ...] = ()
    parts: tuple[UpstreamPart, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Manifest(SplitInfo):
    """`clients` are sorted by id and their position is the client index; `files` is name -> sha256.

    `hash` names the content: the order and file names of the raw rows and the parquet writer do not matter.
    """

    clients: tuple[ClientCount, ...]
    unseen: tuple[UnseenCount, ...]
    files: dict[str, str]
    hash: str
