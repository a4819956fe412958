"""Programs in the languages that can be run, each with a sign that it prints once its tests are behind it.

A program passes when it ended by itself with code 0 and printed that sign: one that leaves before its tests did not.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PYTHON_START = """\
import os, sys, types
os.remove(__file__)
with open("program.py", encoding="utf-8", newline="") as file:
    text = file.read()
program = sys.modules["program"] = types.ModuleType("program")
exec(compile(text, "program.py", "exec"), program.__dict__)
os.write(1, b"{sign}")
"""
CPP_END = ' std::fputs("{sign}", stdout); std::fflush(stdout); return 0; }}\n'
JS_END = '\n;require("node:fs").writeSync(1, "{sign}");\n'
MOST_CHARACTERS = 1_000_000
GIGABYTE = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use. `memory_bytes`: all its processes together; `address_bytes`: each one, 0 for no limit.

    `box_bytes`: what it may write, in a file system of memory; `file_bytes`: one file.
    """

    cpu_seconds: int = 10
    wall_seconds: float = 30.0
    memory_bytes: int = GIGABYTE
    address_bytes: int = 4 * GIGABYTE
    file_bytes: int = GIGABYTE // 32
    box_bytes: int = GIGABYTE // 16
    processes: int = 64
    open_files: int = 256
    output_bytes: int = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ProgramSteps:
    """Files to be written, and commands to be run one after the other; `sign` is what a passed program prints."""

    files: dict[str, str]
    commands: Sequence[Sequence[str]]
    sign: str


@dataclass(frozen=True, kw_only=True)
class ProgramLanguage:
    """`tool`: the program that runs or translates it; `steps`: from a program's text, the tool's path and a sign."""

    name: str
    tool: Callable[[], str | None]
    steps: Callable[[str, str, str], ProgramSteps]
    limits: Limits


def new_sign() -> str:
    return f"passed-{secrets.token_hex(16)}"


def _python(text: str, tool: str, sign: str) -> ProgramSteps:
    files = {"program.py": text, "main.py": PYTHON_START.format(sign=sign)}
    return ProgramSteps(files=files, commands=[[tool, "-I", "-B", "main.py"]], sign=sign)


def _javascript(text: str, tool: str, sign: str) -> ProgramSteps:
    command = [tool, "--max-old-space-size=512", "main.js"]
    return ProgramSteps(files={"main.js": text + JS_END.format(sign=sign)}, commands=[command], sign=sign)


def _cpp(text: str, tool: str, sign: str) -> ProgramSteps:
    """The tests are the body of `main`, which ends the text."""
    body = text.rstrip().removesuffix("}")
    translate = [tool, "-std=c++17", "-O1", "-include", "cstdio", "main.cpp", "-o", "main"]
    return ProgramSteps(
        files={"main.cpp": body + CPP_END.format(sign=sign)}, commands=[translate, ["./main"]], sign=sign
    )


def _which(name: str) -> str | None:
    found = shutil.which(name)
    return str(Path(found).resolve()) if found else None


LANGUAGES = {
    language.name: language
    for language in (
        ProgramLanguage(name="python", tool=lambda: sys.executable, steps=_python, limits=Limits()),
        # V8 sets aside many gigabytes of addresses that it never uses
        ProgramLanguage(name="js", tool=lambda: _which("node"), steps=_javascript, limits=Limits(address_bytes=0)),
        ProgramLanguage(name="cpp", tool=lambda: _which("g++"), steps=_cpp, limits=Limits()),
    )
}
