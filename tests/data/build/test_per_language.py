"""`--per-language N` and `--per COLUMN N`: equal numbers of users by what they write."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from test_aya_pipeline import make, people, steps, user

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.build import Recipe
from fedllm_bench.data.manifest import open_split

EQUAL = Recipe(min_samples=5, heldout=0.2, per="language:2")


def in_languages(sizes: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """Rows of each user: user -> language -> rows."""
    return [
        {**row, "inputs": f"{code} {row['inputs']}"}
        for name, rows in sizes.items()
        for code, count in rows.items()
        for row in user(name, count, language_code=code)
    ]


MANY = {
    **{f"u{i}": {"ukr": 40 - i} for i in range(9)},
    **{f"s{i}": {"spa": 20 - i} for i in range(5)},
    "f0": {"fra": 9},
    "small": {"tel": 4},
}


def test_each_language_keeps_its_largest_users_and_a_small_one_keeps_what_it_has(tmp_path):
    split = make(tmp_path, in_languages(MANY), EQUAL)
    assert people(split) == ["f0", "s0", "s1", "u0", "u1"]
    removed = steps(split)
    assert list(removed)[5:8] == ["min_samples", "per_language", "max_clients"]
    assert (removed["min_samples"], removed["max_clients"]) == (4, 0)
    assert removed["per_language"] == sum(40 - i for i in range(2, 9)) + sum(20 - i for i in range(2, 5))
    assert split.manifest.notes[0] == "per_language: fewer than 2 users, all of whom stay: fra (1)"
    assert split.manifest.recipe["per"] == "language:2"


def test_without_it_the_recipe_and_the_funnel_are_as_they_were(tmp_path):
    split = make(tmp_path, in_languages(MANY), replace(EQUAL, per=""))
    assert "per" not in split.manifest.recipe
    assert "per_language" not in steps(split)


def test_a_user_of_several_languages_counts_under_that_of_most_of_their_rows(tmp_path):
    sizes = {"a": {"spa": 8, "eng": 9}, "b": {"eng": 7}, "c": {"spa": 6}, "tie": {"fra": 6, "deu": 6}}
    split = make(tmp_path, in_languages(sizes), replace(EQUAL, per="language:1"))
    assert people(split) == ["a", "c", "tie"]
    assert len({row.language for row in split.rows("train") if row.client_id == "a"}) == 2  # all their rows stay
    assert split.manifest.notes[0] == (
        "per_language: 2 users have rows of more than one language; each counts under that of most of their rows"
    )
    # of two languages with equal numbers of rows, the first by name: "tie" stands under deu, so fra keeps another
    other = make(tmp_path, in_languages({**sizes, "z": {"fra": 5}}), replace(EQUAL, per="language:1"), name="tie")
    assert people(other) == ["a", "c", "tie", "z"]


def test_only_usable_rows_count_for_the_language_of_a_user(tmp_path):
    """Order: the filter of languages comes first."""
    sizes = {"a": {"spa": 30, "eng": 6}, "b": {"eng": 8}, "c": {"eng": 7}}
    split = make(tmp_path, in_languages(sizes), replace(EQUAL, languages=("eng",)))
    assert people(split) == ["b", "c"]
    assert not [note for note in split.manifest.notes if "per_language" in note]


def test_max_clients_chooses_among_those_who_are_left_and_max_samples_moves_nobody(tmp_path):
    recipe = replace(EQUAL, max_clients=3)
    assert people(make(tmp_path, in_languages(MANY), recipe)) == ["s0", "u0", "u1"]
    capped = make(tmp_path, in_languages(MANY), replace(recipe, max_samples=6), name="capped")
    assert people(capped) == ["s0", "u0", "u1"]
    assert len(capped.rows("train")) + len(capped.rows("heldout")) == 3 * 6


def test_unseen_users_take_turns_over_the_languages_of_the_clients(tmp_path):
    sizes = {**MANY, "t0": {"tel": 12}, "t1": {"tel": 11}, "t2": {"tel": 10}, "g": {"deu": 4}}
    split = make(tmp_path, in_languages(sizes), replace(EQUAL, unseen_clients=4))
    assert {unseen.id for unseen in split.manifest.unseen} == {"u2", "s2", "t2", "u3"}
    plain = make(tmp_path, in_languages(sizes), replace(EQUAL, per="", max_clients=2, unseen_clients=4), name="plain")
    assert {unseen.id for unseen in plain.manifest.unseen} == {"u2", "u3", "u4", "u5"}
    # a language whose users are all below the cut has no client, and no unseen user either
    strict = replace(EQUAL, min_samples=15, unseen_clients=9)
    some = make(tmp_path, in_languages(sizes), strict, name="strict")
    assert {row.language for row in some.rows("unseen")} == {"ukr", "spa"}


def test_the_order_of_raw_rows_does_not_matter(tmp_path):
    sizes = {f"u{i}": {"spa": 5 + i % 3, "eng": 5 + i % 2} for i in range(12)}
    rows = in_languages(sizes)
    recipe = replace(EQUAL, unseen_clients=3)
    split = make(tmp_path, rows, recipe)
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert make(tmp_path, shuffled, recipe, name=str(seed)).hash == split.hash


def test_another_column_is_the_source(tmp_path):
    rows = [{**row, "source": "one" if row["user_id"][0] in "us" else "two"} for row in in_languages(MANY)]
    split = make(tmp_path, rows, replace(EQUAL, per="source:1"))
    assert people(split) == ["f0", "u0"]
    assert steps(split)["per_source"] > 0


@pytest.mark.parametrize("per", ["client_id:3", "language", "language:0", "language:-1", "source:many", "language:²"])
def test_a_wrong_one_is_refused(per):
    with pytest.raises(UserError, match=r"language|source") as caught:
        Recipe(per=per)
    assert "\n" not in str(caught.value)


def test_the_options_of_the_command_reach_the_recipe(tmp_path, capsys):
    raw = make(tmp_path, in_languages(MANY), EQUAL).folder.parent / "x.jsonl"
    words = ["data", "build", "aya", "--raw", str(raw), "--languages", "all", "--min-samples", "5"]
    words += ["--decontaminate", "off", "--unseen", "0"]
    for index, option in enumerate((["--per-language", "2"], ["--per", "language", "2"])):
        assert cli.main([*words, *option, "--out", str(tmp_path / f"out{index}")]) == 0
        assert "fewer than 2 users, all of whom stay: fra (1)" in capsys.readouterr().out
    hashes = [open_split(tmp_path / f"out{index}").hash for index in range(2)]
    assert hashes[0] == hashes[1]
    for option in (["--per-language", "0"], ["--per", "colour", "2"]):
        assert cli.main([*words, *option, "--out", str(tmp_path / "none")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit):
        cli.main([*words, "--per", "language", "2", "--per-language", "2", "--out", str(tmp_path / "none")])
