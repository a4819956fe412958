"""Copies of another submission, and one run given as two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations

from fedllm_bench.leaderboard.checks.context import CheckContext
from fedllm_bench.leaderboard.checks.fingerprints import Fingerprint, Sketch, fingerprint, similarity, sketches
from fedllm_bench.leaderboard.submission.problems import Problem
from fedllm_bench.leaderboard.submission.submitted import Submitted

NEAR = 0.75  # of the word sequences of two answers
SOME, MOST = 0.2, 0.8  # shares of answers alike from which on it is flagged, and refused
FEWEST = 10
OWN = "; team and contact are equal: see that the same people submit it"
AGAIN = ": a copy, or an exact reproduction (config, seed, split and base are the same)"


def others(submitted: Submitted, context: CheckContext) -> Iterator[Problem]:
    """Losses, adapters and answers are not those of a submission that is on the board.

    A team may enter the same runs in several tracks; that is flagged, since anybody can write the name and contact of
    another. A team's name alone makes nobody that team. Canaries are copies by nature.
    """
    if not context.others or submitted.is_canary:
        return
    own = fingerprint(submitted)
    for other in context.others:
        if other.digest == own.digest:
            yield Problem(code="copied", message=f"{other.name} on the board is this very submission")
            continue
        found = [*_of_training(own, other), *_of_answers(own, other)]
        if (own.team, own.contact) != (other.team, other.contact):
            yield from found
        else:
            yield from (replace(problem, level="flagged", message=problem.message + OWN) for problem in found)


def _of_training(own: Fingerprint, other: Fingerprint) -> Iterator[Problem]:
    """Flagged where every shared one may be the other's training done again."""
    texts = {
        f"a run has the loss of every item that one of {other.name} has": (own.losses, other.losses),
        f"an adapter is that of {other.name}": (own.adapters, other.adapters),
    }
    for text, (ours, theirs) in texts.items():
        shared = sorted(ours.keys() & theirs.keys())
        if shared and all(ours[one].may_repeat(theirs[one]) for one in shared):
            yield Problem(code="copied", message=text + AGAIN, where="runs", level="flagged")
        elif shared:
            yield Problem(code="copied", message=f"{text}: a copy", where="runs")


def _of_answers(own: Fingerprint, other: Fingerprint) -> Iterator[Problem]:
    """Flagged where the training that answered may be the other's done again."""
    again = own.answers_of.may_repeat(other.answers_of)
    for benchmark, answers in own.answers.items():
        alike = _answers(answers, other.answers.get(benchmark, {}), f"answers to {benchmark}", other.name)
        yield from (replace(one, level="flagged", message=one.message + AGAIN) if again else one for one in alike)


def _answers(own: Mapping[str, Sketch], theirs: Mapping[str, Sketch], what: str, name: str) -> Iterator[Problem]:
    shared = own.keys() & theirs.keys()
    near = [item for item in shared if similarity(own[item], theirs[item]) >= NEAR]
    if len(shared) < FEWEST or len(near) <= SOME * len(shared):
        return
    text = f"{len(near)} of {len(shared)} long {what} are, or nearly are, those of {name}"
    level = "refused" if len(near) > MOST * len(shared) else "flagged"
    yield Problem(code="copied-answers", message=text, where="runs", level=level)  # type: ignore[arg-type]


def own_seeds(submitted: Submitted, _: CheckContext) -> Iterator[Problem]:
    """The seeds answer for themselves: sampled answers of two trainings are not the same."""
    by_seed = {run.seed: sketches(run) for run in submitted.runs} if not submitted.is_canary else {}
    for one, other in combinations(sorted(by_seed), 2):
        for benchmark, answers in by_seed[other].items():
            theirs = by_seed[one].get(benchmark, {})
            yield from _answers(answers, theirs, f"answers of seed {other} to {benchmark}", f"seed {one}")
