"""The files of presets: what there is of each kind, and which data sets a data set is like."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from typing import Any

from fedllm_bench.common.errors import UserError, unknown
from fedllm_bench.config import plugins

PACKAGE = "fedllm_bench.benchmarks"  # named, not imported: in a checkout it lies outside fedllm_bench/
FOLDERS = {"dataset": "datasets", "method": "methods", "profile": "profiles"}
ABOUT = ("aliases", "own_rows", "suite", "like", "methods", "variants")  # of a data set, and no settings of a run


def read(root: Traversable, path: str) -> dict[str, Any]:
    if (own := plugins.preset(path)) is not None:
        return own
    try:
        return tomllib.loads(root.joinpath(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"benchmarks/{path} is not TOML: {error}") from error


def names_of(kind: str, root: Traversable) -> list[str]:
    entries = root.joinpath(FOLDERS[kind]).iterdir()
    own = [entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml")]
    return sorted([*own, *plugins.preset_names(FOLDERS[kind])])


def alike(name: str, root: Traversable) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The data set and those that it is like, the farthest first: name, where it is read, what stands there."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    while name:
        path = f"datasets/{name}.toml"
        found.append((name, plugins.label(path), read(root, path)))
        name = found[-1][2].get("like", "")
        if name and name not in names_of("dataset", root):
            raise unknown("dataset", name, names_of("dataset", root), f"benchmarks/{path}, like")
        if name in [one for one, _, _ in found]:
            raise UserError(f"benchmarks/{path}: like={name!r} leads back to itself; name another data set")
    yield from reversed(found)


def published_constants(table: Mapping[str, Any], method: str, where: str, root: Traversable) -> dict[str, Any]:
    """The constants that a data set was published with."""
    given: dict[str, Any] = table.get("methods", {})
    for name in set(given) - set(names_of("method", root)):
        raise unknown("method", name, names_of("method", root), f"benchmarks/{where}")
    found: dict[str, Any] = given.get(method, {})
    return found
