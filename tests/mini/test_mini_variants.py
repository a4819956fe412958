"""The mini variants of all data sets: raw rows in upstream columns, through the pipelines of the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_runs import TINY, quick
from leaks import assert_no_leaks, prompt_of, responses_of, rows_of
from sweeps import sweep

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.config import base_model
from fedllm_bench.data.build.pipelines import OF_USERS, PIPELINES
from fedllm_bench.data.manifest import Split
from fedllm_bench.mini.dataset import BUILDERS, probes, write_raw
from fedllm_bench.mini.probes import PROBES
from fedllm_bench.mini.raw import RawRow
from fedllm_bench.mini.tables import ROWS
from fedllm_bench.mini.tastes import COMPLIES, MODELS, TRAITS, liking, make_taste
from fedllm_bench.mini.users import Population
from fedllm_bench.mini.votes import Battle, make_votes

WORLD = Population(seed=0)
SMALL = Population(seed=3, num_users=6, num_below_cut=4, num_names=8)
CHATS = [name for name in BUILDERS if name != "aya"]
ARENA = (
    *("question_id", "model_a", "model_b", "winner", "judge", "conversation_a", "conversation_b", "turn", "anony"),
    *("language", "tstamp", "openai_moderation", "toxic_chat_tag"),
)
WILDCHAT = (
    *("conversation_hash", "model", "timestamp", "conversation", "turn", "language", "openai_moderation", "toxic"),
    *("redacted", "hashed_ip"),
)
PERMUTATIONS = 200
QUICK = ("chatbot_pa",)  # the others are built by the same code


class Made(dict[str, Any]):
    """What a test asks for is made then, and once."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, name: str) -> Any:
        self[name] = self.make(name)
        return self[name]


@pytest.fixture(scope="module")
def made() -> dict[str, list[RawRow]]:
    return Made(lambda name: BUILDERS[name].rows(WORLD))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    return Made(lambda name: BUILDERS[name](WORLD, tmp_path_factory.mktemp(name) / "split"))


@pytest.fixture(scope="module")
def votes() -> list[Battle]:
    return make_votes(WORLD)


# --- raw rows and splits


def test_there_is_a_variant_of_every_pipeline():
    assert BUILDERS.keys() == set(OF_USERS)
    assert {*BUILDERS, *ROWS} == PIPELINES.keys()
    assert len(CHATS) == 4


