"""All five pipelines on one set of properties, and what is special about votes and conversations."""

from __future__ import annotations

import datetime
import random
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from built_splits import make, removed
from leaks import assert_no_leaks, rows_of
from raw_rows import chat, random_rows, turns, vote, write_raw
from sweeps import sweep

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.pipelines import OF_USERS, load_pipeline
from fedllm_bench.data.languages import NAMES, language_of_name
from fedllm_bench.mini.dataset import build_mini_aya
from fedllm_bench.mini.users import Population


def test_there_are_five_pipelines():
    assert list(OF_USERS) == ["aya", "chatbot_it", "chatbot_pa", "wildchat", "wildchat_multi"]
    tasks = {name: load_pipeline(name).DECLARATION.task for name in OF_USERS}
    assert [name for name, task in tasks.items() if task == "preference"] == ["chatbot_pa"]


@pytest.mark.parametrize("dataset", sweep(OF_USERS, "chatbot_pa", "wildchat_multi"))
@pytest.mark.parametrize("options", [{}, {"near_duplicates": "drop"}, {"partition": "dirichlet:0.5"}])
def test_the_order_of_raw_rows_does_not_matter(tmp_path, dataset, options):
    rows = random_rows(dataset, 1)
    options = {"min_samples": 9, "unseen_clients": 3, "languages": ()} | options
    split = make(tmp_path, dataset, rows, **options)
    assert len(rows_of(split, "train")) > 30
    assert rows_of(split, "heldout")
    for seed in (1, 2):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert make(tmp_path, dataset, shuffled, name=f"again{seed}", **options).hash == split.hash


@pytest.mark.parametrize("dataset", OF_USERS)
def test_the_funnel_accounts_for_every_row(tmp_path, dataset):
    rows = random_rows(dataset, 2)
    split = make(tmp_path, dataset, rows, min_samples=5, max_clients=9, max_samples=10, unseen_clients=2, languages=())
    funnel = split.manifest.funnel
    assert funnel[0].rows_left == len(rows)
    assert len(rows) - sum(step.rows_removed for step in funnel) == funnel[-1].rows_left
    assert funnel[-1].rows_left == len(rows_of(split, "train") + rows_of(split, "heldout"))
    assert funnel[-1].clients_left == len(split.manifest.clients) == 9


def test_the_mini_split_has_the_bits_that_it_always_had(tmp_path):
    split = build_mini_aya(Population(seed=0, num_users=5, num_below_cut=3, num_names=10), tmp_path / "s")
    assert split.hash == "f763c4753381d7ec9d5737f6d5ec2a74fae69953e9612bc8dc30b9e3cc32762b"
    assert_no_leaks(split)


def test_votes_become_the_preferred_answer_and_ties_go(tmp_path):
    rows = [vote("j", "q1", "good", "bad"), vote("j", "q2", "bad", "good", "model_b")]
    rows += [vote("j", "q3", "a", "b", word) for word in ("tie", "tie (bothbad)", "")]
    rows += [vote("j", "q4", "a", "b", conversation_a=turns("q4")), vote("j", "q5", "same", "same")]
    instructions = make(tmp_path, "chatbot_it", rows, heldout=0)
    found = [(row.prompt, row.completion) for row in instructions.rows("train")]
    assert sorted(found) == [("q1", "good"), ("q2", "good"), ("q5", "same")]
    assert removed(instructions) == {"vote": 3, "conversation": 1}
    pairs = make(tmp_path, "chatbot_pa", rows, "pa", heldout=0)
    kept = sorted((row.prompt[0]["content"], row.chosen, row.rejected) for row in pairs.preference_rows("train"))
    assert kept == [("q1", "good", "bad"), ("q2", "good", "bad")]
    assert removed(pairs) == {"vote": 3, "conversation": 1, "equal": 1}
    with pytest.raises(UserError, match="cannot be read as 'sft' rows"):
        pairs.rows("train")


def test_a_longer_vote_keeps_its_turns_and_must_ask_the_same(tmp_path):
    sides = {"conversation_a": turns("q", "a", "and?", "b"), "conversation_b": turns("q", "c", "and?", "d")}
    other = {"conversation_b": turns("q", "c", "why?", "d")}
    rows = [vote("j", "q", "", "", **sides), vote("j", "q", "", "", **(sides | other))]
    split = make(tmp_path, "chatbot_pa", rows, heldout=0)
    row = split.preference_rows("train")[0]
    assert ([turn["content"] for turn in row.prompt], row.chosen, row.rejected) == (["q", "a", "and?"], "b", "d")
    assert removed(split) == {"prompt": 1}
    whole = make(tmp_path, "chatbot_it", rows[:1], "it", heldout=0).rows("train")[0]
    assert [turn["role"] for turn in whole.messages] == ["user", "assistant"] * 2


def test_wildchat_takes_the_first_exchange_or_whole_conversations(tmp_path):
    rows = [chat("u", "q", "a", "r", "b"), chat("u", "only", "one"), chat("u", "q", "a", "no answer")]
    rows.append(chat("u", "q", "a") | {"conversation": turns("q", "a")[::-1]})
    rows.append(chat("u", "q", "a", "", "b"))
    single = make(tmp_path, "wildchat", rows, heldout=0)
    assert sorted(row.prompt for row in single.rows("train")) == ["only", "q"]
    assert removed(single) == {"conversation": 1, "duplicates": 2}
    multi = make(tmp_path, "wildchat_multi", rows, "multi", heldout=0)
    assert [turn["content"] for turn in multi.rows("train")[0].messages] == ["q", "a", "r", "b"]
    assert removed(multi) == {"conversation": 2, "turns": 1, "empty": 1}


