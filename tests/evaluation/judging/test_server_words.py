"""What is told of a server's error: its words in any form, on one bounded line, and never the key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedllm_bench.evaluation.judges.said import LONGEST_TEXT, said_in

KEY = "sk-secret-1"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ({"error": {"message": "no", "type": "bad_request", "code": "c1"}}, "400: no (c1, bad_request)"),
        ({"error": {"message": "no c1", "code": "c1", "type": None}}, "400: no c1"),
        ({"error": {"message": "no", "code": 400}}, "400: no"),
        ({"error": {"message": "no", "code": 1301}}, "400: no (1301)"),
        ({"error": {"message": {"detail": "no"}}}, "400: no"),
        ({"error": "no"}, "400: no"),
        ([{"error": {"message": "no", "status": "INVALID"}}], "400: no"),
        ({"message": "no", "object": "error"}, "400: no"),
        ({"detail": "no"}, "400: no"),
        ({"detail": [{"loc": ["body", "x"], "msg": "no"}, {"msg": "nor"}]}, "400: body.x: no; nor"),
        ({"error": {"error": {"message": "no"}}}, "400: no"),
        ("no\n\tway \x1b[31m", "400: no way [31m"),
        ("<html><head><style>p {}</style><title>400 Bad</title></head><body><p>no &amp; never</p></body></html>",
         "400: 400 Bad no & never"),
        ("", "400: no words"),
        ({}, "400: no words"),
        (7, "400: 7"),
        ({"error": {"message": None}, "more": 1}, "400: no words"),
    ],
)  # fmt: skip
def test_the_words_are_found_in_every_form(body: Any, line: str) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    assert said_in(raw.encode(), 400, KEY).line == line


@pytest.mark.parametrize("place", range(LONGEST_TEXT - 15, LONGEST_TEXT + 5))
def test_no_part_of_a_key_is_shown_also_where_the_text_is_cut(place: int) -> None:
    text = "x" * place + f" {KEY} " + "y" * 99
    for body in (text, json.dumps({"error": {"message": text, "code": KEY}}), f"<p>{text}</p>"):
        line = said_in(body.encode(), 401, KEY).line
        assert len(line) <= LONGEST_TEXT + 200
        assert "secret" not in line
        assert line.isprintable()


def test_a_body_of_any_depth_or_kind_is_told_of() -> None:
    for body in (b"[" * 100_000, b"\xff\xfe\x00", json.dumps([[[[[[[[["x"]]]]]]]]]).encode(), b'{"detail": {"a": 1}}'):
        assert said_in(body, 500, "").short.startswith("500: ")
