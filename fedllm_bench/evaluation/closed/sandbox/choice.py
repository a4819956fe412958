"""Which shell holds programs on this machine: each is tried with a small program before it is trusted."""

from __future__ import annotations

import os
from typing import Literal, get_args

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.evaluation.closed.sandbox.programs import LANGUAGES
from fedllm_bench.evaluation.closed.sandbox.runs import Outcome, SandboxBroken, run_program
from fedllm_bench.evaluation.closed.sandbox.shells import ProcessShell, Shell, bubblewrap_shell, docker_shell

SandboxName = Literal["auto", "process", "bubblewrap", "docker"]
SANDBOXES: tuple[SandboxName, ...] = get_args(SandboxName)
TRIAL = "assert 1 + 1 == 2"
# 192.0.2.0/24 is for documentation (RFC 5737); connecting a datagram socket sends nothing
CLOSED_TRIAL = """\
import socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError:
    pass
else:
    raise SystemExit("the network can be reached")
"""
TCP_VERSION, SIGNALS_VERSION = 4, 6


def choose_shell(name: str) -> tuple[Shell, str]:
    """The shell, and a line that says what it does not stop here, "" where it stops all that docs/code.md names.

    Raises a :class:`UserError` where this machine cannot do what was asked.
    """
    if name not in SANDBOXES:
        raise unknown("sandbox", name, SANDBOXES)
    if name == "auto":
        return _strongest(), ""
    if name == "process":
        return _process()
    if name == "bubblewrap" and os.geteuid() == 0:
        raise UserError("--sandbox bubblewrap: the processes of root cannot be counted; run as another user, or use "
                        "--sandbox process")  # fmt: skip
    shell = bubblewrap_shell() if name == "bubblewrap" else docker_shell()
    try:
        return tried(shell), ""
    except SandboxBroken as error:
        raise UserError(f"--sandbox {name} does not work here: {error}") from error


def tried(shell: Shell, program: str = CLOSED_TRIAL) -> Shell:
    """Raises :class:`SandboxBroken` where a right program does not pass in it, or can reach the network."""
    outcome = _trial(shell, program)
    if not outcome.passed:
        raise SandboxBroken(outcome.reason)
    return shell


def _trial(shell: Shell, program: str) -> Outcome:
    return run_program(shell, LANGUAGES["python"], program)


def _strongest() -> Shell:
    try:
        return tried(ProcessShell())
    except SandboxBroken as error:
        said = str(error)
    for name in ("bubblewrap", "docker"):
        try:
            return choose_shell(name)[0]
        except UserError:
            continue
    raise UserError(f"this machine cannot shut programs in: no namespaces ({said}), no bubblewrap, no docker; install "
                    "one, or let --sandbox process do what it can here (docs/code.md)")  # fmt: skip


def _process() -> tuple[Shell, str]:
    try:
        return tried(ProcessShell()), ""
    except SandboxBroken:
        shell = ProcessShell(namespaces=False)
    try:
        outcome = _trial(shell, TRIAL)
    except SandboxBroken as error:
        raise UserError(f"--sandbox process does not work here: {error}") from error
    if not outcome.passed:
        raise UserError(f"--sandbox process does not work here: {outcome.reason}")
    return shell, f"the kernel gives no namespaces: the sandbox does not stop {left_open(outcome.walls[1])}"


def left_open(version: int) -> str:
    """What Landlock of this version leaves open, where namespaces do not help."""
    if not version:
        return "the network, nor reading and writing files of yours, nor signals to your processes"
    network = "UDP" if version >= TCP_VERSION else "the network"
    return network if version >= SIGNALS_VERSION else f"{network}, nor signals to your processes"