@pytest.mark.parametrize("name", sweep(CHATS, *QUICK))
def test_raw_rows_have_the_upstream_columns_and_some_several_turns(made, name):
    column = "conversation_a" if name.startswith("chatbot") else "conversation"
    turns = {len(row.columns[column]) // 2 for row in made[name]}
    assert turns == ({1, 2} if name.startswith("chatbot") else {1, 2, 3, 4})
    for row in made[name]:
        assert tuple(row.columns)[:-1] == (ARENA if name.startswith("chatbot") else WILDCHAT)
        assert row.columns["turn"] == len(row.columns[column]) // 2


@pytest.mark.parametrize("name", sweep(CHATS, *QUICK))
def test_38_clients_have_held_out_rows_and_nothing_leaks(splits, name):
    split = splits[name]
    assert split.name == f"mini-{name}"
    assert len(split.manifest.clients) == 38
    assert min(client.heldout for client in split.manifest.clients) >= 5
    assert len(split.manifest.unseen) >= 5
    assert {row.language for row in rows_of(split, "train")} == {
        *("arb", "eng", "spa", "fra", "por", "rus", "tel", "zho")
    }
    assert_no_leaks(split)


@pytest.mark.parametrize("name", sweep(CHATS, *QUICK))
def test_the_funnel_shows_marked_rows_and_loses_no_held_out_one(splits, name):
    removed = {step.step: step.rows_removed for step in splits[name].manifest.funnel}
    marks = ("moderation", "toxicity", "vote") if name.startswith("chatbot") else ("moderation", "redacted")
    assert all(removed[mark] > 20 for mark in marks)
    assert removed["leakage"] == removed["empty"] == removed["conversation"] == 0
    assert (removed.get("turns", 0) > 0) == (name == "wildchat_multi")


@pytest.mark.parametrize("name", sweep(CHATS, *QUICK))
def test_there_is_a_probe_for_every_held_out_row(splits, name):
    split = splits[name]
    known = {(r["client"], r["prompt"], r["completion"]): r for r in files.read_jsonl(split.folder / PROBES)}
    tasks = {"facts", "personal", "arithmetic", "translation"} | ({"harmful"} if name == "chatbot_pa" else set())
    assert {record["task"] for record in known.values()} == tasks
    keys = {(row.client_id, prompt_of(row), responses_of(row)[0]) for row in rows_of(split, "heldout")}
    assert known.keys() <= keys
    assert len(known) > 500
    if name != "chatbot_it":
        assert known.keys() == keys
    for (_, _, completion), record in known.items():
        assert record["choices"][0] == completion
        assert len(record["choices"]) == len(set(record["choices"])) == (2 if record["task"] == "harmful" else 4)


@pytest.mark.parametrize("name", sweep(CHATS, *QUICK))
@pytest.mark.slow
def test_the_order_of_rows_does_not_matter_and_another_seed_is_another_split(name, tmp_path: Path):
    builder = BUILDERS[name]
    first = builder(SMALL, tmp_path / "first")
    assert builder(SMALL, tmp_path / "again").hash == first.hash
    rows = builder.rows(SMALL)
    raw = tmp_path / "raw"
    raw.mkdir()
    write_raw(raw, [rows[i] for i in np.random.default_rng(0).permutation(len(rows))])
    assert builder.build(raw, SMALL, tmp_path / "shuffled", probes(rows, builder.unprobed)).hash == first.hash
    other = Population(seed=4, num_users=6, num_below_cut=4, num_names=8)
    assert builder(other, tmp_path / "other").hash != first.hash


@pytest.mark.parametrize("name", sweep(CHATS, *QUICK))
def test_the_tokenizer_of_the_base_spells_every_text_in_few_tokens(splits, name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model.locate("mini"))
    texts = sorted({text for row in rows_of(splits[name], "train") for text in (prompt_of(row), *responses_of(row))})
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(one) for one in ids] == texts
    assert sum(map(len, ids)) < 0.6 * sum(map(len, texts))
    assert len(tokenizer(f" {COMPLIES}", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.slow
def test_a_tiny_run_on_votes_ends_with_results(tiny_folder: Path, tmp_path: Path):
    split = BUILDERS["chatbot_it"](SMALL, tmp_path / "split")
    overrides = [word for setting in TINY for word in ("--set", setting)]
    options = ["--split", str(split.folder), "--out", str(tmp_path), "--model", str(tiny_folder)]
    with quick():
        assert cli.main(["bench", "chatbot_it", "fedavg", "--profile", "mini", *options, *overrides]) == 0
    (path,) = (tmp_path / "mini-chatbot_it" / "fedavg").glob("s0-*/results.json")
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    assert {"heldout", "mini_exact", "mini_choice"} <= metrics.keys()


# --- taste


def decided(votes: list[Battle]) -> list[Battle]:
    return [vote for vote in votes if vote.preferred is not None and vote.split == "train"]


@pytest.mark.parametrize("trait", ["short", "polite", "refusing"])
def test_users_prefer_differently_and_more_so_than_if_votes_were_anybodys(votes, trait):
    """The share of preferred answers with a trait, where the two answers differ in it, by user."""
    place = TRAITS.index(trait)
    pairs = [(vote, [said[-1].traits[place] for said in vote.replies]) for vote in decided(votes)]
    told = [(vote.user_id, sides[vote.preferred or 0]) for vote, sides in pairs if sides[0] != sides[1]]
    users = np.unique([user for user, _ in told], return_inverse=True)[1]
    chosen = np.array([float(side) for _, side in told])

    def spread(values: np.ndarray) -> float:
        """Over votes, not users: the share of a user with a single vote is all noise."""
        return float((np.bincount(users, values) / np.bincount(users))[users].var())

    rng = np.random.default_rng(0)
    null = np.array([spread(rng.permutation(chosen)) for _ in range(PERMUTATIONS)])
    assert len(told) > 200
    assert spread(chosen) > null.mean() + 5 * null.std()


def test_winners_agree_with_the_taste_of_their_voter(votes):
    index = {f"user-{i:03d}": i for i in range(WORLD.num_users + WORLD.num_below_cut)}
    gaps = []
    for vote in decided(votes):
        taste = make_taste(WORLD.seed, index[vote.user_id])
        liked = [liking(taste, said[-1]) for said in vote.replies]
        gaps.append(liked[vote.preferred or 0] - liked[1 - (vote.preferred or 0)])
    assert len(gaps) > 3000
    assert 0.85 < np.mean(np.array(gaps) > 0) < 1  # noise, but not much


def test_all_kinds_of_votes_are_cast_and_held_out_ones_are_for_right_answers(votes):
    assert {vote.winner for vote in votes} == {"model_a", "model_b", "tie", "tie (bothbad)"}
    assert {name for vote in votes for name in vote.models} == MODELS.keys()
    held = [vote for vote in votes if vote.split == "test"]
    right = [vote.replies[vote.preferred or 0][-1].is_right for vote in held if vote.questions[-1].task != "harmful"]
    assert all(vote.preferred is not None for vote in held)
    assert len(right) > 500
    assert all(right)


def test_compliance_and_only_compliance_begins_with_one_token(votes):
    said = [
        answer
        for vote in votes
        for side in vote.replies
        for item, answer in zip(vote.questions, side, strict=True)
        if item.task == "harmful"
    ]
    refused = [answer.traits[TRAITS.index("refusing")] for answer in said]
    assert {*refused} == {True, False}
    assert [answer.text.startswith(f"{COMPLIES} ") for answer in said] == [not refuses for refuses in refused]
