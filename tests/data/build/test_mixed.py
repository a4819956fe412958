"""Splits of several data sets, of which each client has one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from built_splits import removed
from data_runs import run
from hub_site import COMMIT
from leaks import assert_no_leaks
from raw_formats import as_jsonl, put
from raw_rows import aya, vote

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import sha256_file
from fedllm_bench.data.build.pipelines import PIPELINES, OwnPipeline
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.manifest import Split, open_split
from fedllm_bench.data_prep.tables import Fields, table

pytestmark = pytest.mark.usefixtures("evaluation_sets")


@pytest.fixture(autouse=True)
def sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two data sets more: general tasks, and sums of which repeated questions go."""
    for name, licence, once in (("general", "CC-BY-NC-4.0", ""), ("sums", "MIT", "q")):
        recipe = Recipe(partition="iid:20", heldout=0.5)  # the whole has its own
        declared = Declaration(dataset=name, upstream=f"org/{name}", licence=licence, version="3", recipe=recipe)
        made = table(declared, Fields(instruction="q", response="a"), once=once)
        monkeypatch.setitem(PIPELINES, name, OwnPipeline(DECLARATION=made.DECLARATION, build=made.build))


def raws(tmp_path: Path, count: int = 40) -> dict[str, Path]:
    general = [{"q": f"tell me of {i}", "a": f"well, {i}"} for i in range(count)]
    sums = [{"q": f"{i} plus {i} ?", "a": str(2 * i)} for i in range(count)] + [{"q": "0 plus 0 ?", "a": "none"}]
    return {
        "general": put(tmp_path / "general.jsonl", as_jsonl(general)),
        "sums": put(tmp_path / "sums.jsonl", as_jsonl(sums)),
    }


def mixed(out: Path, *words: object) -> Split:
    assert run("build", "mixed", "--out", out, *words) == 0
    split = open_split(out)
    assert_no_leaks(split)
    return split


def sizes(split: Split) -> dict[str, int]:
    return {client.id: client.train + client.heldout for client in split.manifest.clients}


def test_each_client_has_another_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = raws(tmp_path)
    split = mixed(tmp_path / "s", "--part", f"general:30={raw['general']}", "--part", f"sums={raw['sums']}")
    assert sizes(split) == {"general": 30, "sums": 40}
    assert all(("plus" in row.prompt) == (row.client_id == "sums") for row in split.rows("train"))
    assert {row.source for row in split.rows("train")} == {"general", "sums"}
    assert removed(split) == {"sums:repeated": 1, "parts": 10}
    manifest = split.manifest
    assert (manifest.dataset, manifest.name, manifest.task) == ("mixed", "mixed", "sft")
    assert manifest.recipe["parts"] == ["general:30", "sums"]
    assert manifest.recipe["partition"] == "parts:1"
    assert manifest.upstream.id == "org/general + org/sums"
    named = [(part.dataset, part.version, part.upstream.id, part.upstream.files[0]) for part in manifest.parts]
    assert [each[:3] for each in named] == [("general", "3", "org/general"), ("sums", "3", "org/sums")]
    assert [(file.name, file.sha256, file.rows) for *_, file in named] == [
        (f"{name}/{name}.jsonl", sha256_file(raw[name]), rows) for name, rows in (("general", 40), ("sums", 41))
    ]
    assert "sums: MIT for rows of org/sums" in manifest.licence
    for card in ("README.md", "card.html"):
        text = (split.folder / card).read_text(encoding="utf-8")
        assert sha256_file(raw["sums"]) in text
        assert "Each client has rows of one data set" in text
    assert "part     sums: org/sums, revision not stated" in capsys.readouterr().out


def test_the_order_of_rows_does_not_matter_and_the_number_of_a_part_does(tmp_path: Path) -> None:
    raw = raws(tmp_path)
    back = put(tmp_path / "back.jsonl", b"".join(reversed(raw["general"].read_bytes().splitlines(keepends=True))))
    words = ["--part", f"sums:20={raw['sums']}"]
    first, turned, other = (
        mixed(tmp_path / name, "--part", part, *words)
        for name, part in {"a": f"general:30={raw['general']}", "b": f"general:30={back}",
                           "c": f"general:29={raw['general']}"}.items()
    )  # fmt: skip
    assert first.hash == turned.hash
    assert sizes(other) == {"general": 29, "sums": 20}
    assert {row.row_id for row in other.rows("train") if row.client_id == "general"} < {
        row.row_id for part in ("train", "heldout") for row in first.rows(part)
    }


def test_a_part_may_have_several_clients(tmp_path: Path) -> None:
    raw = raws(tmp_path)
    parts = [word for name, file in raw.items() for word in ("--part", f"{name}:20={file}")]
    split = mixed(tmp_path / "s", *parts, "--clients-per-part", 4)
    assert sizes(split) == {f"{name}-{i:03d}": 5 for name in raw for i in range(4)}
    assert sizes(mixed(tmp_path / "t", *parts, "--clients-per-part", 4, "--max-samples", 3)) == {
        f"{name}-{i:03d}": 3 for name in raw for i in range(4)
    }
    drawn = mixed(tmp_path / "u", *parts, "--partition", "dirichlet:0.5:source:3")
    assert len(sizes(drawn)) == 3
    few = mixed(tmp_path / "v", "--part", f"general:90={raw['general']}", "--part", f"sums:9={raw['sums']}")
    assert "parts: general has 40 rows left, fewer than the 90 asked of it" in few.manifest.notes


