"""The files of plugins: read, run once, and what is wrong with them in one line that names file and line."""

from __future__ import annotations

import ast
import re
import stat
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fedllm_bench.common import interrupts
from fedllm_bench.common.errors import UserError, first_line
from fedllm_bench.config.plugins import Source

MOST_BYTES = 2**18  # 256 KiB
OPTION = "--plugin"  # what messages blame for a file
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,58}\.py", re.ASCII)
GROUPS = {  # table of a plugin file -> group of entry points of an installed package
    "METHODS": "fedllm_bench.methods",
    "METRICS": "fedllm_bench.metrics",
    "PIPELINES": "fedllm_bench.pipelines",
    "JUDGES": "fedllm_bench.judges",
    "PRESETS": "fedllm_bench.presets",
}
Tables = dict[str, dict[str, Any]]  # "METHODS" and the like -> name -> object


def read_file(path: Path, given_by: str = OPTION) -> tuple[Source, Tables]:
    """A plugin file and its tables; `given_by` is the option or variable that names it.

    Raises a :class:`UserError` of one line for a file that is none.
    """
    source = _source(path, f"{given_by} {path}")
    with _own_errors(source, str(path)):
        code = compile(source.content, str(path), "exec", dont_inherit=True)
        module = types.ModuleType(f"fedllm_bench_plugin_{re.sub(r'[^A-Za-z0-9]', '_', source.stamp)}")
        module.__file__ = str(path)
        sys.modules[module.__name__] = module  # dataclasses look there for the module of a class
        exec(code, vars(module))
    return source, _tables(source, vars(module))


def _source(path: Path, where: str) -> Source:
    try:
        _check_kind(path, where)
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or error}; give a Python file of your own") from error
    if not FILE_NAME.fullmatch(path.name):
        raise UserError(f"{where}: give a file whose name has letters, digits, _ and - and ends in .py")
    if b"\0" in content:
        raise UserError(f"{where}: it is a binary file; give a file of Python source, as text in UTF-8")
    return Source(name=path.name, where=where, content=content, path=str(path))


def _check_kind(path: Path, where: str) -> None:
    """Before it is opened: reading from a pipe would wait for whoever writes into it."""
    about = path.stat()
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{where}: it is a directory; give a Python file of your own")
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{where}: it is a pipe, socket or device; give a Python file of your own")
    if about.st_size > MOST_BYTES:
        raise UserError(f"{where}: it has more than {MOST_BYTES // 1024} KiB; give one file of source")


def _tables(source: Source, values: Mapping[str, Any]) -> Tables:
    tables = {kind: values[kind] for kind in GROUPS if kind in values}
    if not tables.keys() - {"PRESETS"}:
        names = ", ".join(kind for kind in GROUPS if kind != "PRESETS")
        raise UserError(f"{source.where}: it has none of {names}; see docs/plugins.md for the form of a plugin")
    for kind, table in tables.items():
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
            raise wrong(source, kind, "", "it should be a dict from names to objects")
    return tables


def read_packages() -> list[tuple[Source, Tables]]:
    """What installed packages offer under the groups of entry points; those of one module are one plugin."""
    found: dict[str, tuple[Source, Tables]] = {}
    known = entry_points()
    for kind, group in GROUPS.items():
        for point in sorted(known.select(group=group), key=lambda point: (point.module, point.name)):
            source, value = _loaded(point)
            _, tables = found.setdefault(point.module, (source, {}))
            tables.setdefault(kind, {})[point.name] = value
    return list(found.values())


def _loaded(point: EntryPoint) -> tuple[Source, Any]:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "an installed package"
    blank = Source(name=f"{point.module}.py", where=f"entry point {point.name} of {package}", content=b"")
    with _own_errors(blank, ""):
        value = point.load()
    path = Path(sys.modules[point.module].__file__ or "")
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{blank.where}: {point.module} has no source file; a plugin must have one")
    source = replace(blank, content=path.read_bytes(), path=str(path), package=package)
    return source, value


@contextmanager
def _own_errors(source: Source, path: str) -> Iterator[None]:
    """Inside, every error of the plugin's own code becomes one line; a plugin can raise anything, also `SystemExit`."""
    try:
        yield
    except SyntaxError as error:
        line = f" line {error.lineno}:" if error.lineno and error.filename == path else ""
        raise UserError(f"{source.where}:{line} {type(error).__name__}: {error.msg}; correct the file") from error
    except BaseException as error:
        if interrupts.is_of_user(error):
            raise
        number = line_in(error, path)
        where = f" line {number}:" if number else ""
        raise UserError(f"{source.where}:{where} {in_words(error)}; correct the file") from error


def line_in(error: BaseException, path: str) -> int | None:
    """The last line of the file `path` on the way to an error; None where it was not on the way."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None


def in_words(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)[:200]}" if str(error).strip() else kind


def wrong(source: Source, kind: str, name: str, rule: str) -> UserError:
    """The error for an object that is none of its kind."""
    return UserError(f"{place(source, kind, name)}: {rule}")


def place(source: Source, kind: str, name: str) -> str:
    """Where an object was put into its table: file, line, table and name."""
    number = _line(source.content, kind, name)
    line = f" line {number}:" if number else ""
    return f"{source.where}:{line} {kind}{f'[{name!r}]' if name else ''}"


def _line(content: bytes, kind: str, name: str) -> int | None:
    """The line of `name` in the table `kind`, else that of the table; None where the source has no such line."""
    try:
        body = ast.parse(content).body
    except (SyntaxError, ValueError):
        return None
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == kind for target in targets):
            table = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            keys = table.keys if isinstance(table, ast.Dict) else []
            found = [key.lineno for key in keys if isinstance(key, ast.Constant) and key.value == name]
            return found[0] if found else node.lineno
    return None
