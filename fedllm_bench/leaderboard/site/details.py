"""What a submission's own page shows beside its standing: settings, curves, clients, and where everything came from.

Read from untrusted files, so what is no number is left out of a curve, and texts stay texts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.config.run import dotted
from fedllm_bench.leaderboard.ranking.measures import side_of
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.recompute import SeedScores, mean_of
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.leaderboard.submission.tiers import records_of
from fedllm_bench.leaderboard.submission.tracks import find_track

Points = list[tuple[float, float]]  # of (round, value)
CONFIG, ENVIRONMENT, ROUNDS, CLIENTS = "config.json", "environment.json", "rounds.jsonl", "clients.jsonl"


@dataclass(frozen=True, kw_only=True)
class ClientMeans:
    """Means over seeds, None where a side has none."""

    client: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    name: str
    unit: str
    higher_is_better: bool
    before: float | None
    after: Mapping[int, float | None]


@dataclass(frozen=True, kw_only=True)
class Details:
    """By seed where a run is meant. `metric` is that of the client rows, "" where there are none."""

    submission: Mapping[str, Any]
    config: Mapping[str, Any]
    environments: Mapping[int, Mapping[str, Any]]
    training: Mapping[int, Points]
    heldout: Mapping[int, Points]
    metrics: Sequence[MetricRow]
    metric: str
    clients: Sequence[ClientMeans]
    records: Sequence[Mapping[str, Any]]


def details_of(bundle: Bundle, scores: Sequence[SeedScores]) -> Details:
    runs = bundle.runs()
    metric = _client_metric(bundle, scores)
    return Details(
        submission=bundle.submission.model_dump(mode="json"),
        config=dotted(_object(runs[0], CONFIG)),
        environments={run.seed: _object(run, ENVIRONMENT) for run in runs},
        training={run.seed: _training(run) for run in runs},
        heldout={run.seed: _heldout(run) for run in runs},
        metrics=_metrics(scores),
        metric=metric,
        clients=_client_rows(metric, scores) if metric else (),
        records=[asdict(record) for record in records_of(bundle)],
    )


def _object(run: RunFiles, name: str) -> dict[str, Any]:
    value = run.json(name) if run.has(name) else {}
    return value if isinstance(value, dict) else {}


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list):
        return []
    known = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return [value for value in known if math.isfinite(value)]


def _training(run: RunFiles) -> Points:
    """The clients' mean training loss of each round."""
    found = ((_numbers([line.get("round")]), _numbers(line.get("losses"))) for line in run.lines(ROUNDS))
    return sorted((at[0], statistics.fmean(losses)) for at, losses in found if at and losses)


def _heldout(run: RunFiles) -> Points:
    """The median of the clients' held-out losses, where they were looked at between rounds."""
    lines = run.lines(CLIENTS)
    found = ((_numbers([line.get("round")]), _numbers(_values(line.get("heldout")))) for line in lines)
    return sorted((at[0], statistics.median(losses)) for at, losses in found if at and losses)


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _metrics(scores: Sequence[SeedScores]) -> list[MetricRow]:
    """Every metric and view that the first seed has."""
    rows = []
    for name, first in scores[0].metrics.items():
        after = {one.seed: one.metrics[name] for one in scores if name in one.metrics}
        rows.append(
            MetricRow(
                name=name,
                unit=first.unit,
                higher_is_better=first.higher_is_better,
                before=mean_of(first, first.before) if first.before else None,
                after={seed: mean_of(metric, metric.after) for seed, metric in after.items()},
            )
        )
    return rows


def _client_metric(bundle: Bundle, scores: Sequence[SeedScores]) -> str:
    """The first ranked metric that every seed has by client."""
    try:
        ranked = find_track(bundle.submission.track).ranked
    except UserError:
        ranked = ()
    named = [name.removesuffix("_worst_tenth") for name in ranked]
    fitting = [name for name in named if all(name in one.metrics for one in scores)]
    return next((name for name in fitting if not scores[0].metrics[name].is_whole_only), "")


def _client_rows(metric: str, scores: Sequence[SeedScores]) -> list[ClientMeans]:
    before = side_of(scores[0].metrics[metric].before or []).clusters
    afters = [side_of(one.metrics[metric].after).clusters for one in scores]
    rows = []
    for client in sorted({name for clusters in afters for name in clusters}):
        means = [clusters[client].mean for clusters in afters if client in clusters]
        known = [mean for mean in means if mean is not None]
        base = before[client].mean if client in before else None
        rows.append(ClientMeans(client=client, before=base, after=statistics.fmean(known) if known else None))
    return rows
