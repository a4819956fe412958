"""The mini world: what its names, users, questions and split promise, and the control that deals rows to anybody."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.mini import corpus
from fedllm_bench.mini.dataset import MIN_SAMPLES, mini_split
from fedllm_bench.mini.lexicon import lexicon
from fedllm_bench.mini.users import (
    FEWEST,
    TASKS,
    Answered,
    Fact,
    Pair,
    Population,
    make_rows,
    make_users,
)
from fedllm_bench.mini.world import (
    NUM_LANGUAGES,
    NUM_RELATIONS,
    NUM_STYLES,
    NUM_VALUES,
    NUM_WORDINGS,
    World,
    fact_item,
    formatting_item,
    make_world,
    name_space,
    style_item,
    sum_item,
    translation_item,
)

SEEDS = range(3)
CORPUS_ITEMS = 20_000
CONTROL_PERMUTATIONS = 100


@pytest.fixture(scope="module")
def rows() -> dict[int, list[Answered]]:
    return {seed: make_rows(Population(seed=seed)) for seed in SEEDS}


@pytest.fixture(scope="module")
def split() -> Split:
    return mini_split("aya", 0, files.cache_root())


def above_cut(population: Population) -> set[str]:
    return {user.user_id for user in make_users(population)[: population.num_users]}


def facts_taught(rows: Sequence[Answered]) -> dict[str, set[Fact]]:
    """The facts in each user's training rows."""
    taught: dict[str, set[Fact]] = {}
    for row in rows:
        if row.split == "train" and row.item.task == "facts":
            taught.setdefault(row.user_id, set()).add(row.item.fact)
    return taught


def pair_of_prompt(world: World) -> dict[str, Pair]:
    """(language, wording) by the text of every question about a fact of the world, put together by hand."""
    pairs: dict[str, Pair] = {}
    for number, language in enumerate(lexicon().languages):
        for wording, frame in enumerate(language.ask):
            for name, relation in itertools.product(world.names, language.relations):
                for suffix, _ in language.styles:
                    prompt = frame.format(name=name, relation=relation) + suffix
                    assert pairs.setdefault(prompt, (number, wording)) == (number, wording)
    return pairs


# --- names and worlds


def test_no_name_of_an_evaluation_world_stands_in_the_pretraining_corpus():
    names = set(name_space(True))
    seen: set[str] = set()
    for item in itertools.islice(corpus.items(1), CORPUS_ITEMS):
        seen |= set(re.findall(r"[A-Za-z]+", f"{item.prompt} {item.completion}"))
    assert len(seen & set(name_space(False))) > 1000  # else nothing was looked for in the right place
    assert not seen & names
    assert {name for seed in SEEDS for name in make_world(seed, 60, evaluation=True).names} <= names


def test_both_parts_of_the_name_space_are_disjoint_and_hold_every_syllable_in_both_places():
    parts = [name_space(evaluation) for evaluation in (True, False)]
    assert not set(parts[0]) & set(parts[1])
    assert sum(map(len, parts)) > 4800
    for part in parts:
        assert len({name[:2] for name in part}) == len({name[2:] for name in part}) == 70
        assert len(set(part)) == len(part)


def test_a_world_is_a_function_of_its_seed():
    assert make_world(4, 30, evaluation=True) == make_world(4, 30, evaluation=True)
    assert make_world(4, 30, evaluation=True) != make_world(5, 30, evaluation=True)
    assert make_rows(Population(seed=4)) == make_rows(Population(seed=4))
    assert make_rows(Population(seed=4)) != make_rows(Population(seed=5))


def test_every_fact_has_a_value_and_no_value_is_favoured():
    world = make_world(0, 600, evaluation=True)
    counts = np.bincount(np.array(world.facts).ravel(), minlength=NUM_VALUES)
    assert len(world.names) == len(set(world.names)) == 600
    assert len(counts) == NUM_VALUES
    assert abs(counts / counts.sum() - 1 / NUM_VALUES).max() < 0.02  # guessing one value must not pay


# --- questions


def test_choices_are_distinct_and_begin_with_the_right_answer():
    rng = np.random.default_rng(0)
    seen = 0
    for language, style in itertools.product(range(NUM_LANGUAGES), range(NUM_STYLES)):
        for _ in range(25):
            relation, value, wording = (int(rng.integers(n)) for n in (NUM_RELATIONS, NUM_VALUES, NUM_WORDINGS))
            items = [
                fact_item("Bado", relation, value, language, wording, style, rng),
                sum_item(language, style, rng),
                translation_item(language, style, rng),
            ]
            for item in items:
                assert item.completion == item.choices[0]
                assert len(item.choices) == len(set(item.choices)) == 4
                seen += 1
            assert lexicon().word(relation, value, language) in items[0].completion
            a, b = map(int, re.findall(r"\d+", items[1].prompt))
            assert str(a + b) in items[1].completion
    assert seen == 25 * 3 * NUM_LANGUAGES * NUM_STYLES


def test_a_list_holds_the_words_of_its_question_and_a_style_item_its_word():
    rng = np.random.default_rng(1)
    for language in range(NUM_LANGUAGES):
        for _ in range(10):
            item = formatting_item(language, rng)
            words = [re.sub(r"^(- |\d\. )", "", line) for line in item.completion.split("\n")]
            assert item.prompt.endswith(", ".join(words))
            assert len(words) in (2, 3)
            style = style_item(language, 1, rng)
            (word,) = [w for r in lexicon().values for v in r for w in [v[language]] if f"{w}" == _said(style, 1)]
            assert word in style.prompt


