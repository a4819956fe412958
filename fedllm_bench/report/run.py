"""The last stage of a run: results.json and the figures, from the files of the stages before."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedllm_bench import files
from fedllm_bench.cell import RESULTS
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.stats import Resampling
from fedllm_bench.report import figures
from fedllm_bench.report.results import ScoreSet, client_rows, metrics_of, results_payload, write_results
from fedllm_bench.scoring import Scores
from fedllm_bench.setup import Bench


def write_report(
    bench: Bench, before: Scores, after: Scores, local: Scores | None, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Summaries with intervals, figures, and results.json as the last file: a run that has it is finished."""
    folder, config = bench.cell.folder, bench.config
    rounds = files.read_jsonl(folder / "rounds.jsonl")
    sets = {
        name: ScoreSet(before=before[name], after=after[name], local=local[name] if local else None)
        for name in bench.metrics
    }
    infos = {name: METRICS[name].info for name in bench.metrics}
    resampling = Resampling(seed=config.seed, samples=config.evaluation.bootstrap_samples)
    payload = results_payload(
        run=_about_run(bench),
        data=_about_data(bench),
        cost=_cost(rounds, seconds),
        metrics=metrics_of(sets, infos, resampling=resampling),
        resampling=resampling,
    )
    _draw(bench, payload, sets, rounds)
    write_results(folder / RESULTS, payload)
    return payload


def _about_run(bench: Bench) -> dict[str, Any]:
    config = bench.config
    commit = files.read_json(bench.cell.folder / "environment.json")["commit"]
    return {
        "dataset": bench.cell.split.name,
        "method": config.method.name,
        "profile": config.profile,
        "track": config.track,
        "seed": config.seed,
        "model": config.model.name,
        "config_hash": bench.cell.hash,
        "commit": commit,
    }


def _about_data(bench: Bench) -> dict[str, Any]:
    manifest = bench.cell.split.manifest
    sampled = bench.local_sample
    return {
        "num_clients": len(manifest.clients),
        "num_unseen_clients": len(manifest.unseen),
        "num_train_rows": sum(client.train for client in manifest.clients),
        "num_heldout_rows": sum(client.heldout for client in manifest.clients),
        "local_clients": [bench.clients.ids[client] for client in sampled],
    }


def _cost(rounds: list[dict[str, Any]], seconds: Mapping[str, float]) -> dict[str, Any]:
    # ru_maxrss counts kibibytes on Linux and bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "bytes_up": sum(record["bytes_up"] for record in rounds),
        "bytes_down": sum(record["bytes_down"] for record in rounds),
        "seconds": dict(seconds),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def _draw(
    bench: Bench, payload: dict[str, Any], sets: Mapping[str, ScoreSet], rounds: list[dict[str, Any]]
) -> list[Path]:
    run, out = payload["run"], bench.cell.folder / "figures"
    label = f"{run['dataset']}, {run['method']}, seed {run['seed']}"
    paths = []
    heldout = payload["metrics"].get("heldout")
    if heldout:
        sides = [(0, heldout["before"]), (len(rounds), heldout["after"])]
        points = [(at, side["mean"], side["ci_low"], side["ci_high"]) for at, side in sides if side["mean"] is not None]
        on = f"{heldout['after']['n']} clients, {heldout['after']['n_scored']} rows"
        paths += figures.loss_over_rounds(rounds, points, out, label=label, heldout_on=on)
        paths += figures.per_client(client_rows(sets["heldout"]), out, label=label)
    for metric in ("mini_exact", "mini_choice"):
        if metric in payload["metrics"]:
            paths += figures.tasks(payload, out, metric=metric, label=label)
    return paths
