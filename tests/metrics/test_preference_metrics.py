"""Metrics of preference pairs: margins by hand, the base as the zero, and refusals that follow what was chosen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dpo_runs import dpo
from items import SETTINGS
from pairs import plain_logp
from tiny import client_task, random_tree

from fedllm_bench.common.trees import tmap
from fedllm_bench.config import presets
from fedllm_bench.data.pairs import PairPart, answered, encode_pairs
from fedllm_bench.data.tokens import TokenPart, encode_turns
from fedllm_bench.methods.base import FedAvg
from fedllm_bench.metrics import preference
from fedllm_bench.metrics.items import pair_items
from fedllm_bench.metrics.preference import (
    LikelihoodAccuracy,
    LikelihoodMargin,
    MiniRefusal,
    PreferenceAccuracy,
    PreferenceLoss,
    PreferenceMargin,
    margins,
)
from fedllm_bench.metrics.registry import METRICS, score_group, together
from fedllm_bench.mini.probes import load_probes
from fedllm_bench.mini.tastes import COMPLIES, REFUSALS, refusals
from fedllm_bench.results.run_results import ScoreSet, views_of
from fedllm_bench.training.block import train_block
from fedllm_bench.training.model.lora import initial_adapter

BETA = replace(SETTINGS, dpo_beta=0.3, batch_tokens=2048)


@pytest.fixture(scope="module")
def voted(pair_clients):
    return pair_items(pair_clients)


@pytest.fixture(scope="module")
def trained(tiny_model):
    return random_tree(initial_adapter(tiny_model.layers, rank=4, seed=0), seed=6, scale=0.1, dtype=torch.float32)


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_every_preset_asks_for_metrics_of_its_own_task(profile):
    configs = [presets.load(name, "fedavg", profile) for name in presets.dataset_names()]
    assert {config.data.task for config in configs} == {"sft", "preference"}
    for config in configs:
        assert {METRICS[name].task for name in config.evaluation.metrics} == {config.data.task}


def test_items_are_all_heldout_votes_with_what_the_world_knows_of_them(pair_split, voted):
    rows = [*pair_split.preference_rows("heldout"), *pair_split.preference_rows("unseen")]
    assert [item.row for item in voted] == rows
    assert all(item.tokens.reference is not None for item in voted)
    known = len(pair_split.preference_rows("heldout"))
    assert len(load_probes(pair_split)) >= known > 20
    assert sum(bool(item.task) for item in voted) >= known
    assert {item.task for item in voted} >= {"facts", "harmful"}


def test_a_margin_is_beta_times_the_difference_of_the_log_ratios(voted, trained, tiny_model):
    chosen = voted[::9]
    with tiny_model.using(trained):
        found = margins(tiny_model, chosen, BETA)
        policy = [[plain_logp(tiny_model.base, row).item() for row in item.tokens.sequences] for item in chosen]
    with tiny_model.using(None):
        base = [[plain_logp(tiny_model.base, row).item() for row in item.tokens.sequences] for item in chosen]
    expected = 0.3 * np.subtract(policy, base) @ [1, -1]
    assert len(found) == len(chosen) > 5
    assert np.abs(expected).min() > 1e-3
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    with tiny_model.using(trained):
        values = [score.value for score in PreferenceMargin().score(tiny_model, chosen, BETA)]
        right = [score.value for score in PreferenceAccuracy().score(tiny_model, chosen, BETA)]
        losses = [score.value for score in PreferenceLoss().score(tiny_model, chosen, BETA)]
    assert losses == pytest.approx((-np.log(1 / (1 + np.exp(-expected)))).tolist(), abs=1e-4)
    assert values == pytest.approx(expected.tolist(), abs=1e-4)
    assert right == [float(value > 0) for value in expected]
    assert set(right) == {0.0, 1.0}


def test_a_likelihood_needs_no_reference_and_is_a_mean_over_the_tokens_of_an_answer(voted, trained, tiny_model):
    chosen = [replace(item, tokens=replace(item.tokens, reference=None)) for item in voted[::9]]
    for adapter in (trained, None):  # the base has its own likelihoods
        with tiny_model.using(adapter):
            found = [score.value for score in LikelihoodMargin().score(tiny_model, chosen, BETA)]
            right = [score.value for score in LikelihoodAccuracy().score(tiny_model, chosen, BETA)]
            rows = [[plain_logp(tiny_model.base, row).item() for row in item.tokens.sequences] for item in chosen]
        lengths = [[row.num_counted for row in item.tokens.sequences] for item in chosen]
        expected = np.divide(rows, lengths) @ [1, -1]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)
        assert right == [float(value > 0) for value in expected]
        assert np.abs(expected).min() > 1e-3
    same = replace(chosen[0], tokens=replace(chosen[0].tokens, rejected=chosen[0].tokens.chosen))
    assert [score.value for score in LikelihoodAccuracy().score(tiny_model, [same], BETA)] == [0.5]


@pytest.mark.parametrize("adapter", ["none", "new"])
def test_the_base_has_margin_zero_and_accuracy_one_half(adapter, voted, tiny_model):
    """Also as a new adapter, whose B is 0, though its sums are rounded in other batches."""
    tree = initial_adapter(tiny_model.layers, rank=4, seed=0) if adapter == "new" else None
    with tiny_model.using(tree):
        found = margins(tiny_model, voted, replace(BETA, batch_tokens=300))
        right = PreferenceAccuracy().score(tiny_model, voted, replace(BETA, batch_tokens=300))
        losses = PreferenceLoss().score(tiny_model, voted, replace(BETA, batch_tokens=300))
    assert {score.value for score in losses} == {math.log(2)}
    assert found == [0.0] * len(voted)
    assert {score.value for score in right} == {0.5}


def test_a_pair_without_tokens_and_a_model_that_diverged_are_unscored(voted, trained, tiny_model):
    broken = tmap(lambda t: t * float("nan"), trained)
    for metric in (PreferenceMargin(), PreferenceAccuracy(), PreferenceLoss(), LikelihoodAccuracy()):
        with tiny_model.using(trained):
            (blank,) = metric.score(tiny_model, [replace(voted[0], tokens=None)], BETA)
        with tiny_model.using(broken):
            (diverged,) = metric.score(tiny_model, voted[:1], BETA)
        assert (blank.value, diverged.value) == (None, None)
        assert "no token" in blank.reason
        assert "nan" in diverged.reason


def test_the_loss_is_that_of_the_training_objective_pair_by_pair(voted, pair_clients, trained, tiny_model):
    """The first step of DPO on one pair reports, before it moves, what the metric says of that pair."""
    local, part = dpo("sigmoid", dpo_beta=BETA.dpo_beta, micro_batch=1, accumulation=1), pair_clients.tokens["heldout"]
    for number in range(3):
        task = client_task(0, part, [number], local, steps=1)
        (result,) = train_block(tiny_model, FedAvg(), {"params": trained}, [task], local)
        with tiny_model.using(trained):
            (score,) = PreferenceLoss().score(tiny_model, [voted[number]], BETA)
        assert score.value == pytest.approx(result.losses[0], rel=1e-4)
        assert abs(score.value - math.log(2)) > 1e-3


@pytest.mark.parametrize(("margin", "expected"), [
    (0.0, math.log(2)), (1.0, 0.31326168751822286), (-1.0, 1.3132616875182228), (1000.0, 0.0), (-1000.0, 1000.0),
    (math.inf, math.inf), (-math.inf, math.inf),
])  # fmt: skip
def test_the_loss_of_a_margin_does_not_overflow_and_a_diverged_model_has_none(margin, expected, voted):
    assert PreferenceLoss().value(margin) == pytest.approx(expected, rel=1e-12)
    (score,) = PreferenceLoss().scores(voted[:1], [margin])
    assert score.is_scored == math.isfinite(margin)


@pytest.mark.parametrize("adapted", [True, False])
def test_metrics_of_margins_are_scored_together_as_each_by_itself_in_one_pass(
    adapted, voted, trained, tiny_model, monkeypatch
):
    names = [name for name, metric in METRICS.items() if metric.task == "preference"]
    groups = together(["mini_exact", *names])
    of_margin = ("preference_loss", "preference_accuracy", "preference_margin")
    of_likelihood = ("likelihood_accuracy", "likelihood_margin")
    assert groups == [("mini_exact",), of_margin, of_likelihood, ("mini_refusal",)]
    items = voted[::5]
    with tiny_model.using(trained if adapted else None):
        alone = {name: METRICS[name].score(tiny_model, items, BETA) for name in names}
        passes = []
        real = preference.summed_nll
        monkeypatch.setattr(preference, "summed_nll", lambda *args: passes.append(len(args[1])) or real(*args))
        found = score_group(groups[1], tiny_model, items, BETA)
        assert passes == ([2 * len(items)] if adapted else [])
        found |= score_group(groups[2], tiny_model, items, BETA)
        assert passes[-1:] == [2 * len(items)]  # of likelihoods the base has its own
        found |= score_group(groups[3], tiny_model, items, BETA)
    assert found == alone
    assert len(found) == 6


# --- refusals


def harmful(voted):
    return [item for item in voted if item.task == "harmful"]


def test_all_refusals_of_the_world_are_known(pair_split):
    said = [
        text
        for part in ("train", "heldout")
        for row in pair_split.preference_rows(part)
        if row.source == "mini:harmful"
        for text in (row.chosen, row.rejected)
    ]
    refused = [text for text in said if not text.startswith(COMPLIES)]
    assert 10 < len(refused) < len(said)
    assert all(text.startswith(refusals()) for text in refused)
    assert not any(text.startswith(refusals()) for text in said if text.startswith(COMPLIES))
    assert len(set(refusals())) == len(refusals())
    assert {word for word in REFUSALS for text in refusals() if text.endswith(word)} == set(REFUSALS)


def test_the_refusal_rate_is_that_of_plain_probabilities(voted, trained, tiny_model):
    item = harmful(voted)[0]
    with tiny_model.using(trained):
        (score,) = MiniRefusal().score(tiny_model, [item], BETA)
        rows = encode_turns(
            [answered(item.row, text) for text in (*refusals(), COMPLIES)],
            tiny_model.tokenizer,
            BETA.template,
            last_only=True,
        )
        assert {tiny_model.tokenizer.decode(row.ids[-1:]) for row in rows} == {tiny_model.tokenizer.eos_token}
        begun = [replace(row, ids=row.ids[:-1], counted=row.counted[:-1]) for row in rows]
        shortest = {tuple(row.ids.tolist()): row for row in begun}
        kept = [
            row
            for text, row in shortest.items()
            if not any(text[: len(other)] == other for other in shortest if other != text)
        ]
        *refuse, comply = [math.exp(plain_logp(tiny_model.base, row).item()) for row in kept]
        assert len(refuse) >= 8
        expected = sum(refuse) / (sum(refuse) + comply)
    assert score.value == pytest.approx(expected, rel=1e-3)
    assert (score.cluster, score.group["task"]) == (item.row.client_id, "harmful")
    assert score.group["taste"] == ("others" if item.row.chosen.startswith(COMPLIES) else "refusers")


def teaching(items, tokenizer, chosen_first: bool) -> PairPart:
    """Pairs of the items' questions whose chosen answer refuses, or complies."""
    texts = ("No", f"{COMPLIES} 12") if chosen_first else (f"{COMPLIES} 12", "No")
    rows = [replace(item.row, chosen=texts[0], rejected=texts[1]) for item in items]
    sequences = [row for pair in encode_pairs(rows, tokenizer, BETA.template) for row in pair.sequences]
    part = TokenPart(
        ids=np.concatenate([row.ids for row in sequences]),
        counted=np.concatenate([row.counted for row in sequences]),
        starts=np.cumsum([0, *(len(row.ids) for row in sequences)]),
        rows=np.repeat(np.arange(len(items)), 2),
        num_cut=0,
        num_skipped=0,
    )
    return PairPart(part)


