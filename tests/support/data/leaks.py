"""The leakage rules of a split, as plain loops over its rows: for every split that a test builds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from fedllm_bench.data.manifest import Part, Split
from fedllm_bench.data.rows import PreferenceRow, Row, SftRow


def rows_of(split: Split, part: Part) -> list[Row]:
    return [*(split.rows(part) if split.task == "sft" else split.preference_rows(part))]


def prompt_of(row: Row) -> str:
    return row.prompt if isinstance(row, SftRow) else "\n".join(turn["content"] for turn in row.prompt)


def responses_of(row: Row) -> tuple[str, ...]:
    return (row.chosen, row.rejected) if isinstance(row, PreferenceRow) else (row.completion,)


def turns_of(row: Row) -> list[str]:
    return [turn["content"] for turn in (row.messages[:-1] if isinstance(row, SftRow) else row.prompt)]


def words_of(text: str) -> str:
    """Without case, punctuation, width and spacing; a text without words as it is."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text


def assert_no_leaks(split: Split) -> None:
    """Held-out and unseen rows share neither (client, prompt) nor (prompt, response) with training, nor
    does a conversation on one side continue one on the other; nor but for case, punctuation, width and spacing."""
    assert_no_equals(split, str)
    if split.manifest.recipe.get("leakage") == "normal":
        assert_no_equals(split, words_of)


def assert_no_equals(split: Split, form: Callable[[str], str]) -> None:
    def prompt(row: Row) -> str:
        return form(prompt_of(row))

    def responses(row: Row) -> list[str]:
        return [form(answer) for answer in responses_of(row)]

    def turns(row: Row) -> tuple[str, ...]:
        return tuple(map(form, turns_of(row)))

    train = rows_of(split, "train")
    asked = {(row.client_id, prompt(row)) for row in train}
    answered = {(prompt(row), answer) for row in train for answer in responses(row)}
    whole = {(*turns(row), answer) for row in train for answer in responses(row)}
    begun = {turns(row)[:end] for row in train for end in range(4, len(turns(row)), 2)}
    tested = rows_of(split, "heldout") + rows_of(split, "unseen")
    for row in tested:
        assert (row.client_id, prompt(row)) not in asked
        for answer in responses(row):
            assert (prompt(row), answer) not in answered
            assert (*turns(row), answer) not in begun
        assert not {turns(row)[:end] for end in range(4, len(turns(row)), 2)} & whole
    assert not {row.client_id for row in rows_of(split, "unseen")} & {row.client_id for row in train}
