"""What a ledger keeps over a kill: whole values to the last bit, nothing torn, nothing of other work."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fedllm_bench.common.ledger import Ledger

VALUES = [1 / 3, 5e-324, -0.0, math.inf, "ein\u2028Wort", 2**60]


def kept(path: Path) -> Ledger:
    """A ledger of three values."""
    ledger = Ledger(path, "k")
    for number in range(3):
        ledger.put(f"a:{number}", [number, *VALUES])
    return ledger


def test_values_come_back_to_the_last_bit_in_another_process(tmp_path: Path):
    kept(tmp_path / "folder" / "x")
    found = Ledger(tmp_path / "folder" / "x", "k")
    assert [found.get(f"a:{number}") for number in range(3)] == [[number, *VALUES] for number in range(3)]
    assert math.copysign(1, found.get("a:0")[3]) == -1
    assert found.get("a:3") is None
    found.put("nan", [math.nan])
    assert math.isnan(Ledger(found.path, "k").get("nan")[0])


def test_what_was_kept_under_another_key_is_dropped(tmp_path: Path):
    kept(tmp_path / "x")
    other = Ledger(tmp_path / "x", "other")
    assert other.get("a:0") is None
    other.put("b", 1)
    assert Ledger(tmp_path / "x", "k").get("a:0") is None
    assert Ledger(tmp_path / "x", "other").get("b") == 1


def test_a_file_cut_at_any_byte_gives_the_values_whose_lines_are_whole_and_goes_on(tmp_path: Path):
    whole = kept(tmp_path / "x").path.read_bytes()
    ends = [number for number, byte in enumerate(whole, 1) if byte == ord("\n")]
    assert len(ends) == 4
    for cut in range(len(whole) + 1):
        (tmp_path / "x").write_bytes(whole[:cut])
        ledger = Ledger(tmp_path / "x", "k")
        there = [number for number in range(3) if ledger.get(f"a:{number}") is not None]
        assert there == list(range(max(0, sum(end <= cut for end in ends) - 1)))
        for number in range(3):
            if number not in there:
                ledger.put(f"a:{number}", [number, *VALUES])
        assert (tmp_path / "x").read_bytes() == whole


@pytest.mark.parametrize(
    "torn", [b'["a:1",[1', b"\x00" * 4096 + b"\n", b"[" * 10**5 + b"\n", b"7\n", b'["a"]\n', b"\xff\n"]
)
def test_a_line_that_is_no_value_ends_the_file_there(tmp_path: Path, torn: bytes):
    whole = kept(tmp_path / "x").path.read_bytes()
    first, second, *rest = whole.splitlines(keepends=True)
    (tmp_path / "x").write_bytes(first + second + torn + b"".join(rest))
    ledger = Ledger(tmp_path / "x", "k")
    assert [ledger.get(f"a:{number}") is not None for number in range(3)] == [True, False, False]
    for number in (1, 2):
        ledger.put(f"a:{number}", [number, *VALUES])
    assert (tmp_path / "x").read_bytes() == whole


def test_nothing_is_written_before_the_first_value_and_nothing_stays(tmp_path: Path):
    ledger = Ledger(tmp_path / "folder" / "x", "k")
    ledger.remove()
    assert list(tmp_path.iterdir()) == []
    kept(tmp_path / "y").remove()
    assert list(tmp_path.iterdir()) == []
