"""Run folders and submissions small enough for hundreds of tests: three clients and two items each."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_bench.common import files
from fedllm_bench.config import presets
from fedllm_bench.config.run import RunConfig
from fedllm_bench.leaderboard.submit import assemble as submit
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.run_results import ScoreSet, metrics_of
from fedllm_bench.results.schema import SCHEMA_VERSION
from fedllm_bench.runs.cell import settings_hash
from fedllm_bench.scores.score import Score

CLIENTS = ("user-000", "user-001", "user-002")
ROUNDS = 30  # of the preset
SPLIT_HASH, BASE_HASH = "5" * 64, "b" * 64
SAID = {
    "team": "Example Lab",
    "contact": "lab@example.org",
    "tuning": "as the preset",
    "method": "fedavg",
    "date": "2026-11-21",
}


def statement(**more: Any) -> Any:
    return submit.Statement(**{**SAID, **more})


def scores_of(metric: str, shift: float) -> list[Score]:
    """Two items a client; `shift` moves their values."""
    found = []
    for k, client in enumerate(CLIENTS):
        for i in range(2):
            value = 1.0 + k / 3 + i / 7 + shift if metric == "heldout" else float((k + i) % 2 == 0)
            right = f"answer {k}{i}"
            said = {"answer": right if value else "wrong", "prompt": f"question {k}{i}?", "right": right}
            group = {"part": "heldout", "task": "facts", "holder": "self", "language": "eng"}
            nll = {"nll": [0.5 if value else 1.5, 1.0]}  # the first candidate is the right one
            evidence = {"mini_exact": said, "mini_choice": nll}.get(metric, {})
            found.append(Score(f"i{k}{i}", value, "", evidence, client, group))
    return found


def write_run(root: Path, seed: int = 0, method: str = "fedavg", *overrides: str, shift: float = -0.5) -> Path:
    """A finished run as `fedllm-bench bench aya METHOD` leaves it under `root`, without a baseline."""
    config = presets.load("aya", method, "mini", overrides, seed=seed)
    folder = root / config.name / method / f"s{seed}-{seed:010x}"
    (folder / "adapter").mkdir(parents=True)
    files.write_json(folder / "config.json", config.to_dict())
    files.write_json(folder / "environment.json", environment())
    rounds = [{"round": r + 1, "clients": [0, 1], "client_ids": list(CLIENTS[:2])} for r in range(ROUNDS)]
    files.write_jsonl(folder / "rounds.jsonl", rounds)
    sets = {}
    for metric in config.evaluation.metrics:
        before, after = scores_of(metric, 0.0), scores_of(metric, shift + seed / 100)
        sets[metric] = ScoreSet(before=before, after=after)
        for side, scores in (("before", before), ("after", after)):
            files.make_folder(folder / "scores")
            files.write_jsonl(folder / "scores" / f"{metric}.{side}.jsonl", [score.to_dict() for score in scores])
    infos = {name: METRICS[name].info for name in sets}
    files.write_json(folder / "results.json", {
        "schema_version": SCHEMA_VERSION,
        "run": {"model": config.model.name, "config_hash": hash_of(config), "seed": seed, "method": method},
        "metrics": metrics_of(sets, infos),
    })  # fmt: skip
    files.write_json(folder / "adapter" / "adapter_config.json", {"base_model_name_or_path": "/home/x/base", "r": 8})
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes([seed]) * 100)
    return folder


def hash_of(config: RunConfig) -> str:
    """As results.json of such a run has it."""
    return settings_hash(config, SPLIT_HASH, BASE_HASH)


def environment(**more: Any) -> dict[str, Any]:
    return {
        "fedllm_bench": "0.1.0",
        "commit": "c" * 40,
        "dirty": False,
        "platform": "Linux",
        "cpu": {"name": "A processor", "count": 2},
        "gpus": [],
        "data": {"split": "mini-aya", "split_hash": SPLIT_HASH, "base_hash": BASE_HASH},
        **more,
    }


def small_contents(seeds: tuple[int, ...] = (0,)) -> dict[str, bytes]:
    """The files of a submission beside submission.json, without the suite's code: for what readers do with them."""
    found = {}
    for seed in seeds:
        for name in ("config.json", "environment.json"):
            found[f"runs/{seed}/{name}"] = b"{}\n"
        found[f"runs/{seed}/results.json.gz"] = gzip.compress(b"{}\n", mtime=0)
        found[f"runs/{seed}/rounds.jsonl.gz"] = packed([{"round": 1}])
        rows = [score.to_dict() for score in scores_of("heldout", seed)]
        found[f"runs/{seed}/scores/heldout.after.jsonl.gz"] = packed(rows)
    return found


def packed(rows: list[Any]) -> bytes:
    return gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode(), mtime=0)


def head(seeds: tuple[int, ...] = (0,), **more: Any) -> dict[str, Any]:
    """submission.json without `files`."""
    run = {"config_hash": "0" * 10, "base_hash": BASE_HASH, "split_hash": SPLIT_HASH, "adapter": None}
    return {
        "version": 1,
        "suite": {"version": "0.1.0", "commit": "c" * 40},
        "track": "mini-aya/fixed",
        "kind": "method",
        "method": "fedavg",
        "team": "Example Lab",
        "url": "",
        "contact": "lab@example.org",
        "date": "2026-11-21",
        "runs": [{"seed": seed, **run} for seed in seeds],
        "tuning": "as the preset",
        "training_data": "only the split",
        "claims": {"heldout": {str(seed): 1.0 for seed in seeds}},
        **more,
    }


def listed(contents: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for name, c in sorted(contents.items())}


def encoded(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


def write_submission(folder: Path, contents: Mapping[str, bytes] | None = None, **more: Any) -> Path:
    """A submission whose hash chain is right, whatever its contents are. Keys of `more` go to submission.json."""
    contents = small_contents() if contents is None else contents
    value = {**head(), "files": listed(contents), **more}
    for name, content in {**contents, "submission.json": encoded(value)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def codes(found: list[Any]) -> list[str]:
    """The codes of all problems, each once, in order."""
    return sorted({problem.code for problem in found})