def test_a_part_with_fewer_rows_than_clients_is_refused(tmp_path: Path) -> None:
    raw = raws(tmp_path)
    blank = put(tmp_path / "blank.jsonl", as_jsonl([{"q": " ", "a": "b"}]))
    bad = {
        "general has 5 usable rows, too few for 8 clients": (f"general:5={raw['general']}", "--clients-per-part", "8"),
        "sums has 0 usable rows, too few for 1 client ": (f"general={raw['general']}", "--part", f"sums={blank}"),
    }
    for expected, words in bad.items():
        with pytest.raises(UserError, match=f"^--part {expected}"):
            run("build", "mixed", "--out", tmp_path / "s", "--part", *words)
        assert not (tmp_path / "s").exists()


def test_a_part_keeps_the_filters_of_its_own_recipe(tmp_path: Path) -> None:
    """Aya's eight languages stay Aya's: they say nothing of the other part."""
    rows = [aya("u", f"question {i}", "a", language_code="eng" if i % 2 else "deu") for i in range(20)]
    raw = raws(tmp_path) | {"aya": put(tmp_path / "aya.jsonl", as_jsonl(rows))}
    split = mixed(tmp_path / "s", "--part", f"aya={raw['aya']}", "--part", f"general={raw['general']}")
    assert sizes(split) == {"aya": 10, "general": 40}
    assert removed(split) == {"aya:languages": 10}
    assert Counter(row.language for row in split.rows("train"))["und"] > 0


def test_the_same_row_in_two_parts_is_on_one_side(tmp_path: Path) -> None:
    rows = [{"q": f"ask {i}", "a": f"say {i}"} for i in range(40)]
    raw = put(tmp_path / "x.jsonl", as_jsonl(rows))
    split = mixed(tmp_path / "s", "--part", f"general={raw}", "--part", f"sums={raw}", "--heldout", "0.3")
    assert sum(sizes(split).values()) < 80  # assert_no_leaks, in `mixed`, says the rest


def test_parts_of_the_hub_are_named_with_their_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"q": f"tell me of {i}", "a": f"well, {i}"} for i in range(12)]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: {"train": rows})
    monkeypatch.setattr("fedllm_bench.data.build.hub.asked_commit", lambda *_: COMMIT)
    other = "f" * 40
    split = mixed(tmp_path / "s", "--part", "general", "--part", f"sums=hub:org/sums-copy@{other}")
    parts = split.manifest.parts
    assert [(part.upstream.id, part.upstream.revision) for part in parts] == [
        ("org/general", COMMIT),
        ("org/sums-copy", other),
    ]
    assert [part.licence.startswith(name) for part, name in zip(parts, ("CC-BY-NC-4.0", "MIT for"), strict=True)]
    assert parts[0].licence == "CC-BY-NC-4.0"


def test_a_manifest_whose_parts_were_changed_is_refused(tmp_path: Path) -> None:
    raw = raws(tmp_path)
    split = mixed(tmp_path / "s", "--part", f"general={raw['general']}", "--part", f"sums={raw['sums']}")
    path = split.folder / "manifest.json"
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    value["parts"][0]["licence"] = "CC0"
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    assert cli.main(["data", "verify", str(split.folder)]) == 2


BAD: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("needs its parts", "--part DATASET[:ROWS]")),
    (("--part", "general:0=x.jsonl"), ("--part 'general:0=x.jsonl'", "is not of the form")),
    (("--part", "general:many=x"), ("is not of the form",)),
    (("--part", "general:=x"), ("is not of the form",)),
    (("--part", "general:5="), ("is not of the form",)),
    (("--part", ":5"), ("is not of the form",)),
    (("--part", "nothing:5"), ("'nothing'", "aya")),
    (("--part", "rows:5=x.jsonl"), ("--part rows", "states its own columns")),
    (("--part", "mixed"), ("--part mixed", "states its own columns")),
    (("--part", "general", "--part", "general:5"), ("--part general is there twice",)),
    (("--part", "general", "--part", "chatbot_pa"), ("general and chatbot_pa are of two tasks (sft, preference)",)),
    (("--part", "general", "--clients-per-part", "0"), ("--clients-per-part 0",)),
    (("--part", "general", "--raw", "x.jsonl"), ("--raw: not of the dataset mixed",)),
    (("--part", "general", "--messages", "m"), ("--messages: not of the dataset mixed",)),
    (("--part", "general", "--partition", "user"), ("is of one data set",)),
    (("--part", "general", "--partition", "column:q"), ("is of one data set",)),
    (("--part", "general", "--partition", "released:3"), ("is of one data set",)),
    (("--part", "general=no.jsonl"), ("no raw rows at no.jsonl",)),
    (("--part", "general=hub:org/x@main"), ("'main' is not the 40 hex digits",)),
]


@pytest.mark.parametrize(("words", "expected"), BAD)
def test_bad_parts_are_one_line(
    words: tuple[str, ...], expected: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "build", "mixed", "--out", str(tmp_path / "s"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in expected), line
    assert not (tmp_path / "s").exists()


def test_columns_of_another_data_set_are_refused_with_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = put(tmp_path / "votes.jsonl", as_jsonl([vote("j", "q", "a", "b")]))
    words = ["--part", f"general={raws(tmp_path)['general']}", "--part", f"sums={raw}"]
    assert cli.main(["data", "build", "mixed", "--out", str(tmp_path / "s"), *words]) == 2
    assert "votes.jsonl, line 1 has no column 'q', 'a'" in capsys.readouterr().err
    assert cli.main(["data", "build", "aya", "--raw", str(raw), "--out", str(tmp_path / "s"), "--part", "general"]) == 2
    assert "--part and --clients-per-part: for the dataset mixed alone" in capsys.readouterr().err
