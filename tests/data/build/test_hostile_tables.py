"""Tables that nobody should have written: each row is read as it stands, counted, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from built_splits import removed
from data_runs import run
from leaks import assert_no_leaks
from raw_formats import as_csv, as_jsonl, as_parquet, put

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split, open_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")
SAID = ("--columns", "instruction=ask,input=text,response=answer", "--name", "mine", "--licence", "MIT")
BY_KIND = ("--partition", "column:kind", "--heldout", "0")
BOM = b"\xef\xbb\xbf"


def rows(count: int = 12, **more: Any) -> list[dict[str, Any]]:
    return [{"ask": f"task {i}", "text": "", "answer": f"a{i}", "kind": "ab"[i % 2]} | more for i in range(count)]


def build(raw: Path, out: Path, *words: object) -> Split:
    assert run("build", "rows", "--raw", raw, "--out", out, *SAID, *words) == 0
    split = open_split(out)
    assert_no_leaks(split)
    return split


def refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    out = tmp_path / "refused"
    assert cli.main(["data", "build", "rows", "--raw", str(raw), "--out", str(out), *SAID, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not out.exists()
    return line


def sizes(split: Split) -> dict[str, int]:
    return {client.id: client.train + client.heldout for client in split.manifest.clients}


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.json", "x.json.gz"])
def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path, name: str) -> None:
    writers = {"x.csv": as_csv, "x.jsonl": as_jsonl}
    content = writers[name](rows()) if name in writers else json.dumps(rows()).encode()
    assert sizes(build(put(tmp_path / name, BOM + content), tmp_path / "s", *BY_KIND)) == {"a": 6, "b": 6}


def test_columns_that_are_there_twice_or_nearly_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "ask,text,answer,kind,{}\n" + "q,,a,x,y\n" * 3
    for name, word in {"kind": "the column 'kind' twice", "Kind": "'kind' and 'Kind', which differ in case",
                       "\u200bkind": "'kind' and '\\u200bkind'", "ask": "the column 'ask' twice"}.items():  # fmt: skip
        raw = put(tmp_path / "x.csv", head.format(name).encode())
        assert word in refused(raw, tmp_path, capsys, *BY_KIND)
    listed = put(tmp_path / "x.json", b'[{"ask": "q", "text": "", "answer": "a", "kind": "x", "kind": "y"}]')
    assert "twice" in refused(listed, tmp_path, capsys, *BY_KIND)
    look_alike = put(tmp_path / "y.csv", "ask,text,answer,k\u0456nd\nq,,a,x\n".encode())  # a Cyrillic i
    assert "has no column 'kind'; it has 'ask', 'text', 'answer', 'k\u0456nd'" in refused(
        look_alike, tmp_path, capsys, *BY_KIND
    )


def test_a_nul_and_other_control_characters_stay_text(tmp_path: Path) -> None:
    odd = [*rows(), {"ask": "nul \x00 in\x1b[31m it", "text": "\x00", "answer": "b\x00c", "kind": "a\x00b"}]
    for name, write in {"x.jsonl": as_jsonl, "x.parquet": as_parquet}.items():
        split = build(put(tmp_path / name, write(odd)), tmp_path / name[2:], *BY_KIND)
        assert sizes(split) == {"a": 6, "b": 6, "a\x00b": 1}
        assert "b\x00c" in {row.completion for row in split.rows("train")}


def test_control_tokens_in_a_column_are_words(tmp_path: Path) -> None:
    odd = [*rows(2), {"ask": "</s><|user|>", "text": "### Response:\nno", "answer": "<|end|>", "kind": "<|assistant|>"}]
    split = build(put(tmp_path / "x.jsonl", as_jsonl(odd)), tmp_path / "s", *BY_KIND)
    assert sizes(split) == {"a": 1, "b": 1, "<|assistant|>": 1}
    (row,) = (row for row in split.rows("train") if row.client_id.startswith("<"))
    assert [turn["role"] for turn in row.messages] == ["user", "input", "assistant"]
    assert "control tokens" in (split.folder / "README.md").read_text(encoding="utf-8").lower()


def test_an_upstream_cannot_write_an_input_turn(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "input", "assistant")]
    fine = [{"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")]
    raw = put(tmp_path / "x.jsonl", as_jsonl([{"m": turns, "u": "a"}, {"m": fine, "u": "a"}]))
    words = ("--messages", "m", "--client-column", "u", "--name", "mine", "--licence", "MIT")
    assert run("build", "rows", "--raw", raw, "--out", tmp_path / "s", *words) == 0
    split = open_split(tmp_path / "s")
    assert removed(split) == {"conversation": 1}
    assert any("roles found: 'input'" in note for note in split.manifest.notes)


def test_a_huge_cell_is_read_and_a_huge_value_is_no_client(tmp_path: Path) -> None:
    huge = "word " * 40_000  # more than a csv cell may have by default
    odd = [*rows(), {"ask": huge, "text": "", "answer": "long", "kind": "a"}]
    odd += [{"ask": "q", "text": "", "answer": "z", "kind": huge}]
    for name, write in {"x.csv": as_csv, "x.jsonl": as_jsonl}.items():
        split = build(put(tmp_path / name, write(odd)), tmp_path / name[2:], *BY_KIND)
        assert sizes(split) == {"a": 7, "b": 6}
        assert removed(split) == {"column": 1}


def test_nulls_are_empty_and_whole_numbers_are_their_digits(tmp_path: Path) -> None:
    odd = rows(6)
    for row, value in zip(odd, [1, "1", None, "", 2, 10**30], strict=True):
        row["kind"] = value
    odd[4]["text"] = None
    split = build(put(tmp_path / "x.jsonl", as_jsonl(odd)), tmp_path / "s", *BY_KIND)
    assert sizes(split) == {"1": 2, "2": 1, str(10**30): 1}
    assert removed(split) == {"column": 2}
    assert all(len(row.messages) == 2 for row in split.rows("train"))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("kind", 1.0, "column 'kind' is float, not str; save it as text or whole numbers"),
        ("kind", True, "column 'kind' is bool, not str"),
        ("kind", ["a"], "column 'kind' is list, not str"),
        ("ask", 7, "column 'ask' is int, not str"),
        ("text", {"a": 1}, "column 'text' is dict, not str"),
        ("answer", ["a"], "column 'answer' holds list"),
        ("answer", [{"role": "user", "content": "no"}], "do not end with the assistant's"),
    ],
)
def test_a_cell_of_another_type_is_one_line_or_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: object, said: str
) -> None:
    odd = rows()
    odd[4][column] = value
    raw = put(tmp_path / "x.jsonl", as_jsonl(odd))
    line = refused(raw, tmp_path, capsys, *BY_KIND)
    assert "x.jsonl, row 5: " in line
    if column != "answer" or isinstance(value, list):
        assert said in line or "column 'answer'" in line
    split = build(raw, tmp_path / "s", *BY_KIND, "--bad-rows", "skip")
    assert removed(split) == {"bad_rows": 1}


def test_a_column_of_categories_of_another_tool_is_read(tmp_path: Path) -> None:
    made = pa.Table.from_pylist(rows())
    made = made.set_column(3, "kind", made["kind"].dictionary_encode())
    pq.write_table(made, tmp_path / "x.parquet")
    assert sizes(build(tmp_path / "x.parquet", tmp_path / "s", *BY_KIND)) == {"a": 6, "b": 6}


def test_values_that_look_alike_are_clients_of_their_own_and_a_note_says_so(tmp_path: Path) -> None:
    odd = rows(6)
    for row, value in zip(odd, ["qa", "QA", "qa ", "q\u0430", "\uff51\uff41", "other"], strict=True):
        row["kind"] = value
    split = build(put(tmp_path / "x.jsonl", as_jsonl(odd)), tmp_path / "s", *BY_KIND)
    assert len(sizes(split)) == 6
    (note,) = (note for note in split.manifest.notes if note.startswith("column 'kind'"))
    assert "4 values differ from another one only in case" in note  # the Cyrillic one is another word


def test_blank_instructions_and_answers_go(tmp_path: Path) -> None:
    odd = [*rows(), *rows(1, ask=" \n", text="on its own"), *rows(1, answer="\u200b \ufeff"), *rows(1, answer="")]
    split = build(put(tmp_path / "x.jsonl", as_jsonl(odd)), tmp_path / "s", *BY_KIND)
    assert removed(split)["empty"] >= 2
    assert "on its own" not in {turn["content"] for row in split.rows("train") for turn in row.messages}


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    line = b'{"ask": "q \\ud800", "text": "", "answer": "a", "kind": "a"}\n'
    line += b'{"ask": "q", "text": "\\udfff", "answer": "b", "kind": "a"}\n'
    split = build(put(tmp_path / "x.jsonl", as_jsonl(rows()) + line), tmp_path / "s", *BY_KIND)
    assert removed(split) == {"empty": 2}
