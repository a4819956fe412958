"""Presets: the layers that a run's config is made of. A later layer wins, key by key.

datasets/<dataset>.toml     the published setting; `like` names a data set whose values stand where it has none
methods/<method>.toml       the constants of the method, in [method]
datasets/<dataset>.toml     [methods.<method>]: those that were published with the data set
profiles/<profile>.toml     its sections, then [methods.<method>], then [datasets.<dataset>.<section>]
variants/<variant>.toml     but for variant paper: [<method>.<section>], instead of the constants above
datasets/<dataset>.toml     [variants.<variant>.<method>]: those that were released with the data set
overrides.toml              exceptions, each with a condition and a reason
--model, --metrics          arguments with a name of their own
--set, --preset, --table    "local.lr=1e-4", "method.mu=0.1", "lora.targets=q_proj,v_proj"
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import groupby
from typing import Any, TypedDict, Unpack, get_args, get_type_hints

from fedllm_bench.common.errors import UserError, shown, unknown
from fedllm_bench.config import plugins
from fedllm_bench.config.assignments import assignment, comma_separated, source_of
from fedllm_bench.config.auto_dtype import dtype_for
from fedllm_bench.config.kinds.adapter_kind import unused
from fedllm_bench.config.option_names import no_method, unknown_option
from fedllm_bench.config.places import placed
from fedllm_bench.config.preset_files import ABOUT, FOLDERS, PACKAGE, alike, names_of, published_constants, read
from fedllm_bench.config.run import RunConfig, check, dotted, option_types

Layer = tuple[str, dict[str, Any]]  # where the values were read, and the values by dotted key

TOP_KEYS = ("seed", "engine", "variant", "split")  # arguments that are keys of the config themselves
SUITES = ("openfedllm", "fs_llm", "flowertune")  # whose training sets are here beside the benchmark's own
BUILDS = "builds"  # of a profile: no settings of a run, but how a split is made for one
KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}  # of constants
ARGUMENTS = (*FOLDERS, *TOP_KEYS, "model", "metrics")


class PresetOptions(TypedDict, total=False):
    """What can be given beside the three names. `root` is a folder of presets; default: the package's own."""

    seed: int
    engine: str
    variant: str
    split: str | None
    model: str | None
    metrics: str | Sequence[str] | None  # names, or one text with commas
    root: Traversable | None


def load(
    dataset: str, method: str, profile: str, overrides: Sequence[str] = (), **options: Unpack[PresetOptions]
) -> RunConfig:
    """The checked config of a run; a :class:`UserError` of one line names all that is wrong."""
    return placed(_resolve(dataset, method, profile, overrides, options).check())


def explain(
    dataset: str, method: str, profile: str, overrides: Sequence[str] = (), **options: Unpack[PresetOptions]
) -> dict[str, str]:
    """Where each value of the same :func:`load` comes from: dotted key -> file, argument or "default"."""
    resolved = _resolve(dataset, method, profile, overrides, options)
    config = resolved.check().every_value()
    config["method"] = {"name": config["method"]["name"], **config["method"]["constants"]}
    if not config["plugins"]:  # no setting: it is only shown what a run uses
        del config["plugins"]
    return {key: resolved.sources.get(key, "default") for key in dotted(config)}


def dataset_names(root: Traversable | None = None) -> list[str]:
    """The data sets of the benchmark, whose clients are users.

    A preset with `own_rows = true` is none: it is for a split that a user made. Nor is one of another suite.
    """
    return _of_suite("", root)


def training_sets(root: Traversable | None = None) -> dict[str, list[str]]:
    """Suite, such as "openfedllm" -> its data sets: those whose presets name it by `suite`."""
    return {suite: _of_suite(suite, root) for suite in SUITES}


def every_dataset(root: Traversable | None = None) -> list[str]:
    """The data sets of the benchmark, then those of the other suites."""
    return [*dataset_names(root), *(name for names in training_sets(root).values() for name in names)]


def _of_suite(suite: str, root: Traversable | None) -> list[str]:
    root = root or files(PACKAGE)
    tables = {name: read(root, f"datasets/{name}.toml") for name in names_of("dataset", root)}
    return [n for n, table in tables.items() if table.get("suite", "") == suite and not table.get("own_rows")]


def method_names(root: Traversable | None = None) -> list[str]:
    return names_of("method", root or files(PACKAGE))


