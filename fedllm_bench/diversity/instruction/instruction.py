"""What is asked for: root verbs where a parser is installed, topics of embeddings in every language."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import entropy

from fedllm_bench.diversity.instruction.topics import Labels, Vectors, find_topics, topic_entries
from fedllm_bench.diversity.instruction.verbs import Parse, VerbAndObject, asked, parsers, verb_entries
from fedllm_bench.diversity.rows import DiversityRow

log = logging.getLogger(__name__)
PARSED = 0.5  # share of rows with a parser from which on verbs are what is drawn


class Seeded(Protocol):
    @property
    def seed(self) -> int: ...


def instruction_section(
    rows: Sequence[DiversityRow], vectors: Vectors, settings: Seeded, parse: Mapping[str, Parse] | None = None
) -> dict[str, Any]:
    """The section "instruction" of diversity.json, and under "clients" what it adds to each client.

    `vectors`: unit vectors of the prompts, shape (rows, d). `parse`: parsers by language; None for those installed.
    """
    topics = find_topics(vectors, settings.seed)
    found = asked(rows, parsers(sorted({row.language for row in rows})) if parse is None else parse)
    parsed = sum(one is not None for one in found)
    method = "verbs" if parsed and parsed >= PARSED * len(rows) else "topics"
    clients, codes = np.unique([row.client for row in rows], return_inverse=True)
    section: dict[str, Any] = {
        "method": method,
        "topics": topic_entries(rows, vectors, topics, settings.seed),
        "topic_entropy": float(entropy(np.bincount(topics.labels), base=2)),
        "mutual_information": shared_bits(codes, topics.labels),
        "rule": topics.rule,
        "computed_on": {"rows": len(rows), "clients": len(clients), "what": _what(method, parsed, topics.rule)},
        "clients": _by_client(rows, topics.labels, found),
    }
    return section | ({"verbs": verb_entries(rows, found)} if parsed else {})


def _what(method: str, parsed: int, rule: str) -> str:
    if method == "verbs":
        return f"root verb and direct object by spaCy of the {parsed:,} rows in languages with a parser"
    return f"clusters of embeddings of prompts ({rule}), named by c-TF-IDF"


def shared_bits(clients: NDArray[np.intp], topics: Labels) -> float:
    """Mutual information of client and topic in bits, less what is expected by chance.

    The plain estimate is above 0 for clients that are alike, the more so the fewer rows they have. What it is when the
    same topics are dealt to clients of the same sizes at random (Vinh et al., 2010, section 4) is taken off.
    """
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    table = contingency_matrix(clients, topics, sparse=True)
    plain = mutual_info_score(None, None, contingency=table)
    return float((plain - expected_mutual_information(table, len(clients))) / np.log(2))


def _by_client(
    rows: Sequence[DiversityRow], labels: Labels, found: Sequence[VerbAndObject | None]
) -> dict[str, dict[str, Any]]:
    topics: dict[str, Counter[str]] = {}
    verbs: dict[str, Counter[str]] = {}
    for row, label, one in zip(rows, labels, found, strict=True):
        topics.setdefault(row.client, Counter())[str(label)] += 1
        if one is not None and one.verb:
            verbs.setdefault(row.client, Counter())[f"{one.verb} {one.object}".strip()] += 1
    return {
        client: {"topics": dict(own.most_common())}
        | ({"verbs": dict(verbs[client].most_common())} if client in verbs else {})
        for client, own in topics.items()
    }
