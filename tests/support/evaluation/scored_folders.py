"""Run folders as `fedllm-bench bench` leaves them, as far as a comparison reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedllm_bench.common import files
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.comparison.run_scores import ScoredRun
from fedllm_bench.scores.score import Score


def scores_of(values: Mapping[str, Sequence[float | None]]) -> list[Score]:
    """Cluster -> the values of its items; None is unscored."""
    return [
        Score(f"i{i}", value, "" if value is not None else "empty", cluster=cluster)
        for cluster, row in values.items()
        for i, value in enumerate(row)
    ]


def of_units(values: Sequence[float] | np.ndarray) -> list[Score]:
    return scores_of({f"c{i:03d}": [float(value)] for i, value in enumerate(values)})


def config(method: str = "fedavg", seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "name": "mini-aya",
        "seed": seed,
        "method": {"name": method, "constants": {}},
        "evaluation": {"max_new_tokens": 32},
        **more,
    }


def a_run(scores: Sequence[Score], seed: int = 0, method: str = "fedavg", **more: Any) -> ScoredRun:
    """A run with one metric, `m`, in memory."""
    measured = MetricScores(
        **{"version": "1", "unit": "share", "higher_is_better": True, "scores": tuple(scores), **more}
    )
    return ScoredRun(path=Path(method), config=config(method, seed), measured={"m": measured})


def write_run(folder: Path, metrics: Mapping[str, Sequence[Score]], **given: Any) -> Path:
    """A finished run in `folder`. Keys of `given` go to the config; `split_hash` and `version` stand elsewhere."""
    split_hash, version = given.pop("split_hash", "f" * 64), given.pop("version", "1")
    (folder / "scores").mkdir(parents=True)
    files.write_json(folder / "config.json", config(**given))
    files.write_json(folder / "environment.json", {"data": {"split_hash": split_hash}})
    entry = {"version": version, "unit": "share"}
    entries = {name: {**entry, "higher_is_better": name != "heldout"} for name in metrics}
    files.write_json(folder / "results.json", {"metrics": entries})
    for name, scores in metrics.items():
        files.write_jsonl(folder / "scores" / f"{name}.after.jsonl", [score.to_dict() for score in scores])
    return folder


def edited(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
