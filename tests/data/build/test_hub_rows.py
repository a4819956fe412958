"""Raw rows from the hub: as from a file, at a commit, and every trouble in one line."""

from __future__ import annotations

import importlib
from dataclasses import replace

import datasets
import pytest
from data_runs import run
from huggingface_hub.errors import HTTPError
from leaks import assert_no_leaks
from raw_rows import aya, random_rows, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.hub import HubSource, raw_source
from fedllm_bench.data.build.pipelines import OF_USERS, load_pipeline
from fedllm_bench.data.manifest import open_split

pytestmark = pytest.mark.usefixtures("evaluation_sets")

ConnectError = importlib.import_module(HTTPError.__module__.partition(".")[0]).ConnectError
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(monkeypatch):
    """`datasets.load_dataset` of a hub with the given splits; it keeps what it was asked for."""
    asked = []

    def serve(splits):
        def load_dataset(name, **options):
            asked.append((name, options))
            if isinstance(splits, Exception):
                raise splits
            return splits

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def small(dataset: str):
    recipe = load_pipeline(dataset).DECLARATION.recipe
    return replace(recipe, min_samples=5, languages=(), unseen_clients=2)


@pytest.mark.parametrize("dataset", OF_USERS)
def test_rows_of_the_hub_are_rows_of_a_file(hub, tmp_path, dataset):
    rows = random_rows(dataset, 7)
    asked = hub({"train": datasets.Dataset.from_list(rows).to_iterable_dataset()})
    pipeline = load_pipeline(dataset)
    split = pipeline.build(HubSource("org/name", COMMIT), tmp_path / "hub", small(dataset))
    assert_no_leaks(split)
    assert open_split(split.folder) == split
    assert asked == [("org/name", {"revision": COMMIT, "streaming": True})] * 2
    from_file = pipeline.build(write_raw(tmp_path / "rows.jsonl", rows), tmp_path / "file", small(dataset))
    assert split.hash == from_file.hash
    upstream = split.manifest.upstream
    assert (upstream.id, upstream.revision, upstream.files) == ("org/name", COMMIT, ())
    assert "other raw rows" in split.manifest.licence


def test_splits_of_the_hub_are_upstream_splits(hub, tmp_path):
    train = [aya("u", f"q{i}", "a") for i in range(6)]
    hub({"validation": [aya("u", "v", "a")], "train": train, "test": [aya("u", "t", "a")]})
    options = ["--min-samples", 1, "--heldout", "upstream", "--unseen", 0]
    name = load_pipeline("aya").DECLARATION.upstream
    assert run("build", "aya", "--raw", f"hub:{name}@{COMMIT}", "--out", tmp_path / "s", *options) == 0
    split = open_split(tmp_path / "s")
    assert {row.prompt for row in split.rows("heldout")} == {"t", "v"}
    assert (split.manifest.licence, split.manifest.upstream.revision) == ("Apache-2.0", COMMIT)


def gated() -> Exception:
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'org/name' is a gated dataset on the Hub.\nAsk.")
    error.__cause__ = OSError("401")
    return error


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (gated(), ["gated", "https://huggingface.co/datasets/org/name", "hf auth login"]),
        (ConnectionError("Couldn't reach 'org/name'\nmore"), ["Couldn't reach", "local files", "data get"]),
        (ConnectError("no route"), ["no route", "--from MIRROR"]),
        (datasets.exceptions.DatasetNotFoundError("doesn't exist"), ["check the name", "doesn't exist"]),
        ({"train": [{"inputs": "q"}]}, ["row 1", "no column 'targets'", COMMIT]),
        ({"train": [aya("u", "q", "a") | {"user_id": 5.0}]}, ["row 1", "'user_id' is float, not str"]),
    ],
)
def test_trouble_with_the_hub_is_one_line(hub, tmp_path, splits, words):
    hub(splits)
    with pytest.raises(UserError) as caught:
        run("build", "aya", "--raw", f"hub:org/name@{COMMIT}", "--out", tmp_path / "s")
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hub:org/name@", "no revision is given"),
        ("hub:org/name@main", "'main' is not the 40 hex digits"),
        (f"hub:org/name@{COMMIT[:39]}", "40 hex digits"),
        (f"hub:org/name@{COMMIT.upper()}", "40 hex digits"),
        (f"hub:name@{COMMIT}", "is not hub:ORG/NAME"),
        (f"hub:../name@{COMMIT}", "is not hub:ORG/NAME"),
        (f"hub:org/name:@{COMMIT}", "is not hub:ORG/NAME"),
        (f"hub:org/name:../x@{COMMIT}", "is not hub:ORG/NAME"),
        ("hub:org/name:a b", "is not hub:ORG/NAME"),
    ],
)
def test_a_place_on_the_hub_names_a_commit(text, words):
    with pytest.raises(UserError, match=words):
        raw_source(text)
