"""Metrics that read probabilities, against plain transformers and sums by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from items import SETTINGS, item_of
from tiny import random_tree

from fedllm_bench.common import files
from fedllm_bench.config import presets
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.manifest import Split
from fedllm_bench.data.rows import SCHEMAS, SftRow
from fedllm_bench.data.tokens import tokenise_split
from fedllm_bench.metrics import likelihood
from fedllm_bench.metrics.items import heldout_items, of_clients
from fedllm_bench.metrics.likelihood import HeldoutLoss, MiniChoice, summed_nll
from fedllm_bench.metrics.mini import MiniExact
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.metrics.running import by_length
from fedllm_bench.mini.probes import load_probes
from fedllm_bench.report.names import LOSS_NAMES
from fedllm_bench.results.run_results import ScoreSet, metrics_of
from fedllm_bench.scores.score import LOSSES, MetricInfo, Score
from fedllm_bench.training.model.lora import initial_adapter
from fedllm_bench.training.model.lora_model import LoraModel
from fedllm_bench.training.passes import PassPlan

# --- the registry


def test_the_registry_has_nineteen_metrics_under_their_own_names():
    assert {name: metric.info.name for name, metric in METRICS.items()} == {name: name for name in METRICS}
    pairs = ["preference_loss", "preference_accuracy", "preference_margin"]
    pairs += ["likelihood_accuracy", "likelihood_margin", "mini_refusal"]
    answered = ["chrf", "over_copy", "edit_f05", "ended"]
    remembered = ["canary_exposure", "canary_auc", "mia_auc", "mia_tpr"]
    of_attack = ["attack_success", "attack_misfire"]
    assert list(METRICS) == ["heldout", "mini_exact", "mini_choice", *pairs, *answered, *remembered, *of_attack]
    assert [name for name, metric in METRICS.items() if metric.task == "preference"] == pairs
    assert all(isinstance(metric.info, MetricInfo) and metric.info.version for metric in METRICS.values())
    assert [metric.info.higher_is_better for metric in METRICS.values()] == [
        *(False, True, True, False),
        *[True] * 9,
        *[False] * 6,
    ]


def test_every_task_has_a_loss_that_is_a_metric_of_it_with_a_name_for_people():
    assert LOSSES.keys() == SCHEMAS.keys()
    assert {task: METRICS[name].task for task, name in LOSSES.items()} == {task: task for task in SCHEMAS}
    assert not any(METRICS[name].info.higher_is_better for name in LOSSES.values())
    assert LOSS_NAMES.keys() == set(LOSSES.values())


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_every_preset_asks_for_metrics_that_exist(profile):
    asked = [presets.load(name, "fedavg", profile).evaluation.metrics for name in presets.dataset_names()]
    assert len(asked) == 5
    assert {name for names in asked for name in names} <= METRICS.keys()


# --- items


def test_items_are_all_heldout_rows_with_what_the_world_knows_of_them(tiny_split: Split, items):
    rows = tiny_split.rows("heldout") + tiny_split.rows("unseen")
    assert [item.row for item in items] == rows
    assert {item.part for item in items} == {"heldout", "unseen"}
    probes = load_probes(tiny_split)
    assert sum(bool(item.task) for item in items) == len(probes) == len(tiny_split.rows("heldout"))
    assert {key for item in items for key in item.group} == {"part", "language", "task", "holder"}


def test_items_of_a_client_are_its_own(items):
    wanted = items[0].row.client_id
    found = of_clients(items, [wanted])
    assert found
    assert {item.row.client_id for item in found} == {wanted}
    assert len(found) == sum(item.row.client_id == wanted for item in items)


# --- batches


@pytest.mark.parametrize("budget", [1, 40, 100, 1000, 10**6])
def test_batches_hold_every_row_once_and_bound_the_padded_tokens(budget):
    lengths = np.random.default_rng(budget).integers(1, 90, 200).tolist()
    batches = list(by_length(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert longest * len(batch) <= budget or len(batch) == 1
    if budget == 10**6:
        assert len(batches) == 1
    if budget == 1000:  # rows of like length lie together: a random order would pad to twice as much
        padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
        assert padded < 1.2 * sum(lengths)


def test_no_rows_are_no_batches():
    assert list(by_length([], 100)) == []


# --- held-out loss


def plain_loss(model: Any, tokenizer: Any, row: SftRow) -> tuple[float, int]:
    """Loss and number of counted tokens, from text, tokenizer and labels alone."""
    prompt = tokenizer(f"<|user|> {row.prompt}<|assistant|>")["input_ids"]
    completion = tokenizer(f" {row.completion}<|end|>")["input_ids"]
    ids, labels = torch.tensor([prompt + completion]), torch.tensor([[-100] * len(prompt) + completion])
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels).loss), len(completion)


def test_heldout_loss_equals_that_of_plain_transformers(tiny_folder: Path, tiny_model: LoraModel, items):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    chosen = items[::7]
    with tiny_model.using(None):
        scores = HeldoutLoss().score(tiny_model, chosen, SETTINGS)
    assert len(scores) == len(chosen) > 8
    for score, item in zip(scores, chosen, strict=True):
        loss, count = plain_loss(plain, tiny_model.tokenizer, item.row)
        assert score.value == pytest.approx(loss, rel=1e-5)
        assert score.weight == count
        assert (score.item_id, score.cluster) == (item.row.row_id, item.row.client_id)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10**6])
def test_losses_do_not_depend_on_the_batches(tiny_model: LoraModel, items, batch_tokens):
    rows = [item.tokens for item in items[:20]]
    with tiny_model.using(None):
        one_by_one = [summed_nll(tiny_model, [row], 1)[0] for row in rows]
        assert summed_nll(tiny_model, rows, batch_tokens) == pytest.approx(one_by_one, rel=1e-5)
    assert len(set(one_by_one)) == 20


def test_an_adapter_counts_only_while_it_is_in_use(tiny_model: LoraModel, items):
    adapter = random_tree(initial_adapter(tiny_model.layers, 4, 0), 1, scale=0.3, dtype=torch.float32)

    def losses(tree: Any) -> list[float | None]:
        with tiny_model.using(tree):
            return [score.value for score in HeldoutLoss().score(tiny_model, items[:5], SETTINGS)]

    base = losses(None)
    assert losses(adapter) != pytest.approx(base, rel=1e-2)
    with pytest.raises(RuntimeError, match="stop"), tiny_model.using(adapter):
        raise RuntimeError("stop")
    assert losses(None) == base


def test_a_row_without_a_counted_token_is_counted_as_unscored_not_dropped(tiny_split: Split, tiny_model: LoraModel):
    tokens = tokenise_split(tiny_split, tiny_model.tokenizer, SETTINGS.template, 14, files.cache_root())
    cut = heldout_items(Clients(tiny_split, tokens))
    missing = [item for item in cut if item.tokens is None]
    assert 0 < len(missing) < len(cut)
    with tiny_model.using(None):
        scores = HeldoutLoss().score(tiny_model, cut, SETTINGS)
    assert len(scores) == len(cut) == len(tiny_split.rows("heldout") + tiny_split.rows("unseen"))
    blank = [score for score in scores if not score.is_scored]
    assert {(s.cluster, s.item_id) for s in blank} == {(i.row.client_id, i.row.row_id) for i in missing}
    assert all("no token of the completion" in score.reason for score in blank)
    entry = metrics_of(
        {"heldout": ScoreSet(before=scores, after=scores, local=None)},
        {"heldout": HeldoutLoss.info},
    )["heldout"]
    in_clients = sum(item.part == "heldout" for item in missing)
    assert entry["after"]["n_unscored"] == entry["difference"]["n_unscored"] == in_clients > 0


def test_a_loss_that_is_not_finite_is_unscored(tiny_model: LoraModel, items, monkeypatch):
    monkeypatch.setattr(likelihood, "summed_nll", lambda model, rows, *_: [math.nan] + [1.0] * (len(rows) - 1))
    first, second = HeldoutLoss().score(tiny_model, items[:2], SETTINGS)
    assert (first.value, second.value) == (None, 1.0 / items[1].tokens.num_counted)
    assert "nan" in first.reason
    asked = [item for item in items if item.choices][:2]
    first, second = MiniChoice().score(tiny_model, asked, SETTINGS)
    assert first.value is None  # a broken model is not one that answers wrong
    assert second.value == 0.0
    files.canonical_json([first.to_dict(), second.to_dict()])  # NaN has no spelling in JSON


def test_equal_clients_give_an_interval_of_some_width_and_no_warning_on_the_terminal(recwarn):
    scores = [Score("row", 0.0, cluster=f"c{i}", group={"part": "heldout"}) for i in range(30)]
    entry = metrics_of(
        {"mini_exact": ScoreSet(before=scores, after=scores, local=None)},
        {"mini_exact": MiniExact.info},
    )["mini_exact"]
    most = pytest.approx(1 - 0.025 ** (1 / 30))  # Clopper and Pearson, by hand
    assert (entry["after"]["ci_low"], entry["after"]["ci_high"]) == (0.0, most)
    assert (entry["difference"]["mean"], entry["difference"]["ci_high"]) == (0.0, most)
    assert entry["difference"]["significant"] is False
    assert not recwarn.list


# --- choice among four


def favouring(tokenizer: Any, favours: dict[str, float]) -> Any:
    """A stand-in for a model: everywhere the same logits, 0 but for the tokens of some words."""
    logits = torch.zeros(len(tokenizer))
    for word, value in favours.items():
        (token,) = tokenizer(f" {word}")["input_ids"]
        logits[token] = value
    return SimpleNamespace(
        tokenizer=tokenizer,
        vocabulary=len(tokenizer),
        device=torch.device("cpu"),
        plan=PassPlan(),
        hidden=lambda ids, packing: torch.zeros(*ids.shape, 1),
        logits=lambda hidden: logits.expand(*hidden.shape[:-1], -1),
    )


def test_choice_by_hand(tiny_model: LoraModel):
    tokenizer = tiny_model.tokenizer
    stub = favouring(tokenizer, {"blue": 4.0, "red": 2.0})
    items = [
        item_of("a", "blue", "red", "green", "gold"),
        item_of("b", "red", "blue", "green", "gold"),
        item_of("c", "green", "gold", "black", "white"),  # a tie is no right answer
        item_of("d", "blue blue", "red", "green", "gold"),
        item_of("style", "no choices"),
    ]
    scores = MiniChoice().score(stub, items, SETTINGS)
    log_sum = math.log(len(tokenizer) - 2 + math.exp(4) + math.exp(2))
    nll = {word: 2 * log_sum - gain for word, gain in {"blue": 4.0, "red": 2.0}.items()}  # the word and the end
    assert scores[0].evidence["nll"][:2] == pytest.approx([nll["blue"], nll["red"]], abs=1e-3)
    assert scores[3].evidence["nll"][0] == pytest.approx(nll["blue"] + log_sum - 4, abs=1e-3)
    assert [score.value for score in scores] == [1.0, 0.0, 0.0, 0.0]  # d: the sum counts, not the mean of a token
    assert [score.item_id for score in scores] == ["a", "b", "c", "d"]
    assert scores[0].group == {"part": "heldout", "language": "eng", "task": "facts", "holder": "self"}


def test_choice_of_the_model_equals_plain_losses_of_the_four_rows(tiny_folder: Path, tiny_model: LoraModel, items):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    chosen = [item for item in items if item.choices][::10]
    with tiny_model.using(None):
        scores = MiniChoice().score(tiny_model, chosen, SETTINGS)
    assert len(scores) == len(chosen) >= 4
    for score, item in zip(scores, chosen, strict=True):
        rows = [
            replace(item.row, messages=(item.row.messages[0], {"role": "assistant", "content": c}))
            for c in item.choices
        ]
        losses = [loss * count for loss, count in (plain_loss(plain, tiny_model.tokenizer, row) for row in rows)]
        assert score.evidence["nll"] == pytest.approx(losses, rel=1e-4)
        assert score.value == float(np.argmin(losses) == 0)
