"""Who the clients are: real users, or artificial clients made of the same rows, as a contrast.

Every row finds its place by its hash with the seed, so the order of the raw rows does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedllm_bench.common.files import sha256_json
from fedllm_bench.data.build.recipe import check_partition

if TYPE_CHECKING:
    from fedllm_bench.data.build.recipe import Recipe
    from fedllm_bench.data.build.sample import Sample


def regroup(groups: Mapping[str, Sequence[Sample]], recipe: Recipe) -> dict[str, Sequence[Sample]]:
    """The same samples under the recipe's artificial clients; users stay as they are."""
    partition = check_partition(recipe.partition)
    if partition.kind == "user":
        return dict(groups)
    rows = _shuffled([sample for samples in groups.values() for sample in samples], recipe.seed)
    if partition.kind == "iid":
        clients = [f"iid-{place % int(partition.number):03d}" for place in range(len(rows))]
    elif partition.kind == "language":
        clients = [f"language-{sample.language}" for sample in rows]
    else:
        labels = _labels(rows, partition.over, recipe.seed)
        clients = _by_dirichlet(labels, sum(map(bool, groups.values())), partition.number, recipe)
    found: dict[str, list[Sample]] = defaultdict(list)
    for client, sample in zip(clients, rows, strict=True):
        found[client].append(sample._replace(client=client))
    return dict(found)


def _labels(rows: Sequence[Sample], over: str, seed: int) -> list[str]:
    if over == "topic":
        from fedllm_bench.data.build.topics import topics  # here, as topics -> near -> recipe -> this module

        return topics([sample.prompt for sample in rows], seed)
    return [sample.source if over == "source" else sample.language for sample in rows]


def _shuffled(rows: Sequence[Sample], seed: int) -> list[Sample]:
    from fedllm_bench.data.build.sampling import row_id

    return sorted(rows, key=lambda sample: sha256_json([seed, "partition", row_id(sample)]))


def _by_dirichlet(labels: Sequence[str], num_clients: int, alpha: float, recipe: Recipe) -> list[str]:
    """As many clients as there were users; each label is shared out by an own draw from Dirichlet(alpha)."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    clients = [""] * len(labels)
    for label, own in places.items():
        rng = np.random.default_rng([recipe.seed, int(sha256_json(["dirichlet", label])[:8], 16)])
        shares = rng.dirichlet([alpha] * num_clients).cumsum()
        for rank, place in enumerate(own):
            owner = min(int(np.searchsorted(shares, (rank + 0.5) / len(own))), num_clients - 1)
            clients[place] = f"dirichlet-{owner:03d}"
    return clients
