"""The grid: every method under every seed, on one data set. Each of its cells is one of `fedllm-bench bench`.

Nothing here loads torch, so that a finished grid is shown at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, escaped, shown, unknown
from fedllm_bench.config import presets
from fedllm_bench.config.assignments import OPTION, source_of
from fedllm_bench.config.method_tables import MethodRow
from fedllm_bench.config.option_names import no_method
from fedllm_bench.config.run import RunConfig
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.folder import BASELINE
from fedllm_bench.runs.grid_checks import check_alike, check_different

# After a method: on the same rows, dealt to the clients at random, or with answers of other users.
CONTROLS = {"+shuffled": "data.shuffle_users", "+swapped": "data.swap_answers"}
ALL = (
    *(BASELINE, "fedavg", "fedprox", "scaffold", "fedavgm"),
    *("fedadagrad", "fedyogi", "fedadam", "central"),
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for. `overrides` are the words of --set, some with METHOD: before them; `plugins` are files.

    `rows` are those of a table of methods (--table), whose labels then are the `methods`.
    """

    dataset: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    profile: str
    out: Path
    engine: str = "inprocess"
    variant: str = "paper"
    split: str | None = None
    model: str | None = None
    metrics: str | None = None
    overrides: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    rows: tuple[MethodRow, ...] = ()

    @property
    def options(self) -> dict[str, str | None]:
        return {key: getattr(self, key) for key in ("engine", "variant", "split", "model", "metrics")}

    def settings_of(self, method: str) -> list[str]:
        """The words of --set that hold for `method`, without the name before them; a row's own are the last."""
        split = [(_prefix(word), word) for word in self.overrides]
        own = [word.removeprefix(f"{name}:") for name, word in split if name in ("", method, self.method_of(method))]
        if row := self._rows.get(method):
            return [*own, *row.settings]
        return [*own, *(f"{key}=true" for suffix, key in CONTROLS.items() if method.endswith(suffix))]

    def method_of(self, label: str) -> str:
        """The method of a row of the table; that of a control is without its suffix."""
        row = self._rows.get(label)
        return row.method if row else _plain(label)

    def family_of(self, label: str) -> str:
        """ "" where the methods were named one by one."""
        row = self._rows.get(label)
        return row.family if row else ""

    @cached_property
    def _rows(self) -> dict[str, MethodRow]:
        return {row.label: row for row in self.rows}

    @property
    def names(self) -> list[str]:
        """What may stand before the colon of a setting."""
        return list(dict.fromkeys([*self.methods, *(row.method for row in self.rows)]))

    def config(self, method: str, seed: int) -> RunConfig:
        return presets.load(
            self.dataset,
            self.method_of(method),
            self.profile,
            self.settings_of(method),
            seed=seed,
            **self.options,  # type: ignore[arg-type]
        )

    def words(self, method: str, seed: int) -> tuple[str, ...]:
        """The command line of `fedllm-bench` that runs the same cell."""
        given = {"profile": self.profile, "seed": seed, **self.options, "out": self.out}
        options = [f"--{key}={value}" for key, value in given.items() if value is not None]
        return (
            "bench",
            self.dataset,
            self.method_of(method),
            *options,
            *(f"--set={word}" for word in self.settings_of(method)),
            *(f"--plugin={file}" for file in self.plugins),
        )


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """A cell, and the words of the command line that run it. `label` names its row where that is no method.

    `family` is that of its row in a table of methods.
    """

    cell: Cell
    words: tuple[str, ...]
    label: str | None = None
    family: str = ""

    @property
    def method(self) -> str:
        return self.label or self.cell.config.method.name

    @property
    def seed(self) -> int:
        return self.cell.config.seed

    @property
    def key(self) -> tuple[str, int]:
        return self.method, self.seed

    @cached_property
    def folder(self) -> Path:
        return self.cell.folder

    @cached_property
    def baseline(self) -> Cell:
        """The clients who trained alone, which the cell reads, or runs where they are not finished."""
        return self.cell.baseline

    def is_finished(self) -> bool:
        return self.cell.finished() is not None

    def has_baseline(self) -> bool:
        return self.baseline.finished() is not None

    def has_base_scores(self) -> bool:
        """The run writes these after those in the shared cache, so then the cache is whole too."""
        return any(self.folder.glob("scores/*.before.jsonl"))


# --- what was asked for


def parse_datasets(text: str) -> tuple[str, ...]:
    """Names with commas between, "all" for the benchmark's own, or a suite, such as "openfedllm", for its sets.

    One name alone is given back as it is.

    Raises a :class:`UserError` for an unknown or repeated name, and where one is missing.
    """
    groups = {"all": presets.dataset_names(), **presets.training_sets()}
    if "," not in text and text not in groups:
        return (text,)
    names: list[str] = []
    for word in _words(text, "the data sets", "give all, or names such as aya,wildchat"):
        names += groups[word] if word in groups else [presets.dataset_name(word)]
    _check_distinct(names, "the data sets", text)
    return tuple(names)


