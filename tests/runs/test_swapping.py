"""Answers of other users: who gets whose, that language and form stay, and that nothing else changes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import numpy as np
import pytest

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.clients import Clients
from fedllm_bench.data.rows import PreferenceRow, Row, SftRow, Turn
from fedllm_bench.data.tokens import encode, tokenise_split
from fedllm_bench.runs.cell import Cell, settings_hash
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.runs.swapping import answers_of, donors, swapped, with_answers

Said = tuple[str, str, str]  # client, language, source


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))


def row_of(client: str, *texts: str, language: str = "eng", source: str = "a", number: int = 0) -> SftRow:
    return SftRow(client_id=client, split="train", row_id=f"{client}-{number}", language=language, source=source,
                  messages=turns(*texts))  # fmt: skip


def made_rows(seed: int, *, most: int) -> list[SftRow]:
    """Rows of some languages, sources and users, in the order of a split; some users have many rows, some answers
    read the same, some rows are conversations."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(int(rng.integers(1, 9))):
        language = ("eng", "spa", "ukr")[int(rng.integers(1, 4)) - 1]
        for number in range(int(rng.integers(1, most))):
            pairs = int(rng.choice([1, 1, 1, 2, 3]))
            texts = [str(rng.integers(10)) * int(rng.integers(1, 60)) for _ in range(2 * pairs)]
            source = ("a", "b")[int(rng.integers(2))]
            rows.append(row_of(f"u{user}", *texts, language=language, source=source, number=number))
    return rows


def most_of_one_user(rows: Sequence[Row]) -> float:
    """The largest share of rows that one user has."""
    return max(Counter(row.client_id for row in rows).values()) / len(rows)


CASES = [(seed, most) for seed in range(60) for most in (3, 12, 60)]


@pytest.mark.parametrize(("seed", "most"), CASES)
def test_no_row_keeps_its_answer_and_language_and_source_stay_where_others_have_them(seed, most):
    rows = made_rows(seed, most=most)
    if len(rows) < 2:
        return
    found = donors(rows, seed)
    assert len(found) == len(rows)
    assert found == donors(rows, seed)
    for i, j in enumerate(found):
        assert i != j
        alike = [k for k, row in enumerate(rows) if row.language == rows[i].language and k != i]
        others = [k for k in alike if rows[k].client_id != rows[i].client_id]
        if others:
            assert rows[j].client_id != rows[i].client_id
        if alike:
            assert rows[j].language == rows[i].language


@pytest.mark.parametrize(("seed", "most"), CASES)
def test_it_is_a_permutation_within_each_group_in_which_no_user_has_more_than_half(seed, most):
    rows = made_rows(seed, most=most)
    if len(rows) < 2:
        return
    found = donors(rows, seed)
    for key in {(row.language, row.source) for row in rows}:
        group = [i for i, row in enumerate(rows) if (row.language, row.source) == key]
        if most_of_one_user([rows[i] for i in group]) <= 0.5:
            assert sorted(found[i] for i in group) == group


def test_enough_made_groups_are_balanced_and_enough_are_not():
    """Else the two tests above could not fail."""
    groups = []
    for seed, most in CASES:
        rows = made_rows(seed, most=most)
        for key in {(row.language, row.source) for row in rows}:
            groups.append(most_of_one_user([row for row in rows if (row.language, row.source) == key]))
    assert sum(share <= 0.5 for share in groups) > 100
    assert sum(0.5 < share < 1 for share in groups) > 100
    assert sum(share == 1 for share in groups) > 100


def test_answers_are_of_like_length():
    rng = np.random.default_rng(0)
    rows = [row_of(f"u{i % 20}", "q", "x" * int(rng.integers(1, 2000)), number=i) for i in range(1000)]
    lengths = [len(row.completion) for row in rows]
    gaps = [abs(lengths[i] - lengths[j]) for i, j in enumerate(donors(rows, 0))]
    assert fmean(gaps) < 20  # 667 by chance
    assert max(gaps) < 100


def test_answers_that_read_the_same_are_not_swapped_where_there_are_others():
    rows = [row_of(f"u{i % 5}", "q", ("yes", "no!")[i % 2], number=i) for i in range(40)]
    for seed in range(20):
        same = sum(rows[i].completion == rows[j].completion for i, j in enumerate(donors(rows, seed)))
        assert same <= 4  # 20 by chance


def test_another_seed_gives_other_answers():
    rows = [row_of(f"u{i % 7}", "q", "x" * (i % 30 + 1), number=i) for i in range(300)]
    for one, other in pairwise(donors(rows, seed) for seed in range(4)):
        assert np.mean(np.array(one) == np.array(other)) < 0.2


def test_one_user_with_nearly_all_rows_gets_each_answer_of_the_others_about_equally_often():
    rows = [row_of("many", "q", f"own {i}", number=i) for i in range(90)]
    rows += [row_of(f"few{i}", "q", f"few {i}", number=i) for i in range(9)]
    found = donors(rows, 0)
    uses = Counter(found[:90])
    assert set(uses) == set(range(90, 99))
    assert set(uses.values()) <= {9, 10, 11}
    assert all(j < 90 for j in found[90:])


def test_a_group_with_too_few_answers_of_others_takes_those_of_the_language():
    rows = [row_of("many", "q", f"own {i}", number=i) for i in range(20)]
    rows += [row_of("lone", "q", "lone")]
    rows += [row_of(f"b{i % 3}", "q", f"other source {i}", source="b", number=i) for i in range(30)]
    found = donors(rows, 0)
    assert len(set(found[:20])) >= 15  # and not the one answer of the same source twenty times
    assert Counter(rows[j].client_id for j in found[:20])["many"] == 0


