"""What callers of :mod:`fedllm_bench.api` may give, and its checks."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.api_options import (
    AnyPath,
    AnyRun,
    AnySplit,
    DiversityOptions,
    Plugins,
    RunOptions,
    Settings,
    StatementOptions,
    check_options,
)
from fedllm_bench.api_results import Run, read_run
from fedllm_bench.common import hardware, process
from fedllm_bench.common import progress as progress_shown
from fedllm_bench.common.errors import UserError, shown, unknown
from fedllm_bench.common.files import at_home
from fedllm_bench.config.preflight import choose_profile
from fedllm_bench.data.client_split import Split

if TYPE_CHECKING:
    from fedllm_bench.config.method_tables import MethodRow
    from fedllm_bench.diversity.settings import DiversitySettings
    from fedllm_bench.evaluation.judges.preset import Preset
    from fedllm_bench.leaderboard.submit.assemble import Statement
    from fedllm_bench.runs.grid import Request


@contextmanager
def working(progress: bool, plugins: Plugins = None, *, uses_plugins: bool = True) -> Iterator[None]:
    """Libraries as the commands set them, progress as asked for, plugins in use; afterwards all is as it was."""
    with process.prepared(), progress_shown.shown(progress), in_use(plugins) if uses_plugins else nullcontext():
        yield


def in_use(paths: Plugins) -> AbstractContextManager[None]:
    """Inside, these plugins are in use, and those of FEDLLM_BENCH_PLUGINS and of installed packages."""
    from fedllm_bench import plugins as registering

    return registering.in_use(plugins(paths))


def run_options(options: RunOptions) -> dict[str, Any]:
    """Of the options of a run: what :func:`fedllm_bench.config.presets.load` takes, as texts.

    Raises a TypeError for an option that does not exist, as Python does.
    """
    check_options(options, RunOptions)
    split, model, metrics = options.get("split"), options.get("model"), options.get("metrics")
    return {
        "engine": text("engine", options.get("engine") or "inprocess"),
        "variant": text("variant", options.get("variant") or "paper"),
        "split": None if split is None else str(split.folder if isinstance(split, Split) else path("split", split)),
        "model": None if model is None else str(path("model", model)),
        "metrics": None if metrics is None else commas("metrics", metrics),
    }


def place(options: RunOptions) -> Path:
    """The folder of all runs."""
    return Path(path("out", options.get("out") or "runs"))


def text(name: str, value: object, form: str = "give a text") -> str:
    """Raise a :class:`UserError` for what is no text."""
    if not isinstance(value, str):
        raise UserError(f"{name}: got {shown(value)}; {form}")
    return value


def path(name: str, value: object, form: str = "give a path, as a text or a Path") -> str:
    """As a text. Raises a :class:`UserError` for what is no path."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    return text(name, found, form)


def several(name: str, values: object, form: str) -> list[Any]:
    """Values in their order. Raises a :class:`UserError` for a text, and for what is no list or the like."""
    if not isinstance(values, (str, bytes)):
        with suppress(TypeError):
            return list(iter(values))  # type: ignore[call-overload]
    raise UserError(f"{name}: got {shown(values)}; {form}")


def commas(name: str, names: object, form: str = "give a list of names") -> str:
    """Names as one text with commas between; a text as it is. Raises a :class:`UserError` for what is neither."""
    if isinstance(names, str):
        return names
    return ",".join(text(name, each, form) for each in several(name, names, form))


def some(name: str, names: object, form: str = "give one or more names, or None for all") -> list[str] | None:
    """Names as a list, None where None is given. Raises a :class:`UserError` for no name at all."""
    if names is None:
        return None
    found = [word.strip() for word in commas(name, names, form).split(",") if word.strip()]
    if not found:
        raise UserError(f"{name}: got {shown(names)}; {form}")
    return found


def joined(name: str, names: object) -> str | None:
    """As :func:`some`, as one text with commas between."""
    found = some(name, names)
    return None if found is None else ",".join(found)


def request(
    dataset: object, methods: tuple[str, ...], wanted: tuple[int, ...], settings: Settings | None, options: RunOptions
) -> Request:
    """Cells of these methods with the seeds `wanted`, as the options say."""
    from fedllm_bench.config.setting_words import setting_words
    from fedllm_bench.runs.grid import Request

    return Request(
        dataset=text("dataset", dataset),
        methods=methods,
        seeds=wanted,
        profile=profile(options),
        out=place(options),
        overrides=setting_words(settings),
        plugins=plugins(options.get("plugins")),
        **run_options(options),
    )


def table(name: AnyPath | None, methods: object) -> tuple[MethodRow, ...]:
    """The rows of a table of methods; none without one. Raises a :class:`UserError` where methods are given too."""
    from fedllm_bench.config.method_tables import read_table

    if name is None:
        return ()
    if methods != "all":
        raise UserError(f"methods: got {shown(methods)}, and the table has the methods; give one of the two")
    return read_table(path("table", name))


