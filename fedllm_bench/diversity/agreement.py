"""How often two users choose the same answer of the same pair to the same prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.evaluation.judging.agreement import share_of
from fedllm_bench.scores.score import Score

BY_CHANCE = 0.5  # two answers without names: who chooses blindly agrees with anybody in half of the cases
NO_PAIRS = "no pair of answers was voted on by two clients"


@dataclass(frozen=True)
class _Matches:
    """The votes of different clients on one pair of answers, two by two: `votes` of them, of which `equal` agree."""

    prompt: str
    votes: int
    equal: int
    longer: Counter[bool]  # votes for the longer answer, and for the shorter one; none where both are as long


def agreement(pairs: Sequence[DiversityRow]) -> dict[str, Any]:
    """The share of equal votes, each two votes of different clients on the same pair counting once.

    Its interval is over prompts. kappa = (agree - chance) / (1 - chance) with chance 1/2 (Bennett et al., 1954: S).
    `expected_by_length` is the agreement of independent users who all choose the longer answer as often as these do:
    what is above it, length does not explain. A dict with "skipped" where no two clients have a pair in common.
    """
    prompts: dict[str, set[str]] = {}
    for row in pairs:
        prompts.setdefault(row.prompt, set()).add(row.client)
    shared = sum(len(clients) > 1 for clients in prompts.values())
    found = [match for votes in _by_pair(pairs).values() if (match := _matched(votes)) is not None]
    if not found:
        return {"skipped": NO_PAIRS, "shared_prompts": shared}
    scores = [Score(str(i), m.equal / m.votes, cluster=m.prompt, weight=float(m.votes)) for i, m in enumerate(found)]
    share = share_of(scores)
    agree = sum(m.equal for m in found) / sum(m.votes for m in found)
    return {
        "prompts": share.n,
        "shared_prompts": shared,
        "answer_pairs": len(found),
        "pairs": sum(m.votes for m in found),
        "agree": agree,
        "expected_by_chance": BY_CHANCE,
        "expected_by_length": _by_length(found),
        "kappa": (agree - BY_CHANCE) / (1 - BY_CHANCE),
        "low": share.ci_low,
        "high": share.ci_high,
    }


def _by_pair(pairs: Iterable[DiversityRow]) -> dict[tuple[str, frozenset[str]], list[DiversityRow]]:
    found: dict[tuple[str, frozenset[str]], list[DiversityRow]] = {}
    for row in pairs:
        found.setdefault((row.prompt, frozenset((row.completion, row.rejected))), []).append(row)
    return found


def _matched(votes: Sequence[DiversityRow]) -> _Matches | None:
    """None where one client alone voted, or both answers are one. Equal votes of a client on a pair are one vote."""
    unique = {(row.client, row.completion): row for row in votes}
    of_client = Counter(client for client, _ in unique)
    for_answer = Counter(answer for _, answer in unique)
    both_ways = sum(count > 1 for count in of_client.values())  # a client who voted either way: no two clients
    total = _twos(len(unique)) - both_ways
    if not total or votes[0].completion == votes[0].rejected:
        return None
    equal = sum(map(_twos, for_answer.values()))
    longer = Counter(
        len(row.completion) > len(row.rejected) for row in unique.values() if len(row.completion) != len(row.rejected)
    )
    return _Matches(votes[0].prompt, total, equal, longer)


def _twos(count: int) -> int:
    return count * (count - 1) // 2


def _by_length(found: Sequence[_Matches]) -> float | None:
    """p^2 + (1 - p)^2 for the share p of votes for the longer answer, over votes on pairs that differ in length."""
    counts = Counter(chain.from_iterable(m.longer.elements() for m in found))
    if not counts:
        return None
    p = counts[True] / counts.total()
    return p * p + (1 - p) ** 2
