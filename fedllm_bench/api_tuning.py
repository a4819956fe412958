"""The search of settings from Python; :mod:`fedllm_bench.api` has it as its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from fedllm_bench import api_inputs as given
from fedllm_bench.api_options import RunOptions, Settings, TuneOptions, check_options
from fedllm_bench.api_results import Json, brief
from fedllm_bench.common import progress as progress_shown

if TYPE_CHECKING:
    import pandas as pd

    from fedllm_bench.tuning.request import TuneRequest
    from fedllm_bench.tuning.tune import TuneDone


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A search that has ended. `preset` is the file for `bench --preset`; None where no trial has a value.

    Example:
        >>> chosen.to_pandas().trial.tolist(), chosen.preset.name
        ([0, 1], 'preset.toml')
    """

    folder: Path
    results: Json  # tune.json; docs/tuning.md has every key
    preset: Path | None

    def __repr__(self) -> str:
        return brief(self, self.folder, settings=self.settings)

    @property
    def settings(self) -> Json:
        """What was chosen, as `settings` of `bench` and `grid`; {} where nothing was."""
        return dict((self.results["chosen"] or {"setting": {}})["setting"])

    @property
    def tuning(self) -> str:
        """The sentence for `submit`: what was searched, how, on what, and on which seeds."""
        return str(self.results["tuning"])

    @property
    def text(self) -> str:
        """The table as the command `tune` shows it."""
        return (self.folder / "table.txt").read_text(encoding="utf-8")

    def to_pandas(self) -> pd.DataFrame:
        """One row for each trial and budget, with the columns of trials.csv (docs/tuning.md)."""
        import pandas as pd

        from fedllm_bench.tuning.table import rows_of_trials

        return pd.DataFrame(rows_of_trials(self.results))


def tune(
    dataset: str,
    method: str,
    space: Mapping[str, str] | str,
    *,
    trials: int = 16,
    seeds: Sequence[int] = (100,),
    settings: Settings | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **options: Unpack[TuneOptions],
) -> Tuned:
    """Choose settings of a method by a search on seeds that are never reported (docs/tuning.md).

    `space` is as for the command, or `{"local.lr": "log:1e-3..1e-1", "local.optimizer": "choice:adamw,sgd"}`. `trials`
    counts the default, which is the first one. The search goes on when the same call is made again. It needs optuna:
    `pip install 'fedllm-bench[tune]'`.

    Raises:
        UserError: as :func:`bench` does, for what is no space, for a seed that is reported, and without optuna.

    Example:
        >>> rates = {"local.lr": "log:1e-3..1e-1"}
        >>> chosen = fb.tune("aya", "fedavg", rates, trials=2, confirm=0, split=small, settings=tiny)
        >>> list(chosen.settings), chosen.results["tune"]["seeds"]
        (['local.lr'], [100])
    """
    from fedllm_bench.tuning.tune import finish_tune

    check_options(options, TuneOptions)
    with given.working(progress, options.get("plugins")):
        asked = _request((dataset, method, space), trials, seeds, settings, options)
        shown = progress_shown.told(progress)
        return _tuned(finish_tune(asked, given.count("jobs", jobs), shown, bar=progress))


def _request(
    named: tuple[object, object, object], trials: int, wanted: object, settings: Settings | None, options: TuneOptions
) -> TuneRequest:
    """What :func:`fedllm_bench.api.tune` asks for: `named` are data set, method and space, `wanted` the seeds."""
    from fedllm_bench.tuning.request import TuneRequest, check_fidelity, parse_tuning_seeds
    from fedllm_bench.tuning.search import check_search
    from fedllm_bench.tuning.space import parse_space

    of_run: RunOptions = {key: value for key, value in options.items() if key in RunOptions.__annotations__}  # type: ignore[assignment]
    methods, seeds = (given.text("method", named[1]),), parse_tuning_seeds(given.seeds(wanted))
    run = given.request(named[0], methods, seeds, settings, of_run)
    return TuneRequest(
        run=run,
        space=parse_space(_space(named[2])),
        trials=given.whole("trials", trials, least=1),
        search=check_search(given.text("search", options.get("search", "tpe"))),
        fidelity=check_fidelity(given.text("fidelity", options.get("fidelity", "rounds"))),
        metric=given.text("metric", options.get("metric", "heldout")),
        confirm=given.whole("confirm", options.get("confirm", 3)),
    )


def _space(space: object) -> str:
    """Of a text as it is, or of a mapping from settings to ranges. Raises a :class:`UserError` for anything else."""
    form = 'give a text, or a mapping such as {"local.lr": "log:1e-3..1e-1"}'
    if not isinstance(space, Mapping):
        return given.text("space", space, form)
    return " ".join("=".join(given.text("space", word, form) for word in pair) for pair in space.items())


def _tuned(done: TuneDone) -> Tuned:
    folder = done.folder.absolute()
    preset = None if done.payload["chosen"] is None else folder / "preset.toml"
    return Tuned(folder=folder, results=dict(done.payload), preset=preset)
