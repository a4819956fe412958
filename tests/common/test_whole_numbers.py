"""What is a whole number in a user's words, and what only looks like one."""

from __future__ import annotations

import pytest

from fedllm_bench.common.whole_numbers import whole_number


@pytest.mark.parametrize(
    ("text", "most_digits", "number"),
    [
        ("0", 9, 0),
        ("007", 9, 7),
        ("123456789", 9, 123_456_789),
        ("1234567890", 9, None),
        ("1234567890", 10, 1_234_567_890),
        ("1" * 5000, 9, None),
        ("", 9, None),
        ("-1", 9, None),
        ("1.0", 9, None),
        (" 1", 9, None),
        ("\u00b2", 9, None),  # a raised 2
        ("\u0663", 9, None),  # an Arabic 3
    ],
)
def test_a_whole_number_is_ascii_digits_alone(text: str, most_digits: int, number: int | None):
    assert whole_number(text, most_digits) == number
