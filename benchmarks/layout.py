"""How the code is laid out, in the figures that CONTRIBUTING.md holds itself to.

    python -m fedllm_bench.benchmarks.layout

An arrow is an import from one room (a folder or module at the top of fedllm_bench/) to another. The floors of the rooms
are those of pyproject.toml. The path is every file on the call stack when `bench` takes its first optimiser step.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np

import fedllm_bench

PACKAGE = "fedllm_bench"
BESIDE = ("data_prep", "benchmarks")  # stand beside the package in a checkout and are installed within it
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    *("federation.rounds=1", "federation.clients_per_round=1", "local.steps=1", "local.micro_batch=1"),
    *("local.accumulation=1", "lora.rank=1"),
)


@dataclass(frozen=True)
class Arrow:
    """One import: `importer` names the module `imported` in its line `line`."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} -> {self.imported}"

    def parted(self) -> tuple[str, str, str] | None:
        """The folder that holds both, and what in it imports what; None where one holds the other."""
        a, b = self.importer.split("."), self.imported.split(".")
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        return None if same is None else (".".join(a[:same]), a[same], b[same])


@dataclass(frozen=True)
class Layout:
    """The sources below `root`, a checkout."""

    root: Path

    @cached_property
    def sources(self) -> dict[str, Path]:
        """Module -> file, under the names that they are installed as."""
        found = {}
        for top in (PACKAGE, *BESIDE):
            for path in sorted((self.root / top).rglob("*.py")):
                name = ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")
                found[name if top == PACKAGE else f"{PACKAGE}.{name}"] = path
        return found

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.sources.items()}

    @cached_property
    def library(self) -> list[str]:
        """The modules that have a floor: all but the measuring scripts."""
        return [name for name in self.sources if not name.startswith(f"{PACKAGE}.benchmarks")]

    @cached_property
    def arrows(self) -> list[Arrow]:
        """Every import of one module of the library by another, also within functions and for types alone."""
        return [arrow for name in self.library for arrow in self._arrows_of(name)]

    def _arrows_of(self, importer: str) -> Iterator[Arrow]:
        for node in ast.walk(self.trees[importer]):
            for name in _imported(node, self._folder_of(importer)):
                known = name if name in self.sources else name.rpartition(".")[0]  # a name out of a module
                if known in self.sources and known != importer:
                    yield Arrow(importer, known, node.lineno)  # type: ignore[attr-defined]

    def _folder_of(self, module: str) -> str:
        return module if self.sources[module].name == "__init__.py" else module.rpartition(".")[0]

    @cached_property
    def floors(self) -> list[str]:
        """The rooms from high to low, as pyproject.toml has them for import-linter, with data_prep above data."""
        contracts = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
        layers = next(one["layers"] for one in contracts["contracts"] if one.get("containers") == [PACKAGE])
        rooms = [room.strip(" ()") for layer in layers for room in layer.split("|")]
        return [*rooms[: rooms.index("data")], "data_prep", *rooms[rooms.index("data") :]]

    @cached_property
    def rooms(self) -> dict[tuple[str, str], list[Arrow]]:
        """The arrows between the rooms, with the imports that make each."""
        return self._levels[PACKAGE]

    @cached_property
    def back(self) -> list[Arrow]:
        """Imports that go up. Raises ValueError for a room that has no floor in pyproject.toml."""
        floor = self.floors.index
        return [arrow for (a, b), arrows in self.rooms.items() if floor(a) > floor(b) for arrow in arrows]

    @cached_property
    def _levels(self) -> dict[str, dict[tuple[str, str], list[Arrow]]]:
        levels: dict[str, dict[tuple[str, str], list[Arrow]]] = defaultdict(lambda: defaultdict(list))
        for arrow in self.arrows:
            if parts := arrow.parted():
                levels[parts[0]][parts[1:]].append(arrow)
        return levels

    @cached_property
    def circles(self) -> dict[str, list[str]]:
        """Folder -> folders and modules of it that import each other in a circle; the first circle found."""
        found = {}
        for folder, pairs in self._levels.items():
            graph: dict[str, set[str]] = defaultdict(set)
            for importer, imported in pairs:
                graph[importer].add(imported)
            try:
                TopologicalSorter(graph).prepare()
            except CycleError as error:
                found[folder] = list(error.args[1])
        return found

    @cached_property
    def widths(self) -> dict[str, int]:
        """Folder -> modules in it, without those of its folders."""
        counts: dict[str, int] = defaultdict(int)
        for path in self.sources.values():
            counts[path.parent.relative_to(self.root).as_posix()] += 1
        return counts

    @cached_property
    def lengths(self) -> list[int]:
        """Lines of every function, methods among them."""
        nodes = (node for tree in self.trees.values() for node in ast.walk(tree))
        return [node.end_lineno - node.lineno + 1 for node in nodes  # type: ignore[operator]
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]  # fmt: skip

    @cached_property
    def namesakes(self) -> dict[str, list[str]]:
        """Class names that more than one module of the library defines."""
        where = defaultdict(list)
        for module in self.library:
            for node in self.trees[module].body:
                if isinstance(node, ast.ClassDef):
                    where[node.name].append(module)
        return {name: modules for name, modules in sorted(where.items()) if len(modules) > 1}


