"""Partitions, near-duplicates and decontamination: the same for every pipeline."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from built_splits import make, removed
from leaks import assert_no_leaks, prompt_of, rows_of
from raw_rows import aya, chat, random_rows, vote, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.decontaminate import (
    NOT_REMOVED,
    EvaluationPrompts,
    evaluation_prompts,
    normal,
    read_prompts,
)
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.build.sample import Sample
from fedllm_bench.data.build.topics import topics
from fedllm_bench.data.manifest import open_split

LONG = "the quick brown fox jumps over the lazy dog and then it sleeps for a very long time in the warm sun of {}"


def texts(split) -> Counter:
    return Counter((row.prompt, row.completion) for part in ("train", "heldout") for row in split.rows(part))


@pytest.mark.parametrize(
    "partition", ["language", "iid:7", "dirichlet:0.5", "dirichlet:0.5:source", "dirichlet:1:topic"]
)
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


WRONG_PARTITIONS = ["users", "user:1", "iid", "iid:0", "iid:2.5", "iid:3:topic", "iid:" + "9" * 400]
WRONG_PARTITIONS += ["dirichlet", "dirichlet:", "dirichlet:-1", "dirichlet:nan", "dirichlet:inf", "dirichlet:topic"]
WRONG_PARTITIONS += [
    "dirichlet:1:",
    "dirichlet:1:user",
    "dirichlet:1:topic:0",
    "dirichlet:1::3",
    "column",
    "column: ",
    "column:a\nb",
]
WRONG_PARTITIONS += ["released", "released:0", "released:2:0", "released:2:9:x", "released:2:9:1:1", "released:-1"]


@pytest.mark.parametrize("wrong", WRONG_PARTITIONS)
def test_a_partition_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="partition="):
        make(tmp_path, "aya", [], partition=wrong)


def test_a_dirichlet_partition_may_be_over_topics_or_sources(tmp_path):
    subjects = ("cats purr and sleep on the sofa", "stars shine far away at night", "soup needs salt and a pot")
    rows = [aya(f"u{i % 6}", f"{subjects[i % 3]}, case {i}", f"a{i}", source=f"s{i % 3}") for i in range(120)]
    options = {"heldout": 0, "deduplicate": False}
    splits = {
        form: make(tmp_path, "aya", rows, form.replace(":", "-"), partition=form, **options)
        for form in ("dirichlet:0.1", "dirichlet:0.1:language", "dirichlet:0.1:source", "dirichlet:0.1:topic")
    }
    hashes = {form: split.hash for form, split in splits.items()}
    assert hashes["dirichlet:0.1:language"] == hashes["dirichlet:0.1"]
    assert len(set(hashes.values())) == 3
    by_topic = splits["dirichlet:0.1:topic"]
    assert by_topic.manifest.recipe["partition"] == "dirichlet:0.1:topic"
    shuffled = make(tmp_path, "aya", rows[::-1], "back", partition="dirichlet:0.1:topic", **options)
    assert shuffled.hash == by_topic.hash


def test_topics_are_clusters_of_what_is_asked():
    subjects = ("cats purr and sleep", "stars shine far away", "soup needs salt")
    prompts = [f"{subjects[i % 3]} {'now' if i % 2 else 'today'}" for i in range(30)]
    found = topics(prompts, seed=0, most=3)
    assert len(set(found)) == 3
    assert all(len({topic for topic, prompt in zip(found, prompts, strict=True) if s in prompt}) == 1 for s in subjects)
    assert topics(prompts, seed=0, most=3) == found
    assert set(topics(["?", "!", ""], seed=0)) == {"topic-00"}
    assert topics(["same", "same"], seed=0) == ["topic-00"] * 2
    assert topics([], seed=0) == []
    assert len(set(topics(["猫は寝る", "星が光る"], seed=0))) == 2


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
    evaluation = evaluation_prompts(str(folder))
    split = pipeline.build(raw, tmp_path / "s", evaluation=evaluation, recipe=small(pipeline))
    assert removed(split) == {"decontaminate": 4}
    assert "Why not?" in {row.prompt for row in split.rows("train")}
    assert evaluation == EvaluationPrompts.of(prompts)
    assert split.manifest.recipe["decontaminate"] == evaluation.record == {"prompts": 4, "sha256": evaluation.sha256}
    for row in split.rows("train"):
        words = " ".join(normal(row.prompt))
        assert not any(" ".join(prompt) in words for prompt in evaluation.prompts if len(prompt) > 2)
    assert "decontaminate" not in pipeline.build(raw, tmp_path / "t", small(pipeline)).manifest.recipe
    off = pipeline.build(raw, tmp_path / "o", small(pipeline), evaluation=evaluation_prompts("off"))
    assert off.manifest.recipe["decontaminate"] == "off"
    assert removed(off) == {}
    assert off.manifest.notes[-1] == NOT_REMOVED


def test_prompt_disjoint_holds_out_the_same_prompts_for_all_clients(tmp_path):
    """Everybody votes on the same pairs, as in crowds: per client nothing could be held out."""
    rows = [vote(f"j{j}", f"q{i}", f"a{i}", f"b{i}") for j in range(12) for i in range(20)]
    options = {"heldout": 0.1, "min_samples": 1, "max_clients": 8, "unseen_clients": 2}
    leaky = make(tmp_path, "chatbot_pa", rows, **options)
    split = make(tmp_path, "chatbot_pa", rows, "disjoint", prompt_disjoint=True, **options)
    assert leaky.preference_rows("heldout") == []
    assert len(split.preference_rows("heldout")) == 8 * 2
    assert len(split.preference_rows("train")) == 8 * 18
    prompts = {part: {prompt_of(row) for row in split.preference_rows(part)} for part in ("train", "heldout", "unseen")}
    assert len(prompts["heldout"]) == 2
    assert not prompts["train"] & (prompts["heldout"] | prompts["unseen"])
    assert split.manifest.recipe["prompt_disjoint"] is True
    assert "prompt_disjoint" not in leaky.manifest.recipe
    with pytest.raises(UserError, match="give one"):
        make(tmp_path, "chatbot_pa", rows, "x", heldout="upstream", prompt_disjoint=True)


def test_a_near_duplicate_of_a_stranger_does_not_cost_a_client_its_row(tmp_path):
    many = [chat("client", f"own {i} " + LONG.format(i) + f" {i} and {i * 7}", "fine") for i in range(6)]
    same = "one two three four five six seven eight nine ten eleven twelve {}"
    strangers = [chat(f"s{j}", f"{j}{i} of other things {j * 5} {i}", "yes") for j in range(9) for i in range(4)]
    both = [chat("client", same.format("a"), "x")] + [chat(f"s{j}", same.format("a"), "x") for j in range(9)]
    options = {"min_samples": 6, "unseen_clients": 9, "heldout": 0.2, "near_duplicates": "drop"}
    split = make(tmp_path, "wildchat", many + strangers + both, **options)
    kept = {row.prompt for part in ("train", "heldout") for row in split.rows(part)}
    assert same.format("a") in kept
    assert split.rows("unseen") == []  # each has four rows left, too few to say anything


def test_a_prompt_without_spaces_is_found_inside_a_text():
    evaluation = EvaluationPrompts.of(["写一个主旨大意的题", "写诗"])
    sample = Sample("u", (("user", "请写一个主旨大意的题。谢谢"),), ("好",), "zho", "s", "train", "f")
    assert evaluation.stand_in(sample)
    assert not evaluation.stand_in(sample._replace(turns=(("user", "请写诗"),)))  # two words must be a whole turn
    assert evaluation.stand_in(sample._replace(turns=(("user", "写诗！"),)))


@pytest.mark.assets
def test_the_suites_own_evaluation_sets_are_read_whole():
    evaluation = evaluation_prompts("on")
    assert evaluation.sets == ("mt_bench", "vicuna_bench", "advbench", "ref_gpt4")
    assert len(evaluation.prompts) == 1017  # of 160 + 80 + 520 + 260, some stand twice


def test_an_unreachable_evaluation_set_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("FEDLLM_BENCH_MIRROR", str(tmp_path / "none"))
    with pytest.raises(UserError) as caught:
        evaluation_prompts("on")
    assert all(way in str(caught.value) for way in ("FEDLLM_BENCH_MIRROR", "--decontaminate off", "file or folder"))
    assert "\n" not in str(caught.value)


def small(pipeline):
    return replace(pipeline.DECLARATION.recipe, min_samples=1, heldout=0, unseen_clients=0)


REAL = os.environ.get("FEDLLM_BENCH_REAL_ROWS")
REAL_ROWS = {
    "aya": ("aya", {"min_samples": 10, "languages": ("ukr", "spa", "eng")}, 361),
    "chatbot_it": ("arena", {}, 237),
    "chatbot_pa": ("arena", {}, None),
    "wildchat": ("wildchat", {"min_samples": 10}, 100),
    "wildchat_multi": ("wildchat", {}, 50),
}


@pytest.mark.slow
@pytest.mark.rows
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
