"""Which languages the rows are in, as the upstream's column says; nothing is guessed from the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import Section, by_client, computed_on


def language_section(rows: Sequence[DiversityRow]) -> Section:
    """Rows by language and their entropy in bits, of the split and of each client."""
    clients = {client: _of_client(own) for client, own in by_client(rows).items()}
    entropies = [own["language_entropy"] for own in clients.values()]
    counts = by_language(rows)
    section = {
        "computed_on": computed_on(rows, "languages as the upstream's column names them"),
        "rows": counts,
        "entropy": entropy_bits(counts),
        "mean_client_entropy": sum(entropies) / len(entropies),
        "num_monolingual_clients": sum(len(own["languages"]) == 1 for own in clients.values()),
    }
    return Section(section=section, clients=clients)


def _of_client(rows: Iterable[DiversityRow]) -> dict[str, Any]:
    counts = by_language(rows)
    return {
        "main_language": next(iter(counts)),
        "languages": counts,
        "language_entropy": entropy_bits(counts),
    }


def by_language(rows: Iterable[DiversityRow]) -> dict[str, int]:
    """Rows by language, most first; of equally many, in the order of codes."""
    counts = Counter(row.language for row in rows)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def entropy_bits(counts: Mapping[str, int]) -> float:
    """The plug-in entropy (Shannon, 1948) in bits; 0 where there is one kind."""
    return max(0.0, float(stats.entropy(list(counts.values()), base=2)))