def dataset_name(name: str, root: Traversable | None = None) -> str:
    """The own name of a data set that may be given by another one; a :class:`UserError` where there is none."""
    return _canonical("dataset", name, root or files(PACKAGE))


def dataset_aliases(root: Traversable | None = None) -> dict[str, str]:
    """Other names of datasets -> their own names."""
    root = root or files(PACKAGE)
    tables = {name: read(root, f"datasets/{name}.toml") for name in names_of("dataset", root)}
    return {alias: name for name, table in tables.items() for alias in table.get("aliases", [])}


def builds_of(profile: str, root: Traversable | None = None) -> dict[str, dict[str, Any]]:
    """Data set -> how its users are built from the upstream's rows where a run of this profile names no split.

    Keys of a recipe (docs/data.md), and `revision`, a commit of the hub; {} for a profile without builds.
    """
    found: dict[str, dict[str, Any]] = read(root or files(PACKAGE), f"profiles/{profile}.toml").get(BUILDS, {})
    return found


def _canonical(kind: str, name: str, root: Traversable) -> str:
    names = names_of(kind, root)
    if name in names:
        return name
    aliases = dataset_aliases(root) if kind == "dataset" else {}
    if name in aliases:
        return aliases[name]
    if kind == "method":
        raise no_method(name, names, plugins.ADVICE)
    raise unknown(kind, name, [*names, *aliases], "" if kind == "profile" else plugins.ADVICE)


@dataclass(frozen=True, kw_only=True)
class _Resolved:
    """The layers laid over each other: values, where each dotted key was read, and problems so far."""

    values: dict[str, Any]
    sources: dict[str, str]
    problems: list[str]

    def check(self) -> RunConfig:
        return check(self.values, self.sources, self.problems)


def _resolve(dataset: str, method: str, profile: str, overrides: Sequence[str], options: PresetOptions) -> _Resolved:
    root = options.get("root") or files(PACKAGE)
    given = {"dataset": dataset, "method": method, "profile": profile}
    names = {kind: _canonical(kind, name, root) for kind, name in given.items()}
    declared = list(_file_layers(names, root))
    if (variant := options.get("variant") or "paper") != "paper":
        declared = [*_without_constants(declared), *_variant_layers(variant, names, root)]
    layers = [*declared, *_override_layers(names, root), *_argument_layers(options)]
    layers += [(source, dict(map(assignment, words))) for source, words in groupby(overrides, key=source_of)]
    constants = {key: value for key, value in _merge(declared).items() if key.startswith("method.")}
    known = option_types().keys() | constants.keys()
    flat = {key: value for key, value in _merge(layers).items() if key in known}
    flat |= {key: _like(value, flat[key]) for key, value in constants.items()}
    top, top_sources = _top(names, options)
    sources = {key: source for source, layer in layers for key in layer} | top_sources
    if flat.get("model.dtype") == "auto":
        flat["model.dtype"] = dtype_for(flat["model.name"], flat.get("model.revision"))
    wrong = _wrong_constants(flat, constants, sources)
    flat |= {key: constants[key] for key in wrong}  # named once, not once more by the check of the whole
    problems = [*_unknown_keys(layers, known), *wrong.values(), *unused(flat, sources)]
    values = top | plugins.used_by(names, flat) | _sections(flat, names["method"])
    return _Resolved(values=values, sources=sources, problems=problems)


def _merge(layers: Sequence[Layer]) -> dict[str, Any]:
    return {key: value for _, layer in layers for key, value in layer.items()}


