"""The ways to shut a program in: processes of our own, bubblewrap, docker; and which of them this machine can do.

A shell gives the command that starts the guard, and the guard the part of its order that says which walls to build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.closed.sandbox.programs import ProgramLanguage
from fedllm_bench.evaluation.closed.sandbox.walls import BOX

PACKAGES = str(Path(__file__).parents[4])
SYSTEM = ("/bin", "/etc/alternatives", "/etc/ld.so.cache", "/lib", "/lib32", "/lib64", "/nix/store", "/sbin", "/usr")
IMAGE, IMAGE_VARIABLE = "python:3.11-slim", "FEDLLM_BENCH_IMAGE"
DOCKER_SECONDS = 20.0


def guard_command(python: str, packages: str) -> list[str]:
    text = f"import sys; sys.path.insert(0, {packages!r}); "
    text += "from fedllm_bench.evaluation.closed.sandbox import guard; guard.main()"
    return [python, "-I", "-S", "-B", "-c", text]


def readable(tool: str) -> list[str]:
    """What a program may read: the system's libraries, this Python with its packages, and its tool's folder."""
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    own = str(Path(tool).resolve().parent.parent)
    paths = [*SYSTEM, sys.prefix, sys.base_prefix, *packages, own]
    real = [str(Path(path).resolve()) for path in paths]  # where links on the way lead
    return sorted({path for path in (*paths, *real) if path != "/" and Path(path).exists()})


class Shell(Protocol):
    @property
    def name(self) -> str: ...

    def command(self, box: str, language: ProgramLanguage) -> list[str]: ...

    def box(self, folder: str) -> str:
        """The folder that a program may write, as the guard sees it."""
        ...

    def tool(self, language: ProgramLanguage) -> str: ...

    def order(self, language: ProgramLanguage) -> dict[str, Any]: ...


def _found(language: ProgramLanguage) -> str:
    tool = language.tool()
    if tool is None:
        raise UserError(f"no program that runs {language.name} is installed; docs/code.md names them")
    return tool


@dataclass(frozen=True)
class ProcessShell:
    """Namespaces and Landlock as far as the kernel has them; both can be left out, which tests do."""

    namespaces: bool = True
    landlock: bool = True
    name: str = "process"

    def command(self, box: str, language: ProgramLanguage) -> list[str]:
        return guard_command(sys.executable, PACKAGES)

    def box(self, folder: str) -> str:
        return folder

    def tool(self, language: ProgramLanguage) -> str:
        return _found(language)

    def order(self, language: ProgramLanguage) -> dict[str, Any]:
        read = readable(_found(language))
        return {"namespaces": self.namespaces, "landlock": self.landlock, "read": read}


@dataclass(frozen=True)
class BubblewrapShell:
    """bubblewrap builds the walls; the guard inside sets the limits."""

    program: str
    name: str = "bubblewrap"

    def command(self, box: str, language: ProgramLanguage) -> list[str]:
        binds = []
        for path in [*readable(_found(language)), f"{PACKAGES}/fedllm_bench"]:
            link = Path(path)
            binds += ["--symlink", str(link.readlink()), path] if link.is_symlink() else ["--ro-bind", path, path]
        return [
            self.program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL",
            *binds, "--proc", "/proc", "--dev", "/dev", "--bind", box, BOX, "--chdir", BOX,
            *guard_command(sys.executable, PACKAGES),
        ]  # fmt: skip

    def box(self, folder: str) -> str:
        return BOX

    def tool(self, language: ProgramLanguage) -> str:
        return _found(language)

    def order(self, language: ProgramLanguage) -> dict[str, Any]:
        read = ["/proc", "/dev", *readable(_found(language))]
        return {"namespaces": False, "landlock": True, "read": read}


@dataclass(frozen=True)
class DockerShell:
    """A container for each program, of an image with Python that is there already; nothing is downloaded."""

    program: str
    image: str
    name: str = "docker"

    def command(self, box: str, language: ProgramLanguage) -> list[str]:
        user = f"{os.geteuid() or 65534}:{os.getegid() or 65534}"
        return [
            self.program, "run", "--rm", "--interactive", "--pull", "never", "--network", "none", "--read-only",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "128", "--memory", "4g",
            "--memory-swap", "4g", "--user", user, "--tmpfs", f"{BOX}:rw,exec,size=64m,mode=777",
            "--volume", f"{PACKAGES}/fedllm_bench:/guard/fedllm_bench:ro", self.image,
            *guard_command("python3", "/guard"),
        ]  # fmt: skip

    def box(self, folder: str) -> str:
        return BOX

    def tool(self, language: ProgramLanguage) -> str:
        return {"python": "python3", "js": "node", "cpp": "g++"}[language.name]

    def order(self, language: ProgramLanguage) -> dict[str, Any]:
        return {"namespaces": False, "landlock": True, "read": ["/"]}


def docker_shell() -> DockerShell:
    """Raises a :class:`UserError` where docker is not there, or has not got the image."""
    program = shutil.which("docker")
    if program is None:
        raise UserError("--sandbox docker: docker is not installed; leave the option out, or install it")
    image = os.environ.get(IMAGE_VARIABLE) or IMAGE
    try:
        asked = subprocess.run(
            [program, "image", "inspect", image], capture_output=True, timeout=DOCKER_SECONDS, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--sandbox docker: docker does not answer ({error})") from error
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        advice = f"`docker pull {image}`, or set {IMAGE_VARIABLE} to an image with Python"
        raise UserError(f"--sandbox docker: {said}; {advice if image in said else 'or leave the option out'}")
    return DockerShell(program, image)


def bubblewrap_shell() -> BubblewrapShell:
    program = shutil.which("bwrap")
    if program is None:
        raise UserError("--sandbox bubblewrap: bwrap is not installed; leave the option out, or install it")
    return BubblewrapShell(program)
