"""Run folders as what can be compared: scores of items, and what must be alike for them to be comparable.

A folder may come from someone else, so every line is checked. SOURCES says where in a folder scores are found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedllm_bench.common.errors import UserError
from fedllm_bench.common.files import at_home
from fedllm_bench.comparison.metric_scores import MetricScores
from fedllm_bench.comparison.open_scores import from_answers, from_closed
from fedllm_bench.config.run import dotted
from fedllm_bench.runs.folder import CONFIG, ENVIRONMENT, RESULTS, RunFaults, RunFolder, runs_in
from fedllm_bench.scores.score import SCALES, Score, is_seen

AFTER = ".after.jsonl"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
DEPTH = 20  # of a config.json; ours has three levels
FINISH = "give a run folder (runs/<data set>/<method>/s<seed>-<hash>) of a finished `fedllm-bench bench`"


class ComparedFolder(RunFolder):
    """A run that may be anybody's."""

    faults = RunFaults(
        absent=f"{{run}}: there is no {{name}}; {FINISH}",
        no_json=f"{{path}}: not readable as JSON; {FINISH}",
        no_object=f"{{path}}: a JSON {{kind}}, not an object; {FINISH}",
        no_hash=f"{{run}}: environment.json has no {{key!r}}; {FINISH}",
    )

    @cached_property
    def stated(self) -> dict[str, Any]:
        """The config as it stands there: it may be of another version, and what is compared is checked alone."""
        config = self._plain(CONFIG)
        try:
            _check_config(config)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path}: {CONFIG} has no {error}; {FINISH}") from error
        return config

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._plain(ENVIRONMENT)

    def _plain(self, name: str) -> dict[str, Any]:
        """An object whose strings can be shown: a terminal would obey control characters in another's file."""
        value, path = self.read(name), self.path / name
        try:
            shown = all(CONTROL.search(text) is None for text in _strings(value))
        except ValueError as error:
            raise UserError(f"{path}: {error}; {FINISH}") from error
        if not shown:
            raise UserError(f"{path}: control characters in it; {FINISH}")
        return value


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """`config` is {} for a folder of answers that no run of the suite left.

    `ended` says that the budget of bytes ended the run before its planned rounds; "" of any other.
    """

    path: Path
    config: Mapping[str, Any]
    measured: Mapping[str, MetricScores]
    ended: str = ""

    @property
    def seed(self) -> int | None:
        return int(self.config["seed"]) if self.config else None

    @property
    def title(self) -> str:
        """ "mini-aya · fedavg · seed 0"; "mini-aya, ATTACKED (noise) · fedavg · seed 0"."""
        if not self.config:
            return "answers"
        kind = self.config.get("attack", {}).get("kind", "none")
        name = self.config["name"] + ("" if kind == "none" else f", ATTACKED ({kind})")
        return f"{name} · {self.config['method']['name']} · seed {self.seed}"


def load_scores(folder: Path) -> dict[str, list[Score]]:
    """Metric -> the scores of its items after training, of users who have training rows."""
    return {name: list(measured.scores) for name, measured in load_measured(folder).items()}


def load_measured(folder: Path) -> dict[str, MetricScores]:
    """Of all sources; a later one may not bring a metric that is already there."""
    found: dict[str, MetricScores] = {}
    for source in SOURCES:
        for name, measured in source(folder).items():
            if name in found:
                raise UserError(f"{folder}: the metric {name} is there twice; remove one")
            found[name] = measured
    return found


def load_run(folder: Path) -> ScoredRun:
    """Raises a :class:`UserError` where `folder` is not a finished run and has no other scores."""
    measured, run = load_measured(folder), ComparedFolder(folder)
    if not measured and not run.has(CONFIG) and (folder / "answers").is_dir():
        raise UserError(f"{folder}: its answers have no scores yet; judge them first: fedllm-bench judge {folder}")
    config = run.stated if run.has(CONFIG) or not measured else {}
    if not measured:
        raise UserError(f"{folder}: no scores in it (scores/*{AFTER}); {FINISH}")
    return ScoredRun(path=folder, config=config, measured=measured, ended=_ended(run))


def _ended(run: ComparedFolder) -> str:
    sent = run.results.get("communication") if run.has(RESULTS) else None
    budget = sent.get("budget") if isinstance(sent, Mapping) else None
    ended = budget.get("ended") if isinstance(budget, Mapping) else ""
    return ended if isinstance(ended, str) and not CONTROL.search(ended) else ""


