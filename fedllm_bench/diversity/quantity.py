"""How many rows each client has, and how evenly they lie."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from fedllm_bench.data.lengths import spread
from fedllm_bench.data.split_stats import concentration
from fedllm_bench.diversity.rows import DiversityRow
from fedllm_bench.diversity.section import Section, computed_on


def quantity_section(rows: Sequence[DiversityRow]) -> Section:
    """Sizes of the clients, their Gini coefficient, and how many equal clients would be as concentrated."""
    counts = Counter(row.client for row in rows)
    sizes = [counts[client] for client in sorted(counts)]
    by_entropy, simpson = effective_clients(sizes)
    section = {
        "computed_on": computed_on(rows, "rows of each client, training and held out"),
        "sizes": spread(sizes),
        **concentration(sizes),
        "effective_clients": by_entropy,
        "effective_clients_simpson": simpson,
    }
    clients = {client: {"rows": size, "share": size / len(rows)} for client, size in counts.items()}
    return Section(section=section, clients=clients)


def effective_clients(sizes: Sequence[int]) -> tuple[float, float]:
    """Hill numbers of orders 1 and 2 (Hill, 1973): exp of the entropy, and 1 / sum p^2 (inverse Simpson).

    Both are the number of clients where all are of one size, and 1 where one client has all rows.
    """
    total = sum(sizes)
    shares = [size / total for size in sizes if size]
    return math.exp(-math.fsum(p * math.log(p) for p in shares)), 1 / math.fsum(p * p for p in shares)
