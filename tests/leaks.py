"""The leakage rules of a split, as plain loops over its rows: for every split that a test builds."""

from __future__ import annotations

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


def assert_no_leaks(split: Split) -> None:
    """Held-out and unseen rows share neither (client, prompt) nor (prompt, response) with training, nor
    does a conversation on one side continue one on the other."""
    train = rows_of(split, "train")
    asked = {(row.client_id, prompt_of(row)) for row in train}
    answered = {(prompt_of(row), answer) for row in train for answer in responses_of(row)}
    whole = {(*turns_of(row), answer) for row in train for answer in responses_of(row)}
    begun = {tuple(turns_of(row)[:end]) for row in train for end in range(4, len(turns_of(row)), 2)}
    tested = rows_of(split, "heldout") + rows_of(split, "unseen")
    for row in tested:
        assert (row.client_id, prompt_of(row)) not in asked
        for answer in responses_of(row):
            assert (prompt_of(row), answer) not in answered
            assert (*turns_of(row), answer) not in begun
        turns = turns_of(row)
        assert not {tuple(turns[:end]) for end in range(4, len(turns), 2)} & whole
    assert not {row.client_id for row in rows_of(split, "unseen")} & {row.client_id for row in train}
