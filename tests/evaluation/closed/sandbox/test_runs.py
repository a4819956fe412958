"""Hostile programs end as failed items, and right ones pass, behind each kind of walls that this machine can build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from checkout import ROOT
from hostile_programs import FIRST, OTHERS, SMALL

from fedllm_bench.evaluation.closed.sandbox import landlock
from fedllm_bench.evaluation.closed.sandbox.choice import tried
from fedllm_bench.evaluation.closed.sandbox.programs import LANGUAGES
from fedllm_bench.evaluation.closed.sandbox.runs import Outcome, SandboxBroken, run_program
from fedllm_bench.evaluation.closed.sandbox.shells import ProcessShell, Shell

APART, ALONE, OPEN = ProcessShell(), ProcessShell(namespaces=False), ProcessShell(namespaces=False, landlock=False)
SECRET = "FEDLLM_BENCH_TEST_SECRET"
# UDP stays open without namespaces, and the kernel does not limit how many processes root has
NOT_ALONE = {"socket without a connection", "a million files", "mounts and namespaces"} | (
    {"fork bomb"} if os.geteuid() == 0 else set()
)


def works(shell: Shell) -> bool:
    try:
        tried(shell, "assert True")
    except SandboxBroken:
        return False
    return True


apart = pytest.param(APART, id="namespaces", marks=pytest.mark.skipif(not works(APART), reason="no namespaces here"))
alone = pytest.param(
    ALONE, id="landlock", marks=pytest.mark.skipif(landlock.version() < 6, reason="no Landlock 6 here")
)
BOTH = pytest.mark.parametrize("shell", [apart, alone])


def run(shell: Shell, text: str) -> Outcome:
    return run_program(shell, LANGUAGES["python"], text, SMALL)


def fails(shell: Shell, name: str, text: str, says: str) -> None:
    if shell is ALONE and name in NOT_ALONE:
        pytest.skip("only namespaces stop it")
    started = time.monotonic()
    outcome = run(shell, text)
    assert not outcome.passed
    assert outcome.reason
    assert "\n" not in outcome.reason
    assert says in outcome.reason + outcome.output
    assert len(outcome.output) <= SMALL.output_bytes
    assert time.monotonic() - started < 20
    assert outcome.walls[0] == (shell is APART) or outcome.walls == (False, 0)


@BOTH
@pytest.mark.parametrize("name", FIRST)
def test_a_hostile_program_is_a_failed_item(shell: Shell, name: str):
    fails(shell, name, *FIRST[name])


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", OTHERS)
def test_another_hostile_program_is_a_failed_item(shell: Shell, name: str):
    fails(shell, name, *OTHERS[name])


@BOTH
def test_a_right_program_passes_and_a_wrong_one_does_not(shell: Shell):
    head = "from __future__ import annotations\ndef twice(x):\n    return "
    right = run(shell, f"{head}2 * x\nassert twice(2) == 4\nprint('done')\n")
    assert right.passed
    assert right.reason == ""
    assert right.output == "done\n"  # without the sign
    wrong = run(shell, f"{head}3 * x\nassert twice(2) == 4, 'six'\n")
    assert (wrong.passed, wrong.reason) == (False, "code 1: AssertionError: six")


@BOTH
def test_nothing_outside_can_be_written_or_removed(shell: Shell, tmp_path: Path):
    kept = tmp_path / "kept.txt"
    kept.write_text("as it was")
    tmp_path.chmod(0o777)
    kept.chmod(0o666)
    for line in (f"open({str(kept)!r}, 'w').write('x')", f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
                 f"import os; os.remove({str(kept)!r})", f"import os; os.truncate({str(kept)!r}, 0)",
                 f"import os; os.symlink({str(kept)!r}, 'link'); open('link', 'w').write('x')",
                 f"import os; os.link({str(kept)!r}, 'hard'); open('hard', 'w').write('x')"):  # fmt: skip
        outcome = run(shell, line)
        assert not outcome.passed
        assert "Error" in outcome.reason
    assert kept.read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@BOTH
def test_no_secret_of_the_environment_or_of_other_processes_is_seen(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SECRET, "a-token")
    text = f"""
