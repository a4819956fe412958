"""A sample of rows for measures that need a model, the same whatever else is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedllm_bench.common.files import sha256_json
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import by_client

LEAST = 2  # rows that stay of each client: fewer have no unbiased distance


def sample_rows(rows: Sequence[DiversityRow], most: int | None, seed: int) -> list[DiversityRow]:
    """About `most` rows, as large a share of each client, but at least LEAST of it; all where `most` is None or more.

    A row stays when the hash of (seed, client, row id) is low, so the sample does not follow the order of rows.
    """
    if most is None or len(rows) <= most:
        return list(rows)
    kept: list[DiversityRow] = []
    for own in by_client(rows).values():
        count = max(min(LEAST, len(own)), math.floor(len(own) * most / len(rows)))
        ranked = sorted(own, key=lambda row: sha256_json([seed, "diversity", row.client, row.row_id]))
        kept += sorted(ranked[:count], key=lambda row: row.row_id)
    return kept
