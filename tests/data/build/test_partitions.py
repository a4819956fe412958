"""Clients by a column, of a number that is asked for, and in OpenFedLLM's order; older forms keep their hashes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from built_splits import make, removed
from leaks import assert_no_leaks
from raw_rows import aya, random_rows, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.partition import released_owners
from fedllm_bench.data.build.partition_forms import check_partition, normal_partition
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.tables import Fields, table

PLAIN = Declaration(dataset="tasks", upstream="org/tasks", licence="MIT", version="1", recipe=Recipe())
PARTS = Fields(instruction="ask", response="answer")
# Written down before there was any form but these.
HASHES = {
    "user": "4af5348a9add39ab",
    "language": "a09a4d3f7dde7fa5",
    "iid:7": "9ed9f63e532c9699",
    "dirichlet:0.5": "fbe2aefc7d0afc11",
    "dirichlet:0.5:language": "fbe2aefc7d0afc11",
    "dirichlet:0.5:source": "8672b7969b1fae68",
    "dirichlet:1:topic": "6a81413f14a0d9fc",
}


@pytest.mark.parametrize("partition", HASHES)
def test_the_older_forms_keep_their_hashes(tmp_path: Path, partition: str) -> None:
    rows = [row | {"inputs": f"{row['inputs']} {i}"} for i, row in enumerate(random_rows("aya", 3))]
    options: dict[str, Any] = {"min_samples": 9, "languages": (), "heldout": 0.2, "unseen_clients": 3}
    assert make(tmp_path, "aya", rows, partition=partition, **options).hash[:16] == HASHES[partition]


def tasks(count: int = 90) -> list[dict[str, Any]]:
    """Three kinds, of which one has most rows."""
    kinds = ["qa", "qa", "qa", "sum", "edit"]
    return [{"ask": f"task {i} of them", "answer": f"a{i}", "kind": kinds[i % 5], "n": i % 4} for i in range(count)]


def built(tmp_path: Path, rows: list[dict[str, Any]], partition: str, name: str = "x", **options: Any) -> Split:
    pipeline = table(PLAIN, PARTS)
    recipe = replace(PLAIN.recipe, **{"partition": partition, "heldout": 0.0} | options)
    split = pipeline.build(write_raw(tmp_path / f"{name}.jsonl", rows), tmp_path / f"split-{name}", recipe)
    assert_no_leaks(split)
    assert open_split(split.folder) == split
    return split


def sizes(split: Split) -> dict[str, int]:
    return {client.id: client.train + client.heldout for client in split.manifest.clients}


def test_a_column_makes_one_client_of_each_value(tmp_path: Path) -> None:
    rows = tasks()
    split = built(tmp_path, rows, "column:kind")
    assert sizes(split) == {"edit": 18, "qa": 54, "sum": 18}
    assert {row.client_id for row in split.rows("train") if row.prompt in {r["ask"] for r in rows[3::5]}} == {"sum"}
    assert sizes(built(tmp_path, rows, "column:n", "whole-numbers")) == {"0": 23, "1": 23, "2": 22, "3": 22}
    assert built(tmp_path, rows[::-1], "column:kind", "back").hash == split.hash


def test_rows_without_a_value_go_and_are_counted(tmp_path: Path) -> None:
    rows = tasks(20)
    for row, value in zip(rows, [None, "", "  ", "x" * 300, "\ud800"], strict=False):
        row["kind"] = value
    split = built(tmp_path, rows, "column:kind")
    assert removed(split) == {"column": 5}
    assert sum(sizes(split).values()) == 15
    for value, word in {1.5: "float", True: "bool", (1, 2): "list"}.items():
        with pytest.raises(UserError, match=f"row 1: column 'kind' is {word}, not str"):
            built(tmp_path, [rows[9] | {"kind": value}], "column:kind", "bad")


def test_a_partition_may_name_a_column_that_is_read_anyway(tmp_path: Path) -> None:
    rows = [{"ask": f"q{i}", "answer": "ab"[i % 2], "split": "train" if i < 6 else "test"} for i in range(8)]
    assert sizes(built(tmp_path, rows, "column:answer")) == {"a": 4, "b": 4}
    assert sizes(built(tmp_path, rows, "column:split", "s")) == {"train": 6, "test": 2}
    users = [aya(f"u{i % 2}", f"q{i}", "a", annotation_type="re" if i % 3 else "org") for i in range(12)]
    assert sizes(make(tmp_path, "aya", users, "t", partition="column:annotation_type")) == {"org": 4, "re": 8}


def test_equal_texts_of_two_values_are_rows_of_both(tmp_path: Path) -> None:
    rows = [{"ask": "same", "answer": "yes", "kind": kind} for kind in "abab"]
    for name, order in {"one": rows, "back": rows[::-1]}.items():
        assert sizes(built(tmp_path, order, "column:kind", name)) == {"a": 1, "b": 1}


@pytest.mark.parametrize("over", ["kind", "n", "language", "topic"])
def test_a_dirichlet_partition_has_as_many_clients_as_are_asked(tmp_path: Path, over: str) -> None:
    rows = tasks()
    split = built(tmp_path, rows, f"dirichlet:0.5:{over}:4")
    assert list(sizes(split)) == [f"dirichlet-{i:03d}" for i in range(4)]
    assert min(sizes(split).values()) >= 1
    assert sum(sizes(split).values()) == len(rows)
    assert built(tmp_path, rows[::-1], f"dirichlet:0.5:{over}:4", "back").hash == split.hash
    assert built(tmp_path, rows, f"dirichlet:0.5:{over}:4", "seed", seed=1).hash != split.hash


def test_a_draw_that_leaves_a_client_without_rows_is_drawn_again(tmp_path: Path) -> None:
    """With so small a parameter most draws give each of the three kinds to one client alone."""
    found = [sizes(built(tmp_path, tasks(), "dirichlet:0.05:kind:4", f"s{seed}", seed=seed)) for seed in range(5)]
    assert all(len(each) == 4 and min(each.values()) >= 1 for each in found)
    with pytest.raises(UserError, match="of 1000 draws none gave each client a row; give fewer clients or a larger"):
        built(tmp_path, tasks(40), "dirichlet:0.0001:kind:30", "never")
    with pytest.raises(UserError, match="3 rows cannot fill that many clients"):
        built(tmp_path, tasks(3), "dirichlet:1:kind:4", "few")


def test_a_small_parameter_gives_clients_of_few_kinds(tmp_path: Path) -> None:
    def kinds_each(alpha: str) -> float:
        split = built(tmp_path, tasks(400), f"dirichlet:{alpha}:kind:4", f"a{alpha}")
        kinds = {row["ask"]: row["kind"] for row in tasks(400)}
        found: dict[str, Counter[str]] = {}
        for row in split.rows("train"):
            found.setdefault(row.client_id, Counter())[kinds[row.prompt]] += 1
        return sum(max(own.values()) / own.total() for own in found.values()) / len(found)

    assert kinds_each("0.05") > 0.85
    assert kinds_each("1000") < 0.65


def test_the_forms_are_read_and_written_in_one_way() -> None:
    assert check_partition("dirichlet:0.5:a:b:3")[2:4] == ("a:b", 3)
    assert check_partition("column:a:b").column == "a:b"
    assert [check_partition(f"dirichlet:1:{over}:2").column for over in ("language", "source", "kind")] == [
        "",
        "",
        "kind",
    ]
    assert normal_partition("released:20") == normal_partition("released:20:20000:2023") == "released:20:20000:2023"
    assert normal_partition("released:2:9:0") == "released:2:9:0"
    assert normal_partition("dirichlet:0.5:language") == "dirichlet:0.5"
    assert normal_partition("dirichlet:0.5:language:3") == "dirichlet:0.5:language:3"
    assert normal_partition("column:language") == "column:language"
    assert normal_partition("iid:03") == "iid:3"
    for odd in ("iid:1_0", "iid: 3", "iid:\N{ARABIC-INDIC DIGIT THREE}", "iid:+3", "iid:0"):
        with pytest.raises(UserError, match="in the recipe; it is user"):
            check_partition(odd)


@pytest.mark.parametrize("partition", ["iid:91", "released:91", "dirichlet:9:kind:91"])
def test_fewer_rows_than_clients_are_refused(tmp_path: Path, partition: str) -> None:
    with pytest.raises(UserError, match=f"--partition {partition}.*: 90 rows cannot fill that many clients"):
        built(tmp_path, tasks(), partition)


@pytest.mark.parametrize(("rows", "form"), [(500, "released:7:200:5"), (500, "released:3"), (40, "released:4:9:0")])
def test_the_released_order_is_that_of_the_library_it_was_written_with(tmp_path: Path, rows: int, form: str) -> None:
    """OpenFedLLM: shuffle(2023), the first rows, shuffle(seed), then every n-th row."""
    partition = check_partition(form)
    whole = datasets.Dataset.from_list(tasks(rows)).shuffle(seed=2023)
    chosen = whole.select(range(min(partition.rows, rows))).shuffle(seed=partition.seed)
    expected = {
        f"released-{i:03d}": set(chosen.shard(partition.clients, i, contiguous=False)["ask"])
        for i in range(partition.clients)
    }
    found: dict[str, set[str]] = {}
    split = built(tmp_path, tasks(rows), form)
    for row in split.rows("train"):
        found.setdefault(row.client_id, set()).add(row.prompt)
    assert found == expected
    assert split.manifest.recipe["partition"] == normal_partition(form)


def test_rows_that_go_later_keep_their_place_in_the_released_order(tmp_path: Path) -> None:
    """A row without an answer has a place, and so has a repeated one; rows of the upstream's test have none."""
    rows = tasks(50)
    owners = released_owners(50, check_partition("released:5:50"))
    rows[7]["answer"] = " "
    rows += [row | {"split": "test"} for row in tasks(60)[50:]]
    split = built(tmp_path, rows, "released:5:50")
    assert {row.prompt: row.client_id for row in split.rows("train")} == {
        f"task {place} of them": f"released-{owner:03d}" for place, owner in owners.items() if place != 7
    }
    assert removed(split) == {"empty": 1, "released": 10}


