"""Programs that no machine should run: name -> (text, what the reason or the output says). None of them ends well.

What they may use is in `SMALL`.
"""

from __future__ import annotations

import textwrap

from fedllm_bench.evaluation.closed.sandbox.programs import Limits

MEGABYTE = 1 << 20
SMALL = Limits(
    cpu_seconds=1,
    wall_seconds=2.5,
    memory_bytes=200 * MEGABYTE,
    address_bytes=400 * MEGABYTE,
    file_bytes=4 * MEGABYTE,
    box_bytes=8 * MEGABYTE,
    processes=24,
    open_files=64,
    output_bytes=100_000,
)
SECONDS = " s"  # of a core, or on a busy machine by the clock
ANY = ""

_FIRST = {  # those that the issue names
    "fork bomb": (
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        ANY,
    ),
    "endless loop": ("while True: pass", SECONDS),
    "socket": (
        """
        import socket
        socket.create_connection(("192.0.2.1", 80), timeout=1)
        """,
        "Error",
    ),
    "socket without a connection": (
        """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", ("192.0.2.1", 53))
        """,
        "Error",
    ),
    "1 GB of output": (
        """
        import sys
        for _ in range(1000):
            sys.stdout.write("x" * 1_000_000)
        """,
        "wrote more than 100000 bytes",
    ),
    "kills its parent": (
        """
        import os, signal, time
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1)
        assert False, "still here"
        """,
        ANY,
    ),
}
_OTHERS = {
    "sleeps": ("import time; time.sleep(60)", "longer than 2.5 s"),
    "ignores signals": (
        """
        import signal
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
        """,
        SECONDS,
    ),
    "threads without end": (
        """
        import threading, time
        for _ in range(10_000):
            threading.Thread(target=time.sleep, args=(9,)).start()
        """,
        ANY,
    ),
    "1 GB of errors": (
        """
        import sys
        for _ in range(1000):
            sys.stderr.write("x" * 1_000_000)
        """,
        "wrote more than 100000 bytes",
    ),
    "1 GB in files": (
        """
        import time
        for number in range(1000):
            with open(f"{number}", "wb") as file:
                file.write(bytes(1_000_000))
            time.sleep(0.001)
        assert False, "a gigabyte was written"
        """,
        ANY,
    ),
    "a million files": (
        """
        for number in range(1_000_000):
            open(f"{number}", "w").close()
        """,
        ANY,
    ),
    "folders in folders": (
        """
        import os, time
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
        time.sleep(1)
        """,
        "they cannot be counted",
    ),
    "folders without end": (
        """
        import os
        for number in range(1_000_000):
            os.mkdir(f"{number}")
        """,
        ANY,
    ),
    "files in a closed folder": (
        """
        import os, time
        os.mkdir("a")
        os.mkdir("a/b")
        os.chdir("a/b")
        os.chmod("..", 0)
        for number in range(1000):
            with open(f"{number}", "wb") as file:
                file.write(bytes(1_000_000))
            time.sleep(0.001)
        assert False, "a gigabyte was written"
        """,
        ANY,
    ),
    "1 GB in one file": (
        """
        with open("big", "wb") as file:
            file.truncate(1 << 30)
        """,
        ANY,
    ),
    "zip bomb": (
        """
        import zlib
        bomb = zlib.compress(bytes(50_000_000), 9)
        zlib.decompress(bomb) * 20
        """,
        "MemoryError",
    ),
    "memory of many": (
        """
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                full = bytearray(b"x") * 60_000_000
                time.sleep(30)
        time.sleep(30)
        """,
        "bytes of memory",
    ),
    "memory without a process": (
        """
        import os, time
        for number in range(3):
            if os.fork() == 0:
                for again in range(40):
                    os.write(os.memfd_create(f"{again}"), bytes(4_000_000))
                time.sleep(9)
                os._exit(0)
        os.wait()
        """,
        "bytes of memory",
    ),
    "deep recursion": (
        """
        def f():
            f()
        f()
        """,
        "RecursionError",
    ),
    "deep recursion without a limit": (
        """
        import sys
        sys.setrecursionlimit(10**9)
        class A:
            def __repr__(self):
                return repr([self])
        repr(A())
        """,
        ANY,
    ),
    "crash": ("import ctypes; ctypes.string_at(0)", "signal 11"),
    "leaves before its tests": ("import os; os._exit(0)", "before its tests"),
    "leaves politely": ("raise SystemExit(0)", "before its tests"),
    "kills its group": ("import os, signal; os.killpg(0, signal.SIGKILL)", "signal 9"),
    "leaves a child behind": (
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        assert False
        """,
        "AssertionError",
    ),
    "holds the output": (
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        os._exit(1)
        """,
        "code 1",
    ),
    "waits for an answer": ("input()", "EOFError"),
    "no Python": ("def f(:", "SyntaxError"),
    "a NUL": ("x = 1\0", "null bytes"),
    "half a character": ("x = '\ud800'", "UnicodeDecodeError"),
    "a huge number": ("print(10 ** (10 ** 9))", ANY),
    "a pattern that never ends": ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", SECONDS),
    "mounts and namespaces": (
        """
        import ctypes
        library = ctypes.CDLL(None)
        done = library.unshare(0x10000000) == 0 or library.mount(b"none", b"/box", b"tmpfs", 0, None) == 0
        assert done, "refused"
        """,
        "refused",
    ),
    "System V memory": (
        """
        import ctypes, time
        library = ctypes.CDLL(None)
        library.shmat.restype = ctypes.c_void_p
        for _ in range(3):
            segment = library.shmget(0, 100 << 20, 0o1600)
            assert segment >= 0, "refused"
            place = library.shmat(segment, None, 0)
            ctypes.memset(place, 1, 100 << 20)
            library.shmdt(ctypes.c_void_p(place))
        time.sleep(9)
        """,
        ANY,
    ),
    "becomes root": ("import os; os.setuid(0); assert os.getuid() != 0, 'is root'", ANY),
}
FIRST, OTHERS = ({name: (textwrap.dedent(text), says) for name, (text, says) in programs.items()}
                 for programs in (_FIRST, _OTHERS))  # fmt: skip
