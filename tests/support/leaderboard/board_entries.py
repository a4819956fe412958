"""Entries of a board from small tables of numbers."""

from __future__ import annotations

import numpy as np

from fedllm_bench.leaderboard.ranking.board import BoardEntry
from fedllm_bench.leaderboard.ranking.measures import ESTIMATORS, Measure, side_of
from fedllm_bench.leaderboard.submission.tracks import Track, find_track
from fedllm_bench.scores.score import SCALES, Score

HIGHER = dict.fromkeys(("heldout", "heldout_tokens", "heldout_worst_tenth", "perplexity"), False)
ESTIMATED = {
    "heldout_worst_tenth": "mean over the worst tenth of clients",
    "heldout_tokens": "mean over tokens",
    "perplexity": "exp of the mean over tokens",
}
TRACK: Track = find_track("mini-aya/fixed")


def scores(values, prefix="item"):
    """One item for each client, by the place in `values`; None is unscored."""
    return [
        Score(f"{prefix}-{i}", None if v is None else float(v), "" if v is not None else "no", cluster=f"c{i:02d}")
        for i, v in enumerate(values)
    ]


def measure(name, by_seed, *, version="1", prefix="item", whole_only=False):
    higher = HIGHER.get(name, True)
    how = ESTIMATED.get(name, "mean over clients")
    assert (how, higher) in ESTIMATORS
    return Measure(
        name=name,
        version=version,
        unit="share" if higher else "nats per token",
        scale=SCALES["share"] if higher else None,
        higher_is_better=higher,
        estimator=how,
        description="of a test",
        judge=name.partition("@")[2],
        unit_of_n="client",
        whole_only=whole_only,
        seeds={seed: side_of(scores(values, prefix)) for seed, values in by_seed.items()},
    )


def entry(method, measures, *, kind="method", made_by=None, date="2026-01-01", **more):
    seeds = tuple(next(iter(measures.values())).seeds) if measures else (0, 1, 2)
    return BoardEntry(
        slug=f"{date}_{method}",
        digest=f"{len(method):064x}",
        track=more.pop("track", TRACK.id),
        split_hash=more.pop("split_hash", "ab" * 32),
        kind=kind,
        method=method,
        made_by=method if made_by is None else made_by,
        team="Team",
        date=date,
        tier="recomputed",
        measures=measures,
        seeds=seeds,
        **more,
    )


def table(rng, mean, *, seeds=3, clients=30, seed_sd=0.01, client_sd=0.05, common=None):
    """Seed -> values of the clients around `mean`; `common` are effects that all rows share."""
    shared = np.zeros(clients) if common is None else common
    return {
        seed: (mean + shared + rng.normal(0, seed_sd) + rng.normal(0, client_sd, clients)).tolist()
        for seed in range(seeds)
    }


def full(rng, mean, **options):
    """All three ranked metrics of mini-aya; a higher `mean` is better on each."""
    return {
        "heldout": measure("heldout", table(rng, 2 - mean, **options)),
        "mini_exact": measure("mini_exact", table(rng, mean, **options)),
        "mini_choice": measure("mini_choice", table(rng, mean, **options)),
    }
