"""docs/api.md from the docstrings of the front door: `python -m fedllm_bench.api_docs > docs/api.md`."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from fedllm_bench import api

INTRODUCTION = """\
# From Python

This page is made of the docstrings: `python -m fedllm_bench.api_docs > docs/api.md`. Its examples are run as tests.

```python
import fedllm_bench as fb

split = fb.load_split("aya")  # the embedded miniature; no network
print(split.client("user-003").train)
run = fb.bench("aya", "fedprox", seed=1, settings={"local.lr": 1e-4})
print(run.scores("heldout").groupby("client").value.mean())
print(fb.grid("aya", methods=["fedavg", "local"], seeds=[0, 1, 2]).to_pandas())
```

**What may not break.** The names on this page, their arguments, and the columns and attributes that it names stay as
they are in all versions with the same first number (before 1.0: the same second number). A name that must go is kept
for one such version, with a warning. Arguments and columns may be added. The keys inside `results`, `config` and
`rounds` are those of the files, which have versions of their own. Everything else in the package may change at any
time.

**What may be given.** `AnyPath` is a path or a text. `AnyRun` is a `Run` or its folder. `AnySplit` is a `Split`, its
folder or, in `diversity`, the name of a data set. `Settings` maps a key of `bench DATASET METHOD --explain` to a
number, a text, True or False, None, or a list of these.

**Errors.** Bad input is a `fb.UserError` (a `ValueError`): one line that says what was got, what is allowed, and what
to do. It names settings and options as the command does (`--set`). An argument that does not exist is a `TypeError`,
as anywhere in Python.

**What is printed.** Nothing, but progress on standard error; `progress=False` turns it off. Warnings go through
`logging`, as `fedllm_bench`. Variables of the environment, warnings, signals and the threads of torch are afterwards as
they were. `import fedllm_bench` alone loads neither torch nor pandas; a name is loaded when it is first used.

**Ctrl-C.** What is done is kept; make the same call again to go on. The first Ctrl-C in training waits for the clients
that are being trained; the second one stops at once. What is raised is a `KeyboardInterrupt`.

**What differs from the command.** `load_split` and `diversity` take the miniature where a data set is named, with a
GPU too. A run in this process is about a third slower on a CPU than `fedllm-bench bench`, which starts itself with
other settings of memory. The numbers are the same. The examples below take for granted: `small` (a split of six
clients), `tiny` (settings of one round of one step) and `more` (`dry_run=True, allow_dirty=True`).
"""
PARTS = {
    "Functions": ("load_split", "bench", "grid", "tune", "open_run", "evaluate", "compare", "diversity", "submit"),
    "What they give": (
        *("Split", "ClientRows", "Run", "Grid", "Tuned", "Evaluated", "RunComparison", "Diversity", "PackedRuns"),
        "UserError",
    ),
    "Options by name": ("RunOptions", "TuneOptions", "DiversityOptions", "StatementOptions"),
}
INTERNAL = {"Split": {"manifest", "rows", "preference_rows", "task_rows"}, "ClientRows": {"parts", "task"}}
WIDTH = 100


def text() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for title, names in PARTS.items() for line in _part(title, names))]) + "\n"


def _part(title: str, names: tuple[str, ...]) -> Iterator[str]:
    yield f"## {title}\n"
    for name in names:
        found: Any = vars(api)[name]
        node = ast.parse(inspect.getsource(found)).body[0]
        if isinstance(node, ast.FunctionDef):
            yield from (f"### `{name}`\n", _code(_signature(f"fb.{name}", node)), _said(node))
        elif isinstance(node, ast.ClassDef):
            yield from _class(node, is_options=title.startswith("Options"))


def _class(node: ast.ClassDef, *, is_options: bool) -> Iterator[str]:
    yield f"### `{node.name}`\n"
    if is_options:
        head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
        yield f"{head}\n\n```text\n{rest}\n```\n"
        return
    yield _said(node)
    for part in node.body:
        name = _name(part)
        if not name.startswith("_") and name not in INTERNAL.get(node.name, ()):
            yield from _member(node.name, name, part)


def _name(part: ast.stmt) -> str:
    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
        return part.target.id
    return part.name if isinstance(part, ast.FunctionDef) else "_"


def _member(owner: str, name: str, part: ast.stmt) -> Iterator[str]:
    if isinstance(part, ast.AnnAssign):
        yield f"`.{name}: {ast.unparse(part.annotation)}`\n"
    elif isinstance(part, ast.FunctionDef):
        is_value = bool(part.decorator_list)
        kind = ast.unparse(part.returns) if part.returns else ""
        yield f"`.{name}: {kind}`\n" if is_value else _code(_signature(f"{owner}.{name}", part))
        if ast.get_docstring(part):
            yield _said(part)


def _signature(name: str, node: ast.FunctionDef) -> str:
    """On one line where it fits, else an argument a line."""
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ")
    tail = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({arguments}){tail}"
    if len(line) <= WIDTH:
        return line
    split = re.split(r", (?![^\[]*\]|[^(]*\))", arguments)
    return f"{name}(\n" + "".join(f"    {each},\n" for each in split) + f"){tail}"


def _said(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A docstring as Markdown; its example as code."""
    said = re.sub(r":(?:class|func|mod):`~?([^`]+)`", r"`\1`", ast.get_docstring(node) or "")
    body, _, example = said.partition("Example:\n")
    body = re.sub(r"Raises:\n((?:    .*\n?)+)", lambda found: f"Raises {_flat(found[1])}\n", body)
    return f"{body.strip()}\n" + (f"\n{_code(dedent(example).strip())}" if example else "")


def _flat(lines: str) -> str:
    """ "`UserError` for ..." of the lines of a section of errors."""
    name, _, why = " ".join(lines.split()).partition(": ")
    return f"`{name}` {why}"


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(text())
