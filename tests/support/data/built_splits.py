"""Splits made by a pipeline, and what its funnel removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leaks import assert_no_leaks
from raw_rows import write_raw

from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.manifest import Split, open_split


def make(tmp_path: Path, dataset: str, rows, name: str = "x", **options) -> Split:
    pipeline = load_pipeline(dataset)
    options = {"min_samples": 1, "heldout": 0.2, "unseen_clients": 0} | options
    recipe = replace(pipeline.DECLARATION.recipe, **options)
    split = pipeline.build(write_raw(tmp_path / f"{name}.jsonl", rows), tmp_path / f"split-{name}", recipe)
    assert_no_leaks(split)
    assert open_split(split.folder) == split
    return split


def removed(split: Split) -> dict[str, int]:
    return {step.step: step.rows_removed for step in split.manifest.funnel if step.rows_removed}
