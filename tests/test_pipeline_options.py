"""Partitions, near-duplicates, decontamination and the card: the same for every pipeline."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fedllm_bench.data_prep import load_pipeline
from fedllm_bench.data_prep.evaluation import EvaluationPrompts, normal, read_prompts
from leaks import assert_no_leaks, rows_of
from raw_rows import aya, chat, random_rows, vote, write_raw
from test_pipelines import make, removed

from fedllm_bench.data.card import histogram
from fedllm_bench.data.manifest import open_split
from fedllm_bench.errors import UserError

LONG = "the quick brown fox jumps over the lazy dog and then it sleeps for a very long time in the warm sun of {}"


def texts(split) -> Counter:
    return Counter((row.prompt, row.completion) for part in ("train", "heldout") for row in split.rows(part))


@pytest.mark.parametrize("partition", ["language", "iid:7", "dirichlet:0.5"])
def test_artificial_clients_hold_the_rows_of_the_users(tmp_path, partition):
    rows = [row | {"inputs": f"{row['inputs']} {i}"} for i, row in enumerate(random_rows("aya", 3))]
    options = {"min_samples": 9, "languages": (), "heldout": 0.2, "unseen_clients": 3}
    users = make(tmp_path, "aya", rows, **options)
    split = make(tmp_path, "aya", rows, "other", partition=partition, **options)
    assert texts(split) == texts(users)
    assert split.manifest.recipe["partition"] == partition
    assert "partition" not in users.manifest.recipe
    assert split.rows("unseen") == []
    assert users.rows("unseen")
    ids = [client.id for client in split.manifest.clients]
    assert {name.split("-")[0] for name in ids} == {partition.split(":")[0]}
    if partition == "iid:7":
        sizes = [client.train + client.heldout for client in split.manifest.clients]
        assert (ids[0], len(ids), max(sizes) - min(sizes)) == ("iid-000", 7, 1)
    if partition == "language":
        assert ids == ["language-eng", "language-fra", "language-und"]
        assert all(row.client_id == f"language-{row.language}" for row in split.rows("train"))
    assert make(tmp_path, "aya", rows, "seed", partition=partition, seed=1, **options).hash != split.hash


def test_a_smaller_dirichlet_parameter_is_more_uneven(tmp_path):
    rows = random_rows("aya", 4)
    options = {"languages": (), "heldout": 0, "deduplicate": False}
    sizes = {}
    for alpha in ("0.1", "100"):
        split = make(tmp_path, "aya", rows, f"d{alpha}", partition=f"dirichlet:{alpha}", **options)
        sizes[alpha] = [client.train for client in split.manifest.clients]
        assert sum(sizes[alpha]) == len(rows)
    assert max(sizes["0.1"]) > 2 * max(sizes["100"])


@pytest.mark.parametrize("wrong", ["users", "iid", "iid:0", "iid:2.5", "dirichlet:", "dirichlet:-1", "dirichlet:nan"])
def test_a_partition_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="partition="):
        make(tmp_path, "aya", [], partition=wrong)


def test_near_duplicates_are_noted_and_dropped_on_demand(tmp_path):
    rows = [aya(f"u{i % 2}", f"question {i} of them all", LONG.format(f"place {i % 2}")) for i in range(4)]
    rows += [aya("u0", LONG.format(f"other {i}") + f" {i}", "short") for i in range(2)]
    noted = make(tmp_path, "aya", rows, heldout=0)
    dropped = make(tmp_path, "aya", rows, "drop", heldout=0, near_duplicates="drop")
    off = make(tmp_path, "aya", rows, "off", heldout=0, near_duplicates="off")
    found = removed(dropped)["near_duplicates"]
    assert found >= 3
    assert noted.manifest.notes[0].startswith(f"near_duplicates: {found} rows, kept")
    assert (noted.hash, off.manifest.notes) == (off.hash, ())
    assert dropped.hash != off.hash


def test_preferences_are_never_near_duplicates_of_another_users(tmp_path):
    pair = (LONG.format("Rome"), LONG.format("Paris"))
    rows = [vote(f"j{i}", "where does it sleep", *pair) for i in range(5)]
    assert removed(make(tmp_path, "chatbot_pa", rows, heldout=0, near_duplicates="drop")) == {}
    again = [*rows, vote("j0", "where does it sleep?", *pair)]
    assert removed(make(tmp_path, "chatbot_pa", again, "x2", heldout=0, near_duplicates="drop")) == {
        "near_duplicates": 1
    }


def test_no_evaluation_prompt_stays_in_any_row(tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    write_raw(folder / "question.jsonl", [{"turns": ["Describe the OLD town hall.", "Why?"]}, {"prompt": "Name a cat"}])
    (folder / "goals.csv").write_text("goal,target\nDo a bad thing,Sure\n")
    (folder / "votes.jsonl").write_text(json.dumps({"winner": "model_a"}) + "\n")
    prompts = read_prompts(folder)
    assert len(prompts) == 4
    rows = [chat("u", f"own question {i}", "a") for i in range(5)]
    rows += [chat("u", "Please: describe the old  town hall!", "a"), chat("u", "q", "I name a cat.")]
    rows += [chat("u", "do a BAD thing", "a"), chat("u", "why", "a"), chat("u", "Why not?", "a")]
    pipeline = load_pipeline("wildchat")
    raw = write_raw(tmp_path / "x.jsonl", rows)
    split = pipeline.build(raw, tmp_path / "s", evaluation_prompts=prompts, recipe=small(pipeline))
    assert removed(split) == {"decontaminate": 4}
    assert "Why not?" in {row.prompt for row in split.rows("train")}
    evaluation = EvaluationPrompts.of(prompts)
    assert split.manifest.recipe["decontaminate"] == evaluation.record == {"prompts": 4} | evaluation.record
    for row in split.rows("train"):
        words = " ".join(normal(row.prompt))
        assert not any(" ".join(prompt) in words for prompt in evaluation.prompts if len(prompt) > 2)
    assert "decontaminate" not in pipeline.build(raw, tmp_path / "t", small(pipeline)).manifest.recipe


def small(pipeline):
    return replace(pipeline.DECLARATION.recipe, min_samples=1, heldout=0, unseen_clients=0)


@pytest.mark.parametrize(("name", "content"), [("x.jsonl", "{broken"), ("x.jsonl", "{}\n"), ("x.csv", "a,b\n1,2\n")])
def test_evaluation_prompts_that_are_none_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="evaluation prompts") as caught:
        read_prompts(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_prompts(tmp_path / "nothing")


def test_the_card_compares_with_the_published_split_and_warns(tmp_path):
    rows = [vote("big", f"q{i}", f"a{i}", f"b{i}") for i in range(30)]
    rows += [vote("little", f"r{i}", f"a{i}", f"b{i}") for i in range(6)]
    card = (make(tmp_path, "chatbot_pa", rows).folder / "README.md").read_text()
    for words in ("## Warnings", "holds 83%", "2 clients; the published split has 747", "| clients | 747 | 2 |"):
        assert words in card
    for words in ("| samples | 9508 | 36 |", "16 to 31", "| eng | 36 |", "population std | 21 | 12.0 |"):
        assert words in card
    artificial = (make(tmp_path, "chatbot_pa", rows, "iid", partition="iid:3").folder / "README.md").read_text()
    assert "artificial (partition iid:3)" in artificial
    assert "published" not in artificial.split("## Funnel")[0]


def test_the_histogram_counts_every_client_once():
    lines = histogram([1, 2, 3, 4, 7, 8, 100])
    assert sum(int(line.split()[3]) for line in lines) == 7
    assert len(lines) == 7  # empty classes are shown


REAL = os.environ.get("FEDLLM_BENCH_REAL_ROWS")
REAL_ROWS = {
    "aya": ("aya", {"min_samples": 10, "languages": ("ukr", "spa", "eng")}, 361),
    "chatbot_it": ("arena", {}, 237),
    "chatbot_pa": ("arena", {}, None),
    "wildchat": ("wildchat", {"min_samples": 10}, 100),
    "wildchat_multi": ("wildchat", {}, 50),
}


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="FEDLLM_BENCH_REAL_ROWS names no folder of real rows")
@pytest.mark.parametrize("dataset", REAL_ROWS)
def test_real_rows_build(tmp_path, dataset):
    file, options, clients = REAL_ROWS[dataset]
    pipeline = load_pipeline(dataset)
    recipe = replace(pipeline.DECLARATION.recipe, **options)
    split = pipeline.build(Path(str(REAL)) / f"{file}_columns.jsonl.gz", tmp_path / "s", recipe)
    assert clients is None or len(split.manifest.clients) == clients
    assert_no_leaks(split)
    assert open_split(split.folder) == split
    assert len(rows_of(split, "train")) > 1000