def seeds(values: object) -> str:
    """Seeds as one text with commas between. Raises a :class:`UserError` for what is no list of whole numbers."""
    form = "give whole numbers, 0 or more, such as [0, 1, 2]"
    return ",".join(str(whole("seeds", each)) for each in several("seeds", values, form))


def plugins(paths: Plugins) -> tuple[str, ...]:
    """The files of plugins as they were given. Raises a :class:`UserError` for what is no path."""
    form = "give the path of a plugin, or a list of paths"
    if paths is None:
        return ()
    given = [paths] if isinstance(paths, (str, os.PathLike)) else several("plugins", paths, form)
    return tuple(path("plugins", each, form) for each in given)


def folder(name: str, value: AnyPath | None) -> Path | None:
    return None if value is None else at_home(path(name, value))


def run_folder(run: AnyRun) -> Path:
    """Raises a :class:`UserError` for what is neither a run nor a path."""
    if isinstance(run, Run):
        return run.folder
    return at_home(path("run", run, "give a Run, or its folder"))


def run_folders(runs: AnyRun | Iterable[AnyRun]) -> list[Path]:
    """Of one run or several. Raises a :class:`UserError` for none at all, and for a folder that is no run."""
    form = "give one or more, as bench or open_run give them"
    found = [runs] if isinstance(runs, (Run, str, os.PathLike)) else several("runs", runs, form)
    if not found:
        raise UserError(f"runs: there is none; {form}")
    return [run_folder(run) for run in found]


def finished(run: AnyRun) -> Path:
    """The folder of a finished run, or of answers alone. Raises a :class:`UserError` for another one."""
    found = run_folder(run)
    is_answers = (found / "answers").is_dir() and not (found / "config.json").exists()
    return found if is_answers else read_run(found).folder


def count(name: str, value: int | None) -> int | None:
    """Raise a :class:`UserError` for what is neither None nor a whole number, 1 or more."""
    return None if value is None else whole(name, value, least=1)


def whole(name: str, value: object, least: int = 0) -> int:
    """Raise a :class:`UserError` for what is no whole number, `least` or more; those of numpy are."""
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = least - 1
    if found < least or isinstance(value, bool):
        raise UserError(f"{name}: got {shown(value)}; give a whole number, {least} or more")
    return found


def profile(options: RunOptions) -> str:
    """That of the options, else by GPU. Raises a :class:`UserError` for an unknown one."""
    wanted = options.get("profile")
    return choose_profile(None if wanted is None else text("profile", wanted), hardware.has_cuda())[0]


def paid(max_cost: float | None) -> float | None:
    """Raise a :class:`UserError` for a limit that is no number of US dollars, 0 or more."""
    if max_cost is not None and not (isinstance(max_cost, (int, float)) and max_cost >= 0):
        raise UserError(f"max_cost: got {max_cost!r}; give a number of US dollars, 0 or more")
    return max_cost


def judge(name: str | None, url: str | None, model: str | None) -> Preset | None:
    """The judge that is named; None where none is. Raises a :class:`UserError` for what is no judge."""
    from fedllm_bench.evaluation.judges.preset import load_judge

    return load_judge(name, model=model, base_url=url) if name or url or model else None


def split_of(name: str, split: AnySplit) -> Split:
    """An opened split as it is, else that of a data set's name or a folder; `name` is that of the argument."""
    from fedllm_bench.runs.splits import split_from

    return (
        split
        if isinstance(split, Split)
        else split_from(path(name, split, "give a Split, its folder, or the name of a data set"))
    )


def diversity_settings(sections: Sequence[str] | str | None, options: DiversityOptions) -> DiversitySettings:
    """Raises a :class:`UserError` for another section, number or device than there are."""
    from fedllm_bench.diversity.settings import DiversitySettings, chosen_sections
    from fedllm_bench.report.diversity.measuring import DEVICES, device_of

    check_options(options, DiversityOptions)
    if (device := options.get("device", "auto")) not in DEVICES:
        raise unknown("device", str(device), DEVICES)
    wanted = some("sections", sections)
    return DiversitySettings(
        sections=chosen_sections(None if wanted is None else ",".join(wanted), None),
        embedder=options.get("embedder"),
        tokenizer=options.get("tokenizer", "mini"),
        quality_model=options.get("quality_model"),
        max_rows=count("max_rows", options.get("max_rows")),
        permutations=count("permutations", options.get("permutations")) or DiversitySettings.permutations,
        seed=whole("seed", options.get("seed", 0)),
        device=device_of(device),
    )


def statement(team: str, contact: str, tuning: str, options: StatementOptions) -> tuple[Statement, bool]:
    """What a submitter says, and whether runs of code that no commit names are taken."""
    from fedllm_bench.leaderboard.submit.assemble import ADAPTERS, Statement

    check_options(options, StatementOptions)
    texts: dict[str, Any] = {"team": team, "contact": contact, "tuning": tuning, "date": "", **options}
    is_dirty = bool(texts.pop("allow_dirty", False))
    for name, said in texts.items():
        text(name, said)
    if texts.get("adapters", "auto") not in ADAPTERS:
        raise unknown("choice of adapters", str(texts["adapters"]), ADAPTERS)
    return Statement(**texts), is_dirty
