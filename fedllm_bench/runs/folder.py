"""What a run folder holds and how its parts are called; the one reader of them.

Nothing here loads torch, so that a finished run is shown at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import part_of
from fedllm_bench.config.run import RunConfig, check
from fedllm_bench.config.run_labels import is_invented
from fedllm_bench.results.schema import SCHEMA_VERSION

CONFIG, ENVIRONMENT, RESULTS, ROUNDS = "config.json", "environment.json", "results.json", "rounds.jsonl"
CANARIES = "canaries.json"  # the secrets that were planted, where some were
BASELINE = "local"
# What a run leaves, by `model.trainable`: a folder of this name, or one with an s and a folder for each client.
OUTPUTS = {"adapter": "adapter", "full": "model"}
RUN_NAME = re.compile(r"s\d+-[0-9a-f]+")
GIVE = "give one that `fedllm-bench bench` printed as `Run folder`"


@dataclass(frozen=True, kw_only=True)
class RunFaults:
    """What is said of a file of a run: `run` and `path` are those of folder and file, `name` is the file's name.

    `kind`: the JSON value that is there instead of an object; `error`: what is wrong with the config; `key`: what
    environment.json lacks.
    """

    absent: str = "RUN={run}: {name} is not there; give a folder of a finished `fedllm-bench bench`"
    no_json: str = "RUN={run}: {name} is not JSON; give a folder of a finished `fedllm-bench bench`"
    no_object: str = "RUN={run}: {name} is no JSON object; give a folder of a finished `fedllm-bench bench`"
    no_config: str = "{error}"
    no_hash: str = "RUN={run}: environment.json has no {key!r}; the folder was changed"


@dataclass(frozen=True)
class RunFolder:
    """A run folder; its files are read when they are first asked for.

    Each property raises a :class:`UserError` in the words of `faults` where its file is not there or broken.
    """

    path: Path
    faults: ClassVar[RunFaults] = RunFaults()

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder."""
        try:
            value = files.read_json(self.path / name)
        except OSError as error:
            raise self.fault("absent", name) from error
        except (ValueError, RecursionError) as error:
            raise self.fault("no_json", name) from error
        if not isinstance(value, dict):
            raise self.fault("no_object", name, kind=type(value).__name__)
        return value

    def fault(self, which: str, name: str, **more: object) -> UserError:
        text: str = vars(self.faults)[which]
        return UserError(text.format(run=self.path, path=self.path / name, name=name, **more))

    @cached_property
    def config(self) -> RunConfig:
        values = self.read(CONFIG)
        try:
            return check(values)
        except UserError as error:
            raise self.fault("no_config", CONFIG, error=error) from error

    @property
    def method(self) -> str:
        return self.config.method.name

    @property
    def seed(self) -> int:
        return self.config.seed

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self.read(ENVIRONMENT)

    @property
    def split_hash(self) -> str:
        return self._hash("split_hash")

    @property
    def base_hash(self) -> str:
        return self._hash("base_hash")

    def _hash(self, key: str) -> str:
        found = self.environment_value("data", key)
        if not isinstance(found, str):
            raise self.fault("no_hash", ENVIRONMENT, key=key if self.environment.get("data") else "data")
        return found

    def environment_value(self, *keys: str) -> Any:
        """What stands in environment.json under keys of tables in each other; None where nothing does."""
        value: Any = self.environment
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @cached_property
    def results(self) -> dict[str, Any]:
        return self.read(RESULTS)

    @property
    def is_of_version(self) -> bool:
        """Whether results.json is of the schema that this version of the suite writes."""
        return bool(self.results.get("schema_version") == SCHEMA_VERSION)

    @property
    def adapter(self) -> Path | None:
        """The trained adapter's folder; None where each client has its own, or all weights were trained."""
        folder = self.path / OUTPUTS["adapter"]
        return folder if folder.is_dir() else None

    @property
    def adapters(self) -> dict[str, Path]:
        """Client's folder name -> its own adapter, in order; {} where there is one for all."""
        own = self.path / f"{OUTPUTS['adapter']}s"
        return {path.name: path for path in sorted(own.iterdir()) if path.is_dir()} if own.is_dir() else {}

    def missing(self) -> Iterator[str]:
        """What a finished run has and this one does not."""
        names = [RESULTS, ROUNDS, *self._score_files()]
        yield from (f"there is no {name}" for name in names if not self.has(name))
        done, rounds = len(files.read_jsonl_so_far(self.path / ROUNDS)), self.config.federation.rounds
        if done != rounds and not self._ended_at(done):
            yield part_of(done, rounds, "round")
        outputs = {name for kind in OUTPUTS.values() for name in (kind, f"{kind}s")}
        if not any((self.path / name).is_dir() for name in outputs):
            yield "there is no adapter"

    def _ended_at(self, done: int) -> bool:
        """Whether the run ended after so many rounds by a budget of bytes, or at a check, as its results say."""
        if not self.has(RESULTS):
            return False
        stop = self.results.get("early_stop")
        if self.config.federation.patience and isinstance(stop, dict) and stop.get("stopped"):
            return bool(stop.get("rounds_run") == done)
        if self.config.communication.budget_mb is None:
            return False
        sent = self.results.get("communication")
        budget = sent.get("budget") if isinstance(sent, dict) else None
        return isinstance(budget, dict) and bool(budget.get("ended")) and budget.get("rounds") == done

    @property
    def is_on_invented_world(self) -> bool:
        """Whether its users are the mini world's, of whom alone there are questions with right answers."""
        split = self.environment_value("data", "split")
        return is_invented(split if isinstance(split, str) else self.config.name)

    @property
    def has_heldout_rows(self) -> bool:
        """Of a finished run: whether its split held out any row; True where results.json does not say."""
        data = self.results.get("data")
        return not (isinstance(data, dict) and data.get("num_heldout_rows") == 0)

    def _score_files(self) -> list[str]:
        """Metrics on the questions of the mini world are passed over where there are none."""
        asked = self.config.evaluation.metrics
        names = [name for name in asked if self.is_on_invented_world or not name.startswith("mini_")]
        return [f"scores/{name}.{side}.jsonl" for name in names for side in ("before", "after")]

    def again(self, then: str = "") -> str:
        """Advice for a run that has not ended."""
        command = f"fedllm-bench bench {self.config.dataset} {self.method} ..."
        return f"give the command again that started it{f', then {then}' if then else ''}: {command}"

    def baselines(self) -> list[Path]:
        """Finished runs of clients alone with this seed, beside this run: runs/<split>/local/s<seed>-<hash>."""
        found = sorted((self.path.resolve().parent.parent / BASELINE).glob(f"s{self.seed}-*"))
        return [path for path in found if (path / RESULTS).is_file()]


def runs_in(path: Path) -> list[Path]:
    """`path` where it is a run folder, else the run folders in it, as of one method (runs/<data>/<method>)."""
    if (path / CONFIG).is_file():
        return [path]
    return [child for child in sorted(path.glob("*")) if RUN_NAME.fullmatch(child.name) and child.is_dir()]


def folder_name(client_id: str, client: int) -> str:
    """A client's id where it can name a folder on every system, else its number in the split."""
    plain = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", client_id) and not client_id.endswith(".")
    return client_id if plain else f"c{client:06d}"
