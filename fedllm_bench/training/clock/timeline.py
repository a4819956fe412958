"""What happens when, before anything is trained: every trip of a client, and every aggregation.

sync: all clients of a round are waited for; with `over_selection` more are asked, and the first ones to answer count.
semi: the server aggregates `time_budget` seconds after it has asked, or when nobody is at work any more.
async: FedBuff (Nguyen et al., 2022, arXiv:2106.06639), Algorithm 1, with M clients at work and K = `goal`:

    whenever a client is free:   ask another one, who begins from the present model x^t
    whenever K uploads wait:     x^{t+1} = x^t + their mean;   t = t + 1

The staleness tau of an upload is the number of aggregations between the model that it began from and the one that it is
added to. Of what happens in the same moment uploads come first, then the aggregation, then asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

USED, LATE, SURPLUS, LOST, AT_WORK = "used", "late", "surplus", "lost", "at work"


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One trip of a client: asked at `sent`, with the model after `version` aggregations, back at `arrives` (seconds).

    `fate`: "used"; "late" (received, and above the limit of staleness); "surplus" (stopped, as enough had answered);
    "lost" (it dropped out, which the server learns when it should have arrived); "at work" (when the run ended).
    `round` is the number of the aggregation (0 is the first) in which it was used or passed over.
    """

    number: int
    client: int
    version: int
    sent: float
    arrives: float
    bytes_down: int
    bytes_up: int
    fate: str = AT_WORK
    round: int | None = None


@dataclass(frozen=True, kw_only=True)
class RoundEvents:
    """One aggregation. `note` says what was otherwise than the settings ask; "" where nothing was."""

    number: int
    begins: float
    ends: float
    visits: tuple[Visit, ...]  # that ended in it, by (version, client)
    sent: tuple[Visit, ...]  # that began from the model before it
    note: str = ""

    def of(self, *fates: str) -> list[Visit]:
        return [visit for visit in self.visits if visit.fate in fates]


@dataclass(frozen=True)
class Timeline:
    """All aggregations of a run."""

    steps: Sequence[RoundEvents]

    @cached_property
    def chosen(self) -> list[list[int]]:
        """By round, the clients who answer or are lost, by (version, client)."""
        return [[visit.client for visit in step.of(USED, LOST)] for step in self.steps]

    def cohorts(self, round_num: int) -> dict[int, list[int]]:
        """Version -> the clients whose uploads are used in a round and began from it, both in order."""
        found: dict[int, list[int]] = {}
        for visit in self.steps[round_num].of(USED):
            found.setdefault(visit.version, []).append(visit.client)
        return found

    def lost(self, round_num: int) -> frozenset[int]:
        return frozenset(visit.client for visit in self.steps[round_num].of(LOST))

    def needed_after(self, round_num: int) -> frozenset[int]:
        """The versions from which uploads of rounds behind this one began, of those that are there after it."""
        return self._needed[round_num]

    @cached_property
    def _needed(self) -> list[frozenset[int]]:
        found: list[frozenset[int]] = []
        later: set[int] = set()
        for step in reversed(self.steps):
            found.append(frozenset(version for version in later if version <= step.number))
            later |= {visit.version for visit in step.of(USED)}
        return found[::-1]

    def used_by(self, rounds: int) -> frozenset[int]:
        """The clients of whom an upload was used in the first `rounds` rounds."""
        return frozenset(visit.client for step in self.steps[:rounds] for visit in step.of(USED))

    def record(self, round_num: int, clients: Sequence[int]) -> dict[str, Any]:
        """What rounds.jsonl says of a round beside all else; `staleness` is by client, None for who was lost."""
        step = self.steps[round_num]
        tau = {visit.client: round_num - visit.version for visit in step.of(USED)}
        return {
            "virtual_seconds": step.ends,
            "staleness": [tau.get(client) for client in clients],
            "late": [visit.client for visit in step.of(LATE)],
            "surplus": [visit.client for visit in step.of(SURPLUS)],
            **({"note": step.note} if step.note else {}),
        }

    def bytes_of_late(self, round_num: int) -> int:
        """What was received in a round and dropped."""
        return sum(visit.bytes_up for visit in self.steps[round_num].of(LATE))

    def lines(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """One line of timeline.jsonl for each trip, in the order of asking; rounds count from 1, as in rounds.jsonl.

        `version` 0 is the model before the first round.
        """
        ended = {visit.number: visit for step in self.steps for visit in step.visits}
        sent = [ended.get(visit.number, visit) for step in self.steps for visit in step.sent]
        return [_line(visit, ids) for visit in sent]


def _line(visit: Visit, ids: Sequence[str]) -> dict[str, Any]:
    of_round = None if visit.round is None else visit.round + 1
    staleness = None if visit.round is None or visit.fate not in (USED, LATE) else visit.round - visit.version
    return {**asdict(visit), "client_id": ids[visit.client], "round": of_round, "staleness": staleness}


def summary(timeline: Timeline) -> Mapping[str, Any]:
    """What is said of a whole timeline: counts of trips by fate, staleness of the used ones, seconds in all."""
    visits = [visit for step in timeline.steps for visit in step.visits]
    counts = {fate: sum(visit.fate == fate for visit in visits) for fate in (USED, LATE, SURPLUS, LOST)}
    tau = [step.number - visit.version for step in timeline.steps for visit in step.of(USED)]
    return {
        "virtual_seconds": timeline.steps[-1].ends,
        "trips": sum(len(step.sent) for step in timeline.steps),
        **counts,
        "mean_staleness": sum(tau) / len(tau) if tau else 0.0,
        "max_staleness": max(tau, default=0),
        "notes": sum(bool(step.note) for step in timeline.steps),
    }
