"""Users of profiles that have none in the package: built from the hub's rows, or one line with the ways on."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from checkout import ROOT
from raw_rows import aya

import fedllm_bench as fb
from fedllm_bench import cli
from fedllm_bench.common.errors import UserError
from fedllm_bench.config import presets
from fedllm_bench.data.build.pipelines import OF_USERS, load_pipeline
from fedllm_bench.runs.cell import ON_REAL_ROWS, resolve_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")
PROFILES = sorted(path.stem for path in (ROOT / "benchmarks" / "profiles").glob("*.toml"))
NEWEST = "1" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A hub with six users of each language of Fed-Aya; it keeps what it was asked for."""
    asked: list[Any] = []
    codes = load_pipeline("aya").DECLARATION.recipe.languages
    rows = [
        aya(f"{code}{user}", f"{code} {user} asks {i}", f"answer {i}", language_code=code)
        for code in codes
        for user in range(6)
        for i in range(52 + user)
    ]

    def load_dataset(name: str, **options: Any) -> dict[str, list[Any]]:
        asked.append((name, options["revision"]))
        return {"train": rows}

    def dataset_info(self: Any, name: str, *, revision: str | None, timeout: float) -> Any:
        asked.append(("info", name, revision))
        return SimpleNamespace(sha=revision or NEWEST)

    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    return asked


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is reached; a model must not even be asked for."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    for target in ("huggingface_hub.snapshot_download", "fedllm_bench.config.base_model.locate"):
        monkeypatch.setattr(target, lambda *_, **__: pytest.fail("a model was asked for"))


def test_forty_users_of_eight_languages_are_built_once_at_the_commit_of_the_preset(hub: list[Any]) -> None:
    config = presets.load("aya", "fedavg", "small")
    split = resolve_split(config)
    languages = {row.client_id: row.language for row in split.rows("train")}
    assert len(split.manifest.clients) == 40
    assert set(Counter(languages.values()).values()) == {5}
    assert split.name == "aya-small"
    assert split.manifest.upstream.revision == presets.builds_of("small")["aya"]["revision"]
    assert hub[0] == ("info", "CohereForAI/aya_dataset", split.manifest.upstream.revision)
    assert [name for name, *_ in hub[1:]] == ["CohereForAI/aya_dataset"] * 2
    before = list(hub)
    assert resolve_split(config).hash == split.hash
    assert hub == before  # the cache has it
    assert split.manifest.unseen


def test_without_a_stated_commit_it_is_the_newest_one_and_the_manifest_says_which(
    hub: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "builds_of", lambda profile: {"aya": {"max_clients": 3, "min_samples": 50}})
    split = resolve_split(presets.load("aya", "fedavg", "gpu24"))
    assert split.manifest.upstream.revision == NEWEST
    assert (len(split.manifest.clients), split.name) == (3, "aya-gpu24")


def test_a_split_that_is_named_is_taken(tiny_split, no_hub: None) -> None:
    config = presets.load("aya", "fedavg", "small", split=str(tiny_split.folder))
    assert resolve_split(config).hash == tiny_split.hash


@pytest.mark.parametrize("words", [["bench", "aya", "fedavg"], ["grid", "aya", "--methods", "fedavg"]])
def test_without_a_hub_there_is_one_line_with_three_ways_on(no_hub: None, tmp_path, capsys, words: list[str]) -> None:
    assert cli.main([*words, "--profile", "small", "--out", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in ("PROFILE=small", "Name or service not known", "hf auth login", "SPLIT=DIR (--split DIR)"):
        assert word in line
    assert "fedllm-bench data build aya --raw FILE_OR_FOLDER --out DIR" in line
    assert "fedllm-bench data build rows --raw my.jsonl" in line
    assert not (tmp_path / "runs").exists()


def test_the_api_says_the_same(no_hub: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hf auth login"):
        fb.bench("aya", "fedavg", profile="small", out=tmp_path / "runs", progress=False)


def test_gated_rows_are_the_same_line(hub: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    error = datasets.exceptions.DatasetNotFoundError("Dataset is a gated dataset on the Hub.")

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"is gated: accept its licence .*SPLIT=DIR \(--split DIR\)") as caught:
        resolve_split(presets.load("chatbot_it", "fedavg", "small"))
    assert "\n" not in str(caught.value)


def test_a_data_set_without_a_build_names_two_ways(no_hub: None) -> None:
    with pytest.raises(UserError, match=r"builds no users of rows; build a split of files: .*data build rows"):
        resolve_split(presets.load("rows", "fedavg", "small"))


def test_the_builds_of_all_profiles_are_recipes_of_pipelines() -> None:
    seen = 0
    for profile in PROFILES:
        for dataset, build in presets.builds_of(profile).items():
            recipe = {key: value for key, value in build.items() if key != "revision"}
            replace(load_pipeline(dataset).DECLARATION.recipe, **recipe)  # refuses what is no key or value
            assert presets.load(dataset, "fedavg", profile).profile == profile
            seen += 1
    assert seen == len(ON_REAL_ROWS) * len(OF_USERS)
    for profile in ON_REAL_ROWS:
        assert presets.builds_of(profile).keys() == set(OF_USERS)
    assert {"mini", "paper"} == set(PROFILES) - set(ON_REAL_ROWS)


def test_the_preset_says_how_many_users_it_builds() -> None:
    path = ROOT / "benchmarks" / "profiles" / "small.toml"
    text = path.read_text(encoding="utf-8")
    build = tomllib.loads(text)["builds"]["aya"]
    languages = load_pipeline("aya").DECLARATION.recipe.languages
    assert build["per"] == f"language:{40 // len(languages)}"
    assert "40 users" in text
