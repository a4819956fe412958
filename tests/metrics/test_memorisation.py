"""Exposure and membership: by hand, chance for a model that never saw the rows, more for one that learned them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from items import SETTINGS, item_of
from tiny import client_task, settings

from fedllm_bench.common.trees import tmap
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics.items import HeldoutItem
from fedllm_bench.metrics.memorisation import CanaryAuc, CanaryExposure, MembershipAuc, MembershipTpr
from fedllm_bench.metrics.registry import METRICS, items_of, score_group, together, work_of
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.runs.row_tokens import trained_split
from fedllm_bench.runs.scoring import evaluate_each
from fedllm_bench.scores.score import SCALES
from fedllm_bench.scores.summaries import per_cluster, summarise
from fedllm_bench.training.block import train_block

NAMES = ("canary_exposure", "canary_auc", "mia_auc", "mia_tpr")


def of(client: str, number: int, part: str) -> HeldoutItem:
    item = item_of(f"{part} {number}", "a", "b")
    return replace(item, row=replace(item.row, client_id=client), part=part)


# --- by hand


def test_exposure_is_the_rank_in_bits():
    item = of("c", 0, "canary")
    losses = [[2.0, *([3.0] * 255)], [2.5, 1.0, 1.0, 1.0, *([3.0] * 252)], [9.0, *([3.0] * 255)], [3.0] * 256]
    assert [s.value for s in CanaryExposure().scores([item] * 4, losses)] == pytest.approx(
        [8.0, 6.0, 0.0, 8 - math.log2(128.5)]
    )
    assert [s.value for s in CanaryAuc().scores([item] * 4, losses)] == pytest.approx([1.0, 252 / 255, 0.0, 0.5])
    (score,) = CanaryExposure().scores([item], losses[1:2])
    assert score.evidence == {"rank": 4, "of": 256, "nll": 2.5}
    assert score.cluster == "c"


def test_chance_is_what_the_description_says():
    by_chance = np.mean([8 - math.log2(rank) for rank in range(1, 257)])
    assert f"{by_chance:.2f} by chance" in METRICS["canary_exposure"].info.description


def test_membership_compares_rows_of_one_client_and_the_mean_is_the_auc():
    items = [of("a", 0, "train"), of("a", 1, "train"), of("b", 2, "train"), of("c", 3, "train")]
    items += [of("a", 4, "heldout"), of("a", 5, "heldout"), of("b", 6, "heldout")]
    losses = [(1.0,), (2.5,), (3.0,), (0.5,), (2.0,), (3.0,), (3.0,)]
    scores = MembershipAuc().scores(items, losses)
    assert [s.value for s in scores] == [1.0, 0.5, 0.5, None]
    assert scores[3].reason == "no held-out row to compare it with"
    from sklearn.metrics import roc_auc_score

    auc = roc_auc_score([1, 1, 0, 0], [-1.0, -2.5, -2.0, -3.0])
    assert per_cluster(scores)["a"].mean == pytest.approx(auc)


def test_a_threshold_takes_one_in_a_hundred_held_out_rows_for_training_rows():
    held = [of("a", i, "heldout") for i in range(300)]
    members = [of("a", 1000 + i, "train") for i in range(4)]
    losses = [(float(i),) for i in range(300)] + [(-1.0,), (2.5,), (3.0,), (4.0,)]
    assert [s.value for s in MembershipTpr().scores(held + members, losses)] == [1.0, 1.0, 0.0, 0.0]
    few = MembershipTpr().scores(held[5:9] + members, losses[5:9] + losses[-4:])
    assert [s.value for s in few] == [1.0, 1.0, 1.0, 1.0]  # below all of them


@pytest.mark.parametrize("metric", [MembershipAuc(), MembershipTpr()])
def test_a_row_without_tokens_and_a_model_that_diverged_are_unscored(metric):
    items = [of("a", 0, "train"), of("a", 1, "train"), of("a", 2, "heldout")]
    first, second = metric.scores(items, [(), (1.0,), (2.0,)])
    assert (first.value, second.value) == (None, 1.0)
    assert "no token" in first.reason
    assert {s.value for s in metric.scores(items, [(1.0,), (math.inf,), (math.nan,)])} == {None}
    assert {s.value for s in CanaryAuc().scores([items[0]], [[math.nan, 1.0]])} == {None}


def test_other_metrics_do_not_see_what_is_asked_of_training_rows():
    items = [of("a", 0, "train"), of("a", 1, "heldout"), of("a", 2, "unseen"), of("a", 3, "canary")]
    assert [item.part for item in items_of(["heldout"], items)] == ["heldout", "unseen"]
    assert [item.part for item in items_of(["mia_auc"], items)] == ["train", "heldout"]
    assert [item.part for item in items_of(["canary_auc"], items)] == ["canary"]
    assert together(("heldout", *NAMES)) == [("heldout",), ("canary_exposure", "canary_auc"), ("mia_auc", "mia_tpr")]
    assert work_of(("canary_auc",), [items[3]], SETTINGS, has_adapter=True) >= 0


# --- of models


@pytest.fixture(scope="module")
def bench(tiny_split, tiny_run_config, tmp_path_factory):
    asked = "evaluation.metrics=" + ",".join(NAMES)
    config = tiny_run_config("fedavg", "data.canaries=12", "data.canary_repeats=2", asked)
    return load_bench(Cell(config, tiny_split, tmp_path_factory.mktemp("runs"), 1))


def scores_of(bench, adapter):
    with bench.model.using(adapter):
        found = [score_group(group, bench.model, bench.items, bench.settings) for group in together(NAMES)]
    return {name: scores for group in found for name, scores in group.items()}


def interval(name, scores):
    return summarise(per_cluster(scores), scale=SCALES.get(METRICS[name].info.unit))


def test_a_model_that_never_saw_the_rows_is_at_chance(bench):
    scores = scores_of(bench, None)
    for name, chance in (("canary_auc", 0.5), ("canary_exposure", 1.42), ("mia_auc", 0.5), ("mia_tpr", 0.01)):
        found = interval(name, scores[name])
        assert found.n_unscored == 0
        assert found.n == 6
        assert found.ci_low < chance < found.ci_high, (name, found)


@pytest.mark.slow
def test_a_model_that_was_trained_on_the_rows_for_long_is_above(bench):
    """The canaries and the members over and over, by one learner."""
    tokens, rows = bench.clients.tokens["train"], trained_split(bench.cell).rows("train")
    members = {(item.row.client_id, item.row.row_id) for item in bench.items if item.part == "train"}
    learned = [
        number
        for number, place in enumerate(tokens.rows)
        if rows[place].source == "canary" or (rows[place].client_id, rows[place].row_id) in members
    ]
    task = client_task(0, tokens, learned, settings(lr=1e-2, micro_batch=16), steps=60)
    local = settings(lr=1e-2, micro_batch=16)
    (result,) = train_block(bench.model, FedAvg(), {"params": bench.initial}, [task], local)
    adapter = tmap(lambda x, d: x + d, bench.initial, result.upload["delta"])
    before, after = scores_of(bench, None), scores_of(bench, adapter)
    found = {name: interval(name, scores) for name, scores in after.items()}
    assert found["canary_auc"].ci_low > 0.8
    assert found["canary_exposure"].mean > 5
    assert found["mia_tpr"].mean > 0.05
    assert found["mia_auc"].ci_low > max(0.6, interval("mia_auc", before["mia_auc"]).ci_high)


def test_clients_with_adapters_of_their_own_have_exposures_and_no_common_threshold(bench):
    ids = list(bench.clients.ids)[:3]
    found = evaluate_each(bench, dict.fromkeys(ids, bench.initial), "own")
    base = scores_of(bench, bench.initial)
    for name in ("canary_auc", "mia_auc"):
        own = {(s.cluster, s.item_id): s.value for s in found[name]}
        one = {(s.cluster, s.item_id): s.value for s in base[name] if s.cluster in ids}
        assert own == pytest.approx(one)
        assert set(ids) >= {client for client, _ in own}
    assert {s.reason for s in found["mia_tpr"]} == {"each client answers with an adapter of its own"}
    assert len(found["mia_tpr"]) == len(found["mia_auc"]) > 5
