"""A submission is written whole or not at all, under a name of its own, and never over somebody else's."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
from submitted_runs import encoded as json_bytes
from submitted_runs import head, listed, small_contents, statement, write_run, write_submission

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission import bundle, limits, schema
from fedllm_bench.leaderboard.submit import assemble as submit
from fedllm_bench.leaderboard.submit import own_runs, placing


def made(contents=None, **more):
    contents = small_contents() if contents is None else contents
    text = json_bytes({**head(), "files": listed(contents), **more})
    submission, value, _ = schema.examine(text)
    digest = importlib.import_module("fedllm_bench.common.files").sha256_json(value)
    return placing.Draft(submission=submission, contents={"submission.json": text, **contents}, digest=digest)


def all_files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("team", "name"),
    [
        ("Example Lab", "example-lab"),
        ("  ../../etc", "etc"),
        ("Müller & Söhne", "muller-sohne"),
        ("联邦", "d1b1be9a"),
        ("Lab 联邦", "lab-"),
        ("<script>", "script"),
        ("CON", "con"),
    ],
)
def test_names_are_safe_on_every_system(team, name):
    said = SimpleNamespace(track="mini-aya/fixed", method="fedavg", team=team, date="2026-11-21")
    folder = placing.folder_name(said)
    assert folder.startswith("2026-11-21_mini-aya-fixed-fedavg-")
    rest = folder.removeprefix("2026-11-21_mini-aya-fixed-fedavg-")
    assert rest.startswith(name) or len(rest) == 8
    assert rest.isascii()
    assert set(rest) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_names_in_other_scripts_do_not_fall_together():
    said = [SimpleNamespace(track="a/b", method=m, team="x", date="2026-11-21") for m in ("联邦", "学习", "Лес", "L")]
    assert len({placing.folder_name(one) for one in said}) == len(said)


def test_the_same_again_is_left_as_it_is(tmp_path):
    target = placing.write(made(), tmp_path)
    before = (target / "submission.json").stat().st_mtime_ns
    assert placing.write(made(), tmp_path) == target
    assert (target / "submission.json").stat().st_mtime_ns == before


def test_ones_own_is_replaced_whole(tmp_path):
    target = placing.write(made(small_contents((0,))), tmp_path)
    one = dict(small_contents().items())
    two = {**one, "runs/0/clients.jsonl.gz": one["runs/0/rounds.jsonl.gz"]}
    placing.write(made(two), tmp_path)
    placing.write(made(one, tuning="otherwise"), tmp_path)
    assert set(all_files(target)) == {*one, "submission.json"}


@pytest.mark.parametrize("key", ["team", "contact", "method"])
def test_somebody_elses_is_never_replaced(tmp_path, key):
    ours = made()
    folder = write_submission(tmp_path / placing.folder_name(ours.submission), **{key: "else@example.org"})
    before = all_files(folder)
    with pytest.raises(UserError, match="is a submission of"):
        placing.write(ours, tmp_path)
    assert all_files(folder) == before


def test_a_verified_one_is_never_replaced(tmp_path):
    target = placing.write(made(), tmp_path)
    (target / "records").mkdir()
    (target / "records/rejudged-2026-11-22-1.json").write_text("{}")
    with pytest.raises(UserError, match="verified by a maintainer"):
        placing.write(made(tuning="otherwise"), tmp_path)
    assert placing.write(made(), tmp_path) == target
    assert (target / "records/rejudged-2026-11-22-1.json").is_file()


@pytest.mark.parametrize("kind", ["a file", "a folder of something", "a link"])
def test_what_is_no_submission_is_never_replaced(tmp_path, kind):
    target = tmp_path / "out" / placing.folder_name(made().submission)
    target.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine")
    if kind == "a file":
        target.write_text("mine")
    elif kind == "a link":
        target.symlink_to(elsewhere)
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no submission"):
        placing.write(made(), target.parent)
    assert target.is_symlink() == (kind == "a link")
    assert (elsewhere / "mine.txt").read_text() == "mine"


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    class FullDisk(OSError):
        pass

    def fail(contents, folder):
        (folder / "half.json").write_text("{")
        raise FullDisk

    monkeypatch.setattr(placing, "write_files", fail)
    with pytest.raises(FullDisk):
        placing.write(made(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- which adapters go along

TENSORS = "adapter/adapter_model.safetensors"


@pytest.mark.parametrize(("adapters", "inside"), [("auto", {0, 1}), ("first", {0}), ("all", {0, 1}), ("none", set())])
def test_adapters_go_along_as_asked_and_are_named_by_hash_either_way(tmp_path, adapters, inside):
    runs = own_runs.open_runs([write_run(tmp_path / "runs", seed) for seed in (0, 1)])
    said = statement(adapters=adapters, adapter_url="https://example.org/s{seed}.safetensors")
    found, wrong = bundle.open_bundle(placing.write(submit.draft(runs, said), tmp_path))
    assert wrong == []
    assert {run.seed for run in found.runs() if run.has(TENSORS)} == inside
    for run in found.runs():
        assert run.entry.adapter.inside == (run.seed in inside)
        assert run.entry.adapter.bytes == 100
        assert run.entry.adapter.address == f"https://example.org/s{run.seed}.safetensors"


def test_auto_leaves_large_adapters_at_home(tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "AUTO_BYTES", 1000)
    monkeypatch.setattr(submit, "LIMITS", limits.SizeLimits(file_stored=2000))
    run = write_run(tmp_path / "runs", 0)
    (run / TENSORS).write_bytes(bytes(submit.AUTO_BYTES + 1))
    assert not any(TENSORS in name for name in submit.draft(own_runs.open_runs([run]), statement()).contents)
    (run / TENSORS).write_bytes(bytes(submit.LIMITS.file_stored + 1))
    with pytest.raises(UserError, match="--adapters none and --adapter-url"):
        submit.draft(own_runs.open_runs([run]), statement(adapters="all"))
