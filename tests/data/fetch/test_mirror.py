"""Mirrors of splits and evaluation assets: what was published comes back the same, what was changed is refused."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
from loopback import Site, serve

from fedllm_bench.commands import data
from fedllm_bench.common.errors import UserError
from fedllm_bench.data.build.pipelines import TRAINING_SETS
from fedllm_bench.data.fetch import assets, download
from fedllm_bench.data.fetch.mirror import get_mirror, publish
from fedllm_bench.data.manifest import open_split


@pytest.fixture(autouse=True)
def _own(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "WAITS_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def run(*words: object) -> int:
    parser = argparse.ArgumentParser(prog="fedllm-bench")
    data.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, words)])
    return args.run(args)


def test_publish_and_get_by_folder_and_by_web(tiny_split, tmp_path, capsys):
    name, mirror = tiny_split.manifest.dataset, tmp_path / "m"
    for _ in range(2):  # an older mirror is replaced
        assert run("publish", tiny_split.folder, "--to", mirror) == 0
    assert f"data get {name} --from {mirror}" in capsys.readouterr().out
    assert run("get", name, "--from", mirror, "--out", tmp_path / "a") == 0
    assert open_split(tmp_path / "a").hash == tiny_split.hash
    shutil.rmtree(tmp_path / "cache")
    files = {f"/m/{p.name}": p.read_bytes() for p in mirror.iterdir()}
    with serve(Site(files, cuts=[50, 100])) as site:
        got = get_mirror(name, f"{site.address}/m", tmp_path / "b")
        assert any(r for _, r in site.asked)
    assert got.hash == tiny_split.hash
    again = get_mirror(name, f"{site.address}/m", tmp_path / "c")  # the server is gone
    assert open_split(tmp_path / "c").hash == again.hash
    with pytest.raises(UserError, match="holds the dataset"):
        get_mirror("wildchat", str(mirror), tmp_path / "d")


def test_hostile_indexes_are_refused_and_nothing_is_written(tiny_split, tmp_path):
    mirror = tmp_path / "m"
    publish(tiny_split.folder, str(mirror))
    good = json.loads((mirror / "index.json").read_text())
    one = good["files"]["README.md"]
    files = good["files"]
    cases = {
        "not kept": {"files": files | {"README.md": {**one, "sha256": "0" * 64}}},
        "leave the folder": {"files": files | {"../x": one}},
        "which could": {"files": files | {"/etc/x": one}},
        "at most 3": {"files": files | {"README.md": {**one, "bytes": 3}}},
        "impossible": {"files": files | {"README.md": {**one, "bytes": 2**50}}},
        "no index": {"files": []},
        "format 7": {"format": 7},
        "as its index says": {"hash": "0" * 64},
        "no manifest.json": {"files": {"README.md": one}},
    }
    for words, change in cases.items():
        (mirror / "index.json").write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=words) as caught:
            get_mirror(good["dataset"], str(mirror), tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "m"]
        assert not (tmp_path / "cache" / "files" / ("0" * 64)).exists()
    (mirror / "index.json").write_text("[" * 10_000)
    with pytest.raises(UserError, match="no index"):
        get_mirror(good["dataset"], str(mirror), tmp_path / "out")


def test_places_that_cannot_be_written_or_reached_are_one_line(tiny_split, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for to, words in (
        (str(tmp_path / "full"), "no part of a mirror"),
        ("https://example.org/x", "cannot be written to"),
        ("hub:nobody", "not hub:ORG/NAME"),
        ("hub:org/name", "cannot upload"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            publish(tiny_split.folder, to)
        assert "\n" not in str(caught.value)
    for source, words in (
        ("hub:org/name", "not hub:ORG/NAME@REV"),
        ("hub:org/../x@y", "not hub:ORG/NAME@REV"),
        ("hub:org/name@main", "cannot reach"),
        ("https://example.org/m", "cannot reach"),
        (str(tmp_path / "none"), "is no file"),
    ):
        with pytest.raises(UserError, match=words):
            get_mirror("aya", source, tmp_path / "out")
    assert (tmp_path / "full" / "mine").read_text() == "x"


@pytest.mark.parametrize("words", [["get"], ["publish"], ["list"]])
def test_help_has_examples(words, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*words, "--help")
    assert caught.value.code == 0
    assert f"fedllm-bench data {words[0]}" in capsys.readouterr().out.split("example")[1]


def test_list_names_all_sets_and_what_is_cached(capsys):
    assert run("list") == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("chatbot_pa", "25513", "is not there", "mt_bench/question.jsonl"))
    lines = {line.split()[0]: line for line in out.splitlines() if line.split()}
    assert lines["alpaca"].split()[1:3] == ["iid:20", "CC-BY-NC-4.0;"]
    assert lines["fed_dolly"].endswith("column:category   CC-BY-SA-3.0; databricks/databricks-dolly-15k")
    assert TRAINING_SETS.keys() <= lines.keys()


def test_an_asset_is_fetched_once_and_a_changed_one_is_refused(tmp_path, monkeypatch):
    content = b'{"b": 1, "a": "x"}\n{"a": 2}\n'
    rows = assets.rows_sha256([{"a": 2}, {"a": "x", "b": 1}])
    asset = assets.Asset(name="x/y.jsonl", address=None, rows=2, licence="MIT", rows_sha256=rows)
    monkeypatch.setattr(assets, "ASSETS", {asset.name: asset})
    with serve(Site({"/x/y.jsonl": b'{"a": 2}\n'})) as site:
        monkeypatch.setenv("FEDLLM_BENCH_MIRROR", site.address)
        with pytest.raises(UserError, match="1 rows"):
            assets.fetch(asset.name)
        assert not assets.cached(asset)
        site.files["/x/y.jsonl"] = content
        path = assets.fetch(asset.name)
    assert assets.fetch(asset.name).read_bytes() == content
    path.write_text("broken")
    with pytest.raises(UserError, match="cannot fetch"):
        assets.fetch(asset.name)
    with pytest.raises(UserError, match="no asset"):
        assets.fetch("../x")


PINNED = [name for name, asset in assets.ASSETS.items() if asset.sha256 or asset.rows_sha256]


def test_all_assets_but_one_are_pinned():
    assert len(PINNED) == 16
    assert assets.ASSETS.keys() - {*PINNED} == {"alpaca_eval/alpaca_eval.json"}  # of which no copy was at hand


@pytest.mark.assets
@pytest.mark.parametrize("name", PINNED)
def test_real_assets_are_as_declared(name):
    assert assets.cached(assets.ASSETS[name]) or assets.fetch(name).is_file()
