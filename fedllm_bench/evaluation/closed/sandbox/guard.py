"""The process that stands over one untrusted program: `python -I -S -B -c "...; guard.main()"`.

It loads the standard library alone, which is quick, and works in an image that has nothing else. It reads an order, one
line of JSON, from standard input, and writes a report to standard output, likewise. The program is killed with all that
it started when it takes too long, too much memory, too many processes or too much output, when standard input ends (who
ordered it is gone), and when it has ended itself.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedllm_bench.evaluation.closed.sandbox import kernel, walls

LOOK_SECONDS = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DRAIN_BYTES = 1 << 16
NOT_STARTED = 127
PROC = Path("/proc")
Order = dict[str, Any]
Report = dict[str, Any]


def main() -> None:
    order: Order = json.loads(sys.stdin.buffer.readline())
    try:
        if order["namespaces"]:  # else this process must live on, to kill the others when its input ends
            kernel.die_with_parent(order["parent"])
            walls.enter_namespaces()
            report = _in_child(order)
        else:
            report = _stand_guard(order, order["box"], is_apart=False)
    except OSError as error:
        report = _no_walls(error)
    _send(report)


def _no_walls(error: object) -> Report:
    return {"ending": "walls", "code": 0, "seconds": 0.0, "output": f"{error}"}


def _send(report: Report) -> None:
    with open(1, "w", encoding="utf-8") as file:
        file.write(json.dumps(report))
    os._exit(0)


def _in_child(order: Order) -> Report:
    """A process that leaves its namespace of processes does so for its children: the first one is number 1 there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.closerange(3, 1 << 16)
        _first_process(order)
    os.close(writing)
    with open(reading, "rb") as file:  # noqa: PTH123 - no path
        text = file.read()
    os.waitpid(child, 0)
    found: Report = json.loads(text) if text else _no_walls("the guard was killed")
    return found


def _first_process(order: Order) -> None:
    """When it ends the kernel kills all others in its namespace. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        walls.new_root(order["box"], order["read"], order["limits"]["box_bytes"])
        report = _stand_guard(order, kernel.BOX, is_apart=True)
    except OSError as error:
        report = _no_walls(error)
    _send(report)


def _stand_guard(order: Order, box: str, *, is_apart: bool) -> Report:
    """Run the commands one after the other, each only where the one before succeeded."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # the program can neither read nor trace this process
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)  # whose parent has ended becomes our child, so none is lost
    os.chdir(box)
    for name, text in order["files"].items():
        Path(name).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    report: Report = {}
    for command in order["commands"]:
        report = _one_command(order, command, box, is_apart=is_apart)
        if (report["ending"], report["code"]) != ("exit", 0):
            break
    return report


def _one_command(order: Order, command: list[str], box: str, *, is_apart: bool) -> Report:
    others = 0 if is_apart else _num_threads_of_user()
    reading, writing = os.pipe()
    told, telling = os.pipe()
    program = os.fork()
    if program == 0:
        _become(order, command, box, (writing, telling, others), is_apart=is_apart)
    os.close(writing)
    os.close(telling)
    watch = _Watch(program, reading, order["limits"], is_apart=is_apart)
    try:
        report = watch.until_end()
    finally:
        _kill_all()
        os.close(reading)
    with open(told, "rb") as file:  # noqa: PTH123 - no path
        report["walls"] = {"namespaces": is_apart, "landlock": int(file.read(8) or b"0")}
    return report


def _become(order: Order, command: list[str], box: str, ends: tuple[int, int, int], *, is_apart: bool) -> None:
    """In the child: give up everything, and become the program. Never returns."""
    writing, telling, others = ends
    try:
        os.setsid()
        walls.drop(order["commands"][0][0], box, is_apart=is_apart)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # another user forgets it, so it comes after
        version = walls.close_files(order["read"], box, is_apart=is_apart) if order["landlock"] else 0
        os.write(telling, f"{version}".encode())
        walls.limit(order["limits"], others)
        for source, target in ((os.open("/dev/null", os.O_RDONLY), 0), (writing, 1), (writing, 2)):
            os.dup2(source, target)
        writing = 2
        os.closerange(3, 1 << 16)
        os.execvpe(command[0], command, {**order["environment"], "HOME": box, "TMPDIR": box})
    except OSError as error:
        os.write(writing, f"not started: {error}\n".encode())
    finally:
        os._exit(NOT_STARTED)


