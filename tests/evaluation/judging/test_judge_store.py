"""Stored replies outlive whatever happens: torn lines, several processes, a file that was changed."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from fedllm_bench.evaluation.judges.store import ReplyStore
from fedllm_bench.evaluation.records import Reply

REPLY = Reply(text="é\u2028\n[[7]]", model="m", price=0.25, prompt_tokens=3)


def test_what_is_appended_is_there_also_for_others_and_later(tmp_path: Path) -> None:
    store, other = ReplyStore(tmp_path / "new"), ReplyStore(tmp_path / "new")
    assert other.get("a") is None
    store.append([("a", REPLY), ("b", Reply(text=""))])
    assert store.get("a") == other.get("a") == ReplyStore(tmp_path / "new").get("a") == REPLY
    assert other.get("b") == Reply(text="")
    assert other.get("c") is None
    assert len(other) == 2


@pytest.mark.parametrize("kept", [1, 20, -2])
def test_a_torn_line_is_skipped_and_later_replies_are_not(kept: int, tmp_path: Path) -> None:
    store = ReplyStore(tmp_path)
    store.append([("a", REPLY)])
    whole = store.path.read_bytes()
    store.append([("b", REPLY)])
    torn = store.path.read_bytes()[len(whole) :][:kept]
    store.path.write_bytes(whole + torn)
    late = ReplyStore(tmp_path)
    assert (late.get("a"), late.get("b")) == (REPLY, None)
    late.append([("c", REPLY)])
    again = ReplyStore(tmp_path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (REPLY, None, REPLY)
    assert late.get("c") == REPLY


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[]", b"{}", b'{"key": "a"}', b'{"key":"a","reply":{"text":1}}', b"[" * 10_000, b'"a"', b""]
)
def test_a_line_that_is_no_reply_is_skipped(line: bytes, tmp_path: Path) -> None:
    store = ReplyStore(tmp_path)
    store.path.write_bytes(line + b"\n")
    store.append([("b", REPLY)])
    assert (store.get("a"), store.get("b"), len(store)) == (None, REPLY, 1)


def test_the_first_reply_to_a_request_stays(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path)
    store.append([("a", REPLY)])
    store.append([("a", Reply(text="another"))])
    assert store.get("a") == ReplyStore(tmp_path).get("a") == REPLY


def _write(folder: Path, name: str, count: int) -> None:
    store = ReplyStore(folder)
    for number in range(count):
        store.append([(f"{name}-{number}", Reply(text=name * 2000))])


def test_several_processes_write_one_file_without_mixing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, name, 30)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert {row["key"] for row in rows} == {f"{name}-{n}" for name in "abc" for n in range(30)}
    assert all(row["reply"]["text"] == row["key"][0] * 2000 for row in rows)
