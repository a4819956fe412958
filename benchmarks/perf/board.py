"""What a board of many submissions costs: validating them, building the site cold and warm, its first page.

  cold      `fedllm-bench board build` with an empty cache
  validate  `fedllm-bench board validate` of all, with an empty cache
  warm      `fedllm-bench board build` after that

The submissions are made of real ones of the embedded world, their first run each: three seeds and as many teams as are
asked for, with scores moved at random, and config, log, results and hashes as validation wants them. They mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import RunConfig, check
from fedllm_bench.data.manifest import Split
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.results.run_results import ScoreSet, client_rows, metrics_of
from fedllm_bench.runs.cell import resolve_split, settings_hash
from fedllm_bench.scores.score import Score
from fedllm_bench.training.batches import schedule

EPILOG = """examples:
  python benchmarks/perf/board.py --count 60
  python benchmarks/perf/board.py --from leaderboard/submissions --count 500 --jobs 2 --json board.json
"""
SEEDS = (0, 1, 2)
SHIFT, NOISE, FLIPS = 0.02, 0.05, 0.02  # of a run, of an item, and of answers that turn right or wrong
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A real run, of which others are made."""

    said: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    rounds: list[Row]
    scores: dict[str, dict[str, list[Row]]]  # metric -> side -> its scores


def sources(folder: Path) -> list[Source]:
    """Of every submission of a method of the embedded world, its first run. Raises a :class:`UserError` for none."""
    found = []
    for path in sorted(folder.glob("*/submission.json")):
        said = files.read_json(path)
        run = path.parent / "runs" / str(said["runs"][0]["seed"])
        if said["kind"] == "method" and said["track"].startswith("mini-") and said["suite"]["version"]:
            found.append(_source(said, run))
    if not found:
        raise UserError(f"{folder} has no submission of a method on the embedded world; give --from DIR")
    return found


def _source(said: dict[str, Any], run: Path) -> Source:
    metrics = sorted(path.name.removesuffix(".after.jsonl.gz") for path in run.glob("scores/*.after.jsonl.gz"))
    sides = ("before", "after")
    return Source(
        said=said,
        config=files.read_json(run / "config.json"),
        environment=files.read_json(run / "environment.json"),
        results=json.loads(gzip.decompress((run / "results.json.gz").read_bytes())),
        rounds=_lines(run / "rounds.jsonl.gz"),
        scores={name: {side: _lines(run / f"scores/{name}.{side}.jsonl.gz") for side in sides} for name in metrics},
    )


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


# --- making


def make(found: Sequence[Source], count: int, target: Path) -> list[Path]:
    """`count` submissions in the folder `target`, no two alike."""
    folders = [target / f"2026-01-01_team-{number:04d}" for number in range(count)]
    return [_make(found[number % len(found)], number, folder) for number, folder in enumerate(folders)]


def _make(source: Source, number: int, folder: Path) -> Path:
    runs, listed = [], {}
    split = _split(json.dumps({**source.config, "split": None, "seed": 0}))
    for seed in SEEDS:
        config = check({**source.config, "seed": seed})
        entry = {**source.said["runs"][0], "seed": seed, "adapter": None}
        entry["config_hash"] = settings_hash(config, entry["split_hash"], entry["base_hash"])
        runs.append(entry)
        for name, content in _contents(source, config, split, entry["config_hash"], number).items():
            path = folder / f"runs/{seed}/{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            listed[f"runs/{seed}/{name}"] = {"sha256": files.sha256_file(path), "bytes": len(content)}
    own = {"team": f"team {number}", "method": f"{source.said['method']} {number}", "runs": runs, "files": listed}
    files.write_json(folder / "submission.json", {**source.said, **own, "claims": {}})
    return folder


@functools.cache
def _split(config: str) -> Split:
    return resolve_split(check(json.loads(config)))


def _contents(source: Source, config: RunConfig, split: Split, config_hash: str, number: int) -> dict[str, bytes]:
    """A run folder's files by name, as a submission has them."""
    rng = np.random.default_rng([config.seed, number])
    scores = {name: {**sides, "after": _moved(sides["after"], rng)} for name, sides in source.scores.items()}
    json_files = {
        "config.json": config.to_dict(),
        "environment.json": source.environment,
        "results.json": _results(source.results, scores, config, config_hash),
    }
    rows = {f"scores/{name}.{side}": of for name, sides in scores.items() for side, of in sides.items()}
    rows["rounds"] = _rounds(source.rounds, config, split, rng)
    texts = {name: json.dumps(value).encode() for name, value in json_files.items()}
    texts |= {f"{name}.jsonl": _text(of) for name, of in rows.items()}
    large = {name for name in texts if name.endswith(".jsonl") or name == "results.json"}
    packed = {f"{name}.gz": gzip.compress(texts[name], 6, mtime=0) for name in large}
    return {name: text for name, text in texts.items() if name not in large} | packed