def _check_config(config: Mapping[str, Any]) -> None:
    _ = config["name"], config["method"]["name"], int(config["seed"])
    if not isinstance(config.get("evaluation", {}), Mapping):
        raise TypeError("evaluation")


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > DEPTH:
        raise ValueError(f"nested more than {DEPTH} deep")
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _strings(part, depth + 1)


def from_training(folder: Path) -> dict[str, MetricScores]:
    """The held-out scores that `fedllm-bench bench` leaves; what a metric is stands in results.json."""
    paths = sorted((folder / "scores").glob(f"*{AFTER}"))
    if not paths:
        return {}
    run = ComparedFolder(folder)
    alike, entries = _alike(run), run.results.get("metrics")
    names = {path.name.removesuffix(AFTER): path for path in paths}
    return {name: _measured(folder, entries, name, path, alike) for name, path in names.items()}


def _alike(run: ComparedFolder) -> dict[str, str]:
    """What the held-out scores of a run hang on, beside its model."""
    evaluation = run.stated.get("evaluation", {})
    return {
        "profile": str(run.stated.get("profile", "")),  # each has its own budget and constants
        "data set": str(run.stated["name"]),
        "split hash": run.split_hash[:16],
        "evaluation.max_new_tokens": str(evaluation.get("max_new_tokens", "")),
        **{f"evaluation.{key}": str(evaluation.get(key) or "all") for key in ("heldout_rows", "clients")},
    }


def _measured(folder: Path, entries: Any, name: str, path: Path, alike: Mapping[str, str]) -> MetricScores:
    scores = tuple(score for score in read_score_file(path) if is_seen(score))
    try:
        entry = entries[name]
        version, unit, higher = str(entry["version"]), str(entry["unit"]), bool(entry["higher_is_better"])
        if CONTROL.search(name + version + unit):
            raise ValueError("control characters")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: results.json does not say what {name} is; {FINISH}") from error
    return MetricScores(
        scores=scores,
        version=version,
        unit=unit,
        higher_is_better=higher,
        scale=SCALES.get(unit),
        alike=alike,
    )


def read_score_file(path: Path) -> list[Score]:
    """Raises a :class:`UserError` for a line that is no score, and for two scores of one item."""
    scores = list(_read(path))
    seen: set[tuple[str, str]] = set()
    for score in scores:
        key = (score.cluster, score.item_id)
        if key in seen:
            raise UserError(f"{path}: two scores of item {score.item_id!r} of {score.cluster!r}; the file was changed")
        seen.add(key)
    return scores


def _read(path: Path) -> Iterator[Score]:
    adapter = TypeAdapter(Score)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8; run the run again") from error
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                yield adapter.validate_json(line)
        except (ValidationError, ValueError) as error:
            raise UserError(f"{path}, line {number}: not a score; the file was changed or cut") from error


SOURCES: tuple[Callable[[Path], dict[str, MetricScores]], ...] = (from_training, from_answers, from_closed)


# --- what is named on the command line


def open_side(text: str) -> list[ScoredRun]:
    """The runs of one side: a run folder, several with commas between, or a folder of runs of one method.

    In order of seeds. Raises a :class:`UserError` where they are not one cell under several seeds.
    """
    return side_of(_folders(text))


def side_of(folders: Sequence[Path]) -> list[ScoredRun]:
    """The runs of these folders, each a run's own, as :func:`open_side` has them."""
    runs = sorted(map(load_run, folders), key=lambda run: run.seed or 0)
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise UserError(f"{one.path} and {other.path} have one seed, {one.seed}; name one run for each seed")
        if differs := differences(one.config, other.config, besides=("seed",)):
            raise UserError(f"{one.path} and {other.path} are no seeds of one cell: they differ in {_few(differs)}")
    return runs


def _folders(text: str) -> list[Path]:
    path = at_home(text)
    if path.is_dir():
        return runs_in(path) or [path]
    if "," in text:
        return [at_home(part) for part in text.split(",") if part] or [path]
    return [path]


def differences(one: Mapping[str, Any], other: Mapping[str, Any], besides: Sequence[str] = ()) -> list[str]:
    """The dotted keys at which two configs differ."""
    a, b = dotted(one), dotted(other)
    return sorted(key for key in a.keys() | b.keys() if key not in besides and a.get(key) != b.get(key))


def _few(keys: Sequence[str], most: int = 5) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
