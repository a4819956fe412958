"""What a private run guarantees, found again by the suite's accountant from its config and number of clients."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fedllm_bench.common.text import counted
from fedllm_bench.leaderboard.checks.context import CheckContext, split_of
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted, SubmittedRun
from fedllm_bench.leaderboard.submission.tracks import ROOM
from fedllm_bench.methods.accounting import spent_epsilon
from fedllm_bench.methods.privacy import Private
from fedllm_bench.methods.wrapped import find

EPSILON = "privacy.epsilon"
CLOSE = 1e-3  # of epsilon: another version of the accountant rounds otherwise


def privacy(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Epsilon is that of the noise, the rounds and the clients, and within the track's limit however noise was set."""
    track = context.tracks.get(submitted.bundle.submission.track)
    limit = track.rules.at_most.get(EPSILON) if track else None
    for run in submitted.runs if submitted.is_of_suite else ():
        where = f"{run.where}/results.json.gz: privacy"
        split = split_of(submitted, run, context)
        if split is not None and run.num_clients != (count := len(split.manifest.clients)):
            text = f"{counted(run.num_clients, 'client')}, the split has {count}: epsilon depends on that number"
            yield Problem(code="privacy", message=text, where=f"{run.where}/results.json.gz: data")
        private = find(run.method, Private)
        stated = run.results.get("privacy")
        if private is None or stated is None:
            if (private is None) != (stated is None):
                text = (
                    "it is stated, and the config has none"
                    if private is None
                    else "the config has it, and none is stated"
                )
                yield Problem(code="privacy", message=text, where=where)
            continue
        right = _epsilon(run, private)
        if not _equal(stated["epsilon"], right):
            text = f"epsilon is {stated['epsilon']}, the config and {run.num_clients} clients give {right}"
            yield Problem(code="privacy", message=text, where=where)
        if limit is not None and (right is None or right > limit * (1 + ROOM)):
            text = f"epsilon is {right if right is None else round(right, 3)}, at most {limit:g} is allowed"
            yield Problem(code="track-rule", message=f"{text} (track {track.id})" if track else text, where=where)


def _epsilon(run: SubmittedRun, private: Private) -> float | None:
    config = run.config
    rate = private.expected / run.num_clients
    return spent_epsilon(private.noise_multiplier, config.privacy.delta, rate, len(run.rounds))


def _equal(stated: float | None, right: float | None) -> bool:
    if stated is None or right is None:
        return stated is right
    return math.isclose(stated, right, rel_tol=CLOSE)
