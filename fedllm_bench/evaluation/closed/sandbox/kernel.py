"""Calls of the Linux kernel that Python 3.11 has no function for, by ctypes. Each raises OSError as the kernel says.

The numbers are those of linux/sched.h, linux/mount.h and linux/prctl.h; calls above 424 have one number everywhere.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR = 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 24, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
NO_ROOT = 0b11  # SECBIT_NOROOT and its lock: user 0 gains nothing by starting a program
MOST_CAPABILITIES = 64


def syscall(number: int, *args: object) -> int:
    result: int = _checked(ctypes.CDLL(None, use_errno=True).syscall(number, *args), f"system call {number}")
    return result


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def prctl(option: int, value: int = 0, more: int = 0) -> None:
    """The last arguments must be 0 for some options; as 64 bits each, whatever the machine."""
    words = [ctypes.c_ulong(word) for word in (value, more, 0, 0)]
    _checked(ctypes.CDLL(None, use_errno=True).prctl(option, *words), f"prctl {option}")


def unshare(flags: int) -> None:
    _checked(ctypes.CDLL(None, use_errno=True).unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    library = ctypes.CDLL(None, use_errno=True)
    result = library.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])
    _checked(result, f"mount {source} at {target}")


def unmount(target: str) -> None:
    _checked(ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def make_read_only(target: str) -> None:
    """What is mounted at `target` and below: no writing, no set-user-id programs, no devices. Needs Linux 5.12."""
    attributes = struct.pack("QQQQ", MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))


def pivot_root(folder: str) -> None:
    """`folder` becomes /, and what was / is gone."""
    number = PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"no number of pivot_root for {os.uname().machine}")
    os.chdir(folder)
    syscall(number, b".", b".")
    unmount(".")
    os.chdir("/")


def die_with_parent(parent: int) -> None:
    """This process is killed when the thread that started it ends. `parent`: its process, else it has died already."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def drop_capabilities() -> None:
    """User 0 keeps no right beyond those of a plain user's own files. Other users have none to lose."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    if os.geteuid() == 0:
        prctl(PR_SET_SECUREBITS, NO_ROOT)
        for number in range(MOST_CAPABILITIES):
            try:
                prctl(PR_CAPBSET_DROP, number)
            except OSError:  # past the last one that this kernel knows
                break