class _Watch:
    """One command from its start to its end."""

    def __init__(self, program: int, output: int, limits: dict[str, int], *, is_apart: bool) -> None:
        self.program, self.output, self.limits, self.is_apart = program, output, limits, is_apart
        self.text = b""
        self.started = time.monotonic()
        self.poll = select.poll()
        self.poll.register(output, select.POLLIN)
        self.poll.register(0, select.POLLIN | select.POLLHUP)
        os.set_blocking(output, False)
        with suppress(OSError):  # before Linux 5.3 its end is seen at the next look
            self.poll.register(os.pidfd_open(program), select.POLLIN)

    def until_end(self) -> Report:
        while True:
            self._wait()
            if self._read_all():
                return self._report("output")
            ended = self._reap()
            if ended is not None:
                self._read_all()
                return self._report("exit" if os.WIFEXITED(ended) else "signal", _code(ended))
            if passed := self._what_passed():
                return self._report(passed)

    def _wait(self) -> None:
        """For output, or for the next look; ends this process when nobody wants a report any more."""
        for place, event in self.poll.poll(1000 * LOOK_SECONDS):
            if place == 0 and (event & (select.POLLHUP | select.POLLERR) or not os.read(0, 1)):
                _kill_all()
                os._exit(1)
            if place == self.output and not event & select.POLLIN:  # closed: the program may go on without it
                self.poll.unregister(place)

    def _read_all(self) -> bool:
        """Take what was written; whether that is more than allowed."""
        with suppress(BlockingIOError):
            while len(self.text) <= self.limits["output_bytes"] and (part := os.read(self.output, DRAIN_BYTES)):
                self.text += part
        return len(self.text) > self.limits["output_bytes"]

    def _reap(self) -> int | None:
        """The status of the program where it has ended; children of its that it left to us are buried too."""
        with suppress(ChildProcessError):
            while True:
                child, status = os.waitpid(-1, os.WNOHANG)
                if child == self.program:
                    return status
                if child == 0:
                    return None
        return None

    def _what_passed(self) -> str:
        if time.monotonic() - self.started > self.limits["wall_seconds"]:
            return "time"
        if _fills(Path.cwd(), self.limits["box_bytes"]):
            return "files"
        found = list(descendants())
        if len(found) > self.limits["processes"]:
            return "processes"
        used = sum(num_bytes for _, num_bytes in found) + nameless_bytes(process for process, _ in found)
        used += shared_bytes() if self.is_apart else 0
        return "memory" if used > self.limits["memory_bytes"] else ""

    def _report(self, ending: str, code: int = 0) -> Report:
        seconds = round(time.monotonic() - self.started, 3)
        text = self.text[: self.limits["output_bytes"]].decode("utf-8", errors="replace")
        return {"ending": ending, "code": code, "seconds": seconds, "output": text}


def _fills(box: Path, most_bytes: int) -> bool:
    """Whether a folder on a disk holds more than a box of memory could, or what nobody could count."""
    total = num_entries = 0
    waiting = [str(box)]
    while waiting:
        try:
            for entry in os.scandir(waiting.pop()):
                is_folder = entry.is_dir(follow_symlinks=False)
                total += 0 if is_folder else entry.stat(follow_symlinks=False).st_size
                num_entries += 1
                if total > most_bytes or num_entries > walls.NUM_FILES:
                    return True
                if is_folder:
                    waiting.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):  # it was removed
            continue
        except OSError:  # a path too long, or a folder closed to us
            return True
    return False


def _code(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else os.WTERMSIG(status)


def descendants() -> Iterator[tuple[int, int]]:
    """(number, resident bytes) of all that this process started, and of what those started; none without /proc."""
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for process, fields in _processes():
        children.setdefault(int(fields[1]), []).append(process)
        sizes[process] = int(fields[21]) * PAGE_BYTES
    waiting = list(children.get(os.getpid(), []))
    while waiting:
        process = waiting.pop()
        waiting += children.pop(process, [])
        yield process, sizes[process]


def nameless_bytes(processes: Iterable[int]) -> int:
    """Of open files that no folder names any more, or never did (memfd_create(2)): they are no process's memory."""
    found: dict[tuple[int, int], int] = {}
    for process in processes:
        with suppress(OSError):  # it has ended, or hides them
            for entry in os.scandir(PROC / str(process) / "fd"):
                with suppress(OSError):
                    about = entry.stat()
                    if stat.S_ISREG(about.st_mode) and not about.st_nlink:
                        found[about.st_dev, about.st_ino] = about.st_blocks * 512
    return sum(found.values())


def shared_bytes() -> int:
    """Of shared memory of System V, in this namespace: the column `rss` of proc_sysvipc(5)."""
    with suppress(OSError):
        lines = (PROC / "sysvipc" / "shm").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[14]) for line in lines[1:])
    return 0


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Each process with the fields of its `stat` behind its name: the state, the parent, ... (proc(5))."""
    for name in os.listdir(PROC) if PROC.is_dir() else []:  # noqa: PTH208 - a fork bomb makes this long
        if name.isdigit():
            with suppress(OSError):  # it has ended
                text = (PROC / name / "stat").read_bytes().decode("utf-8", errors="replace")
                yield int(name), text.rpartition(")")[2].split()


def _num_threads_of_user() -> int:
    user, total = os.geteuid(), 0
    for process, fields in _processes():
        with suppress(OSError):
            total += int(fields[17]) if (PROC / str(process)).stat().st_uid == user else 0
    return total


def _kill_all() -> None:
    """Nothing that was started is left. All are stopped first: a fork bomb makes new ones while it is killed."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        seen: set[int] = set()
        while new := {process for process, _ in descendants()} - seen:
            for process in new:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, number)
            seen |= new
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass
