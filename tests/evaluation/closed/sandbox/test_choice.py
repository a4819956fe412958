"""The sandbox that is chosen was tried, and what it does not stop is said."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.sandbox import choice, landlock, shells
from fedllm_bench.evaluation.closed.sandbox.choice import choose_shell, left_open, tried
from fedllm_bench.evaluation.closed.sandbox.programs import LANGUAGES
from fedllm_bench.evaluation.closed.sandbox.runs import SandboxBroken, run_program
from fedllm_bench.evaluation.closed.sandbox.shells import BubblewrapShell, DockerShell, ProcessShell, readable


def without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    order = ProcessShell.order

    def refused(self: ProcessShell, language: Any) -> dict[str, Any]:
        """As on a machine whose kernel lets nobody mount."""
        given = order(self, language)
        return {**given, "box": "/no/such/folder"} if given["namespaces"] else given

    monkeypatch.setattr(ProcessShell, "order", refused)


def test_an_unknown_sandbox_is_one_line():
    with pytest.raises(UserError, match="no sandbox 'dokcer'; did you mean 'docker'"):
        choose_shell("dokcer")


def test_auto_refuses_where_programs_cannot_be_shut_in(monkeypatch: pytest.MonkeyPatch):
    without_namespaces(monkeypatch)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"cannot shut programs in: no namespaces .* no bubblewrap, no docker") as error:
        choose_shell("auto")
    assert "--sandbox process" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(landlock.version() == 0, reason="no Landlock here")
def test_process_does_what_it_can_and_says_what_it_cannot(monkeypatch: pytest.MonkeyPatch):
    without_namespaces(monkeypatch)
    shell, line = choose_shell("process")
    assert shell == ProcessShell(namespaces=False)
    assert line == f"the kernel gives no namespaces: the sandbox does not stop {left_open(landlock.version())}"


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (7, "UDP"),
        (6, "UDP"),
        (5, "UDP, nor signals to your processes"),
        (3, "the network, nor signals to your processes"),
        (0, "the network, nor reading and writing files of yours, nor signals to your processes"),
    ],
)
def test_each_version_of_landlock_leaves_something_open(version: int, says: str):
    assert left_open(version) == says


def test_a_shell_that_reaches_the_network_is_not_trusted():
    with pytest.raises(SandboxBroken, match="the network can be reached"):
        tried(ProcessShell(namespaces=False, landlock=False))


def test_what_may_be_read_is_this_python_and_the_system():
    found = readable(sys.executable)
    assert "/" not in found
    assert {"/usr", sys.prefix, sys.base_prefix} <= set(found) | {"/usr"}
    home = str(Path.home())
    assert home not in found


# --- docker and bubblewrap, which a stand-in for their command plays: it drops their options, and runs the rest


def stand_in(folder: Path, name: str, first: str) -> Path:
    """A command that notes how it was called, and runs what comes from the word `first` on, with our Python."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
open({str(folder / "calls")!r}, "a").write(json.dumps(words) + "\\n")
if words[:2] == ["image", "inspect"]:
    sys.exit(0 if words[2] == "there:1" else "Error: No such image: " + words[2])
start = words.index({first!r})
code = words[-1].replace("/guard", {shells.PACKAGES!r})
os.execv(sys.executable, [sys.executable, *words[start + 1 : -1], code])
""")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:{os.environ['PATH']}")
    monkeypatch.setattr(DockerShell, "box", lambda self, folder: folder)
    monkeypatch.setattr(BubblewrapShell, "box", lambda self, folder: folder)
    monkeypatch.setattr(DockerShell, "tool", lambda self, language: sys.executable)
    return tmp_path / "tools"


def test_docker_runs_programs_without_network_rights_or_downloads(tools: Path, monkeypatch: pytest.MonkeyPatch):
    stand_in(tools, "docker", "python3")
    monkeypatch.setenv("FEDLLM_BENCH_IMAGE", "there:1")
    monkeypatch.setattr(choice, "CLOSED_TRIAL", "pass")  # the stand-in closes nothing
    monkeypatch.setattr(tried, "__defaults__", ("pass",))
    shell, line = choose_shell("docker")
    assert (shell.name, line) == ("docker", "")
    assert run_program(shell, LANGUAGES["python"], "assert 1 + 1 == 2").passed
    assert run_program(shell, LANGUAGES["python"], "assert 1 + 1 == 3").reason == "code 1: AssertionError"
    words = calls(tools)[-1]
    for pair in (["--network", "none"], ["--pull", "never"], ["--cap-drop", "ALL"], ["--read-only", "--cap-drop"]):
        assert any(words[place : place + 2] == pair for place in range(len(words))), pair
    assert {"--rm", "--pids-limit", "--memory", "no-new-privileges"} <= set(words)


def test_an_image_that_is_not_there_is_one_line(tools: Path):
    stand_in(tools, "docker", "python3")
    with pytest.raises(UserError, match=r"No such image: python:3\.11-slim; `docker pull python:3\.11-slim`"):
        choose_shell("docker")


def test_docker_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    for name in ("docker", "bubblewrap"):
        with pytest.raises(UserError, match=r"is not installed|processes of root"):
            choose_shell(name)


def test_bubblewrap_shuts_everything_off(tools: Path, monkeypatch: pytest.MonkeyPatch):
    stand_in(tools, "bwrap", sys.executable)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(tried, "__defaults__", ("pass",))
    shell, _ = choose_shell("bubblewrap")
    assert run_program(shell, LANGUAGES["python"], "assert 1 + 1 == 2").passed
    words = calls(tools)[-1]
    assert {"--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--ro-bind"} <= set(words)
    assert words.count("--bind") == 1  # the box, which is all that can be written


def test_root_cannot_have_bubblewrap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UserError, match="processes of root cannot be counted"):
        choose_shell("bubblewrap")
