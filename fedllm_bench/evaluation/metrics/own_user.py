"""Whose prompt a held-out row is, and whether answers are nearer to its user's own rows than to other users'."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import PreferenceRow, Row
from fedllm_bench.evaluation.metrics.references import NO_MODEL, Encoder, why_not
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.evaluation.thoughts import first_said
from fedllm_bench.metrics.items import HELDOUT
from fedllm_bench.scores.score import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OF_SPLIT = ("heldout_ref", "mini")  # benchmarks whose prompts are held-out rows, named by their row's id
OWN_ROWS = 20  # of one client in one language; more would take long and say little more
OTHER_CLIENTS = 50  # whose rows stand for everybody else's
NO_ROWS = "the rows of the run's split are not at hand"


@dataclass(frozen=True, kw_only=True)
class Owners:
    """`client_of`: held-out row -> client. `rows`: (client, language) -> some of its training completions."""

    client_of: Mapping[str, str]
    rows: Mapping[tuple[str, str], Sequence[str]]


def owners_of_run(folder: Path) -> Owners | None:
    """Of the split that the run was trained on; None where it is not here any more, or is another one by now."""
    from fedllm_bench.config.run import check
    from fedllm_bench.runs.cell import split_of_run

    try:
        return owners_of(split_of_run(folder, check(files.read_json(folder / "config.json"))))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def owners_of(split: Split) -> Owners:
    """At most OWN_ROWS rows of each client and language, by chance: by a hash of their ids."""
    client_of = {row.row_id: row.client_id for part in HELDOUT for row in split.task_rows(part)}
    rows: dict[tuple[str, str], list[str]] = {}
    for row in sorted(split.task_rows("train"), key=lambda row: hashlib.sha256(row.row_id.encode()).digest()):
        found = rows.setdefault((row.client_id, row.language), [])
        if len(found) < OWN_ROWS:
            found.append(_completion(row))
    return Owners(client_of=client_of, rows=rows)


def _completion(row: Row) -> str:
    return row.chosen if isinstance(row, PreferenceRow) else row.completion


@dataclass(frozen=True)
class OwnRows:
    """The metric: cosine of an answer with its user's rows minus that with other users' rows in the same language.

    A cosine with rows is the mean over them; other users count the same each, OTHER_CLIENTS at most. Prompts whose
    user has no row in their language, or who has it alone, are no part of the metric.
    """

    owners: Owners
    encoder: Encoder

    def __call__(self, prompts: Sequence[Prompt], answers: Mapping[str, Answer]) -> list[Score]:
        asked = [(prompt, others) for prompt in prompts if (others := self._others(prompt))]
        reasons = [why_not(answers.get(prompt.item_id)) for prompt, _ in asked]
        whole = [pair for pair, reason in zip(asked, reasons, strict=True) if not reason]
        values = self._values(whole, answers) if whole else {}
        return [
            Score(prompt.item_id, values.get(prompt.item_id), reason, cluster=prompt.item_id)
            for (prompt, _), reason in zip(asked, reasons, strict=True)
        ]

    def _others(self, prompt: Prompt) -> list[str]:
        """The other clients with rows in its language; [] where its own client has none."""
        own = self.owners.client_of.get(prompt.item_id, "")
        if (own, prompt.language) not in self.owners.rows:
            return []
        others = {client for client, language in self.owners.rows if language == prompt.language} - {own}
        return sorted(others, key=lambda client: hashlib.sha256(client.encode()).digest())[:OTHER_CLIENTS]

    def _values(self, whole: Sequence[tuple[Prompt, list[str]]], answers: Mapping[str, Answer]) -> dict[str, float]:
        own = [self.owners.client_of[prompt.item_id] for prompt, _ in whole]
        named = [(user, p.language) for user, (p, others) in zip(own, whole, strict=True) for user in (user, *others)]
        means = self._means(list(dict.fromkeys(named)))
        vectors = self.encoder([first_said(answers[prompt.item_id]).text for prompt, _ in whole])
        values = {}
        for vector, user, (prompt, others) in zip(vectors, own, whole, strict=True):
            rest = [float(vector @ means[other, prompt.language]) for other in others]
            values[prompt.item_id] = float(vector @ means[user, prompt.language]) - sum(rest) / len(rest)
        return values

    def _means(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], NDArray[np.float32]]:
        """The mean vector of the rows of each (client, language), from one call of the encoder."""
        rows = [self.owners.rows[key] for key in keys]
        vectors = iter(self.encoder([text for of in rows for text in of]))
        return {key: sum(next(vectors) for _ in of) / len(of) for key, of in zip(keys, rows, strict=True)}


def own_rows_scores(
    prompts: Sequence[Prompt], answers: Mapping[str, Answer], owners: Owners | None, encoder: Encoder | None
) -> list[Score]:
    """Scores of :class:`OwnRows`; every prompt unscored without an encoder or without rows."""
    if encoder is None or owners is None:
        reason = NO_ROWS if encoder else NO_MODEL
        return [Score(prompt.item_id, None, reason, cluster=prompt.item_id) for prompt in prompts]
    return OwnRows(owners, encoder)(prompts, answers)
