"""A client split that was opened: its rows, by part and by client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.data.frames import ClientRows, frame_of
from fedllm_bench.data.manifest_fields import Manifest
from fedllm_bench.data.rows import PreferenceRow, Row, SftRow, Task

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["train", "heldout", "unseen"]
PARTS: tuple[Part, ...] = ("train", "heldout", "unseen")
TRAINED = {"train": "train.parquet", "heldout": "heldout.parquet"}  # where the rows of a client lie


@dataclass(frozen=True)
class Split:
    """A client split in its folder: a manifest, and rows of clients who train, are scored, or only are scored.

    Example:
        >>> split.name, split.task, len(split.client_ids)
        ('mini-aya', 'sft', 38)
    """

    folder: Path
    manifest: Manifest

    def __repr__(self) -> str:
        clients = len(self.client_ids)
        return f"Split(folder={str(self.folder)!r}, name={self.name!r}, hash={self.hash[:10]!r}, clients={clients})"

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def task(self) -> Task:
        return self.manifest.task

    @property
    def hash(self) -> str:
        return self.manifest.hash

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients who have rows to train on, sorted."""
        return tuple(client.id for client in self.manifest.clients)

    def client(self, client_id: str) -> ClientRows:
        """One client, or a user whom nobody trains on. Raises a :class:`UserError` for an unknown id.

        Example:
            >>> len(split.client("user-003").train)
            84
        """
        unseen = [client.id for client in self.manifest.unseen]
        if client_id not in (ids := [*self.client_ids, *unseen]):
            raise unknown("client", client_id, ids, f"the clients of {self.name}")
        files = {"heldout": "unseen.parquet"} if client_id in unseen else TRAINED
        return ClientRows(id=client_id, folder=self.folder, task=self.task, parts=files)

    def to_pandas(self, part: Part | None = None) -> pd.DataFrame:
        """The rows of one part ("train", "heldout" or "unseen"), of all where None is given.

        One row for each, in the split's columns, after a column `part`. Raises a :class:`UserError` for another part.

        Example:
            >>> split.to_pandas("train").groupby("client_id").size()["user-003"]
            np.int64(84)
        """
        if part is not None and part not in PARTS:
            raise UserError(f"no part {part!r} in a split; there are {', '.join(PARTS)}")
        names = [name for name in PARTS if name == (part or name) and f"{name}.parquet" in self.manifest.files]
        return frame_of({name: self.folder / f"{name}.parquet" for name in names}, self.task)

    def rows(self, part: Part) -> list[SftRow]:
        """The rows of one part, in order of (client, row id); [] for a part that the split does not have."""
        return [SftRow.from_record(record) for record in self._records(part, "sft")]

    def preference_rows(self, part: Part) -> list[PreferenceRow]:
        """As :meth:`rows`, for a split of task preference."""
        return [PreferenceRow.from_record(record) for record in self._records(part, "preference")]

    def task_rows(self, part: Part) -> Sequence[Row]:
        """The rows of one part, as :meth:`rows` or :meth:`preference_rows`, by the split's own task."""
        return self.rows(part) if self.task == "sft" else self.preference_rows(part)

    def _records(self, part: Part, task: Task) -> Iterator[dict[str, Any]]:
        if part not in PARTS:
            raise UserError(f"no part {part!r} in a split; there are {', '.join(PARTS)}")
        if self.task != task:
            raise UserError(f"{self.folder}: rows of task {self.task!r} cannot be read as {task!r} rows")
        if f"{part}.parquet" in self.manifest.files:
            yield from records_of(self.folder / f"{part}.parquet")


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, one after another."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            yield from batch.to_pylist()