def test_repeated_questions_have_no_place_where_they_are_dropped_first(tmp_path: Path) -> None:
    """math_instruct is shuffled after its repeated instructions are gone."""
    rows = [row for task in tasks(30) for row in (task, task | {"answer": "another"})]
    pipeline = table(PLAIN, PARTS, once="ask")
    recipe = Recipe(partition="released:3:12", heldout=0)
    split = pipeline.build(write_raw(tmp_path / "x.jsonl", rows), tmp_path / "once", recipe)
    assert {row.row_id for row in split.rows("train")} == {
        row.row_id for row in built(tmp_path, tasks(30), "released:3:12").rows("train")
    }


def test_the_released_order_refuses_what_would_change_it() -> None:
    for options in ({"max_rows": 5}, {"bad_rows": "skip"}):
        with pytest.raises(UserError, match="takes its rows by their places"):
            Recipe(partition="released:5", **options)
    assert Recipe(partition="released:5:50", max_rows=50).normal().max_rows is None  # as it says itself


def test_the_most_rows_are_chosen_by_hash_over_all_clients(tmp_path: Path) -> None:
    rows = [aya(f"u{i % 3}", f"q{i}", f"a{i}") for i in range(60)]
    whole, part, back, other = (
        make(tmp_path, "aya", given, name, **options)
        for given, name, options in (
            (rows, "whole", {}),
            (rows, "part", {"max_rows": 20}),
            (rows[::-1], "back", {"max_rows": 20}),
            (rows, "other", {"max_rows": 20, "seed": 1}),
        )
    )
    assert sum(sizes(part).values()) == 20
    assert removed(part) == {"max_rows": 40}
    assert part.hash == back.hash
    assert {row.row_id for row in part.rows("train")} != {row.row_id for row in other.rows("train")}
    assert "max_rows" not in whole.manifest.recipe
    assert "max_rows" not in {step.step for step in whole.manifest.funnel}
    assert part.manifest.recipe["max_rows"] == 20
    shared = built(tmp_path, tasks(), "column:kind", "tables", max_rows=30)
    assert sum(sizes(shared).values()) == 30