def _text(rows: Sequence[Row]) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _moved(rows: Sequence[Row], rng: np.random.Generator) -> list[Row]:
    """Losses a little better or worse together and one by one; some answers right that were wrong, and the reverse."""
    shift = rng.normal(0, SHIFT)
    return [_moved_row(row, 1 + shift + rng.normal(0, NOISE), rng.random() < FLIPS) for row in rows]


def _moved_row(row: Row, factor: float, flips: bool) -> Row:
    evidence, value = row["evidence"], row["value"]
    if value is None:
        return row
    if not evidence:
        return {**row, "value": max(0.0, value * factor)}
    if not flips or not {"answer", "right"} <= evidence.keys():
        return row
    answer = "?" if value else evidence["right"]
    return {**row, "value": 1.0 - value, "evidence": {**evidence, "answer": answer}}


def _rounds(rounds: Sequence[Row], config: RunConfig, split: Split, rng: np.random.Generator) -> list[Row]:
    """The log with the clients that the seed gives."""
    clients = split.manifest.clients
    plan = schedule(config, len(clients))
    made = []
    for line, chosen in zip(rounds, plan, strict=True):
        share = config.federation.rounds * config.federation.clients_per_round / len(clients)
        own = {
            "clients": chosen,
            "client_ids": [clients[client].id for client in chosen],
            "num_examples": [clients[client].train for client in chosen],
            "steps": [config.local.num_steps(clients[client].train, share) for client in chosen],
            "update_norm": line["update_norm"] * (1 + rng.normal(0, SHIFT)),
        }
        made.append({**line, **own})
    return made


def _results(results: Row, scores: dict[str, dict[str, list[Row]]], config: RunConfig, config_hash: str) -> Row:
    sets = {
        name: ScoreSet(**{side: [Score.from_dict(row) for row in of] for side, of in sides.items()})
        for name, sides in scores.items()
    }
    infos = {name: METRICS[name].info for name in sets}
    return {
        **results,
        "run": {**results["run"], "seed": config.seed, "config_hash": config_hash},
        "metrics": metrics_of(sets, infos),
        "clients": {name: [vars(row) for row in client_rows(of)] for name, of in sets.items()},
    }


# --- measuring


def measured(words: Sequence[str], cache: Path) -> dict[str, float]:
    """Seconds of wall and processor time, of its processes too; raises RuntimeError with its output if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "fedllm_bench", "board", *words]
    environment = {**os.environ, "FEDLLM_BENCH_CACHE": str(cache)}
    child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if child.returncode:
        raise RuntimeError(f"{' '.join(words[:3])} failed:\n{child.stdout.decode(errors='replace')[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - start, "cpu_seconds": used}


def measure(found: Sequence[Source], count: int, jobs: int) -> list[Row]:
    """One record for each step."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        paths = [str(path) for path in make(found, count, work / "submissions")]
        build = ["build", "--submissions", str(work / "submissions"), "--jobs", str(jobs), "--out"]
        validate = ["validate", *paths, "--board", str(work / "submissions"), "--jobs", str(jobs)]
        steps = {
            "cold": ([*build, str(work / "cold")], work / "cache"),
            "validate": (validate, work / "cache2"),
            "warm": ([*build, str(work / "warm")], work / "cache2"),
        }
        rows: list[Row] = []
        for name, (words, cache) in steps.items():
            rows.append({"step": name, "count": count, "jobs": jobs, **measured(words, cache)})
        for row in (rows[0], rows[2]):
            row["first_page_bytes"] = (work / row["step"] / "index.html").stat().st_size
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    head = f"{'step':<10}{'count':>7}{'jobs':>6}{'seconds':>9}{'cpu s':>9}{'cpu s each':>12}{'page kB':>9}"
    return [head] + [
        f"{row['step']:<10}{row['count']:>7}{row['jobs']:>6}{row['seconds']:>9.1f}{row['cpu_seconds']:>9.1f}"
        f"{row['cpu_seconds'] / row['count']:>12.3f}{row.get('first_page_bytes', 0) / 1000 or '':>9}"
        for row in rows
    ]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path("leaderboard/submissions")
    made.add_argument("--from", dest="source", type=Path, default=default, metavar="DIR", help=f"default: {default}")
    made.add_argument("--count", type=_positive, default=500, metavar="N", help="submissions (default: 500)")
    made.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="default: one a core")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    made.add_argument("--keep", type=Path, metavar="DIR", help="write the submissions there and measure nothing")
    return made


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def main(words: Sequence[str] | None = None) -> int:
    args = parser().parse_args(words)
    try:
        found = sources(args.source)
    except UserError as error:
        parser().error(str(error))
    if args.keep:
        make(found, args.count, args.keep)
        return 0
    rows = measure(found, args.count, args.jobs)
    sys.stdout.write("\n".join(table(rows)) + "\n")
    if args.json:
        files.write_json(args.json, {"runs": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
