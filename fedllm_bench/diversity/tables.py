"""The tables beside diversity.json: clients.csv and pairs.parquet."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedllm_bench.common.csv_text import csv_text
from fedllm_bench.config.run import dotted

if TYPE_CHECKING:
    from fedllm_bench.diversity.embedding.embedding import Arrays


def clients_csv(report: Mapping[str, Any]) -> str:
    """One line for each client; nested values have dotted names, as prompt_tokens.mean."""
    flat = [dotted(client) for client in report["clients"]]
    return csv_text(list(dict.fromkeys(name for own in flat for name in own)), flat)


def pairs_parquet(report: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Each unordered pair of clients once: client_a, client_b, similarity, mmd2 (null where there is none)."""
    ids = [client["id"] for client in report["clients"]]
    a, b = np.triu_indices(len(ids), 1)
    numbers = {
        name: pa.array(matrix[a, b].astype(np.float64), from_pandas=True)  # NaN is null
        for name, matrix in (("similarity", arrays.similarity), ("mmd2", arrays.mmd2))
    }
    names = pa.array(ids, pa.string())
    table = pa.table({"client_a": names.take(pa.array(a)), "client_b": names.take(pa.array(b)), **numbers})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
