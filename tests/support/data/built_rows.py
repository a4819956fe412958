"""Raw rows in several formats, and the split that they give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.manifest import Split


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path


def built(path: Path, tmp_path: Path, dataset: str = "wildchat", folder: str = "", **options: Any) -> Split:
    pipeline = load_pipeline(dataset)
    options = {"min_samples": 1, "heldout": 0, "unseen_clients": 0} | options
    return pipeline.build(
        path, tmp_path / f"built-{folder or path.name}", replace(pipeline.DECLARATION.recipe, **options)
    )
