"""Who the clients are: real users, or artificial clients made of the same rows, as a contrast.

Every row finds its place by its hash with the seed, so the order of the raw rows does not matter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_json
from fedllm_bench.common.text import counted
from fedllm_bench.data.build.partition_forms import SEED as RELEASED_SEED
from fedllm_bench.data.build.partition_forms import Partition, check_partition

MOST_DRAWS = 1000  # of a Dirichlet partition that leaves a client without rows

if TYPE_CHECKING:
    from fedllm_bench.data.build.recipe import Recipe
    from fedllm_bench.data.build.sample import Sample


def regroup(groups: Mapping[str, Sequence[Sample]], recipe: Recipe, places: int = 0) -> dict[str, Sequence[Sample]]:
    """The same samples under the recipe's artificial clients; users stay as they are.

    `places`: how many of all raw rows have a place. Raises a :class:`UserError` for fewer rows than clients.
    """
    partition = check_partition(recipe.partition)
    if partition.kind == "user":
        return dict(groups)
    rows = _shuffled([sample for samples in groups.values() for sample in samples], recipe.seed)
    _check_enough(rows, partition, recipe)
    found: dict[str, list[Sample]] = defaultdict(list)
    for client, sample in zip(_clients(rows, partition, groups, recipe, places), rows, strict=True):
        if client:
            found[client].append(sample._replace(client=client))
    return dict(found)


def _check_enough(rows: Sequence[Sample], partition: Partition, recipe: Recipe) -> None:
    """No client that was asked for is left without rows."""
    if partition.kind != "parts":
        if len(rows) < partition.clients:
            few = counted(len(rows), "row")
            raise UserError(f"--partition {recipe.partition}: {few} cannot fill that many clients")
        return
    found = Counter(sample.client for sample in rows)
    for name in (part.partition(":")[0] for part in recipe.parts):
        if found[name] < partition.clients:
            few, each = counted(found[name], "usable row"), counted(partition.clients, "client")
            raise UserError(f"--part {name} has {few}, too few for {each} (--clients-per-part)")


def _clients(
    rows: Sequence[Sample], partition: Partition, groups: Mapping[str, Sequence[Sample]], recipe: Recipe, places: int
) -> Sequence[str]:
    """The client of each row; "" for one that goes to nobody."""
    if partition.kind == "iid":
        return [f"iid-{place % partition.clients:03d}" for place in range(len(rows))]
    if partition.kind == "language":
        return [f"language-{sample.language}" for sample in rows]
    if partition.kind == "parts":
        return list(_of_parts([sample.client for sample in rows], partition.clients))
    if partition.kind == "column":
        return [sample.label for sample in rows]
    if partition.kind == "released":
        owners = released_owners(places, partition)
        return [f"released-{owner:03d}" if (owner := owners.get(row.place or 0)) is not None else "" for row in rows]
    labels = [sample.label for sample in rows] if partition.column else _labels(rows, partition.over, recipe.seed)
    if partition.clients:
        return _by_dirichlet_over(labels, partition, recipe)
    return _by_dirichlet(labels, sum(map(bool, groups.values())), partition.number, recipe.seed)


def _of_parts(parts: Iterable[str], clients_each: int) -> Iterator[str]:
    """Each part is a client, or is dealt to its own clients."""
    dealt: Counter[str] = Counter()
    for part in parts:
        yield part if clients_each == 1 else f"{part}-{dealt[part] % clients_each:03d}"
        dealt[part] += 1


def released_owners(rows: int, partition: Partition) -> dict[int, int]:
    """Place of a row among all `rows` of the upstream -> number of its client, as in OpenFedLLM's code.

    `Dataset.shuffle(2023)`, the first `partition.rows` rows, `Dataset.shuffle(partition.seed)`, then every n-th row:
    `Dataset.shard(n, i)` as it was in the releases of `datasets` that the code was written for (`contiguous=False`).
    """
    chosen = np.random.default_rng(RELEASED_SEED).permutation(rows)[: partition.rows]
    dealt = chosen[np.random.default_rng(partition.seed).permutation(len(chosen))]
    return {int(place): rank % partition.clients for rank, place in enumerate(dealt)}


def _labels(rows: Sequence[Sample], over: str, seed: int) -> list[str]:
    if over == "topic":
        from fedllm_bench.data.build.topics import topics  # here, as topics -> near -> recipe -> this module

        return topics([sample.prompt for sample in rows], seed)
    return [sample.source if over == "source" else sample.language for sample in rows]


def _shuffled(rows: Sequence[Sample], seed: int) -> list[Sample]:
    from fedllm_bench.data.build.sampling import row_id

    return sorted(rows, key=lambda sample: sha256_json([seed, "partition", row_id(sample)]))


def _by_dirichlet_over(labels: Sequence[str], partition: Partition, recipe: Recipe) -> Sequence[str]:
    """Drawn again until each client has a row, as in FederatedScope."""
    for attempt in range(MOST_DRAWS):
        clients = _by_dirichlet(labels, partition.clients, partition.number, recipe.seed, attempt)
        if len(set(clients)) == partition.clients:
            return clients
    raise UserError(
        f"--partition {recipe.partition}: of {MOST_DRAWS} draws none gave each client a row; give fewer clients or a "
        "larger ALPHA"
    )


def _by_dirichlet(labels: Sequence[str], num_clients: int, alpha: float, seed: int, attempt: int = 0) -> list[str]:
    """Each label is shared out among the clients by an own draw from Dirichlet(alpha)."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    clients = [""] * len(labels)
    for label, own in places.items():
        begin = [seed, int(sha256_json(["dirichlet", label])[:8], 16), *([attempt] if attempt else [])]
        shares = np.random.default_rng(begin).dirichlet([alpha] * num_clients).cumsum()
        owners = np.searchsorted(shares, (np.arange(len(own)) + 0.5) / len(own)).clip(max=num_clients - 1)
        for place, owner in zip(own, owners.tolist(), strict=True):
            clients[place] = f"dirichlet-{owner:03d}"
    return clients
