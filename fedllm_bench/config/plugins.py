"""The plugins in use: which name came from which file. The objects themselves stand in the registries of their kind.

`fedllm_bench.plugins` puts both in, and takes them out again; docs/plugins.md explains what a plugin is.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedllm_bench.common import files

Name = tuple[str, str]  # the table of the plugin and the name in it, such as ("METHODS", "my_method")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The file of a plugin as it was when it was read. `name` is that of its copy in a run folder.

    `where` is how messages call it, `path` what tracebacks call it; `package` is the installed package that it belongs
    to, such as "example 1.0".
    """

    name: str
    where: str
    content: bytes
    path: str = ""
    package: str = ""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def stamp(self) -> str:
        """What is added to the version of a metric or pipeline: another file is another version."""
        return f"{self.name}-{self.sha256[:10]}"


ADVICE = "one of your own: give its file with --plugin FILE.py, or plugins=[FILE.py] from Python"
SOURCES = "plugins"  # the folder in a run folder
GIVEN: dict[Name, Source] = {}
PRESETS: dict[str, tuple[Source, dict[str, Any]]] = {}  # by the path that the file of such a preset would have


def preset_names(folder: str) -> list[str]:
    """The presets of plugins in `folder`, such as "methods"."""
    return [path.removeprefix(f"{folder}/").removesuffix(".toml") for path in PRESETS if path.startswith(f"{folder}/")]


def preset(path: str) -> dict[str, Any] | None:
    """A copy of the preset that a plugin has in place of the file `path`; None where it has none."""
    return copy.deepcopy(PRESETS[path][1]) if path in PRESETS else None


def label(path: str) -> str:
    """Where the values of a preset were read: `path`, or the plugin that has it."""
    return f"PRESETS of {PRESETS[path][0].name}" if path in PRESETS else path


def used_by(names: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The key `plugins` of a config: of each plugin that the run needs its name, sha256, package, and what it gives.

    `names` are those of data set and method, `values` settings by dotted key. A plugin that was given, and that the run
    takes nothing from, is not among them.
    """
    metrics = values.get("evaluation.metrics")
    named: Iterable[object] = metrics if isinstance(metrics, list | tuple) else ()
    wanted = [
        ("PIPELINES", names["dataset"]),
        ("METHODS", names["method"]),
        *(("METRICS", str(name)) for name in named),
    ]
    gives: dict[Source, set[str]] = {}
    for kind, name in wanted:
        if (source := GIVEN.get((kind, name))) is not None:
            gives.setdefault(source, set()).add(f"{kind}:{name}")
    used = [
        {"name": one.name, "sha256": one.sha256, "package": one.package, "gives": sorted(found)}
        for one, found in sorted(gives.items(), key=lambda pair: pair[0].name)
    ]
    return {"plugins": used}


def keep_sources(folder: Path, names: Iterable[str]) -> None:
    """Write a copy of each of these plugins, which are in use, into folder/plugins."""
    known = {source.name: source.content for source in GIVEN.values()}
    for name in names:
        files.write_bytes(files.make_folder(folder / SOURCES) / name, known[name])