def parse_methods(text: str) -> tuple[str, ...]:
    """Names with commas between, in the order of :data:`ALL`; "all": eight methods, local among them, and central.

    "fedavg+shuffled" is FedAvg on users whose rows were shuffled, "fedavg+swapped" on rows with answers of others.
    Raises a :class:`UserError` for an unknown or repeated name, and where there is none.
    """
    known = presets.method_names()
    names: list[str] = []
    for word in _words(text, "--methods", "give all, or names such as local,fedavg,fedprox"):
        if _plain(word) not in known and word != "all":
            raise no_method(word, [*known, "all"])
        names += ALL if word == "all" else [word]
    _check_distinct(names, "--methods", text)
    return tuple(sorted(names, key=lambda name: (ALL.index(name) if name in ALL else len(ALL), name)))


def _plain(name: str) -> str:
    """A method's name without what makes it a control."""
    suffix = next((suffix for suffix in CONTROLS if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers, 0 or more, with commas between, in ascending order; a :class:`UserError` for anything else."""
    advice = "give whole numbers, 0 or more, such as 0,1,2"
    words = _words(text, "--seeds", advice)
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 10 and int(word) < 2**31):
            raise UserError(f"--seeds: {shown(word)} is no seed; {advice}")
    seeds = [int(word) for word in words]
    _check_distinct(seeds, "--seeds", text)
    return tuple(sorted(seeds))


def _words(text: str, option: str, advice: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise UserError(f"{option} {text!r}: a name is missing; {advice}" if any(words) else f"{option}: {advice}")
    return words


def _check_distinct(values: Sequence[object], option: str, text: str) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise UserError(f"{option} {text!r}: {', '.join(twice)} stands twice; give each once")


def _prefix(override: str) -> str:
    """ "fedprox" of "fedprox:method.mu=0.1"; "" where the setting is for all methods."""
    name, colon, _ = override.partition("=")[0].partition(":")
    return name.strip() if colon else ""


def check_overrides(overrides: Iterable[str], methods: Sequence[str]) -> None:
    """Raise a :class:`UserError` for a setting of a method that is not in the grid."""
    for word in overrides:
        if (name := _prefix(word)) and name not in methods:
            where = f"--set {escaped(word)}" if source_of(word) == OPTION else source_of(word)
            raise unknown("method", name, methods, f"{where}; METHOD: must be one of --methods, or a label of --table")


# --- its cells


def open_cells(request: Request, open_first: Callable[[RunConfig], Cell]) -> list[GridCell]:
    """All cells, method by method. `open_first` checks what all of them need and opens one.

    Raises a :class:`UserError` for settings that are wrong, or that would compare methods on unequal data.
    """
    check_overrides(request.overrides, request.names)
    _check_configs(request)
    pairs = [(method, seed) for method in request.methods for seed in request.seeds]
    configs = [request.config(*pair) for pair in pairs]
    check_alike(configs)
    check_different(pairs, configs)
    first = open_first(configs[0])
    return [
        GridCell(cell=first.like(config), words=request.words(*pair), label=pair[0], family=request.family_of(pair[0]))
        for pair, config in zip(pairs, configs, strict=True)
    ]


def _check_configs(request: Request) -> None:
    """Say it plainly where a setting is wrong for all methods, and for which where it is wrong for some."""
    problems: dict[str, str] = {}
    for method in request.methods:
        try:
            request.config(method, request.seeds[0])
        except UserError as error:
            problems[method] = str(error)
    if not problems:
        return
    method, text = next(iter(problems.items()))
    everywhere = len(problems) == len(request.methods) and len(set(problems.values())) == 1
    constants = any(word.startswith("method.") for word in request.overrides)
    hint = "; a setting of one method: --set METHOD:method.NAME=VALUE" if constants else ""
    raise UserError(f"{text}{hint}" if everywhere else f"method {method}: {text}{hint}")


def grid_folder(cells: Sequence[GridCell]) -> Path:
    """OUT/<data set>/grid-<hash of the cells>: the same cells in any order have the same folder."""
    first = cells[0].cell
    key = files.sha256_json(sorted([each.method, each.seed, each.cell.hash] for each in cells))[:10]
    return first.root / first.split.name / f"grid-{key}"


def queue(cells: Iterable[GridCell]) -> list[GridCell]:
    """The unfinished cells in the order to start them: baselines, which others read, then seed by seed."""
    return sorted(
        (each for each in cells if not each.is_finished()), key=lambda each: (each.method != BASELINE, each.seed)
    )
