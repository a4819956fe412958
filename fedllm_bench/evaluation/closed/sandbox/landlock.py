"""Landlock: what a process and all it starts may read, write and reach, without root. https://docs.kernel.org/userspace-api/landlock.html

The kernel's version decides what can be closed: files since 5.13 (version 1), TCP since 6.7 (version 4), signals to
processes outside and abstract sockets since 6.12 (version 6). UDP is never closed by it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from fedllm_bench.evaluation.closed.sandbox.kernel import syscall

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, RULE_PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1, 2, 4, 8, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # the others are rights of folders
NUM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # of files, by version
TCP, ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3


def version() -> int:
    """0 where this kernel has no Landlock, or it was turned off."""
    try:
        return syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION)
    except OSError:
        return 0


def restrict(read: Sequence[str], write: Sequence[str]) -> int:
    """Close all but reading and running `read`, and doing anything in `write`; the version that did it, 0 for none.

    Paths that are not there, or not for this user, are left out. Needs `no_new_privs` to be set.
    """
    known = version()
    if not known:
        return 0
    rights = (1 << NUM_RIGHTS.get(known, 16)) - 1
    ruleset = _ruleset(known, rights)
    for path in read:
        _allow(ruleset, path, rights & READ)
    for path in write:
        _allow(ruleset, path, rights)
    syscall(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return known


def _ruleset(known: int, rights: int) -> int:
    words = [rights, *([TCP] if known >= 4 else []), *([ABSTRACT_SOCKETS_AND_SIGNALS] if known >= 6 else [])]
    text = struct.pack(f"{len(words)}Q", *words)
    return syscall(CREATE_RULESET, text, ctypes.c_size_t(len(text)), 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # what this user cannot see needs no permission
        return
    try:
        allowed = rights if Path(path).is_dir() else rights & OF_FILES
        syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", allowed, place), 0)
    finally:
        os.close(place)
