"""From a submission's folder to what a board knows of it. Its scores are computed again from the raw records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from fedllm_bench.leaderboard.ranking.board import BoardEntry
from fedllm_bench.leaderboard.ranking.measures import measures_of
from fedllm_bench.leaderboard.submission.bundle import Bundle
from fedllm_bench.leaderboard.submission.problems import Refused
from fedllm_bench.leaderboard.submission.recompute import SeedScores
from fedllm_bench.leaderboard.submission.run_files import RunFiles
from fedllm_bench.leaderboard.submission.tiers import tier_of
from fedllm_bench.leaderboard.submission.tracks import find_track

MOST_FLOPS = 1e30  # that are believed
RESULTS, ROUNDS, CONFIG = "results.json", "rounds.jsonl", "config.json"


def entry_of(bundle: Bundle, scores: Sequence[SeedScores]) -> BoardEntry:
    """`scores` are those of the runs, by seed. Raises a :class:`UserError` where the runs differ in what they are."""
    submission, runs = bundle.submission, bundle.runs()
    track = find_track(submission.track)
    personal, measures = any(map(_is_personal, runs)), measures_of(scores, {*track.ranked, *track.judged})
    bytes_up, bytes_down = (_mean([_sum_of(run, key) for run in runs]) for key in ("bytes_up", "bytes_down"))
    return BoardEntry(
        slug=bundle.folder.name,
        digest=bundle.digest,
        track=submission.track,
        split_hash=_one([run.entry.split_hash for run in runs]),
        kind=submission.kind,
        method=submission.method + _kind_of(runs),
        made_by=_one([_made_by(run) for run in runs]),
        team=submission.team,
        url=submission.url,
        date=submission.date,
        tier=tier_of(bundle),
        # answers to benchmarks are one adapter's, which of clients with their own is none that the row is of
        measures={name: one for name, one in measures.items() if not (personal and one.whole_only)},
        seeds=tuple(run.seed for run in runs),
        personal=personal,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        train_flops=_mean([_train_flops(run) for run in runs]),
        epsilon=_largest([_epsilon(run) for run in runs]),
    )


def _made_by(run: RunFiles) -> str:
    """The suite's name of the method, with the kind of adapter but for LoRA; "" for a run that it did not make."""
    return run.config().method.name + _kind(run) if run.has(CONFIG) else ""


def _kind_of(runs: Sequence[RunFiles]) -> str:
    return _one([_kind(run) for run in runs])


def _kind(run: RunFiles) -> str:
    """The kind of adapter, behind the name of a method; "" for LoRA, and where nobody says."""
    adapter = run.config().adapter if run.has(CONFIG) else None
    return f", {adapter.in_words}" if adapter and not adapter.is_lora else ""


def _is_personal(run: RunFiles) -> bool:
    """Whether each client was scored under its own adapter; work done outside of the suite is of one adapter."""
    results = run.json(RESULTS) if run.has(RESULTS) else None
    about = results.get("run") if isinstance(results, dict) else None
    return isinstance(about, dict) and about.get("personal") is True


def _train_flops(run: RunFiles) -> float | None:
    """As results.json states it; None where it does not."""
    results = run.json(RESULTS) if run.has(RESULTS) else None
    cost = results.get("cost") if isinstance(results, dict) else None
    found = cost.get("train_flops") if isinstance(cost, dict) else None
    return float(found) if isinstance(found, int | float) and 0 < found < MOST_FLOPS else None


def _sum_of(run: RunFiles, key: str) -> float | None:
    """Over rounds, as logged; None without a log of it."""
    values = [line.get(key) for line in run.lines(ROUNDS)]
    known = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return _as_float(sum(known)) if values and len(known) == len(values) else None


def _epsilon(run: RunFiles) -> float | None:
    """As the suite's accountant found it for the run."""
    results = run.json(RESULTS) if run.has(RESULTS) else None
    privacy = results.get("privacy") if isinstance(results, dict) else None
    epsilon = privacy.get("epsilon") if isinstance(privacy, dict) else None
    return _as_float(epsilon) if isinstance(epsilon, int | float) else None


def _as_float(value: float) -> float | None:
    """None for an int that no float holds, which a file may have."""
    try:
        return float(value)
    except OverflowError:
        return None


def _one(values: Sequence[str]) -> str:
    """The value that all runs share."""
    if len(set(values)) > 1:
        raise Refused("record", f"the runs of a submission differ: {', '.join(sorted(set(values)))[:200]!a}", CONFIG)
    return values[0]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
