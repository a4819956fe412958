"""Plugins: methods, metrics, pipelines and judges of the user's own, in the registries while they are used.

A plugin is one Python file with the tables METHODS, METRICS, PIPELINES, JUDGES and PRESETS, as many as it needs, or an
installed package with entry points. docs/plugins.md has an example of each kind.
"""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import at_home
from fedllm_bench.config import plugins, presets
from fedllm_bench.config.plugin_files import OPTION, Tables, place, read_file, read_packages, wrong
from fedllm_bench.config.plugins import Source
from fedllm_bench.config.preset_files import PACKAGE

VARIABLE = "FEDLLM_BENCH_PLUGINS"  # paths, with os.pathsep between them
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
Entry = tuple[MutableMapping[str, Any], Any]  # a registry, and what is put into it


@contextmanager
def in_use(paths: Iterable[str | Path] = ()) -> Iterator[None]:
    """Inside, what the plugins at `paths`, of FEDLLM_BENCH_PLUGINS and of installed packages have is registered.

    Raises a :class:`UserError` of one line, which names file and line, for a plugin that is none.
    """
    with ExitStack() as stack:
        for source, tables in (*_read(paths), *read_packages()):
            if not _is_there(source):
                _register(source, tables, stack)
        yield


def _read(paths: Iterable[str | Path]) -> Iterator[tuple[Source, Tables]]:
    """Each file once, those of the environment first."""
    named = [word for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word.strip()]
    given = [(word, VARIABLE) for word in named] + [(str(_not_empty(path)), OPTION) for path in paths]
    found = [(at_home(path), by) for path, by in given]
    once = {os.path.realpath(path): (path, by) for path, by in reversed(found)}
    return (read_file(path, by) for path, by in reversed(once.values()))


def _not_empty(path: str | Path) -> str | Path:
    if path == "":
        raise UserError(f"{OPTION} '': the path is empty; give a Python file of your own")
    return path


def _is_there(source: Source) -> bool:
    """Whether the same file is in use already. Raises a :class:`UserError` for another one of the same name."""
    same = [other for other in plugins.GIVEN.values() if other.name == source.name]
    if any(other.sha256 != source.sha256 for other in same):
        raise UserError(
            f"{source.where}: there is another plugin of the name {source.name}; give one of them another name"
        )
    return bool(same)


def _register(source: Source, tables: Tables, stack: ExitStack) -> None:
    """Put what the plugin has into the registries; `stack` takes it out again."""
    for kind, make in KINDS.items():
        for name, value in tables.get(kind, {}).items():
            _check_name(source, kind, name)
            registry, entry = make(source, name, value)
            _put(stack, registry, name, entry)
            _put(stack, plugins.GIVEN, (kind, name), source)
    for path, table in _presets(source, tables):
        _put(stack, plugins.PRESETS, path, (source, table))


