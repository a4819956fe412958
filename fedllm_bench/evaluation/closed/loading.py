"""The tasks of lm-eval behind a benchmark, with their data: from the hub, or from files in a folder.

Only the folder of the benchmark is read, not lm-eval's 14,000 task files. No code of a data set runs: lm-eval reads
tables. A task that says it runs programs of a model is never loaded: lm-eval does that without a sandbox.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedllm_bench.common.errors import UserError, first_line, unknown
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark

log = logging.getLogger(__name__)
OWN_FOLDER = "tasks"
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
OF_FILES = {"csv": ("split", "sep", "encoding")}  # settings of a data set that hold for files too, by their kind
Config = Mapping[str, Any]


def load_tasks(
    benchmark: ClosedBenchmark, data: Path | None = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """lm-eval's tasks by name, without groups, each with its data.

    `data` is a folder with the data in place of the hub's: `org__name/[config/]split.jsonl` (or .json, .parquet,
    .csv); `metadata` is what tasks that make their data themselves are told.

    Raises a :class:`UserError` where the data cannot be had, and for a task that runs programs.
    """
    with _index(benchmark, dict(metadata or {})) as index:
        names = [leaf for task in benchmark.task for leaf in _leaves(index, task)]
        for name in names:
            _check_safe(name, index.task_index[name].cfg)
        made = all(index.task_index[name].cfg.get("custom_dataset") for name in names)
        if data is None or made:
            return {name: _fetched(index, name, benchmark.data) for name in names}
        return _from_files(index, benchmark, names, data)


@contextmanager
def _index(benchmark: ClosedBenchmark, metadata: dict[str, Any]) -> Iterator[Any]:
    """The task files of the benchmark's folder, or all where the folder has not all of its tasks."""
    from lm_eval.tasks import TaskManager

    package = find_spec("lm_eval")
    assert package is not None, "check_installed was not called"
    assert package.origin is not None
    with as_file(files(__package__)) as here:
        own = str(here / OWN_FOLDER)
        folder = str(Path(package.origin).parent / "tasks" / benchmark.folder) if benchmark.folder else own
        manager = TaskManager(include_defaults=False, include_path=folder, metadata=metadata)
        if any(task not in manager.task_index for task in benchmark.task):
            log.info("%s: looking through all tasks of lm-eval, which takes a while", benchmark.name)
            manager = TaskManager(include_path=own, metadata=metadata)
        yield manager


def _leaves(index: Any, name: str) -> Iterator[str]:
    """The tasks of a name, which may be a group or a tag."""
    entry = index.task_index.get(name)
    if entry is None:
        raise unknown("task of lm-eval", name, index.task_index, "another release of lm-eval may have it")
    if name in index.all_tags:
        members = sorted(entry.tags)
    elif name in index.all_groups:
        members = entry.cfg["task"]
    else:
        yield name
        return
    for member in members:
        if not isinstance(member, str):
            raise UserError(f"the group {name} of lm-eval changes its tasks; name its tasks one by one in closed.toml")
        yield from _leaves(index, member)


def _check_safe(name: str, config: Config) -> None:
    if config.get("unsafe_code"):
        raise UserError(f"the task {name} of lm-eval runs a model's programs without a sandbox, and is not asked here; "
                        "humaneval and mbpp are, with --allow-code")  # fmt: skip


def _fetched(index: Any, name: str, hub: str) -> Any:
    try:
        return index.load(name)["tasks"][name]
    except Exception as error:  # of the hub, of the network, of a data set that is another one today
        raise UserError(
            f"{name}: its data {hub} could not be fetched from the hub ({first_line(error)[:200]}); check the network, "
            "and HF_TOKEN if the data set asks for one, or give files with --data-dir (docs/closed.md)"
        ) from error


def _from_files(index: Any, benchmark: ClosedBenchmark, names: list[str], data: Path) -> dict[str, Any]:
    """The tasks with files in place of what the hub has, by task files that include lm-eval's own."""
    from lm_eval.tasks import TaskManager

    if not data.is_dir():
        raise UserError(f"--data-dir {data}: no such folder")
    with TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            entry = index.task_index[name]
            changed = {"include": str(entry.yaml_path), "task": name, "dataset_name": None}
            changed |= _local(name, entry.cfg, benchmark.data, data)
            Path(folder, f"{number}.yaml").write_text(json.dumps(changed), encoding="utf-8")
        manager = TaskManager(include_defaults=False, include_path=folder)
        return {name: _read(manager, name, data) for name in names}


def _local(name: str, config: Config, hub: str, data: Path) -> dict[str, Any]:
    """Settings of a task whose data lie in files, one for each split. `hub` names those of a task that says files."""
    path = str(config.get("dataset_path"))
    folder = data / (hub if path in BUILDERS.values() else path).replace("/", "__")
    if config.get("dataset_name") and (folder / str(config["dataset_name"])).is_dir():
        folder /= str(config["dataset_name"])
    found = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix in BUILDERS}
    if not found:
        inner = f" or {folder.name}/{config['dataset_name']}" if config.get("dataset_name") else ""
        raise UserError(f"--data-dir {data}: {name} asks for {folder.name}{inner} with a file for each split, as "
                        "test.jsonl; there is none")  # fmt: skip
    kinds = sorted({BUILDERS[path.suffix] for path in found.values()})
    if len(kinds) > 1:
        raise UserError(f"{folder}: files of several kinds ({', '.join(kinds)}); give one kind")
    splits = {split: str(path.resolve()) for split, path in found.items()}
    known = OF_FILES.get(kinds[0], ("split",))
    kept = {key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key in known}
    return {"dataset_path": kinds[0], "dataset_kwargs": {**kept, "data_files": splits}}


def _read(manager: Any, name: str, data: Path) -> Any:
    try:
        return manager.load(name)["tasks"][name]
    except Exception as error:  # whatever such files may hold
        raise UserError(f"--data-dir {data}: {name} cannot be read from it ({first_line(error)[:300]})") from error
