"""Transcripts cut at turns: prompt and answer are the whole again; the released cut loses words, and says so."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from built_splits import removed
from data_runs import run
from raw_formats import as_csv, as_jsonl, as_parquet, put
from raw_rows import write_raw

from fedllm_bench import cli
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.hh_rlhf import at_letters, at_turns, transcript_of, turns_of

pytestmark = pytest.mark.usefixtures("evaluation_sets")
WORDS = ("I am", " sorry", "\n\n", "Human:", "no", " ", "\n\nhuman: ", "Assistant", "é", "</s>", "\n")


def text(*said: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {words}" for place, words in enumerate(said))


def row(prompt: tuple[str, ...], chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": text(*prompt, chosen), "rejected": text(*prompt, rejected)}


def built(tmp_path: Path, rows: list[dict[str, Any]], variant: str = "paper", **options: Any) -> Split:
    pipeline = load_pipeline("hh_rlhf", variant=variant)
    recipe = replace(pipeline.DECLARATION.recipe, **{"heldout": 0, **options})
    return pipeline.build(write_raw(tmp_path / f"{variant}.jsonl", rows), tmp_path / variant, recipe)


def test_prompt_and_answer_are_the_transcript_again():
    """Also where both answers begin with the same words, and where a text says "Human:" without being a turn."""
    rng = random.Random(0)
    for _ in range(300):
        said = tuple("x" + "".join(rng.choices(WORDS, k=3)).replace("\n\nHuman:", "").replace("\n\nAssistant:", "")
                     for _ in range(rng.choice((1, 3, 5))))  # fmt: skip
        shared = "same words " * rng.randrange(2)
        sides = [text(*said, f"{shared}{end}") for end in ("yes", "yet another")]
        pair = at_turns(*sides)
        assert pair.failed == ()
        for side, answer in zip(sides, pair.answers, strict=True):
            assert transcript_of((*pair.turns, ("assistant", answer))) == side


def test_the_released_cut_loses_what_both_answers_begin_with(tmp_path):
    pair = at_letters(text("q", "I'm sorry"), text("q", "I'd say so"))
    assert pair.turns == (("user", "q"),)
    assert pair.answers == ("'m sorry", "'d say so")  # from the last letter of what they share
    assert [note.value for note in pair.notes] == ["I'"]
    whole = at_letters(text("q", "yes"), text("q", "no"))
    assert (whole.turns, whole.answers, whole.notes) == ((("user", "q"),), ("yes", "no"), ())
    rows = [row((f"q{i}",), f"so it is {i}", f"so be it {i}") for i in range(6)]
    split = built(tmp_path, [*rows, row(("p",), "a", "b")], "released", heldout=0)
    assert any("of 6 raw rows both answers begin with the same words" in note for note in split.manifest.notes)
    assert split.manifest.version != built(tmp_path, rows).manifest.version
    assert not any("released cut" in note for note in open_split(tmp_path / "paper").manifest.notes)


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "no assistant": ({"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}, "transcript"),
    "no turn": ({"chosen": "hello", "rejected": "hello"}, "transcript"),
    "nothing": ({"chosen": "", "rejected": ""}, "transcript"),
    "null": ({"chosen": None, "rejected": text("q", "a")}, "transcript"),
    "two humans": ({"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": text("a", "c")}, "transcript"),
    "two assistants": ({"chosen": text("a", "b") + "\n\nAssistant: c", "rejected": text("a", "d")}, "transcript"),
    "words before": ({"chosen": "Hi." + text("q", "a"), "rejected": "Hi." + text("q", "b")}, "transcript"),
    "begins with the assistant": ({"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "transcript"),
    "other questions": ({"chosen": text("q", "a", "r", "b"), "rejected": text("q", "c", "r", "b")}, "parted"),
    "other lengths": ({"chosen": text("q", "a", "r", "b"), "rejected": text("q", "c")}, "parted"),
    "the same": (row(("q",), "a", "a "), "equal"),
    "empty answer": (row(("q",), "", "b"), "empty"),
    "empty question": (row(("",), "a", "b"), "empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malformed_row_is_counted(tmp_path, name):
    bad, step = HOSTILE[name]
    split = built(tmp_path, [bad, *(row((f"q{i}",), "yes", "no") for i in range(5))])
    assert removed(split) == {step: 1}
    assert len(split.preference_rows("train")) == 5


@pytest.mark.parametrize("name", HOSTILE)
def test_the_released_cut_takes_no_malformed_row_down_with_it(tmp_path, name):
    split = built(tmp_path, [HOSTILE[name][0], *(row((f"q{i}",), "yes", "no") for i in range(5))], "released")
    assert len(split.preference_rows("train")) in (5, 6)


def test_files_of_all_kinds_and_the_command(tmp_path, capsys):
    rows = [row((f"q{i}", "a", f"r{i}"), f"good {i}", f"bad {i}") for i in range(20)]
    hashes = set()
    for kind, write in ((".jsonl", as_jsonl), (".parquet", as_parquet), (".csv", as_csv)):
        raw = put(tmp_path / f"my{kind}", write(rows))
        assert run("build", "hh_rlhf", "--raw", raw, "--out", tmp_path / kind) == 0
        hashes.add(open_split(tmp_path / kind).hash)
    assert len(hashes) == 1
    split = open_split(tmp_path / ".jsonl")
    assert [client.id for client in split.manifest.clients] == [f"iid-{i:03d}" for i in range(5)]
    first = split.preference_rows("train")[0]
    assert [turn["role"] for turn in first.prompt] == ["user", "assistant", "user"]
    words = ("--raw", tmp_path / "my.jsonl", "--out", tmp_path / "r", "--variant", "released")
    assert run("build", "hh_rlhf", *words) == 0
    released = open_split(tmp_path / "r").manifest
    assert released.recipe["partition"] == "released:5:20000:2023"
    assert (sum(client.train for client in released.clients), released.clients[0].heldout) == (20, 0)
    twice = put(tmp_path / "twice.jsonl", as_jsonl([*rows, *rows]))
    assert run("build", "hh_rlhf", "--raw", twice, "--out", tmp_path / "t", *words[4:], "--heldout", "0.3") == 0
    assert removed(open_split(tmp_path / "t"))["duplicates"] > 0  # else a held-out row had two scores
    capsys.readouterr()
    for dataset in ("aya", "fed_dolly", "mixed"):
        assert cli.main(["data", "build", dataset, *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--variant released: {dataset} has no such split" in line
        assert "hh_rlhf" in line


def test_a_long_transcript_is_read_in_one_go():
    said = tuple(f"{i}" for i in range(2001))
    assert len(at_turns(text(*said, "a"), text(*said, "b")).turns) == 2001
    assert len(turns_of("\n\n" * 100_000 + "Human: x")) == 1
