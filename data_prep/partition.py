"""Who the clients are: real users, or artificial clients made of the same rows, as a contrast.

Every row finds its place by its hash with the seed, so the order of the raw rows does not matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedllm_bench.errors import UserError
from fedllm_bench.files import sha256_json

if TYPE_CHECKING:
    from .recipe import Recipe, Sample

FORMS = "user, language, dirichlet:ALPHA (such as dirichlet:0.5) or iid:N (such as iid:20)"


def check_partition(text: str) -> tuple[str, float]:
    """The kind of a partition and its number (0 where it has none); a :class:`UserError` for any other text."""
    kind, _, number = text.partition(":")
    if text in ("user", "language"):
        return kind, 0.0
    try:
        value = float(number) if kind == "dirichlet" else float(int(number)) if kind == "iid" else 0.0
    except ValueError:
        value = 0.0
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"partition={text!r} in the recipe; it is {FORMS}")
    return kind, value


def regroup(groups: Mapping[str, Sequence[Sample]], recipe: Recipe) -> dict[str, Sequence[Sample]]:
    """The same samples under the recipe's artificial clients; users stay as they are."""
    kind, value = check_partition(recipe.partition)
    if kind == "user":
        return dict(groups)
    rows = _shuffled([sample for samples in groups.values() for sample in samples], recipe.seed)
    if kind == "iid":
        clients = [f"iid-{place % int(value):03d}" for place in range(len(rows))]
    elif kind == "language":
        clients = [f"language-{sample.language}" for sample in rows]
    else:
        clients = _by_dirichlet([sample.language for sample in rows], sum(map(bool, groups.values())), value, recipe)
    found: dict[str, list[Sample]] = defaultdict(list)
    for client, sample in zip(clients, rows, strict=True):
        found[client].append(sample._replace(client=client))
    return dict(found)


def _shuffled(rows: Sequence[Sample], seed: int) -> list[Sample]:
    from .sampling import row_id

    return sorted(rows, key=lambda sample: sha256_json([seed, "partition", row_id(sample)]))


def _by_dirichlet(languages: Sequence[str], num_clients: int, alpha: float, recipe: Recipe) -> list[str]:
    """As many clients as there were users; each language is shared out by an own draw from Dirichlet(alpha)."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, language in enumerate(languages):
        places[language].append(place)
    clients = [""] * len(languages)
    for language, own in places.items():
        rng = np.random.default_rng([recipe.seed, int(sha256_json(["dirichlet", language])[:8], 16)])
        shares = rng.dirichlet([alpha] * num_clients).cumsum()
        for rank, place in enumerate(own):
            owner = min(int(np.searchsorted(shares, (rank + 0.5) / len(own))), num_clients - 1)
            clients[place] = f"dirichlet-{owner:03d}"
    return clients
