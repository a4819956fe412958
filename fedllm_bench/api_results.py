"""What the functions of :mod:`fedllm_bench.api` give back. Each object is a folder, and reads it when asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from fedllm_bench.pipeline.grid_run import GridDone
    from fedllm_bench.report.diversity.measuring import Drawn
    from fedllm_bench.report.page.write import Written
    from fedllm_bench.scores.score import Score

Json = dict[str, Any]
LONGEST = 120  # characters of one value of a repr


def brief(made: object, folder: Path | None = None, **values: object) -> str:
    """One line for a notebook: what kind it is, its folder and what is told of it; the rest stands in its files."""
    shown = {} if folder is None else {"folder": str(folder)}
    texts = {name: repr(value) for name, value in (shown | values).items()}
    cut = {name: text if len(text) <= LONGEST else f"{text[:LONGEST]}..." for name, text in texts.items()}
    return f"{type(made).__name__}({', '.join(f'{name}={text}' for name, text in cut.items())})"


@dataclass(frozen=True)
class Run:
    """A finished run in its folder.

    Example:
        >>> run.results["metrics"]["heldout"]["unit"]
        'nats per token'
        >>> sorted(path.name for path in run.adapter.iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """

    folder: Path

    def __repr__(self) -> str:
        return brief(self, self.folder)

    @cached_property
    def results(self) -> Json:
        """results.json as it lies in the folder; docs/results.md has every key."""
        found: Json = files.read_json(self.folder / "results.json")
        return found

    @cached_property
    def config(self) -> Json:
        """The resolved settings (config.json), with which the same run can be made again."""
        found: Json = files.read_json(self.folder / "config.json")
        return found

    @property
    def rounds(self) -> list[Json]:
        """One dictionary for each round in order: its clients, losses, bytes and seconds (docs/results.md)."""
        found: list[Json] = files.read_jsonl(self.folder / "rounds.jsonl")
        return found

    @property
    def adapter(self) -> Path | None:
        """The folder of the trained adapter in PEFT's form, or of the whole model where all weights were trained.

        None under the method `local`: there each client has one of its own, in `folder / "adapters"`.
        """
        places = [self.folder / name for name in ("adapter", "model")]
        return next((place for place in places if place.is_dir()), None)

    def scores(self, metric: str, when: str = "after") -> pd.DataFrame:
        """The scores of all items under one metric, after training or "before" it (the base model).

        One row for each item, with the columns `client`, `item`, `value` (in the metric's unit; missing where there
        is no score, and `reason` says why), `weight` (how much the item counts within its client), and what items
        are broken down by, as `part`: "unseen" is a user whom nobody trained on. Raises a :class:`UserError` for
        another metric than the run's.

        Example:
            >>> run.scores("heldout").columns.tolist()[:5]
            ['client', 'item', 'value', 'weight', 'reason']
        """
        import pandas as pd

        from fedllm_bench.comparison.run_scores import read_score_file

        ending = f".{when}.jsonl"
        names = {path.name.removesuffix(ending): path for path in (self.folder / "scores").glob(f"*{ending}")}
        if metric not in names:
            raise unknown(f"{when!r} scores of", metric, names, f"the metrics of {self.folder}")
        return pd.DataFrame([_item(score) for score in read_score_file(names[metric])]).astype({"value": float})


def _item(score: Score) -> Json:
    own = {"client": score.cluster, "item": score.item_id, "value": score.value}
    return {**own, "weight": score.weight, "reason": score.reason, **score.group}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Methods and seeds on one data set. `failed` has the reason of each cell without results, by method and seed.

    Example:
        >>> table.failed, len(table.runs)
        ({}, 2)
    """

    folder: Path
    results: Json  # grid.json; docs/grid.md has every key
    runs: tuple[Run, ...]
    failed: Mapping[tuple[str, int], str]

    def __repr__(self) -> str:
        asked = {key: self.results["grid"][key] for key in ("methods", "seeds")}
        return brief(self, self.folder, **asked, failed=len(self.failed))

    @property
    def text(self) -> str:
        """The table as the command `grid` shows it."""
        return (self.folder / "table.txt").read_text(encoding="utf-8")

    def to_pandas(self) -> pd.DataFrame:
        """One row for each metric and method, the base model among them.

        The columns are `metric`, `unit`, `higher_is_better`, `method`, `mean` and `sd` (over seeds), `n` (clients)
        and, for each reference (fedavg, local), `minus_<reference>` with `_low`, `_high` (95%, over clients) and
        `_verdict`; these are missing where there is no such difference. Further columns are the intervals over seeds
        (`_seeds_low`, `_seeds_high`), `bytes_up`, `bytes_down`, `train_seconds` and `train_flops` of a run, and, of a
        table of methods, `family`.

        Example:
            >>> frame = table.to_pandas()
            >>> frame[frame.metric == "heldout"].method.tolist()
            ['base', 'local', 'fedavg']
        """
        import pandas as pd

        from fedllm_bench.results.grid_rows import grid_rows

        return pd.DataFrame(list(grid_rows(self.results)))


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Answers to open-ended and closed benchmarks, judged, scored and reported, in the folder of the run.

    `page` is report.html, which shows every answer; `notes` say what it left out.
    """

    folder: Path
    results: Json  # evaluation.json; docs/evaluation.md has every key
    page: Path
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return brief(self, self.folder, metrics=list(self.results["metrics"]))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each metric, view and side that answered.

        The columns are `metric`, `view`, `side`, `mean`, `ci_low`, `ci_high` (95%, over questions), `n_scored`,
        `n_unscored`, `unit`, `judge` and `higher_is_better`. `mean` is missing where too few questions have a score.

        Example:
            >>> found.to_pandas().side.unique().tolist()
            ['base', 'global']
        """
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[Json]:
        of_side = ("mean", "ci_low", "ci_high", "n_scored", "n_unscored")
        of_metric = ("unit", "judge", "higher_is_better")
        for metric, entry in self.results["metrics"].items():
            for view, found in entry["views"].items():
                for side, row in found["sides"].items():
                    named = {"metric": metric, "view": view, "side": side}
                    yield named | {key: row[key] for key in of_side} | {key: entry[key] for key in of_metric}


@dataclass(frozen=True)
class RunComparison:
    """Two runs, or two methods over seeds, with intervals. `results` has docs/comparing.md as its description.

    Example:
        >>> found.to_pandas()[["estimand", "metric", "n"]].values.tolist()
        [['models', 'heldout', 6]]
    """

    results: Json

    def __repr__(self) -> str:
        found = self.results["models"]
        return brief(self, metrics=sorted({row["metric"] for row in found}), **self.results["sides"])

    @property
    def text(self) -> str:
        """The comparison as the command `compare` shows it: tables, and a plain sentence for each metric."""
        from fedllm_bench.report.page.compare_text import comparison_text

        return comparison_text(self.results)

    def to_pandas(self) -> pd.DataFrame:
        """One row for each metric: first of the two methods (several seeds), then of each pair of models."""
        import pandas as pd

        return pd.DataFrame([*self.results["methods"], *self.results["models"]])


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """What makes the clients of a split different. `page` is diversity.html.

    Example:
        >>> found.to_pandas().columns[:3].tolist()
        ['id', 'rows', 'share']
    """

    folder: Path
    results: Json  # diversity.json; docs/diversity.md has every key
    page: Path

    def __repr__(self) -> str:
        return brief(self, self.folder, sections=list(self.results["sections"]))

    def to_pandas(self) -> pd.DataFrame:
        """One row for each client, with the columns of clients.csv (docs/diversity.md)."""
        import pandas as pd

        return pd.read_csv(self.folder / "clients.csv", dtype={"id": str}, keep_default_na=False, na_values=[""])


@dataclass(frozen=True, kw_only=True)
class PackedRuns:
    """A submission to the leaderboard: `folder` is None after a dry run, `public` says what others will see of it.

    Example:
        >>> packed.public[2]
        'Method    fedavg'
    """

    folder: Path | None
    public: tuple[str, ...]

    def __repr__(self) -> str:
        return brief(self, self.folder, lines=len(self.public))


def grid_of(done: GridDone) -> Grid:
    """Raises a :class:`UserError` for bad input that no cell could be run with, else a RuntimeError."""
    if done.payload is None:
        text = f"no cell of the grid has results: {next(iter(done.failed.values()))}"
        raise UserError(text) if set(done.codes) == {2} else RuntimeError(f"{text} (see {done.folder / 'logs'})")
    runs = tuple(Run(each.folder.absolute()) for each in done.cells if each.key not in done.failed)
    return Grid(folder=done.folder.absolute(), results=done.payload, runs=runs, failed=done.failed)


def evaluated_of(folder: Path, written: Written) -> Evaluated:
    return Evaluated(folder=folder, results=written.evaluation.to_dict(), page=written.page, notes=written.notes)


def diversity_of(drawn: Drawn) -> Diversity:
    folder = drawn.folder.absolute()
    return Diversity(folder=folder, results=dict(drawn.report), page=folder / "diversity.html")


def read_run(folder: Path) -> Run:
    """The finished run of a folder. Raises a :class:`UserError` where there is none."""
    from fedllm_bench.comparison.run_scores import FINISH, ComparedFolder
    from fedllm_bench.results.schema import check_results

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {FINISH}")
    found = ComparedFolder(folder)
    _ = found.config  # a folder without one is told before its results are read
    try:
        check_results(found.results)
    except (KeyError, ValueError) as error:
        problem = error if isinstance(error, UserError) else UserError(f"{folder}: results.json: {error}; {FINISH}")
        raise problem from error
    return Run(folder.absolute())