def _put(stack: ExitStack, registry: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    registry[key] = value
    stack.callback(registry.pop, key)


def _check_name(source: Source, kind: str, name: str) -> None:
    if not NAME.fullmatch(name) or name == "all":
        raise wrong(source, kind, name, "give a name of small letters, digits and _ that begins with a letter")
    if name in TAKEN[kind]():
        raise wrong(source, kind, name, "this name is taken; give another one")


# --- each kind: what it must be, and what stands in its registry


def _method(source: Source, name: str, value: Any) -> Entry:
    from fedllm_bench.methods import METHODS
    from fedllm_bench.methods.base import FedAvg

    if not (isinstance(value, type) and issubclass(value, FedAvg)):
        raise wrong(source, "METHODS", name, "it should be a class that inherits from FedAvg")
    own = [key for key in inspect.get_annotations(value) if key not in {field.name for field in fields(value)}]
    if any("ClassVar" not in str(inspect.get_annotations(value)[key]) for key in own):
        raise wrong(source, "METHODS", name, "write @dataclass(frozen=True, kw_only=True) above the class")
    return METHODS, value


def _metric(source: Source, name: str, value: Any) -> Entry:
    from fedllm_bench.evaluation.benchmarks import BENCHMARKS
    from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS, OpenMetric, of_plugin
    from fedllm_bench.metrics.registry import METRICS, Metric, OfPlugin
    from fedllm_bench.scores.score import MetricInfo

    if isinstance(value, type) or not isinstance(value, Metric | OpenMetric):
        raise wrong(
            source, "METRICS", name, "it should be an OpenMetric, or an object with info, needs_probes, task, score"
        )
    if not isinstance(value.info, MetricInfo) or value.info.name != name:
        raise wrong(source, "METRICS", name, f"its info should be a MetricInfo with name={name!r}")
    info = replace(value.info, version=f"{value.info.version}+{source.stamp}")
    if not isinstance(value, OpenMetric):
        return METRICS, OfPlugin(value, info, source.path)
    if value.benchmark not in BENCHMARKS:
        raise wrong(source, "METRICS", name, f"no benchmark {value.benchmark!r}; there are {', '.join(BENCHMARKS)}")
    return OPEN_METRICS, of_plugin(value, info, source.path)


def _pipeline(source: Source, name: str, value: Any) -> Entry:
    from fedllm_bench.data.build.build import Builder
    from fedllm_bench.data.build.pipelines import PIPELINES, OwnPipeline

    if not isinstance(value, Builder):
        raise wrong(source, "PIPELINES", name, "it should be a Builder, of fedllm_bench.data.build.build")
    declared = value.declaration
    if declared.dataset != name:
        raise wrong(source, "PIPELINES", name, f"its declaration should have dataset={name!r}")
    declared = replace(declared, version=f"{declared.version}+{source.stamp}")
    return PIPELINES, OwnPipeline(DECLARATION=declared, build=replace(value, declaration=declared))


def _judge(source: Source, name: str, value: Any) -> Entry:
    from fedllm_bench.evaluation.judges.preset import OF_PLUGINS, preset_of

    where = place(source, "JUDGES", name)
    if isinstance(value, dict):
        return OF_PLUGINS, (preset_of(value, name, where), None)
    if not callable(value) or isinstance(value, type):
        raise wrong(source, "JUDGES", name, "it should be a function of a question, or a dict as in docs/judges.md")
    table = {"model": name, "kind": "rule", "options": {"plugin": source.name, "sha256": source.sha256}}
    return OF_PLUGINS, (preset_of(table, name, where), value)


KINDS: dict[str, Callable[[Source, str, Any], Entry]] = {
    "METHODS": _method,
    "METRICS": _metric,
    "PIPELINES": _pipeline,
    "JUDGES": _judge,
}


def _methods_there() -> Sequence[str]:
    return presets.method_names()


def _metrics_there() -> Sequence[str]:
    from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS
    from fedllm_bench.metrics.registry import METRICS

    return [*METRICS, *OPEN_METRICS]


def _pipelines_there() -> Sequence[str]:
    from fedllm_bench.data.build.pipelines import PIPELINES

    return [*PIPELINES, *presets.every_dataset(), *presets.dataset_aliases()]


def _judges_there() -> Sequence[str]:
    from fedllm_bench.evaluation.judges.preset import judge_names

    return judge_names()


TAKEN: dict[str, Callable[[], Sequence[str]]] = {
    "METHODS": _methods_there,
    "METRICS": _metrics_there,
    "PIPELINES": _pipelines_there,
    "JUDGES": _judges_there,
}


# --- default settings


STARTS = {"sft": "aya", "preference": "chatbot_pa"}  # task -> whose settings a data set has that gives no others


def _presets(source: Source, tables: Tables) -> Iterator[tuple[str, dict[str, Any]]]:
    """The presets of a plugin by path: what it gives, over the defaults of its methods and data sets."""
    given, methods, pipelines = (tables.get(kind, {}) for kind in ("PRESETS", "METHODS", "PIPELINES"))
    for name, table in given.items():
        if not isinstance(table, dict) or not all(isinstance(section, dict) for section in table.values()):
            raise wrong(source, "PRESETS", name, 'it should be a dict of sections, such as {"method": {"alpha": 0.1}}')
        if (name in methods) == (name in pipelines):
            raise wrong(source, "PRESETS", name, "give the name of one of this plugin's METHODS or PIPELINES")
    for name, kind in methods.items():
        yield f"methods/{name}.toml", _over({"method": _constants(kind)}, given.get(name, {}))
    for name, builder in pipelines.items():
        if name not in methods:  # the settings of both would be of one name
            yield f"datasets/{name}.toml", _over(_settings(builder.declaration.task), given.get(name, {}))


def _over(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two tables of sections as one; what stands in the second wins."""
    return {section: {**first.get(section, {}), **second.get(section, {})} for section in {**first, **second}}


def _constants(kind: Any) -> dict[str, Any]:
    """The fields of a method that have a default, but for the weighting, which is a setting of the run."""
    assert is_dataclass(kind)
    found = {field.name: field.default for field in fields(kind) if field.name != "weighting"}
    return {name: value for name, value in found.items() if value is not MISSING}


def _settings(task: str) -> dict[str, Any]:
    """The published settings for a task, without what they say of the rows themselves."""
    path = files(PACKAGE).joinpath("datasets", f"{STARTS[task]}.toml")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    of_rows = ("clients", "upstream")
    data = {key: value for key, value in table["data"].items() if key not in of_rows}
    return {**{key: value for key, value in table.items() if isinstance(value, dict)}, "data": data}
