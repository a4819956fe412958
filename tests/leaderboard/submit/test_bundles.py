"""A stranger's folder is opened without harm: every hostile entry is a problem with its code, and all at once."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import sys

import pytest
from submitted_runs import codes, encoded, head, listed, packed, scores_of, small_contents, write_submission

from fedllm_bench.common.files import read_json, sha256_json
from fedllm_bench.leaderboard.submission import bundle, limits

RUN = "runs/0"
SCORES = f"{RUN}/scores/heldout.after.jsonl.gz"
SMALL = limits.SizeLimits(files=20, folders=20, file_stored=20_000, file_unpacked=2_000_000, all_stored=60_000,
                      all_unpacked=3_000_000, json=10_000, line=5_000, file_lines=500)  # fmt: skip


def opened(folder):
    return bundle.open_bundle(folder, SMALL)


def test_a_good_folder_has_no_problem_and_gives_its_records(tmp_path):
    found, wrong = opened(write_submission(tmp_path / "x"))
    assert wrong == []
    assert found.digest == sha256_json(read_json(tmp_path / "x/submission.json"))
    (run,) = found.runs()
    assert run.scores("heldout", "after") == scores_of("heldout", 0)
    assert run.scores("heldout", "before") == []
    assert run.metrics() == ["heldout"]
    assert run.lines("rounds.jsonl") == [{"round": 1}]
    assert run.json("results.json") == {}
    folder = run.unpacked(tmp_path / "run")
    assert (folder / "rounds.jsonl").read_text() == '{"round": 1}\n'
    assert sorted(run.names()) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def link(folder):
    (folder / RUN / "config.json").unlink()
    (folder / RUN / "config.json").symlink_to("/etc/hostname")


def linked_folder(folder):
    (folder / RUN / "answers").symlink_to("/etc")


def fifo(folder):
    (folder / SCORES).unlink()
    os.mkfifo(folder / SCORES)


def unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(folder)  # the name of a socket is short
        s.bind("runs/0/config.sock")


def many_files(folder):
    (folder / "runs/0/answers").mkdir()
    for number in range(10_000):
        os.mknod(folder / f"runs/0/answers/{number}")


def many_folders(folder):
    for number in range(1000):
        (folder / f"runs/{number + 1}").mkdir()


def deep_folders(folder):
    folder.joinpath(*["d"] * 100).mkdir(parents=True)


def broken_name(folder):
    (folder / os.fsdecode(b"runs/\xff\xfe")).mkdir()
    (folder / "runs/a\nb").mkdir()
    (folder / "runs/0/\x1b[2J").touch()


def same_name(folder):
    contents = small_contents()
    contents[f"{RUN}/scores/Heldout.after.jsonl.gz"] = contents[SCORES]
    write_submission(folder, contents)


def huge(folder):
    with (folder / SCORES).open("r+b") as file:
        file.truncate(10**12)  # sparse


def large_together(folder):
    content = gzip.compress(b"\xff" + os.urandom(19_000), mtime=0)  # its first line is never text
    noise = {f"{RUN}/scores/m{i}.after.jsonl.gz": content for i in range(4)}
    write_submission(folder, {**small_contents(), **noise})


def gzip_bomb(folder):
    bomb = gzip.compress(b'{"a": "%s"}\n' % (b"x" * 4000) * 800, mtime=0)
    write_submission(folder, {**small_contents(), SCORES: bomb})


def gzip_bombs(folder):
    lines = gzip.compress((b'{"a": "%s"}\n' % (b"xy" * 2000)) * 400, mtime=0)  # 1.6 MB each, within a file's limit
    write_submission(folder, {**small_contents(), **{f"{RUN}/scores/m{i}.after.jsonl.gz": lines for i in range(4)}})


def cut_gzip(folder):
    write_submission(folder, {**small_contents(), SCORES: small_contents()[SCORES][:-9]})


def two_gzips(folder):
    write_submission(folder, {**small_contents(), SCORES: small_contents()[SCORES] * 2})


def no_gzip(folder):
    write_submission(folder, {**small_contents(), SCORES: b'{"item_id": "x"}\n'})


def with_line(line: bytes):
    def change(folder):
        write_submission(folder, {**small_contents(), SCORES: gzip.compress(line, mtime=0)})

    return change


def with_packed_json(content: bytes):
    def change(folder):
        write_submission(folder, {**small_contents(), f"{RUN}/results.json.gz": gzip.compress(content, mtime=0)})

    return change


def with_json(content: bytes):
    def change(folder):
        write_submission(folder, {**small_contents(), f"{RUN}/config.json": content})

    return change


def changed(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def without(name: str):
    return lambda folder: (folder / name).unlink()


def unlisted(folder):
    (folder / f"{RUN}/scores/more.after.jsonl.gz").write_bytes(small_contents()[SCORES])


def remake(folder, contents):
    shutil.rmtree(folder)
    write_submission(folder, contents)


def no_rounds(folder):
    remake(folder, {name: c for name, c in small_contents().items() if not name.endswith("rounds.jsonl.gz")})


def no_scores(folder):
    remake(folder, {name: c for name, c in small_contents().items() if name != SCORES})


def another_seed(folder):
    write_submission(folder, small_contents((0, 7)))


def adapter(inside: bool, stated: str | None):
    """An adapter that is there or not, and what the run says of it."""

    def change(folder):
        contents = small_contents()
        if inside:
            contents[f"{RUN}/adapter/adapter_model.safetensors"] = b"tensors"
        about = stated and {"sha256": stated, "bytes": 7, "address": "", "inside": stated != "e" * 64}
        run = {**head()["runs"][0], "adapter": about}
        write_submission(folder, contents, runs=[run])

    return change


def said(**more):
    return lambda folder: (folder / "submission.json").write_bytes(
        encoded({**head(), "files": listed(small_contents()), **more})
    )


HOSTILE = {
    "a link to a file": (link, "file-missing file-required link"),
    "a link to a folder": (linked_folder, "link"),
    "a pipe": (fifo, "file-missing file-required special-file"),
    "a socket": (unix_socket, "special-file"),
    "10,000 files": (many_files, "file-missing file-required file-unknown too-many-files"),
    "1,000 folders": (many_folders, "too-many-files"),
    "100 folders deep": (deep_folders, "file-unknown"),
    "names that are no text": (broken_name, "file-unknown"),
    "names that differ in case": (same_name, "name-twice"),
    "a file of a terabyte": (huge, "file-missing file-required too-large"),
    "too much together": (large_together, "not-text too-large"),
    "a gzip bomb": (gzip_bomb, "zip-bomb"),
    "many gzip bombs": (gzip_bombs, "zip-bomb"),
    "a cut gzip": (cut_gzip, "not-gzip"),
    "two gzips in a file": (two_gzips, "not-gzip"),
    "no gzip": (no_gzip, "not-gzip"),
    "a long line": (with_line(b'{"a": "' + b"x" * 6000 + b'"}'), "long-line"),
    "many lines": (with_line(b"{}\n" * 600), "too-large"),
    "many blank lines": (with_line(b"\n" * 600), "too-large"),
    "deep JSON": (with_line(b'{"a":' + b"[" * 400 + b"]" * 400 + b"}"), "deep-json"),
    "very deep JSON": (with_json(b"[" * 9000), "deep-json"),
    "huge JSON, packed": (with_packed_json(b"[" + b"1," * 6000 + b"1]"), "zip-bomb"),
    "very deep JSON, packed": (with_packed_json(b"[" * 9000), "deep-json"),
    "huge JSON": (with_json(b"[" + b"1," * 6000 + b"1]"), "too-large"),
    "a key twice": (with_line(b'{"value": 1, "value": 2}'), "key-twice"),
    "a key twice inside": (with_json(b'{"a": {"b": 1, "\\u0062": 2}}'), "key-twice"),
    "no JSON": (with_line(b"{'a': 1}"), "not-json"),
    "not a number": (with_line(b'{"value": NaN}'), "not-json"),
    "an infinite number": (with_line(b'{"value": 1e999}'), "not-json"),
    "a huge integer": (with_line(b'{"value": 1' + b"0" * 4000 + b"}"), "not-json"),
    "no UTF-8": (with_line(b'{"a": "\xff"}'), "not-text"),
    "half a character": (with_line(b'{"a": "\\ud800"}'), "not-text"),
    "no object": (with_line(b"[1, 2]"), "record"),
    "a changed file": (changed(SCORES, packed([{"item_id": "x", "value": 9.0}])), "file-bytes file-hash"),
    "a missing file": (without(f"{RUN}/results.json.gz"), "file-missing file-required"),
    "an extra file": (unlisted, "file-unlisted"),
    "a file of no kind": (changed(f"{RUN}/run.py", b"import os"), "file-unknown"),
    "a pickle": (changed(f"{RUN}/adapter.bin", b"\x80\x04."), "file-unknown"),
    "no rounds": (no_rounds, "file-required"),
    "no scores": (no_scores, "file-required"),
    "files of a seed that is not named": (another_seed, "file-unknown"),
    "an adapter that nobody stated": (adapter(True, None), "adapter"),
    "an adapter that is not there": (adapter(False, "a" * 64), "adapter"),
    "another adapter": (adapter(True, "d" * 64), "adapter"),
    "an adapter said to be elsewhere": (adapter(True, "e" * 64), "adapter"),
    "a seed twice": (said(runs=head()["runs"] * 2), "seed-twice"),
    "no submission.json": (without("submission.json"), "not-a-submission"),
    "an empty submission.json": (changed("submission.json", b""), "not-json"),
    "a deep submission.json": (changed("submission.json", b"[" * 9_000 + b"]" * 9_000), "deep-json"),
    "a list": (changed("submission.json", b"[]"), "schema"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="pipes and names of bytes are made as on Linux")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_folders_are_problems_and_never_a_traceback(tmp_path, monkeypatch, name):
    change, wanted = HOSTILE[name]
    folder = write_submission(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    change(folder)
    _, wrong = opened(folder)
    assert " ".join(codes(wrong)) == wanted
    assert len(wrong) <= 60
    for problem in wrong:
        assert problem.line.isprintable()
        assert problem.message
        assert problem.level == "refused"


def test_there_are_dozens_of_hostile_folders():
    assert len(HOSTILE) >= 45


def test_all_problems_are_told_at_once(tmp_path):
    folder = write_submission(tmp_path / "x")
    for name in ("a link to a folder", "an extra file", "a file of no kind", "a missing file", "a changed file"):
        HOSTILE[name][0](folder)
    found, wrong = opened(folder)
    assert set(codes(wrong)) >= {"link", "file-unlisted", "file-unknown", "file-missing", "file-hash", "file-bytes"}
    assert found is not None
    assert found.runs()[0].has("config.json")


def test_a_file_with_a_wrong_hash_can_still_be_read_and_one_that_cannot_be_read_cannot(tmp_path):
    folder = write_submission(tmp_path / "x")
    changed(SCORES, packed([scores_of("heldout", 3)[0].to_dict()]))(folder)
    found, _ = opened(folder)
    assert [score.value for score in found.runs()[0].scores("heldout", "after")] == [4.0]
    gzip_bomb(folder)
    found, _ = opened(folder)
    assert not found.runs()[0].has("scores/heldout.after.jsonl")
    assert found.runs()[0].scores("heldout", "after") == []
