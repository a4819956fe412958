"""The mini world as a client split: raw rows in upstream columns, through the same pipeline as real rows."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fedllm_bench import files
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data.mini.lexicon import lexicon
from fedllm_bench.data.mini.users import Answered, Population, make_rows
from fedllm_bench.metrics.items import PROBES

VERSION = 2  # raise it when equal seeds give other rows
MIN_SAMPLES = 16  # users below the cut have fewer than 12 rows, those above at least 20


def aya_row(row: Answered) -> dict[str, str]:
    """One row in the columns of CohereForAI/aya_dataset."""
    language = lexicon().languages[row.item.language]
    return {
        "inputs": row.item.prompt,
        "targets": row.item.completion,
        "language": language.name,
        "language_code": language.code,
        "annotation_type": "original-annotations",
        "user_id": row.user_id,
        "source": f"mini:{row.item.task}",
    }


def write_raw(folder: Path, rows: Sequence[Answered]) -> None:
    """Raw files train.jsonl and test.jsonl, as the upstream publishes its two splits."""
    for split in ("train", "test"):
        files.write_jsonl(folder / f"{split}.jsonl", [aya_row(row) for row in rows if row.split == split])


def probes(rows: Sequence[Answered]) -> bytes:
    """What the world knows of each held-out question, as JSON lines; rows are named by their text."""
    records = [
        {
            "client": row.user_id,
            "prompt": row.item.prompt,
            "completion": row.item.completion,
            "task": row.item.task,
            "holder": row.holder,
            "choices": list(row.item.choices),
        }
        for row in rows
        if row.split == "test"
    ]
    return "".join(files.canonical_json(record) + "\n" for record in records).encode()


def build_mini_aya(population: Population, out: Path) -> Split:
    """Generate the raw rows of `population` and build their split in `out`."""
    pipeline: Any = importlib.import_module("fedllm_bench.data_prep").load_pipeline("aya")
    rows = make_rows(population)
    recipe = replace(pipeline.DECLARATION.recipe, min_samples=MIN_SAMPLES, heldout="upstream")
    declaration = replace(
        pipeline.DECLARATION,
        upstream=f"the mini world {files.canonical_json(asdict(population))}",
        licence="Apache-2.0 (generated)",
        version=f"mini-{VERSION}",
    )
    with tempfile.TemporaryDirectory() as raw:
        write_raw(Path(raw), rows)
        split: Split = pipeline.build(
            Path(raw), out, recipe, "mini-aya", declaration=declaration, extra_files={PROBES: probes(rows)}
        )
    return split


def mini_split(dataset: str, world_seed: int, cache: Path) -> Split:
    """The embedded split of a dataset, built into the cache when it is not there yet."""
    builder = BUILDERS[dataset]
    population = Population(seed=world_seed)
    key = files.sha256_json({"version": VERSION, "population": asdict(population)})[:10]
    folder = cache / "splits" / f"mini-{dataset}-w{world_seed}-{key}"
    if (folder / "manifest.json").is_file():
        return open_split(folder)
    return builder(population, folder)


BUILDERS = {"aya": build_mini_aya}
