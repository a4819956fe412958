"""A data set says where on the hub its rows are; the manifest names the commit that they came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_builds
import huggingface_hub
import pytest
from data_runs import run
from hub_site import COMMIT, hub_of
from raw_formats import as_jsonl, as_parquet, put
from raw_rows import aya

from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.hub import HubSource, as_declared, at_commit, declared_source, raw_source
from fedllm_bench.data.build.pipelines import load_pipeline
from fedllm_bench.data.build.recipe import Declaration, Recipe
from fedllm_bench.data.manifest import open_split

CARD = b"""---
configs:
- {config_name: main, data_files: [{split: train, path: main/train*}, {split: test, path: main/test*}]}
- {config_name: other, data_files: [{split: train, path: other/*}]}
---
"""


def tasks(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"do {i}", "input": "", "output": f"done {i}"} for i in range(count)]


REPOSITORIES = {
    "org/plain": {"README.md": b"", "data/train-00000-of-00001.parquet": as_parquet(tasks(9))},
    "org/parts": {
        "README.md": CARD,
        "main/train.parquet": as_parquet(tasks(5)),
        "main/test.parquet": as_parquet(tasks(7)),
        "other/train.parquet": as_parquet(tasks(3)),
    },
    "org/script": {"script.py": b"raise SystemExit", "data/a.jsonl": as_jsonl(tasks(4)), "data/b.jsonl": b"not read"},
}
PLAIN = {"upstream": "org/plain"}
PARTS = {"upstream": "org/parts", "subset": "main"}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"declaration": PLAIN}, {"rows": 9, "id": "org/plain", "revision": COMMIT, "licence": "MIT"}),
    ({"declaration": PLAIN | {"commit": COMMIT}}, {"rows": 9, "revision": COMMIT}),
    ({"declaration": PLAIN | {"commit": COMMIT[:7]}}, {"rows": 9, "revision": COMMIT}),
    ({"declaration": PLAIN | {"commit": "1234567"}}, {"error": "the hub has no such dataset or commit"}),
    ({"declaration": PLAIN, "raw": "hub:org/plain"}, {"rows": 9, "revision": COMMIT, "licence": "MIT"}),
    ({"declaration": PARTS}, {"rows": 7, "id": "org/parts:main"}),  # the rows of train are among those of test
    ({"declaration": PARTS | {"splits": ("train",)}}, {"rows": 5}),
    ({"declaration": PARTS, "raw": "hub:org/parts:other"}, {"rows": 3, "id": "org/parts:other"}),
    ({"declaration": PARTS | {"splits": ("dev",)}}, {"error": "has no split 'dev'; it has test, train"}),
    ({"declaration": PARTS | {"subset": ""}}, {"error": "--raw hub:org/parts:SUBSET@" + COMMIT + ": 'main', 'other'"}),
    ({"declaration": {"upstream": "org/script"}}, {"error": "scripts are no longer supported"}),
    ({"declaration": {"upstream": "org/script", "files": ("data/a.jsonl",)}}, {"rows": 4, "revision": COMMIT}),
    ({"declaration": {"upstream": "org/none"}}, {"error": "the hub has no such dataset or commit that you may read"}),
    ({"declaration": PLAIN, "raw": "hub:org/parts:main"}, {"licence": "MIT for rows of org/plain; other raw rows keep "
      "their own licence"}),
]  # fmt: skip


def test_rows_are_read_from_a_hub_as_declared(tmp_path: Path) -> None:
    """The client of the hub reads the address once, so it runs in a process of its own."""
    with hub_of(REPOSITORIES) as (address, asked):
        environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}
        words = [sys.executable, hub_builds.__file__, json.dumps([case for case, _ in CASES]), str(tmp_path)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(CASES) == 14
    for got, (case, expected) in zip(found, CASES, strict=True):
        error = expected.pop("error", None)
        assert (error in got["error"]) if error else "error" not in got, (case, got)
        assert got | expected == got, (case, got)
    assert len({got["hash"] for got in found[:3]}) == 1
    assert not any("b.jsonl" in path for path in asked)


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that knows one commit; and what it was asked for."""
    asked: list[str] = []

    def dataset_info(self: Any, name: str, *, revision: str | None, timeout: float) -> Any:
        asked.append(f"{name} {revision}")
        return SimpleNamespace(sha=COMMIT)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return asked


def stated(**more: Any) -> Declaration:
    return Declaration(**{"dataset": "d", "upstream": "o/n", "licence": "l", "version": "1", "recipe": Recipe()} | more)


def test_a_whole_commit_is_not_asked_for(newest: list[str]) -> None:
    assert at_commit(HubSource("o/n", COMMIT)) == HubSource("o/n", COMMIT)
    assert newest == []
    assert at_commit(HubSource("o/n")).revision == COMMIT
    assert at_commit(HubSource("o/n", COMMIT[:7], "s")) == HubSource("o/n", COMMIT, "s")
    assert newest == ["o/n None", f"o/n {COMMIT[:7]}"]
    with pytest.raises(UserError, match="the hub names no commit for fffffff"):
        at_commit(HubSource("o/n", "fffffff"))


def test_a_hub_that_names_no_commit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (None, "main", COMMIT.upper(), COMMIT + "\n"):
        info = SimpleNamespace(sha=answer)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, found=info, **__: found)
        with pytest.raises(UserError, match="names no commit for main") as caught:
            at_commit(HubSource("o/n"))
        assert "\n" not in str(caught.value)


def test_what_the_declaration_says_is_of_its_own_upstream() -> None:
    declared = stated(subset="main", splits=("train_sft",), commit=COMMIT)
    assert declared_source(declared) == HubSource("o/n", COMMIT, "main", ("train_sft",))
    assert as_declared(raw_source("hub:o/n"), declared) == HubSource("o/n", "", "main", ("train_sft",))
    assert as_declared(raw_source("hub:o/n:x"), declared) == HubSource("o/n", "", "x")
    assert as_declared(raw_source("hub:o/other"), declared) == HubSource("o/other")
    with pytest.raises(UserError, match=r"its upstream \(our wards\) is no dataset of the hub; give --raw"):
        declared_source(stated(upstream="our wards"))


def test_without_raw_the_upstream_is_read_at_its_newest_commit(
    newest: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [aya("u", f"question {i}", "a") for i in range(12)]
    asked: list[Any] = []

    def load_dataset(name: str, **options: Any) -> dict[str, Any]:
        asked.append((name, options["revision"]))
        return {"train": rows}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    assert run("build", "aya", "--min-samples", 1, "--decontaminate", "off") == 0
    upstream = open_split(tmp_path / "splits" / "aya").manifest.upstream
    assert (upstream.id, upstream.revision) == ("CohereForAI/aya_dataset", COMMIT)
    assert asked == [("CohereForAI/aya_dataset", COMMIT)] * 2
    assert newest == ["CohereForAI/aya_dataset None"]


def test_rows_of_ones_own_have_no_place_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "build", "rows", "--prompt", "q", "--completion", "a", "--client-column", "w"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs --raw (the file, folder or dataset of the hub with the rows)" in line


def test_files_of_other_splits_in_a_folder_are_not_read_as_rows(tmp_path: Path) -> None:
    from fedllm_bench.data_prep.tables import Fields, table

    for name, count in {"train_sft": 6, "train_gen": 9}.items():
        put(tmp_path / "raw" / f"data/{name}-00000-of-00001.parquet", as_parquet(tasks(count)))
    recipe = Recipe(partition="iid:2", heldout=0)
    declared = stated(splits=("train_sft",), recipe=recipe)
    parts = Fields(instruction="instruction", response="output")
    split = table(declared, parts).build(tmp_path / "raw", tmp_path / "split")
    assert len(split.rows("train")) == 6
    assert {step.step: step.rows_removed for step in split.manifest.funnel}["other_split"] == 9
    alone = put(tmp_path / "mine.parquet", as_parquet(tasks(4)))
    assert len(table(declared, parts).build(alone, tmp_path / "other").rows("train")) == 4


def clone_of(folder: Path, subsets: tuple[str, str], rows: list[dict[str, str]]) -> Path:
    """Ten training and five test rows in the folder of each subset."""
    for place, subset in enumerate(subsets):
        put(folder / subset / "train.jsonl", as_jsonl(rows[10 * place :][:10]))
        put(folder / subset / "test.jsonl", as_jsonl(rows[20 + 5 * place :][:5]))
    return folder


@pytest.mark.parametrize(("heldout", "tested"), [(0.0, 0), ("upstream", 5)])
def test_rows_of_the_upstream_test_split_are_never_trained_on(
    tmp_path: Path, heldout: float | str, tested: int
) -> None:
    """Of a folder with the whole repository; gsm8k's subset socratic is another data set."""
    pairs = [{kind: f"\n\nHuman: q{i}\n\nAssistant: {kind}" for kind in ("chosen", "rejected")} for i in range(30)]
    sums = [{"question": f"q{i}?", "answer": f"#### {i}"} for i in range(30)]
    clones = {"hh_rlhf": (("helpful-base", "harmless-base"), pairs, 2), "fed_gsm8k": (("main", "socratic"), sums, 1)}
    for dataset, (subsets, rows, num_read) in clones.items():
        raw = clone_of(tmp_path / dataset, subsets, rows)
        pipeline = load_pipeline(dataset)
        recipe = replace(pipeline.DECLARATION.recipe, heldout=heldout)
        split = pipeline.build(raw, tmp_path / "splits" / dataset, recipe)
        clients = split.manifest.clients
        assert sum(client.train for client in clients) == 10 * num_read
        assert sum(client.heldout for client in clients) == tested * num_read
        removed = {step.step: step.rows_removed for step in split.manifest.funnel}
        assert removed["other_split"] == 30 - (10 + tested) * num_read
