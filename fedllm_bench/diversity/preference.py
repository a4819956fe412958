"""What users prefer: what the chosen answer has more of than the rejected one, of each client and over clients."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.progress import track
from fedllm_bench.diversity.agreement import agreement
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import Section, by_client, computed_on
from fedllm_bench.diversity.traits import TRAITS, Trait
from fedllm_bench.scores.intervals import of_mean
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import per_cluster, summarise


def preference_section(rows: Sequence[DiversityRow]) -> Section:
    """The paired differences of TRAITS, and how often users agree.

    A difference is of one pair, chosen minus rejected. Over the split it is the mean over clients of the mean of each
    client's pairs, with its interval over clients; of a client it is the mean of its pairs, with that over pairs
    (docs/statistics.md). Raises a :class:`UserError` for rows that are no pairs.
    """
    pairs = [row for row in rows if row.rejected]
    if not pairs:
        raise UserError("the rows have one answer each, and no rejected one; only a split of preferences has pairs")
    scores: dict[str, list[Score]] = {name: [] for name in TRAITS}
    for row in track(pairs, "compare answers", len(pairs)):
        for name, trait in TRAITS.items():
            scores[name].append(_difference(row, trait))
    section = {
        "computed_on": computed_on(pairs, "chosen minus rejected answers; means over clients"),
        "features": {name: _feature(scores[name], trait) for name, trait in TRAITS.items()},
        "agreement": agreement(pairs),
    }
    return Section(section=section, clients=_clients(pairs, scores))


def _difference(row: DiversityRow, trait: Trait) -> Score:
    chosen, rejected = trait.value(row.prompt, row.completion), trait.value(row.prompt, row.rejected)
    if chosen is None or rejected is None:
        return Score(row.row_id, None, "an answer or the prompt has no letters", cluster=row.client)
    return Score(row.row_id, chosen - rejected, cluster=row.client)


def _feature(scores: Sequence[Score], trait: Trait) -> dict[str, Any]:
    found = summarise(per_cluster(scores))
    values = [score.value for score in scores if score.value is not None]
    return {
        "mean": found.mean,
        "low": found.ci_low,
        "high": found.ci_high,
        "n": found.n_scored,
        "clients": found.n,
        "share_chosen_more": _share(value > 0 for value in values),
        "share_chosen_less": _share(value < 0 for value in values),
        "unit": trait.unit,
        "description": trait.description,
    }


def _share(flags: Iterable[bool]) -> float | None:
    found = list(flags)
    return sum(found) / len(found) if found else None


def _clients(pairs: Sequence[DiversityRow], scores: dict[str, list[Score]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {client: {"preference": {}} for client in by_client(pairs)}
    for name, own in scores.items():
        values: dict[str, list[float]] = {client: [] for client in found}
        for score in own:
            if score.value is not None:
                values[score.cluster].append(score.value)
        for client, differences in values.items():
            found[client]["preference"][name] = _of_client(differences)
    return found


def _of_client(differences: Sequence[float]) -> dict[str, Any]:
    if not differences:
        return {"mean": None, "low": None, "high": None, "n": 0}
    limits = of_mean(np.asarray(differences), freedom=len(differences) - 1)
    return {"mean": statistics.fmean(differences), "low": limits.low, "high": limits.high, "n": len(differences)}
