"""Flags that decide which rows stay: every clear form of a flag is read, every other one is refused."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from built_rows import as_parquet, built
from built_splits import make, removed
from raw_rows import chat, vote, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.cells import MAX_DEPTH, Unclear, is_flagged
from fedllm_bench.data.build.pipelines import load_pipeline

# How upstreams and other tools spell "flagged", and the same for "not flagged".
CATEGORIES = {"violence": True, "hate": False}
CLEAR: dict[str, tuple[Any, Any]] = {
    "a record for each turn": ([{"flagged": False}, {"flagged": True}], [{"flagged": False}, {"flagged": False}]),
    "a record": ({"flagged": True}, {"flagged": False}),
    "a record for each classifier": (
        {"a": {"flagged": False}, "b": {"flagged": True, "probability": 0.9}},
        {"a": {"flagged": False}, "b": {"flagged": False, "probability": 0.1}},
    ),
    "lists in a record": (
        {"flagged": [False, True], "categories": {"hate": [False, True]}},
        {"flagged": [False, False], "categories": {"hate": [False, False]}},
    ),
    "JSON text": ('[{"flagged": true, "categories": {"hate": true}}]', '[{"flagged": false}]'),
    "JSON text within JSON text": (json.dumps('[{"flagged": true}]'), json.dumps('[{"flagged": false}]')),
    "JSON text in a list": (['{"flagged": true}'], ['{"flagged": false}']),
    "Python text": ("[{'flagged': True, 'categories': {'hate': True}}]", "[{'flagged': False}]"),
    "numbers in records": ([{"flagged": 1}], [{"flagged": 0}]),
    "words in records": ([{"flagged": "true"}], [{"flagged": "False"}]),
    "booleans": (True, False),
    "booleans of turns": ([False, True], [False, False]),
    "numbers": (1, 0),
    "floats, as pandas has of booleans with gaps": (1.0, 0.0),
    "words": ("True", "false"),
    "digits": ("1", "0"),
    "digits with a point": ("1.0", "0.0"),
    "categories alone": ([{"categories": CATEGORIES}], [{"categories": {"violence": False, "hate": False}}]),
    "categories beside a flag that is blank": (
        {"flagged": "", "categories": {"hate": True}},
        {"flagged": "", "categories": {"hate": False}},
    ),
    "lists of categories": ({"categories": {"hate": [False, True]}}, {"categories": {"hate": [False, False]}}),
    "categories as text": ({"categories": '{"hate": true}'}, {"categories": '{"hate": false}'}),
    "the reply of the service": (
        {"id": "m", "model": "t", "results": [{"flagged": True, "category_scores": {"hate": 0.9}}]},
        {"id": "m", "model": "t", "results": [{"flagged": False, "category_scores": {"hate": 0.1}}]},
    ),
    "a flag deeper than one that is down": (
        {"flagged": False, "details": {"other": [{"flagged": True}]}},
        {"flagged": False, "details": {"other": [{"flagged": False}], "score": 0.5}},
    ),
}
UNCLEAR: dict[str, Any] = {
    "another word": "yes",
    "a word in a record": [{"flagged": "flagged"}],
    "a score": 0.7,
    "a large number": 2,
    "not a number": float("nan"),
    "scores alone": [{"category_scores": {"hate": 0.9}}],
    "names of categories": [{"categories": ["hate"]}],
    "scores as categories": [{"categories": {"hate": 0.9}}],
    "a record that says nothing": {"verdict": "bad"},
    "a record of one classifier that says nothing": {"a": {"flagged": False}, "b": {"probability": 0.9}},
    "a list of numbers in a record": {"votes": [1, 0]},
    "a dict of numpy arrays as text": "{'flagged': array([ True])}",
    "a numpy array of dicts as text": "[{'flagged': True}\n {'flagged': False}]",
    "a call as text": "[__import__('os').getcwd()]",
    "a key twice": '[{"flagged": true, "flagged": false}]',
    "a key twice in Python text": "[{'flagged': True, 'flagged': False}]",
    "cut JSON": '[{"flagged": true}, {"flag',
    "bytes": b"true",
    "too deep": json.loads("[" * 40 + "true" + "]" * 40),
    "too deep as text": "[" * 100_000,
}
SILENT = [None, [], {}, "", " ", "null", "None", {"flagged": None}, [None], [{"flagged": None, "categories": None}]]


@pytest.mark.parametrize("form", CLEAR)
def test_a_clear_form_of_a_flag_is_read(form):
    up, down = CLEAR[form]
    assert (is_flagged(up), is_flagged(down)) == (True, False)


@pytest.mark.parametrize("value", UNCLEAR.values(), ids=UNCLEAR)
def test_an_unclear_form_is_never_taken_for_no(value):
    with pytest.raises(Unclear):
        is_flagged(value)


@pytest.mark.parametrize("value", SILENT)
def test_a_null_and_an_empty_list_say_nothing(value):
    assert is_flagged(value) is None


def test_scalars_and_arrays_of_other_libraries_are_read_as_pythons_own():
    for up in (np.bool_(True), np.int64(1), np.array([0, 1]), pa.scalar(True), pa.scalar([{"flagged": True}])):
        assert is_flagged(up) is True
    assert is_flagged(np.array([{"flagged": np.bool_(False)}])) is False
    assert is_flagged([("flagged", True), ("categories", None)]) is True  # a map, as Spark writes records
    with pytest.raises(Unclear):
        is_flagged([("flagged", True), ("flagged", False)])


def test_flags_are_looked_for_to_a_depth_that_any_upstream_stays_below():
    nested: Any = True
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert is_flagged(nested) is True
    with pytest.raises(Unclear, match="nested more than"):
        is_flagged([nested])


COLUMNS = {"moderation": "openai_moderation", "toxicity": "toxic", "redacted": "redacted"}


@pytest.mark.parametrize("form", CLEAR)
@pytest.mark.parametrize("flag", COLUMNS)
def test_rows_in_json_lines_and_in_parquet_have_the_same_flags(tmp_path, form, flag):
    up, down = CLEAR[form]
    rows = [chat("u", f"q{i}", "a", **{COLUMNS[flag]: up if i % 4 < 2 else down}) for i in range(8)]
    pipeline = load_pipeline("wildchat")
    for path in (write_raw(tmp_path / "x.jsonl", rows), as_parquet(tmp_path / "x.parquet", rows)):
        found = [flag in sample.flags for sample in pipeline.build.samples(path, pipeline.DECLARATION.recipe)]
        assert found == [True, True, False, False] * 2


@pytest.mark.parametrize("form", ["a record for each turn", "JSON text", "numbers", "categories alone"])
def test_flagged_rows_are_removed_and_counted(tmp_path, form):
    up, down = CLEAR[form]
    rows = [chat(f"u{i % 2}", f"q{i}", "a", openai_moderation=up if i % 4 < 2 else down) for i in range(8)]
    split = make(tmp_path, "wildchat", rows, heldout=0)
    assert removed(split) == {"moderation": 4}
    assert built(as_parquet(tmp_path / "p.parquet", rows), tmp_path).hash == split.hash


@pytest.mark.parametrize("dataset", ["wildchat", "wildchat_multi", "chatbot_it", "chatbot_pa"])
@pytest.mark.parametrize("value", ["yes", [{"flagged": "flagged"}], 0.5, '{"verdict": "bad"}'])
def test_an_unclear_flag_stops_every_pipeline_with_row_and_column(tmp_path, dataset, value):
    def row(i, **columns):
        is_chat = dataset.startswith("wildchat")
        return chat("u", f"q{i}", "a", "r", "b", **columns) if is_chat else vote("u", f"q{i}", "a", "b", **columns)

    for column in ("openai_moderation", "toxic" if dataset.startswith("wildchat") else "toxic_chat_tag"):
        rows = [row(0), row(1), row(2, **{column: value})]
        for path in (write_raw(tmp_path / "x.jsonl", rows), as_parquet(tmp_path / "x.parquet", rows)):
            with pytest.raises(UserError) as caught:
                built(path, tmp_path, dataset)
            message = str(caught.value)
            assert f"{path.name}, row 3: column '{column}' is " in message
            assert "--bad-rows skip" in message
            assert "\n" not in message


def test_a_flag_that_nobody_asks_for_is_not_looked_at(tmp_path):
    rows = [chat("u", f"q{i}", "a", openai_moderation="unclear", toxic=i == 0) for i in range(3)]
    path = write_raw(tmp_path / "x.jsonl", rows)
    with pytest.raises(UserError, match="'openai_moderation'"):
        built(path, tmp_path)
    split = built(path, tmp_path, drop_flagged=("toxicity",))
    assert removed(split) == {"toxicity": 1}


def test_rows_that_do_not_state_a_flag_are_counted_in_a_note(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    write_raw(folder / "a.jsonl", [chat("u", f"q{i}", "a", toxic=i == 0, redacted=False) for i in range(3)])
    write_raw(folder / "b.jsonl", [chat("u", f"r{i}", "a", redacted=False) for i in range(2)])
    notes = built(folder, tmp_path, near_duplicates="off").manifest.notes
    silent = "raw rows do not state this flag (no such column, or a null); they were not removed for it"
    assert notes == (f"moderation: 5 of 5 {silent}", f"toxicity: 2 of 5 {silent}")
    assert built(folder, tmp_path, near_duplicates="off", drop_flagged=()).manifest.notes == ()


@pytest.mark.parametrize("word", ["model_a", " Model_A ", "MODEL_A"])
def test_a_winner_is_read_in_any_case(tmp_path, word):
    split = make(tmp_path, "chatbot_pa", [vote("j", "q", "good", "bad", word)], heldout=0)
    assert [row.chosen for row in split.preference_rows("train")] == ["good"]


def test_ties_of_all_versions_of_the_upstream_go_and_other_words_stop(tmp_path):
    words = ("tie", "Tie (bothbad)", "bothbad", "both_bad", "", None)
    rows = [vote("j", f"q{i}", "a", "b", word) for i, word in enumerate(words)]
    assert removed(make(tmp_path, "chatbot_it", [*rows, vote("j", "q", "a", "b")], heldout=0)) == {"vote": len(words)}
    for word in ("A", "model a", "left", "alpaca-13b"):
        with pytest.raises(UserError, match=r"row 1: column 'winner' holds a word that is not known: .* model_b"):
            make(tmp_path, "chatbot_it", [vote("j", "q", "a", "b", word)])


def test_languages_of_chats_are_names_or_codes(tmp_path):
    rows = [chat("u", f"q{i}", "a", language=word) for i, word in enumerate(("English", "en", "eng", "en-GB", "x1"))]
    split = make(tmp_path, "wildchat", rows, heldout=0, languages=("eng",))
    assert removed(split) == {"languages": 1}


def test_csv_holds_conversations_and_flags_as_text(tmp_path):
    rows = [chat("u", f"q{i}", f"a{i}", toxic=i == 1, redacted=False, openai_moderation=None) for i in range(4)]
    split = make(tmp_path, "wildchat", rows, heldout=0)
    with (tmp_path / "x.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"conversation": json.dumps(row["conversation"])} for row in rows)
    assert built(tmp_path / "x.csv", tmp_path).hash == split.hash