def test_flagged_rows_go_where_the_columns_exist(tmp_path):
    rows = [
        chat("u", "q1", "a", toxic=True, redacted=False, openai_moderation=None),
        chat("u", "q2", "a", toxic=False, redacted=True, openai_moderation=[]),
        chat("u", "q3", "a", toxic=None, redacted=False, openai_moderation=[{"flagged": False}, {"flagged": True}]),
        chat("u", "q4", "a"),
    ]
    split = make(tmp_path, "wildchat", rows, heldout=0)
    assert removed(split) == {"toxicity": 1, "redacted": 1, "moderation": 1}
    assert len(make(tmp_path, "wildchat", rows, "all", heldout=0, drop_flagged=()).rows("train")) == 4
    tags = {"toxic_chat_tag": {"roberta-large": {"flagged": True, "probability": 0.9}}}
    votes = [vote("j", "q1", "a", "b", **tags), vote("j", "q2", "a", "b", openai_moderation={"flagged": True})]
    split = make(tmp_path, "chatbot_it", [*votes, vote("j", "q3", "a", "b")], "votes", heldout=0)
    assert removed(split) == {"toxicity": 1, "moderation": 1}
    with pytest.raises(UserError, match="flag of the dataset wildchat"):
        make(tmp_path, "wildchat", rows, "wrong", drop_flagged=("toxic",))


def test_language_names_become_codes():
    assert (language_of_name("English"), language_of_name(" chinese ")) == ("eng", "zho")
    assert (language_of_name("Klingon"), language_of_name("")) == ("und", "und")
    assert len(NAMES) > 100
    assert all(len(code) == 3 for code in NAMES.values())


def wildchat_type() -> pa.DataType:
    header = pa.struct([("user-agent", pa.string()), ("accept-language", pa.string())])
    fields = [("content", pa.string()), ("country", pa.string()), ("hashed_ip", pa.string()), ("header", header)]
    fields += [("language", pa.string()), ("redacted", pa.bool_()), ("role", pa.string()), ("toxic", pa.bool_())]
    return pa.list_(pa.struct([*fields, ("timestamp", pa.timestamp("us", "UTC")), ("turn_identifier", pa.int64())]))


def test_parquet_with_upstream_types_is_the_same_as_json_lines(tmp_path):
    rows = [chat(f"u{i % 3}", f"q{i}", "a", f"r{i}", "b", toxic=i == 5, redacted=False) for i in range(30)]
    extra = {"country": "x", "header": {"user-agent": "y"}, "timestamp": datetime.datetime(2023, 4, 9)}
    table = [row | {"conversation": [turn | extra for turn in row["conversation"]]} for row in rows]
    fields = {name: pa.string() for name in ("conversation_hash", "model", "language", "hashed_ip")}
    fields |= {"conversation": wildchat_type(), "toxic": pa.bool_(), "redacted": pa.bool_()}
    schema = pa.schema({**fields, "openai_moderation": pa.list_(pa.struct([("flagged", pa.bool_())]))})
    pq.write_table(pa.Table.from_pylist(table, schema), tmp_path / "x.parquet")
    split = make(tmp_path, "wildchat_multi", rows)
    pipeline = load_pipeline("wildchat_multi")
    recipe = replace(pipeline.DECLARATION.recipe, min_samples=1, heldout=0.2, unseen_clients=0)
    assert pipeline.build(tmp_path / "x.parquet", tmp_path / "parquet", recipe).hash == split.hash
    assert removed(split)["toxicity"] == 1


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"conversation": "text"}, "column 'conversation' is str, not list"),
        ({"conversation": None}, "column 'conversation' is NoneType, not list"),
        ({"conversation": ["text"]}, "column 'conversation' holds str, not turns"),
        ({"conversation": [{"from": "human", "value": "q"}]}, "without a role and a content"),
        ({"conversation": [{"role": "user", "content": 5}]}, "without a role and a content"),
        ({"toxic": "yes"}, "column 'toxic' is str, not bool"),
        ({"hashed_ip": 7.0}, "column 'hashed_ip' is float, not str"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_columns_of_other_types_are_one_line(tmp_path, columns, words, ending):
    path = write_raw(tmp_path / "x.jsonl", [chat("u", "q", "a") | columns])
    if ending == "parquet":
        path = tmp_path / "x.parquet"
        pq.write_table(pa.Table.from_pylist([chat("u", "q", "a") | columns]), path)
    with pytest.raises(UserError) as caught:
        load_pipeline("wildchat").build(path, tmp_path / "s")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "row 1" in str(caught.value)


def test_a_continued_conversation_never_stands_on_both_sides(tmp_path):
    rows = []
    for i in range(60):
        said = (f"hello {i}", "hi", f"tell {i}", f"b{i}", "more", f"c{i}")
        rows += [chat(f"u{i % 3}", *said), chat(f"u{i % 3}", *said[:4])]
    split = make(tmp_path, "wildchat_multi", rows, heldout=0.4)
    assert removed(split)["leakage"] > 10
    assert Counter(len(row.messages) for row in split.rows("train")).keys() == {4, 6}
