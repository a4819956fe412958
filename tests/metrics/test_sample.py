"""The sample of held-out rows: sized as asked, even over clients, and a function of the split and two numbers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fedllm_bench.config import presets
from fedllm_bench.config.run import Evaluation
from fedllm_bench.data.manifest import Split, SplitInfo, Upstream, write_split
from fedllm_bench.data.rows import SftRow
from fedllm_bench.metrics.items import HeldoutItem
from fedllm_bench.metrics.sample import is_sampled, sample_block, sampled, trained_alone

HELD = {f"c{number}": size for number, size in enumerate((1, 2, 5, 9, 0, 30, 3))}  # held-out rows of each client
UNSEEN = {f"u{number}": size for number, size in enumerate((4, 1, 7, 2))}


def evaluation(rows: int = 0, clients: int = 0) -> Evaluation:
    found = presets.load("aya", "fedavg", "mini").evaluation
    return replace(found, heldout_rows=rows, clients=clients)


def rows_of(client: str, split: str, count: int) -> list[SftRow]:
    def row(number: int) -> SftRow:
        turns = ({"role": "user", "content": f"{client} {number}"}, {"role": "assistant", "content": "yes"})
        row_id = f"{split}{number}"
        return SftRow(client_id=client, split=split, row_id=row_id, language="eng", source="", messages=turns)  # type: ignore[arg-type]

    return [row(number) for number in range(count)]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    parts = {
        "train": [row for place, client in enumerate(HELD) for row in rows_of(client, "train", 10 * (place + 1))],
        "heldout": [row for client, count in HELD.items() for row in rows_of(client, "heldout", count)],
        "unseen": [row for user, count in UNSEEN.items() for row in rows_of(user, "heldout", count)],
    }
    upstream = Upstream(id="x/y", revision=None, files=())
    info = SplitInfo(
        name="x", dataset="x", task="sft", version="1", upstream=upstream, licence="x", recipe={}, funnel=()
    )
    return write_split(tmp_path_factory.mktemp("splits") / "x", info, parts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def items(split: Split) -> list[HeldoutItem]:
    parts = ("heldout", "unseen")
    return [HeldoutItem(row, None, part) for part in parts for row in split.rows(part)]  # type: ignore[arg-type]


def names(items: Sequence[Any]) -> list[tuple[str, str, str]]:
    return [(item.part, item.row.client_id, item.row.row_id) for item in items]


def counts(items: Sequence[Any], part: str) -> dict[str, int]:
    return Counter(item.row.client_id for item in items if item.part == part)


def test_zero_is_all_rows_and_so_is_more_than_there_are(split: Split, items: list[HeldoutItem]):
    assert not is_sampled(evaluation())
    assert names(sampled(items, split, evaluation())) == names(items)
    assert names(sampled(items, split, evaluation(10**6, 10**6))) == names(items)
    assert sample_block(items, split) is None


@pytest.mark.parametrize("rows", [1, 3, 6, 7, 11, 20, 49, 50])
def test_rows_are_as_even_over_clients_as_their_rows_allow(split: Split, items: list[HeldoutItem], rows: int):
    found = sampled(items, split, evaluation(rows))
    for part, there in (("heldout", HELD), ("unseen", UNSEEN)):
        own = counts(found, part)
        assert sum(own.values()) == min(rows, sum(there.values()))
        most = max(own.values())
        for client, count in there.items():  # nobody has two rows more than one who has another row to give
            assert own.get(client, 0) >= min(count, most - 1), (client, own)


def test_a_larger_number_of_rows_contains_a_smaller_one(split: Split, items: list[HeldoutItem]):
    for clients in (0, 3):
        nested = [set(names(sampled(items, split, evaluation(rows, clients)))) for rows in (1, 2, 5, 12, 30, 60)]
        assert all(small <= large for small, large in pairwise(nested))
        assert len(nested[0]) < len(nested[-1])


@pytest.mark.parametrize("clients", [1, 2, 3, 5, 6])
def test_clients_are_taken_from_the_smallest_to_the_largest_of_those_with_rows(
    split: Split, items: list[HeldoutItem], clients: int
):
    found = sampled(items, split, evaluation(0, clients))
    named, unseen = counts(found, "heldout"), counts(found, "unseen")
    assert len(named) == clients
    assert len(unseen) == min(clients, 4)
    assert named == {client: HELD[client] for client in named}  # all rows of whom it takes
    if clients > 1:
        assert {"c0", "c6"} <= named.keys()  # by training rows
        assert {"u1", "u2"} <= unseen.keys()
    assert "c4" not in named  # has no held-out row


def test_the_order_of_items_and_of_the_split_changes_nothing(split: Split, items: list[HeldoutItem]):
    asked = evaluation(9, 4)
    found = sampled(items, split, asked)
    order = np.random.default_rng(0).permutation(len(items)).tolist()
    again = sampled([items[place] for place in order], split, asked)
    assert sorted(names(again)) == sorted(names(found))
    assert names(found) == [name for name in names(items) if name in set(names(found))]  # in the order of items


def test_another_split_gives_another_sample(split: Split, items: list[HeldoutItem]):
    """The hash is the seed, so that no row is always first."""
    other = replace(split, manifest=replace(split.manifest, hash="0" * 64))
    assert names(sampled(items, split, evaluation(12))) != names(sampled(items, other, evaluation(12)))


def test_the_sample_is_the_same_in_every_version(split: Split, items: list[HeldoutItem]):
    """Published numbers are of these rows: whoever changes the rule changes what a sampled run is compared with."""
    same = replace(split, manifest=replace(split.manifest, hash="f" * 64))
    found = sampled(items, same, evaluation(3, 3))
    assert names(found) == EXPECTED


EXPECTED = [
    *(("heldout", *name) for name in (("c0", "heldout0"), ("c2", "heldout2"), ("c6", "heldout1"))),
    *(("unseen", *name) for name in (("u0", "heldout3"), ("u1", "heldout0"), ("u2", "heldout0"))),
]


def test_the_block_counts_what_is_scored_and_what_there_is(split: Split, items: list[HeldoutItem]):
    block = sample_block(sampled(items, split, evaluation(5, 2)), split)
    assert block == {
        "num_heldout_rows": 4, "of_heldout_rows": 50, "num_heldout_clients": 2, "of_heldout_clients": 6,
        "num_unseen_rows": 5, "of_unseen_rows": 14, "num_unseen_clients": 2, "of_unseen_clients": 4,
    }  # fmt: skip


def test_local_trains_clients_of_the_sample_where_the_schedule_visits_one():
    sizes = [10, 20, 30, 40, 50]
    assert trained_alone(sizes, [0, 1, 3, 4], 2, None) == [0, 4]
    assert trained_alone(sizes, [0, 1, 3, 4], 2, {1, 2, 3}) == [1, 3]
    assert trained_alone(sizes, [0, 4], 2, {1, 2, 3}) == [0, 4]  # nobody of the sample is visited
    assert trained_alone(sizes, [], 0, {1, 2, 3}) == [1, 2, 3]
    assert trained_alone(sizes, [], 0, None) == [0, 1, 2, 3, 4]
