"""The split that a run was trained on, found again by its hash. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.cell import resolve_split


def split_of_run(folder: Path, config: RunConfig) -> Split:
    """The split that the run was trained on; a :class:`UserError` where it is not there, or another one by now."""
    split = resolve_split(config)
    then = files.read_json(folder / "environment.json")["data"]["split_hash"]
    if split.hash != then:
        raise UserError(f"{split.folder} is not the split of {folder} any more (hash {split.hash[:10]}, not "
                        f"{then[:10]}); restore it")  # fmt: skip
    return split
