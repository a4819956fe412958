"""Provenance: facts or None, never an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedllm_bench.common import provenance

GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    command = [*GIT, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "file").write_text("one")
    git(folder, "add", "file")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_the_environment_is_json_with_all_packages() -> None:
    facts = provenance.environment(threads=2, gpus=["H200"])
    assert json.loads(json.dumps(facts)) == facts
    assert len(facts["packages"]) == 10
    assert all(facts["packages"].values())
    assert (facts["threads"], facts["gpus"]) == (2, ["H200"])
    assert facts["memory_bytes"] > 2**20
    assert facts["cpu"]["name"]
    assert facts["cpu"]["count"] >= 1


def test_a_clean_and_a_changed_checkout_are_told_apart(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert provenance.git_state(checkout) == (commit, False)
    (checkout / "file").write_text("two")
    assert provenance.git_state(checkout) == (commit, True)
    git(checkout, "checkout", "--quiet", "file")
    (checkout / "new.py").write_text("")
    assert provenance.git_state(checkout) == (commit, True)


def test_a_git_hook_of_another_repository_does_not_mislead(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere/.git")
    assert provenance.git_state(checkout) == (commit, False)


def test_a_copy_inside_somebody_elses_repository_has_no_commit(checkout: Path) -> None:
    inner = checkout / "site-packages"
    inner.mkdir()
    assert provenance.git_state(inner) == (None, None)


def test_a_missing_git_or_a_broken_repository_is_no_error(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    (broken / ".git").mkdir(parents=True)
    assert provenance.git_state(broken) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(checkout) == (None, None)


def test_an_unknown_package_has_no_version() -> None:
    assert provenance.package_version("no-such-package-at-all") is None


def test_gpus_are_asked_of_an_imported_torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert provenance.gpu_names() == []
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda index: f"gpu{index}"
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert provenance.gpu_names() == ["gpu0", "gpu1"]
