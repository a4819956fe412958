"""The clients of a run: whose rows are whose, and which ones stand for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedllm_bench.data.clients import Clients, sample_by_size

SIZES = [50, 10, 40, 20, 30, 20]


@pytest.mark.parametrize(
    ("allowed", "count", "expected"),
    [
        (range(6), 0, [0, 1, 2, 3, 4, 5]),
        (range(6), 6, [0, 1, 2, 3, 4, 5]),
        (range(6), 9, [0, 1, 2, 3, 4, 5]),
        ([4, 2], 0, [2, 4]),
        (range(6), 2, [0, 1]),  # the largest and the smallest
        (range(6), 1, [1]),
        ([0, 2, 4, 3], 3, [0, 2, 3]),  # sizes 20, 40, 50: 30 is left out
        (range(6), 4, [0, 1, 4, 5]),  # of equal sizes, the lower number is the smaller client
    ],
)
def test_a_sample_is_spread_evenly_from_the_smallest_to_the_largest(allowed, count, expected):
    found = sample_by_size(SIZES, allowed, count)
    assert found == expected
    assert found == sample_by_size(SIZES, list(allowed)[::-1], count)


@pytest.mark.parametrize("num_allowed", [1, 2, 7, 38])
def test_a_sample_has_as_many_clients_as_were_asked_for(num_allowed):
    sizes = [int(n) for n in np.random.default_rng(0).integers(1, 30, 40)]
    for count in range(1, num_allowed + 1):
        found = sample_by_size(sizes, range(num_allowed), count)
        assert len(set(found)) == count
        assert found == sorted(found)
        own = [sizes[k] for k in found]
        assert min(own) == min(sizes[:num_allowed])
        assert count == 1 or max(own) == max(sizes[:num_allowed])


def test_clients_are_numbered_as_the_manifest_sorts_them(tiny_clients: Clients):
    assert list(tiny_clients.ids) == sorted(tiny_clients.ids)
    assert len(tiny_clients) == len(tiny_clients.ids) == 6


def test_every_row_belongs_to_the_client_who_wrote_it_and_to_no_other(tiny_clients: Clients):
    rows = tiny_clients.split.rows("train")
    tokens = tiny_clients.tokens["train"]
    numbers = [n for client in tiny_clients.ids for n in tiny_clients.train_rows[client]]
    assert sorted(numbers) == list(range(len(tokens)))
    assert len(numbers) == sum(client.train for client in tiny_clients.split.manifest.clients)
    for client, own in tiny_clients.train_rows.items():
        assert {rows[int(tokens.rows[n])].client_id for n in own} == {client}


def test_skipped_rows_shift_no_row_to_another_client(tiny_clients: Clients):
    """Numbers in the tokens are not numbers in the split once a row was skipped; a client may lose all of its own."""
    rows = tiny_clients.split.rows("train")
    whole = tiny_clients.tokens["train"]
    first, second = tiny_clients.ids[:2]
    kept = [n for n, row in enumerate(rows) if row.client_id != first and not (row.client_id == second and n % 2)]
    part = replace(whole, rows=np.array(kept))
    clients = Clients(tiny_clients.split, {**tiny_clients.tokens, "train": part})
    assert clients.train_rows[first] == ()
    assert clients.ids == tiny_clients.ids
    for client, own in clients.train_rows.items():
        assert all(rows[kept[n]].client_id == client for n in own)


def test_shuffled_users_keep_their_number_of_rows_and_lose_their_rows(tiny_clients):
    real = tiny_clients.train_rows
    shuffled = Clients(tiny_clients.split, tiny_clients.tokens, shuffle_seed=0).train_rows
    assert {client: len(rows) for client, rows in shuffled.items()} == {c: len(rows) for c, rows in real.items()}
    assert sorted(n for rows in shuffled.values() for n in rows) == sorted(n for rows in real.values() for n in rows)
    kept = sum(len(set(real[client]) & set(shuffled[client])) for client in real) / sum(map(len, real.values()))
    expected = sum(len(rows) ** 2 for rows in real.values()) / sum(map(len, real.values())) ** 2
    assert abs(kept - expected) < 0.1  # by chance alone
    other = Clients(tiny_clients.split, tiny_clients.tokens, shuffle_seed=1).train_rows
    assert other != shuffled
    assert Clients(tiny_clients.split, tiny_clients.tokens, shuffle_seed=0).train_rows == shuffled
