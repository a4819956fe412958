"""Builds in a process of their own, which alone may ask a hub of this machine; what each came to is written as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.hub import declared_source, raw_source
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data_prep.tables import Fields, table


def build(case: dict[str, Any], out: Path) -> dict[str, Any]:
    stated = Declaration(**{"licence": "MIT", "version": "1", "dataset": "tasks"} | case["declaration"],
                         recipe=Recipe(partition="iid:2", heldout=0))  # fmt: skip
    pipeline = table(stated, Fields(instruction="instruction", input="input", response="output"))
    raw = raw_source(case["raw"]) if "raw" in case else declared_source(pipeline.DECLARATION)
    try:
        split = pipeline.build(raw, out)
    except UserError as error:
        return {"error": str(error)}
    rows = len(split.rows("train"))
    return {"rows": rows, "hash": split.hash, "licence": split.manifest.licence} | asdict(split.manifest.upstream)


if __name__ == "__main__":
    cases = json.loads(sys.argv[1])
    found = [build(case, Path(sys.argv[2]) / str(number)) for number, case in enumerate(cases)]
    sys.stdout.write(json.dumps(found))
