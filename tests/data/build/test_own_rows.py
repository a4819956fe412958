"""`data build rows`: rows of one's own in every format, what is said of them, and bad input in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from built_splits import removed
from data_runs import run
from leaks import assert_no_leaks
from raw_formats import as_arrow, as_csv, as_jsonl, as_parquet, put

from fedllm_bench import cli
from fedllm_bench.data.build import decontaminate
from fedllm_bench.data.languages import CODES, TWO_LETTERS, any_language
from fedllm_bench.data.manifest import Split, open_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAID = {"--messages": "messages", "--client-column": "site", "--name": "mine", "--licence": "CC-BY-4.0"}
PAIR = {"--prompt": "q", "--completion": "a", "--client-column": "who", "--name": "mine", "--licence": "CC-BY-4.0"}


def talk(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def conversations(sites: str = "abc", num_rows: int = 10) -> list[dict[str, Any]]:
    return [
        {"site": f"ward {site}", "lang": "de", "messages": talk(f"{site} asks {i}", f"yes {i}", "why?", f"because {i}")}
        for site in sites
        for i in range(num_rows)
    ]


def build(raw: object, out: Path, said: dict[str, str], *more: object) -> Split:
    words = [word for pair in said.items() for word in pair]
    assert run("build", "rows", "--raw", raw, "--out", out, *words, *more) == 0
    split = open_split(out)
    assert_no_leaks(split)
    return split


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "my.jsonl": as_jsonl,
    "my.jsonl.gz": as_jsonl,
    "my.parquet": as_parquet,
    "my.arrow": as_arrow,
    "my.csv": as_csv,
}


def test_every_format_gives_the_same_split(tmp_path, monkeypatch):
    rows = conversations()
    folders = {name: put(tmp_path / name, write(rows)) for name, write in FORMATS.items()}
    hub = {"train": datasets.Dataset.from_list(rows).to_iterable_dataset()}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: hub)
    sources: dict[str, object] = {**folders, "hub": f"hub:org/wards@{COMMIT}"}
    splits = {name: build(raw, tmp_path / f"of-{name}", SAID) for name, raw in sources.items()}
    assert len(splits) == 6
    assert len({split.hash for split in splits.values()}) == 1
    first = splits["my.jsonl"]
    assert [client.id for client in first.manifest.clients] == ["ward a", "ward b", "ward c"]
    assert [turn["content"] for turn in first.rows("train")[0].messages][2] == "why?"
    assert len(first.rows("heldout")) == 3
    upstream = splits["hub"].manifest.upstream
    assert (upstream.id, upstream.revision) == ("org/wards", COMMIT)


def test_the_manifest_and_the_card_say_what_the_user_said(tmp_path):
    raw = put(tmp_path / "my.jsonl", as_jsonl(conversations()))
    more = ["--upstream", "our wards", "--language", "lang"]
    split = build(raw, tmp_path / "s", SAID, *more)
    manifest = split.manifest
    assert (manifest.name, manifest.dataset, manifest.task) == ("mine", "rows", "sft")
    assert (manifest.upstream.id, manifest.licence) == ("our wards", "CC-BY-4.0")
    assert manifest.recipe["columns"] == {"messages": "messages", "client": "site", "language": "lang"}
    assert {(row.language, row.source) for row in split.rows("train")} == {("deu", "mine")}
    card = (split.folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc-by-4.0" in card
    assert "our wards" in card
    assert "aya" not in card.lower()
    assert "published" not in card
    # without --upstream the raw file names itself; another column is another split
    assert build(raw, tmp_path / "t", SAID).manifest.upstream.id == "my.jsonl"


def test_prompt_and_completion_columns(tmp_path):
    rows = [{"q": f"{who} asks {i}", "a": f"{i} times {who}", "who": 7 if who == "x" else who, "messages": "no turns"}
            for who in "xy" for i in range(10)]  # fmt: skip
    split = build(put(tmp_path / "my.csv", as_csv(rows)), tmp_path / "s", PAIR, "--language", "German")
    assert [client.id for client in split.manifest.clients] == ["7", "y"]
    assert {row.language for row in split.rows("train")} == {"deu"}
    assert {(row.prompt.split()[0], row.completion.split()[-1]) for row in split.rows("train")} == {
        ("x", "x"),
        ("y", "y"),
    }
    assert split.manifest.recipe["columns"]["language_code"] == "deu"


def test_the_split_column_is_read_where_it_is_named(tmp_path):
    rows = [
        {"q": f"q{i}", "a": f"a{i}", "who": "u", "part": "test" if i < 3 else "train", "split": "odd"} for i in range(9)
    ]
    raw = put(tmp_path / "my.jsonl", as_jsonl(rows))
    split = build(raw, tmp_path / "s", PAIR, "--split-column", "part", "--heldout", "upstream")
    assert {row.prompt for row in split.rows("heldout")} == {"q0", "q1", "q2"}
    assert len(build(raw, tmp_path / "t", PAIR).rows("train")) == 8  # "odd" is no split, and nobody asked for it
    assert cli.main(_words(raw, tmp_path / "u", PAIR | {"--split-column": "split"})) == 2


def test_rows_that_are_no_conversation_go_and_are_counted(tmp_path):
    system = [{"role": "system", "content": "be kind"}, *talk("hello", "good day")]
    bad = [{"site": "ward a", "messages": turns} for turns in (system, talk("no answer"), talk("empty", " "), [])]
    rows = [{"site": row["site"], "messages": row["messages"]} for row in conversations()]
    split = build(put(tmp_path / "my.jsonl", as_jsonl(rows + bad)), tmp_path / "s", SAID)
    assert removed(split) == {"conversation": 3, "empty": 1}


def _words(raw: object, out: Path, said: dict[str, str], *more: str) -> list[str]:
    return ["data", "build", "rows", "--raw", str(raw), "--out", str(out), *(w for p in said.items() for w in p), *more]


WITHOUT = {key: {k: v for k, v in SAID.items() if k != key} for key in SAID}
BAD: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({}, ("--client-column", "--name", "--licence")),
    (WITHOUT["--client-column"], ("--client-column", "whose row")),
    (WITHOUT["--licence"], ("--licence",)),
    (WITHOUT["--name"], ("--name",)),
    (WITHOUT["--messages"], ("no column of text", "--messages", "--prompt")),
    (SAID | {"--prompt": "q"}, ("--messages, --prompt", "give --messages")),
    (WITHOUT["--messages"] | {"--completion": "a"}, ("got --completion",)),
    (SAID | {"--licence": "  "}, ("--licence", "one line of text")),
    (SAID | {"--upstream": "two\nlines"}, ("--upstream", "one line of text")),
    (SAID | {"--upstream": ""}, ("--upstream",)),
    (SAID | {"--client-column": "messages"}, ("--messages and --client-column", "the same column 'messages'")),
    (SAID | {"--client-column": "ward"}, ("no column 'ward'", "it has 'site', 'lang', 'messages'")),
    (SAID | {"--language": "Deutsch"}, ("no column 'Deutsch'", "'Deutsch' is no known language code or English name")),
    (SAID | {"--split-column": "part"}, ("no column 'part'",)),
    (SAID | {"--client-column": "Site"}, ("no column 'Site'",)),
    (SAID | {"--messages": "site"}, ("column 'site'",)),
    (SAID | {"--name": "../mine"}, ("the split name '../mine'",)),
    (SAID | {"--name": ".."}, ("the split name '..'",)),
    (SAID | {"--name": "a/b"}, ("the split name 'a/b'",)),
    (SAID | {"--name": "aya"}, ("--name aya", "another name")),
    (SAID | {"--name": "Aya"}, ("--name Aya", "a data set of the benchmark")),
    (SAID | {"--name": "mini-x"}, ("--name mini-x: names that begin with mini- are reserved",)),
    (SAID | {"--name": "Mini-aya"}, ("--name Mini-aya: names that begin with mini- are reserved",)),
    (SAID | {"--drop-flagged": "toxicity"}, ("flag of the dataset rows",)),
]


@pytest.mark.parametrize(("said", "expected"), BAD)
def test_bad_input_is_one_line_before_anything_is_fetched(said, expected, tmp_path, monkeypatch, capsys):
    if said.get("--messages") != "site":  # what a cell holds is known when it is read
        monkeypatch.setattr(decontaminate, "fetch", lambda *_: pytest.fail("fetched"))
    raw = put(tmp_path / "my.jsonl", as_jsonl(conversations()))
    assert cli.main(_words(raw, tmp_path / "s", said)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in expected), line
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "option",
    ["messages", "prompt", "completion", "client-column", "language", "split-column", "licence", "upstream"],
)
def test_the_options_belong_to_rows_alone(option, tmp_path, capsys):
    words = ["data", "build", "aya", "--raw", "x.jsonl", "--out", str(tmp_path / "s"), f"--{option}", "x"]
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{option}: for the dataset rows alone" in line


@pytest.mark.parametrize(
    ("word", "language"),
    [
        ("de", "deu"),
        ("DE-at", "deu"),
        ("German", "deu"),
        ("deu", "deu"),
        ("quz", "quz"),
        ("", "und"),
        ("Klingon", "und"),
    ],
)
def test_languages_in_any_spelling(word, language):
    assert any_language(word) == language


def test_two_letters_stand_for_known_languages():
    assert len(TWO_LETTERS) > 90
    assert not set(TWO_LETTERS.values()) - CODES


def test_a_column_may_have_a_dot_in_its_name(tmp_path):
    rows = [{"user.id": f"u{i % 2}", "text.messages": talk(f"q{i}", f"a{i}")} for i in range(12)]
    said = SAID | {"--messages": "text.messages", "--client-column": "user.id"}
    found = {build(put(tmp_path / f"my{end}", write(rows)), tmp_path / f"s{end}", said).hash
             for end, write in ((".parquet", as_parquet), (".jsonl", as_jsonl))}  # fmt: skip
    assert len(found) == 1