def _imported(node: ast.AST, folder: str) -> list[str]:
    """The full names that an import names; none for any other node. `folder` is what `.` means."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    parts = folder.split(".")
    above = parts[: len(parts) - node.level + 1] if node.level else []
    base = ".".join([*above, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


def path_to_step(out: Path, *more: str) -> list[str]:
    """The files on the call stack at the first optimiser step of `bench aya fedavg`, from the command on.

    The run stops there; its folder stays below `out`. `more` options are for `bench`.
    Raises RuntimeError where no step is taken.
    """
    from fedllm_bench import cli
    from fedllm_bench.training import optimizer

    files: list[str] = []
    real = optimizer.OPTIMIZERS["adamw"]

    def spy(*args: object) -> None:
        files.extend(_stack())
        raise _Reached

    optimizer.OPTIMIZERS["adamw"] = spy
    words = ("bench", "aya", "fedavg", "--profile", "mini", "--metrics", "heldout", "--out", str(out), *more)
    try:
        cli.main([*words, *(word for setting in SETTINGS for word in ("--set", setting))])
    except _Reached:
        return [*files, "fedllm_bench/training/optimizer.py"]
    finally:
        optimizer.OPTIMIZERS["adamw"] = real
    raise RuntimeError("the run took no optimiser step")


class _Reached(BaseException):
    """The optimiser was called."""


def _stack() -> list[str]:
    """The files of the package on the stack, the outermost first, each once."""
    frame, found = sys._getframe(1), list[str]()
    while frame is not None:
        name = Path(frame.f_code.co_filename)
        if name.is_relative_to(ROOT / PACKAGE):
            found.append(name.relative_to(ROOT).as_posix())
        frame = frame.f_back  # type: ignore[assignment]
    return list(dict.fromkeys(reversed(found)))


def figures(layout: Layout) -> dict[str, str]:
    """What is counted, in words, and the number."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in layout.sources.values())
    p50, p90 = np.percentile(layout.lengths, [50, 90])
    widest = max(layout.widths, key=lambda folder: layout.widths[folder])
    examples = [*layout.root.glob("examples/*.py"), *layout.root.glob("examples/*.ipynb")]
    return {
        "files / thousand lines": f"{len(layout.sources)} / {lines / 1000:.0f}",
        "lines of a function, p50 / p90 / longest": f"{p50:.0f} / {p90:.0f} / {max(layout.lengths)}",
        "widest folder": f"{layout.widths[widest]} ({widest})",
        "public names at import": str(len(vars(fedllm_bench).get("__all__", ["__version__"]))),
        "examples": str(len(examples)),
        "rooms at the top": str(len({room for pair in layout.rooms for room in pair})),
        "arrows between them": str(len(layout.rooms)),
        "imports that run back": str(len(layout.back)),
        "folders with a circle, at any level": str(len(layout.circles)),
        "class names defined more than once": str(len(layout.namesakes)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Figures of the layout of the code.", allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("build/layout"), help="for the run that is traced")
    args = parser.parse_args()
    if not (ROOT / "pyproject.toml").is_file():
        parser.error(f"{ROOT} is no checkout, and the floors stand in its pyproject.toml; run this in a clone")
    layout = Layout(ROOT)
    shown = figures(layout)
    path = path_to_step(args.out)
    shown["files on the path from command to optimiser step"] = f"{len(path)}:\n  " + "\n  ".join(path)
    told = [*map(str, layout.back), *(f"circle in {k}: {' -> '.join(v)}" for k, v in layout.circles.items()),
            *(f"class {name}: {', '.join(modules)}" for name, modules in layout.namesakes.items())]  # fmt: skip
    sys.stdout.write("\n".join([*(f"{what}: {number}" for what, number in shown.items()), *told]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
