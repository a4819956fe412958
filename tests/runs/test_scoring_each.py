"""`evaluate_each`: every client under its own adapter, in shared passes or in passes of its own."""

from __future__ import annotations

import pytest
from benches import bench_loader
from tiny import random_tree

from fedllm_bench.common.ledger import Ledger
from fedllm_bench.metrics.items import of_clients
from fedllm_bench.runs import scoring
from fedllm_bench.runs.scoring import evaluate, evaluate_each

SMALL = ("lora.rank=4", "lora.alpha=8", "federation.rounds=2", "federation.clients_per_round=3")


def test_scores_are_those_of_each_client_by_itself(tiny_split, tiny_folder, tmp_path_factory, monkeypatch):
    bench = bench_loader(tiny_split, tiny_folder, tmp_path_factory, SMALL)("local")
    ids = bench.clients.ids[:4]
    trees = {client: random_tree(bench.initial, seed=k, scale=0.3, dtype=None) for k, client in enumerate(ids)}
    expected = evaluate(bench, [(trees[client], of_clients(bench.items, [client])) for client in ids], "alone")
    ledger = Ledger(bench.cell.folder / "each.batches", "key")
    monkeypatch.setattr(scoring, "CLIENTS_AT_ONCE", 3)
    found = evaluate_each(bench, trees, "each", ledger=ledger)
    again = evaluate_each(bench, trees, "each", ledger=ledger)
    monkeypatch.setattr(scoring, "shares_passes", lambda names: False)
    one_by_one = evaluate_each(bench, trees, "each")
    assert again == found
    assert one_by_one == expected
    for name, scores in expected.items():
        assert len(scores) > 8
        assert [(s.cluster, s.item_id) for s in found[name]] == [(s.cluster, s.item_id) for s in scores]
        assert [s.value for s in found[name]] == pytest.approx([s.value for s in scores], rel=1e-5)
