"""The walls around one program: namespaces with a file system of their own, or Landlock alone where there are none.

A process in namespaces of its own sees no other process, no network, and of the files only what it was given to read.
user_namespaces(7), pid_namespaces(7) and pivot_root(2) say how.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fedllm_bench.evaluation.closed.sandbox import kernel, landlock

BOX = "/box"
NOBODY = 65534
DEVICES = ("null", "zero", "random", "urandom")
OTHERS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
NUM_FILES = 4096  # in the box


def enter_namespaces() -> None:
    """This process leaves the machine's namespaces; its children see no other process. OSError where it may not.

    Root does it as root, and gives that up in :func:`drop`; everybody else in a user namespace.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        with suppress(OSError):  # in a container root may be no more than others
            kernel.unshare(OTHERS)
            return
    kernel.unshare(OTHERS | kernel.CLONE_NEWUSER)
    _map(user, group)


def _map(user: int, group: int) -> None:
    """The one user of a new user namespace has another number inside, and no rights from it."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {user} 1"), ("gid_map", f"{NOBODY} {group} 1")):
        Path(f"/proc/self/{name}").write_text(text, encoding="ascii")


def new_root(place: str, read: Sequence[str], box_bytes: int) -> None:
    """A file system in memory becomes /: `read` to read only, an empty /box to write, four devices, and /proc.

    `place` is any folder. Raises OSError where the kernel does not let us.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in sorted(read):
        _show(path, place)
    for device in DEVICES:
        _bind(f"/dev/{device}", f"{place}/dev/{device}")
    for folder in ("proc", BOX[1:]):
        Path(place, folder).mkdir()
    safe = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("proc", f"{place}/proc", "proc", safe | kernel.MS_NOEXEC)
    kernel.mount("tmpfs", f"{place}{BOX}", "tmpfs", safe, f"size={box_bytes},nr_inodes={NUM_FILES},mode=777")
    kernel.pivot_root(place)
    kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | safe)


def _show(path: str, place: str) -> None:
    """`path` at the same place under `place`, read only; what is there by another path, or not at all, is left out."""
    source, target = Path(path), Path(place + path)
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.readlink())
        return
    _bind(path, str(target))
    kernel.make_read_only(str(target))


def _bind(path: str, place: str) -> None:
    target = Path(place)
    if Path(path).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    kernel.mount(path, place, None, kernel.MS_BIND | kernel.MS_REC)


def drop(program: str, box: str, *, is_apart: bool) -> None:
    """Give up what root may do, and what user namespaces would give back.

    Without namespaces root stays user 0, without rights, where `nobody` could not read `program`.
    """
    if os.geteuid() == 0 and (is_apart or _is_open_to_all(program)):
        os.chown(box, NOBODY, NOBODY)
        Path(box).chmod(0o755)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if is_apart:
        _count_processes_apart()
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def _count_processes_apart() -> None:
    """A limit of processes counts those of one user in one user namespace; and the program can make no other one."""
    with suppress(OSError):  # a kernel may have none: then all programs of this moment are counted together
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self is root's
        kernel.unshare(kernel.CLONE_NEWUSER)
        _map(os.geteuid(), os.getegid())
    with suppress(OSError):
        Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")


def _is_open_to_all(program: str) -> bool:
    """Whether every folder on the way to a program, its links followed, lets everybody through."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(program).resolve().parents)


def close_files(read: Sequence[str], box: str, *, is_apart: bool) -> int:
    """Landlock, as far as this kernel has it: its version."""
    devices = [f"/dev/{device}" for device in DEVICES]
    return landlock.restrict(["/"] if is_apart else [*read, *devices], [box, *devices])


def limit(limits: dict[str, int], others: int) -> None:
    """Limits of the kernel; `others`: processes and threads of this user that count beside the program's. 0: none."""
    cpu, processes = limits["cpu_seconds"], limits["processes"] + others
    for kind, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, limits["address_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard) if most else hard
        if most:
            resource.setrlimit(kind, (most, most + 1 if kind == resource.RLIMIT_CPU and most < hard else most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
