"""Raw Aya rows -> clients: who is kept, what is held out, and that nothing held out was trained on."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.build import Recipe
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.aya import AYA, build

SMALL = Recipe(min_samples=10, heldout=0.2, unseen_clients=4)


def raw_row(user: str, prompt: str, completion: str, **columns: Any) -> dict[str, Any]:
    row = {"inputs": prompt, "targets": completion, "language": "English", "language_code": "eng"}
    return row | {"annotation_type": "original-annotations", "user_id": user} | columns


def random_rows(seed: int) -> list[dict[str, Any]]:
    """Users of all sizes who share prompts and answers, repeat themselves, and are partly held out."""
    rng = random.Random(seed)
    rows = []
    for user in range(40):
        for _ in range(rng.choice([2, 5, 7, 9, 10, 15, 40])):
            prompt = f"q{rng.randrange(60)}" if rng.random() < 0.5 else f"own {rng.random()}"
            row = raw_row(f"u{user:02d}", prompt, f"a{rng.randrange(4)}")
            rows.append(row | {"split": rng.choice(["train"] * 4 + ["test"])})
    return rows


def write_raw(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make(tmp_path: Path, rows: Iterable[dict[str, Any]], recipe: Recipe = SMALL, name: str = "x") -> Split:
    return build(write_raw(tmp_path / f"{name}.jsonl", rows), tmp_path / f"split-{name}", recipe)


def steps(split: Split) -> dict[str, int]:
    return {step.step: step.rows_removed for step in split.manifest.funnel}


def counts(split: Split) -> dict[str, int]:
    return {client.id: client.train + client.heldout for client in split.manifest.clients}


def people(split: Split) -> list[str]:
    return [client.id for client in split.manifest.clients]


def user(name: str, rows: int, **columns: Any) -> list[dict[str, Any]]:
    return [raw_row(name, f"{name} asks {i}", f"answer {i}", **columns) for i in range(rows)]


@pytest.mark.parametrize("recipe", [SMALL, replace(SMALL, heldout="upstream"), replace(SMALL, max_samples=12)])
def test_the_order_of_raw_rows_does_not_matter(tmp_path, recipe):
    rows = random_rows(1)
    split = make(tmp_path, rows, recipe)
    for seed in (2, 3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        again = make(tmp_path, shuffled, recipe, name=f"order{seed}")
        assert again.hash == split.hash
        assert again.rows("train") == split.rows("train")
    assert open_split(split.folder) == split


@pytest.mark.parametrize("seed", sweep(range(4), 0))
@pytest.mark.parametrize("heldout", [0.1, 0.5, "upstream"])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_nothing_held_out_or_unseen_was_trained_on(tmp_path, seed, heldout, deduplicate):
    recipe = replace(SMALL, heldout=heldout, seed=seed, deduplicate=deduplicate)
    split = make(tmp_path, random_rows(seed), recipe)
    train, heldout_rows, unseen = (split.rows(part) for part in ("train", "heldout", "unseen"))
    assert len(heldout_rows) > 10
    assert len(unseen) >= 20
    asked = {(row.client_id, row.prompt) for row in train}
    answered = {(row.prompt, row.completion) for row in train}
    assert not [row for row in heldout_rows if (row.client_id, row.prompt) in asked]
    assert not [row for row in heldout_rows + unseen if (row.prompt, row.completion) in answered]
    assert not {row.client_id for row in unseen} & {row.client_id for row in train}


@pytest.mark.parametrize("heldout", [0.1, "upstream"])
def test_the_funnel_accounts_for_every_row(tmp_path, heldout):
    rows = [raw_row("", "q", "a"), raw_row("x" * 257, "q", "a"), raw_row("u", " ", "a"), *random_rows(5)]
    rows += [
        raw_row("u", "q", "\ud800"),
        raw_row("u", "q", "a", language_code="fra"),
        raw_row("u", "q" * 99, "a"),
    ]
    recipe = replace(
        SMALL, heldout=heldout, languages=("eng",), max_prompt_characters=50, max_clients=9, max_samples=20
    )
    split = make(tmp_path, rows, recipe)
    funnel = split.manifest.funnel
    assert [step.step for step in funnel] == [
        *("raw", "user_id", "empty", "languages", "length", "min_samples", "max_clients"),
        *("duplicates", "max_samples", "no_training", "leakage"),
    ]
    assert [step.rows_removed for step in funnel[:5]] == [0, 2, 2, 1, 1]
    assert funnel[0].rows_left == len(rows)
    assert len(rows) - sum(step.rows_removed for step in funnel) == funnel[-1].rows_left
    assert funnel[-1].rows_left == len(split.rows("train")) + len(split.rows("heldout"))
    assert [step.clients_left for step in funnel[:5]] == [41, 41, 41, 41, 40]
    assert funnel[-1].clients_left == len(split.manifest.clients) == 9
    assert split.manifest.upstream.files[0].rows == len(rows)


def test_clients_have_min_samples_counted_over_all_usable_rows(tmp_path):
    repeated = [raw_row("repeats", "same", "same")] * 4 + user("repeats", 6)
    rows = user("ten", 10) + user("nine", 9) + repeated + user("blank", 9) + [raw_row("blank", "", "a")]
    split = make(tmp_path, rows, replace(SMALL, unseen_clients=0))
    assert counts(split) == {"ten": 10, "repeats": 7}
    assert steps(split)["min_samples"] == 18
    assert steps(split)["duplicates"] == 3


def test_max_clients_keeps_those_with_most_rows_and_ties_by_id(tmp_path):
    rows = user("d", 12) + user("c", 10) + user("b", 10) + user("a", 10) + user("e", 11)
    split = make(tmp_path, rows, replace(SMALL, max_clients=3, unseen_clients=1))
    assert people(split) == ["a", "d", "e"]
    assert [unseen.id for unseen in split.manifest.unseen] == ["b"]


def test_unseen_users_come_from_below_the_cut_with_most_rows_first(tmp_path):
    sizes = {"big": 30, "nine": 9, "eight": 8, "six": 6, "five": 5, "four": 4}
    rows = [row for name, size in sizes.items() for row in user(name, size)]
    # All but four rows of "nine" are trained on by "big": too few of them are left.
    rows += [{**row, "user_id": "big"} for row in user("nine", 5)]
    split = make(tmp_path, rows, replace(SMALL, heldout="upstream", unseen_clients=2))
    assert [(unseen.id, unseen.heldout) for unseen in split.manifest.unseen] == [("eight", 8), ("six", 6)]
    assert people(split) == ["big"]
    assert {row.split for row in split.rows("unseen")} == {"heldout"}
    many = make(tmp_path, rows, replace(SMALL, heldout="upstream", unseen_clients=9), name="many")
    assert {unseen.id for unseen in many.manifest.unseen} == {"eight", "six", "five"}


def test_a_fraction_is_held_out_by_prompt_and_leaves_training_rows(tmp_path):
    rows = user("many", 200) + user("ten", 10)
    rows += [raw_row("one prompt", "the same", f"a{i}") for i in range(12)]
    rows += [raw_row("three prompts", f"p{i % 3}", f"b{i}") for i in range(12)]
    split = make(tmp_path, rows, replace(SMALL, heldout=0.1))
    heldout = {client.id: client.heldout for client in split.manifest.clients}
    assert heldout == {"many": 20, "ten": 1, "one prompt": 0, "three prompts": 4}
    other = make(tmp_path, rows, replace(SMALL, heldout=0.1, seed=1), name="seed1")
    assert {row.row_id for row in other.rows("heldout")} != {row.row_id for row in split.rows("heldout")}
    most = make(tmp_path, rows, replace(SMALL, heldout=0.99), name="most")
    assert min(client.train for client in most.manifest.clients) == 1


def test_heldout_zero_trains_on_everything_and_has_no_unseen(tmp_path):
    split = make(tmp_path, user("a", 10) + user("b", 9), replace(SMALL, heldout=0))
    assert counts(split) == {"a": 10}
    assert (len(split.rows("train")), split.rows("heldout"), split.rows("unseen")) == (10, [], [])
    assert split.manifest.recipe["unseen_clients"] == 0


def test_upstream_held_out_rows_leave_every_training_row_in_place(tmp_path):
    test = {"split": "test"}
    rows = user("a", 10) + user("b", 10)
    rows += [
        raw_row("a", "new question", "new answer", **test),
        raw_row("a", "a asks 0", "another answer", **test),  # the client trained on this prompt
        raw_row("a", "b asks 0", "answer 0", **test),  # another client trained on this row
        raw_row("a", "b asks 0", "own answer", split="validation"),
        raw_row("a", "a asks 1", "answer 1", **test),  # the same row on both sides
    ]
    rows += user("only tested", 11, **test)
    split = make(tmp_path, rows, replace(SMALL, heldout="upstream"))
    assert len(split.rows("train")) == 20
    assert sorted(row.prompt for row in split.rows("heldout")) == ["b asks 0", "new question"]
    assert {key: value for key, value in steps(split).items() if value} == {
        "duplicates": 1,
        "no_training": 11,
        "leakage": 2,
    }


def test_max_samples_is_a_choice_by_seed_and_not_by_order(tmp_path):
    rows = user("a", 50)
    recipe = replace(SMALL, max_samples=12, heldout=0, min_samples=50)
    split = make(tmp_path, rows, recipe)
    chosen = {row.row_id for row in split.rows("train")}
    assert len(chosen) == 12 == steps(split)["max_samples"] - 26
    assert {row.row_id for row in make(tmp_path, rows[::-1], recipe, name="r").rows("train")} == chosen
    other = make(tmp_path, rows, replace(recipe, seed=1), name="s")
    assert {row.row_id for row in other.rows("train")} != chosen


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl", ".csv.gz", ".jsonl.gz"])
def test_every_format_gives_the_same_hash(tmp_path, ending):
    rows = random_rows(7)
    split = make(tmp_path, rows)
    frame, path = pd.DataFrame(rows), tmp_path / f"other name{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending.startswith(".csv"):
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    assert build(path, tmp_path / "other", SMALL).hash == split.hash


def test_a_folder_of_files_by_split_is_the_same_as_one_file(tmp_path):
    rows = random_rows(8)
    folder = tmp_path / "raw"
    folder.mkdir()
    for split_name in ("train", "test"):
        part = [{key: v for key, v in row.items() if key != "split"} for row in rows if row["split"] == split_name]
        write_raw(folder / f"{split_name}-00000-of-00001.jsonl", part)
    recipe = replace(SMALL, heldout="upstream")
    split = build(folder, tmp_path / "folder", recipe)
    assert split.hash == make(tmp_path, rows, recipe).hash
    assert [file.name[:5] for file in split.manifest.upstream.files] == ["test-", "train"]


def test_languages_are_filtered_in_any_spelling_and_order(tmp_path):
    rows = user("a", 10, language_code="UKR") + user("b", 10) + user("c", 10, language_code="fra", source="poll")
    split = make(tmp_path, rows, replace(SMALL, languages=("fr", "ukr")))
    assert people(split) == ["a", "c"]
    assert {(row.language, row.source) for row in split.rows("train")} == {("ukr", "aya"), ("fra", "poll")}
    assert make(tmp_path, rows, replace(SMALL, languages=("uk", "fra")), name="y").hash == split.hash


def test_an_empty_result_says_what_the_filters_removed(tmp_path):
    with pytest.raises(UserError) as caught:
        make(tmp_path, user("a", 9) + user("b", 3, language_code="fra"), replace(SMALL, languages=("eng",)))
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "12 raw rows",
        "languages 3",
        "min_samples 9 (users with fewer than 10 rows",
        "has 9 usable rows",
    ):
        assert words in message
    with pytest.raises(UserError, match="nothing is left of 0 raw rows"):
        make(tmp_path, [])
    with pytest.raises(UserError, match="no_training 10"):
        make(tmp_path, user("a", 10, split="test"), replace(SMALL, heldout="upstream"))
    assert not (tmp_path / "split-x").exists()


def test_user_ids_that_look_like_paths_stay_inside_the_folder(tmp_path):
    split = make(tmp_path, user("../../evil", 10) + user("/etc/passwd", 10))
    assert people(split) == ["../../evil", "/etc/passwd"]
    assert {path.name for path in tmp_path.iterdir()} == {"x.jsonl", "split-x"}


def test_a_user_id_of_10_mb_is_no_user(tmp_path):
    split = make(tmp_path, user("a", 10) + user("x" * 10_000_000, 1))
    assert people(split) == ["a"]
    assert {step.step: step.rows_removed for step in split.manifest.funnel}["user_id"] == 1


def test_a_declaration_and_extra_files_of_another_world_stand_in_the_manifest(tmp_path):
    raw = write_raw(tmp_path / "x.jsonl", user("a", 10))
    world = replace(AYA, dataset="mini-aya", upstream="a generated world", licence="Apache-2.0")
    split = build(raw, tmp_path / "s", SMALL, "mini-aya", declaration=world, extra_files={"facts.json": b"[]"})
    manifest = open_split(split.folder).manifest
    assert (manifest.name, manifest.dataset, manifest.upstream.id) == (
        "mini-aya",
        "mini-aya",
        "a generated world",
    )
    assert "facts.json" in manifest.files
    assert build(raw, tmp_path / "t", SMALL).name == "aya-custom"


REAL = os.environ.get("FEDLLM_BENCH_REAL_ROWS")


@pytest.mark.rows
@pytest.mark.slow
def test_real_rows_keep_361_users(tmp_path):
    recipe = replace(AYA.recipe, min_samples=10, languages=("ukr", "spa", "eng"))
    split = build(Path(str(REAL)) / "aya_columns.jsonl.gz", tmp_path / "s", recipe)
    sources = Counter(client.id.split(":")[0] for client in split.manifest.clients)
    assert sources == {"ua_gec": 330, "cowsl2h": 19, "oasst1_en_val": 12}
    assert len(split.manifest.unseen) == 10
    assert sum(client.heldout > 0 for client in split.manifest.clients) >= 355
    assert open_split(split.folder) == split
