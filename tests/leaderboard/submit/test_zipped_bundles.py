"""A zipped submission is opened as its folder would be, and hostile entries are never written."""

from __future__ import annotations

import gc
import io
import stat
import struct
import zipfile

import pytest
from submitted_runs import codes, small_contents, write_submission

from fedllm_bench.leaderboard.submission import bundle, limits

SMALL = limits.SizeLimits(files=20, folders=20, file_stored=20_000, all_stored=2_000_000)
SCORES = "runs/0/scores/heldout.after.jsonl.gz"


@pytest.fixture
def entries(tmp_path):
    """Name -> bytes of a good submission."""
    folder = write_submission(tmp_path / "good")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def zipped(path, entries, *more, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        for name, content in more:
            archive.writestr(name, content)
    return path


def opened(path):
    return bundle.open_bundle(path, SMALL)


@pytest.mark.parametrize("top", ["", "2026-11-21_x/"])
def test_a_zip_is_opened_as_its_folder_and_goes_with_the_bundle(tmp_path, entries, top):
    path = zipped(tmp_path / "x.zip", {top + name: content for name, content in entries.items()}, ("__MACOSX/._x", b""))
    found, wrong = opened(path)
    assert wrong == []
    assert found.digest == opened(tmp_path / "good")[0].digest
    assert found.runs()[0].lines("rounds.jsonl") == [{"round": 1}]
    folder = found.folder
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


def link(name="runs/0/answers"):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def device():
    entry = zipfile.ZipInfo("runs/0/clients.jsonl.gz")
    entry.external_attr = (stat.S_IFCHR | 0o600) << 16
    return entry


ENTRIES = {
    "a link": (link(), b"/etc", "link"),
    "a link in the place of a record": (link("runs/0/clients.jsonl.gz"), b"/etc/hostname", "link"),
    "a device": (device(), b"", "special-file"),
    "out of the folder": ("../../evil.json", b"{}", "unsafe-name"),
    "out of it further in": ("runs/0/../../../evil.json", b"{}", "unsafe-name"),
    "absolute": ("/tmp/evil.json", b"{}", "unsafe-name"),
    "of another system": ("runs\\0\\..\\evil.json", b"{}", "unsafe-name"),
    "with a drive": ("C:/evil.json", b"{}", "unsafe-name"),
    "long": ("runs/0/" + "x" * 500, b"", "unsafe-name"),
    "code": ("runs/0/run.py", b"import os", "file-unknown"),
    "a bomb": ("runs/0/clients.jsonl.gz", b"0" * 3_000_000, "zip-bomb"),
    "twice": (SCORES, b"", "name-twice"),
    "in another case": (SCORES.replace("heldout", "HELDOUT"), small_contents()[SCORES], "file-unlisted name-twice"),
    "large": ("runs/0/clients.jsonl.gz", bytes(range(256)) * 100, "too-large"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ENTRIES)
def test_hostile_entries_are_problems_and_are_not_written(tmp_path, entries, name):
    entry, content, wanted = ENTRIES[name]
    found, wrong = opened(zipped(tmp_path / "x.zip", entries, (entry, content)))
    assert " ".join(codes(wrong)) == wanted
    assert all(problem.line.isprintable() for problem in wrong)
    assert found.runs()[0].lines("rounds.jsonl") == [{"round": 1}]  # the rest can be looked at
    assert not any("evil" in p.name for p in [*tmp_path.rglob("*"), *found.folder.rglob("*")])


def test_all_hostile_entries_are_told_at_once(tmp_path, entries):
    several = [ENTRIES[name][:2] for name in ("a link", "absolute", "code", "a bomb")]
    _, wrong = opened(zipped(tmp_path / "x.zip", entries, *several))
    assert codes(wrong) == ["file-unknown", "link", "unsafe-name", "zip-bomb"]


def patched(content, at, value):
    return content[:at] + value + content[at + len(value) :]


def whole(tmp_path, entries):
    return zipped(tmp_path / "whole.zip", entries).read_bytes()


def encrypted(tmp_path, entries):
    content = whole(tmp_path, entries)
    at = content.index(b"PK\1\2")
    return patched(content, at + 8, b"\1\0")


def many(tmp_path, entries):
    return zipped(tmp_path / "m.zip", {f"runs/0/{i}": b"" for i in range(10_000)}).read_bytes()


def zip64(tmp_path, entries):
    content = whole(tmp_path, entries)
    end = content.rindex(b"PK\5\6")
    return content[:end] + b"PK\6\7" + b"\0" * 16 + content[end:]


def lying_size(tmp_path, entries):
    """The central directory says that the first file is one byte."""
    content = whole(tmp_path, entries)
    at = content.index(b"PK\1\2")
    return patched(content, at + 24, struct.pack("<I", 1))


def unusual(tmp_path, entries):
    return zipped(tmp_path / "b.zip", entries, compression=zipfile.ZIP_BZIP2).read_bytes()


def broken_crc(tmp_path, entries):
    stored = zipped(tmp_path / "s.zip", entries, compression=zipfile.ZIP_STORED).read_bytes()
    return stored.replace(entries["runs/0/config.json"], b"[]\n", 1)


def nothing(tmp_path, entries):
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    return file.getvalue()


BROKEN = {
    "no zip": (lambda *_: b"hello", "zip"),
    "empty": (lambda *_: b"", "zip"),
    "a web page": (lambda *_: b"<!doctype html>", "zip"),
    "an end without a beginning": (lambda *_: b"PK\5\6" + b"\xff" * 18, "too-many-files"),
    "cut": (lambda *given: whole(*given)[:-30], "zip"),
    "cut in front": (lambda *given: whole(*given)[700:], "zip"),
    "encrypted": (encrypted, "file-missing file-required zip"),
    "10,000 entries": (many, "too-many-files"),
    "zip64": (zip64, "zip"),
    "a size that is a lie": (lying_size, "file-missing file-required zip"),
    "an unusual method": (unusual, "zip"),
    "a changed file": (broken_crc, "file-missing file-required zip"),
    "an empty zip": (nothing, ""),
    "too large": (lambda *_: b"PK" * 1_100_000, "too-large"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_zips_are_problems_and_never_a_traceback(tmp_path, entries, name):
    make, wanted = BROKEN[name]
    path = tmp_path / "x.zip"
    path.write_bytes(make(tmp_path, entries))
    found, wrong = opened(path)
    assert set(codes(wrong)) - {"not-a-submission"} == set(wanted.split())
    assert (found is None) == ("not-a-submission" in codes(wrong))


def test_what_is_no_folder_and_no_zip_is_one_problem(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for place in ("nothing", "link", "a\0b"):
        found, wrong = opened(tmp_path / place)
        assert found is None
        assert codes(wrong) == ["unreadable"]
