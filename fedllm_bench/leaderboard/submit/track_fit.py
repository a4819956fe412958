"""What a track asks of runs before they are submitted to it: the data set, the rules, and what it ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from fedllm_bench.common.errors import UserError
from fedllm_bench.comparison.open_scores import GLOBAL
from fedllm_bench.config.run import check
from fedllm_bench.evaluation.closed.closed_samples import samples_file
from fedllm_bench.evaluation.closed.declared import closed_benchmark_of
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
from fedllm_bench.leaderboard.submission.tracks import ROOM, Track, check_profile, find_track, rule_problems, track_of
from fedllm_bench.leaderboard.submit.own_runs import OwnRun
from fedllm_bench.leaderboard.submit.packing import public_config


def default_track(run: OwnRun) -> str:
    """Raises a :class:`UserError` for a data set that no track is of."""
    return track_of(check(public_config(run.config)))


def check_track(name: str, runs: Sequence[OwnRun], kind: Literal["method", "canary"]) -> None:
    """Raises a :class:`UserError` with all that keeps these runs out of the track."""
    track = find_track(name)
    config = runs[0].config
    check_profile(config)
    if track.dataset != config.name:
        mini = (config.track == "mini", track.profile == "mini")
        why = {(True, False): "a mini run enters mini boards only", (False, True): "only mini runs enter a mini board"}
        reason = why.get(mini, "it is of another data set")
        raise UserError(f"--track {name}: these runs are of {config.name}, the track is of {track.dataset}; {reason}: "
                        f"give --track {config.name}/{track.kind}, or none")  # fmt: skip
    if kind == "canary":  # shown for what it is, whatever a track ranks
        return
    wrong = [problem.message for problem in rule_problems(track, check(public_config(runs[0].config)))]
    wrong += [line for run in runs for line in (*_unanswered(track, run), *_unprotected(track, run))]
    if wrong:
        raise UserError(f"--track {name}: {'; '.join(dict.fromkeys(wrong))}")


def _unanswered(track: Track, run: OwnRun) -> Iterator[str]:
    """What the track ranks and the run has no records of."""
    for metric in track.ranked:
        if metric in run.results["metrics"]:
            continue
        found, closed = OPEN_METRICS.get(metric.partition("@")[0]), closed_benchmark_of(metric)
        if closed is not None:
            if not samples_file(run.path, closed, GLOBAL).is_file():
                ask = f"fedllm-bench evaluate {run.path} --metrics {closed}"
                yield f"the track ranks {metric}: seed {run.seed} was not asked {closed}; run `{ask}`"
        elif found is None:
            yield f"the track ranks {metric}, on which seed {run.seed} was not scored; run again with it in --metrics"
        elif not any((run.path / "answers" / found.benchmark).glob("*.jsonl")):
            yield f"the track ranks {metric}: seed {run.seed} has no answers; run `fedllm-bench answer {run.path}`"
        elif found.needs_judge and not any((run.path / "judgements").glob(f"*/{found.benchmark}/*.jsonl")):
            yield f"the track ranks {metric}: no judge graded seed {run.seed}; run `fedllm-bench judge {run.path}`"


def _unprotected(track: Track, run: OwnRun) -> Iterator[str]:
    """A guarantee that is weaker than the track allows, however the noise was set."""
    limit, stated = track.rules.at_most.get("privacy.epsilon"), run.results.get("privacy")
    if limit is not None and stated is not None:
        epsilon = stated["epsilon"]
        if epsilon is None or epsilon > limit * (1 + ROOM):
            got = "no guarantee" if epsilon is None else f"epsilon {epsilon:.3g}"
            yield f"seed {run.seed} has {got}, at most {limit:g} is allowed; give more noise"


def note_on_seeds(runs: Sequence[OwnRun], track: str) -> str:
    """A line on a row that will be shown and not ranked; "" for one that will be."""
    fewest = find_track(track).min_seeds
    if len(runs) >= fewest:
        return ""
    count = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    return f"{count}: the row is shown and not ranked; ranks are given from {fewest} seeds on"
