"""The rows of a split in the forms that other tools take: datasets of Hugging Face, and tables of pandas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedllm_bench.data.rows import SCHEMAS, Task

if TYPE_CHECKING:
    import datasets
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ClientRows:
    """One client of a split, and its rows. Each dataset has the columns of the split (docs/data.md).

    Example:
        >>> client = split.client("user-003")
        >>> client.train.column_names
        ['client_id', 'split', 'row_id', 'language', 'source', 'messages']
        >>> set(client.heldout["client_id"])
        {'user-003'}
    """

    id: str
    folder: Path
    task: Task
    parts: Mapping[str, str]  # "train" and "heldout" -> the name of the split's file; a part may be missing

    @property
    def train(self) -> datasets.Dataset:
        """The rows that the client trains on, a `datasets.Dataset` in order of row ids; of an unseen user none."""
        return self._rows("train")

    @property
    def heldout(self) -> datasets.Dataset:
        """The rows that the client is scored on and nobody trains on, a `datasets.Dataset`."""
        return self._rows("heldout")

    def _rows(self, part: str) -> datasets.Dataset:
        from datasets import Dataset  # takes a second to load

        table = SCHEMAS[self.task].empty_table()
        if part in self.parts:
            table = pq.read_table(self.folder / self.parts[part], filters=pc.field("client_id") == self.id)
        return Dataset(table)


def frame_of(parts: Mapping[str, Path], task: Task) -> pd.DataFrame:
    """The rows of files as one table; its first column `part` is the name of the file's part."""
    tables = [SCHEMAS[task].empty_table().add_column(0, "part", pa.array([], pa.string()))]
    for name, path in parts.items():
        table = pq.read_table(path)
        tables.append(table.add_column(0, "part", pa.array([name] * table.num_rows, pa.string())))
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame
