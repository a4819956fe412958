"""What each client gained in a run: over training alone, and over the base. From the raw scores of run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.comparison.run_scores import ComparedFolder, differences, from_training, read_score_file
from fedllm_bench.config.run import RunConfig
from fedllm_bench.runs.folder import BASELINE, RunFolder
from fedllm_bench.scores.score import LOSSES, Score, is_seen
from fedllm_bench.scores.summaries import paired_clusters

OUTCOMES = {"local": "gain over training alone", "base": "gain over the base model"}
# A run of `local` trains the same clients alone whatever these are.
FREE = ("method", "federation.weighting", "data.shuffle_users", "data.swap_answers", "evaluation", "privacy",
        "communication", "variant", "engine", "local.block_size")  # fmt: skip


class FinishedRun(RunFolder):
    """A run whose clients' scores are looked at."""

    faults = replace(
        ComparedFolder.faults,
        absent="RUN={run}: there is no {name}; give the folder of a finished `fedllm-bench bench`",
        no_hash=RunFolder.faults.no_hash,
    )

    @property
    def hashes(self) -> tuple[str, str]:
        """Of its split and of its base model."""
        return self.split_hash, self.base_hash

    @property
    def loss(self) -> str:
        """The metric that is the loss of its task."""
        return LOSSES[self.config.data.task]


@dataclass(frozen=True, kw_only=True)
class RunGains:
    """Outcome -> client -> gain, in the metric's unit, above 0 where the client is better off. `baseline`: the run of
    clients alone; None where there is none, and then there are no gains over it."""

    run: FinishedRun
    metric: str
    measured: MetricScores
    baseline: Path | None
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def open_trained(folder: Path) -> FinishedRun:
    """Raises a :class:`UserError` for what is no finished run folder."""
    run = FinishedRun(folder)
    _ = run.config, run.hashes, run.results  # told before any other work
    return run


def of_one_split(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs of which gains are computed: all but those of clients alone.

    Raises a :class:`UserError` where they are not of one split and base model, and where none is left.
    """
    for run in runs[1:]:
        if run.hashes != runs[0].hashes:
            what = "split" if run.hashes[0] != runs[0].hashes[0] else "base model"
            raise UserError(f"{runs[0].path} and {run.path} are not of one {what}; give runs on one split and base")
    found = [run for run in runs if run.method != BASELINE]
    if not found:
        raise UserError(f"only runs of {BASELINE} were given; give a federated one: it is compared with them")
    return list({run.path.resolve(): run for run in found}.values())


def run_gains(run: FinishedRun, given: Sequence[FinishedRun], metric: str | None = None) -> RunGains:
    """`given`: runs among which the one of clients alone may be; else it is looked for beside the run's own folder.

    Raises a :class:`UserError` for a metric that the run was not scored on.
    """
    measured, name = from_training(run.path), metric or run.loss
    if name not in measured:
        raise unknown("metric", name, measured, f"in {run.path}")
    after, baseline = measured[name], baseline_of(run, [*given, *map(open_trained, run.baselines())])
    sides = {"local": _after(baseline.path, name, after) if baseline else None, "base": _before(run.path, name)}
    return RunGains(
        run=run,
        metric=name,
        measured=after,
        baseline=baseline.path if baseline and sides["local"] is not None else None,
        gains={outcome: gains(after, side) for outcome, side in sides.items() if side is not None},
    )


def gains(after: MetricScores, other: Sequence[Score]) -> dict[str, float]:
    """Client -> how much better `after` is than `other`, mean over the items that both have a score for."""
    ours, theirs = paired_clusters(after.scores, other)
    sign = 1 if after.higher_is_better else -1
    means = {client: (ours[client].mean, theirs[client].mean) for client in ours}
    return {client: sign * (a - b) for client, (a, b) in means.items() if a is not None and b is not None}


def baseline_of(run: FinishedRun, others: Sequence[FinishedRun]) -> FinishedRun | None:
    """The run of clients alone with the same seed, split, base model and local training; the first that is found."""
    for other in others:
        if other.method == BASELINE and other.hashes == run.hashes and not _differ(run.config, other.config):
            return other
    return None


def _differ(one: RunConfig, other: RunConfig) -> bool:
    return any(not _is_free(key) for key in differences(one.to_dict(), other.to_dict()))


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _after(folder: Path, metric: str, like: MetricScores) -> list[Score] | None:
    found = from_training(folder).get(metric)
    return list(found.scores) if found and found.identity() == like.identity() else None


def _before(folder: Path, metric: str) -> list[Score] | None:
    path = folder / "scores" / f"{metric}.before.jsonl"
    return [score for score in read_score_file(path) if is_seen(score)] if path.is_file() else None
