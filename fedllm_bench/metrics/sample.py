"""Which held-out rows are scored: all of them, or a sample of them that is the same for every side of every run.

The sample is a function of the split and of two numbers. Neither the method, nor the seed, nor the tokenizer, nor the
order of rows changes it, so base, after, local and all methods are compared on the same rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fedllm_bench.common.files import sha256_json
from fedllm_bench.config.run import Evaluation
from fedllm_bench.data.clients import sample_by_size
from fedllm_bench.data.manifest import Part, Split
from fedllm_bench.metrics.items import HELDOUT, AnyItem, Item

Name = tuple[str, str]  # client, row


def is_sampled(evaluation: Evaluation) -> bool:
    """Whether the settings ask for a sample; it may still be all rows of a small split."""
    return bool(evaluation.heldout_rows or evaluation.clients)


def sampled(items: Sequence[AnyItem], split: Split, evaluation: Evaluation) -> list[AnyItem]:
    """Those of `items` that are scored, in their order. `items` are all held-out rows of the split.

    Of each part (clients, unseen users) at most `evaluation.clients` of those who have a row, evenly by size from the
    smallest to the largest, and of these at most `evaluation.heldout_rows` rows: one of each client, then a second one
    of each, and so on. 0 is all. With equal clients a larger number of rows contains a smaller one.
    """
    if not is_sampled(evaluation):
        return list(items)
    kept: set[tuple[str, str, str]] = set()
    for part in HELDOUT:
        names = [(item.row.client_id, item.row.row_id) for item in items if item.part == part]
        kept |= {(part, *name) for name in _of_part(names, split, part, evaluation)}
    return [item for item in items if (item.part, item.row.client_id, item.row.row_id) in kept]


def _of_part(names: Sequence[Name], split: Split, part: Part, evaluation: Evaluation) -> list[Name]:
    sizes = _sizes(split, part)
    ids = sorted({client for client, _ in names})
    chosen = sample_by_size([sizes[client] for client in ids], range(len(ids)), evaluation.clients)
    own: dict[str, list[str]] = {ids[place]: [] for place in chosen}
    for client, row in names:
        if client in own:
            own[client].append(row)
    ordered = [name for _, _, name in sorted(_places(own, split.hash, part))]
    return ordered[: evaluation.heldout_rows or None]


def _sizes(split: Split, part: Part) -> Mapping[str, int]:
    """Training rows of named clients; rows of unseen users."""
    if part == "unseen":
        return {user.id: user.heldout for user in split.manifest.unseen}
    return {client.id: client.train for client in split.manifest.clients}


def _places(own: Mapping[str, Sequence[str]], split_hash: str, part: Part) -> Iterator[tuple[int, str, Name]]:
    """Each row with its rank among its client's, by a hash, and the hash that orders rows of one rank."""
    for client, rows in own.items():
        found = sorted((sha256_json([split_hash, part, client, row]), row) for row in rows)
        for rank, (_, row) in enumerate(found):
            yield rank, sha256_json([split_hash, part, client]), (client, row)


def trained_alone(
    sizes: Sequence[int], visited: Iterable[int], count: int, scored: Collection[int] | None
) -> list[int]:
    """The clients of the baseline `local`: `count` of those whom the schedule visits, evenly by size; 0 means all.

    `scored`: the clients with a row in the sample, None where there is no sample. Others are taken only where the
    schedule visits nobody of the sample.
    """
    allowed = sorted(visited) if count else list(range(len(sizes)))
    if scored is not None:
        allowed = [client for client in allowed if client in scored] or allowed
    return sample_by_size(sizes, allowed, count)


def sample_block(items: Sequence[Item[Any, Any]], split: Split) -> dict[str, int] | None:
    """How many of the split's held-out rows and of their clients are among `items`; None where all are."""
    manifest = split.manifest
    of = {
        "heldout": [client.heldout for client in manifest.clients if client.heldout],
        "unseen": [user.heldout for user in manifest.unseen],
    }
    found: dict[str, int] = {}
    for part, rows in of.items():
        own = [item.row.client_id for item in items if item.part == part]
        found |= {f"num_{part}_rows": len(own), f"of_{part}_rows": sum(rows)}
        found |= {f"num_{part}_clients": len(set(own)), f"of_{part}_clients": len(rows)}
    return None if all(found[f"num_{part}_rows"] == found[f"of_{part}_rows"] for part in of) else found
