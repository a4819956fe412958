"""What is kept of a submission gives the same site, holds for its very content only, and is passed over when broken."""

from __future__ import annotations

import json
import shutil
import zlib

import pytest
from board_submissions import write_method

from fedllm_bench.common import files
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.site import build, read_cache
from fedllm_bench.leaderboard.submission import bundle, recompute

LEVELS = {"fedavg": 0.50, "fedprox": 0.52, "scaffold": 0.75}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "board"


@pytest.fixture
def read(monkeypatch):
    """Runs that were read from their records, by folder."""
    found = []
    plain = build.seed_scores

    def counted(run):
        inside = next(iter(run.files.values()))
        found.append(next(place.name for place in inside.parents if place.parent.name == "submissions"))
        return plain(run)

    monkeypatch.setattr(build, "seed_scores", counted)
    return found


@pytest.fixture
def root(tmp_path):
    for method, level in LEVELS.items():
        write_method(tmp_path / "submissions", method, level, seeds=(0, 1))
    return tmp_path / "submissions"


def site(root, out):
    assert build.build(root, out).left_out == {}
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def kept_files(cache):
    return sorted(cache.glob("*.read"))


def test_the_site_has_the_same_bytes_with_and_without_the_cache(root, cache, read, tmp_path):
    cold = site(root, tmp_path / "cold")
    assert len(read) == 6
    assert len(kept_files(cache)) == 3
    assert site(root, tmp_path / "warm") == cold
    assert len(read) == 6


@pytest.mark.slow
def test_validating_first_keeps_what_building_reads(root, cache, read, tmp_path):
    for path in sorted(root.iterdir()):
        validate.validate(path, validate.context_of())
    assert len(kept_files(cache)) == 3
    warm = site(root, tmp_path / "warm")
    assert read == []
    shutil.rmtree(cache)
    assert site(root, tmp_path / "cold") == warm
    assert len(read) == 6


def test_a_changed_submission_is_read_anew(root, cache, read, tmp_path):
    before = site(root, tmp_path / "before")
    shutil.rmtree(root / "2026-01-31_scaffold")
    write_method(root, "scaffold", 0.1, seeds=(0, 1))
    read.clear()
    after = site(root, tmp_path / "after")
    assert read == ["2026-01-31_scaffold"] * 2
    assert after["board.csv"] != before["board.csv"]


def test_a_record_of_a_tier_is_part_of_what_was_read(root, cache, read, tmp_path):
    site(root, tmp_path / "before")
    (root / "2026-01-31_fedavg" / "records").mkdir()
    files.write_json(root / "2026-01-31_fedavg" / "records" / "rejudged-2026-02-01-1.json", {"version": 0})
    read.clear()
    build.build(root, tmp_path / "after")
    assert read == ["2026-01-31_fedavg"] * 2


def test_changed_code_reads_everything_again(root, cache, read, tmp_path, monkeypatch):
    site(root, tmp_path / "before")
    monkeypatch.setattr(read_cache, "code_hash", lambda: "other code")
    site(root, tmp_path / "after")
    assert len(read) == 12


def of_another(path):
    others = [other for other in path.parent.glob("*.read") if other != path]
    path.write_bytes(others[0].read_bytes())


def without_scores(path):
    value = json.loads(zlib.decompress(path.read_bytes()))
    del value["entry"]["measures"]
    path.write_bytes(zlib.compress(json.dumps(value).encode()))


BREAKS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "no JSON": lambda path: path.write_bytes(zlib.compress(b"{")),
    "a pickle": lambda path: path.write_bytes(b"\x80\x04K\x01."),
    "without scores": without_scores,
    "that of another submission": of_another,
    "a folder": lambda path: [path.unlink(), path.mkdir()],
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_is_as_good_as_none(name, root, cache, read, tmp_path):
    cold = site(root, tmp_path / "cold")
    for path in kept_files(cache)[:1]:
        BREAKS[name](path)
    read.clear()
    assert site(root, tmp_path / "again") == cold
    assert len(read) == 2
    if name != "a folder":
        assert site(root, tmp_path / "mended") == cold
        assert len(read) == 2


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(root, read, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "file"))
    site(root, tmp_path / "out")
    assert len(read) == 6


def test_what_json_cannot_hold_is_not_kept(root, cache, tmp_path):
    kept = read_cache
    opened, _ = bundle.open_bundle(root / "2026-01-31_fedavg")
    found = kept.kept_of(opened, [recompute.seed_scores(run) for run in opened.runs()])
    kept.save(opened, found)
    assert kept.load(opened).entry == found.entry
    shutil.rmtree(cache)
    object.__setattr__(found.entry, "epsilon", float("inf"))
    kept.save(opened, found)
    assert kept.load(opened) is None