def _top(names: Mapping[str, str], options: PresetOptions) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys above the sections, and their sources."""
    name = f"mini-{names['dataset']}" if names["profile"] == "mini" else names["dataset"]
    values = {"seed": 0, "engine": "inprocess", "variant": "paper", "split": None}
    given = {key: value for key, value in options.items() if key in TOP_KEYS and value is not None}
    names_of_run = {"dataset": names["dataset"], "name": name, "profile": names["profile"]}
    values = {**names_of_run, "track": names["profile"], **values, **given}
    sources = {key: f"--{key}" for key in given}
    return values, sources | dict.fromkeys((*names_of_run, "track", "method.name", "plugins"), "command")


def _sections(flat: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Dotted keys as the nested values of a config."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, field = key.partition(".")
        nested.setdefault(section, {})[field] = value
    return {**nested, "method": {"name": method, "constants": nested.get("method", {})}}


def _file_layers(names: Mapping[str, str], root: Traversable) -> Iterator[Layer]:
    """The dataset, the method and the three parts of the profile."""
    sets = list(alike(names["dataset"], root))
    for _, where, table in sets:
        yield where, dotted({key: value for key, value in table.items() if key not in ABOUT})
    path = f"methods/{names['method']}.toml"
    yield plugins.label(path), dotted(read(root, path))
    for _, where, table in sets:
        yield where, dotted(published_constants(table, names["method"], where, root), "method.")
    path = f"profiles/{names['profile']}.toml"
    table = {key: value for key, value in read(root, path).items() if key != BUILDS}
    special = {kind: table.pop(FOLDERS[kind], {}) for kind in ("method", "dataset")}
    for kind, tables in special.items():
        for name in set(tables) - set(names_of(kind, root)):  # a misspelt name must not be passed over
            raise unknown(kind, name, names_of(kind, root), f"benchmarks/{path}")
    yield path, dotted(table)
    yield path, dotted(special["method"].get(names["method"], {}), "method.")
    for name, _, _ in sets:
        yield path, dotted(special["dataset"].get(name, {}))


def _without_constants(layers: Sequence[Layer]) -> list[Layer]:
    """Another variant has other constants, or none."""
    return [
        (source, {key: value for key, value in layer.items() if not key.startswith("method.")})
        for source, layer in layers
    ]


def _variant_layers(variant: str, names: Mapping[str, str], root: Traversable) -> Iterator[Layer]:
    path = f"variants/{variant}.toml"
    if not root.joinpath(path).is_file():
        raise unknown("variant", variant, get_args(get_type_hints(RunConfig)["variant"]))
    yield path, dotted(read(root, path).get(names["method"], {}))
    for _, where, table in alike(names["dataset"], root):
        yield where, dotted(table.get("variants", {}).get(variant, {}).get(names["method"], {}))


def _override_layers(names: Mapping[str, str], root: Traversable) -> Iterator[Layer]:
    """The exceptions of overrides.toml that hold for this run, in the order of the file."""
    for entry in read(root, "overrides.toml").get("override", []):
        _check_override(entry, root)
        if all(names[kind] == name for kind, name in entry["when"].items()):
            yield f"overrides.toml: {entry['reason']}", dotted(entry["set"])


def _check_override(entry: Mapping[str, Any], root: Traversable) -> None:
    if set(entry) != {"when", "reason", "set"} or not str(entry["reason"]).strip():
        raise UserError(f"benchmarks/overrides.toml: each [[override]] has when, reason and set; got {dict(entry)}")
    for kind, name in entry["when"].items():
        if kind not in FOLDERS:
            raise unknown("condition", kind, FOLDERS, "benchmarks/overrides.toml")
        if name not in names_of(kind, root):
            raise unknown(kind, name, names_of(kind, root), "benchmarks/overrides.toml")


def _argument_layers(options: PresetOptions) -> Iterator[Layer]:
    if (model := options.get("model")) is not None:
        yield "--model", {"model.name": model}
    if (metrics := options.get("metrics")) is not None:
        yield "--metrics", {"evaluation.metrics": comma_separated(metrics)}


def _unknown_keys(layers: Sequence[Layer], known: Collection[str]) -> list[str]:
    return [
        f"{key} is an argument of its own: --{key}" if key in ARGUMENTS else unknown_option(key, known, f" ({source})")
        for source, layer in layers
        for key in layer
        if key not in known
    ]


def _like(declared: Any, value: Any) -> Any:
    """An int is fine for a constant that is declared as a float; nothing else is converted."""
    exact = type(value) is int and abs(value) <= 2**53
    return float(value) if isinstance(declared, float) and exact else value


def _wrong_constants(
    flat: Mapping[str, Any], declared: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, str]:
    """One line for each constant that has another type than in its preset, or is not finite."""
    return {
        key: f"{key} ({sources[key]}): got {shown(flat[key])}, it should be {KINDS[type(value)]}, as {_toml(value)}"
        for key, value in declared.items()
        if type(flat[key]) is not type(value) or (isinstance(value, float) and not math.isfinite(flat[key]))
    }


def _toml(value: bool | int | float | str) -> str:
    """A value as a preset has it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
