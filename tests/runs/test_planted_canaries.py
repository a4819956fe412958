"""Canaries: who gets them, that sizes and other rows stay, that tokens and scores do not mix, and what is refused."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.tokens import encode
from fedllm_bench.runs.canaries import CONTROLS, Planted, canaries_of, controls_of, planted_rows, record_of
from fedllm_bench.runs.cell import Cell, settings_hash
from fedllm_bench.runs.loading import check_cell, load_bench
from fedllm_bench.runs.scoring import depends_on

METRICS = "canary_exposure", "canary_auc", "mia_auc", "mia_tpr"


def planted(split, count=5, repeats=3, seed=0) -> Planted:
    return Planted(split.folder, split.manifest, canaries_of(split.manifest, count, repeats, seed))


def cell_of(config, split, folder) -> Cell:
    return Cell(config, split, folder, 1)


@pytest.mark.parametrize("seed", range(5))
def test_canaries_take_the_place_of_rows_and_nothing_else_changes(seed, tiny_split, caplog):
    caplog.set_level(logging.INFO, logger="fedllm_bench")
    split = planted(tiny_split, seed=seed)
    for part in ("heldout", "unseen"):
        assert split.rows(part) == tiny_split.rows(part)
    real, made = tiny_split.rows("train"), split.rows("train")
    assert [(a.row_id, a.client_id) for a in made] == [(a.row_id, a.client_id) for a in real]
    changed = [i for i, (a, b) in enumerate(zip(real, made, strict=True)) if a != b]
    assert len(changed) == 15
    code_of = {one.code: one.client_id for one in split.canaries}
    assert Counter(made[i].completion for i in changed) == dict.fromkeys(code_of, 3)
    assert all(made[i].client_id == code_of[made[i].completion] for i in changed)
    assert f"15 of {len(real)} training rows gave way to 5 canaries" in caplog.text


def test_canaries_go_round_and_are_of_the_seed(tiny_split):
    clients = [one.client_id for one in canaries_of(tiny_split.manifest, 8, 1, 0)]
    assert len(set(clients[:6])) == 6  # none gets a second one before all have one
    assert set(clients[6:]) < set(clients)
    first, other = (canaries_of(tiny_split.manifest, 8, 1, seed) for seed in (0, 1))
    assert first == canaries_of(tiny_split.manifest, 8, 1, 0) != other
    assert len({one.name for one in (*first, *other)}) == len({one.code for one in (*first, *other)}) == 16
    for one, after in pairwise(first):
        assert one.number + 1 == after.number
        assert len(one.code.split()) == 8
    assert canaries_of(tiny_split.manifest, 0, 1, 0) == ()


def test_more_canaries_than_half_of_the_rows_of_a_client_are_refused(tiny_split):
    room = sum(client.train // 2 for client in tiny_split.manifest.clients)
    assert len(canaries_of(tiny_split.manifest, room, 1, 0)) == room
    with pytest.raises(UserError, match=rf"data\.canaries={room + 1} .* there is room for {room} canaries"):
        canaries_of(tiny_split.manifest, room + 1, 1, 0)
    with pytest.raises(UserError, match=r"there is room for 0 canaries, .* give fewer repeats, or data"):
        canaries_of(tiny_split.manifest, 1, 10_000, 0)


def test_controls_are_of_the_same_law_and_none_is_the_canary(tiny_split):
    first, second = canaries_of(tiny_split.manifest, 2, 1, 0)
    codes = controls_of(first, 0)
    assert len(set(codes)) == CONTROLS == len(codes)
    assert first.code not in codes
    assert codes == controls_of(first, 0) != controls_of(second, 0)
    digits = Counter(digit for code in codes for digit in code.split())
    assert set(digits) == set("0123456789")
    assert {len(code.split()) for code in codes} == {8}
    assert max(digits.values()) < 1.3 * min(digits.values())


def test_the_record_names_the_rows_that_gave_way(tiny_split):
    split = planted(tiny_split)
    rows = tiny_split.rows("train")
    record = record_of(split.canaries, rows)
    assert [(one["client_id"], one["name"], one["code"]) for one in record] == [
        (one.client_id, one.name, one.code) for one in split.canaries
    ]
    of_row = {rows[i].row_id: canary.number for i, canary in planted_rows(rows, split.canaries).items()}
    assert {row: number for number, one in enumerate(record) for row in one["rows"]} == of_row


def test_a_run_trains_on_canaries_and_neither_tokens_nor_scores_of_the_base_mix(tiny_split, tiny_run_config, tmp_path):
    """A run without them, after it, finds its own."""
    asked = ["evaluation.metrics=" + ",".join(("heldout", *METRICS))]
    config = tiny_run_config("fedavg", "data.canaries=4", "data.canary_repeats=2", *asked)
    other = tiny_run_config("fedavg", "data.canaries=4", "data.canary_repeats=2", *asked, seed=1)
    bench = load_bench(cell_of(config, tiny_split, tmp_path))
    plain = load_bench(cell_of(tiny_run_config("fedavg"), tiny_split, tmp_path))
    split = planted(tiny_split, 4, 2, config.seed)
    for each, rows in ((bench, split.rows("train")), (plain, tiny_split.rows("train"))):
        expected = encode(rows, each.model.tokenizer, template_text(config.data.template))
        part = each.clients.tokens["train"]
        assert all(np.array_equal(part[i].ids, row.ids[:256]) for i, row in enumerate(expected))
    assert bench.clients.train_rows == plain.clients.train_rows
    held = [item for item in bench.items if item.part in ("heldout", "unseen")]
    assert [item.row for item in held] == [item.row for item in plain.items]
    canaries = [item for item in bench.items if item.part == "canary"]
    assert [(item.row.client_id, item.choices[0]) for item in canaries] == [
        (one.client_id, one.code) for one in split.canaries
    ]
    assert depends_on(bench) != depends_on(plain)
    assert depends_on(bench) != depends_on(load_bench(cell_of(other, tiny_split, tmp_path)))


def test_members_are_training_rows_as_many_of_a_client_as_it_has_held_out_ones(tiny_split, tiny_run_config, tmp_path):
    config = tiny_run_config("fedavg", "data.canaries=6", "data.canary_repeats=2", "evaluation.metrics=mia_auc")
    bench = load_bench(cell_of(config, tiny_split, tmp_path))
    held, members = (Counter(i.row.client_id for i in bench.items if i.part == part) for part in ("heldout", "train"))
    sizes = {client.id: client.train for client in tiny_split.manifest.clients}
    gone = Counter(one.client_id for one in canaries_of(tiny_split.manifest, 6, 2, config.seed) for _ in one.places)
    assert members == {client: min(count, sizes[client] - gone[client]) for client, count in held.items()}
    rows = {(row.client_id, row.row_id): row for row in tiny_split.rows("train")}
    for item in bench.items:
        if item.part == "train":
            assert item.row == rows[item.row.client_id, item.row.row_id]
            assert item.row.source != "canary"
            assert item.tokens.num_counted > 0


def test_the_setting_is_in_a_hash_only_where_it_is_on_and_the_baseline_has_it_too(
    tiny_split, tiny_run_config, tmp_path
):
    off, on = tiny_run_config("fedavg"), tiny_run_config("fedavg", "data.canaries=4")
    assert off.to_dict()["data"].keys().isdisjoint({"canaries", "canary_repeats", "split_pairs"})
    assert on.to_dict()["data"]["canaries"] == 4
    assert settings_hash(off, "split", "base") != settings_hash(on, "split", "base")
    assert cell_of(on, tiny_split, tmp_path).baseline.config.data.canaries == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("data.canaries=4", "data.swap_answers=true"),
            "data.canaries: data.swap_answers=true would take their answers",
        ),
        (("data.canaries=4", "data.shuffle_users=true"), "data.shuffle_users=true deals its rows to others"),
        (("data.canary_repeats=4",), r"data.canary_repeats=4: data.canaries is 0"),
        (("data.canaries=-1",), "data.canaries"),
        (("data.canaries=4", "data.canary_repeats=0"), "data.canary_repeats"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, words, tiny_run_config):
    with pytest.raises(UserError, match=words) as error:
        tiny_run_config("fedavg", *overrides)
    assert "\n" not in str(error.value)


def test_canaries_of_votes_are_refused(tiny_run_config):
    with pytest.raises(UserError, match=r"data\.canaries=2: secrets are planted in conversations"):
        tiny_run_config("fedavg", "data.canaries=2", dataset="chatbot_pa")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("evaluation.metrics=canary_exposure",), "METRICS=canary_exposure: no canary is planted"),
        (("evaluation.metrics=mia_auc", "data.swap_answers=true"), "METRICS=mia_auc: data.swap_answers=true leaves no"),
        (("data.canaries=1000",), r"data\.canaries=1000 .* there is room for"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    overrides, words, tiny_split, tiny_run_config, tmp_path
):
    with pytest.raises(UserError, match=words):
        check_cell(cell_of(tiny_run_config("fedavg", *overrides), tiny_split, tmp_path))