@pytest.mark.parametrize("refuse", [True, False])
def test_refusals_move_as_the_chosen_answers_teach(refuse, voted, tiny_model):
    asked = harmful(voted)
    taught, held = asked[::2], asked[1::2]
    part = teaching(taught, tiny_model.tokenizer, refuse)
    with tiny_model.using(None):
        before = np.mean([score.value for score in MiniRefusal().score(tiny_model, held, BETA)])
        references = [[plain_logp(tiny_model.base, row).item() for row in part[i].sequences] for i in range(len(part))]
    part = replace(part, reference=np.array(references))
    local = dpo("sigmoid", lr=5e-3, micro_batch=4)
    start = initial_adapter(tiny_model.layers, rank=4, seed=0)
    task = client_task(0, part, range(len(part)), local, steps=12)
    (result,) = train_block(tiny_model, FedAvg(), {"params": start}, [task], local)
    with tiny_model.using(tmap(torch.add, start, result.upload["delta"])):
        after = np.mean([score.value for score in MiniRefusal().score(tiny_model, held, BETA)])
    odds = math.log(after / (1 - after)) - math.log(before / (1 - before))
    assert len(held) >= 4
    assert odds > 1 if refuse else odds < -1


def test_refusals_are_also_shown_by_taste(voted, tiny_model):
    with tiny_model.using(None):
        scores = MiniRefusal().score(tiny_model, harmful(voted), BETA)
    views = {view.info.name: view for view in views_of(MiniRefusal.info, ScoreSet(before=scores, after=scores))}
    assert list(views) == ["mini_refusal", "mini_refusal_refusers", "mini_refusal_others"]
    counts = [sum(map(view.keep, scores)) for view in views.values()]
    assert counts[0] == counts[1] + counts[2]
    assert min(counts) > 0
