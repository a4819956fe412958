"""Files of JSON lines hold any text."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench.common.files import read_jsonl, write_jsonl


def test_json_lines_hold_every_separator_that_unicode_knows(tmp_path: Path) -> None:
    rows = [{"text": "".join(map(chr, range(0x20)))}, {"text": "a\x85b\u2028c\u2029d"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert read_jsonl(tmp_path / "x.jsonl") == rows
