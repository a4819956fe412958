"""Runs one program by a guard in a process of its own, and says whether it passed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from fedllm_bench.evaluation.closed.sandbox.boxes import new_box
from fedllm_bench.evaluation.closed.sandbox.programs import MOST_CHARACTERS, Limits, ProgramLanguage, new_sign
from fedllm_bench.evaluation.closed.sandbox.shells import Shell

GRACE_SECONDS = 15.0  # for the guard itself, on a busy machine
LOOK_SECONDS = 0.2
END_SECONDS = 10.0
MOST_REPORT_BYTES = 16 << 20
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    "OPENSSL_CONF": "/dev/null",  # node ends where it may not read the system's
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
}
ENDINGS = {
    "time": "it took longer than {wall_seconds:g} s",
    "memory": "it used more than {memory_bytes} bytes of memory",
    "processes": "it started more than {processes} processes",
    "files": "it wrote files of more than {box_bytes} bytes, too many, or where they cannot be counted",
    "output": "it wrote more than {output_bytes} bytes",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`reason`: why it did not pass, in one line, "" where it did. `output`: what it wrote, standard error included."""

    passed: bool
    reason: str
    output: str = ""
    seconds: float = 0.0
    walls: tuple[bool, int] = (False, 0)  # namespaces, version of Landlock


class SandboxBroken(RuntimeError):
    """The walls could not be built, so the program did not run."""


def run_program(
    shell: Shell,
    language: ProgramLanguage,
    text: str,
    limits: Limits | None = None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Run one program with its tests. Raises :class:`SandboxBroken` where it did not run at all."""
    if len(text) > MOST_CHARACTERS:
        return Outcome(passed=False, reason=f"it is longer than {MOST_CHARACTERS:,} characters")
    tool = shell.tool(language)
    limits = limits or language.limits
    steps = language.steps(text, tool, new_sign())
    with new_box() as box:
        order = {
            "parent": os.getpid(),
            "box": shell.box(box),
            "files": steps.files,
            "commands": steps.commands,
            "environment": ENVIRONMENT,
            "limits": asdict(limits),
            **shell.order(language),
        }
        seconds = limits.wall_seconds * len(steps.commands) + GRACE_SECONDS
        report = _report(shell.command(box, language), order, seconds, stop or threading.Event())
    return _outcome(report, steps.sign, limits)


def _report(command: list[str], order: dict[str, Any], seconds: float, stop: threading.Event) -> dict[str, Any]:
    """What the guard says in the end; {} where it was killed, said nothing in time, or nobody waits any more."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
            text, errors = _read(process, time.monotonic() + seconds, stop)
        finally:
            _end(process)
    if not text and errors and not stop.is_set():
        raise SandboxBroken(_printable(errors.decode(errors="replace").strip().splitlines()[-1]))
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _read(process: subprocess.Popen[bytes], deadline: float, stop: threading.Event) -> tuple[bytes, bytes]:
    """Standard output and error until both end, the time is over, or `stop` is set."""
    assert process.stdout is not None
    assert process.stderr is not None
    texts = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    poll = select.poll()
    for place in texts:
        poll.register(place, select.POLLIN)
    num_open = len(texts)
    while num_open and time.monotonic() < deadline and not stop.is_set():
        for place, _ in poll.poll(1000 * LOOK_SECONDS):
            part = os.read(place, 1 << 16)
            texts[place] += part
            if not part or len(texts[place]) > MOST_REPORT_BYTES:
                poll.unregister(place)
                num_open -= 1
    return texts[process.stdout.fileno()], texts[process.stderr.fileno()]


def _end(process: subprocess.Popen[bytes]) -> None:
    """The guard kills what it started when its input ends; then it is killed itself."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _outcome(report: dict[str, Any], sign: str, limits: Limits) -> Outcome:
    ending = report.get("ending")
    output = str(report.get("output", "")).replace(sign, "")
    if ending == "walls":
        raise SandboxBroken(_printable(output))
    if ending is None:
        return Outcome(passed=False, reason="its guard ended without a report")
    walls = report.get("walls", {})
    return Outcome(
        passed=(ending, report["code"]) == ("exit", 0) and sign in report["output"],
        reason=_reason(ending, report, sign, limits),
        output=output,
        seconds=float(report["seconds"]),
        walls=(bool(walls.get("namespaces")), int(walls.get("landlock", 0))),
    )


def _reason(ending: str, report: dict[str, Any], sign: str, limits: Limits) -> str:
    code, output = report["code"], report["output"]
    if ending in ENDINGS:
        return ENDINGS[ending].format(**asdict(limits))
    if ending == "signal":
        if code in (signal.SIGXCPU, signal.SIGKILL) and report["seconds"] >= limits.cpu_seconds:
            return f"it used more than {limits.cpu_seconds} s of a core"
        return f"it was ended by signal {code}"
    if code == 0:
        return "" if sign in output else "it ended before its tests did"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")  # node ends otherwise
    return f"code {code}: {_printable(said)}" if said else f"code {code}"


def _printable(line: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in line)[:200]