def _said(item, style: int) -> str:
    before, after = lexicon().languages[item.language].styles[style][1].split("{answer}")
    return item.completion.removeprefix(before).removesuffix(after)


def test_the_lexicon_has_eight_languages_without_a_gap():
    words = lexicon()
    assert len(words.languages) == len({language.code for language in words.languages}) == NUM_LANGUAGES
    assert (len(words.values), {len(values) for values in words.values}) == (NUM_RELATIONS, {NUM_VALUES})
    for language in words.languages:
        assert (len(language.ask), len(language.styles), len(language.relations)) == (3, 3, NUM_RELATIONS)
    for relation in words.values:
        assert {len(value) for value in relation} == {NUM_LANGUAGES}
        for language in range(NUM_LANGUAGES):  # else two of four choices could be the same answer
            assert len({value[language] for value in relation}) == NUM_VALUES


# --- users and held-out questions


@pytest.mark.parametrize("seed", SEEDS)
def test_heldout_facts_are_asked_in_pairs_the_client_never_wrote_in(rows, seed):
    pairs = pair_of_prompt(make_world(seed, Population(seed=seed).num_names, evaluation=True))
    facts = [row for row in rows[seed] if row.item.task == "facts"]
    written: dict[str, set[Pair]] = {}
    for row in facts:
        if row.split == "train":
            written.setdefault(row.user_id, set()).add(pairs[row.item.prompt])
    asked = [(row.user_id, pairs[row.item.prompt]) for row in facts if row.split == "test"]
    assert len(asked) > 300
    assert not [pair for user, pair in asked if pair in written.get(user, set())]
    assert {language for _, (language, _) in asked} == set(range(NUM_LANGUAGES))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_heldout_prompt_equals_any_training_prompt(rows, seed):
    train = {row.item.prompt for row in rows[seed] if row.split == "train"}
    heldout = [row for row in rows[seed] if row.split == "test"]
    assert len(heldout) > 500
    assert not train & {row.item.prompt for row in heldout}
    assert len({(row.user_id, row.item.prompt) for row in heldout}) == len(heldout)


@pytest.mark.parametrize("seed", SEEDS)
def test_half_the_heldout_facts_are_the_clients_own_and_half_only_another_clients(rows, seed):
    taught, clients = facts_taught(rows[seed]), above_cut(Population(seed=seed))
    asked = [row for row in rows[seed] if row.split == "test" and row.item.task == "facts"]
    share = sum(row.holder == "self" for row in asked) / len(asked)
    assert 0.4 < share < 0.6
    for row in asked:
        elsewhere = set().union(*(facts for user, facts in taught.items() if user in clients - {row.user_id}))
        if row.holder == "self":
            assert row.item.fact in taught[row.user_id]
        else:
            assert row.holder == "others"
            assert row.item.fact in elsewhere - taught.get(row.user_id, set())


def test_nobody_is_asked_what_only_users_below_the_cut_know():
    """They train nothing, so such a question could not be learnt by any method; a small world has many."""
    asked = 0
    for seed in range(20):
        population = Population(seed=seed, num_users=6, num_below_cut=6, num_names=12)
        made, clients = make_rows(population), above_cut(population)
        known = set().union(*(facts for user, facts in facts_taught(made).items() if user in clients))
        wanted = [row.item.fact for row in made if row.holder == "others"]
        asked += len(wanted)
        assert set(wanted) <= known
    assert asked > 200


@pytest.mark.parametrize("seed", SEEDS)
def test_users_differ_in_size_language_and_quality(rows, seed):
    population = Population(seed=seed)
    users = make_users(population)
    sizes = np.array([user.size for user in users[: population.num_users]])
    assert sizes.max() > 2.5 * np.median(sizes)  # heavy-tailed
    assert sizes.mean() > np.median(sizes)
    assert sizes.min() >= FEWEST > max(user.size for user in users[population.num_users :])
    totals = Counter(row.user_id for row in rows[seed])
    low, high = (users[population.num_users :], users[: population.num_users])
    assert max(totals[user.user_id] for user in low) < MIN_SAMPLES <= min(totals[user.user_id] for user in high)
    assert {row.item.language for row in rows[seed] if row.split == "train"} == set(range(NUM_LANGUAGES))
    assert {row.item.task for row in rows[seed] if row.split == "test"} == set(TASKS)
    assert len({len(user.languages) for user in users}) == 3
    assert len({user.error_rate for user in users}) == len(users)


def test_wrong_answers_stand_in_training_rows_only(rows):
    wrong = Counter(
        row.split for made in rows.values() for row in made if row.item.choices[:1] not in ((), (row.item.completion,))
    )
    assert 0 < wrong["train"] < 0.1 * sum(map(len, rows.values()))
    assert wrong["test"] == 0


@pytest.mark.slow
def test_with_everyone_knows_each_user_holds_all_facts():
    population = Population(seed=0, everyone_knows=True)
    everything = {(n, r) for n in range(population.num_names) for r in range(NUM_RELATIONS)}
    assert all(set(user.facts) == everything for user in make_users(population))
    spread = make_users(replace(population, everyone_knows=False))
    assert all(len(user.facts) < len(everything) for user in spread)
    assert set().union(*(user.facts for user in spread)) == everything  # together they know all
    made = make_rows(population)
    taught = facts_taught(made)
    assert all(taught[user] == everything for user in above_cut(population))  # in the rows, or it is no control
    assert not [row for row in made if row.holder == "others"]
