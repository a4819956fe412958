"""Validation rows: a share of each client's training rows, the same for a seed, that nobody trains on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedllm_bench.data.clients import Clients
from fedllm_bench.data.dealing.kept_apart import KeptApart, num_apart
from fedllm_bench.data.pairs import AnswerPart


@pytest.mark.parametrize(
    ("rows", "share", "apart"), [(0, 0.1, 0), (1, 0.5, 0), (2, 0.1, 1), (3, 0.5, 2), (30, 0.1, 3), (30, 0.0, 0)]
)
def test_the_share_is_rounded_and_one_at_least(rows, share, apart):
    assert num_apart(rows, share) == apart
    assert num_apart(rows, share) < max(rows, 1)


def test_rows_are_trained_on_or_kept_apart(tiny_clients):
    apart = replace(tiny_clients, apart=KeptApart(0.25, seed=3))
    number = {int(row): place for place, row in enumerate(tiny_clients.tokens["train"].rows)}
    for client, every in tiny_clients.train_rows.items():
        kept = {number[row] for row in apart.validation_rows[client]}
        assert len(kept) == num_apart(len(every), 0.25) > 0
        assert kept.isdisjoint(apart.train_rows[client])
        assert kept | set(apart.train_rows[client]) == set(every)
    again, other = (replace(tiny_clients, apart=KeptApart(0.25, seed=seed)).validation_rows for seed in (3, 4))
    assert again == apart.validation_rows != other


def test_without_it_the_rows_are_as_before(tiny_clients):
    assert not any(tiny_clients.validation_rows.values())
    assert Clients(tiny_clients.split, tiny_clients.tokens).train_rows == tiny_clients.train_rows


def test_rows_that_must_be_trained_on_are(tiny_clients):
    rows = KeptApart(0.5, seed=0, never=frozenset({0, 1, 2})).rows_of(0, range(8))
    assert len(rows) == 4
    assert rows.isdisjoint({0, 1, 2})


@pytest.mark.parametrize("how", [{"shuffle_seed": 1}, {}])
def test_dealt_rows_are_without_those_of_the_users(how, tiny_clients):
    apart = replace(tiny_clients, apart=KeptApart(0.25, seed=3), **how)
    split_rows = tiny_clients.tokens["train"].rows
    trained = {int(split_rows[row]) for rows in apart.train_rows.values() for row in rows}
    kept = frozenset().union(*apart.validation_rows.values())
    assert kept.isdisjoint(trained)
    assert kept | trained == set(split_rows.tolist())
    rows = tiny_clients.rows("train")
    assert all(rows[row].client_id == client for client, own in apart.validation_rows.items() for row in own)


@pytest.mark.parametrize("parting", [None, 5])
def test_both_answers_of_a_vote_are_kept_apart(parting, pair_clients):
    tokens = {**pair_clients.tokens, "train": AnswerPart(pair_clients.tokens["train"])}
    apart = Clients(pair_clients.split, tokens, apart=KeptApart(0.2, seed=0), parting_seed=parting)
    votes = [row // 2 for rows in apart.train_rows.values() for row in rows]
    kept = {int(row) for rows in apart.validation_rows.values() for row in rows}
    trained = {int(pair_clients.tokens["train"].rows[vote]) for vote in votes}
    assert kept
    assert kept.isdisjoint(trained)
    assert sorted(votes) == sorted(list(set(votes)) * 2)