import os
assert {SECRET!r} not in os.environ
assert os.environ["HOME"] == os.getcwd() and os.listdir(".") == ["program.py"]
seen = b""
try:
    numbers = [name for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    numbers = ["self", str(os.getppid()), {str(os.getpid())!r}]
for number in numbers:
    try:
        seen += open(f"/proc/{{number}}/environ", "rb").read()
    except OSError:
        pass
assert b"a-token" not in seen, "a secret was read"
for path in ({str(Path.home() / ".bashrc")!r}, {str(ROOT / "README.md")!r}, "/etc/shadow", "/var/log", "/sys"):
    try:
        open(path)
    except IsADirectoryError:
        assert not os.listdir(path), path
    except OSError:
        continue
    else:
        assert False, path
"""
    outcome = run(shell, text)
    assert outcome.passed, outcome


def test_descriptors_of_ours_are_closed(tmp_path: Path):
    with (tmp_path / "open.txt").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        outcome = run(APART if works(APART) else ALONE, """
import os
for number in range(3, 256):
    try:
        os.fstat(number)
    except OSError:
        continue
    assert number == 3 and os.path.isfile("program.py"), number
""")  # fmt: skip
    assert outcome.passed, outcome


def test_the_walls_that_stood_are_told():
    if works(APART):
        assert run(APART, "pass").walls == (True, landlock.version())
    assert run(ALONE, "pass").walls == (False, landlock.version())
    assert run(OPEN, "pass").walls == (False, 0)


def test_a_program_that_is_too_long_is_not_run():
    outcome = run(OPEN, "x" * 1_000_001)
    assert (outcome.passed, outcome.reason) == (False, "it is longer than 1,000,000 characters")


@BOTH
def test_a_killed_parent_leaves_no_program_behind(shell: Shell, tmp_path: Path):
    name = f"sleeper-{os.getpid()}-{shell is APART}"
    text = f"import ctypes, os, time; ctypes.CDLL(None).prctl(15, b'{name[:15]}'); os.fork(); time.sleep(60)"
    code = (
        "import sys; from fedllm_bench.evaluation.closed.sandbox import programs, runs, shells\n"
        f"shell = shells.ProcessShell(namespaces={shell is APART})\n"
        f"runs.run_program(shell, programs.LANGUAGES['python'], {text!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process:
        until(lambda: len(named(name[:15])) == 2)
        process.send_signal(signal.SIGKILL)
    until(lambda: not named(name[:15]))


def until(holds) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def named(name: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            found += [path.parent.name] if path.read_text().strip() == name else []
        except OSError:  # it has ended
            continue
    return found


def test_nobody_waits_for_a_program_that_is_no_longer_wanted():
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    outcome = run_program(OPEN, LANGUAGES["python"], "import time; time.sleep(20)", stop=stop)
    assert not outcome.passed
    assert time.monotonic() - started < 10


JS = "function twice(x) {{\n  return {0} * x;\n}}\nrequire('node:assert').deepEqual(twice(2), 4);\n"
CPP = "#include <cassert>\nint twice(int x) {{\n  return {0} * x;\n}}\nint main() {{\n  assert(twice(2) == 4);\n}}\n"


@BOTH
@pytest.mark.parametrize(("name", "text"), [("js", JS), ("cpp", CPP)])
def test_other_languages_run_where_they_are_installed(shell: Shell, name: str, text: str):
    language = LANGUAGES[name]
    if language.tool() is None:
        pytest.skip(f"nothing runs {name} here")
    assert run_program(shell, language, text.format(2)).passed
    wrong = run_program(shell, language, text.format(3))
    assert not wrong.passed
    assert wrong.reason
    leaves = {"js": "process.exit(0);", "cpp": "#include <cstdlib>\nint a = (std::exit(0), 1);\n"}[name]
    assert run_program(shell, language, leaves + text.format(2)).reason == "it ended before its tests did"


def test_a_broken_sandbox_is_told_apart_from_a_failed_program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ProcessShell, "command", lambda *_: [shutil.which("false") or "false"])
    assert run(OPEN, "pass").reason == "its guard ended without a report"
    monkeypatch.setattr(ProcessShell, "command", lambda *_: ["/bin/sh", "-c", "echo no room >&2; exit 1"])
    with pytest.raises(SandboxBroken, match="no room"):
        run(OPEN, "pass")
