"""Whole numbers that users write."""

from __future__ import annotations


def whole_number(text: str, most_digits: int = 9) -> int | None:
    """The number, 0 or more, that `text` is; None for anything but 1 to `most_digits` digits.

    `str.isdigit` alone takes digits of every script, and signs such as a raised 2, which `int` refuses; and `int`
    refuses more than 4,300 digits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= most_digits else None
