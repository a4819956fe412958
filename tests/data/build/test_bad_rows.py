"""Rows that cannot be read stop a build, or are skipped, counted by reason and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from built_rows import as_parquet, built
from data_runs import run
from leaks import assert_no_leaks
from raw_rows import aya, chat, vote, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.manifest import open_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")
OPTIONS = ["--min-samples", 1, "--unseen", 0, "--near-duplicates", "off"]
GOOD = [chat(f"u{i % 2}", f"q{i}", f"a{i}", toxic=False, redacted=False, openai_moderation=False) for i in range(12)]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a number as content": ({"conversation": [{"role": "user", "content": 5}]}, "column 'conversation' has a turn"),
    "no content": ({"conversation": [{"role": "user", "value": "q"}]}, "column 'conversation' has a turn without"),
    "an image": (
        {"conversation": [{"role": "user", "content": [{"type": "image", "text": None}]}]},
        "column 'conversation' has content in parts that are not text",
    ),
    "no conversation": ({"conversation": None}, "column 'conversation' is NoneType, not list"),
    "a flag": ({"toxic": "maybe"}, "column 'toxic' is str, not bool"),
    "a user id": ({"hashed_ip": 1.5}, "column 'hashed_ip' is float, not str"),
    "a language": ({"language": ["English"]}, "column 'language' is list, not str"),
    "a split": ({"split": "sideways"}, "column 'split' is no known split"),
}


def steps(folder: Path) -> dict[str, tuple[int, str]]:
    return {step.step: (step.rows_removed, step.reason) for step in open_split(folder).manifest.funnel}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_stops_or_is_skipped_counted_and_named(tmp_path, capsys, case):
    cells, reason = BAD[case]
    raw = write_raw(tmp_path / "x.jsonl", [*GOOD[:4], GOOD[4] | cells, *GOOD[5:]])
    with pytest.raises(UserError) as caught:
        run("build", "wildchat", "--raw", raw, "--out", tmp_path / "s", *OPTIONS)
    for words in (f"{raw}, row 5", "--bad-rows skip leaves such rows out and counts them"):
        assert words in str(caught.value)
    assert run("build", "wildchat", "--raw", raw, "--out", tmp_path / "s", *OPTIONS, "--bad-rows", "skip") == 0
    said = capsys.readouterr().out
    split = open_split(tmp_path / "s")
    assert_no_leaks(split)
    removed, why = steps(split.folder)["bad_rows"]
    assert (removed, why.startswith(f"cannot be read: 1 ({reason}")) == (1, True)
    assert split.manifest.recipe["bad_rows"] == "skip"
    (note,) = [note for note in split.manifest.notes if note.startswith("bad_rows")]
    assert note.startswith("bad_rows: 1 skipped: x.jsonl, row 5")
    assert str(tmp_path) not in note
    cards = [(split.folder / card).read_text() for card in ("README.md", "card.html")]
    for shown in (said, *cards):
        assert "bad_rows" in shown
        assert "x.jsonl, row 5" in shown
    assert run("verify", tmp_path / "s") == 0


def test_without_bad_rows_skip_gives_the_rows_of_stop_and_stop_has_no_trace_of_it(tmp_path):
    raw = write_raw(tmp_path / "x.jsonl", GOOD)
    splits = {how: built(raw, tmp_path, folder=how, bad_rows=how) for how in ("stop", "skip")}
    assert splits["stop"].rows("train") == splits["skip"].rows("train")
    assert "bad_rows" not in splits["stop"].manifest.recipe
    assert "bad_rows" not in steps(splits["stop"].folder)
    assert steps(splits["skip"].folder)["bad_rows"] == (0, "cannot be read")
    assert splits["stop"].hash != splits["skip"].hash


def test_broken_lines_and_missing_columns_of_a_row_are_bad_rows_too(tmp_path):
    lines = [json.dumps(row) for row in GOOD]
    lines[3] = '{"cut": '
    lines[5] = "[1, 2]"
    lines[7] = json.dumps({key: value for key, value in GOOD[7].items() if key != "hashed_ip"})
    raw = tmp_path / "x.jsonl"
    raw.write_bytes("\n".join(lines).encode() + b'\n{"language": "\xff"}\n')
    split = built(raw, tmp_path, bad_rows="skip")
    removed, why = steps(split.folder)["bad_rows"]
    assert removed == 4
    assert why == (
        "cannot be read: 1 (has no column 'hashed_ip'), 1 (is broken JSON), 1 (is no JSON object), 1 (is not UTF-8)"
    )
    (note,) = [note for note in split.manifest.notes if note.startswith("bad_rows")]
    assert "4 skipped: x.jsonl, line 4 is broken JSON" in note
    assert note.endswith("; and 1 more")
    assert split.manifest.funnel[0].rows_left == 13
    assert [file.rows for file in split.manifest.upstream.files] == [13]


def test_a_first_row_without_a_column_that_others_have_is_a_bad_row_too(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "hashed_ip"} for row in GOOD[:2]]
    raw = write_raw(tmp_path / "x.jsonl", [*rows, {}, *GOOD[3:]])
    with pytest.raises(UserError, match=r"line 1 has no column 'hashed_ip'; it has .*; --bad-rows skip leaves such"):
        built(raw, tmp_path)
    removed, why = steps(built(raw, tmp_path, bad_rows="skip").folder)["bad_rows"]
    assert (removed, why.startswith("cannot be read: 2 (has no column 'hashed_ip'), 1 (has no column")) == (3, True)


def test_csv_rows_of_another_length_are_bad_rows(tmp_path):
    head = "inputs,targets,language,language_code,annotation_type,user_id\n"
    rows = [f"q{i},a{i},English,eng,o,u{'' if i % 3 else ',x'}\n" for i in range(9)]
    (tmp_path / "x.csv").write_text(head + "".join(rows))
    with pytest.raises(UserError, match="row 1 has 7 cells; the head has 6; --bad-rows skip"):
        built(tmp_path / "x.csv", tmp_path, "aya")
    split = built(tmp_path / "x.csv", tmp_path, "aya", bad_rows="skip")
    assert steps(split.folder)["bad_rows"] == (3, "cannot be read: 3 (has more or fewer cells than the head)")


def test_parquet_and_json_lines_skip_the_same_rows_in_any_order(tmp_path):
    rows = [GOOD[i] | ({"toxic": "maybe"} if i in (2, 9) else {"toxic": "false"}) for i in range(12)]
    rows[4] = rows[4] | {"conversation": [{"role": None, "content": "q"}]}
    first = built(write_raw(tmp_path / "a.jsonl", rows), tmp_path, bad_rows="skip")
    assert steps(first.folder)["bad_rows"][0] == 3
    assert steps(first.folder)["bad_rows"][1].startswith("cannot be read: 2 (column 'toxic'")
    for path in (as_parquet(tmp_path / "b.parquet", rows), write_raw(tmp_path / "c.jsonl", rows[::-1])):
        assert built(path, tmp_path, bad_rows="skip").hash == first.hash


@pytest.mark.parametrize(("bad", "ends"), [(6, False), (7, True), (12, True)])
def test_more_bad_rows_than_good_ones_are_an_error(tmp_path, bad, ends):
    rows = [GOOD[i] | ({"toxic": "maybe"} if i < bad else {}) for i in range(12)]
    raw = write_raw(tmp_path / "x.jsonl", rows)
    if not ends:
        assert steps(built(raw, tmp_path, bad_rows="skip").folder)["bad_rows"][0] == bad
        return
    with pytest.raises(UserError) as caught:
        built(raw, tmp_path, bad_rows="skip")
    assert f"{bad} of 12 raw rows cannot be read, more than half; the first is x.jsonl, row 1: " in str(caught.value)
    assert not list(tmp_path.glob("built-*"))


STRUCTURAL: dict[str, tuple[str, bytes, str]] = {
    "a column twice": ("x.csv", b"inputs,targets,inputs\na,b,c\n", "twice"),
    "a key twice": ("x.jsonl", b'{"inputs": "a", "inputs": "b"}\n', "twice"),
    "a missing column": ("x.csv", b"inputs\na\n", "has no column 'targets'"),
    "a missing key of the first row": ("x.jsonl", b'{"inputs": "a"}\n', "has no column 'targets'"),
    "an array": ("x.jsonl", b'[\n{"inputs": "a"}\n]\n', "pretty-printed"),
    "a list without the columns": ("x.json", b'[\n{"inputs": "a"}\n]\n', "has no column 'targets'"),
    "a broken list": ("x.json", b'[{"inputs": "a", "targets"', "broken JSON in value 1"),
    "no parquet": ("x.parquet", b"PAR1 no", "not readable parquet"),
    "a pointer": ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
}


@pytest.mark.parametrize("case", STRUCTURAL)
def test_faults_of_a_whole_file_always_stop(tmp_path, case):
    name, content, said = STRUCTURAL[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        built(tmp_path / name, tmp_path, "aya", bad_rows="skip")
    assert "--bad-rows" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["aya", "chatbot_it", "chatbot_pa", "wildchat_multi"])
def test_every_pipeline_skips(tmp_path, dataset):
    def row(i: int) -> dict[str, Any]:
        made = {"aya": aya("u", f"q{i}", "a"), "wildchat_multi": chat("u", f"q{i}", "a", "r", "b")}
        return made.get(dataset) or vote("u", f"q{i}", "a", "b")

    raw = write_raw(tmp_path / "x.jsonl", [row(0), row(1) | {"language": 5}, row(2)])
    split = built(raw, tmp_path, dataset, bad_rows="skip", languages=())
    assert steps(split.folder)["bad_rows"] == (1, "cannot be read: 1 (column 'language' is int, not str)")
    assert len(split.task_rows("train")) == 2


def test_the_recipe_knows_two_ways_only():
    with pytest.raises(UserError, match="bad_rows='drop' in the recipe; it is stop or skip"):
        replace(load_pipeline("aya").DECLARATION.recipe, bad_rows="drop")