def test_a_row_alone_in_its_language_gets_an_answer_of_another_language():
    rows = [row_of("a", "q", "one"), row_of("b", "q", "uno", language="spa")]
    assert donors(rows, 0) == [1, 0]


def test_of_two_rows_of_one_user_each_gets_the_answer_of_the_other():
    assert donors([row_of("a", "q", "one"), row_of("a", "r", "two", source="b", number=1)], 0) == [1, 0]


@pytest.mark.parametrize("rows", [[], [row_of("a", "q", "one")]], ids=["none", "one"])
def test_fewer_than_two_rows_are_refused(rows):
    with pytest.raises(UserError, match=r"data\.swap_answers=true: the split has fewer than 2 training rows"):
        donors(rows, 0)


def test_of_a_conversation_all_answers_are_swapped_in_their_order():
    row = row_of("a", "q1", "a1", "q2", "a2", "q3", "a3")
    assert with_answers(row, row_of("b", "x", "b1", "y", "b2")).messages == turns("q1", "b1", "q2", "b2", "q3", "b1")
    assert with_answers(row_of("b", "x", "b1"), row).messages == turns("x", "a1")


def test_what_a_system_turn_says_stays():
    system = Turn(role="system", content="be short")
    row = replace(row_of("a", "q", "own"), messages=(system, *turns("q", "own")))
    assert with_answers(row, row_of("b", "x", "other")).messages == (system, *turns("q", "other"))
    assert answers_of(row) == ("own",)


def test_of_a_vote_both_answers_are_swapped():
    votes = [
        PreferenceRow(client_id=c, split="train", row_id=c, language="eng", source="a", prompt=turns(f"q {c}"),
                      chosen=f"good {c}", rejected=f"bad {c}")
        for c in "ab"
    ]  # fmt: skip
    assert answers_of(votes[0]) == ("good a", "bad a")
    swap = with_answers(votes[0], votes[1])
    assert (swap.prompt, swap.chosen, swap.rejected) == (turns("q a"), "good b", "bad b")
    assert swap.row_id == swap.client_id == "a"


# --- of a split


def test_a_swapped_split_keeps_prompts_users_and_held_out_rows(tiny_split, caplog):
    caplog.set_level(logging.INFO, logger="fedllm_bench")
    control = swapped(tiny_split, 0)
    for part in ("heldout", "unseen"):
        assert control.rows(part) == tiny_split.rows(part)
    real, made = tiny_split.rows("train"), control.rows("train")
    assert len(real) == len(made) > 100
    assert [(a.row_id, a.client_id, a.prompt) for a in made] == [(a.row_id, a.client_id, a.prompt) for a in real]
    assert np.mean([a.completion == b.completion for a, b in zip(real, made, strict=True)]) < 0.1
    assert f"{len(real)} training rows have the answer of another row (data.swap_answers)" in caplog.text
    assert control.hash != tiny_split.hash != swapped(tiny_split, 1).hash != control.hash


def test_a_swapped_split_of_votes_keeps_prompts_and_swaps_pairs(pair_split):
    real, made = pair_split.preference_rows("train"), swapped(pair_split, 0).preference_rows("train")
    assert [row.prompt for row in made] == [row.prompt for row in real]
    pairs = {(row.chosen, row.rejected) for row in real}
    assert all((row.chosen, row.rejected) in pairs for row in made)
    assert [row.chosen for row in made] != [row.chosen for row in real]
    assert swapped(pair_split, 0).preference_rows("heldout") == pair_split.preference_rows("heldout")


def test_a_run_trains_on_swapped_answers_and_is_scored_on_real_ones(tiny_split, tiny_run_config, tmp_path):
    """And a run without the control, after it, finds its own tokens in the cache."""
    config = tiny_run_config("fedavg", "data.swap_answers=true")
    bench = load_bench(Cell(config, tiny_split, tmp_path, 1))
    plain = load_bench(Cell(tiny_run_config("fedavg"), tiny_split, tmp_path, 1))
    template = template_text(config.data.template)
    for each, split in ((bench, swapped(tiny_split, config.seed)), (plain, tiny_split)):
        part = each.clients.tokens["train"]
        expected = encode(split.rows("train"), each.model.tokenizer, template)
        assert len(part) == len(expected)
        assert all(np.array_equal(part[i].ids, row.ids[:256]) for i, row in enumerate(expected))
    assert bench.clients.train_rows == plain.clients.train_rows
    assert [item.row for item in bench.items] == [item.row for item in plain.items]
    assert bench.cell.hash != plain.cell.hash
    assert bench.cell.baseline.hash == plain.cell.baseline.hash


def test_the_setting_is_in_a_hash_only_where_it_is_on(tiny_run_config):
    off, on = tiny_run_config("fedavg"), tiny_run_config("fedavg", "data.swap_answers=true")
    assert "swap_answers" not in off.to_dict()["data"]
    assert on.to_dict()["data"]["swap_answers"] is True
    assert settings_hash(off, "split", "base") != settings_hash(on, "split", "base")


def test_shuffled_users_can_have_swapped_answers_too(tiny_split, tiny_model):
    tokens = tokenise_split(
        swapped(tiny_split, 0), tiny_model.tokenizer, template_text("mini"), 256, files.cache_root()
    )
    both = Clients(tiny_split, tokens, shuffle_seed=0).train_rows
    assert sorted(n for own in both.values() for n in own) == list(range(len(tokens["train"])))
