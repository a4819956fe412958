"""What a build says of rows in words that a reader understands: languages, roles, and limits that are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from data_runs import run
from raw_formats import as_jsonl, put

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.choice import choose_clients
from fedllm_bench.data.build.recipe import Recipe, filters
from fedllm_bench.data.funnel_words import SHOWN, in_words
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.conversations import MALFORMED
from fedllm_bench.data_prep.rows import pipeline

pytestmark = pytest.mark.usefixtures("evaluation_sets")
SAID = {"messages": "talk", "client_column": "site", "name": "mine", "licence": "CC0-1.0", "language": "tongue"}


def row(number: int, tongue: str = "de", ask: str = "user", answer: str = "assistant", system: bool = False):
    turns = [{"role": ask, "content": f"question {number}"}, {"role": answer, "content": f"reply {number}"}]
    before = [{"role": "system", "content": "be kind"}] if system else []
    return {"site": "a", "tongue": tongue, "talk": before + turns}


def build(rows: list[dict[str, object]], tmp_path: Path) -> Split:
    raw = put(tmp_path / "my.jsonl", as_jsonl(rows))
    words = [word for key, value in SAID.items() for word in (f"--{key.replace('_', '-')}", value)]
    run("build", "rows", "--raw", raw, "--out", tmp_path / "s", *words)
    return open_split(tmp_path / "s")


def notes_of(split: Split, begin: str) -> list[str]:
    return [note for note in split.manifest.notes if note.startswith(begin)]


def test_unknown_languages_are_noted_with_their_count_and_values(tmp_path):
    words = ["Klingon", "zz", "", "und", "Klingon", *["de"] * 5]
    split = build([row(i, word) for i, word in enumerate(words)], tmp_path)
    (note,) = notes_of(split, "language: ")
    assert note.startswith("language: 4 raw rows with no known language code or English name")
    assert note.endswith("taken as und: 'Klingon', 'zz', ''")


def test_of_many_unknown_languages_the_first_are_shown(tmp_path):
    (note,) = notes_of(build([row(i, f"tongue {i}") for i in range(9)], tmp_path), "language: ")
    assert note.endswith("'tongue 3', 'tongue 4', ...")


def test_known_languages_have_no_note(tmp_path):
    assert not notes_of(build([row(i) for i in range(9)], tmp_path), "language: ")


def test_system_turns_and_other_roles_are_named(tmp_path, capsys):
    rows = [row(i) for i in range(9)]
    rows += [row(10, system=True), row(11, system=True), row(12, ask="human", answer="gpt")]
    split = build(rows, tmp_path)
    system, others = notes_of(split, "conversation: ")
    assert system.startswith("conversation: 2 raw rows with a system turn")
    assert others.startswith("conversation: 1 raw row with other roles than user and assistant")
    assert others.endswith("roles found: 'human', 'gpt'; rename them")
    assert "turns must go user, assistant, ..., and end with assistant" in capsys.readouterr().out


def test_where_no_row_is_left_the_error_names_the_roles(tmp_path):
    with pytest.raises(UserError, match=r"turns must go user, .*; roles found: 'human', 'gpt'; rename them$"):
        build([row(i, ask="human", answer="gpt") for i in range(4)], tmp_path)


def test_no_limit_is_said_plainly_and_the_manifest_keeps_its_words(tmp_path, capsys):
    split = build([row(i) for i in range(9)], tmp_path)
    shown = (capsys.readouterr().out, *((split.folder / name).read_text() for name in ("README.md", "card.html")))
    stored = {step.step: step.reason for step in split.manifest.funnel}
    for step in ("conversation", "languages", "length", "max_clients", "max_samples"):
        assert all(SHOWN[stored[step]] in text for text in shown), step
    assert not any("(no limit)" in text or "any number" in text for text in shown)


def test_a_limit_stays_as_it_is_and_half_a_range_is_said_in_words():
    steps = filters(replace(Recipe(), languages=("deu",), min_prompt_characters=5), pipeline(SAID | {"raw": "x"})[0])
    reasons = {step.step: in_words(step.reason) for step in steps}
    assert reasons["languages"] == "language not in deu"
    assert reasons["length"] == "characters not within 5 or more (prompt) and 1 or more (completion)"
    most = choose_clients({}, {}, Recipe(max_clients=3)).left[-1].reason
    assert in_words(most) == most == "users who are not among the 3 with most rows"
    assert MALFORMED.reason in SHOWN
